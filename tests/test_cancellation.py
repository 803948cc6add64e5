"""Cancelled at each step of a save, in every way that there is: nothing is torn, lost, left over, or runs on.

The cancellation is fired from inside the worker thread, at a step of the save, and the thread stays at that step until
the loop has turned often enough for whoever returns too early to have returned. Cancelling at the await points alone
finds nothing: a store that takes a lock and then hops into a thread passes that, and fails here, where it is a mutant.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread
import msgspec
import pytest
import trio
from anyio import CancelScope
from anyio.lowlevel import checkpoint

from swoosh_async import BackendError, PoisonedError, Snapshot, SnapshotStore
from swoosh_async.backends.base import Blob, Source, Stored
from swoosh_async.backends.file import Generations
from swoosh_async.codec import SnapshotCodec

from ._faults import (
    BOUND_S,
    KEEPS_NATIVE,
    LOOPS,
    NATIVE,
    STORM_S,
    Backend,
    HookDisk,
    loop_factory,
    poster,
    python,
    run,
    turns,
)

fcntl = pytest.importorskip("fcntl", reason="a file store needs flock")

STEPS = ["lock", "create", "write", "fsync", "rename", "close", "fsync directory", "probe"]
NAIVE_STEPS = ["create", "write", "fsync", "rename", "fsync directory"]


class State(msgspec.Struct, frozen=True):
    """Something to save that shows when it is not whole."""

    text: str


def snapshot(index: int) -> Snapshot[State]:
    """The snapshot of that index."""
    return Snapshot(state=State(f"{index} " * 1000), last_applied_hlc=f"at {index}", last_applied_index=index)


OLD, NEW, NEWER = snapshot(1), snapshot(2), snapshot(3)


class Store(Protocol):
    """What is checked."""

    async def load_latest(self) -> Snapshot[State]:
        """The latest snapshot."""
        ...

    def save(self, snapshot: Snapshot[State], /) -> Awaitable[object]:
        """Make it the latest."""
        ...


class Watched(Generations):
    """A file backend that tells when a thread is in it, and what it stored."""

    def __init__(self, path: Path, disk: HookDisk) -> None:
        super().__init__(path, disk=disk)
        self.watched = disk
        self.at_work: set[int] = set()
        self.stored: list[int] = []

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        """As it is, watched."""
        with self.watched.work():
            self.at_work.add(blob.position)
            try:
                stored = super().put(blob, keep=keep, allow_rollback=allow_rollback)
                self.stored.append(blob.position)
                return stored
            finally:
                self.at_work.remove(blob.position)

    def open(self, name: str | None = None) -> Source:
        """As it is, watched."""
        with self.watched.work():
            return super().open(name)


class NaiveStore:
    """The mutant: a lock, and one hop into a thread for the whole of the save, durable and with a rename."""

    def __init__(self, path: Path, disk: HookDisk) -> None:
        self._path = path
        self._disk = disk
        self._codec = SnapshotCodec(State)
        self._lock = anyio.Lock()

    async def save(self, snapshot: Snapshot[State]) -> None:
        """Save it, as one would think of it."""
        async with self._lock:
            await anyio.to_thread.run_sync(self._write, b"".join(self._codec.encode(snapshot)))

    async def load_latest(self) -> Snapshot[State]:
        """What is there."""
        data = await anyio.to_thread.run_sync(self._path.read_bytes)
        return self._codec.decode(data).snapshot

    def _write(self, data: bytes) -> None:
        disk, temp = self._disk, f"snapshot-{random.getrandbits(64):x}.tmp"
        with disk.work():
            dir_fd = os.open(self._path.parent, os.O_RDONLY)
            try:
                fd = disk.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd)
                try:
                    disk.pwrite(fd, data, 0)
                    disk.fsync(fd)
                finally:
                    disk.close(fd)
                disk.rename(temp, self._path.name, dir_fd)
                disk.fsync(dir_fd)
            finally:
                os.close(dir_fd)


Make = Callable[[Path, HookDisk], Store]


def real(path: Path, disk: HookDisk) -> SnapshotStore[State]:
    """The store of this package."""
    return SnapshotStore(Watched(path, disk), State)


def real_with_generations(path: Path, disk: HookDisk) -> SnapshotStore[State]:
    """The store of this package, when it keeps older generations."""
    return SnapshotStore(Watched(path, disk), State, keep=2)


class Hold:
    """Holds a save at one of its steps, in its thread, while things happen to it on the loop.

    Args:
        disk: The disk under the save.
        step: The step at which the thread is held, the first time that it comes there.
    """

    def __init__(self, disk: HookDisk, step: str) -> None:
        self.deeds: list[Callable[[], object]] = []
        self.due: Callable[[], bool] = lambda: True
        self.reached = False
        self.returned = False
        self._step = step
        self._post = poster()
        self._let_go = threading.Event()
        disk.hook = self._hook

    async def watch(self, save: Awaitable[object]) -> object:
        """Await that save, and note when it has returned."""
        try:
            return await save
        finally:
            self.returned = True

    def let_go(self) -> None:
        """Let the thread go on."""
        self._let_go.set()

    def _hook(self, step: str) -> None:
        if step == self._step and not self.reached:
            self.reached = True
            self._post(lambda: self._turn(0))
            assert self._let_go.wait(BOUND_S), "nobody let it go"

    def _turn(self, number: int) -> None:
        """One turn of the loop: a deed every fifth; then, if the save is still awaited, the thread goes on."""
        if not self.due():
            self._post(lambda: self._turn(number))
            return
        deed, rest = divmod(number, 5)
        if rest == 0 and deed < len(self.deeds):
            self.deeds[deed]()
        if deed < len(self.deeds) + 3:
            self._post(lambda: self._turn(number + 1))
        elif not self.returned:
            self.let_go()


Way = Callable[[Awaitable[object], Hold], Awaitable[str]]


def cancelled(times: int) -> Way:
    """By `task.cancel()`, that often."""

    async def way(save: Awaitable[object], hold: Hold) -> str:
        task = asyncio.ensure_future(hold.watch(save))
        hold.deeds = [task.cancel] * times
        await asyncio.wait([task])
        return "cancelled" if task.cancelled() else "returned"

    return way


async def timeout(save: Awaitable[object], hold: Hold) -> str:
    """By `asyncio.timeout`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as timeout:
            hold.deeds = [lambda: timeout.reschedule(loop.time() - 1)]
            await hold.watch(save)
    except TimeoutError:
        return "cancelled"
    return "returned"


async def wait_for(save: Awaitable[object], hold: Hold) -> str:
    """By `asyncio.wait_for`, begun when the step is reached, for its clock cannot be told when to go off."""
    loop = asyncio.get_running_loop()
    over: list[float] = []
    hold.due = lambda: over != [] and loop.time() > over[0]
    task = asyncio.ensure_future(hold.watch(save))
    while not (hold.reached or task.done()):
        await checkpoint()
    over.append(loop.time() + 0.02)
    try:
        await asyncio.wait_for(task, 0.01)
    except TimeoutError:
        return "cancelled"
    return "returned"


async def sibling(save: Awaitable[object], hold: Hold) -> str:
    """By a sibling that fails, in an asyncio.TaskGroup."""
    failing = asyncio.Event()
    hold.deeds = [failing.set]

    async def fails() -> None:
        await failing.wait()
        raise KeyError

    tasks: list[asyncio.Task[object]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks.append(group.create_task(hold.watch(save)))
            group.create_task(fails())
    except* KeyError:
        pass
    return "cancelled" if tasks[0].cancelled() else "returned"


async def anyio_sibling(save: Awaitable[object], hold: Hold) -> str:
    """By a sibling that fails, in a task group of anyio."""
    failing, returned = anyio.Event(), []
    hold.deeds = [failing.set]

    async def fails() -> None:
        await failing.wait()
        raise KeyError

    async def saves() -> None:
        returned.append(await hold.watch(save))

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(saves)
            group.start_soon(fails)
    except* KeyError:
        pass
    return "returned" if returned else "cancelled"


async def scope(save: Awaitable[object], hold: Hold) -> str:
    """By a scope of anyio around it."""
    returned = []
    with CancelScope() as scope:
        hold.deeds = [scope.cancel]
        returned.append(await hold.watch(save))
        await checkpoint()
    assert scope.cancelled_caught
    return "returned" if returned else "cancelled"


async def trio_scope(save: Awaitable[object], hold: Hold) -> str:
    """By a scope of trio around it."""
    returned = []
    with trio.CancelScope() as scope:
        hold.deeds = [scope.cancel]
        returned.append(await hold.watch(save))
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    return "returned" if returned else "cancelled"


NATIVELY: dict[str, Way] = {f"cancelled x{times}": cancelled(times) for times in (1, 2, 5)}
NATIVELY |= {"timeout": timeout, "wait_for": wait_for, "TaskGroup": sibling}
BY_SCOPE: dict[str, Way] = {"scope": scope, "task group": anyio_sibling}
CASES = [(loop, way) for loop in NATIVE for way in NATIVELY] + [(loop, way) for loop in LOOPS for way in BY_SCOPE]
CASES += [(LOOPS[-1], "trio scope")]
WAYS: dict[str, Way] = NATIVELY | BY_SCOPE | {"trio scope": trio_scope}
cases = pytest.mark.parametrize(
    ("backend", "way"),
    [pytest.param(loop.values[0], way, id=f"{loop.id}-{way}", marks=loop.marks) for loop, way in CASES],
)


def left_over(path: Path, kept: int = 0) -> list[str]:
    """What a save has left behind: files that are not the store's, descriptors, a lock."""
    names = {name for name in os.listdir(path.parent) if name not in (path.name, f".{path.name}.lock")}
    generations = {name for name in names if name.startswith(f"{path.name}.0")}
    found = [f"file {name}" for name in names - generations]
    if len(generations) > kept:
        found.append(f"{len(generations)} generations")
    if os.path.isdir("/proc/self/fd"):
        for fd in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{fd}")
            except FileNotFoundError:  # the descriptor of the listing itself
                continue
            if target.startswith(str(path.parent)):
                found.append(f"descriptor of {target}")
    lock = path.parent / f".{path.name}.lock"
    if lock.exists():
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append("lock")
    return found


async def after_the_call(store: Store, disk: HookDisk, hold: Hold, outcome: str) -> list[str]:
    """What is wrong when the cancelled save has just returned, and after another save."""
    wrongs: list[str] = []
    assert hold.reached, "the step was never reached"
    if disk.working:
        wrongs.append("it returned while its thread worked on")
    found = await store.load_latest()
    if found not in ((NEW,) if outcome == "returned" else (OLD, NEW)):
        wrongs.append("neither the old nor the new")
    await store.save(NEWER)
    hold.let_go()
    await anyio.to_thread.run_sync(disk.wait_until_idle)
    if await store.load_latest() != NEWER:
        wrongs.append("an acknowledged save was overwritten by an older one")
    return wrongs


def check(make: Make, path: Path, backend: Backend, way: str, step: str, *, kept: int = 0) -> tuple[str, list[str]]:
    """Cancel a save in that way at that step; what became of it, and what is wrong."""
    disk = HookDisk()
    store = make(path, disk)

    async def main() -> tuple[str, list[str]]:
        await store.save(OLD)
        hold = Hold(disk, step)
        outcome = await WAYS[way](store.save(NEW), hold)
        return outcome, await after_the_call(store, disk, hold, outcome)

    outcome, wrongs = run(backend, main)
    return outcome, wrongs + left_over(path, kept)


def check_shutdown(make: Make, path: Path, backend: Backend, step: str) -> list[str]:
    """End the loop while a save is at that step; what is wrong then."""
    disk = HookDisk()
    store = make(path, disk)
    holds: list[Hold] = []

    async def ends() -> None:
        await store.save(OLD)
        holds.append(Hold(disk, step))
        ending = asyncio.Event()
        holds[0].deeds = [ending.set]
        running.append(asyncio.create_task(holds[0].watch(store.save(NEW))))
        await ending.wait()

    async def goes_on() -> list[str]:
        return await after_the_call(store, disk, holds[0], "cancelled")

    running: list[asyncio.Task[object]] = []
    with asyncio.Runner(loop_factory=loop_factory(backend)) as runner:
        runner.run(asyncio.wait_for(ends(), BOUND_S))
    assert running[0].cancelled()
    with asyncio.Runner(loop_factory=loop_factory(backend)) as runner:
        wrongs = runner.run(asyncio.wait_for(goes_on(), BOUND_S))
    return wrongs + left_over(path)


# ---------------------------------------------------------------------- at each step, in each way


@cases
@pytest.mark.parametrize("step", STEPS)
def test_cancelled_at(step: str, backend: Backend, way: str, tmp_path: Path) -> None:
    """A save that is cancelled at a step returns after its thread has ended, and neither loses nor leaves anything."""
    outcome, wrongs = check(real, tmp_path / "state", backend, way, step)
    assert wrongs == []
    assert outcome == ("cancelled" if way in NATIVELY else "returned")


@cases
@pytest.mark.parametrize("step", ["link", "rename", "unlink"])
def test_cancelled_with_generations_at(step: str, backend: Backend, way: str, tmp_path: Path) -> None:
    """The same where older generations are kept, at the steps that there are for them."""
    path = tmp_path / "state"
    run(backend, lambda: real_with_generations(path, HookDisk()).save(snapshot(0)))
    outcome, wrongs = check(real_with_generations, path, backend, way, step, kept=2)
    assert wrongs == []
    assert outcome == ("cancelled" if way in NATIVELY else "returned")


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("step", STEPS)
def test_loop_shutdown_at(step: str, backend: Backend, tmp_path: Path) -> None:
    """A loop that ends while a save is at a step ends after it, and the next loop's save works and wins."""
    assert check_shutdown(real, tmp_path / "state", backend, step) == []


# ---------------------------------------------------------------------- the mutant


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("way", NATIVELY)
@pytest.mark.parametrize("step", NAIVE_STEPS)
def test_the_naive_store_fails(step: str, way: str, backend: Backend, tmp_path: Path) -> None:
    """The naive store, cancelled natively, fails the same check at every step, and loses what it acknowledged."""
    outcome, wrongs = check(NaiveStore, tmp_path / "state", backend, way, step)
    assert outcome == "cancelled"
    assert "it returned while its thread worked on" in wrongs
    if step != "fsync directory":
        assert "an acknowledged save was overwritten by an older one" in wrongs


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("step", NAIVE_STEPS)
def test_the_naive_store_fails_at_shutdown(step: str, backend: Backend, tmp_path: Path) -> None:
    """And when its loop ends."""
    wrongs = check_shutdown(NaiveStore, tmp_path / "state", backend, step)
    assert "it returned while its thread worked on" in wrongs
    if step != "fsync directory":
        assert "an acknowledged save was overwritten by an older one" in wrongs


@pytest.mark.parametrize("backend", LOOPS)
@pytest.mark.parametrize("way", BY_SCOPE)
def test_the_naive_store_passes_by_scope(way: str, backend: Backend, tmp_path: Path) -> None:
    """Under a scope it does nothing wrong: it is the native cancellations that the check finds it by."""
    assert check(NaiveStore, tmp_path / "state", backend, way, "rename") == ("returned", [])


# ---------------------------------------------------------------------- in line, in trouble, while loading


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("way", [way for way in NATIVELY if way != "wait_for"])
def test_cancelled_in_line(way: str, backend: Backend, tmp_path: Path) -> None:
    """A save that is cancelled while it waits for the one before it changes nothing, at once."""
    path, disk = tmp_path / "state", HookDisk()
    store = real(path, disk)

    async def main() -> None:
        hold = Hold(disk, "fsync")
        first = asyncio.create_task(store.save(OLD))
        while not hold.reached:
            await checkpoint()
        waits = Hold(HookDisk(), "never")
        second = asyncio.create_task(WAYS[way](store.save(NEW), waits))
        await turns()
        for deed in waits.deeds:
            deed()
        assert await second == "cancelled"
        assert not first.done()
        hold.let_go()
        await first
        assert await store.load_latest() == OLD
        await store.save(NEWER)

    run(backend, main)
    assert left_over(path) == []


@cases
@pytest.mark.parametrize("step", ["fsync", "fsync directory", "probe"])
def test_load_cancelled_at(step: str, backend: Backend, way: str, tmp_path: Path) -> None:
    """A load that is cancelled while it makes durable what another process saved returns after its thread has ended."""
    path, disk = tmp_path / "state", HookDisk()

    async def main() -> tuple[str, int]:
        await real(path, HookDisk()).save(OLD)
        store = real(path, disk)  # as of another process: it has saved nothing yet
        hold = Hold(disk, step)
        outcome = await WAYS[way](store.load_latest(), hold)
        working = disk.working
        assert hold.reached
        assert await store.load_latest() == OLD
        return outcome, working

    assert run(backend, main) == ("cancelled" if way in NATIVELY else "returned", 0)
    assert left_over(path) == []


@cases
def test_cancelled_and_failed(backend: Backend, way: str, tmp_path: Path) -> None:
    """A step that fails under a cancelled save leaves the older snapshot, and the next save works."""
    path, disk = tmp_path / "state", HookDisk()
    store = real(path, disk)

    async def main() -> None:
        await store.save(OLD)
        hold = Hold(disk, "fsync")
        held = disk.hook

        def fails(step: str) -> None:
            held(step)
            if step == "fsync":
                raise OSError(28, "No space left on device")

        disk.hook = fails
        try:
            assert await WAYS[way](store.save(NEW), hold) == "cancelled"
        except* BackendError:  # under a scope the call is not cancelled, and tells what happened
            assert way not in NATIVELY
        disk.hook = lambda _: None
        assert await store.load_latest() == OLD
        await store.save(NEWER)
        assert await store.load_latest() == NEWER

    run(backend, main)
    assert left_over(path) == []


@pytest.mark.parametrize("backend", NATIVE)
def test_cancelled_and_unknown(backend: Backend, tmp_path: Path) -> None:
    """A step that fails after the rename poisons the store, also if nobody is told because the save is cancelled."""
    path, disk = tmp_path / "state", HookDisk()
    store = real(path, disk)

    async def main() -> None:
        await store.save(OLD)
        hold = Hold(disk, "fsync directory")
        held = disk.hook

        def fails(step: str) -> None:
            held(step)
            if step == "fsync directory":
                raise OSError(5, "Input/output error")

        disk.hook = fails
        assert await cancelled(1)(store.save(NEW), hold) == "cancelled"
        disk.hook = lambda _: None
        with pytest.raises(PoisonedError):
            await store.save(NEWER)
        with pytest.raises(PoisonedError):
            await store.load_latest()
        assert await real(path, disk).load_latest() in (OLD, NEW)

    run(backend, main)
    assert left_over(path) == []


@pytest.mark.parametrize("backend", LOOPS)
def test_never_awaited(backend: Backend, tmp_path: Path) -> None:
    """A save whose coroutine is closed, before it was awaited or while it waits in line, changes nothing."""
    path, disk = tmp_path / "state", HookDisk()
    store = real(path, disk)

    async def main() -> None:
        await store.save(OLD)
        store.save(NEW).close()
        hold = Hold(disk, "fsync")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold.watch, store.save(NEWER))
            while not hold.reached:
                await checkpoint()
            waits = store.save(NEW)
            waits.send(None)
            waits.close()
            hold.let_go()
        assert await store.load_latest() == NEWER

    run(backend, main)
    assert left_over(path) == []
    assert store._backend.stored == [1, 3]


# ---------------------------------------------------------------------- Ctrl-C


CTRL_C = """
import asyncio, os, signal, sys
from pathlib import Path
import anyio
from tests import test_cancellation as t
from tests._faults import HookDisk, loop_factory

signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs us in the background may have it ignored
path, step, loop, times = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
disk = HookDisk()
store = t.real(path, disk)

def interrupt(at):
    if at == step:
        disk.hook = lambda _: None
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)

async def main():
    await store.save(t.OLD)
    disk.hook = interrupt
    try:
        await store.save(t.NEW)
        await anyio.lowlevel.checkpoint()
        await anyio.sleep(30)
    finally:
        assert not disk.working, "it returned while its thread worked on"

try:
    if loop == "trio":
        anyio.run(main, backend="trio")
    else:
        with asyncio.Runner(loop_factory=loop_factory(("asyncio", {"use_uvloop": loop == "uvloop"}))) as runner:
            runner.run(main())
except KeyboardInterrupt:
    print("interrupted")
assert anyio.run(store.load_latest) == t.NEW
anyio.run(store.save, t.NEWER)
assert anyio.run(store.load_latest) == t.NEWER
assert t.left_over(path) == [], t.left_over(path)
"""


@pytest.mark.parametrize(("step", "times"), [("create", 2), ("rename", 1)])
@pytest.mark.parametrize("loop", [pytest.param(loop.id, marks=loop.marks) for loop in LOOPS])
def test_ctrl_c_at(step: str, loop: str, times: int, tmp_path: Path) -> None:
    """Ctrl-C, once or twice, at a step of a save ends the program after the save has ended, which is durable then."""
    assert python(CTRL_C, tmp_path / "state", step, loop, times) == (0, "interrupted\n", "")


# ---------------------------------------------------------------------- storms


class Storm:
    """Many tasks that save, each with an index of its own, and are cancelled at any time in any way.

    Saves may go back here: nothing but the order of the calls decides what is the latest.
    """

    def __init__(self, path: Path, seed: int, *, natively: bool) -> None:
        self.backend = Watched(path, HookDisk())
        self.store = SnapshotStore(self.backend, State)
        self.called: list[int] = []
        self.acknowledged: set[int] = set()
        self.wrongs: list[str] = []
        self._random = random.Random(seed)
        self._natively = natively

    async def save(self, index: int) -> None:
        """One save; in what order they are called is written down before anything is awaited."""
        try:
            self.called.append(index)
            await self.store.save(snapshot(index), allow_rollback=True)
            self.acknowledged.add(index)
        finally:
            if index in self.backend.at_work:
                self.wrongs.append(f"{index} returned while its thread worked on")

    async def one(self, index: int) -> None:
        """One save, cancelled somehow and some time, or not."""
        pick = self._random
        await turns(pick.randrange(30))
        after_s = pick.choice([0, 0.0005, 0.001, 0.005, 0.02]) * pick.random()
        ways = ["none", "scope", "both"] + ["cancel", "timeout", "wait_for", "sibling"] * 2 * self._natively
        way = pick.choice(ways)
        if way == "none":
            await self.save(index)
        elif way == "scope" or not self._natively:
            with anyio.move_on_after(after_s):
                await self.save(index)
        else:
            try:
                await self._native(way, index, after_s)
            except* (TimeoutError, asyncio.CancelledError, KeyError):
                pass

    async def _native(self, way: str, index: int, after_s: float) -> None:
        if way == "timeout":
            async with asyncio.timeout(after_s):
                await self.save(index)
        elif way == "wait_for":
            await asyncio.wait_for(self.save(index), after_s)
        elif way == "sibling":
            async with asyncio.TaskGroup() as group:
                group.create_task(self.save(index))
                await turns(self._random.randrange(20))
                raise KeyError
        else:
            task = asyncio.create_task(self._both(index, after_s) if way == "both" else self.save(index))
            asked = False
            for _ in range(self._random.choice([1, 1, 2, 5])):
                await turns(self._random.randrange(20))
                asked |= task.cancel()
            await asyncio.wait([task])
            if asked and not task.cancelled() and KEEPS_NATIVE:
                self.wrongs.append(f"{index} swallowed a native cancellation")
            await task

    async def _both(self, index: int, after_s: float) -> None:
        with anyio.move_on_after(after_s):
            await self.save(index)
            await checkpoint()

    async def rage(self, seconds: float, tasks: int = 20) -> None:
        """Go on for some seconds, and then look at what is there."""
        indexes = iter(range(1, sys.maxsize))

        async def worker() -> None:
            while anyio.current_time() < end:
                await self.one(next(indexes))

        end = anyio.current_time() + seconds
        async with anyio.create_task_group() as group:
            for _ in range(tasks):
                group.start_soon(worker)
        stored = self.backend.stored
        assert self.wrongs == []
        done = set(stored)
        assert stored == [index for index in self.called if index in done]
        assert self.acknowledged <= done
        assert self.acknowledged
        assert len(stored) < len(self.called)
        assert (await self.store.load_latest()).last_applied_index == stored[-1]
        await self.store.save(snapshot(0), allow_rollback=True)
        assert await self.store.load_latest() == snapshot(0)


@pytest.mark.slow
@pytest.mark.parametrize("backend", LOOPS)
def test_storm(backend: Backend, tmp_path: Path) -> None:
    """Thousands of saves, cancelled at random, are stored in call order or not at all, and nothing is left of them."""
    path = tmp_path / "state"
    storm = Storm(path, random.randrange(1 << 32), natively=backend[0] == "asyncio")
    anyio.run(storm.rage, STORM_S, backend=backend[0], backend_options=backend[1])
    assert left_over(path) == []

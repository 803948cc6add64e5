"""Many tasks, loops, threads and processes at one store: it never steps back, and nobody sees anything torn."""

from __future__ import annotations

import copy
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import anyio
import anyio.from_thread
import anyio.to_thread
import msgspec
import pytest
from anyio.lowlevel import checkpoint

from swoosh_async import (
    FileSnapshotStore,
    InMemorySnapshotStore,
    LockedError,
    Snapshot,
    SnapshotNotFoundError,
    SnapshotStore,
    StaleSnapshotError,
)
from swoosh_async.backends.base import Blob, Stored
from swoosh_async.backends.file import Generations
from swoosh_async.backends.memory import MemoryBackend

from ._faults import BOUND_S, LOOPS, NATIVE, STORM_S, Backend, HookDisk, bounded, happens, process, until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:a state of type"),  # a busy machine may take its time with the smallest state
]


class State(msgspec.Struct, frozen=True):
    """A state that shows when it is not whole: the same number, many times, more or less often."""

    numbers: tuple[int, ...]


def snapshot(index: int) -> Snapshot[State]:
    """The snapshot of that index."""
    return Snapshot(state=State((index,) * (index % 997)), last_applied_hlc=str(index), last_applied_index=index)


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SnapshotStore[State]:
    """Each store."""
    if request.param == "memory":
        return InMemorySnapshotStore(State)
    return FileSnapshotStore(tmp_path / "state", State)


async def outcomes(store: SnapshotStore[State], indexes: list[int]) -> tuple[list[int], list[StaleSnapshotError]]:
    """What becomes of saves called all at once: the indexes that were saved, in call order, and what was refused."""
    called: list[int] = []
    saved: set[int] = set()
    stale: list[StaleSnapshotError] = []

    async def one(index: int) -> None:
        called.append(index)
        try:
            saved.add((await store.save(snapshot(index))).index)
        except StaleSnapshotError as error:
            stale.append(error)

    async with bounded(), anyio.create_task_group() as tasks:
        for index in indexes:
            tasks.start_soon(one, index)
    return [index for index in called if index in saved], stale


def shuffled(count: int) -> list[int]:
    """The indexes from 1 on in no order."""
    return random.sample(range(1, count + 1), count)


# ---------------------------------------------------------------------- tasks, loops, threads, stores


async def test_two_hundred_saves(store: SnapshotStore[State]) -> None:
    """Two hundred saves at once, in no order, end with the highest index; the worst that happens is a stale one."""
    saved, stale = await outcomes(store, shuffled(200))
    assert len(saved) + len(stale) == 200
    assert await store.load_latest() == snapshot(200)
    assert saved == sorted(saved)
    assert saved[-1] == 200
    assert all(error.index < error.stored <= 200 for error in stale)


async def test_two_stores_on_one_path(tmp_path: Path) -> None:
    """Two stores of one process on one path are two writers, of which one goes at a time."""
    indexes = shuffled(100)
    results: list[tuple[list[int], list[StaleSnapshotError]]] = []

    async def writer(part: list[int]) -> None:
        store = FileSnapshotStore(tmp_path / "state", State, lock_timeout_s=BOUND_S)
        results.append(await outcomes(store, part))
        assert (await store.load_latest()).last_applied_index >= max(results[-1][0], default=0)

    async with bounded(), anyio.create_task_group() as tasks:
        tasks.start_soon(writer, indexes[::2])
        tasks.start_soon(writer, indexes[1::2])
    assert sum(len(saved) + len(stale) for saved, stale in results) == 100
    assert all(saved == sorted(saved) for saved, _ in results)
    assert await FileSnapshotStore(tmp_path / "state", State).load_latest() == snapshot(100)


async def test_reads_beside_writes(store: SnapshotStore[State]) -> None:
    """Who loads while others save sees whole snapshots, and none that is older than one that he has seen."""
    await store.save(snapshot(1))
    done = threading.Event()
    seen: list[int] = []

    async def reader() -> None:
        last = 0
        while not done.is_set():
            loaded = await store.load_latest()
            assert loaded == snapshot(loaded.last_applied_index)
            assert loaded.last_applied_index >= last
            last = loaded.last_applied_index
            seen.append(last)

    async with bounded(), anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(reader)
        for index in range(2, 60):
            ref = await store.save(snapshot(index))
            assert (await store.load_latest()).last_applied_index == index == ref.index
        done.set()
    assert len(set(seen)) > 1


def test_one_store_on_many_loops(tmp_path: Path) -> None:
    """One store on loops of all kinds, each in a thread of its own."""
    store = FileSnapshotStore(tmp_path / "state", State)
    indexes = shuffled(120)
    results: list[tuple[list[int], list[StaleSnapshotError]]] = []

    async def main(part: list[int]) -> None:
        results.append(await outcomes(store, part))

    def thread(number: int, backend: Backend) -> None:
        anyio.run(main, indexes[number::3], backend=backend[0], backend_options=backend[1])

    threads = [threading.Thread(target=thread, args=(number, loop.values[0])) for number, loop in enumerate(LOOPS)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(BOUND_S)
    assert sum(len(saved) + len(stale) for saved, stale in results) == 120
    assert anyio.run(store.load_latest) == snapshot(120)


@pytest.mark.parametrize("backend", LOOPS)
def test_from_a_portal(backend: Backend, tmp_path: Path) -> None:
    """Threads without a loop save and load through a portal of anyio."""
    store = FileSnapshotStore(tmp_path / "state", State)
    with anyio.from_thread.start_blocking_portal(*backend) as portal, ThreadPoolExecutor(8) as threads:
        saves = [threads.submit(portal.call, store.save, snapshot(index)) for index in range(1, 41)]
        stale = [save.exception(BOUND_S) for save in saves]
        assert {type(error) for error in stale} <= {type(None), StaleSnapshotError}
        assert portal.call(store.load_latest) == snapshot(40)


# ---------------------------------------------------------------------- processes


WRITER = """
import sys, time
import anyio
from tests import test_concurrency as t

async def main(path, seconds, back):
    store = t.FileSnapshotStore(path, t.State, lock_timeout_s=t.BOUND_S)  # a disk that others use may stand still
    end, saved, stale, highest = time.monotonic() + seconds, 0, 0, 0
    while time.monotonic() < end:
        index = time.monotonic_ns()  # one clock for all processes of the machine
        try:
            highest = (await store.save(t.snapshot(index), allow_rollback=back)).index
            saved += 1
        except t.StaleSnapshotError:
            stale += 1
        assert back or (await store.load_latest()).last_applied_index >= highest
    print(saved, stale, highest)

loop = {"uvloop": ("asyncio", {"use_uvloop": True})}.get(sys.argv[3], (sys.argv[3], {}))
anyio.run(main, sys.argv[1], float(sys.argv[2]), sys.argv[4] == "True", backend=loop[0], backend_options=loop[1])
"""


async def steps_back(path: Path, *, allow_rollback: bool) -> tuple[int, int]:
    """Have four processes save into one path; how often a reader saw a step back, and the highest index saved."""
    pytest.importorskip("uvloop")
    store, last, back = FileSnapshotStore(path, State), 0, 0
    with ExitStack() as stack:
        writers = [
            stack.enter_context(process(WRITER, path, STORM_S, loop, allow_rollback))
            for loop in ("asyncio", "uvloop", "trio", "asyncio")
        ]
        while any(writer.poll() is None for writer in writers):
            try:
                loaded = await store.load_latest()
            except SnapshotNotFoundError:
                assert last == 0
                continue
            assert loaded == snapshot(loaded.last_applied_index)
            back += loaded.last_applied_index < last
            last = loaded.last_applied_index
        outputs = [await anyio.to_thread.run_sync(writer.communicate) for writer in writers]
        assert [writer.returncode for writer in writers] == [0] * 4
    told = [tuple(map(int, output.split())) for output, _ in outputs]
    assert all(saved for saved, _, _ in told)
    return back, max(highest for _, _, highest in told)


@pytest.mark.slow
async def test_four_processes(tmp_path: Path) -> None:
    """Four processes that save into one path never make it step back, and a reader never sees anything torn."""
    path = tmp_path / "state"
    back, highest = await steps_back(path, allow_rollback=False)
    assert back == 0
    assert (await FileSnapshotStore(path, State).load_latest()).last_applied_index == highest


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", NATIVE[:1])
async def test_four_processes_without_the_compare(tmp_path: Path) -> None:
    """The lock alone would not do: where older saves are let through, the path steps back, and the reader sees it."""
    back, _ = await steps_back(tmp_path / "state", allow_rollback=True)
    assert back > 0


HOLDER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of the store at ``state``."""
    pytest.importorskip("fcntl")
    with process(HOLDER, tmp_path / ".state.lock") as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder


async def test_locked_by_another_process(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    """A save that another process keeps out ends in time, names it, and changes nothing; a load is not kept out."""
    await FileSnapshotStore(tmp_path / "other", State).save(snapshot(1))
    os.rename(tmp_path / "other", tmp_path / "state")
    store = FileSnapshotStore(tmp_path / "state", State, lock_timeout_s=0.2)
    begun = time.monotonic()
    with pytest.raises(LockedError) as locked:
        await store.save(snapshot(2))
    assert 0.2 <= time.monotonic() - begun < 2
    if sys.platform == "linux":
        assert locked.value.pid == holder.pid
    assert await store.load_latest() == snapshot(1)
    holder.send_signal(signal.SIGKILL)
    await anyio.to_thread.run_sync(holder.wait)
    await store.save(snapshot(3))
    assert await store.load_latest() == snapshot(3)


async def test_holder_is_killed_while_a_save_waits(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    """A save that waits for another process goes on when that is killed."""
    disk, waits = HookDisk(), threading.Event()
    disk.hook = lambda step: waits.set() if step == "lock" else None
    store = SnapshotStore(Generations(tmp_path / "state", disk=disk, lock_timeout_s=BOUND_S), State)
    async with bounded(), anyio.create_task_group() as tasks:
        tasks.start_soon(store.save, snapshot(1))
        await happens(waits)
        await anyio.to_thread.run_sync(lambda: holder.send_signal(signal.SIGKILL))
    assert await store.load_latest() == snapshot(1)


async def test_waiting_for_a_lock_does_not_hold_up_the_loop(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    """While a save waits for another process the loop turns, and a scope ends the wait of those in line behind it."""
    del holder
    store = FileSnapshotStore(tmp_path / "state", State, lock_timeout_s=0.3)
    ended: list[str] = []

    async def first() -> None:
        with pytest.raises(LockedError):
            await store.save(snapshot(1))
        ended.append("first")

    async with bounded(), anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await until(lambda: store._lane._leader)
        with anyio.move_on_after(0.01) as scope:
            await store.save(snapshot(2))
        assert scope.cancelled_caught
        assert ended == []
    assert ended == ["first"]


# ---------------------------------------------------------------------- isolation


class Point(msgspec.Struct, frozen=True):
    """A value."""

    x: int


class Mutable(msgspec.Struct):
    """A Struct that can be changed in place."""

    count: int
    name: str | None = None


class Fields(msgspec.Struct):
    """A Struct whose fields are containers of values."""

    table: dict[str, Point]
    order: list[int]
    names: set[str]
    maybe: list[str] | None = None
    count: int = 0


class FrozenFields(msgspec.Struct, frozen=True):
    """Such a Struct that is frozen, though not its containers."""

    table: dict[str, int]
    order: list[Point]


class Deep(msgspec.Struct, frozen=True):
    """A Struct with parts that can be changed deep inside."""

    table: dict[str, list[int]]
    parts: list[Mutable]


@dataclass
class Data:
    """A dataclass whose fields are containers of values."""

    table: dict[str, int] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    count: int = 0


@dataclass(frozen=True)
class FrozenData:
    """Such a dataclass that is frozen."""

    names: set[str]


@dataclass
class DeepData:
    """A dataclass with another in it."""

    inner: Data


class Typed(TypedDict):
    """A TypedDict of containers of values."""

    table: dict[str, int]
    count: int


class Named(NamedTuple):
    """A NamedTuple with something in it that can be changed."""

    order: list[int]


def change_fields(state: Fields) -> None:
    """Change all that can be changed."""
    state.table["new"] = Point(9)
    state.order.append(9)
    state.names.clear()
    assert state.maybe is not None
    state.maybe.append("new")
    state.count = 9


def change_data(state: Data) -> None:
    """Change all that can be changed."""
    state.table.clear()
    state.order.append(9)
    state.count = 9


SHAPES: dict[str, tuple[Any, Callable[[], Any], Callable[[Any], object]]] = {
    "a value": (Point, lambda: Point(1), repr),
    "values in a tuple": (tuple[Point, ...], lambda: (Point(1), Point(2)), repr),
    "dict": (dict[str, int], lambda: {"a": 1}, lambda state: state.update(a=9, b=9)),
    "dict of values": (dict[str, Point], lambda: {"a": Point(1)}, lambda state: state.clear()),
    "list": (list[int], lambda: [1, 2], lambda state: state.append(9)),
    "set": (set[str], lambda: {"a", "b"}, lambda state: state.discard("a")),
    "Struct of values": (Mutable, lambda: Mutable(1), lambda state: setattr(state, "count", 9)),
    "Struct of containers": (
        Fields,
        lambda: Fields({"a": Point(1)}, [1], {"a"}, ["a"]),
        change_fields,
    ),
    "frozen Struct of containers": (
        FrozenFields,
        lambda: FrozenFields({"a": 1}, [Point(1)]),
        lambda state: (state.table.update(a=9), state.order.append(Point(9))),
    ),
    "dataclass": (Data, lambda: Data({"a": 1}, [1]), change_data),
    "frozen dataclass": (FrozenData, lambda: FrozenData({"a"}), lambda state: state.names.add("b")),
    "TypedDict": (
        Typed,
        lambda: Typed(table={"a": 1}, count=1),
        lambda state: (state["table"].clear(), state.update(count=9)),
    ),
    "deep dict": (dict[str, list[int]], lambda: {"a": [1]}, lambda state: state["a"].append(9)),
    "deep Struct": (
        Deep,
        lambda: Deep({"a": [1]}, [Mutable(1)]),
        lambda state: (state.table["a"].clear(), setattr(state.parts[0], "count", 9)),
    ),
    "deep dataclass": (DeepData, lambda: DeepData(Data({"a": 1}, [1])), lambda state: change_data(state.inner)),
    "NamedTuple": (Named, lambda: Named([1]), lambda state: state.order.append(9)),
    "untyped": (dict[str, Any], lambda: {"a": {"b": [1]}}, lambda state: state["a"]["b"].append(9)),
}
shapes = pytest.mark.parametrize("shape", SHAPES)


class Held(MemoryBackend):
    """A backend whose threads wait to be let go."""

    def __init__(self) -> None:
        super().__init__()
        self.began = threading.Event()
        self.let_go = threading.Event()

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        """As it is, when it is let go."""
        self.began.set()
        assert self.let_go.wait(BOUND_S)
        return super().put(blob, keep=keep, allow_rollback=allow_rollback)


@shapes
async def test_changed_before_the_await(shape: str, tmp_path: Path) -> None:
    """A state that is changed after `save` was called, and before that is awaited, is saved as it was at the call."""
    state_type, make, change = SHAPES[shape]
    for store in (InMemorySnapshotStore(state_type), FileSnapshotStore(tmp_path / "state", state_type)):
        state = make()
        saving = store.save(Snapshot(state=state, last_applied_index=1))
        change(state)
        await checkpoint()
        await saving
        assert (await store.load_latest()).state == make()


@shapes
async def test_changed_while_it_is_saved(shape: str) -> None:
    """A state that is changed while its save waits in line, or while its thread is at work, is saved as at the call."""
    state_type, make, change = SHAPES[shape]
    backend = Held()
    store = SnapshotStore(backend, state_type)
    before, state = make(), make()
    async with bounded(), anyio.create_task_group() as tasks:
        tasks.start_soon(store.save, Snapshot(state=before, last_applied_index=1))
        await happens(backend.began)
        tasks.start_soon(store.save, Snapshot(state=state, last_applied_index=2))
        await until(lambda: store._lane._waiting)
        backend.began.clear()
        change(before)
        backend.let_go.set()
        await happens(backend.began)
        change(state)
    loaded = await store.load_latest()
    assert loaded.last_applied_index == 2
    assert loaded.state == make()
    assert state == changed(make(), change)


def changed(state: Any, change: Callable[[Any], object]) -> Any:
    """That state, changed."""
    state = copy.deepcopy(state)
    change(state)
    return state


@pytest.mark.parametrize("eager", [False, True])
async def test_changed_all_the_time(eager: bool) -> None:
    """A large state that the service changes without pause is saved as at the call, without an error."""
    state: Any = {str(number): [number] if eager else number for number in range(20_000)}
    at_call = copy.deepcopy(state)
    store = InMemorySnapshotStore(dict[str, list[int]] if eager else dict[str, int])  # type: ignore[arg-type]
    saving = store.save(Snapshot(state=state, last_applied_index=1))
    saved = threading.Event()

    async def save() -> None:
        await saving
        saved.set()

    async with bounded(), anyio.create_task_group() as tasks:
        tasks.start_soon(save)
        number = 0
        while not saved.is_set():
            number += 1
            state[f"new {number}"] = [number] if eager else number
            state.pop(str(number), None)
            await checkpoint()
    assert (await store.load_latest()).state == at_call

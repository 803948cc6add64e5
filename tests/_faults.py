"""What the tests of concurrency share: workers that wait to be let go, loops that turn, a disk with a hook.

Nothing here sleeps in order to wait. What waits for a thread waits for an event that the thread sets; what waits for a
loop lets it turn; and all of it ends after `BOUND_S`.
"""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import threading
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import checkpoint, current_token

import swoosh_async
from swoosh_async.backends.file import OsDisk

__all__ = [
    "BOUND_S",
    "KEEPS_NATIVE",
    "LOOPS",
    "NATIVE",
    "STORM_S",
    "Backend",
    "Clerk",
    "Held",
    "HookDisk",
    "Steps",
    "bounded",
    "happens",
    "loop_factory",
    "poster",
    "process",
    "python",
    "run",
    "turns",
    "until",
    "watched",
]

T = TypeVar("T")

BOUND_S = 60.0
"""How long anything may take here before the test fails, in seconds: far more than it does, on any machine."""

STORM_S = float(os.environ.get("SWOOSH_STORM_S", "2"))
"""How long each storm lasts, in seconds; more finds more."""

KEEPS_NATIVE = tuple(map(int, version("anyio").split(".")[:2])) >= (4, 16)
"""Whether anyio's scopes keep a native cancellation that comes in the same turn as their own: anyio issue 1214."""

_without_uvloop = pytest.mark.skipif(find_spec("uvloop") is None, reason="uvloop is not installed here")
NATIVE = [
    pytest.param(("asyncio", {}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop", marks=_without_uvloop),
]
"""The loops on which a task can be cancelled natively."""

LOOPS = [*NATIVE, pytest.param(("trio", {}), id="trio")]
"""All loops, for tests that run their own."""

Backend = tuple[str, dict[str, Any]]


def run(backend: Backend, main: Callable[[], Awaitable[T]]) -> T:
    """Run `main` on a loop of its own."""

    async def in_time() -> T:
        async with bounded():
            return await main()
        raise AssertionError

    return anyio.run(in_time, backend=backend[0], backend_options=backend[1])


def loop_factory(backend: Backend) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes an asyncio loop of that kind."""
    if backend[1].get("use_uvloop"):
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop


@asynccontextmanager
async def bounded() -> AsyncIterator[None]:
    """What is in this block ends in time, or the test fails."""
    with anyio.fail_after(BOUND_S):
        yield


async def happens(event: threading.Event) -> None:
    """Wait until a thread has set that event."""
    assert await to_thread.run_sync(event.wait, BOUND_S, limiter=CapacityLimiter(1)), "it did not happen in time"


async def turns(count: int = 10) -> None:
    """Let the loop turn that often."""
    for _ in range(count):
        await checkpoint()


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until that is so."""
    with anyio.fail_after(BOUND_S):
        while not condition():
            await checkpoint()


def poster() -> Callable[[Callable[[], object]], None]:
    """What has the running loop call something soon, from any thread, unless that loop has ended."""
    native: Any = current_token().native_token
    soon = getattr(native, "run_sync_soon", None) or native.call_soon_threadsafe

    def post(callback: Callable[[], object]) -> None:
        with suppress(RuntimeError):
            soon(callback)

    return post


def environment() -> dict[str, str]:
    """The environment of a process that is to see the package and the tests as they are here."""
    roots = Path(swoosh_async.__file__).parent.parent, Path(__file__).parent.parent
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, roots))}


def python(script: str, *arguments: object) -> tuple[int, str, str]:
    """Run a script in a process of its own; its exit code, and what it wrote."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=2 * BOUND_S, check=False)
    return done.returncode, done.stdout, done.stderr


@contextmanager
def process(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A script that runs in a process of its own, which does not outlive this block."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment(), stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


class Held:
    """A blocking call that waits to be let go."""

    def __init__(self, outcome: Any = "done") -> None:
        self.outcome = outcome
        self.calls = 0
        self.began = threading.Event()
        self.let_go = threading.Event()
        self.ended = False

    def __call__(self) -> Any:
        self.calls += 1
        self.began.set()
        assert self.let_go.wait(BOUND_S), "nobody let it go"
        self.ended = True
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


class Clerk:
    """What a lane serves with: writes down each batch, and waits to be let go if it is told to.

    Args:
        held: Whether each batch waits for `let_go`.
        outcome: Makes an item's outcome.
    """

    def __init__(self, *, held: bool = True, outcome: Callable[[Any], Any] = "done {}".format) -> None:
        self.batches: list[list[Any]] = []
        self.begun: set[Any] = set()
        self.ended: set[Any] = set()
        self.trouble: list[str] = []
        self._held = held
        self._outcome = outcome
        self._inside = threading.Lock()
        self._began = threading.Semaphore(0)
        self._let_go = threading.Semaphore(0)

    @property
    def serving(self) -> bool:
        """Whether a batch is served now."""
        return self._inside.locked()

    @property
    def served(self) -> list[Any]:
        """All items that were begun, in order."""
        return [item for batch in self.batches for item in batch]

    def __call__(self, items: Sequence[Any]) -> Sequence[Any]:
        if not self._inside.acquire(blocking=False):
            self.trouble.append(f"{items} are served while others are")
            return list(items)
        try:
            self.begun.update(items)
            self.batches.append(list(items))
            self._began.release()
            if self._held and not self._let_go.acquire(timeout=BOUND_S):
                self.trouble.append("nobody let it go")
            outcomes = [self._outcome(item) for item in items]
            self.ended.update(items)
        finally:
            self._inside.release()
        return outcomes

    async def begins(self) -> None:
        """Wait until one more batch has been begun."""
        begins = partial(self._began.acquire, timeout=BOUND_S)
        assert await to_thread.run_sync(begins, limiter=CapacityLimiter(1)), "no batch was begun in time"

    def let_go(self, batches: int = 1) -> None:
        """Let that many batches end, now or when they are there."""
        self._let_go.release(batches)

    def let_all_go(self) -> None:
        """Let every batch end, those to come as well."""
        self._held = False
        self.let_go()


@types.coroutine
def watched(coroutine: Coroutine[Any, Any, T], waits: Callable[[Any], object]) -> Generator[Any, Any, T]:
    """That coroutine; each time it begins to wait, by whatever loop, it is told what for."""
    step: Callable[[], Any] = partial(coroutine.send, None)
    while True:
        try:
            waits_for = step()
        except StopIteration as stop:
            return stop.value
        waits(waits_for)
        try:
            sent = yield waits_for
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:  # noqa: BLE001  it is thrown on
            step = partial(coroutine.throw, error)
        else:
            step = partial(coroutine.send, sent)


class Steps:
    """Counts how often coroutines are resumed, by whatever loop, the first time as well."""

    def __init__(self) -> None:
        self.count = 0

    async def of(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """That coroutine, counted."""
        try:
            return await watched(coroutine, self._count)
        finally:
            self.count += 1  # the last time it did not wait again

    def _count(self, _: object) -> None:
        self.count += 1


class HookDisk(OsDisk):
    """The system's own calls, with a hook before each, which gets its name in the words of a save.

    Attributes:
        hook: Called in the worker thread.
        steps: All steps that were made.
        working: How many threads are at work.
    """

    def __init__(self) -> None:
        self.hook: Callable[[str], object] = lambda _: None
        self.steps: list[str] = []
        self.working = 0
        self.idle = threading.Condition()

    @contextmanager
    def work(self) -> Iterator[None]:
        """A thread is at work in this block."""
        with self.idle:
            self.working += 1
        try:
            yield
        finally:
            with self.idle:
                self.working -= 1
                self.idle.notify_all()

    def wait_until_idle(self) -> None:
        """Block until no thread is at work."""
        with self.idle:
            assert self.idle.wait_for(lambda: not self.working, BOUND_S)

    def _step(self, name: str) -> None:
        self.steps.append(name)
        self.hook(name)

    def open(self, name: str, flags: int, mode: int, dir_fd: int) -> int:
        self._step("create" if flags & os.O_EXCL else "lock")
        return super().open(name, flags, mode, dir_fd)

    def mkdir(self, path: str, mode: int) -> None:
        self._step("mkdir")
        super().mkdir(path, mode)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        self._step("write")
        return super().pwrite(fd, data, offset)

    def fchmod(self, fd: int, mode: int) -> None:
        self._step("mode")
        super().fchmod(fd, mode)

    def ftruncate(self, fd: int, length: int) -> None:
        self._step("probe")
        super().ftruncate(fd, length)

    def fsync(self, fd: int) -> None:
        self._step("fsync directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "fsync")
        super().fsync(fd)

    def close(self, fd: int) -> None:
        self._step("close")
        super().close(fd)

    def link(self, source: str, target: str, dir_fd: int) -> None:
        self._step("link")
        super().link(source, target, dir_fd)

    def rename(self, source: str, target: str, dir_fd: int) -> None:
        self._step("rename")
        super().rename(source, target, dir_fd)

    def unlink(self, name: str, dir_fd: int) -> None:
        self._step("unlink")
        super().unlink(name, dir_fd)

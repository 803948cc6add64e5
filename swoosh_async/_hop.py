"""One blocking call in a worker thread, which no cancellation leaves behind.

`anyio.to_thread.run_sync` keeps a cancel scope away from a running thread, but a *native* asyncio cancellation
(`asyncio.timeout`, `wait_for`, a failing TaskGroup sibling, Ctrl-C, loop shutdown) goes through every shield: the call
returns while the thread writes on. A hop does not return before its thread has ended; then the native cancellation is
raised again, however often it came. The wait is shielded as well, for anyio delivers the cancellation of a scope again
at every turn of the loop to who only catches it.

This file knows threads and event loops, and nothing of what the call does.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import anyio
from anyio import CancelScope, CapacityLimiter, Event, get_cancelled_exc_class, to_thread
from anyio.lowlevel import RunVar, current_token

__all__ = ["Hop", "Loop", "failed", "readers", "running", "surely", "until"]

R = TypeVar("R")

_READERS = 8

_threads: RunVar[CapacityLimiter] = RunVar("swoosh_async_threads")
_readers: RunVar[CapacityLimiter] = RunVar("swoosh_async_readers")


def readers() -> CapacityLimiter:
    """This event loop's limiter for threads that read."""
    return _limiter(_readers, _READERS)


def _unbounded() -> CapacityLimiter:
    """This event loop's limiter for all our threads; never the shared default one.

    With the default limiter of 40, forty user threads that call back into a save would wait for each other for ever.
    Ours has no bound of its own: a lane has one thread at a time, and readers have a limiter before this one.
    """
    return _limiter(_threads, math.inf)


def _limiter(var: RunVar[CapacityLimiter], threads: float) -> CapacityLimiter:
    try:
        return var.get()
    except LookupError:
        made = CapacityLimiter(threads)
        var.set(made)
        return made


def running() -> object:
    """What identifies the running event loop: `Loop.native` of it, at less than its price."""
    try:
        loop = asyncio.get_running_loop()
        if asyncio.current_task(loop) is not None:  # trio as a guest of asyncio runs in no task of asyncio's
            return loop
    except RuntimeError:
        pass
    return current_token().native_token


class Loop:
    """The running event loop, as another thread may know it."""

    __slots__ = ("_post", "_trio", "native")

    def __init__(self) -> None:
        native: Any = current_token().native_token
        self.native: object = native
        self._trio = hasattr(native, "run_sync_soon")
        self._post: Callable[[Callable[[], object]], object] = (
            native.run_sync_soon if self._trio else native.call_soon_threadsafe
        )

    def post(self, callback: Callable[[], object]) -> bool:
        """Have the loop call `callback` soon, from any thread; False where the loop is closed."""
        try:
            self._post(callback)
        except RuntimeError:  # asyncio: "Event loop is closed"; trio: RunFinishedError
            return False
        return True

    def comes_again(self, stopped: BaseException) -> bool:
        """Whether that is the cancellation of a scope around the caller, which comes again at the next checkpoint.

        A native asyncio one does not, nor does Ctrl-C: who waits in spite of it raises it again. A native one that
        comes in the same turn as a scope's cannot be told from it: asyncio makes one of the two (anyio issue 1214).
        """
        if not isinstance(stopped, get_cancelled_exc_class()):
            return False
        of_scope = bool(stopped.args) and str(stopped.args[0]).startswith("Cancelled via cancel scope")
        return self._trio or (of_scope and anyio.current_effective_deadline() == -math.inf)


class Hop(Generic[R]):
    """One call, to be run once.

    Args:
        call: The blocking call.
    """

    __slots__ = ("_abandoned", "_call", "_ended", "_event", "_mutex", "started")

    def __init__(self, call: Callable[[], R]) -> None:
        self._call = call
        self._mutex = threading.Lock()
        self._abandoned = False
        self._ended = False
        self._event: tuple[Loop, Event] | None = None
        self.started = False
        """Whether the thread has begun the call; final once `run` has returned or raised."""

    async def run(self, limiter: CapacityLimiter | None = None) -> R:
        """Call it in a worker thread and return what it returns, or raise what it raises.

        A native cancellation before the thread has begun takes the call back; after that it is raised when the thread
        has ended. The cancellation of a scope waits for the next checkpoint.

        Args:
            limiter: What bounds the number of threads, None for no bound; who waits for it can still be cancelled.
        """
        if limiter is None:
            return await self._run()
        await limiter.acquire_on_behalf_of(self)
        try:
            return await self._run()
        finally:
            limiter.release_on_behalf_of(self)

    async def _run(self) -> R:
        with CancelScope(shield=True):
            try:
                return await to_thread.run_sync(self._work, limiter=_unbounded())
            except BaseException as error:
                if not (self._abandon() or isinstance(error, GeneratorExit)):
                    await self._end()
                raise
        raise AssertionError("a shield swallows nothing")

    def _work(self) -> R:
        with self._mutex:
            if self._abandoned:
                raise RuntimeError("taken back")  # nobody waits for this any more
            self.started = True
        try:
            return self._call()
        finally:
            with self._mutex:
                self._ended = True
                event = self._event
            if event is not None:
                event[0].post(event[1].set)

    def _abandon(self) -> bool:
        with self._mutex:
            self._abandoned = not self.started
            return self._abandoned

    async def _end(self) -> None:
        """Wait, under the caller's shield, until the thread has ended, whatever interrupts meanwhile."""
        event = Event()
        with self._mutex:
            if self._ended:
                return
            self._event = (Loop(), event)
        await until(event)


async def failed(error: Exception) -> Any:
    """What a call gives that is wrong already: raised where it is awaited, as any other error of it."""
    raise error


async def surely(call: Callable[[], Awaitable[object]], done: Callable[[], bool]) -> None:
    """Await what `call` gives, again and again until it is done, whatever interrupts meanwhile.

    The first native cancellation or Ctrl-C is raised then; the cancellation of a scope comes at the next checkpoint.

    Args:
        call: What there is to do; not done again once it has raised an error of its own.
        done: Whether it is done.
    """
    interruptions = (get_cancelled_exc_class(), KeyboardInterrupt)
    first: BaseException | None = None
    with CancelScope(shield=True):
        while not done():
            try:
                await call()
            except interruptions as interruption:
                first = first or interruption
    if first is not None:
        raise first


async def until(event: Event) -> BaseException | None:
    """Wait for `event` through any number of native cancellations and Ctrl-Cs, under the caller's shield.

    Returns:
        The first of them, which the caller raises unless it raises an earlier one.
    """
    interruptions = (get_cancelled_exc_class(), KeyboardInterrupt)
    first: BaseException | None = None
    while not event.is_set():
        try:
            await event.wait()
        except interruptions as interruption:
            first = first or interruption
    return first

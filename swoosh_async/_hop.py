"""One blocking call in a worker thread, which no cancellation leaves behind.

`anyio.to_thread.run_sync` keeps a cancel scope away from a running thread, but a *native* asyncio cancellation
(`asyncio.timeout`, `wait_for`, a failing TaskGroup sibling, Ctrl-C, loop shutdown) goes through every shield: the call
returns while the thread writes on. A hop does not return before its thread has ended; then the native cancellation is
raised again, however often it came. The wait is shielded as well, for anyio delivers the cancellation of a scope again
at every turn of the loop to who only catches it.

This file knows threads and event loops, and nothing of what the call does.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import anyio
from anyio import CancelScope, CapacityLimiter, Event, get_cancelled_exc_class, to_thread
from anyio.lowlevel import RunVar, current_token

__all__ = ["Hop", "Loop", "readers", "until", "writers"]

R = TypeVar("R")

_READERS = 8

_writers: RunVar[CapacityLimiter] = RunVar("swoosh_async_writers")
_readers: RunVar[CapacityLimiter] = RunVar("swoosh_async_readers")


def writers() -> CapacityLimiter:
    """This event loop's limiter for threads that write; never the shared default one.

    With the default limiter of 40, forty user threads that call back into a save would wait for each other for ever.
    Ours has no bound of its own: a lane has one thread at a time.
    """
    return _limiter(_writers, math.inf)


def readers() -> CapacityLimiter:
    """This event loop's limiter for threads that read."""
    return _limiter(_readers, _READERS)


def _limiter(var: RunVar[CapacityLimiter], threads: float) -> CapacityLimiter:
    try:
        return var.get()
    except LookupError:
        made = CapacityLimiter(threads)
        var.set(made)
        return made


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

    def is_native(self, cancelled: BaseException) -> bool:
        """Whether it is asyncio's own cancellation, to be raised again; a scope's comes again by itself."""
        if self._trio:
            return False
        of_scope = bool(cancelled.args) and str(cancelled.args[0]).startswith("Cancelled via cancel scope")
        return not (of_scope and anyio.current_effective_deadline() == -math.inf)


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

    async def run(self, limiter: CapacityLimiter) -> R:
        """Call it in a worker thread of that limiter and return what it returns, or raise what it raises.

        A native cancellation before the thread has begun takes the call back; after that it is raised when the thread
        has ended. The cancellation of a scope waits for the next checkpoint.
        """
        cancelled: BaseException | None = None
        with CancelScope(shield=True):
            try:
                return await to_thread.run_sync(self._work, limiter=limiter)
            except get_cancelled_exc_class() as error:
                cancelled = error
            if not self._abandon():
                await self._end()
        raise cast("BaseException", cancelled)  # the scope is never cancelled, so it lets nothing else through

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
        """Wait, under the caller's shield, until the thread has ended, whatever cancels natively meanwhile."""
        event = Event()
        with self._mutex:
            if self._ended:
                return
            self._event = (Loop(), event)
        await until(event)


async def until(event: Event) -> None:
    """Wait through any number of native cancellations; the caller holds a shield, and raises its own again."""
    while not event.is_set():
        try:
            await event.wait()
        except get_cancelled_exc_class():
            continue

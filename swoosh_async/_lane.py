"""The line before a worker thread: callers in call order, served in batches, none returning before its item is final.

- A caller takes its place synchronously, before its first await: call order is the order of service.
- Whoever finds nobody serving leads: one hop takes what waits (up to `batch_items`), serves it, wakes its callers, and
  hands over to the next in line. There is no timer and no task of our own.
- Cancelled before its item was begun: withdrawn, nothing happened, and the line goes on without it. Begun: the caller
  waits for the end, whatever and however often it is cancelled; then a native cancellation is raised again, while under
  an anyio scope or trio the call returns normally and the cancellation comes at the next checkpoint.
- One lane may be used from several event loops and threads. A forked child starts with an empty line of its own.

This file knows nothing of what is served. Waiters of one loop that are likely to be served together share one event,
since an event for each caller is what costs; the first of them has one more, so that a hand-over wakes one and not all.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Generic, TypeVar, cast

from anyio import CancelScope, Event, get_cancelled_exc_class
from anyio.lowlevel import checkpoint_if_cancelled

from ._hop import Hop, Loop, until, writers
from .errors import again

__all__ = ["Lane"]

I = TypeVar("I")  # noqa: E741  an item
R = TypeVar("R")


class _Stage(Enum):
    WAITING = auto()
    BEGUN = auto()
    FINAL = auto()
    WITHDRAWN = auto()


class _Crowd:
    """Waiters of one loop that are woken together, and the first of them, who can be woken alone."""

    __slots__ = ("alone", "event", "loop", "size")

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.alone = Event()
        self.event: Event | None = None
        self.size = 0

    def join(self) -> Event:
        """The event that the next member waits for."""
        self.size += 1
        if self.size == 1:
            return self.alone
        if self.event is None:
            self.event = Event()
        return self.event

    def wake_all(self) -> None:
        self.alone.set()
        if self.event is not None:
            self.event.set()

    def wake_one(self) -> None:
        """Wake the first member; if it was woken before and has left, wake them all: one of them will lead."""
        if self.alone.is_set():
            self.wake_all()
        else:
            self.alone.set()


class _Place(Generic[I, R]):
    """One caller's place in line."""

    __slots__ = ("crowd", "item", "outcome", "stage")

    def __init__(self, item: I) -> None:
        self.item = item
        self.stage = _Stage.WAITING
        self.outcome: R | BaseException | None = None
        self.crowd: _Crowd | None = None


class Lane(Generic[I, R]):
    """A line of callers before one blocking function.

    Args:
        serve: Gets one to `batch_items` items in call order, in a worker thread, never twice at a time; returns for
            each its result, or the exception to raise to its caller. What it raises goes to every caller of the batch.
        batch_items: How many items one call of `serve` may get.
    """

    def __init__(self, serve: Callable[[Sequence[I]], Sequence[R | BaseException]], *, batch_items: int = 1) -> None:
        self._serve = serve
        self._batch_items = batch_items
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._waiting: deque[_Place[I, R]] = deque()
        self._serving = False
        self._open_crowd: _Crowd | None = None

    async def submit(self, item: I) -> R:
        """Wait in line, have `item` served, and return its result.

        Raises:
            BaseException: What `serve` returned for this item, or raised for its batch.
        """
        if self._pid != os.getpid():  # a forked child: the threads and the callers of the line are the parent's
            self._start()
        place = _Place[I, R](item)
        with self._mutex:
            self._waiting.append(place)
        try:
            await checkpoint_if_cancelled()
            while place.stage is _Stage.WAITING:
                if self._claim():
                    await self._lead()
                else:
                    await self._follow(place)
        except BaseException:
            self._withdraw(place)
            raise
        if isinstance(place.outcome, BaseException):
            raise place.outcome
        return cast("R", place.outcome)

    # ------------------------------------------------------------------ on the caller's loop

    def _claim(self) -> bool:
        """Become the one who serves, unless somebody does."""
        with self._mutex:
            lead = not self._serving
            self._serving = True
            return lead

    async def _lead(self) -> None:
        hop = Hop(self._work)
        try:
            await hop.run(writers())
        finally:
            if not hop.started:
                with self._mutex:
                    self._serving = False

    async def _follow(self, place: _Place[I, R]) -> None:
        """Wait until the item is final, or until it may be this caller's turn to lead."""
        loop = Loop()
        with self._mutex:
            if not self._serving or place.stage is not _Stage.WAITING:
                return
            event = self._join(place, loop)
        try:
            await event.wait()
        except get_cancelled_exc_class() as cancelled:
            if self._withdraw(place):
                raise
            with CancelScope(shield=True):
                await until(event)
            if loop.is_native(cancelled):
                raise

    def _join(self, place: _Place[I, R], loop: Loop) -> Event:
        crowd = self._open_crowd
        if crowd is None or crowd.loop.native is not loop.native or crowd.size >= self._batch_items:
            crowd = self._open_crowd = _Crowd(loop)
        place.crowd = crowd
        return crowd.join()

    def _withdraw(self, place: _Place[I, R]) -> bool:
        """Leave the line, if the item has not been begun, and see to it that somebody else leads."""
        with self._mutex:
            if place.stage is not _Stage.WAITING:
                return place.stage is _Stage.WITHDRAWN
            place.stage = _Stage.WITHDRAWN
            if not self._serving:
                self._hand_over()
            return True

    # ------------------------------------------------------------------ in the worker thread

    def _work(self) -> None:
        with self._mutex:
            batch = self._take()
        outcomes: Sequence[R | BaseException] = self._outcomes([place.item for place in batch]) if batch else ()
        with self._mutex:
            for place, outcome in zip(batch, outcomes, strict=True):
                place.outcome = outcome
                place.stage = _Stage.FINAL
            self._serving = False
            for crowd in dict.fromkeys(place.crowd for place in batch):
                if crowd is not None:
                    crowd.loop.post(crowd.wake_all)
            self._hand_over()

    def _take(self) -> list[_Place[I, R]]:
        batch: list[_Place[I, R]] = []
        while self._waiting and len(batch) < self._batch_items:
            place = self._waiting.popleft()
            if place.stage is _Stage.WAITING:
                place.stage = _Stage.BEGUN
                batch.append(place)
        self._open_crowd = None  # who comes from now on is served, and woken, later
        return batch

    def _outcomes(self, items: Sequence[I]) -> Sequence[R | BaseException]:
        try:
            served = self._serve(items)
            if len(served) != len(items):
                raise RuntimeError(f"{len(served)} outcomes for {len(items)} items")
        except BaseException as error:  # noqa: BLE001  to every caller, each with a traceback of its own
            return [error, *(again(error) for _ in items[1:])]
        return served

    def _hand_over(self) -> None:
        """Wake the first who waits, so that it leads; who has not begun to wait yet will see for itself."""
        while self._waiting:
            place = self._waiting[0]
            if place.stage is _Stage.WAITING and (place.crowd is None or place.crowd.loop.post(place.crowd.wake_one)):
                return
            self._waiting.popleft()  # withdrawn, or its loop is closed and nobody will ever ask
            if place.stage is _Stage.WAITING:
                place.stage = _Stage.WITHDRAWN

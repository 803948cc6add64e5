"""The line before a worker thread: callers in call order, served in batches, none returning before its item is final.

- A caller takes its place synchronously, before its first await: call order is the order of service.
- Whoever finds nobody serving leads: one hop takes what waits (up to `batch_items`), serves it, wakes its callers, and
  hands over to the next in line. There is no timer and no task of our own.
- Cancelled before its item was begun: withdrawn, nothing happened, and the line goes on without it. Begun: the caller
  waits for the end, whatever and however often it is cancelled; then a native cancellation is raised again, while under
  an anyio scope or trio the call returns normally and the cancellation comes at the next checkpoint.
- One lane may be used from several event loops and threads. Who is handed the lead needs its loop to turn: one that
  blocks holds up those behind it, on other loops too, until it turns, is closed, or somebody new calls.
- A forked child starts with an empty line of its own.

This file knows nothing of what is served. Waiters of one loop that are likely to be served together share one event,
since an event for each caller is what costs; the first of them has its own, so that a hand-over wakes one and not all.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Generic, TypeVar, cast

from anyio import CancelScope, Event
from anyio.lowlevel import checkpoint_if_cancelled

from ._hop import Hop, Loop, running, until
from .errors import again

__all__ = ["Lane"]

I = TypeVar("I")  # noqa: E741  an item
R = TypeVar("R")

_starting: dict[int, threading.Lock] = {}
"""Per forked process, the lock under which its threads start lanes anew: one of the parent's may be held for ever."""


class _Stage(Enum):
    WAITING = auto()
    BEGUN = auto()
    FINAL = auto()
    WITHDRAWN = auto()


_WAITING, _BEGUN, _FINAL, _WITHDRAWN = _Stage  # looking a member up in its class is slow for what is done so often


class _Crowd:
    """Waiters of one loop that are likely to be served together: a first, and others, who share an event."""

    __slots__ = ("loop", "shared", "size", "weight")

    def __init__(self, loop: Loop, weight: int) -> None:
        self.loop = loop
        self.shared: Event | None = None
        self.size = 1
        self.weight = weight

    def join(self, weight: int) -> Event:
        """The event that the next of the others waits for."""
        self.size += 1
        self.weight += weight
        if self.shared is None or self.shared.is_set():
            self.shared = Event()
        return self.shared


class _Place(Generic[I, R]):
    """One caller's place in line."""

    __slots__ = ("event", "item", "loop", "outcome", "stage")

    def __init__(self, item: I) -> None:
        self.item = item
        self.stage = _WAITING
        self.outcome: R | BaseException | None = None
        self.loop: Loop | None = None
        self.event: Event | None = None

    def await_at(self, loop: Loop, event: Event) -> Event:
        """Say what the caller waits for from now on, and on which loop."""
        self.loop = loop
        self.event = event
        return event

    def wake(self) -> bool:
        """Wake the caller, if it waits; False where its loop is closed, and it will never be there."""
        return self.loop is None or self.event is None or self.loop.post(self.event.set)


class Lane(Generic[I, R]):
    """A line of callers before one blocking function.

    Args:
        serve: Gets one to `batch_items` items in call order, in a worker thread, never twice at a time; returns for
            each its result, or the exception to raise to its caller. What it raises goes to every caller of the batch.
        batch_items: How many items one call of `serve` may get.
        batch_weight: How much these may weigh together, where there are several; whoever is too many waits for the
            next batch.
        weigh: What an item weighs; None for nothing.
    """

    def __init__(
        self,
        serve: Callable[[Sequence[I]], Sequence[R | BaseException]],
        *,
        batch_items: int = 1,
        batch_weight: int = 0,
        weigh: Callable[[I], int] | None = None,
    ) -> None:
        self._serve = serve
        self._batch_items = batch_items
        self._batch_weight = batch_weight
        self._weigh = weigh
        self._start()

    def _start(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[_Place[I, R]] = deque()
        self._withdrawn = 0
        self._leader: Hop[None] | None = None
        self._open_crowd: _Crowd | None = None
        self._pid = os.getpid()

    def _start_in_child(self) -> None:
        """Leave the threads and the callers of the line to the parent; its mutex may be locked for ever."""
        with _starting.setdefault(os.getpid(), threading.Lock()):
            if self._pid != os.getpid():
                self._start()

    async def submit(self, item: I) -> R:
        """Wait in line, have `item` served, and return its result.

        Raises:
            BaseException: What `serve` returned for this item, or raised for its batch.
        """
        if self._pid != os.getpid():
            self._start_in_child()
        place: _Place[I, R] = _Place(item)
        stopped: BaseException | None = None
        try:
            with self._mutex:
                self._waiting.append(place)
                event = self._join(place) if self._leader is not None else None
            if event is None:
                await checkpoint_if_cancelled()
            else:
                await event.wait()
            while place.stage is not _FINAL:
                if not await self._lead(place):
                    await self._follow(place)
        except BaseException as error:
            if self._withdraw(place) or isinstance(error, GeneratorExit):
                raise
            stopped = error
        try:
            if stopped is not None and (interruption := await self._settle(place, stopped)) is not None:
                raise interruption
            if isinstance(place.outcome, BaseException):
                raise place.outcome
            return cast("R", place.outcome)
        finally:
            del place, stopped  # what is raised knows this frame, which must not know it in turn: the item would stay

    # ------------------------------------------------------------------ on the caller's loop

    async def _lead(self, place: _Place[I, R]) -> bool:
        """Serve one batch; False where somebody else serves, or the item has been begun."""
        hop = Hop(self._work)
        try:
            with self._mutex:
                if self._leader is not None or place.stage is not _WAITING:
                    return False
                self._leader = hop
            await hop.run()
        finally:
            if not hop.started:
                with self._mutex:
                    if self._leader is hop:
                        self._leader = None
        return True

    async def _follow(self, place: _Place[I, R]) -> None:
        """Wait until the item is final, or until it may be this caller's turn to lead."""
        with self._mutex:
            if place.stage is _BEGUN:  # by somebody who came in between when this caller had been called to lead
                event = place.await_at(Loop(), Event())
            elif place.stage is _WAITING and self._leader is not None:
                event = self._join(place)
            else:
                return
        await event.wait()

    def _join(self, place: _Place[I, R]) -> Event:
        """The event that a caller waits for who does not lead."""
        crowd = self._open_crowd
        weight = 0 if self._weigh is None else self._weigh(place.item)
        if (
            crowd is None
            or crowd.loop.native is not running()
            or crowd.size >= self._batch_items
            or crowd.weight + weight > self._batch_weight
        ):
            crowd = self._open_crowd = _Crowd(Loop(), weight)
            return place.await_at(crowd.loop, Event())
        place.loop = crowd.loop
        place.event = event = crowd.join(weight)
        return event

    async def _settle(self, place: _Place[I, R], stopped: BaseException) -> BaseException | None:
        """Wait until the item, which has been begun, is final; return what is to be raised in its outcome's place."""
        loop = Loop()
        event = Event()
        later: BaseException | None = None
        with CancelScope(shield=True):
            with self._mutex:
                begun = place.stage is _BEGUN
                if begun:
                    place.await_at(loop, event)
            if begun:
                later = await until(event)
        if isinstance(stopped, Exception) or loop.comes_again(stopped):
            return later
        return stopped

    def _withdraw(self, place: _Place[I, R]) -> bool:
        """Leave the line, if the item has not been begun, and see to it that somebody else leads."""
        with self._mutex:
            if place.stage is not _WAITING:
                return place.stage is _WITHDRAWN
            place.stage = _WITHDRAWN
            self._withdrawn += 1
            if 2 * self._withdrawn > len(self._waiting):  # a line that stands still must not grow by who gives up
                self._waiting = deque(place for place in self._waiting if place.stage is _WAITING)
                self._withdrawn = 0
            if self._leader is None:
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
                place.stage = _FINAL
            self._leader = None
            for place in {place.event: place for place in batch}.values():
                place.wake()
            self._hand_over()

    def _take(self) -> list[_Place[I, R]]:
        batch: list[_Place[I, R]] = []
        weigh, weight = self._weigh, 0
        while self._waiting and len(batch) < self._batch_items:
            place = self._waiting[0]
            if place.stage is _WAITING:
                if weigh is not None:
                    weight += weigh(place.item)
                    if weight > self._batch_weight and batch:
                        break
                place.stage = _BEGUN
                batch.append(place)
            self._waiting.popleft()
        self._open_crowd = None  # who comes from now on is served, and woken, later
        return batch

    def _outcomes(self, items: Sequence[I]) -> Sequence[R | BaseException]:
        try:
            outcomes = list(self._serve(items))
            if len(outcomes) != len(items):
                raise RuntimeError(f"{len(outcomes)} outcomes for {len(items)} items")
        except BaseException as error:  # noqa: BLE001  it goes to every caller, each with a traceback of its own
            return [error, *(again(error) for _ in items[1:])]
        return outcomes

    def _hand_over(self) -> None:
        """Wake the first who waits, so that it leads; who has not begun to wait yet will see for itself."""
        while self._waiting:
            place = self._waiting[0]
            if place.stage is _WAITING and place.wake():
                return
            self._waiting.popleft()  # withdrawn, or its loop is closed and nobody will ever ask
            if place.stage is _WAITING:
                place.stage = _WITHDRAWN

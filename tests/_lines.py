"""Callers of a lane, for its tests: one by one, as a schedule says, and as a storm."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from swoosh_async._lane import Lane

from ._faults import BOUND_S, KEEPS_NATIVE, STORM_S, Clerk, turns, until

__all__ = ["Line", "Schedule", "Storm", "dawdling", "in_threads"]


def in_threads(calls: list[Callable[[], object]]) -> None:
    """Make those calls, each in a thread of its own, and wait for all of them."""
    failed: list[BaseException] = []

    def tell(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001  a thread has nobody else to tell
            failed.append(error)

    threads = [threading.Thread(target=tell, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(STORM_S + BOUND_S)
    assert failed == []
    assert not any(thread.is_alive() for thread in threads), "somebody waits for ever"


class Line:
    """A lane, its clerk, and its callers on one loop.

    Attributes:
        order: The items in the order in which their callers took their places.
        ends: For each item whose call has ended, its result, or what was raised.
        troubles: What must not be, as it was seen when a call ended.
    """

    def __init__(self, clerk: Clerk | None = None, *, batch_items: int = 1) -> None:
        self.clerk = clerk or Clerk()
        self.lane: Lane[Any, Any] = Lane(self.clerk, batch_items=batch_items)
        self.order: list[Any] = []
        self.ends: dict[Any, Any] = {}
        self.troubles: list[str] = self.clerk.trouble
        self.scopes: dict[Any, CancelScope] = {}
        self.tasks: dict[Any, asyncio.Task[None]] = {}

    async def call(self, item: Any) -> None:
        """One caller, in a scope of its own."""
        with self.scopes.setdefault(item, CancelScope()):
            self.order.append(item)
            try:
                self.ends[item] = await self.lane.submit(item)
            except BaseException as error:
                self.ends[item] = error
                if item in self.clerk.begun and item not in self.clerk.ended:
                    self.troubles.append(f"{item} raised {error!r} while it was served")
                raise
            await checkpoint()

    def start(self, *items: Any) -> None:
        """Callers that are asyncio's tasks, and can be cancelled natively."""
        for item in items:
            self.tasks[item] = asyncio.create_task(self.call(item))

    async def takes(self, *items: Any) -> None:
        """Wait until callers have taken their places, with nobody left to lead."""
        await until(lambda: set(items) <= set(self.order))
        await turns(3)

    def waiting(self) -> list[Any]:
        """Those who have called, and not come back."""
        return [item for item in self.order if item not in self.ends]

    async def all_end(self) -> None:
        """Wait for asyncio's tasks, whatever became of them."""
        done, pending = await asyncio.wait(self.tasks.values(), timeout=BOUND_S)
        assert not pending
        for task in done:
            if not task.cancelled():
                task.exception()

    def cancelled(self) -> set[Any]:
        """The items whose calls were cancelled."""
        return {item for item, end in self.ends.items() if isinstance(end, anyio.get_cancelled_exc_class())}

    def wrongs(self, number: int) -> list[str]:
        """What became otherwise than promised of the callers of this loop, whose items begin with that number."""
        mine = [item for item in self.clerk.served if item[0] == number]
        served = set(mine)
        found = list(self.troubles)
        if len(served) < len(mine):
            found.append("something was served twice")
        if mine != [item for item in self.order if item in served]:
            found.append("it was not served in call order")
        for item, end in self.ends.items():
            if not isinstance(end, BaseException) and (item not in served or end != f"done {item}"):
                found.append(f"{item} ended with {end!r}")
        return found


class Schedule:
    """Callers that come, and are cancelled, and a clerk that lets batches go, as somebody has thought it out."""

    def __init__(self, batch_items: int, tasks: TaskGroup, *, natively: bool) -> None:
        self.line = Line(batch_items=batch_items)
        self.asked: set[int] = set()
        self._tasks = tasks
        self._natively = natively
        self._count = 0

    async def submit(self, number: int) -> None:
        """One to three callers come."""
        for _ in range(1 + number % 3):
            if self._natively:
                self.line.start(self._count)
            else:
                self._tasks.start_soon(self.line.call, self._count)
            self._count += 1

    async def settle(self, _: int) -> None:
        """All that can happen by itself happens."""
        await turns(5)
        await until(lambda: self.line.clerk.serving or not self.line.waiting())

    async def let_go(self, number: int) -> None:
        """The batch that is served ends, and mostly the next move is made after that."""
        if self.line.clerk.serving:
            self.line.clerk.let_go()
            await until(lambda: number % 3 == 0 or not self.line.clerk.serving)

    async def cancel_scope(self, number: int) -> None:
        """The scope of one who waits is cancelled."""
        if waiting := self.line.waiting():
            self.line.scopes[waiting[number % len(waiting)]].cancel()

    async def cancel(self, number: int) -> None:
        """One who waits is cancelled natively, where that can be."""
        if (waiting := self.line.waiting()) and self._natively:
            item = waiting[number % len(waiting)]
            if self.line.tasks[item].cancel():
                self.asked.add(item)

    async def end(self) -> None:
        """All end."""
        self.line.clerk.let_all_go()
        if self.line.tasks:
            await self.line.all_end()


class Storm:
    """Callers on one of several loops of one lane, cancelled at any time, in any way.

    Args:
        number: Which of the loops this is.
        lane: The lane that they share.
        clerk: Its clerk.
        natively: Whether its tasks can be cancelled natively.
    """

    def __init__(self, number: int, lane: Lane[Any, Any], clerk: Clerk, *, natively: bool) -> None:
        self.line = Line(clerk)
        self.line.lane = lane
        self.number = number
        self.natively = natively
        self.random = random.Random(random.randrange(1 << 32))
        self.wrongs: list[str] = []

    async def one(self, item: Any) -> None:
        """One call, cancelled by its scope, natively, by both, or not at all."""
        asked = False
        async with anyio.create_task_group() as tasks:
            if self.natively:
                self.line.start(item)
                tasks.start_soon(asyncio.wait, [self.line.tasks[item]])
            else:
                tasks.start_soon(self.line.call, item)
            for _ in range(self.random.choice([0, 1, 1, 2, 5])):
                await turns(self.random.randrange(12))
                if self.natively and self.random.random() < 0.5:
                    asked |= self.line.tasks[item].cancel()
                elif item in self.line.scopes:
                    self.line.scopes[item].cancel()
        self.line.scopes.pop(item, None)
        if self.natively:
            cancelled = self.line.tasks.pop(item).cancelled()
            if cancelled != asked and (cancelled or KEEPS_NATIVE):
                self.wrongs.append(f"{item} was {'' if cancelled else 'not '}cancelled natively")

    async def rage(self, seconds: float) -> None:
        """Go on for some seconds, with twelve callers at a time."""
        end = anyio.current_time() + seconds
        indexes = iter(range(sys.maxsize))

        async def worker() -> None:
            while anyio.current_time() < end:
                await self.one((self.number, next(indexes)))

        async with anyio.create_task_group() as tasks:
            for _ in range(12):
                tasks.start_soon(worker)


def dawdling(item: Any) -> str:
    """The outcome of an item, after some time or none."""
    time.sleep(random.choice([0, 0, 0.0001, 0.001]))
    return f"done {item}"

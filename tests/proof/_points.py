"""When a verb is cancelled: at a phase, with its thread held there, or at a checkpoint of its own task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import trio

from .._faults import poster, watched
from ..test_cancellation import Hold
from ._phases import Phases

__all__ = ["AtCheckpoint", "AtPhase", "Point"]


class Point(Protocol):
    """When a verb is cancelled.

    Attributes:
        deeds: What is done then, one after the other in turns of the loop.
        reached: Whether it has come to that.
        asked: Whether the verb had not returned by then.
        waited: Whether it had not returned for some turns of the loop after that, either: some ways take so long.
    """

    deeds: list[Callable[[], object]]
    reached: bool
    asked: bool
    waited: bool

    async def watch(self, call: Coroutine[Any, Any, object]) -> object:
        """Await the verb; where it never comes to the point, the deeds are done behind it."""
        ...

    def let_go(self) -> None:
        """Let the thread go on that is held."""
        ...


class AtPhase(Hold):
    """At the phase of that number, in its thread, which is held meanwhile."""

    def __init__(self, number: int, phases: Phases) -> None:
        phases.steps.clear()
        super().__init__(phases, str(number))
        self.asked = self.waited = False
        self._phases = phases

    async def watch(self, save: Awaitable[object]) -> object:
        """As it is."""
        try:
            return await super().watch(save)
        finally:
            if not self.reached:
                self._phases.hook = lambda _: None  # what comes from now on is another's
                _do(self.deeds)

    def _turn(self, number: int) -> None:
        if number == 0:
            self.asked = self.waited = not self.returned
        super()._turn(number)


_SOME_TURNS = 20


class AtCheckpoint:
    """At the checkpoint of that number, as its task begins to wait there or, if told so, once it is woken."""

    def __init__(self, number: int, phases: Phases, *, woken: bool) -> None:
        phases.steps.clear()
        self.deeds: list[Callable[[], object]] = []
        self.due: Callable[[], bool] = lambda: True
        self.reached = self.returned = False
        self.asked = self.waited = False
        self._left = number
        self._woken = woken
        self._post = poster()

    async def watch(self, call: Coroutine[Any, Any, object]) -> object:
        """As `Point` has it."""
        try:
            return await watched(call, self._waits)
        finally:
            self.returned = True
            if not self.reached:
                _do(self.deeds)

    def let_go(self) -> None:
        """Nobody is held."""

    def _waits(self, waits_for: Any) -> None:
        if self._left == 0:
            self._reach(waits_for)
        self._left -= 1

    def _reach(self, waits_for: Any) -> None:
        self.reached = True
        self.asked = True
        if not self._woken:
            self._fire(0)
        elif isinstance(waits_for, asyncio.Future):
            waits_for.add_done_callback(lambda _: self._fire(0))  # before the task's own
        elif waits_for is None:
            asyncio.get_running_loop().call_soon(self._fire, 0)
        else:
            trio.lowlevel.add_instrument(_Woken(trio.lowlevel.current_task(), lambda: self._fire(0)))

    def _fire(self, number: int) -> None:
        if number < len(self.deeds):
            self.deeds[number]()
        if number < _SOME_TURNS:
            self._post(lambda: self._fire(number + 1))
        else:
            self.waited = not self.returned


class _Woken(trio.abc.Instrument):
    """Does something once, when a task of trio's has been woken, and before it goes on."""

    def __init__(self, task: trio.lowlevel.Task, deed: Callable[[], object]) -> None:
        self._task = task
        self._deed = deed

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """As trio calls it."""
        if task is self._task:
            trio.lowlevel.remove_instrument(self)
            self._deed()


def _do(deeds: list[Callable[[], object]]) -> None:
    for deed in deeds:
        deed()

"""Calls in threads, each of which ends in time or fails the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from ..errors import LockedError

__all__ = ["BOUND_S", "Task", "at_once", "in_turn", "insist"]

T = TypeVar("T")

BOUND_S = 30.0
"""How long anything may take that is waited for, in seconds."""

_PAUSE_S = 0.001


class Task:
    """A call in a thread of its own, which has begun.

    Args:
        call: What to call.
    """

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001  it is raised where it is waited for
            self._error = error

    def wait(self, timeout_s: float) -> bool:
        """Wait for it, so long at most; whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def end(self) -> BaseException | None:
        """Wait for its end, which must come in time; what it raised."""
        assert self.wait(BOUND_S), f"not done within {BOUND_S:g} s"
        return self._error


def at_once(*calls: Callable[[], object]) -> None:
    """Make all these calls at once; raise what one of them raised."""
    gate = threading.Barrier(len(calls))

    def begin(call: Callable[[], object]) -> None:
        gate.wait(BOUND_S)
        call()

    _join([Task(partial(begin, call)) for call in calls])


def in_turn(*calls: Callable[[], object]) -> None:
    """Make one of these calls after the other, each in another thread; none of which ends before the last is made."""
    turns = [threading.Event() for _ in range(len(calls) + 1)]

    def take(number: int) -> None:
        turns[number].wait(BOUND_S)
        try:
            calls[number]()
        finally:
            turns[number + 1].set()
        turns[-1].wait(BOUND_S)

    tasks = [Task(partial(take, number)) for number in range(len(calls))]
    turns[0].set()
    _join(tasks)


def _join(tasks: Sequence[Task]) -> None:
    errors = [task.end() for task in tasks]
    for error in filter(None, errors):
        raise error


def insist(call: Callable[[], T]) -> T:
    """Make a call again and again while another writer is at it."""
    until = time.monotonic() + BOUND_S
    while True:
        try:
            return call()
        except LockedError:
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE_S)

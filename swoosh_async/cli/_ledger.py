"""What the demo's orchestrator has acknowledged, and whether it is still there after a kill.

This file is pure: messages in, an error where something was lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..models import Task
from ._messages import Acknowledged, Found

__all__ = ["Ledger", "LostStateError"]


class LostStateError(Exception):
    """Acknowledged state is gone.

    Attributes:
        acknowledged: The highest index that was acknowledged.
        found: The index that is there in its place.
        events: How many acknowledged events are lost.
    """

    def __init__(self, what: str, *, acknowledged: int, found: int, events: int) -> None:
        super().__init__(
            f"ACKNOWLEDGED STATE IS LOST: {what}, index {found} is there where {acknowledged} was acknowledged;"
            f" {events:,} acknowledged events are lost"
        )
        self.acknowledged = acknowledged
        self.found = found
        self.events = events


class Ledger:
    """What was acknowledged up to now.

    Attributes:
        index: The highest acknowledged index.
        done: How many tasks are known to have ended.
        events: Each acknowledged event, in the order in which they were told.
    """

    def __init__(self) -> None:
        self.index = 0
        self.done = 0
        self.events: list[Acknowledged] = []
        self._begun = 0

    def found(self, message: Found) -> None:
        """Compare what a started orchestrator found.

        Raises:
            LostStateError: It is older than what was acknowledged.
        """
        if message.index < self.index or message.done < self.done:
            raise self._lost("after a restart", message.index)
        self._begun, self.done = message.index, message.done

    def acknowledged(self, message: Acknowledged) -> None:
        """Take down what is acknowledged now.

        Raises:
            LostStateError: It is no newer than what was there before the orchestrator began.
        """
        if message.index <= self._begun:
            raise self._lost("an event went back", message.index)
        self.index = max(self.index, message.index)
        self.done += message.result is not None
        self.events.append(message)

    def lost(self, index: int, tasks: Mapping[str, Task]) -> int:
        """How many acknowledged events are lost where these tasks are there, as they are after that index."""
        return sum(event.index > index or not _is_in(event, tasks) for event in self.events)

    def _lost(self, what: str, found: int) -> LostStateError:
        events = sum(event.index > found for event in self.events)
        return LostStateError(what, acknowledged=self.index, found=found, events=events)

    def duration_ms(self, share: float) -> float:
        """The duration, in milliseconds, that this share of the dispatches (0 < share ≤ 1) did not exceed."""
        if not self.events:
            return math.nan
        durations_s = sorted(event.duration_s for event in self.events)
        return durations_s[math.ceil(share * len(durations_s)) - 1] * 1e3


def _is_in(event: Acknowledged, tasks: Mapping[str, Task]) -> bool:
    task = tasks.get(event.task)
    return task is not None and task.attempts >= event.attempts and event.result in (None, task.result)

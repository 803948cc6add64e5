"""What the demo's orchestrator has acknowledged, and whether it is still there after a kill.

This file is pure: messages in, an error where something was lost.
"""

from __future__ import annotations

import math

from ._messages import Found, Saved

__all__ = ["Ledger", "LostStateError"]


class LostStateError(Exception):
    """Acknowledged state is gone.

    Attributes:
        acknowledged: The highest index that was acknowledged.
        found: The index that is there in its place.
        saves: How many acknowledged saves are lost.
    """

    def __init__(self, what: str, *, acknowledged: int, found: int, saves: int) -> None:
        super().__init__(
            f"ACKNOWLEDGED STATE IS LOST: {what}, index {found} is there where {acknowledged} was acknowledged;"
            f" {saves} acknowledged saves are lost"
        )
        self.acknowledged = acknowledged
        self.found = found
        self.saves = saves


class Ledger:
    """What was acknowledged up to now.

    Attributes:
        index: The last acknowledged index.
        hlc: Its timestamp.
        done: How many tasks had ended by then.
        durations_s: How long each acknowledged save took, in seconds.
    """

    def __init__(self) -> None:
        self.index = 0
        self.hlc = ""
        self.done = 0
        self.durations_s: list[float] = []
        self._indexes: list[int] = []

    def found(self, message: Found) -> None:
        """Compare what a restarted orchestrator found.

        Raises:
            LostStateError: It is older than what was acknowledged.
        """
        if message.index < self.index or message.done < self.done:
            raise self._lost("after a restart", message.index)

    def saved(self, message: Saved) -> None:
        """Take down what is acknowledged now.

        Raises:
            LostStateError: It is older than what was acknowledged before.
        """
        if message.index < self.index or message.done < self.done or message.hlc < self.hlc:
            raise self._lost("a save went back", message.index)
        self.index, self.hlc, self.done = message.index, message.hlc, message.done
        self.durations_s.append(message.duration_s)
        self._indexes.append(message.index)

    def lost(self, found: int) -> int:
        """How many acknowledged saves are lost where that index is the newest that is there."""
        return sum(index > found for index in self._indexes)

    def _lost(self, what: str, found: int) -> LostStateError:
        return LostStateError(what, acknowledged=self.index, found=found, saves=self.lost(found))

    def duration_ms(self, share: float) -> float:
        """The duration, in milliseconds, that this share of the saves (0 < share ≤ 1) did not exceed."""
        if not self.durations_s:
            return math.nan
        return sorted(self.durations_s)[math.ceil(share * len(self.durations_s)) - 1] * 1e3

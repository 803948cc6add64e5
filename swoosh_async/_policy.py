"""When to take a snapshot: decided here, done elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

__all__ = ["SnapshotPolicy"]


class SnapshotPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a state machine takes a snapshot; whatever of it comes first.

    Attributes:
        every_events: After so many events, ≥ 1; None for no such bound.
        every_s: When events came and the last snapshot is so old, in seconds, > 0; None for no such bound.
        when: Asked after each commit, with the state: whether to take one now; None for never.
        on_close: Whether to take one when the machine is closed, if events came since the last.
        keep: How many snapshots are kept, ≥ 1; once so many are whole, the journal is kept as far back as the oldest of
            them reaches, and before that, all of it is.

    Raises:
        ValueError: A bound is out of range.
    """

    every_events: int | None = 10_000
    every_s: float | None = None
    when: Callable[[Any], bool] | None = None
    on_close: bool = True
    keep: int = 3

    def __post_init__(self) -> None:
        if self.every_events is not None and self.every_events < 1:
            raise ValueError("every_events must be >= 1, or None")
        if self.every_s is not None and not self.every_s > 0:
            raise ValueError("every_s must be > 0, or None")
        if self.keep < 1:
            raise ValueError("keep must be >= 1")

    def due(self, events: int, age_s: float, state: Any) -> bool:
        """Whether to take one now.

        Args:
            events: How many events came since the last.
            age_s: How old the last is, in seconds.
            state: The state as it is.
        """
        return self.counted(events, age_s) or (events > 0 and self.when is not None and self.when(state))

    def counted(self, events: int, age_s: float) -> bool:
        """Whether to take one now whatever the state is; as `due`."""
        return events > 0 and (
            (self.every_events is not None and events >= self.every_events)
            or (self.every_s is not None and age_s >= self.every_s)
        )

"""Hybrid logical time: wall-clock readings that never go back and that respect cause and effect.

After Kulkarni, Demirbas, Madappa, Avva and Leone, "Logical Physical Clocks and Consistent Snapshots in Globally
Distributed Databases" (2014), https://cse.buffalo.edu/tech-reports/2014-04.pdf. This file knows no disk and no task;
the source of physical time is handed in.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

import msgspec

from .errors import SwooshError

__all__ = ["MAX_DRIFT_S", "ClockDriftError", "HybridLogicalClock", "Timestamp"]

MAX_DRIFT_S = 60.0
"""How far ahead of the physical clock a remote timestamp may be, in seconds, unless told otherwise."""

_WALL_END = 1 << 64
_LOGICAL_END = 1 << 32
_NODE_END = 1 << 64
_TEXT = re.compile(r"([0-9a-f]{16})-([0-9a-f]{8})-([0-9a-f]{16})")


class ClockDriftError(SwooshError):
    """A remote timestamp is further ahead of the physical clock than is allowed; the clock has not moved.

    Attributes:
        drift_s: How far ahead it is, in seconds.
        max_drift_s: How far ahead it may be, in seconds.
    """

    def __init__(self, *, drift_s: float, max_drift_s: float) -> None:
        super().__init__(
            f"remote timestamp is {drift_s:.3f} s ahead, {max_drift_s:g} s allowed;"
            " set the clocks, or raise max_drift_s"
        )
        self.drift_s = drift_s
        self.max_drift_s = max_drift_s


class Timestamp(msgspec.Struct, frozen=True, order=True):
    """A point in hybrid logical time; totally ordered by wall time, then logical counter, then node.

    Its text is fixed in width (42 characters) and sorts as a string in the same order:
    ``<wall, 16 hex>-<logical, 8 hex>-<node, 16 hex>``.

    Attributes:
        wall_ns: Nanoseconds since the Unix epoch, 0 ≤ wall_ns < 2**64.
        logical: Events within the same wall time, 0 ≤ logical < 2**32.
        node: The id of the node that gave it, 0 ≤ node < 2**64.

    Raises:
        ValueError: A part is out of range.
    """

    wall_ns: int
    logical: int = 0
    node: int = 0

    def __post_init__(self) -> None:
        if type(self.wall_ns) is type(self.logical) is type(self.node) is int and (
            0 <= self.wall_ns < _WALL_END and 0 <= self.logical < _LOGICAL_END and 0 <= self.node < _NODE_END
        ):
            return
        for name, value, end in (
            ("wall_ns", self.wall_ns, _WALL_END),
            ("logical", self.logical, _LOGICAL_END),
            ("node", self.node, _NODE_END),
        ):
            if type(value) is not int or not 0 <= value < end:
                raise ValueError(f"Timestamp.{name} must be an int with 0 <= {name} < 2**{end.bit_length() - 1}")

    def __str__(self) -> str:
        return f"{self.wall_ns:016x}-{self.logical:08x}-{self.node:016x}"

    @classmethod
    def parse(cls, text: str) -> Timestamp:
        """The timestamp that `text` stands for; the exact inverse of ``str()``.

        Raises:
            ValueError: The text is anything else than what ``str()`` gives.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError("not a timestamp: expected <16 hex>-<8 hex>-<16 hex>, in lower case")
        wall, logical, node = match.groups()
        return cls(int(wall, 16), int(logical, 16), int(node, 16))

    def plus(self, steps: int) -> Timestamp:
        """The timestamp `steps` ≥ 0 logical steps later; what overflows the counter carries into the wall time.

        Raises:
            ValueError: The wall time would overflow, or `steps` is negative.
        """
        if steps < 0:
            raise ValueError("steps must be >= 0")
        if self.logical + steps < _LOGICAL_END:
            return Timestamp(self.wall_ns, self.logical + steps, self.node)
        carry, logical = divmod(self.logical + steps, _LOGICAL_END)
        return Timestamp(self.wall_ns + carry, logical, self.node)


class HybridLogicalClock:
    """A clock whose timestamps increase strictly, even when the physical clock is set back; safe from several threads.

    Args:
        node: This node's id, 0 ≤ node < 2**64; give each process that exchanges timestamps its own.
        last: The last timestamp that was persisted (or its text): the clock continues behind it. None where there is
            none, or "", as in a snapshot before the first event.
        max_drift_s: How far ahead of the physical clock `observe` lets a remote timestamp be, in seconds; None for no
            bound. A remote timestamp in the past is never refused.
        time_ns: The source of physical time, in nanoseconds since the Unix epoch.

    Raises:
        ValueError: `node` is out of range, `last` is not a timestamp, or `max_drift_s` is negative.
    """

    def __init__(
        self,
        node: int = 0,
        *,
        last: Timestamp | str | None = None,
        max_drift_s: float | None = MAX_DRIFT_S,
        time_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        if max_drift_s is not None and not max_drift_s >= 0:
            raise ValueError("max_drift_s must be >= 0, or None for no bound")
        before = Timestamp.parse(last) if isinstance(last, str) and last else last
        self._last = Timestamp(before.wall_ns, before.logical, node) if before else Timestamp(0, 0, node)
        self._max_drift_s = max_drift_s
        self._time_ns = time_ns
        self._mutex = threading.Lock()

    @property
    def last(self) -> Timestamp:
        """The latest timestamp that was given or observed, under this clock's node; persist it to go on behind it."""
        return self._last

    def now(self) -> Timestamp:
        """A timestamp later than all that this clock has given or observed; for a local event, or one that is sent."""
        with self._mutex:
            self._last = self._after(self._last)
            return self._last

    def observe(self, remote: Timestamp) -> Timestamp:
        """A timestamp later than `remote` and than all that this clock has given; for an event that is received.

        Raises:
            ClockDriftError: `remote` is more than `max_drift_s` ahead of the physical clock; the clock has not moved.
        """
        with self._mutex:
            drift_s = (remote.wall_ns - self._time_ns()) / 1e9
            if self._max_drift_s is not None and drift_s > self._max_drift_s:
                raise ClockDriftError(drift_s=drift_s, max_drift_s=self._max_drift_s)
            seen = Timestamp(remote.wall_ns, remote.logical, self._last.node)
            self._last = self._after(max(self._last, seen))
            return self._last

    def take(self, count: int) -> Timestamp:
        """The first of `count` ≥ 1 timestamps that are given at once: it, and each `plus` one step, up to the last.

        Raises:
            ValueError: `count` is below 1.
        """
        if count < 1:
            raise ValueError("count must be >= 1")
        with self._mutex:
            first = self._after(self._last)
            self._last = first.plus(count - 1)
            return first

    def resume(self, last: Timestamp) -> None:
        """Go on behind a timestamp that was persisted, however far ahead of the physical clock it is.

        For one's own past, as a journal keeps it; what others send is for `observe`.
        """
        with self._mutex:
            self._last = max(self._last, Timestamp(last.wall_ns, last.logical, self._last.node))

    def _after(self, seen: Timestamp) -> Timestamp:
        """The first timestamp later than `seen` that the physical clock allows."""
        wall_ns = self._time_ns()
        return Timestamp(wall_ns, 0, seen.node) if wall_ns > seen.wall_ns else seen.plus(1)

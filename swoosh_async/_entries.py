"""What a journal gives: an entry to who reads, a receipt to who appends.

Both know their time by their batch's: it is worked out when it is asked for, for most are read without being asked.
Pure.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from .clock import Timestamp

__all__ = ["Entry", "Origin", "Receipt"]

E = TypeVar("E")
T = TypeVar("T")


class Origin(msgspec.Struct, frozen=True):
    """A batch's first entry: its place, and its time."""

    index: int
    hlc: Timestamp


class _Stamped(msgspec.Struct, frozen=True, gc=False, eq=False):
    """A place in the journal, and a time: as many logical steps behind the batch's first as it is places behind it."""

    index: int
    _origin: Origin

    @property
    def hlc(self) -> Timestamp:
        """Its hybrid logical timestamp; later than that of every event before it."""
        return self._origin.hlc.plus(self.index - self._origin.index)

    def _key(self) -> tuple[Any, ...]:
        return self.index, self.hlc

    def __eq__(self, other: object) -> bool:
        return (
            self._key() == other._key() if isinstance(other, _Stamped) and type(other) is type(self) else NotImplemented
        )

    def __hash__(self) -> int:
        return hash(self._key())


class Receipt(_Stamped, frozen=True, gc=False, eq=False):
    """An event is durable.

    Attributes:
        index: Its place in the journal: 1 for the first.
        hlc: Its hybrid logical timestamp; later than that of every event before it.
    """

    @classmethod
    def of(cls, index: int, hlc: Timestamp) -> Receipt:
        """The receipt with that place and time; for tests, since a journal makes them itself."""
        return cls(index, Origin(index, hlc))

    def __repr__(self) -> str:
        return f"Receipt(index={self.index!r}, hlc={self.hlc!r})"


class Entry(_Stamped, Generic[E], frozen=True, gc=False, eq=False):
    """An event, and its place and time.

    Attributes:
        index: Its place in the journal: 1 for the first.
        hlc: Its hybrid logical timestamp; later than that of every entry before it.
        event: The event.
    """

    event: E

    @classmethod
    def of(cls, index: int, hlc: Timestamp, event: T) -> Entry[T]:
        """The entry with that place, time and event; for tests, since a journal makes them itself."""
        return Entry(index, Origin(index, hlc), event)

    def _key(self) -> tuple[Any, ...]:
        return self.index, self.hlc, self.event

    def __repr__(self) -> str:
        return f"Entry(index={self.index!r}, hlc={self.hlc!r}, event={self.event!r})"

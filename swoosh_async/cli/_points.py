"""Points in a journal, as people give them: an index, a time, or the latest. This file is pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec

from ..clock import Timestamp

__all__ = ["LATEST", "Point", "point_of", "time_of"]

LATEST = "latest"

_NS = 1_000_000_000
_DIGITS = 20  # of the highest index
_EXAMPLES = "a time is such as 2026-01-31T12:00:00.5Z, or an entry's hlc, as `journal --json` has it"
_RFC_3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


class Point(msgspec.Struct, frozen=True):
    """A point in a journal: after an entry, or after the last one up to a time; with neither, at the end.

    Attributes:
        index: The entry's index.
        hlc: The time.
    """

    index: int | None = None
    hlc: Timestamp | None = None


def point_of(text: str) -> Point:
    """The point that a text stands for.

    Raises:
        ValueError: It is none.
    """
    if text == LATEST:
        return Point()
    if text.isascii() and text.isdecimal() and len(text) <= _DIGITS:
        return Point(index=int(text))
    try:
        return Point(hlc=time_of(text))
    except ValueError:
        raise ValueError(f"no index, no time, and not '{LATEST}'; {_EXAMPLES}") from None


def time_of(text: str) -> Timestamp:
    """The time that a text stands for: a timestamp's own text, or RFC 3339, of which it is the last in that nanosecond.

    Raises:
        ValueError: It is neither, or before 1970.
    """
    try:
        return Timestamp.parse(text)
    except ValueError:
        pass
    match = _RFC_3339.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        day, clock, fraction, zone = match.groups()
        wall = datetime.fromisoformat(f"{day}T{clock}{zone.upper()}").astimezone(UTC)
        since = wall - datetime(1970, 1, 1, tzinfo=UTC)
        wall_ns = (since.days * 86_400 + since.seconds) * _NS + int((fraction or "0").ljust(9, "0"))
        return Timestamp(wall_ns, (1 << 32) - 1, (1 << 64) - 1)
    except (ValueError, OverflowError):
        raise ValueError(f"not a time; {_EXAMPLES}") from None

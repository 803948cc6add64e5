"""The events of the golden journal, and the journal that they make: always the same bytes."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Callable, Mapping
from decimal import Decimal
from itertools import count
from pathlib import Path
from unittest.mock import patch
from uuid import UUID

import msgspec

from swoosh_async import FileBackend, Journal, Timestamp
from swoosh_async.clock import HybridLogicalClock

__all__ = ["EVENTS", "Event", "Noted", "Queued", "made", "write"]


class Kind(enum.Enum):
    """As users have them."""

    BUILD = "build"
    TEST = "test"


class Queued(msgspec.Struct, frozen=True, tag=True):
    """A task with something of each kind."""

    id: UUID
    kind: Kind
    at: dt.datetime
    cost: Decimal
    labels: Mapping[str, str] = {}
    after: tuple[UUID, ...] = ()


class Noted(msgspec.Struct, frozen=True, tag=True):
    """A note with bytes, of any length."""

    text: str
    data: bytes = b""


Event = Queued | Noted

_ID = UUID("12345678-1234-5678-1234-567812345678")
_AT = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)

EVENTS: list[list[Queued | Noted]] = [
    [Queued(_ID, Kind.BUILD, _AT, Decimal("1.50"), {"zone": "a", "app": "shop"})],
    [Noted("één", b"\0\1\2"), Queued(_ID, Kind.TEST, _AT, Decimal(0), after=(_ID,)), Noted("")],
    [Noted("zeros", bytes(1500))],  # sectors that are zero by nature
    [Noted("x" * 3000)],  # more than a segment has room for
    [Noted("last", b"\xff" * 70)],
]
"""What is appended together, batch by batch; the third is let go of in the end."""

_SEGMENT_BYTES = 2048


def made(step: Callable[[], int]) -> HybridLogicalClock:
    """A clock that gives the same times always, one of them set back."""
    walls = [1_764_000_000_000_000_000, 1_764_000_001_000_000_000, 1_764_000_000_500_000_000]
    return HybridLogicalClock(7, time_ns=lambda: walls[step() % 3])


async def write(directory: Path) -> list[Timestamp]:
    """Make the golden journal, with nothing left to chance, and return each event's time."""
    tokens, steps = count(1), count()
    times: list[Timestamp] = []

    def token(size: int | None = None) -> bytes:
        return next(tokens).to_bytes(size or 8, "big")

    with (
        patch("secrets.token_bytes", token),
        patch("secrets.token_hex", lambda size=None: token(size).hex()),
        patch("socket.gethostname", lambda: "golden"),
        patch("os.getpid", lambda: 4711),
    ):
        backend = FileBackend(directory, segment_bytes=_SEGMENT_BYTES)
        async with Journal(backend, Event, clock=made(lambda: next(steps))) as journal:
            for batch in EVENTS:
                times += [receipt.hlc for receipt in await journal.append_many(batch)]
            await journal.truncate_before(2)
    return times

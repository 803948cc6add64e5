"""Whether a stored snapshot is what was written: every byte of it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..codec import SnapshotCodec
from ..errors import CorruptSnapshotError, SwooshError
from ._input import decoded, opened, reason_of

__all__ = ["Verdict", "verdict_of"]


class Verdict(msgspec.Struct, frozen=True):
    """What came of it.

    Attributes:
        status: Whether it is what was written; ``unreadable`` where that could not be found out.
        detail: Why, or what else there is to know, for people.
    """

    status: Literal["ok", "damaged", "unreadable"]
    detail: str = ""


def verdict_of(path: str) -> Verdict:
    """Check every byte of the snapshot at that path, as `opened` takes it."""
    try:
        with opened(path) as source:
            facts = SnapshotCodec[Any](Any).verify(source)
            if not facts.checksum:
                decoded(source)
    except CorruptSnapshotError as error:
        return Verdict("damaged", error.reason)
    except (SwooshError, OSError, ModuleNotFoundError) as error:
        return Verdict("unreadable", reason_of(path, error))
    return Verdict("ok", "" if facts.checksum else "it decodes, but carries no checksum to verify it by")

"""What a backend's directory can be taken back to: its kept snapshots, its journal's bounds, and the states between."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..backends.base import Source
from ..clock import Timestamp
from ..codec import Facts
from ..errors import CorruptSnapshotError, SnapshotNotFoundError, SwooshError
from ._backend import backend_in, time_of
from ._input import any_schema, decoded, opened
from ._inspect import utc
from ._terminal import printable, shortened

__all__ = ["History", "Kept", "Span", "as_json", "as_table", "history_of", "span_of"]

_DIGITS = 12
_TEXT_CHARS = 80


class Kept(msgspec.Struct, frozen=True):
    """A snapshot that is kept.

    Attributes:
        name: What the backend calls it.
        facts: What it says of itself; None where even that cannot be read.
        wrong: Why it cannot be used; "" where it is whole.
    """

    name: str
    facts: Facts | None
    wrong: str = ""


class Span(msgspec.Struct, frozen=True):
    """The states that can be had.

    Attributes:
        first: The first of those that follow one another up to the last.
        last: The last; before the first where there are none.
        others: Those before, of which only a snapshot is kept, in order.
    """

    first: int
    last: int
    others: tuple[int, ...] = ()


class History(msgspec.Struct, frozen=True):
    """What is kept.

    Attributes:
        kept: The snapshots, newest first.
        first: The index of the first entry that is kept, or of the next one where none is.
        last: The index of the last entry; 0 where there is none.
        first_hlc: The first entry's time; None where none is kept.
        last_hlc: The last entry's.
    """

    kept: tuple[Kept, ...]
    first: int
    last: int
    first_hlc: Timestamp | None = None
    last_hlc: Timestamp | None = None

    @property
    def span(self) -> Span:
        """Which states can be had."""
        whole = (kept.facts.cursor.index for kept in self.kept if kept.facts is not None and not kept.wrong)
        return span_of(whole, self.first, self.last)


def span_of(snapshots: Iterable[int], first: int, last: int) -> Span:
    """Which states can be had of whole snapshots with these indexes, and entries from the one index to the other."""
    held = sorted(set(snapshots))
    bases = [index for index in ([0, *held] if first == 1 else held) if first - 1 <= index <= last]
    begin = min(bases, default=last + 1)
    return Span(begin, last, tuple(index for index in held if not begin <= index <= last))


def history_of(directory: str) -> History:
    """What that directory can be taken back to; every byte of the snapshots is checked, and the journal's bounds are.

    Raises:
        SwooshError: It is no backend's directory, or it cannot be read.
    """
    backend = backend_in(directory)
    kept = tuple(found for name in backend.names() if (found := _kept(directory, name)) is not None)
    bounds = backend.bounds()
    if bounds.first > bounds.last:
        return History(kept, bounds.first, bounds.last)
    return History(kept, bounds.first, bounds.last, time_of(backend, bounds.first), time_of(backend, bounds.last))


def _kept(directory: str, name: str) -> Kept | None:
    """One of the snapshots; None where it was pruned meanwhile."""
    try:
        with opened(directory, name) as source:
            try:
                facts = any_schema.verify(source)
                if not facts.checksum:
                    decoded(source)
            except CorruptSnapshotError as error:
                return Kept(name, _head(source), error.reason)
    except SnapshotNotFoundError:
        return None
    except SwooshError as error:
        return Kept(name, None, str(error))
    return Kept(name, facts)


def _head(damaged: Source) -> Facts | None:
    """What a damaged snapshot says of itself, which may be damaged as well."""
    try:
        return any_schema.facts(damaged)
    except SwooshError:
        return None


# ---------------------------------------------------------------------- for people


def as_table(history: History) -> Group:
    """The snapshots as a table, and lines on the journal and on what can be gone back to."""
    table = Table("index", "time (UTC)", "size", "format", "checksum", "whole")
    for kept in history.kept:
        table.add_row(*_row(kept))
    if history.first <= history.last:
        begun, ended = (_utc(hlc) for hlc in (history.first_hlc, history.last_hlc))
        journal = f"entries {history.first} to {history.last}, of {begun} to {ended}"
    else:
        journal = f"no entries kept, the last was {history.last}" if history.last else "no entries"
    facts = (("journal", journal), ("can be had", "the states after index " + _told(history.span)))
    lines = (Text.assemble((f"{fact:12}", "dim"), value) for fact, value in facts)
    return Group(*([table] if history.kept else [Text("no snapshots")]), *lines)


def _row(kept: Kept) -> tuple[Text, ...]:
    whole = Text("yes", "green") if not kept.wrong else Text(printable(kept.wrong), "bold red")
    facts = kept.facts
    if facts is None:
        return (Text(printable(kept.name)), *[Text("?")] * 4, whole)
    form = f"{facts.format}, {facts.compression}" if facts.compression else facts.format
    digits = facts.checksum.partition(":")[2]
    return (
        Text(str(facts.cursor.index)),
        Text(_wall(facts.cursor.hlc)),
        Text(f"{facts.size_bytes:,}"),
        Text(form),
        Text(shortened(digits, _DIGITS) or "none"),
        whole,
    )


def _told(span: Span) -> str:
    pieces = [str(index) for index in span.others]
    if span.first <= span.last:
        pieces.append(f"{span.first} to {span.last}" if span.first < span.last else f"{span.last}")
    return ", ".join(pieces) or "none"


def _wall(hlc: str) -> str:
    try:
        return utc(Timestamp.parse(hlc))
    except ValueError:
        return shortened(printable(hlc), _TEXT_CHARS) or "none"


def _utc(hlc: Timestamp | None) -> str:
    return "an entry kept no more" if hlc is None else utc(hlc)


# ---------------------------------------------------------------------- for programs


def as_json(history: History) -> dict[str, Any]:
    """The same as plain data."""
    span = history.span
    return {
        "snapshots": [_plain(kept) for kept in history.kept],
        "journal": {
            "first": history.first,
            "last": history.last,
            "first_hlc": None if history.first_hlc is None else str(history.first_hlc),
            "last_hlc": None if history.last_hlc is None else str(history.last_hlc),
        },
        "states": {"first": span.first, "last": span.last, "others": list(span.others)},
    }


def _plain(kept: Kept) -> dict[str, Any]:
    facts = kept.facts
    named = {"name": kept.name, "whole": not kept.wrong, "wrong": kept.wrong or None}
    if facts is None:
        return named
    return named | {
        "index": facts.cursor.index,
        "hlc": facts.cursor.hlc,
        "size_bytes": facts.size_bytes,
        "format": facts.format,
        "compression": facts.compression,
        "checksum": facts.checksum,
        "schema_version": facts.schema_version,
    }

"""A journal's entries one after the other, as lines of a table or of JSON: those that are there, and those that come.

A page is read, shown and forgotten before the next. Nothing is claimed, and nothing changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import msgspec
from rich.cells import cell_len, set_cell_size
from rich.console import Console

from .._entries import Entry
from .._pages import Pages
from ..backends.file import FileBackend
from ..clock import Timestamp
from ..codec import EventCodec
from ..errors import CorruptJournalError, SwooshError, TruncatedError
from ._events import compact, json_line, plain
from ._inspect import utc
from ._outlet import Outlet
from ._reading import ReadingDisk

__all__ = ["EntryLines", "EntryTable", "JournalNotFoundError", "Range", "show"]

POLL_S = 0.1
"""How often to look for what a writer has appended."""

_PIPE_CHARS = 160
_LEAST_CHARS = 20
_INDEX_CHARS = 8
_TIME_CHARS = 36


class JournalNotFoundError(SwooshError):
    """There is no journal."""


class Range(msgspec.Struct, frozen=True):
    """Which entries.

    Attributes:
        first: The index of the first; None for the first that is kept.
        last: The index of the last; None for the last that there is.
        follow: Whether to wait for those that are not there yet.
    """

    first: int | None = None
    last: int | None = None
    follow: bool = False


class Row(msgspec.Struct, frozen=True):
    """An entry, its event as plain data."""

    index: int
    hlc: Timestamp
    event: Any


class EntryTable:
    """Entries as lines of a table, each within the terminal's width.

    Args:
        outlet: Where they go.
        chars: How many characters of an event are shown; None for as many as there is room for.
    """

    def __init__(self, outlet: Outlet, chars: int | None = None) -> None:
        console = Console()
        room = console.width - _INDEX_CHARS - _TIME_CHARS - 4
        self._outlet = outlet
        self._cells = max(room, _LEAST_CHARS) if console.is_terminal and chars is None else None
        self._chars = chars or self._cells or _PIPE_CHARS

    def begin(self) -> None:
        """The table's head."""
        self._outlet.write_text(f"{'index':>{_INDEX_CHARS}}  {'time (UTC) +logical':{_TIME_CHARS}}  event\n")

    def show(self, rows: list[Row]) -> None:
        """A line for each."""
        self._outlet.write_text("".join(map(self._line, rows)))

    def _line(self, row: Row) -> str:
        event = compact(row.event, self._chars)
        if self._cells is not None and cell_len(event) > self._cells:
            event = set_cell_size(event, self._cells - 1).rstrip() + "…"
        return f"{row.index:>{_INDEX_CHARS}}  {_time(row.hlc):{_TIME_CHARS}}  {event}\n"


class EntryLines:
    """Entries as lines of JSON.

    Args:
        outlet: Where they go.
    """

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    def begin(self) -> None:
        """Nothing stands before them."""

    def show(self, rows: list[Row]) -> None:
        """A line for each."""
        self._outlet.write(b"".join(json_line(row.index, row.hlc, row.event) for row in rows))


def show(directory: str, wanted: Range, view: EntryTable | EntryLines, outlet: Outlet) -> None:
    """Show the entries of the journal in that directory.

    Raises:
        JournalNotFoundError: There is none.
        BrokenPipeError: Nobody reads the outlet any more.
        SwooshError: As `Journal.read`.
    """
    if not os.path.isdir(directory):
        raise JournalNotFoundError("no such directory" if not os.path.exists(directory) else "not a directory")
    reader = _Entries(directory, wanted.first)
    view.begin()
    while True:
        for rows in reader.there(wanted.last):
            view.show(rows)
        if not wanted.follow or (wanted.last is not None and reader.after >= wanted.last):
            return
        outlet.idle(POLL_S)


class _Entries:
    """The entries of a journal from some index on, as far as they are there.

    Args:
        directory: The backend's directory.
        first: The index of the first; None for the first that is kept.
    """

    def __init__(self, directory: str, first: int | None) -> None:
        self._backend = FileBackend(directory, disk=ReadingDisk())
        self._pages = Pages(self._backend, EventCodec[msgspec.Raw](msgspec.Raw))
        bounds = self._backend.bounds()
        if bounds.last == 0 and not os.path.lexists(os.path.join(directory, "journal")):
            raise JournalNotFoundError("a directory without a FileBackend's journal")
        if first is not None and first < bounds.first:
            raise TruncatedError(self._backend.where, after=first - 1, first=bounds.first)
        self.after = (bounds.first if first is None else first) - 1
        """The index behind which to go on."""

    def there(self, until: int | None) -> Iterator[list[Row]]:
        """Those that are there now and were not given before, up to `until`, some at a time.

        Raises:
            TruncatedError: The first of them is kept no more.
            SwooshError: As `Journal.read`.
        """
        bounds = self._backend.bounds()
        last = bounds.last if until is None else min(until, bounds.last)
        while self.after < last:
            batches = self._pages.read(self.after, last)
            for entries in self._pages.entries(batches, self.after, last):
                yield list(map(self._row, entries))
                self.after = entries[-1].index

    def _row(self, entry: Entry[msgspec.Raw]) -> Row:
        try:
            return Row(entry.index, entry.hlc, plain(entry.event))
        except ValueError:
            reason = "a text in the event is not UTF-8"
            raise CorruptJournalError(self._backend.where, reason, offset=None, index=entry.index) from None


def _time(hlc: Timestamp) -> str:
    return f"{utc(hlc)} +{hlc.logical}"

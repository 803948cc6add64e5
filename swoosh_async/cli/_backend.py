"""A backend's directory: what it holds, and what its journal says of itself, as people read it."""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec
from rich.console import Group
from rich.text import Text
from rich.tree import Tree

from .._pages import Pages
from ..backends.base import Bounds
from ..backends.file import FileBackend, Generations, Record, SegmentFacts, Survey, TornCopy
from ..clock import Timestamp
from ..codec import EventCodec
from ..errors import SwooshError, TruncatedError
from ._inspect import wall_time
from ._reading import ReadingDisk
from ._terminal import printable, shortened

__all__ = ["Holdings", "NoBackendError", "backend_in", "holdings", "journal_report", "surveyed", "time_of"]

_HOST_CHARS = 80


class NoBackendError(SwooshError):
    """There is no backend."""


class Holdings(msgspec.Struct, frozen=True):
    """What a directory holds.

    Attributes:
        snapshot: Whether there is a snapshot, or a generation of it.
        journal: Whether there is a journal, or a part of it.
    """

    snapshot: bool = False
    journal: bool = False


def holdings(path: str) -> Holdings:
    """What stands at that path, if it is a backend's directory; nothing of anything else.

    Raises:
        BackendError: It cannot be listed.
    """
    if not os.path.isdir(path):
        return Holdings()
    snapshots = Generations(os.path.join(path, "snapshot"), disk=ReadingDisk())
    survey = surveyed(path)
    return Holdings(bool(snapshots.names()), os.path.lexists(survey.path) or bool(survey.bases()))


def backend_in(directory: str) -> FileBackend:
    """The backend in that directory, for those who only look.

    Raises:
        NoBackendError: There is none.
        BackendError: It cannot be listed.
    """
    if not os.path.isdir(directory):
        raise NoBackendError("not a directory" if os.path.exists(directory) else "no such directory")
    held = holdings(directory)
    if not (held.snapshot or held.journal):
        raise NoBackendError("a directory without a FileBackend's snapshots and journal")
    return FileBackend(directory, disk=ReadingDisk())


def surveyed(path: str) -> Survey:
    """The journal in that directory."""
    return Survey(path, disk=ReadingDisk())


def journal_report(path: str, most: int) -> Group:
    """The journal in that directory: its name, its facts a line each, and its files as trees, so many of each.

    Raises:
        CorruptJournalError: A part of it that was looked at is not what was written.
        FormatVersionError: A newer version of this package wrote it.
        BackendError: It cannot be read.
    """
    survey, backend = surveyed(path), FileBackend(path, disk=ReadingDisk())
    record = survey.record()
    bounds = backend.bounds()
    bases = survey.bases()
    found = [survey.segment(base) for base in bases]
    segments = [segment for segment in found if segment is not None]
    facts = (Text.assemble((f"{fact:16}", "dim"), value) for fact, value in _facts(record, bounds, segments, backend))
    title = Text(printable(os.path.join(path, "journal")), "bold")
    trees = [_segments_tree(segments, most), *([_torn_tree(torn, most)] if (torn := survey.torn()) else [])]
    return Group(title, *facts, *trees)


def _facts(
    record: Record | None, bounds: Bounds, segments: list[SegmentFacts], backend: FileBackend
) -> list[tuple[str, str]]:
    kept = bounds.first <= bounds.last
    host = "" if record is None else shortened(printable(record.host), _HOST_CHARS)
    facts = [
        ("first index", str(bounds.first) if kept else "none"),
        ("last index", str(bounds.last) if bounds.last else "none"),
        ("entries", f"{bounds.last - bounds.first + 1:,}"),
        ("first entry", _told_time(backend, bounds.first) if kept else "none"),
        ("last entry", _told_time(backend, bounds.last) if kept else "none"),
        ("epoch", "none" if record is None else str(record.epoch)),
        ("claimed by", "nobody" if record is None else f"process {record.pid} on {host}"),
        ("space", f"{sum(segment.size_bytes for segment in segments):,} bytes"),
    ]
    torn_bytes = segments[-1].torn_bytes if segments else 0
    return [*facts, ("unfinished", f"{torn_bytes:,} bytes at the end")] if torn_bytes else facts


def time_of(backend: FileBackend, index: int) -> Timestamp | None:
    """When the entry with that index was appended; None where it was truncated meanwhile; raises as `Pages.time_of`."""
    try:
        return Pages(backend, EventCodec[msgspec.Raw](msgspec.Raw)).time_of(index)
    except TruncatedError:
        return None


def _told_time(backend: FileBackend, index: int) -> str:
    time = time_of(backend, index)
    return "kept no more" if time is None else wall_time(str(time))


def _segments_tree(segments: list[SegmentFacts], most: int) -> Tree:
    """The newest segments, in order."""
    tree = Tree(Text.assemble(("segments", "cyan"), (f" [{len(segments):,}]", "dim")))
    if len(segments) > most:
        tree.add(Text(f"… and {len(segments) - most:,} older", "dim"))
    for segment in segments[-most:]:
        held = f"{segment.base} to {segment.last}" if segment.last >= segment.base else "no entry yet"
        used = "" if segment.end is None else f", {segment.end:,} used"
        name = os.path.basename(segment.path)
        tree.add(Text.assemble((name, "cyan"), f": {held}, {segment.size_bytes:,} bytes{used}, epoch {segment.epoch}"))
    return tree


def _torn_tree(torn: Sequence[TornCopy], most: int) -> Tree:
    """What was cut off and set aside."""
    tree = Tree(Text.assemble(("set aside", "cyan"), (f" [{len(torn):,}]", "dim")))
    for copy in torn[:most]:
        tree.add(Text.assemble((printable(copy.name), "cyan"), f": {copy.size_bytes:,} bytes"))
    if len(torn) > most:
        tree.add(Text(f"… and {len(torn) - most:,} more", "dim"))
    return tree

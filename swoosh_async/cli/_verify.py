"""Whether what is stored is what was written: every byte of snapshots, and every batch of a journal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

from ..backends.file import Located, Survey
from ..codec import EventCodec, EventsDamagedError, SnapshotCodec
from ..errors import CorruptJournalError, CorruptSnapshotError, SwooshError
from ._backend import holdings, surveyed
from ._events import Opaque, plain
from ._input import decoded, older_in, opened, reason_of
from ._terminal import bar, printable

__all__ = ["Verdict", "verdict_of", "verdicts"]


class Verdict(msgspec.Struct, frozen=True):
    """What came of it.

    Attributes:
        status: Whether it is what was written; ``unreadable`` where that could not be found out.
        detail: Why, or what else there is to know, for people.
    """

    status: Literal["ok", "damaged", "unreadable"]
    detail: str = ""


def verdicts(path: str) -> Iterator[tuple[str, Verdict]]:
    """Check what stands at that path, and tell of each thing that was checked by its own path.

    That is one snapshot, unless it is a backend's directory: then it is the latest snapshot and its older generations,
    and the journal's record and segments.
    """
    try:
        held = holdings(path)
        older = older_in(path) if held.snapshot else ()
    except (SwooshError, OSError) as error:
        yield path, Verdict("unreadable", str(error))
        return
    if not (held.snapshot or held.journal):
        yield path, verdict_of(path)
        return
    if held.snapshot:
        yield os.path.join(path, "snapshot"), verdict_of(path)
    for name in older:
        yield os.path.join(path, name), verdict_of(path, name)
    if held.journal:
        yield from _journal(path)


def verdict_of(path: str, name: str | None = None) -> Verdict:
    """Check every byte of the snapshot at that path, as `opened` takes it; or of the generation of that name."""

    def check() -> str:
        with opened(path, name) as source:
            facts = SnapshotCodec[Any](Any).verify(source)
            if not facts.checksum:
                decoded(source)
        return "" if facts.checksum else "it decodes, but carries no checksum to verify it by"

    return _judged(path, check)


def _judged(path: str, check: Callable[[], str]) -> Verdict:
    try:
        return Verdict("ok", check())
    except CorruptSnapshotError as error:
        return Verdict("damaged", error.reason)
    except CorruptJournalError as error:
        place = "" if error.offset is None else f"at byte {error.offset}, "
        return Verdict("damaged", f"{place}index {error.index}: {error.reason}")
    except (SwooshError, OSError, ModuleNotFoundError) as error:
        return Verdict("unreadable", reason_of(path, error))


# ---------------------------------------------------------------------- the journal


def _journal(directory: str) -> Iterator[tuple[str, Verdict]]:
    survey = surveyed(directory)
    path = os.path.join(directory, "journal")
    yield path, _judged(path, lambda: _layout(survey))
    try:
        survey.record()
    except SwooshError:  # it is told; and without it nothing is known of whose the segments are
        return
    for base in survey.bases():
        segment = f"{path}.{base:020d}"
        yield segment, _judged(segment, lambda: _segment(survey, base, segment))  # noqa: B023


def _layout(survey: Survey) -> str:
    """Check the record, and that the segments are there, and say what the record says.

    Raises:
        CorruptJournalError: It is not what was written, or one of them is missing.
    """
    survey.check_layout()
    record = survey.record()
    return "" if record is None else f"epoch {record.epoch}, kept from index {record.first} on"


def _segment(survey: Survey, base: int, path: str) -> str:
    """Check every batch of a segment, and say how many there are.

    Raises:
        CorruptJournalError: One of them is not what was written.
    """
    batches = opaque = 0
    last = base - 1
    with bar(f"reading {printable(path)}", survey.size_of(base), unit="bytes") as report:
        for located in survey.batches(base):
            opaque += _opaque(located)
            batches += 1
            last = located.batch.last
            report(located.end)
    facts = survey.segment(base)
    if facts is None:
        return "kept no more"
    told = [f"entries {base} to {last} in {batches:,} {'batch' if batches == 1 else 'batches'}"] if batches else []
    if opaque:
        told.append(f"{opaque:,} of them are whole, but only their own type can hold them")
    if facts.torn_bytes:
        told.append(f"{facts.torn_bytes:,} bytes of an unfinished batch behind them, to be set aside by the next claim")
    return "; ".join(told) or "no entry yet"


_codec: EventCodec[msgspec.Raw] = EventCodec(msgspec.Raw)


def _opaque(located: Located) -> int:
    """Decode the events of a batch, and count those that only their own type can hold.

    Raises:
        CorruptJournalError: They are no events.
    """
    batch, opaque, done = located.batch, 0, 0
    try:
        _codec.stamp(batch.data, batch.count)
        for part in _codec.parts(batch.data):
            for event in _codec.events(part):
                opaque += isinstance(_plain(event, done), Opaque)
                done += 1
        if done != batch.count:
            raise EventsDamagedError(f"the batch has {done} events where there should be {batch.count}", skip=0)
    except EventsDamagedError as error:
        index = batch.first + error.skip
        raise CorruptJournalError(located.path, error.reason, offset=located.offset, index=index) from None
    return opaque


def _plain(event: msgspec.Raw, skip: int) -> Any:
    try:
        return plain(event)
    except ValueError:
        raise EventsDamagedError("a text in the event is not UTF-8", skip=skip) from None

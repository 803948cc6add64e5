"""What a service does with a journal: claims it, appends, truncates, closes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio

from swoosh_async import FileBackend, Journal

from ._subject import Found, Subject, Trial, Work

__all__ = ["JOURNAL", "LONG", "append", "append_on", "appended", "backend", "claim", "look_at_journal", "torn"]

SEGMENT_BYTES = 4096

LONG = "x" * 900
"""A part of an event of which a segment takes three."""

TEN = tuple(f"{number}{LONG}" for number in range(10))


def backend(home: Path) -> FileBackend:
    return FileBackend(home, segment_bytes=SEGMENT_BYTES, lock_timeout_s=0)


def _journal(home: Path, **options: Any) -> Journal[str]:
    return Journal(backend(home), str, **options)


def appended(*events: str) -> Callable[[Path], None]:
    def prepare(home: Path) -> None:
        async def main() -> None:
            async with _journal(home) as journal:
                for event in events:
                    await journal.append(event)

        anyio.run(main)

    return prepare


def torn(home: Path) -> None:
    """A journal whose last batch a crash has left without its last sector; nobody was told of it."""
    appended("1", "2")(home)
    segment = next(home.glob("journal.0*"))
    before = segment.read_bytes().rstrip(b"\0")
    appended("torn" + LONG)(home)
    data = bytearray(segment.read_bytes())
    end = len(bytes(data).rstrip(b"\0"))
    assert end - len(before) > 512
    cut = (end - 1) // 512 * 512
    data[cut:end] = bytes(end - cut)
    segment.write_bytes(data)


async def _events(journal: Journal[str]) -> Found:
    async with aclosing(journal.read()) as entries:
        return [entry.event for entry in [entry async for entry in entries]]


async def look_at_journal(home: Path) -> Found:
    """The events that whoever only reads finds."""
    async with _journal(home, read_only=True) as journal:
        return [event.removesuffix(LONG) for event in await _events(journal)]


async def append_on(home: Path, found: Found) -> None:
    """The next writer: it finds the same, and appends."""
    async with _journal(home) as journal:
        assert [event.removesuffix(LONG) for event in await _events(journal)] == found
        await journal.append("z")
    assert await look_at_journal(home) == [*found, "z"]


async def claim(trial: Trial) -> None:
    journal = _journal(trial.home)
    with trial.armed():
        await journal.__aenter__()
    if trial.ended != "done":
        journal = _journal(trial.home)
        await journal.__aenter__()
    await journal.append("new")
    await journal.aclose()


def append(event: str, *, earlier: Sequence[str] = ()) -> Work:
    async def work(trial: Trial) -> None:
        journal = _journal(trial.home)
        await journal.__aenter__()
        for before in earlier:
            await journal.append(before)
        last = journal.last_index
        with trial.armed():
            receipt = await journal.append(event)
            trial.must(receipt.index == last + 1 == journal.last_index, "the receipt tells another index")
        if trial.ended == "unknown":
            await trial.poisoned(lambda: journal.append(event))
            await journal.aclose()
            journal = _journal(trial.home)
            await journal.__aenter__()
        if trial.ended != "done" and journal.last_index == last:
            await journal.append(event)
        trial.must((await _events(journal))[-1] == event, "what was appended is not read")
        await journal.aclose()

    return work


async def _truncate(trial: Trial) -> None:
    journal = _journal(trial.home)
    await journal.__aenter__()
    with trial.armed():
        await journal.truncate_before(6)
    if trial.ended == "unknown":
        await trial.poisoned(lambda: journal.truncate_before(6))
        await journal.aclose()
        journal = _journal(trial.home)
        await journal.__aenter__()
    await journal.truncate_before(6)
    await journal.append("new")
    await journal.aclose()


async def _close(trial: Trial) -> None:
    journal = _journal(trial.home)
    await journal.__aenter__()
    for number in range(4):
        await journal.append(f"{number}{LONG}")  # so full that the next segment is prepared
    with trial.armed():
        await journal.aclose()
    async with _journal(trial.home) as journal:
        await journal.append("new")


def _of(prepare: Callable[[Path], None], work: Work, before: Found, after: Found, *new: Found) -> Subject:
    return Subject(prepare, work, look_at_journal, append_on, before, after, new)


JOURNAL: dict[str, Subject] = {
    "claim, the first": _of(lambda _: None, claim, [], ["new"]),
    "claim": _of(appended("1", "2"), claim, ["1", "2"], ["1", "2", "new"]),
    "claim over a torn tail": _of(torn, claim, ["1", "2"], ["1", "2", "new"]),
    "append, the first": _of(lambda _: None, append("1"), [], ["1"]),
    "append": _of(appended("1"), append("3", earlier=["2"]), ["1", "2"], ["1", "2", "3"]),
    "append, preparing": _of(appended(*TEN[:2]), append(TEN[2]), list("01"), list("012")),
    "append, rotating": _of(appended(*TEN[:3]), append(TEN[3]), list("012"), list("0123")),
    "truncate": _of(appended(*TEN), _truncate, list("0123456789"), [*"56789", "new"], list("56789")),
    "close": _of(lambda _: None, _close, list("0123"), [*"0123", "new"]),
}
"""What a service does with a journal, by name."""

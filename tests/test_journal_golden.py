"""A journal that a released version wrote is read for ever, and the same events give the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from swoosh_async import Entry, FileBackend, Journal

from .golden.events import EVENTS, Event, write

GOLDEN = Path(__file__).parent / "golden" / "journal1"
FIRST = 2  # what the golden journal has let go of ends here

pytestmark = pytest.mark.anyio


def files(directory: Path) -> dict[str, bytes]:
    """What stands in a directory, but for the lock."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != ".journal.lock"}


async def test_written_again(tmp_path: Path) -> None:
    """The same events, the same clock and the same random numbers give the golden bytes, in the golden files."""
    await write(tmp_path / "journal")
    assert files(tmp_path / "journal") == files(GOLDEN)


async def test_read(tmp_path: Path) -> None:
    """Each entry that the golden journal keeps is read, by a reader and by a writer; the segments stay as they are."""
    times = await write(tmp_path / "again")
    events = [event for batch in EVENTS for event in batch]
    expected = [Entry.of(i, hlc, event) for i, (hlc, event) in enumerate(zip(times, events, strict=True), 1)]
    shutil.copytree(GOLDEN, tmp_path / "journal")
    for read_only in (True, False):
        async with Journal(FileBackend(tmp_path / "journal"), Event, read_only=read_only) as journal:
            assert [entry async for entry in journal.read()] == expected[FIRST - 1 :]
            assert (journal.first_index, journal.last_index) == (FIRST, len(events))
            assert journal.torn_bytes == 0
        segments = {name: data for name, data in files(tmp_path / "journal").items() if "." in name}
        assert segments == {name: data for name, data in files(GOLDEN).items() if "." in name}


async def test_goes_on(tmp_path: Path) -> None:
    """A golden journal is appended to: the next index, a later time, the next epoch."""
    shutil.copytree(GOLDEN, tmp_path / "journal")
    async with Journal(FileBackend(tmp_path / "journal"), Event) as journal:
        before = [entry async for entry in journal.read()]
        receipt = await journal.append(EVENTS[0][0])
        assert (receipt.index, journal.epoch) == (before[-1].index + 1, 2)
        assert receipt.hlc > before[-1].hlc

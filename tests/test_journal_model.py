"""Whatever is done to a journal, in whatever order: it is a list whose end grows and whose beginning is forgotten."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from swoosh_async import ConflictError, Entry, HybridLogicalClock, Journal, Receipt, Timestamp, TruncatedError

from ._faults import BOUND_S
from ._journals import InFiles, InMemory, Place, read

pytest.importorskip("fcntl", reason="a file backend needs flock")

T = TypeVar("T")

SECTOR = 512
ALIGN = 64
HEADER = 512
"""Of a segment; where its first batch stands."""

texts = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
sizes = st.sampled_from([0, 1, 10, 100, 700, 3000])


def newest_segment(path: Path) -> Path | None:
    """The segment that is written, if there is one."""
    return max((name for name in path.glob("journal.0*")), default=None)


def end_of(segment: Path | None) -> int:
    """Where the next batch belongs in a segment: behind the last byte that is not zero, for no event ends with one."""
    if segment is None:
        return HEADER
    written = len(segment.read_bytes().rstrip(b"\0"))
    return max(HEADER, -(-written // ALIGN) * ALIGN)


class AJournal(RuleBasedStateMachine):
    """A journal beside a list of what it is to hold."""

    def __init__(self) -> None:
        super().__init__()
        self.place = self.make()
        self.runner = asyncio.Runner()
        self.wall_ns = 1000
        self.there: list[tuple[str, Timestamp]] = []
        self.first = 1
        self.lives = 0
        self.journal = self.open()

    def make(self) -> Place:
        """Where it is."""
        return InMemory()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Run that, in time."""
        return self.runner.run(asyncio.wait_for(call, BOUND_S))

    def open(self) -> Journal[str]:
        """Open it."""
        clock = HybridLogicalClock(time_ns=lambda: self.wall_ns)
        journal = Journal(self.place.backend(), str, clock=clock, batch_events=3, batch_bytes=2000)
        self.run(journal.__aenter__())
        self.lives += 1
        assert journal.epoch == self.lives
        assert journal.last_index == len(self.there)
        return journal

    def took(self, events: list[str], receipts: list[Receipt]) -> None:
        """These were appended."""
        assert [receipt.index for receipt in receipts] == list(
            range(len(self.there) + 1, len(self.there) + 1 + len(events))
        )
        for event, receipt in zip(events, receipts, strict=True):
            assert not self.there or receipt.hlc > self.there[-1][1]
            self.there.append((event, receipt.hlc))

    def teardown(self) -> None:
        """Close it, and see that it is all there."""
        self.run(self.journal.aclose())
        self.journal = self.open()
        self.is_the_list()
        self.run(self.journal.aclose())
        self.runner.close()

    # ------------------------------------------------------------------ what is done

    @rule(text=texts, size=sizes, expected=st.booleans())
    def append(self, text: str, size: int, expected: bool) -> None:
        """Append one event, with what is expected or without."""
        event = text + "x" * size
        call = self.journal.append(event, expected_index=len(self.there) if expected else None)
        self.took([event], [self.run(call)])

    @rule(events=st.lists(texts, max_size=5), times=st.sampled_from([1, 1, 1, 70]))
    def append_many(self, events: list[str], times: int) -> None:
        """Append some or many together."""
        self.took(events * times, self.run(self.journal.append_many(events * times)))

    @rule(many=st.lists(st.lists(texts, max_size=3), max_size=8), size=sizes)
    def append_at_once(self, many: list[list[str]], size: int) -> None:
        """Append from several tasks at once."""
        lists = [[event + "y" * size for event in events] for events in many]

        async def all_of_them() -> list[list[Receipt]]:
            return await asyncio.gather(*(self.journal.append_many(events) for events in lists))

        self.took([event for events in lists for event in events], sum(self.run(all_of_them()), []))  # noqa: RUF017

    @rule(off=st.sampled_from([-2, -1, 1, 2]))
    def conflict(self, off: int) -> None:
        """Expect another index than there is."""
        with pytest.raises(ConflictError) as caught:
            self.run(self.journal.append("never", expected_index=len(self.there) + off))
        assert caught.value.found == len(self.there)

    @rule(back=st.integers(0, 12))
    def truncate(self, back: int) -> None:
        """Forget all but so many, or nothing, where that many are not kept."""
        index = max(1, len(self.there) + 1 - back)
        self.run(self.journal.truncate_before(index))
        self.first = max(self.first, index)

    @rule(by=st.integers(-50, 50))
    def clock_moves(self, by: int) -> None:
        """The physical clock goes on, or is set back."""
        self.wall_ns = max(0, self.wall_ns + by)

    @rule()
    def reopen(self) -> None:
        """Close it and open it again."""
        self.run(self.journal.aclose())
        self.journal = self.open()

    # ------------------------------------------------------------------ what is seen

    def expected(self, after: int, until: int) -> list[Entry[str]]:
        """The entries in that range."""
        there = enumerate(self.there[after:until], after + 1)
        return [Entry.of(index, hlc, event) for index, (event, hlc) in there]

    @rule(after=st.integers(0, 400), length=st.integers(0, 50) | st.none(), read_only=st.booleans())
    def reads(self, after: int, length: int | None, read_only: bool) -> None:
        """Read a range, also by a reader of its own."""
        after = after % (len(self.there) + 3)
        until = None if length is None else after + length
        last = len(self.there) if until is None else min(until, len(self.there))

        async def found() -> list[Entry[str]]:
            if not read_only:
                return await read(self.journal, after, until)
            async with Journal(self.place.backend(), str, read_only=True) as reader:
                return await read(reader, after, until)

        if 0 < after < min(self.first - 1, last):
            with pytest.raises(TruncatedError) as caught:
                self.run(found())
            assert (caught.value.after, caught.value.first) == (after, self.first)
        else:
            assert self.run(found()) == self.expected(max(after, self.first - 1), last)

    @invariant()
    def bounds(self) -> None:
        """It knows what it holds."""
        kept = self.first <= len(self.there)
        assert (self.journal.first_index, self.journal.last_index) == (self.first if kept else 0, len(self.there))

    def is_the_list(self) -> None:
        """It holds what it is to hold."""
        assert self.run(read(self.journal)) == self.expected(self.first - 1, len(self.there))


class AJournalInFiles(AJournal):
    """The same in files, which outlive a kill, and have torn tails."""

    place: InFiles

    def make(self) -> Place:
        """In a directory."""
        self.home = Path(tempfile.mkdtemp())
        self.copies = 0
        return InFiles(self.home / "0")

    def teardown(self) -> None:
        """As it is, and the files are removed."""
        try:
            super().teardown()
        finally:
            shutil.rmtree(self.home)

    def copied(self) -> Path:
        """A copy of the files as they are now: what another process would find if this one were killed now."""
        self.copies += 1
        copy = self.home / f"{self.copies}"
        shutil.copytree(self.place.path, copy)
        return copy

    def goes_on_with(self, copy: Path) -> None:
        """This journal has been killed, and another opens what it left."""
        self.run(self.journal.aclose())
        shutil.rmtree(self.place.path)
        self.place = InFiles(copy)
        self.journal = self.open()

    @initialize()
    def begins(self) -> None:
        """There is something to begin with."""
        self.append("a", 0, False)

    @rule()
    def killed(self) -> None:
        """It is killed between two calls."""
        self.goes_on_with(self.copied())
        assert self.journal.torn_bytes == 0

    @rule(size=st.integers(1, 6000), seed=st.integers(0, 1000), share=st.sampled_from([0.1, 0.5, 0.9]))
    def torn(self, size: int, seed: int, share: float) -> None:
        """It is killed in the midst of an append, and some sectors of the batch have not arrived."""
        chance = random.Random(seed)
        before = newest_segment(self.place.path)
        begin = end_of(before)
        self.run(self.journal.append("z" * size))
        copy = self.copied()
        segment = newest_segment(copy)
        assert segment is not None
        if before is None or segment.name != before.name:
            begin = HEADER
        end = end_of(segment)
        sectors = range(begin // SECTOR, -(-end // SECTOR))
        lost = chance.sample(sectors, max(1, int(share * len(sectors))))
        data = bytearray(segment.read_bytes())
        for sector in lost:
            start, stop = max(begin, sector * SECTOR), min(end, (sector + 1) * SECTOR)
            data[start:stop] = bytes(stop - start)
        segment.write_bytes(data)
        self.goes_on_with(copy)
        assert (self.journal.torn_bytes > 0) == any(data[begin:end])
        assert len(list(copy.glob("journal.torn-*"))) >= (self.journal.torn_bytes > 0)

    @rule(skip=st.integers(0, 3), length=st.integers(1, 2000), seed=st.integers(0, 1000))
    def garbage(self, skip: int, length: int, seed: int) -> None:
        """It is killed in the midst of an append, and all but the sector with the batch's header has arrived."""
        copy = self.copied()
        segment = newest_segment(copy)
        assert segment is not None
        begin = (end_of(segment) // SECTOR + 1 + skip) * SECTOR
        data = bytearray(segment.read_bytes())
        left = random.Random(seed).randbytes(length).replace(b"\0", b"\1")[: max(0, len(data) - begin)]
        data[begin : begin + len(left)] = left
        segment.write_bytes(data)
        self.goes_on_with(copy)
        assert (self.journal.torn_bytes > 0) == bool(left)

    @precondition(lambda self: self.lives < 40)
    @rule(cut=st.booleans())
    def reopened_in_vain(self, cut: bool) -> None:
        """It is opened and closed again, with nothing done."""
        for _ in range(1 + cut):
            self.reopen()


AJournal.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, suppress_health_check=list(HealthCheck), deadline=None
)
AJournalInFiles.TestCase.settings = settings(
    max_examples=30, stateful_step_count=20, suppress_health_check=list(HealthCheck), deadline=None
)


class TestInMemory(AJournal.TestCase):  # type: ignore[name-defined,misc]  made by Hypothesis
    """In memory."""


class TestInFiles(AJournalInFiles.TestCase):  # type: ignore[name-defined,misc]
    """In files."""

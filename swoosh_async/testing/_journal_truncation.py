"""The part of the suite for homes of a journal that truncates it, and that reads it beside a writer."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest

from ..backends.base import Batch, Bounds, Index, JournalBackend
from ..errors import ConflictError
from ._batches import Writer, batch, everything, holds
from ._place import Opened, Suite
from ._threads import Task, at_once

__all__ = ["Truncation"]


class Truncation(Suite[JournalBackend]):
    """How a journal ends at its beginning, and what those see who read it meanwhile."""

    # ------------------------------------------------------------------ truncate

    @pytest.mark.parametrize("index", range(1, 12))
    def test_entries_before_an_index_go(self, index: int, opened: Opened[JournalBackend]) -> None:
        """`truncate_before`: the bounds change at once and exactly; a batch of which an entry is kept is read whole."""
        writer = Writer(opened.open())
        writer.append(1, 3, 1, 2, 3)
        writer.backend.truncate_before(Index(index))
        last = writer.known[-1].last
        assert last == 10
        for journal in (writer.backend, opened.open()):
            holds([journal], writer.known, first=index)
            for after in range(last + 1):
                expected = [one for one in writer.known if one.last > after and one.last >= index]
                assert everything(journal, after) == expected
        writer.append(2)
        holds([writer.backend, opened.open()], writer.known, first=index)
        known = writer.release()
        holds([writer.backend, opened.open()], known, first=index)
        again = Writer(opened.open(), known)
        assert again.claim.bounds == Bounds(Index(index), known[-1].last)
        assert again.claim.tail == known[-1]

    def test_truncated_step_by_step(self, opened: Opened[JournalBackend]) -> None:
        """`truncate_before`: entries go from the oldest on, and none comes back where it is asked for less."""
        writer = Writer(opened.open())
        first = 1
        for index in (1, 2, 2, 1, 5, 4, 9, 3, 13):
            writer.append(2)
            writer.backend.truncate_before(Index(index))
            first = max(first, index)
            holds([writer.backend, opened.open()], writer.known, first=first)

    def test_truncated_to_nothing(self, opened: Opened[JournalBackend]) -> None:
        """`truncate_before`: where nothing is kept, the last index and the last batch stay for the next claim."""
        writer = Writer(opened.open())
        writer.append(1, 3)
        known = writer.known
        for _ in range(3):
            last = known[-1].last
            writer.backend.truncate_before(Index(last + 1))
            holds([writer.backend, opened.open()], [], first=last + 1, last=last)
            writer.release()
            writer = Writer(opened.open(), known)
            assert writer.claim.bounds == Bounds(Index(last + 1), last)
            assert writer.claim.tail == known[-1]
            with pytest.raises(ConflictError):
                writer.backend.append(batch(1, writer.claim.epoch))
            writer.append(2)
            known = writer.known
            holds([writer.backend, opened.open()], known[-1:], first=last + 1)

    @pytest.mark.parametrize("index", [1, 2, 43, 1_000_000_007, 1 << 40])
    def test_a_journal_begins_anywhere(self, index: int, opened: Opened[JournalBackend]) -> None:
        """`truncate_before`: where nothing was appended ever, the first entry has that index."""
        writer = Writer(opened.open())
        writer.begin_at(index)
        holds([writer.backend, opened.open()], [], first=index, last=index - 1)
        writer.release()
        writer = Writer(opened.open())
        assert (writer.claim.bounds, writer.claim.tail) == (Bounds(Index(index), Index(index - 1)), None)
        for wrong in {1, index - 1, index + 1} - {0, index}:
            with pytest.raises(ConflictError):
                writer.backend.append(batch(wrong, writer.claim.epoch))
        writer.append(2, 1)
        holds([writer.backend, opened.open()], writer.known, first=index)
        holds([opened.open()], writer.release(), first=index)
        again = Writer(opened.open())
        assert again.claim.bounds == Bounds(Index(index), Index(index + 2))
        assert again.claim.tail == writer.known[-1]

    # ------------------------------------------------------------------ beside a writer

    def test_readers_go_along(self, opened: Opened[JournalBackend]) -> None:
        """`read`, concurrency: beside a writer, readers see every batch, whole and in order, and nothing else."""
        writer = Writer(opened.open())
        written = [batch(1 + 2 * number, 1, count=2) for number in range(150)]
        done = threading.Event()

        def write() -> None:
            try:
                for one in written:
                    writer.add(one)
            finally:
                done.set()

        def read() -> None:
            journal = opened.place.open()
            found: list[Batch] = []
            ended = False
            while not ended:
                ended = done.is_set()  # then all that there ever will be is there to be read
                last = journal.bounds().last
                found += everything(journal, found[-1].last if found else 0, max_bytes=1000)
                assert (found[-1].last if found else 0) >= last, "not all that was within the bounds"
                assert found == written[: len(found)]
            assert found == written

        at_once(write, read, read)

    def test_readers_beside_a_truncation(self, opened: Opened[JournalBackend]) -> None:
        """`truncate_before`, concurrency: a reader finds what it looks for, or that it is kept no more."""
        writer = Writer(opened.open())
        done = threading.Event()

        def write() -> None:
            try:
                for number in range(1, 120):
                    writer.append(3)
                    if number % 4 == 0:
                        writer.backend.truncate_before(Index(3 * number - 7))
            finally:
                done.set()

        def read() -> None:
            journal = opened.place.open()
            after = 0
            while not done.is_set():
                last = journal.bounds().last
                page = journal.read(Index(after), 500)
                first = journal.bounds().first
                if page and page[0].first > after + 1:
                    assert first > after + 1, "entries are left out that are kept"
                if not page:
                    assert last <= after or first > last, "entries are not there that are kept"
                assert all(two.first == one.last + 1 for one, two in pairwise(page))
                after = page[-1].last if page else 0

        task = Task(read)
        write()
        assert task.end() is None
        holds([opened.open()], writer.release(), first=3 * 116 - 7)

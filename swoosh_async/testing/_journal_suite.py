"""What every home of a journal must do, as tests: the clauses of `JournalBackend`, one after the other.

Nothing here knows an event, an event loop or a file.
"""

from __future__ import annotations

import math
from functools import partial

import pytest
from msgspec.structs import replace

from ..backends.base import EPOCHS_END, Batch, Bounds, Epoch, Index, JournalBackend
from ..errors import (
    ClosedError,
    ConflictError,
    FencedError,
    LimitExceededError,
    LockedError,
)
from ._batches import Writer, batch, everything, holds
from ._journal_survival import Survival
from ._journal_truncation import Truncation
from ._place import Opened
from ._threads import at_once, in_turn

__all__ = ["JournalBackendSuite"]

_SIZES = (0, 1, 150, 400, 1 << 20)
"""How much is read at a time, in bytes."""


class JournalBackendSuite(Truncation, Survival):
    """The tests that each `JournalBackend` must pass. Subclass it, and give it a fixture `place`."""

    @pytest.fixture
    def journal(self, opened: Opened[JournalBackend]) -> JournalBackend:
        """A journal at the place."""
        return opened.open()

    # ------------------------------------------------------------------ what is there

    def test_a_place_without_a_journal(self, opened: Opened[JournalBackend]) -> None:
        """`bounds` and `read`: there is nothing, and looking needs no claim."""
        journal = opened.open()
        assert journal.where
        assert 0 <= journal.patience_s < math.inf
        for after in (0, 1, 1000):
            assert list(journal.read(Index(after), 100)) == []
        holds([journal, opened.open()], [])
        journal.release()
        holds([journal, opened.open()], [])

    def test_the_first_claim(self, opened: Opened[JournalBackend]) -> None:
        """`claim`: the first epoch is 1, nothing is within the bounds, and there is no last batch."""
        journal = opened.open()
        claim = journal.claim()
        assert (claim.epoch, claim.bounds, claim.tail, claim.torn_bytes) == (1, Bounds(Index(1), Index(0)), None, 0)
        holds([journal, opened.open()], [])

    @pytest.mark.parametrize("max_bytes", _SIZES)
    def test_what_was_appended_is_read(self, max_bytes: int, opened: Opened[JournalBackend]) -> None:
        """`read`: each batch is as it was appended, from any index on, in pages of any size, for everybody."""
        writer = Writer(opened.open())
        writer.append(1, 2, 1, 3, 1, 1, 100, 1)
        last = writer.known[-1].last
        for journal in (writer.backend, opened.open()):
            for after in (*range(12), last - 2, last - 1, last, last + 1, last + 1000):
                expected = [one for one in writer.known if one.last > after]
                page = list(journal.read(Index(after), max_bytes))
                assert page == expected[: len(page)]
                assert bool(page) == bool(expected)
                assert everything(journal, after, max_bytes=max_bytes) == expected

    def test_the_bounds_are_those_of_now(self, opened: Opened[JournalBackend]) -> None:
        """`bounds`: on return of an append, everybody sees it."""
        writer, reader = Writer(opened.open()), opened.open()
        for count in (1, 5, 1, 1000):
            writer.append(count)
            holds([writer.backend, reader, opened.open()], writer.known)

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(b"", id="none"),
            pytest.param(b"\0", id="a zero"),
            pytest.param(bytes(512), id="a sector of zeros"),
            pytest.param(bytes(10_000), id="zeros"),
            pytest.param(bytes(range(256)) * 3, id="any bytes"),
            pytest.param(b'\r\n{"a":1}\n\x1a', id="text"),
            pytest.param(b"\xff" * 4096, id="ones"),
            pytest.param(b"long " * 50_000, id="long"),
        ],
    )
    def test_entries_are_opaque(self, data: bytes, opened: Opened[JournalBackend]) -> None:
        """`append`: whatever the bytes are, and how many entries they are, they come back as they were."""
        writer = Writer(opened.open())
        for count in (1, 7, 1_000_000):
            writer.append()
            writer.add(writer.next(count=count, data=data))
        known = writer.release()
        holds([opened.open()], known)
        again = Writer(opened.open(), known)
        assert again.claim.tail == known[-1]
        again.append()
        holds([again.backend, opened.open()], again.known)

    def test_a_very_long_batch(self, opened: Opened[JournalBackend]) -> None:
        """`append`: one is as long as any, or is refused as too long and has changed nothing."""
        writer = Writer(opened.open())
        writer.append()
        long = writer.next(data=bytes(range(256)) * 8192)
        try:
            writer.add(long)
        except LimitExceededError:
            holds([writer.backend, opened.open()], writer.known)
        writer.append()
        holds([writer.backend, opened.open()], writer.known)
        holds([opened.open()], writer.release())

    def test_batches_are_not_aliased(self, opened: Opened[JournalBackend]) -> None:
        """`append` and `read`: what a caller does to what he gave or got changes nothing."""
        writer = Writer(opened.open())
        given = bytearray(b"as it was at the call")
        made = writer.next(data=bytes(given))
        writer.backend.append(replace(made, data=given))
        given[:] = bytes(len(given))
        second = batch(2, 1)
        writer.backend.append(second)
        for journal in (writer.backend, opened.open()):
            for _ in range(2):
                page = journal.read(Index(0), 1000)
                assert page[0] == made
                if isinstance(page, list):
                    page.clear()
                holds([journal], [made, second])
        writer.release()
        assert Writer(opened.open()).claim.tail == second

    # ------------------------------------------------------------------ claims

    def test_a_claim_finds_what_was_left(self, opened: Opened[JournalBackend]) -> None:
        """`claim`: each has the next epoch, also where nothing was appended; it is told bounds and last batch."""
        known: list[Batch] = []
        for epoch in range(1, 8):
            writer = Writer(opened.open(), known)
            claim = writer.claim
            assert (claim.epoch, claim.torn_bytes) == (epoch, 0)
            assert claim.bounds == Bounds(Index(1), known[-1].last if known else Index(0))
            assert claim.tail == (known[-1] if known else None)
            if epoch % 3:
                writer.append(2, 1)
            known = writer.release()
            holds([writer.backend, opened.open()], known)
        assert [one.epoch for one in known] == [epoch for epoch in (1, 2, 4, 5, 7) for _ in range(2)]

    def test_a_given_epoch(self, opened: Opened[JournalBackend]) -> None:
        """`claim`, order: a given epoch is taken if it is higher than all before; or else nothing has changed."""
        known: list[Batch] = []
        for given, expected in (
            (7, 7),
            (None, 8),
            (100, 100),
            (EPOCHS_END - 2, EPOCHS_END - 2),
            (None, EPOCHS_END - 1),
        ):
            journal = opened.open()
            writer = Writer(journal, known, epoch=given)
            assert writer.claim.epoch == expected
            if expected != 100:
                writer.append()
            known = writer.release()
            for refused in (1, expected - 1, expected):
                for backend in (journal, opened.open()):
                    with pytest.raises(FencedError) as caught:
                        backend.claim(Epoch(refused))
                    assert (caught.value.epoch, caught.value.found) == (refused, expected)
            holds([journal, opened.open()], known)

    def test_without_a_claim(self, opened: Opened[JournalBackend]) -> None:
        """`append` and `truncate_before`: without a claim they are refused, and change nothing; reading is not."""
        journal = opened.open()
        known: list[Batch] = []
        for _ in range(2):
            next_one = batch(known[-1].last + 1 if known else 1, 1)
            with pytest.raises(ClosedError):
                journal.append(next_one)
            with pytest.raises(ClosedError):
                journal.truncate_before(Index(next_one.first))
            holds([journal, opened.open()], known)
            writer = Writer(journal, known)
            writer.append()
            known = writer.release()

    def test_release(self, opened: Opened[JournalBackend]) -> None:
        """`release`: it ends the claim, so that anybody may claim at once; a second one does nothing."""
        journal = opened.open()
        known: list[Batch] = []
        for turn in range(4):
            journal.release()
            writer = Writer(journal if turn % 2 else opened.open(), known)
            writer.append()
            known = writer.release()
            writer.backend.release()
            holds([journal, opened.open()], known)
        assert Writer(opened.open()).claim.epoch == 5

    def test_two_writers(self, opened: Opened[JournalBackend]) -> None:
        """`claim`, concurrency: beside a writer that lives it is refused, or fences that one off; never both write."""
        older, newer = Writer(opened.open()), opened.another()
        older.append()
        try:
            claim = newer.claim()
        except LockedError:
            older.append()
            known = older.release()
            claim = newer.claim()
            assert claim.tail == known[-1]
            with pytest.raises(ClosedError):
                older.backend.append(older.next())
        else:
            known = older.known
            for _ in range(2):
                with pytest.raises(FencedError):
                    older.backend.append(older.next())
                with pytest.raises(FencedError):
                    older.backend.truncate_before(Index(2))
            holds([newer, opened.open()], known)
            older.backend.release()
        assert claim.epoch == 2
        made = batch(known[-1].last + 1, claim.epoch)
        newer.append(made)
        holds([newer, opened.open()], [*known, made])

    def test_claims_at_once(self, opened: Opened[JournalBackend]) -> None:
        """`claim`, atomicity: of several at once one goes first; no two have the same epoch, and one can write."""
        journals = [opened.open(), *(opened.another() for _ in range(4))]
        for turn in range(5):
            claimed: dict[int, JournalBackend] = {}

            def claim(journal: JournalBackend, claimed: dict[int, JournalBackend] = claimed) -> None:
                try:
                    epoch = journal.claim().epoch
                except LockedError:
                    return
                assert claimed.setdefault(epoch, journal) is journal

            at_once(*(partial(claim, journal) for journal in journals))
            assert claimed
            latest = max(claimed)
            for epoch, journal in sorted(claimed.items()):
                made = batch(turn + 1, epoch)
                if epoch == latest:
                    journal.append(made)
                else:
                    with pytest.raises(FencedError):
                        journal.append(made)
            assert opened.open().bounds() == Bounds(Index(1), Index(turn + 1))
            for journal in journals:
                journal.release()

    def test_calls_from_any_thread(self, opened: Opened[JournalBackend]) -> None:
        """Concurrency: a writer's calls come one at a time, but each from another thread."""
        journal = opened.open()
        known = [batch(1, 1), batch(2, 1, count=3), batch(5, 1)]
        in_turn(journal.claim, *(partial(journal.append, one) for one in known), journal.release)
        at_once(lambda: holds([journal], known), lambda: holds([journal], known))
        holds([opened.open()], known)

    # ------------------------------------------------------------------ append

    def test_only_right_behind_the_last(self, opened: Opened[JournalBackend]) -> None:
        """`append`, order: what leaves a gap, or is there already, is refused, and has changed nothing."""
        writer = Writer(opened.open())
        for count in (1, 3, 1):
            last = writer.known[-1].last if writer.known else 0
            for first in {1, last, last - 1, last + 2, last + 100} - {last + 1}:
                if first < 1:
                    continue
                with pytest.raises(ConflictError) as caught:
                    writer.backend.append(batch(first, writer.claim.epoch, count=2))
                assert (caught.value.expected, caught.value.found) == (first - 1, last)
                holds([writer.backend, opened.open()], writer.known)
            writer.append(count)
            holds([writer.backend, opened.open()], writer.known)

    def test_only_of_the_latest_epoch(self, opened: Opened[JournalBackend]) -> None:
        """`append`, order: a batch of an older epoch is refused, and has changed nothing."""
        writer = Writer(opened.open())
        writer.append()
        writer = Writer(writer.backend, writer.release(), epoch=5)
        for _ in range(2):
            for epoch in (1, 4):
                with pytest.raises(FencedError) as caught:
                    writer.backend.append(replace(writer.next(), epoch=Epoch(epoch)))
                assert (caught.value.epoch, caught.value.found) == (epoch, 5)
                holds([writer.backend, opened.open()], writer.known)
            writer.append()
        holds([opened.open()], writer.release())

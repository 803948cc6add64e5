"""The part of the suite for homes of a journal that damages it, and that cuts its power."""

from __future__ import annotations

import pytest

from ..backends.base import Batch, Bounds, Epoch, Index, JournalBackend
from ..errors import CorruptJournalError, FencedError, SwooshError
from ._batches import Writer, everything, holds
from ._place import Opened, Suite

__all__ = ["Survival"]


class Survival(Suite[JournalBackend]):
    """What becomes of a journal when not all goes well."""

    # ------------------------------------------------------------------ damage

    @pytest.mark.parametrize("number", [0, 1, 3])
    @pytest.mark.parametrize("at", [0, 20, -1])
    def test_damage_is_noticed(self, number: int, at: int, opened: Opened[JournalBackend]) -> None:
        """`CorruptJournalError`: what was changed is never returned, the last batch not even claimed."""
        writer = Writer(opened.open())
        writer.append(1, 2, 1, 3)
        known = writer.release()
        whole = known[number].data
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        opened.place.damage(whole, bytes(damaged))
        found: list[Batch] = []
        with pytest.raises(CorruptJournalError):
            everything(opened.open(), see=found.append)
        assert found == known[: len(found)]
        assert len(found) <= number
        try:
            claim = (journal := opened.open()).claim()
        except CorruptJournalError:
            pass
        else:
            assert number < 3, "the last batch is damaged, and a claim tells of it"
            assert (claim.bounds, claim.tail) == (Bounds(Index(1), known[-1].last), known[-1])
            journal.release()
        opened.place.damage(bytes(damaged), whole)
        holds([opened.open()], known)
        again = Writer(opened.open(), known)
        assert again.claim.tail == known[-1]
        again.append()
        holds([opened.open()], again.release())

    # ------------------------------------------------------------------ durability

    def test_what_was_appended_survives(self, opened: Opened[JournalBackend]) -> None:
        """Durability: after a power cut every batch that was acknowledged is there, and the epoch goes on."""
        known: list[Batch] = []
        for turn in range(1, 5):
            writer = Writer(opened.open(), known)
            assert writer.claim.epoch == turn
            writer.append(*range(1, turn + 1))
            known = writer.known
            survivor = opened.crash()
            holds([survivor], known)
        assert Writer(opened.open()).claim.tail == known[-1]

    def test_an_epoch_survives(self, opened: Opened[JournalBackend]) -> None:
        """Durability: an epoch that was claimed is not given again after a power cut."""
        epoch = 0
        for given in (None, 7, None, None):
            claim = opened.open().claim(None if given is None else Epoch(given))
            assert claim.epoch > epoch
            epoch = claim.epoch
            with pytest.raises(FencedError):
                opened.crash().claim(Epoch(epoch))

    @pytest.mark.parametrize("index", [2, 3, 5, 8])
    def test_a_truncation_survives(self, index: int, opened: Opened[JournalBackend]) -> None:
        """Durability: after a power cut the bounds are those that were truncated to, and the last batch is there."""
        writer = Writer(opened.open())
        writer.append(1, 2, 1, 3)
        writer.backend.truncate_before(Index(index))
        holds([opened.crash()], writer.known, first=index)
        assert Writer(opened.open()).claim.tail == writer.known[-1]

    def test_where_it_begins_survives(self, opened: Opened[JournalBackend]) -> None:
        """Durability: so is where a journal is to begin, in which there is nothing yet."""
        Writer(opened.open()).begin_at(1000)
        holds([opened.crash()], [], first=1000, last=999)
        writer = Writer(opened.open())
        writer.append()
        assert writer.known[0].first == 1000
        holds([opened.crash()], writer.known, first=1000)

    def test_what_was_shown_survives(self, opened: Opened[JournalBackend]) -> None:
        """Durability: what a reader was given, and what a claim was told, is there after a power cut."""
        writer = Writer(opened.open())
        writer.append(1, 2)
        shown = everything(opened.open())
        writer.release()
        journal = opened.crash()
        holds([journal], shown)
        claim = journal.claim()
        opened.crash()
        holds([opened.open()], shown)
        assert opened.open().claim().bounds == claim.bounds

    def test_a_writer_that_ends_without_a_word(self, opened: Opened[JournalBackend]) -> None:
        """`claim`: after a power cut nobody has to let go of what a dead writer had claimed."""
        known: list[Batch] = []
        for _ in range(3):
            writer = Writer(opened.open(), known)
            writer.append()
            known = writer.known
            try:
                opened.crash().claim()
            except SwooshError as error:
                pytest.fail(f"the dead writer still holds it: {error}")
            opened.crash()

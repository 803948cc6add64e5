"""Homes of a journal each of which breaks one clause of the contract, and by which tests of the suite that is found."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar

from msgspec.structs import replace

from swoosh_async.backends.base import Batch, Bounds, Claim, Epoch, Index
from swoosh_async.errors import ConflictError, CorruptJournalError, FencedError, LimitExceededError, LockedError

from ._places import Client

__all__ = ["BrokenJournal"]


class BrokenJournal(Client):
    """A home of a journal that breaks the contract.

    Attributes:
        fails: The tests that find it.
    """

    fails: ClassVar[Sequence[str]] = ()

    @property
    def batches(self) -> list[Batch]:
        """What the server holds."""
        return self.memory._batches


# ---------------------------------------------------------------------- append


class Forgets(BrokenJournal):
    """Every third batch is acknowledged, and not there; the next may come in its place."""

    fails = ("test_what_was_appended_is_read", "test_the_bounds_are_those_of_now", "test_readers_go_along")

    def append(self, batch: Batch) -> None:
        count = self.server.notes["count"] = self.server.notes.get("count", 0) + 1
        if count % 3:
            super().append(batch)


class Tears(BrokenJournal):
    """Of a batch, only the first half arrives."""

    fails = ("test_what_was_appended_is_read", "test_a_claim_finds_what_was_left", "test_entries_are_opaque")

    def append(self, batch: Batch) -> None:
        super().append(replace(batch, data=batch.data[: len(batch.data) // 2]))


class EndsAtZero(BrokenJournal):
    """Bytes end at the last that is not zero."""

    fails = ("test_entries_are_opaque",)

    def append(self, batch: Batch) -> None:
        super().append(replace(batch, data=batch.data.rstrip(b"\0")))


class LeavesEmptyOut(BrokenJournal):
    """What has no bytes is no batch."""

    fails = ("test_entries_are_opaque",)

    def append(self, batch: Batch) -> None:
        if batch.data:
            super().append(batch)


class KeepsTheBuffer(BrokenJournal):
    """What is appended is kept as the object that the caller gave."""

    fails = ("test_batches_are_not_aliased",)

    def append(self, batch: Batch) -> None:
        super().append(batch)
        self.batches[-1] = batch

    def check(self, batch: Batch) -> None:
        if type(batch.data) is bytes:
            super().check(batch)


class CutsLongOnes(BrokenJournal):
    """A batch that is too long is refused when it is there already."""

    fails = ("test_a_very_long_batch",)

    def append(self, batch: Batch) -> None:
        super().append(batch)
        if len(batch.data) > 1 << 20:
            raise LimitExceededError("a batch", limit="some", found=len(batch.data), bound=1 << 20)


class LetsGapsBe(BrokenJournal):
    """A batch may stand anywhere behind the last."""

    fails = ("test_only_right_behind_the_last", "test_a_journal_begins_anywhere")

    def append(self, batch: Batch) -> None:
        last = self.memory.bounds().last
        if batch.first > last + 1:
            with self.changing():
                self.check_turn()
                self.batches.append(batch)
        else:
            super().append(batch)


class ForgivesTwice(BrokenJournal):
    """A batch that is there already is acknowledged once more, whatever it holds."""

    fails = ("test_only_right_behind_the_last", "test_truncated_to_nothing")

    def append(self, batch: Batch) -> None:
        if batch.first > self.memory.bounds().last:
            super().append(batch)


class IgnoresTheEpoch(BrokenJournal):
    """Whose batch it is does not matter to who has the turn."""

    fails = ("test_only_of_the_latest_epoch",)

    def append(self, batch: Batch) -> None:
        super().append(replace(batch, epoch=Epoch(self.memory._epoch)))


class IsOpenToAll(BrokenJournal):
    """Nobody needs a claim to write."""

    fails = ("test_without_a_claim", "test_two_writers")

    def append(self, batch: Batch) -> None:
        if self.epoch is None:
            self.memory._claimed = True
            self.epoch = batch.epoch
        super().append(batch)

    def check_turn(self) -> None:
        pass

    def release(self) -> None:
        pass


class NeverFences(BrokenJournal):
    """Who was the writer once may go on."""

    fails = ("test_two_writers",)

    def append(self, batch: Batch) -> None:
        super().append(replace(batch, epoch=self.memory._epoch))

    def check_turn(self) -> None:
        if self.epoch is not None:
            self.epoch = self.memory._epoch
        super().check_turn()


class TellsNothing(BrokenJournal):
    """An error does not say what was found."""

    fails = ("test_only_right_behind_the_last", "test_a_given_epoch", "test_only_of_the_latest_epoch")

    def append(self, batch: Batch) -> None:
        try:
            super().append(batch)
        except ConflictError:
            raise ConflictError(expected=0, found=0) from None
        except FencedError:
            raise FencedError(self.where, epoch=0, found=0) from None

    def claim(self, epoch: Epoch | None = None) -> Claim:
        try:
            return super().claim(epoch)
        except FencedError:
            raise FencedError(self.where, epoch=0, found=0) from None


# ---------------------------------------------------------------------- read


class Reorders(BrokenJournal):
    """A page comes in any order."""

    fails = ("test_what_was_appended_is_read", "test_entries_before_an_index_go")

    def read(self, after: Index, max_bytes: int) -> Sequence[Batch]:
        return super().read(after, max_bytes)[::-1]


class NeverMoreThanAsked(BrokenJournal):
    """What is longer than what was asked for is not there."""

    fails = ("test_what_was_appended_is_read", "test_entries_are_opaque")

    def read(self, after: Index, max_bytes: int) -> Sequence[Batch]:
        page = super().read(after, max_bytes)
        while sum(len(one.data) for one in page) > max_bytes:
            page = page[:-1]
        return page


class LosesTheLastOfAPage(BrokenJournal):
    """Of a page the last batch is missing, where there is more to come."""

    fails = ("test_what_was_appended_is_read",)

    def read(self, after: Index, max_bytes: int) -> Sequence[Batch]:
        page = super().read(after, max_bytes)
        return [] if len(page) == 1 and page[0].last != self.memory.bounds().last else page


class PagesWithoutEnd(BrokenJournal):
    """How much is asked for does not matter."""

    fails = ("test_what_was_appended_is_read",)

    def read(self, after: Index, max_bytes: int) -> Sequence[Batch]:
        return super().read(after, max_bytes + (1 << 30))


class SkipsTheMiddle(BrokenJournal):
    """A batch that begins before what is asked for is left out."""

    fails = ("test_what_was_appended_is_read", "test_entries_before_an_index_go")

    def read(self, after: Index, max_bytes: int) -> Sequence[Batch]:
        return [one for one in super().read(after, max_bytes) if one.first > after]


class GivesItsList(BrokenJournal):
    """The page that is returned is its own list."""

    fails = ("test_batches_are_not_aliased",)

    def read(self, after: Index, max_bytes: int) -> Sequence[Batch]:
        return self.batches if after == 0 and self.memory._first == 1 else super().read(after, max_bytes)


class IsLate(BrokenJournal):
    """What was appended last is not within the bounds yet, unless the writer asks."""

    fails = ("test_the_bounds_are_those_of_now",)

    def bounds(self) -> Bounds:
        bounds = super().bounds()
        return bounds if self.epoch is not None else Bounds(bounds.first, Index(max(0, bounds.last - 1)))


class RunsAhead(BrokenJournal):
    """A batch is within the bounds, for some, before it is there to be read."""

    fails = ("test_readers_go_along",)

    def append(self, batch: Batch) -> None:
        self.server.notes["ahead"] = batch.last
        time.sleep(0.0005)
        super().append(batch)
        self.server.notes["ahead"] = 0

    def bounds(self) -> Bounds:
        bounds = super().bounds()
        return Bounds(bounds.first, Index(max(bounds.last, self.server.notes.get("ahead", 0))))


class IsNotThere(BrokenJournal):
    """Where nothing was appended, or claimed, an empty journal begins at 0."""

    fails = ("test_a_place_without_a_journal", "test_the_first_claim")

    def bounds(self) -> Bounds:
        return super().bounds() if self.batches or self.memory._first > 1 else Bounds(Index(0), Index(0))


# ---------------------------------------------------------------------- claim


class BeginsAtZero(BrokenJournal):
    """The first epoch is 0."""

    fails = ("test_the_first_claim", "test_a_claim_finds_what_was_left")

    def claim(self, epoch: Epoch | None = None) -> Claim:
        if self.memory._epoch == 0 and epoch is None:
            self.memory._epoch = Epoch(-1)
        return super().claim(epoch)


class ForgetsTheEpoch(BrokenJournal):
    """A claim in which nothing is appended leaves no trace."""

    fails = ("test_a_claim_finds_what_was_left", "test_a_given_epoch")

    def release(self) -> None:
        if self.epoch is not None:
            self.memory._epoch = self.batches[-1].epoch if self.batches else Epoch(0)
        super().release()


class TakesAnyEpoch(BrokenJournal):
    """A given epoch is taken as it is given."""

    fails = ("test_a_given_epoch",)

    def claim(self, epoch: Epoch | None = None) -> Claim:
        if epoch is not None:
            self.memory._epoch = Epoch(epoch - 1)
        return super().claim(epoch)


class HasNoTail(BrokenJournal):
    """A claim is not told the last batch where none of its entries is kept."""

    fails = ("test_truncated_to_nothing", "test_a_truncation_survives")

    def claim(self, epoch: Epoch | None = None) -> Claim:
        claim = super().claim(epoch)
        return claim if claim.bounds.first <= claim.bounds.last else replace(claim, tail=None)


class ForgetsToRelease(BrokenJournal):
    """What was claimed stays so."""

    fails = ("test_release",)

    def claim(self, epoch: Epoch | None = None) -> Claim:
        if self.server.notes.setdefault("held", False):
            raise LockedError(self.where)
        claim = super().claim(epoch)
        self.server.notes["held"] = True
        return claim


class StaysOpen(BrokenJournal):
    """After a release the writer may go on, until another one comes."""

    fails = ("test_without_a_claim",)

    def release(self) -> None:
        pass


class BothAreFirst(BrokenJournal):
    """Of claims at once, two get the same epoch."""

    fails = ("test_claims_at_once",)

    def claim(self, epoch: Epoch | None = None) -> Claim:
        if epoch is None:
            epoch = Epoch(self.memory._epoch + 1)
            time.sleep(0.0005)
        with self.server.turn:
            self.memory._epoch = min(self.memory._epoch, Epoch(epoch - 1))
            return super().claim(epoch)


class BelongsToAThread(BrokenJournal):
    """A writer's calls must come from the thread that made the claim."""

    fails = ("test_calls_from_any_thread",)

    def claim(self, epoch: Epoch | None = None) -> Claim:
        self.thread = threading.get_ident()
        return super().claim(epoch)

    def append(self, batch: Batch) -> None:
        if self.thread != threading.get_ident():
            raise LockedError(self.where)
        super().append(batch)


class HoldsOnToTheDead(BrokenJournal):
    """A claim outlives a power cut."""

    fails = ("test_a_writer_that_ends_without_a_word",)

    def claim(self, epoch: Epoch | None = None) -> Claim:
        if self.server.notes.get("holder") not in (None, self):
            raise LockedError(self.where)
        self.server.notes["holder"] = self
        return super().claim(epoch)

    def release(self) -> None:
        if self.epoch is not None:
            self.server.notes["holder"] = None
        super().release()


# ---------------------------------------------------------------------- truncate


class TruncatesTooFar(BrokenJournal):
    """One entry more goes."""

    fails = ("test_entries_before_an_index_go", "test_truncated_step_by_step", "test_readers_beside_a_truncation")

    def truncate_before(self, index: Index) -> None:
        super().truncate_before(Index(min(index + 1, self.memory.bounds().last + 1)))


class TruncatesBatches(BrokenJournal):
    """A batch goes as a whole, or stays with all its entries."""

    fails = ("test_entries_before_an_index_go", "test_truncated_step_by_step")

    def truncate_before(self, index: Index) -> None:
        first = next((one.first for one in self.batches if one.last >= index), index)
        super().truncate_before(first)


class CutsBatches(BrokenJournal):
    """Of a batch of which some entries are kept, the others are cut off."""

    fails = ("test_entries_before_an_index_go",)

    def read(self, after: Index, max_bytes: int) -> Sequence[Batch]:
        first = self.memory._first
        return [
            one if one.first >= first else replace(one, first=first, count=one.last - first + 1)
            for one in super().read(after, max_bytes)
        ]


class BringsBack(BrokenJournal):
    """Truncating to an earlier index brings back what is still there."""

    fails = ("test_truncated_step_by_step",)

    def truncate_before(self, index: Index) -> None:
        with self.changing():
            self.check_turn()
            self.memory._first = index


class BeginsAnew(BrokenJournal):
    """Where nothing is kept, the journal begins anew."""

    fails = ("test_truncated_to_nothing",)

    def truncate_before(self, index: Index) -> None:
        super().truncate_before(index)
        if self.batches and self.memory._first > self.batches[-1].last:
            with self.changing():
                self.batches.clear()
                self.memory._first = Index(1)


class BeginsAtOne(BrokenJournal):
    """An empty journal is not told where to begin."""

    fails = ("test_a_journal_begins_anywhere", "test_where_it_begins_survives")

    def truncate_before(self, index: Index) -> None:
        if self.batches:
            super().truncate_before(index)


class TruncatesLater(BrokenJournal):
    """The bounds change when the claim ends."""

    fails = ("test_entries_before_an_index_go", "test_truncated_step_by_step", "test_truncated_to_nothing")

    def truncate_before(self, index: Index) -> None:
        self.check_turn()
        self.server.notes["later"] = index

    def release(self) -> None:
        if self.epoch is not None and "later" in self.server.notes:
            super().truncate_before(self.server.notes.pop("later"))
        super().release()


class TruncatesBeforeItSays(BrokenJournal):
    """Entries go before the bounds say so."""

    fails = ("test_readers_beside_a_truncation",)

    def truncate_before(self, index: Index) -> None:
        gone = [one for one in self.batches[:-1] if one.last < index]
        del self.batches[: len(gone)]
        time.sleep(0.003)
        super().truncate_before(index)


# ---------------------------------------------------------------------- damage and durability


class NeverChecks(BrokenJournal):
    """What is there is what was written, who would doubt it."""

    fails = ("test_damage_is_noticed",)

    def check(self, batch: Batch) -> None:
        pass


class CutsDamage(BrokenJournal):
    """A last batch that is damaged passes for one that was never acknowledged."""

    fails = ("test_damage_is_noticed",)

    def claim(self, epoch: Epoch | None = None) -> Claim:
        while self.batches:
            with suppress(CorruptJournalError):
                self.check(self.batches[-1])
                break
            del self.batches[-1]
        return super().claim(epoch)


class IsHasty(BrokenJournal):
    """What is acknowledged is durable a moment later."""

    fails = ("test_what_was_appended_survives", "test_what_was_shown_survives")

    def append(self, batch: Batch) -> None:
        before = self.server._durable
        super().append(batch)
        self.server._durable = before


class ClaimsInHaste(BrokenJournal):
    """The epoch is durable when something is appended."""

    fails = ("test_an_epoch_survives",)

    def claim(self, epoch: Epoch | None = None) -> Claim:
        before = self.server._durable
        claim = super().claim(epoch)
        self.server._durable = before
        return claim


class TruncatesInHaste(BrokenJournal):
    """The bounds are durable when something is appended."""

    fails = ("test_a_truncation_survives", "test_where_it_begins_survives")

    def truncate_before(self, index: Index) -> None:
        before = self.server._durable
        super().truncate_before(index)
        self.server._durable = before

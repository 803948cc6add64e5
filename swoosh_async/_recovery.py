"""Where a state begins that is to be the fold of a journal: decided by what was found. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from ._folds import Standing
from .clock import Timestamp
from .errors import CorruptJournalError, CorruptSnapshotError
from .snapshots import Newest, SnapshotRef

__all__ = ["RecoveryReport", "check_end", "furthest", "none_whole", "starting_point"]

S = TypeVar("S")


class RecoveryReport(msgspec.Struct, frozen=True):
    """What a machine found when it was entered.

    Attributes:
        snapshot: The snapshot that it began with; None where it began with the initial state.
        damaged: What is wrong with newer snapshots, which were passed over, the newest first: they are damaged, or are
            whole but cannot be read by this program.
        entries: How many entries were replayed behind the snapshot.
        torn_bytes: How long what was cut off the journal is: a batch that a crash had left unfinished.
        claim_s: How long the claim took, waiting for a former writer included, in seconds.
        load_s: How long it took to find and load the snapshot, in seconds.
        replay_s: How long the replay took, in seconds.
    """

    snapshot: SnapshotRef | None
    damaged: tuple[CorruptSnapshotError, ...]
    entries: int
    torn_bytes: int
    claim_s: float
    load_s: float
    replay_s: float


def check_end(where: str, held: int, last: int, *, damaged: bool = False) -> None:
    """Check that a journal reaches as far as its snapshots, as it does unless it was lost.

    Args:
        where: The backend.
        held: The highest index that a snapshot holds.
        last: The journal's last.
        damaged: Whether that snapshot is.

    Raises:
        CorruptJournalError: It ends before.
    """
    if held > last:
        reason = f"a snapshot{', which is damaged,' * damaged} holds index {held}, and the journal ends before it"
        raise CorruptJournalError(where, reason, offset=None, index=last + 1)


def furthest(refs: Sequence[SnapshotRef], found: Timestamp | None) -> int:
    """The highest index that snapshots say they hold, of which some are damaged, so that what they say may be as well.

    Who holds more than the journal is also later than its last entry. One damaged place makes an index higher, or a
    time later, and not both.

    Args:
        refs: The snapshots.
        found: The time of the journal's last entry; None where there was none ever.
    """
    return max((ref.index for ref in refs if found is None or _is_later(ref.hlc, found)), default=0)


def _is_later(hlc: str, than: Timestamp) -> bool:
    try:
        return Timestamp.parse(hlc) > than
    except ValueError:
        return False


def none_whole(
    where: str, wrong: Sequence[CorruptSnapshotError], first: int, what: str = "no snapshot"
) -> CorruptSnapshotError:
    """What to raise where a snapshot is needed, and there is none that can be read.

    Args:
        where: The backend.
        wrong: What is wrong with those that there are, the newest first.
        first: The index of the first entry that is kept.
        what: Which snapshots were looked at.
    """
    kept = f"is kept from index {first} on only" if first > 1 else "is empty"
    why = f" ({wrong[0].reason})" if wrong else ""
    reason = f"{what} is whole and to be read{why}, and the journal {kept}"
    return CorruptSnapshotError(where, reason, others=tuple(error.path for error in wrong))


def starting_point(where: str, newest: Newest[S], first: int, last: int) -> Standing[S] | None:
    """Where the newest snapshot that is whole stands; None where all there ever was is in the journal.

    Args:
        where: The backend.
        newest: What there is of snapshots.
        first: The index of the first entry that is kept.
        last: The index of the last.

    Raises:
        CorruptSnapshotError: No snapshot is whole, and the journal does not reach back to the first event.
        CorruptJournalError: The journal ends before the snapshot.
    """
    if newest.snapshot is None:
        if first > 1 or (newest.damaged and last == 0):
            raise none_whole(where, newest.damaged, first)
        return None
    cursor = newest.snapshot.cursor
    check_end(where, cursor.index, last)
    if cursor.index < first - 1:
        reason = f"the newest that is whole holds index {cursor.index}, and the journal begins at {first}"
        raise CorruptSnapshotError(where, reason, others=tuple(error.path for error in newest.damaged))
    return Standing(newest.snapshot.state, cursor.index, cursor.hlc)

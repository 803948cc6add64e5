"""Where a state begins that is to be the fold of a journal: decided by what was found. Pure."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from ._folds import Standing
from .errors import CorruptJournalError, CorruptSnapshotError
from .snapshots import Newest, SnapshotRef

__all__ = ["RecoveryReport", "check_end", "starting_point"]

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
    others = tuple(error.path for error in newest.damaged)
    if newest.snapshot is None:
        if first > 1 or (newest.damaged and last == 0):
            kept = f"is kept from index {first} on only" if first > 1 else "is empty"
            why = f" ({newest.damaged[0].reason})" if newest.damaged else ""
            reason = f"no snapshot is whole and to be read{why}, and the journal {kept}"
            raise CorruptSnapshotError(where, reason, others=others)
        return None
    cursor = newest.snapshot.cursor
    check_end(where, cursor.index, last)
    if cursor.index < first - 1:
        reason = f"the newest that is whole holds index {cursor.index}, and the journal begins at {first}"
        raise CorruptSnapshotError(where, reason, others=others)
    return Standing(newest.snapshot.state, cursor.index, cursor.hlc)

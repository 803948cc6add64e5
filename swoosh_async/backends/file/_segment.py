"""One segment of a journal, open for reading: what is in it, and how it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from ...errors import CorruptJournalError
from ..base import Batch, Epoch, Index
from ._frames import Frame, Seed
from ._scan import Damage, Tail, find_tail
from ._source import FileSource

__all__ = ["Segment"]

_LOOKS = 5
_MOST_LOOKS = 200
_PAUSE_S = 0.01


class Segment:
    """A segment, open for reading; a context manager that closes it.

    Args:
        source: Its file.
        seed: What its header says.
        probe: Asks whether the file system still writes.
    """

    def __init__(self, source: FileSource, seed: Seed, probe: Callable[[], None]) -> None:
        self.source = source
        self.seed = seed
        self.probe = probe

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()

    def batch(self, frame: Frame) -> Batch:
        """The batch that a frame holds, which is whole."""
        data = self.source.read(frame.payload_at, frame.length)
        return Batch(Index(frame.first), frame.count, Epoch(frame.epoch), data)

    def tail(self) -> Tail:
        """How it ends.

        Raises:
            CorruptJournalError: It is not what was written.
        """
        try:
            return find_tail(self.source.read, self.seed)
        except Damage as damage:
            raise self.corrupt(damage.reason, offset=damage.offset, index=damage.index) from None

    def tail_beside_a_writer(self) -> Tail:
        """How it ends, although a writer may be at work: what is being written looks like damage, but does not last.

        Raises:
            CorruptJournalError: It is not what was written.
        """
        found: CorruptJournalError | None = None
        same = 0
        for _ in range(_MOST_LOOKS):
            try:
                return self.tail()
            except CorruptJournalError as error:
                is_same = found is not None and (error.offset, error.index) == (found.offset, found.index)
                found, same = error, same + 1 if is_same else 1
                if same == _LOOKS:
                    raise
            time.sleep(_PAUSE_S)
        return self.tail()

    def corrupt(self, reason: str, *, offset: int, index: int) -> CorruptJournalError:
        """The error that tells of damage in it."""
        return CorruptJournalError(self.source.path, reason, offset=offset, index=index)

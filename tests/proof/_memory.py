"""What is done while memory runs out, in one thread and with no event loop, so that all that fails is the package.

Each is tried again and again in one process, checks after each time what is there, and goes on from that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path

import pytest

from swoosh_async import Snapshot, SnapshotCodec
from swoosh_async.backends.base import Batch, Index
from swoosh_async.backends.file import FileBackend
from swoosh_async.errors import BackendError, ConflictError, CorruptJournalError, PoisonedError, SwooshError

from .._logs import batch, contents, everything, restore, segment

__all__ = ["OPERATIONS", "Operation"]

STATE = {f"task-{number}": number for number in range(40)}
_CODEC = SnapshotCodec(dict[str, int])
_SEGMENT_BYTES = 4096


class Operation(ABC):
    """Something that needs memory.

    Args:
        home: The directory; what is there already is gone on from.
    """

    def __init__(self, home: Path) -> None:
        self.home = home

    @abstractmethod
    def work(self) -> None:
        """Do it."""

    @abstractmethod
    def settle(self, error: BaseException | None) -> None:
        """Check what it has left, and that the next time works."""


class Save(Operation):
    """Encode, verify, write, make durable and prune a snapshot, with an index higher than the one before."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._backend = FileBackend(home, lock_timeout_s=0)
        self._index = latest(home)

    def work(self) -> None:
        snapshot = Snapshot(state=STATE, last_applied_index=self._index + 1)
        self._backend.put(_CODEC.encode(snapshot), keep=2, allow_rollback=False)

    def settle(self, error: BaseException | None) -> None:
        found = latest(self.home)
        if error is None:
            assert found == self._index + 1
        elif isinstance(error, BackendError):
            assert found == self._index
        assert found in (self._index, self._index + 1), (found, self._index)
        self._index = found
        self.work()
        self._index += 1
        assert latest(self.home) == self._index


class Load(Operation):
    """Open the latest snapshot, make it durable, read it, verify it and decode it."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        if not latest(home):
            Save(home).work()
        self._files = contents(home)

    def work(self) -> None:
        with FileBackend(self.home).open() as source:
            assert _CODEC.read(source).snapshot.state == STATE

    def settle(self, error: BaseException | None) -> None:
        assert not isinstance(error, SwooshError) or isinstance(error, BackendError), (
            "damage is told where there is none"
        )
        assert contents(self.home) == self._files
        self.work()


class Append(Operation):
    """Append a batch to a journal; now and then it takes a new segment."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._backend = FileBackend(home, segment_bytes=_SEGMENT_BYTES, lock_timeout_s=0)
        self._epoch = self._backend.claim().epoch
        self._known = everything(FileBackend(home))

    def work(self) -> None:
        self._backend.append(self._next())

    def settle(self, error: BaseException | None) -> None:
        tried = self._next()
        found = everything(FileBackend(self.home))
        assert found in (self._known, [*self._known, tried]), (len(found), len(self._known))
        if error is None:
            assert found[-1] == tried
        elif isinstance(error, BackendError):
            assert found == self._known
        elif found != self._known:  # nobody was told; if it is not poisoned, it must know
            with pytest.raises((PoisonedError, ConflictError)):
                self._backend.append(tried)
        if error is not None and not isinstance(error, BackendError):
            self._backend.release()
            self._epoch = self._backend.claim().epoch
            found = everything(FileBackend(self.home))
        self._known = found
        self.work()
        self._known.append(self._next())
        assert everything(FileBackend(self.home)) == self._known
        if len(self._known) > 40:
            self._backend.truncate_before(Index(self._known[20].first))
            self._known = self._known[20:]

    def _next(self) -> Batch:
        first = self._known[-1].last + 1 if self._known else 1
        return batch(first, self._epoch, size=700)


class Claim(Operation):
    """Claim a journal whose last batch a crash has left unfinished, and let go of it."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        backend = FileBackend(home, segment_bytes=_SEGMENT_BYTES)
        for path in home.glob("journal*"):  # of an earlier process
            path.unlink()
        epoch = backend.claim().epoch
        self._known = [batch(1, epoch), batch(2, epoch)]
        for one in (*self._known, batch(3, epoch, size=1500)):
            backend.append(one)
        backend.release()
        data = bytearray(segment(home, 1).read_bytes())
        end = len(data.rstrip(b"\0"))
        data[end // 512 * 512 : end] = bytes(end % 512)
        segment(home, 1).write_bytes(data)
        self._files = contents(home)
        self._backend = backend

    def work(self) -> None:
        with ExitStack() as stack:
            stack.callback(self._backend.release)
            claim = self._backend.claim()
            assert claim.torn_bytes > 0
            assert claim.bounds.last == 2

    def settle(self, error: BaseException | None) -> None:
        assert error is None or not isinstance(error, CorruptJournalError)
        assert everything(FileBackend(self.home)) == self._known
        self._backend.release()
        claim = self._backend.claim()
        self._backend.append(batch(3, claim.epoch))
        self._backend.release()
        assert everything(FileBackend(self.home)) == [*self._known, batch(3, claim.epoch)]
        assert [path for path in self.home.iterdir() if ".torn-" in path.name], "what was torn was not set aside"
        restore(self.home, self._files)


OPERATIONS: dict[str, type[Operation]] = {"save": Save, "load": Load, "append": Append, "claim": Claim}
"""What is tried, by name."""


def latest(home: Path) -> int:
    """The index of the latest snapshot, each that is there looked at; 0 where there is none."""
    backend = FileBackend(home)
    indices = []
    for name in backend.names():
        with backend.open(name) as source:
            decoded = _CODEC.read(source)
        assert decoded.snapshot.state == STATE
        indices.append(decoded.snapshot.last_applied_index)
    assert len(indices) <= 4
    assert indices == sorted(indices, reverse=True)
    return indices[0] if indices else 0

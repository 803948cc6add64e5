"""What can go wrong, as one tree: whether it happened, may have happened, or is damaged.

    SwooshError
    │   it did not happen; nothing has changed
    ├── SnapshotNotFoundError     there is no such snapshot
    ├── InvalidStateError         the value would not come back as it is           (also a ValueError)
    ├── StaleSnapshotError        a newer snapshot is already stored
    ├── ConflictError             the position is not the one that was expected
    ├── TruncatedError            the entries asked for are kept no more
    ├── LockedError               another process holds the store
    ├── FencedError               another writer has taken over
    ├── SchemaVersionError        the state's schema is not one this reader knows
    ├── FormatVersionError        the envelope's format is newer than this reader
    ├── LimitExceededError        larger than a bound that you can raise
    ├── ClosedError               used after it was closed
    ├── PoisonedError             an earlier outcome is unknown: open it anew
    ├── BackendError              the disk or the server refused a step            (also an OSError)
    │   it may have happened
    ├── OutcomeUnknownError       ask the store, opened anew, what is there             (also an OSError)
    │   it is damaged
    ├── CorruptSnapshotError      a stored snapshot is not what was written
    ├── CorruptJournalError       a stored batch is not what was written
    └── DivergenceError           replaying the same events gives another state

And one warning: DurabilityWarning, where a file system is seen to break what the promises rest on.

Every error carries its facts as attributes, never shows the contents of a state, and ends with what to do.
This file knows nothing of the rest of the package.
"""

from __future__ import annotations

import copy
import os
from typing import Any, TypeVar

__all__ = [
    "BackendError",
    "ClosedError",
    "ConflictError",
    "CorruptJournalError",
    "CorruptSnapshotError",
    "DivergenceError",
    "DurabilityWarning",
    "FencedError",
    "FormatVersionError",
    "InvalidStateError",
    "LimitExceededError",
    "LockedError",
    "OutcomeUnknownError",
    "PoisonedError",
    "SchemaVersionError",
    "SnapshotNotFoundError",
    "StaleSnapshotError",
    "SwooshError",
    "TruncatedError",
]

E = TypeVar("E", bound=BaseException)


class DurabilityWarning(UserWarning):
    """The file system may lose what it has acknowledged: it is in memory, say, or was mounted without barriers.

    Shown once for each file system. ``warnings.simplefilter("error", DurabilityWarning)`` refuses to work on one.
    """


class SwooshError(Exception):
    """The root of every error that this package raises on purpose."""

    def __init__(self, message: str) -> None:
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by message and attributes, whatever the subclass's own arguments are."""
        attributes = self.__dict__.copy()
        if isinstance(self, OSError):  # which keeps its error number outside of __dict__
            attributes["errno"] = self.errno
        return _rebuild, (type(self), self.args, attributes)


def _rebuild(cls: type[SwooshError], args: tuple[object, ...], attributes: dict[str, object]) -> SwooshError:
    error = cls.__new__(cls, *args)
    error.args = args
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


def again(error: E) -> E:
    """A copy of `error` to raise in another task, with the original's cause and no shared traceback."""
    try:
        twin = copy.copy(error)
    except Exception:  # noqa: BLE001  an exception of somebody else's that cannot be copied is still the truth
        return error
    twin.__cause__ = error.__cause__
    twin.__suppress_context__ = error.__suppress_context__
    return twin


class SnapshotNotFoundError(SwooshError):
    """There is no such snapshot.

    Attributes:
        where: The store that was asked.
        others: What else there is: the names of older generations, newest first.
    """

    def __init__(self, where: str, *, others: tuple[str, ...] = (), detail: str = "") -> None:
        todo = "history() tells what there is" if detail else "save one first"
        if others:
            todo = f"older generations exist: {', '.join(others)}; load one of them by name"
        super().__init__(f"snapshot not found: {where}{f': {detail}' if detail else ''}; {todo}")
        self.where = where
        self.others = others


class InvalidStateError(SwooshError, ValueError):
    """The value would not come back as it is, so it was not saved.

    Attributes:
        path: Where in the state, such as ``state.tasks['build'].deadline``.
        reason: What is wrong there.
    """

    def __init__(self, path: str, reason: str, *, what: str = "snapshot") -> None:
        super().__init__(f"marshal {what}: {path}: {reason}; nothing was saved: mend the value, or its declared type")
        self.path = path
        self.reason = reason


class StaleSnapshotError(SwooshError):
    """A snapshot with a higher index is already stored.

    Attributes:
        index: The index that was to be saved.
        stored: The index that is stored.
    """

    def __init__(self, where: str, *, index: int, stored: int) -> None:
        super().__init__(
            f"{where} holds index {stored}, newer than {index}; load it and go on from there,"
            " or save with allow_rollback=True to go back on purpose"
        )
        self.where = where
        self.index = index
        self.stored = stored


class ConflictError(SwooshError):
    """The position is not the one that was expected.

    Attributes:
        expected: The index that the caller named.
        found: The index that is there.
    """

    def __init__(self, *, expected: int, found: int) -> None:
        super().__init__(f"expected index {expected}, found {found}; read what came in between and decide anew")
        self.expected = expected
        self.found = found


class TruncatedError(SwooshError):
    """The entries asked for are kept no more.

    Attributes:
        after: The index behind which was to be read.
        first: The index of the first entry that is kept.
        point: What a state was asked for by, such as ``index 7``; "" where none was.
    """

    def __init__(self, where: str, *, after: int, first: int, point: str = "") -> None:
        message = (
            f"{where} begins at index {first}, {after + 1} is kept no more; load a snapshot that is as new as that,"
            " and read on behind it"
        )
        if point:
            message = (
                f"{where}: the state at {point} can be had no more: no kept snapshot leads to it, and the journal"
                f" begins at index {first}; ask for a later one, or restore a backup that is older"
            )
        super().__init__(message)
        self.where = where
        self.after = after
        self.first = first
        self.point = point


class LockedError(SwooshError):
    """Another process holds the store.

    Attributes:
        where: The lock.
        pid: The holder's process id, where the system tells.
        host: The holder's host, where it is known.
    """

    def __init__(
        self,
        where: str,
        *,
        pid: int | None = None,
        host: str | None = None,
        waited_s: float = 0.0,
        forked: bool = False,
    ) -> None:
        holder = f"process {pid}" if pid is not None else "another process"
        todo = "stop that process, or wait longer with lock_timeout_s"
        if pid is not None and pid == os.getpid():
            todo = "that is this one: close what holds it here, or wait longer with lock_timeout_s"
        if forked:
            todo = "this one is a fork of it: open one of its own here, once that has let go"
        super().__init__(f"{where} is held by {holder}{f' on {host}' if host else ''} (waited {waited_s:g} s); {todo}")
        self.where = where
        self.pid = pid
        self.host = host
        self.waited_s = waited_s


class FencedError(SwooshError):
    """Another writer has taken over; what was refused has changed nothing.

    Attributes:
        epoch: The epoch of this writer.
        found: The newer epoch that was found.
    """

    def __init__(self, where: str, *, epoch: int, found: int) -> None:
        super().__init__(f"{where}: epoch {epoch} is over, {found} has begun; stop, or open it anew to take over")
        self.where = where
        self.epoch = epoch
        self.found = found


class SchemaVersionError(SwooshError):
    """The stored state's schema version is not one that this reader can bring to its own.

    Attributes:
        found: The stored schema version.
        supported: The reader's schema version.
    """

    def __init__(self, *, found: int, supported: int, detail: str = "") -> None:
        todo = f"{'mend' if detail else 'register'} the migrations from {found} to {supported}"
        if found > supported:
            todo = "run the newer program that wrote it"
        super().__init__(
            f"schema version {found} found, {supported} supported{f': {detail}' if detail else ''}; {todo}"
        )
        self.found = found
        self.supported = supported
        self.detail = detail


class FormatVersionError(SwooshError):
    """The envelope is of a newer format than this reader knows; it is intact, and never overwritten.

    Attributes:
        found: The stored format version.
        supported: The newest format version that this reader knows.
    """

    def __init__(self, where: str, *, found: int, supported: int) -> None:
        super().__init__(f"{where}: format {found} found, {supported} supported; upgrade swoosh-async to read it")
        self.where = where
        self.found = found
        self.supported = supported


class LimitExceededError(SwooshError):
    """Something is larger than a bound that the caller can raise.

    Attributes:
        what: What is too large.
        limit: The name of the option that bounds it.
        found: The size found, in bytes; None where reading stopped at the bound.
        bound: The bound, in bytes.
    """

    def __init__(self, what: str, *, limit: str, found: int | None, bound: int) -> None:
        size = f"{found} bytes" if found is not None else "more"
        super().__init__(f"{what}: {size} where {limit} allows {bound}; raise {limit} if this is meant")
        self.what = what
        self.limit = limit
        self.found = found
        self.bound = bound


class ClosedError(SwooshError):
    """Used after it was closed, or before it was opened, or for writing although it is only read."""

    def __init__(self, where: str, *, opened: bool = True, read_only: bool = False) -> None:
        todo = "is closed; open a new one" if opened else "is not open; enter it with `async with` first"
        if read_only:
            todo = "is open for reading only; open a new one without read_only"
        super().__init__(f"{where} {todo}")
        self.where = where


class PoisonedError(SwooshError):
    """An earlier outcome is unknown, so nothing is read or written any more until it is opened anew.

    Attributes:
        where: The store.
        reason: The earlier error, in words.
    """

    def __init__(self, where: str, *, reason: str) -> None:
        super().__init__(f"{where} is poisoned ({reason}); make a new one and load what is there")
        self.where = where
        self.reason = reason


class BackendError(SwooshError, OSError):
    """The disk or the server refused a step; nothing has changed, and it may be tried again.

    Attributes:
        step: The step that failed, such as ``fsync snapshot``.
        path: The file or directory, where there is one.
        errno: The system's error number, where there is one.
    """

    def __init__(self, step: str, path: str = "", *, errno: int | None = None, detail: str = "") -> None:
        super().__init__(_failed(step, path, detail) + "; nothing has changed: mend the cause and try again")
        self.step = step
        self.path = path
        self.errno = errno


class OutcomeUnknownError(SwooshError, OSError):
    """A step failed at a point where what was asked may or may not have become durable.

    Attributes:
        step: The step that failed, such as ``fsync snapshot directory``.
        path: The file or directory, where there is one.
        errno: The system's error number, where there is one.
    """

    def __init__(self, step: str, path: str = "", *, errno: int | None = None, detail: str = "") -> None:
        super().__init__(_failed(step, path, detail) + "; it may have happened: open it anew and load what is there")
        self.step = step
        self.path = path
        self.errno = errno


def _failed(step: str, path: str, detail: str) -> str:
    return step + (f" {path}" if path else "") + (f": {detail}" if detail else "")


class CorruptSnapshotError(SwooshError):
    """A stored snapshot is not what was written.

    Attributes:
        path: Which one.
        reason: What is wrong with it.
        others: The names of older generations that exist, newest first.
    """

    def __init__(self, path: str, reason: str, *, others: tuple[str, ...] | None = None) -> None:
        todo = "restore it from a backup, or load an older generation with fallback=True"
        if others is not None:  # where somebody has looked
            todo = "no older generation exists; restore it from a backup"
        if others:
            todo = f"older generations exist: {', '.join(others)}; restore one, or load with fallback=True"
        super().__init__(f"{path}: {reason}; {todo}")
        self.path = path
        self.reason = reason
        self.others: tuple[str, ...] = others or ()


class DivergenceError(SwooshError):
    """Replaying the same events has given another state, so that what is stored cannot be what they lead to.

    Attributes:
        path: Where in the state the difference begins, such as ``state.tasks.build.attempts``.
        older: The index from which on entries were replayed.
        newer: The index whose state is another.
    """

    def __init__(self, where: str, path: str, *, older: int, newer: int) -> None:
        super().__init__(
            f"{where}: replayed from index {older}, the state at index {newer} differs at {path};"
            " have apply depend on nothing but its arguments, or mark its change by a new event"
        )
        self.where = where
        self.path = path
        self.older = older
        self.newer = newer


class CorruptJournalError(SwooshError):
    """A stored batch is not what was written.

    Attributes:
        path: The segment.
        offset: Where in it the damage begins, in bytes; None where the batch is whole, but not the events in it.
        index: The index of the first entry that cannot be read.
    """

    def __init__(
        self,
        path: str,
        reason: str,
        *,
        offset: int | None,
        index: int,
        todo: str = "restore the journal from a backup",
    ) -> None:
        place = f"index {index}" if offset is None else f"at byte {offset}, index {index}"
        super().__init__(f"{path}: {place}: {reason}; {todo}")
        self.path = path
        self.reason = reason
        self.offset = offset
        self.index = index

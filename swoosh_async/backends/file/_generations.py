"""Snapshots of one path: the path is always the latest, and older generations stay beside it as immutable files.

A save, in one call, relative to one directory descriptor:

    lock → compare with the stored position → create temp → write → fsync temp → link the generation (keep > 1)
    → rename over the path → close → fsync directory → probe → acknowledged → remove older generations

The rename is before the directory's fsync, for it is the rename that the fsync is to make durable. Up to the rename a
failure leaves everything as it was; from it on, the outcome is unknown, and nothing is rolled back.

This file does not know what is in a snapshot; the blob tells it the position of what is stored.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
import sys
from collections.abc import Iterator, Sequence

from ...errors import (
    BackendError,
    CorruptSnapshotError,
    LimitExceededError,
    OutcomeUnknownError,
    SnapshotNotFoundError,
    StaleSnapshotError,
)
from ..base import Blob, Position, SnapshotBackend, Source, Stored
from ._directory import Directory, Home
from ._disk import FULL, Disk, OsDisk, Step, let_go, write_all
from ._lock import FileLock
from ._names import Generation
from ._source import FileSource, Identity, identity_of

if sys.platform != "win32":
    import fcntl

__all__ = ["LOCK_TIMEOUT_S", "MAX_FILE_BYTES", "Generations"]

LOCK_TIMEOUT_S = 10.0
"""How long a save waits for a writer in another process, in seconds, unless told otherwise."""

MAX_FILE_BYTES = 4 << 30
"""The largest snapshot file that is written or read, unless told otherwise."""

_MODE = 0o600

_log = logging.getLogger("swoosh_async")


class _Current:
    """What a save finds under its path.

    Attributes:
        mode: The permissions of what is there; None where nothing is.
        position: Its position; None where nothing is, or it is damaged.
        damaged: Whether it is to be set aside.
        named: Whether it has other names, so that there may be generations.
    """

    def __init__(self, facts: os.stat_result | None = None, position: Position | None = None) -> None:
        self.mode = None if facts is None else stat.S_IMODE(facts.st_mode) & 0o777
        self.position = position
        self.damaged = facts is not None and position is None
        self.named = facts is not None and facts.st_nlink > 1


class Generations(SnapshotBackend):
    """The snapshots of one path on a local file system.

    Args:
        path: The latest snapshot's path. A symlink there is followed once, when it is first used.
        mode: The permissions of the files; None for 0600, or those of the file that is replaced.
        lock_timeout_s: How long a write waits for a writer in another process, in seconds.
        max_file_bytes: The largest snapshot that is written or read.
        disk: The system calls that change the disk; None for the operating system's own.

    Raises:
        ValueError: The path has no file name.
        BackendError: The system is Windows, which has neither a directory's fsync nor flock.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        mode: int | None = None,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
        max_file_bytes: int = MAX_FILE_BYTES,
        disk: Disk | None = None,
    ) -> None:
        given = os.fspath(path)
        if sys.platform == "win32":
            raise BackendError("open snapshot store", given, detail="Windows cannot make a rename durable")
        if os.path.basename(given) in ("", ".", ".."):
            raise ValueError("the path of a snapshot must end in a file name")
        self._disk: Disk = disk if disk is not None else OsDisk()
        self._home = Home(os.path.abspath(given), self._disk)
        self._mode = mode
        self._lock_timeout_s = lock_timeout_s
        self._max_file_bytes = max_file_bytes
        self._swept = False
        self._durable: Identity | None = None
        self._saved: tuple[Identity, Position] | None = None

    @property
    def where(self) -> str:
        return self._home.path

    # ------------------------------------------------------------------ write

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        with self._home.open(create=True) as here, self._lock(here) as lock:
            first = not self._swept
            if first:
                here.sweep()
            current = self._current(blob, here, allow_rollback=allow_rollback)
            stored = self._replace(blob, current, here, lock, keeps=keep > 1)
            if first or keep > 1 or current.named:
                self._remove_surplus(here, keep)
            self._swept = True
            return stored

    def _current(self, blob: Blob, here: Directory, *, allow_rollback: bool) -> _Current:
        """What stands under the path, once it is clear that `blob` may replace it."""
        facts = here.facts(here.names.latest)
        if facts is None:
            return _Current()
        if self._saved is not None and self._saved[0] == identity_of(facts):
            position = self._saved[1]  # as this store has left it
            if position <= blob.position or allow_rollback:
                return _Current(facts, position)
        source = here.open_file(here.names.latest, "read snapshot header")
        if source is None:
            return _Current()
        with source:
            self._check_size(source)
            try:
                position = blob.position_of(source)
                blob.verify(source)  # damage is neither believed nor, unseen, overwritten
                if position > blob.position and not allow_rollback:
                    raise StaleSnapshotError(self.where, index=blob.position, stored=position)
            except CorruptSnapshotError as error:
                _log.warning("%s is damaged (%s) and will be set aside", self.where, error.reason)
                return _Current(source.facts)
            return _Current(source.facts, position)

    def _replace(self, blob: Blob, current: _Current, here: Directory, lock: FileLock, *, keeps: bool) -> Stored:
        made: list[str] = []
        temp, fd = self._create_temp(here, self._mode or current.mode or _MODE)
        try:
            size = self._write(blob, fd, here.path_of(temp))
            with Step("stat snapshot", here.path_of(temp)):  # XFS refuses it once the disk has failed
                saved = identity_of(os.fstat(fd))
            name = here.names.latest
            for source, target in self._links(blob, current, here, temp, keeps=keeps):
                with Step("link snapshot generation", here.path_of(target)):
                    self._disk.link(source, target, here.fd)
                made.append(target)
                if source == temp:
                    name = target
            with Step("rename snapshot", self.where, unknown=True, but=FULL):
                self._disk.rename(temp, here.names.latest, here.fd)
        except BaseException as error:
            here.take_back([temp] if isinstance(error, OutcomeUnknownError) else [temp, *made])
            let_go(fd)
            raise
        with Step("close snapshot temp file", self.where, unknown=True):
            self._disk.close(fd)
        with Step("fsync snapshot directory", here.path, unknown=True):
            self._disk.fsync(here.fd)
        with Step("probe snapshot directory", here.path, unknown=True):
            lock.probe()
        self._durable = saved
        self._saved = saved, blob.position
        return Stored(name, size)

    def _create_temp(self, here: Directory, mode: int) -> tuple[str, int]:
        """A new temp file, which no sweeper takes for a dead writer's: it is locked for as long as it is open."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        temp, fd = "", -1
        try:
            with Step("create temp snapshot", self.where):
                while True:
                    temp = f"snapshot-{secrets.token_hex(8)}.tmp"
                    fd = self._disk.open(temp, flags, _MODE, here.fd)
                    if mode != _MODE:
                        self._disk.fchmod(fd, mode)
                    try:
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:  # a sweeper is about to remove it, and may stand still there for ever
                        here.take_back([temp])
                    else:
                        if os.fstat(fd).st_nlink:
                            break
                    let_go(fd)
                    fd = -1
            return temp, fd  # noqa: TRY300  the pair needs memory, too
        except BaseException:  # also where there is none to go on
            if fd >= 0:
                here.take_back([temp])
                let_go(fd)
            raise

    def _write(self, blob: Blob, fd: int, path: str) -> int:
        bound = self._max_file_bytes

        def bounded() -> Iterator[bytes]:
            size = blob.head_bytes
            for piece in blob.body():
                size += len(piece)
                if size > bound:
                    raise LimitExceededError(self.where, limit="max_file_bytes", found=None, bound=bound)
                yield piece

        with Step("write snapshot", path):
            size = write_all(self._disk, fd, bounded(), blob.head_bytes)
            write_all(self._disk, fd, (blob.head(),), 0)
        with Step("fsync snapshot", path):
            self._disk.fsync(fd)
        return size

    def _links(
        self, blob: Blob, current: _Current, here: Directory, temp: str, *, keeps: bool
    ) -> Iterator[tuple[str, str]]:
        """The names to give before the rename: to what it would lose, and to the new snapshot."""
        latest = here.names.latest
        if current.damaged:
            yield latest, here.names.corrupt(secrets.token_hex(4))
        if keeps:
            generations, named = here.generations()
            number = here.names.next_number(generations)
            changed = bool(self._remove(here, here.names.orphans(generations, named)))
            if current.position is not None and named is None:
                yield latest, here.names.generation(number, current.position).name
                number += 1
                changed = True
            if changed:  # or, after a crash, one that never was the latest might stand there as an older one
                with Step("fsync snapshot directory", here.path):
                    self._disk.fsync(here.fd)
            yield temp, here.names.generation(number, blob.position).name

    def prune(self, keep: int) -> Sequence[str]:
        try:
            with self._home.open(create=False) as here, self._lock(here):
                return self._prune(here, keep)
        except SnapshotNotFoundError:
            return ()

    def _prune(self, here: Directory, keep: int) -> list[str]:
        generations, latest = here.generations()
        return self._remove(here, here.names.surplus(generations, latest, keep))

    def _remove(self, here: Directory, generations: Sequence[Generation]) -> list[str]:
        for generation in generations:
            with Step("remove snapshot generation", here.path_of(generation.name)):
                self._disk.unlink(generation.name, here.fd)
        return [g.name for g in generations]

    def _remove_surplus(self, here: Directory, keep: int) -> None:
        """Prune behind an acknowledged save, whose success does not depend on it: the next save tries again."""
        try:
            self._prune(here, keep)
        except OSError as error:
            _log.warning("older generations stay for now: %s", error)

    def _lock(self, here: Directory) -> FileLock:
        name = here.names.lock
        mode = _MODE if self._mode is None else self._mode
        path = here.path_of(name)
        return FileLock(self._disk, name, here.fd, path=path, mode=mode, timeout_s=self._lock_timeout_s)

    # ------------------------------------------------------------------ read

    def open(self, name: str | None = None) -> Source:
        with self._home.open(create=False) as here:
            source = self._find(here, name)
            try:
                self._check_size(source)
                self._make_durable(source, here)
            except BaseException:
                source.close()
                raise
            return source

    def _find(self, here: Directory, name: str | None) -> FileSource:
        names = here.names
        ours = name is None or name == names.latest or names.parse(name) is not None
        source = here.open_file(name or names.latest, "open snapshot") if ours else None
        if source is not None:
            return source
        others = tuple(g.name for g in here.generations()[0]) if name is None else ()
        raise SnapshotNotFoundError(self.where, others=others, detail=name or "")

    def _check_size(self, source: FileSource) -> None:
        found, bound = source.size_bytes, self._max_file_bytes
        if found > bound:
            raise LimitExceededError(source.path, limit="max_file_bytes", found=found, bound=bound)

    def _make_durable(self, source: FileSource, here: Directory) -> None:
        """Make what another process may have left unfinished survive a power cut, before anybody acts on it."""
        identity = identity_of(source.facts)
        if identity == self._durable:
            return
        with Step("fsync snapshot", source.path):
            try:
                self._disk.fsync(source.fd)
            except OSError:
                source.evict()
                raise
        with Step("fsync snapshot directory", here.path):
            self._disk.fsync(here.fd)
        here.probe(here.names.lock, "probe snapshot directory")
        if source.name == here.names.latest:
            self._durable = identity

    def names(self) -> Sequence[str]:
        try:
            with self._home.open(create=False) as here:
                generations, latest = here.generations()
                kept = [g.name for g in here.names.kept(generations, latest)]
                unnamed = latest is None and here.facts(here.names.latest) is not None
                return [here.names.latest, *kept] if unnamed else kept
        except SnapshotNotFoundError:
            return ()

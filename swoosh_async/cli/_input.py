"""What a command is given to read: a snapshot's path, a directory that is a backend, or ``-`` for standard input."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import aiofiles
import anyio

from ..backends.base import Source
from ..backends.file import MAX_FILE_BYTES, Generations
from ..codec import Decoded, SnapshotCodec
from ..errors import BackendError, LimitExceededError, SchemaVersionError, SnapshotNotFoundError
from ._reading import ReadingDisk
from ._terminal import Report, bar, printable

__all__ = ["any_schema", "decoded", "older", "older_in", "opened", "reason_of"]

_STANDARD_INPUT = "-"

_PIECE_BYTES = 1 << 20

any_schema: SnapshotCodec[Any] = SnapshotCodec(Any, schema_version=(1 << 63) - 1)
"""What tells facts of a snapshot of any schema, and checks it."""


class Held(Source):
    """Bytes in memory."""

    def __init__(self, name: str, data: bytes | bytearray) -> None:
        self.name = name
        self.size_bytes = len(data)
        self._data = memoryview(data)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill the buffer from the offset on."""
        piece = self._data[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)


class Watched(Source):
    """A source that tells how far it was read.

    Args:
        source: What is read; it is closed by whoever opened it.
        report: Called with how many bytes were read.
    """

    def __init__(self, source: Source, report: Report) -> None:
        self.name = source.name
        self.size_bytes = source.size_bytes
        self._source = source
        self._report = report

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill the buffer from the offset on."""
        size = self._source.read_into(buffer, offset)
        self._report(offset + size)
        return size


@contextmanager
def opened(path: str, name: str | None = None) -> Generator[Source, None, None]:
    """The snapshot at that path, open; bounded in size, and never a FIFO or a device. Reading much of it shows a bar.

    Args:
        path: Where it is.
        name: Which generation it is, by its name; None for the latest.

    Raises:
        SnapshotNotFoundError: There is none.
        LimitExceededError: It is larger than may be read.
        BackendError: It cannot be opened, or is no regular file.
    """
    with (
        _standard_input() if path == _STANDARD_INPUT else _snapshots(path).open(name) as source,
        bar(
            f"reading {printable(os.path.join(path, name) if name else path)}", source.size_bytes, unit="bytes"
        ) as report,
    ):
        yield Watched(source, report)


def older(path: str) -> Sequence[str]:
    """The names of the older generations beside a snapshot, newest first."""
    return () if path == _STANDARD_INPUT else _snapshots(path).names()[1:]


def older_in(directory: str) -> Sequence[str]:
    """The names of the generations of a backend's snapshot, but for the one that is the latest, newest first."""
    snapshots = _snapshots(directory)
    names = snapshots.names()
    return names[1:] if os.path.lexists(snapshots.where) else names


def reason_of(path: str, error: Exception) -> str:
    """Why the snapshot at that path cannot be read, for people."""
    if not isinstance(error, SnapshotNotFoundError):
        return str(error)
    if error.others:
        return f"not found; older generations exist: {', '.join(error.others)}"
    return "a directory without a FileBackend's snapshot; name the file" if os.path.isdir(path) else "not found"


def decoded(source: Source) -> Decoded[Any]:
    """The snapshot, with its state as plain data, whatever its type and its schema version.

    Raises:
        CorruptSnapshotError: It is not what was written, or no snapshot.
        FormatVersionError: Its envelope is newer than this reader.
        LimitExceededError: It decompresses to more than is allowed.
        BackendError: It cannot be read.
    """
    try:
        return SnapshotCodec[Any](Any).read(source)
    except SchemaVersionError as error:
        if error.found < 1:
            raise
        return SnapshotCodec[Any](Any, schema_version=error.found).read(source)


def _snapshots(path: str) -> Generations:
    """A directory is a backend: `FileBackend` has its snapshots in it under the name ``snapshot``."""
    name = os.path.join(path, "snapshot") if os.path.isdir(path) else os.path.abspath(path)
    return Generations(name, disk=ReadingDisk())


def _standard_input() -> Source:
    if sys.stdin is None:
        raise BackendError("read standard input", detail="it is closed")
    with _interruptible():
        return Held("standard input", anyio.run(_read_all))


async def _read_all() -> bytearray:
    data = bytearray()
    while piece := await aiofiles.stdin_bytes.read(_PIECE_BYTES):
        data += piece
        if len(data) > MAX_FILE_BYTES:
            raise LimitExceededError("standard input", limit="max_file_bytes", found=None, bound=MAX_FILE_BYTES)
    return data


@contextmanager
def _interruptible() -> Generator[None, None, None]:
    """Let Ctrl-C end the process at once: nothing else ends a thread that waits for a terminal's input."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

"""A blob that knows itself again, for a suite that knows no codec: its head tells its position, and checks its body."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from itertools import count

from ..backends.base import Position, SnapshotBackend, Source, Stored
from ..errors import CorruptSnapshotError, FormatVersionError, SchemaVersionError

__all__ = ["HEAD_BYTES", "STEPS", "PlainBlob", "check", "content", "kept", "put"]

_HEAD = re.compile(rb"(plain|other|newer) (\d{20}) ([0-9a-f]{64}) ([0-9a-f]{64})\n")
HEAD_BYTES = 157

STEPS = ("begin", "piece", "end", "head")
"""What is asked of a blob, in order."""

_serials = count(1)


class PlainBlob:
    """A blob of given pieces.

    Args:
        position: The position that it stands for.
        pieces: Its body; None for two short ones that no other blob has.
        kind: ``plain``; or ``newer``, a format that no writer of plain ones knows, or ``other``, likewise a schema.
        hook: Called with each step of being stored: ``begin`` before the first piece, ``piece`` before each other,
            ``end`` behind the last, ``head`` when the head is asked for.

    Attributes:
        body_bytes: The whole body.
        steps: The steps so far.
    """

    head_bytes = HEAD_BYTES

    def __init__(
        self,
        position: int,
        pieces: tuple[bytes, ...] | None = None,
        *,
        kind: str = "plain",
        hook: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.position = Position(position)
        serial = next(_serials)
        self.pieces = pieces if pieces is not None else (b"blob %d, " % serial, b"which stands for %d" % position)
        self.body_bytes = b"".join(self.pieces)
        self.steps: list[str] = []
        self._kind = kind
        self._hook = hook

    @property
    def data(self) -> bytes:
        """All that is to be stored."""
        known = b"%s %020d " % (self._kind.encode(), self.position)
        known += hashlib.sha256(known + self.body_bytes).hexdigest().encode() + b" "
        return known + hashlib.sha256(known).hexdigest().encode() + b"\n" + self.body_bytes

    def body(self) -> Iterator[bytes]:
        """The pieces."""
        self._step("begin")
        for number, piece in enumerate(self.pieces):
            if number:
                self._step("piece")
            yield piece
        self._step("end")

    def head(self) -> bytes:
        """The head."""
        self._step("head")
        return self.data[:HEAD_BYTES]

    def position_of(self, stored: Source) -> Position:
        """The position in the head of what is stored."""
        found = _read_head(stored.read(0, HEAD_BYTES), stored.name)
        if found[1] == b"newer":
            raise FormatVersionError(stored.name, found=2, supported=1)
        if found[1] == b"other":
            raise SchemaVersionError(found=2, supported=1)
        return Position(int(found[2]))

    def verify(self, stored: Source) -> None:
        """Check all of what is stored."""
        check(stored.read(0, stored.size_bytes), stored.name)

    def _step(self, name: str) -> None:
        self.steps.append(name)
        self._hook(name)


def _read_head(data: bytes, name: str) -> re.Match[bytes]:
    found = _HEAD.fullmatch(data)
    if found is None or hashlib.sha256(data[:92]).hexdigest().encode() != found[4]:
        raise CorruptSnapshotError(name, "its head is damaged")
    return found


def check(data: bytes, name: str) -> Position:
    """Check all bytes of a stored blob; the position that it stands for.

    Raises:
        CorruptSnapshotError: They are not what was put.
    """
    found = _read_head(data[:HEAD_BYTES], name)
    if hashlib.sha256(data[:27] + data[HEAD_BYTES:]).hexdigest().encode() != found[3]:
        raise CorruptSnapshotError(name, "its body is damaged")
    return Position(int(found[2]))


def put(backend: SnapshotBackend, blob: PlainBlob, *, keep: int = 1, allow_rollback: bool = False) -> Stored:
    """Put a blob; of all but its position there is no need to speak."""
    return backend.put(blob, keep=keep, allow_rollback=allow_rollback)


def content(backend: SnapshotBackend, name: str | None = None) -> bytes:
    """All bytes of the snapshot of that name, or of the latest."""
    with backend.open(name) as source:
        data = source.read(0, source.size_bytes)
        assert len(data) == source.size_bytes
        return data


def kept(backend: SnapshotBackend) -> list[int]:
    """The positions of what is kept, newest first, every byte checked; the latest is the first of them.

    Raises:
        CorruptSnapshotError: One of them is not what was put.
    """
    contents = [content(backend, name) for name in backend.names()]
    if contents:
        assert contents[0] == content(backend)
    return [check(data, "what is kept") for data in contents]

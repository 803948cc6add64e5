"""A snapshot that is encoded as it is written: pieces first, and the head with their checksum last. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from ..models import Cursor
from ._envelope import Checksum, Head
from ._facts import Facts, Stored

__all__ = ["BLOCK_BYTES", "EncodedSnapshot"]

BLOCK_BYTES = 1 << 17
"""How many bytes are handed on at a time."""


class _Reader(Protocol):
    """Who reads what is stored: a codec."""

    def facts(self, stored: Stored) -> Facts: ...
    def verify(self, stored: Stored) -> Facts: ...


class EncodedSnapshot:
    """A snapshot on its way to a backend: a body in pieces, and a head with the checksum, which is known last.

    Iterating it gives all of the file's bytes in pieces, the head first, and holds them in memory meanwhile; a backend
    that can write the head last asks for `body()` and then for `head()`.
    """

    def __init__(
        self,
        codec: _Reader,
        cursor: Cursor,
        head: Head,
        body: Callable[[], Iterable[bytes | memoryview]],
        breathe: Callable[[], object],
        *,
        eager: bool = False,
    ) -> None:
        self._codec = codec
        self._breathe = breathe
        self._head = head
        self._body = body
        self._checksum = Checksum(head.before, head.after)
        self.cursor = cursor
        self.eager = eager
        """Whether the state could not be isolated by its type, and was encoded at once."""

    @property
    def position(self) -> Any:
        """The index of the last event that is in it."""
        return self.cursor.index

    @property
    def head_bytes(self) -> int:
        """The length of the head."""
        return len(self._head)

    def body(self) -> Iterator[bytes]:
        """The pieces that follow the head; encoded as they are asked for, anew if they are asked for again.

        Raises:
            InvalidStateError: The state would not come back as it is.
            LimitExceededError: It would decompress to more than `max_decoded_bytes`.
        """
        self._checksum = Checksum(self._head.before, self._head.after)
        block: list[bytes | memoryview] = []
        size = 0
        for piece in self._body():
            if not piece:
                self._breathe()
                continue
            block.append(piece)
            size += len(piece)
            if size >= BLOCK_BYTES:
                yield self._added(block)
                block, size = [], 0
        if block:
            yield self._added(block)

    def _added(self, block: list[bytes | memoryview]) -> bytes:
        """The pieces as one, in the checksum too; adding that up lets go of the GIL, for long enough to be a breath."""
        joined = b"".join(block)
        self._checksum.update(joined)
        return joined

    @property
    def checksum(self) -> str:
        """The checksum, once the body is exhausted."""
        return f"sha256:{self._checksum.digits()}"

    def head(self) -> bytes:
        """The head, once the body is exhausted."""
        return self._head.sealed(self._checksum.digits())

    def __iter__(self) -> Iterator[bytes]:
        body = list(self.body())
        yield self.head()
        yield from body

    def position_of(self, stored: Stored) -> Any:
        """The position of a stored snapshot, by its head; see `SnapshotCodec.facts` for what it raises."""
        return self._codec.facts(stored).cursor.index

    def verify(self, stored: Stored) -> None:
        """Check every byte of a stored snapshot.

        Raises:
            CorruptSnapshotError: It is not what was written.
        """
        self._codec.verify(stored)

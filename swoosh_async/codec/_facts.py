"""What a stored snapshot says of itself, as its head tells it. Pure."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from ..models import Cursor
from ._envelope import Frame, Header
from ._wire import WireFormat

__all__ = ["Facts", "Opened", "Stored", "facts_of", "format_of"]


class Stored(Protocol):
    """Stored bytes, as far as they are looked at here; backends call it a source."""

    name: str
    size_bytes: int

    def read(self, offset: int, size: int) -> bytes: ...
    def read_into(self, buffer: memoryview, offset: int) -> int: ...


class Facts(msgspec.Struct, frozen=True):
    """What a stored snapshot says of itself, besides its state.

    Attributes:
        cursor: The index and the timestamp up to which events are in it.
        checksum: ``sha256:`` and 64 hexadecimal digits; "" where it carries none, as a file of the Go package.
        schema_version: The state's schema version.
        format_version: The version of the envelope's format; None where it has none, as a file of the Go package.
        format: The wire format.
        compression: How it is compressed.
        size_bytes: How long it is, as it is stored.
    """

    cursor: Cursor
    checksum: str
    schema_version: int
    format_version: int | None
    format: WireFormat
    compression: Literal["zstd"] | None
    size_bytes: int


class Opened(msgspec.Struct):
    """Verified bytes on their way to a state."""

    header: Header
    facts: Facts
    state: memoryview


def format_of(inner: bytes) -> WireFormat:
    """The wire format of an envelope that begins so."""
    return "json" if inner[:1] == b"{" else "msgpack"


def facts_of(header: Header, digits: str, frame: Frame, inner: bytes, size_bytes: int) -> Facts:
    """What a header says, and the frame around it.

    Args:
        header: The envelope's header.
        digits: The checksum's digits.
        frame: What stands around the envelope.
        inner: The envelope's beginning, decompressed.
        size_bytes: How long all of it is, as it is stored.
    """
    return Facts(
        cursor=Cursor(header.last_applied_index, header.last_applied_hlc),
        checksum=f"sha256:{digits}",
        schema_version=header.schema_version,
        format_version=header.format,
        format=frame.format or format_of(inner),
        compression="zstd" if frame.format is None else None,
        size_bytes=size_bytes,
    )

"""The envelope around a state: the bytes before it, the checksum over all, and what kind of file it is.

    JSON          an object of six entries: {"checksum":"sha256:<64 hex>","format":1,"last_applied_hlc":"…",
                  "last_applied_index":42,"schema_version":1,"state":…}, without the line break
    MessagePack   a map of the same six entries in the same order
    zstd          a skippable frame that holds sha256:<64 hex>, and a frame of either of the above without its checksum

The checksum is of fixed width, stands first, and covers every byte of the file but its own 64 digits. docs/format.md is
the specification. This file is pure, and does not know what a state is.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

from ..models import MAX_INDEX
from ._wire import WireFormat

__all__ = [
    "FORMAT",
    "HEADER_BYTES",
    "MAX_HEADER_BYTES",
    "Checksum",
    "Frame",
    "Head",
    "Header",
    "digits_of",
    "frame_of",
    "read_header",
]

FORMAT = 1
"""The newest format version that this package reads, and the one that it writes."""

HEADER_BYTES = 4096
"""How much of a file is read to find its header, at first."""

MAX_HEADER_BYTES = 1 << 20
"""How long a header may be; only a very long timestamp makes it so."""

_DIGITS = 64
_BLANK = "0" * _DIGITS
_KEY = "sha256:"
_JSON_START = b'{"checksum":"sha256:'
_MSGPACK_START = b"\x86\xa8checksum\xd9\x47sha256:"
_SKIPPABLE = (0x184D2A53).to_bytes(4, "little") + (len(_KEY) + _DIGITS).to_bytes(4, "little")
_ZSTD_START = _SKIPPABLE + _KEY.encode()
_HEX = re.compile(rb"[0-9a-f]{64}")


class Frame(msgspec.Struct, frozen=True):
    """How a file's bytes are laid out, as its first bytes tell.

    Attributes:
        format: The wire format; None where it is inside of a zstd frame.
        digits_at: Where the checksum's digits stand.
        after: Where the rest begins.
    """

    format: WireFormat | None
    digits_at: int
    after: int


_FRAMES = (
    (_JSON_START, Frame("json", len(_JSON_START), len(_JSON_START) + _DIGITS)),
    (_MSGPACK_START, Frame("msgpack", len(_MSGPACK_START), len(_MSGPACK_START) + _DIGITS)),
    (_ZSTD_START, Frame(None, len(_ZSTD_START), len(_ZSTD_START) + _DIGITS)),
)


class Header(msgspec.Struct, frozen=True):
    """What an envelope says of its state.

    Attributes:
        format: The format version.
        last_applied_hlc: As in `Snapshot`.
        last_applied_index: As in `Snapshot`.
        schema_version: The state's schema version, ≥ 1.
        state_at: Where the state begins, counted from `Frame.after` (or from the beginning of what a zstd frame holds).
    """

    format: int
    last_applied_hlc: str
    last_applied_index: int
    schema_version: int
    state_at: int


def frame_of(start: bytes) -> Frame | None:
    """The frame of a file that begins so; None if it is not one of ours."""
    return next((frame for magic, frame in _FRAMES if start.startswith(magic)), None)


def digits_of(start: bytes, frame: Frame) -> str | None:
    """The checksum's digits, as they stand there; None if they are none."""
    digits = start[frame.digits_at : frame.after]
    return digits.decode() if _HEX.fullmatch(digits) else None


class Head:
    """The bytes around a state, with the checksum's digits left open.

    Args:
        wire: The wire format.
        compressed: Whether the envelope is inside of a zstd frame.
        hlc: As in `Snapshot`.
        index: As in `Snapshot`.
        schema_version: The state's.
    """

    def __init__(self, wire: WireFormat, hlc: str, index: int, schema_version: int, *, compressed: bool) -> None:
        self.inner = b""
        """What stands at the beginning of the zstd frame, before the state."""
        rest = _rest(wire, hlc, index, schema_version)
        if compressed:
            self.before, self.after = _ZSTD_START, b""
            self.inner = (b"{" + rest[2:]) if wire == "json" else (b"\x85" + rest)
        else:
            self.before = _JSON_START if wire == "json" else _MSGPACK_START
            self.after = rest
        self.tail = b"}" if wire == "json" else b""
        """What stands behind the state."""

    def __len__(self) -> int:
        return len(self.before) + _DIGITS + len(self.after)

    def sealed(self, digits: str) -> bytes:
        """The head with the checksum's digits."""
        return self.before + digits.encode() + self.after


def _rest(wire: WireFormat, hlc: str, index: int, schema_version: int) -> bytes:
    """The envelope from behind the checksum's digits up to the state."""
    entries: dict[str, object] = {
        "format": FORMAT,
        "last_applied_hlc": hlc,
        "last_applied_index": index,
        "schema_version": schema_version,
    }
    if wire == "json":
        return b'",' + msgspec.json.encode(entries)[1:-1] + b',"state":'
    return msgspec.msgpack.encode(entries)[1:] + msgspec.msgpack.encode("state")


_JSON_REST = re.compile(
    rb'"format":([0-9]{1,9}),"last_applied_hlc":("(?:[^"\\]|\\.)*"),"last_applied_index":([0-9]{1,20}),'
    rb'"schema_version":([0-9]{1,20}),"state":'
)
_JSON_FORMAT = re.compile(rb'"format":([0-9]{1,9}),')


def read_header(wire: WireFormat, rest: bytes) -> Header | None:
    """The header whose bytes begin at `rest`: behind the checksum, or at the beginning of what a zstd frame holds.

    Where the format version is newer, nothing else is read: the rest may be laid out otherwise. None if it is not a
    header, or is cut off.
    """
    return _read_json(rest) if wire == "json" else _read_msgpack(rest)


def _read_json(rest: bytes) -> Header | None:
    skip = 2 if rest[:2] == b'",' else 1  # behind the checksum, or behind the brace
    format_version = _JSON_FORMAT.match(rest, skip)
    if format_version is None:
        return None
    if int(format_version[1]) != FORMAT:
        return Header(int(format_version[1]), "", 0, 0, 0)
    match = _JSON_REST.match(rest, skip)
    if match is None:
        return None
    try:
        hlc = msgspec.json.decode(match[2], type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    index = int(match[3])
    return None if index > MAX_INDEX else Header(FORMAT, hlc, index, int(match[4]), match.end())


def _read_msgpack(rest: bytes) -> Header | None:
    at = 1 if rest[:1] == b"\x85" else 0
    try:
        at = _expect(rest, at, "format")
        format_version, at = _read_int(rest, at)
        if format_version != FORMAT:
            return Header(format_version, "", 0, 0, 0)
        at = _expect(rest, at, "last_applied_hlc")
        hlc, at = _read_str(rest, at)
        at = _expect(rest, at, "last_applied_index")
        index, at = _read_int(rest, at)
        at = _expect(rest, at, "schema_version")
        schema_version, at = _read_int(rest, at)
        at = _expect(rest, at, "state")
    except (ValueError, IndexError):
        return None
    return Header(format_version, hlc, index, schema_version, at)


_FIXINT_MAX = 0x7F
_FIXSTR = range(0xA0, 0xC0)
_STR = range(0xD9, 0xDC)


def _expect(data: bytes, at: int, key: str) -> int:
    found, at = _read_str(data, at)
    if found != key:
        raise ValueError
    return at


def _read_int(data: bytes, at: int) -> tuple[int, int]:
    first = data[at]
    if first <= _FIXINT_MAX:
        return first, at + 1
    width = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}.get(first)
    if width is None or at + 1 + width > len(data):
        raise ValueError
    return int.from_bytes(data[at + 1 : at + 1 + width], "big"), at + 1 + width


def _read_str(data: bytes, at: int) -> tuple[str, int]:
    first = data[at]
    if first in _FIXSTR:
        width, length = 0, first & 0x1F
    elif first in _STR:
        width = 1 << (first - 0xD9)
        length = int.from_bytes(data[at + 1 : at + 1 + width], "big")
    else:
        raise ValueError
    start = at + 1 + width
    if start + length > len(data):
        raise ValueError
    return data[start : start + length].decode(), start + length


class Checksum:
    """SHA-256 (FIPS 180-4) over a file but for its own digits.

    Args:
        before: The bytes before the digits.
        after: Bytes that follow them.
    """

    def __init__(self, before: bytes, after: bytes = b"") -> None:
        self._sum = hashlib.sha256(before)
        self._sum.update(after)

    def update(self, data: bytes | memoryview) -> None:
        """Take in what follows."""
        self._sum.update(data)

    def digits(self) -> str:
        """The 64 hexadecimal digits."""
        return self._sum.hexdigest()

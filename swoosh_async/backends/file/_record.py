"""The record of a journal: whose segments these are, who claimed them last, and from where on they are kept.

One line of JSON with a checksum of its own, so that a person can read it. Pure: bytes in, bytes out.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec

__all__ = ["MAX_RECORD_BYTES", "RECORD_FORMAT", "Record", "read_record", "record_bytes"]

RECORD_FORMAT = 1
MAX_RECORD_BYTES = 4096

_STORE_HEX = 32
_LARGEST = (1 << 63) - 1

_Number = Annotated[int, msgspec.Meta(ge=0, le=_LARGEST)]
_Index = Annotated[int, msgspec.Meta(ge=1, le=_LARGEST)]


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a journal beside its segments.

    Attributes:
        epoch: The latest claim's.
        first: The index of the first entry that is kept.
        format: The version of this format, and of the segments beside it.
        host: Where the latest claimant ran.
        newest: The base of the newest segment, or of one before it that a crash came right behind; 0 where none was.
        pid: Which process it was.
        store: The store's id, 32 hexadecimal digits.
        begins: The index of the first entry that there was ever, or is to be; left out where it is 1.
    """

    epoch: _Number
    first: _Index
    format: int
    host: str
    newest: _Number
    pid: _Number
    store: str
    begins: _Index = 1


class _Sealed(msgspec.Struct):
    checksum: str
    record: msgspec.Raw


def record_bytes(record: Record) -> bytes:
    """The record with its checksum, as it is stored."""
    return _sealed(msgspec.json.encode(record))


def read_record(data: bytes) -> Record | int | None:
    """What these bytes say: a record; a newer format's version; None if they are damaged."""
    try:
        sealed = msgspec.json.decode(data, type=_Sealed)
        inner = bytes(sealed.record)
        if data != _sealed(inner):
            return None
        version = msgspec.json.decode(inner, type=dict[str, object]).get("format")
        if version != RECORD_FORMAT:
            return version if isinstance(version, int) else None
        record = msgspec.json.decode(inner, type=Record)
        return record if len(bytes.fromhex(record.store)) * 2 == _STORE_HEX else None
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


def _sealed(inner: bytes) -> bytes:
    """An encoded record with its checksum."""
    checksum = f"sha256:{hashlib.sha256(inner).hexdigest()}"
    return msgspec.json.encode(_Sealed(checksum, msgspec.Raw(inner))) + b"\n"

"""The naive way: msgspec encodes or decodes the whole state in one call. Blocking."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import msgspec

from .syscalls import replace

__all__ = ["encode", "load", "save", "save_and_decode"]

S = TypeVar("S")

_encoder = msgspec.json.Encoder(order="deterministic")


class _Envelope(msgspec.Struct, Generic[S]):
    """A file of this package, as a decoder sees it."""

    checksum: str
    last_applied_hlc: str
    last_applied_index: int
    schema_version: int
    state: S


def encode(state: Any) -> bytes:
    """The state in deterministic order."""
    return _encoder.encode(state)


def save(path: Path, state: Any) -> None:
    """Encode and write durably."""
    replace(path, encode(state))


def save_and_decode(path: Path, state: Any) -> None:
    """The same, and decode the very bytes as the state's type."""
    data = encode(state)
    msgspec.json.decode(data, type=type(state))
    replace(path, data)


def load(path: Path, state_type: type[S]) -> S:
    """Read a file that this package wrote, add up its checksum, and decode it."""
    data = path.read_bytes()
    hashlib.sha256(data).hexdigest()
    envelope: Any = _Envelope  # for a type that is known at run time only
    return cast("S", msgspec.json.decode(data, type=envelope[state_type]).state)

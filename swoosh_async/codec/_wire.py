"""msgspec's two wire formats behind one face: encode in deterministic order, decode as a type, and put parts together.

This file is pure, and knows nothing of snapshots.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

__all__ = ["Json", "MessagePack", "Wire", "WireFormat"]

WireFormat = Literal["json", "msgpack"]
Hook = Callable[[Any], Any]
DecodeHook = Callable[[type, Any], Any]


class Wire(ABC):
    """One format, with its user's hooks.

    Args:
        enc_hook: As msgspec's: turns an object of a type that msgspec does not know into one that it does.
        dec_hook: As msgspec's: the way back.
    """

    format: WireFormat

    def __init__(self, enc_hook: Hook | None, dec_hook: DecodeHook | None) -> None:
        self._enc_hook = enc_hook
        self._dec_hook = dec_hook

    encode: Callable[[Any], bytes]
    """The bytes of a value: mappings with str keys sorted by key, sets sorted."""

    @abstractmethod
    def decoder(self, declared: Any) -> Callable[[Any], Any]:
        """A strict decoder of values of that type; see `DECODE_ERRORS` for what it raises."""

    @abstractmethod
    def key(self, key: Any) -> bytes:
        """The bytes of a mapping's key."""

    @abstractmethod
    def key_order(self, encoded: bytes) -> Any:
        """What encoded keys are sorted by."""

    @abstractmethod
    def mapping(self, entries: Sequence[tuple[bytes, bytes]]) -> bytes:
        """A mapping of encoded keys and values, in that order."""

    @abstractmethod
    def sequence(self, items: Sequence[bytes]) -> bytes:
        """A sequence of encoded items."""


class Json(Wire):
    """UTF-8 JSON without spaces."""

    format = "json"

    def __init__(self, enc_hook: Hook | None, dec_hook: DecodeHook | None) -> None:
        super().__init__(enc_hook, dec_hook)
        self.encode = msgspec.json.Encoder(enc_hook=enc_hook, order="deterministic").encode
        self._plain = msgspec.json.Encoder(enc_hook=enc_hook).encode

    def decoder(self, declared: Any) -> Callable[[Any], Any]:
        return msgspec.json.Decoder(declared, dec_hook=self._dec_hook).decode

    def key(self, key: Any) -> bytes:
        return self._plain({key: None})[1 : -len(":null}")]

    def key_order(self, encoded: bytes) -> Any:
        return msgspec.json.decode(encoded, type=str)

    def mapping(self, entries: Sequence[tuple[bytes, bytes]]) -> bytes:
        return b"{" + b",".join(key + b":" + value for key, value in entries) + b"}"

    def sequence(self, items: Sequence[bytes]) -> bytes:
        return b"[" + b",".join(items) + b"]"


class MessagePack(Wire):
    """MessagePack, https://github.com/msgpack/msgpack/blob/master/spec.md."""

    format = "msgpack"

    def __init__(self, enc_hook: Hook | None, dec_hook: DecodeHook | None) -> None:
        super().__init__(enc_hook, dec_hook)
        self.encode = msgspec.msgpack.Encoder(enc_hook=enc_hook, order="deterministic").encode

    def decoder(self, declared: Any) -> Callable[[Any], Any]:
        return msgspec.msgpack.Decoder(declared, dec_hook=self._dec_hook).decode

    def key(self, key: Any) -> bytes:
        return self.encode(key)

    def key_order(self, encoded: bytes) -> Any:
        return encoded

    def mapping(self, entries: Sequence[tuple[bytes, bytes]]) -> bytes:
        return _length(len(entries), 0x80, 0xDE) + b"".join(key + value for key, value in entries)

    def sequence(self, items: Sequence[bytes]) -> bytes:
        return _length(len(items), 0x90, 0xDC) + b"".join(items)


def _length(n: int, fix: int, wide: int) -> bytes:
    """The header of a map or an array: of up to 15, up to 2**16 - 1, or up to 2**32 - 1 entries."""
    if n >> 4 == 0:
        return bytes((fix | n,))
    return bytes((wide,)) + n.to_bytes(2, "big") if n >> 16 == 0 else bytes((wide + 1,)) + n.to_bytes(4, "big")

"""msgspec's two wire formats behind one face: encode in deterministic order, decode as a type, and put parts together.

This file is pure, and knows nothing of snapshots.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import GenericAlias
from typing import Any, Literal

import msgspec

from ._containers import CONTAINERS, container_of
from ._values import class_of

__all__ = ["TEXT_PIECE", "DecodeHook", "Hook", "Json", "MessagePack", "Wire", "WireFormat"]

WireFormat = Literal["json", "msgpack"]
Hook = Callable[[Any], Any]
DecodeHook = Callable[[type, Any], Any]

TEXT_PIECE = 1 << 18
"""How many characters of a long str are encoded at a time."""


class Wire(ABC):
    """One format, with its user's hooks.

    Args:
        enc_hook: As msgspec's: turns an object of a type that msgspec does not know into one that it does.
        dec_hook: As msgspec's: the way back.
    """

    format: WireFormat

    def __init__(self, enc_hook: Hook | None, dec_hook: DecodeHook | None) -> None:
        self._user_enc_hook = enc_hook
        self._user_dec_hook = dec_hook

    def _enc_hook(self, value: Any) -> Any:
        container = CONTAINERS.get(class_of(value))
        if container is not None:
            return dict(container.iterate(value))
        if self._user_enc_hook is not None:
            return self._user_enc_hook(value)
        raise NotImplementedError(f"a {type(value).__name__} is not supported without an enc_hook")

    def hooked(self, value: Any) -> Any:
        """What a hook makes of a value that msgspec does not know."""
        return self._enc_hook(value)

    def _dec_hook(self, declared: Any, plain: Any) -> Any:
        found = container_of(declared)
        if found is not None:
            container, key, value = found
            entries: Any = GenericAlias(dict, (key, value))
            str_keys = self.format == "json"
            return container.rebuild(msgspec.convert(plain, entries, str_keys=str_keys, dec_hook=self._dec_hook))
        if self._user_dec_hook is not None:
            return self._user_dec_hook(declared, plain)
        raise NotImplementedError("not supported without a dec_hook")

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
    def opening(self, length: int, *, mapping: bool) -> bytes:
        """What stands before the entries of a mapping, or the items of a sequence, of that length."""

    @abstractmethod
    def closing(self, *, mapping: bool) -> bytes:
        """What stands behind them."""

    @abstractmethod
    def inner(self, encoded: bytes, length: int) -> memoryview:
        """An encoded mapping or sequence of that length without what stands around it."""

    comma: bytes
    """What stands between two entries or items."""

    colon: bytes
    """What stands between a key and its value."""

    @abstractmethod
    def text_opening(self, text: str) -> bytes:
        """What stands before the contents of a str, and `text_closing` behind them."""

    text_closing: bytes

    @abstractmethod
    def text(self, piece: str) -> bytes:
        """A piece of the contents of a str."""

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
        self.encode = msgspec.json.Encoder(enc_hook=self._enc_hook, order="deterministic").encode
        self._plain = msgspec.json.Encoder(enc_hook=self._enc_hook).encode

    def decoder(self, declared: Any) -> Callable[[Any], Any]:
        return msgspec.json.Decoder(declared, dec_hook=self._dec_hook).decode

    def key(self, key: Any) -> bytes:
        return self._plain({key: None})[1 : -len(":null}")]

    def key_order(self, encoded: bytes) -> Any:
        return msgspec.json.decode(encoded, type=str)

    comma = b","
    colon = b":"
    text_closing = b'"'

    def opening(self, length: int, *, mapping: bool) -> bytes:  # noqa: ARG002  JSON does not say lengths
        return b"{" if mapping else b"["

    def closing(self, *, mapping: bool) -> bytes:
        return b"}" if mapping else b"]"

    def inner(self, encoded: bytes, length: int) -> memoryview:  # noqa: ARG002
        return memoryview(encoded)[1:-1]

    def text_opening(self, text: str) -> bytes:  # noqa: ARG002
        return b'"'

    def text(self, piece: str) -> bytes:
        return self._plain(piece)[1:-1]

    def mapping(self, entries: Sequence[tuple[bytes, bytes]]) -> bytes:
        return b"{" + b",".join(key + b":" + value for key, value in entries) + b"}"

    def sequence(self, items: Sequence[bytes]) -> bytes:
        return b"[" + b",".join(items) + b"]"


class MessagePack(Wire):
    """MessagePack, https://github.com/msgpack/msgpack/blob/master/spec.md."""

    format = "msgpack"

    def __init__(self, enc_hook: Hook | None, dec_hook: DecodeHook | None) -> None:
        super().__init__(enc_hook, dec_hook)
        self.encode = msgspec.msgpack.Encoder(enc_hook=self._enc_hook, order="deterministic").encode

    def decoder(self, declared: Any) -> Callable[[Any], Any]:
        return msgspec.msgpack.Decoder(declared, dec_hook=self._dec_hook).decode

    def key(self, key: Any) -> bytes:
        return self.encode(key)

    def key_order(self, encoded: bytes) -> Any:
        return encoded

    comma = b""
    colon = b""
    text_closing = b""

    def opening(self, length: int, *, mapping: bool) -> bytes:
        return _length(length, 0x80, 0xDE) if mapping else _length(length, 0x90, 0xDC)

    def closing(self, *, mapping: bool) -> bytes:  # noqa: ARG002  MessagePack does not say ends
        return b""

    def inner(self, encoded: bytes, length: int) -> memoryview:
        return memoryview(encoded)[len(_length(length, 0x80, 0xDE)) :]

    def text_opening(self, text: str) -> bytes:
        pieces = (text[at : at + TEXT_PIECE] for at in range(0, len(text), TEXT_PIECE))
        size = len(text) if text.isascii() else sum(len(piece.encode()) for piece in pieces)
        if size >> 5 == 0:
            return bytes((0xA0 | size,))
        width = 1 if size >> 8 == 0 else 2 if size >> 16 == 0 else 4
        return bytes((0xD8 + width - width // 4,)) + size.to_bytes(width, "big")

    def text(self, piece: str) -> bytes:
        return piece.encode()

    def mapping(self, entries: Sequence[tuple[bytes, bytes]]) -> bytes:
        return _length(len(entries), 0x80, 0xDE) + b"".join(key + value for key, value in entries)

    def sequence(self, items: Sequence[bytes]) -> bytes:
        return _length(len(items), 0x90, 0xDC) + b"".join(items)


def _length(n: int, fix: int, wide: int) -> bytes:
    """The header of a map or an array: of up to 15, up to 2**16 - 1, or up to 2**32 - 1 entries."""
    if n >> 4 == 0:
        return bytes((fix | n,))
    return bytes((wide,)) + n.to_bytes(2, "big") if n >> 16 == 0 else bytes((wide + 1,)) + n.to_bytes(4, "big")

"""Events whose type is not known: as plain data, as one short text, as one line of JSON.

This file is pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import msgspec

from ..clock import Timestamp
from ._terminal import printable, shortened
from ._tree import scalar

__all__ = ["Opaque", "compact", "json_line", "json_of", "plain"]

_DEPTH = 12


class Opaque(msgspec.Struct, frozen=True):
    """A whole event that only its own type can hold: a map in it has maps as keys.

    Attributes:
        msgpack: Its bytes.
    """

    msgpack: bytes


def plain(event: msgspec.Raw) -> Any:
    """The event as plain data.

    Raises:
        ValueError: It is no event: a text in it is not UTF-8.
    """
    try:
        return msgspec.msgpack.decode(event)
    except (msgspec.DecodeError, RecursionError):  # though its bytes are well-formed: keys, or depth
        return Opaque(bytes(event))


# ---------------------------------------------------------------------- for people


def compact(event: Any, chars: int) -> str:
    """The event as one printable text of at most so many characters, and an ellipsis where there were more.

    No more of it is looked at than is shown.
    """
    pieces: list[str] = []
    size = 0
    for piece in _pieces(event, chars, 1):
        pieces.append(piece)
        size += len(piece)
        if size > chars:
            break
    return shortened("".join(pieces), chars)


def _pieces(value: Any, chars: int, depth: int) -> Iterator[str]:
    if isinstance(value, Mapping | list | tuple):
        left, right = "{}" if isinstance(value, Mapping) else "[]"
        yield left
        yield from _children(value, chars, depth + 1) if depth < _DEPTH or not value else "…"
        yield right
    elif isinstance(value, Opaque):
        yield f"msgpack {scalar(value.msgpack, chars)[0]}"
    elif isinstance(value, msgspec.msgpack.Ext):
        yield f"ext {value.code}: {scalar(bytes(value.data), chars)[0]}"
    else:
        yield scalar(value, chars)[0]


def _children(value: Any, chars: int, depth: int) -> Iterator[str]:
    between = ""
    for key in value:
        yield between
        if isinstance(value, Mapping):
            yield f"{printable(_key(key, chars))}: "
            yield from _pieces(cast("Any", value)[key], chars, depth)
        else:
            yield from _pieces(key, chars, depth)
        between = ", "


def _key(key: Any, chars: int) -> str:
    return (key[: chars + 1] or '""') if isinstance(key, str) else shortened(str(key), chars)


# ---------------------------------------------------------------------- for programs


def json_line(index: int, hlc: Timestamp, event: Any) -> bytes:
    """An entry as one line of JSON, in UTF-8, with what is not printable escaped; bytes are base64."""
    return json_of({"index": index, "hlc": str(hlc), "event": event})


def json_of(facts: Mapping[str, Any]) -> bytes:
    """Facts by name, plain data, as one line of JSON; as `json_line` writes it."""
    try:
        text = msgspec.json.encode(facts, enc_hook=_held).decode()
    except TypeError:  # JSON has no such keys
        text = msgspec.json.encode(_with_keys(facts), enc_hook=_held).decode()
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _escaped(c) for c in text)
    return text.encode() + b"\n"


def _held(value: Any) -> Any:
    if isinstance(value, msgspec.msgpack.Ext):
        return {"ext": value.code, "data": bytes(value.data)}
    raise TypeError("JSON has no such key")  # there is nothing else that it is asked for


def _with_keys(value: Any) -> Any:
    """The same with keys that JSON can have: any other is the text of its own JSON."""
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else _key_text(key): _with_keys(child)
            for key, child in cast("dict[object, Any]", value).items()
        }
    return [_with_keys(child) for child in cast("list[Any]", value)] if isinstance(value, list | tuple) else value


def _key_text(key: Any) -> str:
    text = msgspec.json.encode(_with_keys(key), enc_hook=_held).decode()
    return str(msgspec.json.decode(text)) if text.startswith('"') else text


def _escaped(c: str) -> str:
    """A character as JSON escapes it, in one or two units of UTF-16."""
    units = c.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))

"""Whether a value comes back as it is, and if not, where in it and why.

A value is encoded, decoded as its declared type, and compared. Only when that fails is it taken apart: the part that
does not come back is looked for from the top down, each part on its own.

This file is pure. Its messages name types and paths, never values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from ..errors import InvalidStateError
from ._canonical import Canonical, SameTextError, option_of
from ._types import Fixed, Mapping, Node, Record, Sequence, Set, Union, Unknown
from ._values import class_of, is_array, is_mapping, is_set, is_tuple, names_of
from ._wire import Wire

__all__ = ["DECODE_ERRORS", "RoundTrip"]

DECODE_ERRORS = (
    msgspec.DecodeError,
    UnicodeDecodeError,
    RecursionError,
    OverflowError,
    ValueError,
    TypeError,
)
"""What msgspec, and a user's hook through it, raises on bytes that are not of the declared type."""

_ENCODE_ERRORS = (msgspec.EncodeError, UnicodeEncodeError, RecursionError, OverflowError, ValueError, TypeError)
_ANY = Unknown(Any)


class RoundTrip:
    """The check for one type in one format.

    Args:
        root: The type.
        canonical: The encoder.
        wire: The format.
    """

    def __init__(self, root: Node, canonical: Canonical, wire: Wire) -> None:
        self._root = root
        self._canonical = canonical
        self._wire = wire
        self._decoders: dict[int, Callable[[Any], Any]] = {}

    def encode(self, state: Any) -> bytes:
        """The state's canonical bytes.

        Raises:
            InvalidStateError: It cannot be encoded.
        """
        try:
            return self._canonical.encode(self._root, state)
        except _ENCODE_ERRORS as error:
            raise self._refusal(state, error) from None  # msgspec's own message may show contents

    def check(self, state: Any, encoded: bytes) -> None:
        """Check that `encoded` comes back as `state`.

        Raises:
            InvalidStateError: It does not.
        """
        try:
            back = self._decode(self._root, encoded)
        except DECODE_ERRORS as error:
            raise self._refusal(state, error) from None
        if not self._same(state, back):
            raise self._refusal(state, None)

    def decode(self, encoded: Any) -> Any:
        """The value that these bytes stand for; raises one of `DECODE_ERRORS`."""
        return self._decode(self._root, encoded)

    def _decode(self, node: Node, encoded: Any) -> Any:
        decode = self._decoders.get(id(node))
        if decode is None:
            decode = self._decoders[id(node)] = self._wire.decoder(node.declared)
        return decode(encoded)

    # ------------------------------------------------------------------ the same?

    def _same(self, value: Any, back: Any) -> bool:
        try:
            return bool(value == back) or self._alike(value, back)
        except Exception:  # noqa: BLE001  a comparison of the user's own that fails says nothing; look at the parts
            return self._alike(value, back)

    def _alike(self, value: Any, back: Any) -> bool:
        """Equal part by part, where NaN is NaN, and what has no equality of its own is judged by its bytes."""
        if value is back or (_is_nan(value) and _is_nan(back)):
            return True
        if is_mapping(value) and is_mapping(back):
            return len(value) == len(back) and all(k in back and self._same(part, back[k]) for k, part in value.items())
        if is_array(value) and is_array(back):
            kinds = isinstance(value, list) == isinstance(back, list)
            return kinds and len(value) == len(back) and all(map(self._same, value, back))
        if type(value) is not type(back):
            return False
        names = names_of(class_of(value))
        if names is not None:
            return all(self._same(getattr(value, name, None), getattr(back, name, None)) for name in names)
        if "__eq__" not in {name for cls in type(value).__mro__[:-1] for name in vars(cls)}:
            return self._wire.encode(value) == self._wire.encode(back)
        return False

    # ------------------------------------------------------------------ where, and why

    def _refusal(self, state: Any, error: Exception | None) -> InvalidStateError:
        node, value, path = self._root, state, "state"
        found = True
        while found:
            found = False
            for step, child, part in _parts(node, value):
                failed, why = self._fails(child, part)
                if failed:
                    node, value, path, error, found = child, part, path + step, why, True
                    break
        return InvalidStateError(path, _reason(node, value, error))

    def _fails(self, node: Node, value: Any) -> tuple[bool, Exception | None]:
        try:
            back = self._decode(node, self._canonical.encode(node, value))
        except (*_ENCODE_ERRORS, *DECODE_ERRORS) as error:
            return True, error
        return not self._same(value, back), None


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _parts(  # noqa: C901, PLR0912  one case for each kind of node
    node: Node, value: Any
) -> Iterator[tuple[str, Node, Any]]:
    """The parts of a value, each with its own type and the step in the path that leads to it."""
    if isinstance(node, Union):
        node = option_of(node, value)
    match node:
        case Record() if node.holds(value):
            for name, child in node.fields.items():
                part = node.get(value, name)
                if part is not msgspec.UNSET:
                    yield (f"[{name!r}]" if node.is_dict else f".{name}"), child, part
        case Mapping() | Unknown() if is_mapping(value):
            child = node.value if isinstance(node, Mapping) else _ANY
            for key, part in value.items():
                yield f"[{key!r:.64}]", child, part
                if isinstance(node, Mapping) and not isinstance(node.key, Unknown):
                    yield f"[{key!r:.64}]", node.key, key
        case Fixed() if is_tuple(value) and len(value) == len(node.items):
            for i, (child, part) in enumerate(zip(node.items, value, strict=True)):
                yield f"[{i}]", child, part
        case Sequence() | Unknown() if is_array(value):
            child = node.item if isinstance(node, Sequence) else _ANY
            for i, part in enumerate(value):
                yield f"[{i}]", child, part
        case Set() if is_set(value):
            for part in value:
                yield "{…}", node.item, part
        case _:
            return


def _reason(node: Node, value: Any, error: Exception | None) -> str:
    match error:
        case SameTextError():
            return "two of its keys encode to the same text, and one would be lost"
        case UnicodeEncodeError():
            return "holds a lone surrogate, which UTF-8 cannot express"
        case RecursionError():
            return "nested too deep to be read again"
        case OverflowError():
            return "an integer out of range"
        case _:
            pass
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN and infinities cannot be written as JSON"
    if isinstance(value, str) and error is not None and any("\ud800" <= c <= "\udfff" for c in value):
        return "holds a lone surrogate, which UTF-8 cannot express"
    declared = getattr(node.declared, "__name__", None) or str(node.declared)
    return f"a {type(value).__name__} does not come back equal as {declared}"

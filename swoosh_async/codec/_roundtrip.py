"""Whether a value comes back as it is, and if not, where in it and why.

A value is encoded, decoded as its declared type, and compared. Only when that fails is it taken apart: the part that
does not come back is looked for from the top down, each part on its own.

This file is pure. Its messages name types and paths, never values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Annotated, Any, get_args, get_origin

import msgspec

from ..errors import InvalidStateError
from ._canonical import Canonical, SameTextError, option_of
from ._types import Fixed, Mapping, Node, Record, Sequence, Set, Union, Unknown
from ._values import class_of, is_array, is_mapping, is_set, is_tuple, names_of, step_to
from ._wire import Wire

__all__ = ["DECODE_ERRORS", "ENCODE_ERRORS", "RoundTrip", "told"]

DECODE_ERRORS = (
    msgspec.DecodeError,
    UnicodeDecodeError,
    RecursionError,
    ArithmeticError,
    ValueError,
    TypeError,
    NotImplementedError,
)
"""What msgspec, and a user's hook through it, raises on bytes that are not of the declared type."""

ENCODE_ERRORS = (
    msgspec.EncodeError,
    UnicodeEncodeError,
    RecursionError,
    ArithmeticError,  # an integer out of range; a NaN of Decimal that is to be sorted
    ValueError,
    TypeError,
    AttributeError,  # a Struct's field that is not set
    NotImplementedError,  # what msgspec asks a hook to raise on a type that it does not know
)
"""What msgspec, and a user's hook through it, raises on a value that it cannot encode."""

_ANY = Unknown(Any)
_PLACE = re.compile(r" - at (?:`key` in )?`(\$[^`]*)`\Z")


def told(error: Exception) -> str:
    """What may be told of an error: its class, and where msgspec met it, but nothing of its message's contents."""
    place = _PLACE.search(str(error)) if isinstance(error, msgspec.ValidationError) else None
    return type(error).__name__ + (f" at {place[1]}" if place else "")


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

    def encode(self, value: Any, node: Node, path: str) -> bytes:
        """The canonical bytes of a value of that node, which stands at that path.

        Raises:
            InvalidStateError: It cannot be encoded.
        """
        try:
            return self._canonical.encode(node, value)
        except ENCODE_ERRORS as error:
            raise self.refusal(value, error, node, path) from None  # msgspec's own message may show contents

    def check(self, value: Any, encoded: bytes, node: Node, path: str) -> None:
        """Check that `encoded` comes back as `value`.

        Raises:
            InvalidStateError: It does not.
        """
        try:
            back = self._decode(node, encoded)
        except DECODE_ERRORS as error:
            raise self.refusal(value, error, node, path) from None
        if not self._same(node, value, back):
            raise self.refusal(value, None, node, path)

    def decode(self, encoded: Any) -> Any:
        """The value that these bytes stand for; raises one of `DECODE_ERRORS`."""
        return self._decode(self._root, encoded)

    def is_left_out(self, node: Record, name: str, part: Any) -> bool:
        """Whether a field holds a default that is left out."""
        return self._canonical.is_default(node, name, part)

    def plain(self, encoded: Any) -> Any:
        """The plain data that these bytes stand for, whatever their type; raises one of `DECODE_ERRORS`."""
        return self._decode(_ANY, encoded)

    def convert(self, plain: Any) -> Any:
        """Plain data as a value of the type; raises one of `ENCODE_ERRORS` or `DECODE_ERRORS`."""
        return self.decode(self._canonical.encode(_ANY, plain))

    def _decode(self, node: Node, encoded: Any) -> Any:
        decode = self._decoders.get(id(node))
        if decode is None:
            decode = self._decoders[id(node)] = self._wire.decoder(node.declared)
        return decode(encoded)

    # ------------------------------------------------------------------ the same?

    def _same(self, node: Node, value: Any, back: Any) -> bool:
        """Equal, or alike in every part; without recursion, for values may be nested deeper than Python's stack."""
        waiting: list[tuple[Node, Any, Any]] = [(node, value, back)]
        while waiting:
            node, value, back = waiting.pop()
            if not _equal(value, back):
                parts = self._alike(node, value, back)
                if parts is None:
                    return False
                waiting.extend(parts)
        return True

    def _alike(self, node: Node, value: Any, back: Any) -> Iterable[tuple[Node, Any, Any]] | None:
        """The parts that must be the same for these two to be the same; None where they differ whatever their parts.

        NaN is NaN; where only a `Sequence` is declared, a tuple may come back as a list; what has no equality of its
        own is judged by its bytes.
        """
        if isinstance(node, Union):
            node = option_of(node, value)
        if is_mapping(value) and is_mapping(back):
            same_keys = value.keys() == back.keys()
            return ((_child(node, key), part, back[key]) for key, part in value.items()) if same_keys else None
        if is_array(value) and is_array(back):
            either = isinstance(node, Sequence) and node.kind is None
            if len(value) != len(back) or (not either and isinstance(value, list) != isinstance(back, list)):
                return None
            children = node.items if isinstance(node, Fixed) else repeat(getattr(node, "item", _ANY))
            return zip(children, value, back, strict=False)
        if type(value) is not type(back):
            return None
        names = names_of(class_of(value))
        if names is not None:
            fields = node.fields if isinstance(node, Record) else {}
            return ((fields.get(name, _ANY), getattr(value, name, None), getattr(back, name, None)) for name in names)
        if _is_nan(value) and _is_nan(back):
            return ()
        if "__eq__" in {name for cls in type(value).__mro__[:-1] for name in vars(cls)}:
            return None
        return () if self._canonical.encode(_ANY, value) == self._canonical.encode(_ANY, back) else None

    # ------------------------------------------------------------------ where, and why

    def refusal(self, value: Any, error: Exception | None, node: Node, path: str) -> InvalidStateError:
        """The error that names the part of a value, which stands at `path`, that does not come back.

        Args:
            value: What does not.
            error: What it raised; None where it came back, but not equal.
            node: Its type.
            path: Where it stands.
        """
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
        except (*ENCODE_ERRORS, *DECODE_ERRORS) as error:
            return True, error
        return not self._same(node, value, back), None


def _equal(value: Any, back: Any) -> bool:
    try:
        return bool(value == back)
    except Exception:  # noqa: BLE001  a comparison of the user's own that fails says nothing: look at the parts
        return False


def _child(node: Node, key: Any) -> Node:
    """The node of what stands under a key."""
    if isinstance(node, Record):
        return node.fields.get(key, _ANY)
    return node.value if isinstance(node, Mapping) else _ANY


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
                    yield node.step(name), child, part
        case Mapping() | Unknown() if is_mapping(value):
            child = node.value if isinstance(node, Mapping) else _ANY
            for key, part in value.items():
                yield step_to(key), child, part
                if isinstance(node, Mapping) and not isinstance(node.key, Unknown):
                    yield step_to(key), node.key, key
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
        case AttributeError() | NotImplementedError():
            return f"a {type(value).__name__} cannot be encoded"
        case _:
            pass
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN and infinities cannot be written as JSON"
    if isinstance(value, str) and error is not None and any("\ud800" <= c <= "\udfff" for c in value):
        return "holds a lone surrogate, which UTF-8 cannot express"
    declared = node.declared
    while get_origin(declared) is Annotated:
        declared = get_args(declared)[0]
    name = getattr(declared, "__name__", None) or str(declared)
    return f"a {type(value).__name__} does not come back equal as {name}{' within its bounds' if node.bounded else ''}"

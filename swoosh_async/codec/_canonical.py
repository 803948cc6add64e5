"""One value, one text: the canonical bytes of a value, also where msgspec's deterministic order does not reach.

msgspec sorts mappings with str keys and sets that Python can sort, and refuses others when asked for a deterministic
order. Here mappings with other keys are sorted by the text of their keys (JSON) or their keys' bytes (MessagePack), and
other sets by the bytes of their items; the records around them are encoded by msgspec, with those parts put in as they
are.

This file is pure, and does not check whether the bytes can be read again.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Callable, Generator, Iterable
from operator import itemgetter
from typing import Any

import msgspec

from ._plan import Plan
from ._types import Fixed, Mapping, Node, Record, Scalar, Sequence, Set, Union, Unknown, node_of
from ._values import class_of, is_array, is_mapping, is_set, is_tuple, names_of
from ._wire import Wire

__all__ = ["Canonical", "SameTextError", "option_of"]

_ANY = Unknown(Any)
_Assembly = Generator[tuple[Node, Any], Any, bytes]
"""A value that is put together: it asks for the bytes of its parts, one after the other, and returns its own."""


class SameTextError(ValueError):
    """Two keys of one mapping encode to the same text, so that one of them would be lost."""


class Canonical:
    """An encoder of the values of one plan.

    Args:
        plan: The type's plan.
        wire: The format.
    """

    def __init__(self, plan: Plan, wire: Wire) -> None:
        self._plan = plan
        self._wire = wire
        self._classes: dict[type, Node] = {}
        self._specials: dict[int, list[tuple[str, Node]]] = {}

    def encode(self, node: Node, value: Any) -> bytes:
        """The canonical bytes of a value of that node; without recursion, however deep the value is nested.

        Raises:
            SameTextError: Two of a mapping's keys have the same text.
            Exception: What msgspec raises on what it cannot encode.
        """
        begun = self._begin(node, value)
        if isinstance(begun, bytes):
            return begun
        open_ones = [begun]
        encoded: bytes | None = None
        while open_ones:
            try:
                part = open_ones[-1].send(encoded)
            except StopIteration as end:
                open_ones.pop()
                encoded = end.value
                continue
            begun = self._begin(*part)
            if isinstance(begun, bytes):
                encoded = begun
            else:
                open_ones.append(begun)
                encoded = None
        return encoded or b""

    def _begin(self, node: Node, value: Any) -> bytes | _Assembly:
        if self._plan.is_regular(node) or isinstance(node, Unknown):
            try:
                return self._wire.encode(value)
            except TypeError:  # perhaps only an order that msgspec does not know
                return self._assemble(*self._seen(value))
        return self._assemble(node, value)

    def _assemble(self, node: Node, value: Any) -> bytes | _Assembly:
        match node:
            case Mapping() if is_mapping(value):
                return self._mapping(node, value)
            case Set() if is_set(value):
                return self._items(((node.item, item) for item in value), in_order=False)
            case Sequence() if is_array(value):
                return self._items(((node.item, item) for item in value), in_order=True)
            case Fixed() if is_tuple(value) and len(value) == len(node.items):
                return self._items(zip(node.items, value, strict=True), in_order=True)
            case Record() if node.holds(value):
                return self._record(node, value)
            case Union():
                return self._assemble(option_of(node, value), value)
            case _:
                return self._wire.encode(value)

    def _mapping(self, node: Mapping, value: abc.Mapping[Any, Any]) -> _Assembly:
        wire = self._wire
        by_key = (
            node.key.plain is str if isinstance(node.key, Scalar) else isinstance(node.key, Unknown) and _all_str(value)
        )
        ordered: list[tuple[Any, bytes, bytes]] = []
        for key, item in value.items():
            encoded_key = wire.key(key)
            encoded = yield node.value, item
            ordered.append((key if by_key else wire.key_order(encoded_key), encoded_key, encoded))
        ordered.sort(key=itemgetter(0))
        entries = {key: encoded for _, key, encoded in ordered}
        if len(entries) < len(value):
            raise SameTextError
        return wire.mapping(list(entries.items()))

    def _items(self, parts: Iterable[tuple[Node, Any]], *, in_order: bool) -> _Assembly:
        encoded: list[bytes] = []
        for part in parts:
            encoded.append((yield part))  # noqa: PERF401  a comprehension cannot yield
        return self._wire.sequence(encoded if in_order else sorted(encoded))

    def _record(self, node: Record, value: Any) -> _Assembly:
        """Have msgspec encode a copy in which the parts that it cannot order are already encoded."""
        twin = node.twin(value) if node.as_set else None
        for name, child in self._special(node):
            part = node.get(value, name)
            if self.is_default(node, name, part):
                new = node.defaults[name]
                if part is new:
                    continue
            elif self._plan.is_regular(child) or _is_empty(part):  # an empty one may be a default that is left out
                continue
            else:
                encoded = yield child, part
                new = msgspec.Raw(encoded)
            if twin is None:
                twin = node.twin(value)
            node.put(twin, name, new)
        return self._wire.encode(value if twin is None else twin)

    def _special(self, node: Record) -> list[tuple[str, Node]]:
        """The fields of a record that msgspec cannot be left to encode by itself."""
        found = self._specials.get(id(node))
        if found is None:
            found = self._specials[id(node)] = [
                (name, child)
                for name, child in node.fields.items()
                if name in node.defaults or not self._plan.is_regular(child)
            ]
        return found

    def is_default(self, node: Record, name: str, part: Any) -> bool:
        """Whether it is a default that msgspec leaves out only where it is the very same object."""
        if name not in node.defaults:
            return False
        child, default = node.fields[name], node.defaults[name]
        if part is default:
            return True
        alike = type(part) is type(default) and part == default
        return alike and self.encode(child, part) == self.encode(child, default)  # -0.0 == 0.0

    def _seen(self, value: Any) -> tuple[Node, Any]:
        """The node of a value whose declared type does not tell, as far as it may hold what msgspec cannot sort.

        A value that msgspec does not know is replaced by what the user's hook makes of it.
        """
        while True:
            if is_mapping(value):
                return Mapping(Any, _ANY, _ANY, read_only=False), value
            if is_set(value):
                return Set(Any, _ANY, read_only=False), value
            if is_array(value):
                return Sequence(Any, _ANY, read_only=False), value
            cls = class_of(value)
            if names_of(cls) is not None:
                if cls not in self._classes:
                    self._classes[cls] = node_of(cls)
                return self._classes[cls], value
            value = self._wire.hooked(value)


def _all_str(keys: Iterable[Any]) -> bool:
    return all(type(key) is str for key in keys)


def _is_empty(part: Any) -> bool:
    return part is None or part is msgspec.UNSET or (isinstance(part, abc.Sized) and len(part) == 0)


_KINDS: tuple[tuple[type[Node], Callable[[object], bool]], ...] = (
    (Mapping, is_mapping),
    (Set, is_set),
    (Sequence, is_array),
    (Fixed, is_tuple),
)


def option_of(node: Union, value: Any) -> Node:
    """The option of a union that a value is of, as far as it matters; a node without parts where none fits."""
    cls = class_of(value)
    for option in node.options:
        if (isinstance(option, Record) and option.cls is cls) or (isinstance(option, Scalar) and option.plain is cls):
            return option
    for option in node.options:
        if isinstance(option, Record) and option.holds(value):
            return option
        if any(isinstance(option, kind) and fits(value) for kind, fits in _KINDS):
            return option
    return _ANY

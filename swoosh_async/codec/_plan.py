"""What follows from a type, once: how a value of it is isolated, and what msgspec can be left to do by itself.

This file is pure, and decides by types alone; the values come later.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import msgspec

from ._types import Mapping, Node, Record, Scalar, Sequence, Set, Union, Unknown, node_of, walk

__all__ = ["Plan"]

# Only what is of the declared kind is copied: list("ab") would make a list of a str that is none.
_COPIES: tuple[tuple[type[Node], type, Callable[[Any], Any]], ...] = (
    (Mapping, dict, dict),
    (Set, set, set),
    (Sequence, list, list),
)
_ORDERED = (str, int, float)


class Plan:
    """What is known of a state type before any value of it is seen.

    Args:
        state_type: Any type that msgspec can encode and decode.

    Attributes:
        root: The type as a tree.
        shared: Whether it is a value all the way down, which is never changed in place.
        deep: Whether nothing bounds how deep a value of it is nested.
    """

    def __init__(self, state_type: Any) -> None:
        self.root = node_of(state_type)
        self._values: dict[int, bool] = {}
        self._regular: dict[int, bool] = {}
        self.shared = self.is_value(self.root)
        self.deep = _is_deep(self.root)

    def isolate(self, state: Any) -> tuple[Any, bool]:
        """The state as it is now, and whether it is out of its owner's reach; if not, it must be encoded at once.

        Values are shared. Containers of values at the top, also as fields of the state's record, are copied shallowly.
        """
        if self.shared:
            return state, True
        if isinstance(self.root, Record):
            return self._isolate_record(self.root, state)
        return self._copy(self.root, state)

    def _isolate_record(self, record: Record, state: Any) -> tuple[Any, bool]:
        if not record.holds(state):
            return state, False
        try:
            twin = copy.copy(state)
        except AttributeError:  # a Struct's field is not set, which encoding it will tell
            return state, False
        for name, node in record.fields.items():
            if self.is_value(node):
                continue
            part, done = self._copy(node, record.get(state, name))
            if not done:
                return state, False
            if part is not msgspec.UNSET:
                record.put(twin, name, part)
        return twin, True

    def _copy(self, node: Node, value: Any) -> tuple[Any, bool]:
        """A shallow copy of a container of values; UNSET and None, where it may be absent, stand for themselves."""
        if value is None or value is msgspec.UNSET:
            return value, True
        options = node.options if isinstance(node, Union) else (node,)
        for option in options:
            for kind, cls, make in _COPIES:
                if isinstance(option, kind) and isinstance(value, cls) and all(map(self.is_value, option.children)):
                    return make(value), True
        return value, False

    def is_value(self, node: Node) -> bool:
        """Whether a value of that type is never changed in place."""
        known = self._values.get(id(node))
        if known is None:
            self._values[id(node)] = True  # a type that leads back to itself is a value if the rest of it is
            known = self._values[id(node)] = self._immutable(node) and all(map(self.is_value, node.children))
            if not known:
                self._values = {key: value for key, value in self._values.items() if not value}
        return known

    @staticmethod
    def _immutable(node: Node) -> bool:
        match node:
            case Unknown():
                return False
            case Mapping() | Sequence() | Set():
                return node.read_only
            case Record():
                return node.frozen
            case _:
                return True

    def is_regular(self, node: Node) -> bool:
        """Whether msgspec's deterministic order makes the bytes of such a value canonical by itself.

        It does for mappings whose keys are str, for sets whose items it can sort, and for records whose fields it
        writes in their order, without asking whether one holds the very object that is its default.
        """
        known = self._regular.get(id(node))
        if known is None:
            self._regular[id(node)] = True
            known = self._regular[id(node)] = self._orders(node) and all(map(self.is_regular, node.children))
            if not known:
                self._regular = {key: value for key, value in self._regular.items() if not value}
        return known

    @staticmethod
    def _orders(node: Node) -> bool:
        match node:
            case Unknown():
                return False
            case Mapping(key=key):
                return isinstance(key, Scalar) and key.plain is str
            case Set(item=item):
                return isinstance(item, Scalar) and item.plain in _ORDERED
            case Record():
                return not (node.defaults or node.as_set)
            case _:
                return True


def _is_deep(root: Node) -> bool:
    """Whether the type leads back to itself, or says nothing of some part."""
    return any(isinstance(node, Unknown) for node in walk(root)) or _leads_back(root, set(), set())


def _leads_back(node: Node, above: set[int], done: set[int]) -> bool:
    if id(node) in above:
        return True
    if id(node) in done:
        return False
    found = any(_leads_back(child, above | {id(node)}, done) for child in node.children)
    done.add(id(node))
    return found

"""One value, one text: the canonical bytes of a value, also where msgspec's deterministic order does not reach.

msgspec sorts mappings with str keys and sets that Python can sort, and refuses others when asked for a deterministic
order. Here mappings with other keys are sorted by the text of their keys (JSON) or their keys' bytes (MessagePack), and
other sets by the bytes of their items; the records around them are encoded by msgspec, with those parts put in as they
are.

This file is pure, and does not check whether the bytes can be read again.
"""

from __future__ import annotations

import copy
from collections import abc
from collections.abc import Callable
from typing import Any

import msgspec

from ._plan import Plan
from ._types import Fixed, Mapping, Node, Record, Sequence, Set, Union, Unknown, node_of
from ._values import class_of, is_array, is_mapping, is_set, is_tuple, names_of
from ._wire import Wire

__all__ = ["Canonical", "SameTextError", "option_of"]

_ANY = Unknown(Any)


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

    def encode(self, node: Node, value: Any) -> bytes:
        """The canonical bytes of a value of that node.

        Raises:
            SameTextError: Two of a mapping's keys have the same text.
            Exception: What msgspec raises on what it cannot encode.
        """
        if self._plan.is_regular(node) or isinstance(node, Unknown):
            try:
                return self._wire.encode(value)
            except TypeError:  # perhaps only an order that msgspec does not know
                return self._assemble(self._seen(value), value)
        return self._assemble(node, value)

    def _assemble(self, node: Node, value: Any) -> bytes:
        match node:
            case Mapping() if is_mapping(value):
                return self._mapping(node, value)
            case Set() if is_set(value):
                return self._wire.sequence(sorted(self.encode(node.item, item) for item in value))
            case Sequence() if is_array(value):
                return self._wire.sequence([self.encode(node.item, item) for item in value])
            case Fixed() if is_tuple(value) and len(value) == len(node.items):
                return self._wire.sequence([self.encode(*pair) for pair in zip(node.items, value, strict=True)])
            case Record() if node.holds(value):
                return self._record(node, value)
            case Union():
                return self._assemble(option_of(node, value), value)
            case _:
                return self._wire.encode(value)

    def _mapping(self, node: Mapping, value: abc.Mapping[Any, Any]) -> bytes:
        entries = {self._wire.key(key): self.encode(node.value, item) for key, item in value.items()}
        if len(entries) < len(value):
            raise SameTextError
        order = self._wire.key_order
        return self._wire.mapping(sorted(entries.items(), key=lambda entry: order(entry[0])))

    def _record(self, node: Record, value: Any) -> bytes:
        """Have msgspec encode a copy in which the parts that it cannot order are already encoded."""
        twin = copy.copy(value)
        for name, child in node.fields.items():
            part = node.get(value, name)
            empty = part is None or part is msgspec.UNSET or (isinstance(part, abc.Sized) and len(part) == 0)
            if not self._plan.is_regular(child) and not empty:  # an empty one may be a default that is left out
                node.put(twin, name, msgspec.Raw(self.encode(child, part)))
        return self._wire.encode(twin)

    def _seen(self, value: Any) -> Node:
        """The node of a value whose declared type does not tell, as far as it may hold what msgspec cannot sort."""
        if is_mapping(value):
            return Mapping(Any, _ANY, _ANY, read_only=False)
        if is_set(value):
            return Set(Any, _ANY, read_only=False)
        if is_array(value):
            return Sequence(Any, _ANY, read_only=False)
        cls = class_of(value)
        if names_of(cls) is not None:
            if cls not in self._classes:
                self._classes[cls] = node_of(cls)
            return self._classes[cls]
        return _ANY


def option_of(node: Union, value: Any) -> Node:
    """The option of a union that a value is of, as far as it matters; a node without parts where none fits."""
    kinds: tuple[tuple[type[Node], Callable[[object], bool]], ...] = (
        (Mapping, is_mapping),
        (Set, is_set),
        (Sequence, is_array),
        (Fixed, is_tuple),
    )
    for option in node.options:
        if isinstance(option, Record) and not option.is_dict and option.holds(value):
            return option
    for option in node.options:
        if isinstance(option, Record) and option.is_dict and option.holds(value):
            return option
        if any(isinstance(option, kind) and fits(value) for kind, fits in kinds):
            return option
    return _ANY

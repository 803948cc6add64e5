"""Many values of one type, looked at together, field by field: how much do they hold, and are their floats finite?

Asking each value on its own costs more than encoding it. So values are looked at in columns (all of one field, all of
one container's items), which Python's builtins go through without a step of bytecode for each.

What is absent (None, UNSET), empty or zero is passed over: it holds nothing, and no NaN.

This file is pure. What is not of its declared type raises what it raises, which is a reason for the caller to look
closer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import chain
from operator import attrgetter, itemgetter, methodcaller
from typing import Any

from ._canonical import option_of
from ._types import Fixed, Mapping, Node, Record, Scalar, Sequence, Set, Union, walk
from ._values import class_of, is_array, is_mapping, is_set, names_of

__all__ = ["Columns", "size_of"]

_VALUES = methodcaller("values")
_SMALL = frozenset({type(None), bool, int, float})


_Column = Callable[[list[Any]], list[Any]]
_Part = tuple[Node, _Column]


class Columns:
    """The questions, with what the types answer in advance remembered."""

    def __init__(self) -> None:
        self._holding: dict[int, tuple[_Part, ...]] = {}
        self._floating: dict[int, tuple[_Part, ...]] = {}
        self._telling: dict[int, tuple[_Part, ...]] = {}

    def held(self, node: Node, values: list[Any], limit: int) -> int:
        """How many items and entries all containers of these values hold, or more than `limit` once it is passed.

        Raises:
            Exception: A value is not of its declared type.
        """
        count = 0
        if isinstance(node, Mapping | Sequence | Set):
            count = sum(map(len, _present(values)))
        for child, column in _parts(self._holding, _is_container, node):
            if count > limit:
                break
            if below := column(values):  # a type that leads back to itself ends where its values do
                count += self.held(child, below, limit - count)
        return count

    def texts(self, node: Node, values: list[Any], *, levels: int) -> int:
        """How long all str and bytes among these values are together, down to so many levels of containers.

        Raises:
            Exception: A value is not of its declared type.
        """
        if isinstance(node, Scalar):
            return sum(map(len, _present(values))) if _is_text(node) else 0
        if _is_container(node):
            if levels == 0:
                return 0
            levels -= 1
        below = ((child, column(values)) for child, column in _parts(self._telling, _is_text, node))
        return sum(self.texts(child, column, levels=levels) for child, column in below if column)

    def finite(self, node: Node, values: list[Any]) -> bool:
        """Whether no float among these values is NaN or infinite.

        Raises:
            Exception: A value is not of its declared type.
        """
        if isinstance(node, Scalar):
            return node.plain is not float or all(map(math.isfinite, _present(values)))
        below = ((child, column(values)) for child, column in _parts(self._floating, _is_float, node))
        return all(self.finite(child, column) for child, column in below if column)


def _is_container(node: Node) -> bool:
    return isinstance(node, Mapping | Sequence | Set)


def _is_text(node: Node) -> bool:
    return isinstance(node, Scalar) and node.plain in (str, bytes)


def _is_float(node: Node) -> bool:
    return isinstance(node, Scalar) and node.plain is float


def _parts(known: dict[int, tuple[_Part, ...]], wanted: Callable[[Node], bool], node: Node) -> tuple[_Part, ...]:
    """The parts of a node in which there may be what is wanted, each with the way to its column."""
    parts = known.get(id(node))
    if parts is None:
        every = _columns(node)
        parts = known[id(node)] = tuple((child, get) for child, get in every if any(map(wanted, walk(child))))
    return parts


def _columns(node: Node) -> Iterator[_Part]:
    """The parts of a node, each with the way from many of its values to all of that part."""
    match node:
        case Mapping(value=child):
            yield child, lambda values: list(chain.from_iterable(map(_VALUES, _present(values))))
        case Sequence(item=child) | Set(item=child):
            yield child, lambda values: list(chain.from_iterable(_present(values)))
        case Fixed():
            for i, child in enumerate(node.items):
                yield child, _mapped(itemgetter(i))
        case Record():
            for name, child in node.fields.items():
                yield child, _mapped(methodcaller("get", name) if node.is_dict else attrgetter(name))
        case Union(options=options):
            some = [option for option in options if not (isinstance(option, Scalar) and option.plain is type(None))]
            if len(some) == 1:
                yield some[0], lambda values: list(_present(values))
                return
            for option in some:
                yield option, _chosen(node, option)
        case _:
            return


def _mapped(get: Callable[[Any], Any]) -> _Column:
    return lambda values: list(map(get, values))


def _chosen(node: Union, option: Node) -> _Column:
    return lambda values: [value for value in values if option_of(node, value) is option]


def _present(values: list[Any]) -> Iterator[Any]:
    return filter(None, values)


def size_of(value: Any, limit: int) -> int:
    """Roughly how many bytes a value takes, or more than `limit` once it is passed."""
    size = 0
    level: list[Any] = [value]
    while level and size <= limit:
        size += 8 * len(level)
        below: list[Any] = []
        for part in level:
            kind = class_of(part)
            if kind is str or kind is bytes:
                size += len(part)
            elif kind in _SMALL:
                continue
            elif kind is dict or is_mapping(part):
                below += part
                below += part.values()
            elif kind is tuple or kind is list or is_array(part) or is_set(part):
                below += part
            else:
                below += (getattr(part, name, None) for name in names_of(kind) or ())
        level = below
    return size

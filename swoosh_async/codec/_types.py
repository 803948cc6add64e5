"""A state type as a tree of nodes: what msgspec sees in it, and which containers it declares read-only.

`msgspec.inspect` sees `Mapping[str, int]` and `dict[str, int]` as the same type, but the first is a promise not to
change it in place, and the second is none. So the tree is read off the annotations themselves. What is not understood
is `Unknown`, which promises nothing: everything stays correct, some of it slower.

This file is pure, and knows nothing of how a value is copied or encoded.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import decimal
import enum
import types
import typing
import uuid
from collections import abc
from typing import Any, TypeVar, get_args, get_origin

import msgspec

from ._containers import HARMLESS, container_of
from ._values import is_class, names_of, tuple_names_of

__all__ = ["Fixed", "Mapping", "Node", "Record", "Scalar", "Sequence", "Set", "Union", "Unknown", "node_of", "walk"]

_SCALARS = (
    type(None),
    bool,
    int,
    float,
    str,
    bytes,
    dt.datetime,
    dt.date,
    dt.time,
    dt.timedelta,
    uuid.UUID,
    decimal.Decimal,
    msgspec.UnsetType,
)
_MAPPINGS: dict[object, bool] = {dict: False, abc.MutableMapping: False, abc.Mapping: True}
_SEQUENCES: dict[object, bool] = {
    list: False,
    abc.MutableSequence: False,
    abc.Sequence: True,
    abc.Collection: False,
    tuple: True,
}
_SINGLES = frozenset(map(id, (None, False, True, msgspec.UNSET, "", b"", ())))
_SMALL = (-5, 256)
_SETS: dict[object, bool] = {set: False, abc.MutableSet: False, abc.Set: True, frozenset: True}


class Node:
    """A type.

    Attributes:
        declared: The annotation, as msgspec takes it.
        bounded: Whether it has constraints besides its type, as `msgspec.Meta` sets them.
    """

    def __init__(self, declared: Any) -> None:
        self.declared = declared
        self.bounded = False

    @property
    def children(self) -> tuple[Node, ...]:
        """The nodes of the parts."""
        return ()


class Unknown(Node):
    """`Any`, a type with hooks, or something that is not understood."""


class Scalar(Node):
    """An immutable value without parts; `plain` is its type without constraints and aliases."""

    def __init__(self, plain: Any) -> None:
        super().__init__(plain)
        self.plain = plain


class Mapping(Node):
    """Keys and values; `read_only` where the annotation promises not to change it in place."""

    def __init__(self, declared: Any, key: Node, value: Node, *, read_only: bool) -> None:
        super().__init__(declared)
        self.key = key
        self.value = value
        self.read_only = read_only

    @property
    def children(self) -> tuple[Node, ...]:
        return self.key, self.value


class Sequence(Node):
    """Any number of items in order; `kind` is `list` or `tuple` where the type says which, else None."""

    def __init__(self, declared: Any, item: Node, *, kind: type | None = None, read_only: bool) -> None:
        super().__init__(declared)
        self.item = item
        self.kind = kind
        self.read_only = read_only

    def takes(self, value: list[Any] | tuple[Any, ...]) -> bool:
        """Whether it is of that kind."""
        return self.kind is None or isinstance(value, self.kind)

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.item,)


class Set(Node):
    """Any number of items without order."""

    def __init__(self, declared: Any, item: Node, *, read_only: bool) -> None:
        super().__init__(declared)
        self.item = item
        self.read_only = read_only

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.item,)


class Fixed(Node):
    """A tuple of known length; the items of a named one are filled in later, for they may lead back to it."""

    def __init__(self, declared: Any, items: tuple[Node, ...], *, named: bool = False) -> None:
        super().__init__(declared)
        self.items = items
        self.named = named

    @property
    def children(self) -> tuple[Node, ...]:
        return self.items


class Record(Node):
    """A Struct, dataclass, attrs class or TypedDict; its fields are filled in later, for they may lead back to it.

    Attributes:
        fields: The node of each field, by its name.
        defaults: The defaults that msgspec leaves out only where the field holds the very same object.
        as_set: Whether msgspec encodes the fields in the order in which they were set, with whatever else was set.
        atomic: Whether only all of a value tells if it can be read again: code of the class looks at it then, or
            msgspec passes over some of its fields.
    """

    def __init__(self, declared: Any, cls: type, *, frozen: bool, is_dict: bool) -> None:
        super().__init__(declared)
        self.cls = cls
        self.frozen = frozen
        self.is_dict = is_dict
        self.fields: dict[str, Node] = {}
        self.defaults = {} if is_dict else _defaults(cls)
        attributes: tuple[Any, ...] = getattr(cls, "__attrs_attrs__", ())
        self.as_set = bool(attributes) and bool(getattr(cls, "__dictoffset__", 0))
        looks = {getattr(cls, name, None) for name in ("__post_init__", "__attrs_post_init__")} - {None}
        self.atomic = not looks <= HARMLESS or any(
            attribute.name.startswith("_") or attribute.validator is not None for attribute in attributes
        )

    @property
    def children(self) -> tuple[Node, ...]:
        return tuple(self.fields.values())

    def twin(self, value: Any) -> Any:
        """A shallow copy that nobody else has seen, in which the fields stand in their order, and nothing else."""
        twin = copy.copy(value)
        if self.as_set:
            attributes: dict[str, Any] = twin.__dict__
            found = dict(attributes)
            attributes.clear()
            attributes.update((name, found[name]) for name in self.fields if name in found)
        return twin

    def get(self, value: Any, name: str) -> Any:
        """The field of that name; `msgspec.UNSET` where it is not there."""
        return value.get(name, msgspec.UNSET) if self.is_dict else getattr(value, name, msgspec.UNSET)

    def put(self, twin: Any, name: str, part: Any) -> None:
        """Set a field, frozen or not, of a copy that nobody else has seen."""
        if self.is_dict:
            twin[name] = part
        elif isinstance(twin, msgspec.Struct):
            msgspec.structs.force_setattr(twin, name, part)
        else:
            object.__setattr__(twin, name, part)

    def step(self, name: str) -> str:
        """How a path leads to a field."""
        return f"[{name!r}]" if self.is_dict else f".{name}"

    def holds(self, value: Any) -> bool:
        """Whether `value` is of this record's class."""
        return isinstance(value, dict if self.is_dict else self.cls)

    def is_all_of(self, value: Any) -> bool:
        """Whether `value` is of this very class, or has no keys but those of this record."""
        return (
            value.keys() <= self.fields.keys() if self.is_dict and isinstance(value, dict) else type(value) is self.cls
        )


class Union(Node):
    """One of several."""

    def __init__(self, declared: Any, options: tuple[Node, ...]) -> None:
        super().__init__(declared)
        self.options = options

    @property
    def children(self) -> tuple[Node, ...]:
        return self.options


def node_of(declared: Any) -> Node:
    """The tree of a type."""
    return _Reader().read(declared, {})


class _Reader:
    """Reads annotations; each record once, so that recursive types end."""

    def __init__(self) -> None:
        self._records: dict[Any, Record | Fixed] = {}

    def read(self, declared: Any, bound: abc.Mapping[Any, Any]) -> Node:
        given = _bind(_unqualified(declared), bound)
        constraints: list[msgspec.Meta] = []
        plain = _unwrap(declared, bound, constraints)
        node = self._read(plain, bound)
        if given is plain or isinstance(given, TypeVar):
            return node
        if isinstance(node, Record) or (isinstance(node, Fixed) and node.named):
            # it is one for all its uses, which may differ in their constraints
            return Union(given, (node,)) if constraints else node
        node.declared = given
        node.bounded = bool(constraints)
        return node

    def _read(self, plain: Any, bound: abc.Mapping[Any, Any]) -> Node:
        if plain is None:
            return Scalar(type(None))
        origin = get_origin(plain)
        args = tuple(_bind(arg, bound) for arg in get_args(plain))
        if origin is typing.Union or origin is types.UnionType:
            return Union(_bind(plain, bound), tuple(self.read(arg, bound) for arg in args))
        if origin is typing.Literal:
            return Scalar(plain)
        cls = origin if origin is not None else plain
        return self._container(plain, cls, args, bound) or self._leaf_or_record(plain, cls, args)

    def _container(self, plain: Any, cls: Any, args: tuple[Any, ...], bound: abc.Mapping[Any, Any]) -> Node | None:
        declared = _bind(plain, bound)
        if cls in _MAPPINGS or container_of(cls) is not None:
            key, value = args or (Any, Any)
            read_only = _MAPPINGS.get(cls, True)
            return Mapping(declared, self.read(key, bound), self.read(value, bound), read_only=read_only)
        if cls in _SETS:
            return Set(declared, self.read(args[0] if args else Any, bound), read_only=_SETS[cls])
        if cls is tuple and args and args[-1] is not Ellipsis:
            return Fixed(declared, tuple(self.read(arg, bound) for arg in args))
        if cls in _SEQUENCES:
            item = self.read(args[0] if args else Any, bound)
            return Sequence(declared, item, kind=cls if cls in (list, tuple) else None, read_only=_SEQUENCES[cls])
        return None

    def _leaf_or_record(self, plain: Any, cls: Any, args: tuple[Any, ...]) -> Node:
        if not is_class(cls):
            return Unknown(plain)
        if cls in _SCALARS or issubclass(cls, enum.Enum):
            return Scalar(plain)
        names = tuple_names_of(cls)
        if names is not None:
            return self._named(plain, cls, args, names)
        names = names_of(cls)
        if names is not None:
            return self._record(plain, cls, args, names, frozen=_is_frozen(cls))
        if typing.is_typeddict(cls):
            return self._record(plain, cls, args, tuple(_hints(cls, args)), frozen=False, is_dict=True)
        return Unknown(plain)

    def _record(
        self,
        plain: Any,
        cls: type,
        args: tuple[Any, ...],
        names: tuple[str, ...],
        *,
        frozen: bool,
        is_dict: bool = False,
    ) -> Node:
        known = self._records.get(plain)
        if known is not None:
            return known
        record = self._records[plain] = Record(plain, cls, frozen=frozen, is_dict=is_dict)
        hints = _hints(cls, args)
        record.fields = {name: self.read(hints.get(name, Any), {}) for name in names}
        return record

    def _named(self, plain: Any, cls: type, args: tuple[Any, ...], names: tuple[str, ...]) -> Node:
        """A class of named tuples."""
        known = self._records.get(plain)
        if known is not None:
            return known
        fixed = self._records[plain] = Fixed(plain, (), named=True)
        hints = _hints(cls, args)
        fixed.items = tuple(self.read(hints.get(name, Any), {}) for name in names)
        return fixed


def _unqualified(declared: Any) -> Any:
    """Without the qualifiers of a TypedDict's keys and of a class's fields, which msgspec takes nowhere else."""
    while get_origin(declared) in (typing.Required, typing.NotRequired, typing.Final):
        declared = get_args(declared)[0]
    return declared


def _unwrap(declared: Any, bound: abc.Mapping[Any, Any], constraints: list[msgspec.Meta]) -> Any:
    """Without qualifiers, Annotated, NewType, aliases and type variables; constraints on the way are collected."""
    while True:
        declared = _unqualified(declared)
        if isinstance(declared, TypeVar):
            declared = bound.get(declared, declared.__bound__ or Any)
            if isinstance(declared, TypeVar):
                return Any
        elif isinstance(declared, typing.NewType):
            declared = declared.__supertype__
        elif isinstance(declared, getattr(typing, "TypeAliasType", ())):
            declared = getattr(declared, "__value__", Any)
        elif get_origin(declared) is typing.Annotated:
            declared, *metadata = get_args(declared)
            constraints.extend(meta for meta in metadata if isinstance(meta, msgspec.Meta))
        else:
            return declared


def _bind(declared: Any, bound: abc.Mapping[Any, Any]) -> Any:
    """`declared` with its type variables replaced."""
    if isinstance(declared, TypeVar):
        return bound.get(declared, declared)
    parameters = getattr(declared, "__parameters__", ())
    if not parameters or isinstance(declared, type):
        return declared
    return declared[tuple(bound.get(parameter, parameter) for parameter in parameters)]


def _hints(cls: type, args: tuple[Any, ...]) -> dict[str, Any]:
    """The annotations of a class and its bases, with the type variables of each replaced."""
    bounds: dict[type, dict[Any, Any]] = {}
    _collect(cls, args, bounds)
    hints: dict[str, Any] = {}
    evaluated = typing.get_type_hints(cls, include_extras=True)
    for base in cls.__mro__:
        for name in getattr(base, "__annotations__", {}) if "__annotations__" in base.__dict__ else ():
            if name in evaluated and name not in hints:
                hints[name] = _bind(evaluated[name], bounds.get(base, {}))
    return {name: hints.get(name, hint) for name, hint in evaluated.items()}


def _defaults(cls: Any) -> dict[str, Any]:
    """The defaults of a Struct that leaves them out, as far as something equal may be another object."""
    if not (issubclass(cls, msgspec.Struct) and cls.__struct_config__.omit_defaults):
        return {}
    defaults = ((field.name, field.default) for field in msgspec.structs.fields(cls))
    return {name: value for name, value in defaults if value is not msgspec.NODEFAULT and not _is_single(value)}


def _is_single(value: Any) -> bool:
    """Whether CPython has one object of that value only."""
    small = type(value) is int and _SMALL[0] <= value <= _SMALL[1]
    return small or id(value) in _SINGLES or isinstance(value, enum.Enum)


def _is_frozen(cls: Any) -> bool:
    """Whether a Struct, dataclass or attrs class refuses assignment."""
    if issubclass(cls, msgspec.Struct):
        return bool(cls.__struct_config__.frozen)
    if dataclasses.is_dataclass(cls):
        return bool(getattr(cls, "__dataclass_params__").frozen)  # noqa: B009  typeshed does not have it
    return bool(cls.__setattr__.__name__ == "_frozen_setattrs")  # as attrs itself recognises it


def _collect(cls: type, args: tuple[Any, ...], bounds: dict[type, dict[Any, Any]]) -> None:
    bounds[cls] = dict(zip(getattr(cls, "__parameters__", ()), args, strict=False))
    for base in getattr(cls, "__orig_bases__", ()):
        origin = get_origin(base)
        if isinstance(origin, type) and origin is not typing.Generic:
            _collect(origin, tuple(_bind(arg, bounds[cls]) for arg in get_args(base)), bounds)


def walk(root: Node) -> abc.Iterator[Node]:
    """Every node of the tree once, the root first."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            waiting.extend(node.children)

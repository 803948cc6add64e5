"""What a value is at run time, whatever its type was declared to be.

This file is pure.
"""

from __future__ import annotations

import dataclasses
from collections import abc
from functools import cache
from typing import Any, TypeGuard

import msgspec

__all__ = [
    "class_of",
    "is_array",
    "is_class",
    "is_mapping",
    "is_set",
    "is_tuple",
    "names_of",
    "step_to",
    "tuple_names_of",
]


def is_mapping(value: object) -> TypeGuard[abc.Mapping[Any, Any]]:
    """Whether it has keys and values."""
    return isinstance(value, abc.Mapping)


def is_set(value: object) -> TypeGuard[abc.Set[Any]]:
    """Whether it is a set of some kind."""
    return isinstance(value, abc.Set)


def is_array(value: object) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    """Whether it is what msgspec encodes as an array, in order."""
    return isinstance(value, list | tuple)


def is_tuple(value: object) -> TypeGuard[tuple[Any, ...]]:
    """Whether it is a tuple, named or not."""
    return isinstance(value, tuple)


def is_class(value: object) -> bool:
    """Whether it is a class, and no alias of one with parameters."""
    return isinstance(value, type)


def class_of(value: object) -> Any:
    """Its class."""
    return type(value)


def step_to(key: object) -> str:
    """How a path leads to what stands under a key, or at a place."""
    try:
        return f"[{key!r:.64}]"
    except Exception:  # noqa: BLE001  an int of more than 4,300 digits, or a key of the user's own, has no text
        return f"[<{type(key).__name__}>]"


def tuple_names_of(cls: type[Any]) -> tuple[str, ...] | None:
    """The names of the items of a class of named tuples; None for any other class."""
    names: tuple[str, ...] | None = getattr(cls, "_fields", None)
    return names if issubclass(cls, tuple) else None


@cache
def names_of(cls: Any) -> tuple[str, ...] | None:
    """The names of the fields of a Struct, dataclass or attrs class; None for any other class."""
    if issubclass(cls, msgspec.Struct):
        return tuple(cls.__struct_fields__)
    if hasattr(cls, "__dataclass_fields__"):
        return tuple(field.name for field in dataclasses.fields(cls))
    if hasattr(cls, "__attrs_attrs__"):
        return tuple(attribute.name for attribute in cls.__attrs_attrs__)
    return None

"""Mappings of other libraries that are never changed in place, such as persistent maps: taken apart and made again.

`immutables.Map` is in the table wherever that library is installed.

A class in the table counts as a value, is cut into pieces like any mapping, and is made again when it is loaded. It
must be generic over the types of its keys and values, have `len`, `iter`, item access and equality, and be registered
as a `collections.abc.Mapping`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, get_args, get_origin

import msgspec

__all__ = ["CONTAINERS", "HARMLESS", "Container", "container_of", "is_known_mapping"]


class Container(msgspec.Struct, frozen=True):
    """A class of mappings.

    Attributes:
        iterate: Its entries, as pairs of key and value.
        rebuild: One of it from a dict of its entries.
    """

    iterate: Callable[[Any], Iterable[tuple[Any, Any]]]
    rebuild: Callable[[dict[Any, Any]], Any]


CONTAINERS: dict[type, Container] = {}
"""By class."""

HARMLESS: set[object] = set()
"""Each `__post_init__` that takes whatever is of the declared types, and gives what is equal to it."""

try:
    from immutables import Map
except ImportError:
    pass
else:
    CONTAINERS[Map] = Container(lambda value: value.items(), Map)


def is_known_mapping(value: object) -> bool:
    """Whether it is a mapping that is encoded without a user's hook."""
    return isinstance(value, dict) or type(value) in CONTAINERS


def container_of(declared: Any) -> tuple[Container, Any, Any] | None:
    """The container that a type such as ``Map[str, Task]`` names, and the types of its keys and values."""
    origin = get_origin(declared) or declared
    container = CONTAINERS.get(origin) if isinstance(origin, type) else None
    if container is None:
        return None
    key, value = get_args(declared) or (Any, Any)
    return container, key, value

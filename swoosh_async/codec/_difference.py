"""What differs between two values of plain data: mappings, arrays and scalars, as a decoder without a type gives them.

It is found lazily and without recursion, so that whoever has seen enough can stop, and no depth is too deep. Parts that
are one and the same object are not looked at. This file is pure.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from itertools import zip_longest
from typing import Any, Literal

import msgspec

from ._values import is_array, is_mapping, step_to

__all__ = ["Difference", "differences"]

_NOTHING = msgspec.UNSET
_NAME_CHARS = 64


class Difference(msgspec.Struct, frozen=True):
    """A part that is not the same in both.

    Attributes:
        path: Where it stands.
        kind: Whether it is in the new value only, in the old one only, or in both.
        old: What was there; UNSET where there was nothing.
        new: What is there; UNSET where there is nothing.
    """

    path: str
    kind: Literal["added", "removed", "changed"]
    old: Any = msgspec.UNSET
    new: Any = msgspec.UNSET


def differences(old: Any, new: Any, path: str = "state") -> Iterator[Difference]:
    """Each part in which two values differ, the smallest that says it.

    Mappings are compared by key, in sorted order, and arrays by position. NaN is NaN, and numbers are compared by
    value, but a bool is no number.

    Args:
        old: The one.
        new: The other.
        path: What the paths begin with.
    """
    way = [iter([(path, old, new)])]
    steps: list[str] = []
    while way:
        for step, before, after in way[-1]:
            if before is after:
                continue
            if (is_mapping(before) and is_mapping(after)) or (is_array(before) and is_array(after)):
                way.append(_pairs(before, after))
                steps.append(step)
                break
            if not _same(before, after):
                yield Difference("".join([*steps, step]), _kind(before, after), before, after)
        else:
            way.pop()
            del steps[-1:]


def _pairs(old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """The parts of two containers of one kind that stand at the same place, each with the step that leads to it."""
    if is_mapping(old):
        for key in _sorted(old.keys() | new.keys()):
            yield _step(key), old.get(key, _NOTHING), new.get(key, _NOTHING)
    else:
        for number, (before, after) in enumerate(zip_longest(old, new, fillvalue=_NOTHING)):
            yield f"[{number}]", before, after


def _sorted(keys: Collection[Any]) -> list[Any]:
    try:
        return sorted(keys)
    except TypeError:  # of several types
        return sorted(keys, key=lambda key: (type(key).__name__, step_to(key)))


def _step(key: Any) -> str:
    return f".{key}" if isinstance(key, str) and key.isidentifier() and len(key) <= _NAME_CHARS else step_to(key)


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, bool) or isinstance(new, bool):
        return old is new
    if isinstance(old, float) and isinstance(new, float) and math.isnan(old) and math.isnan(new):
        return True
    return bool(old == new)


def _kind(old: Any, new: Any) -> Literal["added", "removed", "changed"]:
    if old is _NOTHING:
        return "added"
    return "removed" if new is _NOTHING else "changed"

"""How deep a value may be nested so that every reader can read it again.

msgspec's readers end with a RecursionError at a depth that differs between Python versions (below 1,000 up to 3.12,
some thousands from 3.13), and its writers at another. So the bound is ours, and the same everywhere.

This file is pure.
"""

from __future__ import annotations

from collections import abc
from typing import Any

from ..errors import InvalidStateError
from ._values import class_of, is_array, is_mapping, is_set, names_of, step_to

__all__ = ["MAX_DEPTH", "check_depth"]

MAX_DEPTH = 500
"""How many containers may stand in one another, in a state whose type does not bound it."""


_SHOWN = 8  # steps of the path that a message shows: enough to tell where it goes wrong
_NO_PARTS = (str, bytes, int, float, type(None))


def check_depth(state: Any) -> None:
    """Check that the state can be read again, without recursion, and with no more in memory than one way down.

    Raises:
        InvalidStateError: It is nested deeper than `MAX_DEPTH`, or contains itself.
    """
    way = [(state, _parts(state))]
    steps: list[Any] = []
    above = {id(state)}
    while way:
        value, rest = way[-1]
        for step, part in rest:
            if isinstance(part, _NO_PARTS):
                continue
            if id(part) in above:
                raise InvalidStateError(_path(way, [*steps, step]), "contains itself")
            if len(way) >= MAX_DEPTH and any(True for _ in _parts(part)):
                raise InvalidStateError(_path(way, [*steps, step]), f"nested deeper than {MAX_DEPTH} levels")
            way.append((part, _parts(part)))
            steps.append(step)
            above.add(id(part))
            break
        else:
            way.pop()
            del steps[-1:]
            above.remove(id(value))


def _parts(value: Any) -> abc.Iterator[tuple[Any, Any]]:
    """The parts of a container, each with its key, its place or its field's name."""
    if is_mapping(value):
        return iter(value.items())
    if is_array(value) or is_set(value):
        return enumerate(value)
    return ((name, getattr(value, name, None)) for name in names_of(class_of(value)) or ())


def _path(way: list[tuple[Any, Any]], steps: list[Any]) -> str:
    path = "state"
    for (value, _), step in zip(way, steps[:_SHOWN], strict=False):
        is_field = not (is_mapping(value) or is_array(value) or is_set(value))
        path += f".{step}" if is_field else step_to(step)
    return path + ("…" if len(steps) > _SHOWN else "")

"""How deep a value may be nested so that every reader can read it again.

msgspec's readers end with a RecursionError at a depth that differs between Python versions (below 1,000 up to 3.12,
some thousands from 3.13), and its writers at another. So the bound is ours, and the same everywhere.

This file is pure.
"""

from __future__ import annotations

from collections import abc
from typing import Any

from ..errors import InvalidStateError
from ._values import class_of, is_array, is_mapping, is_set, names_of

__all__ = ["MAX_DEPTH", "check_depth"]

MAX_DEPTH = 500
"""How many containers may stand in one another, in a state whose type does not bound it."""


class _At:
    """A container that was met, and the way back to the state."""

    __slots__ = ("depth", "parent", "step", "value")

    def __init__(self, value: Any, depth: int, parent: _At | None, step: str) -> None:
        self.value = value
        self.depth = depth
        self.parent = parent
        self.step = step


def check_depth(state: Any) -> None:
    """Check that the state can be read again, without recursion.

    Raises:
        InvalidStateError: It is nested deeper than `MAX_DEPTH`, or contains itself.
    """
    waiting = [_At(state, 1, None, "state")]
    while waiting:
        at = waiting.pop()
        for step, part in _parts(at.value):
            if isinstance(part, _NO_PARTS):
                continue
            below = _At(part, at.depth + 1, at, step)
            if below.depth > MAX_DEPTH and any(True for _ in _parts(part)):
                raise InvalidStateError(_path(below), f"nested deeper than {MAX_DEPTH} levels, or containing itself")
            waiting.append(below)


_SHOWN = 8
_NO_PARTS = (str, bytes, int, float, type(None))


def _parts(value: Any) -> abc.Iterator[tuple[str, Any]]:
    if is_mapping(value):
        yield from ((f"[{key!r:.64}]", part) for key, part in value.items())
    elif is_array(value) or is_set(value):
        yield from ((f"[{i}]", part) for i, part in enumerate(value))
    else:
        names = names_of(class_of(value)) or ()
        yield from ((f".{name}", getattr(value, name, None)) for name in names)


def _path(at: _At) -> str:
    steps = [at.step]
    while at.parent is not None:
        at = at.parent
        steps.append(at.step)
    steps.reverse()
    return "".join(steps[:_SHOWN]) + ("…" if len(steps) > _SHOWN else "")

"""Plain data of any shape and size as a tree to be read: so many children of a node, so many characters of a text.

It is built breadth first, so that where it is bounded, what is near the root is there. This file is pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import msgspec
from rich.text import Text
from rich.tree import Tree

from ._terminal import printable, shortened

__all__ = ["Bounds", "scalar", "tree_of"]


class Bounds(msgspec.Struct, frozen=True):
    """How much of a state is shown.

    Attributes:
        children: Of each node.
        chars: Of each text.
        nodes: Of the whole tree.
        depth: How deep.
    """

    children: int
    chars: int
    nodes: int
    depth: int = 12


def tree_of(name: str, value: Any, bounds: Bounds) -> Tree:
    """The value as a tree; where children are left out, it says how many."""
    root = Tree(_label(name, value, bounds))
    left = bounds.nodes
    waiting = deque([(root, value, 1)])
    while waiting:
        node, parent, depth = waiting.popleft()
        size = _size(parent)
        shown = min(size, bounds.children, left) if depth <= bounds.depth else 0
        for key, child in islice(_children(parent), shown):
            added = node.add(_label(key, child, bounds))
            waiting.append((added, child, depth + 1))
        left -= shown
        if size > shown:
            node.add(Text(f"… and {size - shown:,} more", "dim"))
    return root


def _label(name: str, value: Any, bounds: Bounds) -> Text:
    key = (shortened(name, bounds.chars), "cyan")
    if isinstance(value, Mapping | list | tuple):
        left, right = "{}" if isinstance(value, Mapping) else "[]"
        size = _size(cast("Any", value))
        return Text.assemble(key, (f" {left}{f'{size:,}' if size else ''}{right}", "dim"))
    return Text.assemble(key, ": ", scalar(value, bounds.chars))


def scalar(value: Any, chars: int) -> tuple[str, str]:
    """A value without children as printable text, so many characters of it, and its style."""
    if isinstance(value, str):
        return f'"{shortened(printable(value[: chars + 1]), chars)}"', "green"
    if isinstance(value, bytes):
        return f"{shortened(value[: chars + 1].hex(), chars)} ({len(value):,} bytes)".lstrip(), "magenta"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value], "yellow"
    return shortened(printable(str(value)), chars), "yellow"


def _size(value: Any) -> int:
    return len(cast("Sequence[Any]", value)) if isinstance(value, Mapping | list | tuple) else 0


def _children(value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, child in cast("dict[Any, Any]", value).items():
            yield printable(str(key)) or '""', child
    elif isinstance(value, list | tuple):
        for number, child in enumerate(cast("Sequence[Any]", value)):
            yield str(number), child

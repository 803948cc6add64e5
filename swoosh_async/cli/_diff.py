"""What differs between two states, a line for each part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from ..codec._difference import Difference
from ._events import compact
from ._terminal import printable, shortened

__all__ = ["as_facts", "lines_of"]

_SIGNS = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}
_PATH_CHARS = 400


def lines_of(differences: Iterable[Difference], most: int, chars: int) -> Iterator[tuple[str, str]]:
    """The differences as printable lines, each with its style, and a last one with their number.

    Args:
        differences: What differs.
        most: How many are shown.
        chars: How many characters of a value are shown.
    """
    counted: Counter[str] = Counter()
    for number, difference in enumerate(differences):
        counted[difference.kind] += 1
        if number < most:
            sign, style = _SIGNS[difference.kind]
            yield f"{sign} {_path(difference.path)}{_values(difference, chars)}", style
    if (more := counted.total() - most) > 0:
        yield f"… and {more:,} more", "dim"
    yield ", ".join(f"{counted[kind]:,} {kind}" for kind in _SIGNS if counted[kind]) or "no difference", "bold"


def _path(path: str) -> str:
    return shortened(printable(path[: _PATH_CHARS + 1]), _PATH_CHARS)


def _values(difference: Difference, chars: int) -> str:
    shown = [compact(value, chars) for value in (difference.old, difference.new) if value is not msgspec.UNSET]
    return ": " + " → ".join(shown)


def as_facts(difference: Difference) -> dict[str, Any]:
    """A difference by name, without what was not there."""
    values = {"old": difference.old, "new": difference.new}
    held = {name: value for name, value in values.items() if value is not msgspec.UNSET}
    return {"path": difference.path, "kind": difference.kind, **held}

"""What differs between two values of plain data."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swoosh_async.codec._difference import Difference, differences

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=4),
    max_leaves=12,
)


def told(old: Any, new: Any) -> list[tuple[str, str]]:
    """Where they differ, and how."""
    return [(difference.path, difference.kind) for difference in differences(old, new)]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (1, 2, [("state", "changed")]),
        ({}, [], [("state", "changed")]),
        ({"a": 1}, {"a": 1, "b": None}, [("state.b", "added")]),
        ({"a": None}, {}, [("state.a", "removed")]),
        ([1, 2, 3], [1, 4], [("state[1]", "changed"), ("state[2]", "removed")]),
        ([[]], [[0], {}], [("state[0][0]", "added"), ("state[1]", "added")]),
        ((1, [2]), [1, (2,)], []),
        (
            {"z": {"x y": [1]}, "b": 1, "a": 1},
            {"a": 2, "b": 1, "z": {"x y": [{}]}},
            [("state.a", "changed"), ("state.z['x y'][0]", "changed")],
        ),
        ({2: 1, "1": 1, None: 1}, {2: 2, "1": 1}, [("state[None]", "removed"), ("state[2]", "changed")]),
        ({10: 1, 9: 1}, {10: 2, 9: 2}, [("state[9]", "changed"), ("state[10]", "changed")]),
    ],
)  # fmt: skip
def test_differences(old: Any, new: Any, expected: list[tuple[str, str]]) -> None:
    """The smallest parts that differ are told, mappings by key in order and arrays by position."""
    found = told(old, new)
    assert sorted(found) == sorted(expected)
    if not any("None" in path for path, _ in expected):  # the order of keys of several types is some fixed one
        assert found == expected


def test_what_is_told() -> None:
    """A difference has what was there and what is there, and the path begins as is asked for."""
    assert list(differences({"a": 1, "b": 2}, {"a": [3], "c": None}, "board")) == [
        Difference("board.a", "changed", 1, [3]),
        Difference("board.b", "removed", old=2),
        Difference("board.c", "added", new=None),
    ]


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        (math.nan, float("nan"), True),
        (1, 1.0, True),
        (0.0, -0.0, True),
        (1, True, False),
        (False, 0, False),
        (True, True, True),
        (None, False, False),
        ("1", 1, False),
        (b"a", "a", False),
        (math.nan, 1.0, False),
        (10**400, math.inf, False),
    ],
)
def test_scalars(old: Any, new: Any, same: bool) -> None:
    """Numbers are compared by value, NaN is NaN, and a bool is no number."""
    assert (told(old, new) == []) is same
    assert (told([old], [new]) == []) is same


@given(PLAIN)
def test_nothing_differs_from_itself(value: Any) -> None:
    """A value and a copy of it have no differences; a changed one has that one."""

    def copied(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: copied(child) for key, child in part.items()}
        return [copied(child) for child in part] if isinstance(part, list) else part

    assert told(value, copied(value)) == []
    assert told([0, value, 0], [0, copied(value), 1]) == [("state[2]", "changed")]


@given(PLAIN, PLAIN)
def test_it_is_symmetric(old: Any, new: Any) -> None:
    """Seen from the other side, what was added is removed, and nothing else changes."""
    turned = {"added": "removed", "removed": "added", "changed": "changed"}
    assert [(path, turned[kind]) for path, kind in told(old, new)] == told(new, old)


def test_it_is_lazy_and_deep() -> None:
    """No more is looked at than is asked for, no depth is too deep, and a path is no longer than its keys are short."""
    old: Any = 1
    new: Any = 2
    for _ in range(100_000):
        old, new = [old], [new]
    (deep,) = differences(old, new)
    assert deep.path == "state" + "[0]" * 100_000
    many = differences(range_of(0), range_of(1))
    assert [difference.path for difference in islice(many, 2)] == ["state[0]", "state[1]"]
    long = "k" * 10_000
    assert len(told({long: 1}, {long: 2})[0][0]) < 100


def range_of(first: int) -> list[int]:
    """Many numbers, all others than those from another first."""
    return list(range(first, 10_000))

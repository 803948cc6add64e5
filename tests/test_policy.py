"""When a snapshot is due is decided by numbers and by the state alone."""

from __future__ import annotations

import math
from typing import Any

import pytest

from swoosh_async.machine import SnapshotPolicy


def long(state: str) -> bool:
    """Whether a state is long."""
    return len(state) > 3


def never_asked(state: str) -> bool:
    """Must not be asked."""
    raise AssertionError(state)


@pytest.mark.parametrize(
    ("policy", "events", "age_s", "state", "due"),
    [
        ({}, 0, math.inf, "", False),
        ({}, 9_999, math.inf, "", False),
        ({}, 10_000, 0, "", True),
        ({"every_events": 1}, 0, math.inf, "", False),
        ({"every_events": 1}, 1, 0, "", True),
        ({"every_events": 5}, 4, math.inf, "", False),
        ({"every_events": 5}, 5, 0, "", True),
        ({"every_events": 5}, 6, 0, "", True),
        ({"every_events": None}, 1 << 62, math.inf, "", False),
        ({"every_events": None, "every_s": 2}, 0, math.inf, "", False),
        ({"every_events": None, "every_s": 2}, 1, 1.999, "", False),
        ({"every_events": None, "every_s": 2}, 1, 2, "", True),
        ({"every_events": None, "every_s": 2}, 1 << 62, 1, "", False),
        ({"every_events": 5, "every_s": 2}, 4, 1, "", False),
        ({"every_events": 5, "every_s": 2}, 5, 1, "", True),
        ({"every_events": 5, "every_s": 2}, 4, 3, "", True),
        ({"every_events": None, "when": long}, 1, 0, "abc", False),
        ({"every_events": None, "when": long}, 1, 0, "abcd", True),
        ({"every_events": None, "when": long}, 0, math.inf, "abcd", False),
        ({"every_events": 5, "when": long}, 5, 0, "abc", True),
        ({"every_events": 5, "when": never_asked}, 5, 0, "", True),
        ({"every_events": 5, "when": never_asked}, 0, 0, "", False),
        ({"every_events": None, "every_s": 1, "when": never_asked}, 1, 1, "", True),
    ],
)
def test_due(policy: dict[str, Any], events: int, age_s: float, state: str, due: bool) -> None:
    """Whatever comes first makes it due, and nothing does where no event came; the state is asked last."""
    made = SnapshotPolicy(**policy)
    assert made.due(events, age_s, state) is due
    if made.when is None:
        assert made.counted(events, age_s) is due


@pytest.mark.parametrize(
    ("policy", "what"),
    [
        ({"every_events": 0}, "every_events"),
        ({"every_events": -1}, "every_events"),
        ({"every_s": 0}, "every_s"),
        ({"every_s": -0.5}, "every_s"),
        ({"every_s": math.nan}, "every_s"),
        ({"keep": 0}, "keep"),
    ],
)
def test_out_of_range(policy: dict[str, Any], what: str) -> None:
    """A bound that is out of range is refused, and named."""
    with pytest.raises(ValueError, match=what):
        SnapshotPolicy(**policy)


def test_defaults() -> None:
    """Unless told otherwise one is taken every ten thousand events and on closing, and three are kept."""
    policy = SnapshotPolicy()
    assert (policy.every_events, policy.every_s, policy.when) == (10_000, None, None)
    assert (policy.on_close, policy.keep) == (True, 3)

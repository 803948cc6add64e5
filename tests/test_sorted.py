"""The long sort in short steps: always the order of `sorted`, in groups that are never long."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swoosh_async.codec import _sorted
from swoosh_async.codec._sorted import sorted_groups


@given(keys=st.lists(st.text(max_size=5), unique=True), group=st.integers(1, 8))
def test_groups_are_sorted_as_a_whole(keys: list[str], group: int) -> None:
    """Joined, the groups are what `sorted` gives, whatever the keys and the size of a group."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sorted, "GROUP", group)
        assert [key for found in sorted_groups(dict.fromkeys(keys)) for key in found] == sorted(keys)


@given(keys=st.lists(st.integers(), unique=True), group=st.integers(1, 8))
def test_groups_are_sorted_by_an_order_of_their_own(keys: list[int], group: int) -> None:
    """With an order, the groups are what `sorted` gives with that key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sorted, "GROUP", group)
        assert [key for found in sorted_groups(keys, str) for key in found] == sorted(keys, key=str)


@pytest.mark.parametrize(
    "arrange", [sorted, list, lambda keys: sorted(keys, reverse=True)], ids=["up", "mixed", "down"]
)
@pytest.mark.parametrize("name", ["task-{:.12f}", "{:.3f}-common-tail", "common-head-{:.15f}"])
def test_no_group_is_long(arrange: object, name: str) -> None:
    """Of 100,000 keys no group has more than four times the usual size, in whatever order they come."""
    source = random.Random(7)
    keys = list({name.format(source.random()) for _ in range(100_000)})
    lengths = [len(group) for group in sorted_groups(arrange(keys))]  # type: ignore[operator]
    assert sum(lengths) == len(keys)
    assert max(lengths) <= 4 * _sorted.GROUP


def test_keys_that_a_sample_misjudges_are_sorted_all_the_same() -> None:
    """Where the sample sees none of the crowded region, its group is long at first, and is divided again."""
    crowd = [f"m{i:06d}" for i in range(60_000)]
    spread = [f"{chr(97 + i % 26)}{i}" for i in range(2_000)]
    keys = spread + crowd
    groups = [group for group in sorted_groups(keys) if group]
    assert [key for group in groups for key in group] == sorted(keys)
    assert max(map(len, groups)) <= 4 * _sorted.GROUP


def test_what_cannot_be_ordered_is_a_type_error() -> None:
    """Keys of types that Python does not compare are refused as `sorted` refuses them."""
    with pytest.raises(TypeError):
        list(sorted_groups([1, "a"]))

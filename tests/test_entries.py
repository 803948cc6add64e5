"""Entries and receipts are values: their place, their time, and the event; and time goes on with the place."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swoosh_async import Entry, Receipt, Timestamp
from swoosh_async._entries import Origin

LOGICAL_MAX = 2**32 - 1

stamps = st.builds(
    Timestamp,
    st.integers(0, 2**63),
    st.integers(0, LOGICAL_MAX) | st.integers(LOGICAL_MAX - 3, LOGICAL_MAX),
    st.integers(0, 2**64 - 1),
)
indexes = st.integers(1, 2**63)


@given(indexes, stamps, st.integers(0, 1000))
def test_the_same_by_whatever_way(first: int, stamp: Timestamp, steps: int) -> None:
    """What a batch gives is equal to what is made by hand, has the same hash, and reads the same."""
    origin = Origin(first, stamp)
    index, hlc = first + steps, stamp.plus(steps)
    for one, made in (
        (Receipt(index, origin), Receipt.of(index, hlc)),
        (Entry(index, origin, "event"), Entry.of(index, hlc, "event")),
    ):
        assert (one.index, one.hlc) == (index, hlc)
        assert one == made
        assert hash(one) == hash(made)
        assert repr(one) == repr(made)


@given(stamps, st.integers(1, 2**33))
def test_time_goes_on_with_the_place(stamp: Timestamp, steps: int) -> None:
    """A later entry of a batch has a later time, also where the logical counter overflows."""
    origin = Origin(1, stamp)
    times = [Receipt(index, origin).hlc for index in (1, 2, steps + 1, steps + 2)]
    assert times[0] == stamp
    assert times[0] < times[1] <= times[2] < times[3]
    assert all(time.node == stamp.node for time in times)


def test_overflow_in_a_batch() -> None:
    """Where the logical counter ends, the wall time takes over the step."""
    origin = Origin(10, Timestamp(5, LOGICAL_MAX - 1, 3))
    assert [Receipt(index, origin).hlc for index in (10, 11, 12, 13)] == [
        Timestamp(5, LOGICAL_MAX - 1, 3),
        Timestamp(5, LOGICAL_MAX, 3),
        Timestamp(6, 0, 3),
        Timestamp(6, 1, 3),
    ]


def test_different() -> None:
    """Another place, time or event makes another value; a receipt equals no entry, and nothing of other types."""
    stamp = Timestamp(5)
    values: list[Any] = [
        Receipt.of(1, stamp),
        Receipt.of(2, stamp),
        Receipt.of(1, Timestamp(6)),
        Entry.of(1, stamp, "a"),
        Entry.of(1, stamp, "b"),
        Entry.of(2, stamp, "a"),
        Entry.of(1, Timestamp(5, 0, 1), "a"),
        (1, stamp),
        None,
    ]
    for one, two in itertools.combinations(values, 2):
        assert one != two
    assert len(set(values)) == len(values)


def test_reads_as_what_it_is() -> None:
    """The text names the place, the time, and the event."""
    stamp = Timestamp(5)
    assert repr(Receipt.of(3, stamp)) == f"Receipt(index=3, hlc={stamp!r})"
    assert repr(Entry.of(3, stamp, {"a": 1})) == f"Entry(index=3, hlc={stamp!r}, event={{'a': 1}})"


@pytest.mark.parametrize("value", [Receipt(7, Origin(5, Timestamp(1, 2, 3))), Entry(7, Origin(5, Timestamp(1)), [1])])
def test_travels(value: Any) -> None:
    """It can be copied and pickled."""
    for twin in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert twin == value
        assert twin.hlc == value.hlc
        assert type(twin) is type(value)


def test_frozen() -> None:
    """It cannot be changed."""
    for value in (Receipt.of(1, Timestamp(1)), Entry.of(1, Timestamp(1), "a")):
        for name in ("index", "hlc", "event"):
            with pytest.raises(AttributeError):
                setattr(value, name, 2)


def test_of_an_event_that_has_no_hash() -> None:
    """An entry has a hash if its event has one; it is equal in either case."""
    assert Entry.of(1, Timestamp(1), [1]) == Entry.of(1, Timestamp(1), [1])
    with pytest.raises(TypeError):
        hash(Entry.of(1, Timestamp(1), [1]))


def test_of_an_event_of_any_kind() -> None:
    """The event is the very object that was given."""
    event = msgspec.Struct()
    assert Entry.of(1, Timestamp(1), event).event is event

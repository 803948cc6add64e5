"""Snapshots, cursors and the default state are values: checked when they are made, and never changed in place."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swoosh_async import models
from swoosh_async.codec import SnapshotCodec
from swoosh_async.codec._plan import Plan
from swoosh_async.errors import CorruptSnapshotError, InvalidStateError
from swoosh_async.models import (
    MAX_INDEX,
    Cursor,
    Lease,
    OrchestratorState,
    Snapshot,
    Task,
    TaskStatus,
    Worker,
)

STRUCTS = [
    cls for name in models.__all__ if isinstance(cls := getattr(models, name), type) and issubclass(cls, msgspec.Struct)
]
STATE = OrchestratorState(
    workers={"w1": Worker("w1", capacity=2, last_seen=1.5, labels={"zone": "a"})},
    tasks={
        "build": Task("build", TaskStatus.SUCCEEDED, attempts=1, result="ok"),
        "test": Task("test", dependencies=("build",), deadline=9.5),
        "ship": Task("ship", dependencies=("build", "test"), labels={"to": "all"}),
    },
    leases={"leader": Lease("leader", "w1", 10.0, token=3)},
    settings={"mode": "fast"},
)

texts = st.text(max_size=5)
maps = st.dictionaries(texts, texts, max_size=3)
floats = st.floats(allow_nan=False, allow_infinity=False)
tasks = st.builds(
    Task,
    texts,
    st.sampled_from(TaskStatus),
    st.integers(0, 9),
    st.none() | floats,
    st.lists(texts, max_size=3).map(tuple),
    maps,
    st.none() | texts,
    st.none() | texts,
)
workers = st.builds(Worker, texts, st.integers(1, 2**32), st.none() | floats, maps)
leases = st.builds(Lease, texts, texts, floats, st.integers(0, 2**63))
states = st.builds(
    OrchestratorState,
    *(st.dictionaries(texts, parts, max_size=4) for parts in (workers, tasks, leases, texts)),
)


# ---------------------------------------------------------------------- snapshots and cursors


@pytest.mark.parametrize("index", [0, 1, 2**63, 2**64 - 1])
def test_an_index_within_bounds(index: int) -> None:
    """Every uint64 is an index, when it is constructed, converted, and loaded."""
    snapshot = Snapshot(state=None, last_applied_index=index)
    assert snapshot.last_applied_index == index
    assert msgspec.json.decode(msgspec.json.encode(snapshot), type=Snapshot[None]) == snapshot
    for codec in (SnapshotCodec[None](None), SnapshotCodec[None](None, format="msgpack")):
        assert codec.decode(b"".join(codec.encode(snapshot))).snapshot == snapshot
    assert MAX_INDEX == 2**64 - 1


@pytest.mark.parametrize("index", [-1, 2**64, True, False, 1.0, "1", None, TaskStatus.PENDING])
def test_an_index_out_of_bounds(index: Any) -> None:
    """What is no uint64 is refused at construction, with where and why, and when it is converted."""
    with pytest.raises(InvalidStateError) as caught:
        Snapshot(state=None, last_applied_index=index)
    assert caught.value.path == "last_applied_index"
    assert caught.value.reason == "must be an int with 0 <= index < 2**64"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"state": None, "last_applied_index": index}, Snapshot[None])


@pytest.mark.parametrize("text", ["-1", "18446744073709551616", "true", "1.0", '"1"', "null", "1e1", "01", "[]"])
def test_an_index_out_of_bounds_in_a_file(text: str) -> None:
    """What is no uint64 is refused when it is loaded."""
    data = b'{"last_applied_hlc":"","last_applied_index":%s,"state":null}' % text.encode()
    with pytest.raises(CorruptSnapshotError):
        SnapshotCodec[None](None).decode(data)


class Text(str):
    """A str that msgspec would not encode."""

    __slots__ = ()


@pytest.mark.parametrize("hlc", [None, 1, b"x", Text("x")])
def test_a_timestamp_is_a_str(hlc: Any) -> None:
    """The timestamp is a str, whatever it says: one of another system is kept as it is."""
    with pytest.raises(InvalidStateError, match="last_applied_hlc: must be a str"):
        Snapshot(state=None, last_applied_hlc=hlc)
    assert Snapshot(state=None, last_applied_hlc="2024-01-01T00:00Z/7").cursor.hlc == "2024-01-01T00:00Z/7"


def test_a_snapshot_is_constructed_by_name() -> None:
    """A snapshot takes keywords only, and its cursor is its index and timestamp."""
    with pytest.raises(TypeError):
        Snapshot(STATE)  # type: ignore[misc]
    assert Snapshot(state=STATE) == Snapshot(state=STATE, last_applied_hlc="", last_applied_index=0)
    assert Snapshot(state=STATE, last_applied_hlc="t", last_applied_index=4).cursor == Cursor(4, "t")


@given(st.lists(st.tuples(st.integers(0, 3) | st.integers(0, MAX_INDEX), texts)))
def test_cursors_sort(pairs: list[tuple[int, str]]) -> None:
    """Cursors are ordered by index, then by timestamp."""
    cursors = [Cursor(*pair) for pair in pairs]
    assert [(cursor.index, cursor.hlc) for cursor in sorted(cursors)] == sorted(pairs)
    assert all(Cursor() <= cursor for cursor in cursors)


# ---------------------------------------------------------------------- values


@pytest.mark.parametrize("cls", STRUCTS, ids=lambda cls: cls.__name__)
def test_everything_is_frozen(cls: type[msgspec.Struct]) -> None:
    """No field of any model can be set or deleted."""
    assert cls.__struct_config__.frozen
    required = {"id": "x", "name": "x", "holder": "x", "expires": 1.0, "state": None}
    value = cls(**{name: required[name] for name in cls.__struct_fields__ if name in required})
    for name in cls.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(value, name, getattr(value, name))
        with pytest.raises(AttributeError):
            delattr(value, name)


def test_the_default_state_is_a_value_all_the_way_down() -> None:
    """By the codec's own plan the default state is shared, never copied or encoded on the loop."""
    plan = Plan(OrchestratorState)
    assert plan.shared
    assert not plan.deep
    state, isolated = plan.isolate(STATE)
    assert isolated
    assert state is STATE
    assert not SnapshotCodec(OrchestratorState).encode(Snapshot(state=STATE)).eager


def test_equality_and_hash() -> None:
    """States compare by value; like the mappings in it, a state has no hash, and what holds only scalars has."""
    assert copy.deepcopy(STATE) == STATE
    assert STATE.with_settings({"mode": "slow"}) != STATE
    with pytest.raises(TypeError):
        hash(STATE)
    assert len({Cursor(1, "a"), Cursor(1, "a"), Lease("x", "y", 1.0)}) == 2


def test_defaults_are_not_shared() -> None:
    """Two states that were made without arguments have mappings of their own."""
    assert OrchestratorState().tasks is not OrchestratorState().tasks
    assert OrchestratorState() == OrchestratorState({}, {}, {}, {})


@given(states)
def test_states_come_back(state: OrchestratorState) -> None:
    """Any default state comes back from each format, from a pickle, and from a copy."""
    snapshot = Snapshot(state=state, last_applied_hlc="t", last_applied_index=7)
    for codec in (SnapshotCodec(OrchestratorState), SnapshotCodec(OrchestratorState, format="msgpack")):
        assert codec.decode(b"".join(codec.encode(snapshot))).snapshot == snapshot
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot
    assert copy.deepcopy(snapshot) == snapshot


# ---------------------------------------------------------------------- helpers


@pytest.mark.parametrize(
    ("change", "field", "expected"),
    [
        (lambda s: s.with_workers(Worker("w1"), Worker("w2")), "workers", {"w1": Worker("w1"), "w2": Worker("w2")}),
        (lambda s: s.without_workers("w1", "unknown"), "workers", {}),
        (lambda s: s.with_tasks(Task("new")), "tasks", {**STATE.tasks, "new": Task("new")}),
        (lambda s: s.without_tasks("build", "ship"), "tasks", {"test": STATE.tasks["test"]}),
        (lambda s: s.with_leases(Lease("a", "b", 1.0)), "leases", {**STATE.leases, "a": Lease("a", "b", 1.0)}),
        (lambda s: s.without_leases("leader"), "leases", {}),
        (lambda s: s.with_settings({"mode": "slow", "n": "1"}), "settings", {"mode": "slow", "n": "1"}),
        (lambda s: s.without_settings("mode"), "settings", {}),
        (lambda s: s.with_tasks(), "tasks", STATE.tasks),
        (lambda s: s.without_tasks(), "tasks", STATE.tasks),
    ],
)
def test_helpers_return_a_changed_copy(
    change: Callable[[OrchestratorState], OrchestratorState], field: str, expected: Mapping[str, object]
) -> None:
    """A helper leaves its state as it was, and changes one field of the copy."""
    before = copy.deepcopy(STATE)
    changed = change(STATE)
    assert before == STATE
    assert changed is not STATE
    assert getattr(changed, field) == expected
    assert getattr(changed, field) is not getattr(STATE, field)
    others = set(OrchestratorState.__struct_fields__) - {field}
    assert all(getattr(changed, name) is getattr(STATE, name) for name in others)


def test_order_is_kept() -> None:
    """What is replaced keeps its place, what is new comes last, and of two with one id the last one counts."""
    changed = STATE.with_tasks(Task("test", attempts=1), Task("a"), Task("test", attempts=2))
    assert list(changed.tasks) == ["build", "test", "ship", "a"]
    assert changed.tasks["test"].attempts == 2


def test_the_life_of_a_task() -> None:
    """Begun it runs on its worker, one attempt further and without a result; ended it has a result and no worker."""
    task = Task("x", result="old", labels={"a": "b"})
    begun = task.begun_by("w1")
    assert begun == Task("x", TaskStatus.RUNNING, 1, labels={"a": "b"}, assigned_worker="w1")
    ended = begun.ended(TaskStatus.FAILED, "disk full")
    assert ended == Task("x", TaskStatus.FAILED, 1, labels={"a": "b"}, result="disk full")
    assert begun.ended(TaskStatus.SUCCEEDED).result is None
    assert task == Task("x", result="old", labels={"a": "b"})


@pytest.mark.parametrize("status", TaskStatus)
def test_final(status: TaskStatus) -> None:
    """Nothing more happens to what has succeeded, failed or been cancelled."""
    assert status.final == (status.value in ("succeeded", "failed", "cancelled"))


def test_ready_tasks() -> None:
    """Ready is what is pending and has seen each of its dependencies succeed; an unknown dependency has not."""
    assert [task.id for task in STATE.ready_tasks()] == ["test"]
    done = STATE.with_tasks(STATE.tasks["test"].begun_by("w1").ended(TaskStatus.SUCCEEDED))
    assert [task.id for task in done.ready_tasks()] == ["ship"]
    lost = OrchestratorState().with_tasks(Task("a", dependencies=("nobody",)), Task("b"), Task("c", TaskStatus.RUNNING))
    assert [task.id for task in lost.ready_tasks()] == ["b"]
    assert list(OrchestratorState().ready_tasks()) == []


@given(states)
def test_ready_tasks_by_definition(state: OrchestratorState) -> None:
    """Ready tasks are those of the mapping, in its order, for which the definition holds."""
    succeeded = {key for key, task in state.tasks.items() if task.status is TaskStatus.SUCCEEDED}
    expected = [
        task
        for task in state.tasks.values()
        if task.status is TaskStatus.PENDING and set(task.dependencies) <= succeeded
    ]
    assert list(state.ready_tasks()) == expected

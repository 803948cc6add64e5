"""The default state on persistent maps: the same bytes, maps when it comes back, and a change that shares the rest."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("immutables", reason="there is no immutables: pip install immutables")

from immutables import Map

from swoosh_async import (
    CorruptSnapshotError,
    InvalidStateError,
    Lease,
    OrchestratorState,
    Snapshot,
    SnapshotCodec,
    SnapshotPolicy,
    StateMachine,
    Task,
    TaskStatus,
    Worker,
)
from swoosh_async.codec._plan import Plan
from swoosh_async.persistent import PersistentState

from ._journals import InFiles, InMemory, Place
from .test_models import STATE, states
from .test_pieces import in_one, in_pieces, tiny  # noqa: F401

Format = Literal["json", "msgpack"]
FORMATS: tuple[Format, ...] = ("json", "msgpack")
FIELDS = OrchestratorState.__struct_fields__
STRUCTS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

each_format = pytest.mark.parametrize("format", FORMATS)


class Board(msgspec.Struct, frozen=True):
    """A state of a user's own."""

    tasks: Map[str, Task] = Map()
    names: Map[int, str] = Map()
    nested: Map[str, Map[str, tuple[int, ...]]] = Map()


texts = st.text(max_size=5)
boards = st.builds(
    Board,
    st.dictionaries(texts, st.builds(Task, texts), max_size=5).map(Map),
    st.dictionaries(st.integers(-(2**63), 2**64 - 1), texts, max_size=5).map(Map),
    st.dictionaries(texts, st.dictionaries(texts, st.tuples(st.integers(0, 9))).map(Map), max_size=5).map(Map),
)


def persistent(state: OrchestratorState) -> PersistentState:
    """The same on persistent maps."""
    return PersistentState(*(getattr(state, name) for name in FIELDS))


def plain(state: PersistentState) -> OrchestratorState:
    """The same on dicts."""
    return OrchestratorState(*(dict(getattr(state, name)) for name in FIELDS))


def stored(state: object, format: Format) -> bytes:
    """The snapshot's bytes."""
    return b"".join(SnapshotCodec(type(state), format=format).encode(Snapshot(state=state)))


def of_maps(state: PersistentState) -> bool:
    """Whether each of its mappings is a map."""
    return all(type(getattr(state, name)) is Map for name in FIELDS)


# ---------------------------------------------------------------------- the state


def test_mappings_become_maps() -> None:
    """What is given to the constructor is a map afterwards, whatever mapping it was; a map stays the very same."""
    assert of_maps(PersistentState())
    assert of_maps(persistent(STATE))
    tasks: Map[str, Task] = Map({"a": Task("a")})
    assert PersistentState(tasks=tasks).tasks is tasks
    assert of_maps(msgspec.structs.replace(PersistentState(), settings={"a": "b"}))
    with pytest.raises(TypeError):
        PersistentState(tasks=None)


@given(states)
def test_equality_copies_and_pickles(state: OrchestratorState) -> None:
    """Equal is what has equal entries; a copy and a pickle are equal, and of maps."""
    ours = persistent(state)
    assert ours == persistent(plain(ours))
    for twin in (copy.copy(ours), copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert twin == ours
        assert of_maps(twin)


@given(states, states, st.lists(texts, max_size=3))
def test_helpers_do_what_those_of_dicts_do(state: OrchestratorState, other: OrchestratorState, ids: list[str]) -> None:
    """Each helper gives the state that it gives on dicts, of maps again, and leaves its own as it was."""
    ours, before = persistent(state), persistent(state)
    for what in ("workers", "tasks", "leases"):
        entries = list(getattr(other, what).values())
        keys = [*ids, *list(getattr(state, what))[:1]]
        for name, given_ in ((f"with_{what}", entries), (f"without_{what}", keys)):
            changed = getattr(ours, name)(*given_)
            assert type(changed) is PersistentState
            assert of_maps(changed)
            assert plain(changed) == getattr(state, name)(*given_)
    assert plain(ours.with_settings(other.settings)) == state.with_settings(other.settings)
    assert plain(ours.without_settings(*ids)) == state.without_settings(*ids)
    assert ours == before
    assert {task.id for task in ours.ready_tasks()} == {task.id for task in state.ready_tasks()}


def test_a_change_shares_the_rest() -> None:
    """Of 100,000 entries, a change makes a few nodes of the map anew, where a dict is copied whole."""
    state = PersistentState().with_tasks(*(Task(f"t{i}") for i in range(100_000)))
    changed = state.with_tasks(Task("t7", attempts=1)).without_tasks("t8", "unknown")
    assert (len(state.tasks), len(changed.tasks)) == (100_000, 99_999)
    assert changed.tasks["t9"] is state.tasks["t9"]
    assert changed.workers is state.workers


# ---------------------------------------------------------------------- what is stored


@each_format
@given(state=states)
def test_the_bytes_are_those_of_the_default_state(format: Format, state: OrchestratorState) -> None:
    """The two states store the same bytes, and each comes back from what the other has stored."""
    ours = persistent(state)
    data = stored(ours, format)
    assert data == stored(state, format)
    back = SnapshotCodec(PersistentState).decode(data).snapshot.state
    assert back == ours
    assert of_maps(back)
    assert SnapshotCodec(OrchestratorState).decode(data).snapshot.state == state


@each_format
@given(state=states, data=st.data())
def test_the_order_of_making_does_not_matter(format: Format, state: OrchestratorState, data: st.DataObject) -> None:
    """Maps that were built in another order, and with entries that are gone again, give the same bytes."""
    tasks = data.draw(st.permutations(list(state.tasks.items())))
    shuffled = PersistentState(
        Map(reversed(state.workers.items())), Map([("x", Task("x"))]), Map(state.leases), Map(state.settings)
    )
    for key, task in tasks:
        shuffled = msgspec.structs.replace(shuffled, tasks=shuffled.tasks.set(key, task))
    if "x" not in state.tasks:
        shuffled = shuffled.without_tasks("x")
    assert stored(shuffled, format) == stored(persistent(state), format)


@pytest.mark.usefixtures("tiny")
@each_format
@given(state=states)
@STRUCTS
def test_pieces_are_the_bytes_of_one_call(format: Format, state: OrchestratorState) -> None:
    """Cut at every turn, it gives the bytes of one call."""
    ours = persistent(state)
    pieces = in_pieces(ours, PersistentState, format, verify=True)
    assert b"".join(pieces) == in_one(ours, PersistentState, format)


@pytest.mark.usefixtures("tiny")
@each_format
@given(state=boards)
@STRUCTS
def test_a_state_of_ones_own(format: Format, state: Board) -> None:
    """Maps in a user's own Struct, one within the other too, come back as maps, and in pieces as in one call."""
    assert b"".join(in_pieces(state, Board, format, verify=True)) == in_one(state, Board, format)
    back = SnapshotCodec(Board).decode(stored(state, format)).snapshot.state
    assert back == state
    assert {type(back.tasks), type(back.names), type(back.nested), *map(type, back.nested.values())} == {Map}


@pytest.mark.parametrize("state_type", [PersistentState, Board, Map[str, Task]])
def test_it_is_shared_not_copied(state_type: type) -> None:
    """Nothing of it is copied or encoded when a save is called."""
    plan = Plan(state_type)
    assert plan.shared
    state = Map({"a": Task("a")}) if state_type is not PersistentState else PersistentState()
    assert plan.isolate(state)[0] is state


def test_a_large_one_is_cut() -> None:
    """A large state is encoded in many pieces, for making it turns mappings into maps and looks at nothing else."""
    state = PersistentState().with_tasks(*(Task(f"t{i}") for i in range(20_000)))
    assert len(list(SnapshotCodec(PersistentState)._pieces.of(state))) > 25

    class Checked(PersistentState, frozen=True):
        def __post_init__(self) -> None:
            super().__post_init__()
            if len(self.settings) > 1:
                raise ValueError

    checked = Checked(*(getattr(state, name) for name in FIELDS))
    assert len(list(SnapshotCodec(Checked)._pieces.of(checked))) == 1


@each_format
def test_what_does_not_come_back_is_named(format: Format) -> None:
    """An entry that is not of its type is refused, with the path to it, in a small state as in a large one."""
    tasks = {f"t{i}": Task(f"t{i}") for i in range(20_000)}
    for some in ({}, tasks):
        state = PersistentState(tasks={**some, "t9": Task("t9", attempts="three")})
        with pytest.raises(InvalidStateError) as caught:
            stored(state, format)
        assert caught.value.path == "state.tasks['t9'].attempts"


def test_what_is_stored_wrong_is_not_loaded() -> None:
    """Bytes that are not of the declared type do not come back as a map of something else."""
    other = SnapshotCodec(dict[str, dict[str, int]])
    data = b"".join(other.encode(Snapshot(state={"tasks": {"a": 1}})))
    with pytest.raises(CorruptSnapshotError, match="does not decode as the declared type"):
        SnapshotCodec(PersistentState).decode(data)


# ---------------------------------------------------------------------- the machine


class Begun(msgspec.Struct, frozen=True, tag=True):
    task: str


class Added(msgspec.Struct, frozen=True, tag=True):
    task: Task


def follow(state: PersistentState, event: Begun | Added) -> PersistentState:
    """What an event does to it."""
    match event:
        case Begun(task):
            return state.with_tasks(state.tasks[task].begun_by("w1"))
        case Added(task):
            return state.with_tasks(task)


@pytest.fixture(params=["memory", "files"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Somewhere that outlives a machine."""
    if request.param == "memory":
        return InMemory()
    pytest.importorskip("fcntl", reason="a file backend needs flock")
    return InFiles(tmp_path / "home")


@pytest.mark.anyio
async def test_a_machine_on_it(place: Place) -> None:
    """Replayed, or loaded and replayed, a machine's state is of maps again, and as it was."""
    policy = SnapshotPolicy(every_events=None, on_close=False)
    initial = PersistentState(workers={"w1": Worker("w1")}, leases={"l": Lease("l", "w1", 1.0)})

    def machine() -> StateMachine[PersistentState, Begun | Added]:
        return StateMachine(place.backend(), follow, initial, Begun | Added, policy=policy)

    async with machine() as first:
        await first.dispatch_many([Added(Task(f"t{i}")) for i in range(50)])
        state = await first.dispatch(Begun("t7"))
    assert state.tasks["t7"].status is TaskStatus.RUNNING
    async with machine() as second:
        assert second.recovery.entries == 51
        assert second.state == state
        await second.snapshot()
        state = await second.dispatch(Begun("t8"))
    async with machine() as third:
        assert third.recovery.entries == 1
        assert third.state == state
        assert of_maps(third.state)
        assert third.state.leases == initial.leases


@pytest.mark.anyio
async def test_a_machine_changes_over(place: Place) -> None:
    """A machine goes on from what one on the other state has left, in both directions, without a migration."""

    async def gone_on(initial: OrchestratorState, event: Begun | Added) -> Mapping[str, Task]:
        async with StateMachine(place.backend(), follow, initial, Begun | Added) as machine:
            state = await machine.dispatch(event)
            assert type(state) is type(initial)
            return dict(state.tasks)

    await gone_on(OrchestratorState(), Added(Task("a")))
    await gone_on(PersistentState(), Added(Task("b")))
    assert await gone_on(OrchestratorState(), Begun("a")) == {"a": Task("a").begun_by("w1"), "b": Task("b")}

"""A state in pieces: the very bytes of one call, at any depth and size, checked as it goes, with little in memory."""

from __future__ import annotations

import datetime as dt
import enum
import tracemalloc
import uuid
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swoosh_async import InvalidStateError, OrchestratorState, Snapshot, SnapshotCodec, Task
from swoosh_async.codec import _pieces, _sorted, _wire
from swoosh_async.codec._canonical import Canonical
from swoosh_async.codec._plan import Plan
from swoosh_async.codec._wire import Json, MessagePack

Format = Literal["json", "msgpack"]
FORMATS: tuple[Format, ...] = ("json", "msgpack")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    x: int
    y: float | None


class Cat(msgspec.Struct, frozen=True, tag="cat", rename="camel"):
    long_name: str
    lives_left: int = 9


class Dog(msgspec.Struct, frozen=True, tag="dog", omit_defaults=True):
    name: str = ""
    tricks: tuple[str, ...] = ()
    owners: Mapping[str, str] = {}


class Row(msgspec.Struct, frozen=True, array_like=True):
    key: int
    cells: Sequence[str] = []


@dataclass(frozen=True)
class Note:
    text: str
    at: dt.datetime | None = None


class Options(TypedDict, total=False):
    verbose: bool
    names: Sequence[str]


class Everything(msgspec.Struct, frozen=True):
    """A state of values with a bit of all that msgspec knows."""

    pets: Mapping[str, Cat | Dog] = {}
    by_number: Mapping[int, Row] = {}
    by_uuid: Mapping[uuid.UUID, AbstractSet[Colour]] = {}
    nested: Mapping[str, Mapping[str, Sequence[int]]] = {}
    rows: Sequence[Row] = []
    points: tuple[Point, ...] = ()
    pair: tuple[str, Mapping[str, bytes]] = ("", {})
    tags: frozenset[str] = frozenset()
    numbers: AbstractSet[int] = set()
    prices: Mapping[str, Decimal] = {}
    notes: Sequence[Note] = []
    text: str = ""
    maybe: Mapping[str, str] | None = None
    limited: Annotated[Mapping[str, int], msgspec.Meta(max_length=50)] = {}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
long_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
cats = st.builds(Cat, texts, st.integers(0, 9))
dogs = st.builds(Dog, texts, st.lists(texts, max_size=8).map(tuple), st.dictionaries(texts, long_texts, max_size=8))
rows = st.builds(Row, st.integers(-(2**63), 2**64 - 1), st.lists(texts, max_size=12))
moments = st.datetimes(timezones=st.just(dt.UTC))
everything = st.builds(
    Everything,
    pets=st.dictionaries(texts, cats | dogs, max_size=12),
    by_number=st.dictionaries(st.integers(-(2**63), 2**63 - 1), rows, max_size=12),
    by_uuid=st.dictionaries(st.uuids(), st.sets(st.sampled_from(Colour)), max_size=8),
    nested=st.dictionaries(texts, st.dictionaries(texts, st.lists(st.integers(-9, 9), max_size=9)), max_size=6),
    rows=st.lists(rows, max_size=12),
    points=st.lists(
        st.builds(Point, st.integers(-9, 9), st.none() | st.floats(allow_nan=False, allow_infinity=False))
    ).map(tuple),
    pair=st.tuples(texts, st.dictionaries(texts, st.binary(max_size=9), max_size=8)),
    tags=st.frozensets(texts, max_size=12),
    numbers=st.sets(st.integers(-(2**63), 2**63 - 1), max_size=12),
    prices=st.dictionaries(texts, st.decimals(allow_nan=False, allow_infinity=False), max_size=6),
    notes=st.lists(st.builds(Note, texts, st.none() | moments), max_size=6),
    text=long_texts,
    maybe=st.none() | st.dictionaries(texts, texts, max_size=8),
    limited=st.dictionaries(texts, st.integers(-9, 9), max_size=8),
)


@pytest.fixture
def tiny() -> Iterator[None]:
    """Pieces so small that small states are cut everywhere."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in (
            (_pieces, "PIECE_BYTES", 8),
            (_pieces, "PIECE_ITEMS", 2),
            (_pieces, "TEXT_PIECE", 5),
            (_wire, "TEXT_PIECE", 5),
            (_sorted, "GROUP", 3),
        ):
            patch.setattr(module, name, value)
        yield


def in_pieces(state: object, state_type: Any, format: Format, *, verify: bool = True) -> list[bytes]:
    """The pieces of the state itself, without the envelope."""
    codec = SnapshotCodec(state_type, format=format, verify=verify)
    return [bytes(piece) for piece in codec._pieces.of(state)]


def in_one(state: object, state_type: Any, format: Format) -> bytes:
    """The state in one call."""
    plan = Plan(state_type)
    return Canonical(plan, {"json": Json, "msgpack": MessagePack}[format](None, None)).encode(plan.root, state)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("format", FORMATS)
@given(state=everything)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_pieces_are_the_bytes_of_one_call(format: Format, verify: bool, state: Everything) -> None:
    """Cut at every turn, a state of all that msgspec knows gives the bytes of one call, and comes back equal."""
    codec = SnapshotCodec(Everything, format=format, verify=verify)
    pieces = in_pieces(state, Everything, format, verify=verify)
    assert b"".join(pieces) == in_one(state, Everything, format)
    assert codec.decode(b"".join(codec.encode(Snapshot(state=state)))).snapshot.state == state


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("format", FORMATS)
def test_it_is_really_cut(format: Format) -> None:
    """The same with a state that is known to be cut at each kind of place."""
    names = [f"n{i}" for i in range(40)]
    state = Everything(
        pets={name: Dog(name, tuple(names[:6]), dict.fromkeys(names[:5], "x" * 30)) for name in names},
        by_number={i: Row(i, names[:4]) for i in range(-20, 20)},
        by_uuid={uuid.UUID(int=i): set(Colour) for i in range(20)},
        nested={name: {inner: [1, 2, 3, 4, 5] for inner in names[:6]} for name in names[:6]},
        rows=[Row(i, names[:5]) for i in range(9)],
        points=tuple(Point(i, None) for i in range(20)),
        pair=("x" * 70, dict.fromkeys(names, b"abc")),
        tags=frozenset(names),
        numbers=set(range(30)),
        prices=dict.fromkeys(names, Decimal("1.50")),
        notes=[Note(name, dt.datetime(2026, 1, 1, tzinfo=dt.UTC)) for name in names],
        text='é"\\\\\n' * 30,
        maybe=dict.fromkeys(names, "y"),
        limited=dict.fromkeys(names, 1),
    )
    pieces = in_pieces(state, Everything, format)
    assert b"".join(pieces) == in_one(state, Everything, format)
    assert len(pieces) > 500


@pytest.mark.parametrize("format", FORMATS)
def test_where_keys_are_str_it_is_msgspecs_own_deterministic_order(format: Format) -> None:
    """A large default state gives what msgspec's own encoder gives with order="deterministic"."""
    state = OrchestratorState(
        tasks={f"t{i * 7919 % 20011}": Task(f"t{i}", labels={"z": "1", "a": "2"}) for i in range(20_000)}
    )
    encoder = {"json": msgspec.json, "msgpack": msgspec.msgpack}[format].Encoder(order="deterministic")
    pieces = in_pieces(state, OrchestratorState, format)
    assert b"".join(pieces) == encoder.encode(state)
    assert max(map(len, pieces)) < 4 * _pieces.PIECE_BYTES


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("texts", [[20] * 3000 + [1_000_000] * 20, [1_000_000] * 20 + [20] * 3000], ids=["up", "down"])
def test_entries_of_any_size_make_small_pieces(format: Format, texts: list[int]) -> None:
    """Entries of 1 MB beside entries of 20 bytes: no piece holds more than a few of the large ones."""
    state = {f"{i:06d}": "x" * size for i, size in enumerate(texts)}
    pieces = in_pieces(state, Mapping[str, str], format)
    assert b"".join(pieces) == in_one(state, Mapping[str, str], format)
    assert max(map(len, pieces)) < 4_200_000


@pytest.mark.parametrize("format", FORMATS)
def test_one_huge_value_inside_a_mapping_is_cut_as_well(format: Format) -> None:
    """A mapping of small entries, one of which holds a mapping of 50,000, is cut inside of that one."""
    state = {f"k{i}": {f"{j}": j for j in range(50_000 if i == 500 else 2)} for i in range(1000)}
    pieces = in_pieces(state, Mapping[str, Mapping[str, int]], format)
    assert b"".join(pieces) == in_one(state, Mapping[str, Mapping[str, int]], format)
    assert max(map(len, pieces)) < 4 * _pieces.PIECE_BYTES


class Holder(msgspec.Struct, frozen=True):
    small: int = 0
    huge: Mapping[str, int] = {}
    name: str = ""


class Outer(msgspec.Struct, frozen=True):
    holder: Holder = Holder()


@pytest.mark.parametrize("format", FORMATS)
def test_a_huge_field_of_a_nested_record_is_cut(format: Format) -> None:
    """One huge field inside a nested Struct is cut; the fields around it are where they belong."""
    state = Outer(Holder(7, {str(i): i for i in range(100_000)}, "end"))
    pieces = in_pieces(state, Outer, format)
    assert b"".join(pieces) == in_one(state, Outer, format)
    assert max(map(len, pieces)) < 4 * _pieces.PIECE_BYTES


def test_a_mark_that_stands_in_the_data_is_not_taken_for_one() -> None:
    """The marks that hold the place of large fields are chosen so that the data around them holds none."""
    state = Outer(Holder(7, {str(i): i for i in range(5_000)}, "\0000:0\0 \0001:0\0"))
    for wire_format in FORMATS:
        assert b"".join(in_pieces(state, Outer, wire_format)) == in_one(state, Outer, wire_format)


def test_memory_is_bounded_by_pieces() -> None:
    """Encoding 37 MB takes less than 12 MB beyond the state."""
    state = OrchestratorState(tasks={f"t{i:07d}": Task(f"t{i:07d}", labels={"a": "b"}) for i in range(250_000)})
    encoded = SnapshotCodec(OrchestratorState).encode(Snapshot(state=state))
    tracemalloc.start()
    try:
        size = sum(len(piece) for piece in encoded.body())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 35_000_000
    assert peak < 12_000_000


@pytest.mark.parametrize("verify", [True, False])
def test_a_bad_entry_among_many_is_named(verify: bool) -> None:
    """NaN deep in a large state is refused by its path, with and without verification."""
    tasks = {f"t{i}": Task(f"t{i}") for i in range(20_000)}
    tasks["t777"] = Task("t777", deadline=float("nan"))
    with pytest.raises(InvalidStateError) as caught:
        in_pieces(OrchestratorState(tasks=tasks), OrchestratorState, "json", verify=verify)
    assert caught.value.path == "state.tasks['t777'].deadline"


def test_a_wrong_type_among_many_is_named() -> None:
    """A value that is not of its declared type is refused by its path, in a state that is cut."""
    tasks = {f"t{i}": Task(f"t{i}") for i in range(20_000)}
    tasks["t9"] = Task("t9", labels={"a": 1})  # type: ignore[dict-item]
    with pytest.raises(InvalidStateError) as caught:
        in_pieces(OrchestratorState(tasks=tasks), OrchestratorState, "json")
    assert caught.value.path == "state.tasks['t9'].labels['a']"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("key", [3, None, b"t", ("a",)])
def test_a_key_of_the_wrong_type_among_many_is_refused(format: Format, key: object) -> None:
    """A key that is no str, in a large mapping declared with str keys, is refused."""
    state: dict[Any, int] = {f"t{i}": i for i in range(20_000)}
    state[key] = 1
    with pytest.raises(InvalidStateError):
        in_pieces(state, Mapping[str, int], format)


def test_two_keys_of_the_same_text_are_refused_wherever_they_stand() -> None:
    """In a large mapping two keys that encode to the same text are found, also across groups."""
    state: dict[int | str, int] = {i: i for i in range(20_000)}
    state["777"] = 1
    with pytest.raises(InvalidStateError, match="same text"):
        in_pieces(state, Mapping[int | str, int], "json", verify=False)
    with pytest.raises(InvalidStateError):
        in_pieces(state, Mapping[int | str, int], "json")


def test_a_state_that_changes_against_its_promise_is_refused() -> None:
    """A mapping declared read-only that grows while it is saved is an error, never a torn snapshot."""
    tasks = {f"t{i}": Task(f"t{i}") for i in range(20_000)}
    body = SnapshotCodec(OrchestratorState, format="msgpack")._pieces.of(OrchestratorState(tasks=tasks))
    for _ in range(20):
        next(body)
    tasks["new"] = Task("new")
    del tasks["t7"]
    with pytest.raises(InvalidStateError, match="changed while it was saved"):
        list(body)


def test_constraints_on_a_containers_length_hold_when_it_is_large() -> None:
    """A mapping with more entries than its declared bound is refused, although pieces of it would pass."""
    bounded = Annotated[Mapping[str, int], msgspec.Meta(max_length=10_000)]
    with pytest.raises(InvalidStateError):
        in_pieces({str(i): i for i in range(20_000)}, bounded, "json")
    assert in_pieces({str(i): i for i in range(9_000)}, bounded, "json")


def test_nobody_is_kept_waiting_long() -> None:
    """Between two chances for others to run, no more than some pieces' worth of work is done, sorting included."""
    state = OrchestratorState(tasks={f"t{i * 7919 % 100_003}": Task(f"t{i}") for i in range(100_000)})
    breaths = 0

    def breathe() -> None:
        nonlocal breaths
        breaths += 1

    encoded = SnapshotCodec(OrchestratorState).encode(Snapshot(state=state), breathe=breathe)
    size = sum(len(piece) for piece in encoded.body())
    assert breaths >= 100_000 / _sorted.GROUP
    assert size > 10_000_000

"""What is encoded comes back equal, and the same value gives the same bytes, in every format and of every shape."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import random
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any, Generic, Literal, TypeVar

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swoosh_async.codec import Facts, SnapshotCodec, _pieces, _sorted, _wire, migration
from swoosh_async.codec._envelope import FORMAT
from swoosh_async.errors import CorruptSnapshotError, InvalidStateError, SchemaVersionError
from swoosh_async.models import Cursor, OrchestratorState, Snapshot, Task

from .golden.states import (
    DEFAULT,
    HLC,
    SHAPES,
    Cat,
    Color,
    Crate,
    Dog,
    Ledger,
    Level,
    Metres,
    Money,
    Options,
    Pair,
    Place,
    Point,
    Shapes,
    Sparse,
    Tree,
    Wide,
)

T = TypeVar("T")
Format = Literal["json", "msgpack"]
Compression = Literal["zstd"] | None
FORMATS: tuple[Format, ...] = ("json", "msgpack")
every_format = pytest.mark.parametrize("wire", FORMATS)
every_kind = pytest.mark.parametrize(
    ("wire", "compression"), [(wire, zip_) for wire in FORMATS for zip_ in (None, "zstd")]
)

# ---------------------------------------------------------------------- values of every shape

ints = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 300)
floats = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
raws = st.binary(max_size=6)
colors = st.sampled_from(Color)
levels = st.sampled_from(Level)
days = st.dates()
utc = st.datetimes(timezones=st.just(dt.UTC))
decimals = st.decimals(allow_nan=False, allow_infinity=False)
points = st.builds(Point, ints, ints)
monies = st.builds(Money, decimals, texts)
trees = st.recursive(st.builds(Tree, ints), lambda below: st.builds(Tree, ints, st.lists(below, max_size=2).map(tuple)))
pairs = st.builds(Pair, ints, ints)
plain = st.recursive(
    st.none() | st.booleans() | ints | floats | texts,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(texts, below, max_size=3),
    max_leaves=8,
)
sparse = st.builds(
    Sparse,
    st.sampled_from([3, 4, 1000]),
    st.sampled_from(["http://localhost", "", "x"]),
    st.sampled_from([0.5, -0.0, 0.0, 1.0]),
    st.frozensets(colors, max_size=2),
    st.lists(st.integers(1, 3), max_size=3).map(tuple),
    st.none() | ints,
)
options = st.fixed_dictionaries({"level": levels}, optional={"tags": st.lists(texts, max_size=2)})


def dicts(keys: st.SearchStrategy[Any], values: st.SearchStrategy[Any] = ints) -> st.SearchStrategy[dict[Any, Any]]:
    """Small dicts."""
    return st.dictionaries(keys, values, max_size=3)


shapes = st.builds(
    Shapes,
    flag=st.booleans(),
    count=ints,
    ratio=floats,
    name=texts,
    raw=raws,
    color=colors,
    level=levels,
    metres=floats.map(Metres),
    percent=st.integers(0, 100),
    mode=st.sampled_from(["on", "off", 3]),
    day=days,
    moment=utc,
    local=st.datetimes(),
    clock=st.times(),
    span=st.timedeltas(),
    price=decimals,
    key=st.uuids(),
    point=points,
    corner=st.tuples(ints, texts, floats),
    money=monies,
    place=st.builds(Place, texts, st.tuples(floats, floats)),
    crate=st.builds(Crate, texts, st.lists(floats, max_size=2)),
    ledger=st.builds(Ledger, dicts(days, monies)),
    options=options,
    pet=st.none() | st.builds(Cat, ints) | st.builds(Dog, st.frozensets(texts, max_size=3)),
    pair=pairs,
    pairs=st.lists(st.builds(Pair, colors, colors), max_size=2).map(tuple),
    tree=trees,
    sparse=sparse,
    optional=st.none() | dicts(texts),
    either=ints | texts | st.lists(ints, max_size=2),
    later=st.just(msgspec.UNSET) | ints,
    names=st.lists(texts, max_size=3),
    seen=st.sets(ints, max_size=4),
    frozen=st.frozensets(texts, max_size=4),
    by_name=dicts(texts, trees),
    read_only=dicts(texts, st.lists(ints, max_size=2)),
    members=st.sets(texts, max_size=3),
    by_number=dicts(ints, texts),
    by_ratio=dicts(floats),
    by_key=dicts(st.uuids()),
    by_color=dicts(colors, st.lists(points, max_size=2)),
    by_day=dicts(days),
    by_raw=dicts(raws),
    colors=st.sets(colors),
    points=st.frozensets(points, max_size=3),
    corners=st.sets(st.tuples(ints, texts), max_size=3),
    grid=dicts(ints, dicts(ints, st.sets(colors))),
    anything=plain,
)
wides = st.builds(
    Wide,
    by_point=dicts(points),
    by_corner=dicts(st.tuples(ints, texts), st.floats(allow_nan=False)),
    by_anything=dicts(ints | texts | st.none()),
    anything=st.recursive(
        plain | raws | utc,
        lambda below: st.lists(below, max_size=2) | dicts(ints | texts | st.none() | st.booleans(), below),
        max_leaves=6,
    ),
    shapes=shapes,
)
hlcs = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
indices = st.integers(0, 2**64 - 1)


def encoded(codec: SnapshotCodec[Any], state: Any, hlc: str = "", index: int = 0) -> bytes:
    """The bytes of a snapshot."""
    return b"".join(codec.encode(Snapshot(state=state, last_applied_hlc=hlc, last_applied_index=index)))


def alike(one: Any, two: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if isinstance(one, dict):
        return type(one) is type(two) and one.keys() == two.keys() and all(alike(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(alike, one, two))
    if isinstance(one, msgspec.Struct):
        return type(one) is type(two) and all(alike(getattr(one, f), getattr(two, f)) for f in one.__struct_fields__)
    return type(one) is type(two) and one == two


def shuffled(value: Any, order: random.Random) -> Any:
    """An equal value whose mappings and sets were filled in another order, and that shares as little as it may."""
    if isinstance(value, dict):
        items = [(shuffled(key, order), shuffled(part, order)) for key, part in value.items()]
        order.shuffle(items)
        return dict(items)
    if isinstance(value, set | frozenset):
        items = [shuffled(item, order) for item in value]
        order.shuffle(items)
        padding = {object() for _ in range(order.randrange(40))}  # another table, and so another order
        return type(value)((padding | set(items)) - padding)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(shuffled(item, order) for item in value))
    if isinstance(value, list | tuple):
        return type(value)([shuffled(item, order) for item in value])
    if isinstance(value, msgspec.Struct):
        return type(value)(**{name: shuffled(getattr(value, name), order) for name in value.__struct_fields__})
    if dataclasses.is_dataclass(value) or attrs.has(type(value)):
        names = list(vars(value)) if hasattr(value, "__dict__") else [a.name for a in attrs.fields(type(value))]
        order.shuffle(names)
        twin = object.__new__(type(value))
        for name in names:
            object.__setattr__(twin, name, shuffled(getattr(value, name), order))
        return twin
    if isinstance(value, float):
        return float(repr(value))
    return "".join(list(value)) if type(value) is str else value  # a new object, unless it is short


# ---------------------------------------------------------------------- round trip, and one text for one value


@every_kind
@settings(max_examples=40)
@given(shapes, hlcs, indices)
def test_every_shape_comes_back(wire: Format, compression: Compression, state: Shapes, hlc: str, index: int) -> None:
    """A state of every shape comes back equal, with its types, timestamp and index."""
    codec = SnapshotCodec(Shapes, format=wire, compression=compression)
    decoded = codec.decode(encoded(codec, state, hlc, index))
    assert decoded.snapshot == Snapshot(state=state, last_applied_hlc=hlc, last_applied_index=index)
    assert decoded.facts.cursor == Cursor(index, hlc)
    for name in Shapes.__struct_fields__:
        if name != "members":  # an abstract set, which comes back as some set
            assert alike(getattr(state, name), getattr(decoded.snapshot.state, name))


@settings(max_examples=60)
@given(wides)
def test_what_only_messagepack_can_hold_comes_back(state: Wide) -> None:
    """Keys that are no text, infinities, and bytes and moments of undeclared type come back from MessagePack."""
    codec = SnapshotCodec(Wide, format="msgpack")
    assert codec.decode(encoded(codec, state)).snapshot.state == state


@every_format
@settings(max_examples=60)
@given(shapes, st.randoms(use_true_random=False))
def test_equal_states_give_equal_bytes(wire: Format, state: Shapes, order: random.Random) -> None:
    """Whatever the order of insertion, and whether defaults are the very default objects, the bytes are the same."""
    codec = SnapshotCodec(Shapes, format=wire)
    data = encoded(codec, state)
    twin = shuffled(state, order)
    assert twin == state
    assert encoded(codec, twin) == data
    assert encoded(codec, codec.decode(data).snapshot.state) == data


@settings(max_examples=40)
@given(wides, st.randoms(use_true_random=False))
def test_equal_states_give_equal_bytes_beyond_json(state: Wide, order: random.Random) -> None:
    """So it is for what only MessagePack can hold."""
    codec = SnapshotCodec(Wide, format="msgpack")
    assert encoded(codec, shuffled(state, order)) == encoded(codec, state)


def in_tiny_pieces(codec: SnapshotCodec[Any], state: Any) -> bytes:
    """The state's bytes, cut as small as can be, and joined."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in (
            (_pieces, "PIECE_ITEMS", 1),
            (_pieces, "PIECE_BYTES", 4),
            (_pieces, "TEXT_PIECE", 3),
            (_wire, "TEXT_PIECE", 3),
            (_sorted, "GROUP", 2),
        ):
            patch.setattr(module, name, value)
        return b"".join(codec._pieces.of(state))


def at_once(codec: SnapshotCodec[Any], state: Any) -> bytes:
    """The state's bytes in one call."""
    return codec._pieces.whole(codec._plan.root, state, "state")


@every_format
@settings(max_examples=30)
@given(shapes)
def test_in_pieces_or_at_once(wire: Format, state: Shapes) -> None:
    """However small the pieces are cut, joined they are what one call gives."""
    codec = SnapshotCodec(Shapes, format=wire)
    assert in_tiny_pieces(codec, state) == at_once(codec, state)


class Plain(msgspec.Struct):
    """A state in which all keys are str, and all sets are of what can be sorted."""

    anything: Any = None
    by_name: dict[str, list[Tree]] = {}
    seen: set[int] = set()
    names: frozenset[str] = frozenset()
    ratios: set[float] = set()
    pet: Cat | Dog | None = None
    money: Money = Money(Decimal(0))
    options: Options = msgspec.field(default_factory=lambda: Options(level=Level.LOW))


@every_format
@settings(max_examples=60)
@given(
    st.builds(
        Plain,
        plain,
        dicts(texts, st.lists(trees, max_size=2)),
        st.sets(ints),
        st.frozensets(texts),
        st.sets(floats),
        st.none() | st.builds(Dog, st.frozensets(texts)),
        monies,
        options,
    )
)
def test_the_bytes_are_msgspecs_own(wire: Format, state: Plain) -> None:
    """Where all keys are str, the state's bytes are those of msgspec's own deterministic order."""
    codec = SnapshotCodec(Plain, format=wire)
    library = msgspec.json if wire == "json" else msgspec.msgpack
    own = library.encode(state, order="deterministic")
    data = encoded(codec, state)
    assert data.endswith(b'"state":' + own + b"}" if wire == "json" else b"\xa5state" + own)


@every_format
@given(hlcs, indices, st.integers(1, 2**63 - 1))
def test_the_envelope_is_one_object_of_sorted_keys(wire: Format, hlc: str, index: int, version: int) -> None:
    """The file is one JSON object, or MessagePack map, of six entries in sorted order, without a space too many."""
    codec = SnapshotCodec[None](None, format=wire, schema_version=version)
    data = encoded(codec, None, hlc, index)
    library = msgspec.json if wire == "json" else msgspec.msgpack
    envelope = library.decode(data)
    assert list(envelope) == sorted(envelope)
    assert envelope == {
        "checksum": codec.decode(data).facts.checksum,
        "format": FORMAT,
        "last_applied_hlc": hlc,
        "last_applied_index": index,
        "schema_version": version,
        "state": None,
    }
    assert library.encode(envelope) == data


@dataclasses.dataclass
class Loose:
    """A dataclass whose attributes may be set in any order."""

    one: int
    two: dict[int, int]


@every_format
def test_the_order_of_assignment_does_not_matter(wire: Format) -> None:
    """A class that keeps its attributes in a dict gives the same bytes in whatever order they were set."""
    for cls, one, two in ((Loose, "one", "two"), (Crate, "label", "weights")):
        values = {one: 1 if one == "one" else "x", two: {2: 1, 1: 2} if two == "two" else [1.0]}
        forth, back = cls(**values), object.__new__(cls)
        vars(back).update(reversed(values.items()), something_else=3)
        assert forth == back
        codec = SnapshotCodec(cls, format=wire)
        assert encoded(codec, back) == encoded(codec, forth)


@every_format
def test_left_out_defaults(wire: Format) -> None:
    """A field that is equal to its default is left out, also where it is not the very object that is the default."""
    twin = shuffled(Sparse(), random.Random(1))
    assert all(getattr(twin, name) is not getattr(Sparse(), name) for name in ("base_url", "ratio", "colors", "span"))
    assert twin == Sparse()
    codec = SnapshotCodec(Sparse, format=wire)
    assert encoded(codec, twin) == encoded(codec, Sparse())
    assert encoded(codec, Sparse()).endswith(b'"state":{}}' if wire == "json" else b"state\x80")
    minus, plus = encoded(codec, Sparse(ratio=-0.0)), encoded(codec, Sparse(ratio=0.0))
    assert minus != plus


class Nothing(msgspec.Struct, frozen=True, omit_defaults=True):
    """Defaults that there is only one object of are left to msgspec, which is faster."""

    none: int | None = None
    zero: int = 0
    text: str = ""
    flag: bool = False
    items: tuple[int, ...] = ()
    color: Color = Color.RED
    names: Mapping[str, int] = {}


def test_the_common_defaults_cost_nothing() -> None:
    """What is left out by identity anyway is encoded by msgspec in one call."""
    codec = SnapshotCodec(Nothing)
    assert codec._plan.is_regular(codec._plan.root)
    twin = shuffled(Nothing(), random.Random(1))
    assert encoded(codec, twin).endswith(b'"state":{}}')


class Version:
    """A class that msgspec does not know, with an equality."""

    def __init__(self, *parts: int) -> None:
        self.parts = parts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)


class Sealed:
    """A class that msgspec does not know, without an equality."""

    def __init__(self, what: Any) -> None:
        self.what = what


# ---------------------------------------------------------------------- what is asked of an encoded snapshot


@every_kind
def test_head_and_body(wire: Format, compression: Compression) -> None:
    """The body is asked for once and the head last; together they are the file, and the checksum is the one in it."""
    codec = SnapshotCodec(Shapes, format=wire, compression=compression)
    snapshot = Snapshot(state=SHAPES, last_applied_hlc=HLC, last_applied_index=9)
    one = codec.encode(snapshot)
    assert (one.position, one.cursor) == (9, Cursor(9, HLC))
    length = one.head_bytes
    body = b"".join(one.body())
    assert len(one.head()) == length
    data = one.head() + body
    assert data == b"".join(codec.encode(snapshot))
    assert codec.decode(data).facts == Facts(Cursor(9, HLC), one.checksum, 1, FORMAT, wire, compression, len(data))


@every_kind
@pytest.mark.parametrize(("declared", "state"), [(Tree, Tree(1)), (dict[str, list[int]], {"a": [1]})])
def test_asked_for_again(wire: Format, compression: Compression, declared: Any, state: Any) -> None:
    """A backend that has to start over gets the same bytes again, and the checksum that is right for them."""
    codec = SnapshotCodec(declared, format=wire, compression=compression)
    one = codec.encode(Snapshot(state=state))
    next(one.body())
    assert b"".join(one) == b"".join(one) == encoded(codec, state)


def test_several_threads() -> None:
    """One codec may encode and decode in several threads at once."""
    codec = SnapshotCodec(Shapes, format="msgpack", compression="zstd")
    expected = encoded(codec, SHAPES)
    with ThreadPoolExecutor(8) as threads:
        fresh = [SnapshotCodec(Shapes, format="msgpack", compression="zstd") for _ in range(4)]
        written = list(threads.map(lambda number: encoded(fresh[number % 4], SHAPES), range(200)))
        read = list(threads.map(lambda number: fresh[number % 4].decode(expected).snapshot.state, range(200)))
    assert set(written) == {expected}
    assert all(state == SHAPES for state in read)


@every_kind
def test_every_reader_reads_every_format(wire: Format, compression: Compression) -> None:
    """What is written depends on the codec's format, what is read does not."""
    data = encoded(SnapshotCodec(Shapes, format=wire, compression=compression), SHAPES)
    for reader in (SnapshotCodec(Shapes), SnapshotCodec(Shapes, format="msgpack", compression="zstd")):
        assert reader.decode(data).snapshot.state == SHAPES
        assert reader.decode(bytearray(data)).snapshot.state == SHAPES
        assert reader.decode(memoryview(data)).snapshot.state == SHAPES


def test_encoding_waits_where_it_may() -> None:
    """A value is encoded, or refused, when the pieces are asked for; what may change meanwhile at once."""
    lazy = SnapshotCodec(Tree).encode(Snapshot(state=Tree("x")))  # type: ignore[arg-type]
    assert not lazy.eager
    with pytest.raises(InvalidStateError):
        list(lazy)
    with pytest.raises(InvalidStateError):
        SnapshotCodec(dict[str, list[int]]).encode(Snapshot(state={"a": ["x"]}))  # type: ignore[list-item]
    assert SnapshotCodec(dict[str, list[int]]).encode(Snapshot(state={"a": [1]})).eager


@pytest.mark.parametrize("other", [None, {}, "x", OrchestratorState(), Task("x")])
def test_something_else_than_a_snapshot(other: Any) -> None:
    """What is no snapshot is refused, and its type is named."""
    with pytest.raises(InvalidStateError, match=f"snapshot: must be a Snapshot, not a {type(other).__name__}"):
        SnapshotCodec(OrchestratorState).encode(other)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"format": "yaml"}, ValueError),
        ({"compression": "gzip"}, ValueError),
        ({"schema_version": 0}, ValueError),
        ({"schema_version": 2**63}, ValueError),
        ({"schema_version": True}, ValueError),
        ({"schema_version": "1"}, ValueError),
        ({"state_type": Version | Sealed}, TypeError),
        ({"state_type": int | float | str | list[int] | tuple[int]}, TypeError),
    ],
)
def test_wrong_options(wrong: dict[str, Any], error: type[Exception]) -> None:
    """A wrong option, and a type that msgspec does not support, are refused at construction."""
    with pytest.raises(error):
        SnapshotCodec(**{"state_type": OrchestratorState, **wrong})


# ---------------------------------------------------------------------- hooks


def enc_hook(value: Any) -> Any:
    """To plain data."""
    if isinstance(value, Version):
        return ".".join(map(str, value.parts))
    if isinstance(value, Sealed):
        return value.what
    raise NotImplementedError("secret")


def dec_hook(cls: type, plain: Any) -> Any:
    """And back."""
    if cls is Version:
        return Version(*map(int, plain.split(".")))
    if cls is Sealed:
        return Sealed(plain)
    raise NotImplementedError("secret")


class Hooked(msgspec.Struct):
    """A state with such classes in it."""

    version: Version
    history: list[Version] = []
    sealed: Sealed | None = None
    nested: dict[str, list[Sealed]] = {}
    anything: Any = None


HOOKED = Hooked(Version(1, 2), [Version(0), Version(1)], Sealed({"b": 1, "a": [2]}), {"x": [Sealed(1), Sealed("s")]})


@every_format
def test_hooks(wire: Format) -> None:
    """Classes with hooks come back: judged by their equality, or by what the hook makes of them without one."""
    codec = SnapshotCodec(Hooked, format=wire, enc_hook=enc_hook, dec_hook=dec_hook)
    back = codec.decode(encoded(codec, HOOKED)).snapshot.state
    assert (back.version, back.history) == (HOOKED.version, HOOKED.history)
    assert back.sealed is not None
    assert back.sealed.what == {"b": 1, "a": [2]}
    assert [sealed.what for sealed in back.nested["x"]] == [1, "s"]
    assert encoded(codec, back) == encoded(codec, HOOKED)
    assert codec.encode(Snapshot(state=HOOKED)).eager, "who has hooks promises nothing"


@pytest.mark.parametrize("what", [{2: 1, 1: 2}, {Color.RED, Color.BLUE}, {(2, "a"), (1, "b")}, [{1: {Color.RED}}]])
def test_hooks_may_give_what_msgspec_cannot_sort(what: Any) -> None:
    """What a hook gives is made canonical like everything else."""
    codec = SnapshotCodec(list[Sealed], enc_hook=enc_hook, dec_hook=dec_hook)
    once, twice = (encoded(codec, [Sealed(shuffled(what, random.Random(seed)))]) for seed in (1, 2))
    assert once == twice


@every_format
@pytest.mark.parametrize(
    ("state", "path"),
    [
        (Hooked(Version("x")), "state.version"),  # type: ignore[arg-type]
        (Hooked(Version(1), [Version(1), Version("x")]), "state.history[1]"),  # type: ignore[arg-type]
        (Hooked("1.2"), "state.version"),  # type: ignore[arg-type]
        (Hooked(Version(1), sealed=Sealed(object())), "state.sealed"),
        (Hooked(Version(1), anything=Version(1)), "state.anything"),
        (Hooked(Version(1), anything={"a": [object()]}), "state.anything['a'][0]"),
    ],
)
def test_hooks_that_fail(wire: Format, state: Hooked, path: str) -> None:
    """What a hook refuses, or does not bring back, is refused, at its path; the hook's own words are not repeated."""
    codec = SnapshotCodec(Hooked, format=wire, enc_hook=enc_hook, dec_hook=dec_hook)
    with pytest.raises(InvalidStateError) as caught:
        encoded(codec, state)
    assert caught.value.path == path
    assert "secret" not in str(caught.value)


def test_hooks_that_fail_when_it_is_loaded() -> None:
    """A hook that cannot read what is stored makes it a state that does not decode."""
    data = encoded(SnapshotCodec(list[str]), ["not.a.version"])
    with pytest.raises(
        CorruptSnapshotError, match=r"does not decode as the declared type \(ValidationError at \$\[0\]\)"
    ):
        SnapshotCodec(list[Version], enc_hook=enc_hook, dec_hook=dec_hook).decode(data)


class Fickle:
    """A class whose equality fails."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    __hash__ = None  # type: ignore[assignment]


def test_an_equality_that_fails_says_nothing() -> None:
    """Where a comparison raises, the value is looked at part by part, and what has none is refused."""
    codec = SnapshotCodec(list[Fickle], enc_hook=lambda value: value.number, dec_hook=lambda _, plain: Fickle(plain))
    with pytest.raises(InvalidStateError, match=r"state\[0\]: a Fickle does not come back equal as Fickle"):
        encoded(codec, [Fickle(1)])


# ---------------------------------------------------------------------- migrations


class Current(msgspec.Struct):
    """What the state has become."""

    names: list[str]
    sizes: dict[int, int] = {}
    steps: int = 0


@migration(1)
def split(state: Any) -> Any:
    """From names in one str to a list."""
    return {**state, "names": state["names"].split(","), "steps": 1}


@migration(2)
def count(state: Any) -> Any:
    """One step more."""
    return {**state, "steps": state["steps"] + 10}


@migration(3)
def count_again(state: Any) -> Any:
    """And one more, which looks at what kind of data it gets."""
    return {**state, "steps": state["steps"] * 2}


STEPS = [count_again, split, count]


class Old(msgspec.Struct):
    """What the state was."""

    names: str
    sizes: dict[int, int] = {}


@every_kind
def test_migrations_are_applied_in_order(wire: Format, compression: Compression) -> None:
    """An older state goes step by step to the reader's version, as plain data, whatever its format."""
    data = encoded(SnapshotCodec(Old, format=wire, compression=compression), Old("b,a", {2: 1, 10: 3}), HLC, 5)
    for reader in (SnapshotCodec(Current, schema_version=4, migrations=STEPS),
                   SnapshotCodec(Current, format="msgpack", schema_version=4, migrations=STEPS)):  # fmt: skip
        decoded = reader.decode(data)
        assert decoded.snapshot.state == Current(["b", "a"], {2: 1, 10: 3}, 22)
        assert decoded.snapshot.cursor == Cursor(5, HLC)
        assert decoded.facts.schema_version == 1


@every_format
def test_migrations_start_where_the_file_is(wire: Format) -> None:
    """A state of a version in between takes only the steps that are left, and one of the reader's version none."""
    for version, expected in ((2, (0 + 10) * 2), (3, 0 * 2), (4, 0)):
        data = encoded(SnapshotCodec(Current, format=wire, schema_version=version), Current(["a"]))
        reader = SnapshotCodec(Current, schema_version=4, migrations=STEPS)
        assert reader.decode(data).snapshot.state.steps == expected


@every_format
@pytest.mark.parametrize(
    "gives", [{Color.RED, Color.BLUE}, {2: 1, 1: 2}, dt.date(2024, 1, 1), uuid.UUID(int=3), {(1, 2)}]
)
def test_migrations_may_give_any_data(wire: Format, gives: Any) -> None:
    """A step may give whatever msgspec can encode, in any order."""
    data = encoded(SnapshotCodec(int, format=wire), 1)
    reader = SnapshotCodec(type_of(gives), schema_version=2, migrations=[migration(1)(lambda _: gives)])
    assert reader.decode(data).snapshot.state == gives


def type_of(value: Any) -> Any:
    """The type that such a value is declared as."""
    if isinstance(value, set):
        return set[Color] if Color.RED in value else set[tuple[int, int]]
    return dict[int, int] if isinstance(value, dict) else type(value)


@every_format
@pytest.mark.parametrize(
    ("step", "detail"),
    [
        (lambda state: state["secret"], "the migration from 1 raised KeyError"),
        (lambda _: 1 / 0, "the migration from 1 raised ZeroDivisionError"),
        (lambda _: ["secret"], "what the migrations gave does not decode as the declared type (ValidationError)"),
        (lambda _: {"names": [], "steps": "secret"}, "declared type (ValidationError at $.steps)"),
        (lambda _: object(), "what the migrations gave does not decode as the declared type (NotImplementedError)"),
        (lambda _: "\ud800", "what the migrations gave does not decode as the declared type (UnicodeEncodeError)"),
        (lambda _: {1: 1, "1": 2}, "what the migrations gave does not decode as the declared type"),
    ],
)
def test_migrations_that_fail(wire: Format, step: Callable[[Any], Any], detail: str) -> None:
    """A step that raises, and one that gives what is not of the type, are no damage: the file is as it was written."""
    data = encoded(SnapshotCodec(Old, format=wire), Old("secret"))
    reader = SnapshotCodec(Current, schema_version=2, migrations=[migration(1)(step)])
    with pytest.raises(SchemaVersionError) as caught:
        reader.decode(data)
    assert (caught.value.found, caught.value.supported) == (1, 2)
    assert detail in caught.value.detail
    assert "mend the migrations from 1 to 2" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_schema_versions() -> None:
    """A newer schema is refused, and an older one without migrations, each with both versions."""
    for found, supported in ((3, 2), (1, 2), (1, 20240101), (20240101120000, 1)):
        data = encoded(SnapshotCodec[int](int, schema_version=found), 1)
        with pytest.raises(SchemaVersionError) as caught:
            SnapshotCodec(int, schema_version=supported).decode(data)
        assert (caught.value.found, caught.value.supported) == (found, supported)


@pytest.mark.parametrize(
    ("version", "steps"),
    [
        (3, [1]),
        (4, [1, 3]),
        (2, [1, 1]),
        (2, [2]),
        (2, [1, 2]),
        (1, [1]),
        (20240101120000, [1]),
    ],
)
def test_migrations_that_lead_nowhere(version: int, steps: list[int]) -> None:
    """Gaps, two steps from one version, and steps beyond the reader's version are refused at construction, at once."""
    with pytest.raises(ValueError, match="migrations"):
        SnapshotCodec(int, schema_version=version, migrations=[migration(step)(lambda state: state) for step in steps])


def test_migrations_may_begin_late() -> None:
    """Support for the oldest versions may end: the steps begin at any version, and what is older is refused."""
    reader = SnapshotCodec(int, schema_version=4, migrations=[migration(3)(lambda state: state + 1)])
    assert reader.decode(encoded(SnapshotCodec(int, schema_version=3), 1)).snapshot.state == 2
    with pytest.raises(SchemaVersionError, match="register the migrations from 2 to 4"):
        reader.decode(encoded(SnapshotCodec(int, schema_version=2), 1))


@pytest.mark.parametrize("wrong", [0, -1, True, 1.0, "1", None])
def test_where_a_migration_begins(wrong: Any) -> None:
    """A migration reads a schema version, which is an int of at least 1."""
    with pytest.raises(ValueError, match="from_version must be an int >= 1"):
        migration(wrong)


def test_a_migration_is_still_a_function() -> None:
    """What the decorator makes can be called, and knows where it begins."""
    assert split.from_version == 1
    assert split({"names": "a,b"}) == {"names": ["a", "b"], "steps": 1}


def test_a_file_of_the_go_package_is_of_version_1() -> None:
    """A file without a schema version is of version 1, and migrated as such."""
    data = b'{"state": {"names": "b,a"}, "last_applied_hlc": "", "last_applied_index": 3}'
    reader = SnapshotCodec(Current, schema_version=4, migrations=STEPS)
    assert reader.decode(data).snapshot == Snapshot(state=Current(["b", "a"], {}, 22), last_applied_index=3)


# ---------------------------------------------------------------------- types of every kind


class Named(enum.Enum):
    """An enum of which one value is not the str that its name says."""

    A = "b"
    B = "a"


class Base(msgspec.Struct, tag=True):
    """A record that others inherit from."""

    x: int = 0


class Derived(Base, tag=True):
    """With something that msgspec cannot sort in it."""

    by_number: dict[int, Named] = {}


class Box(msgspec.Struct, Generic[T]):
    """A generic record."""

    content: T
    more: Box[T] | None = None


@every_format
@pytest.mark.parametrize(
    ("declared", "state"),
    [
        (Base | Derived, Derived(1, {2: Named.A, 10: Named.B})),
        (list[Derived | Base], [Base(1), Derived(2, {1: Named.A})]),
        (Box[dict[int, set[Named]]], Box({2: {Named.A, Named.B}, 1: set()}, Box({3: {Named.A}}))),
        (dict[Named, Box[frozenset[Named]]], {Named.A: Box(frozenset({Named.B, Named.A})), Named.B: Box(frozenset())}),
        (tuple[dict[int, int], set[bytes]], ({2: 1, 1: 2}, {b"b", b"a"})),
        (dict[str, Any] | None, {"b": [1, {"c": None}], "a": 1.5}),
        (set[Decimal], {Decimal("1.50"), Decimal(2)}),
        (dict[Decimal, set[uuid.UUID]], {Decimal("1.50"): {uuid.UUID(int=1), uuid.UUID(int=0)}}),
        (set[int | str], {1, "a", "1", 2}),
        (frozenset[tuple[Named, ...]], frozenset({(Named.A, Named.B), ()})),
        (DEFAULT.__class__, Snapshot(state={"a": 1}, last_applied_index=3)),
        (int, 2**63),
        (None, None),
        (bool, True),
    ],
)
def test_types_of_every_kind(wire: Format, declared: Any, state: Any) -> None:
    """Types that nest, inherit, or are scalars themselves come back, and equal states give equal bytes."""
    codec = SnapshotCodec(declared, format=wire)
    data = encoded(codec, state)
    assert codec.decode(data).snapshot.state == state
    assert encoded(codec, shuffled(state, random.Random(1))) == data


# ---------------------------------------------------------------------- types at random


class Sealing(msgspec.Struct, Generic[T], omit_defaults=True, rename="camel"):
    """A generic record with defaults to leave out."""

    the_content: T
    other_text: str = "default"
    some_numbers: tuple[int, ...] = (1, 2)


@dataclasses.dataclass
class Wrapped(Generic[T]):
    """A generic dataclass."""

    content: T


Typed = tuple[Any, st.SearchStrategy[Any]]
KEYS: list[Typed] = [
    (int, ints), (str, texts), (Color, colors), (Level, levels), (dt.date, days), (uuid.UUID, st.uuids()),
    (bytes, raws), (float, floats),
]  # fmt: skip
SCALARS: list[Typed] = [
    *KEYS,
    (bool, st.booleans()),
    (Decimal, decimals),
    (Point, points),
    (Any, plain),
    (type(None), st.none()),
]
ITEMS: list[Typed] = [*KEYS, (Decimal, decimals), (Point, points)]


def grown(below: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    """Types that hold values of the types below, each with the values that it takes."""

    def small_list(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
        return st.lists(values, max_size=3)

    def sealings(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.builds(Sealing, values, st.sampled_from(["default", "x"]), st.sampled_from([(1, 2), ()]))

    return st.one_of(
        below.map(lambda part: (list[part[0]], small_list(part[1]))),  # type: ignore[name-defined]
        below.map(lambda part: (tuple[part[0], ...], small_list(part[1]).map(tuple))),  # type: ignore[name-defined]
        below.map(lambda part: (part[0] | None, st.none() | part[1])),
        below.map(lambda part: (Box[part[0]], st.builds(Box, part[1]))),  # type: ignore[name-defined]
        below.map(lambda part: (Sealing[part[0]], sealings(part[1]))),  # type: ignore[name-defined]
        below.map(lambda part: (Wrapped[part[0]], st.builds(Wrapped, part[1]))),  # type: ignore[name-defined]
        below.map(lambda part: (Mapping[str, part[0]], dicts(texts, part[1]))),  # type: ignore[name-defined]
        st.tuples(below, below).map(lambda two: (tuple[two[0][0], two[1][0]], st.tuples(two[0][1], two[1][1]))),  # type: ignore[name-defined]
        st.tuples(st.sampled_from(KEYS), below).map(
            lambda two: (dict[two[0][0], two[1][0]], dicts(two[0][1], two[1][1]))
        ),  # type: ignore[name-defined]
    )


sets = st.sampled_from(ITEMS).map(lambda item: (set[item[0]], st.sets(item[1], max_size=3)))  # type: ignore[name-defined]
typed = st.recursive(st.sampled_from(SCALARS) | sets, grown, max_leaves=4)


@every_format
@settings(max_examples=150)
@given(st.data(), typed, st.randoms(use_true_random=False))
def test_types_at_random(wire: Format, data: st.DataObject, of_type: Typed, order: random.Random) -> None:
    """Whatever the type is made of: its values come back, equal ones give equal bytes, and so do pieces of any size."""
    declared, values = of_type
    state = data.draw(values)
    codec = SnapshotCodec(declared, format=wire)
    written = encoded(codec, state)
    assert codec.decode(written).snapshot.state == state
    assert encoded(codec, shuffled(state, order)) == written
    assert encoded(codec, codec.decode(written).snapshot.state) == written
    assert in_tiny_pieces(codec, state) == at_once(codec, state)

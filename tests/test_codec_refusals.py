"""What would not come back is refused, with the path to it, and a message that does not show it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import fractions
import math
import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swoosh_async.codec import SnapshotCodec
from swoosh_async.codec._depth import MAX_DEPTH
from swoosh_async.errors import InvalidStateError
from swoosh_async.models import OrchestratorState, Snapshot, Task

T = TypeVar("T")
Format = Literal["json", "msgpack"]
BOTH: tuple[Format, ...] = ("json", "msgpack")
JSON: tuple[Format, ...] = ("json",)
MSGPACK: tuple[Format, ...] = ("msgpack",)
NAN, INF = math.nan, math.inf
LARGE = 100_000
SECRET = "hunter2"  # stands for what no message may show


class Color(enum.Enum):
    """An enum."""

    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    """A named tuple."""

    x: int
    y: float = 0.0


class Base(msgspec.Struct, frozen=True):
    """A record that another one inherits from."""

    x: int = 0


class Derived(Base, frozen=True):
    """That other one."""


class Cat(msgspec.Struct, frozen=True, tag="cat"):
    """One option of a tagged union."""

    lives: Annotated[int, msgspec.Meta(ge=0, le=9)] = 9


class Dog(msgspec.Struct, frozen=True, tag="dog"):
    """The other one."""

    tricks: frozenset[str] = frozenset()


@dataclasses.dataclass
class Data:
    """A dataclass."""

    x: int = 0
    ratio: float | None = None


@attrs.define
class Item:
    """An attrs class."""

    x: int = 0
    ratios: list[float] = attrs.field(factory=list)


class Keys(TypedDict, total=False):
    """A dict of known keys."""

    x: int
    name: str


class Box(msgspec.Struct, Generic[T], frozen=True, rename="camel"):
    """A generic record."""

    the_content: T


class Node(msgspec.Struct):
    """A record that leads back to itself."""

    value: int = 0
    next: Node | None = None
    more: list[Node] = []
    by_number: dict[int, Node] = {}


class State(msgspec.Struct):
    """A state with a bit of everything."""

    count: int = 0
    ratio: float = 0.0
    maybe: float | None = None
    name: str = ""
    raw: bytes = b""
    flag: bool = False
    color: Color = Color.RED
    mode: Literal["on", "off"] = "on"
    day: dt.date = dt.date(1970, 1, 1)
    moment: dt.datetime = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    key: uuid.UUID = uuid.UUID(int=0)
    price: Decimal = Decimal(0)
    point: Point = Point(0)
    pair: tuple[int, str] = (0, "")
    many: tuple[int, ...] = ()
    items: list[int] = []
    seen: set[int] = set()
    colors: frozenset[Color] = frozenset()
    by_name: dict[str, int] = {}
    by_number: dict[int, float] = {}
    by_color: dict[Color, list[float]] = {}
    read_only: Mapping[str, Sequence[float]] = {}
    members: AbstractSet[str] = frozenset()
    base: Base = Base()
    bases: list[Base] = []
    pet: Cat | Dog | None = None
    data: Data = msgspec.field(default_factory=Data)
    item: Item = msgspec.field(default_factory=Item)
    keys: Keys = {}
    box: Box[int] = Box(0)
    boxes: dict[str, Box[list[int]]] = {}
    low: Annotated[int, msgspec.Meta(ge=0, lt=100)] = 0
    short: Annotated[str, msgspec.Meta(max_length=3, pattern="^[a-z]*$")] = ""
    few: Annotated[list[Annotated[int, msgspec.Meta(multiple_of=2)]], msgspec.Meta(max_length=2)] = []
    bounded_keys: dict[Annotated[str, msgspec.Meta(min_length=2)], int] = {}
    either: int | str | list[float] = 0
    anything: Any = None


def refusal(wire: Format, declared: Any, state: Any, **options: Any) -> InvalidStateError:
    """What encoding this raises, if it is the right kind of error, and tells nothing that it must not."""
    codec = SnapshotCodec(declared, format=wire, **options)
    with pytest.raises(InvalidStateError) as caught:
        b"".join(codec.encode(Snapshot(state=state)))
    error = caught.value
    assert str(error).startswith(f"marshal snapshot: {error.path}: {error.reason}; ")
    assert SECRET not in str(error)
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None, "what msgspec says may show contents"
    return error


WRONG: list[tuple[str, Any, str, str, tuple[Format, ...]]] = [
    # what JSON has no number for
    ("ratio", NAN, "", "NaN and infinities cannot be written as JSON", JSON),
    ("ratio", -INF, "", "NaN and infinities cannot be written as JSON", JSON),
    ("maybe", NAN, "", "NaN and infinities cannot be written as JSON", JSON),
    ("maybe", INF, "", "NaN and infinities cannot be written as JSON", JSON),
    ("point", Point(1, NAN), "[1]", "NaN and infinities cannot be written as JSON", JSON),
    ("by_number", {3: 1.0, 4: INF}, "[4]", "NaN and infinities cannot be written as JSON", JSON),
    ("by_color", {Color.BLUE: [1.0, NAN]}, "[<Color.BLUE: 'blue'>][1]", "NaN and infinities", JSON),
    ("read_only", {"a": [1.0], "b": [1.0, NAN]}, "['b'][1]", "NaN and infinities", JSON),
    ("data", Data(1, NAN), ".ratio", "NaN and infinities cannot be written as JSON", JSON),
    ("item", Item(1, [2.0, INF]), ".ratios[1]", "NaN and infinities cannot be written as JSON", JSON),
    ("either", [0.5, NAN], "[1]", "NaN and infinities cannot be written as JSON", JSON),
    ("anything", NAN, "", "NaN and infinities cannot be written as JSON", JSON),
    ("anything", {"a": [{"b": INF}]}, "['a'][0]['b']", "NaN and infinities cannot be written as JSON", JSON),
    # what is not of the declared type
    ("count", SECRET, "", "a str does not come back equal as int", BOTH),
    ("count", 1.5, "", "a float does not come back equal as int", BOTH),
    ("count", True, "", "a bool does not come back equal as int", BOTH),
    ("count", None, "", "a NoneType does not come back equal as int", BOTH),
    ("count", [SECRET], "", "a list does not come back equal as int", BOTH),
    ("count", Color.RED, "", "a Color does not come back equal as int", BOTH),
    ("ratio", "1.5", "", "a str does not come back equal as float", BOTH),
    ("ratio", 2**53 + 1, "", "a int does not come back equal as float", BOTH),
    ("name", SECRET.encode(), "", "a bytes does not come back equal as str", BOTH),
    ("name", 1, "", "a int does not come back equal as str", BOTH),
    ("name", dt.datetime(2024, 1, 1, tzinfo=dt.UTC), "", "a datetime does not come back equal as str", BOTH),
    ("name", dt.date(2024, 1, 1), "", "a date does not come back equal as str", BOTH),
    ("name", uuid.UUID(int=1), "", "a UUID does not come back equal as str", BOTH),
    ("name", Decimal(1), "", "a Decimal does not come back equal as str", BOTH),
    ("raw", SECRET, "", "a str does not come back equal as bytes", BOTH),
    ("flag", 1, "", "a int does not come back equal as bool", BOTH),
    ("color", "red", "", "a str does not come back equal as Color", BOTH),
    ("mode", SECRET, "", "a str does not come back equal as", BOTH),
    ("day", dt.datetime(2024, 1, 1, tzinfo=dt.UTC), "", "a datetime does not come back equal as date", BOTH),
    ("moment", dt.date(2024, 1, 1), "", "a date does not come back equal as datetime", BOTH),
    ("moment", 0, "", "a int does not come back equal as datetime", BOTH),
    ("key", str(uuid.UUID(int=1)), "", "a str does not come back equal as UUID", BOTH),
    ("point", [1, 2.0], "", "a list does not come back equal as Point", BOTH),
    ("point", (1,), "", "a tuple does not come back equal as Point", BOTH),
    ("pair", (1, 2), "[1]", "a int does not come back equal as str", BOTH),
    ("pair", (1, "a", "b"), "", "a tuple does not come back equal as tuple", BOTH),
    ("pair", [1, "a"], "", "a list does not come back equal as tuple", BOTH),
    ("many", [1, 2], "", "a list does not come back equal as tuple", BOTH),
    ("many", (1, SECRET), "[1]", "a str does not come back equal as int", BOTH),
    ("items", (1, 2), "", "a tuple does not come back equal as list", BOTH),
    ("items", {1, 2}, "", "a set does not come back equal as list", BOTH),
    ("items", "abc", "", "a str does not come back equal as list", BOTH),
    ("items", [1, [2], 3], "[1]", "a list does not come back equal as int", BOTH),
    ("items", deque([1]), "", "a deque cannot be encoded", BOTH),
    ("seen", [1], "", "a list does not come back equal as set", BOTH),
    ("seen", {1, SECRET}, "{…}", "a str does not come back equal as int", BOTH),
    ("colors", frozenset({Color.RED, "blue"}), "{…}", "a str does not come back equal as Color", BOTH),
    ("by_name", {"a": 1, "b": SECRET}, "['b']", "a str does not come back equal as int", BOTH),
    ("by_name", {1: 1}, "[1]", "a int does not come back equal as str", BOTH),
    ("by_name", [("a", 1)], "", "a list does not come back equal as dict", BOTH),
    ("by_name", Base(), "", "a Base does not come back equal as dict", BOTH),
    ("by_number", {"1": 1.0}, "['1']", "a str does not come back equal as int", BOTH),
    ("by_color", {"red": []}, "['red']", "a str does not come back equal as Color", BOTH),
    ("by_color", {Color.RED: [1.0, SECRET]}, "[<Color.RED: 'red'>][1]", "a str does not come back equal as", BOTH),
    ("read_only", {1: [1.0]}, "[1]", "a int does not come back equal as str", BOTH),
    ("read_only", {"a": {1.0}}, "['a']", "a set does not come back equal as Sequence", BOTH),
    ("members", ["a"], "", "a list does not come back equal as Set", BOTH),
    ("base", Derived(1), "", "a Derived does not come back equal as Base", BOTH),
    ("base", {"x": 1}, "", "a dict does not come back equal as Base", BOTH),
    ("bases", [Base(1), Derived(2)], "[1]", "a Derived does not come back equal as Base", BOTH),
    ("bases", [Base(1), Base(SECRET)], "[1].x", "a str does not come back equal as int", BOTH),  # type: ignore[arg-type]
    ("pet", Cat(SECRET), ".lives", "a str does not come back equal as int within its bounds", BOTH),  # type: ignore[arg-type]
    ("pet", Base(), "", "a Base does not come back equal as", BOTH),
    ("pet", Dog(frozenset({1})), ".tricks{…}", "a int does not come back equal as str", BOTH),  # type: ignore[arg-type]
    ("data", Data(SECRET), ".x", "a str does not come back equal as int", BOTH),  # type: ignore[arg-type]
    ("item", Item(SECRET), ".x", "a str does not come back equal as int", BOTH),  # type: ignore[arg-type]
    ("keys", {"x": SECRET}, "['x']", "a str does not come back equal as int", BOTH),
    ("keys", {"x": 1, "other": SECRET}, "", "a dict does not come back equal as Keys", BOTH),
    ("box", Box(SECRET), ".the_content", "a str does not come back equal as int", BOTH),
    ("boxes", {"a": Box([1, SECRET])}, "['a'].the_content[1]", "a str does not come back equal as int", BOTH),
    ("anything", (1, 2), "", "a tuple does not come back equal as Any", BOTH),
    ("anything", {"a": [1, (2,)]}, "['a'][1]", "a tuple does not come back equal as Any", BOTH),
    ("anything", {"a": {1, 2}}, "['a']", "a set does not come back equal as Any", BOTH),
    ("anything", [Base()], "[0]", "a Base does not come back equal as Any", BOTH),
    ("anything", {"a": Data()}, "['a']", "a Data does not come back equal as Any", BOTH),
    ("anything", [Color.RED], "[0]", "a Color does not come back equal as Any", BOTH),
    ("anything", {"a": b"x"}, "['a']", "a bytes does not come back equal as Any", JSON),
    ("anything", [dt.datetime(2024, 1, 1, tzinfo=dt.UTC)], "[0]", "a datetime does not come back equal as Any", JSON),
    ("anything", [dt.date(2024, 1, 1)], "[0]", "a date does not come back equal as Any", BOTH),
    ("anything", {"a": {1: 2}}, "['a']", "a dict does not come back equal as Any", JSON),
    ("anything", [fractions.Fraction(1, 2)], "[0]", "a Fraction cannot be encoded", BOTH),
    ("anything", {"a": object()}, "['a']", "a object cannot be encoded", BOTH),
    # numbers out of range
    ("low", -1, "", "a int does not come back equal as int within its bounds", BOTH),
    ("low", 100, "", "a int does not come back equal as int within its bounds", BOTH),
    ("short", SECRET, "", "a str does not come back equal as str within its bounds", BOTH),
    ("few", [2, 4, 6], "", "a list does not come back equal as list within its bounds", BOTH),
    ("few", [2, 3], "[1]", "a int does not come back equal as int within its bounds", BOTH),
    ("bounded_keys", {"ab": 1, "c": 2}, "['c']", "a str does not come back equal as str within its bounds", BOTH),
    ("pet", Cat(10), ".lives", "a int does not come back equal as int within its bounds", BOTH),
    ("count", 2**64, "", "an integer out of range", MSGPACK),
    ("count", -(2**63) - 1, "", "an integer out of range", MSGPACK),
    ("anything", {"a": [1, 2**64]}, "['a'][1]", "an integer out of range", MSGPACK),
    ("by_number", {2**64: 1.0}, "[18446744073709551616]", "an integer out of range", MSGPACK),
    # text that UTF-8 cannot express
    ("name", SECRET + "\ud800", "", "holds a lone surrogate, which UTF-8 cannot express", BOTH),
    ("name", "\udc80" * 3, "", "holds a lone surrogate, which UTF-8 cannot express", BOTH),
    ("by_name", {"a": 1, "\udfff": 2}, "['\\udfff']", "holds a lone surrogate, which UTF-8 cannot express", BOTH),
    ("seen", {"\ud800"}, "{…}", "holds a lone surrogate, which UTF-8 cannot express", BOTH),
    ("either", "\ud800", "", "holds a lone surrogate, which UTF-8 cannot express", BOTH),
    ("anything", ["a", {"b": "\ud800"}], "[1]['b']", "holds a lone surrogate, which UTF-8 cannot express", BOTH),
    ("anything", {"\ud800": 1}, "", "holds a lone surrogate, which UTF-8 cannot express", BOTH),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wire", "field", "value", "step", "reason"),
    [(wire, field, value, step, reason) for field, value, step, reason, wires in WRONG for wire in wires],
)
def test_the_path_leads_to_what_is_wrong(wire: Format, field: str, value: Any, step: str, reason: str) -> None:
    """The path names the innermost part that would not come back, and the reason says why, in types."""
    state = State()
    setattr(state, field, value)
    error = refusal(wire, State, state)
    assert error.path == f"state.{field}{step}"
    assert error.reason.startswith(reason)
    nested = refusal(wire, dict[str, list[State]], {"a": [], "b": [State(), state]})
    assert (nested.path, nested.reason) == (f"state['b'][1].{field}{step}", error.reason)


@pytest.mark.parametrize(("field", "value"), [row[:2] for row in WRONG if row[4] == JSON])
def test_what_json_refuses_comes_back_from_messagepack(field: str, value: Any) -> None:
    """NaN, infinities, bytes, moments and keys that are no text are no trouble for MessagePack."""
    state = State()
    setattr(state, field, value)
    codec = SnapshotCodec(State, format="msgpack")
    back = codec.decode(b"".join(codec.encode(Snapshot(state=state)))).snapshot.state
    assert repr(getattr(back, field)) == repr(value)


@pytest.mark.parametrize(
    ("declared", "state", "path"),
    [
        (int, SECRET, "state"),
        (list[int], [1, SECRET], "state[1]"),
        (dict[str, int], {"a": SECRET}, "state['a']"),
        (tuple[int, str], (1, 2), "state[1]"),
        (set[int], {SECRET}, "state{…}"),
        (Box[dict[str, list[int]]], Box({"a": [SECRET]}), "state.the_content['a'][0]"),
        (Cat | Dog, Cat(99), "state.lives"),
        (Keys, {"x": SECRET}, "state['x']"),
        (dict[str, int] | None, {"a": 1.5}, "state['a']"),
        (NewType("Name", list[str]), [1], "state[0]"),
        (Snapshot[int], Snapshot(state=SECRET), "state.state"),
        (OrchestratorState, OrchestratorState().with_tasks(Task(1)), "state.tasks[1].id"),  # type: ignore[arg-type]
        (OrchestratorState, OrchestratorState({"w": SECRET}), "state.workers['w']"),  # type: ignore[dict-item]
    ],
)
@pytest.mark.parametrize("wire", BOTH)
def test_the_path_from_the_top(wire: Format, declared: Any, state: Any, path: str) -> None:
    """Whatever the state itself is, the path begins with it."""
    assert refusal(wire, declared, state).path == path


# ---------------------------------------------------------------------- keys

TWINS: list[tuple[Any, Any, tuple[Format, ...]]] = [
    (dict[int | str, int], {1: 1, "1": 2}, JSON),
    (Any, {"a": 1, Color.RED: 2, "red": 3}, JSON),
    (Any, {1: 1, "1": 2}, JSON),
    (Any, {b"a": 1, "YQ==": 2}, JSON),
    (dict[Any, int], {dt.date(2024, 1, 1): 1, "2024-01-01": 2}, BOTH),
    (dict[Any, int], {Color.RED: 1, "red": 2}, BOTH),
]


@pytest.mark.parametrize(
    ("wire", "declared", "state"), [(wire, declared, state) for declared, state, wires in TWINS for wire in wires]
)
def test_two_keys_with_one_text(wire: Format, declared: Any, state: Any) -> None:
    """Two keys that would be one in the file are refused: one of their values would be lost."""
    error = refusal(wire, declared, state)
    assert error.path == "state"
    assert error.reason == "two of its keys encode to the same text, and one would be lost"
    assert refusal(wire, dict[str, list[declared]], {"a": [{}, state]}).path == "state['a'][1]"  # type: ignore[valid-type]


@pytest.mark.parametrize("key", [None, NAN, INF, (1, 2), frozenset({1})])
def test_keys_that_json_has_no_text_for(key: Any) -> None:
    """A key that JSON cannot express is refused, and one that MessagePack can is not."""
    assert refusal("json", dict[Any, int], {key: 1}).path.startswith("state")
    if key == key:  # noqa: PLR0124  NaN is found again by no mapping
        codec = SnapshotCodec(dict[Any, int], format="msgpack")
        try:
            back = codec.decode(b"".join(codec.encode(Snapshot(state={key: 1})))).snapshot.state
        except InvalidStateError:
            assert isinstance(key, frozenset), "which comes back as a list"
        else:
            assert back == {key: 1}


@pytest.mark.parametrize(
    "key",
    ["k" * 1000, "\n\t'\"", 10**50, 10**5000, b"\xff" * 1000, ("a" * 1000, 1)],
    ids=lambda key: type(key).__name__,
)
def test_long_keys_are_shortened(key: Any) -> None:
    """A path shows a key as Python writes it, and not more of it than some 64 characters."""
    error = refusal("msgpack", dict[Any, int], {key: SECRET})
    assert len(error.path) <= 80
    assert error.path.startswith("state[")


# ---------------------------------------------------------------------- depth


def lists(depth: int, leaf: Any = 1) -> Any:
    """That many lists in one another."""
    for _ in range(depth):
        leaf = [leaf]
    return leaf


def dicts(depth: int, leaf: Any = 1, key: Any = "k") -> Any:
    """That many dicts in one another."""
    for _ in range(depth):
        leaf = {key: leaf}
    return leaf


def nodes(depth: int, field: str = "next") -> Node:
    """Records and their containers in one another."""
    node = Node(depth)
    for number in range(depth - 1):
        node = Node(number, **{field: {"next": node, "more": [node], "by_number": {number: node}}[field]})
    return node


DEEP: list[tuple[Any, Any, Any, tuple[Format, ...]]] = [
    (Any, lists(MAX_DEPTH), lists(MAX_DEPTH + 1), BOTH),
    (Any, dicts(MAX_DEPTH), dicts(MAX_DEPTH + 1), BOTH),
    (Any, dicts(MAX_DEPTH, key=1), dicts(MAX_DEPTH + 1, key=1), MSGPACK),
    (Any, lists(MAX_DEPTH, NAN), lists(MAX_DEPTH + 1, NAN), MSGPACK),
    (dict[str, Any], {"a": 1, "b": lists(MAX_DEPTH - 1)}, {"a": 1, "b": lists(MAX_DEPTH)}, BOTH),
    (Node, nodes(MAX_DEPTH), nodes(MAX_DEPTH + 1), BOTH),
    (Node, nodes(MAX_DEPTH // 2, "more"), nodes(MAX_DEPTH // 2 + 1, "more"), BOTH),
    (Node, nodes(MAX_DEPTH // 2, "by_number"), nodes(MAX_DEPTH // 2 + 1, "by_number"), BOTH),
]


def deep(which: int) -> pytest.MarkDecorator:
    """The cases within the bound, or beyond it."""
    cases = [(wire, row[0], row[1 + which]) for row in DEEP for wire in row[3]]
    return pytest.mark.parametrize(("wire", "declared", "state"), cases, ids=lambda value: type(value).__name__)


def text_of(value: Any) -> str:
    """A nested value as text, without recursion."""
    return msgspec.msgpack.encode(value).hex()


def saved_and_loaded(declared: Any, wire: Format, state: Any) -> Any:
    """What comes back."""
    codec = SnapshotCodec(declared, format=wire)
    return codec.decode(b"".join(codec.encode(Snapshot(state=state)))).snapshot.state


@deep(0)
def test_within_the_depth(wire: Format, declared: Any, state: Any) -> None:
    """What is nested as deep as is allowed comes back, in this thread and in one with a stack of its own."""
    expected = text_of(state)
    found = [text_of(saved_and_loaded(declared, wire, state))]
    thread = threading.Thread(target=lambda: found.append(text_of(saved_and_loaded(declared, wire, state))))
    thread.start()
    thread.join()
    assert found == [expected, expected]


@deep(1)
def test_beyond_the_depth(wire: Format, declared: Any, state: Any) -> None:
    """One level more is refused, and the path shows the way down as far as is needed to find it."""
    error = refusal(wire, declared, state)
    assert error.reason == f"nested deeper than {MAX_DEPTH} levels"
    assert error.path.endswith("…")
    assert len(error.path) < 200


@pytest.mark.slow
@pytest.mark.parametrize("wire", BOTH)
@pytest.mark.parametrize("depth", [10_000, 200_000])
def test_far_beyond_the_depth(wire: Format, depth: int) -> None:
    """However deep it is, there is an error and no crash, in any thread; so with types that do not allow depth."""
    errors: list[InvalidStateError] = []

    def try_all() -> None:
        errors.append(refusal(wire, Any, lists(depth)))
        errors.append(refusal(wire, dict[str, Any], dicts(depth)))
        errors.append(refusal(wire, list[int], lists(depth)))
        errors.append(refusal(wire, list[list[str]], lists(depth)))
        errors.append(refusal(wire, Base, Base(lists(depth))))

    try_all()
    thread = threading.Thread(target=try_all)
    thread.start()
    thread.join()
    assert [error.path for error in errors[2:5]] == ["state[0]", "state[0][0]", "state.x"]
    assert [error.path for error in errors[5:]] == [error.path for error in errors[:5]]


def cycles() -> dict[str, tuple[Any, Any, str]]:
    """Values that contain themselves, with their types and the paths to where they do."""
    items: list[Any] = [1]
    items.append({"x": items})
    entries: dict[str, Any] = {str(number): [number] for number in range(50_000)}
    entries["self"] = entries
    node = Node(1, Node(2))
    node.next.next = node  # type: ignore[union-attr]
    tree = Node(1)
    tree.more = [Node(number, tree) for number in range(50_000)]
    data = Data()
    data.ratio = data  # type: ignore[assignment]
    wrong: list[Any] = []
    wrong.append(wrong)
    return {
        "list": (Any, items, "state[1]['x']"),
        "dict": (Any, entries, "state['self']"),
        "record": (Node, node, "state.next.next"),
        "parents": (Node, tree, "state.more[0].next"),
        "dataclass": (Any, [data], "state[0].ratio"),
        "wrong": (list[int], wrong, "state[0]"),
        "dataclass of a bounded type": (Data, data, "state.ratio"),
    }


@pytest.mark.parametrize("wire", BOTH)
def test_what_contains_itself(wire: Format) -> None:
    """A value that contains itself is refused, soon, and the path leads to where it does."""
    for name, (declared, state, path) in cycles().items():
        begun = time.process_time()
        assert refusal(wire, declared, state).path == path, name
        assert time.process_time() - begun < 5, name


# ---------------------------------------------------------------------- what equality forgives


@pytest.mark.parametrize("wire", BOTH)
@pytest.mark.parametrize(
    ("declared", "state", "back"),
    [
        (float, 1, 1.0),
        (dict[str, int], OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (tuple[int, float], Point(1, 2.0), (1, 2.0)),
        (Point, (1, 2.0), Point(1, 2.0)),
        (set[int], frozenset({1}), {1}),
        (Sequence[int], (1, 2), [1, 2]),
        (AbstractSet[int], frozenset({1}), {1}),
        (bytes, bytearray(b"a"), b"a"),
    ],
)
def test_what_is_equal_is_not_refused(wire: Format, declared: Any, state: Any, back: Any) -> None:
    """What comes back equal, if perhaps as another type, is not refused."""
    found = saved_and_loaded(declared, wire, state)
    assert found == back
    assert type(found) is type(back)


# ---------------------------------------------------------------------- without verification


@pytest.mark.parametrize("wire", BOTH)
def test_without_verification_the_encoder_still_refuses(wire: Format) -> None:
    """verify=False leaves what cannot be encoded at all, and what would silently become something else in JSON."""
    for declared, state, path in (
        (dict[str, str], {"a": "\ud800"}, "state['a']"),
        (Any, {"a": object()}, "state['a']"),
        (Any, lists(MAX_DEPTH + 1), None),
        (dict[Any, int], {Color.RED: 1, "red": 2}, "state"),
    ):
        error = refusal(wire, declared, state, verify=False)
        assert path is None or error.path == path
    if wire == "msgpack":
        assert refusal(wire, list[int], [2**64], verify=False).path == "state[0]"
    else:
        assert refusal(wire, list[float | None], [1.0, NAN], verify=False).path == "state[1]"
        assert refusal(wire, list[float | None], [1.0] * LARGE + [NAN], verify=False).path == f"state[{LARGE}]"


@pytest.mark.parametrize("wire", BOTH)
def test_without_verification_types_are_believed(wire: Format) -> None:
    """verify=False does not find what is not of its declared type; it is found when it is loaded."""
    codec = SnapshotCodec(list[int], format=wire, verify=False)
    data = b"".join(codec.encode(Snapshot(state=[SECRET])))  # type: ignore[list-item]
    assert SECRET.encode() in data


# ---------------------------------------------------------------------- the envelope's own fields


@pytest.mark.parametrize("wire", BOTH)
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_timestamps(wire: Format, compression: Any) -> None:
    """A timestamp may be any text that can be written, up to a bound that lets the header be found again."""
    codec = SnapshotCodec[None](None, format=wire, compression=compression)
    for hlc in ("\ud800", "a\udfffb"):
        with pytest.raises(InvalidStateError) as caught:
            codec.encode(Snapshot(state=None, last_applied_hlc=hlc))
        assert caught.value.path == "last_applied_hlc"
    for hlc in ("x" * (1 << 20), "\0" * (1 << 18), "\U0001f680" * (1 << 18)):
        with pytest.raises(InvalidStateError, match="last_applied_hlc: longer than 1048576 bytes"):
            codec.encode(Snapshot(state=None, last_applied_hlc=hlc if wire == "json" else hlc * 4))
    for hlc in ("x" * ((1 << 20) - 200), "\0" * 170_000, "\U0001f680" * ((1 << 18) - 60), '"\\' * 250_000):
        data = b"".join(codec.encode(Snapshot(state=None, last_applied_hlc=hlc)))
        assert codec.decode(data).snapshot.last_applied_hlc == hlc


# ---------------------------------------------------------------------- fuzz

HOSTILE: list[Any] = [
    "\ud800", "red", "1", "2024-01-01", b"a", bytearray(b"a"), Color.RED, Decimal("NaN"), Decimal("sNaN"),
    Decimal("1.0"), dt.date(2024, 1, 1), dt.time(1), dt.timedelta(1), dt.datetime.min, dt.datetime.max,  # noqa: DTZ901
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(minutes=53, seconds=28))),
    dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=5))), uuid.UUID(int=1), object(), Base(), Derived(1),
    Cat(), Dog(), Data(), Item(), Box("x"), Point(1), Base, int, msgspec.UNSET, msgspec.Raw(b"1"), msgspec.Raw(b"}"),
    msgspec.Raw(b""), NotImplemented, ..., range(3), fractions.Fraction(1), 1j,
]  # fmt: skip


def hashable(value: Any) -> bool:
    """Whether it can be a key."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


hostile_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(2**63 - 2, 2**64 + 2), st.floats(), st.text(max_size=3),
    st.sampled_from(HOSTILE),
)  # fmt: skip
hashables = hostile_scalars.filter(hashable)
hostile = st.recursive(
    hostile_scalars,
    lambda below: (
        st.lists(below, max_size=3)
        | st.lists(below, max_size=3).map(tuple)
        | st.dictionaries(hashables, below, max_size=3)
        | st.sets(hashables, max_size=3)
        | st.frozensets(hashables, max_size=2)
        | st.builds(Box, below)
        | st.builds(Data, below, below)
        | st.builds(Item, below, below)
        | st.builds(Node, below, below, below, below)
    ),
    max_leaves=6,
)
declared_types = st.sampled_from(
    [Any, State, Node, Box[Any], Box[list[int]], dict[str, Any], dict[int, Any], dict[Any, Any], list[Any], set[Any],
     tuple[Any, ...], frozenset[int | str], dict[str, set[Color]], list[Base | None], Cat | Dog | None, Data, Item,
     Keys, Mapping[str, Sequence[float]],
     int | str | list[float], Decimal, dt.datetime, dt.time, bytes, msgspec.Raw, Point]
)  # fmt: skip


@pytest.mark.parametrize("wire", BOTH)
@settings(max_examples=400)
@given(declared_types, hostile, st.sampled_from(State.__struct_fields__))
def test_it_comes_back_or_is_refused(wire: Format, declared: Any, value: Any, field: str) -> None:
    """Whatever the type and whatever the value: it is refused, or comes back, and what came back does so again."""
    if declared is State:
        state: Any = State()
        setattr(state, field, value)
    else:
        state = value
    codec = SnapshotCodec(declared, format=wire)
    try:
        data = b"".join(codec.encode(Snapshot(state=state)))
    except InvalidStateError as error:
        refused = error
    else:
        back = codec.decode(data).snapshot.state
        assert same(state, back)
        again = b"".join(codec.encode(Snapshot(state=back)))
        assert same(codec.decode(again).snapshot.state, back)
        return
    assert refused.path.startswith("state")
    assert str(refused).endswith("; nothing was saved: mend the value, or its declared type")


def same(one: Any, two: Any) -> bool:
    """Equal, where NaN is NaN."""
    return bool(one == two) or "nan" in repr(one).lower() or repr(one) == repr(two)


# ---------------------------------------------------------------------- large states


def large_states() -> Iterator[tuple[str, Any, Any, str]]:
    """States of so many entries, one of which is wrong, with their types and the path to it."""
    last = LARGE - 1
    yield "list", list[float], [0.5] * last + ["x"], f"state[{last}]"
    yield "str keys", dict[str, int], {f"k{i}": i if i != last else "x" for i in range(LARGE)}, f"state['k{last}']"
    yield "int keys", dict[int, int], {i: i if i != last else "x" for i in range(LARGE)}, f"state[{last}]"
    yield "set", set[int], {*range(LARGE), "x"}, "state{…}"
    yield "any", Any, {"a": [{"x": i} for i in range(LARGE)] + [{"x": (1,)}]}, f"state['a'][{LARGE}]['x']"
    tasks = (Task(f"t{i}", attempts=i or "x") for i in range(LARGE))  # type: ignore[arg-type]
    yield "text", list[str], ["a", "b" * 10 * LARGE + "\ud800"], "state[1]"
    yield "tasks", OrchestratorState, OrchestratorState().with_tasks(*tasks), "state.tasks['t0'].attempts"


@pytest.mark.parametrize("wire", BOTH)
def test_a_refusal_is_found_in_time(wire: Format) -> None:
    """In a state of 100,000 entries, the wrong one is found in a few seconds."""
    for name, declared, state, path in large_states():
        begun = time.process_time()
        assert refusal(wire, declared, state).path == path
        assert time.process_time() - begun < 5, name


class Checked(msgspec.Struct):
    """A record that looks at itself when it is made, and so when it is loaded."""

    items: list[int]
    count: int = 0

    def __post_init__(self) -> None:
        if self.count > len(self.items):
            raise ValueError(SECRET)


@attrs.define
class Private:
    """A class with an attribute that msgspec passes over."""

    items: list[int]
    _hidden: int = 0


@attrs.define
class Validated:
    """A class that looks at its attributes when it is made."""

    items: list[int] = attrs.field(validator=attrs.validators.max_len(LARGE))


class Numbers(TypedDict):
    """A dict of known keys."""

    items: list[int]


@pytest.mark.parametrize("wire", BOTH)
@pytest.mark.parametrize("size", [1, LARGE])
def test_what_only_the_whole_tells(wire: Format, size: int) -> None:
    """A record that would not be read again as a whole, though each of its fields would, is refused at any size."""
    items = list(range(size))
    checked, validated = Checked(items), Validated([])
    checked.count = size + 1
    object.__setattr__(validated, "items", [0] * (LARGE + 1))
    for declared, state in (
        (Checked, checked),
        (Private, Private(items, 5)),
        (Validated, validated),
        (Numbers, {"items": items, "other": SECRET}),
    ):
        assert refusal(wire, declared, state).path == "state"
    for declared, state in (
        (Checked, Checked(items, 1)),
        (Private, Private(items)),
        (Validated, Validated(items)),
        (Numbers, {"items": items}),
    ):
        assert saved_and_loaded(declared, wire, state) == state


@pytest.mark.parametrize("wire", BOTH)
@pytest.mark.parametrize(("state", "path"), [([], ""), ({}, ""), (SECRET, ""), (Cat(99), ".lives"), (Base(), "")])
def test_what_is_no_option_of_a_union(wire: Format, state: Any, path: str) -> None:
    """What fits no option of a union is refused, wherever the union stands."""
    assert refusal(wire, Cat | Dog | None, state).path == "state" + path
    assert refusal(wire, list[Cat | Dog | None], [None] * LARGE + [state]).path == f"state[{LARGE}]{path}"

"""The type decides how a state is isolated: values are shared, top-level containers of them copied, others encoded."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import importlib.util
import sys
import uuid
from collections.abc import Callable, Collection, Mapping, MutableMapping, MutableSequence, MutableSet, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    TypedDict,
    TypeVar,
)

import attrs
import msgspec
import pytest

from swoosh_async.codec import SnapshotCodec
from swoosh_async.codec._plan import Plan
from swoosh_async.models import OrchestratorState, Snapshot

T = TypeVar("T")
U = TypeVar("U")
Bounded = TypeVar("Bounded", bound=int)
Low = Annotated[int, msgspec.Meta(ge=0)]
Name = NewType("Name", str)
Names = NewType("Names", list[str])
Frozen = NewType("Frozen", tuple[str, ...])


class Color(enum.Enum):
    """An enum."""

    RED = "red"


class Point(NamedTuple):
    """A named tuple of values."""

    x: int


class Row(NamedTuple):
    """A named tuple with something mutable in it."""

    cells: list[int]


class Chain(NamedTuple):
    """A named tuple that leads back to itself."""

    value: int
    next: Optional[Chain]  # noqa: UP045  written as some still do


class Value(msgspec.Struct, frozen=True):
    """A frozen record of values."""

    x: int = 0
    names: Mapping[str, int] = {}


class Holder(msgspec.Struct, frozen=True):
    """A frozen record with something mutable in it."""

    cells: list[int] = []


class Open(msgspec.Struct):
    """A record that is not frozen."""

    x: int = 0


class Tree(msgspec.Struct, frozen=True):
    """A value that leads back to itself."""

    value: int
    branches: tuple[Tree, ...] = ()


class Thicket(msgspec.Struct, frozen=True):
    """What leads back to itself by way of something mutable."""

    branches: dict[str, Thicket] = {}


class Even(msgspec.Struct, frozen=True):
    """One of two values that lead back to each other."""

    next: Odd | None = None


class Odd(msgspec.Struct, frozen=True):
    """The other one."""

    next: Even | None = None


class Ping(msgspec.Struct, frozen=True):
    """One of two that lead back to each other, where the other one is not a value."""

    next: Pong | None = None


class Pong(msgspec.Struct, frozen=True):
    """The other one."""

    next: Ping | None = None
    notes: Any = None


@dataclasses.dataclass(frozen=True)
class FrozenData:
    """A frozen dataclass."""

    x: int = 0


@dataclasses.dataclass
class Data:
    """A dataclass that is not frozen."""

    x: int = 0
    by_name: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    """A frozen dataclass with slots, and something to copy."""

    by_name: dict[str, int]


@attrs.frozen
class FrozenAttrs:
    """A frozen attrs class."""

    x: int = 0


@attrs.define
class Attrs:
    """An attrs class that is not frozen."""

    x: int = 0
    names: list[str] = attrs.field(factory=list)


class Keys(TypedDict):
    """A dict, which is mutable whatever its keys are."""

    x: int
    names: NotRequired[list[str]]


class Box(msgspec.Struct, Generic[T], frozen=True):
    """A generic value, if what is in it is one."""

    content: T


class Boxes(msgspec.Struct, Generic[T], frozen=True):
    """A generic record that passes its parameter on."""

    box: Box[tuple[T, ...]]


class Both(Box[T], Generic[T, U], frozen=True):
    """A generic record that inherits a field of one parameter and adds another of its own."""

    other: U


class IntBox(Box[int], frozen=True):
    """A record that fixes the parameter of its base."""


class ListBox(Box[list[int]], frozen=True):
    """One that fixes it to something mutable."""


class NumberBox(msgspec.Struct, Generic[Bounded], frozen=True):
    """A generic record whose parameter has a bound."""

    content: Bounded


@dataclasses.dataclass(frozen=True)
class DataBox(Generic[T]):
    """A generic dataclass."""

    content: T


class State(msgspec.Struct, Generic[T]):
    """A state with one field of the type in question."""

    field: T


class Own:
    """A class that takes hooks."""


VALUES: list[Any] = [
    None, bool, int, float, str, bytes, dt.datetime, dt.date, dt.time, dt.timedelta, uuid.UUID, Decimal, Color,
    Literal["a", 1], Low, Name, Frozen, Annotated[Value, "a note"],
    Annotated[tuple[Low, ...], msgspec.Meta(max_length=3)], tuple[int, ...], tuple[int, str],
    tuple[Value, Mapping[str, tuple[int, ...]]], Point, Chain,
    frozenset[int], frozenset[tuple[int, str]],
    Mapping[str, int], Sequence[int], AbstractSet[int], Mapping[str, Sequence[Value]],
    Value, FrozenData, FrozenAttrs, Tree, Even, OrchestratorState, int | str, Value | None, Tree | Point,
    Box[int], Box[Value], Box[Box[tuple[int, ...]]], Boxes[str], Both[int, str], IntBox, NumberBox, NumberBox[int],
    DataBox[int], Box[Name], Box[Low], Box[Mapping[str, Tree]],
]  # fmt: skip
COPIED: list[tuple[Any, Any]] = [
    (dict[str, int], {"a": 1}), (list[int], [1]), (set[int], {1}), (dict[Color, Value], {Color.RED: Value()}),
    (MutableMapping[str, int], {"a": 1}), (MutableSequence[int], [1]), (MutableSet[int], {1}), (Collection[int], [1]),
    (list[tuple[int, ...]], [(1,)]), (dict[str, Mapping[str, int]], {"a": {"b": 1}}), (list[Box[int]], [Box(1)]),
    (dict[str, int] | None, {"a": 1}), (Optional[list[int]], [1]),  # noqa: UP045  the older spelling
    (list[int] | int, [1]), (dict[str, int] | list[int], [1]),
    (Annotated[list[int], msgspec.Meta(max_length=3)], [1]), (Names, ["a"]), (list[Name], ["a"]), (list[Low], [1]),
]  # fmt: skip
NEITHER: list[tuple[Any, Any]] = [
    (Any, 1), (object, 1), (list[Any], [1]), (dict[str, list[int]], {"a": [1]}), (list[set[int]], [{1}]),
    (bytearray, bytearray(b"a")), (list[Open], [Open()]),
    (tuple[list[int], ...], ([1],)), (frozenset[Any], frozenset({1})), (Holder, Holder()),
    (Mapping[str, list[int]], {"a": [1]}), (Sequence[Any], [1]), (Row, Row([1])), (list[Row], [Row([1])]),
    (Open, Open()), (Data, Data()), (Attrs, Attrs()), (Keys, {"x": 1}), (list[Keys], [{"x": 1}]), (Thicket, Thicket()),
    (Box[list[int]], Box([1])), (Box, Box(1)), (Box[Any], Box(1)), (Boxes[list[int]], Boxes(Box(([1],)))),
    (Both[int, list[int]], Both(1, [1])), (Both[list[int], int], Both([1], 1)), (ListBox, ListBox([1])),
    (DataBox[list[int]], DataBox([1])), (Ping, Ping()), (Pong, Pong()), (list[int] | int, 1), (list[Own], []),
    (Annotated[dict[str, Any], "a note"], {"a": 1}), (msgspec.Raw, msgspec.Raw(b"1")),
]  # fmt: skip


@pytest.mark.parametrize("declared", VALUES, ids=str)
def test_values_are_shared(declared: Any) -> None:
    """A value is shared: as the state itself, as a field of a state, and as an item of its containers."""
    plan = Plan(declared)
    something = object()
    assert plan.shared
    assert plan.isolate(something) == (something, True)
    assert Plan(Box[declared]).shared  # type: ignore[valid-type]
    assert Plan(Mapping[str, declared]).shared  # type: ignore[valid-type]
    state = State(something)
    twin, isolated = Plan(State[declared]).isolate(state)  # type: ignore[valid-type]
    assert isolated
    assert twin is not state, "the state's own record is not frozen"
    assert twin.field is something


@pytest.mark.parametrize(("declared", "value"), COPIED, ids=str)
def test_top_level_containers_of_values_are_copied(declared: Any, value: Any) -> None:
    """A container of values is copied, once: as the state itself, and as a field of its record, frozen or not."""
    plan = Plan(declared)
    assert not plan.shared
    for state, isolated, part in (
        (value, *_isolated(plan, value)),
        (value, *_isolated(Plan(State[declared]), State(value), "field")),  # type: ignore[valid-type]
        (value, *_isolated(Plan(Box[declared]), Box(value), "content")),  # type: ignore[valid-type]
        (value, *_isolated(Plan(DataBox[declared]), DataBox(value), "content")),  # type: ignore[valid-type]
    ):
        assert isolated
        assert part == state
        assert part is not state
        assert type(part) is type(state)


def _isolated(plan: Plan, state: Any, field: str = "") -> tuple[bool, Any]:
    twin, isolated = plan.isolate(state)
    assert not field or twin is not state
    return isolated, getattr(twin, field) if field else twin


@pytest.mark.parametrize(("declared", "value"), NEITHER, ids=str)
def test_anything_else_is_encoded_at_once(declared: Any, value: Any) -> None:
    """What can change deeper down, or says nothing of itself, is not isolated by its type, as a field of a record."""
    assert Plan(State[declared]).isolate(State(value))[1] is False  # type: ignore[valid-type]
    assert not Plan(declared).shared


@pytest.mark.parametrize(
    ("declared", "state", "fields"),
    [
        (Open, Open(), ()),
        (Data, Data(1, {"a": 1}), ("by_name",)),
        (Slotted, Slotted({"a": 1}), ("by_name",)),
        (Attrs, Attrs(1, ["a"]), ("names",)),
        (Holder, Holder([1]), ("cells",)),
        (Box[list[int]], Box([1]), ("content",)),
        (Both[list[int], dict[str, int]], Both([1], {"a": 1}), ("content", "other")),
        (ListBox, ListBox([1]), ("content",)),
        (Thicket, Thicket(), None),
    ],
)
def test_the_record_at_the_top(declared: Any, state: Any, fields: tuple[str, ...] | None) -> None:
    """The state's own record may be of any kind: its twin has copies of the containers, and shares everything else."""
    twin, isolated = Plan(declared).isolate(state)
    assert isolated is (fields is not None)
    if fields is not None:
        assert twin == state
        assert twin is not state
        assert type(twin) is type(state)
        assert all(getattr(twin, name) is not getattr(state, name) for name in fields)


def test_a_typed_dict_at_the_top() -> None:
    """A TypedDict at the top is copied with its containers, and keys that are not there stay away."""
    plan = Plan(Keys)
    state: Keys = {"x": 1, "names": ["a"]}
    twin, isolated = plan.isolate(state)
    assert isolated
    state["names"].append("b")
    state["x"] = 2
    assert twin == {"x": 1, "names": ["a"]}
    assert plan.isolate({"x": 1}) == ({"x": 1}, True)


def test_what_may_be_absent() -> None:
    """None and UNSET stand for themselves where a container may be absent."""
    plan = Plan(State[dict[str, int] | None | msgspec.UnsetType])
    for absent in (None, msgspec.UNSET):
        twin, isolated = plan.isolate(State(absent))
        assert isolated
        assert twin.field is absent


@pytest.mark.parametrize(
    ("declared", "wrong"),
    [
        (list[str], "abc"),
        (list[int], (1, 2)),
        (list[int], b"abc"),
        (list[int], {1, 2}),
        (dict[str, int], MappingProxyType({"a": 1})),
        (dict[str, int], [("a", 1)]),
        (set[int], frozenset({1})),
        (set[int], [1]),
    ],
)
def test_a_copy_does_not_mend_what_is_wrong(declared: Any, wrong: Any) -> None:
    """What is no container of the declared kind is not made one by the copy, so that it is refused as what it is."""
    assert Plan(declared).isolate(wrong) == (wrong, False)
    twin, isolated = Plan(State[declared]).isolate(State(wrong))
    assert not isolated
    assert twin.field is wrong


def test_a_state_of_another_class() -> None:
    """What is not the declared record at all is left to the encoder, which refuses it."""
    assert Plan(Open).isolate(Value()) == (Value(), False)
    half = Open()
    del half.x
    assert Plan(Open).isolate(half)[1] is False


SHAPES: list[tuple[Any, Callable[[], Any], Callable[[Any], None]]] = [
    (dict[str, int], lambda: {"a": 1}, lambda state: state.update(b=2)),
    (list[int], lambda: [1], lambda state: state.clear()),
    (set[int], lambda: {1}, lambda state: state.add(2)),
    (Open, Open, lambda state: setattr(state, "x", 9)),
    (Data, lambda: Data(1, {"a": 1}), lambda state: (state.by_name.clear(), setattr(state, "x", 3))),
    (Attrs, lambda: Attrs(1, ["a"]), lambda state: state.names.append("b")),
    (Keys, lambda: {"x": 1, "names": ["a"]}, lambda state: (state["names"].append("b"), state.pop("x"))),
    (Box[dict[str, Value]], lambda: Box({"a": Value()}), lambda state: state.content.pop("a")),
    (dict[str, list[int]], lambda: {"a": [1]}, lambda state: state["a"].append(2)),
    (list[Open], lambda: [Open()], lambda state: setattr(state[0], "x", 9)),
    (Any, lambda: {"a": [1]}, lambda state: state["a"].append(2)),
    (Holder, lambda: Holder([1]), lambda state: state.cells.append(2)),
    (Thicket, lambda: Thicket({"a": Thicket()}), lambda state: state.branches["a"].branches.update(b=Thicket())),
    (dict[str, int] | None, lambda: {"a": 1}, lambda state: state.clear()),
    (State[Mapping[str, list[int]]], lambda: State({"a": [1]}), lambda state: state.field["a"].append(2)),
    (bytearray, lambda: bytearray(b"ab"), lambda state: state.extend(b"c")),
]


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("wire", ["json", "msgpack"])
@pytest.mark.parametrize(("declared", "make", "change"), SHAPES)
def test_the_state_at_the_call_is_what_is_encoded(
    wire: Any, verify: bool, declared: Any, make: Callable[[], Any], change: Callable[[Any], None]
) -> None:
    """Whatever is done to the state after the call, before the first piece is asked for: what was there is encoded."""
    codec = SnapshotCodec(declared, format=wire, verify=verify)
    state = make()
    one = codec.encode(Snapshot(state=state))
    change(state)
    assert state != make()
    assert codec.decode(b"".join(one)).snapshot.state == make()


def test_depth_is_known_from_the_type() -> None:
    """Only a type that leads back to itself, or says nothing of some part, can be nested without bound."""
    for bounded in (OrchestratorState, dict[str, list[Value]], Box[Boxes[int]], Tree | None, Chain, Even, Any):
        leads_back = bounded not in (OrchestratorState, dict[str, list[Value]], Box[Boxes[int]])
        assert Plan(bounded).deep is leads_back
    assert not Plan(tuple[Value, Value, Box[Value]]).deep


def test_final_fields() -> None:
    """Final says that a field is not assigned again, and nothing of what is in it."""

    class Done(msgspec.Struct, frozen=True):
        x: Final[int] = 0  # type: ignore[misc]
        names: Final[list[str]] = []  # type: ignore[misc]

    assert not Plan(Done).shared
    assert Plan(Done).isolate(Done())[1]


# ---------------------------------------------------------------------- modules of other kinds

WITHOUT_FUTURE = """
from collections.abc import Mapping
from typing import Generic, List, Optional, TypeVar
import dataclasses, msgspec
T = TypeVar("T")
class Leaf(msgspec.Struct, frozen=True):
    x: int
class Node(msgspec.Struct, frozen=True):
    left: Optional["Node"]
    leaves: "tuple[Leaf, ...]"
class Bag(msgspec.Struct, Generic[T], frozen=True):
    items: "Mapping[str, T]"
    more: "Optional[Bag[T]]" = None
@dataclasses.dataclass(frozen=True)
class Old:
    names: List[str]
VALUES = [Leaf, Node, Bag[int], Bag[Leaf]]
OTHERS = [Old, Bag[List[int]], Bag]
"""
PEP_695 = """
import msgspec
from collections.abc import Mapping
type Ids = tuple[int, ...]
type Names = list[str]
type Pair[A] = tuple[A, A]
type Deep = Mapping[str, Ids]
class Box[T](msgspec.Struct, frozen=True):
    content: T
    ids: Ids = ()
class Sub[T](Box[T], frozen=True):
    deep: Deep = {}
VALUES = [Ids, Deep, Box[int], Box[Ids], Sub[int], Box[Deep] | None]
OTHERS = [Names, Box[Names], Sub[list[int]], Box]
STATES = [(Box[Names], Box(["a"])), (Sub[Ids], Sub((1,), (2,), {"a": (3,)})), (dict[str, Pair[int]], {"a": (1, 2)})]
"""


def _module(path: Path, name: str, source: str) -> Any:
    path = path / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


@pytest.mark.parametrize("future", ["", "from __future__ import annotations"])
def test_annotations_of_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, future: str) -> None:
    """Annotations may be strings, all of them or some, and of the older spelling."""
    name = f"annotated_{bool(future)}".lower()
    module = _module(tmp_path, name, future + WITHOUT_FUTURE)
    monkeypatch.setitem(sys.modules, name, module)
    assert [declared for declared in module.VALUES if not Plan(declared).shared] == []
    assert [declared for declared in module.OTHERS if Plan(declared).shared] == []
    assert Plan(module.Old).isolate(module.Old(["a"]))[1]
    node = module.Node(module.Node(None, ()), (module.Leaf(1),))
    codec = SnapshotCodec(module.Node)
    assert codec.decode(b"".join(codec.encode(Snapshot(state=node)))).snapshot.state == node


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax is of Python 3.12")
def test_type_aliases_and_parameters_of_pep_695(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Aliases by the type statement are looked through, and classes with the new parameters are generic as any."""
    module = _module(tmp_path, "pep_695", PEP_695)
    monkeypatch.setitem(sys.modules, "pep_695", module)
    assert [declared for declared in module.VALUES if not Plan(declared).shared] == []
    assert [declared for declared in module.OTHERS if Plan(declared).shared] == []
    for declared, state in module.STATES:
        codec = SnapshotCodec(declared)
        assert codec.decode(b"".join(codec.encode(Snapshot(state=state)))).snapshot.state == state

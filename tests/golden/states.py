"""States of every shape that a state may have, and the snapshots of which the golden files were made.

The values here are as frozen as the files: a file that was released is never changed, and so neither is what it holds.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypedDict, TypeVar

import attrs
import msgspec

from swoosh_async.models import Lease, OrchestratorState, Snapshot, Task, TaskStatus, Worker

T = TypeVar("T")
Metres = NewType("Metres", float)
Percent = Annotated[int, msgspec.Meta(ge=0, le=100)]


class Color(Enum):
    """An enum of str."""

    RED = "red"
    GREEN = "green"
    BLUE = "blue"


class Level(IntEnum):
    """An enum of int."""

    LOW = -1
    HIGH = 10


class Point(NamedTuple):
    """A named tuple."""

    x: int
    y: int = 0


@dataclasses.dataclass(frozen=True)
class Money:
    """A frozen dataclass."""

    amount: Decimal
    currency: str = "EUR"


@dataclasses.dataclass
class Ledger:
    """A dataclass that is not frozen, with something inside of it that msgspec cannot sort."""

    by_day: dict[dt.date, Money] = dataclasses.field(default_factory=dict)


@attrs.frozen
class Place:
    """A frozen attrs class."""

    name: str
    at: tuple[float, float]


@attrs.define(slots=False)
class Crate:
    """An attrs class that is not frozen, and that msgspec encodes in the order in which its attributes were set."""

    label: str
    weights: list[float] = attrs.field(factory=list)


class Options(TypedDict):
    """A dict of known keys."""

    level: Level
    tags: NotRequired[list[str]]


class Cat(msgspec.Struct, frozen=True, tag="cat"):
    """One option of a tagged union."""

    lives: int = 9


class Dog(msgspec.Struct, frozen=True, tag="dog"):
    """The other one."""

    tricks: frozenset[str] = frozenset()


class Pair(msgspec.Struct, Generic[T], frozen=True, array_like=True):
    """A generic record that is written as an array."""

    left: T
    right: T


class Tree(msgspec.Struct, frozen=True):
    """A type that leads back to itself."""

    value: int
    branches: tuple[Tree, ...] = ()


class Sparse(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A record that leaves out its defaults, some of which are equal to what is another object."""

    retry_count: int = 3
    base_url: str = "http://localhost"
    ratio: float = 0.5
    colors: frozenset[Color] = frozenset({Color.RED})
    span: tuple[int, ...] = (1, 2, 3)
    nothing: int | None = None


class Shapes(msgspec.Struct):
    """A state of every shape, for both formats."""

    flag: bool = False
    count: int = 0
    ratio: float = 0.0
    name: str = ""
    raw: bytes = b""
    nothing: None = None
    color: Color = Color.RED
    level: Level = Level.LOW
    metres: Metres = Metres(0.0)
    percent: Percent = 0
    mode: Literal["on", "off", 3] = "on"
    day: dt.date = dt.date(1970, 1, 1)
    moment: dt.datetime = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    local: dt.datetime = dt.datetime(1970, 1, 1)  # noqa: DTZ001  a naive one, on purpose
    clock: dt.time = dt.time()
    span: dt.timedelta = dt.timedelta()
    price: Decimal = Decimal(0)
    key: uuid.UUID = uuid.UUID(int=0)
    point: Point = Point(0)
    corner: tuple[int, str, float] = (0, "", 0.0)
    money: Money = Money(Decimal(0))
    place: Place = Place("", (0.0, 0.0))
    crate: Crate = msgspec.field(default_factory=lambda: Crate(""))
    ledger: Ledger = msgspec.field(default_factory=Ledger)
    options: Options = msgspec.field(default_factory=lambda: Options(level=Level.LOW))
    pet: Cat | Dog | None = None
    pair: Pair[int] = Pair(0, 0)
    pairs: tuple[Pair[Color], ...] = ()
    tree: Tree = Tree(0)
    sparse: Sparse = Sparse()
    optional: dict[str, int] | None = None
    either: int | str | list[int] = 0
    later: int | msgspec.UnsetType = msgspec.UNSET
    names: list[str] = []
    seen: set[int] = set()
    frozen: frozenset[str] = frozenset()
    by_name: dict[str, Tree] = {}
    read_only: Mapping[str, Sequence[int]] = {}
    members: AbstractSet[str] = frozenset()
    by_number: dict[int, str] = {}
    by_ratio: dict[float, int] = {}
    by_key: dict[uuid.UUID, int] = {}
    by_color: dict[Color, list[Point]] = {}
    by_day: dict[dt.date, int] = {}
    by_raw: dict[bytes, int] = {}
    colors: set[Color] = set()
    points: frozenset[Point] = frozenset()
    corners: set[tuple[int, str]] = set()
    grid: dict[int, dict[int, set[Color]]] = {}
    anything: Any = None


class Wide(msgspec.Struct):
    """What MessagePack can hold beyond JSON: keys that are no text, and any float."""

    by_point: dict[Point, int] = {}
    by_corner: dict[tuple[int, str], float] = {}
    by_anything: dict[int | str | None, int] = {}
    anything: Any = None
    shapes: Shapes = msgspec.field(default_factory=Shapes)


HLC = "17f1a3c5d2e4b600-00000007-000000000000002a"

EMPTY = Snapshot(state=OrchestratorState())

DEFAULT = Snapshot(
    state=OrchestratorState(
        workers={
            "worker-2": Worker(
                "worker-2", capacity=4, last_seen=1_700_000_000.25, labels={"zone": "b", "arch": "arm64"}
            ),
            "worker-1": Worker("worker-1"),
        },
        tasks={
            "ship": Task("ship", dependencies=("build", "test"), deadline=1_700_003_600.0),
            "build": Task(
                "build", TaskStatus.SUCCEEDED, attempts=1, result='sha256:ab "quoted" \\ \n \u00e9\u20ac\U0001f680'
            ),
            "test": Task("test", TaskStatus.RUNNING, attempts=2, assigned_worker="worker-2", labels={"suite": "all"}),
        },
        leases={"leader": Lease("leader", "worker-2", 1_700_000_060.0, token=2**63)},
        settings={"z": "last", "a": "first", "\u00e4": "umlaut", "": "empty"},
    ),
    last_applied_hlc=HLC,
    last_applied_index=2**64 - 1,
)

SHAPES = Shapes(
    flag=True,
    count=-(2**63),
    ratio=-0.1,
    name='tab\t quote" backslash\\ slash/ \u007f \u2028 \u00e9 \U0001f680',
    raw=bytes(range(256)),
    color=Color.BLUE,
    level=Level.HIGH,
    metres=Metres(1e22),
    percent=100,
    mode=3,
    day=dt.date(2024, 2, 29),
    moment=dt.datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=dt.UTC),
    local=dt.datetime(9999, 12, 31, 23, 59, 59, 999999),  # noqa: DTZ001  as above
    clock=dt.time(23, 59, 59, 1),
    span=dt.timedelta(days=-3, seconds=5, microseconds=7),
    price=Decimal("12345678901234567890.0100"),
    key=uuid.UUID("12345678-1234-5678-1234-567812345678"),
    point=Point(1, -2),
    corner=(7, "seven", 7.5),
    money=Money(Decimal("1.10"), "USD"),
    place=Place("home", (52.5, 13.4)),
    crate=Crate("apples", [1.5, 2.5]),
    ledger=Ledger({dt.date(2024, 1, 2): Money(Decimal(2)), dt.date(2023, 1, 1): Money(Decimal(1))}),
    options=Options(tags=["b", "a"], level=Level.HIGH),
    pet=Dog(frozenset({"sit", "roll", "bark"})),
    pair=Pair(1, 2),
    pairs=(Pair(Color.RED, Color.GREEN),),
    tree=Tree(1, (Tree(2, (Tree(3),)), Tree(4))),
    sparse=Sparse(retry_count=1000, base_url="https://example.org", colors=frozenset({Color.GREEN, Color.BLUE})),
    optional={"b": 2, "a": 1},
    either=[3, 1, 2],
    later=5,
    names=["z", "a", ""],
    seen={10, 9, -1, 2**62},
    frozen=frozenset({"b", "a", "\u00e9"}),
    by_name={"b": Tree(2), "a": Tree(1)},
    read_only={"b": [2, 1], "a": []},
    members={"y", "x"},
    by_number={10: "ten", 9: "nine", -1: "minus one"},
    by_ratio={0.5: 1, 1e22: 2, -0.25: 3},
    by_key={uuid.UUID(int=2): 2, uuid.UUID(int=1): 1},
    by_color={Color.RED: [Point(1)], Color.BLUE: []},
    by_day={dt.date(2024, 1, 2): 2, dt.date(2023, 12, 31): 1},
    by_raw={b"\xff\x00": 2, b"": 1},
    colors={Color.RED, Color.GREEN, Color.BLUE},
    points=frozenset({Point(2, 1), Point(1, 2), Point(10)}),
    corners={(2, "a"), (1, "b"), (1, "a")},
    grid={2: {10: {Color.RED, Color.BLUE}, 9: set()}, 1: {}},
    anything={"list": [1, "two", 3.5, None, True], "empty": {}},
)

WIDE = Wide(
    by_point={Point(2): 2, Point(1, 9): 1},
    by_corner={(2, "b"): 2.0, (1, "a"): float("inf")},
    by_anything={"a": 1, 3: 2, None: 3},
    anything={1: b"bytes", "moment": dt.datetime(2024, 1, 1, tzinfo=dt.UTC), -1: {2: 3, 1: 2}},
    shapes=SHAPES,
)

STATE_TYPES: dict[str, Any] = {"empty": OrchestratorState, "default": OrchestratorState, "shapes": Shapes, "wide": Wide}
SNAPSHOTS: dict[str, Snapshot[Any]] = {
    "empty": EMPTY,
    "default": DEFAULT,
    "shapes": Snapshot(state=SHAPES, last_applied_hlc='of another system: "\u00e9\n"', last_applied_index=42),
    "wide": Snapshot(state=WIDE, last_applied_hlc=HLC, last_applied_index=7),
}
FORMATS: dict[str, tuple[str, ...]] = {
    "empty": ("json", "msgpack"),
    "default": ("json", "msgpack"),
    "shapes": ("json", "msgpack"),
    "wide": ("msgpack",),
}

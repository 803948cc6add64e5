"""Events come back as they were, whatever their type, or are refused; damaged batches are named, never misread."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import itertools
import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swoosh_async import EventCodec, InvalidStateError, Timestamp
from swoosh_async.codec import EventsDamagedError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Point(msgspec.Struct, frozen=True):
    x: float
    y: float


class Started(msgspec.Struct, frozen=True, tag="started"):
    """A task was begun."""

    task: str
    at: dt.datetime
    worker: uuid.UUID


class Paid(msgspec.Struct, frozen=True, tag="paid"):
    """Money was moved."""

    amount: decimal.Decimal
    colour: Colour
    level: Level = Level.LOW


class Moved(msgspec.Struct, frozen=True, tag="moved"):
    """Something nested."""

    path: tuple[Point, ...]
    labels: Mapping[str, tuple[int, ...]]
    blob: bytes
    wait: dt.timedelta | None = None


class Changed(msgspec.Struct, tag="changed"):
    """Something that can be changed in place."""

    items: list[int]


class Wrapped(msgspec.Struct, frozen=True, tag=True):
    """One event in another."""

    event: Started | Paid


Event = Started | Paid | Moved | Changed | Wrapped

STAMP = Timestamp(10, 3, 7)
STAMP_BYTES = 20
UTC = dt.UTC

floats = st.floats(allow_nan=False)
started = st.builds(
    Started,
    st.text(),
    st.datetimes(min_value=dt.datetime(1971, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.uuids(),
)
paid = st.builds(Paid, st.decimals(allow_nan=False), st.sampled_from(Colour), st.sampled_from(Level))
points = st.lists(st.builds(Point, floats, floats), max_size=3).map(tuple)
labels = st.dictionaries(st.text(), st.lists(st.integers(-(2**63), 2**64 - 1), max_size=3).map(tuple), max_size=3)
waits = st.none() | st.integers(-(10**12), 10**12).map(lambda us: dt.timedelta(microseconds=us))
moved = st.builds(Moved, points, labels, st.binary(max_size=50), waits)
changed = st.builds(Changed, st.lists(st.integers(0, 9), max_size=3))
events = st.one_of(started, paid, moved, changed, st.builds(Wrapped, started | paid))


def decoded(codec: EventCodec[Any], data: bytes) -> list[Any]:
    """The events of a batch."""
    return [event for part in codec.parts(data) for event in codec.events(part)]


def there_and_back(event_type: Any, *events: Any) -> list[Any]:
    """What becomes of events in a batch."""
    codec: EventCodec[Any] = EventCodec(event_type)
    return decoded(codec, codec.batch(STAMP, [codec.encode(event) for event in events]))


# ---------------------------------------------------------------------- there and back


CODEC: EventCodec[Event] = EventCodec(Event)


@given(st.lists(events, min_size=1, max_size=6))
def test_comes_back(events: list[Event]) -> None:
    """A batch comes back as what it was made of, in order, with its time."""
    data = CODEC.batch(STAMP, [CODEC.encode(event) for event in events])
    assert decoded(CODEC, data) == events
    assert CODEC.stamp(data) == STAMP


@pytest.mark.parametrize(
    ("event_type", "event"),
    [
        (int, 2**64 - 1),
        (int, -(2**63)),
        (str, "née\0"),
        (bytes, b"\0\xff"),
        (float, math.inf),
        (float, -0.0),
        (bool, False),
        (None, None),
        (Colour, Colour.BLUE),
        (Level, Level.HIGH),
        (Literal["a", "b"], "b"),
        (decimal.Decimal, decimal.Decimal("1.10")),
        (uuid.UUID, uuid.UUID(int=5)),
        (dt.datetime, dt.datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)),
        (dt.date, dt.date(1, 1, 1)),
        (dt.timedelta, dt.timedelta(days=-1, microseconds=1)),
        (dict[str, int], {"b": 1, "a": 2}),
        (dict[int, Colour], {2: Colour.RED, 1: Colour.BLUE}),
        (list[list[int]], [[1], [], [2, 3]]),
        (tuple[int, str], (1, "a")),
        (set[int], {3, 1, 2}),
        (frozenset[str], frozenset({"b", "a"})),
        (Mapping[str, Sequence[int]], {"a": [1]}),
        (Annotated[int, msgspec.Meta(ge=0)], 0),
        (int | str | None, "three"),
        (Any, {"a": [1, None, {"b": b"\1"}], "c": 1.5}),
        (Any, [1, [2, [3]]]),
        (dict, {"z": 1}),
    ],
)
def test_any_type(event_type: Any, event: Any) -> None:
    """An event need not be a Struct; it comes back equal and of the same kind."""
    assert there_and_back(event_type, event, event) == [event, event]
    assert type(there_and_back(event_type, event)[0]) is type(event)


def test_nan() -> None:
    """NaN, which equals nothing, comes back as NaN, also inside of others."""
    assert math.isnan(there_and_back(float, math.nan)[0])
    assert math.isnan(there_and_back(Any, {"a": [math.nan]})[0]["a"][0])
    back = there_and_back(Point, Point(math.nan, -0.0))[0]
    assert math.isnan(back.x)
    assert math.copysign(1, back.y) == -1


def test_events_that_equal_nothing() -> None:
    """An event without an equality of its own is judged by its parts."""

    class Opaque(msgspec.Struct, eq=False):
        number: int

    assert there_and_back(Opaque, Opaque(3))[0].number == 3
    with pytest.raises(InvalidStateError, match=r"event\.number"):
        there_and_back(Opaque, Opaque("three"))  # type: ignore[arg-type]


@given(st.dictionaries(st.integers(0, 99), st.integers(0, 9)), st.randoms())
def test_canonical(event: dict[int, int], chance: Any) -> None:
    """Equal events have equal bytes, in whatever order their keys came."""
    codec: EventCodec[Any] = EventCodec(dict[int, int])
    items = list(event.items())
    chance.shuffle(items)
    assert codec.encode(event) == codec.encode(dict(items))


def test_hooks() -> None:
    """Types that msgspec does not know go through the hooks, both ways; without them they are refused."""

    def enc_hook(value: Any) -> Any:
        if isinstance(value, complex):
            return [value.real, value.imag]
        raise NotImplementedError

    def dec_hook(_: type, plain: Any) -> complex:
        return complex(*plain)

    codec: EventCodec[complex] = EventCodec(complex, enc_hook=enc_hook, dec_hook=dec_hook)
    assert decoded(codec, codec.batch(STAMP, [codec.encode(1 + 2j)])) == [1 + 2j]
    with pytest.raises(InvalidStateError, match="a complex cannot be encoded"):
        EventCodec(complex).encode(1j)


def test_an_error_of_a_hook() -> None:
    """What a hook raises that is no error of encoding goes to the caller as it is."""

    def enc_hook(_: Any) -> Any:
        raise LookupError("mine")

    codec: EventCodec[complex] = EventCodec(complex, enc_hook=enc_hook)
    with pytest.raises(LookupError, match="mine"):
        codec.encode(1j)


def test_a_type_that_is_not_supported() -> None:
    """What msgspec cannot encode at all is refused at construction."""
    with pytest.raises(TypeError):
        EventCodec(list[int] | tuple[int, ...])


@pytest.mark.parametrize(("event_type", "shared"), [(Started, True), (Event, False), (Changed, False), (Any, False)])
def test_shared(event_type: Any, shared: bool) -> None:
    """It is known by the type whether an event may be encoded later than it is given."""
    assert EventCodec(event_type).shared is shared


# ---------------------------------------------------------------------- refusals


def endless() -> Any:
    """A list that contains itself."""
    event: list[Any] = []
    event.append(event)
    return event


def deep(levels: int) -> Any:
    """A list so deep."""
    event: Any = []
    for _ in range(levels):
        event = [event]
    return event


SECRET = "s3cr3t"
NOW = dt.datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("event_type", "event", "path"),
    [
        (Event, Started(SECRET, NOW, SECRET), "event.worker"),  # type: ignore[arg-type]
        (Event, Started(5, NOW, uuid.UUID(int=5)), "event.task"),  # type: ignore[arg-type]
        (Event, Moved((Point(1, 2), Point(1, SECRET)), {}, b""), "event.path[1].y"),  # type: ignore[arg-type]
        (Event, Moved((), {SECRET[:2]: (1, 2**64)}, b""), "event.labels['s3'][1]"),
        (Event, Changed((1, 2)), "event.items"),  # type: ignore[arg-type]
        (Event, Wrapped(Started(SECRET, NOW, SECRET)), "event.event.worker"),  # type: ignore[arg-type]
        (Event, Point(1, 2), "event"),
        (Event, SECRET, "event"),
        (Event, None, "event"),
        (int, SECRET, "event"),
        (int, True, "event"),
        (int, 1.0, "event"),
        (int, 2**64, "event"),
        (str, SECRET + "\ud800", "event"),
        (Annotated[str, msgspec.Meta(max_length=3)], SECRET, "event"),
        (dict[str, int], {SECRET[:2]: SECRET}, "event['s3']"),
        (Any, {"a": [1, {"b": object()}]}, "event['a'][1]['b']"),
        (Any, endless(), "event[0]"),
        (Any, deep(600), "event[0][0][0]"),
        (tuple[int, str], (1,), "event"),
    ],
)
def test_refused(event_type: Any, event: Any, path: str) -> None:
    """What would not come back is refused, by its place in the event, and nothing of its contents is shown."""
    codec: EventCodec[Any] = EventCodec(event_type)
    with pytest.raises(InvalidStateError) as caught:
        codec.encode(event)
    assert caught.value.path.startswith(path)
    assert str(caught.value).startswith(f"marshal event: {path}")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@given(st.one_of(st.integers(), st.text(), st.floats(), st.binary(), st.lists(st.integers()), st.none()))
def test_accepted_or_refused(event: Any) -> None:
    """Whatever is given as whatever type comes back equal, or is refused, with no third way."""
    for event_type in (int, str, float, bytes, list[int], int | None):
        codec: EventCodec[Any] = EventCodec(event_type)
        try:
            encoded = codec.encode(event)
        except InvalidStateError:
            continue
        (back,) = decoded(codec, codec.batch(STAMP, [encoded]))
        assert back == event or (math.isnan(back) and math.isnan(event))


def test_what_is_encoded_is_the_event_of_now() -> None:
    """What is done to an event afterwards changes nothing of its bytes."""
    event = Changed([1])
    encoded = CODEC.encode(event)
    event.items.append(2)
    assert decoded(CODEC, CODEC.batch(STAMP, [encoded])) == [Changed([1])]


# ---------------------------------------------------------------------- parts


@pytest.mark.parametrize("sizes", [[1], [1] * 15, [1] * 16, [9] * 70000, [1 << 16], [1 << 17, 1, 1 << 17], [40000] * 4])
def test_parts(sizes: list[int]) -> None:
    """A large batch is cut into parts that say which events they hold; none is larger than it need be."""
    codec: EventCodec[bytes] = EventCodec(bytes)
    events = [bytes(size) for size in sizes]
    data = codec.batch(STAMP, [codec.encode(event) for event in events])
    parts = list(codec.parts(data))
    assert [part.skip for part in parts] == list(itertools.accumulate([0, *(part.count for part in parts)]))[:-1]
    assert sum(part.count for part in parts) == len(events)
    assert all(part.count == 1 or (part.count <= 256 and len(part.data) <= (1 << 15) + 5) for part in parts)
    pairs = itertools.pairwise(parts)
    assert all(one.count == 256 or len(one.data) + len(two.data) > 1 << 15 for one, two in pairs)
    assert decoded(codec, data) == events
    assert len(data) <= sum(len(codec.encode(event)) for event in events) + STAMP_BYTES + 13 * len(parts)


@given(st.lists(st.integers(0, 1 << 15), min_size=1, max_size=30))
def test_parts_of_any_sizes(sizes: list[int]) -> None:
    """However large its events are, a batch comes back whole, part for part."""
    codec: EventCodec[bytes] = EventCodec(bytes)
    data = codec.batch(STAMP, [codec.encode(bytes(size)) for size in sizes])
    assert [len(event) for part in codec.parts(data) for event in codec.events(part)] == sizes


# ---------------------------------------------------------------------- damage


SMALL = [Started("t", NOW, uuid.UUID(int=5)), Paid(decimal.Decimal("1.5"), Colour.RED), Changed([1, 2, 3])]


def is_told(codec: EventCodec[Any], data: bytes, count: int) -> bool:
    """Whether a damaged batch is noticed; what it decodes to otherwise are events."""
    found: list[EventsDamagedError] = []
    try:
        codec.stamp(data)
        decoded(codec, data)
    except EventsDamagedError as error:
        found.append(error)
    assert all(0 <= error.skip <= count for error in found)
    return bool(found)


@pytest.mark.parametrize("event_type", [Event, Any, dict[str, Any], str])
def test_every_byte_flipped(event_type: Any) -> None:
    """Whatever one byte of a batch is changed to, it decodes to events, or is told damaged; nothing else is raised."""
    codec: EventCodec[Any] = EventCodec(event_type)
    good: list[Any] = {Event: SMALL, str: ["a", "b" * 40]}.get(event_type, [{"a": 1}, {"b": [1, "c"]}])
    data = codec.batch(STAMP, [codec.encode(event) for event in good])
    for at in range(len(data)):
        for mask in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            is_told(codec, data[:at] + bytes((data[at] ^ mask,)) + data[at + 1 :], len(good))


def test_every_cut() -> None:
    """A batch that is cut off anywhere but between two parts is told damaged."""
    codec: EventCodec[bytes] = EventCodec(bytes)
    data = codec.batch(STAMP, [codec.encode(bytes(40000))] * 3)
    ends = {STAMP_BYTES}
    for part in codec.parts(data):
        ends.add(max(ends) + 8 + len(part.data))
    assert len(ends) == 4
    for end in (*range(60), *(end + by for end in ends for by in (-1, 0, 1, 8, 9))):
        if end <= len(data):
            assert is_told(codec, data[:end], 3) == (end not in ends)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200), st.sampled_from([Event, Any, int, list[str]]))
def test_garbage(data: bytes, event_type: Any) -> None:
    """Any bytes decode to events, or are told damaged."""
    is_told(EventCodec(event_type), data, 1 << 32)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(events, min_size=1, max_size=3), st.data())
def test_a_byte_changed(events: list[Event], data: st.DataObject) -> None:
    """The same for any batch and any byte of it."""
    batch = bytearray(CODEC.batch(STAMP, [CODEC.encode(event) for event in events]))
    batch[data.draw(st.integers(0, len(batch) - 1))] = data.draw(st.integers(0, 255))
    is_told(CODEC, bytes(batch), 1 << 32)


@pytest.mark.parametrize("at", [0, 1, 3, 6, 7])
def test_an_event_of_another_type(at: int) -> None:
    """Among events that decode, the one that does not is named by how many come before it, over all parts."""
    texts: EventCodec[Any] = EventCodec(str | int)
    numbers: EventCodec[int] = EventCodec(int)
    data = texts.batch(STAMP, [texts.encode(SECRET if number == at else number) for number in range(8)])
    with pytest.raises(EventsDamagedError) as caught:
        decoded(numbers, data)
    assert caught.value.skip == at
    assert SECRET not in str(caught.value)


def test_an_event_of_another_type_in_a_later_part() -> None:
    """The same where the batch has several parts."""
    mixed: EventCodec[Any] = EventCodec(bytes | int)
    plain: EventCodec[bytes] = EventCodec(bytes)
    data = mixed.batch(STAMP, [mixed.encode(5 if number == 4 else bytes(40000)) for number in range(6)])
    with pytest.raises(EventsDamagedError) as caught:
        decoded(plain, data)
    assert caught.value.skip == 4


def test_a_wrong_count() -> None:
    """A part that does not hold as many events as it says is told damaged."""
    codec: EventCodec[int] = EventCodec(int)
    data = bytearray(codec.batch(STAMP, [codec.encode(number) for number in range(3)]))
    assert data[STAMP_BYTES + 4] == 3
    for count in (0, 1, 2, 4):
        data[STAMP_BYTES + 4] = count
        assert is_told(codec, bytes(data), 3)


def test_an_event_with_bytes_behind_it() -> None:
    """Bytes behind the events of a part are told damaged, not passed over."""
    codec: EventCodec[int] = EventCodec(int)
    data = bytearray(codec.batch(STAMP, [codec.encode(7)]))
    data[STAMP_BYTES] += 1
    assert is_told(codec, bytes(data) + b"\0", 1)

"""Hybrid logical time never goes back, respects cause and effect, and sorts as text as it does as a value."""

from __future__ import annotations

import copy
import itertools
import pickle
import sys
import threading
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from swoosh_async.clock import MAX_DRIFT_S, ClockDriftError, HybridLogicalClock, Timestamp

WALL_MAX = 2**64 - 1
LOGICAL_MAX = 2**32 - 1

walls = st.integers(0, WALL_MAX) | st.integers(0, 3)
logicals = st.integers(0, LOGICAL_MAX) | st.integers(LOGICAL_MAX - 2, LOGICAL_MAX) | st.integers(0, 2)
nodes = st.integers(0, WALL_MAX)
timestamps = st.builds(Timestamp, walls, logicals, nodes)
readings = st.integers(-(2**62), 2**62) | st.integers(0, 5)  # of a physical clock, which may jump as it likes
# So far from the end of time that nothing overflows.
remotes = st.builds(Timestamp, st.integers(0, 2**62) | st.integers(0, 5), logicals, nodes)


class Wall:
    """A physical clock that shows what it is told to show."""

    def __init__(self, now_ns: int = 0) -> None:
        self.now_ns = now_ns

    def read(self) -> int:
        """The source of time that a clock is given."""
        return self.now_ns


def clock(wall_ns: int, **options: object) -> tuple[HybridLogicalClock, Wall]:
    """A clock, and the physical clock that it reads."""
    wall = Wall(wall_ns)
    return HybridLogicalClock(1, time_ns=wall.read, **options), wall  # type: ignore[arg-type]


# ---------------------------------------------------------------------- timestamps


@given(timestamps, timestamps)
def test_text_sorts_as_the_value(one: Timestamp, two: Timestamp) -> None:
    """Text order is value order, which is that of wall time, then logical counter, then node."""
    assert (str(one) < str(two)) == (one < two)
    assert (str(one) == str(two)) == (one == two)
    assert (one < two) == ((one.wall_ns, one.logical, one.node) < (two.wall_ns, two.logical, two.node))


@given(timestamps)
def test_text_comes_back(timestamp: Timestamp) -> None:
    """``parse`` is the inverse of ``str``, and the text is 42 characters wide."""
    assert Timestamp.parse(str(timestamp)) == timestamp
    assert len(str(timestamp)) == 42
    assert {timestamp: 1}[Timestamp.parse(str(timestamp))] == 1


@given(timestamps)
def test_values_travel(timestamp: Timestamp) -> None:
    """A timestamp is a value that is copied, pickled, and encoded by msgspec."""
    assert copy.deepcopy(timestamp) == timestamp
    assert pickle.loads(pickle.dumps(timestamp)) == timestamp
    assert msgspec.json.decode(msgspec.json.encode(timestamp), type=Timestamp) == timestamp
    with pytest.raises(AttributeError):
        timestamp.logical = 0  # type: ignore[misc]


@given(timestamps, st.data())
def test_nothing_else_is_parsed(timestamp: Timestamp, data: st.DataObject) -> None:
    """A text that differs in any character, by more, by less, or by another, is refused or is another timestamp's."""
    text = str(timestamp)
    at = data.draw(st.integers(0, len(text)))
    width = data.draw(st.integers(0, 2))
    near = st.sampled_from("0123456789abcdefABCDEFxg-_+ \n\u0660\u0661") | st.characters()
    edited = text[:at] + data.draw(st.text(near, max_size=2)) + text[at + width :]
    try:
        parsed = Timestamp.parse(edited)
    except ValueError:
        assert edited != text
    else:
        assert str(parsed) == edited


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0000000000000000-00000000-000000000000000",
        "0000000000000000-00000000-00000000000000000",
        "0000000000000000-00000000-0000000000000000\n",
        " 0000000000000000-00000000-0000000000000000",
        "0000000000000000-00000000-000000000000000A",
        "000000000000000g-00000000-0000000000000000",
        "0x00000000000000-00000000-0000000000000000",
        "+000000000000000-00000000-0000000000000000",
        "0000_00000000000-00000000-0000000000000000",
        "0000000000000000_00000000_0000000000000000",
        "00000000000000000-0000000-0000000000000000",
        "\u0660000000000000000-00000000-0000000000000000",
    ],
)
def test_what_is_no_timestamp(text: str) -> None:
    """What ``str`` never gives is refused, even where it could be read as hexadecimal."""
    with pytest.raises(ValueError, match="not a timestamp"):
        Timestamp.parse(text)


@pytest.mark.parametrize("part", ["wall_ns", "logical", "node"])
@pytest.mark.parametrize("wrong", [-1, 2**64, 1.0, True, "1", None])
def test_parts_in_range(part: str, wrong: object) -> None:
    """Each part is an int within its bounds, whether it is constructed or decoded."""
    parts = {"wall_ns": 0, "logical": 0, "node": 0, part: wrong}
    with pytest.raises(ValueError, match=rf"{part} must be an int with 0 <= {part} < 2\*\*(32|64)"):
        Timestamp(**parts)  # type: ignore[arg-type]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(parts, Timestamp)


def test_the_largest_timestamp() -> None:
    """Each part goes up to its bound and not beyond it."""
    last = Timestamp(WALL_MAX, LOGICAL_MAX, WALL_MAX)
    assert str(last) == "ffffffffffffffff-ffffffff-ffffffffffffffff"
    with pytest.raises(ValueError, match="logical"):
        Timestamp(0, LOGICAL_MAX + 1)
    with pytest.raises(ValueError, match="wall_ns"):
        last.plus(1)


@given(remotes, st.integers(0, 2**40), st.integers(0, 2**40))
def test_steps_add_up(start: Timestamp, one: int, two: int) -> None:
    """Steps add up, go forward, and carry into the wall time where the logical counter overflows."""
    assert start.plus(one).plus(two) == start.plus(one + two)
    assert (start.plus(one) > start) == (one > 0)
    assert start.plus(one).node == start.node
    distance = (start.plus(one).wall_ns - start.wall_ns) * 2**32 + start.plus(one).logical - start.logical
    assert distance == one


def test_overflow_carries() -> None:
    """The step behind the last logical counter is the first one of the next nanosecond."""
    assert Timestamp(7, LOGICAL_MAX, 3).plus(1) == Timestamp(8, 0, 3)
    with pytest.raises(ValueError, match="steps must be >= 0"):
        Timestamp(7).plus(-1)


# ---------------------------------------------------------------------- one clock


@given(st.lists(st.tuples(readings, st.none() | remotes), min_size=1))
@example([(5, None), (3, None), (5, None)])
@example([(0, Timestamp(0, LOGICAL_MAX, 0)), (0, None), (0, None)])
def test_never_goes_back(events: list[tuple[int, Timestamp | None]]) -> None:
    """Whatever the physical clock shows and whatever comes in, each timestamp is later than all before it."""
    wall = Wall()
    clock = HybridLogicalClock(9, max_drift_s=None, time_ns=wall.read)
    before = Timestamp(0, 0, 9)
    for reading, remote in events:
        wall.now_ns = reading
        given_ = clock.now() if remote is None else clock.observe(remote)
        assert given_ > before
        assert given_.wall_ns >= reading
        assert remote is None or (given_.wall_ns, given_.logical) > (remote.wall_ns, remote.logical)
        assert given_.node == 9
        assert clock.last == given_
        before = given_


@given(st.lists(st.tuples(readings, st.none() | remotes), min_size=1))
def test_stays_near_to_what_it_has_seen(events: list[tuple[int, Timestamp | None]]) -> None:
    """The wall part is never ahead of every reading and every remote timestamp, but for carries: as in the paper."""
    wall = Wall()
    clock = HybridLogicalClock(max_drift_s=None, time_ns=wall.read)
    highest = 0
    for count, (reading, remote) in enumerate(events, 1):
        wall.now_ns = reading
        given_ = clock.now() if remote is None else clock.observe(remote)
        highest = max(highest, reading, remote.wall_ns if remote else 0)
        assert given_.wall_ns <= highest + count
    assert clock.last.wall_ns >= max(reading for reading, _ in events)


def test_follows_the_physical_clock() -> None:
    """While the physical clock advances, the logical counter stays at 0; while it stands, the counter counts."""
    ticking, wall = clock(100)
    assert ticking.now() == Timestamp(100, 0, 1)
    assert ticking.now() == Timestamp(100, 1, 1)
    wall.now_ns = 99
    assert ticking.now() == Timestamp(100, 2, 1)
    wall.now_ns = 101
    assert ticking.now() == Timestamp(101, 0, 1)


def test_receives_as_the_paper_says() -> None:
    """The three cases of receiving: the remote is ahead, level, or behind; and a physical clock ahead of all."""
    receiving, wall = clock(100)
    assert receiving.observe(Timestamp(200, 5, 2)) == Timestamp(200, 6, 1)
    assert receiving.observe(Timestamp(200, 9, 2)) == Timestamp(200, 10, 1)
    assert receiving.observe(Timestamp(200, 3, 2)) == Timestamp(200, 11, 1)
    assert receiving.observe(Timestamp(150, 7, 2)) == Timestamp(200, 12, 1)
    wall.now_ns = 300
    assert receiving.observe(Timestamp(250, 7, 2)) == Timestamp(300, 0, 1)


def test_overflow_of_a_clock_carries() -> None:
    """A remote timestamp at the end of its logical counter moves the clock into the next nanosecond."""
    carrying, _ = clock(7)
    assert carrying.observe(Timestamp(7, LOGICAL_MAX, 2)) == Timestamp(8, 0, 1)
    assert carrying.now() == Timestamp(8, 1, 1)


@given(timestamps.filter(lambda timestamp: timestamp.wall_ns < WALL_MAX), readings)
def test_restarts_behind_the_last_one(last: Timestamp, reading: int) -> None:
    """Started from the last persisted timestamp, as value or text, with the clock set back, it goes on behind it."""
    for start in (last, str(last)):
        restarted = HybridLogicalClock(last.node, last=start, time_ns=lambda: reading)
        assert restarted.last == last
        assert restarted.now() > last


def test_restarts_from_a_snapshot_without_events() -> None:
    """The "" of a snapshot before the first event stands for no timestamp."""
    for start in (None, ""):
        assert HybridLogicalClock(3, last=start, time_ns=lambda: 5).now() == Timestamp(5, 0, 3)


def test_another_node_goes_on() -> None:
    """A timestamp persisted by another node is gone on from under this clock's own."""
    taken_over = HybridLogicalClock(2, last=Timestamp(10, 3, 1), time_ns=lambda: 0)
    assert taken_over.last == Timestamp(10, 3, 2)
    assert taken_over.now() == Timestamp(10, 4, 2)


@pytest.mark.parametrize(
    "options",
    [
        {"node": -1},
        {"node": 2**64},
        {"node": True},
        {"node": 1.0},
        {"last": "yesterday"},
        {"last": " "},
        {"node": 2**64, "last": Timestamp(1)},
        {"max_drift_s": -0.001},
        {"max_drift_s": float("nan")},
    ],
)
def test_wrong_options(options: dict[str, object]) -> None:
    """A wrong option is refused at construction."""
    with pytest.raises(ValueError, match=r"node|not a timestamp|max_drift_s"):
        HybridLogicalClock(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("reading", [2**64, 2**80])
def test_the_end_of_time(reading: int) -> None:
    """Where time ends, the clock says so and has not moved."""
    ending, wall = clock(5)
    ending.now()
    wall.now_ns = reading
    with pytest.raises(ValueError, match="wall_ns"):
        ending.now()
    assert ending.last == Timestamp(5, 0, 1)
    wall.now_ns = 6
    assert ending.now() == Timestamp(6, 0, 1)


def test_reads_the_real_clock() -> None:
    """Without another source it is the system's time."""
    real = HybridLogicalClock()
    assert 0 < real.now().wall_ns < real.now().wall_ns + 1


# ---------------------------------------------------------------------- drift


@given(st.integers(0, 2**62), st.integers(-(2**62), 2**62), st.floats(0, 1e6))
def test_drift_on_the_future_side_only(now_ns: int, ahead_ns: int, max_drift_s: float) -> None:
    """A remote timestamp is refused if it is further ahead than allowed, and never for being behind."""
    remote = Timestamp(max(0, now_ns + ahead_ns), 3, 2)
    drifting, _ = clock(now_ns, max_drift_s=max_drift_s)
    before = drifting.last
    drift_s = (remote.wall_ns - now_ns) / 1e9
    if drift_s > max_drift_s:
        with pytest.raises(ClockDriftError) as caught:
            drifting.observe(remote)
        assert (caught.value.drift_s, caught.value.max_drift_s) == (drift_s, max_drift_s)
        assert drifting.last == before
        assert drifting.now() == (Timestamp(now_ns, 0, 1) if now_ns else Timestamp(0, 1, 1))
    else:
        assert drifting.observe(remote) > Timestamp(remote.wall_ns, remote.logical, 0)


def test_drift_at_the_bound() -> None:
    """Exactly as far ahead as allowed is allowed, one nanosecond more is not, and None allows all."""
    exact, _ = clock(0)
    bound_ns = int(MAX_DRIFT_S * 1e9)
    exact.observe(Timestamp(bound_ns))
    with pytest.raises(ClockDriftError, match=r"60\.000 s ahead, 60 s allowed"):
        exact.observe(Timestamp(bound_ns + 1))
    boundless, _ = clock(0, max_drift_s=None)
    assert boundless.observe(Timestamp(WALL_MAX, 0, 2)) == Timestamp(WALL_MAX, 1, 1)
    strict, _ = clock(10, max_drift_s=0)
    assert strict.observe(Timestamp(10)) == Timestamp(10, 1, 1)
    with pytest.raises(ClockDriftError):
        strict.observe(Timestamp(11))


def test_a_clock_set_back_is_no_drift() -> None:
    """What the clock itself has given before it was set back does not count as drift when it comes back from others."""
    echoing, wall = clock(10**12)
    sent = echoing.now()
    wall.now_ns = 10**12 - 10**9
    assert echoing.observe(sent) > sent


# ---------------------------------------------------------------------- several clocks

NODES = 3
steps = st.lists(
    st.tuples(st.integers(0, NODES - 1), readings, st.none() | st.integers(0, 1000)), min_size=1, max_size=60
)


@given(steps)
def test_what_happened_before_is_earlier(events: Iterable[tuple[int, int, int | None]]) -> None:
    """Between clocks that exchange messages, an event that can have caused another has the earlier timestamp.

    Each event is at a node, at some reading of that node's physical clock, and is either local or the receipt of a
    timestamp that some event before has sent.
    """
    walls = [Wall() for _ in range(NODES)]
    clocks = [HybridLogicalClock(node, max_drift_s=None, time_ns=wall.read) for node, wall in enumerate(walls)]
    history: list[tuple[Timestamp, frozenset[int]]] = []  # each event's timestamp, and the events that caused it
    latest: list[frozenset[int]] = [frozenset()] * NODES
    for number, (node, reading, message) in enumerate(events):
        walls[node].now_ns = reading
        causes = latest[node]
        if message is None or not history:
            timestamp = clocks[node].now()
        else:
            sent, before = history[message % number]
            causes |= before | {message % number}
            timestamp = clocks[node].observe(sent)
        assert all(history[cause][0] < timestamp for cause in causes)
        assert all(str(history[cause][0]) < str(timestamp) for cause in causes)
        history.append((timestamp, causes))
        latest[node] = causes | {number}
    assert len({timestamp for timestamp, _ in history}) == len(history)


def test_threads() -> None:
    """From several threads at once, each timestamp is given once, and each thread's own are in order."""
    shared = HybridLogicalClock(1, max_drift_s=None, time_ns=lambda: 42)
    remote = itertools.count(1)
    taken: list[list[Timestamp]] = [[] for _ in range(8)]
    start = threading.Barrier(len(taken))

    def take(mine: list[Timestamp]) -> None:
        start.wait()
        for _ in range(250):
            mine.append(shared.now())
            mine.append(shared.observe(Timestamp(42, next(remote), 2)))

    threads = [threading.Thread(target=take, args=(mine,)) for mine in taken]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    everything = [timestamp for mine in taken for timestamp in mine]
    assert len(set(everything)) == len(everything) == 4000
    assert all(mine == sorted(mine) for mine in taken)
    assert shared.last == max(everything)


# ---------------------------------------------------------------------- many at once


@given(st.lists(st.tuples(readings, st.integers(1, 2**33), st.booleans()), max_size=20), logicals)
def test_taken_at_once(takes: list[tuple[int, int, bool]], logical: int) -> None:
    """What is taken at once comes behind all that was given before, and what is given then comes behind all of it."""
    taking, wall = clock(0, last=Timestamp(2, logical, 9))
    before = taking.last
    for reading, count, single in takes:
        wall.now_ns = reading
        first = taking.now() if single else taking.take(count)
        assert first > before
        assert first.wall_ns >= reading
        before = first if single else first.plus(count - 1)
        assert taking.last == before


def test_one_taken_is_now() -> None:
    """To take one is to ask for the time."""
    one, _ = clock(5)
    two, _ = clock(5)
    assert [one.take(1) for _ in range(3)] == [two.now() for _ in range(3)]


def test_taken_over_an_overflow() -> None:
    """Where the logical counter ends among those taken, the wall time takes over, and the clock goes on behind."""
    taking, _ = clock(0, last=Timestamp(5, LOGICAL_MAX - 1))
    first = taking.take(3)
    assert [first.plus(step) for step in range(3)] == [
        Timestamp(5, LOGICAL_MAX, 1),
        Timestamp(6, 0, 1),
        Timestamp(6, 1, 1),
    ]
    assert taking.now() == Timestamp(6, 2, 1)


@pytest.mark.parametrize("count", [0, -1])
def test_none_taken(count: int) -> None:
    """To take none, or fewer, is refused, and the clock has not moved."""
    taking, _ = clock(5)
    before = taking.last
    with pytest.raises(ValueError, match="count must be >= 1"):
        taking.take(count)
    assert taking.last == before


def test_taken_at_the_end_of_time() -> None:
    """Where time ends among those taken none is, and the clock has not moved."""
    ending, wall = clock(WALL_MAX)
    ending.now()
    with pytest.raises(ValueError, match="wall_ns"):
        ending.take(2**32)
    assert ending.last == Timestamp(WALL_MAX, 0, 1)
    wall.now_ns = 0
    assert ending.take(2**32 - 1) == Timestamp(WALL_MAX, 1, 1)


@given(timestamps, timestamps, readings)
def test_resumes(last: Timestamp, seen: Timestamp, reading: int) -> None:
    """It goes on behind its own past, however far ahead that is and whoever's it was; and never goes back for it."""
    resuming, _ = clock(reading, last=last, max_drift_s=0)
    before = resuming.last
    resuming.resume(seen)
    assert resuming.last == max(before, Timestamp(seen.wall_ns, seen.logical, 1))
    if resuming.last < Timestamp(WALL_MAX, LOGICAL_MAX, 1):
        now = resuming.now()
        assert now > before
        assert (now.wall_ns, now.logical) > (seen.wall_ns, seen.logical)
        assert now.node == 1


def test_threads_that_take() -> None:
    """What several threads take at once never overlaps."""
    taking = HybridLogicalClock(time_ns=lambda: 1)
    taken: list[Timestamp] = []

    def take(count: int) -> None:
        taken.extend([taking.take(count) for _ in range(200)])

    threads = [threading.Thread(target=take, args=(7,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken.sort()
    assert all(one.plus(7) == two for one, two in itertools.pairwise(taken))
    assert len(taken) == 800

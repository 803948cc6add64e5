"""A machine's state is the fold of its durable events, whatever happens to it; on every loop, in memory as in files."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from anyio import CancelScope, to_thread
from anyio.lowlevel import checkpoint

from swoosh_async import (
    BackendError,
    ClosedError,
    ConflictError,
    CorruptJournalError,
    CorruptSnapshotError,
    Cursor,
    Entry,
    HybridLogicalClock,
    InvalidStateError,
    LimitExceededError,
    OutcomeUnknownError,
    PoisonedError,
    Snapshot,
    SnapshotStore,
    Timestamp,
)
from swoosh_async import _keeper as keeper_module
from swoosh_async import _pages as pages_module
from swoosh_async._turns import Turns
from swoosh_async.backends.base import Backend as Home
from swoosh_async.backends.base import Blob, Source, Stored
from swoosh_async.machine import SnapshotPolicy, StateMachine

from ._faults import BOUND_S, NATIVE, Backend, bounded, happens, run, turns, until
from ._journals import InFiles, InMemory, Place, Watched, opened, read, texts
from .test_cancellation import NATIVELY, WAYS, cases
from .test_journal import Held, all_at_once
from .test_journal_cancellation import held
from .test_journal_model import SECTOR, end_of, newest_segment

pytest.importorskip("fcntl", reason="a file backend needs flock")

pytestmark = pytest.mark.anyio

State = tuple[str, ...]
QUIET = SnapshotPolicy(every_events=None, on_close=False)
"""Nothing is taken unless it is asked for."""


def follow(state: State, event: str) -> State:
    """A state that is all that has happened; an event that begins with ! is refused."""
    if event.startswith("!"):
        raise ValueError(event)
    return (*state, event)


class Both(Watched, Home):
    """A backend for snapshots and a journal that writes down what is done to it, and does not do all of it.

    Attributes:
        puts: The positions of the snapshots that were stored, in order.
        failing_puts: What the next puts raise, each before it has stored, or after; None where it does neither.
    """

    backend: Home

    def __init__(self, place: Place, *, max_batch_bytes: int = 1 << 30) -> None:
        super().__init__(place, max_batch_bytes=max_batch_bytes)
        self.puts: list[int] = []
        self.failing_puts: list[tuple[str, Exception] | None] = []
        self._putting = threading.Lock()

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        """As it is, watched."""
        if not self._putting.acquire(blocking=False):
            self.trouble.append("a put beside another")
            return Stored("", 0)
        try:
            with self._at_work():
                self.hook("put")
                when, error = (self.failing_puts.pop(0) if self.failing_puts else None) or ("never", Exception())
                if when == "before":
                    raise error
                stored = self.backend.put(blob, keep=keep, allow_rollback=allow_rollback)
                self.puts.append(blob.position)
                if when == "after":
                    raise error
                self.hook("stored")
                return stored
        finally:
            self._putting.release()

    def open(self, name: str | None = None) -> Source:
        """As it is, watched."""
        self.hook("open")
        return self.backend.open(name)

    def names(self) -> Sequence[str]:
        """As it is, watched."""
        self.hook("names")
        return self.backend.names()

    def prune(self, keep: int) -> Sequence[str]:
        """As it is, watched."""
        return self.backend.prune(keep)


def home_of(place: Place | Home) -> Home:
    """A backend there."""
    backend = place.backend() if isinstance(place, Place) else place
    assert isinstance(backend, Home)
    return backend


def machine_of(
    place: Place | Home,
    apply: Callable[..., Any] = follow,
    initial_state: Any = (),
    event_type: Any = str,
    *,
    state_type: Any = State,
    policy: SnapshotPolicy = QUIET,
    **options: Any,
) -> StateMachine[Any, Any]:
    """A machine there, whose state is all that has happened unless told otherwise."""
    options = {"lock_timeout_s": 0, **options}
    return StateMachine(
        home_of(place), apply, initial_state, event_type, state_type=state_type, policy=policy, **options
    )


@asynccontextmanager
async def entered(place: Place | Home, *args: Any, **options: Any) -> AsyncIterator[StateMachine[Any, Any]]:
    """A machine that is open, in a block that ends in time."""
    async with bounded(), machine_of(place, *args, **options) as machine:
        yield machine


async def written(place: Place) -> list[Any]:
    """The events that are in the journal there, as somebody else reads them."""
    async with opened(place, read_only=True) as journal:
        return await texts(journal)


async def stored(place: Place) -> list[int]:
    """The indexes of the snapshots that are kept there, newest first."""
    return [ref.index for ref in await SnapshotStore(home_of(place), State).history()]


def damage_it(place: Place, which: int) -> None:
    """Change a byte of the snapshot that is so many behind the newest; again, it is no better."""
    if isinstance(place, InMemory):
        name, data = place.memory._kept[which]
        place.memory._kept[which] = name, data[:-1] + bytes([(data[-1] + 1) % 256])
        return
    assert isinstance(place, InFiles)
    path = place.path / place.backend().names()[which]
    data = path.read_bytes()
    with path.open("r+b") as file:  # in place, for it may have two names
        file.seek(len(data) - 1)
        file.write(bytes([(data[-1] + 1) % 256]))


def change(place: Place, old: bytes, new: bytes) -> None:
    """Change some bytes of the newest snapshot."""
    if isinstance(place, InMemory):
        name, data = place.memory._kept[0]
        assert data.count(old) == 1
        place.memory._kept[0] = name, data.replace(old, new)
        return
    assert isinstance(place, InFiles)
    path = place.path / place.backend().names()[0]
    data = path.read_bytes()
    assert data.count(old) == 1
    with path.open("r+b") as file:
        file.seek(data.index(old))
        file.write(new)


async def damage(place: Place, which: int = 0) -> None:
    """The same, in a thread."""
    await to_thread.run_sync(damage_it, place, which)


async def save(place: Place, index: int, state: Iterable[str], hlc: str = "") -> None:
    """Store a snapshot and leave the journal alone."""
    snapshot = Snapshot(state=tuple(state), last_applied_hlc=hlc, last_applied_index=index)
    await SnapshotStore(home_of(place), State, keep=5).save(snapshot)


async def lines_up(machine: StateMachine[Any, Any], watched: Watched, calls: list[Callable[[], Any]]) -> list[Any]:
    """Make those calls while a dispatch is held, so that they are committed together; what became of them."""
    hold = Held(watched)
    ends: list[Any] = [None] * len(calls)

    async def one(number: int) -> None:
        try:
            ends[number] = await calls[number]()
        except Exception as error:  # noqa: BLE001  it is what is asked for
            ends[number] = error

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(machine.dispatch, "first")
        await happens(hold.began)
        for number in range(len(calls)):
            tasks.start_soon(one, number)
            await until(lambda: len(machine._journal._lane._waiting) == number + 1)  # noqa: B023
        hold.let_go()
    return ends


@pytest.fixture(params=["memory", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each place."""
    return InMemory() if request.param == "memory" else InFiles(tmp_path / "home")


@pytest.fixture
def watched(place: Place) -> Iterator[Both]:
    """Each place, watched."""
    backend = Both(place)
    yield backend
    assert backend.trouble == []


# ---------------------------------------------------------------------- dispatch


async def test_empty(place: Place) -> None:
    """Where nothing is, a machine begins with the initial state, and says so."""
    async with entered(place) as machine:
        assert (machine.state, machine.cursor) == ((), Cursor())
        report = machine.recovery
        assert (report.snapshot, report.damaged, report.entries, report.torn_bytes) == (None, (), 0, 0)
        assert min(report.claim_s, report.load_s, report.replay_s) >= 0
        assert home_of(place).where in repr(machine)
        assert machine.last_snapshot_error is None


async def test_dispatch(place: Place) -> None:
    """Each dispatch returns the state after it, which is the state then, and is durable."""
    async with entered(place) as machine:
        for number in range(20):
            after = await machine.dispatch(f"{number}")
            assert after == machine.state == tuple(f"{n}" for n in range(number + 1))
            assert machine.cursor.index == number + 1
            assert await written(place) == list(after)


async def test_concurrent_dispatchers(watched: Both, place: Place) -> None:
    """Under many dispatchers the state is the fold in index order, and each gets the state right after its own."""
    afters: list[State] = []

    async def dispatcher(task: int) -> None:
        for turn in range(10):
            after = await machine.dispatch(f"{task} {turn}")
            assert after[-1] == f"{task} {turn}"
            afters.append(after)

    async with entered(watched) as machine:
        async with anyio.create_task_group() as tasks:
            for task in range(64):
                tasks.start_soon(dispatcher, task)
        assert list(machine.state) == await written(place)
        assert len(machine.state) == 640 == machine.cursor.index
        assert all(machine.state[: len(after)] == after for after in afters)
        assert sorted(map(len, afters)) == list(range(1, 641))
        assert len(watched.batches) <= 40
        for task in range(64):
            assert [e for e in machine.state if e.startswith(f"{task} ")] == [f"{task} {turn}" for turn in range(10)]


async def test_dispatch_many(watched: Both, place: Place) -> None:
    """Many are one commit and give the state after the last; none give the state as it is; one bad refuses all."""
    async with entered(watched) as machine:
        assert await machine.dispatch_many([]) == ()
        assert await machine.dispatch_many(iter(["a", "b", "c"])) == ("a", "b", "c")
        with pytest.raises(ValueError, match="!no"):
            await machine.dispatch_many(["d", "!no", "e"])
        with pytest.raises(InvalidStateError):
            await machine.dispatch_many(["d", "\ud800"])
        assert await machine.dispatch_many([]) == ("a", "b", "c")
        assert watched.counts == [3]
        assert machine.state == ("a", "b", "c")
        assert await written(place) == ["a", "b", "c"]


async def test_many_large(place: Place) -> None:
    """So many at once that they take long are dispatched all the same, as they were at the call."""
    given = [f"{number}" for number in range(3000)]
    async with entered(place, lambda state, event: state + int(event), 0, state_type=int) as machine:
        call = machine.dispatch_many(given)
        given.clear()
        assert await call == sum(range(3000))
        assert machine.cursor.index == 3000
        with pytest.raises(InvalidStateError, match="event"):
            await machine.dispatch_many(["1"] * 3000 + ["\ud800"])
        with pytest.raises(ConflictError):
            await machine.dispatch_many(["1"] * 3000, expected_index=7)
        assert machine.cursor.index == 3000


async def test_refused_alone(watched: Both, place: Place) -> None:
    """What apply refuses is refused alone, before it is durable; who shares the batch does not notice."""
    async with entered(watched) as machine:
        with pytest.raises(ValueError, match="!alone"):
            await machine.dispatch("!alone")
        assert (watched.counts, machine.state) == ([], ())
        events = [f"{number}" if number % 3 else f"!{number}" for number in range(10)]
        ends = await lines_up(machine, watched, [partial(machine.dispatch, event) for event in events])
        assert watched.counts == [1, 6]
        good = ["first", *(event for event in events if event[0] != "!")]
        assert [str(end) for end in ends if isinstance(end, ValueError)] == ["!0", "!3", "!6", "!9"]
        assert [end[-1] for end in ends if isinstance(end, tuple)] == good[1:]
        assert await written(place) == good
        assert list(machine.state) == good
        ends = await lines_up(machine, watched, [partial(machine.dispatch, "!no")] * 5)
        assert all(isinstance(end, ValueError) for end in ends)
        assert watched.counts == [1, 6, 1]
        assert list(await machine.dispatch("last")) == [*good, "first", "last"]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_an_exit_is_its_callers_alone(watched: Both, kind: type[BaseException]) -> None:
    """Even an exception that is meant to end a program refuses one event only, and holds up nobody's, nor the close."""

    def exits(state: State, event: str) -> State:
        if event == "exit":
            raise kind
        return (*state, event)

    async def exiting() -> str:
        try:
            await machine.dispatch("exit")
        except kind:
            return kind.__name__
        return "no"

    async with entered(watched, exits) as machine:
        calls = [partial(machine.dispatch, "a"), exiting, partial(machine.dispatch, "b")]
        ends = await lines_up(machine, watched, calls)
        assert kind.__name__ in ends
        assert [end[-1] for end in ends if isinstance(end, tuple)] == ["a", "b"]
    async with entered(watched, exits) as machine:
        assert machine.state[-2:] == ("a", "b")


async def test_applied_once(place: Place) -> None:
    """Each event is applied once while the machine is open, and once when it is replayed."""
    applied: list[str] = []

    def apply(state: State, event: str) -> State:
        applied.append(event)
        return follow(state, event)

    async with entered(place, apply) as machine:
        calls: list[Callable[[], Awaitable[Any]]] = [partial(machine.dispatch, f"{number}") for number in range(100)]
        calls += [partial(machine.dispatch, "!"), partial(machine.transact, lambda _: ["t1", "t2"])]
        await all_at_once(calls)
        assert sorted(applied) == sorted([*machine.state, "!"])
        there = list(machine.state)
    applied.clear()
    async with entered(place, apply):
        assert applied == there


async def test_mutable_events(place: Place) -> None:
    """What the caller does to an event after the call changes neither the state nor the journal."""

    def apply(state: tuple[list[int], ...], event: list[int]) -> tuple[list[int], ...]:
        return (*state, event)

    options: dict[str, Any] = {"event_type": list[int], "state_type": tuple[list[int], ...]}
    async with entered(place, apply, **options) as machine:
        events = [[1], [2], [3]]
        one, many = machine.dispatch(events[0]), machine.dispatch_many(events[1:])
        for event in events:
            event.append(9)
        assert await one == ([1],)
        for event in events:
            event.append(9)
        assert await many == ([1], [2], [3])
        await machine.transact(lambda _: events[:1])
        events[0].clear()
        assert machine.state == ([1], [2], [3], [1, 9, 9])
        there = machine.state
    async with entered(place, apply, **options) as machine:
        assert machine.state == there


async def test_the_event_as_it_comes_back(place: Place) -> None:
    """What apply gets is the event as it will come back from the journal: live and replayed, it sees the same."""

    def apply(state: State, event: float) -> State:
        return (*state, f"{type(event).__name__} {event}")

    async with entered(place, apply, event_type=float) as machine:
        await machine.dispatch(1)
        await machine.transact(lambda _: [2, 2.5])
        there = machine.state
        assert there == ("float 1.0", "float 2.0", "float 2.5")
    async with entered(place, apply, event_type=float) as machine:
        assert machine.state == there


async def test_expected_index(watched: Both) -> None:
    """A dispatch that expects another index is refused alone; of many that expect the same, one goes through."""
    async with entered(watched) as machine:
        await machine.dispatch("a", expected_index=0)
        with pytest.raises(ConflictError) as caught:
            await machine.dispatch("b", expected_index=0)
        assert (caught.value.expected, caught.value.found) == (0, 1)
        assert machine.state == ("a",)
        calls = [partial(machine.dispatch, f"{number}", expected_index=2) for number in range(5)]
        ends = await lines_up(machine, watched, calls)
        assert ends[0] == ("a", "first", "0")
        assert all(isinstance(end, ConflictError) for end in ends[1:])
        refused = [partial(machine.dispatch, "!", expected_index=4), partial(machine.dispatch, "x", expected_index=4)]
        assert [type(end) for end in await lines_up(machine, watched, refused)] == [ValueError, tuple]


async def test_a_batch_that_is_too_large(place: Place) -> None:
    """Where a batch is too large for the backend it is halved, and who is too large alone is refused alone."""
    watched = Both(place, max_batch_bytes=400)
    async with entered(watched) as machine:
        events = [str(number) * 150 for number in range(8)]
        events[5] = "x" * 1000
        ends = await lines_up(machine, watched, [partial(machine.dispatch, event) for event in events])
        assert [number for number, end in enumerate(ends) if isinstance(end, LimitExceededError)] == [5]
        there = ["first", *events[:5], *events[6:]]
        assert list(machine.state) == there == await written(place)
        assert [len(end) for end in ends if isinstance(end, tuple)] == [2, 3, 4, 5, 6, 7, 8]
    assert watched.trouble == []


async def test_a_backend_that_fails(watched: Both, place: Place) -> None:
    """Where a commit fails and nothing has changed all of it are told so, the state is as it was, and it goes on."""
    async with entered(watched) as machine:
        await machine.dispatch("a")
        watched.failing = [None, ("before", BackendError("append", "somewhere"))]
        calls = [
            partial(machine.dispatch, "b"),
            partial(machine.dispatch, "c", expected_index=7),
            partial(machine.transact, lambda state: ["d"] if "b" in state else []),
        ]
        ends = await lines_up(machine, watched, calls)
        assert all(isinstance(end, BackendError) for end in ends)
        assert machine.state == ("a", "first")
        assert await machine.dispatch("e") == ("a", "first", "e")
        assert await written(place) == ["a", "first", "e"]


# ---------------------------------------------------------------------- transact


async def test_assign_only_if_free(place: Place) -> None:
    """A rule holds under concurrency without a lock: nothing is taken twice, nor given back by who has it not."""

    class Took(msgspec.Struct, frozen=True, tag=True):
        what: int
        who: int

    class Gave(msgspec.Struct, frozen=True, tag=True):
        what: int
        who: int

    def apply(state: dict[int, int], event: Took | Gave) -> dict[int, int]:
        if isinstance(event, Took):
            assert event.what not in state
            return {**state, event.what: event.who}
        assert state[event.what] == event.who
        return {what: who for what, who in state.items() if what != event.what}

    def take(who: int, state: dict[int, int]) -> list[Took | Gave]:
        free = [what for what in range(3) if what not in state]
        return [Took(free[0], who)] if free and who not in state.values() else []

    def give(who: int, state: dict[int, int]) -> list[Took | Gave]:
        return [Gave(what, who) for what, holder in state.items() if holder == who]

    took = 0

    async def worker(who: int) -> None:
        nonlocal took
        for _ in range(15):
            after = await machine.transact(partial(take, who))
            took += who in after.values()
            await machine.transact(partial(give, who))

    options: dict[str, Any] = {"initial_state": {}, "event_type": Took | Gave, "state_type": dict[int, int]}
    async with entered(place, apply, **options) as machine:
        async with anyio.create_task_group() as tasks:
            for who in range(16):
                tasks.start_soon(worker, who)
        assert machine.state == {}
        assert machine.cursor.index == 2 * took
        assert took >= 45


async def test_transact(watched: Both) -> None:
    """A transaction's events are decided by the state; none are none, several are one commit, a generator will do."""

    def decide(state: State) -> Iterator[str]:
        for number in range(2):
            yield f"{len(state)} {number}"

    async with entered(watched) as machine:
        await machine.dispatch("a")
        assert await machine.transact(lambda _: []) == ("a",)
        assert await machine.transact(decide) == ("a", "1 0", "1 1")
        assert watched.counts == [1, 2]


async def test_a_transaction_that_is_refused(watched: Both) -> None:
    """What decide raises, or apply on what it gave, or its own generator, refuses the transaction, and it alone."""

    def fails(_: State) -> list[str]:
        raise KeyError("mine")

    def fails_late(_: State) -> Iterator[str]:
        yield "one"
        raise KeyError("late")

    refused: list[tuple[Callable[[State], Any], type[Exception]]] = [
        (fails, KeyError),
        (fails_late, KeyError),
        (lambda _: ["one", "!two"], ValueError),
        (lambda _: ["one", "\ud800"], InvalidStateError),
        (lambda _: ["one", 2], InvalidStateError),
        (lambda _: None, TypeError),
    ]
    async with entered(watched) as machine:
        for decide, kind in refused:
            with pytest.raises(kind):
                await machine.transact(decide)
        assert watched.counts == []
        calls: list[Callable[[], Any]] = []
        for number, (decide, _) in enumerate(refused):
            calls += [partial(machine.transact, decide), partial(machine.dispatch, f"{number}")]
        ends = await lines_up(machine, watched, calls)
        assert [type(end) for end in ends[::2]] == [kind for _, kind in refused]
        assert [end[-1] for end in ends[1::2]] == [f"{number}" for number in range(len(refused))]
        assert watched.counts == [1, len(refused)]


async def test_a_transaction_meets_the_head_of_the_line(watched: Both) -> None:
    """It is decided once, by the state after all that stand before it, and shares their commit."""
    met: list[State] = []

    def decide(state: State) -> list[str]:
        met.append(state)
        return [f"after {len(state)}"]

    async with entered(watched) as machine:
        calls: list[Callable[[], Any]] = [
            partial(machine.dispatch, "a"),
            partial(machine.transact, decide),
            partial(machine.dispatch, "!b"),
            partial(machine.transact, decide),
        ]
        ends = await lines_up(machine, watched, calls)
        assert met == [("first", "a"), ("first", "a", "after 2")]
        assert ends[3] == machine.state == ("first", "a", "after 2", "after 3")
        assert watched.counts == [1, 3]


# ---------------------------------------------------------------------- three arguments


async def test_apply_gets_the_entry(watched: Both, place: Place) -> None:
    """An apply of three arguments gets index and time as they are in the journal, live as replayed."""
    wall_ns = 1000

    def apply(state: State, event: str, entry: Entry[str]) -> State:
        assert entry.event is event
        return follow(state, f"{event} {entry.index} {entry.hlc}" if event[0] != "!" else event)

    def clock() -> HybridLogicalClock:
        return HybridLogicalClock(7, time_ns=lambda: wall_ns)

    async with entered(watched, apply, clock=clock()) as machine:
        await machine.dispatch_many(["a", "b", "c"])
        calls: list[Callable[[], Any]] = [
            partial(machine.dispatch, "d"),
            partial(machine.dispatch, "!e"),
            partial(machine.dispatch_many, ["f", "!g"]),
            partial(machine.transact, lambda _: ["h", "i"]),
            partial(machine.dispatch, "j", expected_index=7),
        ]
        await lines_up(machine, watched, calls)
        for number in range(300):  # so many that a time set aside would overflow, were it not carried on
            wall_ns += number % 2
            await machine.dispatch(f"{number}")
        there = machine.state
        async with opened(place, read_only=True) as journal:
            entries = await read(journal)
        assert list(there) == [f"{entry.event} {entry.index} {entry.hlc}" for entry in entries]
        assert [entry.event for entry in entries][:8] == ["a", "b", "c", "first", "d", "h", "i", "j"]
        assert all(one.hlc < two.hlc for one, two in itertools.pairwise(entries))
        assert machine.cursor == Cursor(entries[-1].index, str(entries[-1].hlc))
    wall_ns = 5
    async with entered(watched, apply, clock=clock()) as machine:
        assert machine.state == there
        before = Timestamp.parse(machine.cursor.hlc)
        await machine.dispatch("later")
        assert Timestamp.parse(machine.cursor.hlc) > before
        there = machine.state
    async with entered(watched, apply, clock=clock()) as machine:
        assert machine.state == there


@pytest.mark.parametrize("kind", ["three with a default", "any number", "bound", "partial"])
async def test_which_apply_gets_the_entry(kind: str) -> None:
    """Only an apply that needs a third argument gets one."""

    class Bound:
        def apply(self, state: State, event: str, entry: Entry[str]) -> State:
            return (*state, f"{event} {entry.index}")

    def defaults(state: State, event: str, more: str = "alone") -> State:
        return (*state, f"{event} {more}")

    def anything(*args: Any) -> State:
        return (*args[0], f"{args[1]} {len(args)}")

    def mine(name: str, state: State, event: str, entry: Entry[str]) -> State:
        return (*state, f"{event} {name} {entry.index}")

    apply, expected = {
        "three with a default": (defaults, "a alone"),
        "any number": (anything, "a 2"),
        "bound": (Bound().apply, "a 1"),
        "partial": (partial(mine, "me"), "a me 1"),
    }[kind]
    async with entered(InMemory(), apply) as machine:
        assert await machine.dispatch("a") == (expected,)


# ---------------------------------------------------------------------- open and closed


async def test_not_entered(place: Place) -> None:
    """Before it is entered a machine has no state, and does nothing."""
    machine = machine_of(place)
    for look in ("state", "cursor", "recovery"):
        with pytest.raises(ClosedError, match="not open"):
            getattr(machine, look)
    calls: list[Callable[[], Any]] = [
        partial(machine.dispatch, "a"),
        partial(machine.dispatch_many, ["a"]),
        partial(machine.transact, lambda _: ["a"]),
        machine.snapshot,
        partial(machine.wait_for, bool),
    ]
    for call in calls:
        with pytest.raises(ClosedError, match="not open"):
            await call()
    with pytest.raises(ClosedError):
        machine.changes()


async def test_closed(watched: Both, place: Place) -> None:
    """When it is closed it dispatches and takes nothing any more; what it came to can still be seen."""
    async with entered(watched) as machine:
        await machine.dispatch("a")
        late = machine.dispatch("late")
    calls: list[Callable[[], Any]] = [
        partial(machine.dispatch, "b"),
        partial(machine.dispatch_many, ["b"]),
        partial(machine.transact, lambda _: ["b"]),
        machine.snapshot,
        partial(machine.wait_for, lambda _: False),
    ]
    for call in calls:
        with pytest.raises(ClosedError, match="closed"):
            await call()
    with pytest.raises(ClosedError):
        await late
    async with entered(place) as following:
        assert following.state == machine.state == ("a",)
        assert machine.cursor.index == 1
    assert watched.puts == []
    with pytest.raises(ClosedError):
        await machine.__aenter__()


async def test_entered_twice(place: Place) -> None:
    """A machine is entered once; entered again, it goes on as it was."""
    async with entered(place) as machine:
        with pytest.raises(ClosedError):
            await machine.__aenter__()
        assert await machine.dispatch("a") == ("a",)
    async with entered(place) as machine:
        assert machine.state == ("a",)


@pytest.mark.parametrize("every", [None, 1, 7, 1000])
async def test_reopened(every: int | None, place: Place) -> None:
    """However often it is reopened, with or without snapshots, its state and cursor are as they were."""
    there: State = ()
    cursor = Cursor()
    for life in range(4):
        policy = SnapshotPolicy(every_events=every, on_close=life % 2 == 0 and every is not None)
        async with entered(place, policy=policy) as machine:
            assert (machine.state, machine.cursor) == (there, cursor)
            for number in range(10):
                await machine.dispatch(f"{life} {number}")
            there, cursor = machine.state, machine.cursor
    assert len(there) == 40


async def test_reopened_with_a_clock_set_back(place: Place) -> None:
    """Time goes on behind what the snapshot and the journal hold, whatever the clock says."""
    wall_ns, last = 10_000, ""
    for life in range(4):
        clock = HybridLogicalClock(time_ns=lambda: wall_ns)  # noqa: B023
        policy = SnapshotPolicy(every_events=2, on_close=life % 2 == 0)
        async with entered(place, clock=clock, policy=policy) as machine:
            for _ in range(5):
                await machine.dispatch("a")
                assert machine.cursor.hlc > last
                last = machine.cursor.hlc
        wall_ns -= 2000
    async with entered(place) as machine:
        assert machine.state == ("a",) * 20


async def test_recovery(watched: Both) -> None:
    """The report tells what was begun with, and how much was replayed behind it."""
    async with entered(watched) as machine:
        await machine.dispatch_many(["a", "b", "c"])
        ref = await machine.snapshot()
        assert ref.index == 3
        await machine.dispatch_many(["d", "e"])
    async with entered(watched) as machine:
        report = machine.recovery
        assert report.snapshot is not None
        assert (report.snapshot.index, report.snapshot.checksum) == (3, ref.checksum)
        assert (report.damaged, report.entries, report.torn_bytes) == ((), 2, 0)
        assert machine.state == ("a", "b", "c", "d", "e")


async def test_recovery_of_a_torn_journal(tmp_path: Path) -> None:
    """What a crash left unfinished is cut off, and reported; what is whole is in the state."""
    place = InFiles(tmp_path / "home")
    async with entered(place) as machine:
        await machine.dispatch_many(["a", "b"])
    segment = newest_segment(place.path)
    assert segment is not None
    data = bytearray(segment.read_bytes())
    begin = (end_of(segment) // SECTOR + 1) * SECTOR
    data[begin : begin + 300] = b"\1" * 300
    segment.write_bytes(data)
    async with entered(place) as machine:
        assert machine.recovery.torn_bytes > 0
        assert machine.state == ("a", "b")
        assert await machine.dispatch("c") == ("a", "b", "c")


async def test_progress(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long recovery tells how far it is, from step to step, up to the end; what the callback raises ends it."""
    monkeypatch.setattr(pages_module, "PAGE_BYTES", 300)
    async with entered(place) as machine:
        await machine.dispatch_many(["before"] * 5)
        await machine.snapshot()
        for number in range(30):
            await machine.dispatch(f"{number} " + "x" * 100)
        there = machine.state
    told: list[tuple[int, int]] = []
    async with entered(place, on_progress=lambda *facts: told.append(facts)) as machine:
        assert machine.state == there
    assert len(told) > 3
    assert told == sorted(set(told))
    assert {end for _, end in told} == {30}
    assert told[-1] == (30, 30)

    def fails(*_: int) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        async with entered(place, on_progress=fails):
            raise AssertionError
    async with entered(place) as machine:
        assert machine.state == there


# ---------------------------------------------------------------------- watch


async def test_changes(place: Place) -> None:
    """Changes are the entries behind the state, or behind an index, as they come; they end with the machine."""
    seen: list[str] = []
    all_of_it: list[int] = []

    async def watch() -> None:
        async with aclosing(machine.changes()) as changes:
            watching.set()
            async for entry in changes:
                assert entry.index <= machine.cursor.index
                seen.append(entry.event)

    async def watch_all() -> None:
        async with aclosing(machine.changes(0)) as changes:
            async for entry in changes:
                all_of_it.append(entry.index)  # noqa: PERF401  it is to be seen as it comes

    async with anyio.create_task_group() as tasks, entered(place) as machine:
        await machine.dispatch_many(["a", "b"])
        watching = anyio.Event()
        tasks.start_soon(watch)
        tasks.start_soon(watch_all)
        await watching.wait()
        await until(lambda: len(all_of_it) == 2)
        await machine.dispatch("c")
        await machine.dispatch_many(["d", "e"])
        await until(lambda: len(seen) == 3 and len(all_of_it) == 5)
    assert seen == ["c", "d", "e"]
    assert all_of_it == [1, 2, 3, 4, 5]


async def test_wait_for(place: Place) -> None:
    """Who waits for a state gets it: at once where it is there already, or else as soon as it comes."""
    got: list[State] = []

    async def waits(length: int) -> None:
        got.append(await machine.wait_for(lambda state: len(state) >= length))

    async with entered(place) as machine:
        await machine.dispatch("a")
        assert await machine.wait_for(lambda state: len(state) == 1) == ("a",)
        async with anyio.create_task_group() as tasks:
            for length in (2, 3, 5):
                tasks.start_soon(waits, length)
            await until(lambda: len(machine._journal._followers) == 3)
            await machine.dispatch("b")
            await until(lambda: len(got) == 1)
            await machine.dispatch_many(["c", "d", "e"])
        assert sorted(got, key=len) == [("a", "b"), ("a", "b", "c", "d", "e"), ("a", "b", "c", "d", "e")]


async def test_waiting_ends(place: Place) -> None:
    """Who waits in vain can be cancelled, and is told when the machine is closed; a predicate's error is its own."""
    ends: list[BaseException] = []

    async def waits() -> None:
        try:
            await machine.wait_for(lambda _: False)
        except ClosedError as error:
            ends.append(error)

    async with anyio.create_task_group() as tasks, entered(place) as machine:
        with anyio.move_on_after(0.01) as scope:
            await machine.wait_for(lambda _: False)
        assert scope.cancelled_caught
        assert not machine._journal._followers
        with pytest.raises(ZeroDivisionError):
            await machine.wait_for(lambda _: bool(1 // 0))
        tasks.start_soon(waits)
        await until(lambda: machine._journal._followers)
        await machine.dispatch("a")
    assert len(ends) == 1
    assert await machine.wait_for(lambda state: state == ("a",)) == ("a",)


async def test_wait_for_the_last(watched: Both) -> None:
    """A state that comes when the machine is being closed is told, too."""
    got: list[State] = []

    async def waits() -> None:
        got.append(await machine.wait_for(lambda state: "last" in state))

    async with bounded(), anyio.create_task_group() as tasks, machine_of(watched) as machine:
        tasks.start_soon(waits)
        await until(lambda: machine._journal._followers)
        hold = Held(watched)
        tasks.start_soon(machine.dispatch, "last")
        await happens(hold.began)
        tasks.start_soon(self_opening, machine, hold)
    assert got == [("last",)]


async def self_opening(machine: StateMachine[Any, Any], hold: Held) -> None:
    """Let it go when the machine is being closed."""
    await until(lambda: machine._journal._closed)
    hold.let_go()


# ---------------------------------------------------------------------- policy


async def test_every_events(watched: Both, place: Place) -> None:
    """After so many events a snapshot is taken, and not before; each time anew."""
    async with entered(watched, policy=SnapshotPolicy(every_events=5, on_close=False)) as machine:
        for index in range(1, 21):
            await machine.dispatch("a")
            if index % 5:
                await turns()
                assert len(watched.puts) == index // 5
            else:
                await until(lambda: len(watched.puts) == index // 5 and not watched.working)  # noqa: B023
                await until(lambda: not machine._keeper.turns.taken)
    assert watched.puts == [5, 10, 15, 20]
    assert await stored(place) == [20, 15, 10]


async def test_no_more_than_are_due(watched: Both) -> None:
    """Events that come while a snapshot is taken count for the next one, and only from that one's index on."""
    async with entered(watched, policy=SnapshotPolicy(every_events=10, on_close=False)) as machine:
        hold = Held(watched, "put")
        await machine.dispatch_many(["a"] * 10)
        await happens(hold.began)
        for _ in range(9):
            await machine.dispatch("b")
        hold.let_go()
        await until(lambda: watched.puts and not machine._keeper.turns.taken)
        await turns(30)
        assert watched.puts == [10]
        await machine.dispatch("c")
        await until(lambda: len(watched.puts) == 2)
        assert watched.puts == [10, 20]


async def test_every_seconds(watched: Both) -> None:
    """So long after the last snapshot one is taken if events came, and none if none came."""
    begun: list[float] = []
    watched.hook = lambda step: begun.append(time.monotonic()) if step == "put" else None
    async with entered(watched, policy=SnapshotPolicy(every_events=None, every_s=0.05, on_close=False)) as machine:
        await anyio.sleep(0.06)
        assert watched.puts == []
        before = time.monotonic()
        await machine.dispatch("a")
        await until(lambda: watched.puts == [1])
        await machine.dispatch("b")
        await until(lambda: watched.puts == [1, 2])
        assert begun[1] - before >= 0.05  # the first one counts from its beginning, which is behind that
        await anyio.sleep(0.06)
        assert watched.puts == [1, 2]


async def test_every_seconds_after_a_recovery(watched: Both) -> None:
    """Events that were replayed count as well: they are in a snapshot in time, even if nothing more happens."""
    async with entered(watched) as machine:
        await machine.dispatch("a")
    async with entered(watched, policy=SnapshotPolicy(every_events=None, every_s=0.01, on_close=False)):
        await until(lambda: watched.puts == [1])


class Late:
    """A loop that is told things, and does them late."""

    def __init__(self) -> None:
        self._told: list[Callable[[], object]] = []

    def post(self, callback: Callable[[], object]) -> bool:
        """Tell it."""
        self._told.append(callback)
        return True

    def happen(self) -> None:
        """Do it."""
        for callback in self._told:
            callback()


async def test_when(watched: Both) -> None:
    """What the user's own function wants is taken, also where the state has gone on before it is."""
    asked: list[int] = []

    def when(state: State) -> bool:
        asked.append(len(state))
        return len(state) == 3

    async with entered(watched, policy=SnapshotPolicy(every_events=None, when=when, on_close=False)) as machine:
        for _ in range(2):
            await machine.dispatch("a")
        await turns()
        assert watched.puts == []
        late = machine._keeper._loop = Late()  # type: ignore[assignment]
        await machine.dispatch("b")
        await machine.dispatch("c")
        assert watched.puts == []
        late.happen()
        await until(lambda: watched.puts == [4])
        await turns()
        assert watched.puts == [4]
    assert asked == [1, 2, 3]


async def test_when_fails(watched: Both, caplog: pytest.LogCaptureFixture) -> None:
    """What the user's own function raises is logged; dispatching goes on, and so do the other bounds."""

    def when(_: State) -> bool:
        raise KeyError("mine")

    async with entered(watched, policy=SnapshotPolicy(every_events=3, when=when, on_close=False)) as machine:
        for _ in range(3):
            await machine.dispatch("a")
        await until(lambda: watched.puts == [3])
    assert "the policy's own function failed" in caplog.text


@pytest.mark.parametrize("on_close", [True, False])
async def test_on_close(on_close: bool, watched: Both) -> None:
    """When it is closed one is taken, if that is wanted and if events came since the last."""
    policy = SnapshotPolicy(every_events=None, on_close=on_close)
    async with entered(watched, policy=policy):
        pass
    assert watched.puts == []
    async with entered(watched, policy=policy) as machine:
        await machine.dispatch("a")
        await machine.snapshot()
    assert watched.puts == [1]
    async with entered(watched, policy=policy) as machine:
        await machine.dispatch("b")
    assert watched.puts == ([1, 2] if on_close else [1])
    async with entered(watched, policy=SnapshotPolicy(every_events=None)) as machine:
        await machine.snapshot()
        steps: list[str] = []
        watched.hook = steps.append
    assert steps == ["release", "released"]


@pytest.mark.parametrize("keep", [1, 2, 3])
async def test_keep(keep: int, place: Place) -> None:
    """So many are kept, and of the journal what is behind the oldest of them; all of it, until there are so many."""
    async with entered(place, policy=SnapshotPolicy(every_events=None, keep=keep, on_close=False)) as machine:
        for index in range(1, 7):
            await machine.dispatch("a")
            await machine.snapshot()
            kept = list(range(index, max(0, index - keep), -1))
            assert await stored(place) == kept
            assert machine._journal.kept_from == (kept[-1] + 1 if len(kept) == keep else 1)


async def test_never_two_at_once(watched: Both, place: Place) -> None:
    """Whoever wants a snapshot, one is taken at a time, and each is as new as the one before."""

    async def dispatches() -> None:
        for _ in range(10):
            await machine.dispatch("a")

    async def takes() -> None:
        for _ in range(5):
            ref = await machine.snapshot()
            assert ref.index <= machine.cursor.index

    async with entered(watched, policy=SnapshotPolicy(every_events=1)) as machine:
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(dispatches)
                tasks.start_soon(takes)
        assert machine.last_snapshot_error is None
    assert watched.puts == sorted(watched.puts)
    assert watched.puts[-1] == 40
    assert (await stored(place))[0] == 40


async def test_never_in_the_way(watched: Both) -> None:
    """While a snapshot is being stored, however long it takes, dispatching goes on."""
    async with entered(watched, policy=SnapshotPolicy(every_events=1)) as machine:
        hold = Held(watched, "put")
        await machine.dispatch("a")
        await happens(hold.began)
        for number in range(20):
            await machine.dispatch(f"{number}")
        assert watched.puts == []
        assert len(machine.state) == 21
        hold.let_go()
        await until(lambda: len(watched.puts) == 2)
        assert watched.puts == [1, 21]


def test_several_loops(place: Place) -> None:
    """From several loops in several threads one may dispatch, wait, and take snapshots, beside the policy's own."""
    watched = Both(place)
    ready, done = threading.Event(), threading.Event()
    machine = machine_of(watched, policy=SnapshotPolicy(every_events=7))
    wrong: list[BaseException] = []

    async def host() -> None:
        async with machine:
            ready.set()
            await happens(done)
            assert len(machine.state) == 90

    async def guest(who: int) -> None:
        for number in range(30):
            after = await machine.dispatch(f"{who} {number}")
            if number % 3 == 0:
                await machine.snapshot()
            await machine.wait_for(lambda state: len(state) >= len(after))  # noqa: B023

    def thread(call: Callable[[], Awaitable[None]], loop: str) -> None:
        try:
            run((loop, {}), call)
        except BaseException as error:  # noqa: BLE001  it is looked at below
            wrong.append(error)

    hosting = threading.Thread(target=thread, args=(host, "asyncio"))
    hosting.start()
    assert ready.wait(BOUND_S)
    guests = [
        threading.Thread(target=thread, args=(partial(guest, who), loop))
        for who, loop in enumerate(["asyncio", "trio", "asyncio"])
    ]
    for each in guests:
        each.start()
    for each in guests:
        each.join(BOUND_S)
    done.set()
    hosting.join(BOUND_S)
    assert wrong == []
    assert watched.trouble == []
    assert watched.puts[-1] == 90


async def test_turns() -> None:
    """Whoever is cancelled while it waits for its turn, or when it has just come, is in nobody's way."""
    line = Turns()
    entries: list[int] = []

    async def enters(number: int, scope: CancelScope) -> None:
        with scope:
            async with line:
                entries.append(number)

    for given_up in (0, 1, 2):
        scopes = [CancelScope() for _ in range(3)]
        entries.clear()
        async with bounded(), anyio.create_task_group() as tasks:
            async with line:
                for number, scope in enumerate(scopes):
                    tasks.start_soon(enters, number, scope)
                    await until(lambda: len(line._waiting) == number + 1)  # noqa: B023
                if given_up:
                    scopes[given_up].cancel()
                    await turns()
            if not given_up:
                scopes[0].cancel()
        assert entries == [number for number in range(3) if number != given_up]
        assert not line.taken


# ---------------------------------------------------------------------- snapshots that fail


async def test_a_snapshot_that_fails(
    watched: Both, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told and tried again while dispatching goes on; when one succeeds, all is well."""
    monkeypatch.setattr(keeper_module, "_FIRST_RETRY_S", 0.01)
    told: list[Exception] = []
    errors = [BackendError("put", "somewhere"), BackendError("put", "somewhere else")]
    watched.failing_puts = [("before", error) for error in errors]
    policy = SnapshotPolicy(every_events=2, on_close=False)
    async with entered(watched, policy=policy, on_snapshot_error=told.append) as machine:
        await machine.dispatch_many(["a", "b"])
        await until(lambda: told)
        assert machine.last_snapshot_error is not None
        await machine.dispatch("c")
        await until(lambda: watched.puts)
        await until(lambda: not machine._keeper.turns.taken)
        assert machine.last_snapshot_error is None
    assert told == errors
    assert watched.puts == [3]
    assert caplog.text.count("no snapshot was taken") == 2


async def test_back_off(watched: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses before it is tried again grow, up to a minute; after a success they begin anew."""
    pauses: list[float] = []

    async def sleep(delay: float) -> None:
        pauses.append(delay)
        await checkpoint()

    error = BackendError("put", "somewhere")
    watched.failing_puts = [("before", error)] * 8
    async with entered(watched, policy=SnapshotPolicy(every_events=1, on_close=False)) as machine:
        monkeypatch.setattr(anyio, "sleep", sleep)
        await machine.dispatch("a")
        await until(lambda: watched.puts == [1])
        assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
        await until(lambda: not machine._keeper.turns.taken)
        watched.failing_puts = [("before", error)]
        await machine.dispatch("b")
        await until(lambda: watched.puts == [1, 2])
        assert pauses[8:] == [1]


async def test_a_callback_that_fails(
    watched: Both, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the callback raises is logged, and harms neither the machine nor whoever is in its block."""
    monkeypatch.setattr(keeper_module, "_FIRST_RETRY_S", 0.01)

    def callback(_: Exception) -> None:
        raise KeyError("mine")

    watched.failing_puts = [("before", BackendError("put", "somewhere"))] * 2
    policy = SnapshotPolicy(every_events=1)
    async with entered(watched, policy=policy, on_snapshot_error=callback) as machine:
        await machine.dispatch("a")
        await until(lambda: watched.puts)
        watched.failing_puts = [("before", BackendError("put", "somewhere"))] * 3
        await machine.dispatch("b")
    assert "on_snapshot_error failed" in caplog.text


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_snapshot_with_an_unknown_outcome(when: str, watched: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not stop those after it, whoever took it."""
    monkeypatch.setattr(keeper_module, "_FIRST_RETRY_S", 0.01)
    unknown = when, OutcomeUnknownError("put", "somewhere")
    async with entered(watched, policy=SnapshotPolicy(every_events=2, on_close=False)) as machine:
        await machine.dispatch("a")
        watched.failing_puts = [unknown]
        with pytest.raises(OutcomeUnknownError):
            await machine.snapshot()
        assert (await machine.snapshot()).index == 1
        watched.failing_puts = [unknown]
        await machine.dispatch_many(["b", "c"])
        await until(lambda: watched.puts[-1] == 3 and not watched.failing_puts)
        await until(lambda: machine.last_snapshot_error is None and not machine._keeper.turns.taken)
        assert (await machine.snapshot()).index == 3
        assert await machine.dispatch("d") == ("a", "b", "c", "d")


async def test_a_state_that_cannot_be_saved(place: Place) -> None:
    """Where a state would not come back as it is the snapshot fails, and the machine goes on without."""

    def apply(state: tuple[Any, ...], event: str) -> tuple[Any, ...]:
        return (*state, 5 if event == "bad" else event)

    told: list[Exception] = []
    policy = SnapshotPolicy(every_events=1)
    async with entered(place, apply, policy=policy, on_snapshot_error=told.append) as machine:
        await machine.dispatch("bad")
        with pytest.raises(InvalidStateError):
            await machine.snapshot()
        assert await machine.dispatch("a") == (5, "a")
    assert all(isinstance(error, InvalidStateError) for error in told)
    async with entered(place, apply) as machine:
        assert machine.state == (5, "a")


async def test_trimming_that_fails(watched: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the journal cannot be trimmed it is tried again, and no further snapshot is stored for it."""
    monkeypatch.setattr(keeper_module, "_FIRST_RETRY_S", 0.01)
    left = 2

    def hook(step: str) -> None:
        nonlocal left
        if step == "truncate" and left:
            left -= 1
            raise BackendError("truncate", "somewhere")

    told: list[Exception] = []
    policy = SnapshotPolicy(every_events=3, on_close=False, keep=1)
    async with entered(watched, policy=policy, on_snapshot_error=told.append) as machine:
        watched.hook = hook
        await machine.dispatch_many(["a", "b", "c"])
        await until(lambda: machine._journal.kept_from == 4)
        await until(lambda: machine.last_snapshot_error is None)
    assert len(told) == 2
    assert watched.puts == [3]


# ---------------------------------------------------------------------- trimming


async def test_trimmed_behind_what_is_whole(place: Place) -> None:
    """The journal is let go of up to the oldest kept snapshot, once enough are whole; a damaged one does not count."""
    policy = SnapshotPolicy(every_events=None, on_close=False, keep=2)
    async with entered(place, policy=policy) as machine:
        for _ in range(2):
            await machine.dispatch_many(["a"] * 5)
            await machine.snapshot()
        assert machine._journal.kept_from == 6
    await damage(place)
    async with entered(place, policy=policy) as machine:
        assert len(machine.recovery.damaged) == 1
        for kept_from in (6, 12):
            await machine.dispatch("b")
            await machine.snapshot()
            assert machine._journal.kept_from == kept_from
    async with entered(place) as machine:
        assert machine.state == ("a",) * 10 + ("b",) * 2


async def test_the_first_snapshot_is_not_the_only_way(place: Place) -> None:
    """As long as fewer are kept than there are to be, the state survives that all of them are damaged."""
    async with entered(place) as machine:
        await machine.dispatch_many(["a"] * 5)
        await machine.snapshot()
        await machine.snapshot()
    for which in range(2):
        await damage(place, which)
    async with entered(place) as machine:
        assert (machine.state, machine.recovery.entries) == (("a",) * 5, 5)


async def test_any_kept_one_will_do(place: Place) -> None:
    """From any of the snapshots that are kept the state can be recovered, and is the same."""
    async with entered(place, policy=SnapshotPolicy(every_events=4, keep=3)) as machine:
        for number in range(40):
            await machine.dispatch(f"{number}")
            await checkpoint()
        there = machine.state
    for damaged in range(3):
        if damaged:
            await damage(place, damaged - 1)
        async with entered(place) as machine:
            assert machine.state == there
            assert len(machine.recovery.damaged) == damaged


# ---------------------------------------------------------------------- recovery from damage


async def test_the_newest_is_damaged(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """The next older one is taken, what is behind it is replayed, and the report and the log tell."""
    async with entered(place) as machine:
        for number in range(3):
            await machine.dispatch_many([f"{number}"] * 4)
            await machine.snapshot()
        await machine.dispatch("last")
        there = machine.state
    await damage(place, 0)
    async with entered(place) as machine:
        report = machine.recovery
        assert report.snapshot is not None
        assert (report.snapshot.index, report.entries, len(report.damaged)) == (8, 5, 1)
        assert isinstance(report.damaged[0], CorruptSnapshotError)
        assert report.damaged[0].__traceback__ is report.damaged[0].__cause__ is None  # they would keep what was read
        assert machine.state == there
        assert "passed over" in caplog.text
        await machine.dispatch("more")
        assert (await machine.snapshot()).index == 14
    async with entered(place) as machine:
        assert machine.state == (*there, "more")


async def test_all_damaged_and_the_journal_whole(place: Place) -> None:
    """Where no snapshot is whole, and the journal is, the state is replayed from the initial one."""
    async with entered(place) as machine:
        await machine.dispatch_many(["a", "b", "c"])
    for index in (1, 2, 3):
        await save(place, index, "abc"[:index])
    for which in range(3):
        await damage(place, which)
    async with entered(place) as machine:
        assert (machine.recovery.snapshot, machine.recovery.entries) == (None, 3)
        assert len(machine.recovery.damaged) == 3
        assert machine.state == ("a", "b", "c")


def contents_of(place: Place) -> dict[str, bytes]:
    """What is there, byte for byte: snapshots, and segments of the journal."""
    if isinstance(place, InMemory):
        return dict(place.memory._kept) | {f"{batch.first}": batch.data for batch in place.memory._batches}
    assert isinstance(place, InFiles)
    names = [*place.path.glob("snapshot*"), *place.path.glob("journal.0*")]
    return {name.name: name.read_bytes() for name in names}


async def contents(place: Place) -> dict[str, bytes]:
    """The same, in a thread."""
    return await to_thread.run_sync(contents_of, place)


def remove(place: Place) -> None:
    """Remove all snapshots."""
    if isinstance(place, InMemory):
        place.memory._kept.clear()
    if isinstance(place, InFiles):
        for path in place.path.glob("snapshot*"):
            path.unlink()


@pytest.mark.parametrize("how", ["damaged", "missing"])
async def test_no_snapshot_and_half_a_journal(how: str, place: Place) -> None:
    """Never an empty start: it is an error that lists what there is, nothing is changed, and the lock is let go of."""
    async with entered(place) as machine:
        for _ in range(3):
            await machine.dispatch_many(["a"] * 4)
            await machine.snapshot()
        await machine.dispatch("b")
    for which in range(3):
        await damage(place, which)
    if how == "missing":
        await to_thread.run_sync(remove, place)
    before = await contents(place)
    for _ in range(2):
        with pytest.raises(CorruptSnapshotError, match="journal is kept from index 5 on only") as caught:
            async with entered(place, policy=SnapshotPolicy()):
                raise AssertionError
        assert len(caught.value.others) == (3 if how == "damaged" else 0)
        assert await contents(place) == before


async def test_damaged_snapshots_and_no_journal(place: Place) -> None:
    """Damaged snapshots over an empty journal are no empty start either."""
    await save(place, 0, [])
    await damage(place)
    before = await contents(place)
    with pytest.raises(CorruptSnapshotError, match="journal is empty"):
        async with entered(place):
            raise AssertionError
    assert before.items() <= (await contents(place)).items()


@pytest.mark.parametrize("damaged", [False, True])
async def test_a_snapshot_ahead_of_the_journal(damaged: bool, place: Place) -> None:
    """Where a snapshot, be it damaged, holds more than the journal ever had, the journal is not what it was."""
    async with entered(place) as machine:
        await machine.dispatch_many(["a", "b", "c"])
        await machine.snapshot()
    await save(place, 5, "abcde", str(HybridLogicalClock().take(1)))
    if damaged:
        await damage(place, 0)
    before = await contents(place)
    with pytest.raises(CorruptJournalError, match="holds index 5, and the journal ends before it") as caught:
        async with entered(place):
            raise AssertionError
    assert caught.value.index == 4
    assert await contents(place) == before
    async with opened(place) as journal:
        assert journal.last_index == 3


async def test_an_index_that_is_damaged(place: Place) -> None:
    """A snapshot whose index is higher by damage is passed over as any other; the journal is not called lost."""
    async with entered(place) as machine:
        for number in range(2):
            await machine.dispatch_many([f"{number}"] * 4)
            await machine.snapshot()
        there = machine.state
    await to_thread.run_sync(change, place, b'"last_applied_index":8', b'"last_applied_index":9')
    async with entered(place) as machine:
        assert (machine.state, len(machine.recovery.damaged), machine.recovery.entries) == (there, 1, 4)


async def test_a_gap_behind_the_snapshot(place: Place) -> None:
    """Where the newest that is whole is older than what the journal reaches back to, it is an error."""
    async with entered(place) as machine:
        await machine.dispatch_many(["a"] * 10)
    await save(place, 3, "aaa")
    await save(place, 8, "a" * 8)
    async with opened(place) as journal:
        await journal.truncate_before(9)
    async with entered(place) as machine:
        assert machine.state == ("a",) * 10
    await damage(place, 0)
    with pytest.raises(CorruptSnapshotError, match="holds index 3, and the journal begins at 9") as caught:
        async with entered(place):
            raise AssertionError
    assert len(caught.value.others) == 1


async def test_apply_fails_in_the_replay(place: Place) -> None:
    """What apply raises on what is in the journal ends the recovery, with the index; the lock is let go of."""

    def strict(state: State, event: str) -> State:
        if event == "c":
            raise ValueError("mine")
        return follow(state, event)

    async with entered(place) as machine:
        await machine.dispatch_many(["a", "b", "c", "d"])
    with pytest.raises(ValueError, match="mine") as caught:
        async with entered(place, strict):
            raise AssertionError
    assert any("index 3" in note for note in caught.value.__notes__)
    async with entered(place) as machine:
        assert machine.state == ("a", "b", "c", "d")


async def test_a_journal_of_other_events(place: Place) -> None:
    """What does not decode as an event ends the recovery, with the index; the lock is let go of."""
    async with entered(place) as machine:
        await machine.dispatch_many(["1", "a"])
    with pytest.raises(CorruptJournalError) as caught:
        async with entered(place, event_type=int):
            raise AssertionError
    assert caught.value.index == 1
    async with entered(place) as machine:
        assert machine.state == ("1", "a")


# ---------------------------------------------------------------------- unknown outcomes


@pytest.mark.parametrize("when", ["before", "after"])
async def test_unknown(when: str, watched: Both, place: Place) -> None:
    """An append of unknown outcome is told to all who are in it; then nothing goes on until reopening tells the truth.

    The state stays as it was known; who waits in line behind it decides nothing on that.
    """
    ends: list[BaseException] = []

    async def waits() -> None:
        try:
            await machine.wait_for(lambda state: "b" in state)
        except PoisonedError as error:
            ends.append(error)

    async with anyio.create_task_group() as tasks:
        async with entered(watched, batch_events=3, policy=SnapshotPolicy()) as machine:
            await machine.dispatch("a")
            tasks.start_soon(waits)
            await until(lambda: machine._journal._followers)
            watched.failing = [None, (when, OutcomeUnknownError("append", "somewhere"))]
            calls: list[Callable[[], Any]] = [
                partial(machine.dispatch, "b"),
                partial(machine.dispatch, "c"),
                partial(machine.transact, lambda _: []),
                partial(machine.transact, lambda _: []),
                partial(machine.dispatch, "!d"),
                partial(machine.transact, lambda _: []),
            ]
            got = await lines_up(machine, watched, calls)
            assert [type(end) for end in got] == [OutcomeUnknownError] * 2 + [OutcomeUnknownError] + [PoisonedError] * 3
            assert machine.state == ("a", "first")
            for call in calls:
                with pytest.raises(PoisonedError):
                    await call()
            with pytest.raises(PoisonedError):
                await machine.wait_for(lambda _: False)
            assert machine.state == ("a", "first")
        assert watched.puts == []
    assert len(ends) == 1
    truth = ("a", "first", "b", "c") if when == "after" else ("a", "first")
    async with entered(place) as machine:
        assert machine.state == truth
        assert await machine.dispatch("f") == (*truth, "f")


async def test_whether_it_is_sound(place: Place) -> None:
    """It is as long as it is open."""
    machine = machine_of(place)
    assert not machine.sound
    async with machine:
        assert machine.sound
        with pytest.raises(ValueError, match="refused"):
            await machine.dispatch("!refused")
        assert machine.sound
    assert not machine.sound


async def test_a_snapshot_of_a_poisoned_machine(watched: Both, place: Place) -> None:
    """What is known may be saved still; the journal is left as it is."""
    async with entered(watched) as machine:
        await machine.dispatch("a")
        watched.failing = [("after", OutcomeUnknownError("append", "somewhere"))]
        with pytest.raises(OutcomeUnknownError):
            await machine.dispatch("b")
        assert not machine.sound
        assert (await machine.snapshot()).index == 1
        assert machine._journal.kept_from == 1
    async with entered(place) as machine:
        assert machine.state == ("a", "b")


# ---------------------------------------------------------------------- cancelled on the way in and out


@cases
@pytest.mark.parametrize("step", ["claim", "names", "open", "read"])
def test_entering_cancelled_at(step: str, backend: Backend, way: str, tmp_path: Path) -> None:
    """Cancelled while it is being entered, at whatever step, a machine lets go, and another one opens at once."""
    place = InFiles(tmp_path)
    watched = Both(place)

    async def enters() -> None:
        async with machine_of(watched, policy=SnapshotPolicy()):
            await checkpoint()

    async def main() -> None:
        async with entered(place) as machine:
            await machine.dispatch_many(["a"] * 3)
            await machine.snapshot()
            await machine.dispatch("b")
        hold = held(watched, step)
        outcome = await WAYS[way](enters(), hold)
        assert hold.reached
        assert watched.working == 0
        if way in NATIVELY:
            assert outcome == "cancelled"
        async with entered(place) as machine:
            assert machine.state == ("a", "a", "a", "b")
            await machine.dispatch("c")

    run(backend, main)
    assert watched.trouble == []


@cases
@pytest.mark.parametrize("step", ["put", "stored", "truncate", "release", "released"])
def test_leaving_cancelled_at(step: str, backend: Backend, way: str, tmp_path: Path) -> None:
    """Cancelled while it is being left, it takes its last snapshot or does not, lets go, and never hangs."""
    place = InFiles(tmp_path)
    watched = Both(place)

    async def leaves() -> None:
        async with machine_of(watched, policy=SnapshotPolicy(every_events=None, keep=1)) as machine:
            await machine.dispatch("a")

    async def main() -> None:
        hold = held(watched, step)
        await WAYS[way](leaves(), hold)
        assert hold.reached
        assert watched.working == 0
        async with entered(place) as machine:
            assert machine.state == ("a",)
            await machine.dispatch("b")

    run(backend, main)
    assert watched.trouble == []


@cases
@pytest.mark.parametrize("step", ["put", "stored", "truncate"])
def test_left_while_a_snapshot_is_taken(step: str, backend: Backend, way: str, tmp_path: Path) -> None:
    """A block that is cancelled while a snapshot is being taken beside it waits for that, and lets go then."""
    place = InFiles(tmp_path)
    watched = Both(place)

    async def stays() -> None:
        async with machine_of(watched, policy=SnapshotPolicy(every_events=1, keep=1)) as machine:
            await machine.dispatch("a")
            await anyio.sleep(BOUND_S)

    async def main() -> None:
        hold = held(watched, step)
        outcome = await WAYS[way](stays(), hold)
        assert outcome == "cancelled"
        assert watched.working == 0
        async with entered(place) as machine:
            assert machine.state == ("a",)
            await machine.dispatch("b")

    run(backend, main)
    assert watched.trouble == []


async def test_left_under_a_cancelled_scope(watched: Both, place: Place) -> None:
    """A block whose scope is cancelled takes its last snapshot, and lets go."""
    async with bounded():
        with CancelScope() as scope:
            async with machine_of(watched, policy=SnapshotPolicy()) as machine:
                await machine.dispatch("a")
                scope.cancel()
                await checkpoint()
        assert scope.cancelled_caught
        assert watched.puts == [1]
        with CancelScope() as scope:
            scope.cancel()
            async with machine_of(watched):
                raise AssertionError
        async with entered(place) as machine:
            assert machine.state == ("a",)


async def test_what_the_block_raises(place: Place) -> None:
    """An error of the block's own comes out of it as it is."""

    async def fails() -> None:
        async with entered(place, policy=SnapshotPolicy()) as machine:
            await machine.dispatch("a")
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fails()
    async with entered(place) as machine:
        assert (machine.state, machine.recovery.entries) == (("a",), 0)


async def test_left_beside_a_snapshot_of_another_task(watched: Both) -> None:
    """A snapshot that another task takes is over before the backend is let go of."""
    steps: list[str] = []
    async with bounded(), anyio.create_task_group() as tasks, machine_of(watched) as machine:
        await machine.dispatch("a")
        hold = Held(watched, "put")
        tasks.start_soon(machine.snapshot)
        await happens(hold.began)
        before = watched.hook
        watched.hook = lambda step: (steps.append(step), before(step))
        tasks.start_soon(let_go_later, hold)
    assert steps.index("stored") < steps.index("release")
    assert watched.puts == [1]


async def let_go_later(hold: Held) -> None:
    """Let it go after some turns of the loop."""
    await turns(20)
    hold.let_go()


@pytest.mark.parametrize("anyio_backend", NATIVE)
@pytest.mark.parametrize("after", range(10))
async def test_cancelled_at_each_turn(after: int, tmp_path: Path) -> None:
    """Cancelled natively at any turn of the loop, on the way in, inside, or on the way out, it lets go."""
    place = InFiles(tmp_path)

    async def lives() -> None:
        async with machine_of(place, policy=SnapshotPolicy(every_events=1)) as machine:
            await machine.dispatch("a")

    for times in (1, 4):
        for begun in ("dispatched", "closed", ""):
            task = asyncio.create_task(lives())
            if begun:
                there = len(await written(place))
                while len(await written(place)) == there and not task.done():
                    await checkpoint()
            await turns(after)
            for _ in range(times):
                task.cancel()
                await turns(1)
            await asyncio.wait([task])
            async with entered(place) as machine:
                await machine.dispatch("b")


@pytest.mark.parametrize("anyio_backend", NATIVE)
async def test_left_after_a_task_group_that_failed(place: Place) -> None:
    """Whoever is in the block is not cancelled by leaving it, whatever the loop has counted of earlier failures."""

    async def fails() -> None:
        await checkpoint()
        raise KeyError("mine")

    async with entered(place, policy=SnapshotPolicy()) as machine:
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(fails())
        await machine.dispatch("a")
    async with entered(place) as machine:
        assert machine.state == ("a",)

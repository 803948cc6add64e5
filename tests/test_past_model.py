"""Whatever is done to a machine: each state of its past, each fork and each backup is a plain fold of what happened.

What leads to a state is kept or not, and it is known beforehand which: there is never another state in its place, and
never an empty start.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from swoosh_async import (
    CorruptSnapshotError,
    Cursor,
    Entry,
    FileBackend,
    HybridLogicalClock,
    Journal,
    SnapshotPolicy,
    SnapshotStore,
    StateMachine,
    SwooshError,
    Timestamp,
    TruncatedError,
    check,
)
from swoosh_async import _folds as folds_module
from swoosh_async import _past as past_module
from swoosh_async.backends.base import Backend

from ._faults import BOUND_S
from ._journals import InFiles, InMemory, Place
from ._lives import Life
from .test_machine import damage_it, home_of

pytest.importorskip("fcntl", reason="a file backend needs flock")

T = TypeVar("T")
State = tuple[str, ...]


class SaidV1(msgspec.Struct, frozen=True, tag="said"):
    """What was written once: a text, and how often it was said."""

    text: str
    times: int


class Said(msgspec.Struct, frozen=True, tag="said2"):
    """What is written today."""

    text: str


def apply(state: State, event: Said, entry: Entry[Said]) -> State:
    """All that was said, each with the index of its entry; what begins with ! is refused."""
    if event.text.startswith("!"):
        raise ValueError(event.text)
    return (*state, f"{entry.index} {event.text}")


UPCASTS = {SaidV1: lambda old: [Said(old.text)] * old.times}

texts = st.text(st.characters(min_codepoint=34, max_codepoint=126), min_size=1, max_size=4)
old_events = st.builds(SaidV1, texts, st.integers(0, 3))
policies = st.builds(
    SnapshotPolicy,
    every_events=st.sampled_from([None, 1, 4]),
    on_close=st.booleans(),
    keep=st.sampled_from([1, 2, 3]),
)
points = st.floats(0, 1)
"""How far back: 0 for the first state, 1 for the last."""


class APast(RuleBasedStateMachine):
    """A machine beside a list of what each entry has added to its state."""

    place: Place

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp())
        self.paths = 0
        self.place = self.make()
        self.runner = asyncio.Runner()
        self.wall_ns = 1000
        self.added: list[State] = []
        self.times: dict[int, Timestamp] = {}
        self.broken: set[bytes] = set()
        self.policy = SnapshotPolicy(every_events=3)
        self.open()

    def make(self) -> Place:
        """Where it is."""
        return InMemory()

    def path(self) -> Path:
        """Somewhere new."""
        self.paths += 1
        return self.home / f"{self.paths}"

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Run that, in time."""
        return self.runner.run(asyncio.wait_for(call, BOUND_S))

    def made(self, home: Backend, policy: SnapshotPolicy) -> StateMachine[State, Said]:
        """A machine there, as the program is today."""
        clock = HybridLogicalClock(time_ns=lambda: self.wall_ns)
        options = {"state_type": State, "upcasts": UPCASTS, "policy": policy, "clock": clock, "lock_timeout_s": 0}
        return StateMachine(home, apply, (), Said, **options)

    def open(self) -> None:
        """Open it, in a task of its own that lives as long as it is open."""
        machine = self.made(home_of(self.place), self.policy)
        self.life = Life(self.run, machine)
        self.machine = machine

    def close(self) -> None:
        """Close it."""
        self.life.end()

    def teardown(self) -> None:
        """Open it once more, and see that it is all there."""
        try:
            self.reopen(self.policy)
            self.is_the_fold()
            self.close()
            self.runner.close()
        finally:
            shutil.rmtree(self.home)

    # ------------------------------------------------------------------ what is known

    @property
    def last(self) -> int:
        """The last index."""
        return len(self.added)

    def state(self, index: int | None = None) -> State:
        """What the entries up to that index lead to."""
        return tuple(line for lines in self.added[:index] for line in lines)

    def happened(self, *new: str) -> None:
        """These were dispatched."""
        for text in new:
            self.added.append((f"{self.last + 1} {text}",))

    def content(self, name: str) -> bytes:
        """What is stored there."""
        with home_of(self.place).open(name) as source:
            return source.read(0, source.size_bytes)

    async def still(self) -> None:
        """Wait until no snapshot is being taken."""
        async with self.machine._keeper.turns:
            return

    def kept(self) -> tuple[int, dict[int, bool]]:
        """The first index that is kept, and which snapshots are, by their index, and whether one of it is whole."""
        self.run(self.still())
        home = home_of(self.place)
        store = SnapshotStore[Any](home, Any)
        snapshots: dict[int, bool] = {}
        for ref in self.run(store.history()):
            whole = self.content(ref.name) not in self.broken
            snapshots[ref.index] = snapshots.get(ref.index, False) or whole
        return home.bounds().first, snapshots

    def refusal(self, index: int) -> type[SwooshError] | None:
        """Why the state at that index can be had no more; None if it can."""
        first, snapshots = self.kept()
        bases = [whole for at, whole in snapshots.items() if at <= index and (at >= first - 1 or at == index)]
        if first == 1 or any(bases):
            return None
        return CorruptSnapshotError if bases else TruncatedError

    def index_at(self, point: float) -> int:
        """The index that is so far back."""
        return round(point * self.last)

    # ------------------------------------------------------------------ what is done

    @initialize(old=st.lists(old_events, max_size=4))
    def begins(self, old: list[SaidV1]) -> None:
        """There is something to begin with, of an older program."""
        self.older(old)

    @rule(text=texts)
    def dispatch(self, text: str) -> None:
        """Dispatch one event."""
        after = self.run(self.machine.dispatch(Said(text)))
        self.happened(text)
        assert after == self.state()

    @rule(many=st.lists(texts, max_size=5))
    def dispatch_many(self, many: list[str]) -> None:
        """Dispatch several together."""
        self.run(self.machine.dispatch_many(list(map(Said, many))))
        self.happened(*many)

    @rule(many=st.lists(texts, max_size=3), refused=st.booleans())
    def transact(self, many: list[str], refused: bool) -> None:
        """Decide by the state, on something that is refused or not."""

        def decide(state: State) -> Iterator[Said]:
            yield from (Said(f"{len(state)}{text}") for text in many)
            if refused:
                yield Said("!")

        if refused:
            with pytest.raises(ValueError, match="!"):
                self.run(self.machine.transact(decide))
        else:
            self.run(self.machine.transact(decide))
            before = len(self.state())
            self.happened(*(f"{before}{text}" for text in many))

    @rule(times=st.integers(1, 3))
    def snapshot(self, times: int) -> None:
        """Take one, or some behind one another."""
        for _ in range(times):
            assert self.run(self.machine.snapshot()).index == self.last

    @rule(by=st.integers(-50, 50))
    def clock_moves(self, by: int) -> None:
        """The physical clock goes on, or is set back."""
        self.wall_ns = max(1, self.wall_ns + by)

    @rule(policy=policies)
    def reopen(self, policy: SnapshotPolicy) -> None:
        """Close it and open it again, with another policy."""
        self.close()
        self.policy = policy
        self.open()

    @rule(old=st.lists(old_events, min_size=1, max_size=4))
    def older(self, old: list[SaidV1]) -> None:
        """An older program has written meanwhile; today's reads what it wrote."""
        self.close()

        async def write() -> None:
            clock = HybridLogicalClock(time_ns=lambda: self.wall_ns)
            async with Journal(home_of(self.place), SaidV1, clock=clock) as journal:
                await journal.append_many(old)

        self.run(write())
        for event in old:
            self.added.append((f"{self.last + 1} {event.text}",) * event.times)
        self.open()

    @precondition(lambda self: self.last > 0)
    @rule(which=st.integers(0, 2))
    def damaged(self, which: int) -> None:
        """A snapshot is damaged, unless it is the only way to the state: then opening is refused, and it is mended."""
        first, _ = self.kept()
        home = home_of(self.place)
        names = home.names()
        if which >= len(names):
            return
        saved = self.saved()
        damage_it(self.place, which)
        self.broken.add(self.content(names[which]))
        whole = {at for at, whole in self.kept()[1].items() if whole}
        if first > 1 and not any(at >= first - 1 for at in whole):
            self.close_as_it_is()
            with pytest.raises(CorruptSnapshotError):
                self.open()
            self.restored(saved)
            self.open()

    @precondition(lambda self: self.last > 0)
    @rule(point=points)
    def trimmed(self, point: float) -> None:
        """Somebody lets go of entries that are in the newest snapshot, whatever older snapshots there are."""
        newest = max((at for at, whole in self.kept()[1].items() if whole), default=0)
        index = round(point * newest) + 1
        self.run(self.machine._journal.truncate_before(index))

    @rule(new=st.lists(texts, max_size=3), policy=policies)
    def killed(self, new: list[str], policy: SnapshotPolicy) -> None:
        """It is killed between two calls: another one opens a copy of what is there."""
        for text in new:
            self.dispatch(text)
        self.close_as_it_is()
        self.policy = policy
        self.open()

    def close_as_it_is(self) -> None:
        """Close it, with what is there as it was before."""
        self.run(self.still())
        twin = InMemory()
        assert isinstance(self.place, InMemory)
        memory = self.place.memory
        for name in ("_kept", "_count", "_batches", "_first", "_epoch"):
            value = getattr(memory, name)
            setattr(twin.memory, name, list(value) if isinstance(value, list) else value)
        self.close()
        self.place = twin

    def saved(self) -> Any:
        """The snapshots that there are."""
        assert isinstance(self.place, InMemory)
        return list(self.place.memory._kept)

    def restored(self, saved: Any) -> None:
        """The snapshots are as they were."""
        assert isinstance(self.place, InMemory)
        self.place.memory._kept = saved

    # ------------------------------------------------------------------ what is looked at

    @rule(point=points, entered=st.booleans())
    def state_at(self, point: float, entered: bool) -> None:
        """The state at an index is what it was, or it is said that it is kept no more."""
        index = self.index_at(point)
        refusal = self.refusal(index)
        machine = self.machine if entered else self.made(home_of(self.place), self.policy)
        if refusal is not None:
            with pytest.raises(refusal):
                self.run(machine.state_at(index=index))
            return
        snapshot = self.run(machine.snapshot_at(index=index))
        assert (snapshot.state, snapshot.last_applied_index) == (self.state(index), index)
        if index and index in self.times:
            assert snapshot.last_applied_hlc == str(self.times[index])

    @rule(point=points, later=st.booleans())
    def state_at_a_time(self, point: float, later: bool) -> None:
        """So it is at an entry's own time, and at any time from there to the next entry's."""
        index = self.index_at(point)
        if index not in self.times or (index == 0 and self.kept()[0] > 1):
            return
        time = self.times[index]
        if later:
            time = Timestamp(time.wall_ns, time.logical, time.node + 1)
        refusal = self.refusal(index)
        if later and index < self.kept()[0] - 1:
            refusal = TruncatedError  # nobody knows when the next entry was written
        if refusal is not None:
            with pytest.raises((refusal, TruncatedError)):
                self.run(self.machine.state_at(hlc=time))
        else:
            assert self.run(self.machine.state_at(hlc=str(time))) == self.state(index)

    @rule()
    def verify_replay(self) -> None:
        """All that is kept leads to what there is, and all of it is replayed."""
        first, snapshots = self.kept()
        whole = [at for at, whole in snapshots.items() if whole and at >= first - 1]
        begin = 0 if first == 1 else min(whole)
        assert self.run(self.machine.verify_replay()) == self.last - begin

    @rule()
    def checked(self) -> None:
        """Today's program can read all that is there."""
        first, _ = self.kept()
        broken = sum(self.content(name) in self.broken for name in home_of(self.place).names())
        report = self.run(check(home_of(self.place), Said, State, upcasts=UPCASTS))
        assert (report.entries, len(report.errors)) == (self.last - first + 1, broken)

    @rule(point=st.none() | points, timed=st.booleans(), new=st.lists(texts, max_size=3), goes_on=st.booleans())
    def fork(self, point: float | None, timed: bool, new: list[str], goes_on: bool) -> None:
        """A fork, or a backup, is what there was at that point, and goes on alone, as the first one does."""
        index = self.last if point is None else self.index_at(point)
        at: int | Timestamp = self.times[index] if timed and index and index in self.times else index
        refusal = self.refusal(index)
        path = self.path()
        copying = self.machine.backup(path) if point is None else self.machine.fork(path, at=at)
        if refusal is not None:
            with pytest.raises((refusal, TruncatedError)):
                self.run(copying)
            assert not list(self.home.glob(f"{path.name}*"))
            return
        assert self.run(copying).index == index
        twin = self.run(self.goes_on_in(path, index, new))
        assert twin == (*self.state(index), *(f"{at} {text}" for at, text in enumerate(new, index + 1)))
        self.is_the_fold()
        if goes_on:
            self.close()
            self.place = InFiles(path)
            del self.added[index:]
            self.times = {at: time for at, time in self.times.items() if at <= index}
            self.happened(*new)
            self.become_of(path)
            self.open()

    async def goes_on_in(self, path: Path, index: int, new: list[str]) -> State:
        """The state of a machine on the copy, after some more."""
        backend = FileBackend(path, segment_bytes=1 << 13)
        async with self.made(backend, SnapshotPolicy(every_events=None, on_close=False, keep=9)) as twin:
            assert (twin.state, twin.cursor.index) == (self.state(index), index)
            if index and index in self.times:
                assert twin.cursor.hlc == str(self.times[index])
            for text in new:
                await twin.dispatch(Said(text))
            assert await twin.verify_replay() >= len(new)
            return twin.state

    def become_of(self, path: Path) -> None:
        """The machine is on that directory from now on."""
        memory = InMemory()
        source, target = FileBackend(path), memory.memory
        for _ in past_module.copying(source, target, None):
            pass
        self.place = memory

    # ------------------------------------------------------------------ what is seen

    @invariant()
    def is_the_fold(self) -> None:
        """Its state and its cursor are what has happened, and it is known when."""
        assert self.machine.state == self.state()
        assert self.machine.cursor.index == self.last
        self.times[0] = Timestamp(0, 0, 0)
        if self.last:
            self.times[self.last] = Timestamp.parse(self.machine.cursor.hlc)
        known = [time for _, time in sorted(self.times.items())]
        assert known == sorted(set(known))
        assert self.machine.last_snapshot_error is None


class APastInFiles(APast):
    """The same in files."""

    place: InFiles

    def make(self) -> Place:
        """In a directory."""
        return InFiles(self.path())

    def close_as_it_is(self) -> None:
        """As it is, by copying the directory."""
        self.run(self.still())
        path = self.path()
        shutil.copytree(self.place.path, path)
        self.close()
        shutil.rmtree(self.place.path)
        self.place = InFiles(path)

    def become_of(self, path: Path) -> None:
        """It is that directory already."""
        assert self.place.path == path

    def saved(self) -> dict[str, bytes]:
        """The snapshots that there are."""
        return {path.name: path.read_bytes() for path in self.place.path.glob("snapshot*")}

    def restored(self, saved: dict[str, bytes]) -> None:
        """The snapshots are as they were."""
        for name, data in saved.items():
            (self.place.path / name).write_bytes(data)


def bounded(examples: int, steps: int) -> settings:
    """So much, and what is found is not made shorter, for that would take minutes."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        suppress_health_check=list(HealthCheck),
        deadline=None,
    )


APast.TestCase.settings = bounded(12, 25)
APastInFiles.TestCase.settings = bounded(5, 18)


class TestInMemory(APast.TestCase):  # type: ignore[name-defined,misc]  made by Hypothesis
    """In memory."""


class TestInFiles(APastInFiles.TestCase):  # type: ignore[name-defined,misc]
    """In files."""


# ---------------------------------------------------------------------- it can fail


def one_too_few(patch: pytest.MonkeyPatch) -> None:
    """A fork is cut one entry too early, and says nothing of it."""
    real = past_module.copying

    def cut(source: Backend, target: Backend, until: int | None) -> Generator[None, None, Cursor]:
        cursor = yield from real(source, target, None if until is None else max(until - 1, source.bounds().first - 1))
        return cursor if until is None else Cursor(until, cursor.hlc)

    patch.setattr(past_module, "copying", cut)


def one_for_one(patch: pytest.MonkeyPatch) -> None:
    """Of the events that stand for an older one, only the first is applied."""
    real = folds_module.today
    patch.setattr(folds_module, "today", lambda event, upcasts: islice(real(event, upcasts), 1))


def from_the_first(patch: pytest.MonkeyPatch) -> None:
    """Where nothing leads to a state, it is folded from the initial one."""

    async def base(past: Any, kept: Any, target: int) -> Any:
        try:
            return await real(past, kept, target)
        except SwooshError:
            return msgspec.structs.replace(past._initial, index=max(past._initial.index, kept.bounds.first - 1))

    real = past_module.Past._base
    patch.setattr(past_module.Past, "_base", base)


MUTANTS: list[Callable[[pytest.MonkeyPatch], None]] = [one_too_few, one_for_one, from_the_first]


@contextmanager
def planted(mutant: Callable[[pytest.MonkeyPatch], None]) -> Iterator[None]:
    """With that bug."""
    with pytest.MonkeyPatch.context() as patch:
        mutant(patch)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_it_finds_what_is_wrong(mutant: Callable[[pytest.MonkeyPatch], None]) -> None:
    """The model finds each of these bugs; a failure that depends on how threads take turns may not come again."""
    until_found = settings(
        bounded(300, 30), phases=[Phase.generate], derandomize=True, database=None, report_multiple_bugs=False
    )
    with planted(mutant), pytest.raises((AssertionError, pytest.fail.Exception, Flaky)):
        run_state_machine_as_test(APast, settings=until_found)

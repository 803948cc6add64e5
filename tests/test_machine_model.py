"""Whatever is done to a machine and its snapshots, in whatever order: it is a plain fold, and never an empty start."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from swoosh_async import ConflictError, CorruptSnapshotError, Entry, HybridLogicalClock
from swoosh_async.machine import SnapshotPolicy, StateMachine

from ._faults import BOUND_S
from ._journals import InFiles, InMemory, Place
from ._lives import Life
from .test_machine import State, damage_it, home_of, machine_of

pytest.importorskip("fcntl", reason="a file backend needs flock")

T = TypeVar("T")

events = st.text(st.characters(min_codepoint=34, max_codepoint=126), min_size=1, max_size=8)
policies = st.builds(
    SnapshotPolicy,
    every_events=st.sampled_from([None, 1, 4, 20]),
    on_close=st.booleans(),
    keep=st.sampled_from([1, 2, 3]),
)


def apply(state: State, event: str, entry: Entry[str]) -> State:
    """All that has happened, with its index; an event that begins with ! is refused."""
    if event.startswith("!"):
        raise ValueError(event)
    return (*state, f"{entry.index} {event}")


class AMachine(RuleBasedStateMachine):
    """A machine beside a list of what has happened."""

    place: Place

    def __init__(self) -> None:
        super().__init__()
        self.place = self.make()
        self.runner = asyncio.Runner()
        self.wall_ns = 1000
        self.there: State = ()
        self.newest = ""
        self.broken: set[bytes] = set()
        self.policy = SnapshotPolicy(every_events=3)
        self.machine: StateMachine[State, str] = self.open()

    def make(self) -> Place:
        """Where it is."""
        return InMemory()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Run that, in time."""
        return self.runner.run(asyncio.wait_for(call, BOUND_S))

    def made(self) -> StateMachine[State, str]:
        """A machine there."""
        clock = HybridLogicalClock(time_ns=lambda: self.wall_ns)
        return machine_of(self.place, apply, policy=self.policy, clock=clock, batch_events=3)

    def open(self) -> StateMachine[State, str]:
        """Open it, in a task of its own that lives as long as it is open."""
        machine = self.made()
        self.life = Life(self.run, machine)
        return machine

    def close(self) -> None:
        """Close it."""
        self.life.end()

    def happened(self, *new: str) -> None:
        """These events were dispatched."""
        self.there += tuple(f"{index} {event}" for index, event in enumerate(new, len(self.there) + 1))

    def teardown(self) -> None:
        """Close it, and see that it is all there."""
        self.reopen()
        self.is_the_fold()
        self.close()
        self.runner.close()

    # ------------------------------------------------------------------ what is done

    @rule(event=events, expected=st.booleans())
    def dispatch(self, event: str, expected: bool) -> None:
        """Dispatch one event, with what is expected or without."""
        after = self.run(self.machine.dispatch(event, expected_index=len(self.there) if expected else None))
        self.happened(event)
        assert after == self.there

    @rule(many=st.lists(events, max_size=6))
    def dispatch_many(self, many: list[str]) -> None:
        """Dispatch several together."""
        after = self.run(self.machine.dispatch_many(many))
        self.happened(*many)
        assert after == self.there

    @rule(many=st.lists(st.lists(events, max_size=3), max_size=8), refused=st.integers(0, 8), size=st.integers(1, 700))
    def dispatch_at_once(self, many: list[list[str]], refused: int, size: int) -> None:
        """Dispatch and transact from several tasks at once, one of which is refused."""
        lists: list[list[str]] = [[event * size for event in some] for some in many]
        lists.insert(refused, ["fine", "!refused"])

        def decide(some: list[str], state: State) -> Iterable[str]:
            return [f"{len(state)} {event}" for event in some]

        async def all_of_them() -> list[Any]:
            calls = [
                self.machine.transact(partial(decide, some)) if number % 3 else self.machine.dispatch_many(some)
                for number, some in enumerate(lists)
            ]
            return await asyncio.gather(*calls, return_exceptions=True)

        outcomes = self.run(all_of_them())
        for number, (some, outcome) in enumerate(zip(lists, outcomes, strict=True)):
            if "!refused" in some and not (number % 3):
                assert isinstance(outcome, ValueError)
                continue
            self.happened(*(decide(some, self.there) if number % 3 else some))
            assert outcome == self.there

    @rule(off=st.sampled_from([-1, 1]))
    def conflict(self, off: int) -> None:
        """Expect another index than there is."""
        with pytest.raises(ConflictError):
            self.run(self.machine.dispatch("never", expected_index=len(self.there) + off))

    @rule(many=st.lists(events, max_size=3), refused=st.booleans())
    def transact(self, many: list[str], refused: bool) -> None:
        """Decide by the state, on something that is refused or not."""

        def decide(state: State) -> Iterable[str]:
            yield from many if len(state) % 2 else ()
            if refused:
                yield "!refused"

        if refused:
            with pytest.raises(ValueError, match="!refused"):
                self.run(self.machine.transact(decide))
        else:
            after = self.run(self.machine.transact(decide))
            self.happened(*(many if len(self.there) % 2 else ()))
            assert after == self.there

    @rule()
    def snapshot(self) -> None:
        """Take one."""
        assert self.run(self.machine.snapshot()).index == len(self.there)

    @rule(by=st.integers(-50, 50))
    def clock_moves(self, by: int) -> None:
        """The physical clock goes on, or is set back."""
        self.wall_ns = max(0, self.wall_ns + by)

    @rule(policy=policies)
    def reopen(self, policy: SnapshotPolicy | None = None) -> None:
        """Close it and open it again, with another policy."""
        self.close()
        self.policy = policy or self.policy
        self.machine = self.open()

    @rule(many=st.sampled_from([1, 1, 2, 9]))
    def damaged(self, many: int) -> None:
        """The newest snapshots are damaged; it comes back nevertheless, or, where it cannot, does not come at all."""
        self.close()
        home = home_of(self.place)
        saved, names = self.saved(), home.names()
        for which, name in enumerate(names[:many]):
            damage_it(self.place, which)
            self.broken.add(self.content(name))
        whole = [self.content(name) not in self.broken for name in names]
        if not any(whole) and (home.bounds().first > 1 or (names and not self.there)):
            with pytest.raises(CorruptSnapshotError) as caught:
                self.open()
            assert len(caught.value.others) == len(names)
            self.restored(saved)
            whole = [self.content(name) not in self.broken for name in names]
        self.machine = self.open()
        assert len(self.machine.recovery.damaged) == [*whole, True].index(True)
        self.is_the_fold()
        self.run(self.machine.snapshot())

    def content(self, name: str) -> bytes:
        """What is stored there."""
        with home_of(self.place).open(name) as source:
            return source.read(0, source.size_bytes)

    def saved(self) -> Any:
        """The snapshots that there are."""
        assert isinstance(self.place, InMemory)
        return list(self.place.memory._kept)

    def restored(self, saved: Any) -> None:
        """The snapshots are as they were."""
        assert isinstance(self.place, InMemory)
        self.place.memory._kept = saved

    # ------------------------------------------------------------------ what is seen

    @invariant()
    def is_the_fold(self) -> None:
        """Its state and its cursor are what has happened, and time has not gone back."""
        assert self.machine.state == self.there
        cursor = self.machine.cursor
        assert cursor.index == len(self.there)
        assert cursor.hlc >= self.newest
        self.newest = cursor.hlc
        assert self.machine.last_snapshot_error is None


class AMachineInFiles(AMachine):
    """The same in files, which outlive a kill."""

    place: InFiles

    def make(self) -> Place:
        """In a directory."""
        self.home = Path(tempfile.mkdtemp())
        self.copies = 0
        return InFiles(self.home / "0")

    def teardown(self) -> None:
        """As it is, and the files are removed."""
        try:
            super().teardown()
        finally:
            shutil.rmtree(self.home)

    def saved(self) -> dict[Path, bytes]:
        """The snapshots that there are."""
        return {path: path.read_bytes() for path in self.place.path.glob("snapshot*")}

    def restored(self, saved: dict[Path, bytes]) -> None:
        """The snapshots are as they were."""
        for path, data in saved.items():
            path.write_bytes(data)

    @initialize()
    def begins(self) -> None:
        """There is something to begin with."""
        self.dispatch("a", False)

    @precondition(lambda self: self.copies < 20)
    @rule(new=st.lists(events, max_size=3), policy=policies)
    def killed(self, new: list[str], policy: SnapshotPolicy) -> None:
        """It is killed between two calls: another one opens a copy of what is there."""
        for event in new:
            self.dispatch(event, False)
        self.copies += 1
        copy = self.home / f"{self.copies}"
        self.run(self.still())
        shutil.copytree(self.place.path, copy)
        self.close()
        shutil.rmtree(self.place.path)
        self.place = InFiles(copy)
        self.policy = policy
        self.machine = self.open()

    async def still(self) -> None:
        """Wait until no snapshot is being taken, for a copy of files that change is none."""
        async with self.machine._keeper.turns:
            return


AMachine.TestCase.settings = settings(
    max_examples=30, stateful_step_count=30, suppress_health_check=list(HealthCheck), deadline=None
)
AMachineInFiles.TestCase.settings = settings(
    max_examples=20, stateful_step_count=20, suppress_health_check=list(HealthCheck), deadline=None
)


class TestInMemory(AMachine.TestCase):  # type: ignore[name-defined,misc]  made by Hypothesis
    """In memory."""


class TestInFiles(AMachineInFiles.TestCase):  # type: ignore[name-defined,misc]
    """In files."""

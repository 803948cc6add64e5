"""Whoever is cancelled at a machine: nobody else's event is lost, none is applied twice, the state is the fold."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from swoosh_async.machine import SnapshotPolicy, StateMachine

from ._faults import BOUND_S, LOOPS, Backend, happens, poster, run, turns, until
from ._journals import Asked, InFiles
from .test_cancellation import NATIVELY, WAYS, cases
from .test_journal_cancellation import KINDS, held, place_of
from .test_machine import QUIET, Both, State, entered, written

pytest.importorskip("fcntl", reason="a file backend needs flock")

CALLS: dict[str, Callable[[StateMachine[State, str]], Any]] = {
    "dispatch_many": lambda machine: machine.dispatch_many(["new", "new"]),
    "transact": lambda machine: machine.transact(lambda state: ["new"] * len(state)),
}


@cases
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("step", ["append", "appended"])
def test_cancelled_at(step: str, call: str, backend: Backend, way: str, tmp_path: Path) -> None:
    """A dispatch that is cancelled in its thread returns when that has ended; it is in the state, once."""
    place = InFiles(tmp_path)
    watched = Both(place)

    async def main() -> None:
        async with entered(watched) as machine:
            await machine.dispatch("old")
            hold = held(watched, step)
            outcome = await WAYS[way](CALLS[call](machine), hold)
            assert hold.reached
            assert watched.working == 0
            assert outcome == ("cancelled" if way in NATIVELY else "returned")
            new = ("new",) * (2 if call == "dispatch_many" else 1)
            assert machine.state == ("old", *new)
            assert await machine.dispatch("next") == ("old", *new, "next")
            there = machine.state
        async with entered(place) as machine:
            assert machine.state == there

    run(backend, main)
    assert watched.trouble == []


class Caller(Asked):
    """One that dispatches, in one way or another, and may be cancelled."""

    def __init__(self, number: int) -> None:
        super().__init__(number, 1 + number % 3)
        self.after: State | None = None

    async def __call__(self, machine: StateMachine[State, str]) -> None:
        """Dispatch, and say what became of it."""
        try:
            with self.scope:
                if self.number % 4 == 3:
                    self.after = await machine.transact(lambda _: iter(self.events))
                elif len(self.events) == 1:
                    self.after = await machine.dispatch(self.events[0])
                else:
                    self.after = await machine.dispatch_many(self.events)
                self.end = "state"
        finally:
            self.end = self.end or "cancelled"


def wrongs(state: State, callers: list[Caller]) -> Iterator[str]:
    """What is otherwise than promised, when all callers have ended."""
    for caller in callers:
        places = [index for index, event in enumerate(state) if event in caller.events]
        if places and [state[index] for index in places] != caller.events:
            yield f"{caller.number} is there in part, twice, or out of order"
        if places and places[-1] - places[0] != len(places) - 1:
            yield f"{caller.number} is torn apart"
        if caller.end == "state" and (not places or caller.after != state[: places[-1] + 1]):
            yield f"{caller.number} was told of another state"
        if caller.end != "state" and not caller.asked:
            yield f"{caller.number} ended with {caller.end} unasked"


SUBSETS = pytest.mark.parametrize("subset", [{0}, {1}, {0, 1}, {5}, {1, 3, 5, 7}, set(range(1, 8)), set(range(8))])


@pytest.mark.anyio
@SUBSETS
@pytest.mark.parametrize("natively", [True, False])
@pytest.mark.parametrize("step", ["append", "appended"])
async def test_a_subset(step: str, natively: bool, subset: set[int], anyio_backend_name: str, tmp_path: Path) -> None:
    """Any of those who share commits, the leader included, may be cancelled: the others get their states."""
    if natively and anyio_backend_name == "trio":
        pytest.skip("trio has nothing native")
    place = InFiles(tmp_path)
    watched = Both(place)
    inside, let_go = threading.Event(), threading.Event()

    def hook(at: str) -> None:
        if at == step and not inside.is_set():
            inside.set()
            assert let_go.wait(BOUND_S)

    async with entered(watched) as machine:
        watched.hook = hook
        callers = [Caller(number) for number in range(8)]
        async with anyio.create_task_group() as tasks:
            for caller in callers:
                if natively:
                    caller.task = asyncio.create_task(caller(machine))
                else:
                    tasks.start_soon(caller, machine)
                if caller.number == 0:
                    await happens(inside)
                else:
                    await until(lambda: len(machine._journal._lane._waiting) == caller.number)  # noqa: B023
            for number in subset:
                callers[number].cancel(natively=natively)
            await turns()
            let_go.set()
            await until(lambda: all(caller.end for caller in callers))
        assert list(wrongs(machine.state, callers)) == []
        assert {int(event.partition(".")[0]) for event in machine.state} == {0} | (set(range(8)) - subset)
        assert callers[0].end == ("cancelled" if natively and 0 in subset else "state")
        assert list(machine.state) == await written(place)
    assert watched.trouble == []


class Storm:
    """Callers that come and go, and a worker that has some of them cancelled at each of its steps."""

    def __init__(self, watched: Both, seed: int, *, natively: bool) -> None:
        self.chance = random.Random(seed)
        self.natively = natively
        self.callers: list[Caller] = []
        self._post = poster()
        watched.hook = self._hook

    def _hook(self, step: str) -> None:
        """In the worker thread: have the loop cancel some, and wait until it has turned."""
        if step not in ("append", "appended") or self.chance.random() < 0.5:
            return
        turned = threading.Event()
        left = self.chance.randrange(1, 6)

        def turn() -> None:
            nonlocal left
            alive = [caller for caller in self.callers if not caller.ended]
            for caller in self.chance.sample(alive, min(len(alive), self.chance.choice([0, 0, 0, 1, 1, 2, 5]))):
                caller.cancel(natively=self.natively and self.chance.random() < 0.7)
            left -= 1
            if left:
                self._post(turn)
            else:
                turned.set()

        self._post(turn)
        assert turned.wait(BOUND_S), "the loop does not turn"

    async def rage(self, machine: StateMachine[State, str], count: int) -> None:
        """So many callers."""
        async with anyio.create_task_group() as tasks:
            for number in range(count):
                caller = Caller(number)
                self.callers.append(caller)
                if self.natively:
                    caller.task = asyncio.create_task(caller(machine))
                else:
                    tasks.start_soon(caller, machine)
                if self.chance.random() < 0.2:
                    await turns(self.chance.randrange(6))
            await until(lambda: all(caller.ended for caller in self.callers))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("backend", LOOPS)
@KINDS
def test_storm(kind: str, backend: Backend, seed: int, tmp_path: Path) -> None:
    """Cancelled at random, at every step and in every way, beside snapshots: the state is the fold of the journal."""
    place = place_of(kind, tmp_path)
    watched = Both(place)
    applied: list[str] = []

    def apply(state: State, event: str) -> State:
        applied.append(event)
        return (*state, event)

    async def main() -> None:
        natively = backend[0] == "asyncio"
        policy = SnapshotPolicy(every_events=20, keep=2)
        async with entered(watched, apply, policy=policy, batch_events=7) as machine:
            storm = Storm(watched, seed, natively=natively)
            await storm.rage(machine, 150)
            watched.hook = lambda _: None
            assert list(wrongs(machine.state, storm.callers)) == []
            assert {caller.end or "cancelled" for caller in storm.callers} == {"state", "cancelled"}
            assert applied == list(machine.state)
            there = await machine.dispatch("last")
            assert machine.last_snapshot_error is None
        async with entered(place, policy=QUIET) as machine:
            assert machine.state == there
        await to_thread.run_sync(watched.wait_until_idle)

    run(backend, main)
    assert watched.trouble == []

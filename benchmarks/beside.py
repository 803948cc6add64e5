"""Dispatching into a large state, alone and beside snapshots of it: how many events, and how the loop fares."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import anyio
import msgspec

from swoosh_async import FileBackend, OrchestratorState, Snapshot, SnapshotPolicy, SnapshotStore, StateMachine

from .events import Event, Started
from .laps import interleave, ratio
from .loops import LOOPS, run
from .markdown import figure
from .report import Bar, Bars, Table, Target
from .stall import Stall, stall_meter
from .states import orchestrator

__all__ = ["ALONE", "BESIDE", "TASKS", "Turn", "in_turns", "large_bars", "large_table", "large_targets"]

TASKS = 100_000
"""How many tasks the state has."""

COUNTING = "an apply that counts"
ALONE = "one of the tasks of a PersistentState"
BESIDE = "the same, and snapshots one after another"
UNCOLLECTED = "the same, and snapshots, after gc.disable()"
COPYING = "one of the tasks of an OrchestratorState"

_CALLERS = 64
_NOW_S = 1_764_000_000.0
_WARM_S = 0.3
_MEASURED_S = 2.0
_BESIDE_S = 7.0
"""So long that a snapshot ends, and what was replaced meanwhile is freed."""

_QUIET = SnapshotPolicy(every_events=None, on_close=False)


class Turn(msgspec.Struct, frozen=True):
    """How it went, once.

    Attributes:
        rate: Events a second.
        stall: How the loop fared.
        snapshot_s: How long each snapshot took, in seconds, from its call until the journal was trimmed.
    """

    rate: float
    stall: Stall
    snapshot_s: list[float]


def in_turns(directory: Path, rounds: int) -> dict[tuple[str, str], list[Turn]]:
    """Measure; what was found, by what an event does and by loop."""
    from swoosh_async.persistent import PersistentState

    stored = directory / "stored"
    ids = _store(stored)
    persistent, copied = (
        partial(_machine_on, stored, state, _begun) for state in (PersistentState(), OrchestratorState())
    )
    contestants: dict[tuple[str, str], Callable[[], Turn]] = {}
    for loop in LOOPS:
        turn = partial(_turn, directory / loop, loop, ids)
        contestants[COUNTING, loop] = partial(turn, partial(_machine_on, None, 0, _counted))
        contestants[ALONE, loop] = partial(turn, persistent)
        contestants[BESIDE, loop] = partial(turn, persistent, snapshots=True)
        contestants[UNCOLLECTED, loop] = partial(turn, persistent, snapshots=True, collected=False)
    contestants[COPYING, "asyncio"] = partial(turn, copied)
    return interleave("beside snapshots", contestants, rounds)


def _store(directory: Path) -> list[str]:
    """Store a snapshot, so that each turn's state is loaded and nobody else's; the ids of its tasks."""
    state = orchestrator(TASKS)

    async def save() -> None:
        await SnapshotStore(FileBackend(directory)).save(Snapshot(state=state))

    run("asyncio", save)
    return list(state.tasks)


def _counted(state: int, _: Event) -> int:
    return state + 1


def _begun(state: OrchestratorState, event: Started) -> OrchestratorState:
    return state.with_tasks(state.tasks[event.task].begun_by(event.worker))


def _machine_on(
    stored: Path | None, initial: Any, apply: Callable[[Any, Any], Any], directory: Path
) -> StateMachine[Any, Event]:
    """A machine that is to be entered, on a copy of what is stored."""
    if stored is not None:
        shutil.copytree(stored, directory)
    return StateMachine(FileBackend(directory), apply, initial, Event, policy=_QUIET)


def _turn(
    directory: Path,
    loop: str,
    ids: list[str],
    make: Callable[[Path], StateMachine[Any, Event]],
    *,
    snapshots: bool = False,
    collected: bool = True,
) -> Turn:
    try:
        with _garbage(collected=collected):
            return run(loop, partial(_measured, make(directory), ids, snapshots=snapshots))
    finally:
        shutil.rmtree(directory)


@contextmanager
def _garbage(*, collected: bool) -> Iterator[None]:
    if not collected:
        gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def _measured(entered: StateMachine[Any, Event], ids: list[str], *, snapshots: bool) -> Turn:
    snapshot_s: list[float] = []
    over = False
    async with entered as machine:

        async def dispatches(first: int) -> None:
            for task_id in islice(cycle(ids), first, None):
                if over:
                    return
                await machine.dispatch(Started(task_id, "worker-7", 1, _NOW_S, "host-7.cluster.local", "lease-7"))

        async def takes_snapshots() -> None:
            while not over:
                begun = time.perf_counter()
                await machine.snapshot()
                snapshot_s.append(time.perf_counter() - begun)

        async with anyio.create_task_group() as group:
            for caller in range(_CALLERS):
                group.start_soon(dispatches, caller * len(ids) // _CALLERS)
            if snapshots:
                group.start_soon(takes_snapshots)
            await anyio.sleep(_WARM_S)
            async with stall_meter() as meter:
                first, begun = machine.cursor.index, time.perf_counter()
                await anyio.sleep(_BESIDE_S if snapshots else _MEASURED_S)
                rate = (machine.cursor.index - first) / (time.perf_counter() - begun)
            over = True
    return Turn(rate, meter.read(), snapshot_s)


# ---------------------------------------------------------------------- what it comes to


def large_targets(found: dict[tuple[str, str], list[Turn]]) -> Iterator[Target]:
    """What was promised."""
    for loop in LOOPS:
        what = f"dispatch beside snapshots of {TASKS:,} tasks, {loop} / without them"
        yield Target(what, ratio(_rates(found[BESIDE, loop]), _rates(found[ALONE, loop])), 0.8, at_least=True)
    for loop in LOOPS:
        what = f"longest stall beside snapshots of {TASKS:,} tasks, {loop}"
        yield Target(what, 1000 * median(_longest(found[BESIDE, loop])), 10, "ms")


def large_table(found: dict[tuple[str, str], list[Turn]]) -> Table:
    """All of it."""
    columns = ["", "events a second", "of *alone*", "longest stall, ms", "worst of all, ms", "p99, ms", "a snapshot, s"]
    rows = [
        [
            f"{what}, {loop}",
            f"{median(_rates(turns)):,.0f}",
            figure(ratio(_rates(turns), _rates(found[ALONE, loop])), "×"),
            figure(1000 * median(_longest(turns))),
            figure(1000 * max(_longest(turns))),
            figure(1000 * median(turn.stall.p99_s for turn in turns)),
            figure(median(took)) if (took := [s for turn in turns for s in turn.snapshot_s[:1]]) else "",
        ]
        for (what, loop), turns in found.items()
    ]
    title = f"Dispatching by {_CALLERS} tasks, with an `apply` that changes one of {TASKS:,}; *alone* is *{ALONE}*"
    return Table(title, columns, rows)


def large_bars(found: dict[tuple[str, str], list[Turn]]) -> Bars:
    """The rates."""
    bars = [Bar(f"{what}, {loop}", median(_rates(turns)), what == BESIDE) for (what, loop), turns in found.items()]
    return Bars(f"events a second by {_CALLERS} tasks, each changing one of {TASKS:,}", bars)


def _rates(turns: list[Turn]) -> list[float]:
    return [turn.rate for turn in turns]


def _longest(turns: list[Turn]) -> list[float]:
    return [turn.stall.longest_s for turn in turns]

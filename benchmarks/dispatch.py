"""The suite of the state machine: dispatching beside the journal alone and beside snapshots, and recovery by hand."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from swoosh_async import EventCodec, FileBackend, Journal, SnapshotPolicy, StateMachine

from .appenders import rate, swoosh
from .beside import in_turns, large_bars, large_table, large_targets
from .events import Event, Finished, Scheduled, event
from .journal import filled
from .laps import interleave, ratio
from .loops import LOOPS, run
from .machine import machine
from .markdown import figure
from .report import Bar, Bars, Report, Table, Target

__all__ = ["measure"]

_ROUNDS = 7
_LONG_ROUNDS = 21
_TURNS = 3
_LONG_TURNS = 7
_TASKS, _EACH = 64, 150
_REPLAYED = 1_000_000
_REPLAY_ROUNDS = 3

_JOURNAL = "Journal.append"
_DISPATCH = "StateMachine.dispatch"
_BY_HAND = "journal.read() and apply, by hand"
_RECOVERY = "entering the machine"


class Counted(msgspec.Struct, frozen=True):
    """A state that is small: what there was, counted."""

    scheduled: int = 0
    finished: int = 0
    others: int = 0


def count(state: Counted, event: Event) -> Counted:
    """What an event does to it."""
    match event:
        case Scheduled():
            return Counted(state.scheduled + 1, state.finished, state.others)
        case Finished():
            return Counted(state.scheduled, state.finished + 1, state.others)
        case _:
            return Counted(state.scheduled, state.finished, state.others + 1)


def measure(directory: Path, *, long: bool) -> Report:
    """Measure, writing in `directory`."""
    where = machine(directory)
    rates = _dispatched(directory, _LONG_ROUNDS if long else _ROUNDS)
    large = in_turns(directory / "large", _LONG_TURNS if long else _TURNS)
    recovery = _recovered(directory / "recovery")
    targets = [
        Target(
            f"{_DISPATCH}, {_TASKS} tasks, {loop} / {_JOURNAL}",
            ratio(rates[f"{_DISPATCH} on {loop}"], rates[f"{_JOURNAL} on {loop}"]),
            0.6,
            at_least=True,
        )
        for loop in LOOPS
    ]
    what = f"recovery of {_REPLAYED:,} events / {_BY_HAND}"
    targets.append(Target(what, ratio(recovery[_RECOVERY], recovery[_BY_HAND]), 1.3))
    targets += large_targets(large)
    tables = [_rates_table(rates), large_table(large), _recovery_table(recovery)]
    bars = [Bar(name, median(found), name.startswith(_DISPATCH)) for name, found in rates.items()]
    pictures = [Bars(f"events a second by {_TASKS} tasks, each durable", bars), large_bars(large)]
    return Report("machine", where, targets, tables, pictures)


def _dispatched(parent: Path, rounds: int) -> dict[str, list[float]]:
    contestants: dict[str, Callable[[], float]] = {}
    for loop in LOOPS:
        for name, opener in ((_JOURNAL, swoosh), (_DISPATCH, _machine)):
            path = parent / f"{name} on {loop}"
            path.mkdir()
            contestants[path.name] = partial(rate, loop, opener, path, event(1), tasks=_TASKS, each=_EACH)
    return interleave("dispatch", contestants, rounds)


@asynccontextmanager
async def _machine(directory: Path) -> AsyncGenerator[Callable[[Any], Awaitable[object]], None]:
    backend = FileBackend(directory / "machine")
    async with StateMachine(backend, count, Counted(), Event, policy=SnapshotPolicy(every_events=None)) as machine_:
        yield machine_.dispatch


def _recovered(directory: Path) -> dict[str, list[float]]:
    filled(directory, EventCodec(Event), _REPLAYED)

    async def by_hand() -> float:
        begun = time.perf_counter()
        async with Journal(FileBackend(directory), Event) as journal:
            state = Counted()
            async for entry in journal.read():
                state = count(state, entry.event)
            return time.perf_counter() - begun

    async def entered() -> float:
        policy = SnapshotPolicy(every_events=None, on_close=False)
        begun = time.perf_counter()
        async with StateMachine(FileBackend(directory), count, Counted(), Event, policy=policy):
            return time.perf_counter() - begun

    contestants = {_BY_HAND: partial(run, "asyncio", by_hand), _RECOVERY: partial(run, "asyncio", entered)}
    return interleave("recovery", contestants, _REPLAY_ROUNDS)


def _rates_table(rates: dict[str, list[float]]) -> Table:
    rows = []
    for name, found in rates.items():
        base = rates[f"{_JOURNAL} on {name.rpartition(' ')[2]}"]
        rows.append([name, f"{median(found):,.0f}", figure(ratio(found, base), "×")])
    columns = ["", "events a second", f"of *{_JOURNAL}*"]
    return Table(f"Dispatching by {_TASKS} tasks, with an `apply` that counts", columns, rows)


def _recovery_table(found: dict[str, list[float]]) -> Table:
    rows = [[name, figure(median(took)), figure(ratio(took, found[_BY_HAND]), "×")] for name, took in found.items()]
    return Table(f"Coming back from {_REPLAYED:,} events and no snapshot", ["", "s", f"of *{_BY_HAND}*"], rows)

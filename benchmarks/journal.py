"""The suite of the journal: appends by one and by many tasks beside the bare loop and SQLite, replay, and opening."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import msgspec

from swoosh_async import EventCodec, FileBackend, Journal, Timestamp
from swoosh_async.backends.base import Batch, Epoch, Index

from .appenders import bare_loop, rate, sqlite, sqlite_shared, swoosh
from .events import Event, event
from .laps import interleave, ratio
from .loops import LOOPS, run
from .machine import machine
from .markdown import figure
from .report import Bar, Bars, Report, Table, Target
from .stall import Stall, stall_meter

__all__ = ["filled", "measure"]

_ROUNDS = 7
_LONG_ROUNDS = 21
_TASKS = (1, 8, 64, 512)
_EACH = {1: 600, 8: 300, 64: 150, 512: 60}
_SQLITE_EACH = {1: 300, 8: 60, 64: 20, 512: 4}
_BARE_WRITES = 600

_REPLAYED = 1_000_000
_REPLAY_ROUNDS = 5
_SMALL, _LARGE = 10_000, 10_000_000
_BATCH = 1_000
_OPENINGS = 15

_BARE = "bare loop, one by one"
_SQLITE = "aiosqlite, a commit for each"
_SQLITE_SHARED = "aiosqlite, tasks in one another's transactions"


def measure(directory: Path, *, long: bool) -> Report:
    """Measure, writing in `directory`."""
    where = machine(directory)
    tables, pictures, targets = [], [], []
    found = {tasks: _appends(directory / str(tasks), tasks, _LONG_ROUNDS if long else _ROUNDS) for tasks in _TASKS}
    for tasks, rates in found.items():
        targets += _append_targets(tasks, rates)
    tables.append(_append_table(found))
    pictures.append(_append_bars(found[64], "events appended a second by 64 tasks, each durable"))
    pictures.append(_append_bars(found[512], "the same by 512 tasks"))
    for found_table, found_targets in (_replay(directory / "replay"), _opening(directory / "open")):
        tables.append(found_table)
        targets += found_targets
    return Report("journal", where, targets, tables, pictures)


# ---------------------------------------------------------------------- append


def _appends(parent: Path, tasks: int, rounds: int) -> dict[str, list[float]]:
    data = msgspec.msgpack.encode(event(1))
    contestants: dict[str, Callable[[], float]] = {
        _BARE: partial(bare_loop, _made(parent / "bare"), _BARE_WRITES, data)
    }
    for loop in LOOPS:
        path = _made(parent / loop)
        contestants[f"swoosh_async on {loop}"] = partial(
            rate, loop, swoosh, path, event(1), tasks=tasks, each=_EACH[tasks]
        )
    path = _made(parent / "sqlite")
    for name, opener in ((_SQLITE, sqlite), (_SQLITE_SHARED, sqlite_shared)):
        contestants[name] = partial(rate, "asyncio", opener, path, event(1), tasks=tasks, each=_SQLITE_EACH[tasks])
    return interleave(f"append, {tasks} tasks", contestants, rounds)


def _append_targets(tasks: int, rates: dict[str, list[float]]) -> list[Target]:
    bounds = {1: (0.3, 1.0), 64: (7.0, 12.0), 512: (14.0, None)}.get(tasks)
    if bounds is None:
        return []
    targets: list[Target] = []
    who = "1 task" if tasks == 1 else f"{tasks} tasks"
    for loop in LOOPS:
        ours = rates[f"swoosh_async on {loop}"]
        for base, bound in zip((_BARE, _SQLITE), bounds, strict=True):
            if bound is not None:
                what = f"append, {who}, {loop} / {base}"
                targets.append(Target(what, ratio(ours, rates[base]), bound, at_least=True))
    return targets


def _append_table(found: dict[int, dict[str, list[float]]]) -> Table:
    columns = ["events a second, each durable when it returns"]
    for tasks in found:
        columns += [f"{tasks} tasks" if tasks > 1 else "1 task", f"of *{_BARE}*"]
    rows = []
    for name in found[1]:
        row = [name]
        for rates in found.values():
            row += [f"{median(rates[name]):,.0f}", figure(ratio(rates[name], rates[_BARE]), "×")]
        rows.append(row)
    return Table("Appending events of some 190 bytes, one call each", columns, rows)


def _append_bars(rates: dict[str, list[float]], title: str) -> Bars:
    return Bars(title, [Bar(name, median(found), "swoosh" in name) for name, found in rates.items()])


# ---------------------------------------------------------------------- replay


def _replay(directory: Path) -> tuple[Table, list[Target]]:
    codec: EventCodec[Event] = EventCodec(Event)
    filled(directory, codec, _REPLAYED)
    arrays = [bytes(part.data) for data in _batches(directory, _REPLAYED) for part in codec.parts(data)]
    decode = msgspec.msgpack.Decoder(list[Event]).decode

    def bare() -> float:
        begun = time.perf_counter()
        count = sum(len(decode(array)) for array in arrays)
        return count / (time.perf_counter() - begun)

    contestants: dict[str, Callable[[], float]] = {"msgspec alone": bare}
    stalls: dict[str, Stall] = {}
    for loop in LOOPS:
        contestants[f"swoosh_async on {loop}"] = partial(_replayed, loop, directory)
    rates = interleave("replay", contestants, _REPLAY_ROUNDS)
    for loop in LOOPS:
        stalls[f"swoosh_async on {loop}"] = run(loop, partial(_replay_stall, directory))
    rows = []
    targets: list[Target] = []
    for name, found in rates.items():
        stall = stalls.get(name)
        late = [figure(stall.longest_s * 1e3), figure(stall.p99_s * 1e3)] if stall else ["", ""]
        rows.append([name, f"{median(found):,.0f}", figure(ratio(found, rates["msgspec alone"]), "×"), *late])
        if stall is not None:
            what = f"replay of {_REPLAYED:,} events: {name}"
            over = ratio(found, rates["msgspec alone"])
            targets.append(Target(f"{what} / msgspec alone, from memory", over, 0.75, at_least=True))
            targets.append(Target(f"{what}: longest stall", stall.longest_s * 1e3, 10, "ms"))
    columns = ["", "events a second", "of *msgspec alone*", "longest stall, ms", "p99, ms"]
    return Table(f"Replaying {_REPLAYED:,} events with `async for`, from the page cache", columns, rows), targets


def _replayed(loop: str, directory: Path) -> float:
    async def replay() -> float:
        async with Journal(FileBackend(directory), Event, read_only=True) as journal:
            begun, count = time.perf_counter(), 0
            async for _ in journal.read():
                count += 1
            return count / (time.perf_counter() - begun)

    return run(loop, replay)


async def _replay_stall(directory: Path) -> Stall:
    async with Journal(FileBackend(directory), Event, read_only=True) as journal, stall_meter() as meter:
        async for _ in journal.read():
            pass
    return meter.read()


# ---------------------------------------------------------------------- open


def _opening(directory: Path) -> tuple[Table, list[Target]]:
    codec: EventCodec[Event] = EventCodec(Event)
    sizes = {count: directory / str(count) for count in (_SMALL, _LARGE)}
    for count, path in sizes.items():
        filled(path, codec, count)
    contestants = {count: partial(_opened, path) for count, path in sizes.items()}
    found = interleave("open", contestants, _OPENINGS)
    rows = [
        [f"{count:,} events", figure(median(took) * 1e3), figure(ratio(took, found[_SMALL]), "×")]
        for count, took in found.items()
    ]
    what = f"opening a journal of {_LARGE:,} events / of {_SMALL:,}"
    target = Target(what, ratio(found[_LARGE], found[_SMALL]), 2.0)
    return Table("Opening a journal for writing", ["", "median, ms", f"of *{_SMALL:,} events*"], rows), [target]


def _opened(directory: Path) -> float:
    async def opened() -> float:
        journal = Journal(FileBackend(directory), Event)
        begun = time.perf_counter()
        async with journal:
            return time.perf_counter() - begun

    return run("asyncio", opened)


# ---------------------------------------------------------------------- journals to read


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


def filled(directory: Path, codec: EventCodec[Event], count: int) -> None:
    """Make a journal of so many events, a thousand in a batch; each batch has the same ones, for speed."""
    events = [codec.encode(event(i)) for i in range(_BATCH)]
    backend = FileBackend(directory)
    epoch = backend.claim().epoch
    try:
        for first in range(1, count + 1, _BATCH):
            data = codec.batch(Timestamp(wall_ns=first), events)
            backend.append(Batch(Index(first), _BATCH, Epoch(epoch), data))
    finally:
        backend.release()
    os.sync()


def _batches(directory: Path, count: int) -> Sequence[bytes]:
    backend = FileBackend(directory)
    found: list[bytes] = []
    after = 0
    while after < count:
        batches = backend.read(Index(after), 1 << 20)
        found += [batch.data for batch in batches]
        after = batches[-1].last
    return found

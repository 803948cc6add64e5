"""The suite of large states: time, stall and memory of a save and a load of 500,000 tasks, beside the naive ways."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from . import savers, states
from .case import FROZEN, LATER, ONESHOT, ONESHOT_DECODED, OURS, PEERS, UNVERIFIED, Found, measure_case
from .child import in_child
from .laps import ratio
from .loops import LOOPS
from .machine import machine
from .markdown import figure
from .memory import How, peak_bytes
from .report import Bar, Bars, Report, Table, Target
from .runs import Watched
from .savers import Opener

__all__ = ["measure"]

_TASKS = 500_000
_TEXT_TASKS = 1000
_TEXT_BYTES = 50_000_000
_ROUNDS = 3
_LONG_ROUNDS = 11
_MEMORY_MB = 16
_HOWS: tuple[How, ...] = ("traced", "resident")
_SAVERS = (OURS, UNVERIFIED)

Peaks = dict[tuple[str, How], int]


class _Case(msgspec.Struct, frozen=True):
    """A state to be measured.

    Attributes:
        name: What it is.
        make: Makes it; a module's function, or a partial of one.
        longest_ms: How long the loop may stall during a save, in milliseconds.
        p99_ms: The same for 99 of 100 wakes; None where nothing was promised.
        peers: Who takes part beside this package and msgspec's single call.
    """

    name: str
    make: Callable[[], Any]
    longest_ms: float
    p99_ms: float | None
    peers: dict[str, Opener]


_CASES = (
    _Case("500,000 tasks of the default state", partial(states.orchestrator, _TASKS), 10, 3, PEERS),
    _Case("500,000 records of a user's own type", partial(states.fleet, _TASKS), 10, 3, {}),
    _Case("one task with a text of 50 MB", partial(states.with_text, _TEXT_TASKS, _TEXT_BYTES), 30, None, {}),
)


def measure(directory: Path, *, long: bool) -> Report:
    """Measure, writing in `directory`."""
    where = machine(directory)
    rounds = _LONG_ROUNDS if long else _ROUNDS
    targets: list[Target] = []
    tables: list[Table] = []
    pictures: list[Bars] = []
    for i, case in enumerate(_CASES):
        here = directory / f"case{i}"
        here.mkdir()
        print(f"  {case.name}", file=sys.stderr)
        found = in_child(measure_case, case.make, here, rounds, case.peers)
        peaks = _peaks(case, here)
        targets += _targets(case, found, peaks)
        tables += _tables(case, found, peaks)
        pictures += _pictures(case, found, peaks)
    return Report("large", where, targets, tables, [*pictures])


def _peaks(case: _Case, directory: Path) -> Peaks:
    """Peers that encode with other libraries are not traced: each allocation would be, and there are many."""
    contestants: dict[str, Opener] = {
        OURS: savers.swoosh,
        UNVERIFIED: savers.swoosh_unverified,
        ONESHOT: savers.oneshot_in_thread,
        **case.peers,
    }
    return {
        (name, how): peak_bytes(how, opener, case.make, directory)
        for name, opener in contestants.items()
        for how in (("resident",) if name in case.peers else _HOWS)
    }


# ---------------------------------------------------------------------- what was found


def _targets(case: _Case, found: Found, peaks: Peaks) -> list[Target]:
    saves, loads = found.saves, found.loads
    targets = []
    for name in _SAVERS:
        watched = [found.saves_watched[name, loop] for loop in LOOPS]
        what = f"{case.name}: stall of the worst of {', '.join(LOOPS)}, {name}"
        targets.append(Target(f"{what}: longest", max(map(_longest_ms, watched)), case.longest_ms, "ms"))
        if case.p99_ms is not None:
            targets.append(Target(f"{what}: p99", max(map(_p99_ms, watched)), case.p99_ms, "ms"))
    if case.p99_ms is None:
        return targets
    for name, base, bound in ((UNVERIFIED, ONESHOT, 1.5), (OURS, ONESHOT_DECODED, 1.1)):
        targets.append(Target(f"{case.name}: time of a save, {name} / {base}", ratio(saves[name], saves[base]), bound))
    loads_ratio = ratio(loads[OURS], loads[ONESHOT])
    targets.append(Target(f"{case.name}: time of a load / read + SHA-256 + {ONESHOT}", loads_ratio, 1.15))
    for how in _HOWS:
        worst = max(peaks[name, how] for name in _SAVERS) / 1e6
        targets.append(
            Target(f"{case.name}: memory above the state, {how}, with and without verify", worst, _MEMORY_MB, "MB")
        )
    return targets


def _tables(case: _Case, found: Found, peaks: Peaks) -> list[Table]:
    size = figure(found.size_bytes / 1e6, "MB")
    collection = figure(found.collection_s * 1e3, "ms")
    name = case.name
    return [
        _times(f"{name}, {size}: time of a save, on asyncio or blocking", found.saves, ONESHOT),
        _stalls(f"{name}: the loop during a save (a full garbage collection: {collection})", found.saves_watched),
        _memory(f"{name}: memory above the state during a save", peaks),
        _times(f"{name}: time of a load, on asyncio or blocking", found.loads, ONESHOT),
        _stalls(f"{name}: the loop during a load", found.loads_watched),
    ]


def _times(title: str, took: Mapping[str, list[float]], base: str) -> Table:
    rows = [
        [name, figure(median(took_s)), figure(min(took_s)), figure(ratio(took_s, took[base]), "×")]
        for name, took_s in took.items()
    ]
    return Table(title, ["", "median, s", "least, s", f"of *{base}*"], rows)


def _stalls(title: str, watched: Mapping[tuple[str, str], list[Watched]]) -> Table:
    rows = [
        [
            f"{name} on {loop}",
            figure(_longest_ms(each)),
            figure(max(w.stall.longest_s for w in each) * 1e3),
            figure(_p99_ms(each)),
            figure(_median(w.stall.p50_s * 1e3 for w in each)),
            f"{_median(w.stall.wakes for w in each):,.0f}",
            figure(_median(w.stall.lost * 100 for w in each)),
            figure(_median(w.took_s for w in each)),
        ]
        for (name, loop), each in watched.items()
    ]
    columns = ["", "longest, ms", "worst of all, ms", "p99, ms", "p50, ms", "wakes", "lost, % of the time", "took, s"]
    return Table(title, columns, rows)


def _memory(title: str, peaks: Peaks) -> Table:
    names = dict.fromkeys(name for name, _ in peaks)
    rows = [
        [name, *(figure(peaks[name, how] / 1e6) if (name, how) in peaks else "" for how in _HOWS)] for name in names
    ]
    return Table(title, ["", *(f"{how}, MB" for how in _HOWS)], rows)


def _pictures(case: _Case, found: Found, peaks: Peaks) -> list[Bars]:
    """The longest stall of each on asyncio, and ours on all loops; time and memory where there are peers."""
    stalls = [
        _bar(f"{name} on {loop}", _longest_ms(each))
        for (name, loop), each in found.saves_watched.items()
        if name == OURS or (loop == "asyncio" and name not in (FROZEN, ONESHOT_DECODED))
    ]
    title = f"{case.name}: longest stall in a save, ms (log scale; dashed: target)"
    pictures = [Bars(title, stalls, case.longest_ms, logarithmic=True)]
    if case.peers:
        times = [_bar(name, median(took_s)) for name, took_s in found.saves.items() if name != LATER]
        memory = [_bar(name, peak / 1e6) for (name, how), peak in peaks.items() if how == "resident"]
        pictures.append(Bars(f"{case.name}: time of a save, s", times))
        title = f"{case.name}: memory above the state, MB (log scale; dashed: target)"
        pictures.append(Bars(title, memory, _MEMORY_MB, logarithmic=True))
    return pictures


def _bar(label: str, value: float) -> Bar:
    return Bar(label, value, OURS in label)


def _longest_ms(watched: Iterable[Watched]) -> float:
    return _median(w.stall.longest_s * 1e3 for w in watched)


def _p99_ms(watched: Iterable[Watched]) -> float:
    return _median(w.stall.p99_s * 1e3 for w in watched)


def _median(values: Iterable[float]) -> float:
    return median(list(values))

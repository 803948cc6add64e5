"""The suite of sizes: how the cost of a save and a load grows with the state, from 1 KB to 500 MB."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

import msgspec

from . import loaders, oneshot, savers
from .child import in_child
from .laps import interleave
from .machine import machine
from .markdown import figure
from .report import Lines, Report, Table, Target
from .runs import timed, timed_blocking, watched
from .states import orchestrator

__all__ = ["measure"]

_TASKS = (4, 100, 1000, 5000, 20_000, 50_000, 100_000, 200_000)
_LONG_TASKS = (*_TASKS, 500_000, 1_000_000, 2_000_000, 2_500_000)
_GROWTH_FROM_TASKS = 10_000
_GROWTH = 1.1
_ROUNDS = 5
_ROUNDS_OF_SMALL = 25
_SMALL_TASKS = 5000
"""Up to here a save is repeated more often, by a store that has saved before: what it does once would outweigh it."""

_SAVE = "save"
_UNVERIFIED = "save, verify=False"
_LOAD = "load_latest"
_ONESHOT = "msgspec in one call, written, blocking"


class _Found(msgspec.Struct, frozen=True):
    """What was found at one size; times are medians, in seconds.

    Attributes:
        tasks: How many tasks the state has.
        size_bytes: The file's length.
        took_s: By contestant.
        longest_s: The longest stall of asyncio during a save.
    """

    tasks: int
    size_bytes: int
    took_s: dict[str, float]
    longest_s: float


def measure(directory: Path, *, long: bool) -> Report:
    """Measure, writing in `directory`."""
    where = machine(directory)
    found = [in_child(_measure, tasks, directory) for tasks in (_LONG_TASKS if long else _TASKS)]
    return Report(
        "sizes", where, [_target(name, found) for name in (_SAVE, _UNVERIFIED, _LOAD)], [_table(found)], [_lines(found)]
    )


def _measure(tasks: int, directory: Path) -> _Found:
    print(f"  {tasks:,} tasks", file=sys.stderr)
    state = orchestrator(tasks)
    here = directory / str(tasks)
    here.mkdir()
    small = tasks <= _SMALL_TASKS
    rounds = _ROUNDS_OF_SMALL if small else _ROUNDS
    took = interleave("times", _contestants(state, here, warm=small), rounds)
    stalls = interleave("stalls", {_SAVE: partial(watched, "asyncio", savers.swoosh, here, state)}, rounds)
    return _Found(
        tasks=tasks,
        size_bytes=(here / "snapshot.json").stat().st_size,
        took_s={name: median(took_s) for name, took_s in took.items()},
        longest_s=median(watch.stall.longest_s for watch in stalls[_SAVE]),
    )


def _contestants(state: Any, directory: Path, *, warm: bool) -> dict[str, Callable[[], float]]:
    """Loading comes after saving, also in the first round."""
    return {
        _SAVE: partial(timed, "asyncio", savers.swoosh, directory, state, warm=warm),
        _UNVERIFIED: partial(timed, "asyncio", savers.swoosh_unverified, directory, state, warm=warm),
        _LOAD: partial(timed, "asyncio", loaders.swoosh_load, directory, type(state)),
        _ONESHOT: partial(timed_blocking, partial(oneshot.save, directory / "oneshot.json", state)),
    }


# ---------------------------------------------------------------------- what was found


def _growth(name: str, found: Sequence[_Found]) -> float:
    """The slope in the picture: 1 where twice the tasks take twice the time."""
    large = _large(found)
    return linear_regression(
        [math.log(each.tasks) for each in large], [math.log(each.took_s[name]) for each in large]
    ).slope


def _large(found: Sequence[_Found]) -> list[_Found]:
    return [each for each in found if each.tasks >= _GROWTH_FROM_TASKS]


def _target(name: str, found: Sequence[_Found]) -> Target:
    large = _large(found)
    what = f"{name}: time grows as tasks to this power, {large[0].tasks:,} to {large[-1].tasks:,} tasks"
    return Target(what, _growth(name, found), _GROWTH, "")


def _table(found: Sequence[_Found]) -> Table:
    rows = [
        [
            f"{each.tasks:,}",
            figure(each.size_bytes / 1e6),
            *(figure(took_s * 1e3) for took_s in each.took_s.values()),
            figure(each.took_s[_SAVE] / each.tasks * 1e6),
            figure(each.longest_s * 1e3),
        ]
        for each in found
    ]
    powers = [figure(_growth(name, found)) for name in found[0].took_s]
    rows.append([f"*power from {_GROWTH_FROM_TASKS:,} on*", "", *powers, "", ""])
    names = [f"{name}, ms" for name in found[0].took_s]
    columns = ["tasks", "MB", *names, "save, µs a task", "longest stall in a save, ms"]
    return Table(
        f"Medians, on asyncio; above {_SMALL_TASKS:,} tasks, each save and load with a new store", columns, rows
    )


def _lines(found: Sequence[_Found]) -> Lines:
    names = list(found[0].took_s)
    lines = {name: [(each.tasks, each.took_s[name] * 1e3) for each in found] for name in names}
    lines["longest stall in a save"] = [(each.tasks, each.longest_s * 1e3) for each in found]
    return Lines("time over the number of tasks", "tasks of about 200 bytes", "milliseconds", lines)

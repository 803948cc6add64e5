"""Disks crashed and processes killed at every point of what is done, and what is wrong in what they leave."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from swoosh_async.backends.file import _directory, _reader, _segment
from swoosh_async.testing import CrashDisk, CrashState, Trace, crash_states

__all__ = ["Check", "Do", "Found", "crashed", "crashed_twice", "home", "killed", "limit", "most", "recorded"]

Check = Callable[[Path, Sequence[Any]], None]
"""Given the directory that a crash has left, and the marks: raises what is wrong."""

Do = Callable[[CrashDisk], object]
"""Does something on a disk, and marks what was acknowledged."""


class Found(msgspec.Struct):
    """What came of it.

    Attributes:
        states: In how many states it was looked at.
        wrong: What was wrong, and in which.
    """

    states: int = 0
    wrong: list[str] = []

    def add(self, other: Found) -> None:
        """Add what came of another."""
        self.states += other.states
        self.wrong += other.wrong


@pytest.fixture
def home(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where to write states to, in memory where that can be, for they are many; readers wait for no writer there."""
    monkeypatch.setattr(_directory, "warn_of", lambda _: None)
    monkeypatch.setattr(_reader, "_PAUSE_S", 0.0)
    monkeypatch.setattr(_segment, "_PAUSE_S", 0.0)
    memory = Path("/dev/shm")
    ours = memory / f"{tmp_path_factory.getbasetemp().name}-{tmp_path.name}"
    path = ours if memory.is_dir() else tmp_path
    path.mkdir(exist_ok=True)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def limit(request: pytest.FixtureRequest) -> int:
    """The most states for one point."""
    states: int = request.config.getoption("--states")
    return max(10, states // 8)


@pytest.fixture
def most(request: pytest.FixtureRequest) -> int:
    """How many crashes to go on from."""
    states: int = request.config.getoption("--states")
    return max(5, states // 25)


def recorded(home: Path, do: Do, make: Callable[[Path], CrashDisk] = CrashDisk) -> Trace:
    """What that did to a disk, which is empty at first."""
    with closing(_directories(home)) as directories:
        disk = make(next(directories))
        do(disk)
        return disk.trace


def crashed(
    trace: Trace, check: Check, home: Path, *, limit: int, before: Sequence[Any] = (), first: bool = False
) -> Found:
    """Check each state in which a crash may leave that disk.

    Args:
        trace: What was done to it.
        check: What must hold.
        home: Where to write the states to.
        limit: As for `crash_states`.
        before: What had been marked before the trace began.
        first: Whether to end with the first that is wrong.
    """
    found = Found()
    with closing(_directories(home)) as directories:
        for state in crash_states(trace, limit=limit):
            found.states += 1
            wrong = _wrong_in(state, check, next(directories), before)
            found.wrong += [wrong] if wrong else []
            if first and wrong:
                break
    return found


def crashed_twice(
    trace: Trace, then: Do, check: Check, home: Path, *, limit: int, most: int, seed: int = 0, first: bool = False
) -> Found:
    """Crash it, do something on what is left, crash that too, and check.

    Args:
        trace: What was done at first.
        then: What is done on what a crash has left of it.
        check: What must hold.
        home: Where to write the states to.
        limit: As for `crash_states`, for each of the crashes.
        most: How many of the first crashes to go on from, at most.
        seed: Which of them.
        first: Whether to end with the first that is wrong.
    """
    found = Found()
    states = list(crash_states(trace, limit=limit))
    with closing(_directories(home / "first")) as directories:
        for state in Random(seed).sample(states, min(most, len(states))):
            root = next(directories)
            state.write_to(root)
            disk = CrashDisk(root)
            then(disk)
            more = crashed(disk.trace, check, home / "then", limit=limit, before=state.marks, first=first)
            found.add(Found(more.states, [f"{wrong}, first: {state.why}" for wrong in more.wrong]))
            if first and found.wrong:
                break
    return found


def killed(
    trace: Trace, then: Do, check: Check, home: Path, *, limit: int, every: int = 1, first: bool = False
) -> Found:
    """Kill the process at every so many-th point, do something in another, crash that, and check.

    Args:
        trace: What was done until then.
        then: What is done in another process.
        check: What must hold.
        home: Where to write the states to.
        limit: As for `crash_states`.
        every: How many points there are from one kill to the next.
        first: Whether to end with the first that is wrong.
    """
    found = Found()
    with closing(_directories(home / "killed")) as directories:
        for point in trace.points[::every]:
            disk = CrashDisk.after_kill(next(directories), trace.until(point))
            then(disk)
            found.add(crashed(disk.trace, check, home / "then", limit=limit, first=first))
            if first and found.wrong:
                break
    return found


def _wrong_in(state: CrashState, check: Check, directory: Path, before: Sequence[Any]) -> str:
    state.write_to(directory)
    try:
        check(directory, (*before, *state.marks))
    except Exception as error:  # noqa: BLE001  whatever it is, it is told
        return f"{type(error).__name__}: {error} {state.why}"
    return ""


def _directories(home: Path) -> Generator[Path, None, None]:
    """New empty directories, each of which is removed when the next is asked for."""
    number = 0
    while True:
        number += 1
        path = home / f"{number}"
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path)

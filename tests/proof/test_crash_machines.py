"""A journal and snapshots together, a machine over them, and copies of both, crashed at every point.

`--states` is as in test_crash_states.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swoosh_async import FileBackend, SnapshotPolicy, StateMachine
from swoosh_async._copies import copying
from swoosh_async.backends.file import Draft, OsDisk, _draft
from swoosh_async.testing import CrashDisk
from swoosh_async.testing._crash_trace import Rename

from .. import _crashes
from .._crash_journals import Journalist, check_journal
from .._crash_mutants import forgetting
from .._crash_snapshots import Keeper, backend_on, check_snapshots
from .._crashes import Check, Do, crashed, recorded
from .._faults import LOOPS, Backend, run
from .._logs import HastyDisk, everything

pytestmark = pytest.mark.slow

home, limit = _crashes.home, _crashes.limit


def both(disk: CrashDisk) -> None:
    """A journal and snapshots in one directory."""
    backend = backend_on(disk.root, disk)
    journal, keeper = Journalist(disk, backend), Keeper(disk, backend)
    for position in (1, 2, 3):
        journal.append(600)
        keeper.save(position, keep=2)
        journal.trim(position)
    journal.release()


def check_both(directory: Path, marks: Sequence[Any]) -> None:
    """Check the snapshots and the journal of one directory."""
    check_snapshots(directory, marks)
    check_journal(directory, marks)


def test_both(home: Path, limit: int) -> None:
    """Neither harms the other."""
    found = crashed(recorded(home, both), check_both, home, limit=limit // 2)
    assert found.wrong == []
    assert found.states > 100


class Dispatching(msgspec.Struct, frozen=True):
    """An event is being dispatched."""

    event: str


class Dispatched(msgspec.Struct, frozen=True):
    """It was."""


class State(msgspec.Struct, frozen=True):
    """All events, in order."""

    events: tuple[str, ...] = ()


def machine_on(root: Path, disk: Any, keep: int = 2) -> StateMachine[State, str]:
    """A machine that snapshots often, and trims its journal behind that."""

    def apply(state: State, event: str) -> State:
        return State((*state.events, event))

    policy = SnapshotPolicy(every_events=3, keep=keep)
    return StateMachine(backend_on(root, disk), apply, State(), str, policy=policy)


def dispatches(loop: Backend, lives: int = 2, keep: int = 2) -> Do:
    """Some lives of a machine, which keeps so many snapshots."""

    def do(disk: CrashDisk) -> None:
        async def main() -> None:
            number = 0
            for _ in range(lives):
                async with machine_on(disk.root, disk, keep) as machine:
                    for _ in range(8):
                        number += 1
                        event = f"{number} " * 50
                        disk.mark(Dispatching(event))
                        await machine.dispatch(event)
                        disk.mark(Dispatched())

        run(loop, main)

    return do


def check_machine(directory: Path, marks: Sequence[Any]) -> None:
    """Check that the state holds what was dispatched, in order, and that it goes on, also after it was opened anew."""
    tried = [mark.event for mark in marks if isinstance(mark, Dispatching)]
    done = sum(isinstance(mark, Dispatched) for mark in marks)

    async def main() -> None:
        async with machine_on(directory, HastyDisk()) as machine:
            events = list(machine.state.events)
            assert events in (tried[:done], tried), f"{len(events)} events, of {len(tried)} {done} were acknowledged"
            assert machine.cursor.index == len(events)
            assert not machine.recovery.damaged
            await machine.dispatch("more")
        async with machine_on(directory, HastyDisk()) as machine:
            assert list(machine.state.events) == [*events, "more"]
            await machine.verify_replay()

    run(("asyncio", {}), main)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_machine(home: Path, loop: Backend, limit: int) -> None:
    """A machine comes back with each event that it had acknowledged, from its snapshots and its trimmed journal."""
    found = crashed(recorded(home, dispatches(loop)), check_machine, home, limit=limit // 10)
    assert found.wrong == []
    assert found.states > 100


class TrimsFirst(CrashDisk):
    """A disk on which each snapshot takes its place only when the next one comes, whatever is fsynced before that."""

    late: Rename | None = None

    def rename(self, source: str, target: str, dir_fd: int) -> None:
        """Rename; but a snapshot's is recorded late."""
        if target != "snapshot":
            super().rename(source, target, dir_fd)
            return
        late, self.late = self.late, Rename(*self._place(source, dir_fd), target)
        OsDisk.rename(self, source, target, dir_fd)
        if late is not None:
            self._record(late)


def test_a_machine_that_trims_first(home: Path, limit: int) -> None:
    """One that trims its journal behind a snapshot that is not durable is found."""
    trace = recorded(home, dispatches(("asyncio", {}), lives=1, keep=1), TrimsFirst)
    assert crashed(trace, check_machine, home, limit=limit // 10, first=True).wrong


class Published(msgspec.Struct, frozen=True):
    """A copy has its name."""


COPIES = "first", "second"


class Calls:
    """The module `os`, but for what a draft changes by itself, which a disk does."""

    def __init__(self, disk: CrashDisk) -> None:
        self._disk = disk

    def mkdir(self, path: str, mode: int) -> None:
        """Make a directory."""
        self._disk.mkdir(path, mode)

    def rename(self, source: str, target: str) -> None:
        """Rename, within a directory."""
        fd = os.open(os.path.dirname(target), os.O_RDONLY)
        try:
            self._disk.rename(os.path.basename(source), os.path.basename(target), fd)
        finally:
            os.close(fd)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


class Unsynced:
    """A disk without what makes things durable."""

    def __init__(self, disk: CrashDisk) -> None:
        self._disk = disk

    def fsync(self, fd: int) -> None:
        """Do nothing."""

    def fdatasync(self, fd: int) -> None:
        """Do nothing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)


def copies(source: FileBackend, patch: pytest.MonkeyPatch) -> Do:
    """Copies of all of that, in a directory that is to be made, and in one that is there, in place of an empty one."""

    def do(disk: CrashDisk) -> None:
        patch.setattr(_draft, "os", Calls(disk))
        patch.setattr(_draft, "OsDisk", lambda: disk)
        patch.setattr(_draft, "_Unsynced", lambda: Unsynced(disk))
        for name in ("b", "b/second", "b/second/copy"):
            disk.mkdir(str(disk.root / name), 0o755)
        for name in COPIES:
            draft = Draft(disk.root / "b" / name / "copy")
            for _ in copying(source, draft.open(), None):
                pass
            draft.publish()
            disk.mark(Published())

    return do


def check_copies(source: FileBackend) -> Check:
    """Checks that a copy is whole, or not there, and that one that was published is there."""

    def check(directory: Path, marks: Sequence[Any]) -> None:
        published = sum(isinstance(mark, Published) for mark in marks)
        for number, name in enumerate(COPIES):
            path = directory / "b" / name / "copy"
            if number < published or (path.is_dir() and os.listdir(path)):
                assert contents_of(FileBackend(path, disk=HastyDisk())) == contents_of(source)

    return check


def contents_of(backend: FileBackend) -> tuple[list[bytes], list[Any]]:
    """What a backend holds: snapshots, and the entries of the journal."""
    snapshots: list[bytes] = []
    for name in backend.names():
        with backend.open(name) as stored:
            snapshots.append(stored.read(0, stored.size_bytes))
    return snapshots, [(batch.first, batch.count, batch.data) for batch in everything(backend)]


COPY_MUTANTS: dict[str, type[CrashDisk]] = {
    "its files are not durable": forgetting(lambda path, *_: not os.path.isdir(path)),
    "its names are not durable": forgetting(lambda path, *_: path.endswith(".tmp")),
    "its own name is not durable": forgetting(lambda path, *_: path.endswith(COPIES)),
}


@pytest.fixture
def source(home: Path) -> FileBackend:
    """What is copied."""
    run(("asyncio", {}), lambda: _lives(home / "source"))
    return backend_on(home / "source")


async def _lives(root: Path) -> None:
    async with machine_on(root, HastyDisk()) as machine:
        for number in range(8):
            await machine.dispatch(f"{number} " * 50)


def test_a_copy(home: Path, source: FileBackend, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup, or a fork, is whole under its name, or not there; and it is there once that was said."""
    with monkeypatch.context() as patch:
        trace = recorded(home, copies(source, patch))
    found = crashed(trace, check_copies(source), home, limit=limit // 3)
    assert found.wrong == []
    assert found.states > 100


@pytest.mark.parametrize("mutant", COPY_MUTANTS)
def test_mutants_of_a_copy(
    home: Path, source: FileBackend, mutant: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that leave something out are found."""
    with monkeypatch.context() as patch:
        trace = recorded(home, copies(source, patch), COPY_MUTANTS[mutant])
    assert crashed(trace, check_copies(source), home, limit=limit // 3, first=True).wrong

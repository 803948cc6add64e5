"""All the ways into what is stored, so that damage and hostile files can be tried at each of them.

An entrance either gives what is there, so that it can be compared, or raises an error of the package's own; anything
else that it raises is for the test to fail by.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import anyio
import pytest

from swoosh_async import Entry, FileBackend, Journal, Snapshot, SnapshotStore
from swoosh_async._check import check
from swoosh_async.backends.file import _reader, _segment
from swoosh_async.cli import main
from swoosh_async.errors import CorruptJournalError, SwooshError
from swoosh_async.machine import SnapshotPolicy, StateMachine

from .._logs import HastyDisk, everything

__all__ = ["LOOKING", "WRITING", "Entrance", "at_once", "command", "filled", "tried"]

State = tuple[str, ...]
Entrance = Callable[[Path], object]
"""What is done with a backend's directory, and what came of it."""

KEPT = 2
_SEGMENT_BYTES = 6144


def at_once(patch: pytest.MonkeyPatch) -> None:
    """Nobody pauses before another look at what may be being written: nobody writes."""
    patch.setattr(_reader, "_PAUSE_S", 0)
    patch.setattr(_segment, "_PAUSE_S", 0)


def _backend(home: Path) -> FileBackend:
    return FileBackend(home, segment_bytes=_SEGMENT_BYTES, lock_timeout_s=0, disk=HastyDisk())


def _apply(state: State, event: str, entry: Entry[str]) -> State:
    assert entry.index == len(state) + 1
    return (*state, event)


def _machine(home: Path, **options: Any) -> StateMachine[State, str]:
    policy = SnapshotPolicy(every_events=None, keep=KEPT, on_close=False)
    return StateMachine(_backend(home), _apply, (), str, state_type=State, policy=policy, **options)


def filled(home: Path, **options: Any) -> None:
    """A machine's home: two snapshots, and a journal of several segments that begins with the older one."""

    async def fill() -> None:
        async with _machine(home, **options) as machine:
            for turn in range(3):
                for part in range(4):
                    await machine.dispatch(f"event {turn}.{part} " + "x" * 600 * part)
                await machine.snapshot()
            await machine.dispatch_many(["the last but one", "the last"])

    anyio.run(fill)


def tried(entrance: Entrance, home: Path) -> object:
    """What came of it: what it gave, or the error of ours that it raised."""
    try:
        return entrance(home)
    except SwooshError as error:
        return error


def _run(call: Callable[[Path], Awaitable[object]]) -> Entrance:
    return lambda home: anyio.run(call, home)


# ---------------------------------------------------------------------- those who only look


def _store(home: Path) -> SnapshotStore[State]:
    return SnapshotStore(_backend(home), State, keep=KEPT)


async def _load(home: Path) -> object:
    return await _store(home).load_latest()


async def _history(home: Path) -> object:
    return await _store(home).history()


async def _state_at(home: Path) -> object:
    return await _machine(home).state_at()


async def _verify_replay(home: Path) -> object:
    return await _machine(home).verify_replay()


async def _check(home: Path) -> object:
    report = await check(_backend(home), str, State)
    if report.errors:
        raise report.errors[0]
    return report


async def _backup(home: Path) -> object:
    to = home.with_name("backup")
    cursor = await _machine(home).backup(to)
    return cursor, await _machine(to).state_at()


def _read(home: Path) -> object:
    backend = _backend(home)
    bounds = backend.bounds()
    try:
        batches = everything(backend, bounds.first - 1)
    except AssertionError:  # a gap, which is for whoever decodes to tell of
        raise CorruptJournalError(str(home), "there is a gap", offset=None, index=bounds.first) from None
    if (batches[-1].last if batches else bounds.first - 1) != bounds.last:
        raise CorruptJournalError(str(home), "it ends too early", offset=None, index=bounds.first)
    return bounds, batches


LOOKING: dict[str, Entrance] = {
    "load": _run(_load),
    "history": _run(_history),
    "state_at": _run(_state_at),
    "verify_replay": _run(_verify_replay),
    "check": _run(_check),
    "backup": _run(_backup),
    "read": _read,
}
"""What changes nothing but that a copy is written, by its name."""


# ---------------------------------------------------------------------- those who claim and write


async def _enter_journal(home: Path) -> object:
    async with Journal(_backend(home), str) as journal, aclosing(journal.read(journal.first_index - 1)) as entries:
        found = [(entry.index, entry.event) async for entry in entries]
        receipt = await journal.append("one more")
        await journal.truncate_before(receipt.index)
        return found, receipt.index


async def _enter_machine(home: Path) -> object:
    async with _machine(home) as machine:
        found = machine.state
        await machine.dispatch("one more")
        await machine.snapshot()
        return found, machine.cursor.index


async def _save(home: Path) -> object:
    snapshot = Snapshot[State](state=("saved",), last_applied_index=99)
    return (await _store(home).save(snapshot)).index


WRITING: dict[str, Entrance] = {
    "enter a machine": _run(_enter_machine),
    "enter a journal": _run(_enter_journal),  # behind which no machine finds its way, for nothing is left but one event
    "save": _run(_save),
}
"""What writes, by its name."""


# ---------------------------------------------------------------------- the command line


def command(*arguments: str | Path) -> tuple[int, str, str]:
    """Run the command with these arguments, in this process: its exit code, and what it wrote."""
    out, errors = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    before, sys.argv = sys.argv, ["swoosh-async", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(errors):
            main()
        code: object = 0
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.argv = before
    out.flush()
    assert isinstance(code, int), code
    return code, out.buffer.getvalue().decode(errors="replace"), errors.getvalue()  # type: ignore[attr-defined]

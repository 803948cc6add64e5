"""The processes of a storm: each does its work in a home that others use as well, until it is killed, and tells of it.

They are forked by one process that has imported everything, so that each costs some milliseconds only.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import msgspec

from swoosh_async import Entry, FileBackend, FileSnapshotStore, Journal, Snapshot, StaleSnapshotError
from swoosh_async._check import check
from swoosh_async.cli import _app as cli
from swoosh_async.errors import SnapshotNotFoundError
from swoosh_async.machine import SnapshotPolicy, StateMachine

__all__ = ["LOOPS", "ROLES", "STORES", "State", "Tell", "apply", "backend", "folded", "saved_state"]

LOOPS: list[tuple[str, dict[str, Any]]] = [("asyncio", {}), ("trio", {})]
LOOPS += [("asyncio", {"use_uvloop": True})] * (find_spec("uvloop") is not None)

STORES = {"one": 1, "three": 3}
"""The stores that stand beside the machine, with how many snapshots each keeps."""

_SEGMENT_BYTES = 1 << 14
_TASKS = 6

Tell = Callable[..., None]
"""Writes one line to the process that watches: what was done, and what is known of it."""


class State(msgspec.Struct, frozen=True):
    """What the events lead to: how many they were, and a digest that no other events have."""

    count: int = 0
    digest: bytes = b""


def folded(state: State, event: str) -> State:
    """The state behind one more event."""
    return State(state.count + 1, hashlib.sha256(state.digest + event.encode()).digest()[:16])


def apply(state: State, event: str, entry: Entry[str]) -> State:
    """As `folded`; an event that comes twice, or that another one is missing before, is noticed."""
    assert entry.index == state.count + 1, (entry.index, state.count)
    return folded(state, event)


def saved_state(index: int) -> dict[str, str]:
    """What the stores hold at that index, of any length up to some pages."""
    return {"a": str(index) * (index % 2000)}


def backend(home: Path) -> FileBackend:
    """The home as a backend with short segments, which waits for nobody's journal."""
    return FileBackend(home, segment_bytes=_SEGMENT_BYTES)


def _machine(home: Path) -> StateMachine[State, str]:
    policy = SnapshotPolicy(every_events=60, keep=3)
    return StateMachine(backend(home), apply, State(), str, policy=policy, batch_events=20)


async def dispatches(home: Path, copies: Path, number: int, chance: random.Random, tell: Tell) -> None:
    """A machine: tasks dispatch, it takes snapshots and trims its journal, and it is copied meanwhile."""
    async with _machine(home) as machine:
        tell("open", machine.cursor.index)

        async def dispatcher(task: int) -> None:
            turn = 0
            while True:
                turn += 1
                events = [_event(number, task, turn, part, chance) for part in range(1 + (task == 0))]
                after = await machine.dispatch_many(events)
                tell("appended", after.count, events)

        async with anyio.create_task_group() as tasks:
            for task in range(_TASKS):
                tasks.start_soon(dispatcher, task)
            tasks.start_soon(_copier, machine, copies, number, chance, tell)


async def _copier(
    machine: StateMachine[State, str], copies: Path, number: int, chance: random.Random, tell: Tell
) -> None:
    """Backups and forks, one after the other; as many as the others leave time for."""
    for turn in range(1 << 30):
        place = copies / f"{number}.{turn}"
        index = machine.cursor.index
        if turn % 2 and index > 0:
            cursor = await machine.fork(place, at=index)
            assert cursor.index == index
        else:
            cursor = await machine.backup(place)
            assert cursor.index >= index
        tell("copied", place.name, cursor.index)
        await anyio.sleep(chance.random() * 0.02)


async def appends(home: Path, copies: Path, number: int, chance: random.Random, tell: Tell) -> None:  # noqa: ARG001
    """The same journal without a machine: tasks append, and it is truncated as far as each snapshot allows."""
    home_backend = backend(home)
    async with Journal(home_backend, str, batch_events=chance.choice([3, 100])) as journal:
        tell("open", journal.last_index)
        oldest = min((int(name.rpartition("-")[2]) for name in home_backend.names()), default=0)

        async def appender(task: int) -> None:
            turn = 0
            while True:
                turn += 1
                events = [_event(number, task, turn, part, chance) for part in range(1 + (task == 0))]
                receipts = await journal.append_many(events)
                tell("appended", receipts[-1].index, events)
                if task == 1 and turn % 5 == 0 and oldest:
                    await journal.truncate_before(oldest + 1)
                    tell("truncated", oldest + 1)

        async with anyio.create_task_group() as tasks:
            for task in range(_TASKS):
                tasks.start_soon(appender, task)


async def saves(home: Path, copies: Path, number: int, chance: random.Random, tell: Tell) -> None:  # noqa: ARG001
    """Both stores, saved into at once; another process may do so too, and be faster."""

    async def saver(name: str, keep: int) -> None:
        store = FileSnapshotStore(home / name, dict[str, str], keep=keep, compression=chance.choice([None, "zstd"]))
        while True:
            try:
                index = (await store.load_latest()).last_applied_index + 1
            except SnapshotNotFoundError:
                index = 1
            try:
                await store.save(Snapshot(state=saved_state(index), last_applied_index=index))
            except StaleSnapshotError:
                continue
            tell("saved", name, index)

    async with anyio.create_task_group() as tasks:
        for name, keep in STORES.items():
            tasks.start_soon(saver, name, keep)


async def looks(home: Path, copies: Path, number: int, chance: random.Random, tell: Tell) -> None:
    """Who only looks: `check`, states of the past, copies by a machine that was never entered, and all entries."""
    machine = _machine(home)
    while True:
        report = await check(backend(home), str, State)
        tell("checked", [str(error) for error in report.errors])
        state = await machine.state_at()
        tell("stood", state.count, state.digest.hex())
        place = copies / f"{number}.{chance.randrange(1 << 30)}"
        cursor = await machine.backup(place)
        tell("copied", place.name, cursor.index)


def commands(home: Path, copies: Path, number: int, chance: random.Random, tell: Tell) -> None:  # noqa: ARG001
    """The command line, one command after the other; what it shows is of no matter here, but how it ends is."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    errors = os.memfd_create("errors")
    os.dup2(errors, sys.stderr.fileno())
    paths = [str(home), *(str(home / name) for name in STORES)]
    choice = [["verify", *paths], ["history", str(home)], *(["inspect", path] for path in paths)]
    while True:
        command = chance.choice(choice)
        code = cli.app(command, standalone_mode=False)
        said = os.pread(errors, 1000, 0).decode()
        tell("ran", command[0], code or 0, said)


def _event(number: int, task: int, turn: int, part: int, chance: random.Random) -> str:
    return f"{number} {task} {turn} {part} " + "x" * chance.choice([0, 10, 200, 3000])


_Role = Callable[[Path, Path, int, random.Random, Tell], Awaitable[None]]


def _on_a_loop(role: _Role) -> Callable[[Path, Path, int, random.Random, Tell], None]:
    def run(home: Path, copies: Path, number: int, chance: random.Random, tell: Tell) -> None:
        loop, options = LOOPS[number % len(LOOPS)]

        async def main() -> None:
            await role(home, copies, number, chance, tell)

        anyio.run(main, backend=loop, backend_options=options)

    return run


ROLES: dict[str, Callable[[Path, Path, int, random.Random, Tell], None]] = {
    "dispatches": _on_a_loop(dispatches),
    "appends": _on_a_loop(appends),
    "saves": _on_a_loop(saves),
    "looks": _on_a_loop(looks),
    "commands": commands,
}

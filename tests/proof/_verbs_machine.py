"""Every verb of a machine that awaits, and `check`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio

from swoosh_async import FileBackend, SnapshotStore, StateMachine, check
from swoosh_async.machine import SnapshotPolicy

from ..test_machine import State as Events
from ..test_machine import machine_of
from ._phases import World
from ._verbs import Effect, Kind, Verb

__all__ = ["MACHINE_VERBS"]

_QUIET = SnapshotPolicy(every_events=None, on_close=False, keep=2)
_LETTERS = tuple("abcdef")


class Folded(Kind):
    """Six events, and snapshots behind the second and the fourth; what was copied, if anything."""

    async def prepare(self, world: World) -> None:
        async with machine_of(world.fresh(), policy=_QUIET) as machine:
            for number, letter in enumerate(_LETTERS, 1):
                await machine.dispatch(letter)
                if number in (2, 4):
                    await machine.snapshot()

    def machine(self, world: World) -> Any:
        """A machine on what is counted."""
        return machine_of(world.backend, policy=_QUIET)

    @asynccontextmanager
    async def opened(self, world: World) -> AsyncIterator[Any]:
        async with self.machine(world) as machine:
            yield machine

    async def there(self, world: World) -> Any:
        state = await machine_of(world.fresh()).state_at()
        refs = await SnapshotStore(world.fresh(), Events).history()
        copy = None
        if (world.directory / "copy").exists():
            copy = await machine_of(FileBackend(world.directory / "copy", lock_timeout_s=0)).state_at()
        return state, tuple(ref.index for ref in refs), copy

    async def next(self, subject: Any, world: World) -> None:
        del world
        there = subject.state
        assert await subject.dispatch("next") == (*there, "next") == subject.state

    def after_next(self, there: Any) -> Any:
        return (*there[0], "next"), *there[1:]

    async def reopened(self, world: World) -> None:
        async with machine_of(world.fresh()) as machine:
            await machine.dispatch("reopened")
            await machine.snapshot()


class Entering(Folded):
    """A machine that is entered and left by the call."""

    async def next(self, subject: Any, world: World) -> None:
        del subject
        async with self.machine(world) as machine:
            await machine.dispatch("next")


async def _enter(subject: None, world: World) -> None:
    del subject
    policy = SnapshotPolicy(every_events=None, on_close=True, keep=2)
    async with machine_of(world.backend, policy=policy) as machine:
        await machine.dispatch("new")


async def _transact(machine: StateMachine[Events, str], world: World) -> Events:
    del world
    return await machine.transact(lambda state: [state[0], "new"])


async def _wait_for(machine: StateMachine[Events, str], world: World) -> bool:
    """Wait for what comes only now."""
    del world
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(machine.dispatch, "new")
        return "new" in await machine.wait_for(lambda state: "new" in state)
    raise AssertionError


async def _changes(machine: StateMachine[Events, str], world: World) -> list[str]:
    """Watch what has been, and what comes only now."""
    async with anyio.create_task_group() as tasks, aclosing(machine.changes(5)) as entries:
        async for entry in entries:
            world.seen.append(entry.event)
            if len(world.seen) == 2:
                break
            tasks.start_soon(machine.dispatch, "new")
    return list(world.seen)


async def _snapshot_at(machine: StateMachine[Events, str], world: World) -> tuple[Events, int]:
    del world
    found = await machine.snapshot_at(index=3)
    return found.state, found.last_applied_index


async def _check(subject: None, world: World) -> tuple[int, int, bool]:
    del subject
    report = await check(world.backend, str, Events)
    return report.snapshots, report.entries, report.ok


async def _backup(machine: StateMachine[Events, str], world: World) -> int:
    return (await machine.backup(world.directory / "copy")).index


async def _fork(machine: StateMachine[Events, str], world: World) -> int:
    return (await machine.fork(world.directory / "copy", at=5)).index


def _dispatched(*new: str) -> Effect:
    return lambda there: ((*there[0], *new), *there[1:])


def _kept(index: int) -> Effect:
    return lambda there: (there[0], (index, *there[1])[:2], there[2])


def _in_turn(*effects: Effect) -> Effect:
    def effect(there: Any) -> Any:
        for one in effects:
            there = one(there)
        return there

    return effect


_FOLDED, _ENTERING = Folded(), Entering()
MACHINE_VERBS = [
    Verb(
        "enter, dispatch, leave",
        _ENTERING,
        "StateMachine.__aenter__ StateMachine.__aexit__",
        _enter,
        _dispatched("new"),
        _kept(6),
        _in_turn(_dispatched("new"), _kept(7)),
        opens=True,
    ),
    Verb(
        "dispatch",
        _FOLDED,
        "StateMachine.dispatch",
        lambda machine, _: machine.dispatch("new"),
        _dispatched("new"),
        gives=(*_LETTERS, "new"),
    ),
    Verb(
        "dispatch_many",
        _FOLDED,
        "StateMachine.dispatch_many",
        lambda machine, _: machine.dispatch_many(["new"] * 300),
        _dispatched(*["new"] * 300),
        gives=(*_LETTERS, *["new"] * 300),
    ),
    Verb(
        "transact",
        _FOLDED,
        "StateMachine.transact",
        _transact,
        _dispatched("a", "new"),
        gives=(*_LETTERS, "a", "new"),
    ),
    Verb(
        "wait_for",
        _FOLDED,
        "StateMachine.wait_for",
        _wait_for,
        _dispatched("new"),
        alone=False,
    ),
    Verb(
        "changes",
        _FOLDED,
        "StateMachine.changes",
        _changes,
        _dispatched("new"),
        gives=["f", "new"],
        alone=False,
    ),
    Verb("snapshot", _FOLDED, "StateMachine.snapshot", lambda machine, _: machine.snapshot(), _kept(6)),
    Verb(
        "state_at",
        _FOLDED,
        "StateMachine.state_at",
        lambda machine, _: machine.state_at(index=5),
        gives=_LETTERS[:5],
    ),
    Verb("snapshot_at", _FOLDED, "StateMachine.snapshot_at", _snapshot_at, gives=(_LETTERS[:3], 3)),
    Verb("verify_replay", _FOLDED, "StateMachine.verify_replay", lambda machine, _: machine.verify_replay(), gives=4),
    Verb(
        "backup",
        _FOLDED,
        "StateMachine.backup",
        _backup,
        lambda there: (*there[:2], there[0]),
        gives=6,
    ),
    Verb("fork", _FOLDED, "StateMachine.fork", _fork, lambda there: (*there[:2], there[0][:5]), gives=5),
    Verb("check", _ENTERING, "check", _check, gives=(2, 4, True), opens=True),
]

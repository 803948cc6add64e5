"""The default state on persistent maps, used as users use it; checked as `api.py` is."""

from __future__ import annotations

from typing import assert_type

from immutables import Map

from swoosh_async import Lease, MemoryBackend, SnapshotCodec, StateMachine, Task, Worker
from swoosh_async.persistent import PersistentState


def states(state: PersistentState) -> None:
    """Its parts are maps, and its helpers return its own class."""
    assert_type(state.tasks, Map[str, Task])
    assert_type(state.with_tasks(Task("a")).without_tasks("a"), PersistentState)
    assert_type(state.with_workers(Worker("a")).without_workers("a"), PersistentState)
    assert_type(state.with_leases(Lease("a", "b", 1.0)).without_leases("a"), PersistentState)
    assert_type(state.with_settings({"a": "b"}).without_settings("a"), PersistentState)
    PersistentState(tasks=Map({"a": Task("a")}))
    assert_type(SnapshotCodec(PersistentState), SnapshotCodec[PersistentState])


def apply(state: PersistentState, event: str) -> PersistentState:
    """What an event does."""
    return state.with_tasks(Task(event))


async def machines() -> None:
    """A machine on it."""
    async with StateMachine(MemoryBackend(), apply, PersistentState(), str) as machine:
        assert_type(machine.state, PersistentState)
        assert_type(await machine.dispatch("a"), PersistentState)

"""One of three in a line is cancelled, at any phase of all of them: the others get all that they asked for, in order.

Each loop takes every third phase. The first is in its thread when the second, whom it happens to, and the third come to
stand behind it.
"""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from swoosh_async import Journal, SnapshotStore

from .._faults import BOUND_S, LOOPS, Backend, run, turns, until
from ..test_cancellation import NATIVELY, WAYS, snapshot
from ._phases import World, copied
from ._points import AtPhase
from ._verbs import Verb
from ._verbs_journal import JOURNAL_VERBS
from ._verbs_machine import MACHINE_VERBS
from ._verbs_snapshots import SNAPSHOT_VERBS

pytest.importorskip("fcntl", reason="a file backend needs flock")

IN_LINE = {"save", "prune", "append", "append_many", "truncate_before", "dispatch", "dispatch_many", "transact"}
VERBS = [verb for verb in [*SNAPSHOT_VERBS, *JOURNAL_VERBS, *MACHINE_VERBS] if verb.name in IN_LINE]
INDEXES = {"first": 3, "last": 5}


async def other(subject: Any, which: str) -> Any:
    """What the first and the last do."""
    if isinstance(subject, SnapshotStore):
        return (await subject.save(snapshot(INDEXES[which]))).index
    if isinstance(subject, Journal):
        return (await subject.append(which)).index
    return (await subject.dispatch(which))[-1]


def with_other(there: Any, which: str) -> Any:
    """What that leads to."""
    if isinstance(there[-1], list):
        return there[0], [*there[1], which]
    if isinstance(there[0], tuple):
        return (*there[0], which), *there[1:]
    return (INDEXES[which], *there)[:3]


async def three(verb: Verb, way: str, number: int, world: World) -> bool:
    """Cancel the second of three at that phase; whether it came to that. What is wrong then stands in the world."""
    async with verb.opened(world) as subject:
        began, let_go = threading.Event(), threading.Event()
        ends: dict[str, Any] = {}

        def hook(_: str) -> None:
            began.set()
            assert let_go.wait(BOUND_S)

        async def one(which: str) -> None:
            ends[which] = await other(subject, which)

        async def second() -> None:
            ends["outcome"] = await WAYS[way](verb.call(subject, world), point)

        world.phases.hook = hook
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one, "first")
            await until(began.is_set)
            point = AtPhase(number, world.phases)
            tasks.start_soon(second)
            await turns()
            tasks.start_soon(one, "last")
            await turns()
            let_go.set()
            await until(lambda: "outcome" in ends)
            point.let_go()
        await to_thread.run_sync(world.phases.wait_until_idle)
        world.phases.hook = lambda _: None
        first = with_other(world.facts, "first")
        done = with_other(verb.effects[-1](first), "last")
        there = await verb.there(world)
        may_be = [done] if ends["outcome"] == "returned" else [done, with_other(first, "last")]
        if there not in may_be:
            world.wrongs.append(f"{ends['outcome']}: there is {there}")
        if way in NATIVELY and point.asked and ends["outcome"] != "cancelled":
            world.wrongs.append("it swallowed a native cancellation")
        if set(ends) != {"first", "last", "outcome"}:
            world.wrongs.append(f"there came back {ends}")
        return point.reached


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
@pytest.mark.parametrize("backend", LOOPS)
def test_the_second_of_three(backend: Backend, verb: Verb, tmp_path: Path) -> None:
    """Whenever it is cancelled, it has done all or nothing, in its turn; those before and behind it have done all."""
    template = tmp_path / "template"
    template.mkdir()
    run(("asyncio", {}), lambda: verb.kind.prepare(World(template)))
    ways = ["scope", "trio scope"] if backend[0] == "trio" else ["cancelled x1", "scope", "timeout", "cancelled x2"]
    wrongs: list[str] = []
    which = [loop.values[0] for loop in LOOPS].index(backend)
    for number in itertools.count(which, len(LOOPS)):
        world = World(copied(template, tmp_path / f"{number}"))
        way = ways[number // len(LOOPS) % len(ways)]
        reached = run(backend, lambda: three(verb, way, number, world))  # noqa: B023
        wrongs += [f"{number}, {way}: {wrong}" for wrong in [*world.wrongs, *world.left_over()]]
        if not reached:
            break
    assert wrongs == []

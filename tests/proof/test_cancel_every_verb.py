"""Every public verb that awaits, cancelled at each of its phases and checkpoints, on each loop, in each way.

Whatever happens to it: no thread of it works on when it has returned; it has done all or nothing, and all where it says
so; a native cancellation is not swallowed; no descriptor, temp or lock is left; the next call works.

Each run takes some of the points on each of the loops, each in one way. ``SWOOSH_CANCEL_EVERY=1`` takes all of them in
all ways.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

import swoosh_async
from swoosh_async import _hop, journal
from swoosh_async._lane import Lane
from swoosh_async.backends.file import Draft

from .._faults import BOUND_S, LOOPS, NATIVE, Backend, run, turns, until
from ..test_machine import machine_of
from ._cancelling import attempt, ways_of
from ._phases import World, copied
from ._points import AtCheckpoint, AtPhase
from ._verbs import Verb
from ._verbs_journal import JOURNAL_VERBS
from ._verbs_machine import MACHINE_VERBS
from ._verbs_snapshots import NAIVE, SNAPSHOT_VERBS

pytest.importorskip("fcntl", reason="a file backend needs flock")

VERBS = [*SNAPSHOT_VERBS, *JOURNAL_VERBS, *MACHINE_VERBS]
EVERY = "SWOOSH_CANCEL_EVERY" in os.environ

POINTS: dict[str, list[Callable[..., Any]]] = {
    "phase": [AtPhase],
    "checkpoint": [partial(AtCheckpoint, woken=False), partial(AtCheckpoint, woken=True)],
}
verbs = pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
loops = pytest.mark.parametrize(
    "backend",
    [  # two kinds of loop, one of them asyncio's, are enough for a quick run
        pytest.param(loop.values[0], id=loop.id, marks=[*loop.marks, *[pytest.mark.slow] * (loop.id != "asyncio")])
        for loop in LOOPS
    ],
)
sorts = pytest.mark.parametrize("sort", POINTS)


def template_of(verb: Verb, home: Path) -> Path:
    """A directory with what is there before."""
    template = home / "template"
    template.mkdir()
    world = World(template)
    run(("asyncio", {}), lambda: verb.kind.prepare(world))
    return template


def some_of_them(loop: int) -> Iterator[int]:
    """The points for one of the loops: all of the first are one's, and a third of those further on."""
    number = loop
    while True:
        yield number
        number += len(LOOPS) * (1 if number < 3 * len(LOOPS) else 3)


def wrongs(verb: Verb, backend: Backend, sort: str, home: Path, ways: list[str] | None = None) -> Iterator[str]:
    """What is wrong when it is cancelled at each point of that sort; it ends where the verb passes them all."""
    template = template_of(verb, home)
    ways = ways or ways_of(backend, held=sort == "phase")
    which = [loop.values[0] for loop in LOOPS].index(backend)
    seed = which + (VERBS.index(verb) if verb in VERBS else 0)
    for tried, number in enumerate(itertools.count() if EVERY else some_of_them(which)):
        some = list(itertools.product(POINTS[sort], ways))
        if not EVERY:  # another one for each point, loop and verb
            turn = seed + tried
            some = [(POINTS[sort][(turn + turn // len(ways)) % len(POINTS[sort])], ways[turn % len(ways)])]
        reached = False
        for point, way in some:
            world = World(copied(template, home / f"{number}"))
            come = attempt(verb, backend, way, partial(point, number), world)
            reached = reached or come
            step = world.phases.steps[number] if sort == "phase" and come else ""
            yield from (f"{number} {step}, {way}: {wrong}" for wrong in world.wrongs)
            shutil.rmtree(world.directory)
        if not reached:
            return


def awaits(function: Any) -> bool:
    """Whether a function gives what is to be awaited, or iterated over asynchronously."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return True
    if not inspect.isfunction(function):
        return False
    return str(function.__annotations__.get("return")).startswith(("Coroutine", "AsyncGenerator", "Awaitable"))


def public_verbs() -> set[str]:
    """Every function that awaits, and every method of a class, that the package shows."""
    found: set[str] = set()
    for name in swoosh_async.__all__:
        member = getattr(swoosh_async, name)
        if inspect.isclass(member):
            for attribute in dir(member):
                function = inspect.getattr_static(member, attribute)
                if awaits(function) and (attribute.startswith("__a") or not attribute.startswith("_")):
                    found.add(function.__qualname__)
        elif awaits(member):
            found.add(name)
    return found


def test_no_verb_is_left_out() -> None:
    """The table has every verb that there is, and no other."""
    assert {name for verb in VERBS for name in verb.covers} == public_verbs()


@verbs
@loops
@sorts
def test_cancelled(sort: str, backend: Backend, verb: Verb, tmp_path: Path) -> None:
    """Cancelled at each phase, as it waits at each checkpoint, and as it is woken there, it keeps what is promised."""
    assert list(wrongs(verb, backend, sort, tmp_path)) == []


# ---------------------------------------------------------------------- mutants


def finds(what: str, verb: Verb, backend: Backend, sort: str, home: Path) -> bool:
    """Whether the same finds that, natively."""
    home.mkdir()
    return any(what in wrong for wrong in wrongs(verb, backend, sort, home, ["cancelled x1", "timeout"]))


def named(name: str) -> Verb:
    """The verb of that name."""
    (verb,) = [verb for verb in VERBS if verb.name == name]
    return verb


@pytest.mark.parametrize("backend", NATIVE)
def test_the_naive_store_fails(backend: Backend, tmp_path: Path) -> None:
    """A lock and a hop: it returns while its thread works on, and loses what it acknowledged then."""
    for number, what in enumerate(["it returned while its thread worked on", "after the next call there is 4, not 9"]):
        assert finds(what, NAIVE, backend, "phase", tmp_path / f"{number}")


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("name", ["save", "append", "dispatch", "load_latest", "fork"])
def test_a_hop_that_is_left_behind_fails(
    name: str, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does any verb whose hop does not wait for its thread."""

    async def not_at_all(_: Any) -> None:
        return

    monkeypatch.setattr(_hop.Hop, "_end", not_at_all)
    monkeypatch.setattr(Lane, "_settle", lambda _self, _place, stopped: _given(stopped))
    assert finds("it returned while its thread worked on", named(name), backend, "phase", tmp_path / "home")


async def _given(what: Any) -> Any:
    return what


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("name", ["save", "append", "transact"])
def test_a_swallowed_cancellation_fails(
    name: str, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does a line that gives its outcome although it was cancelled."""
    settle = Lane._settle

    async def swallows(lane: Any, place: Any, stopped: BaseException) -> None:
        await settle(lane, place, stopped)

    monkeypatch.setattr(Lane, "_settle", swallows)
    assert finds("it swallowed a native cancellation", named(name), backend, "phase", tmp_path / "home")


@pytest.mark.parametrize("backend", NATIVE)
def test_a_claim_that_is_kept_fails(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So does a journal that gives up letting go of its claim when it is interrupted."""

    async def once(call: Callable[[], Any], _: Callable[[], bool]) -> None:
        await call()

    monkeypatch.setattr(journal, "surely", once)
    assert finds("LockedError", named("aclose"), backend, "checkpoint", tmp_path / "home")


@pytest.mark.parametrize("backend", NATIVE)
def test_a_copy_that_is_left_fails(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So does a copy that stays where it was not wanted any more."""
    monkeypatch.setattr(Draft, "abandon", lambda draft: setattr(draft, "abandoned", True))
    assert finds("is left", named("backup"), backend, "phase", tmp_path / "home")


# ---------------------------------------------------------------------- beside others


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("times", [1, 3])
def test_left_beside_another_tasks_snapshot(times: int, backend: Backend, tmp_path: Path) -> None:
    """A machine whose leaving is cancelled, once or again, lets go of the backend behind another task's snapshot."""
    world = World(tmp_path)
    hold = threading.Event()

    async def main() -> None:
        leaving = anyio.Event()
        snapshots: list[asyncio.Task[Any]] = []

        async def lives() -> None:
            async with machine_of(world.backend) as machine:
                await machine.dispatch("a")
                world.phases.hook = lambda _: hold.wait(BOUND_S) if world.phases.steps[-1] == "put" else None
                snapshots.append(asyncio.create_task(machine.snapshot()))
                await until(lambda: world.phases.steps[-1] == "put")
                leaving.set()

        life = asyncio.create_task(lives())
        await leaving.wait()
        for _ in range(times):
            await turns()
            life.cancel()
        await turns()
        assert not life.done()
        hold.set()
        await asyncio.wait([life, *snapshots])
        assert life.cancelled()
        assert snapshots[0].result().index == 1

    run(backend, main)
    assert world.phases.steps.index("put done") < world.phases.steps.index("release")

"""Whoever is cancelled at a journal, at whatever step and in whatever way: the others get their receipts, all is whole.

The cancellation is fired from inside the worker thread, at a step of the commit, and the thread stays at that step
until the loop has turned often enough for whoever returns too early to have returned.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import CancelScope, to_thread
from anyio.lowlevel import checkpoint

from swoosh_async import Journal, Receipt

from ._faults import BOUND_S, LOOPS, NATIVE, Backend, bounded, happens, loop_factory, poster, run, turns, until
from ._journals import Asked, InFiles, InMemory, Place, Watched, opened, read, texts
from .test_cancellation import NATIVELY, WAYS, Hold, cases

pytest.importorskip("fcntl", reason="a file backend needs flock")

KINDS = pytest.mark.parametrize("kind", ["memory", "file"])


def place_of(kind: str, path: Path) -> Place:
    """A place of that kind."""
    return InMemory() if kind == "memory" else InFiles(path)


def held(watched: Watched, step: str) -> Hold:
    """A hold at a step of the backend."""
    return Hold(watched, step)  # type: ignore[arg-type]  all that it asks for is the hook


Call = Callable[[Journal[str]], Awaitable[Any]]

CALLS: dict[str, tuple[Call, list[str]]] = {
    "append": (lambda journal: journal.append("new"), ["new"]),
    "append_many": (lambda journal: journal.append_many(["new"] * 3), ["new"] * 3),
    "append many in the worker": (lambda journal: journal.append_many(["new"] * 300), ["new"] * 300),
}


# ---------------------------------------------------------------------- one call


@cases
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("step", ["append", "appended"])
def test_cancelled_at(step: str, call: str, backend: Backend, way: str, tmp_path: Path) -> None:
    """An append that is cancelled in its thread returns when that has ended; what it appended is wholly there."""
    watched = Watched(InFiles(tmp_path))

    async def main() -> None:
        async with opened(watched) as journal:
            await journal.append("old")
            hold = held(watched, step)
            appends, new = CALLS[call]
            outcome = await WAYS[way](appends(journal), hold)
            assert hold.reached
            assert watched.working == 0
            assert outcome == ("cancelled" if way in NATIVELY else "returned")
            assert await texts(journal) == ["old", *new]
            assert (await journal.append("next")).index == len(new) + 2
        async with opened(watched) as journal:
            assert await texts(journal) == ["old", *new, "next"]

    run(backend, main)
    assert watched.trouble == []


@cases
@pytest.mark.parametrize("step", ["truncate", "truncated"])
def test_truncation_cancelled_at(step: str, backend: Backend, way: str) -> None:
    """The same with a truncation."""
    watched = Watched(InMemory())

    async def main() -> None:
        async with opened(watched) as journal:
            await journal.append_many(["old"] * 3)
            hold = held(watched, step)
            await WAYS[way](journal.truncate_before(3), hold)
            assert watched.working == 0
            assert (journal.first_index, journal.last_index) == (3, 3)
            assert (await journal.append("next")).index == 4

    run(backend, main)
    assert watched.trouble == []


@pytest.mark.anyio
@KINDS
async def test_cancelled_from_the_start(kind: str, tmp_path: Path) -> None:
    """Under a scope that is cancelled already nothing is appended, and nothing is left in line."""
    async with opened(place_of(kind, tmp_path)) as journal:
        for call, _ in CALLS.values():
            with CancelScope() as scope:
                scope.cancel()
                await call(journal)
            assert scope.cancelled_caught
        assert journal.last_index == 0
        assert (await journal.append("next")).index == 1


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("step", ["append", "appended"])
def test_the_loop_ends(step: str, backend: Backend, tmp_path: Path) -> None:
    """A loop that ends while an append is in its thread waits for it, and the journal goes on with another loop."""
    watched = Watched(InFiles(tmp_path))
    journal: Journal[str] = Journal(watched, str)
    running: list[asyncio.Task[Any]] = []

    async def ends() -> None:
        await journal.__aenter__()
        hold = held(watched, step)
        ending = asyncio.Event()
        hold.deeds = [ending.set]
        running.extend(asyncio.create_task(hold.watch(journal.append(f"{number}"))) for number in range(5))
        await ending.wait()
        asyncio.get_running_loop().call_later(0.01, hold.let_go)

    async def goes_on() -> list[str]:
        await journal.append("next")
        found = await texts(journal)
        await journal.aclose()
        return found

    with asyncio.Runner(loop_factory=loop_factory(backend)) as runner:
        runner.run(asyncio.wait_for(ends(), BOUND_S))
    assert all(task.cancelled() for task in running)
    assert watched.working == 0
    with asyncio.Runner(loop_factory=loop_factory(backend)) as runner:
        found = runner.run(asyncio.wait_for(goes_on(), BOUND_S))
    begun = watched.counts[0]
    assert found == [*(f"{number}" for number in range(begun)), "next"]


# ---------------------------------------------------------------------- open and close


@cases
@pytest.mark.parametrize("step", ["claim", "claimed", "release", "released"])
def test_opening_and_closing_cancelled_at(step: str, backend: Backend, way: str, tmp_path: Path) -> None:
    """Cancelled while it claims or lets go, a journal holds nothing when that has ended, and another opens at once."""
    watched = Watched(InFiles(tmp_path))

    async def opens() -> None:
        async with Journal(watched, str) as journal:
            await journal.append("event")
            await checkpoint()

    async def main() -> None:
        hold = held(watched, step)
        outcome = await WAYS[way](opens(), hold)
        assert hold.reached
        assert watched.working == 0
        if way in NATIVELY:
            assert outcome == "cancelled"
        there = [] if step.startswith("claim") else ["event"]
        async with opened(InFiles(tmp_path)) as journal:
            assert await texts(journal) == there
            assert (await journal.append("next")).index == len(there) + 1

    run(backend, main)
    assert watched.trouble == []


@cases
def test_closing_cancelled_in_line(backend: Backend, way: str, tmp_path: Path) -> None:
    """Closing that is cancelled while it stands in line commits what is before it, and lets go."""
    watched = Watched(InFiles(tmp_path))
    receipts: list[Receipt] = []

    async def main() -> None:
        journal: Journal[str] = await Journal(watched, str).__aenter__()
        hold = held(watched, "append")

        async def append() -> None:
            receipts.append(await journal.append("event"))

        hold.due = lambda: journal._closed  # what is to happen to it happens when it has come
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(append)
            await until(lambda: hold.reached)
            for _ in range(4):
                tasks.start_soon(append)
            await until(lambda: len(journal._lane._waiting) == 4)
            await WAYS[way](journal.aclose(), hold)
            assert not journal._claimed
            async with opened(InFiles(tmp_path)) as following:
                assert await texts(following) == ["event"] * 5
        assert sorted(receipt.index for receipt in receipts) == [1, 2, 3, 4, 5]

    run(backend, main)
    assert watched.trouble == []


@pytest.mark.anyio
@KINDS
async def test_closing_under_a_cancelled_scope(kind: str, tmp_path: Path) -> None:
    """A journal whose block is cancelled commits what was begun and lets go; another opens at once."""
    place = place_of(kind, tmp_path)
    async with bounded():
        with CancelScope() as scope:
            async with Journal(place.backend(), str) as journal:
                await journal.append("event")
                scope.cancel()
        with CancelScope() as scope:
            scope.cancel()
            async with Journal(place.backend(), str) as journal:
                await checkpoint()
        assert scope.cancelled_caught
        async with opened(place) as journal:
            assert (journal.epoch, await texts(journal)) == (3, ["event"])


@pytest.mark.anyio
@KINDS
async def test_cancelled_while_it_waits_for_a_writer(kind: str, tmp_path: Path) -> None:
    """Whoever gives up waiting for another writer has taken nothing from it, and leaves nothing behind."""
    place = place_of(kind, tmp_path)
    async with opened(place) as journal:
        for _ in range(3):
            with anyio.move_on_after(0.01) as scope:
                async with opened(place, lock_timeout_s=BOUND_S):
                    raise AssertionError
            assert scope.cancelled_caught
        assert (await journal.append("event")).index == 1
    async with opened(place) as journal:
        assert journal.epoch == 2


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", NATIVE)
@pytest.mark.parametrize("after", range(8))
async def test_opening_cancelled_at_each_turn(after: int, tmp_path: Path) -> None:
    """Cancelled natively at any turn of the loop on the way in, a journal is open, or holds nothing."""
    place = InFiles(tmp_path)
    task = asyncio.create_task(Journal(place.backend(), str).__aenter__())
    await turns(after)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await (await task).aclose()
    async with opened(place) as journal:
        await journal.append("event")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", NATIVE)
@pytest.mark.parametrize("after", range(8))
async def test_closing_cancelled_at_each_turn(after: int, tmp_path: Path) -> None:
    """Cancelled natively at any turn of the loop on the way out, once or again and again, it lets go of the journal."""
    place = InFiles(tmp_path)
    for times in (1, 5):
        journal = await Journal(place.backend(), str).__aenter__()
        task = asyncio.create_task(journal.aclose())
        await turns(after)
        for _ in range(times):
            task.cancel()
            await turns(1)
        await asyncio.wait([task])
        if not task.cancelled() or after:  # one that had not begun has not been called
            async with opened(place) as following:
                await following.append("event")
        else:
            await journal.aclose()


# ---------------------------------------------------------------------- some of many


class Caller(Asked):
    """One that appends, and may be cancelled."""

    def __init__(self, number: int, size: int) -> None:
        super().__init__(number, size)
        self.receipts: list[Receipt] = []

    async def __call__(self, journal: Journal[str]) -> None:
        """Append, and say what became of it."""
        try:
            with self.scope:
                if len(self.events) == 1:
                    self.receipts = [await journal.append(self.events[0])]
                else:
                    self.receipts = await journal.append_many(self.events)
                self.end = "receipt"
        finally:
            self.end = self.end or "cancelled"


async def wrongs(journal: Journal[str], callers: list[Caller]) -> list[str]:
    """What is otherwise than promised, when all callers have ended."""
    entries = await read(journal)
    place_of_event: dict[str, list[int]] = {}
    for entry in entries:
        place_of_event.setdefault(entry.event, []).append(entry.index)
    found: list[str] = []
    if [entry.index for entry in entries] != list(range(1, len(entries) + 1)):
        found.append("there are gaps")
    for caller in callers:
        places = [place_of_event.get(event, []) for event in caller.events]
        indexes = [place[0] for place in places if place]
        if any(len(place) > 1 for place in places):
            found.append(f"{caller.number} is there twice")
        if indexes and indexes != list(range(indexes[0], indexes[0] + len(caller.events))):
            found.append(f"{caller.number} is there in part, or out of order: {indexes}")
        if caller.end == "receipt" and [receipt.index for receipt in caller.receipts] != indexes:
            found.append(f"{caller.number} has been told otherwise")
        if caller.end != "receipt" and not caller.asked:
            found.append(f"{caller.number} ended with {caller.end} unasked")
    if any(entry.event.partition(".")[0] not in {str(caller.number) for caller in callers} for entry in entries):
        found.append("there is what nobody appended")
    return found


SUBSETS = pytest.mark.parametrize("subset", [{0}, {1}, {0, 1}, {5}, {1, 3, 5, 7}, set(range(1, 8)), set(range(8))])


@pytest.mark.anyio
@SUBSETS
@pytest.mark.parametrize("natively", [True, False])
@pytest.mark.parametrize("step", ["append", "appended"])
async def test_a_subset(step: str, natively: bool, subset: set[int], anyio_backend_name: str, tmp_path: Path) -> None:
    """Any of those who share commits, the leader included, may be cancelled: the others get their receipts."""
    if natively and anyio_backend_name == "trio":
        pytest.skip("trio has nothing native")
    watched = Watched(InFiles(tmp_path))
    inside, let_go = threading.Event(), threading.Event()

    def hook(at: str) -> None:
        if at == step and not inside.is_set():
            inside.set()
            assert let_go.wait(BOUND_S)

    async with opened(watched) as journal:
        watched.hook = hook
        callers = [Caller(number, 1 + number % 3) for number in range(8)]
        async with anyio.create_task_group() as tasks:
            for caller in callers:
                if natively:
                    caller.task = asyncio.create_task(caller(journal))
                else:
                    tasks.start_soon(caller, journal)
                if caller.number == 0:
                    await happens(inside)
                else:
                    await until(lambda: len(journal._lane._waiting) == caller.number)  # noqa: B023
            for number in subset:
                callers[number].cancel(natively=natively)
            await turns()
            assert [bool(caller.end) for caller in callers] == [
                caller.number in subset and caller.number > 0 for caller in callers
            ]
            let_go.set()
            await until(lambda: all(caller.end for caller in callers))
        assert await wrongs(journal, callers) == []
        assert {int(text.partition(".")[0]) for text in await texts(journal)} == {0} | (set(range(8)) - subset)
        assert callers[0].end == ("cancelled" if natively and 0 in subset else "receipt")
        assert len(watched.batches) <= 2
    assert watched.trouble == []


class Storm:
    """Callers that come and go, and a worker that has some of them cancelled at each of its steps."""

    def __init__(self, watched: Watched, seed: int, *, natively: bool) -> None:
        self.watched = watched
        self.chance = random.Random(seed)
        self.natively = natively
        self.callers: list[Caller] = []
        self._post = poster()
        watched.hook = self._hook

    def _hook(self, step: str) -> None:
        """In the worker thread: have the loop cancel some, and wait until it has turned."""
        if step not in ("append", "appended") or self.chance.random() < 0.5:
            return
        turned = threading.Event()
        left = self.chance.randrange(1, 6)

        def turn() -> None:
            nonlocal left
            self._cancel_some()
            left -= 1
            if left:
                self._post(turn)
            else:
                turned.set()

        self._post(turn)
        assert turned.wait(BOUND_S), "the loop does not turn"

    def _cancel_some(self) -> None:
        alive = [caller for caller in self.callers if not caller.ended]
        for caller in self.chance.sample(alive, min(len(alive), self.chance.choice([0, 0, 0, 1, 1, 2, 5]))):
            caller.cancel(natively=self.natively and self.chance.random() < 0.7)

    async def rage(self, journal: Journal[str], count: int) -> None:
        """So many callers."""
        async with anyio.create_task_group() as tasks:
            for number in range(count):
                caller = Caller(number, self.chance.choice([1, 1, 1, 2, 3, 300]))
                self.callers.append(caller)
                if self.natively:
                    caller.task = asyncio.create_task(caller(journal))
                else:
                    tasks.start_soon(caller, journal)
                if self.chance.random() < 0.2:
                    await turns(self.chance.randrange(6))
            await until(lambda: all(caller.ended for caller in self.callers))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("backend", LOOPS)
@KINDS
def test_storm(kind: str, backend: Backend, seed: int, tmp_path: Path) -> None:
    """Cancelled at random, at every step and in every way: what is acknowledged is there once, in order, and whole."""
    place = place_of(kind, tmp_path)
    watched = Watched(place)

    async def main() -> None:
        natively = backend[0] == "asyncio"
        async with opened(watched, batch_events=7, batch_bytes=3000) as journal:
            storm = Storm(watched, seed, natively=natively)
            await storm.rage(journal, 150)
            assert await wrongs(journal, storm.callers) == []
            assert {caller.end or "cancelled" for caller in storm.callers} == {"receipt", "cancelled"}
            watched.hook = lambda _: None
            before = await texts(journal)
            assert (await journal.append("last")).index == len(before) + 1
        async with opened(place) as journal:
            assert await texts(journal) == [*before, "last"]
        await to_thread.run_sync(watched.wait_until_idle)

    run(backend, main)
    assert watched.trouble == []

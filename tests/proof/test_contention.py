"""Processes, loops and forks that fight for one store: one goes at a time, and nobody's acknowledged work is lost.

A writer is stopped (SIGSTOP) at each of its phases, as a debugger or a frozen container stops it: it holds its lock as
long as it lives. Then it is killed, and the next one goes on; or it is continued, and goes on itself.
"""

from __future__ import annotations

import json
import os
import threading
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from swoosh_async import FileBackend, Journal, LockedError, SnapshotStore, StaleSnapshotError, StateMachine
from swoosh_async.backends.file import Generations, OsDisk

from .._disks import in_child, latest, put, temps
from .._faults import BOUND_S, LOOPS, Backend, HookDisk, bounded, python
from .._journals import SEGMENT_BYTES, InFiles, opened, read, texts
from ..test_cancellation import State, snapshot
from ..test_journal import in_threads
from ..test_machine import entered, machine_of
from ._contenders import IN_TURN, STOPPED

pytest.importorskip("fcntl", reason="a file backend needs flock")

pytestmark = pytest.mark.slow

# ---------------------------------------------------------------------- stopped at each phase


@pytest.mark.parametrize("verb", ["save", "claim", "append", "rotate", "truncate", "release"])
def test_stopped_at_each_phase(verb: str, tmp_path: Path) -> None:
    """Others are told who holds the lock; killed there, it leaves all that it said; continued, it goes on."""
    code, out, errors = python(STOPPED, tmp_path, verb)
    assert code == 0, errors
    phases, held = json.loads(out)
    assert phases >= 2
    assert held >= phases // 2
    assert held < 2 * phases or verb not in ("save", "claim", "release")  # which have not had it at each


def test_a_sweeper_that_stands_still(tmp_path: Path) -> None:
    """Who sweeps a directory, and stops when it has just got hold of a neighbour's new temp, holds up nobody."""
    swept, let_go = threading.Event(), threading.Event()
    sweeping = HookDisk()
    sweeper = threading.Thread(target=put, args=(Generations(tmp_path / "other", disk=sweeping), 1))

    def stops(step: str) -> None:
        if step == "unlink" and not swept.is_set():
            swept.set()
            assert let_go.wait(BOUND_S)

    class Meanwhile(OsDisk):
        def open(self, name: str, flags: int, mode: int, dir_fd: int) -> int:
            fd = super().open(name, flags, mode, dir_fd)
            if flags & os.O_EXCL and not swept.is_set():
                sweeper.start()
                assert swept.wait(BOUND_S)
            return fd

    sweeping.hook = stops
    writer = threading.Thread(target=put, args=(Generations(tmp_path / "state", disk=Meanwhile()), 1), daemon=True)
    writer.start()
    writer.join(10)
    went_on = not writer.is_alive()
    let_go.set()
    writer.join(BOUND_S)
    sweeper.join(BOUND_S)
    assert went_on
    assert latest(Generations(tmp_path / "state")) == latest(Generations(tmp_path / "other")) == 1
    assert temps(tmp_path) == []


# ---------------------------------------------------------------------- in turn


@pytest.mark.parametrize("what", ["journal", "machine"])
def test_four_processes_in_turn(what: str, tmp_path: Path) -> None:
    """Four processes claim in turn, one is killed: what each was told is there once, in the order of their epochs."""
    rounds = 6
    code, out, errors = python(IN_TURN, tmp_path / "home", what, rounds)
    assert code == 0, errors
    told, epochs, last = json.loads(out)
    assert told >= 3 * rounds * 12
    assert last >= told
    assert epochs >= 3 * rounds


# ---------------------------------------------------------------------- forks


@pytest.mark.anyio
async def test_a_fork_with_all_of_them_open(tmp_path: Path) -> None:
    """A child refuses what its parent has claimed, and may save; its end lets go of nothing of its parent's."""
    places = InFiles(tmp_path / "journal"), InFiles(tmp_path / "machine")
    store = SnapshotStore(FileBackend(tmp_path / "store", lock_timeout_s=0), State)
    await store.save(snapshot(1))
    async with bounded(), Journal(places[0].backend(), str) as journal, machine_of(places[1]) as machine:
        await journal.append("parent's")
        await machine.dispatch("parent's")

        async def tries() -> None:
            await store.save(snapshot(2))
            assert await store.load_latest() == snapshot(2)
            for call in (
                lambda: journal.append("child's"),
                lambda: journal.append_many(["child's"]),
                lambda: journal.truncate_before(1),
                lambda: read(journal),
                lambda: machine.dispatch("child's"),
                lambda: machine.transact(lambda _: ["child's"]),
                lambda: machine.wait_for(lambda state: len(state) > 1),
                machine.snapshot,
                Journal(places[0].backend(), str).__aenter__,
                machine_of(places[1]).__aenter__,
            ):
                with pytest.raises(LockedError):
                    await call()
            assert machine.state == await machine.state_at() == ("parent's",)
            await journal.aclose()

        def child() -> None:
            errors: list[BaseException] = []

            def loop() -> None:
                try:
                    anyio.run(tries)
                except BaseException as error:  # noqa: BLE001  it is told below
                    errors.append(error)

            thread = threading.Thread(target=loop)  # the loop of this one is the parent's
            thread.start()
            thread.join(BOUND_S)
            if errors:
                raise errors[0]

        assert await to_thread.run_sync(in_child, child) == 0
        for place in places:
            with pytest.raises(LockedError):
                async with opened(place):
                    raise AssertionError
        with pytest.raises(StaleSnapshotError):
            await store.save(snapshot(1))
        await store.save(snapshot(3))
        assert (await journal.append("parent's again")).index == 2
        assert await machine.dispatch("again") == ("parent's", "again")
        await machine.snapshot()
    async with opened(places[0]) as journal, entered(places[1]) as machine:
        assert await texts(journal) == ["parent's", "parent's again"]
        assert machine.state == ("parent's", "again")


# ---------------------------------------------------------------------- loops and backends of one process


def loops(main: Any) -> None:
    """Run it on a loop of each kind, each in a thread of its own, with the loop's number."""
    backends: list[Backend] = [loop.values[0] for loop in LOOPS]
    in_threads(
        [
            partial(anyio.run, main, number, backend=name, backend_options=opts)
            for number, (name, opts) in enumerate(backends)
        ]
    )


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("what", ["journal", "machine"])
def test_loops_in_turn(what: str, shared: bool, tmp_path: Path) -> None:
    """Loops that open journals or machines on one directory, by one backend or each by its own, do so in turn."""
    one = FileBackend(tmp_path, segment_bytes=SEGMENT_BYTES, lock_timeout_s=BOUND_S)
    told: dict[int, tuple[int, str]] = {}

    async def main(loop: int) -> None:
        for turn in range(5):
            home = one if shared else FileBackend(tmp_path, segment_bytes=SEGMENT_BYTES, lock_timeout_s=BOUND_S)
            async with bounded():
                if what == "journal":
                    async with Journal(home, str) as journal:
                        for step in range(3):
                            event = f"{loop} {turn} {step}"
                            told[(await journal.append(event)).index] = journal.epoch, event
                else:
                    async with machine_of(home, lock_timeout_s=BOUND_S) as machine:
                        for step in range(3):
                            event = f"{loop} {turn} {step}"
                            told[len(await machine.dispatch(event))] = machine._journal.epoch, event
                        await machine.snapshot()

    loops(main)
    assert sorted(told) == list(range(1, 5 * 3 * len(LOOPS) + 1))
    epochs = [told[index][0] for index in sorted(told)]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) == 5 * len(LOOPS)

    async def there() -> tuple[str, ...]:
        if what == "journal":
            async with opened(InFiles(tmp_path)) as journal:
                return tuple(await texts(journal))
        async with entered(InFiles(tmp_path)) as machine:
            return machine.state

    assert anyio.run(there) == tuple(told[index][1] for index in sorted(told))


@pytest.mark.parametrize("backend", LOOPS)
def test_refused_on_another_loop(backend: Backend, tmp_path: Path) -> None:
    """What one loop has claimed another is refused by, also on the same backend; the same machine serves both."""
    home = FileBackend(tmp_path, lock_timeout_s=0)
    states: list[tuple[str, ...]] = []

    async def other(machine: StateMachine[Any, Any]) -> None:
        for second in (home, FileBackend(tmp_path, lock_timeout_s=0)):
            with pytest.raises(LockedError):
                async with machine_of(second):
                    raise AssertionError
            with pytest.raises(LockedError):
                async with Journal(second, str):
                    raise AssertionError
        states.append(await machine.dispatch("theirs"))
        assert (await machine.snapshot()).index == 2
        assert (await SnapshotStore(home, tuple[str, ...]).load_latest()).state == ("mine", "theirs")

    async def main() -> None:
        async with bounded(), machine_of(home) as machine:
            await machine.dispatch("mine")
            run_there = partial(anyio.run, other, machine, backend=backend[0], backend_options=backend[1])
            await to_thread.run_sync(run_there)
            assert machine.state == ("mine", "theirs")
            assert await machine.dispatch("mine again") == ("mine", "theirs", "mine again")
            await machine.snapshot()

    anyio.run(main)
    assert states == [("mine", "theirs")]

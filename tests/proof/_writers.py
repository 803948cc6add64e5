"""What goes on while the power is cut: one process writes and tells what it does, another reads and tells what it saw.

Whatever is stored can be computed anew from a few numbers in it. So what is torn, mixed or foreign shows, whatever its
checksum says, and the numbers are all that needs to be told.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio._backends._asyncio  # now, and not anew in each process that is forked
import anyio._backends._trio
import msgspec

from swoosh_async import Entry, FileBackend, Journal, Snapshot, SnapshotStore
from swoosh_async.backends.file import Disk, Generations
from swoosh_async.errors import SnapshotNotFoundError, TruncatedError
from swoosh_async.machine import SnapshotPolicy, StateMachine

from ._children import NotWholeError, Tell, failures

__all__ = ["LOOPS", "SCENARIOS", "Plan", "Scenario", "State", "chained", "event", "head_of", "on_a_loop", "saved"]

LOOPS: list[tuple[str, dict[str, Any]]] = [("asyncio", {}), ("trio", {})]
LOOPS += [("asyncio", {"use_uvloop": True})] * (find_spec("uvloop") is not None)
if len(LOOPS) == 3:
    import uvloop  # noqa: F401  likewise

_SEGMENT_BYTES = 1 << 14
_RECENT = 1000


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one process is to do.

    Attributes:
        place: A path of its own for each scenario.
        number: Which process this is; no two have the same.
        rests_after: After how many acknowledgements it rests; 0 for never.
        known: Up to which index is known already what there is.
        disk: The system calls that change the disk; None for the operating system's own.
    """

    place: Path
    number: int
    rests_after: int = 0
    known: int = 0
    disk: Disk | None = None

    @property
    def chance(self) -> random.Random:
        """What this process leaves to chance."""
        return random.Random(self.number)


class Scenario(Protocol):
    """One way to write, and the way to read it from another process."""

    async def write(self, plan: Plan, tell: Tell) -> None: ...
    async def read(self, plan: Plan, tell: Tell) -> None: ...


def on_a_loop(work: Callable[[Plan, Tell], Awaitable[None]], plan: Plan) -> Callable[[Tell], None]:
    """That work on an event loop, of each kind in turn."""
    loop, options = LOOPS[plan.number % len(LOOPS)]
    return lambda tell: anyio.run(work, plan, tell, backend=loop, backend_options=options)


class _Load:
    """Tasks that go on until there have been so many acknowledgements; then nothing more is done."""

    def __init__(self, plan: Plan, tell: Tell) -> None:
        self._rests_after = plan.rests_after
        self._acknowledged = 0
        self._tell = tell

    @property
    def goes_on(self) -> bool:
        return not self._rests_after or self._acknowledged < self._rests_after

    def acknowledge(self, *facts: Any) -> None:
        self._tell("acknowledged", *facts)
        self._acknowledged += 1

    async def run(self, work: Callable[[int], Awaitable[None]], tasks: int) -> None:
        async with anyio.create_task_group() as group:
            for task in range(tasks):
                group.start_soon(work, task)
        self._tell("rests")
        await anyio.sleep_forever()


# ---------------------------------------------------------------------- snapshots


class Saved(msgspec.Struct, frozen=True):
    """A state that says who made it."""

    number: int
    index: int
    body: str


def saved(number: int, index: int) -> Saved:
    """The state that this process saves at that index."""
    name = f"{number} {index} "
    size = random.Random(name).choice([0, 200, 200, 5_000, 60_000])
    return Saved(number, index, (name * (size // len(name) + 1))[:size])


def _whole(state: Saved) -> tuple[int, int]:
    if state != saved(state.number, state.index):
        raise NotWholeError(f"the state of {state.number} at {state.index}")
    return state.index, state.number


class Snapshots:
    """A store in which tasks save, each a state behind the one before.

    Args:
        keep: How many snapshots are kept.
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep

    def store(self, plan: Plan) -> SnapshotStore[Saved]:
        """As `FileSnapshotStore` is made."""
        return SnapshotStore(Generations(plan.place / "snapshot.json", disk=plan.disk), Saved, keep=self.keep)

    async def write(self, plan: Plan, tell: Tell) -> None:
        store = self.store(plan)
        kept: list[tuple[int, int]] = []
        try:
            kept.append(_whole((await store.load_latest()).state))
            for ref in (await store.history())[1:]:
                kept.append(_whole((await store.load(ref)).state))  # noqa: PERF401
        except SnapshotNotFoundError:
            pass
        tell("opened", kept)
        index = kept[0][0] if kept else 0
        load = _Load(plan, tell)

        async def save(_: int) -> None:
            nonlocal index
            while load.goes_on:
                index += 1
                mine = index
                tell("begun", mine)
                await store.save(Snapshot(state=saved(plan.number, mine), last_applied_hlc="", last_applied_index=mine))
                load.acknowledge(mine)

        await load.run(save, plan.chance.choice([1, 4, 64]))

    async def read(self, plan: Plan, tell: Tell) -> None:
        store, chance = self.store(plan), plan.chance
        while True:
            with suppress(SnapshotNotFoundError):
                tell("loaded", *_whole((await store.load_latest()).state))
            await anyio.sleep(chance.random() * 0.002)


# ---------------------------------------------------------------------- events


def event(number: int, task: int, turn: int, part: int, size: int) -> str:
    """An event of that task of that process, with a body of that size."""
    head = f"{number} {task} {turn} {part} {size}"
    return f"{head}|{(head * (size // len(head) + 1))[:size]}"


def head_of(text: str) -> str:
    """The numbers of an event, which is whole."""
    head = text.partition("|")[0]
    if text != event(*map(int, head.split(" "))):
        raise NotWholeError(f"the event {head[:40]}")
    return head


class Events:
    """A journal of short segments, to which tasks append, and which one of them truncates."""

    def backend(self, plan: Plan) -> FileBackend:
        """Where it is."""
        return FileBackend(plan.place, segment_bytes=_SEGMENT_BYTES, lock_timeout_s=0, disk=plan.disk)

    async def write(self, plan: Plan, tell: Tell) -> None:
        chance, load = plan.chance, _Load(plan, tell)
        async with Journal(self.backend(plan), str, batch_events=chance.choice([3, 100])) as journal:
            last = journal.last_index
            first = journal.first_index or last + 1
            tell("opened", first, last, journal.torn_bytes)
            async with aclosing(journal.read(max(plan.known, first - 1), last)) as entries:
                async for entry in entries:
                    tell("seen", entry.index, head_of(entry.event), str(entry.hlc))
            tell("checked")

            async def append(task: int) -> None:
                turn = 0
                while load.goes_on:
                    turn += 1
                    size = chance.choice([0, 10, 200, 3000])
                    if task == 5 and turn % 3 == 2:
                        index = max(1, journal.last_index - 100)
                        tell("truncating", index)
                        await journal.truncate_before(index)
                        tell("truncated", index)
                        continue
                    events = [event(plan.number, task, turn, part, size) for part in range(3 if task % 4 == 0 else 1)]
                    tell("begun", task, turn)
                    if len(events) > 1:
                        receipts = await journal.append_many(events)
                    else:
                        receipts = [await journal.append(events[0])]
                    pairs = zip(receipts, events, strict=True)
                    load.acknowledge([(receipt.index, head_of(one), str(receipt.hlc)) for receipt, one in pairs])

            await load.run(append, chance.choice([8, 16]))

    async def read(self, plan: Plan, tell: Tell) -> None:
        async with aclosing(_followed(self.backend(plan), plan)) as entries:
            async for entry in entries:
                tell("read", entry.index, head_of(entry.event), str(entry.hlc))


async def _followed(backend: FileBackend, plan: Plan) -> AsyncGenerator[Entry[str], None]:
    """The entries of a journal as they come, from another process."""
    after, chance = plan.known, plan.chance
    async with Journal(backend, str, read_only=True) as journal:
        while True:
            try:
                async with aclosing(journal.read(after)) as entries:
                    async for entry in entries:
                        yield entry
                        after = entry.index
            except TruncatedError as error:
                after = error.first - 1
            await anyio.sleep(chance.random() * 0.002)


# ---------------------------------------------------------------------- a machine


class State(msgspec.Struct, frozen=True):
    """The fold of all events: how many there were, a digest of them all in order, and the last of them."""

    count: int = 0
    chain: int = 0
    recent: tuple[str, ...] = ()


def chained(chain: int, head: str) -> int:
    """The digest of all events, after one more."""
    digest = hashlib.blake2b(f"{chain} {head}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big")


def _apply(state: State, text: str, entry: Entry[str]) -> State:
    assert entry.index == state.count + 1, (entry.index, state.count)
    if text.startswith("!"):
        raise ValueError(text)
    head = head_of(text)
    return State(state.count + 1, chained(state.chain, head), (*state.recent, head)[-_RECENT:])


class Machine(Events):
    """A machine to which tasks dispatch, and which takes a snapshot after each fifty events."""

    async def write(self, plan: Plan, tell: Tell) -> None:
        chance, load = plan.chance, _Load(plan, tell)
        machine = StateMachine(
            self.backend(plan),
            _apply,
            State(),
            str,
            policy=SnapshotPolicy(every_events=50, keep=3),
            batch_events=chance.choice([3, 100]),
            on_snapshot_error=lambda error: [tell(*facts) for facts in failures(error)],
        )
        async with machine:
            state, report = machine.state, machine.recovery
            for damage in report.damaged:
                raise damage
            new = max(0, state.count - plan.known)
            assert new <= len(state.recent), "too much came unseen"
            tell("opened", state.count, state.chain, state.recent[len(state.recent) - new :], report.torn_bytes)

            async def dispatch(task: int) -> None:
                turn = 0
                while load.goes_on:
                    turn += 1
                    size = chance.choice([0, 10, 200])
                    events = [event(plan.number, task, turn, part, size) for part in range(3 if task % 4 == 0 else 1)]
                    tell("begun", task, turn)
                    after = await _dispatched(machine, task, turn, events)
                    if after is None:
                        tell("withdrawn")
                    else:
                        load.acknowledge(after.count, after.recent[-len(events) :])

            await load.run(dispatch, 16)

    async def read(self, plan: Plan, tell: Tell) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(super().read, plan, tell)
            store, chance = SnapshotStore(self.backend(plan), State, keep=3), plan.chance
            while True:
                with suppress(SnapshotNotFoundError):
                    state = (await store.load_latest()).state
                    tell("loaded", state.count, state.chain)
                await anyio.sleep(chance.random() * 0.004)


async def _dispatched(machine: StateMachine[State, str], task: int, turn: int, events: list[str]) -> State | None:
    """The state after these events; None where they were not wanted."""
    if task % 4 == 0:
        return await machine.dispatch_many(events)
    if task % 4 == 1:
        after = await machine.transact(lambda state: events if state.count % 2 else ())
        return after if after.recent[-1:] == (head_of(events[0]),) else None
    if task == 6 and turn % 3 == 0:
        with suppress(ValueError):
            return await machine.dispatch_many([*events, "!"])  # refused, as a whole
        return None
    return await machine.dispatch(events[0])


SCENARIOS: Mapping[str, Scenario] = {
    "snapshots, keep=1": Snapshots(1),
    "snapshots, keep=3": Snapshots(3),
    "journal": Events(),
    "machine": Machine(),
}

"""Work for a disk that remembers, and what must be there of it whenever its power is cut.

Each says before every step what it tries, and behind it what was acknowledged; what there is after a cut is judged by
what had been said until then.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path

import msgspec

from swoosh_async import (
    CorruptJournalError,
    CorruptSnapshotError,
    FileBackend,
    FileSnapshotStore,
    Journal,
    Snapshot,
    SnapshotNotFoundError,
    SnapshotPolicy,
    SnapshotStore,
    StateMachine,
)
from swoosh_async.backends.file import Generations, OsDisk

__all__ = ["Appends", "Dispatches", "Lost", "Saves", "Told", "Torn", "Workload"]

Mark = Callable[[str], None]

_SEGMENT_BYTES = 1 << 13
_KEEP = 3


class Lost(AssertionError):  # noqa: N818  it is found, and not raised by the package
    """What was acknowledged is not there."""


class Torn(AssertionError):  # noqa: N818
    """What is there was never written."""


class Told(msgspec.Struct):
    """What was said until the power was cut.

    Attributes:
        tried: The highest index that may be there.
        done: The highest that must be.
        may_go: Up to where, not included, a truncation may have removed what was there.
        gone: Up to where one has.
    """

    tried: int = 0
    done: int = 0
    may_go: int = 1
    gone: int = 1

    def hear(self, mark: str) -> None:
        """Hear one more mark."""
        what, _, index = mark.partition(" ")
        if what != "begin":
            setattr(self, what, int(index))

    def check(self, last: int) -> None:
        """Check the last index that is there.

        Raises:
            Lost: It was acknowledged that there are more.
            Torn: Nobody has written this one, or only part of what was written at once is there.
        """
        if last < self.done:
            raise Lost(f"{last} is there, and {self.done} was acknowledged")
        if last not in (self.done, self.tried):
            raise Torn(f"{last} is there, and {self.done} or {self.tried} was written")


class Workload(ABC):
    """Work in a directory of its own, by the library as it is used."""

    name: str

    @abstractmethod
    async def prepare(self, home: Path) -> None:
        """Make what is there before."""

    @abstractmethod
    async def work(self, home: Path, disk: OsDisk | None, mark: Mark) -> None:
        """Do it, and say so."""

    @abstractmethod
    async def check(self, home: Path, told: Told) -> None:
        """Recover, check what is there, and go on.

        Raises:
            Lost: Something acknowledged is not there.
            Torn: Something that is there was never written.
        """


def text(number: int) -> str:
    """A text that can be told from others, from a few bytes to a few blocks long."""
    chance = random.Random(number)
    return f"{number} " + chance.randbytes(chance.choice([5, 100, 700, 2000, 6000])).hex()


# ---------------------------------------------------------------------- snapshots


class Saves(Workload):
    """Saves, one after the other.

    Args:
        keep: How many are kept.
        count: How many there are.
    """

    def __init__(self, keep: int, count: int) -> None:
        self.name = f"save keep {keep}"
        self._keep = keep
        self._count = count

    async def prepare(self, home: Path) -> None:
        await self._save(FileSnapshotStore(home / "snapshot", Mapping[str, str], keep=self._keep), 0)

    async def work(self, home: Path, disk: OsDisk | None, mark: Mark) -> None:
        store = SnapshotStore(Generations(home / "snapshot", disk=disk), Mapping[str, str], keep=self._keep)
        for number in range(1, self._count + 1):
            mark(f"tried {number}")
            await self._save(store, number)
            mark(f"done {number}")

    @staticmethod
    async def _save(store: SnapshotStore[Mapping[str, str]], number: int) -> None:
        await store.save(Snapshot(state=_state(number), last_applied_hlc="", last_applied_index=number))

    async def check(self, home: Path, told: Told) -> None:
        store: SnapshotStore[Mapping[str, str]] = FileSnapshotStore(
            home / "snapshot", Mapping[str, str], keep=self._keep
        )
        try:
            latest = (await store.load_latest()).last_applied_index
            found = [await store.load(ref) for ref in await store.history()]
        except SnapshotNotFoundError as error:
            raise Lost(str(error)) from error
        except CorruptSnapshotError as error:
            raise Torn(str(error)) from error
        told.check(latest)
        for snapshot in found:
            if snapshot.state != _state(snapshot.last_applied_index):
                raise Torn(f"{snapshot.last_applied_index} is not what was saved")
        kept = [snapshot.last_applied_index for snapshot in found[: self._keep]]
        if kept != list(range(latest, max(-1, latest - self._keep), -1)):
            raise Lost(f"of {self._keep} generations there are {kept}")
        await self._save(store, latest + 1)


def _state(number: int) -> Mapping[str, str]:
    return {"number": str(number), "text": text(number)}


# ---------------------------------------------------------------------- a journal


class Appends(Workload):
    """Appends to a journal of small segments, some of many events at once, and truncations.

    Args:
        count: How many there are.
    """

    name = "append"

    def __init__(self, count: int) -> None:
        self._count = count

    @staticmethod
    def _journal(home: Path, disk: OsDisk | None = None) -> Journal[str]:
        return Journal(FileBackend(home, segment_bytes=_SEGMENT_BYTES, disk=disk), str)

    async def prepare(self, home: Path) -> None:
        async with self._journal(home):
            pass

    async def work(self, home: Path, disk: OsDisk | None, mark: Mark) -> None:
        async with self._journal(home, disk) as journal:
            for turn in range(1, self._count + 1):
                begin = journal.last_index + 1
                end = begin + (3 if turn % 7 == 0 else 1)
                mark(f"tried {end - 1}")
                await journal.append_many(map(text, range(begin, end)))
                mark(f"done {end - 1}")
                if turn % 9 == 0:
                    mark(f"may_go {end - 5}")
                    await journal.truncate_before(end - 5)
                    mark(f"gone {end - 5}")

    async def check(self, home: Path, told: Told) -> None:
        try:
            async with self._journal(home) as journal:
                first, last = journal.first_index, journal.last_index
                found = await _events(journal)
                receipt = await journal.append("more")
                assert receipt.index == last + 1
            async with self._journal(home) as journal:
                more = await _events(journal)
        except CorruptJournalError as error:
            raise Torn(str(error)) from error
        told.check(last)
        if found and first not in (told.gone, told.may_go):
            raise Lost(f"it begins at {first}, and not at {told.gone} or {told.may_go}")
        if found != {index: text(index) for index in range(min(found, default=last + 1), last + 1)}:
            raise Torn("the events are not those that were appended")
        assert more == {**found, last + 1: "more"}


async def _events(journal: Journal[str]) -> dict[int, str]:
    async with aclosing(journal.read()) as entries:
        return {entry.index: entry.event async for entry in entries}


# ---------------------------------------------------------------------- a machine


class Folded(msgspec.Struct, frozen=True):
    """How many events there were, and what came of them.

    Attributes:
        count: How many.
        sum: A sum that depends on their order.
    """

    count: int = 0
    sum: int = 0


def fold(state: Folded, event: str) -> Folded:
    """The state after an event."""
    return Folded(state.count + 1, (31 * state.sum + len(event)) % 1_000_003)


class Dispatches(Workload):
    """Dispatches to a machine that takes snapshots meanwhile, and trims its journal.

    Args:
        count: How many there are.
    """

    name = "dispatch"

    def __init__(self, count: int) -> None:
        self._count = count

    @staticmethod
    def _machine(home: Path, disk: OsDisk | None = None) -> StateMachine[Folded, str]:
        backend = FileBackend(home, segment_bytes=_SEGMENT_BYTES, disk=disk)
        return StateMachine(backend, fold, Folded(), str, policy=SnapshotPolicy(every_events=4, keep=2))

    async def prepare(self, home: Path) -> None:
        async with self._machine(home):
            pass

    async def work(self, home: Path, disk: OsDisk | None, mark: Mark) -> None:
        async with self._machine(home, disk) as machine:
            for number in range(1, self._count + 1):
                mark(f"tried {number}")
                await machine.dispatch(text(number))
                mark(f"done {number}")

    async def check(self, home: Path, told: Told) -> None:
        try:
            async with self._machine(home) as machine:
                state = machine.state
                assert not machine.recovery.damaged
                assert (await machine.dispatch("more")) == fold(state, "more")
        except (CorruptJournalError, CorruptSnapshotError) as error:
            raise Torn(str(error)) from error
        told.check(state.count)
        if state != _folded(map(text, range(1, state.count + 1))):
            raise Torn("the state is not that of the events")


def _folded(events: Iterable[str]) -> Folded:
    state = Folded()
    for event in events:
        state = fold(state, event)
    return state

"""A machine under load while something runs short, again and again at any moment, and comes back: nothing is lost."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
from abc import ABC, abstractmethod
from collections import Counter
from contextlib import suppress
from pathlib import Path

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from swoosh_async import BackendError, FileBackend, OutcomeUnknownError, PoisonedError, SnapshotPolicy, StateMachine

from .._disks import take_room
from ._subject import temps_below

__all__ = ["Descriptors", "FileSize", "Room", "Service", "Shortage"]

_TASKS = 6
_SEGMENT_BYTES = 1 << 15


class Shortage(ABC):
    """Something that runs short.

    Attributes:
        number: What the system says then.
    """

    number: int

    @abstractmethod
    def begin(self, chance: random.Random) -> None:
        """From now on there is no more of it."""

    @abstractmethod
    def end(self) -> None:
        """There is enough of it again."""


class Room(Shortage):
    """Room on a file system.

    Args:
        at: Where it is mounted.
    """

    number = errno.ENOSPC

    def __init__(self, at: Path) -> None:
        self._ballast = at / "ballast"

    def begin(self, chance: random.Random) -> None:
        with self._ballast.open("wb") as file:
            size = take_room(file, (1 << 24, 1 << 20, 1 << 16, 1 << 12))
            if size and chance.random() < 0.5:  # a little is left, for some of what comes
                file.truncate(max(0, size - chance.randrange(1 << 16)))
                os.fsync(file.fileno())

    def end(self) -> None:
        self._ballast.unlink(missing_ok=True)
        os.sync()  # or its room is not free yet


class Descriptors(Shortage):
    """Descriptors of this process."""

    number = errno.EMFILE

    def begin(self, chance: random.Random) -> None:
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._taken: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 4, self._limits[1]))
        with suppress(OSError):
            while True:
                self._taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(chance.randrange(3)):  # a few are left
            os.close(self._taken.pop())

    def end(self) -> None:
        for fd in self._taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)


class FileSize(Shortage):
    """How long a file may be: a write up to there comes back short, and one beyond it fails."""

    number = errno.EFBIG

    def __init__(self) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def begin(self, chance: random.Random) -> None:
        limit = chance.choice([chance.randrange(_SEGMENT_BYTES), chance.randrange(1000)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def end(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class Done(msgspec.Struct, frozen=True):
    """A state: the numbers of what was dispatched, in order."""

    numbers: tuple[int, ...] = ()


class Event(msgspec.Struct, frozen=True):
    """An event that takes room."""

    number: int
    text: str


def apply(state: Done, event: Event) -> Done:
    """The state after an event."""
    return Done((*state.numbers, event.number))


class Service:
    """What dispatches, and takes snapshots, and lives on.

    Args:
        home: The machine's directory.
        shortage: What runs short.
        seed: Of what is left to chance.

    Attributes:
        counts: How often what happened.
    """

    def __init__(self, home: Path, shortage: Shortage, seed: int) -> None:
        self.counts = Counter[str]()
        self._home = home
        self._shortage = shortage
        self._chance = random.Random(seed)
        self._next = 0
        self._known: list[int] = []
        self._unknown: set[int] = set()
        self._short = False

    async def run(self, rounds: int) -> None:
        """So many times everything runs short; what is acknowledged is in the state each time, and at the end."""
        while self.counts["short"] < rounds:
            await self._life(rounds)
        async with self._machine() as machine:
            self._check(machine.state)
            assert list(machine.state.numbers) == list((await machine.state_at()).numbers)
        assert temps_below(self._home) == []

    async def _life(self, rounds: int) -> None:
        """Enter the machine, and go on until an outcome is unknown, or for long enough."""
        machine = self._machine()
        if self._chance.random() < 0.3:  # it is entered while there is nothing
            self._begin()
            try:
                async with machine:
                    self._check(machine.state)
            except (BackendError, OutcomeUnknownError) as error:
                self._count(error, "enter")
            self._end()
            machine = self._machine()
        try:
            async with machine:
                self._check(machine.state)
                while self.counts["short"] < rounds:
                    await self._some(machine)
                    self._begin()
                    await self._some(machine)
                    self._check(machine.state)
                    self._end()
                    await self._dispatch(machine)  # which works again at once
                    self._check(machine.state)
        except PoisonedError:
            self._end()

    async def _some(self, machine: StateMachine[Done, Event]) -> None:
        """Dispatch for a while, from several tasks, and take a snapshot between."""
        count = self._chance.randrange(1, 12)

        async def dispatcher() -> None:
            for _ in range(count):
                await self._dispatch(machine)
                await checkpoint()

        async def snapshots() -> None:
            try:
                await machine.snapshot()
            except (BackendError, OutcomeUnknownError) as error:
                self._count(error, "snapshot")
            except PoisonedError:
                return
            else:
                self.counts["snapshots"] += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(_TASKS):
                tasks.start_soon(dispatcher)
            tasks.start_soon(snapshots)
        machine._check()

    async def _dispatch(self, machine: StateMachine[Done, Event]) -> None:
        number, self._next = self._next, self._next + 1
        short = self._short
        try:
            state = await machine.dispatch(Event(number, "x" * self._chance.randrange(3000)))
        except BackendError as error:
            assert short, "it fails although there is enough"
            self._count(error, "dispatch")
        except OutcomeUnknownError as error:
            self._unknown.add(number)
            self._count(error, "dispatch")
        except PoisonedError:
            return
        else:
            assert state.numbers[-1] == number or number in state.numbers
            self._known.append(number)
            self.counts["dispatched"] += 1
            self.counts["dispatched meanwhile"] += short

    def _check(self, state: Done) -> None:
        """Check that the state is all that was acknowledged, in order, and perhaps what nobody knew of."""
        assert len(set(state.numbers)) == len(state.numbers), "an event is there twice"
        new = set(state.numbers) - set(self._known)
        assert new <= self._unknown, f"{new} was refused, and is there"
        assert set(self._known) <= set(state.numbers), f"{set(self._known) - set(state.numbers)} is lost"
        self._known = list(state.numbers)
        self._unknown -= new

    def _count(self, error: BackendError | OutcomeUnknownError, what: str) -> None:
        assert error.errno == self._shortage.number, repr(error)
        self.counts[f"{what}: {'refused' if isinstance(error, BackendError) else 'unknown'}"] += 1

    def _begin(self) -> None:
        self.counts["short"] += 1
        self._short = True
        self._shortage.begin(self._chance)

    def _end(self) -> None:
        if self._short:
            self._shortage.end()
            self._short = False

    def _machine(self) -> StateMachine[Done, Event]:
        policy = SnapshotPolicy(every_events=40, keep=2)
        backend = FileBackend(self._home, segment_bytes=_SEGMENT_BYTES, lock_timeout_s=0)
        return StateMachine(backend, apply, Done(), Event, policy=policy)

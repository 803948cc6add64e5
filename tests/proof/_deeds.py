"""What is done while the power is cut at one of its steps: one verb each, in a directory of its own."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path

from swoosh_async import FileBackend, Journal, Snapshot, SnapshotStore
from swoosh_async.backends.file import Disk, Generations, OsDisk
from swoosh_async.errors import SnapshotNotFoundError
from swoosh_async.machine import SnapshotPolicy, StateMachine

from ._children import NotWholeError
from ._weak_disks import NoDataSync, NoDirectoryFsync

__all__ = ["DEEDS", "Deed", "Enter", "Load"]

_SEGMENT_BYTES = 1 << 14
_LARGE = 4 * _SEGMENT_BYTES // 5


class Deed:
    """Something to do in a directory of its own, with what is there before and behind it as a number.

    Args:
        home: The directory.
        disk: The system calls that change the disk.
    """

    old = 1
    new = 2

    def __init__(self, home: Path, disk: Disk) -> None:
        self.home = home
        self.disk = disk

    async def prepare(self) -> None:
        """Make what is there before."""
        raise NotImplementedError

    async def do(self) -> None:
        """Do it."""
        raise NotImplementedError

    async def there(self) -> int:
        """What is there; asked in another process, of another object."""
        raise NotImplementedError


class FirstSave(Deed):
    """The first snapshot, in a directory that is not there yet."""

    old, new = 0, 1
    keep = 1

    def store(self, disk: Disk | None = None) -> SnapshotStore[str]:
        """A store there."""
        return SnapshotStore(Generations(self.home / "deep" / "s", disk=disk or self.disk), str, keep=self.keep)

    async def prepare(self) -> None:
        self._store = self.store()

    async def do(self) -> None:
        await self.save(self._store, self.new)

    async def save(self, store: SnapshotStore[str], index: int) -> None:
        """Save a state that tells its index."""
        await store.save(Snapshot(state=f"{index}" * 9000, last_applied_hlc="", last_applied_index=index))

    async def there(self) -> int:
        try:
            snapshot = await self.store().load_latest()
        except SnapshotNotFoundError:
            return 0
        index = snapshot.last_applied_index
        if snapshot.state != f"{index}" * 9000:
            raise NotWholeError(snapshot.state[:20])
        return index


class NextSave(FirstSave):
    """A snapshot in place of another."""

    old, new = 1, 2

    async def prepare(self) -> None:
        self._store = self.store()
        for index in range(1, self.new):
            await self.save(self._store, index)


class FourthSave(NextSave):
    """A snapshot beside others, the oldest of which goes."""

    old, new = 3, 4
    keep = 3


class Load(FirstSave):
    """Loading what a writer has renamed and not made durable: as one that was killed."""

    old, new = 1, 2

    async def prepare(self) -> None:
        await self.save(self.store(OsDisk()), 1)
        await self.save(self.store(NoDirectoryFsync()), 2)
        self._store = self.store()

    async def do(self) -> None:
        assert (await self._store.load_latest()).last_applied_index == self.new


class Append(Deed):
    """An event behind another."""

    size = 100

    def backend(self, disk: Disk | None = None) -> FileBackend:
        """Where the journal is."""
        return FileBackend(self.home, segment_bytes=_SEGMENT_BYTES, disk=disk or self.disk)

    async def prepare(self) -> None:
        self._journal = await Journal(self.backend(), str).__aenter__()
        for index in range(1, self.new):
            await self._journal.append(f"{index}" * self.size)

    async def do(self) -> None:
        await self._journal.append(f"{self.new}" * self.size)

    async def there(self) -> int:
        async with Journal(self.backend(), str) as journal, aclosing(journal.read()) as entries:
            last = 0
            async for entry in entries:
                last = entry.index
                if entry.event != f"{last}" * self.size:
                    raise NotWholeError(entry.event[:20])
            return last


class FirstAppend(Append):
    """The first event of all."""

    old, new = 0, 1


class Rotate(Append):
    """An event for which the segment has no room; the next one is ready, and the one after that is made behind it."""

    size = _LARGE


class Enter(Append):
    """Opening a journal whose last batch its writer has not made durable: as one that was killed."""

    async def prepare(self) -> None:
        for disk in (OsDisk(), NoDataSync()):
            async with Journal(self.backend(disk), str) as journal:
                await journal.append(f"{journal.last_index + 1}" * self.size)

    async def do(self) -> None:
        self._journal = await Journal(self.backend(), str).__aenter__()
        assert self._journal.last_index == self.new


class Read(Enter):
    """Reading such a journal, with no claim."""

    async def do(self) -> None:
        journal = await Journal(self.backend(), str, read_only=True).__aenter__()
        async with aclosing(journal.read()) as entries:
            assert [entry.index async for entry in entries] == [1, 2]


class Truncate(Rotate):
    """Letting go of the oldest segments."""

    old, new = 1, 3

    async def prepare(self) -> None:
        self._journal = await Journal(self.backend(), str).__aenter__()
        for index in range(1, 5):
            await self._journal.append(f"{index}" * self.size)

    async def do(self) -> None:
        await self._journal.truncate_before(self.new)

    async def there(self) -> int:
        assert await super().there() == 4
        async with Journal(self.backend(), str) as journal:
            return journal.first_index


def _apply(state: int, _: str) -> int:
    return state + 1


class Dispatch(Append):
    """An event to a machine."""

    old, new = 3, 4

    def machine(self) -> StateMachine[int, str]:
        """A machine there, which takes no snapshot by itself."""
        policy = SnapshotPolicy(every_events=None, on_close=False, keep=1)
        return StateMachine(self.backend(), _apply, 0, str, policy=policy)

    async def prepare(self) -> None:
        self._machine = await self.machine().__aenter__()
        await self._machine.dispatch_many(["one", "two"])
        await self._machine.snapshot()
        await self._machine.dispatch("three")

    async def do(self) -> None:
        assert await self._machine.dispatch("four") == self.new

    async def there(self) -> int:
        async with self.machine() as machine:
            assert machine.state == machine.cursor.index
            return machine.state


DEEDS: Mapping[str, type[Deed]] = {
    deed.__name__: deed
    for deed in (
        FirstSave, NextSave, FourthSave, Load, FirstAppend, Append, Rotate, Enter, Read, Truncate, Dispatch,
    )
}  # fmt: skip
"""What is done, by its name."""

"""Every verb of a store of snapshots that awaits; and the naive store's, which is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from anyio.lowlevel import checkpoint

from swoosh_async import Snapshot, SnapshotStore

from ..test_cancellation import NaiveStore, State, snapshot
from ._phases import World
from ._verbs import Kind, Verb

__all__ = ["NAIVE", "SNAPSHOT_VERBS"]


class Snapshots(Kind):
    """Three snapshots are kept, and three are there."""

    async def prepare(self, world: World) -> None:
        store = SnapshotStore(world.fresh(), State, keep=3)
        for index in (1, 2, 3):
            await store.save(snapshot(index))

    @asynccontextmanager
    async def opened(self, world: World) -> AsyncIterator[Any]:
        yield SnapshotStore(world.backend, State, keep=3)

    async def there(self, world: World) -> Any:
        store = SnapshotStore(world.fresh(), State, keep=3)
        refs = await store.history()
        for ref in refs:
            assert await store.load(ref) == snapshot(ref.index)
        assert await store.load_latest() == snapshot(refs[0].index)
        return tuple(ref.index for ref in refs)

    async def next(self, subject: Any, world: World) -> None:
        del world
        await subject.save(snapshot(9))

    def after_next(self, there: Any) -> Any:
        return (9, *there)[:3]

    async def reopened(self, world: World) -> None:
        await SnapshotStore(world.fresh(), State).save(snapshot(10))


class File:
    """An async file in memory, which waits a turn of the loop for each of its calls."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data

    async def write(self, data: bytes, /) -> None:
        """Write."""
        await checkpoint()
        self.data += data

    async def read(self, size: int, /) -> bytes:
        """Read."""
        await checkpoint()
        piece, self.data = self.data[:size], self.data[size:]
        return piece


async def _verify(store: SnapshotStore[State], world: World) -> None:
    del world
    (ref,) = [ref for ref in await store.history() if ref.index == 2]
    await store.verify(ref)


async def _load(store: SnapshotStore[State], world: World) -> Snapshot[State]:
    del world
    (ref,) = [ref for ref in await store.history() if ref.index == 2]
    return await store.load(ref)


async def _indexes(refs: Coroutine[Any, Any, Any]) -> list[int]:
    return [ref.index for ref in await refs]


async def _export(store: SnapshotStore[State], world: World) -> Snapshot[State]:
    del world
    file = File()
    await store.export(file)
    return store.codec.decode(file.data).snapshot


async def _import(store: SnapshotStore[State], world: World) -> int:
    del world
    return (await store.import_(File(b"".join(store.codec.encode(snapshot(4)))))).index


async def _newest(store: SnapshotStore[State], world: World) -> Snapshot[State] | None:
    del world
    return (await store.newest()).snapshot


async def _save(store: Any, world: World) -> None:
    del world
    await store.save(snapshot(4))


def _saved(there: Any) -> Any:
    return (4, *there)[:3]


_SNAPSHOTS = Snapshots()
SNAPSHOT_VERBS = [
    Verb("save", _SNAPSHOTS, "SnapshotStore.save", _save, _saved),
    Verb(
        "load_latest",
        _SNAPSHOTS,
        "SnapshotStore.load_latest",
        lambda store, _: store.load_latest(),
        gives=snapshot(3),
    ),
    Verb("load", _SNAPSHOTS, "SnapshotStore.load", _load, gives=snapshot(2)),
    Verb("history", _SNAPSHOTS, "SnapshotStore.history", lambda store, _: _indexes(store.history()), gives=[3, 2, 1]),
    Verb(
        "prune",
        _SNAPSHOTS,
        "SnapshotStore.prune",
        lambda store, _: _indexes(store.prune(1)),
        lambda there: there[:1],
        gives=[2, 1],
    ),
    Verb("newest", _SNAPSHOTS, "SnapshotStore.newest", _newest, gives=snapshot(3)),
    Verb("verify", _SNAPSHOTS, "SnapshotStore.verify", _verify),
    Verb("export", _SNAPSHOTS, "SnapshotStore.export", _export, gives=snapshot(3)),
    Verb("import_", _SNAPSHOTS, "SnapshotStore.import_", _import, _saved, gives=4),
]


class Naive(Kind):
    """The store that is a lock and a hop."""

    async def prepare(self, world: World) -> None:
        (world.directory / "home").mkdir()
        await NaiveStore(world.directory / "home" / "state", world.phases).save(snapshot(1))

    @asynccontextmanager
    async def opened(self, world: World) -> AsyncIterator[Any]:
        yield NaiveStore(world.directory / "home" / "state", world.phases)

    async def there(self, world: World) -> Any:
        found = await NaiveStore(world.directory / "home" / "state", world.phases).load_latest()
        assert found == snapshot(found.last_applied_index)
        return found.last_applied_index

    async def next(self, subject: Any, world: World) -> None:
        del world
        await subject.save(snapshot(9))

    def after_next(self, there: Any) -> Any:
        del there
        return 9

    async def reopened(self, world: World) -> None:
        await NaiveStore(world.directory / "home" / "state", world.phases).save(snapshot(10))


NAIVE = Verb("save", Naive(), "", _save, lambda _: 4)

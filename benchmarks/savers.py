"""Contestants: this package, and what people use today, each opened in a directory and saving a state when awaited.

All are as durable as they can be told to be: what is acknowledged has been fsynced, where the library has a way to.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pickle
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiofiles
import aiofiles.os
import aiosqlite
import anyio.to_thread
import diskcache  # type: ignore[import-untyped]  # it has no types
import msgspec

from swoosh_async import FileSnapshotStore, Snapshot, Timestamp

from . import oneshot
from .syscalls import fsync_directory, same_calls_as_save

__all__ = [
    "HLC",
    "Act",
    "Opener",
    "aiofiles_bytes",
    "aiofiles_json",
    "aiofiles_pickle",
    "aiofiles_same_steps",
    "diskcache_pickle",
    "one_hop",
    "oneshot_decoded_in_thread",
    "oneshot_in_thread",
    "sqlite_msgspec",
    "swoosh",
    "swoosh_unverified",
]

Act = Callable[[Any], Awaitable[object]]
"""Saves what it is given."""

Opener = Callable[[Path], AbstractAsyncContextManager[Act]]
"""Gets ready in a directory; entering and leaving is not measured."""

HLC = str(Timestamp(wall_ns=1_764_000_000_000_000_000, logical=7, node=1))
"""A timestamp as long as all are."""


@asynccontextmanager
async def swoosh(directory: Path, *, verify: bool = True) -> AsyncGenerator[Act, None]:
    """This package, with a new store for each state type."""
    stores: dict[type, FileSnapshotStore[Any]] = {}

    async def save(state: Any) -> None:
        store = stores.get(type(state))
        if store is None:
            store = stores[type(state)] = FileSnapshotStore(directory / "snapshot.json", type(state), verify=verify)
        await store.save(Snapshot(state=state, last_applied_hlc=HLC, last_applied_index=1))

    yield save


swoosh_unverified = partial(swoosh, verify=False)
"""The same without decoding again what was encoded."""


@asynccontextmanager
async def one_hop(directory: Path) -> AsyncGenerator[Act, None]:
    """The bare system calls of a save, of bytes, in one hop into a thread: what no async library can go below."""

    async def save(data: bytes) -> None:
        await anyio.to_thread.run_sync(same_calls_as_save, directory, data)

    yield save


@asynccontextmanager
async def oneshot_in_thread(directory: Path) -> AsyncGenerator[Act, None]:
    """Msgspec in one call and the least that is durable, in a thread."""

    async def save(state: Any) -> None:
        await anyio.to_thread.run_sync(oneshot.save, directory / "oneshot.json", state)

    yield save


@asynccontextmanager
async def oneshot_decoded_in_thread(directory: Path) -> AsyncGenerator[Act, None]:
    """The same, and decode the very bytes."""

    async def save(state: Any) -> None:
        await anyio.to_thread.run_sync(oneshot.save_and_decode, directory / "oneshot.json", state)

    yield save


async def _write(path: Path, data: bytes) -> None:
    """The least that is durable, call by call with aiofiles, and a hop of one's own where aiofiles has no such call."""
    temp = path.with_suffix(".tmp")
    async with aiofiles.open(temp, "wb") as file:
        await file.write(data)
        await file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
    await aiofiles.os.rename(temp, path)
    await asyncio.to_thread(fsync_directory, path.parent)


@asynccontextmanager
async def aiofiles_bytes(directory: Path) -> AsyncGenerator[Act, None]:
    """Bytes, call by call with aiofiles."""
    yield partial(_write, directory / "bytes")


@asynccontextmanager
async def aiofiles_same_steps(directory: Path) -> AsyncGenerator[Act, None]:
    """Bytes, in the very steps of a save, call by call with aiofiles: with the lock, the compare and the probe."""
    path = directory / "snapshot.json"
    flock = aiofiles.os.wrap(fcntl.flock)
    fsync = aiofiles.os.wrap(os.fsync)

    async def save(data: bytes) -> None:
        async with aiofiles.open(directory / ".lock", "ab") as lock:
            await flock(lock.fileno(), fcntl.LOCK_EX)
            async with aiofiles.open(path, "rb") as current:
                await current.read(4096)
            temp = directory / f"snapshot-{secrets.token_hex(8)}.tmp"
            async with aiofiles.open(temp, "xb", buffering=0) as file:
                await flock(file.fileno(), fcntl.LOCK_EX)
                await file.write(data)
                await fsync(file.fileno())
                await aiofiles.os.rename(temp, path)
            await asyncio.to_thread(fsync_directory, directory)
            await lock.truncate(0)
            await flock(lock.fileno(), fcntl.LOCK_UN)

    yield save


@asynccontextmanager
async def aiofiles_json(directory: Path) -> AsyncGenerator[Act, None]:
    """json.dumps on the loop with sorted keys, and aiofiles."""

    async def save(state: Any) -> None:
        text = json.dumps(msgspec.to_builtins(state), sort_keys=True)
        await _write(directory / "state.json", text.encode())

    yield save


@asynccontextmanager
async def aiofiles_pickle(directory: Path) -> AsyncGenerator[Act, None]:
    """pickle.dumps on the loop, and aiofiles."""

    async def save(state: Any) -> None:
        await _write(directory / "state.pickle", pickle.dumps(state, protocol=pickle.HIGHEST_PROTOCOL))

    yield save


@asynccontextmanager
async def sqlite_msgspec(directory: Path) -> AsyncGenerator[Act, None]:
    """Aiosqlite (WAL, synchronous=FULL): one row, replaced with what msgspec encodes on the loop in one call."""
    async with aiosqlite.connect(directory / "state.db") as database:
        await database.execute("PRAGMA journal_mode=WAL")
        await database.execute("PRAGMA synchronous=FULL")
        await database.execute("CREATE TABLE IF NOT EXISTS state (id INTEGER PRIMARY KEY, body BLOB)")
        await database.commit()

        async def save(state: Any) -> None:
            await database.execute("REPLACE INTO state VALUES (1, ?)", (oneshot.encode(state),))
            await database.commit()

        yield save


@asynccontextmanager
async def diskcache_pickle(directory: Path) -> AsyncGenerator[Act, None]:
    """Diskcache in a thread, with SQLite told to be durable; what is larger than 32 KiB it writes without fsync."""
    options = {"sqlite_synchronous": 2, "eviction_policy": "none"}
    with diskcache.Cache(str(directory / "diskcache"), **options) as cache:

        async def save(state: Any) -> None:
            await asyncio.to_thread(cache.set, "state", state)

        yield save

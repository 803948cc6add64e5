"""Contestants that make events durable: many tasks, each appending one event after the other."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import msgspec

from swoosh_async import FileBackend, Journal

from .events import Event
from .loops import run

__all__ = ["AppendOpener", "bare_loop", "rate", "sqlite", "sqlite_shared", "swoosh"]

AppendOpener = Callable[[Path], AbstractAsyncContextManager[Callable[[Any], Awaitable[object]]]]
"""Gets ready in a directory, which is not measured, and gives what appends an event."""

_PREALLOCATED = 64 << 20
_WARM = 50


@asynccontextmanager
async def swoosh(directory: Path) -> AsyncGenerator[Callable[[Any], Awaitable[object]], None]:
    """This package's journal, as it is by default."""
    async with Journal(FileBackend(directory / "journal"), Event) as journal:
        yield journal.append


@asynccontextmanager
async def sqlite(directory: Path) -> AsyncGenerator[Callable[[Any], Awaitable[object]], None]:
    """One row an event, each committed by itself, on one connection: WAL, synchronous=FULL."""
    encode = msgspec.msgpack.Encoder().encode
    async with aiosqlite.connect(directory / "journal.db", isolation_level=None) as database:
        await _prepare(database)

        async def append(event: Any) -> None:
            await database.execute("INSERT INTO event (body) VALUES (?)", (encode(event),))

        yield append


@asynccontextmanager
async def sqlite_shared(directory: Path) -> AsyncGenerator[Callable[[Any], Awaitable[object]], None]:
    """The same with `commit` behind each `execute`: tasks get into each other's transactions, and share the fsyncs.

    Durable when it returns, but no task can roll back any more.
    """
    encode = msgspec.msgpack.Encoder().encode
    async with aiosqlite.connect(directory / "shared.db") as database:
        await _prepare(database)

        async def append(event: Any) -> None:
            await database.execute("INSERT INTO event (body) VALUES (?)", (encode(event),))
            await database.commit()

        yield append


async def _prepare(database: aiosqlite.Connection) -> None:
    await database.execute("PRAGMA journal_mode=WAL")
    await database.execute("PRAGMA synchronous=FULL")
    await database.execute("CREATE TABLE IF NOT EXISTS event (id INTEGER PRIMARY KEY, body BLOB)")
    await database.commit()


def rate(loop: str, opener: AppendOpener, directory: Path, event: Any, *, tasks: int, each: int) -> float:
    """Appends a second by so many tasks, each appending so many events, on a new event loop."""

    async def measure() -> float:
        async with opener(directory) as append:

            async def appends(count: int) -> None:
                for _ in range(count):
                    await append(event)

            await appends(_WARM)
            begun = time.perf_counter()
            async with anyio.create_task_group() as group:
                for _ in range(tasks):
                    group.start_soon(appends, each)
            return tasks * each / (time.perf_counter() - begun)

    return run(loop, measure)


def bare_loop(directory: Path, count: int, data: bytes) -> float:
    """Writes a second of these bytes, one by one: pwrite and fdatasync on preallocated space, in a plain loop."""
    fd = os.open(directory / "bare", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.posix_fallocate(fd, 0, _PREALLOCATED)
        os.fsync(fd)
        begun = time.perf_counter()
        for i in range(count):
            os.pwrite(fd, data, i * len(data))
            os.fdatasync(fd)
        return count / (time.perf_counter() - begun)
    finally:
        os.close(fd)

"""Contestants that load: each opened where this package has saved, and loading as the type that it is given."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread

from swoosh_async import FileSnapshotStore

from . import oneshot
from .savers import Act

__all__ = ["oneshot_load_in_thread", "swoosh_load"]


@asynccontextmanager
async def swoosh_load(directory: Path) -> AsyncGenerator[Act, None]:
    """This package, with a new store: as a service does that has just been started."""

    async def load(state_type: type) -> Any:
        return await FileSnapshotStore(directory / "snapshot.json", state_type).load_latest()

    yield load


@asynccontextmanager
async def oneshot_load_in_thread(directory: Path) -> AsyncGenerator[Act, None]:
    """Read, add up the checksum, and have msgspec decode in one call, in a thread."""

    async def load(state_type: type) -> Any:
        return await anyio.to_thread.run_sync(oneshot.load, directory / "snapshot.json", state_type)

    yield load

"""One state, saved and loaded by all contestants in turn, in a process of its own in which it stays alive."""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec

from swoosh_async import FileSnapshotStore, Snapshot

from . import loaders, oneshot, savers
from .laps import interleave
from .loops import LOOPS
from .runs import Watched, timed, timed_blocking, watched
from .savers import Act, Opener

__all__ = [
    "FROZEN",
    "IDLE",
    "LATER",
    "ONESHOT",
    "ONESHOT_DECODED",
    "OURS",
    "PEERS",
    "UNVERIFIED",
    "Found",
    "measure_case",
]

OURS = "swoosh_async"
UNVERIFIED = "swoosh_async, verify=False"
LATER = "swoosh_async, the same store again"
FROZEN = "swoosh_async, after gc.freeze()"
ONESHOT = "msgspec in one call"
ONESHOT_DECODED = "msgspec in one call, then decoded"
IDLE = "nothing, for 1 s"

PEERS: dict[str, Opener] = {
    "json + aiofiles": savers.aiofiles_json,
    "pickle + aiofiles": savers.aiofiles_pickle,
    "aiosqlite, WAL, synchronous=FULL": savers.sqlite_msgspec,
    "diskcache, synchronous=FULL": savers.diskcache_pickle,
}

_IDLE_S = 1.0


class Found(msgspec.Struct, frozen=True):
    """What was found, each by contestant (and loop), one for each round.

    Attributes:
        size_bytes: The file's length.
        collection_s: How long a full garbage collection takes while the state is alive, in seconds.
        saves: How long a save took, in seconds.
        saves_watched: How the loop fared meanwhile.
        loads: How long a load took, in seconds.
        loads_watched: How the loop fared meanwhile.
    """

    size_bytes: int
    collection_s: float
    saves: dict[str, list[float]]
    saves_watched: dict[tuple[str, str], list[Watched]]
    loads: dict[str, list[float]]
    loads_watched: dict[tuple[str, str], list[Watched]]


def measure_case(make_state: Callable[[], Any], directory: Path, rounds: int, peers: dict[str, Opener]) -> Found:
    """Make the state and measure.

    Args:
        make_state: Makes the state.
        directory: Where everybody writes.
        rounds: How often each contestant has its turn.
        peers: Who takes part beside this package and msgspec's single call.
    """
    state = make_state()
    saves = interleave("saves", _saves(state, directory, peers), rounds)
    return Found(
        collection_s=timed_blocking(gc.collect),
        size_bytes=(directory / "snapshot.json").stat().st_size,
        saves=saves,
        saves_watched=interleave("saves, watched", _saves_watched(state, directory, peers), rounds),
        loads=interleave("loads", _loads(type(state), directory), rounds),
        loads_watched=interleave("loads, watched", _loads_watched(type(state), directory), rounds),
    )


def _saves(state: Any, directory: Path, peers: dict[str, Opener]) -> dict[str, Callable[[], float]]:
    path = directory / "oneshot.json"
    return {
        OURS: partial(timed, "asyncio", savers.swoosh, directory, state),
        LATER: partial(timed, "asyncio", _again(state, directory), directory, state),
        UNVERIFIED: partial(timed, "asyncio", savers.swoosh_unverified, directory, state),
        ONESHOT: partial(timed_blocking, partial(oneshot.save, path, state)),
        ONESHOT_DECODED: partial(timed_blocking, partial(oneshot.save_and_decode, path, state)),
        **{name: partial(timed, "asyncio", opener, directory, state) for name, opener in peers.items()},
    }


def _saves_watched(
    state: Any, directory: Path, peers: dict[str, Opener]
) -> dict[tuple[str, str], Callable[[], Watched]]:
    everywhere: dict[str, Opener] = {
        IDLE: _idle,
        OURS: savers.swoosh,
        UNVERIFIED: savers.swoosh_unverified,
        ONESHOT: savers.oneshot_in_thread,
    }
    on_asyncio: dict[str, Opener] = {ONESHOT_DECODED: savers.oneshot_decoded_in_thread, **peers}
    return {
        **{(n, loop): partial(watched, loop, o, directory, state) for n, o in everywhere.items() for loop in LOOPS},
        (FROZEN, "asyncio"): lambda: _frozen(partial(watched, "asyncio", savers.swoosh, directory, state)),
        **{(n, "asyncio"): partial(watched, "asyncio", o, directory, state) for n, o in on_asyncio.items()},
    }


def _loads(state_type: type, directory: Path) -> dict[str, Callable[[], float]]:
    naive = partial(oneshot.load, directory / "snapshot.json", state_type)
    return {
        OURS: partial(timed, "asyncio", loaders.swoosh_load, directory, state_type),
        ONESHOT: partial(timed_blocking, naive),
    }


def _loads_watched(state_type: type, directory: Path) -> dict[tuple[str, str], Callable[[], Watched]]:
    naive = loaders.oneshot_load_in_thread
    return {
        **{(OURS, loop): partial(watched, loop, loaders.swoosh_load, directory, state_type) for loop in LOOPS},
        (ONESHOT, "asyncio"): partial(watched, "asyncio", naive, directory, state_type),
    }


def _again(state: Any, directory: Path) -> Opener:
    """A store that has saved before, and keeps what it learnt."""
    store = FileSnapshotStore(directory / "snapshot.json", type(state))

    @asynccontextmanager
    async def opener(_: Path) -> AsyncGenerator[Act, None]:
        async def save(state: Any) -> None:
            await store.save(Snapshot(state=state, last_applied_hlc=savers.HLC, last_applied_index=1))

        yield save

    timed("asyncio", opener, directory, state)
    return opener


@asynccontextmanager
async def _idle(_: Path) -> AsyncGenerator[Act, None]:
    async def sleep(_: Any) -> None:
        await anyio.sleep(_IDLE_S)

    yield sleep


def _frozen(call: Callable[[], Watched]) -> Watched:
    gc.freeze()
    try:
        return call()
    finally:
        gc.unfreeze()

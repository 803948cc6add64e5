"""What a service does with snapshots: saves, loads, looks back, prunes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio

from swoosh_async import CorruptSnapshotError, FileSnapshotStore, Snapshot, SnapshotNotFoundError

from ._subject import Found, Subject, Trial, Work

__all__ = ["SNAPSHOTS", "load", "look_at_snapshots", "save", "save_on", "saved"]


def _store(home: Path, keep: int = 3) -> FileSnapshotStore[dict[str, int]]:
    return FileSnapshotStore(home / "snap", dict[str, int], keep=keep)


def _snap(index: int) -> Snapshot[dict[str, int]]:
    return Snapshot(state={"a": index}, last_applied_index=index)


def saved(*indices: int) -> Callable[[Path], None]:
    def prepare(home: Path) -> None:
        async def main() -> None:
            for index in indices:
                await _store(home).save(_snap(index))

        anyio.run(main)

    return prepare


def _damaged(home: Path) -> None:
    saved(1, 2)(home)
    latest = home / "snap"
    data = bytearray(latest.read_bytes())
    data[-3] ^= 1
    latest.unlink()  # the generation of the same file stays as it is
    latest.write_bytes(data)


async def look_at_snapshots(home: Path) -> Found:
    """The indices of the latest snapshot and of those kept beside it, each of them loaded."""
    store = _store(home)
    try:
        latest: Any = (await store.load_latest()).last_applied_index
    except SnapshotNotFoundError:
        return []
    except CorruptSnapshotError:
        latest = "damaged"
    found = []
    for ref in await store.history():
        with suppress(CorruptSnapshotError):
            assert (await store.load(ref)).state == {"a": ref.index}
            found.append(ref.index)
    return list(dict.fromkeys([latest, *found]))


async def _look_at_first(home: Path) -> Found:
    return await look_at_snapshots(home / "a" / "b")


async def save_on(home: Path, found: Found) -> None:
    """The next writer: it saves, and nothing but what belongs there is left."""
    await _store(home).save(_snap(100))
    now = await look_at_snapshots(home)
    kept = [100, *(index for index in found if index != "damaged")]
    assert now == kept[: len(now)] or (not found and now == [100, 1]), (found, now)  # the first's generation alone
    assert len(now) >= min(len(kept), 2)  # an index that was saved again has two generations


async def _save_first_on(home: Path, found: Found) -> None:
    await save_on(home / "a" / "b", found)


async def _is_latest(store: FileSnapshotStore[dict[str, int]], index: int) -> bool:
    try:
        return (await store.load_latest()).last_applied_index == index
    except (CorruptSnapshotError, SnapshotNotFoundError):
        return False


def save(index: int, *, earlier: Sequence[int] = (), below: str = "", keep: int = 3) -> Work:
    async def work(trial: Trial) -> None:
        home = trial.home / below
        store = _store(home, keep)
        for before in earlier:
            await store.save(_snap(before))
        with trial.armed():
            await store.save(_snap(index))
        if trial.ended == "unknown":
            await trial.poisoned(lambda: store.save(_snap(index)))
            await trial.poisoned(store.load_latest)
            store = _store(home, keep)
        if trial.ended == "refused" or (trial.ended == "unknown" and not await _is_latest(store, index)):
            await store.save(_snap(index))
        trial.must((await store.load_latest()).state == {"a": index}, "what was saved is not loaded")

    return work


def load(index: int, *, fallback: bool = False) -> Work:
    async def work(trial: Trial) -> None:
        store = _store(trial.home)
        loaded: list[int] = []
        with trial.armed():
            loaded.append((await store.load_latest(fallback=fallback)).last_applied_index)
        trial.must(loaded in ([], [index]), f"{loaded} was loaded")
        trial.must((await store.load_latest(fallback=fallback)).last_applied_index == index, "it is not loaded again")

    return work


async def _history(trial: Trial) -> None:
    store = _store(trial.home)
    with trial.armed():
        trial.must([ref.index for ref in await store.history()] == [4, 3, 2], "the history is another")
    trial.must([ref.index for ref in await store.history()] == [4, 3, 2], "the history is another")


async def _prune(trial: Trial) -> None:
    store = _store(trial.home)
    with trial.armed():
        await store.prune(1)
    await store.prune(1)


def _of(prepare: Callable[[Path], None], work: Work, before: Found, after: Found, *new: Found) -> Subject:
    return Subject(prepare, work, look_at_snapshots, save_on, before, after, new)


SNAPSHOTS: dict[str, Subject] = {
    "save, the first": Subject(lambda _: None, save(1, below="a/b"), _look_at_first, _save_first_on, [], [1]),
    "save, the second": _of(saved(1), save(3, earlier=[2]), [2, 1], [3, 2, 1]),
    "save, pruning": _of(saved(1, 2, 3, 4), save(5), [4, 3, 2], [5, 4, 3]),
    "save, one kept": _of(saved(1, 2), save(3, keep=1), [2, 1], [3]),
    "save over damage": _of(_damaged, save(3), ["damaged", 2, 1], [3, 2, 1], ["damaged", 3, 2, 1], [3, 2]),
    "load": _of(saved(1, 2), load(2), [2, 1], [2, 1]),
    "load, falling back": _of(_damaged, load(2, fallback=True), ["damaged", 2, 1], ["damaged", 2, 1]),
    "history": _of(saved(2, 3, 4), _history, [4, 3, 2], [4, 3, 2]),
    "prune": _of(saved(1, 2, 3), _prune, [3, 2, 1], [3], [3, 1], [3, 2]),
}
"""What a service does with snapshots, by name."""

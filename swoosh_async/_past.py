"""What was before: a state as it stood at some point, and whether replaying gives the same once more.

It only reads, and needs no claim, so it may look at what another process writes. What it needs may be trimmed under its
hands; then it begins anew, with what there is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from ._folds import Fold, Standing
from ._hop import Hop, readers
from ._pages import Pages
from .backends.base import Backend, Bounds, Index
from .clock import Timestamp
from .codec import EventCodec, EventsDamagedError
from .errors import (
    CorruptJournalError,
    CorruptSnapshotError,
    DivergenceError,
    SchemaVersionError,
    SnapshotNotFoundError,
    TruncatedError,
)
from .models import Snapshot
from .snapshots import SnapshotRef, SnapshotStore

__all__ = ["Past", "Progress"]

S = TypeVar("S")
E = TypeVar("E")
T = TypeVar("T")

Progress = Callable[[int, int], object]

_TRIES = 5


class Past(Generic[S, E]):
    """The states that lead to the present one.

    Args:
        backend: Where the bytes are kept.
        new_store: Makes a store for its snapshots.
        pages: What reads its entries.
        fold: The user's function.
        initial: What there was before the first event.
    """

    def __init__(
        self,
        backend: Backend,
        new_store: Callable[[], SnapshotStore[S]],
        pages: Pages[E],
        fold: Fold[S, E],
        initial: Standing[S],
    ) -> None:
        self._backend = backend
        self._new_store = new_store
        self._pages = pages
        self._fold = fold
        self._initial = initial

    async def state_at(self, index: int | None, hlc: Timestamp | None, progress: Progress) -> Standing[S]:
        """The state after that index, or up to that time; with neither, after the last entry.

        Raises:
            ValueError: There is no such index yet.
            TruncatedError: What leads to it is kept no more.
            CorruptJournalError: It is damaged, or ends before a snapshot.
        """

        async def once() -> Standing[S]:
            await self._check_ends()
            target = await self.index_at(index, hlc)
            bounds = await self._bounds()
            return await self._folded(await self._base(target, bounds), target, progress)

        return await _tried(once)

    async def index_at(self, index: int | None, hlc: Timestamp | None) -> int:
        """Which index that is; raises as `state_at`."""
        bounds = await self._bounds()
        if hlc is None:
            target = bounds.last if index is None else index
            if not 0 <= target <= bounds.last:
                raise ValueError(f"index must be 0 to {bounds.last}, which is the last")
            return target
        found = await Hop(lambda: self._last_until(hlc, bounds)).run(readers())
        if 0 < found < bounds.first:  # before all that is kept; a snapshot may stand for it
            for ref in await self._refs():
                if ref.index <= found and _is_until(ref, hlc):
                    return ref.index
            raise TruncatedError(self._backend.where, after=0, first=bounds.first)
        return found

    async def verify_replay(self, now: Standing[S] | None, progress: Progress) -> int:
        """Replay from the oldest state that there is to each newer one; how many entries these were.

        Args:
            now: The state as it stands, to be compared as well; None where nobody holds one.
            progress: Called with how many entries are done, and how many there are.

        Raises:
            DivergenceError: A state is not what its entries lead to.
        """
        return await _tried(lambda: self._verified(now, progress))

    async def _verified(self, now: Standing[S] | None, progress: Progress) -> int:
        bounds = await self._bounds()
        store = self._new_store()
        begin = self._initial if bounds.first == 1 else None
        standing = begin
        newest = bounds.last if now is None else now.index
        for ref in reversed(await self._refs()):
            stored = await self._loaded(store, ref)
            if stored is None or ref.index < bounds.first - 1:
                continue
            if standing is None:
                begin = standing = Standing(stored.state, ref.index, ref.hlc)
            else:
                standing = await self._same(
                    store, standing, Standing(stored.state, ref.index, ref.hlc), progress, newest
                )
        if standing is None or begin is None:
            raise CorruptSnapshotError(self._backend.where, "no snapshot is whole to replay from", others=())
        if now is not None and now.index >= standing.index:
            standing = await self._same(store, standing, now, progress, newest)
        return standing.index - begin.index

    async def _same(
        self, store: SnapshotStore[S], older: Standing[S], newer: Standing[S], progress: Progress, newest: int
    ) -> Standing[S]:
        folded = await self._folded(older, newer.index, lambda done, _: progress(older.index + done, newest))
        difference = await Hop(lambda: store.codec.difference(newer.state, folded.state)).run(readers())
        if difference is not None:
            raise DivergenceError(self._backend.where, difference, older=older.index, newer=newer.index)
        return folded

    # ------------------------------------------------------------------ steps

    async def _check_ends(self) -> None:
        """Check that the journal does not end before a snapshot, as it does where it was lost."""
        newest = max((ref.index for ref in await self._refs()), default=0)
        last = (await self._bounds()).last
        if newest > last:
            reason = f"a snapshot holds index {newest}, and the journal ends before it"
            raise CorruptJournalError(self._backend.where, reason, offset=None, index=last + 1)

    async def _base(self, target: int, bounds: Bounds) -> Standing[S]:
        """The newest state that is stored, not behind `target`, from which on the journal is complete."""
        store = self._new_store()
        for ref in await self._refs():
            if ref.index <= target and (ref.index >= bounds.first - 1 or ref.index == target):
                snapshot = await self._loaded(store, ref)
                if snapshot is not None:
                    return Standing(snapshot.state, ref.index, ref.hlc)
        if bounds.first > 1:
            raise TruncatedError(self._backend.where, after=min(target, bounds.first - 2), first=bounds.first)
        return self._initial

    async def _folded(self, standing: Standing[S], target: int, progress: Progress) -> Standing[S]:
        begun = standing.index

        def some(now: Standing[S]) -> Standing[S]:
            batches = self._pages.read(now.index, target)
            return self._fold.over(now, self._pages.entries(batches, now.index, target))

        while standing.index < target:
            now = standing
            standing = await Hop(lambda now=now: some(now)).run(readers())  # type: ignore[misc]
            progress(standing.index - begun, target - begun)
        return standing

    async def _refs(self) -> list[SnapshotRef]:
        """The snapshots, the one with the highest index first."""
        return sorted(await self._new_store().history(), key=lambda ref: ref.index, reverse=True)

    async def _loaded(self, store: SnapshotStore[S], ref: SnapshotRef) -> Snapshot[S] | None:
        try:
            return await store.load(ref)
        except (CorruptSnapshotError, SchemaVersionError):
            return None

    async def _bounds(self) -> Bounds:
        return await Hop(self._backend.bounds).run(readers())

    # ------------------------------------------------------------------ in the worker thread

    def _last_until(self, hlc: Timestamp, bounds: Bounds) -> int:
        """The last index with a time up to that; the one before the first that is kept where there is none."""
        low, high = bounds.first - 1, int(bounds.last)
        while low < high:
            middle = (low + high + 1) // 2
            if self._time_of(middle) <= hlc:
                low = middle
            else:
                high = middle - 1
        return low

    def _time_of(self, index: int) -> Timestamp:
        batches = self._backend.read(Index(index - 1), 1)
        if not batches or not batches[0].first <= index <= batches[0].last:
            raise TruncatedError(self._backend.where, after=index - 1, first=self._backend.bounds().first)
        try:
            return EventCodec.stamp(batches[0].data).plus(index - batches[0].first)
        except EventsDamagedError as error:
            raise CorruptJournalError(self._backend.where, error.reason, offset=None, index=index) from None


def _is_until(ref: SnapshotRef, hlc: Timestamp) -> bool:
    try:
        return Timestamp.parse(ref.hlc) <= hlc
    except ValueError:  # somebody else's
        return False


async def _tried(once: Callable[[], Awaitable[T]]) -> T:
    """What `once` gives; anew where something was trimmed meanwhile."""
    for _ in range(_TRIES - 1):
        try:
            return await once()
        except (TruncatedError, SnapshotNotFoundError):
            continue
    return await once()

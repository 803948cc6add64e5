"""What was before: a state as it stood at some point, and whether replaying gives the same once more.

It only reads what there is, and needs no claim, so it may look at what another process writes. What it needs may be
trimmed under its hands; then it begins anew, with what there is.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from ._copies import copying
from ._folds import Fold, Standing
from ._hop import Hop, readers, surely
from ._pages import Pages
from ._recovery import check_end, furthest, none_whole
from .backends.base import Backend, Bounds
from .backends.file import Draft
from .clock import Timestamp
from .errors import (
    CorruptSnapshotError,
    DivergenceError,
    SchemaVersionError,
    SnapshotNotFoundError,
    TruncatedError,
)
from .models import Cursor, Snapshot
from .snapshots import SnapshotRef, SnapshotStore

__all__ = ["Past", "Point", "Progress", "point_of"]

S = TypeVar("S")
E = TypeVar("E")
T = TypeVar("T")

Progress = Callable[[int, int], object]

_TRIES = 5


class Point(msgspec.Struct, frozen=True):
    """A point in the past: after an index, or after all up to a time; with neither, the end."""

    index: int | None = None
    hlc: Timestamp | None = None


def point_of(index: int | None, hlc: Timestamp | str | None) -> Point:
    """The point that these stand for, at most one of which is given.

    Raises:
        ValueError: Both are given, or one is not of its type, or the text is no timestamp.
    """
    if index is not None and hlc is not None:
        raise ValueError("give an index or a time, not both")
    time = Timestamp.parse(hlc) if isinstance(hlc, str) else hlc
    if time is not None and type(time) is not Timestamp:  # callers may be untyped
        reason = f"a time must be a Timestamp or its text, not a {type(time).__name__}"
        raise ValueError(reason)
    return Point(index, time)


class _Kept(msgspec.Struct, frozen=True):
    """What there is: snapshots, the one with the highest index first, and the journal's bounds behind them."""

    refs: list[SnapshotRef]
    bounds: Bounds


class Past(Generic[S, E]):
    """The states that lead to the present one.

    Args:
        backend: Where the bytes are kept.
        store: Its snapshots.
        pages: What reads its entries.
        fold: The user's function.
        initial: What there was before the first event.
    """

    def __init__(
        self,
        backend: Backend,
        store: SnapshotStore[S],
        pages: Pages[E],
        fold: Fold[S, E],
        initial: Standing[S],
    ) -> None:
        self._backend = backend
        self._store = store
        self._pages = pages
        self._fold = fold
        self._initial = initial

    async def state_at(self, point: Point, progress: Progress) -> Standing[S]:
        """The state at that point.

        Raises:
            ValueError: There is no such index yet.
            TruncatedError: What leads to it is kept no more.
            CorruptJournalError: It is damaged, or ends before a snapshot.
        """

        async def once() -> Standing[S]:
            kept = await self._kept()
            target = await self._index_at(kept, point)
            return await self._folded(await self._base(kept, target), target, progress)

        return await _tried(once)

    async def copy(self, path: str | os.PathLike[str], point: Point | None) -> Cursor:
        """Write what leads to that point, or all that is kept, into a new directory; where its state stands.

        Raises:
            BackendError: Something is there already, or a step failed; nothing has changed.
            OutcomeUnknownError: A step failed after which it may be there.
            SwooshError: As `state_at`.
        """

        async def once() -> Cursor:
            kept = await self._kept()
            until = None if point is None else await self._index_at(kept, point)
            draft = Draft(path)
            try:
                cursor = await self._copied(await Hop(draft.open).run(readers()), until)
                await Hop(draft.publish).run(readers())
            finally:
                await surely(lambda: Hop(draft.abandon).run(), lambda: draft.abandoned)
            return cursor

        return await _tried(once)

    async def _copied(self, target: Backend, until: int | None) -> Cursor:
        steps = copying(self._backend, target, until)
        end: list[Cursor] = []
        closed = False

        def step() -> None:
            try:
                next(steps)
            except StopIteration as done:
                end.append(done.value)

        def close() -> None:
            nonlocal closed
            closed = True
            steps.close()

        try:
            while not end:
                await Hop(step).run(readers())
        finally:
            await surely(lambda: Hop(close).run(), lambda: closed)
        return end[0]

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
        kept = await self._kept()
        bounds = kept.bounds
        begin = self._initial if bounds.first == 1 else None
        standing = begin
        newest = bounds.last if now is None else now.index
        wrong: list[CorruptSnapshotError] = []
        for ref in reversed(kept.refs):
            stored = await self._loaded(ref, wrong)
            if stored is None or ref.index < bounds.first - 1:
                continue
            if standing is None:
                begin = standing = Standing(stored.state, ref.index, ref.hlc)
            else:
                newer = Standing(stored.state, ref.index, ref.hlc)
                standing = await self._same(standing, newer, progress, newest)
        if standing is None or begin is None:
            raise none_whole(self._backend.where, wrong[::-1], bounds.first)
        if now is not None and now.index >= standing.index:
            standing = await self._same(standing, now, progress, newest)
        return standing.index - begin.index

    async def _same(self, older: Standing[S], newer: Standing[S], progress: Progress, newest: int) -> Standing[S]:
        folded = await self._folded(older, newer.index, lambda done, _: progress(older.index + done, newest))
        difference = await Hop(lambda: self._store.codec.difference(newer.state, folded.state)).run(readers())
        if difference is not None:
            raise DivergenceError(self._backend.where, difference, older=older.index, newer=newer.index)
        return folded

    # ------------------------------------------------------------------ steps

    async def _kept(self) -> _Kept:
        """What there is to go back to."""
        refs = sorted(await self._store.history(), key=lambda ref: ref.index, reverse=True)
        bounds = await Hop(self._backend.bounds).run(readers())
        if ahead := [ref for ref in refs if ref.index > bounds.last]:
            await self._check_ahead(ahead, bounds)
        return _Kept(refs, bounds)

    async def _check_ahead(self, ahead: Sequence[SnapshotRef], bounds: Bounds) -> None:
        """Check that snapshots that say they hold more than the journal are damaged, and that it is so they say it."""
        for ref in ahead:
            if await self._loaded(ref, []) is not None:
                check_end(self._backend.where, ref.index, bounds.last)
        kept = bounds.first <= bounds.last
        found = await Hop(lambda: self._pages.time_of(bounds.last)).run(readers()) if kept else None
        check_end(self._backend.where, furthest(ahead, found), bounds.last, damaged=True)

    async def _index_at(self, kept: _Kept, point: Point) -> int:
        """Which index that point is; raises as `state_at`."""
        bounds, hlc = kept.bounds, point.hlc
        if hlc is None:
            target: object = bounds.last if point.index is None else point.index
            if type(target) is not int or not 0 <= target <= bounds.last:
                raise ValueError(f"index must be an int from 0 to {bounds.last}, which is the last")
            return target
        found = await Hop(lambda: self._last_until(hlc, bounds)).run(readers())
        if 0 < found < bounds.first:  # before all that is kept; a snapshot may stand for it
            for ref in kept.refs:
                if ref.index <= found and _stands_at(ref, hlc, nothing_between=ref.index == found):
                    return ref.index
            raise TruncatedError(self._backend.where, after=0, first=bounds.first, point=str(hlc))
        return found

    async def _base(self, kept: _Kept, target: int) -> Standing[S]:
        """The newest state that is stored, not behind `target`, from which on the journal is complete."""
        first = kept.bounds.first
        wrong: list[CorruptSnapshotError] = []
        for ref in kept.refs:
            if ref.index <= target and (ref.index >= first - 1 or ref.index == target):
                snapshot = await self._loaded(ref, wrong)
                if snapshot is not None:
                    return Standing(snapshot.state, ref.index, ref.hlc)
        if first == 1:
            return self._initial
        if wrong:
            raise none_whole(self._backend.where, wrong, first, f"no snapshot that leads to index {target}")
        raise TruncatedError(self._backend.where, after=min(target, first - 2), first=first, point=f"index {target}")

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

    async def _loaded(self, ref: SnapshotRef, wrong: list[CorruptSnapshotError]) -> Snapshot[S] | None:
        """The snapshot; None where it is damaged, or cannot be read by this program: then `wrong` is longer by one."""
        try:
            return await self._store.load(ref)
        except CorruptSnapshotError as error:
            wrong.append(error)
        except SchemaVersionError as error:
            wrong.append(CorruptSnapshotError(ref.name, str(error), others=()))
        return None

    # ------------------------------------------------------------------ in the worker thread

    def _last_until(self, hlc: Timestamp, bounds: Bounds) -> int:
        """The last index with a time up to that; the one before the first that is kept where there is none."""
        low, high = bounds.first - 1, int(bounds.last)
        while low < high:
            middle = (low + high + 1) // 2
            if self._pages.time_of(middle) <= hlc:
                low = middle
            else:
                high = middle - 1
        return low


def _stands_at(ref: SnapshotRef, hlc: Timestamp, *, nothing_between: bool) -> bool:
    """Whether a snapshot is the state at that time, which is before that of any entry that is kept.

    Args:
        ref: The snapshot.
        hlc: The time.
        nothing_between: Whether the snapshot's last entry is the one before the first that is kept.
    """
    try:
        time = Timestamp.parse(ref.hlc)
    except ValueError:  # somebody else's
        return False
    return time == hlc or (nothing_between and time < hlc)


async def _tried(once: Callable[[], Awaitable[T]]) -> T:
    """What `once` gives; anew where something was trimmed meanwhile."""
    for _ in range(_TRIES - 1):
        try:
            return await once()
        except (TruncatedError, SnapshotNotFoundError):
            continue
    return await once()

"""A machine's snapshots: taken beside its dispatches, as the policy says, and the journal trimmed behind them.

When one is due is the policy's to say; how it is saved, the store's. What fails here is told, and tried again, and
never in the way of who dispatches.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar, Unpack

import anyio
from anyio import CancelScope, Event

from ._breather import Breather
from ._folded import FoldedJournal
from ._hop import Loop, surely
from ._policy import SnapshotPolicy
from ._turns import Turns
from .backends.base import SnapshotBackend
from .codec import CodecOptions
from .errors import CorruptSnapshotError, OutcomeUnknownError, PoisonedError, SnapshotNotFoundError
from .models import Snapshot
from .snapshots import SnapshotRef, SnapshotStore

__all__ = ["Keeper", "KeptStore"]

S = TypeVar("S")

_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 60.0

_log = logging.getLogger("swoosh_async")


class KeptStore(SnapshotStore[S]):
    """A store whose saves leave the GIL to dispatches, while there are any.

    Args:
        journal: What dispatches go into.
        backend: As `SnapshotStore` has it.
        state_type: Likewise.
        keep: Likewise.
        options: Likewise.
    """

    def __init__(
        self,
        journal: FoldedJournal[S, Any],
        backend: SnapshotBackend,
        state_type: Any,
        *,
        keep: int,
        **options: Unpack[CodecOptions],
    ) -> None:
        super().__init__(backend, state_type, keep=keep, **options)
        self._journal = journal

    def _breather(self) -> Breather:
        return Breather(lambda: self._journal.last_index)


class Keeper(Generic[S]):
    """Keeps the snapshots of one machine.

    Args:
        journal: The machine's journal.
        policy: When snapshots are taken.
        new_store: Makes a store for them; once more where an outcome has become unknown.
        on_error: Called with the error when a snapshot failed that was taken by the policy.
    """

    def __init__(
        self,
        journal: FoldedJournal[S, Any],
        policy: SnapshotPolicy,
        new_store: Callable[[], SnapshotStore[S]],
        on_error: Callable[[Exception], object] | None,
    ) -> None:
        self._journal = journal
        self._policy = policy
        self._new_store = new_store
        self._on_error = on_error
        self._whole: set[str] = set()
        self._index = 0
        self._taken_s = 0.0
        self._due = False
        self.store = new_store()
        """Where the snapshots are."""
        self.turns = Turns()
        """One snapshot at a time."""
        self.last_error: Exception | None = None
        """Why the last snapshot failed; None if it did not."""

    def begin(self, index: int) -> None:
        """From now on, on the running loop, snapshots are due behind the one that holds that index; 0 for none."""
        self._index = index
        self._taken_s = time.monotonic()
        self._loop = Loop()
        self._wanted = Event()
        self._keeping = CancelScope()  # of its own: who is in the machine's block is never cancelled for its sake
        self._journal.served = self._look_whether_due

    async def run(self) -> None:
        """Take snapshots as they become due, until stopped."""
        retry_s = 0.0
        with self._keeping:
            while True:
                await self._until_due(retry_s)
                taken = await self._try()
                retry_s = 0.0 if taken else min(max(_FIRST_RETRY_S, 2 * retry_s), _LONGEST_RETRY_S)

    def stop(self) -> None:
        """Have `run` end."""
        self._keeping.cancel()

    async def close(self) -> None:
        """Take the last one, if the policy says so and it can be; on return, whatever interrupts, nobody takes one."""
        over = False

        async def turn() -> None:
            nonlocal over
            async with self.turns:
                over = True

        try:
            if self._policy.on_close and self._journal.sound:
                await self._try()
        finally:
            await surely(turn, lambda: over)  # who else takes one is not hurried

    async def snapshot(self, check: Callable[[], object]) -> SnapshotRef:
        """Take one now, and trim the journal.

        Args:
            check: Called when it is this one's turn; raises if it may not be taken any more.

        Raises:
            SwooshError: As `SnapshotStore.save`.
        """
        async with self.turns:
            check()
            ref = await self._save()
            await self._trim()
            self.last_error = None
            return ref

    # ------------------------------------------------------------------ one snapshot

    async def _try(self) -> bool:
        """Take one, unless one holds all events already; False where that failed, and somebody was told."""
        try:
            async with self.turns:
                self._due = False
                if self._events_since():
                    await self._save()
                elif self.last_error is None:
                    return True
                await self._trim()
                self.last_error = None
        except Exception as error:  # noqa: BLE001  whatever it is, dispatching goes on
            self.last_error = error
            _log.warning("%r: no snapshot was taken: %s", self.store, error)
            self._tell(error)
            return False
        return True

    async def _save(self) -> SnapshotRef:
        self._due = False
        standing = self._journal.folds.now
        cursor = standing.cursor
        before = self._index, self._taken_s
        self._index, self._taken_s = cursor.index, time.monotonic()  # from here the next one counts
        try:
            ref = await self.store.save(
                Snapshot(state=standing.state, last_applied_hlc=cursor.hlc, last_applied_index=cursor.index)
            )
        except BaseException as error:
            self._index, self._taken_s = before
            if isinstance(error, OutcomeUnknownError | PoisonedError):
                self.store = self._new_store()
            raise
        self._whole.add(ref.checksum)
        return ref

    async def _trim(self) -> None:
        """Let go of the entries that are in the oldest snapshot that is kept, once as many as are to be kept are whole.

        Before that there would be no second way to the state if the first snapshot were damaged.
        """
        kept: list[SnapshotRef] = []
        for ref in await self.store.history():
            if ref.checksum not in self._whole or not ref.checksum:
                try:
                    await self.store.verify(ref)
                except (CorruptSnapshotError, SnapshotNotFoundError):
                    continue
            kept.append(ref)
        self._whole = {ref.checksum for ref in kept}
        if len(kept) < self._policy.keep:
            return
        oldest = min(ref.index for ref in kept)
        if oldest + 1 > self._journal.kept_from and self._journal.sound:
            await self._journal.truncate_before(oldest + 1)

    def _tell(self, error: Exception) -> None:
        if self._on_error is None:
            return
        try:
            self._on_error(error)
        except Exception as raised:  # noqa: BLE001  likewise
            _log.warning("%r: on_snapshot_error failed: %r", self.store, raised)

    # ------------------------------------------------------------------ when

    async def _until_due(self, retry_s: float) -> None:
        if retry_s:
            await anyio.sleep(retry_s)
            return
        while True:
            every_s = self._policy.every_s
            rest_s = None if every_s is None else max(0.0, self._taken_s + every_s - time.monotonic())
            with anyio.move_on_after(rest_s if self._events_since() else None):
                await self._wanted.wait()
            self._wanted = Event()
            if self._due or self._policy.counted(*self._since()):
                return

    def _look_whether_due(self) -> None:
        """In the worker thread, after a commit; what it finds holds, however the state goes on."""
        if not self._due:
            self._due = self._is_due()
        if not self._wanted.is_set() and (self._due or self._policy.every_s is not None):
            self._loop.post(self._wanted.set)

    def _is_due(self) -> bool:
        try:
            return self._policy.due(*self._since(), self._journal.folds.now.state)
        except Exception as error:  # noqa: BLE001  the user's function may raise anything, and dispatching goes on
            _log.warning("%r: the policy's own function failed: %r", self.store, error)
            return False

    def _since(self) -> tuple[int, float]:
        return self._events_since(), time.monotonic() - self._taken_s

    def _events_since(self) -> int:
        return self._journal.last_index - self._index

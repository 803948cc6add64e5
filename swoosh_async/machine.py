"""A state that is always the fold of its durable events, and that comes back by itself.

A machine joins a journal and snapshots: it claims the backend, loads the newest snapshot that is whole, replays what
came after, and from then on makes each event durable before it is in the state. Snapshots are taken beside that, by a
task that the machine owns. What a dispatch does in the worker thread, and when a snapshot is due, is decided elsewhere.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, Unpack

import anyio
import anyio.lowlevel
from anyio import CancelScope

from ._folded import FoldedJournal
from ._folds import Dispatch, Fold, Standing, Upcasts
from ._hop import failed
from ._keeper import Keeper, KeptStore
from ._past import Past, point_of
from ._policy import SnapshotPolicy
from ._recovery import RecoveryReport, check_end, furthest, starting_point
from .backends.base import Backend
from .clock import HybridLogicalClock, Timestamp
from .codec import CodecOptions, SnapshotCodec
from .errors import ClosedError
from .journal import BATCH_BYTES, BATCH_EVENTS, Entry
from .models import Cursor, Snapshot
from .snapshots import Newest, SnapshotRef, SnapshotStore

__all__ = ["RecoveryReport", "SnapshotPolicy", "StateMachine"]

S = TypeVar("S")
E = TypeVar("E")

_log = logging.getLogger("swoosh_async")


class StateMachine(Generic[S, E]):
    """A state that is the fold of its durable events; an async context manager, and the only writer of its backend.

    Any number of tasks may use one machine, from several event loops and threads.

    Args:
        backend: Where the bytes are kept.
        apply: The state after an event, ``apply(state, event)``; where it needs a third argument, it gets the `Entry`,
            with index and time. Pure: it changes nothing in place, and gives the same for the same. It runs in worker
            threads, once for each event, and once more when that is replayed. What it raises refuses the event.
        initial_state: The state before the first event.
        event_type: Any type that msgspec can encode and decode; a tagged union of Structs, most often.
        state_type: The state's type, if that is not the initial state's class.
        upcasts: What stands today for an event of a type that is not written any more: a function for each such type,
            which gives any number of events. The types of both are told apart by their tags.
        policy: When snapshots are taken, and how many are kept.
        clock: What gives each event its time. None for one of its own.
        lock_timeout_s: How long entering waits for another writer, in seconds; None for as long as the backend says.
        epoch: The epoch to claim, of an election of one's own, say; None for the next.
        on_progress: Called while entries are replayed, with how many are done and how many there are.
        on_snapshot_error: Called with the error when a snapshot failed that was taken by the policy.
        batch_events: How many dispatches are committed together at most, ≥ 1.
        batch_bytes: How many bytes of events are committed together at most; one dispatch may be larger.
        options: As `SnapshotCodec` has them; the hooks are used for events as well.

    Raises:
        ValueError: A bound is below 1, or an option is wrong.
        TypeError: msgspec does not support a type.
    """

    def __init__(
        self,
        backend: Backend,
        apply: Callable[[S, E], S] | Callable[[S, E, Entry[E]], S],
        initial_state: S,
        event_type: Any,
        *,
        state_type: Any = None,
        upcasts: Upcasts | None = None,
        policy: SnapshotPolicy = SnapshotPolicy(),  # noqa: B008  it is frozen
        clock: HybridLogicalClock | None = None,
        lock_timeout_s: float | None = None,
        epoch: int | None = None,
        on_progress: Callable[[int, int], object] | None = None,
        on_snapshot_error: Callable[[Exception], object] | None = None,
        batch_events: int = BATCH_EVENTS,
        batch_bytes: int = BATCH_BYTES,
        **options: Unpack[CodecOptions],
    ) -> None:
        self._backend = backend
        fold: Fold[S, E] = Fold(apply, upcasts or {})
        initial: Standing[S] = Standing(initial_state, 0, "")
        self._journal: FoldedJournal[S, E] = FoldedJournal(
            fold,
            initial,
            backend,
            event_type,
            older=upcasts or (),
            clock=clock,
            lock_timeout_s=lock_timeout_s,
            epoch=epoch,
            batch_events=batch_events,
            batch_bytes=batch_bytes,
            enc_hook=options.get("enc_hook"),
            dec_hook=options.get("dec_hook"),
        )
        stored_type = type(initial_state) if state_type is None else state_type

        def new_store() -> SnapshotStore[S]:
            return KeptStore(self._journal, backend, stored_type, keep=policy.keep, **options)

        self._keeper: Keeper[S] = Keeper(self._journal, policy, new_store, on_snapshot_error)
        self._past: Past[S, E] = Past(backend, new_store(), self._journal.pages, fold, initial)
        self._on_progress = on_progress
        self._recovery: RecoveryReport | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._backend.where}>"

    # ------------------------------------------------------------------ open and close

    async def __aenter__(self) -> Self:
        """Claim the backend, load the newest snapshot that is whole, and replay what came after it.

        Raises:
            CorruptSnapshotError: No snapshot is whole, and the journal does not reach back to the first event.
            CorruptJournalError: The journal is damaged, or ends before the snapshot.
            Exception: What `apply` raises on an entry that is in the journal.
            SwooshError: As `Journal` and `SnapshotStore.load_latest`.
        """
        begun = time.monotonic()
        await self._journal.__aenter__()
        try:
            claimed = time.monotonic()
            newest = await self._keeper.store.newest()
            await self._begin_with(newest)
            loaded = time.monotonic()
            entries = await self._journal.replay(self._on_progress or _ignored)
            self._recovery = RecoveryReport(
                snapshot=newest.ref,
                damaged=newest.damaged,
                entries=entries,
                torn_bytes=self._journal.torn_bytes,
                claim_s=claimed - begun,
                load_s=loaded - claimed,
                replay_s=time.monotonic() - loaded,
            )
            self._keeper.begin(0 if newest.snapshot is None else newest.snapshot.last_applied_index)
            self._tasks = anyio.create_task_group()
            await self._tasks.__aenter__()
            self._tasks.start_soon(self._keeper.run)
        except BaseException:
            self._closed = True
            await self._journal.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take a last snapshot, if the policy says so, and let go of the backend."""
        self._closed = True
        try:
            self._keeper.stop()
            await self._tasks.__aexit__(None, None, None)
        finally:
            try:
                with CancelScope(shield=True):
                    await self._keeper.close()
            finally:
                await self._journal.aclose()

    async def _begin_with(self, newest: Newest[S]) -> None:
        where, first, last = self._backend.where, self._journal.kept_from, self._journal.last_index
        for error in newest.damaged:
            _log.warning("passed over: %s", error)
            error.__traceback__ = error.__cause__ = error.__context__ = None  # whose frames hold all that was read
        if newest.damaged:  # the head of one may still tell how far the journal once went
            ahead = furthest(await self._keeper.store.history(), self._journal.folds.found)
            check_end(where, ahead, last, damaged=True)
        standing = starting_point(where, newest, first, last)
        if standing is not None:
            self._journal.folds.begin(standing)

    # ------------------------------------------------------------------ what there is

    @property
    def recovery(self) -> RecoveryReport:
        """What was found when the machine was entered.

        Raises:
            ClosedError: It was not entered yet.
        """
        if self._recovery is None:
            raise ClosedError(self._backend.where, opened=False)
        return self._recovery

    @property
    def state(self) -> S:
        """The fold of all that is durable.

        Raises:
            ClosedError: The machine was not entered yet.
        """
        return self._standing.state

    @property
    def cursor(self) -> Cursor:
        """Up to where events are in the state; as `state` at the same moment only if nothing is awaited in between.

        Raises:
            ClosedError: The machine was not entered yet.
        """
        return self._standing.cursor

    @property
    def _standing(self) -> Standing[S]:
        if self._recovery is None:
            raise ClosedError(self._backend.where, opened=False)
        return self._journal.folds.now

    @property
    def sound(self) -> bool:
        """Whether it can be dispatched to, for a health check. So it is while it is open and no outcome is unknown.

        Once it is not, it never is again: leave it, and open a new one, which reads what is there.
        """
        return self._recovery is not None and not self._closed and self._journal.sound

    # ------------------------------------------------------------------ dispatch

    def dispatch(self, event: E, *, expected_index: int | None = None) -> Coroutine[Any, Any, S]:
        """Make an event durable, and then visible; to be awaited.

        Args:
            event: The event, as it is now, at the call.
            expected_index: The last index that there must be before it; None for any.

        Returns:
            The state after it.

        Raises:
            Exception: What `apply` raises: the event is refused; nothing has changed.
            SwooshError: As `Journal.append`.
        """
        return self.dispatch_many((event,), expected_index=expected_index)

    def dispatch_many(self, events: Iterable[E], *, expected_index: int | None = None) -> Coroutine[Any, Any, S]:
        """Make events durable, all of them or none, and then visible; as `dispatch`.

        Returns:
            The state after the last.
        """
        try:
            self._check()
            item = self._journal.dispatch(events, expected_index)
        except Exception as error:  # noqa: BLE001  an enc_hook may raise anything
            return failed(error)
        return self._journal.submit(item)

    def transact(self, decide: Callable[[S], Iterable[E]]) -> Coroutine[Any, Any, S]:
        """Decide on events by the very state that they will meet, and dispatch them; to be awaited.

        So a rule holds whatever else is dispatched meanwhile, and transactions share the fsyncs as dispatches do.

        Args:
            decide: The events for a state: that after everything that stands in line before. Pure; it runs in a worker
                thread, mostly once. What it raises refuses the transaction.

        Returns:
            The state after them.

        Raises:
            Exception: What `decide` or `apply` raises; nothing has changed.
            SwooshError: As `dispatch`.
        """
        try:
            self._check()
        except Exception as error:  # noqa: BLE001
            return failed(error)
        return self._journal.submit(Dispatch(decide=decide))

    def _check(self) -> None:
        self._check_open()
        self._journal.check()

    def _check_open(self) -> None:
        if self._closed or self._recovery is None:
            raise ClosedError(self._backend.where, opened=self._closed)
        self._journal.check_fork()

    # ------------------------------------------------------------------ watch

    def changes(self, after: int | None = None) -> AsyncGenerator[Entry[E], None]:
        """The entries behind `after`, and then those that come, as `Journal.follow` gives them.

        Args:
            after: The index behind which to begin; None for where the state stands now.

        Raises:
            TruncatedError: What comes right behind `after` was trimmed, also while somebody who is slow has not come to
                it: go on from `state` and `cursor`, or from a snapshot.
            ClosedError: The machine was not entered yet.
            SwooshError: As `Journal.read`.
        """
        return self._journal.follow(self.cursor.index if after is None else after)

    async def wait_for(self, predicate: Callable[[S], bool]) -> S:
        """Wait until the state is as wanted, and return it.

        Raises:
            ClosedError: The machine was closed before it was.
            LockedError: This process is a fork of the one that entered the machine, and it is not so yet.
            PoisonedError: An outcome is unknown; open it anew.
        """
        await anyio.lowlevel.checkpoint()
        while True:
            standing = self._standing
            if predicate(standing.state):
                return standing.state
            if not await self._journal.comes(standing.index) and standing is self._standing:
                raise ClosedError(self._backend.where)

    # ------------------------------------------------------------------ snapshots

    async def snapshot(self) -> SnapshotRef:
        """Take a snapshot now, and let go of what of the journal no kept snapshot needs.

        Raises:
            ClosedError: The machine is not open.
            LockedError: This process is a fork of the one that entered the machine.
            SwooshError: As `SnapshotStore.save`; a snapshot that fails changes nothing of the machine.
        """
        self._check_open()  # before it stands in line: in a fork, whose turn it was may be the parent's
        return await self._keeper.snapshot(self._check_open)

    # ------------------------------------------------------------------ the past

    async def state_at(
        self,
        *,
        index: int | None = None,
        hlc: Timestamp | str | None = None,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> S:
        """The state as it stood at some point that is retained.

        It only reads, as the other looks at the past do: the machine need not be entered, and another process may be
        the writer.

        Args:
            index: After the entry with that index; 0 for the initial state.
            hlc: After the last entry with a time up to that one. With neither, after the last entry.
            on_progress: Called with how many entries are replayed, and how many there are.

        Raises:
            ValueError: Both are given, the text is no timestamp, or there is no such index yet.
            TruncatedError: What leads to it is kept no more.
            Exception: What `apply` raises on an entry that is in the journal.
            SwooshError: As `Journal.read` and `SnapshotStore.load`.
        """
        return (await self.snapshot_at(index=index, hlc=hlc, on_progress=on_progress)).state

    async def snapshot_at(
        self,
        *,
        index: int | None = None,
        hlc: Timestamp | str | None = None,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> Snapshot[S]:
        """As `state_at`, with the cursor of the last event that is in the state; it is stored nowhere."""
        standing = await self._past.state_at(point_of(index, hlc), on_progress or _ignored)
        cursor = standing.cursor
        return Snapshot(state=standing.state, last_applied_hlc=cursor.hlc, last_applied_index=cursor.index)

    async def verify_replay(self, *, on_progress: Callable[[int, int], object] | None = None) -> int:
        """Replay from the oldest state that there is to each newer snapshot, and to the state as it is, and compare.

        States are compared by the SHA-256 of their canonical bytes.

        Args:
            on_progress: Called with the index that is replayed, and with the last one.

        Returns:
            How many entries were replayed.

        Raises:
            DivergenceError: A state is not what its entries lead to: `apply` depends on more than its arguments, or has
                changed since.
            SwooshError: As `state_at`.
        """
        now = self._journal.folds.now if self._recovery is not None else None
        return await self._past.verify_replay(now, on_progress or _ignored)

    async def backup(self, path: str | os.PathLike[str]) -> Cursor:
        """Write all that is retained, as it is now, into a new directory: a `FileBackend` of its own.

        It is there as a whole, or not at all. Whoever writes goes on meanwhile.

        Args:
            path: The directory; nothing is there, or an empty one.

        Returns:
            Where its state stands.

        Raises:
            BackendError: Something is there already, or a step failed; nothing has changed.
            OutcomeUnknownError: A step failed after which it may be there.
            SwooshError: As `state_at`.
        """
        return await self._past.copy(path, None)

    async def fork(self, path: str | os.PathLike[str], *, at: int | Timestamp | str | None = None) -> Cursor:
        """As `backup`, of what there was at some point: a machine on it goes on from there.

        Args:
            path: As `backup` has it.
            at: An index, or a time as `state_at` has it; None for now.

        Raises:
            ValueError: As `state_at`.
            TruncatedError: As `state_at`.
            SwooshError: As `backup`.
        """
        if at is None:
            return await self._past.copy(path, None)
        return await self._past.copy(path, point_of(at, None) if isinstance(at, int) else point_of(None, at))

    @property
    def codec(self) -> SnapshotCodec[S]:
        """What encodes and decodes its snapshots."""
        return self._keeper.store.codec

    @property
    def last_snapshot_error(self) -> Exception | None:
        """Why the last snapshot failed; None if it did not."""
        return self._keeper.last_error


def _ignored(_done: int, _all: int) -> None:
    return

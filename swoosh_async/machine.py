"""A state that is always the fold of its durable events, and that comes back by itself.

A machine joins a journal and snapshots: it claims the backend, loads the newest snapshot that is whole, replays what
came after, and from then on makes each event durable before it is in the state. Snapshots are taken beside that, by a
task that the machine owns. What a dispatch does in the worker thread, and when a snapshot is due, is decided elsewhere.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, Unpack, cast

import anyio
import anyio.lowlevel
import msgspec
from anyio import CancelScope, Event

from ._commits import Append, Job
from ._folds import Dispatch, Folds, Standing
from ._hop import Hop, Loop, readers
from ._policy import SnapshotPolicy
from .backends.base import Backend, Claim
from .clock import HybridLogicalClock
from .codec import CodecOptions
from .errors import (
    ClosedError,
    CorruptJournalError,
    CorruptSnapshotError,
    OutcomeUnknownError,
    PoisonedError,
    SnapshotNotFoundError,
    SwooshError,
)
from .journal import BATCH_BYTES, BATCH_EVENTS, Entry, Journal
from .models import Cursor, Snapshot
from .snapshots import Newest, SnapshotRef, SnapshotStore

__all__ = ["RecoveryReport", "SnapshotPolicy", "StateMachine"]

S = TypeVar("S")
E = TypeVar("E")

_EAGER_EVENTS = 256
_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 60.0

_log = logging.getLogger("swoosh_async")


class RecoveryReport(msgspec.Struct, frozen=True):
    """What a machine found when it was entered.

    Attributes:
        snapshot: The snapshot that it began with; None where it began with the initial state.
        damaged: What is wrong with newer snapshots, which were passed over, the newest first.
        entries: How many entries were replayed behind the snapshot.
        torn_bytes: How long what was cut off the journal is: a batch that a crash had left unfinished.
        claim_s: How long the claim took, waiting for a former writer included, in seconds.
        load_s: How long it took to find and load the snapshot, in seconds.
        replay_s: How long the replay took, in seconds.
    """

    snapshot: SnapshotRef | None
    damaged: tuple[CorruptSnapshotError, ...]
    entries: int
    torn_bytes: int
    claim_s: float
    load_s: float
    replay_s: float


class _FoldedJournal(Journal[E], Generic[S, E]):
    """A journal whose commits carry a state along."""

    def __init__(self, apply: Callable[..., S], initial: S, backend: Backend, event_type: Any, **options: Any) -> None:
        super().__init__(backend, event_type, **options)
        self._apply = apply
        self._initial: Standing[S] = Standing(initial, 0, "")
        self.served: Callable[[], None] | None = None
        """Called in the worker thread when something was committed."""

    def _begin(self, claim: Claim) -> Folds[S, E]:
        return Folds(self._backend, self._codec, self._clock, claim, apply=self._apply, standing=self._initial)

    @property
    def folds(self) -> Folds[S, E]:
        """What carries the state."""
        if self._commits is None:
            raise ClosedError(self._backend.where, opened=False)
        return cast("Folds[S, E]", self._commits)

    def _serve(self, items: Sequence[Append | Job]) -> Sequence[Any]:
        outcomes = super()._serve(items)
        if self.served is not None:
            self.served()
        return outcomes

    def submit(self, item: Dispatch) -> Coroutine[Any, Any, S]:
        """Stand in line."""
        return self._lane.submit(item)

    def dispatch(self, events: Iterable[E], expected: int | None) -> Dispatch:
        """These events as they are now; many that are values are encoded in the worker thread."""
        given = tuple(events)
        if self._codec.shared and len(given) > _EAGER_EVENTS:
            item = Dispatch(expected=expected, decide=lambda _: given)
            item.weight = 1 << 62  # too many for company
            return item
        return Dispatch([self._codec.twin(event) for event in given], expected)

    def check(self) -> None:
        """As `append` checks."""
        self._check_writable()

    @property
    def kept_from(self) -> int:
        """The index of the first entry that is kept, or of the next one where none is."""
        return self._bounds.first

    @property
    def sound(self) -> bool:
        """Whether it is open, this process's own, and knows what it holds."""
        try:
            self._check_writable()
        except SwooshError:
            return False
        return True

    async def comes(self, after: int) -> bool:
        """Wait until there is an entry behind `after`; False where the journal is closed."""
        return await self._comes(after, 0.0)

    async def replay(self, progress: Callable[[int, int], object]) -> int:
        """Apply what came after where the state stands, and return how many entries these were."""
        folds, last = self.folds, self.last_index
        begun = folds.now.index

        def some() -> None:
            batches = self._pages.read(folds.now.index, last)
            folds.replay(self._pages.entries(batches, folds.now.index, last))

        while folds.now.index < last:
            await Hop(some).run(readers())
            progress(folds.now.index - begun, last - begun)
        return last - begun


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
        self._policy = policy
        self._state_type = type(initial_state) if state_type is None else state_type
        self._options = options
        self._store = self._new_store()
        self._clock = clock if clock is not None else HybridLogicalClock()
        self._journal: _FoldedJournal[S, E] = _FoldedJournal(
            apply,
            initial_state,
            backend,
            event_type,
            clock=self._clock,
            lock_timeout_s=lock_timeout_s,
            epoch=epoch,
            batch_events=batch_events,
            batch_bytes=batch_bytes,
            enc_hook=options.get("enc_hook"),
            dec_hook=options.get("dec_hook"),
        )
        self._on_progress = on_progress
        self._on_snapshot_error = on_snapshot_error
        self._recovery: RecoveryReport | None = None
        self._closed = False
        self._taking = _Turns()
        self._whole: set[str] = set()
        self._snapshot_index = 0
        self._snapshot_s = 0.0
        self._due = False
        self.last_snapshot_error: Exception | None = None
        """Why the last snapshot failed; None if it did not."""

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
            newest = await self._store.newest()
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
            self._loop = Loop()
            self._wanted = Event()
            self._snapshot_s = time.monotonic()
            self._journal.served = self._look_whether_due
            self._keeping = CancelScope()  # of its own: who is in the block is never cancelled for the task's sake
            self._tasks = anyio.create_task_group()
            await self._tasks.__aenter__()
            self._tasks.start_soon(self._keep_taking_snapshots)
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
            self._keeping.cancel()
            await self._tasks.__aexit__(None, None, None)
        finally:
            try:
                with CancelScope(shield=True):
                    if self._policy.on_close and self._journal.sound:
                        await self._try_snapshot()
                    async with self._taking:  # nobody's runs on when the backend is another's
                        pass
            finally:
                await self._journal.aclose()

    async def _begin_with(self, newest: Newest[S]) -> None:
        where, first, last = self._backend.where, self._journal.kept_from, self._journal.last_index
        for error in newest.damaged:
            _log.warning("passed over: %s", error)
            error.__traceback__ = error.__cause__ = error.__context__ = None  # whose frames hold all that was read
        if newest.damaged:  # the head of one may still tell how far the journal once went
            ahead = max((ref.index for ref in await self._store.history()), default=0)
            if ahead > last:
                reason = f"a snapshot, which is damaged, holds index {ahead}, and the journal ends before it"
                raise CorruptJournalError(where, reason, offset=None, index=last + 1)
        if newest.snapshot is None:
            if first > 1 or (newest.damaged and last == 0):
                kept = f"is kept from index {first} on only" if first > 1 else "is empty"
                reason = f"no snapshot is whole, and the journal {kept}"
                raise CorruptSnapshotError(where, reason, others=tuple(error.path for error in newest.damaged))
            return
        cursor = newest.snapshot.cursor
        if cursor.index > last:
            reason = f"a snapshot holds index {cursor.index}, and the journal ends before it"
            raise CorruptJournalError(where, reason, offset=None, index=last + 1)
        if cursor.index < first - 1:
            reason = f"the newest that is whole holds index {cursor.index}, and the journal begins at {first}"
            raise CorruptSnapshotError(where, reason, others=tuple(error.path for error in newest.damaged))
        self._journal.folds.begin(Standing(newest.snapshot.state, cursor.index, cursor.hlc))
        self._snapshot_index = cursor.index

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
            return _raise(error)
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
            return _raise(error)
        return self._journal.submit(Dispatch(decide=decide))

    def _check(self) -> None:
        if self._closed or self._recovery is None:
            raise ClosedError(self._backend.where, opened=self._closed)
        self._journal.check()

    # ------------------------------------------------------------------ watch

    def changes(self, after: int | None = None) -> AsyncGenerator[Entry[E], None]:
        """The entries behind `after`, and then those that come, as `Journal.follow` gives them.

        Args:
            after: The index behind which to begin; None for where the state stands now.
        """
        return self._journal.follow(self.cursor.index if after is None else after)

    async def wait_for(self, predicate: Callable[[S], bool]) -> S:
        """Wait until the state is as wanted, and return it.

        Raises:
            ClosedError: The machine was closed before it was.
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
            SwooshError: As `SnapshotStore.save`; a snapshot that fails changes nothing of the machine.
        """
        async with self._taking:
            if self._closed or self._recovery is None:
                raise ClosedError(self._backend.where, opened=self._closed)
            ref = await self._save()
            await self._trim()
            self.last_snapshot_error = None
            return ref

    async def _save(self) -> SnapshotRef:
        self._due = False
        standing = self._standing
        cursor = standing.cursor
        taken: Snapshot[S] = Snapshot(
            state=standing.state, last_applied_hlc=cursor.hlc, last_applied_index=cursor.index
        )
        before = self._snapshot_index, self._snapshot_s
        self._snapshot_index, self._snapshot_s = cursor.index, time.monotonic()  # from here the next one counts
        try:
            ref = await self._store.save(taken)
        except BaseException as error:
            self._snapshot_index, self._snapshot_s = before
            if isinstance(error, OutcomeUnknownError | PoisonedError):
                self._store = self._new_store()
            raise
        self._whole.add(ref.checksum)
        return ref

    async def _trim(self) -> None:
        """Let go of the entries that are in the oldest snapshot that is kept and whole."""
        kept: list[SnapshotRef] = []
        for ref in await self._store.history():
            if ref.checksum not in self._whole or not ref.checksum:
                try:
                    await self._store.verify(ref)
                except (CorruptSnapshotError, SnapshotNotFoundError):
                    continue
            kept.append(ref)
        self._whole = {ref.checksum for ref in kept}
        oldest = min((ref.index for ref in kept), default=0)
        if oldest + 1 > self._journal.kept_from and self._journal.sound:
            await self._journal.truncate_before(oldest + 1)

    async def _keep_taking_snapshots(self) -> None:
        retry_s = 0.0
        with self._keeping:
            while True:
                await self._until_due(retry_s)
                taken = await self._try_snapshot()
                retry_s = 0.0 if taken else min(max(_FIRST_RETRY_S, 2 * retry_s), _LONGEST_RETRY_S)

    async def _until_due(self, retry_s: float) -> None:
        if retry_s:
            await anyio.sleep(retry_s)
            return
        while True:
            every_s = self._policy.every_s
            rest_s = None if every_s is None else max(0.0, self._snapshot_s + every_s - time.monotonic())
            with anyio.move_on_after(rest_s if self._events_since() else None):
                await self._wanted.wait()
            self._wanted = Event()
            if self._due or self._policy.counted(*self._since()):
                return

    async def _try_snapshot(self) -> bool:
        """Take a snapshot, unless one holds all events already; False where that failed, and somebody was told."""
        try:
            async with self._taking:
                self._due = False
                if self._events_since():
                    await self._save()
                elif self.last_snapshot_error is None:
                    return True
                await self._trim()
                self.last_snapshot_error = None
        except Exception as error:  # noqa: BLE001  whatever it is, dispatching goes on
            self.last_snapshot_error = error
            _log.warning("%s: no snapshot was taken: %s", self._backend.where, error)
            self._tell(error)
            return False
        return True

    def _tell(self, error: Exception) -> None:
        if self._on_snapshot_error is None:
            return
        try:
            self._on_snapshot_error(error)
        except Exception as raised:  # noqa: BLE001  likewise
            _log.warning("%s: on_snapshot_error failed: %r", self._backend.where, raised)

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
            _log.warning("%s: the policy's own function failed: %r", self._backend.where, error)
            return False

    def _since(self) -> tuple[int, float]:
        return self._events_since(), time.monotonic() - self._snapshot_s

    def _events_since(self) -> int:
        return self._journal.last_index - self._snapshot_index

    def _new_store(self) -> SnapshotStore[S]:
        return SnapshotStore(self._backend, self._state_type, keep=self._policy.keep, **self._options)


class _Turns:
    """Whose turn it is, among tasks on whatever loops and threads: one at a time, first come, first served."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[tuple[Loop, Event]] = deque()
        self.taken = False

    async def __aenter__(self) -> None:
        await anyio.lowlevel.checkpoint_if_cancelled()
        with self._mutex:
            if not self.taken:
                self.taken = True
                return
            place = Loop(), Event()
            self._waiting.append(place)
        try:
            await place[1].wait()
        except BaseException:
            with self._mutex:
                handed_over = place not in self._waiting
                if not handed_over:
                    self._waiting.remove(place)
            if handed_over:
                self._hand_over()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hand_over()

    def _hand_over(self) -> None:
        with self._mutex:
            while self._waiting:
                loop, event = self._waiting.popleft()
                if loop.post(event.set):
                    return
            self.taken = False


def _ignored(_done: int, _all: int) -> None:
    return


async def _raise(error: Exception) -> Any:
    """What is wrong at the call is raised where the call is awaited, as with any other error of it."""
    raise error

"""Typed events over a backend: durable before they are acted on, many callers to one fsync.

An append is encoded when it is called, stands in line in call order, and is committed with all that wait: one hop into
a worker thread, one batch, one fsync. There is no timer and no task of our own. What is done in the thread, and what a
backend does, is not known here.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from operator import attrgetter
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, overload

import anyio
from anyio import Event
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from ._commits import EAGER_EVENTS, Append, Commits, Job
from ._entries import Entry, Receipt
from ._hop import Hop, Loop, failed, readers, surely
from ._lane import Lane
from ._pages import Pages
from .backends.base import EPOCHS_END, Batch, Bounds, Claim, Epoch, Index, JournalBackend
from .clock import HybridLogicalClock
from .codec import DecodeHook, EventCodec, Hook
from .errors import ClosedError, LockedError, TruncatedError

__all__ = ["BATCH_BYTES", "BATCH_EVENTS", "Entry", "Journal", "Receipt"]

E = TypeVar("E")
T = TypeVar("T")

BATCH_EVENTS = 4096
"""How many appends are committed together at most, unless told otherwise."""

BATCH_BYTES = 1 << 20
"""How many bytes of events are committed together at most, unless told otherwise; one append may be larger."""

_FIRST_WAIT_S = 0.002
_LONGEST_WAIT_S = 0.1
_POLL_S = 0.1
_TURN_S = 0.001


class Journal(Generic[E]):
    """A write-ahead journal of events; an async context manager, and the only writer of its backend meanwhile.

    One journal may be used by any number of tasks, from several event loops and threads. Its constructor does no I/O.

    Args:
        backend: Where the bytes are kept.
        event_type: Any type that msgspec can encode and decode; a tagged union of Structs, most often.
        older: Types of events that are read as well, but not written any more; told apart by their tags.
        clock: What gives each event its time; it goes on behind the last event that is there. None for one of its own.
        lock_timeout_s: How long entering waits for another writer, in seconds; None for as long as the backend says.
        epoch: The epoch to claim, of an election of one's own, say; None for the next.
        read_only: Whether it is only read: entering claims nothing, and does not wait for a writer.
        batch_events: How many appends are committed together at most, ≥ 1.
        batch_bytes: How many bytes of events are committed together at most; one append may be larger.
        enc_hook: As msgspec's, for types that it does not know.
        dec_hook: As msgspec's, the way back.

    Raises:
        ValueError: A bound is below 1, or the epoch is out of range.
        TypeError: msgspec does not support the type.
    """

    @overload
    def __init__(
        self,
        backend: JournalBackend,
        event_type: type[E],
        *,
        older: Iterable[type] = ...,
        clock: HybridLogicalClock | None = ...,
        lock_timeout_s: float | None = ...,
        epoch: int | None = ...,
        read_only: bool = ...,
        batch_events: int = ...,
        batch_bytes: int = ...,
        enc_hook: Hook | None = ...,
        dec_hook: DecodeHook | None = ...,
    ) -> None: ...

    @overload
    def __init__(
        self,
        backend: JournalBackend,
        event_type: Any,
        *,
        older: Iterable[type] = ...,
        clock: HybridLogicalClock | None = ...,
        lock_timeout_s: float | None = ...,
        epoch: int | None = ...,
        read_only: bool = ...,
        batch_events: int = ...,
        batch_bytes: int = ...,
        enc_hook: Hook | None = ...,
        dec_hook: DecodeHook | None = ...,
    ) -> None: ...

    def __init__(
        self,
        backend: JournalBackend,
        event_type: Any,
        *,
        older: Iterable[type] = (),
        clock: HybridLogicalClock | None = None,
        lock_timeout_s: float | None = None,
        epoch: int | None = None,
        read_only: bool = False,
        batch_events: int = BATCH_EVENTS,
        batch_bytes: int = BATCH_BYTES,
        enc_hook: Hook | None = None,
        dec_hook: DecodeHook | None = None,
    ) -> None:
        if min(batch_events, batch_bytes) < 1:
            raise ValueError("batch_events and batch_bytes must be >= 1")
        if epoch is not None and (type(epoch) is not int or epoch >= EPOCHS_END):
            raise ValueError(f"epoch must be an int below 2**{EPOCHS_END.bit_length() - 1}")
        self._backend = backend
        self._codec: EventCodec[E] = EventCodec(event_type, older=older, enc_hook=enc_hook, dec_hook=dec_hook)
        self._clock = clock if clock is not None else HybridLogicalClock()
        self._patience_s = lock_timeout_s
        self._wanted_epoch = None if epoch is None else Epoch(epoch)
        self._read_only = read_only
        self._lane: Lane[Append | Job, Any] = Lane(
            self._serve, batch_items=batch_events, batch_weight=batch_bytes, weigh=attrgetter("weight")
        )
        self._pages = Pages(backend, self._codec)
        self._commits: Commits[E] | None = None
        self._seen = Bounds(Index(1), Index(0))
        self._mutex = threading.Lock()
        self._followers: set[tuple[Loop, Event]] = set()
        self._pid = 0
        self._torn_bytes = 0
        self._entered = False
        self._closed = False
        self._claimed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._backend.where}>"

    # ------------------------------------------------------------------ open and close

    async def __aenter__(self) -> Self:
        """Claim the backend, and see what it holds.

        Raises:
            LockedError: Another writer did not end in time.
            FencedError: There was a claim with the given epoch, or a later one.
            CorruptJournalError: The end of what is there is not what was written; nothing was changed.
            FormatVersionError: A newer version of this package wrote it.
            BackendError: A step failed.
            OutcomeUnknownError: A step failed after which the claim may have been made; it may be tried again, with
                a higher epoch if one was given.
            ClosedError: It was opened before; make a new one.
        """
        if self._entered or self._closed:
            raise ClosedError(self._backend.where)
        self._entered = True
        self._pid = os.getpid()
        try:
            if self._read_only:
                self._seen = await Hop(self._backend.bounds).run(readers())
            else:
                claim = await self._claim()
                self._commits = self._begin(claim)
                self._torn_bytes = claim.torn_bytes
            if self._closed:  # by somebody who did not wait until it was open
                raise ClosedError(self._backend.where)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Commit what stands in line, and let go of the backend; again, it does nothing.

        Whatever interrupts it, the backend is let go of before it returns.
        """
        self._closed = True
        if self._pid != os.getpid():  # a fork's parent goes on with it
            return
        try:
            await surely(lambda: self._lane.submit(Job(self._release)), lambda: not self._claimed)
        finally:
            self._wake()

    async def _claim(self) -> Claim:
        patience_s = self._backend.patience_s if self._patience_s is None else self._patience_s
        begun = time.monotonic()
        wait_s = _FIRST_WAIT_S
        while not self._closed:
            try:
                return await Hop(self._try_to_claim).run()
            except LockedError as error:
                left_s = begun + patience_s - time.monotonic()
                if left_s <= 0:
                    raise LockedError(error.where, pid=error.pid, host=error.host, waited_s=patience_s) from None
                await anyio.sleep(min(wait_s, left_s))
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        raise ClosedError(self._backend.where)

    def _begin(self, claim: Claim) -> Commits[E]:
        """What commits from now on."""
        return Commits(self._backend, self._codec, self._clock, claim)

    def _try_to_claim(self) -> Claim:
        """In the worker thread, so that it is known even where nobody is told any more."""
        claim = self._backend.claim(self._wanted_epoch)
        self._claimed = True
        return claim

    def _release(self) -> None:
        if self._claimed:  # else the claim is another's by now
            try:
                self._backend.release()
            finally:
                self._claimed = False

    # ------------------------------------------------------------------ what there is

    @property
    def first_index(self) -> int:
        """The index of the first entry that is kept; 0 where none is."""
        bounds = self._bounds
        return bounds.first if bounds.first <= bounds.last else 0

    @property
    def last_index(self) -> int:
        """The index of the last entry that was appended, and is durable; 0 where none was.

        Where the journal is only read, it is the last that was seen.
        """
        return self._bounds.last

    @property
    def epoch(self) -> int:
        """The epoch of this journal's claim; 0 where it has none."""
        return 0 if self._commits is None else self._commits.epoch

    @property
    def torn_bytes(self) -> int:
        """The length in bytes of what opening cut off, which a crash had left unfinished and nobody was told of."""
        return self._torn_bytes

    @property
    def _bounds(self) -> Bounds:
        return self._seen if self._commits is None else self._commits.bounds

    # ------------------------------------------------------------------ append

    def append(self, event: E, *, expected_index: int | None = None) -> Coroutine[Any, Any, Receipt]:
        """Make an event durable; to be awaited.

        What is appended is the event as it is now, at the call. Appends are carried out in the order in which they are
        first awaited, and those that come while others are being carried out share the next fsync. Cancelled, it has
        either changed nothing or is durable, wholly.

        Args:
            event: The event.
            expected_index: The last index that there must be before it; None for any.

        Returns:
            Its index and its time, once it is durable.

        Raises:
            InvalidStateError: The event would not come back as it is; nothing has changed.
            ConflictError: The last index is not the expected one; nothing has changed.
            LimitExceededError: It is larger than may be read again; nothing has changed.
            FencedError: Another writer has taken over; nothing has changed.
            LockedError: This process is a fork of the one that opened the journal; nothing has changed.
            ClosedError: The journal is not open; nothing has changed.
            BackendError: A step failed, such as for want of room; nothing has changed, and it may be tried again.
            OutcomeUnknownError: A step failed after which it may be durable; from now on the journal is poisoned.
            PoisonedError: An earlier outcome is unknown; open it anew.
        """
        try:
            self._check_writable()
            item = Append((self._codec.encode(event),), expected_index, single=True)
        except Exception as error:  # noqa: BLE001  an enc_hook may raise anything
            return failed(error)
        return self._lane.submit(item)

    def append_many(
        self, events: Iterable[E], *, expected_index: int | None = None
    ) -> Coroutine[Any, Any, list[Receipt]]:
        """Make events durable, all of them or none, with indexes that follow one another; as `append`.

        Many events of a type that is a value are encoded in a worker thread.

        Returns:
            A receipt for each, in order.
        """
        given = tuple(events)
        try:
            self._check_writable()
            if self._codec.shared and len(given) > EAGER_EVENTS:
                item = Append((), expected_index, events=given)
            else:
                item = Append([self._codec.encode(event) for event in given], expected_index)
        except Exception as error:  # noqa: BLE001
            return failed(error)
        return self._lane.submit(item)

    async def truncate_before(self, index: int) -> None:
        """Keep no entry before `index`, durably; their room is freed as far as the backend can.

        Args:
            index: 1 ≤ index ≤ last_index + 1; one that is kept no more already changes nothing.

        Raises:
            ValueError: There is no such index yet.
            SwooshError: As `append`.
        """
        commits = self._check_writable()

        def truncate() -> None:
            if not self._claimed:  # it was closed meanwhile, and the claim may be another's
                raise ClosedError(self._backend.where)
            commits.truncate_before(index)

        await self._lane.submit(Job(truncate))

    def _serve(self, items: Sequence[Append | Job]) -> Sequence[Any]:
        """In the worker thread."""
        commits = self._commits
        if commits is None:  # it is let go of before it was wholly opened
            for job in items:
                if isinstance(job, Job):
                    job.call()
            return [None] * len(items)
        outcomes = commits.serve(items)
        if self._followers:
            self._wake()
        return outcomes

    def _check_writable(self) -> Commits[E]:
        if self._closed or self._commits is None:
            read_only = self._read_only and self._entered and not self._closed
            raise ClosedError(self._backend.where, opened=self._closed, read_only=read_only)
        self._check_fork()
        self._commits.check()
        return self._commits

    def _check_fork(self) -> None:
        if self._pid != os.getpid():
            raise LockedError(self._backend.where, pid=self._pid, host=socket.gethostname(), forked=True)

    # ------------------------------------------------------------------ read

    async def read(self, after: int = 0, until: int | None = None) -> AsyncGenerator[Entry[E], None]:
        """The entries behind `after`, in order, up to the last that there is when this begins, or to `until`.

        No file, lock or cursor is held while the caller has an entry, so it may be left off at any time. (Who leaves it
        off early under trio closes it, as any async generator: `contextlib.aclosing`.)

        Args:
            after: The index behind which to read, ≥ 0; 0 for all that are kept.
            until: The last index to read; None for the last that there is.

        Raises:
            ValueError: An index is negative, or no int.
            TruncatedError: The entries right behind `after` are kept no more.
            CorruptJournalError: A batch is damaged or missing, or does not decode as the event type.
            FormatVersionError: A newer version of this package wrote it.
            BackendError: It cannot be read.
            ClosedError: The journal is not open.
            PoisonedError: An earlier outcome is unknown; open it anew.
        """
        if not _is_index(after) or not (until is None or _is_index(until)):
            raise ValueError("after and until must be ints >= 0")
        self._check_readable()
        bounds = await self._look()
        last = bounds.last if until is None else min(until, bounds.last)
        after = self._start(after, bounds, last)
        turn = _Turn()
        while after < last:
            self._check_readable()
            batches = await self._read(after, last)
            for entries in self._pages.entries(batches, after, last):
                for entry in entries:
                    yield entry
                after += len(entries)
                entries.clear()  # before the next are made
                await turn.end()

    async def follow(self, after: int = 0, *, poll_s: float = _POLL_S) -> AsyncGenerator[Entry[E], None]:
        """The entries behind `after`, in order, and then those that come, as they come.

        Whoever follows is never hurried: entries stay where they are until they are asked for. It ends when the journal
        is closed.

        Args:
            after: The index behind which to read, ≥ 0; 0 for all that are kept.
            poll_s: How often to look for what another process has appended, where this journal is only read, in
                seconds.

        Raises:
            SwooshError: As `read`.
        """
        if not _is_index(after):
            raise ValueError("after must be an int >= 0")
        self._check_readable()
        bounds = await self._look()
        after = self._start(after, bounds, bounds.last)
        turn = _Turn()
        while await self._comes(after, poll_s):
            last = self._bounds.last
            batches = await self._read(after, last)
            for entries in self._pages.entries(batches, after, last):
                for entry in entries:
                    yield entry
                    if self._closed:
                        return
                after += len(entries)
                entries.clear()  # before the next are made
                await turn.end()

    async def _comes(self, after: int, poll_s: float) -> bool:
        """Wait until there is an entry behind `after`; False where the journal is closed, and none will come."""
        while not self._closed:
            follower = (Loop(), Event())
            with self._mutex:
                self._followers.add(follower)
            try:
                if self._has_ended():  # and woke who was waiting then
                    return False
                bounds = await self._look()
                self._check_poison()
                if bounds.last > after:
                    return True
                with anyio.move_on_after(poll_s if self._read_only else None):
                    await follower[1].wait()
            finally:
                with self._mutex:
                    self._followers.discard(follower)
        return False

    def _has_ended(self) -> bool:
        return self._closed

    def _start(self, after: int, bounds: Bounds, last: int) -> int:
        """The index behind which there is something to read.

        Raises:
            TruncatedError: The entries right behind `after` are kept no more.
        """
        if 0 < after < min(bounds.first - 1, last):
            raise TruncatedError(self._backend.where, after=after, first=bounds.first)
        return max(after, bounds.first - 1)

    async def _read(self, after: int, last: int) -> Sequence[Batch]:
        await checkpoint_if_cancelled()
        return await Hop(lambda: self._pages.read(after, last)).run(readers())

    async def _look(self) -> Bounds:
        """What there is now."""
        if self._commits is not None:
            await checkpoint()
            return self._commits.bounds
        await checkpoint_if_cancelled()
        self._seen = await Hop(self._backend.bounds).run(readers())
        return self._seen

    def _check_readable(self) -> None:
        if self._closed or not self._entered:
            raise ClosedError(self._backend.where, opened=self._closed)
        self._check_fork()
        self._check_poison()

    def _check_poison(self) -> None:
        if self._commits is not None:
            self._commits.check()

    def _wake(self) -> None:
        with self._mutex:
            followers, self._followers = self._followers, set()
        for loop, event in followers:
            loop.post(event.set)


class _Turn:
    """Lets the event loop turn, once its caller has had it for some milliseconds."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since = time.monotonic()

    async def end(self) -> None:
        """A checkpoint, if it is time for one."""
        if time.monotonic() - self._since > _TURN_S:
            await checkpoint()
            self._since = time.monotonic()


def _is_index(value: object) -> bool:
    return type(value) is int and value >= 0

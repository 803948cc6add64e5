"""What is done with the appends that stand in line, in the worker thread: one batch, one timestamp, one backend call.

This file knows backends, codecs and clocks, and no event loop. Its methods are called one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from itertools import repeat
from typing import Any, Generic, TypeVar

from ._breather import Breather
from ._entries import Origin, Receipt
from .backends.base import Batch, Bounds, Claim, Epoch, Index, JournalBackend
from .clock import HybridLogicalClock, Timestamp
from .codec import EventCodec, EventsDamagedError
from .errors import (
    ConflictError,
    CorruptJournalError,
    LimitExceededError,
    OutcomeUnknownError,
    PoisonedError,
    SwooshError,
    again,
)

__all__ = ["EAGER_EVENTS", "Append", "Commits", "Job", "Outcome"]

E = TypeVar("E")


EAGER_EVENTS = 256
"""How many events of one call are encoded at the call, even if they are values and could be encoded later."""


class Append:
    """One call's events on their way.

    Args:
        encoded: Their bytes, as far as they are encoded.
        expected: The last index that the caller expects before them; None where any will do.
        events: What is to be encoded still; None where nothing is.
        single: Whether one receipt is asked for, not a list of them.
    """

    __slots__ = ("encoded", "events", "expected", "single", "weight")

    def __init__(
        self,
        encoded: Sequence[bytes],
        expected: int | None,
        *,
        events: Sequence[Any] | None = None,
        single: bool = False,
    ) -> None:
        self.encoded = encoded
        self.expected = expected
        self.events = events
        self.single = single
        self.weight = len(encoded[0]) if single else sum(map(len, encoded)) if events is None else _UNKNOWN
        """How many bytes they are; too many for company as long as they are not encoded."""


class Job:
    """Something else to do in its turn.

    Args:
        call: What to do.
    """

    __slots__ = ("call", "weight")

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.weight = 0


_UNKNOWN = 1 << 62

Outcome = Any
"""A receipt, or a list of them, or an exception to raise; None of a job."""


class Commits(Generic[E]):
    """The writing half of a journal.

    Args:
        backend: Where the bytes are kept, claimed.
        codec: The events' codec.
        clock: What gives each event its time.
        claim: What the backend said when it was claimed.

    Raises:
        CorruptJournalError: The last batch has no timestamp.
    """

    def __init__(self, backend: JournalBackend, codec: EventCodec[E], clock: HybridLogicalClock, claim: Claim) -> None:
        self._backend = backend
        self._codec = codec
        self._clock = clock
        self.epoch: Epoch = claim.epoch
        self.bounds: Bounds = claim.bounds
        self.poison: str | None = None
        self.found: Timestamp | None = None
        """The time of the last entry that was there; None where none was ever."""
        if claim.tail is not None:
            try:
                self.found = codec.stamp(claim.tail.data, claim.tail.count).plus(claim.tail.count - 1)
                clock.resume(self.found)
            except EventsDamagedError as error:
                raise CorruptJournalError(backend.where, error.reason, offset=None, index=claim.tail.first) from None

    def check(self) -> None:
        """Check that an earlier outcome is not unknown.

        Raises:
            PoisonedError: It is.
        """
        if self.poison is not None:
            raise PoisonedError(self._backend.where, reason=self.poison)

    def serve(self, items: Sequence[Append | Job]) -> list[Outcome]:
        """Commit the appends among these together, as far as no job comes between them, and do the jobs."""
        outcomes: list[Outcome] = []
        appends: list[Append] = []
        for item in items:
            if isinstance(item, Append):
                appends.append(item)
                continue
            outcomes += self._commit(appends)
            appends = []
            outcomes.append(_done(item.call))
        return outcomes + self._commit(appends)

    def truncate_before(self, index: int) -> None:
        """As `JournalBackend.truncate_before`.

        Raises:
            ValueError: There is no such index yet.
        """
        self.check()
        if type(index) is not int or not 1 <= index <= self.bounds.last + 1:
            raise ValueError(f"index must be 1 to {self.bounds.last + 1}, which is one behind the last")
        with self._poisoning():
            self._backend.truncate_before(Index(index))
        self.bounds = Bounds(Index(max(self.bounds.first, index)), self.bounds.last)

    def _commit(self, appends: Sequence[Append]) -> list[Outcome]:
        """One batch of all of these; each gets its outcome, and one that is refused is refused alone."""
        last = self.bounds.last
        events, refused = self._gather(appends, last)
        try:
            origin = self._write(events) if events else None
        except LimitExceededError as error:
            half = len(appends) // 2
            return self._commit(appends[:half]) + self._commit(appends[half:]) if half else [error]
        except Exception as error:  # noqa: BLE001  it is told to each caller; who expected what has failed, too
            return [again(error) if item not in refused else self._still(refused[item], error) for item in appends]
        outcomes: list[Outcome] = []
        index = last + 1
        for item in appends:
            if item in refused:
                outcomes.append(refused[item])
            else:
                outcomes.append(self._outcome(item, index, origin))
                index += len(item.encoded)
        return outcomes

    def _outcome(self, item: Append, index: int, origin: Origin | None) -> Outcome:
        """What an append gives whose first event is durable with that index; no origin where nothing was done."""
        if origin is None:
            return []
        if item.single:
            return Receipt(index, origin)
        return list(map(Receipt, range(index, index + len(item.encoded)), repeat(origin)))

    def _still(self, refusal: BaseException, error: Exception) -> BaseException:
        """What to tell who was refused in a batch that failed then: what it had counted on has failed, too."""
        return again(error) if isinstance(refusal, ConflictError) else refusal

    def _gather(self, appends: Sequence[Append], last: int) -> tuple[list[bytes], dict[Append, BaseException]]:
        """The events of these behind `last`, encoded, and which of these are refused, and why."""
        events: list[bytes] = []
        refused: dict[Append, BaseException] = {}
        for item in appends:
            try:
                if item.events is not None:
                    item.encoded, item.events = self._encoded(item.events), None
            except BaseException as error:  # noqa: BLE001  an enc_hook may raise anything, and it is nobody else's
                refused[item] = error.with_traceback(None)  # it would hold this frame, and the events of all others
                continue
            if item.expected in (None, last + len(events)):
                events += item.encoded
            else:
                refused[item] = ConflictError(expected=item.expected or 0, found=last + len(events))
        return events, refused

    def _write(self, events: list[bytes]) -> Origin:
        self.check()
        origin = Origin(self.bounds.last + 1, self._stamp(len(events)))
        batch = Batch(Index(origin.index), len(events), self.epoch, self._codec.batch(origin.hlc, events))
        with self._poisoning():
            self._backend.append(batch)
        self._advance(origin, batch)
        return origin

    def _stamp(self, count: int) -> Timestamp:
        """The time of the first of so many events."""
        return self._clock.take(count)

    def _advance(self, origin: Origin, batch: Batch) -> None:  # noqa: ARG002  for who does more with it
        """What holds from now on, since a batch is durable."""
        self.bounds = Bounds(self.bounds.first, batch.last)

    def _encoded(self, events: Sequence[Any]) -> list[bytes]:
        breathe = Breather()
        encoded: list[bytes] = []
        for event in events:
            encoded.append(self._codec.encode(event))
            breathe()
        return encoded

    @contextmanager
    def _poisoning(self) -> Generator[None, None, None]:
        try:
            yield
        except OutcomeUnknownError as error:
            self.poison = error.step
            raise
        except SwooshError:
            raise
        except Exception as error:  # of which nobody can tell when it was raised
            self.poison = f"{type(error).__name__} in the backend"
            raise OutcomeUnknownError("append to journal", self._backend.where, detail=self.poison) from error


def _done(job: Callable[[], None]) -> BaseException | None:
    try:
        job()
    except BaseException as error:  # noqa: BLE001  it goes to the caller of this one
        return error
    return None

"""The state of a machine, which is the fold of its durable events: what a dispatch does to it, in the worker thread.

Each event is applied once, in the order of the line, to the state that all before it lead to, before it is written; the
state that is shown moves on only when they are durable. This file knows no event loop and no snapshot.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import msgspec

from ._breather import Breather
from ._commits import Append, Commits
from ._entries import Entry, Origin, Receipt
from .backends.base import Batch, Claim, JournalBackend
from .clock import HybridLogicalClock, Timestamp
from .codec import EventCodec
from .errors import ConflictError, InvalidStateError, again
from .models import Cursor

__all__ = ["Dispatch", "Fold", "Folds", "Standing", "Upcasts", "today"]

S = TypeVar("S")
E = TypeVar("E")

_RESERVED = 1 << 24
"""How many logical steps are set aside for a batch's times, where these must be known before their number is."""


class Standing(msgspec.Struct, Generic[S], frozen=True):
    """A state, and up to where events are in it.

    Attributes:
        state: The state.
        index: The index of the last event in it; 0 where there is none.
        time: That event's, as text or as it stands in the journal.
    """

    state: S
    index: int
    time: str | Receipt

    @property
    def cursor(self) -> Cursor:
        """The same as a snapshot has it."""
        return Cursor(self.index, self.time if isinstance(self.time, str) else str(self.time.hlc))


Upcasts = Mapping[type, Callable[[Any], Iterable[Any]]]
"""What stands today for an event of an older type: any number of events, by the older type."""


def today(event: Any, upcasts: Upcasts) -> Iterator[Any]:
    """What stands today for a stored event: itself, unless it is of an older type."""
    upcast = upcasts.get(event.__class__)
    if upcast is None:
        yield event
    else:
        for newer in upcast(event):
            yield from today(newer, upcasts)


class Fold(Generic[S, E]):
    """The user's function, over entries that are in a journal.

    Args:
        apply: The state after an event; with a third parameter, it gets the entry, too.
        upcasts: What stands for events of older types.
    """

    def __init__(self, apply: Callable[..., S], upcasts: Upcasts) -> None:
        self.apply = apply
        self.takes_entry = _takes_entry(apply)
        self._upcasts = dict(upcasts)

    def check(self, events: Iterable[Any]) -> None:
        """Check that none of these, which are to be written, is one that would be another when it is replayed.

        Raises:
            InvalidStateError: One is.
        """
        if self._upcasts:
            for event in events:
                if event.__class__ in self._upcasts:
                    reason = f"a {event.__class__.__name__} is of an older type, for which upcasts gives another today"
                    raise InvalidStateError("event", reason, what="event")

    def over(self, standing: Standing[S], entries: Iterable[list[Entry[E]]]) -> Standing[S]:
        """Where the state stands behind these entries.

        Raises:
            Exception: What the user's functions raise, with a note that tells the index.
        """
        state, index, time = standing.state, standing.index, standing.time
        breathe = Breather()
        apply, plainly = self.apply, not (self.takes_entry or self._upcasts)
        for some in entries:
            for entry in some:
                try:
                    state = apply(state, entry.event) if plainly else self._after(state, entry)
                except Exception as error:
                    error.add_note(f"while index {entry.index} was replayed, which is in the journal")
                    raise
                index = entry.index
            if some:
                time = Receipt.of(index, some[-1].hlc)
            breathe()
        return Standing(state, index, time)

    def _after(self, state: S, entry: Entry[E]) -> S:
        for event in today(entry.event, self._upcasts):
            more = (Entry.of(entry.index, entry.hlc, event),) if self.takes_entry else ()
            state = self.apply(state, event, *more)
        return state


class Dispatch(Append):
    """Events on their way into the state.

    Args:
        pairs: The events, as far as they are encoded: each one's bytes, and the event as it comes back from them.
        expected: The last index that the caller expects before them; None where any will do.
        events: What is to be encoded still; None where nothing is.
        decide: What gives the events in their place, by the state that they meet.
    """

    __slots__ = ("after", "decide", "twins")

    def __init__(
        self,
        pairs: Sequence[tuple[bytes, Any]] = (),
        expected: int | None = None,
        *,
        events: Sequence[Any] | None = None,
        decide: Callable[[Any], Iterable[Any]] | None = None,
    ) -> None:
        super().__init__([encoded for encoded, _ in pairs], expected, events=events)
        self.twins = [twin for _, twin in pairs]
        self.decide = decide
        self.after: Any = None
        """The state after them."""


class Folds(Commits[E], Generic[S, E]):
    """The writing half of a machine's journal, with the state that it leads to.

    Args:
        backend: As `Commits` has it.
        codec: Likewise.
        clock: Likewise.
        claim: Likewise.
        fold: The user's function.
        standing: What there is to begin with.
    """

    def __init__(
        self,
        backend: JournalBackend,
        codec: EventCodec[E],
        clock: HybridLogicalClock,
        claim: Claim,
        *,
        fold: Fold[S, E],
        standing: Standing[S],
    ) -> None:
        super().__init__(backend, codec, clock, claim)
        self._fold = fold
        self._apply = fold.apply
        self._takes_entry = fold.takes_entry
        self._reserved: Timestamp | None = None
        self._ahead: S = standing.state
        self.now: Standing[S] = standing
        """The state that is durable."""

    def begin(self, standing: Standing[S]) -> None:
        """Go on from there, and behind its time."""
        self.now = standing
        self._ahead = standing.state
        if isinstance(standing.time, str):
            with suppress(ValueError):  # a time of somebody else's is kept as it is
                self._clock.resume(Timestamp.parse(standing.time))

    def replay(self, entries: Iterable[list[Entry[E]]]) -> None:
        """Apply entries that are durable already, and follow the last that was applied.

        Raises:
            Exception: What the user's function raises, with a note that tells the index.
        """
        self.now = self._fold.over(self.now, entries)
        self._ahead = self.now.state

    # ------------------------------------------------------------------ in a commit

    def _gather(self, appends: Sequence[Append], last: int) -> tuple[list[bytes], dict[Append, BaseException]]:
        events: list[bytes] = []
        refused: dict[Append, BaseException] = {}
        state = self.now.state
        self._reserved = self._clock.take(_RESERVED) if self._takes_entry else None
        for item in appends:
            assert isinstance(item, Dispatch)  # noqa: S101  a machine's line has nothing else
            index = last + len(events)
            try:
                self.check()  # nothing is decided on a state that may not be the last
                if item.expected is not None and item.expected != index:
                    raise ConflictError(expected=item.expected, found=index)
                if item.decide is not None or item.events is not None:
                    pairs = self._twins(item.decide(state) if item.decide is not None else item.events or ())
                    item.encoded, item.twins = [encoded for encoded, _ in pairs], [twin for _, twin in pairs]
                self._fold.check(item.twins)
                item.after = self._after(state, item.twins, index, last + 1)
            except BaseException as error:  # noqa: BLE001  the user's functions may raise anything, for their caller
                below = error.__traceback__ and error.__traceback__.tb_next  # this frame holds the events of all others
                refused[item] = error.with_traceback(below)
            else:
                state = item.after
                events += item.encoded
        self._ahead = state
        return events, refused

    def _twins(self, events: Iterable[E]) -> list[tuple[bytes, E]]:
        breathe = Breather()
        pairs: list[tuple[bytes, E]] = []
        for event in events:
            pairs.append(self._codec.twin(event))
            breathe()
        return pairs

    def _after(self, state: S, events: Iterable[E], index: int, first: int) -> S:
        if self._reserved is None:
            for event in events:
                state = self._apply(state, event)
            return state
        origin = Origin(first, self._reserved)
        for event in events:
            index += 1
            state = self._apply(state, event, Entry(index, origin, event))
        return state

    def _stamp(self, count: int) -> Timestamp:
        return super()._stamp(count) if self._reserved is None else self._reserved

    def _advance(self, origin: Origin, batch: Batch) -> None:
        self.now = Standing(self._ahead, batch.last, Receipt(batch.last, origin))
        super()._advance(origin, batch)

    def _outcome(self, item: Append, index: int, origin: Origin | None) -> Any:  # noqa: ARG002
        assert isinstance(item, Dispatch)  # noqa: S101
        return item.after

    def _still(self, refusal: BaseException, error: Exception) -> BaseException:
        return refusal if isinstance(refusal, InvalidStateError) else again(error)


def _takes_entry(apply: Callable[..., Any]) -> bool:
    """Whether a function needs a third argument."""
    try:
        parameters = inspect.signature(apply).parameters.values()
    except (TypeError, ValueError):  # of a builtin that does not tell
        return False
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.kind in by_position and p.default is inspect.Parameter.empty]
    return len(needed) > 2  # noqa: PLR2004  the state and the event

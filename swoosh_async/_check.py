"""Whether a program can read all that is stored, before it is deployed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import msgspec

from ._breather import Breather
from ._folds import Upcasts, today
from ._hop import Hop, readers
from ._pages import Pages
from .backends.base import Backend
from .codec import CodecOptions, EventCodec
from .errors import (
    CorruptJournalError,
    CorruptSnapshotError,
    FormatVersionError,
    InvalidStateError,
    LimitExceededError,
    SchemaVersionError,
    SnapshotNotFoundError,
    SwooshError,
    TruncatedError,
)
from .snapshots import SnapshotStore

__all__ = ["CheckReport", "check"]

_MOST = 100


class CheckReport(msgspec.Struct, frozen=True):
    """What a program can read of what is stored.

    Attributes:
        snapshots: How many snapshots it can read.
        entries: How many entries of the journal it can read.
        errors: What it cannot read, and why, the newest snapshot first and then the journal in order; 100 at most.
    """

    snapshots: int
    entries: int
    errors: tuple[SwooshError, ...]

    @property
    def ok(self) -> bool:
        """Whether it can read all of it."""
        return not self.errors


async def check(
    backend: Backend,
    event_type: Any,
    state_type: Any,
    *,
    upcasts: Upcasts | None = None,
    on_progress: Callable[[int, int], object] | None = None,
    **options: Unpack[CodecOptions],
) -> CheckReport:
    """Decode every snapshot and every entry that is stored; nothing is changed, and no claim is needed.

    Args:
        backend: Where the bytes are kept.
        event_type: As the new `StateMachine` has it.
        state_type: Likewise.
        upcasts: Likewise.
        on_progress: Called with how many entries are done and how many there are.
        options: As the new `StateMachine` has them.

    Raises:
        BackendError: It cannot be read.
        ValueError: An option is wrong.
        TypeError: msgspec does not support a type.
    """
    errors: list[SwooshError] = []
    store: SnapshotStore[Any] = SnapshotStore(backend, state_type, **options)
    snapshots = 0
    for name in await Hop(backend.names).run(readers()):

        def read(name: str = name) -> None:
            with backend.open(name) as source:
                store.codec.read(source)

        try:
            await Hop(read).run(readers())
            snapshots += 1
        except SnapshotNotFoundError:  # pruned meanwhile
            continue
        except (CorruptSnapshotError, SchemaVersionError, FormatVersionError, LimitExceededError) as error:
            errors.append(error)
    hooks: dict[str, Any] = {name: options.get(name) for name in ("enc_hook", "dec_hook")}
    codec: EventCodec[Any] = EventCodec(event_type, older=upcasts or (), **hooks)
    entries = _Entries(backend, codec, upcasts or {}, errors)
    while await Hop(entries.some).run(readers()):
        if on_progress is not None:
            on_progress(entries.done, entries.all)
    return CheckReport(snapshots, entries.read, tuple(errors[:_MOST]))


class _Entries:
    """The journal's entries, some at a time, in the worker thread."""

    def __init__(self, backend: Backend, codec: EventCodec[Any], upcasts: Upcasts, errors: list[SwooshError]) -> None:
        self._backend = backend
        self._codec = codec
        self._upcasts = upcasts
        self._pages = Pages(backend, codec)
        self._errors = errors
        self._after = -1
        self._last = 0
        self._first = 1
        self.read = 0

    @property
    def done(self) -> int:
        return self._after + 1 - self._first

    @property
    def all(self) -> int:
        return self._last + 1 - self._first

    def some(self) -> bool:
        """Look at some more; False where there were none, or too much is wrong already."""
        try:
            bounds = self._backend.bounds()
        except (CorruptJournalError, FormatVersionError) as error:
            self._errors.append(error)
            return False
        if self._after < 0:
            self._after, self._first, self._last = bounds.first - 1, bounds.first, bounds.last
        self._after = max(self._after, bounds.first - 1)  # some may have been trimmed meanwhile
        if self._after >= self._last or len(self._errors) >= _MOST:
            return False
        breathe = Breather()
        try:
            batches = self._pages.read(self._after, self._last)
        except TruncatedError:  # meanwhile
            return True
        except (CorruptJournalError, FormatVersionError) as error:  # nothing behind it can be read
            self._errors.append(error)
            return False
        for batch in batches:
            try:
                for entries in self._pages.entries([batch], self._after, self._last):
                    for entry in entries:
                        self._today(entry.index, entry.event)
                    breathe()
            except CorruptJournalError as error:
                self._errors.append(error)
            self._after = min(batch.last, self._last)
        return True

    def _today(self, index: int, event: Any) -> None:
        try:
            for newer in today(event, self._upcasts):
                if newer is not event:
                    self._codec.encode(newer)
        except InvalidStateError as error:
            self._wrong(index, f"what stands for it today is no event ({error.reason})")
        except Exception as error:  # noqa: BLE001  the user's function may raise anything
            self._wrong(index, f"upcasting it raised {type(error).__name__}")
        else:
            self.read += 1

    def _wrong(self, index: int, reason: str) -> None:
        self._errors.append(
            CorruptJournalError(self._backend.where, reason, offset=None, index=index, todo="mend its upcast")
        )

"""What the tests of journals share: places that outlive a journal, and a backend that is watched and made to fail."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from anyio import CancelScope

from swoosh_async import Entry, FileBackend, Journal, JournalBackend, LimitExceededError, MemoryBackend
from swoosh_async.backends.base import Batch, Bounds, Claim, Epoch, Index

from ._faults import BOUND_S, bounded

__all__ = ["Asked", "InFiles", "InMemory", "Place", "Watched", "opened", "read", "texts"]

SEGMENT_BYTES = 1 << 13
"""So short that a journal of some dozen batches has several segments."""


class Place(ABC):
    """Somewhere that outlives the journals on it."""

    @abstractmethod
    def backend(self) -> JournalBackend:
        """A backend there, as another process would make it where it can."""


class InFiles(Place):
    """A directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def backend(self) -> FileBackend:
        """A new one each time."""
        return FileBackend(self.path, segment_bytes=SEGMENT_BYTES, lock_timeout_s=0)


class InMemory(Place):
    """A backend in memory."""

    def __init__(self) -> None:
        self.memory = MemoryBackend()

    def backend(self) -> MemoryBackend:
        """The same each time."""
        return self.memory


class Watched(JournalBackend):
    """A backend that writes down what is done to it, and does not do all of it.

    Args:
        place: Where it really is.
        max_batch_bytes: The longest batch that it takes.

    Attributes:
        batches: What was added, in order.
        claims: How often it was claimed, or tried to.
        hook: Called in the worker thread before each step, with its name.
        failing: What the next appends raise, each before it has added its batch, or after; None where it does neither.
        trouble: What must not be.
    """

    def __init__(self, place: Place, *, max_batch_bytes: int = 1 << 30) -> None:
        self.backend = place.backend()
        self.max_batch_bytes = max_batch_bytes
        self.batches: list[Batch] = []
        self.claims = 0
        self.hook: Callable[[str], object] = lambda _: None
        self.failing: list[tuple[str, Exception] | None] = []
        self.trouble: list[str] = []
        self.working = 0
        self._idle = threading.Condition()
        self._writing = threading.Lock()

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        with self._idle:
            self.working += 1
        try:
            yield
        finally:
            with self._idle:
                self.working -= 1
                self._idle.notify_all()

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        with self._at_work():
            if not self._writing.acquire(blocking=False):
                self.trouble.append(f"{what} beside another writer's call")
                yield
                return
            try:
                yield
            finally:
                self._writing.release()

    def wait_until_idle(self) -> None:
        """Block until no thread is at work here."""
        with self._idle:
            assert self._idle.wait_for(lambda: not self.working, BOUND_S)

    @property
    def counts(self) -> list[int]:
        """How many entries each batch has."""
        return [batch.count for batch in self.batches]

    @property
    def where(self) -> str:
        return self.backend.where

    @property
    def patience_s(self) -> float:
        return self.backend.patience_s

    def claim(self, epoch: Epoch | None = None) -> Claim:
        with self._at_work():
            self.claims += 1
            self.hook("claim")
            claim = self.backend.claim(epoch)
            self.hook("claimed")
            return claim

    def append(self, batch: Batch) -> None:
        with self._alone("append"):
            self.hook("append")
            when, error = (self.failing.pop(0) if self.failing else None) or ("never", Exception())
            if when == "before":
                raise error
            if len(batch.data) > self.max_batch_bytes:
                bound = self.max_batch_bytes
                raise LimitExceededError("a batch", limit="max_batch_bytes", found=len(batch.data), bound=bound)
            self.backend.append(batch)
            self.batches.append(batch)
            if when == "after":
                raise error
            self.hook("appended")

    def read(self, after: Index, max_bytes: int) -> Sequence[Batch]:
        with self._at_work():
            self.hook("read")
            return self.backend.read(after, max_bytes)

    def bounds(self) -> Bounds:
        with self._at_work():
            self.hook("bounds")
            return self.backend.bounds()

    def truncate_before(self, index: Index) -> None:
        with self._alone("truncate"):
            self.hook("truncate")
            self.backend.truncate_before(index)
            self.hook("truncated")

    def release(self) -> None:
        with self._alone("release"):
            self.hook("release")
            self.backend.release()
            self.hook("released")


@asynccontextmanager
async def opened(place: Place | JournalBackend, event_type: Any = str, **options: Any) -> AsyncIterator[Journal[Any]]:
    """An open journal, in a block that ends in time."""
    backend = place.backend() if isinstance(place, Place) else place
    async with bounded(), Journal(backend, event_type, **options) as journal:
        yield journal


async def read(journal: Journal[Any], after: int = 0, until: int | None = None) -> list[Entry[Any]]:
    """The entries that there are."""
    async with aclosing(journal.read(after, until)) as entries:
        return [entry async for entry in entries]


async def texts(journal: Journal[Any], after: int = 0, until: int | None = None) -> list[Any]:
    """The events that there are."""
    return [entry.event for entry in await read(journal, after, until)]


class Asked:
    """A caller of a journal or a machine, who may be cancelled.

    Attributes:
        number: Which it is.
        events: What it appends.
        end: How it ended; "" as long as it has not.
        asked: Whether it was cancelled.
    """

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.events = [f"{number}.{part}" for part in range(size)]
        self.scope = CancelScope()
        self.task: asyncio.Task[Any] | None = None
        self.end = ""
        self.asked = False

    @property
    def ended(self) -> bool:
        """Whether it has, or never began."""
        return bool(self.end) or (self.task is not None and self.task.done())

    def cancel(self, *, natively: bool) -> None:
        """Cancel it in that way."""
        self.asked = True
        if natively and self.task is not None:
            self.task.cancel()
        else:
            self.scope.cancel()

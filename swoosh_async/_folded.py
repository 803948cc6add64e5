"""The journal of a machine: one whose commits carry a state along; what they do to it is not known here."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Generic, TypeVar, cast

from ._commits import EAGER_EVENTS, Append, Job
from ._folds import Dispatch, Fold, Folds, Standing
from ._hop import Hop, readers
from ._pages import Pages
from .backends.base import Backend, Claim
from .errors import ClosedError, SwooshError
from .journal import Journal

__all__ = ["FoldedJournal"]

S = TypeVar("S")
E = TypeVar("E")


class FoldedJournal(Journal[E], Generic[S, E]):
    """A journal whose commits carry a state along."""

    def __init__(
        self,
        fold: Fold[S, E],
        initial: Standing[S],
        backend: Backend,
        event_type: Any,
        **options: Any,
    ) -> None:
        super().__init__(backend, event_type, **options)
        self._fold = fold
        self._initial = initial
        self.served: Callable[[], None] | None = None
        """Called in the worker thread when something was committed."""

    def _begin(self, claim: Claim) -> Folds[S, E]:
        return Folds(self._backend, self._codec, self._clock, claim, fold=self._fold, standing=self._initial)

    @property
    def pages(self) -> Pages[E]:
        """What reads its entries."""
        return self._pages

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
        if self._codec.shared and len(given) > EAGER_EVENTS:
            return Dispatch(expected=expected, events=given)
        return Dispatch([self._codec.twin(event) for event in given], expected)

    def check(self) -> None:
        """As `append` checks."""
        self._check_writable()

    def check_fork(self) -> None:
        """Check that this is the process that opened it.

        Raises:
            LockedError: It is a fork of that.
        """
        self._check_fork()

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
        self.check_fork()  # in a child none will come
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

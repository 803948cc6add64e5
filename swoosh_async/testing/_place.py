"""A place: where backends keep their bytes, as the suites see it; and what they open there.

This file knows the contract, and nothing of where the bytes really are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Generic, NoReturn, TypeVar

import pytest

from ..backends.base import JournalBackend, SnapshotBackend

__all__ = ["Opened", "Place", "Suite"]

B = TypeVar("B", bound=SnapshotBackend | JournalBackend)
B_co = TypeVar("B_co", bound=SnapshotBackend | JournalBackend, covariant=True)


class Place(ABC, Generic[B_co]):
    """Somewhere that outlives each backend on it: a directory, a table, a bucket. Each test gets a new, empty one.

    Only `open` must be there. What else a place cannot do, it leaves as it is: the tests that need it are skipped, and
    say so.
    """

    @abstractmethod
    def open(self) -> B_co:
        """A new backend on what is stored here, as another process would make it.

        Where the backend itself is all that there is, as in memory, it is the same one again; tests that need two are
        skipped then.
        """

    def damage(self, stored: bytes, damaged: bytes) -> None:  # noqa: ARG002  for who overrides it
        """Change what is stored behind the backends' back: wherever `stored` stands, `damaged` is to stand.

        Both are equally long. `stored` is a part of what a test has put or appended, and stands there only once.
        """
        _skip("damage", "whether damage is noticed is not tested")

    def crash(self) -> None:
        """Forget all that is not durable, as a power cut would; of two outcomes that are possible, the worse one.

        What was opened before is not used any more, and may be closed.
        """
        _skip("crash", "whether what was acknowledged is durable is not tested")


def _skip(name: str, what: str) -> NoReturn:
    pytest.skip(f"the place has no {name}(): {what}")


class Opened(Generic[B]):
    """The backends that a test has opened at a place.

    Args:
        place: The place.
    """

    def __init__(self, place: Place[B]) -> None:
        self.place = place
        self._backends: list[B] = []

    def open(self) -> B:
        """A backend there."""
        backend = self.place.open()
        if not any(backend is one for one in self._backends):
            self._backends.append(backend)
        return backend

    def another(self) -> B:
        """A backend that is none of those before; skips the test where there is only one."""
        backend = self.place.open()
        if any(backend is one for one in self._backends):
            pytest.skip("the place opens the same backend again: how two get on is not tested")
        self._backends.append(backend)
        return backend

    def crash(self) -> B:
        """Have the place forget what is not durable; a backend on what is left."""
        self.place.crash()
        self._backends.clear()
        return self.open()

    def close(self) -> None:
        """Let go of what the test has left claimed."""
        for backend in self._backends:
            if isinstance(backend, JournalBackend):
                backend.release()


class Suite(ABC, Generic[B]):
    """What the suites have in common: the place, which is yours, and what is opened there."""

    @pytest.fixture
    def place(self) -> Place[B]:
        """The place; have a fixture of this name in your subclass."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a fixture `place` that returns a swoosh_async.testing.Place"
        )

    @pytest.fixture
    def opened(self, place: Place[B]) -> Iterator[Opened[B]]:
        """What the test opens at the place."""
        opened = Opened(place)
        yield opened
        opened.close()

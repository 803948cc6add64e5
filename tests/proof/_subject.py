"""The program under test: each thing that a service does with a disk, made so that any call in it may fail.

A subject prepares a directory, does one thing there of which some calls are armed, sees what it is told, and does it
again once the fault has healed. What a fresh process then finds is the other half: what was there before, or that and
what was new; and the next writer goes on behind it.
"""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from swoosh_async.errors import BackendError, OutcomeUnknownError, PoisonedError

from .._disks import descriptors
from ._boundary import ARMED, HEALED

__all__ = ["Found", "Subject", "Trial", "Work", "copy_tree", "temps_below"]

Found = list[Any]
"""What a fresh process finds: the indices or events that are there."""


class Trial:
    """One time that a subject is at work.

    Args:
        base: The directory in which all is; what is done is done in ``home`` there, and what a fault has left is copied
            to ``aside`` before anything is tried again.

    Attributes:
        ended: How the armed part ended: ``done``, ``refused``, ``unknown``, or ``stray`` for what must not be.
        facts: Of an error: its step, its path relative to `base`, its number.
        troubles: What must not be.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.home = base / "home"
        self.aside = base / "aside"
        self.ended = ""
        self.facts: dict[str, Any] = {}
        self.troubles: list[str] = []

    @contextmanager
    def armed(self) -> Iterator[None]:
        """The block whose calls count; what it raises is written down."""
        _say(self.base / ARMED)
        try:
            yield
            self.ended = "done"
        except (BackendError, OutcomeUnknownError) as error:
            self.ended = "refused" if isinstance(error, BackendError) else "unknown"
            path = os.path.relpath(error.path, self.base) if error.path else ""
            self.facts = {"step": error.step, "path": path, "errno": error.errno}
        except Exception as error:  # noqa: BLE001  it is told
            self.ended = "stray"
            self.facts = {"error": "".join(traceback.format_exception(error))}
        finally:
            _say(self.base / HEALED)
        copy_tree(self.home, self.aside)

    async def poisoned(self, call: Callable[[], Awaitable[object]]) -> None:
        """See that whose outcome is unknown does nothing more."""
        try:
            await call()
        except PoisonedError:
            return
        self.troubles.append("it goes on although an outcome is unknown")

    def must(self, holds: bool, what: str) -> None:
        """Write down what does not hold."""
        if not holds:
            self.troubles.append(what)

    def run(self, subject: Subject) -> dict[str, Any]:
        """Have the subject at work, and tell how it went."""
        before = _open_files()

        async def main() -> None:
            with anyio.fail_after(30):
                await subject.work(self)

        anyio.run(main)
        self.must(_open_files() == before, f"descriptors are left: {_open_files()}, not {before}")
        return {"ended": self.ended, "facts": self.facts, "troubles": self.troubles}


def _open_files() -> list[str]:
    return sorted(path for path in (found.split(" ", 1)[1] for found in descriptors()) if path != os.devnull)


def _say(path: Path) -> None:
    with suppress(FileNotFoundError):
        os.close(os.open(path, os.O_RDONLY))


def copy_tree(source: Path, target: Path) -> None:
    """Copy a directory; names of one file are names of one file."""
    copied: dict[int, Path] = {}
    for directory, _, names in os.walk(source):
        there = target / os.path.relpath(directory, source)
        there.mkdir(parents=True, exist_ok=True)
        for name in names:
            path = Path(directory, name)
            inode = path.stat().st_ino
            if inode in copied:
                os.link(copied[inode], there / name)
            else:
                copied[inode] = there / name
                shutil.copyfile(path, there / name)


def temps_below(home: Path) -> list[str]:
    """The temp files and directories anywhere below."""
    return [str(path.relative_to(home)) for path in home.rglob("*.tmp")]


class Subject(NamedTuple):
    """Something to be done with a disk.

    Attributes:
        prepare: Makes the directory as it is before.
        work: Does it.
        look: What a fresh process finds.
        go_on: The next writer.
        before: What is found before.
        after: What is found at the end, whatever fault there was.
        new: What else may be found after a fault in its middle, besides `before` and `after`.
    """

    prepare: Callable[[Path], None]
    work: Work
    look: Callable[[Path], Awaitable[Found]]
    go_on: Callable[[Path, Found], Awaitable[None]]
    before: Found
    after: Found
    new: Sequence[Found] = ()


Work = Callable[[Trial], Awaitable[None]]

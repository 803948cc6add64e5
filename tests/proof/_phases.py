"""The phases of a verb: each call of the backend, and of the disk under it, in a worker thread.

And the directory in which one attempt at a verb is made, with all that there is to be seen of it from outside.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from swoosh_async import FileBackend, _past
from swoosh_async.backends.file import Draft

from .._disks import descriptors
from .._faults import HookDisk
from .._journals import SEGMENT_BYTES

__all__ = ["Counted", "Phases", "World", "at_work", "copied", "counted_drafts"]

CALLS = ("put", "open", "names", "prune", "claim", "append", "read", "bounds", "truncate_before", "release")


class Phases(HookDisk):
    """The system's own calls, with a number for each, and for each call of the backend above them."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = threading.Lock()

    def _step(self, name: str) -> None:
        with self._numbers:
            number = len(self.steps)
            self.steps.append(name)
        self.hook(str(number))

    def around(self, name: str, call: Callable[[], Any]) -> Any:
        """Make a call that is a phase when it begins, and another when it ends."""
        with self.work():
            self._step(name)
            outcome = call()
            self._step(f"{name} done")
            return outcome

    def fdatasync(self, fd: int) -> None:
        self._step("fdatasync")
        super().fdatasync(fd)

    def allocate(self, fd: int, size: int) -> None:
        self._step("allocate")
        super().allocate(fd, size)


class Counted(FileBackend):
    """A backend whose calls are phases."""

    def __init__(self, directory: str | Path, phases: Phases, *, lock_timeout_s: float = 0.0) -> None:
        super().__init__(directory, segment_bytes=SEGMENT_BYTES, lock_timeout_s=lock_timeout_s, disk=phases)
        self.phases = phases


def _phased(name: str) -> Callable[..., Any]:
    method = getattr(FileBackend, name)
    return lambda self, *args, **named: self.phases.around(name, partial(method, self, *args, **named))


for _name in CALLS:
    setattr(Counted, _name, _phased(_name))


@contextmanager
def counted_drafts(phases: Phases) -> Iterator[None]:
    """In this block, what a copy does to the disk is counted as well."""

    class CountedDraft(Draft):
        def __init__(self, path: str | os.PathLike[str]) -> None:
            super().__init__(path)
            self._disk = phases

        def open(self) -> FileBackend:
            phases.around("draft", super().open)
            return Counted(self._temp, phases)

        def publish(self) -> None:
            phases.around("publish", super().publish)

        def abandon(self) -> None:
            phases.around("abandon", super().abandon)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_past, "Draft", CountedDraft)
        yield


class World:
    """One attempt's directory, and what became of the verb in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.phases = Phases()
        self.backend = Counted(directory / "home", self.phases)
        self.result: list[Any] = []
        self.seen: list[Any] = []
        self.facts: Any = None
        self.wrongs: list[str] = []
        self.point: Any = None  # a `Point`, once there is one

    def fresh(self) -> FileBackend:
        """A backend as another process would make it."""
        return FileBackend(self.directory / "home", segment_bytes=SEGMENT_BYTES, lock_timeout_s=0)

    def left_over(self) -> Iterator[str]:
        """Temps and descriptors that nobody needs."""
        for path in self.directory.rglob("*"):
            if path.name.endswith(".tmp"):
                yield f"{path.name} is left"
        for descriptor in descriptors():
            if str(self.directory) in descriptor:
                yield f"descriptor {descriptor} is left"


def at_work(world: World) -> str:
    """What threads of the package's do now, but for those that have done their work and tell so."""
    telling = "swoosh_async._hop", "swoosh_async._lane"
    if world.phases.working:
        return world.phases.steps[-1]
    for thread, frame in sys._current_frames().items():
        at: types.FrameType | None = frame if thread != threading.get_ident() else None
        while at is not None:
            module = at.f_globals.get("__name__", "")
            if module.startswith("swoosh_async.") and module not in telling:
                return f"{module}.{at.f_code.co_qualname}"
            at = at.f_back
    return ""


def copied(template: Path, to: Path) -> Path:
    """A copy of a directory in which what is one file under two names is one again."""
    copies: dict[int, Path] = {}
    for path in [template, *sorted(template.rglob("*"))]:
        target = to / path.relative_to(template)
        if path.is_dir():
            target.mkdir()
        elif path.stat().st_ino in copies:
            os.link(copies[path.stat().st_ino], target)
        else:
            copies[path.stat().st_ino] = target
            shutil.copyfile(path, target)
            shutil.copymode(path, target)
    return to

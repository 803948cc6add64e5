"""A guard that catches the package blocking an event loop: asyncio's, uvloop's or trio's.

While it is installed, each call that may wait for a disk, a lock file, another thread or a clock looks whether a loop
runs in this thread and whether the package stands between that loop and the call. If so, it raises, and also writes it
down, so that an `except Exception` on the way hides nothing. In worker threads, and without a loop, calls pass.

It sees calls by attribute, `os.fsync(fd)` as well as `Path.write_bytes`, which ends in `io.open`. It does not see who
waits for a `threading.Lock`, which C code does, nor who computes for long.
"""

from __future__ import annotations

import asyncio
import builtins
import functools
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from trio.lowlevel import in_trio_run

if sys.platform != "win32":
    import fcntl

OS_CALLS = [  # those that a platform lacks are passed over
    "access", "chmod", "chown", "copy_file_range", "fchmod", "fchown", "fdatasync", "fsync", "ftruncate",
    "getxattr", "link", "listdir", "lockf", "lstat", "mkdir", "open", "posix_fadvise", "posix_fallocate", "pread",
    "preadv", "pwrite", "pwritev", "read", "readlink", "readv", "remove", "removexattr", "rename", "replace",
    "rmdir", "scandir", "sendfile", "setxattr", "stat", "statvfs", "symlink", "sync", "system", "truncate",
    "unlink", "utime", "wait", "waitid", "waitpid", "write", "writev",
]  # fmt: skip
WATCHED: list[tuple[ModuleType | type, str]] = [
    *((os, name) for name in OS_CALLS),
    (builtins, "open"),
    (io, "open"),
    (time, "sleep"),
    (threading.Condition, "wait"),  # and so Event.wait, Queue.get, Future.result
    (threading.Thread, "join"),
]
if sys.platform != "win32":
    WATCHED += [(fcntl, "fcntl"), (fcntl, "flock"), (fcntl, "lockf")]
# Code of these, nearer to the call than the package, makes it none of the package's doing: the loop itself, an import.
OTHERS = ("asyncio.", "trio.", "importlib.")


class LoopBlockedError(AssertionError):
    """The package made a call that may block, in a thread whose event loop waits for it."""


class LoopGuard:
    """Watches the blocking calls of one package; what it finds is in `found` until it is taken."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.found: list[str] = []
        self._allowed = False
        self._originals: list[tuple[ModuleType | type, str, Any]] = []

    def install(self) -> None:
        """Put a watch before each blocking call."""
        for owner, name in WATCHED:
            if hasattr(owner, name):
                self._watch(owner, name)

    def remove(self) -> None:
        """Put the calls back as they were."""
        while self._originals:
            setattr(*self._originals.pop())

    def take(self) -> list[str]:
        """What was found since the last time."""
        found, self.found = self.found, []
        return found

    @contextmanager
    def allow(self) -> Iterator[None]:
        """Let the package block in this block, where a test calls a blocking room from an async test on purpose."""
        self._allowed = True
        try:
            yield
        finally:
            self._allowed = False

    def _watch(self, owner: ModuleType | type, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if in_loop() and not self._allowed and (where := self._culprit()):
                self.found.append(f"{where} calls {owner.__name__}.{name} on the event loop")
                raise LoopBlockedError(self.found[-1])
            return original(*args, **kwargs)

        self._originals.append((owner, name, original))
        setattr(owner, name, watched)
        for abilities in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
            if original in abilities:
                abilities.add(watched)

    def _culprit(self) -> str:
        """The package's frame that is nearest to the call, or nothing where other people's code is nearer."""
        frame = sys._getframe(2)
        while frame:
            module = frame.f_globals.get("__name__", "")
            if module == self.package or module.startswith(self.package + "."):
                return f"{module}.{frame.f_code.co_qualname}, line {frame.f_lineno},"
            if module.startswith(OTHERS) or frame.f_code is threading.Thread.start.__code__:  # waits for it to be alive
                break
            frame = frame.f_back
        return ""


def in_loop() -> bool:
    """Whether an event loop runs in this thread: asyncio's (or uvloop's, which says so in the same place) or trio's."""
    return asyncio._get_running_loop() is not None or in_trio_run()

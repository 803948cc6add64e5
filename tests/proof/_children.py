"""Processes that tell what they do, one line for each step, and that are killed when that is known.

They are forked by a process that has imported everything and has neither a loop nor a thread, so each costs some
milliseconds only. A line that was read is a fact; one that was not read before the power was cut proves nothing.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from swoosh_async.errors import (
    BackendError,
    CorruptJournalError,
    CorruptSnapshotError,
    OutcomeUnknownError,
    PoisonedError,
)

from ._mounts import CannotMountError, Image, die_with_parent, mounted

__all__ = ["Child", "Facts", "NotWholeError", "Tell", "begun", "failures", "say"]

Facts = list[Any]
"""One line of what a process has told: what it was, and with what."""

Tell = Callable[..., None]
"""Tells one line; a process does so in one thread only."""

BOUND_S = 30.0
"""How long a process may be silent, in seconds, before something is wrong with it."""

_PIPE_BYTES = 1 << 20


def say(*facts: Any) -> None:
    """Tell one line to whoever has started this process."""
    sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")
    sys.stdout.flush()


def begun(kind: str, home: str) -> Image | None:
    """Make this process one that children can be forked from, with a file system; None where there can be none."""
    logging.disable()
    die_with_parent()
    try:
        image = mounted(kind, Path(home))
    except CannotMountError as error:
        say("cannot", str(error))
        return None
    gc.freeze()
    return image


class NotWholeError(Exception):
    """What was loaded is not what anybody has written, although its checksum was right."""


def failures(error: BaseException) -> Iterator[Facts]:
    """What is told of an error: "refused" where it says that the disk has failed, "torn" where something is damaged."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from failures(one)
    elif isinstance(error, CorruptSnapshotError | CorruptJournalError | NotWholeError):
        yield ["torn", f"{type(error).__name__}: {error}"]
    elif isinstance(error, BackendError | OutcomeUnknownError | PoisonedError):
        yield ["refused", type(error).__name__, str(error)]
    else:
        yield ["failed", "".join(traceback.format_exception(error))[-2000:]]


class Child:
    """A process that does some work and tells of it.

    Args:
        work: What it does; what it raises is told.
    """

    def __init__(self, work: Callable[[Tell], object]) -> None:
        self._reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)  # it does not wait for us
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._reader)
            _work(work, writer, parent)
        os.close(writer)
        os.set_blocking(self._reader, False)
        self._rest = b""
        self.ended = False
        self.told: list[Facts] = []
        """What it has told so far."""

    def hear(self, wait_s: float = 0.0) -> None:
        """Read what it has told by now, and wait so long for it to tell anything."""
        if self.ended or (wait_s and not select.select([self._reader], [], [], wait_s)[0]):
            return
        lines = [self._rest]
        try:
            while more := os.read(self._reader, _PIPE_BYTES):
                lines.append(more)
            self.ended = True
        except BlockingIOError:
            pass
        *whole, self._rest = b"".join(lines).split(b"\n")
        self.told += map(msgspec.json.decode, whole)

    def hear_until(self, enough: Callable[[list[Facts]], object]) -> None:
        """Read until that is so of what it has told, or it has ended.

        Raises:
            TimeoutError: It is silent.
        """
        self.hear()
        while not self.ended and not enough(self.told):
            before, since = len(self.told), time.monotonic()
            self.hear(BOUND_S)
            if len(self.told) == before and not self.ended and time.monotonic() - since >= BOUND_S:
                raise TimeoutError(f"it was silent for {BOUND_S:.0f} s; at last it told {self.told[-3:]}")

    def kill(self) -> None:
        """End it, and read what it had told."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.set_blocking(self._reader, True)
        self.hear()
        os.close(self._reader)


def _work(work: Callable[[Tell], object], pipe: int, parent: int) -> None:
    def tell(*facts: Any) -> None:
        os.write(pipe, msgspec.json.encode(facts) + b"\n")

    try:
        die_with_parent(parent)
        work(tell)
    except BaseException as error:  # noqa: BLE001  nothing of it may go on into the parent's code
        for facts in failures(error):
            tell(*facts)
    finally:
        os._exit(0)

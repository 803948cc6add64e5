"""What can go wrong with what is stored, as a line that says so and an exit code."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

import typer

from ..errors import CorruptJournalError, CorruptSnapshotError, DivergenceError, SwooshError
from ._input import older, reason_of
from ._machines import MachineError
from ._terminal import fail, printable, show_cursor

__all__ = ["INTERRUPTED", "ending_at_once", "interruptible", "telling"]

INTERRUPTED = 130
"""As shells say it of a command that Ctrl-C has ended."""


@contextmanager
def telling(path: str) -> Generator[None, None, None]:
    """Turn what can go wrong with what is stored into a line that says so, and exit code 1."""
    try:
        yield
    except CorruptSnapshotError as error:
        names: Sequence[str] = ()
        with suppress(SwooshError):  # the damage is the one to tell
            names = older(path)
        beside = f"; older generations beside it: {', '.join(names)}" if names else ""
        fail(printable(f"{path}: damaged: {error.reason}{beside}"))
    except (CorruptJournalError, DivergenceError, MachineError) as error:
        fail(printable(str(error)))
    except (SwooshError, OSError, ModuleNotFoundError) as error:
        fail(printable(f"{path}: {reason_of(path, error)}"))


@contextmanager
def ending_at_once() -> Generator[None, None, None]:
    """Let Ctrl-C end the process at once, which nothing else does while a program's own function runs in a thread.

    For those who only read: there is nothing to be undone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(*_: object) -> NoReturn:
    show_cursor()
    os._exit(INTERRUPTED)


@contextmanager
def interruptible() -> Generator[None, None, None]:
    """Let Ctrl-C end the command as shells expect it."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None

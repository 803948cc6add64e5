"""How the command speaks: results on standard output, errors and progress bars on standard error.

What comes from files and their names is escaped before it is shown: it must not steer the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Literal, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
)
from rich.text import Text

__all__ = [
    "Progressing",
    "Report",
    "bar",
    "fail",
    "line",
    "output",
    "printable",
    "progress",
    "shortened",
    "show_cursor",
]

Report = Callable[[int], None]
"""Takes how much is done."""

Progressing = Callable[[int, int], None]
"""Takes how much is done, and how much there is."""

_PIPE_COLUMNS = 10_000
_LONG_BYTES = 16 << 20


def output() -> Console:
    """Standard output, as wide as the terminal; a pipe or a file is so wide that nothing is wrapped."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_COLUMNS)


def line(text: str, style: str = "") -> None:
    """Print a line of text, whatever is in it, unbroken."""
    output().print(Text(text, style), soft_wrap=True)


def fail(reason: str) -> NoReturn:
    """Say what failed, and exit with code 1."""
    Console(stderr=True, highlight=False).print(Text(f"error: {reason}", "bold red"), soft_wrap=True)
    raise typer.Exit(1)


@contextmanager
def bar(
    what: str, total: int, completed: int = 0, *, unit: Literal["files", "bytes"] = "files"
) -> Generator[Report, None, None]:
    """A progress bar on standard error while the block runs, where that is a terminal; it leaves nothing behind.

    Args:
        what: What is worked on.
        total: How much there is to do.
        completed: How much of it is done.
        unit: What is counted; so few bytes that they are read at once are not worth a bar.

    Yields:
        A function to be called with how much is done.
    """
    if unit == "bytes" and total < _LONG_BYTES:
        yield _ignore
        return
    column = MofNCompleteColumn() if unit == "files" else DownloadColumn(binary_units=True)
    with _shown(what, column, total, completed) as report:
        yield lambda done: report(done, total)


@contextmanager
def progress(what: str) -> Generator[Progressing, None, None]:
    """As `bar`, where how much there is to do is known only as it is done.

    Yields:
        A function to be called with how much is done, and how much there is.
    """
    with _shown(what, MofNCompleteColumn()) as report:
        yield report


@contextmanager
def _shown(
    what: str, column: ProgressColumn, total: int | None = None, completed: int = 0
) -> Generator[Progressing, None, None]:
    console = Console(stderr=True)
    if not console.is_interactive:
        yield _ignore
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), column)
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(what, total=total, completed=completed)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def show_cursor() -> None:
    """Give a terminal its cursor back, which a bar hides while it is shown."""
    Console(stderr=True).show_cursor()


def _ignore(*_: int) -> None:
    return


def printable(text: str) -> str:
    """The text with what is not printable escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, chars: int) -> str:
    """At most `chars` characters of the text, and an ellipsis where there were more."""
    return text if len(text) <= chars else text[:chars] + "…"

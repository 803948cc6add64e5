"""The face of the commands that look back: their arguments, their help, and what they show."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from itertools import islice
from typing import Annotated

import anyio
import typer

from ..codec._difference import differences
from ._backend import backend_in
from ._diff import as_facts as difference_facts
from ._diff import lines_of
from ._events import json_of
from ._history import as_json, as_table, history_of
from ._outlet import Outlet
from ._points import LATEST, Point, point_of
from ._replay import Replayer, as_facts, report_of, without
from ._telling import interruptible, telling
from ._terminal import line, output, printable
from ._tree import Bounds

__all__ = ["backup", "diff", "history", "replay"]

_DIR = "A FileBackend's directory; a service may be at work in it."
_MACHINE = "Your program's machine: a function that takes a Backend and returns a StateMachine."
_POINT = f"An index, a time in RFC 3339, an entry's hlc, or {LATEST}."

_Directory = Annotated[str, typer.Argument(metavar="DIR", help=_DIR, show_default=False)]
_Machine = Annotated[str | None, typer.Option("--machine", metavar="MODULE:NAME", help=_MACHINE, show_default=False)]


def history(
    directory: _Directory,
    *,
    json: Annotated[bool, typer.Option("--json", help="One object: snapshots, journal, states.")] = False,
) -> None:
    """Show the snapshots that are kept, each checked to its last byte, and which states can be gone back to."""
    with telling(directory), interruptible(), _written() as outlet:
        found = history_of(directory)
        if json:
            outlet.write(json_of(as_json(found)))
        else:
            output().print(as_table(found))


def replay(
    directory: _Directory,
    *,
    machine: _Machine = None,
    index: Annotated[
        int | None, typer.Option("--to-index", min=0, help="The last entry to fold.", show_default="the last")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="Fold up to that time: in RFC 3339, or an entry's hlc.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="See whether each snapshot is what is folded.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One object: index, hlc, entries, took_s, state.")] = False,
    children: Annotated[
        int, typer.Option("--children", "-n", min=1, help="How many children of a node are shown.")
    ] = 10,
    chars: Annotated[int, typer.Option("--chars", min=1, help="How many characters of a text are shown.")] = 80,
) -> None:
    """Fold the journal with your program's own machine, and show the state, as it is or as it once was.

    It begins with the nearest snapshot. Whoever writes is not disturbed, and nothing is changed.
    """
    if machine is None:
        raise typer.BadParameter(f"entries are folded by your program's own function; give --machine. {_MACHINE}")
    if (index is not None) + (at is not None) + verify > 1:
        raise typer.BadParameter("--to-index, --at and --verify exclude one another")
    point = Point(index=index) if at is None else _point(at)
    with telling(directory), interruptible(), _written() as outlet:
        replayer = Replayer(backend_in(directory), machine)
        if verify:
            entries = replayer.verify()
            if json:
                outlet.write(json_of({"entries": entries}))
            else:
                line(f"ok: {entries:,} entries folded, and each snapshot is what they lead to", "green")
            return
        found = replayer.at(point)
        if json:
            outlet.write(json_of(as_facts(found)))
        else:
            output().print(report_of(directory, found, Bounds(children=children, chars=chars, nodes=200 * children)))


def diff(
    directory: _Directory,
    old: Annotated[str, typer.Argument(metavar="A", help=_POINT, show_default=False)],
    new: Annotated[str, typer.Argument(metavar="B", help="Another such.", show_default=False)],
    *,
    machine: _Machine = None,
    most: Annotated[
        int | None,
        typer.Option("--most", min=1, help="How many differences are shown.", show_default="100, or all"),
    ] = None,
    chars: Annotated[int, typer.Option("--chars", min=1, help="How many characters of a value are shown.")] = 80,
    json: Annotated[bool, typer.Option("--json", help="One object a line: path, kind, old, new.")] = False,
) -> None:
    """Show what changed in the state between two points: + added, - removed, ~ changed.

    Where a snapshot stands at both of them, no machine is needed.
    """
    points = _point(old), _point(new)
    with telling(directory), interruptible(), _written() as outlet:
        replayer = Replayer(backend_in(directory), machine)
        before, after = map(replayer.at, points)
        found = differences(before.state, after.state)
        if json:
            for difference in islice(found, most):
                outlet.write(json_of(difference_facts(difference)))
            return
        line(f"index {before.cursor.index} → index {after.cursor.index}", "bold")
        for text, style in lines_of(found, most or 100, chars):
            line(text, style)


def backup(
    directory: _Directory,
    to: Annotated[str, typer.Argument(metavar="TO", help="A directory that is new, or empty.", show_default=False)],
) -> None:
    """Write a copy of all that is kept, of one moment, into another directory, while a service goes on."""
    with telling(directory), interruptible():
        source = backend_in(directory)
        with telling(to):
            cursor = anyio.run(without(source).backup, to)
            held = history_of(to)
        line(printable(f"{to}: all of {directory}, up to index {cursor.index}"))
        output().print(as_table(held))


def _point(text: str) -> Point:
    try:
        return point_of(text)
    except ValueError as error:
        raise typer.BadParameter(f"{printable(text)}: {error}") from None


@contextmanager
def _written() -> Generator[Outlet, None, None]:
    """Standard output, for what may be long; whoever reads no further has what was wanted."""
    outlet = Outlet()
    try:
        yield outlet
    except BrokenPipeError:
        outlet.abandon()

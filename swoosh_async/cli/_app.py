"""The command's face: its arguments, its help, and its exit codes."""

from __future__ import annotations

import shlex
import sys
import tempfile
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import aiofiles
import anyio
import typer
from rich.table import Table

from ..codec import SnapshotCodec
from ..errors import SwooshError
from ._backend import holdings, journal_report
from ._demo import Demo, Outcome
from ._input import decoded, opened
from ._inspect import report
from ._journal import EntryLines, EntryTable, Range, show
from ._ledger import LostStateError
from ._outlet import Outlet
from ._past import backup, diff, history, replay
from ._telling import INTERRUPTED, telling
from ._terminal import bar, fail, line, output, printable, shortened
from ._tree import Bounds
from ._verify import verdicts
from ._work import standard_library

__all__ = ["app"]

_PIECE_BYTES = 1 << 20
_DIGITS = 32

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Look at the snapshots and journals of swoosh_async, check them, and see them survive.",
)

_PATH = "A snapshot's path, a FileBackend's directory, or - for standard input."


def _version(asked: bool) -> None:  # noqa: FBT001  typer calls it so
    if asked:
        try:
            line(f"swoosh-async {version('swoosh-async')}")
        except PackageNotFoundError:
            line("swoosh-async (not installed)")
        raise typer.Exit


@app.callback()
def _face(
    _: Annotated[  # noqa: FBT002  typer makes it an option
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version, and exit.")
    ] = False,
) -> None:
    return


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(metavar="PATH", help=_PATH, show_default=False)],
    children: Annotated[
        int, typer.Option("--children", "-n", min=1, help="How many children of a node are shown.")
    ] = 10,
    chars: Annotated[int, typer.Option("--chars", min=1, help="How many characters of a text are shown.")] = 80,
) -> None:
    """Show what a snapshot says of itself, and its state as a tree, once every byte of it is verified.

    Of a backend's directory, the snapshot is shown, and what the journal says of itself.
    """
    with telling(path):
        held = holdings(path)
    failed = False
    if held.snapshot or not held.journal:
        try:
            with telling(path), opened(path) as source:
                found = decoded(source)
            output().print(report(path, found, Bounds(children=children, chars=chars, nodes=200 * children)))
        except typer.Exit:  # its reason is told
            failed = True
    if held.journal:
        with telling(path):
            output().print(journal_report(path, children))
    if failed:
        raise typer.Exit(1)


@app.command()
def verify(paths: Annotated[list[str], typer.Argument(metavar="PATH...", help=_PATH, show_default=False)]) -> None:
    """Check every byte of snapshots; exit with code 1 where one is damaged or cannot be read.

    Of a backend's directory, all the generations are checked, and every batch of the journal.
    """
    failed = False
    for given in paths:
        for path, verdict in verdicts(given):
            failed |= verdict.status != "ok"
            detail = f": {verdict.detail}" if verdict.detail else ""
            line(printable(f"{path}: {verdict.status}{detail}"), "green" if verdict.status == "ok" else "bold red")
    if failed:
        raise typer.Exit(1)


@app.command()
def journal(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="A FileBackend's directory.", show_default=False)],
    *,
    first: Annotated[
        int | None, typer.Option("--from", min=1, help="The first index; by default the first that is kept.")
    ] = None,
    last: Annotated[
        int | None, typer.Option("--to", min=1, help="The last index; by default the last that there is.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with those that come, up to --to or Ctrl-C.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One object a line: index, hlc, event.")] = False,
    chars: Annotated[
        int | None,
        typer.Option(
            "--chars", min=1, help="How many characters of an event the table shows.", show_default="what fits"
        ),
    ] = None,
) -> None:
    """Show the entries of a journal, one a line; whoever writes it is not disturbed, and nothing is changed."""
    if first is not None and last is not None and first > last:
        raise typer.BadParameter("--from is behind --to")
    with telling(directory):
        outlet = Outlet()
        view = EntryLines(outlet) if json else EntryTable(outlet, chars)
        try:
            show(directory, Range(first, last, follow), view, outlet)
        except BrokenPipeError:  # whoever read it has what it wanted
            outlet.abandon()
        except KeyboardInterrupt:
            outlet.abandon()
            raise typer.Exit(INTERRUPTED) from None


@app.command()
def export(path: Annotated[str, typer.Argument(metavar="PATH", help=_PATH, show_default=False)]) -> None:
    """Write a snapshot to standard output, as it is stored, once every byte of it is verified."""
    with telling(path), opened(path) as source:
        data, facts = SnapshotCodec[Any](Any).read_verified(source)
    if sys.stdout.isatty() and (facts.compression or facts.format != "json"):
        fail("this is not text: send it to a file or a pipe, or see it with `swoosh-async inspect`")
    anyio.run(_write, data)


for _command in (history, replay, diff, backup):
    app.command()(_command)


@app.command()
def demo(
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]",
            help="Where the state is kept; a second run starts over behind the first. By default a temporary one.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[Path | None, typer.Option(hidden=True, help="Whose .py files are hashed.")] = None,
) -> None:
    """Kill an orchestrator three times in the midst of its work, and see that nothing it acknowledged is lost."""
    with ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="swoosh-async-demo-")))
            stays = False
        else:
            stays = True
        try:
            outcome = Demo(directory, source or standard_library(), _say, bar).run()
        except (SwooshError, LostStateError) as error:
            fail(printable(str(error)))
    output().print(_table(outcome))
    if not outcome.holds:
        fail("this is not as it must be")
    if stays:
        place = shlex.quote(str(directory))
        _say(f"look at it: swoosh-async inspect {place}")
        _say(f"            swoosh-async history {place}")
        _say(f"            swoosh-async replay {place} --machine swoosh_async.cli._orchestrator:machine")


def _say(text: str) -> None:
    line(printable(text))


def _table(outcome: Outcome) -> Table:
    table = Table(show_header=False)
    equal = "equal" if outcome.digest == outcome.in_one_go else "NOT EQUAL"
    for fact, value in (
        ("kills (SIGKILL)", f"{outcome.kills}"),
        ("acknowledged events", f"{outcome.events:,}"),
        ("of these lost", f"{outcome.lost}"),
        ("snapshots taken by policy", f"{outcome.snapshots}"),
        ("tasks done", f"{outcome.ended:,} of {outcome.tasks:,}"),
        ("tasks begun again", f"{outcome.again}"),
        ("a dispatch took", f"p50 {outcome.p50_ms:.1f} ms, p99 {outcome.p99_ms:.1f} ms"),
        ("digest of all results", shortened(outcome.digest, _DIGITS)),
        ("of a run in one go", f"{shortened(outcome.in_one_go, _DIGITS)} {equal}"),
    ):
        table.add_row(fact, value)
    return table


async def _write(data: bytes) -> None:
    for at in range(0, len(data), _PIECE_BYTES):
        await aiofiles.stdout_bytes.write(data[at : at + _PIECE_BYTES])
    await aiofiles.stdout_bytes.flush()

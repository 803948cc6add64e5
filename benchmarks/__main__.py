"""The command line: `python -m benchmarks [--suite NAME] [--long] [--out DIR] [--scratch DIR]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from . import dispatch, journal, large, sizes, small
from .child import in_child
from .drawing import draw
from .markdown import markdown
from .report import Report
from .scratch import NoDiskError, scratch

__all__ = ["main"]

SUITES: dict[str, Callable[..., Report]] = {
    "small": small.measure,
    "large": large.measure,
    "sizes": sizes.measure,
    "journal": journal.measure,
    "machine": dispatch.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the tables and the pictures, and say where they are."""
    options = _parser().parse_args(arguments)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    for name in options.suite or SUITES:
        begun = time.monotonic()
        try:
            with scratch(options.scratch) as directory:
                report = in_child(SUITES[name], directory, long=options.long)
        except NoDiskError as error:
            sys.exit(str(error))
        text = out / f"{name}.md"
        text.write_text(markdown(report), encoding="utf-8")
        draw(report, text.with_suffix(".svg"))
        _show(report)
        print(f"{name}: {text} and {text.with_suffix('.svg')}, after {time.monotonic() - begun:.0f} s")
    return 0


def _show(report: Report) -> None:
    for target in report.targets:
        sign = "≥" if target.at_least else "≤"
        holds = "ok  " if target.holds else "MISS"
        print(f"  {holds} {target.found:8.3f} {sign} {target.bound:g} {target.unit:3} {target.what}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--suite", action="append", choices=SUITES, help="only this one; may be given again")
    parser.add_argument("--long", action="store_true", help="larger states and more repetitions: an hour")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"), help="where tables and pictures go")
    parser.add_argument("--scratch", type=Path, default=Path("/var/tmp"), help="where to write; must be on a real disk")
    return parser


if __name__ == "__main__":
    sys.exit(main())

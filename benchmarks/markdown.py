"""A report as Markdown: the targets, the tables, and the machine. This file knows no suite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .report import Report, Target

__all__ = ["INCLUDE_AFTER", "figure", "markdown"]

INCLUDE_AFTER = "<!-- figures -->"
"""What stands before the text that a page includes."""

_ORPHAN = "---\norphan: true\n---\n"
_WHOLE = 100


def markdown(report: Report) -> str:
    """The whole file: a page of its own, which another page may include."""
    return "\n".join([f"{_ORPHAN}{INCLUDE_AFTER}", *_blocks(report)])


def figure(value: float, unit: str = "") -> str:
    """A number with three digits, and its unit."""
    text = f"{value:,.0f}" if value >= _WHOLE else f"{value:#.3g}".rstrip(".")
    return f"{text} {unit}" if unit else text


def _blocks(report: Report) -> Iterator[str]:
    if report.targets:
        yield from _table(["what must hold", "target", "found", "holds"], map(_target, report.targets))
    yield f"![The figures of this suite as a picture]({report.name}.svg)\n"
    for table in report.tables:
        yield f"**{table.title}**\n"
        yield from _table(table.columns, table.rows)
    yield f"*{report.machine}*\n"


def _target(target: Target) -> list[str]:
    bound = f"{'≥' if target.at_least else '≤'} {target.bound:g} {target.unit}".rstrip()
    return [target.what, bound, figure(target.found, target.unit), "yes" if target.holds else "**no**"]


def _table(columns: Sequence[str], rows: Iterator[list[str]] | Sequence[list[str]]) -> Iterator[str]:
    yield _row(columns)
    yield _row(["---", *("---:" for _ in columns[1:])])
    yield from map(_row, rows)
    yield ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

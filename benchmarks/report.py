"""What a suite found: targets with the figures beside them, tables, and what to draw. Plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

__all__ = ["Bar", "Bars", "Lines", "Report", "Table", "Target"]


class Target(msgspec.Struct, frozen=True):
    """A figure that was promised.

    Attributes:
        what: What is measured, over what.
        found: What was found.
        bound: What it is held to.
        unit: The unit of both.
        at_least: Whether the bound is the least that it may be, and not the most.
    """

    what: str
    found: float
    bound: float
    unit: str = "×"
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether what was found is as promised."""
        return self.found >= self.bound if self.at_least else self.found <= self.bound


class Table(msgspec.Struct, frozen=True):
    """Rows of text.

    Attributes:
        title: One sentence.
        columns: Their headings; the first column is text, the others are figures.
        rows: As many cells each as there are columns.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]


class Bar(msgspec.Struct, frozen=True):
    """One bar.

    Attributes:
        label: Whose it is.
        value: How long it is.
        ours: Whether it is this package's.
    """

    label: str
    value: float
    ours: bool


class Bars(msgspec.Struct, frozen=True):
    """A picture of bars.

    Attributes:
        title: What is compared, and in what unit.
        bars: From top to bottom.
        bound: Where the target's line stands; None for no line.
        logarithmic: Whether the scale is logarithmic; its title should say so.
    """

    title: str
    bars: list[Bar]
    bound: float | None = None
    logarithmic: bool = False


class Lines(msgspec.Struct, frozen=True):
    """A picture of lines, both scales logarithmic.

    Attributes:
        title: What grows with what.
        x: What the x axis shows.
        y: What the y axis shows.
        lines: Points by name.
    """

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


class Report(msgspec.Struct, frozen=True):
    """All that a suite found.

    Attributes:
        name: The suite's name, which its files have.
        machine: Where and when.
        targets: What was promised.
        tables: All figures.
        pictures: What is drawn, from top to bottom.
    """

    name: str
    machine: str
    targets: list[Target]
    tables: list[Table]
    pictures: Sequence[Bars | Lines]

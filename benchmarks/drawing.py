"""A report's pictures, one below the other, as one SVG. This file knows no suite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .markdown import figure
from .report import Bars, Lines, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

_OURS = "#1f6feb"
_THEIRS = "#b0b7c0"
_BOUND = "#c62828"
_INK = "#24292f"
_STYLE: Any = {
    "axes.edgecolor": _THEIRS,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "svg.fonttype": "none",  # text stays text: small, and searchable
    "svg.hashsalt": "swoosh_async",  # the same picture from the same figures
    "text.color": _INK,
}
_WIDTH_IN = 7.2
_LINES_HEIGHT_IN = 3.6
_BAR_HEIGHT_IN = 0.24
_BARS_MARGIN_IN = 0.9


def draw(report: Report, path: Path) -> None:
    """Write the picture; needs matplotlib."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    with mpl.rc_context(_STYLE):
        heights = [_height(picture) for picture in report.pictures]
        made = plt.figure(figsize=(_WIDTH_IN, sum(heights)), layout="constrained")
        parts = made.subfigures(len(heights), squeeze=False, height_ratios=heights)[:, 0]
        for picture, part in zip(report.pictures, parts, strict=True):
            part.suptitle(picture.title, x=0.01, horizontalalignment="left", fontsize="medium", fontweight="bold")
            if isinstance(picture, Bars):
                _draw_bars(picture, part.subplots())
            else:
                _draw_lines(picture, part.subplots())
        made.savefig(path, format="svg", metadata={"Date": None}, facecolor="white")
        plt.close(made)


def _height(picture: Bars | Lines) -> float:
    return _LINES_HEIGHT_IN if isinstance(picture, Lines) else _BARS_MARGIN_IN + _BAR_HEIGHT_IN * len(picture.bars)


def _draw_bars(picture: Bars, axes: Axes) -> None:
    labels = [bar.label for bar in picture.bars]
    values = [bar.value for bar in picture.bars]
    drawn = axes.barh(labels, values, color=[_OURS if bar.ours else _THEIRS for bar in picture.bars])
    axes.bar_label(drawn, labels=[figure(value) for value in values], padding=3)
    if picture.logarithmic:
        axes.set_xscale("log")
    axes.set_xticks([], minor=True)
    axes.set_xticks([])  # each bar has its number
    axes.spines["bottom"].set_visible(False)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.tick_params(axis="y", length=0)
    if picture.bound is not None:
        axes.axvline(picture.bound, color=_BOUND, linewidth=1, linestyle="--")


def _draw_lines(picture: Lines, axes: Axes) -> None:
    for name, points in picture.lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1.5, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.minorticks_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,g}")
    axes.set_xlabel(picture.x)
    axes.set_ylabel(picture.y)
    axes.grid(visible=True, which="major", color="#e6e8eb")
    axes.legend(frameon=False)

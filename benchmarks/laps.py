"""Interleaved repetitions: each contestant once in each round, the rounds one after the other.

What disturbs a machine for some seconds thus disturbs all contestants alike. A ratio is formed within a round, and the
median of the rounds' ratios is what is told.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TypeVar

__all__ = ["interleave", "percentile", "ratio"]

K = TypeVar("K")
T = TypeVar("T")


def interleave(what: str, contestants: Mapping[K, Callable[[], T]], rounds: int) -> dict[K, list[T]]:
    """What each contestant gave in each round. Every round begins with another one.

    Garbage is collected before each turn, so that nobody pays for what the one before has left.

    Args:
        what: What is measured, for who waits.
        contestants: Each by its name.
        rounds: How many rounds, ≥ 1.
    """
    names = list(contestants)
    results: dict[K, list[T]] = {name: [] for name in names}
    for turn in range(rounds):
        if sys.stderr.isatty():
            print(f"  {what}: round {turn + 1} of {rounds} ", end="\r", file=sys.stderr, flush=True)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            results[name].append(contestants[name]())
    return results


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return median(a / b for a, b in zip(over, under, strict=True))


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent of the values do not exceed; of none, 0."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0

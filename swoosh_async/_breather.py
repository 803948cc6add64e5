"""Letting other threads have the GIL, from a thread that computes for long.

A thread that lets go of the GIL for no time (`time.sleep(0)`) mostly has it back before another one has woken up,
unless that one has waited for the whole switch interval (5 ms). So the GIL is let go of for a moment that is longer
than a wake-up takes, but not after each little step, which would cost more than the work.

This file knows neither event loops nor what is computed.
"""

from __future__ import annotations

import time

__all__ = ["Breather"]

_EVERY_S = 0.001
_PAUSE_S = 0.00005


class Breather:
    """To be called often, by one thread; pauses for some 50 µs each millisecond, counted from the first call."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since = 0.0

    def __call__(self) -> None:
        """Pause, if the last pause is some time ago."""
        now = time.perf_counter()
        if self._since and now - self._since > _EVERY_S:
            time.sleep(_PAUSE_S)
            now = time.perf_counter()
        elif self._since:
            return
        self._since = now

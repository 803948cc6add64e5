"""Letting other threads have the GIL, from a thread that computes for long.

A thread that lets go of the GIL for no time (`time.sleep(0)`) mostly has it back before another one has woken up,
unless that one has waited for the whole switch interval (5 ms). So the GIL is let go of for a moment that is longer
than a wake-up takes, but not after each little step, which would cost more than the work.

Such moments keep others responsive, and no more: of two threads that compute, each has half of the GIL. Who has a
throughput to keep is left a larger share, while he is at work.

This file knows neither event loops nor what is computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Breather"]

_EVERY_S = 0.001
_PAUSE_S = 0.00005
_REST = 8
_AT_WORK_S = 0.05


class Breather:
    """To be called often, by one thread; pauses for some 50 µs each millisecond, counted from the first call.

    Args:
        pulse: What changes whenever others get something done; while it does, each pause is eight times as long as what
            was computed since the last.
    """

    __slots__ = ("_at_work_until", "_computed_s", "_pulse", "_seen", "_since")

    def __init__(self, pulse: Callable[[], object] = bool) -> None:
        self._pulse = pulse
        self._seen: object = None
        self._at_work_until = 0.0
        self._since = 0.0
        self._computed_s = 0.0

    def __call__(self) -> None:
        """Pause, if the last pause is some time ago."""
        now = time.perf_counter()
        if not self._since:
            self._seen = self._pulse()
        elif now - self._since > _EVERY_S:
            time.sleep(self._pause_s(now))
            now = time.perf_counter()
        else:
            return
        self._since = now
        self._computed_s = time.thread_time()

    def _pause_s(self, now: float) -> float:
        seen = self._pulse()
        if seen != self._seen:
            self._seen, self._at_work_until = seen, now + _AT_WORK_S
        if now > self._at_work_until:
            return _PAUSE_S
        return max(_PAUSE_S, _REST * (time.thread_time() - self._computed_s))

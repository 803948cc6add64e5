"""One call of a contestant on a new event loop, timed, or watched by the stall meter."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from .loops import run
from .savers import Opener
from .stall import Stall, stall_meter

__all__ = ["Watched", "timed", "timed_blocking", "watched"]


class Watched(msgspec.Struct, frozen=True):
    """How long a call took under the meter, in seconds, and how the loop fared."""

    took_s: float
    stall: Stall


def timed(loop: str, opener: Opener, directory: Path, subject: Any, *, warm: bool = False) -> float:
    """How long one call takes, in seconds, on a loop that has nothing else to do.

    Args:
        loop: The loop's name.
        opener: The contestant.
        directory: Where it works.
        subject: What it is given.
        warm: Whether it is called once before.
    """

    async def call() -> float:
        async with opener(directory) as act:
            if warm:
                await act(subject)
            begun = time.perf_counter()
            result = await act(subject)
            took = time.perf_counter() - begun
        del result  # a large state takes its time to die, which is nobody's
        return took

    return run(loop, call)


def timed_blocking(call: Callable[[], object]) -> float:
    """How long one blocking call takes, in seconds."""
    begun = time.perf_counter()
    result = call()
    took = time.perf_counter() - begun
    del result
    return took


def watched(loop: str, opener: Opener, directory: Path, subject: Any) -> Watched:
    """How the loop fares during one call."""

    async def call() -> Watched:
        async with opener(directory) as act:
            async with stall_meter() as meter:
                begun = time.perf_counter()
                result = await act(subject)
                took = time.perf_counter() - begun
            del result
        return Watched(took, meter.read())

    return run(loop, call)

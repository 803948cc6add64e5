"""A block: some calls, one after the other, each timed. What a call costs the first few times is not counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from .laps import ratio
from .loops import run
from .savers import Opener

__all__ = ["Block", "awaited", "block_ratio", "blocking", "calls_of"]

Block = list[float]
"""What each call took, in seconds."""

_WARM = 3
_CALLS = 20


def blocking(call: Callable[[], object]) -> Block:
    """A block of blocking calls."""
    for _ in range(_WARM):
        call()
    took: Block = []
    for _ in range(_CALLS):
        begun = time.perf_counter()
        call()
        took.append(time.perf_counter() - begun)
    return took


def awaited(loop: str, opener: Opener, directory: Path, state: Any) -> Block:
    """A block of saves on a new event loop."""

    async def block() -> Block:
        async with opener(directory) as save:
            for _ in range(_WARM):
                await save(state)
            took: Block = []
            for _ in range(_CALLS):
                begun = time.perf_counter()
                await save(state)
                took.append(time.perf_counter() - begun)
            return took

    return run(loop, block)


def block_ratio(over: Sequence[Block], under: Sequence[Block]) -> float:
    """The median of the rounds' ratios of the blocks' medians."""
    return ratio([median(block) for block in over], [median(block) for block in under])


def calls_of(blocks: Sequence[Block]) -> list[float]:
    """What each call of all rounds took, in seconds."""
    return [took for block in blocks for took in block]

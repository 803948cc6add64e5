"""A stall meter: a task that sleeps for 1 ms, again and again, and records how late it woke.

While the event loop is kept from turning, by a call on it or by a thread that holds the GIL, the task wakes late; so
would a heartbeat, a request, a timer of the service. Percentiles are over its wakes: a stall of one second is one late
wake among some, however many wakes it has cost; therefore the share of the time is told beside them.

There is no hook in the garbage collector here: its call into Python would be a chance for the loop's thread to take the
GIL, in the middle of what holds it otherwise.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import msgspec

from .laps import percentile

__all__ = ["LONG_S", "Stall", "StallMeter", "stall_meter"]

LONG_S = 0.010
"""From when on a stall counts as time lost, in seconds."""

_TICK_S = 0.001
_SETTLE_S = 0.05


class Stall(msgspec.Struct, frozen=True):
    """How late the meter woke.

    Attributes:
        longest_s: The longest delay, in seconds.
        p99_s: What 99 of 100 wakes did not exceed, in seconds.
        p50_s: The median, in seconds; what an idle loop shows is what timers cost.
        wakes: How often it woke.
        lost: The share of the time that passed in stalls of more than `LONG_S`, 0 ≤ lost ≤ 1.
    """

    longest_s: float
    p99_s: float
    p50_s: float
    wakes: int
    lost: float


class StallMeter:
    """Records lateness; made by `stall_meter`."""

    def __init__(self) -> None:
        self._late_s: list[float] = []

    def read(self) -> Stall:
        """What was recorded since the meter was entered."""
        late = self._late_s
        passed = sum(late) + len(late) * _TICK_S
        return Stall(
            longest_s=max(late, default=0.0),
            p99_s=percentile(late, 99),
            p50_s=percentile(late, 50),
            wakes=len(late),
            lost=sum(s for s in late if s > LONG_S) / passed if passed else 0.0,
        )

    def reset(self) -> None:
        """Forget what was recorded."""
        self._late_s.clear()

    async def tick(self) -> None:
        """Sleep and record, until cancelled."""
        last = time.perf_counter()
        while True:
            await anyio.sleep(_TICK_S)
            now = time.perf_counter()
            self._late_s.append(now - last - _TICK_S)
            last = now


@asynccontextmanager
async def stall_meter() -> AsyncGenerator[StallMeter, None]:
    """A context in which the stalls of the running loop are recorded; read the meter after it."""
    meter = StallMeter()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(meter.tick)
        await anyio.sleep(_SETTLE_S)
        meter.reset()
        yield meter
        await anyio.sleep(2 * _TICK_S)  # a stall at the very end shows at the next wake only
        tasks.cancel_scope.cancel()

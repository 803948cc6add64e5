"""A thread that computes for long pauses now and then, and for longer while others get something done."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from swoosh_async import MemoryBackend, SnapshotPolicy, StateMachine, _breather
from swoosh_async._breather import Breather


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.computed = 0.0
        self.slept: list[float] = []

    def compute(self, seconds: float, others: float = 0.0) -> None:
        """Let so much time pass, in which the thread has the processor, and in which others have it."""
        self.now += seconds + others
        self.computed += seconds

    def sleep(self, seconds: float) -> None:
        """As `time.sleep`."""
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time that breathers go by."""
    clock = Clock()
    time = SimpleNamespace(perf_counter=lambda: clock.now, thread_time=lambda: clock.computed, sleep=clock.sleep)
    monkeypatch.setattr(_breather, "time", time)
    return clock


def test_a_pause_each_millisecond(clock: Clock) -> None:
    """Called each tenth of a millisecond, it pauses at each eleventh, for a moment."""
    breathe = Breather()
    for _ in range(45):
        breathe()
        clock.compute(0.0001)
    assert clock.slept == [0.00005] * 4


def test_longer_while_others_are_at_work(clock: Clock) -> None:
    """While the pulse changes, a pause is eight times what was computed; 50 ms after its last change they are short."""
    pulse = 0
    breathe = Breather(lambda: pulse)
    breathe()
    clock.compute(0.002)
    breathe()
    assert clock.slept == [0.00005]
    pulse = 1
    clock.compute(0.002, others=0.003)
    breathe()
    assert clock.slept[1:] == pytest.approx([0.016])
    clock.compute(0.002)
    breathe()
    assert clock.slept[2:] == pytest.approx([0.016])
    clock.now += 0.05
    breathe()
    assert clock.slept[3:] == [0.00005]


@pytest.mark.anyio
async def test_a_machine_s_snapshots_make_way() -> None:
    """The pulse of a machine's snapshots is its journal."""
    policy = SnapshotPolicy(every_events=None, on_close=False)
    async with StateMachine(MemoryBackend(), lambda state, event: state + event, 0, int, policy=policy) as machine:
        breathe = machine._keeper.store._breather()
        assert breathe._pulse() == 0
        await machine.dispatch(1)
        assert breathe._pulse() == 1

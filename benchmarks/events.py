"""Events as an orchestrator has them: a tagged union of three records, some 160 to 200 bytes of MessagePack each."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

__all__ = ["Event", "Finished", "Scheduled", "Started", "event"]

_SCATTER = 2_654_435_761
_NOW_S = 1_764_000_000.0


class Scheduled(msgspec.Struct, frozen=True, tag=True):
    """A task is to be run."""

    task: str
    queue: str
    priority: int
    due: float
    labels: Mapping[str, str]
    command: str


class Started(msgspec.Struct, frozen=True, tag=True):
    """A worker has begun."""

    task: str
    worker: str
    attempt: int
    at: float
    host: str
    lease: str


class Finished(msgspec.Struct, frozen=True, tag=True):
    """A worker has ended."""

    task: str
    worker: str
    status: str
    seconds: float
    attempt: int
    result: str | None


Event = Scheduled | Started | Finished


def event(i: int) -> Event:
    """The event of that number."""
    task, scattered = f"task-{i:08d}", i * _SCATTER % 2**32
    if i % 3 == 0:
        labels = {"app": f"shop-{i % 17}", "zone": f"z{i % 9}", "team": "core"}
        command = f"render --frame {i} --out /srv/frames/{i:08d}.png --quality 90 --threads 4"
        return Scheduled(task, "default", i % 10, _NOW_S + i * 0.37, labels, command)
    if i % 3 == 1:
        lease = f"lease-{scattered:08x}-{i * 40503 % 2**32:08x}-{i:012d}-{scattered:032x}"
        return Started(task, f"worker-{i % 50}", i % 3, _NOW_S + i * 0.37, f"host-{i % 40}.cluster.local", lease)
    result = f"wrote {i * 7} bytes to /srv/frames/{i:08d}.png, checksum {scattered:064x}"
    return Finished(task, f"worker-{i % 50}", "succeeded", i * 0.013, 1, result)

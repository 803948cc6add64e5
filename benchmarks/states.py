"""Makers of states: of any number of tasks, the same for the same number, and as a service would have them.

Ids are scattered, so the mapping's order is not the sorted one. Every task has strings and containers of its own, as
after loading.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from swoosh_async import OrchestratorState, Task, TaskStatus

__all__ = ["Fleet", "Job", "fleet", "orchestrator", "with_text"]

_SCATTER = 2_654_435_761  # odd, so that multiplying by it modulo 2**32 never gives a number twice
_NOW_S = 1_764_000_000.0
_STATUSES = (TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.SUCCEEDED, TaskStatus.FAILED)


class Job(msgspec.Struct, frozen=True):
    """A user's own record, as msgspec makes it by default: the garbage collector knows each one."""

    name: str
    status: str
    priority: int
    started: float
    env: Mapping[str, str]


class Fleet(msgspec.Struct, frozen=True):
    """A user's own state: a mapping of records, each with a mapping of its own."""

    region: str
    jobs: Mapping[str, Job]


def orchestrator(tasks: int) -> OrchestratorState:
    """The default state with so many tasks, about 200 bytes of JSON each."""
    return OrchestratorState(tasks={task.id: task for task in map(_task, range(tasks))})


def fleet(jobs: int) -> Fleet:
    """A state of a user's own type with so many jobs, about 200 bytes of JSON each."""
    return Fleet("eu-central", {_id("job", i): _job(i) for i in range(jobs)})


def with_text(tasks: int, text_bytes: int) -> OrchestratorState:
    """The default state with so many tasks, the result of one of which is a text (a log, in lines) of that length."""
    line = '2026-01-01T00:00:00Z worker-17 step 4 of 9: fetched 12 objects, 3 were "new"\n'
    text = (line * (text_bytes // len(line) + 1))[:text_bytes]
    return orchestrator(tasks).with_tasks(Task("log", TaskStatus.SUCCEEDED, result=text))


def _id(kind: str, i: int) -> str:
    return f"{kind}{i * _SCATTER % 2**32:08x}"


def _task(i: int) -> Task:
    status = _STATUSES[i % len(_STATUSES)]
    return Task(
        _id("t", i),
        status,
        attempts=i % 5,
        deadline=_NOW_S + i * 0.37,
        dependencies=(_id("t", i + 1), _id("t", i + 7)),
        labels={"app": f"shop:{i % 17}", "zone": f"z{i % 9}"},
        assigned_worker=f"worker-{i % 50}" if status is TaskStatus.RUNNING else None,
        result=f"exit {i % 3}" if status.final else None,
    )


def _job(i: int) -> Job:
    env = {"IMAGE": f"registry.local/shop:{i % 17}", "ZONE": f"zone-{i % 9}", "OWNER": f"team-{i % 23}"}
    return Job(f"nightly build {i}", str(_STATUSES[i % len(_STATUSES)]), i % 10, _NOW_S + i * 0.37, env)

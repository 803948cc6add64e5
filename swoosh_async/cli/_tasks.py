"""What happens in the demo, as events, and what each does to the orchestrator's state.

This file is pure.
"""

from __future__ import annotations

import msgspec

from ..journal import Entry
from ..models import Lease, OrchestratorState, Task, TaskStatus, Worker

__all__ = ["LEASE", "PROGRAM", "WORKERS", "Event", "RunBegun", "Started", "TaskBegun", "TaskEnded", "apply"]

PROGRAM = "swoosh-async demo"
"""Whose state it is."""

WORKERS = 8
LEASE = "orchestrator"

_LEASE_S = 3600.0


class RunBegun(msgspec.Struct, frozen=True, tag=True):
    """There is work; what an earlier run left behind is forgotten.

    Attributes:
        run: Names this run of the demo.
        source: The directory whose files are the tasks.
        tasks: The files' paths in it.
    """

    run: str
    source: str
    tasks: tuple[str, ...]


class Started(msgspec.Struct, frozen=True, tag=True):
    """An orchestrator has taken over.

    Attributes:
        holder: Which one.
    """

    holder: str


class TaskBegun(msgspec.Struct, frozen=True, tag=True):
    """A worker has taken a task.

    Attributes:
        task: Its id.
        worker: The worker's.
    """

    task: str
    worker: str


class TaskEnded(msgspec.Struct, frozen=True, tag=True):
    """A task has ended.

    Attributes:
        task: Its id.
        worker: Who had it.
        result: What it gave, or why it failed.
        failed: Whether it failed.
    """

    task: str
    worker: str
    result: str
    failed: bool = False


Event = RunBegun | Started | TaskBegun | TaskEnded


def apply(state: OrchestratorState, event: Event, entry: Entry[Event]) -> OrchestratorState:
    """The state after an event; what time it is, its entry says.

    Raises:
        ValueError: The event does not fit the state.
    """
    now = entry.hlc.wall_ns / 1e9
    match event:
        case RunBegun(run, source, tasks):
            return OrchestratorState(
                workers={name: Worker(name) for name in (f"worker-{n}" for n in range(1, WORKERS + 1))},
                tasks={name: Task(name) for name in tasks},
                settings={"program": PROGRAM, "run": run, "source": source},
            )
        case Started(holder):
            before = state.leases.get(LEASE)
            token = 1 if before is None else before.token + 1
            return state.with_leases(Lease(LEASE, holder, now + _LEASE_S, token))
        case TaskBegun(task, worker):
            if state.tasks[task].status.final:
                raise ValueError(f"{task} has ended")
            return state.with_tasks(state.tasks[task].begun_by(worker)).with_workers(Worker(worker, last_seen=now))
        case TaskEnded(task, worker, result, failed):
            if state.tasks[task].assigned_worker != worker:
                raise ValueError(f"{task} is not {worker}'s")
            ended = state.tasks[task].ended(TaskStatus.FAILED if failed else TaskStatus.SUCCEEDED, result)
            return state.with_tasks(ended).with_workers(Worker(worker, last_seen=now))

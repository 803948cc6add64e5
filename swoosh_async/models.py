"""What is made durable: a snapshot with its replay cursor, and a state that an orchestrator can use as it is.

All of it is values: frozen Structs whose fields are scalars, tuples, or containers annotated read-only. A value is
never changed in place; a helper returns a changed copy. This file knows no format, no disk and no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Generic, Self, TypeVar, cast

import msgspec

from .errors import InvalidStateError

__all__ = [
    "MAX_INDEX",
    "Cursor",
    "Lease",
    "OrchestratorState",
    "Snapshot",
    "Task",
    "TaskStatus",
    "Worker",
]

S = TypeVar("S")
V = TypeVar("V")

MAX_INDEX = (1 << 64) - 1
"""The highest index of a journal entry (a uint64, as in the Go package)."""


class Cursor(msgspec.Struct, frozen=True, order=True):
    """Where in the journal a state stands; ordered by index, then by hybrid logical time.

    Attributes:
        index: The index of the last entry that was applied, 0 where there is none.
        hlc: The hybrid logical timestamp of that entry, as text, "" where there is none.
    """

    index: int = 0
    hlc: str = ""


class Snapshot(msgspec.Struct, Generic[S], frozen=True, kw_only=True):
    """A view of the orchestrator's state, and the replay cursor up to which events are in it.

    Attributes:
        state: The state: any value that msgspec can encode and decode.
        last_applied_hlc: The hybrid logical timestamp of the last event that is in the state, as text.
        last_applied_index: That event's index in the journal, 0 ≤ last_applied_index < 2**64.

    Raises:
        InvalidStateError: The index is not such an int, or the timestamp is not a str.
    """

    state: S
    last_applied_hlc: str = ""
    last_applied_index: int = 0

    def __post_init__(self) -> None:
        index, hlc = cast("tuple[object, object]", (self.last_applied_index, self.last_applied_hlc))
        if type(index) is not int or not 0 <= index <= MAX_INDEX:
            raise InvalidStateError("last_applied_index", "must be an int with 0 <= index < 2**64")
        if type(hlc) is not str:
            raise InvalidStateError("last_applied_hlc", "must be a str")

    @property
    def cursor(self) -> Cursor:
        """Where in the journal this snapshot stands."""
        return Cursor(self.last_applied_index, self.last_applied_hlc)


class TaskStatus(StrEnum):
    """Where a task stands in its life."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to the task."""
        return self in (TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELLED)


class Task(msgspec.Struct, frozen=True, gc=False):
    """A unit of work.

    Attributes:
        id: Its name, unique in the state.
        status: Where it stands.
        attempts: How often it was begun.
        deadline: When it must have ended, in seconds since the Unix epoch; None for no deadline.
        dependencies: The ids of the tasks that must have succeeded before it may begin.
        labels: What selectors and people go by.
        assigned_worker: The id of the worker that has it; None while nobody has.
        result: What it gave, or why it failed, as text; None until then.
    """

    id: str
    status: TaskStatus = TaskStatus.PENDING
    attempts: int = 0
    deadline: float | None = None
    dependencies: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    assigned_worker: str | None = None
    result: str | None = None

    def begun_by(self, worker_id: str) -> Task:
        """A copy that is running on that worker, one attempt further."""
        return msgspec.structs.replace(
            self, status=TaskStatus.RUNNING, attempts=self.attempts + 1, assigned_worker=worker_id, result=None
        )

    def ended(self, status: TaskStatus, result: str | None = None) -> Task:
        """A copy that has ended, and that no worker has any more."""
        return msgspec.structs.replace(self, status=status, assigned_worker=None, result=result)


class Worker(msgspec.Struct, frozen=True, gc=False):
    """Somebody who carries out tasks.

    Attributes:
        id: Its name, unique in the state.
        capacity: How many tasks it takes at a time.
        last_seen: When it was last heard of, in seconds since the Unix epoch; None if never.
        labels: What selectors and people go by.
    """

    id: str
    capacity: int = 1
    last_seen: float | None = None
    labels: Mapping[str, str] = {}


class Lease(msgspec.Struct, frozen=True, gc=False):
    """A claim on something, by somebody, until some time.

    Attributes:
        name: What is claimed, unique in the state.
        holder: Who has it.
        expires: When it ends, in seconds since the Unix epoch.
        token: A number that is higher with each new holder, to fence off the former one.
    """

    name: str
    holder: str
    expires: float
    token: int = 0


class OrchestratorState(msgspec.Struct, frozen=True):
    """What an orchestrator knows: who works, what is to be done, who holds what, and how it is set.

    Its mappings are annotated read-only: change them through the helpers, which return a changed copy (and copy one
    mapping each: change many entries in one call).

    Attributes:
        workers: By id.
        tasks: By id.
        leases: By name.
        settings: By name.
    """

    workers: Mapping[str, Worker] = {}
    tasks: Mapping[str, Task] = {}
    leases: Mapping[str, Lease] = {}
    settings: Mapping[str, str] = {}

    def with_workers(self, *workers: Worker) -> Self:
        """A copy in which these workers are added, or replaced where the id is known."""
        return msgspec.structs.replace(self, workers=self._with(self.workers, ((w.id, w) for w in workers)))

    def without_workers(self, *ids: str) -> Self:
        """A copy without these workers; unknown ids are no error."""
        return msgspec.structs.replace(self, workers=self._without(self.workers, ids))

    def with_tasks(self, *tasks: Task) -> Self:
        """A copy in which these tasks are added, or replaced where the id is known."""
        return msgspec.structs.replace(self, tasks=self._with(self.tasks, ((t.id, t) for t in tasks)))

    def without_tasks(self, *ids: str) -> Self:
        """A copy without these tasks; unknown ids are no error."""
        return msgspec.structs.replace(self, tasks=self._without(self.tasks, ids))

    def with_leases(self, *leases: Lease) -> Self:
        """A copy in which these leases are added, or replaced where the name is known."""
        return msgspec.structs.replace(self, leases=self._with(self.leases, ((x.name, x) for x in leases)))

    def without_leases(self, *names: str) -> Self:
        """A copy without these leases; unknown names are no error."""
        return msgspec.structs.replace(self, leases=self._without(self.leases, names))

    def with_settings(self, settings: Mapping[str, str]) -> Self:
        """A copy in which these settings are added, or replaced where the name is known."""
        return msgspec.structs.replace(self, settings=self._with(self.settings, settings.items()))

    def without_settings(self, *names: str) -> Self:
        """A copy without these settings; unknown names are no error."""
        return msgspec.structs.replace(self, settings=self._without(self.settings, names))

    def ready_tasks(self) -> Iterator[Task]:
        """The pending tasks of which every dependency has succeeded, in the mapping's order."""
        for task in self.tasks.values():
            if task.status is TaskStatus.PENDING and all(self._succeeded(name) for name in task.dependencies):
                yield task

    def _succeeded(self, task_id: str) -> bool:
        task = self.tasks.get(task_id)
        return task is not None and task.status is TaskStatus.SUCCEEDED

    @staticmethod
    def _with(old: Mapping[str, V], new: Iterable[tuple[str, V]]) -> Mapping[str, V]:
        return {**old, **dict(new)}

    @staticmethod
    def _without(old: Mapping[str, V], keys: Iterable[str]) -> Mapping[str, V]:
        gone = frozenset(keys)
        return {key: value for key, value in old.items() if key not in gone}

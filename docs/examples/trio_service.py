"""The digest of a directory tree, worked out by a few workers on trio, which goes on after a kill where it was.

Each file is a task, and each directory one that depends on what is in it. Its result is a digest; the root's is that of
the whole tree.

    python docs/examples/trio_service.py var/digests SOURCE --workers 4
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import trio

from swoosh_async import FileBackend, OrchestratorState, SnapshotPolicy, StateMachine, Task, TaskStatus

# ---------------------------------------------------------------------- what happens


class Planned(msgspec.Struct, frozen=True, tag=True):
    """There is a file to read, or a directory to sum up."""

    task: str
    dependencies: tuple[str, ...] = ()


class Begun(msgspec.Struct, frozen=True, tag=True):
    """A worker has it."""

    task: str
    worker: str


class Interrupted(msgspec.Struct, frozen=True, tag=True):
    """Its worker is gone, with the process."""

    task: str


class Succeeded(msgspec.Struct, frozen=True, tag=True):
    """It gave a digest."""

    task: str
    digest: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It could not be read."""

    task: str
    reason: str


Event = Planned | Begun | Interrupted | Succeeded | Failed
Machine = StateMachine[OrchestratorState, Event]

FAILED = 1
STOPPED = 128 + signal.SIGTERM


def apply(state: OrchestratorState, event: Event) -> OrchestratorState:
    """The state after an event."""
    match event:
        case Planned():
            task = Task(event.task, dependencies=event.dependencies)
        case Begun():
            task = state.tasks[event.task].begun_by(event.worker)
        case Interrupted():
            task = state.tasks[event.task].ended(TaskStatus.PENDING)
        case Succeeded():
            task = state.tasks[event.task].ended(TaskStatus.SUCCEEDED, event.digest)
        case Failed():
            task = state.tasks[event.task].ended(TaskStatus.FAILED, event.reason)
    return state.with_tasks(task)


# ---------------------------------------------------------------------- what is decided


def resume(state: OrchestratorState) -> Iterator[Event]:
    """What was running when the process ended is to be begun again."""
    return (Interrupted(task.id) for task in state.tasks.values() if task.status is TaskStatus.RUNNING)


def take(state: OrchestratorState, worker: str) -> Iterable[Event]:
    """The first task that is ready, if there is one."""
    task = next(state.ready_tasks(), None)
    return () if task is None else (Begun(task.id, worker),)


def held_by(state: OrchestratorState, worker: str) -> Task | None:
    """The task that a worker has."""
    running = (task for task in state.tasks.values() if task.status is TaskStatus.RUNNING)
    return next((task for task in running if task.assigned_worker == worker), None)


def is_settled(state: OrchestratorState) -> bool:
    """Whether nothing more will happen: nothing is running, and nothing can be begun."""
    running = any(task.status is TaskStatus.RUNNING for task in state.tasks.values())
    return not running and next(state.ready_tasks(), None) is None


# ---------------------------------------------------------------------- the work: blocking, and idempotent


def plan(source: Path) -> list[Event]:
    """A task for each file and each directory, by its path, behind those on which it depends."""
    planned: list[Event] = []
    for here, directories, files in os.walk(source, topdown=False):
        below = Path(here).relative_to(source)
        whole = sorted(name for name in files if Path(here, name).is_file())
        planned += (Planned((below / name).as_posix()) for name in whole)
        inside = sorted([*whole, *(name for name in directories if not Path(here, name).is_symlink())])
        planned.append(Planned(below.as_posix(), tuple((below / name).as_posix() for name in inside)))
    return planned


def digest(source: Path, task: Task, results: list[tuple[str, str]]) -> str:
    """A file's SHA-256, or a directory's: that of the names and digests of what is in it."""
    if (source / task.id).is_dir():
        return hashlib.sha256("".join(f"{name} {result}\n" for name, result in results).encode()).hexdigest()
    with (source / task.id).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------------- the service


def machine_in(directory: Path) -> Machine:
    """The service's state, in a directory."""
    policy = SnapshotPolicy(every_events=500, keep=2)
    return StateMachine(FileBackend(directory), apply, OrchestratorState(), Event, policy=policy)


async def work(machine: Machine, worker: str, source: Path) -> None:
    """Take a task, do it, say so, until nothing is left."""
    while True:
        await machine.wait_for(lambda state: is_settled(state) or next(state.ready_tasks(), None) is not None)
        state = await machine.transact(partial(take, worker=worker))
        task = held_by(state, worker)
        if task is None:
            if is_settled(state):
                return
            continue  # another worker was faster
        results = [(name, state.tasks[name].result or "") for name in task.dependencies]
        event: Event
        try:
            event = Succeeded(task.id, await trio.to_thread.run_sync(digest, source, task, results))
        except OSError as error:
            event = Failed(task.id, type(error).__name__)
        state = await machine.dispatch(event)
        print(task.id, state.tasks[task.id].result, flush=True)


async def cancel_on_signal(scope: trio.CancelScope) -> None:
    """Cancel the workers when the process is asked to end."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        await anext(signals)
        scope.cancel()


async def serve(directory: Path, source: Path, workers: int) -> int:
    """Do all that is left to do; the exit code."""
    async with machine_in(directory) as machine:
        planned = () if machine.state.tasks else await trio.to_thread.run_sync(plan, source)
        await machine.transact(lambda state: resume(state) if state.tasks else planned)
        async with trio.open_nursery() as service:
            service.start_soon(cancel_on_signal, service.cancel_scope)
            async with trio.open_nursery() as crew:
                for number in range(workers):
                    crew.start_soon(work, machine, f"worker-{number}", source)
            service.cancel_scope.cancel()  # nobody needs to hear of a signal any more
        state = machine.state
    if not is_settled(state):
        return STOPPED
    again = sum(task.attempts > 1 for task in state.tasks.values())
    print(f"{len(state.tasks)} tasks, {again} of them begun more than once")
    return 0 if all(task.status is TaskStatus.SUCCEEDED for task in state.tasks.values()) else FAILED


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="The digest of a directory tree; killed and run again, it goes on.")
    parser.add_argument("directory", type=Path, help="where the state is kept; outside of SOURCE")
    parser.add_argument("source", type=Path, help="the directory tree")
    parser.add_argument("--workers", type=int, default=4, help="how many tasks are done at a time")
    arguments = parser.parse_args()
    return trio.run(serve, arguments.directory, arguments.source, arguments.workers)


if __name__ == "__main__":
    sys.exit(main())

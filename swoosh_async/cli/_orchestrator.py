"""The demo's orchestrator: a program of its own, so that it can be killed.

Each file is a task, and a few workers take them, all of them dispatching to one state machine. What has happened is
acknowledged, with a line on standard output, only after `dispatch` has returned. Killed at any point and started again,
it goes on from where the machine comes back: what was running is begun again.

    python -m swoosh_async.cli._orchestrator DIRECTORY SOURCE RUN
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from pathlib import Path

import aiofiles
import anyio
from anyio import to_thread

from ..backends.base import Backend
from ..backends.file import FileBackend
from ..errors import SwooshError
from ..machine import SnapshotPolicy, StateMachine
from ..models import OrchestratorState, TaskStatus
from ._messages import Acknowledged, Failed, Finished, Found, Message, to_line
from ._tasks import LEASE, Event, RunBegun, Started, TaskBegun, TaskEnded, apply
from ._work import files_below, result_of

__all__ = ["Orchestrator", "machine", "main"]

_POLICY = SnapshotPolicy(every_events=250, keep=3)


def machine(backend: Backend) -> StateMachine[OrchestratorState, Event]:
    """The demo's state machine on that backend."""
    return StateMachine(backend, apply, OrchestratorState(), Event, policy=_POLICY)


class Orchestrator:
    """Who does the work.

    Args:
        backend: Where its state is kept.
        source: The directory whose files are the tasks.
        run: Names this run of the demo: what another one left behind is begun anew.
    """

    def __init__(self, backend: Backend, source: Path, run: str) -> None:
        self._machine = machine(backend)
        self._source = source
        self._run = run
        self._waiting: deque[str] = deque()

    async def run(self) -> None:
        """Go on from what there is, and return when every task has ended and the machine is closed."""
        async with self._machine:
            await self._start()
            async with anyio.create_task_group() as tasks:
                for worker in self._machine.state.workers:
                    tasks.start_soon(self._work, worker)
        await tell(Finished())

    async def _start(self) -> None:
        """Tell what there is, and see what is to be done."""
        state = self._machine.state
        goes_on = state.settings.get("run") == self._run
        await tell(self._found(state, goes_on=goes_on))
        events: list[Event] = [Started(f"process {os.getpid()}")]
        if not goes_on:
            names = await to_thread.run_sync(files_below, self._source)
            events.insert(0, RunBegun(self._run, str(self._source), tuple(names)))
        state = await self._machine.dispatch_many(events)
        for status in (TaskStatus.RUNNING, TaskStatus.PENDING):
            self._waiting += [task.id for task in state.tasks.values() if task.status is status]

    def _found(self, state: OrchestratorState, *, goes_on: bool) -> Found:
        recovery, tasks = self._machine.recovery, state.tasks.values() if goes_on else ()
        return Found(
            index=self._machine.cursor.index,
            start=state.leases[LEASE].token + 1 if goes_on else 1,
            done=sum(task.status.final for task in tasks),
            again=sum(task.status is TaskStatus.RUNNING for task in tasks),
            snapshot=None if recovery.snapshot is None else recovery.snapshot.index,
            passed_over=len(recovery.damaged),
            entries=recovery.entries,
            torn_bytes=recovery.torn_bytes,
            claim_s=recovery.claim_s,
            load_s=recovery.load_s,
            replay_s=recovery.replay_s,
        )

    async def _work(self, worker: str) -> None:
        while self._waiting:
            task = self._waiting.popleft()
            await self._dispatch(TaskBegun(task, worker))
            try:
                ended = TaskEnded(task, worker, await to_thread.run_sync(result_of, self._source / task))
            except OSError as error:
                ended = TaskEnded(task, worker, type(error).__name__, failed=True)
            await self._dispatch(ended)

    async def _dispatch(self, event: TaskBegun | TaskEnded) -> None:
        """Make it durable, and only then acknowledge it."""
        begun = time.monotonic()
        task = (await self._machine.dispatch(event)).tasks[event.task]
        duration_s = time.monotonic() - begun
        await tell(Acknowledged(self._machine.cursor.index, task.id, task.attempts, task.result, duration_s))


async def tell(message: Message) -> None:
    """Write a line to standard output, at once."""
    await aiofiles.stdout_bytes.write(to_line(message))
    await aiofiles.stdout_bytes.flush()


async def _main(directory: str, source: str, run: str) -> int:
    failed: list[str] = []
    try:
        await Orchestrator(FileBackend(directory), Path(source), run).run()
    except* SwooshError as errors:
        failed = [str(error) for error in errors.exceptions]
    for reason in failed:
        await tell(Failed(reason))
    return 1 if failed else 0


def main() -> None:
    """Run it, as its own program; it ends when nobody listens to it any more."""
    directory, source, run = sys.argv[1:]
    try:
        sys.exit(anyio.run(_main, directory, source, run))
    except* BrokenPipeError:
        os._exit(1)


if __name__ == "__main__":
    main()

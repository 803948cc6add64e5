"""The demo's orchestrator: a program of its own, so that it can be killed.

Each file is a task, a few workers take them, and a saver saves the newest state again and again while they go on. What
has happened is acknowledged, with a line on standard output, only after `save` has returned. Killed at any point and
started again, it goes on from the latest snapshot: what was running is begun again.

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
import msgspec
from anyio import to_thread

from ..clock import HybridLogicalClock
from ..errors import SnapshotNotFoundError, SwooshError
from ..models import Lease, OrchestratorState, Snapshot, Task, TaskStatus, Worker
from ..snapshots import FileSnapshotStore
from ._messages import Failed, Finished, Found, Message, Saved, to_line
from ._work import files_below, result_of

__all__ = ["FILE_NAME", "KEEP", "Orchestrator", "main"]

FILE_NAME = "snapshot.json"
KEEP = 3

_PROGRAM = "swoosh-async demo"
_LEASE = "orchestrator"
_LEASE_S = 3600.0
_WORKERS = 4
_UNSAVED = 2
"""How many results may be ahead of what is saved; a worker that has one more waits with it."""


class ForeignSnapshotError(SwooshError):
    """The directory holds somebody else's snapshot."""


class Orchestrator:
    """What is to be done, what was done, and how it is kept.

    Args:
        store: Where its state is saved.
        source: The directory whose files are the tasks.
        run: Names this run of the demo: what another one left behind is begun anew.
    """

    def __init__(self, store: FileSnapshotStore[OrchestratorState], source: Path, run: str) -> None:
        self._store = store
        self._source = source
        self._run = run
        self._state = OrchestratorState()
        self._index = 0
        self._hlc = ""
        self._clock = HybridLogicalClock()
        self._waiting: deque[str] = deque()
        self._changed = anyio.Event()
        self._room = anyio.Semaphore(_UNSAVED)
        self._unsaved = 0

    async def run(self) -> None:
        """Find the latest snapshot, go on from there, and return when every task has ended and that is saved."""
        await self._find()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_saving)
            for worker_id in self._state.workers:
                tasks.start_soon(self._work, worker_id)
        await tell(Finished())

    # ------------------------------------------------------------------ start

    async def _find(self) -> None:
        """Take over what the latest snapshot holds, and tell what that is."""
        try:
            snapshot = await self._store.load_latest()
        except SnapshotNotFoundError:
            snapshot = Snapshot(state=OrchestratorState(settings={"program": _PROGRAM}))
        settings = snapshot.state.settings
        if settings.get("program") != _PROGRAM:
            raise ForeignSnapshotError(f"{self._store!r} holds a snapshot that is not the demo's; give it another DIR")
        self._index = snapshot.last_applied_index
        self._hlc = snapshot.last_applied_hlc
        self._clock = HybridLogicalClock(last=self._hlc or None)
        goes_on = settings.get("run") == self._run
        state = snapshot.state if goes_on else await self._anew()
        running = [task.id for task in state.tasks.values() if task.status is TaskStatus.RUNNING]
        pending = [task.id for task in state.tasks.values() if task.status is TaskStatus.PENDING]
        self._waiting.extend(running + pending)
        start = state.leases[_LEASE].token + 1 if goes_on else 1
        await tell(Found(self._index, start, len(state.tasks) - len(self._waiting), len(running)))
        self._apply(state.with_leases(Lease(_LEASE, f"process {os.getpid()}", time.time() + _LEASE_S, start)))

    async def _anew(self) -> OrchestratorState:
        """A state in which nothing is done yet. That is an event like any other, so index and clock do not go back."""
        names = await to_thread.run_sync(files_below, self._source)
        now = time.time()
        return OrchestratorState(
            workers={w.id: w for w in (Worker(f"worker-{n}", last_seen=now) for n in range(1, _WORKERS + 1))},
            tasks={name: Task(name) for name in names},
            settings={"program": _PROGRAM, "run": self._run, "source": str(self._source)},
        )

    # ------------------------------------------------------------------ work

    def _apply(self, state: OrchestratorState) -> None:
        """One event has led to this state."""
        self._state = state
        self._index += 1
        self._hlc = str(self._clock.now())
        self._changed.set()

    async def _work(self, worker_id: str) -> None:
        while self._waiting:
            task_id = self._waiting.popleft()
            task = self._state.tasks[task_id].begun_by(worker_id)
            self._apply(self._state.with_tasks(task))
            try:
                ended = task.ended(TaskStatus.SUCCEEDED, await to_thread.run_sync(result_of, self._source / task_id))
            except OSError as error:
                ended = task.ended(TaskStatus.FAILED, type(error).__name__)
            await self._room.acquire()
            seen = msgspec.structs.replace(self._state.workers[worker_id], last_seen=time.time())
            self._unsaved += 1
            self._apply(self._state.with_tasks(ended).with_workers(seen))

    async def _keep_saving(self) -> None:
        """Save the newest state, whatever has happened since the last save, until every task has ended."""
        done = -1
        while done < len(self._state.tasks):
            await self._changed.wait()
            self._changed = anyio.Event()
            unsaved, self._unsaved = self._unsaved, 0
            done = sum(task.status.final for task in self._state.tasks.values())
            snapshot = Snapshot(state=self._state, last_applied_hlc=self._hlc, last_applied_index=self._index)
            ref = await self._store.save(snapshot)
            await tell(Saved(ref.index, ref.hlc, done, ref.duration_s or 0.0))
            for _ in range(unsaved):
                self._room.release()


async def tell(message: Message) -> None:
    """Write a line to standard output, at once."""
    await aiofiles.stdout_bytes.write(to_line(message))
    await aiofiles.stdout_bytes.flush()


async def _main(directory: str, source: str, run: str) -> int:
    failed: list[str] = []
    try:
        store = FileSnapshotStore(Path(directory, FILE_NAME), keep=KEEP)
        await Orchestrator(store, Path(source), run).run()
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

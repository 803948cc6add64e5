"""The demo: an orchestrator is killed in the midst of its work, three times, and must not lose what it acknowledged.

It is a process of its own (see `_orchestrator`). What it acknowledges is read to the last line that it wrote before it
died, and compared with what the next one finds; in the end every acknowledged event is looked for in the state, and the
results in it are compared with those of a run in one go.
"""

from __future__ import annotations

import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import anyio
import msgspec

from ..backends.file import FileBackend
from ..errors import SwooshError
from ..models import OrchestratorState, Snapshot
from ._ledger import Ledger
from ._machines import told_of_user
from ._messages import Acknowledged, Failed, Finished, Found, Message, from_line
from ._orchestrator import machine
from ._reading import ReadingDisk
from ._tasks import PROGRAM
from ._terminal import Report
from ._work import digest_of, files_below, result_of

__all__ = ["KILLS", "Demo", "DemoError", "Outcome"]

KILLS = 3

_ORCHESTRATOR = "swoosh_async.cli._orchestrator"
_LEAST_FILES = 10 * KILLS
_PIPE_BYTES = 4096
"""What the orchestrator can tell before it is read, on Linux, so that it is not far ahead when it is killed."""

_GENERATION = re.compile(r"snapshot\.([0-9]+)-")

Bar = Callable[[str, int, int], AbstractContextManager[Report]]


class DemoError(SwooshError):
    """The demo could not be carried out."""


class Outcome(msgspec.Struct, frozen=True):
    """What came of it.

    Attributes:
        kills: How often the orchestrator was killed in mid-work.
        events: How many events were acknowledged.
        lost: How many of them are not in the state.
        snapshots: How many snapshots were taken, all of them by policy.
        tasks: How many tasks there were.
        ended: How many of them have ended.
        again: How many tasks were begun again after a kill.
        p50_ms: The median of the dispatches' durations, in milliseconds.
        p99_ms: Their 99th percentile.
        digest: Over all results, as the state has them.
        in_one_go: The same, of a run that was not interrupted and kept nothing.
        index: The last event's.
    """

    kills: int
    events: int
    lost: int
    snapshots: int
    tasks: int
    ended: int
    again: int
    p50_ms: float
    p99_ms: float
    digest: str
    in_one_go: str
    index: int

    @property
    def holds(self) -> bool:
        """Whether all that the demo is to show is so."""
        return self.kills == KILLS and self.lost == 0 and self.ended == self.tasks and self.digest == self.in_one_go


class Demo:
    """One run of it.

    Args:
        directory: The orchestrator's backend.
        source: The directory whose files are the tasks.
        say: Called with each thing that happens, as a sentence.
        bar: Makes a progress bar, given what is done, how much there is, and how much is done already.
    """

    def __init__(self, directory: Path, source: Path, say: Callable[[str], None], bar: Bar) -> None:
        self._directory = directory
        self._backend = FileBackend(directory, disk=ReadingDisk())
        self._source = source
        self._say = say
        self._bar = bar
        self._names = files_below(source)
        self._run = secrets.token_hex(8)
        self._ledger = Ledger()
        self._kills = 0

    def run(self) -> Outcome:
        """Start the orchestrator, kill it and start it again, until its work is done; then compare.

        Raises:
            LostStateError: Something that was acknowledged is gone.
            DemoError: The orchestrator did not do its work.
            SwooshError: What is there cannot be read.
        """
        if len(self._names) < _LEAST_FILES:
            raise DemoError(f"{self._source} holds {len(self._names)} .py files; at least {_LEAST_FILES} are needed")
        self._say(
            f"{len(self._names):,} files below {self._source} are to be hashed; the state is kept in {self._directory}"
        )
        before = self._stored()
        held = before.last_applied_index or self._backend.names()
        if held and before.state.settings.get("program") != PROGRAM:
            raise DemoError(f"{self._directory} holds a state that is not the demo's; give it another DIR")
        if before.last_applied_index:
            self._say(f"an earlier run ends at index {before.last_applied_index}; this one starts over behind it")
        taken = self._snapshots_taken()
        for kill in range(1, KILLS + 1):
            self._live(kill)
        self._live(None)
        return self._outcome(self._stored(), self._snapshots_taken() - taken)

    # ------------------------------------------------------------------ what is stored

    def _stored(self) -> Snapshot[OrchestratorState]:
        """The state as it is on the disk; nothing is claimed, and nothing changed."""
        with told_of_user(f"{self._directory}: replaying what is there"):
            return anyio.run(machine(self._backend).snapshot_at)

    def _snapshots_taken(self) -> int:
        """How many snapshots were ever taken there: their names count up."""
        numbers = (_GENERATION.match(name) for name in self._backend.names())
        return max((int(number[1]) for number in numbers if number), default=0)

    # ------------------------------------------------------------------ one life of the orchestrator

    def _live(self, kill: int | None) -> None:
        """Start the orchestrator; kill it at its point, or let it end."""
        with self._started() as process:
            messages = _messages(process)
            self._find(next(messages, None))
            last = self._follow(messages, process, kill)
            code = process.wait()
        if kill is None:
            if code != 0 or not isinstance(last, Finished):
                raise DemoError(f"the orchestrator ended (exit code {code}) before its work was done")
        elif code != -signal.SIGKILL:
            raise DemoError(f"the orchestrator ended (exit code {code}) before it could be killed; give it more work")
        else:
            self._kills += 1
            self._say(
                f"kill {kill}: with {self._ledger.done:,} tasks done, index {self._ledger.index} acknowledged"
                + (", in the midst of a snapshot (a temp file is left)" if self._is_torn() else "")
            )

    @contextmanager
    def _started(self) -> Generator[subprocess.Popen[bytes], None, None]:
        """The orchestrator's process, killed and gone at the end, whatever happens."""
        here = ["-P"] if sys.flags.safe_path else []
        command = [sys.executable, *here, "-m", _ORCHESTRATOR, str(self._directory), str(self._source), self._run]
        # in a session of its own, so that Ctrl-C reaches this process only, which then kills it
        with subprocess.Popen(  # noqa: S603  this very Python, and no shell
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pipesize=_PIPE_BYTES, start_new_session=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def _find(self, message: Message | None) -> None:
        """Check what the orchestrator found."""
        if isinstance(message, Failed):
            raise DemoError(message.reason)
        if not isinstance(message, Found):
            raise DemoError("the orchestrator did not start")
        self._ledger.found(message)
        if not self._kills:
            return
        self._say(
            f"start {message.start}: found index {message.index}, {message.done:,} tasks done,"
            f" {message.again} running, which are begun again; nothing acknowledged is lost"
        )
        self._say(f"    {_recovery(message)}")

    def _follow(
        self, messages: Iterator[Message], process: subprocess.Popen[bytes], kill: int | None
    ) -> Message | None:
        """Read all that the orchestrator tells; kill it when enough is acknowledged."""
        point = len(self._names) * kill // (KILLS + 1) if kill is not None else None
        message: Message | None = None
        with self._bar("hashing", len(self._names), self._ledger.done) as report:
            for message in messages:
                if isinstance(message, Failed):
                    raise DemoError(message.reason)
                if not isinstance(message, Acknowledged):
                    continue
                self._ledger.acknowledged(message)
                report(self._ledger.done)
                if kill is not None and point is not None and self._ledger.done >= point:
                    # the next dispatches have begun: early in them, in their midst, late in them
                    time.sleep(message.duration_s * kill / (KILLS + 1))
                    process.kill()
                    point = None
        return message

    def _is_torn(self) -> bool:
        """Whether a snapshot was under way when the orchestrator died."""
        return any(self._directory.glob("snapshot-*.tmp"))

    # ------------------------------------------------------------------ the comparison

    def _outcome(self, stored: Snapshot[OrchestratorState], snapshots: int) -> Outcome:
        index, tasks = stored.last_applied_index, stored.state.tasks.values()
        return Outcome(
            kills=self._kills,
            events=len(self._ledger.events),
            lost=self._ledger.lost(index, stored.state.tasks),
            snapshots=snapshots,
            tasks=len(self._names),
            ended=sum(task.status.final for task in tasks),
            again=sum(task.attempts > 1 for task in tasks),
            p50_ms=self._ledger.duration_ms(0.5),
            p99_ms=self._ledger.duration_ms(0.99),
            digest=digest_of((task.id, task.result or "") for task in tasks),
            in_one_go=digest_of(self._in_one_go()),
            index=index,
        )

    def _in_one_go(self) -> Iterator[tuple[str, str]]:
        with self._bar("hashing in one go", len(self._names), 0) as report:
            for number, name in enumerate(self._names, 1):
                try:
                    yield name, result_of(self._source / name)
                except OSError as error:
                    yield name, type(error).__name__
                report(number)


def _recovery(found: Found) -> str:
    """How it came back, for people."""
    snapshot = "no snapshot" if found.snapshot is None else f"snapshot of index {found.snapshot}"
    return (
        f"recovered in {1e3 * (found.claim_s + found.load_s + found.replay_s):.1f} ms:"
        f" claim {1e3 * found.claim_s:.1f} ms, {snapshot} {1e3 * found.load_s:.1f} ms,"
        f" {found.entries:,} entries replayed {1e3 * found.replay_s:.1f} ms;"
        f" {found.passed_over} snapshots passed over, {found.torn_bytes:,} torn bytes cut"
    )


def _messages(process: subprocess.Popen[bytes]) -> Iterator[Message]:
    """What the process tells, up to its end; what it wrote before it was killed is read as well."""
    if process.stdout is not None:
        for line in process.stdout:
            message = from_line(line)
            if message is not None:
                yield message

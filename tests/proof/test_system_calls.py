"""Each system call refused, or never come back from: what happened is told as it is, and nothing acknowledged is lost.

Whatever the kernel may answer to a call is answered to each call of each thing that a service does, one after the
other, once or from then on, until it passes without: in so many runs, each in a process of its own. After each, a fresh
process finds what was there before, or what is new; nothing is left lying about; and the next try works.
"""

from __future__ import annotations

import collections
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest

from swoosh_async.backends.file import OsDisk, _lock
from swoosh_async.backends.file._directory import Directory
from swoosh_async.backends.file._disk import Step
from swoosh_async.errors import BackendError, SwooshError

from .._faults import environment
from ..test_syscalls import strace as strace_fixture
from ._boundary import KILL, SHORT, Call, Ran, must_be_asked, run_before
from ._subject import Found, Subject, Trial, copy_tree, temps_below
from ._subject_journal import append_on, look_at_journal
from ._subjects import SUBJECTS
from ._told import check_told

strace = strace_fixture

ALL = os.environ.get("SWOOSH_FAULTS") == "all"
"""Whether every number is tried at every call; else those with which different things happen, and like calls once."""

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]  # of a file system in memory


class Fault(NamedTuple):
    """What a call gets.

    Attributes:
        at: Which call, from 0 on.
        number: The error number, or `KILL`, or `SHORT`.
        on: Whether every later call that can have this number gets it as well.
    """

    at: int
    number: int
    on: bool = False

    def __str__(self) -> str:
        name = {KILL: "kill", SHORT: "short"}.get(self.number) or errno.errorcode[self.number]
        return f"{name} at {self.at}{' and on' if self.on else ''}"


CHANGES = frozenset(
    ("mkdir", "pwrite", "fsync", "fdatasync", "link", "rename", "unlink", "ftruncate", "fallocate", "fchmod")
)
TAKES_ROOM = frozenset(("mkdir", "pwrite", "fsync", "fdatasync", "link", "rename", "fallocate"))
WAITS = frozenset(("open", "pwrite", "pread", "fsync", "fdatasync", "ftruncate", "fallocate", "flock"))


def can(call: Call, number: int) -> bool:
    """Whether the system can answer that call with that number: by its manual page."""
    if number == KILL:
        return call.verb in CHANGES or call.creates  # before any other, the disk is as before the next of these
    if number == SHORT:
        return call.verb == "pwrite"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return call.verb in TAKES_ROOM or call.creates
    if number == errno.EROFS:
        return call.verb in CHANGES or call.creates or call.writes
    if number == errno.EMFILE:
        return call.verb == "open"
    if number == errno.EINTR:
        return call.verb in WAITS
    return number == errno.EIO


EACH = [errno.EIO, errno.ENOSPC, SHORT, KILL]
MORE = [errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.EINTR]
KINDS: list[list[tuple[int, bool]]] = [[(number, False) for number in EACH]]
if ALL:
    KINDS = [[(number, False)] for number in (*EACH, *MORE)]
    KINDS += [[(number, True)] for number in (SHORT, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE)]


def _named(kinds: Sequence[tuple[int, bool]]) -> str:
    return " ".join(str(Fault(0, *kind)).replace(" at 0", "").replace(" ", "-") for kind in kinds)


def faults(calls: Sequence[Call], kinds: Sequence[tuple[int, bool]]) -> Iterator[Fault]:
    """These faults at each call that can have them.

    Unless all are tried, it is the first of those that are alike, and none of those that only look, or let go.
    """
    seen: set[str] = set()
    for at, call in enumerate(calls):
        if not ALL and call.verb not in CHANGES and call.verb != "open":
            continue
        alike = re.sub(r"\d{10,}", "N", str(call))
        if ALL or alike not in seen:
            yield from (Fault(at, number, on) for number, on in kinds if can(call, number))
        seen.add(alike)


PASSES = re.compile(
    r"(close|unlock|stat|list) .*"  # nothing waits behind them; what they only look at is looked at again
    r"|unlink .*"  # what is to go goes the next time
    r"|(open|ftruncate) \S+\.lock|(open|flock) \S+\.tmp"  # a reader's probe; a dead writer's temp file
    r"|fsync home"
    r"|(create|fallocate|fsync) \S+/journal-RANDOM\.tmp"  # the next segment, which is prepared before it is needed
)
"""The calls without which the thing is done all the same."""


class Bench:
    """Where a subject is tried again and again.

    Args:
        base: A directory.
        subject: What is tried.
    """

    def __init__(self, base: Path, subject: Subject) -> None:
        self._subject = subject
        self._base = base / "base"
        self._model = base / "model"
        self._model.mkdir()
        subject.prepare(self._model)

    def run(self, fault: Fault | None) -> tuple[Ran, Call | None]:
        """One run, and the call that the fault met."""
        shutil.rmtree(self._base, ignore_errors=True)
        copy_tree(self._model, self._base / "home")
        count = -1
        met: list[Call] = []

        def answer(call: Call) -> int | None:
            nonlocal count
            count += 1
            if fault is None or count < fault.at or (met and not (fault.on and can(call, fault.number))):
                return None
            met.append(call)
            return fault.number

        trial = Trial(self._base)
        ran = run_before(self._base, lambda: trial.run(self._subject), answer)
        return ran, met[0] if met else None

    def check(self, ran: Ran, fault: Fault | None, met: Call | None) -> str:
        """Check what has come of a run; how it ended."""
        subject = self._subject
        if fault is not None and fault.number == KILL:
            assert ran.code == -signal.SIGKILL
            assert len(temps_below(self._base / "home")) <= 2
            self._look_at_what_is_left("home")
            return "killed"
        assert ran.told is not None, f"it ended with {ran.code}"
        assert not ran.told["troubles"], ran.told["troubles"]
        ended, facts = ran.told["ended"], ran.told["facts"]
        assert ended in ("done", "refused", "unknown"), facts["error"]
        if fault is not None and met is not None:
            _check_told(fault, met, ended, facts)
        left = temps_below(self._base / "aside")
        if not _may_leave(fault, met):
            left = [name for name in left if name not in temps_below(self._model)]
            prepared = [name for name in left if os.path.basename(name).startswith("journal-")]
            assert left == prepared[:1], left  # the next segment of a journal that is open still
        self._look_at_what_is_left("aside", refused=ended == "refused")
        found = self._find("home")
        assert found[: len(subject.after)] == subject.after or (ended == "unknown" and found in subject.new), found
        left = temps_below(self._base / "home")
        assert left == [] or _may_leave(fault, met), left
        return str(ended)

    def _look_at_what_is_left(self, where: str, *, refused: bool = False) -> None:
        """Check that it is what was there before, or is new; and unless there is nothing new, that the next goes on."""
        subject, found = self._subject, self._find(where)
        if found != subject.before and found not in subject.new:
            assert not refused, found
            assert found[: len(subject.after)] == subject.after, found  # and some older ones, which go the next time
        if not refused or temps_below(self._base / where):
            anyio.run(subject.go_on, self._base / where, found)
            left = [name for name in temps_below(self._base / where) if not name.startswith("to-")]
            assert left == []  # what is left of a copy is nobody else's to remove

    def _find(self, where: str) -> Found:
        return anyio.run(self._subject.look, self._base / where)


def _may_leave(fault: Fault | None, met: Call | None) -> bool:
    """Whether a temp file may stay, for the next writer to sweep: its removal was refused, or looking for it."""
    if fault is None or met is None:
        return False
    removes = met.verb in ("unlink", "flock", "stat", "list") or (met.verb == "open" and not met.creates)
    return fault.on or (removes and (met.verb == "list" or met.paths[0].endswith(".tmp")))


def _check_told(fault: Fault, met: Call, ended: str, facts: dict[str, Any]) -> None:
    """Check that what is told is what happened."""
    if fault.number in (errno.EINTR, SHORT):
        assert ended == "done", facts  # it is made again, or goes on
    elif ended == "done":
        assert PASSES.fullmatch(str(met)), f"nothing is told of {met}"
    else:
        assert facts["errno"] == fault.number, facts
        if not fault.on:  # else it may be a later one that is told
            check_told(met, facts["step"], facts["path"])


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory in memory, where there is one: a thousand times made anew, and no power is cut here."""
    home = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=home) as directory:
        yield Path(directory)


@pytest.fixture(scope="module", autouse=True)
def asked() -> None:
    """The kernel lets us answer for a child, or the tests are skipped."""
    must_be_asked()


def tried(base: Path, subject: Subject, kinds: Sequence[tuple[int, bool]]) -> tuple[dict[str, int], list[str]]:
    """Try a subject with each of these faults at each call; how the runs ended, and what was wrong."""
    bench = Bench(base, subject)
    ran, _ = bench.run(None)
    assert bench.check(ran, None, None) == "done"
    calls = ran.calls
    ends = collections.Counter[str]()
    wrong: list[str] = []
    for fault in faults(calls, kinds):
        ran, met = bench.run(fault)
        where = f"{fault}, {calls[fault.at]}"
        try:
            assert str(met) == str(calls[fault.at]), f"it met {met}"
            ends[bench.check(ran, fault, met)] += 1
        except Exception as error:  # noqa: BLE001  all of them are told together
            wrong.append(f"{where}: {type(error).__name__}: {str(error)[-1500:]}")
    return dict(ends), wrong


@pytest.mark.parametrize("kinds", KINDS, ids=_named)
@pytest.mark.parametrize("name", SUBJECTS)
def test_each_call(base: Path, name: str, kinds: Sequence[tuple[int, bool]]) -> None:
    """Whatever the system answers to any one call."""
    begun = time.monotonic()
    ends, wrong = tried(base, SUBJECTS[name], kinds)
    took_s = time.monotonic() - begun
    sys.stdout.write(f"\n{name}, {_named(kinds)}: {sum(ends.values())} faults, {ends}, {took_s:.1f} s\n")
    assert not wrong, "\n".join(wrong)


def _deaf(_disk: OsDisk, fd: int) -> None:
    with suppress(OSError):
        os.fsync(fd)


def _careless(*_: object) -> None:
    return


def _sure(step: Step, _kind: object, error: BaseException | None, _trace: object) -> None:
    if isinstance(error, OSError) and not isinstance(error, SwooshError):
        raise BackendError(step._name, step._path, errno=error.errno) from error


@pytest.mark.parametrize(
    ("mutant", "told"),
    [
        ((OsDisk, "fsync", _deaf), "nothing is told of fsync"),
        ((Directory, "take_back", _careless), ".tmp"),
        ((Step, "__exit__", _sure), "[5, 4, 3"),
        ((_lock.FileLock, "close", _careless), "descriptors are left"),
    ],
    ids=["deaf", "careless", "sure", "leaking"],
)
def test_a_mutant_is_found(
    base: Path, monkeypatch: pytest.MonkeyPatch, mutant: tuple[type, str, Any], told: str
) -> None:
    """What swallows an error, leaves a temp file or a descriptor, or is sure of what nobody can know, is found out."""
    monkeypatch.setattr(*mutant)
    try:
        _, wrong = tried(base, SUBJECTS["save, pruning"], [(errno.EIO, False)])
    except AssertionError as error:
        wrong = [str(error)]
    assert any(told in line for line in wrong), wrong


APPEND = """
import sys
import anyio
from swoosh_async import FileBackend, Journal, SwooshError

path, backend = sys.argv[1:]

async def main():
    try:
        async with Journal(FileBackend(path, segment_bytes=4096), str) as journal:
            await journal.append("new")
    except SwooshError as error:
        sys.stdout.write(f"{type(error).__name__}: {error.step}: {error.errno}\\n")
    else:
        sys.stdout.write("acknowledged\\n")
    sys.stdout.flush()

anyio.run(main, backend=backend.removeprefix("uv-"), backend_options={"use_uvloop": True} if "uv-" in backend else {})
"""


@pytest.mark.strace
@pytest.mark.parametrize(
    ("point", "loop", "told"),
    [
        ("?mkdir,?mkdirat:1 error=EROFS", "trio", "BackendError: create snapshot directory: 30"),
        ("?rename,?renameat,?renameat2:1 error=EIO", "asyncio", "OutcomeUnknownError: rename journal record: 5"),
        ("?fallocate:1 error=EDQUOT", "uv-asyncio", "BackendError: allocate journal segment: 122"),
        ("fdatasync:1 error=ENOSPC", "asyncio", "BackendError: write journal segment header: 28"),
        ("fdatasync:2 error=EIO", "trio", "OutcomeUnknownError: fdatasync journal: 5"),
        ("fdatasync:2 error=EINTR", "asyncio", "acknowledged"),
        ("fdatasync:2 signal=KILL", "uv-asyncio", ""),
    ],
)
def test_as_strace_does_it(strace: str, tmp_path: Path, point: str, loop: str, told: str) -> None:
    """What strace injects is told in the same way, on every loop; and who comes then finds it right."""
    if loop.startswith("uv-"):
        pytest.importorskip("uvloop", reason="uvloop is not installed: pip install uvloop")
    where, what = point.split()
    calls, _, number = where.rpartition(":")
    command = [strace, "-f", "-o", os.devnull, "-e", f"trace={calls}", "-e", f"inject={calls}:{what}:when={number}"]
    command += [sys.executable, "-c", APPEND, str(tmp_path / "home"), loop]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.strip() == told, done.stderr
    found = anyio.run(look_at_journal, tmp_path / "home")
    assert found in ([], ["new"])
    assert found or told != "acknowledged"
    anyio.run(append_on, tmp_path / "home", found)

"""What a save really asks of the system, and in which order, as strace sees it; and what is left when it is killed."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

import swoosh_async
from swoosh_async import FileSnapshotStore, Snapshot, SnapshotNotFoundError

from ._disks import temps

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(swoosh_async.__file__).parent.parent)}

SAVE = """
import sys
import anyio
from swoosh_async import FileSnapshotStore, Snapshot, SwooshError

path, keep, index, backend = sys.argv[1:]

async def main():
    store = FileSnapshotStore(path, dict[str, int], keep=int(keep))
    try:
        await store.save(Snapshot(state={"a": int(index)}, last_applied_index=int(index)))
    except SwooshError as error:
        sys.stdout.write(f"{type(error).__name__}: {error.step}\\n")
    else:
        sys.stdout.write("acknowledged\\n")
    sys.stdout.flush()

anyio.run(main, backend=backend.removeprefix("uv-"), backend_options={"use_uvloop": True} if "uv-" in backend else {})
"""

LOAD = """
import sys
import anyio
from swoosh_async import FileSnapshotStore

async def main():
    snapshot = await FileSnapshotStore(sys.argv[1], dict[str, int]).load_latest()
    sys.stdout.write(f"loaded {snapshot.last_applied_index}\\n")
    sys.stdout.flush()

anyio.run(main)
"""

APPEND = """
import sys
from swoosh_async.backends.base import Batch
from swoosh_async.backends.file import FileBackend

backend = FileBackend(sys.argv[1], segment_bytes=4096)
epoch = backend.claim().epoch
for first in (1, 2, 3):
    backend.append(Batch(first, 1, epoch, bytes([first]) * 1500))
    sys.stdout.write("acknowledged\\n")
    sys.stdout.flush()
backend.release()
"""

CALLS = "?open,?openat,?mkdir,?mkdirat,?pwrite64,?write,fsync,fdatasync,?link,?linkat,?rename,?renameat,?renameat2"
CALLS += ",ftruncate,?unlink,?unlinkat,?fchmod,?chmod,?fallocate"

LINE = re.compile(r"\d+ +(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>\d+)")
TEMP = re.compile(r"(snapshot|journal)-[0-9a-f]{16}\.tmp")
CUT = re.compile(r"(?P<pid>\d+) +(?P<begin>.*) <unfinished \.\.\.>")
RESUMED = re.compile(r"(?P<pid>\d+) +<\.\.\. \w+ resumed>(?P<end>.*)")
PATH = re.compile(r'(?:(?:\d+|AT_FDCWD)<(?P<of_fd>[^>]*)>)?(?:, )?(?:"(?P<name>(?:[^"\\]|\\.)*)")?')


@pytest.fixture(scope="session")
def strace() -> str:
    """The program, where it is there and may watch; else the test is skipped, with what to do about it."""
    found = shutil.which("strace")
    if found is None:
        pytest.skip("strace is not installed: apt-get install strace")
    tried = subprocess.run([found, "-f", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(
            f"strace may not watch here ({tried.stderr.strip().splitlines()[:1]}): docker run --cap-add SYS_PTRACE,"
            " or sysctl kernel.yama.ptrace_scope=1"
        )
    return found


def whole_lines(text: str) -> Iterator[str]:
    """The lines of a trace, where a call that another thread's came into is put together where it ended."""
    begun: dict[str, str] = {}
    for line in text.splitlines():
        if cut := CUT.fullmatch(line):
            begun[cut["pid"]] = cut["begin"]
        elif resumed := RESUMED.fullmatch(line):
            yield f"{resumed['pid']} {begun.pop(resumed['pid'])}{resumed['end']}"
        else:
            yield line


def calls_in(text: str, root: Path) -> list[str]:
    """The calls that succeeded and changed something below a directory, or wrote to standard output, in order."""
    found: list[str] = []
    for line in whole_lines(text):
        call = LINE.match(line)
        if call is None or (call["name"] in ("open", "openat") and "O_CREAT" not in call["arguments"]):
            continue
        verb = re.sub(r"at2?$|64$", "", call["name"])
        if verb == "write" and re.match(r'1<[^>]*>, "(acknowledged|loaded)', call["arguments"]):
            found.append("acknowledge")
            continue
        paths = [
            os.path.relpath(os.path.join(match["of_fd"] or "", match["name"] or ""), root)
            for match in PATH.finditer(
                call["arguments"] if verb not in ("pwrite", "write") else call["arguments"].split(",")[0]
            )
            if str(root) in match[0] and match[0]
        ]
        if paths:
            found.append(" ".join([verb, *(TEMP.sub("TEMP", path) for path in paths)]))
    return found


def watched(strace: str, tmp_path: Path, script: str, *arguments: object, options: tuple[str, ...] = ()) -> str:
    """Run a script under strace, and return the trace."""
    trace = tmp_path / "trace"
    command = [strace, "-f", "-y", "-s", "200", "-o", str(trace), "-e", f"trace={CALLS}", *options]
    command += [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=100, check=True)
    assert re.fullmatch(r"(acknowledged\n)+|loaded \d+\n", done.stdout)
    return trace.read_text()


def save(path: Path, keep: int, *indices: int) -> None:
    """Save snapshots of these indices, each with a store of its own."""

    async def main() -> None:
        for index in indices:
            store = FileSnapshotStore(path, dict[str, int], keep=keep)
            await store.save(Snapshot(state={"a": index}, last_applied_index=index))

    anyio.run(main)


def history(path: Path) -> list[int]:
    """The indices of what a new store finds, each of them loaded; the latest first."""

    async def main() -> list[int]:
        store = FileSnapshotStore(path, dict[str, int])
        try:
            latest = await store.load_latest()
        except SnapshotNotFoundError:
            return []
        refs = await store.history()
        assert latest.state == {"a": latest.last_applied_index}
        assert [(await store.load(ref)).state for ref in refs] == [{"a": ref.index} for ref in refs]
        assert refs[0].index == latest.last_applied_index
        return [ref.index for ref in refs]

    return anyio.run(main)


# ---------------------------------------------------------------------- the order


@pytest.mark.strace
@pytest.mark.parametrize("loop", ["asyncio", "uv-asyncio", "trio"])
@pytest.mark.parametrize("keep", [1, 3])
def test_a_save_into_a_new_directory(strace: str, tmp_path: Path, keep: int, loop: str) -> None:
    """Each directory's parent, the temp file's data, the rename, its directory, the probe; then it is acknowledged."""
    if loop.startswith("uv-"):
        pytest.importorskip("uvloop", reason="uvloop is not installed: pip install uvloop")
    (tmp_path / "home").mkdir()
    trace = watched(strace, tmp_path, SAVE, tmp_path / "home" / "a" / "b" / "snap", keep, 1, loop)
    there = "home/a/b"
    named = [f"link {there}/TEMP {there}/snap.0000000001-00000000000000000001"] if keep > 1 else []
    assert calls_in(trace, tmp_path) == [
        "fsync .",
        "mkdir home/a",
        "fsync home",
        "mkdir home/a/b",
        "fsync home/a",
        f"open {there}/.snap.lock",
        f"open {there}/TEMP",
        f"pwrite {there}/TEMP",
        f"pwrite {there}/TEMP",
        f"fsync {there}/TEMP",
        *named,
        f"rename {there}/TEMP {there}/snap",
        f"fsync {there}",
        f"ftruncate {there}/.snap.lock",
        "acknowledge",
    ]


@pytest.mark.strace
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_save_that_prunes(strace: str, tmp_path: Path, loop: str) -> None:
    """Older generations are removed only when the new one is durable and probed; what is kept is not touched."""
    path = tmp_path / "home" / "snap"
    save(path, 3, 1, 2, 3, 4)
    trace = watched(strace, tmp_path, SAVE, path, 3, 5, loop)
    assert calls_in(trace, tmp_path) == [
        "fsync .",
        "open home/TEMP",
        "pwrite home/TEMP",
        "pwrite home/TEMP",
        "fsync home/TEMP",
        "link home/TEMP home/snap.0000000005-00000000000000000005",
        "rename home/TEMP home/snap",
        "fsync home",
        "ftruncate home/.snap.lock",
        "unlink home/snap.0000000002-00000000000000000002",
        "acknowledge",
    ]
    assert history(path) == [5, 4, 3]


@pytest.mark.strace
def test_a_save_that_keeps_fewer(strace: str, tmp_path: Path) -> None:
    """With one kept where there were three, all older ones go, and go last."""
    path = tmp_path / "home" / "snap"
    save(path, 3, 1, 2, 3)
    calls = calls_in(watched(strace, tmp_path, SAVE, path, 1, 4, "asyncio"), tmp_path)
    at = calls.index("ftruncate home/.snap.lock")
    assert [call.split()[0] for call in calls[at + 1 :]] == ["unlink", "unlink", "unlink", "acknowledge"]
    assert not [call for call in calls[:at] if call.startswith("unlink")]
    assert history(path) == [4]


@pytest.mark.strace
def test_a_load_in_a_new_process(strace: str, tmp_path: Path) -> None:
    """Before a new process shows what it has loaded, it has fsynced the directory's name, the file and the name."""
    path = tmp_path / "home" / "snap"
    save(path, 1, 7)
    trace = watched(strace, tmp_path, LOAD, path)
    assert calls_in(trace, tmp_path) == [
        "fsync .",
        "fsync home/snap",
        "fsync home",
        "ftruncate home/.snap.lock",
        "acknowledge",
    ]


@pytest.mark.strace
def test_appends_to_a_journal(strace: str, tmp_path: Path) -> None:
    """An append is one pwrite, one fdatasync, the probe; before it a segment's space, header and name are durable."""
    (tmp_path / "home").mkdir()
    calls = calls_in(watched(strace, tmp_path, APPEND, tmp_path / "home"), tmp_path)
    record = ["open home/TEMP", "pwrite home/TEMP", "fsync home/TEMP", "rename home/TEMP home/journal", "fsync home"]
    probe = "ftruncate home/.journal.lock"
    record.append(probe)
    prepare = ["open home/TEMP", "fallocate home/TEMP", "fsync home/TEMP"]

    def begin(segment: str) -> list[str]:
        return [
            "pwrite home/TEMP",
            "fdatasync home/TEMP",
            f"rename home/TEMP {segment}",
            "fsync home",
            probe,
            *record,
        ]

    one, three = (f"home/journal.{base:020d}" for base in (1, 3))
    assert calls == [
        "fsync .",
        "open home/.journal.lock",
        *record,
        *prepare,
        *begin(one),
        f"pwrite {one}",
        f"fdatasync {one}",
        probe,
        "acknowledge",
        f"pwrite {one}",
        f"fdatasync {one}",
        probe,
        *prepare,
        "acknowledge",
        *begin(three),
        f"pwrite {three}",
        f"fdatasync {three}",
        probe,
        "acknowledge",
    ]


# ---------------------------------------------------------------------- killed and refused at each call

POINTS = [
    "?flock:1",
    "?pwrite64:1",
    "?pwrite64:2",
    "?flock:2",
    "fsync:1",
    "fsync:2",
    "fsync:3",
    "?link,?linkat:1",
    "?rename,?renameat,?renameat2:1",
    "ftruncate:1",
    "?unlink,?unlinkat:1",
]


def injected(
    strace: str, what: str, point: str, path: Path, *, keep: int, index: int
) -> subprocess.CompletedProcess[str]:
    """Run a save in which a call is interfered with; the points count the calls of the worker's thread."""
    calls, _, number = point.rpartition(":")
    inject = f"inject={calls}:{what}:when={number}"
    command = [strace, "-f", "-o", os.devnull, "-e", f"trace={calls}", "-e", inject]
    command += [sys.executable, "-c", SAVE, str(path), str(keep), str(index), "asyncio"]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.strace
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_call(strace: str, tmp_path: Path, point: str) -> None:
    """Killed at whichever call, there is the old snapshot or the new one, with its elders; the next save tidies up."""
    path = tmp_path / "home" / "snap"
    save(path, 3, 1, 2, 3)
    done = injected(strace, "signal=KILL", point, path, keep=3, index=4)
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done
    assert done.stdout == ""
    found = history(path)
    assert found in ([3, 2, 1], [4, 3, 2, 1], [4, 3, 2])
    assert len(temps(path.parent)) <= 1
    save(path, 3, 5)
    assert history(path) == [5, *found][:3]
    assert sorted(os.listdir(path.parent)) == [".snap.lock", "snap", *sorted(f"snap.{n}" for n in numbers(path))]


def numbers(path: Path) -> list[str]:
    """The generations that stand there, without the common beginning of their names."""
    return [name.removeprefix("snap.") for name in os.listdir(path.parent) if name.startswith("snap.0")]


@pytest.mark.strace
@pytest.mark.parametrize(
    "point", ["?mkdir,?mkdirat:1", "?mkdir,?mkdirat:2", "fsync:1", "fsync:2", "fsync:3", "fsync:4"]
)
def test_killed_while_directories_are_made(strace: str, tmp_path: Path, point: str) -> None:
    """Killed at a directory's making, there is nothing yet, and the next save makes what is missing."""
    path = tmp_path / "a" / "b" / "snap"
    done = injected(strace, "signal=KILL", point, path, keep=1, index=1)
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done
    assert history(path) == []
    save(path, 1, 2)
    assert history(path) == [2]
    assert sorted(os.listdir(path.parent)) == [".snap.lock", "snap"]


@pytest.mark.strace
@pytest.mark.parametrize(
    ("point", "told"),
    [
        ("?pwrite64:1", "BackendError: write snapshot"),
        ("fsync:1", "BackendError: fsync parent of snapshot directory"),
        ("fsync:2", "BackendError: fsync snapshot"),
        ("?link,?linkat:1", "BackendError: link snapshot generation"),
        ("?rename,?renameat,?renameat2:1", "OutcomeUnknownError: rename snapshot"),
        ("fsync:3", "OutcomeUnknownError: fsync snapshot directory"),
        ("ftruncate:1", "OutcomeUnknownError: probe snapshot directory"),
        ("?unlink,?unlinkat:1", "acknowledged"),
    ],
)
def test_refused_at_a_call(strace: str, tmp_path: Path, point: str, told: str) -> None:
    """When the system itself refuses a call with EIO, a service is told which step it was, and what that means."""
    path = tmp_path / "home" / "snap"
    save(path, 3, 1, 2, 3)
    done = injected(strace, "error=EIO", point, path, keep=3, index=4)
    assert done.stdout.strip() == told
    old, new = [3, 2, 1], [4, 3, 2, 1]
    allowed = {"BackendError": [old], "OutcomeUnknownError": [old, new], "acknowledged": [new]}
    assert history(path) in allowed[told.partition(":")[0]]
    assert temps(path.parent) == []
    save(path, 3, 5)
    assert history(path)[0] == 5


# ---------------------------------------------------------------------- killed at any time

STORM = """
import os, random, signal, sys, time
import anyio
from swoosh_async import FileSnapshotStore, Snapshot

path, rounds, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(seed)

def state(index):
    return {"a": str(index) * (index % 2000)}

async def work(pipe):
    store = FileSnapshotStore(path, dict[str, str], keep=3)
    refs = await store.history()
    for ref in refs:
        assert (await store.load(ref)).state == state(ref.index), ref
    indices = [ref.index for ref in refs]
    assert indices == sorted(set(indices), reverse=True), indices
    latest = (await store.load_latest()).last_applied_index if refs else 0
    assert indices[:1] in ([], [latest]), (latest, indices)
    temps = sum(name.endswith(".tmp") for name in os.listdir(os.path.dirname(path)))
    tell(pipe, latest, len(refs), temps)
    for index in range(latest + 1, 1 << 30):
        await store.save(Snapshot(state=state(index), last_applied_index=index))
        tell(pipe, index)

def tell(pipe, *numbers):
    os.write(pipe, b"".join(number.to_bytes(8, "big") for number in numbers))

def killed():
    "What a worker told until it was killed: three numbers of what it has found, then each index it has saved."
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            anyio.run(work, into)
        finally:
            os._exit(1)
    os.close(into)
    data = b""
    while len(data) < 32 and (piece := os.read(out, 1 << 16)):  # what it found, and one save
        data += piece
    time.sleep(chance.random() * 0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while piece := os.read(out, 1 << 16):
        data += piece
    os.close(out)
    assert len(data) >= 32, "the worker ended by itself"
    return [int.from_bytes(data[at : at + 8], "big") for at in range(0, len(data), 8)]

anyio.run(anyio.sleep, 0)  # what is imported for it is imported once
acknowledged = left = 0
for _ in range(rounds):
    latest, refs, temps, *saved = killed()
    assert latest in (acknowledged, acknowledged + 1), (latest, acknowledged)
    assert refs <= 4 and temps <= 1, (refs, temps)
    left += temps
    acknowledged = saved[-1]
print(acknowledged, left)
"""


@pytest.mark.slow
def test_a_storm_of_kills(tmp_path: Path) -> None:
    """Killed a hundred times at any moment, nothing acknowledged is ever lost, and no more than one temp file stays."""
    path = tmp_path / "snap"
    seed = random.randrange(1 << 30)
    command = [sys.executable, "-c", STORM, str(path), "100", str(seed)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    acknowledged, left = map(int, done.stdout.split())
    assert acknowledged >= 100
    assert left > 0, "no kill came in the middle of a save"
    save_text(path, acknowledged + 2)
    assert temps(path.parent) == []


def save_text(path: Path, index: int) -> None:
    """One more save, of the storm's kind of state."""
    store = FileSnapshotStore(path, dict[str, str], keep=3)
    anyio.run(store.save, Snapshot(state={}, last_applied_index=index))


TRACE = r"""
7  mkdir("/r/a", 0755) = 0
7  mkdir("/r/a", 0755) = -1 EEXIST (File exists)
7  openat(8</r/a>, "snap", O_RDONLY) = 9</r/a/snap>
7  openat(8</r/a>, "snapshot-0123456789abcdef.tmp", O_WRONLY|O_CREAT, 0600) = 9</r/a/x>
7  pwrite64(9</r/a/x>, "{\"a\":\"/r/b\"}", 3, 169) = 3
7  fsync(9</r/a/x> <unfinished ...>
8  write(1<pipe:[1]>, "acknowledged\n", 13) = 13
7  <... fsync resumed>) = 0
7  renameat(8</r/a>, "y", 8</r/a>, "z") = 0
8  write(1</r/out>, "other", 5) = 5
"""


def test_the_traces_are_read_right() -> None:
    """The reading of traces puts cut lines together, leaves failures out, and makes paths of descriptors."""
    assert calls_in(TRACE, Path("/r")) == [
        "mkdir a",
        "open a/TEMP",
        "pwrite a/x",
        "acknowledge",
        "fsync a/x",
        "rename a/y a/z",
        "write out",
    ]

"""Memory that runs out, at each allocation: an error, nothing torn, what was there is there, and the next try works.

The interpreter's own allocator refuses the n-th allocation, once or from then on, for each n until the operation passes
without; and, for a large state, the kernel refuses to give more than so much.
"""

from __future__ import annotations

import collections
import faulthandler
import gc
import importlib.util
import itertools
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from .._disks import descriptors, forked
from .._faults import python
from ._memory import OPERATIONS, Operation
from ._subject import temps_below

ALL = os.environ.get("SWOOSH_FAULTS") == "all"
"""Whether each allocation is refused; else some of them, from another one on each time."""

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]  # of a file system in memory

STRIDES = {"save": 29, "load": 17, "append": 3, "claim": 29}
_CALM = 30  # so many allocations must be refused in vain, one after the other, before it is said to pass


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory in memory, where there is one: no power is cut here."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)


def refuse(operation: Operation, number: int, *, on: bool) -> tuple[str, str]:
    """Do it with that allocation refused, once or from then on; what was raised, and what must not be, if anything."""
    import _testcapi

    stop, before = _testcapi.remove_mem_hooks, len(descriptors())
    caught: BaseException | None = None
    try:
        try:
            _testcapi.set_nomemory(number, 0 if on else number + 1)
            operation.work()
        finally:
            stop()
    except BaseException as error:  # noqa: BLE001  whatever it is
        caught = error.with_traceback(None)
        caught.__context__ = caught.__cause__ = None  # which would keep alive all that was at work
    raised = "nothing" if caught is None else type(caught).__name__
    try:
        gc.collect()  # what was at work may be a circle, with the lock in it
        left = [] if on else temps_below(operation.home)  # else what removes them had no memory either
        operation.settle(caught)
        assert [name for name in left if not name.startswith("journal-")] == []  # one that is prepared
        assert len(descriptors()) <= before + 2  # where there is no memory to keep hold of one
    except Exception:  # noqa: BLE001  it is told
        return raised, traceback.format_exc()
    return raised, ""


def refuse_each(pipe: int, name: str, home: Path, first: int, *, on: bool) -> None:
    """Refuse one allocation after the other until it passes; tell each, before and after."""
    operation = OPERATIONS[name](home)
    stride = stride_of(name, on=on)
    operation.settle(MemoryError())  # so that all that is made once is made
    calm = 0
    for number in itertools.count(first, stride):
        os.write(pipe, json.dumps([number]).encode() + b"\n")
        signal.setitimer(signal.ITIMER_PROF, 0.5)  # so much of its own time ends it
        raised, trouble = refuse(operation, number, on=on)
        os.write(pipe, json.dumps([number, raised, trouble]).encode() + b"\n")
        calm = calm + 1 if raised == "nothing" else 0
        if trouble or calm * stride >= _CALM:
            return


def stride_of(name: str, *, on: bool) -> int:
    """Each how manieth allocation is refused."""
    return 1 if ALL else STRIDES[name] * (3 if on else 1)


def in_child(name: str, home: Path, first: int, *, on: bool) -> tuple[list[list[object]], int]:
    """The same in a child: what it told, and its exit status."""
    reader, writer = os.pipe()
    pid = forked()
    if pid == 0:
        code = 1
        try:
            faulthandler.disable()
            gc.freeze()  # what pytest has made is none of its business
            os.close(reader)
            refuse_each(writer, name, home, first, on=on)
            code = 0
        except BaseException:  # noqa: BLE001  nothing of the child may go on into pytest
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = [json.loads(line) for line in pipe]
    return told, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("on", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_allocation(home: Path, name: str, on: bool) -> None:
    """Whichever allocation is refused; where the interpreter itself gives up, the disk is right all the same.

    CPython 3.11 turns in a circle when it finds no memory for the place to which an exception goes.
    """
    if importlib.util.find_spec("_testcapi") is None:
        pytest.skip(
            "_testcapi is not here: it comes with CPython as built from source, or apt-get install libpython3-testsuite"
        )
    begun = time.monotonic()
    raised = collections.Counter[str]()
    stride = stride_of(name, on=on)
    first = 0
    while True:
        told, code = in_child(name, home, first, on=on)
        for _, what, trouble in (line for line in told if len(line) == 3):
            assert not trouble, f"at {told[-1][0]}: {what}: {trouble}"
            raised[str(what)] += 1
        if code == 0:
            break
        assert told, "the child did not begin"
        assert len(told[-1]) == 1, told[-1]
        raised["the interpreter hangs" if code == -signal.SIGPROF else f"the interpreter ends with {code}"] += 1
        OPERATIONS[name](home).settle(MemoryError())  # in another process, which knows nothing of what was done
        first = int(str(told[-1][0])) + stride
    took_s = time.monotonic() - begun
    sys.stdout.write(f"\n{name}, {'on' if on else 'once'}: {dict(raised)}, {took_s:.1f} s\n")
    assert raised["MemoryError"] + raised["OutcomeUnknownError"] > 0


LARGE = """
import json, os, resource, sys
import anyio
from swoosh_async import FileSnapshotStore, Snapshot, SwooshError

path, room, keep = sys.argv[1], int(sys.argv[2]), 3
State = dict[str, str]

def used():
    return int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")

async def main():
    small, large = {"a": "1"}, {str(number): str(number) * 8 for number in range(200_000)}
    store = FileSnapshotStore(path, State, keep=keep)
    await store.save(Snapshot(state=small, last_applied_index=1))
    resource.setrlimit(resource.RLIMIT_AS, (used() + room, resource.RLIM_INFINITY))
    try:
        await store.save(Snapshot(state=large, last_applied_index=2))
        told = "saved"
        await store.load_latest()
        told = "loaded"
    except (MemoryError, SwooshError) as error:
        told = type(error).__name__
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    latest = (await store.load_latest()).last_applied_index
    assert latest in (1, 2), latest
    assert not [name for name in os.listdir(os.path.dirname(path)) if name.endswith(".tmp")]
    await store.save(Snapshot(state=small, last_applied_index=3))
    assert (await FileSnapshotStore(path, State).load_latest()).state == small
    print(json.dumps([told, latest]))

anyio.run(main)
"""


def test_a_large_state_and_little_memory(home: Path) -> None:
    """Where the kernel gives no more, a save or a load raises, the older state stands, and the next save works."""
    ends = collections.Counter[str]()
    for room in (1 << 18, 1 << 20, 3 << 20, 6 << 20, 12 << 20, 20 << 20, 32 << 20, 200 << 20):
        directory = home / str(room)
        code, told, trouble = python(LARGE, directory / "snap", room)
        if code < 0:  # the interpreter, or msgspec, has given up; the next process finds what was there
            ends[f"ended with {code}"] += 1
            code, told, trouble = python(LARGE, directory / "snap", 1 << 30)
        assert code == 0, trouble
        what, latest = json.loads(told)
        assert latest == 1 or what in ("saved", "loaded", "MemoryError")
        ends[what] += 1
    sys.stdout.write(f"\n{dict(ends)}\n")
    assert ends["MemoryError"]
    assert ends["loaded"]

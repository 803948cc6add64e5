"""The guard over the event loops fires where the package blocks one, on each of them, and nowhere else."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from .loop_guard import LoopBlockedError, LoopGuard

if sys.platform != "win32":
    import fcntl

CALLS: dict[str, Callable[[Path], Any]] = {
    "os.open": lambda path: os.open(path, os.O_RDONLY),
    "os.stat": Path.stat,
    "os.write": lambda _: os.write(1, b""),
    "os.fsync": lambda _: os.fsync(1),
    "os.rename": lambda path: os.rename(path, path),
    "io.open": Path.read_bytes,
    "builtins.open": lambda path: open(path),  # noqa: PLW0108, SIM115  # late: open as it is then; nothing opens
    "time.sleep": lambda _: time.sleep(0),
    "Condition.wait": lambda _: threading.Event().wait(0),
    "Thread.join": lambda _: threading.Thread().join(),
}
if sys.platform != "win32":
    CALLS["fcntl.flock"] = lambda _: fcntl.flock(1, fcntl.LOCK_UN)

pytestmark = pytest.mark.anyio


@pytest.fixture
def package() -> Any:
    """A module that calls itself one of the package's, and calls what it is given."""
    planted = ModuleType("swoosh_async.planted")
    exec(
        "def call(what, *args):\n"
        "    return what(*args)\n"
        "async def acall(what, *args):\n"
        "    return what(*args)\n"
        "def swallow(what, *args):\n"
        "    try:\n"
        "        return what(*args)\n"
        "    except Exception:\n"
        "        return None\n",
        planted.__dict__,
    )
    return planted


@pytest.mark.parametrize("name", CALLS)
async def test_fires_on_the_loop(name: str, package: Any, loop_guard: LoopGuard, tmp_path: Path) -> None:
    """Each kind of blocking call raises when the package makes it on a loop, from sync and from async code."""
    with pytest.raises(LoopBlockedError, match=name):
        package.call(CALLS[name], tmp_path)
    with pytest.raises(LoopBlockedError, match=r"swoosh_async\.planted\.acall"):
        await package.acall(CALLS[name], tmp_path)
    assert len(loop_guard.take()) == 2


async def test_fires_in_a_task(package: Any, loop_guard: LoopGuard) -> None:
    """A task of its own is watched as well, where the package's frame is the first above the loop's."""
    caught: list[str] = []

    async def child() -> None:
        with pytest.raises(LoopBlockedError):
            await package.acall(time.sleep, 0)
        caught.extend(loop_guard.take())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(child)
    assert len(caught) == 1


async def test_remembers_what_was_swallowed(package: Any, loop_guard: LoopGuard) -> None:
    """An error that the package swallows is still written down, and would fail the test at its end."""
    assert package.swallow(time.sleep, 0) is None
    assert [found for found in loop_guard.take() if "time.sleep" in found]


async def test_quiet_in_worker_threads(package: Any, tmp_path: Path) -> None:
    """In a worker thread, and while a thread is started, the package may block."""
    await anyio.to_thread.run_sync(package.call, time.sleep, 0)
    await anyio.to_thread.run_sync(package.call, (tmp_path / "file").write_bytes, b"")
    package.call(threading.Thread(target=time.sleep, args=(0,), daemon=True).start)


async def test_quiet_for_others(tmp_path: Path) -> None:
    """A test itself may block its loop."""
    (tmp_path / "file").write_bytes(b"")
    time.sleep(0)  # noqa: ASYNC251  # on purpose


async def test_quiet_where_allowed(package: Any, loop_guard: LoopGuard) -> None:
    """A test may allow it for a while."""
    with loop_guard.allow():
        package.call(time.sleep, 0)


async def test_quiet_below_a_loop(package: Any) -> None:
    """Where the package runs a loop, in a thread of its own, what others do in that loop is not its doing."""

    async def others() -> None:
        await anyio.lowlevel.checkpoint()
        time.sleep(0)  # noqa: ASYNC251  # on purpose

    await anyio.to_thread.run_sync(package.call, anyio.run, others)


def test_quiet_without_a_loop(package: Any, tmp_path: Path) -> None:
    """Without a loop the package may block."""
    package.call((tmp_path / "file").write_bytes, b"")
    package.call(time.sleep, 0)


def test_removed_without_a_trace() -> None:
    """A guard that is removed leaves every call as it found it."""
    before = (os.fsync, os.open, time.sleep, threading.Condition.wait)
    second = LoopGuard("another")
    second.install()
    assert os.fsync is not before[0]
    second.remove()
    assert (os.fsync, os.open, time.sleep, threading.Condition.wait) == before

"""How much memory a save needs above the state: the peak of Python's own allocations, and that of the whole process.

Each is measured in a process of its own that has just made the state. `traced` is what tracemalloc saw at most of what
was allocated after that; `resident` is how far the resident set rose (VmHWM in proc_pid_status(5), reset before), which
also counts what other libraries allocate and what the allocator keeps.
"""

from __future__ import annotations

import ctypes
import gc
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from .child import in_child
from .loops import run
from .savers import Opener
from .states import orchestrator

__all__ = ["How", "peak_bytes"]

How = Literal["traced", "resident"]

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc_pid_clear_refs(5)


def peak_bytes(how: How, opener: Opener, make_state: Callable[[], Any], directory: Path) -> int:
    """The peak of memory above the state during one save on asyncio, in bytes.

    Args:
        how: What is counted.
        opener: The contestant: a module's function.
        make_state: Makes the state: a module's function, or a partial of one.
        directory: Where it saves.
    """
    return in_child(_peak_bytes, how, opener, make_state, directory)


def _peak_bytes(how: How, opener: Opener, make_state: Callable[[], Any], directory: Path) -> int:
    state = make_state()
    return run("asyncio", partial(_save, how, opener, directory, state))


async def _save(how: How, opener: Opener, directory: Path, state: Any) -> int:
    async with opener(directory) as save:
        await save(orchestrator(10))  # threads, imports and connections are there in a service
        gc.collect()
        if how == "traced":
            tracemalloc.start()
            await save(state)
            return tracemalloc.get_traced_memory()[1]
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # glibc's only
        before = _status("VmRSS")
        _reset_peak()
        await save(state)
        return _status("VmHWM") - before


def _reset_peak() -> None:
    _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")


def _status(key: str) -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))

"""Bounds on what a test's process may take, so that what would take more fails, and takes nobody else's."""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["bounded_memory", "in_time"]

_PAGE_BYTES = resource.getpagesize()


@contextmanager
def bounded_memory(more_bytes: int) -> Iterator[None]:
    """In this block the process may have so much more address space; what asks for more gets MemoryError."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as facts:
        now_bytes = int(facts.read().split()[0]) * _PAGE_BYTES
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now_bytes + more_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def in_time(bound_s: float) -> Iterator[None]:
    """This block ends in time."""
    begun = time.monotonic()
    yield
    took_s = time.monotonic() - begun
    assert took_s < bound_s, f"it took {took_s:.1f} s"

"""The event loops on which everything is measured."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

__all__ = ["LOOPS", "run"]

T = TypeVar("T")

LOOPS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
"""Each by the name that tables show, and what `anyio.run` calls it."""


def run(loop: str, call: Callable[[], Awaitable[T]]) -> T:
    """Run an async function on a new event loop of that name."""
    return anyio.run(call, **LOOPS[loop])

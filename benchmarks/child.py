"""A call in a new process, so that nothing of what ran before weighs on its heap and its garbage collector."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

__all__ = ["in_child"]

P = ParamSpec("P")
T = TypeVar("T")


def in_child(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a module's function in a new process and return what it returns, or raise what it raises."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *args, **kwargs).result()

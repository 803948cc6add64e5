"""A context that is held open between one run of the event loop and the next, as a Hypothesis model needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

__all__ = ["Life"]


class Life:
    """A task that has entered a context, and is in it until it is told to leave.

    Args:
        run: Runs a coroutine to its end, on one and the same loop.
        context: What it enters.

    Raises:
        BaseException: What entering raised.
    """

    def __init__(
        self, run: Callable[[Coroutine[Any, Any, None]], object], context: AbstractAsyncContextManager[Any]
    ) -> None:
        self._run = run
        self._over = asyncio.Event()
        self._context = context
        run(self._begin())

    def end(self) -> None:
        """Leave it."""
        self._run(self._end())

    async def _begin(self) -> None:
        entered = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(entered))
        await entered

    async def _live(self, entered: asyncio.Future[None]) -> None:
        try:
            async with self._context:
                entered.set_result(None)
                await self._over.wait()
        except BaseException as error:
            if entered.done():
                raise
            entered.set_exception(error)

    async def _end(self) -> None:
        self._over.set()
        await self._task

"""Whose turn it is, among tasks on whatever loops and threads: a lock of anyio's is for one loop only."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType

from anyio import Event
from anyio.lowlevel import checkpoint_if_cancelled

from ._hop import Loop

__all__ = ["Turns"]


class Turns:
    """A context in which there is one at a time, first come, first served."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[tuple[Loop, Event]] = deque()
        self.taken = False

    async def __aenter__(self) -> None:
        await checkpoint_if_cancelled()
        with self._mutex:
            if not self.taken:
                self.taken = True
                return
            place = Loop(), Event()
            self._waiting.append(place)
        try:
            await place[1].wait()
        except BaseException:
            with self._mutex:
                handed_over = place not in self._waiting
                if not handed_over:
                    self._waiting.remove(place)
            if handed_over:
                self._hand_over()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hand_over()

    def _hand_over(self) -> None:
        with self._mutex:
            while self._waiting:
                loop, event = self._waiting.popleft()
                if loop.post(event.set):
                    return
            self.taken = False

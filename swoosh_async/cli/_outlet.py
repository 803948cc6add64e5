"""Standard output for what has no end: written as it comes, until nobody reads it any more."""

from __future__ import annotations

import io
import os
import select
import sys
import time

from ..errors import BackendError

__all__ = ["Outlet"]


class Outlet:
    """Standard output.

    Raises:
        BackendError: It is closed.
    """

    def __init__(self) -> None:
        if sys.stdout is None:
            raise BackendError("write standard output", detail="it is closed")
        self._poll: select.poll | None = None
        if not hasattr(select, "poll"):  # Windows, which has no FileBackend either
            return
        try:
            fd = sys.stdout.fileno()
        except io.UnsupportedOperation:  # it is no file: a test's, most often
            return
        self._poll = select.poll()
        self._poll.register(fd, 0)  # errors and hang-ups are told in any case: poll(2)

    def write(self, data: bytes) -> None:
        """Write bytes, at once.

        Raises:
            BrokenPipeError: Nobody reads it any more.
        """
        rest = memoryview(data)
        while rest:
            rest = rest[sys.stdout.buffer.write(rest) :]  # not all at once, where PYTHONUNBUFFERED is set
        sys.stdout.buffer.flush()

    def write_text(self, text: str) -> None:
        """Write text in the encoding that standard output has; raises as `write` does."""
        self.write(text.encode(sys.stdout.encoding, "backslashreplace"))

    def idle(self, time_s: float) -> None:
        """Let some time pass.

        Raises:
            BrokenPipeError: Nobody reads it any more.
        """
        if self._poll is None:
            time.sleep(time_s)
        elif self._poll.poll(time_s * 1000):
            raise BrokenPipeError

    def abandon(self) -> None:
        """Throw away what is not written yet, so that nothing waits for a reader, or complains that there is none."""
        if self._poll is not None:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)

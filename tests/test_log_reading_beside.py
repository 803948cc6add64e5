"""What a reader in a writer's own process is given while the writer truncates: all that it is told is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from swoosh_async._pages import Pages
from swoosh_async.backends.base import Index
from swoosh_async.backends.file import FileBackend
from swoosh_async.codec import EventCodec
from swoosh_async.errors import TruncatedError

from ._logs import HastyDisk, Writer

pytest.importorskip("fcntl", reason="a file backend needs flock")


class WatchedDisk(HastyDisk):
    """A disk that calls something before and after each rename and each removal, when what is made known is not yet."""

    def __init__(self) -> None:
        self.hook: Callable[[], object] = lambda: None

    def rename(self, source: str, target: str, dir_fd: int) -> None:
        """As the system's, between two calls of the hook."""
        self.hook()
        super().rename(source, target, dir_fd)
        self.hook()

    def unlink(self, name: str, dir_fd: int) -> None:
        """Likewise."""
        self.hook()
        super().unlink(name, dir_fd)
        self.hook()


@pytest.mark.parametrize("before", [2, 5, 11])
def test_a_reader_beside_a_truncation(tmp_path: Path, before: int) -> None:
    """At each step of a truncation an entry is there, or is told to be kept no more; none is called missing."""
    disk = WatchedDisk()
    backend = FileBackend(tmp_path, segment_bytes=1024, disk=disk)
    writer = Writer(backend)
    writer.append(*[200] * 11)
    pages = Pages(backend, EventCodec(str))
    seen: set[str] = set()

    def look() -> None:
        for after in range(11):
            try:
                (first, *_) = pages.read(after, 11, 1)
            except TruncatedError:
                seen.add("kept no more")
            else:
                assert first.first == after + 1
                seen.add("there")
        assert backend.bounds().last == 11

    disk.hook = look
    backend.truncate_before(Index(before))
    disk.hook = lambda: None
    look()
    assert seen == {"there", "kept no more"}
    assert backend.bounds().first == before
    writer.release()

"""A disk for those who only look: what is there can be made durable, and nothing can be changed."""

from __future__ import annotations

import errno
import os
from typing import Any, Never

from ..backends.file import OsDisk

__all__ = ["ReadingDisk"]


class ReadingDisk(OsDisk):
    """The operating system's own fsync; every call that would change something is refused, the probe left out.

    A reader makes durable what it returns, for whoever acts on it; that changes no bytes and no times.
    """

    def ftruncate(self, fd: int, length: int) -> None:
        """Do nothing: readers ask for it only to see whether the file system still writes."""

    def _refuse(self, *_: Any, **__: Any) -> Never:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    open = mkdir = pwrite = fchmod = allocate = link = rename = unlink = _refuse

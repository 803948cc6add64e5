"""The demo's work: a file's digest is a task's result, and the digest over all results tells two runs apart.

The orchestrator does it in worker threads, a file at a time; the command does it once more, in one go, to compare.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterable
from pathlib import Path

__all__ = ["digest_of", "files_below", "result_of", "standard_library"]

_NOT_OURS = frozenset({"site-packages", "dist-packages"})


def standard_library() -> Path:
    """Where the running Python's standard library stands."""
    return Path(sysconfig.get_path("stdlib"))


def files_below(source: Path) -> list[str]:
    """Each ``.py`` file below a directory, but for installed packages: paths with slashes, relative to it, sorted."""
    found: list[str] = []
    for here, directories, names in os.walk(source):
        directories[:] = [name for name in directories if name not in _NOT_OURS]
        found += (Path(here, name).relative_to(source).as_posix() for name in names if name.endswith(".py"))
    return sorted(found)


def result_of(path: Path) -> str:
    """The file's SHA-256, in hexadecimal.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(results: Iterable[tuple[str, str]]) -> str:
    """SHA-256 over the lines ``path result``, sorted, in hexadecimal."""
    lines = sorted(f"{path} {result}\n" for path, result in results)
    return hashlib.sha256("".join(lines).encode()).hexdigest()

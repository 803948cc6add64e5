"""What a figure is worth nothing without: the machine, the versions, the day."""

from __future__ import annotations

import os
import platform
import sqlite3
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from swoosh_async import __version__

from .scratch import file_system

__all__ = ["machine"]

_PACKAGES = ("msgspec", "anyio", "uvloop", "trio", "aiofiles", "aiosqlite", "diskcache", "immutables")


def machine(directory: Path) -> str:
    """One sentence on where and when something was measured.

    Args:
        directory: Where files were written.
    """
    load = f"load average {os.getloadavg()[0]:.1f} at the start"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d}: {_cpu()}, {os.cpu_count()} cores,"
        f" {platform.system()} {platform.release()}, {file_system(directory) or 'unknown file system'}, {load};"
        f" swoosh_async {__version__}, {python}, {versions}, SQLite {sqlite3.sqlite_version}."
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"

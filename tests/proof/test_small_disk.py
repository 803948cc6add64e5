"""Room, descriptors and sizes that run short at any moment under load, really, and come back: nothing is lost."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from .._disks import in_child
from ._mounts import CannotMountError, die_with_parent, mounted, must_be_root, must_have
from ._shortage import Descriptors, FileSize, Room, Service, Shortage

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("SWOOSH_SHORTAGES", "40"))
"""How often each of them runs short; more finds more."""


def in_service(told: Path, make: Callable[[], tuple[Path, Shortage]], seed: int) -> dict[str, int]:
    """Have a service live in a child, where what runs short harms nobody else; what happened how often."""

    def live() -> None:
        die_with_parent()
        warnings.simplefilter("ignore")
        logging.disable()  # that snapshots fail is what this is about
        try:
            home, shortage = make()
        except CannotMountError as error:
            told.write_text(json.dumps(str(error)))
            return
        service = Service(home, shortage, seed)
        anyio.run(service.run, ROUNDS)
        told.write_text(json.dumps(service.counts))

    assert in_child(live) == 0, f"seed {seed}"
    counts = json.loads(told.read_text())
    if isinstance(counts, str):
        pytest.skip(counts)
    sys.stdout.write(f"\n{counts}\n")
    assert counts["short"] >= ROUNDS
    return {str(what): int(count) for what, count in counts.items()}


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_small_disk(tmp_path: Path, kind: str) -> None:
    """A file system that is full, to its last block or almost, while the machine dispatches, rotates and saves."""
    must_be_root("proof")
    must_have(f"mkfs.{kind}")

    def make() -> tuple[Path, Shortage]:
        image = mounted(kind, tmp_path)
        return image.at / "machine", Room(image.at)

    counts = in_service(tmp_path / "told", make, time.time_ns() % 1_000_000)
    assert counts["dispatch: refused"] > 0
    assert counts["dispatched meanwhile"] > 0  # into room that was set aside before


@pytest.mark.parametrize("shortage", [Descriptors, FileSize])
def test_limits(tmp_path: Path, shortage: type[Shortage]) -> None:
    """Of descriptors, or of how long a file may be, at which writes also come back short."""
    counts = in_service(tmp_path / "told", lambda: (tmp_path / "machine", shortage()), time.time_ns() % 1_000_000)
    assert counts.get("dispatch: refused", 0) + counts.get("dispatch: unknown", 0) > 0
    assert counts["dispatched meanwhile"] > 0

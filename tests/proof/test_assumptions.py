"""Real file systems that were made or mounted so that they may lose what they acknowledge: whoever writes is told."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from swoosh_async import DurabilityWarning
from swoosh_async.backends.file import Generations

from .._disks import latest, put
from ._mounts import must_be_root, must_have, run

SESSION = "proof -- tests/proof/test_assumptions.py"


@pytest.fixture
def mounted() -> Iterator[list[Path]]:
    """What is mounted, to be unmounted in the end."""
    must_be_root(SESSION)
    mounts: list[Path] = []
    yield mounts
    for path in reversed(mounts):
        run("umount", path)


def image(home: Path, mounted: list[Path], *made: str, options: str = "loop") -> Path:
    """A small ext4, made and mounted so."""
    must_have("mkfs.ext4")
    file, at = home / "image", home / "mounted"
    with file.open("wb") as empty:
        empty.truncate(16 << 20)
    at.mkdir()
    run("mkfs.ext4", "-q", "-F", *made, file)
    run("mount", "-o", options, file, at)
    mounted.append(at)
    return at


def test_ext4_without_a_journal(mounted: list[Path], tmp_path: Path) -> None:
    """Its options do not tell; that there is no journal of its name does."""
    at = image(tmp_path, mounted, "-O", "^has_journal")
    with pytest.warns(DurabilityWarning, match=r"\(ext4\) has no journal"):
        put(Generations(at / "snapshot"), 1)


def test_without_barriers(mounted: list[Path], tmp_path: Path) -> None:
    """The option that makes benchmarks look good."""
    at = image(tmp_path, mounted, options="loop,nobarrier")
    with pytest.warns(DurabilityWarning, match="mounted without barriers"):
        put(Generations(at / "snapshot"), 1)


def test_a_volatile_overlay(mounted: list[Path], tmp_path: Path) -> None:
    """What some containers are built in."""
    at, *parts = (tmp_path / name for name in ("mounted", "lower", "upper", "work"))
    for path in (at, *parts):
        path.mkdir()
    lower, upper, work = parts
    try:
        run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work},volatile", at)
    except OSError as error:
        pytest.skip(f"no overlay can be mounted volatile here ({error.strerror}): a Linux of 5.10 or newer does")
    mounted.append(at)
    with pytest.warns(DurabilityWarning, match="mounted volatile"):
        put(Generations(at / "snapshot"), 1)


def test_an_ext4_as_it_is_mounted_by_default(mounted: list[Path], tmp_path: Path) -> None:
    """Nothing is said, whoever reads or writes; nor of a directory that is bound to another place."""
    at = image(tmp_path, mounted)
    bound = tmp_path / "bound"
    bound.mkdir()
    run("mount", "--bind", at, bound)
    mounted.append(bound)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DurabilityWarning)
        put(Generations(at / "new" / "snapshot"), 1)
        assert latest(Generations(bound / "new" / "snapshot")) == 1

"""Killed at random, whatever it is doing and whoever else is there: nothing acknowledged is lost, and nothing is half.

What a machine, and a journal, each by itself under load, come back with is held by tests/test_machine_kills.py and
tests/test_journal_kills.py; here all that there is works on one home at once.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from .._faults import environment

pytest.importorskip("fcntl", reason="a file backend needs flock")

SECONDS_FOR_EACH = 2


def storm(home: Path, kills: int, seed: str, *mutant: str) -> subprocess.CompletedProcess[str]:
    """A storm over that home, in a process of its own, which has no threads to fork."""
    home.mkdir()
    command = [sys.executable, "-W", "ignore", "-m", "tests.proof._storm", str(home), str(kills), seed, *mutant]
    longest_s = 60 + SECONDS_FOR_EACH * kills
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=longest_s, check=False)


@pytest.mark.slow
def test_a_storm_of_kills(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Machines, journals, saves, copies, checks and commands on one home, killed until ``--kills`` of them are dead."""
    kills = pytestconfig.getoption("--kills")
    seed = str(random.randrange(1 << 30))
    done = storm(tmp_path / "storm", kills, seed)
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    found = json.loads(done.stdout)
    sys.stdout.write(f"\n{done.stdout}\n")
    assert found["kills"] >= kills
    for what in ("open", "appended", "saved", "copied", "checked", "stood", "ran", "truncated", "temps", "drafts"):
        assert kills < 100 or found.get(what, 0) > 0, f"seed {seed}: nobody was killed beside that: {what}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutant", "reasons"),
    [
        ("in place", ("CorruptSnapshotError", "has lost")),
        ("too early", ("is missing", "is damaged or missing")),
        ("no sweep", ("the next writer has left",)),
    ],
)
def test_a_mutant_does_not_outlive_it(tmp_path: Path, mutant: str, reasons: tuple[str, ...]) -> None:
    """What renames in pieces, acknowledges too early or leaves things behind is found by a storm, and soon."""
    done = storm(tmp_path / "storm", 200, "a seed", mutant)
    assert done.returncode == 1, done.stdout
    assert any(reason in done.stderr for reason in reasons), done.stderr

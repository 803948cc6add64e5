"""What a released version wrote is read for ever, and the same value gives the same bytes; see golden/README.md."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from swoosh_async.codec import SnapshotCodec
from swoosh_async.codec._envelope import FORMAT
from swoosh_async.models import Lease, OrchestratorState, Snapshot, Task, TaskStatus

from .golden.states import FORMATS, HLC, SNAPSHOTS, STATE_TYPES

GOLDEN = Path(__file__).parent / "golden"
CASES = [(name, wire) for name, formats in FORMATS.items() for wire in formats]
GO = {
    "canonical": Snapshot(state=OrchestratorState()),
    "spaced": Snapshot(
        state=OrchestratorState().with_leases(Lease("leader", "w1", 1_700_000_060.0, 2**63 - 1)),
        last_applied_hlc=HLC,
        last_applied_index=7,
    ),
    "indented": Snapshot(
        state=OrchestratorState()
        .with_tasks(
            Task("build", TaskStatus.SUCCEEDED, 1, 1e21, labels={"team": "a"}, result="a <b> & c\u2028\U0001f680")
        )
        .with_settings({"mode": "fast"}),
        last_applied_hlc="2023-11-14T22:13:20Z/0003/node-7",
        last_applied_index=2**64 - 1,
    ),
}
# What a process does to hold the files against the code, with whatever hash seed it was started.
HOLD = """
import sys
sys.path[:0] = sys.argv[1:]
from pathlib import Path
from states import FORMATS, SNAPSHOTS, STATE_TYPES
from swoosh_async.codec import SnapshotCodec
for name, formats in FORMATS.items():
    for wire in formats:
        codec = SnapshotCodec(STATE_TYPES[name], format=wire)
        stored = Path(sys.argv[1], "format1", f"{name}.{wire}").read_bytes()
        if b"".join(codec.encode(SNAPSHOTS[name])) != stored:
            raise SystemExit(f"{name}.{wire} is not what is written now")
print("the same")
"""


@pytest.mark.parametrize(("name", "wire"), CASES)
@pytest.mark.parametrize("read_as", ["json", "msgpack"])
def test_decodes(name: str, wire: str, read_as: Any) -> None:
    """A golden file decodes to its snapshot, whatever format the reader itself writes."""
    data = (GOLDEN / "format1" / f"{name}.{wire}").read_bytes()
    decoded = SnapshotCodec(STATE_TYPES[name], format=read_as).decode(data)
    assert decoded.snapshot == SNAPSHOTS[name]
    assert (decoded.facts.format, decoded.facts.compression) == (wire, None)
    assert decoded.facts.checksum.startswith("sha256:")
    assert decoded.facts.cursor == SNAPSHOTS[name].cursor
    assert decoded.facts.size_bytes == len(data)


@pytest.mark.parametrize(("name", "wire"), CASES)
def test_is_encoded_again_to_the_very_same_bytes(name: str, wire: Any) -> None:
    """The snapshot itself, and what was decoded from its golden file, are encoded to the file's bytes."""
    data = (GOLDEN / "format1" / f"{name}.{wire}").read_bytes()
    codec = SnapshotCodec(STATE_TYPES[name], format=wire)
    assert b"".join(codec.encode(SNAPSHOTS[name])) == data
    assert b"".join(codec.encode(codec.decode(data).snapshot)) == data


@pytest.mark.parametrize(("name", "wire"), CASES)
def test_compressed_files_decode(name: str, wire: str) -> None:
    """A compressed golden file decodes to its snapshot; zstd's own bytes differ from version to version."""
    data = (GOLDEN / "format1" / f"{name}.{wire}.zst").read_bytes()
    decoded = SnapshotCodec(STATE_TYPES[name], format="msgpack").decode(data)
    assert decoded.snapshot == SNAPSHOTS[name]
    assert (decoded.facts.format, decoded.facts.compression) == (wire, "zstd")


@pytest.mark.parametrize("seed", ["0", "1", "2", "random"])
def test_whatever_the_hash_seed(seed: str) -> None:
    """In processes in which sets iterate in other orders, the bytes are the same."""
    # -P and our own path: the package is found where this process has found it
    command = [sys.executable, "-P", "-c", HOLD, str(GOLDEN), *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("the same\n", "", 0)


@pytest.mark.parametrize("name", GO)
def test_a_file_of_the_go_package(name: str) -> None:
    """What the Go package wrote loads, with its index and timestamp, and is known to carry no checksum."""
    data = (GOLDEN / "go" / f"{name}.json").read_bytes()
    decoded = SnapshotCodec(OrchestratorState).decode(data)
    assert decoded.snapshot == GO[name]
    assert decoded.facts.checksum == ""
    assert decoded.facts.schema_version == 1
    assert decoded.facts.size_bytes == len(data)


def test_a_file_of_the_go_package_is_saved_as_ours() -> None:
    """What came from the Go package is written in our format, which that package can read: the three keys are there."""
    codec = SnapshotCodec(OrchestratorState)
    data = b"".join(codec.encode(codec.decode((GOLDEN / "go" / "indented.json").read_bytes()).snapshot))
    assert codec.decode(data).snapshot == GO["indented"]
    assert data.startswith(b'{"checksum":"sha256:')
    assert b'"last_applied_index":18446744073709551615,' in data


def test_the_folder_is_complete() -> None:
    """Each case has its file, each file its case, and the format that is written now has golden files."""
    expected = {f"{name}.{wire}{suffix}" for name, wire in CASES for suffix in ("", ".zst")}
    assert {path.name for path in (GOLDEN / f"format{FORMAT}").iterdir()} == expected
    assert {path.stem for path in (GOLDEN / "go").iterdir()} == set(GO)
    assert SNAPSHOTS.keys() == STATE_TYPES.keys() == FORMATS.keys()

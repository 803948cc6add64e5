"""The suites hold our own homes to the contract, and each of their tests finds a backend that breaks it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from swoosh_async.backends.file import FileBackend, Generations
from swoosh_async.backends.file._log import Log
from swoosh_async.backends.memory import MemoryBackend
from swoosh_async.testing import CrashDisk, JournalBackendSuite, Place, SnapshotBackendSuite

from ._broken import BROKEN
from ._faults import BOUND_S, environment
from ._places import Client, InFiles, InMemory, Server, Shelf

SAFE_PATH = ["-P"] if sys.flags.safe_path else []
TESTS = Path(__file__).parent


class TestFileBackend(SnapshotBackendSuite, JournalBackendSuite):
    """A directory, with a journal of short segments."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place[FileBackend]:
        """A directory that is not there yet."""
        return InFiles(tmp_path, lambda path, disk: FileBackend(path, segment_bytes=2048, disk=disk))


class TestGenerations(SnapshotBackendSuite):
    """Snapshots alone, of a path of their own."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place[Generations]:
        """A path."""
        return InFiles(tmp_path, lambda path, disk: Generations(path / "a b.json", disk=disk))


class TestLog(JournalBackendSuite):
    """A journal alone, of one segment, whose batches are short."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place[Log]:
        """A directory."""
        return InFiles(tmp_path, _log)


def _log(path: Path, disk: CrashDisk) -> Log:
    return Log(str(path), segment_bytes=1 << 19, max_batch_bytes=1 << 18, disk=disk)


class TestMemorySnapshots(SnapshotBackendSuite):
    """Snapshots in memory."""

    @pytest.fixture
    def place(self) -> Place[MemoryBackend]:
        """A backend."""
        return Shelf()


class TestMemoryJournal(JournalBackendSuite):
    """A journal in memory."""

    @pytest.fixture
    def place(self) -> Place[MemoryBackend]:
        """A backend."""
        return InMemory()


class TestServer(SnapshotBackendSuite, JournalBackendSuite):
    """A home that cannot tell whether a former writer lives."""

    @pytest.fixture
    def place(self) -> Place[Client]:
        """A server."""
        return Server()


# ---------------------------------------------------------------------- what is broken is found


def names_of(suite: type) -> set[str]:
    """The names of a suite's tests."""
    return {name for name in dir(suite) if name.startswith("test_")}


def run(directory: Path, *arguments: object) -> tuple[dict[tuple[str, str], str], str]:
    """Run pytest on its own; what became of each test of each class, and what pytest wrote.

    A test with parameters has failed if it has with any of them.
    """
    report = directory / "report.xml"
    options = ["-q", "--tb=line", "-p", "no:cacheprovider", f"--junitxml={report}", f"--rootdir={directory}"]
    command = [sys.executable, *SAFE_PATH, "-m", "pytest", *options, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=TESTS.parent, env=environment(), capture_output=True, text=True, timeout=10 * BOUND_S, check=False
    )
    assert report.exists(), done.stdout + done.stderr
    ended: dict[tuple[str, str], str] = {}
    for case in ET.parse(report).iter("testcase"):
        key = case.get("classname", "").rpartition(".")[2], case.get("name", "").partition("[")[0]
        how = next((each for each in ("failure", "error", "skipped") if case.find(each) is not None), "passed")
        if ended.get(key) != "failure":
            ended[key] = how
    return ended, done.stdout


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mapping[tuple[str, str], str]:
    """How the tests ended that are to find what is broken."""
    return run(tmp_path_factory.mktemp("broken"), TESTS / "_broken.py")[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_found(name: str, found: Mapping[tuple[str, str], str]) -> None:
    """Each home that breaks a clause fails the tests of that clause."""
    ended = {test: how for (suite, test), how in found.items() if suite == name}
    assert ended == dict.fromkeys(BROKEN[name].fails, "failure")


@pytest.mark.parametrize("suite", [SnapshotBackendSuite, JournalBackendSuite])
def test_each_test_finds_something(suite: type) -> None:
    """No test of the suites is there that no broken home fails."""
    assert names_of(suite) <= {test for broken in BROKEN.values() for test in broken.fails}


def test_both_suites_fit_together() -> None:
    """A subclass of both loses no test."""
    assert not names_of(SnapshotBackendSuite) & names_of(JournalBackendSuite)


def test_a_backend_of_ones_own(tmp_path: Path) -> None:
    """The example in docs/backends.md passes as it stands there; a suite that has no place says so."""
    docs = TESTS.parent / "docs"
    text = (docs / "backends.md").read_text("utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    file = tmp_path / "test_example.py"
    file.write_text(f"{example}\n\nclass TestIt(JournalBackendSuite):\n    pass\n", "utf-8")
    tests = [f"{file}::TestSqliteJournal", f"{file}::TestIt::test_the_first_claim"]
    ended, said = run(tmp_path, *tests, "-rs", "-W", "error", "-o", f"pythonpath={docs / 'examples'}")
    assert ended.pop(("TestIt", "test_the_first_claim")) == "error"
    assert "TestIt needs a fixture `place`" in said
    unsaid = {test for _, test in ended if test.endswith(("survives", "without_a_word"))}
    assert {test for (_, test), how in ended.items() if how == "skipped"} == unsaid
    assert {test for (_, test), how in ended.items() if how == "passed"} == names_of(JournalBackendSuite) - unsaid
    assert "the place has no crash()" in said

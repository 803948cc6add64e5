"""The demo: an orchestrator that is killed loses nothing, and the demo would notice if it did."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from swoosh_async import FileSnapshotStore, OrchestratorState, Snapshot, TaskStatus
from swoosh_async.cli import _demo, main
from swoosh_async.cli._demo import KILLS, Demo, DemoError, Outcome
from swoosh_async.cli._ledger import Ledger, LostStateError
from swoosh_async.cli._messages import Failed, Finished, Found, Message, Saved, from_line, to_line
from swoosh_async.cli._orchestrator import FILE_NAME, Orchestrator
from swoosh_async.cli._work import digest_of, files_below, result_of, standard_library

if sys.platform == "win32":
    pytest.skip("the file store needs a POSIX system", allow_module_level=True)

FILES = 400


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real files to work on, one of which cannot be read, beside some that are none of the demo's business."""
    root = tmp_path_factory.mktemp("source")
    real = [standard_library() / name for name in files_below(standard_library())[: FILES - 1]]
    for number, path in enumerate(real):
        target = root / f"package{number % 7}" / f"{number}.py"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    (root / "gone.py").symlink_to(root / "nowhere")
    (root / "notes.txt").write_text("no task")
    (root / "site-packages").mkdir()
    (root / "site-packages" / "other.py").write_text("no task")
    return root


@contextmanager
def no_bar(_what: str, _total: int, _completed: int) -> Generator[Callable[[int], None], None, None]:
    """A progress bar that is not shown."""
    yield lambda _: None


def saved(index: int, done: int = 0, hlc: str = "") -> Saved:
    """An acknowledgement."""
    return Saved(index, hlc, done, 0.001)


def found(index: int, done: int = 0) -> Found:
    """What an orchestrator found."""
    return Found(index, 2, done, 0)


# ---------------------------------------------------------------------- the whole


def test_nothing_is_lost_and_the_digest_is_the_same(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed three times, it ends with the results of a run in one go; run again in the same place, it starts over."""
    monkeypatch.setattr(sys, "argv", ["swoosh-async", "demo", str(tmp_path / "var"), "--source", str(source)])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert (ended.value.code, told.err) == (0, "")
    assert told.out.count("\nkill ") == KILLS
    assert told.out.count("; nothing acknowledged is lost\n") == KILLS
    assert f"{FILES} of {FILES}" in told.out
    assert told.out.count(" equal ") == 1

    store = FileSnapshotStore(tmp_path / "var" / FILE_NAME)
    first = anyio.run(store.load_latest)
    statuses = {task.status for name, task in first.state.tasks.items() if name != "gone.py"}
    assert statuses == {TaskStatus.SUCCEEDED}
    assert first.state.tasks["gone.py"].result == "FileNotFoundError"
    assert first.state.leases["orchestrator"].token == KILLS + 1
    begun = sum(task.attempts for task in first.state.tasks.values())
    assert first.last_applied_index == KILLS + 1 + begun + FILES

    sentences: list[str] = []
    outcome = Demo(tmp_path / "var", source, sentences.append, no_bar).run()
    assert outcome.holds
    assert sentences[1].startswith(f"an earlier run's snapshot is there, index {first.last_applied_index};")
    assert outcome.index > first.last_applied_index + 2 * FILES
    assert outcome.lost == 0
    expected = {name: result_of(source / name) for name in files_below(source) if name != "gone.py"}
    assert outcome.digest == digest_of({**expected, "gone.py": "FileNotFoundError"}.items())
    second = anyio.run(FileSnapshotStore(tmp_path / "var" / FILE_NAME).load_latest)
    assert second.last_applied_hlc > first.last_applied_hlc
    assert not list((tmp_path / "var").glob("*.tmp"))


def test_a_loss_is_noticed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where an older generation stands in for what was acknowledged, the demo says that it is lost, and fails."""
    directory = tmp_path / "var"

    class Thief(Demo):
        def __init__(self, directory: Path, source: Path, say: Callable[[str], None], bar: _demo.Bar) -> None:
            def steal(sentence: str) -> None:
                say(sentence)
                if sentence.startswith("kill 1"):
                    oldest, *_ = sorted(directory.glob(f"{FILE_NAME}.*"))
                    shutil.copyfile(oldest, directory / "older")
                    (directory / "older").replace(directory / FILE_NAME)

            super().__init__(directory, source, steal, bar)

    monkeypatch.setattr("swoosh_async.cli._app.Demo", Thief)
    monkeypatch.setattr(sys, "argv", ["swoosh-async", "demo", str(directory), "--source", str(source)])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert ended.value.code == 1
    assert told.err.startswith("error: ACKNOWLEDGED STATE IS LOST: after a restart, index ")
    assert "kill 2" not in told.out


def test_an_interrupt_ends_the_orchestrator(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in mid-work leaves no process behind."""
    started: list[subprocess.Popen[bytes]] = []

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self)

    @contextmanager
    def interrupting(_what: str, _total: int, _completed: int) -> Generator[Callable[[int], None], None, None]:
        def report(_: int) -> None:
            raise KeyboardInterrupt

        yield report

    monkeypatch.setattr(subprocess, "Popen", Popen)
    with pytest.raises(KeyboardInterrupt):
        Demo(tmp_path, source, lambda _: None, interrupting).run()
    assert [process.returncode for process in started] == [-9]


def test_a_foreign_snapshot_stays(source: Path, tmp_path: Path) -> None:
    """A snapshot that is not the demo's is neither used nor touched."""
    store = FileSnapshotStore(tmp_path / FILE_NAME)

    async def save() -> None:
        await store.save(Snapshot(state=OrchestratorState(settings={"mine": "yes"}), last_applied_index=7))

    anyio.run(save)
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(DemoError, match="not the demo's; give it another DIR"):
        Demo(tmp_path, source, lambda _: None, no_bar).run()
    (tmp_path / FILE_NAME).write_bytes(before[:-5])
    with pytest.raises(DemoError, match="checksum does not match"):
        Demo(tmp_path, source, lambda _: None, no_bar).run()
    assert (tmp_path / FILE_NAME).read_bytes() == before[:-5]


def test_too_little_work(tmp_path: Path) -> None:
    """With too few files to be killed in their midst, it does not begin."""
    with pytest.raises(DemoError, match=r"holds 0 \.py files; at least"):
        Demo(tmp_path, tmp_path, lambda _: None, no_bar).run()


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (b"", "did not start"),
        (b"nonsense\n", "did not start"),
        (to_line(Failed("no room")), "no room"),
        (to_line(found(0)) + to_line(Failed("no room")), "no room"),
        (to_line(found(0)), "exit code 0. before it could be killed"),
    ],
)
def test_an_orchestrator_that_does_not_work(
    told: bytes, reason: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An orchestrator that ends before its work is done is an error, not a success."""
    (tmp_path / "impostor.py").write_text(f"import os; os.write(1, {told!r})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(_demo, "_ORCHESTRATOR", "impostor")
    demo = Demo(tmp_path, source, lambda _: None, no_bar)
    with pytest.raises(DemoError, match=reason):
        demo.run()
    with pytest.raises(DemoError, match=reason.replace("it could be killed", "its work was done")):
        demo._live(None)


@pytest.mark.parametrize(
    ("change", "code"),
    [({}, 0), ({"kills": 2}, 1), ({"ended": 9}, 1), ({"in_one_go": "b"}, 1), ({"lost": 1}, 1)],
)
def test_all_must_hold(
    change: dict[str, Any],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The demo is a success only if all of it holds; its temporary directory is gone afterwards."""
    outcome = Outcome(
        kills=KILLS, saves=5, lost=0, tasks=10, ended=10, again=1, p50_ms=1, p99_ms=2,
        digest="a", in_one_go="a", index=20,
    )  # fmt: skip
    outcome = msgspec.structs.replace(outcome, **change)

    class Settled(Demo):
        def run(self) -> Outcome:
            assert list(tmp_path.iterdir()) == [self._directory]
            return outcome

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("swoosh_async.cli._app.Demo", Settled)
    monkeypatch.setattr(sys, "argv", ["swoosh-async", "demo"])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert (outcome.holds, ended.value.code or 0) == (code == 0, code)
    assert ("NOT EQUAL" in told.out) == ("in_one_go" in change)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- its parts


def test_ledger_accepts_what_goes_forward() -> None:
    """What was acknowledged, or a save that was not any more, is found: nothing is lost."""
    ledger = Ledger()
    ledger.found(found(0))
    ledger.saved(saved(3, 1, "a"))
    ledger.saved(saved(5, 2, "b"))
    ledger.found(found(5, 2))
    ledger.found(found(6, 2))
    assert (ledger.index, ledger.done, ledger.hlc) == (5, 2, "b")


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        (found(4, 2), 1),
        (found(0), 2),
        (found(5, 1), 0),
        (saved(4, 2, "c"), 1),
        (saved(6, 2, "a"), 0),
        (saved(6, 1, "c"), 0),
    ],
)
def test_ledger_notices_what_goes_back(message: Found | Saved, lost: int) -> None:
    """An index, a count or a timestamp below what was acknowledged is a loss, with its extent."""
    ledger = Ledger()
    ledger.saved(saved(3, 1, "a"))
    ledger.saved(saved(5, 2, "b"))
    with pytest.raises(LostStateError, match="ACKNOWLEDGED STATE IS LOST") as error:
        ledger.found(message) if isinstance(message, Found) else ledger.saved(message)
    assert (error.value.acknowledged, error.value.found, error.value.saves) == (5, message.index, lost)


def test_ledger_counts_durations() -> None:
    """The share of saves that a duration is not exceeded by is counted, not interpolated."""
    ledger = Ledger()
    assert ledger.duration_ms(0.5) != ledger.duration_ms(0.5)  # not a number
    for n in range(1, 101):
        ledger.saved(Saved(n, "", 0, n / 1e3))
    assert [ledger.duration_ms(share) for share in (0.01, 0.5, 0.99, 1)] == [1, 50, 99, 100]


@pytest.mark.parametrize("message", [found(1), saved(2, 3, "h"), Finished(), Failed("why")])
def test_messages(message: Message) -> None:
    """A message comes back from its line; a line that was cut off is none."""
    assert from_line(to_line(message)) == message
    assert from_line(to_line(message)[:-1]) is None


def test_files_below(source: Path) -> None:
    """Every .py file is a task, in order, but for those of installed packages; the standard library has enough."""
    names = files_below(source)
    assert len(names) == FILES
    assert names == sorted(names)
    assert "package0/0.py" in names
    assert not [name for name in names if "site-packages" in name]
    assert len(files_below(standard_library())) > 500


def test_digest_knows_no_order() -> None:
    """The digest is over the sorted lines, whatever order the results came in."""
    results = [("b", "2"), ("a", "1")]
    assert digest_of(results) == digest_of(reversed(results))
    assert digest_of(results) == hashlib.sha256(b"a 1\nb 2\n").hexdigest()


class Lines(io.BytesIO):
    """Standard output that keeps its lines."""

    def messages(self) -> Iterator[Message]:
        """What was told."""
        return (message for line in self.getvalue().splitlines(keepends=True) if (message := from_line(line)))


def test_orchestrator_goes_on_where_it_was(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never blocks the event loop, tells what it saved, and begins what was running again, one attempt further."""
    few = tmp_path / "few"
    shutil.copytree(source / "package3", few)
    store = FileSnapshotStore(tmp_path / FILE_NAME, keep=3)
    lines = Lines()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(lines, write_through=True))
    anyio.run(Orchestrator(store, few, "run").run)
    snapshot = anyio.run(store.load_latest)
    first, *acknowledged, last = lines.messages()
    assert first == Found(0, 1, 0, 0)
    assert last == Finished()
    assert acknowledged[-1] == msgspec.structs.replace(
        saved(snapshot.last_applied_index, len(snapshot.state.tasks), snapshot.last_applied_hlc),
        duration_s=getattr(acknowledged[-1], "duration_s", None),
    )
    assert snapshot.last_applied_index == 1 + 2 * len(snapshot.state.tasks)

    running = next(iter(snapshot.state.tasks.values())).begun_by("worker-1")
    again = msgspec.structs.replace(snapshot, state=snapshot.state.with_tasks(running))
    lines.seek(0)
    lines.truncate()

    async def go_on() -> None:
        await store.save(again)
        await Orchestrator(store, few, "run").run()

    anyio.run(go_on)
    after = anyio.run(store.load_latest)
    told = list(lines.messages())
    assert told[0] == Found(snapshot.last_applied_index, 2, len(snapshot.state.tasks) - 1, 1)
    assert after.state.tasks[running.id].attempts == 3
    assert after.last_applied_index == snapshot.last_applied_index + 3
    assert {task.result for task in after.state.tasks.values()} == {
        task.result for task in snapshot.state.tasks.values()
    }


def test_orchestrator_ends_when_nobody_listens(source: Path, tmp_path: Path) -> None:
    """An orchestrator whose demo has gone does not stay behind."""
    here = ["-P"] if sys.flags.safe_path else []
    command = [sys.executable, *here, "-m", "swoosh_async.cli._orchestrator", str(tmp_path), str(source), "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert isinstance(from_line(process.stdout.readline()), Found)
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == b""

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

from swoosh_async import (
    FileBackend,
    Journal,
    OrchestratorState,
    Snapshot,
    SnapshotStore,
    StateMachine,
    Task,
    TaskStatus,
    Timestamp,
)
from swoosh_async._entries import Entry, Origin
from swoosh_async.cli import _demo, main
from swoosh_async.cli._demo import KILLS, Demo, DemoError, Outcome
from swoosh_async.cli._ledger import Ledger, LostStateError
from swoosh_async.cli._messages import Acknowledged, Failed, Finished, Found, Message, from_line, to_line
from swoosh_async.cli._orchestrator import Orchestrator, machine
from swoosh_async.cli._tasks import LEASE, Event, RunBegun, Started, TaskBegun, TaskEnded, apply
from swoosh_async.cli._work import digest_of, files_below, result_of, standard_library
from swoosh_async.errors import SwooshError

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


def acknowledged(index: int, task: str = "a", attempts: int = 1, result: str | None = None) -> Acknowledged:
    """An acknowledgement."""
    return Acknowledged(index, task, attempts, result, 0.001)


def found(index: int, done: int = 0) -> Found:
    """What an orchestrator found."""
    return Found(index, 2, done, 0)


def stored(directory: Path) -> Snapshot[OrchestratorState]:
    """The state as it is on the disk."""
    return anyio.run(machine(FileBackend(directory)).snapshot_at)


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
    assert told.out.count("; nothing acknowledged is lost\n    recovered in ") == KILLS
    assert f"{FILES} of {FILES}" in told.out
    assert told.out.count(" equal ") == 1
    place = tmp_path / "var"
    hints = [line.strip().removeprefix("look at it: ") for line in told.out.splitlines()[-3:]]
    assert hints == [
        f"swoosh-async inspect {place}",
        f"swoosh-async history {place}",
        f"swoosh-async replay {place} --machine swoosh_async.cli._orchestrator:machine",
    ]

    first = stored(place)
    statuses = {task.status for name, task in first.state.tasks.items() if name != "gone.py"}
    assert statuses == {TaskStatus.SUCCEEDED}
    assert first.state.tasks["gone.py"].result == "FileNotFoundError"
    assert first.state.leases[LEASE].token == KILLS + 1
    begun = sum(task.attempts for task in first.state.tasks.values())
    assert first.last_applied_index == 1 + KILLS + 1 + begun + FILES

    sentences: list[str] = []
    outcome = Demo(place, source, sentences.append, no_bar).run()
    assert outcome.holds
    assert sentences[1] == (f"an earlier run ends at index {first.last_applied_index}; this one starts over behind it")
    assert outcome.index > first.last_applied_index + 2 * FILES
    assert 0 < outcome.events <= outcome.index - first.last_applied_index
    assert outcome.snapshots >= 1
    assert outcome.lost == 0
    expected = {name: result_of(source / name) for name in files_below(source) if name != "gone.py"}
    assert outcome.digest == digest_of({**expected, "gone.py": "FileNotFoundError"}.items())
    assert stored(place).last_applied_hlc > first.last_applied_hlc
    assert not list(place.glob("*.tmp"))


def test_a_loss_is_noticed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where an older copy stands in for what was acknowledged, the demo says that it is lost, and fails."""
    directory = tmp_path / "var"

    class Thief(Demo):
        def __init__(self, directory: Path, source: Path, say: Callable[[str], None], _bar: _demo.Bar) -> None:
            @contextmanager
            def copying(_what: str, _total: int, _completed: int) -> Generator[Callable[[int], None], None, None]:
                def report(_: int) -> None:
                    if not (tmp_path / "older").exists():
                        anyio.run(machine(FileBackend(directory)).backup, tmp_path / "older")

                yield report

            def steal(sentence: str) -> None:
                say(sentence)
                if sentence.startswith("kill 1"):
                    directory.rename(tmp_path / "newer")
                    (tmp_path / "older").rename(directory)

            super().__init__(directory, source, steal, copying)

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


def test_a_foreign_state_stays(source: Path, tmp_path: Path) -> None:
    """A state that is not the demo's is neither used nor touched, and nor is one that cannot be read."""
    mine = OrchestratorState(settings={"mine": "yes"})

    async def save(place: Path) -> None:
        await SnapshotStore(FileBackend(place)).save(Snapshot(state=mine, last_applied_index=7))

    async def work(place: Path) -> None:
        async with StateMachine(FileBackend(place), lambda state, _: state, mine, Event) as board:
            await board.dispatch(Started("me"))

    async def write(place: Path) -> None:
        async with Journal(FileBackend(place), int) as journal:
            await journal.append(1)

    for name, fill, reason in (
        ("snapshot", save, "a snapshot holds index 7, and the journal ends before it"),
        ("machine", work, "not the demo's; give it another DIR"),
        ("journal", write, "read it as the event type"),
    ):
        place = tmp_path / name
        anyio.run(fill, place)
        before = {path.name: path.read_bytes() for path in place.iterdir()}
        with pytest.raises(SwooshError, match=reason):
            Demo(place, source, lambda _: None, no_bar).run()
        assert {path.name: path.read_bytes() for path in place.iterdir()} == before


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
        kills=KILLS, events=5, lost=0, snapshots=1, tasks=10, ended=10, again=1, p50_ms=1, p99_ms=2,
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
    """What was acknowledged, or an event that was not any more, is found, in whatever order it was told."""
    ledger = Ledger()
    ledger.found(found(0))
    ledger.acknowledged(acknowledged(3))
    ledger.acknowledged(acknowledged(5, "b"))
    ledger.acknowledged(acknowledged(4, "a", result="x"))
    assert (ledger.index, ledger.done) == (5, 1)
    ledger.found(found(5, 1))
    ledger.found(found(7, 2))
    ledger.acknowledged(acknowledged(8, "b", 2))
    assert (ledger.index, ledger.done, len(ledger.events)) == (8, 2, 4)


@pytest.mark.parametrize(
    ("message", "lost"),
    [(found(4, 1), 1), (found(0), 2), (found(5, 0), 0), (acknowledged(2), 2), (acknowledged(1), 2)],
)
def test_ledger_notices_what_goes_back(message: Found | Acknowledged, lost: int) -> None:
    """An index or a count below what was acknowledged is a loss, with its extent."""
    ledger = Ledger()
    ledger.found(found(2))
    ledger.acknowledged(acknowledged(3))
    ledger.acknowledged(acknowledged(5, result="x"))
    with pytest.raises(LostStateError, match="ACKNOWLEDGED STATE IS LOST") as error:
        ledger.found(message) if isinstance(message, Found) else ledger.acknowledged(message)
    assert (error.value.acknowledged, error.value.found, error.value.events) == (5, message.index, lost)


def test_ledger_looks_for_each_event() -> None:
    """Each acknowledged event is looked for in the state: the attempt that was begun, the result that was given."""
    ledger = Ledger()
    for event in (acknowledged(1), acknowledged(2, result="x"), acknowledged(3, "b"), acknowledged(4, "b", 2)):
        ledger.acknowledged(event)
    a, b = Task("a", attempts=1, result="x"), Task("b", attempts=2)
    assert ledger.lost(4, {"a": a, "b": b}) == 0
    assert ledger.lost(3, {"a": a, "b": b}) == 1
    assert ledger.lost(4, {"a": msgspec.structs.replace(a, result="y"), "b": b}) == 1
    assert ledger.lost(4, {"a": a, "b": msgspec.structs.replace(b, attempts=1)}) == 1
    assert ledger.lost(4, {"b": b}) == 2


def test_ledger_counts_durations() -> None:
    """The share of dispatches that a duration is not exceeded by is counted, not interpolated."""
    ledger = Ledger()
    assert ledger.duration_ms(0.5) != ledger.duration_ms(0.5)  # not a number
    for n in range(1, 101):
        ledger.acknowledged(Acknowledged(n, "a", 1, None, n / 1e3))
    assert [ledger.duration_ms(share) for share in (0.01, 0.5, 0.99, 1)] == [1, 50, 99, 100]


def test_events_that_do_not_fit_are_refused() -> None:
    """What an event does is in the state, its time is its entry's, and one that does not fit is refused."""
    entry: Entry[Event] = Entry(1, Origin(1, Timestamp(3_000_000_000)), Started("me"))
    state = apply(OrchestratorState(), RunBegun("run", "here", ("a",)), entry)
    state = apply(apply(state, Started("me"), entry), Started("you"), entry)
    assert (state.leases[LEASE].holder, state.leases[LEASE].token, state.leases[LEASE].expires) == ("you", 2, 3603.0)
    begun = apply(state, TaskBegun("a", "worker-1"), entry)
    assert begun.workers["worker-1"].last_seen == 3.0
    with pytest.raises(ValueError, match="a is not worker-2's"):
        apply(begun, TaskEnded("a", "worker-2", "x"), entry)
    ended = apply(begun, TaskEnded("a", "worker-1", "x", failed=True), entry)
    assert (ended.tasks["a"].status, ended.tasks["a"].result) == (TaskStatus.FAILED, "x")
    with pytest.raises(ValueError, match="a has ended"):
        apply(ended, TaskBegun("a", "worker-1"), entry)


@pytest.mark.parametrize("message", [found(1), acknowledged(2, result="h"), Finished(), Failed("why")])
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
    """It never blocks the event loop, tells what is durable, and begins what was running again, one attempt further."""
    few = tmp_path / "few"
    shutil.copytree(source / "package3", few)
    place = tmp_path / "var"
    lines = Lines()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(lines, write_through=True))
    anyio.run(Orchestrator(FileBackend(place), few, "run").run)
    before = stored(place)
    tasks = before.state.tasks
    first, *events, last = lines.messages()
    assert isinstance(first, Found)
    assert (first.index, first.start, first.done, first.again, first.snapshot, first.entries) == (0, 1, 0, 0, None, 0)
    assert last == Finished()
    assert before.last_applied_index == 2 + 2 * len(tasks) == 2 + len(events)
    results = {event.task: event.result for event in events if isinstance(event, Acknowledged) and event.result}
    assert results == {name: task.result for name, task in tasks.items()}

    name = next(iter(tasks))
    lines.seek(0)
    lines.truncate()

    async def go_on() -> None:
        async with machine(FileBackend(place)) as board:
            await board.dispatch(RunBegun("run", str(few), (name,)))
            await board.dispatch_many([Started("me"), TaskBegun(name, "worker-1")])
        await Orchestrator(FileBackend(place), few, "run").run()

    anyio.run(go_on)
    after = stored(place)
    told, *events = lines.messages()
    assert isinstance(told, Found)
    index = before.last_applied_index + 3
    assert (told.index, told.start, told.done, told.again, told.snapshot) == (index, 2, 0, 1, index)
    assert [event.index for event in events if isinstance(event, Acknowledged)] == [index + 2, index + 3]
    assert (after.state.tasks[name].attempts, after.state.tasks[name].result) == (2, tasks[name].result)
    assert after.last_applied_index == index + 3


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

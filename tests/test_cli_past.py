"""The commands that look back: what is kept, states as they were, what changed, and copies; beside a live service."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from anyio import to_thread

from swoosh_async import FileBackend, MemoryBackend, Snapshot, SnapshotStore, StateMachine, Timestamp
from swoosh_async.cli import _history, _machines, _replay, _terminal
from swoosh_async.cli._diff import lines_of
from swoosh_async.cli._history import Span, span_of
from swoosh_async.cli._machines import MachineError, machine_of
from swoosh_async.cli._points import Point, point_of
from swoosh_async.cli._replay import NoMachineError, Replayer
from swoosh_async.codec._difference import differences
from swoosh_async.errors import SnapshotNotFoundError

from .test_cli import ANSI, Command, command, encoded, fact, flipped, resealed, terminals
from .test_cli_journal import everything

if sys.platform == "win32":
    pytest.skip("the file backend needs a POSIX system", allow_module_level=True)

BOARD = """
import os
from collections.abc import Mapping

import msgspec

from swoosh_async import SnapshotPolicy, StateMachine


class Board(msgspec.Struct, frozen=True):
    cards: Mapping[str, str] = {}
    seen: int = 0


class Put(msgspec.Struct, frozen=True, tag=True):
    name: str
    text: str


class Dropped(msgspec.Struct, frozen=True, tag=True):
    name: str


def apply(board, event):
    if "BOARD_BROKEN" in os.environ:
        raise ValueError("a secret")
    bent = "BOARD_BENT" in os.environ
    rest = {name: text for name, text in board.cards.items() if name != event.name}
    cards = {**rest, event.name: event.text} if isinstance(event, Put) else rest
    return Board(cards, board.seen + 1 + bent)


def machine(backend):
    policy = SnapshotPolicy(every_events=None, on_close=False, keep=2)
    return StateMachine(backend, apply, Board(), Put | Dropped, policy=policy)


async def later(backend):
    return machine(backend)


def nothing(backend):
    return None


def without():
    return None


def ends(backend):
    raise SystemExit(0)


live = None
"""
NAME = "board_of_tests:machine"


@pytest.fixture
def swoosh(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Command:
    """Run the command with these arguments, in this process."""
    return command(monkeypatch, capsysbinary)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The current directory, in which the machine's module stands."""
    (tmp_path / "board_of_tests.py").write_text(BOARD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(_machines, "sys", SimpleNamespace(flags=SimpleNamespace(safe_path=False), path=sys.path))
    yield tmp_path
    for name in ("board_of_tests", "broken_of_tests"):
        sys.modules.pop(name, None)


def board(path: Path) -> Any:
    """The machine on that directory, and the module that it is from."""
    made = machine_of(NAME, FileBackend(path))
    return made, sys.modules["board_of_tests"]


async def filled(path: Path, snapshots: tuple[int, ...] = (2, 4)) -> None:
    """Six events, a card each, one of them dropped, and snapshots after these indexes."""
    made, module = board(path)
    put, dropped = module.Put, module.Dropped
    async with made:
        events = [
            put("a", "one"),
            put("b", "two\x1b"),
            put("c", "x" * 300),
            dropped("a"),
            put("b", "new"),
            put("d", ""),
        ]
        for index, event in enumerate(events, 1):
            await made.dispatch(event)
            if index in snapshots:
                await made.snapshot()


@pytest.fixture
def var(here: Path) -> Path:
    """A directory with six events, the first two of them kept no more, and snapshots of index 2 and 4."""
    anyio.run(filled, here / "var")
    return here / "var"


def hlc_of(swoosh: Command, var: Path, index: int) -> str:
    """The time of an entry."""
    (line,) = swoosh("journal", var, "--json", "--from", f"{index}", "--to", f"{index}").out.splitlines()
    return str(json.loads(line)["hlc"])


# ---------------------------------------------------------------------- points


def test_points() -> None:
    """An index, a timestamp's text, a time in RFC 3339, or the latest."""
    last = {"logical": (1 << 32) - 1, "node": (1 << 64) - 1}
    stamp = Timestamp(1_700_000_000_123_456_789, 5, 7)
    second = 1_700_000_000_000_000_000
    for text, point in (
        ("latest", Point()),
        ("0", Point(index=0)),
        (f"{(1 << 64) - 1}", Point(index=(1 << 64) - 1)),
        (str(stamp), Point(hlc=stamp)),
        ("2023-11-14T22:13:20Z", Point(hlc=Timestamp(second, **last))),
        ("2023-11-14t22:13:20.5z", Point(hlc=Timestamp(second + 500_000_000, **last))),
        ("2023-11-14 22:13:20.123456789+00:00", Point(hlc=Timestamp(stamp.wall_ns, **last))),
        ("2023-11-15T00:43:20.000000001+02:30", Point(hlc=Timestamp(second + 1, **last))),
        ("1970-01-01T00:00:00Z", Point(hlc=Timestamp(0, **last))),
    ):
        assert point_of(text) == point, text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "٣",
        "1" * 21,
        "now",
        "2023-11-14",
        "2023-11-14T22:13:20",
        "2023-13-14T22:13:20Z",
        "1969-12-31T23:59:59Z",
        "2023-11-14T22:13:20.1234567890Z",
        "2023-11-14T22:13:20,5Z",
        "0001-01-01T00:00:00+23:59",
        "18eb-0-0",
    ],
)
def test_no_points(text: str) -> None:
    """Anything else is refused, with examples."""
    with pytest.raises(ValueError, match="a time is such as"):
        point_of(text)


# ---------------------------------------------------------------------- history


@pytest.mark.parametrize(
    ("snapshots", "first", "last", "span"),
    [
        ([], 1, 0, Span(0, 0)),
        ([], 1, 9, Span(0, 9)),
        ([3], 1, 9, Span(0, 9)),
        ([3, 6], 4, 9, Span(3, 9)),
        ([2, 3, 6], 5, 9, Span(6, 9, (2, 3))),
        ([9], 10, 9, Span(9, 9)),
        ([2], 5, 9, Span(10, 9, (2,))),
        ([12], 1, 9, Span(0, 9, (12,))),
        ([7], 1, 0, Span(0, 0, (7,))),
    ],
)
def test_which_states_can_be_had(snapshots: list[int], first: int, last: int, span: Span) -> None:
    """Those behind a whole snapshot, as far as the entries go without a gap, and those of snapshots alone."""
    assert span_of(snapshots, first, last) == span


def test_history(swoosh: Command, var: Path) -> None:
    """The snapshots that are kept are shown, newest first, and the journal's bounds; nothing is changed."""
    before = everything(var)
    ran = swoosh("history", var)
    assert (ran.code, ran.err) == (0, "")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ran.out.splitlines() if line.startswith("│")]
    assert [(row[0], row[3], row[5]) for row in rows] == [("4", "json", "yes"), ("2", "json", "yes")]
    assert re.search(r"^journal +entries 3 to 6, of 20\S+Z to 20\S+Z$", ran.out, re.MULTILINE)
    assert re.search(r"^can be had +the states after index 2 to 6$", ran.out, re.MULTILINE)
    told = json.loads(swoosh("history", var, "--json").out)
    assert [(kept["index"], kept["whole"], kept["schema_version"]) for kept in told["snapshots"]] == [
        (4, True, 1),
        (2, True, 1),
    ]
    assert (told["journal"]["first"], told["journal"]["last"]) == (3, 6)
    assert told["journal"]["last_hlc"] == hlc_of(swoosh, var, 6)
    assert told["states"] == {"first": 2, "last": 6, "others": []}
    assert everything(var) == before


def test_history_of_what_is_damaged(swoosh: Command, var: Path) -> None:
    """A damaged snapshot is shown as such, with what its head says, and does not count."""
    oldest = min(var.glob("snapshot.*"))
    oldest.write_bytes(flipped(oldest.read_bytes()))
    ran = swoosh("history", var)
    assert ran.code == 0
    assert re.search(r"│ 2 .*the checksum does not match", ran.out)
    assert "the states after index 4 to 6" in ran.out
    oldest.write_bytes(b"\x1b nothing")
    ran = swoosh("history", var)
    assert (ran.code, "\x1b" in ran.out) == (0, False)
    kept = json.loads(swoosh("history", var, "--json").out)["snapshots"][1]
    assert (kept["name"], kept["whole"], "index" in kept) == (oldest.name, False, False)


def test_history_of_what_goes(swoosh: Command, var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot that is pruned meanwhile is left out; one that a newer version wrote is shown, and does not count."""
    latest = encoded(Snapshot(state=[], last_applied_index=4), Any)
    for path in (var / "snapshot", max(var.glob("snapshot.*"))):
        path.write_bytes(resealed(latest, b'"format":1', b'"format":2'))
    ran = swoosh("history", var)
    assert ran.code == 0
    assert "format 2 found, 1 supported" in ran.out
    assert "the states after index 2 to 6" in ran.out

    def pruned(*_: Any) -> None:
        raise SnapshotNotFoundError("gone")

    monkeypatch.setattr(_history, "opened", pruned)
    assert json.loads(swoosh("history", var, "--json").out)["snapshots"] == []


def test_history_of_little(swoosh: Command, here: Path) -> None:
    """A journal without snapshots, snapshots without a journal, of any schema, and neither."""
    anyio.run(partial(filled, here / "journal", ()))
    ran = swoosh("history", here / "journal")
    assert (ran.code, "no snapshots\n" in ran.out, "the states after index 0 to 6" in ran.out) == (0, True, True)
    store = SnapshotStore[Any](FileBackend(here / "snapshots"), Any, schema_version=7, compression="zstd")
    anyio.run(store.save, Snapshot(state=[1], last_applied_index=5, last_applied_hlc="7.1@n"))
    ran = swoosh("history", here / "snapshots")
    assert (ran.code, ran.err) == (0, "")
    assert re.search(r"│ 5 +│ 7.1@n +│ .*│ json, zstd │ .*│ yes", ran.out)
    assert re.search(r"^journal +no entries$", ran.out, re.MULTILINE)


@pytest.mark.parametrize("args", [["history"], ["replay", "--machine", NAME], ["diff", "1", "2"], ["backup", "to"]])
def test_there_is_no_backend(args: list[str], swoosh: Command, here: Path) -> None:
    """Where no backend is, it is an error in one line, in every command."""
    (here / "empty").mkdir()
    for name, reason in (
        ("missing\x1b", "no such directory"),
        ("board_of_tests.py", "not a directory"),
        ("empty", "a directory without a FileBackend's snapshots and journal"),
    ):
        ran = swoosh(args[0], here / name, *args[1:])
        assert (ran.code, ran.out) == (1, "")
        assert ran.err == f"error: {here / name}: {reason}\n".replace("\x1b", "\\x1b")
        assert not (here / "to").exists()


# ---------------------------------------------------------------------- replay


def test_replay(swoosh: Command, var: Path) -> None:
    """The state is folded from the nearest snapshot, and shown as a tree; nothing is changed."""
    before = everything(var)
    ran = swoosh("replay", var, "--machine", NAME)
    assert (ran.code, ran.err) == (0, "")
    assert fact(ran, "index") == "6"
    assert fact(ran, "hlc") == hlc_of(swoosh, var, 6)
    assert re.fullmatch(r"2 in \d+\.\d{3} s, [\d,]+ a second", fact(ran, "entries folded"))
    assert 'b: "new"' in ran.out
    assert 'c: "' + "x" * 80 + '…"' in ran.out
    assert "seen: 6" in ran.out
    assert "… and 1 more" in swoosh("replay", var, "--machine", NAME, "--children", "2").out
    assert everything(var) == before


def test_replay_to_a_point(swoosh: Command, var: Path) -> None:
    """An index, an entry's time, or a time in RFC 3339: the state is as it was then."""
    for args, index, cards in (
        (["--to-index", "2"], 2, {"a": "one", "b": "two\x1b"}),
        (["--to-index", "3"], 3, {"a": "one", "b": "two\x1b", "c": "x" * 300}),
        (["--at", hlc_of(swoosh, var, 4)], 4, {"b": "two\x1b", "c": "x" * 300}),
        (["--at", "2100-01-01T00:00:00Z"], 6, {"b": "new", "c": "x" * 300, "d": ""}),
    ):
        ran = swoosh("replay", var, "--machine", NAME, "--json", *args)
        assert (ran.code, ran.err, ran.out.count("\n"), "\x1b" in ran.out) == (0, "", 1, False)
        told = json.loads(ran.out)
        assert (told["index"], told["state"]) == (index, {"cards": cards, "seen": index})
        assert (told["entries"], told["hlc"] != "") == (index % 2 if index < 5 else 2, True)
    for args, reason in (
        (["--to-index", "7"], "there is no index 7 yet, the last is 6"),
        (["--to-index", "1"], "3"),
        (["--at", "1990-01-01T00:00:00Z"], "3"),
    ):
        ran = swoosh("replay", var, "--machine", NAME, *args)
        assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
        assert reason in ran.err


def test_replay_verifies(swoosh: Command, var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each snapshot is what its entries lead to; where `apply` is another now, that is told."""
    ran = swoosh("replay", var, "--machine", NAME, "--verify")
    assert (ran.code, ran.err) == (0, "")
    assert re.fullmatch(r"ok: \d entries folded, and each snapshot is what they lead to\n", ran.out)
    assert set(json.loads(swoosh("replay", var, "--machine", NAME, "--verify", "--json").out)) == {"entries"}
    monkeypatch.setenv("BOARD_BENT", "1")
    ran = swoosh("replay", var, "--machine", NAME, "--verify")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert "state.seen" in ran.err


def test_what_apply_raises(swoosh: Command, var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a program's own function raises is told by its class and its place, without what it says."""
    monkeypatch.setenv("BOARD_BROKEN", "1")
    ran = swoosh("replay", var, "--machine", NAME)
    assert (ran.code, ran.out) == (1, "")
    assert re.fullmatch(r"error: folding: apply failed: ValueError, at .*board_of_tests\.py:\d+\n", ran.err)


def test_replay_beside_a_service(swoosh: Command, here: Path) -> None:
    """A service at work is not disturbed, and what it has made durable is seen."""
    var = here / "var"
    states: list[dict[str, Any]] = []

    async def work() -> None:
        made, module = board(var)
        async with made:
            for number in range(3):
                await made.dispatch(module.Put("a", f"{number}"))
                ran = await to_thread.run_sync(partial(swoosh, "replay", var, "--machine", NAME, "--json"))
                states.append(json.loads(ran.out)["state"])
                ran = await to_thread.run_sync(partial(swoosh, "backup", var, here / f"copy{number}"))
                assert (ran.code, ran.err) == (0, "")

    anyio.run(work)
    assert states == [{"cards": {"a": f"{number}"}, "seen": number + 1} for number in range(3)]
    assert "seen: 1" in swoosh("replay", here / "copy0", "--machine", NAME).out


def test_replay_shows_a_bar(swoosh: Command, var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a bar shows how far it is, and standard output stays clean."""
    monkeypatch.setattr(_terminal, "Console", terminals(_terminal.Console))
    monkeypatch.setenv("TERM", "xterm")
    ran = swoosh("replay", var, "--machine", NAME, "--json")
    assert "folding" in ANSI.sub("", ran.err)
    assert json.loads(ran.out)["index"] == 6


def test_ctrl_c(swoosh: Command, var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends it as shells expect it, without a word."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_replay.Replayer, "at", interrupted)
    for args in (["replay", var, "--machine", NAME], ["diff", var, "2", "4"]):
        ran = swoosh(*args)
        assert (ran.code, ran.out, ran.err) == (130, "", "")


def test_ctrl_c_ends_what_is_at_work(var: Path, here: Path) -> None:
    """Ctrl-C ends it even while a program's own function does not return."""
    (here / "stuck_of_tests.py").write_text(
        "import time\nimport board_of_tests\n"
        "def stuck(*_):\n    print('begun', flush=True)\n    time.sleep(3600)\n"
        "board_of_tests.apply = stuck\nmachine = board_of_tests.machine\n"
    )
    paths = os.pathsep.join(filter(None, [str(here), os.environ.get("PYTHONPATH"), *sys.path]))
    command = [sys.executable, "-m", "swoosh_async", "replay", str(var), "--machine", "stuck_of_tests:machine"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"},
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == b"begun\n"
            process.send_signal(signal.SIGINT)
            assert (process.wait(60), process.stderr.read()) == (130, b"")
        finally:
            process.kill()


# ---------------------------------------------------------------------- MODULE:NAME


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("board_of_tests", "give MODULE:NAME"),
        (":machine", "give MODULE:NAME"),
        ("board_of_tests:", "give MODULE:NAME"),
        ("nowhere_of_tests:machine", "there is no module nowhere_of_tests, in the current directory"),
        ("nowhere_of_tests.below:machine", "there is no module nowhere_of_tests, in"),
        ("board_of_tests.below:machine", "there is no module board_of_tests.below"),
        ("broken_of_tests:machine", r"importing it failed: no module nowhere_of_tests, at .*broken_of_tests\.py:1"),
        ("raising_of_tests:machine", r"importing it failed: KeyError: 'x', at .*raising_of_tests\.py:2"),
        ("wrong_of_tests:machine", "importing it failed: SyntaxError"),
        ("ending_of_tests:machine", "importing it failed: SystemExit"),
        ("board_of_tests:ends", "calling it with a backend failed: SystemExit"),
        ("board_of_tests:Nothing", "board_of_tests has no Nothing"),
        ("board_of_tests:live", "a NoneType; give a function"),
        ("board_of_tests:NAME", "a str; give a function"),
        ("board_of_tests:ready", "a StateMachine; give a function"),
        ("board_of_tests:later", "an async function"),
        ("board_of_tests:nothing", "it returned a NoneType, not a StateMachine"),
        ("board_of_tests:without", "calling it with a backend failed: TypeError"),
        ("..:machine", "importing it failed: "),
    ],
)
def test_what_can_be_wrong_with_it(name: str, reason: str, here: Path) -> None:
    """Each thing that can be wrong with a program's machine is told."""
    (here / "broken_of_tests.py").write_text("import nowhere_of_tests")
    (here / "raising_of_tests.py").write_text("\n{}['x']")
    (here / "wrong_of_tests.py").write_text("(")
    (here / "ending_of_tests.py").write_text("import sys\nsys.exit(0)")
    with (here / "board_of_tests.py").open("a") as file:
        file.write("NAME = 'name'\nfrom swoosh_async import MemoryBackend\nready = machine(MemoryBackend())\n")
    with pytest.raises(MachineError, match=reason) as raised:
        machine_of(name, MemoryBackend())
    assert str(raised.value).startswith(f"--machine {name}: ")


def test_where_it_is_looked_for(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the current directory too, unless Python runs with -P; and a name may have dots."""
    (here / "broken_of_tests.py").write_text(
        "import board_of_tests\nclass Service:\n    board = board_of_tests.machine"
    )
    assert isinstance(machine_of("broken_of_tests:Service.board", MemoryBackend()), StateMachine)
    for name in ("board_of_tests", "broken_of_tests"):
        del sys.modules[name]
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(_machines, "sys", SimpleNamespace(flags=SimpleNamespace(safe_path=True), path=sys.path))
    with pytest.raises(MachineError, match=r"there is no module board_of_tests$"):
        machine_of(NAME, MemoryBackend())


def test_it_is_told_in_one_line(swoosh: Command, var: Path) -> None:
    """A wrong machine is an error in one line; a missing one is wrong usage."""
    ran = swoosh("replay", var, "--machine", "nowhere_of_tests\x1b:machine")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith("error: --machine nowhere_of_tests\\x1b:machine: there is no module nowhere_of_tests")
    ran = swoosh("replay", var)
    assert ran.code == 2
    assert "--machine" in ran.err


# ---------------------------------------------------------------------- diff


def test_diff(swoosh: Command, var: Path) -> None:
    """What was added, removed and changed is shown, with its path and its values, printable and bounded."""
    ran = swoosh("diff", var, "2", "latest", "--machine", NAME, "--chars", "5")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "index 2 → index 6",
        '- state.cards.a: "one"',
        '~ state.cards.b: "two\\… → "new"',
        '+ state.cards.c: "xxxx…',
        '+ state.cards.d: ""',
        "~ state.seen: 2 → 6",
        "2 added, 1 removed, 2 changed",
    ]
    ran = swoosh("diff", var, "2", hlc_of(swoosh, var, 5), "--machine", NAME, "--most", "1")
    assert ran.out.splitlines() == [
        "index 2 → index 5",
        '- state.cards.a: "one"',
        "… and 3 more",
        "1 added, 1 removed, 2 changed",
    ]
    assert swoosh("diff", var, "3", "3", "--machine", NAME).out == "index 3 → index 3\nno difference\n"


def test_diff_as_json(swoosh: Command, var: Path) -> None:
    """One object a line, with whole values, and without what was not there."""
    ran = swoosh("diff", var, "4", "2", "--json")
    assert (ran.code, ran.err, "\x1b" in ran.out) == (0, "", False)
    assert [json.loads(line) for line in ran.out.splitlines()] == [
        {"path": "state.cards.a", "kind": "added", "new": "one"},
        {"path": "state.cards.c", "kind": "removed", "old": "x" * 300},
        {"path": "state.seen", "kind": "changed", "old": 4, "new": 2},
    ]
    assert swoosh("diff", var, "4", "2", "--json", "--most", "2").out.count("\n") == 2


def test_diff_without_a_machine(swoosh: Command, var: Path, here: Path) -> None:
    """Where a snapshot stands, no machine is needed; elsewhere the error says what to give."""
    four = hlc_of(swoosh, var, 4)
    assert swoosh("diff", var, "2", four).out.splitlines()[-1] == "1 added, 1 removed, 1 changed"
    for point in ("3", "5", "latest", hlc_of(swoosh, var, 5)):
        ran = swoosh("diff", var, "2", point)
        assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
        assert "give --machine MODULE:NAME" in ran.err
    assert "there is no index 9 yet, the last is 6" in swoosh("diff", var, "2", "9").err
    anyio.run(partial(filled, here / "journal", ()))
    assert "give --machine MODULE:NAME" in swoosh("diff", here / "journal", "0", "1").err


def test_diff_beside_damage(swoosh: Command, var: Path) -> None:
    """A damaged snapshot is told where it is needed, and is not in the way elsewhere."""
    oldest = min(var.glob("snapshot.*"))
    oldest.write_bytes(flipped(oldest.read_bytes()))
    assert "damaged: the checksum does not match" in swoosh("diff", var, "2", "4").err
    oldest.write_bytes(b"nothing")
    assert swoosh("diff", var, "4", "4").out == "index 4 → index 4\nno difference\n"
    with pytest.raises(NoMachineError):
        Replayer(FileBackend(var), None).verify()


def test_diff_of_snapshots_alone(swoosh: Command, here: Path) -> None:
    """Snapshots without a journal, of any type and schema, are compared."""
    store = SnapshotStore[Any](FileBackend(here / "var"), Any, keep=2, schema_version=3, format="msgpack")

    async def save() -> None:
        await store.save(Snapshot(state={"a b": b"\x01", 1: [None]}, last_applied_index=1))
        await store.save(Snapshot(state={"a b": b"\x02", 1: []}, last_applied_index=9))

    anyio.run(save)
    assert swoosh("diff", here / "var", "1", "latest").out.splitlines() == [
        "index 1 → index 9",
        "- state[1][0]: null",
        "~ state['a b']: 01 (1 bytes) → 02 (1 bytes)",
        "1 removed, 1 changed",
    ]


def test_diff_of_two_schemas(swoosh: Command, here: Path) -> None:
    """Snapshots of two schemas are compared as they are stored, at their indexes as at their times."""
    times = [str(Timestamp(number, 0, 0)) for number in (1, 2)]

    async def save() -> None:
        for number, time in enumerate(times, 1):
            store = SnapshotStore[Any](FileBackend(here / "var"), Any, keep=2, schema_version=number << 40)
            await store.save(Snapshot(state=[number], last_applied_index=number, last_applied_hlc=time))

    anyio.run(save)
    for points in (("1", "2"), times):
        ran = swoosh("diff", here / "var", *points)
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.splitlines() == ["index 1 → index 2", "~ state[0]: 1 → 2", "1 changed"]
    assert [kept["whole"] for kept in json.loads(swoosh("history", here / "var", "--json").out)["snapshots"]] == [
        True
    ] * 2


def test_lines_are_bounded() -> None:
    """However deep and long what differs is, a line is bounded."""
    old: Any = "a"
    new: Any = ["b"] * 100_000
    for _ in range(10_000):
        old, new = {"k\n": old}, {"k\n": new}
    (line, _), (total, _) = lines_of(differences(old, new), 10, 20)
    assert len(line) < 500
    assert line.isprintable()
    assert total == "1 changed"


# ---------------------------------------------------------------------- backup


def test_backup(swoosh: Command, var: Path, here: Path) -> None:
    """The copy holds all that is kept, and is a backend of its own; what is there already is not touched."""
    ran = swoosh("backup", var, here / "copy")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"{here}/copy: all of {var}, up to index 6\n")
    assert "the states after index 2 to 6" in ran.out
    for index in ("2", "5", "6"):
        states = [
            swoosh("replay", path, "--machine", NAME, "--json", "--to-index", index) for path in (var, here / "copy")
        ]
        first, second = (json.loads(ran.out)["state"] for ran in states)
        assert first == second
    assert swoosh("verify", here / "copy").code == 0
    before = everything(here / "copy")
    ran = swoosh("backup", var, here / "copy")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith(f"error: {here}/copy: ")
    assert everything(here / "copy") == before


@pytest.mark.parametrize("args", [["history"], ["history", "--json"], ["backup", "copy"]])
def test_nothing_can_be_written(args: list[str], var: Path, here: Path) -> None:
    """Where standard output is full, it is an error in one line."""
    command = [sys.executable, "-m", "swoosh_async", args[0], str(var), *args[1:]]
    paths = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), *sys.path]))
    with Path("/dev/full").open("wb") as full:
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment, cwd=here, check=False)
    assert (ran.returncode, ran.stderr.count(b"\n")) == (1, 1)
    assert b"No space left on device" in ran.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["replay", "x"],
        ["replay", "x", "--machine", NAME, "--to-index", "1", "--at", "2023-11-14T22:13:20Z"],
        ["replay", "x", "--machine", NAME, "--to-index", "0", "--verify"],
        ["replay", "x", "--machine", NAME, "--to-index", "-1"],
        ["replay", "x", "--machine", NAME, "--at", "noon"],
        ["diff", "x", "1"],
        ["diff", "x", "1", "noon"],
        ["diff", "x", "1", "2", "--most", "0"],
        ["backup", "x"],
        ["history"],
    ],
)
def test_wrong_usage(args: list[str], swoosh: Command) -> None:
    """Wrong usage has exit code 2."""
    ran = swoosh(*args)
    assert (ran.code, ran.out) == (2, "")

"""The command `swoosh-async`: what it shows, what it refuses, and its exit codes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import msgspec
import pytest
from rich.console import Console

from swoosh_async import FileSnapshotStore, OrchestratorState, Snapshot, SnapshotCodec, Task, Timestamp, Worker
from swoosh_async.backends.file import FileBackend
from swoosh_async.cli import _input, _terminal, main
from swoosh_async.cli._inspect import wall_time
from swoosh_async.cli._tree import Bounds, tree_of

if sys.platform == "win32":
    pytest.skip("the file store needs a POSIX system", allow_module_level=True)

STATE = OrchestratorState(
    workers={"w1": Worker("w1")}, tasks={f"task-{n:02}": Task(f"task-{n:02}", result="x" * 200) for n in range(30)}
)
HLC = str(Timestamp(1_700_000_000_123_456_789, 5, 7))
SNAPSHOT = Snapshot(state=STATE, last_applied_hlc=HLC, last_applied_index=42)
FORMATS = [("json", None), ("json", "zstd"), ("msgpack", None), ("msgpack", "zstd")]
GO = b'{"last_applied_index": 18446744073709551615,\n "note": 1, "state": {"a": [1, 2]}, "last_applied_hlc": "7.1@n"}'
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Ran(NamedTuple):
    """What a run of the command left behind."""

    code: int
    out: str
    err: str
    raw: bytes


Command = Callable[..., Ran]


@pytest.fixture
def swoosh(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Command:
    """Run the command with these arguments, in this process."""
    return command(monkeypatch, capsysbinary)


def command(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Command:
    """What runs the command with its arguments, in this process."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def run(*args: str | Path, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "argv", ["swoosh-async", *map(str, args)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsysbinary.readouterr()
        code = ended.value.code
        return Ran(code if isinstance(code, int) else 0, out.decode(errors="replace"), err.decode(), out)

    return run


def python(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run this Python on the same package as the tests."""
    here = ["-P"] if sys.flags.safe_path else []
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "dumb", **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, *here, *args], capture_output=True, text=True, check=False, env=environment, **options
    )


def encoded(snapshot: Snapshot[Any] = SNAPSHOT, state_type: Any = OrchestratorState, **options: Any) -> bytes:
    """A snapshot's bytes."""
    return b"".join(SnapshotCodec(state_type, **options).encode(snapshot))


def written(path: Path, data: bytes) -> Path:
    """The path, with that file there."""
    path.write_bytes(data)
    return path


def flipped(data: bytes) -> bytes:
    """The bytes, one bit in their midst changed."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def resealed(data: bytes, old: bytes, new: bytes) -> bytes:
    """A JSON snapshot, edited, with a checksum that matches again."""
    start = len(b'{"checksum":"sha256:')
    before, after = data[:start], data[start + 64 :].replace(old, new, 1)
    return before + hashlib.sha256(before + after).hexdigest().encode() + after


def fact(ran: Ran, name: str) -> str:
    """The value that `inspect` shows beside a name."""
    (value,) = re.findall(rf"^{name:16}(.*)$", ran.out, re.MULTILINE)
    return value


# ---------------------------------------------------------------------- inspect


@pytest.mark.parametrize(("wire", "compression"), FORMATS)
def test_inspect_shows_the_facts(wire: str, compression: str | None, swoosh: Command, tmp_path: Path) -> None:
    """Every format is recognised by its content, and the facts beside the state are shown."""
    data = encoded(format=wire, compression=compression)
    ran = swoosh("inspect", written(tmp_path / "snapshot", data))
    assert (ran.code, ran.err) == (0, "")
    assert fact(ran, "format") == wire
    assert fact(ran, "compression") == (compression or "none")
    assert fact(ran, "format version") == "1"
    assert fact(ran, "index") == "42"
    assert fact(ran, "hlc") == HLC
    assert fact(ran, "wall time") == "2023-11-14T22:13:20.123456789Z (logical 5, node 7)"
    assert fact(ran, "size") == f"{len(data):,} bytes"
    assert fact(ran, "schema version") == "1"
    assert fact(ran, "checksum") == "verified"
    assert f"sha256:{fact(ran, 'sha256')}".encode() in data


def test_inspect_shows_the_state(swoosh: Command, tmp_path: Path) -> None:
    """The state is a tree that says how much of it is left out, and shows more where more is asked for."""
    path = written(tmp_path / "snapshot.json", encoded())
    ran = swoosh("inspect", path)
    assert "└── tasks {30}" not in ran.out
    assert "├── tasks {30}\n" in ran.out
    assert "… and 20 more" in ran.out
    assert 'result: "' + "x" * 80 + '…"' in ran.out
    assert "task-29" not in ran.out
    more = swoosh("inspect", path, "--children", "30", "--chars", "200")
    assert "… and" not in more.out
    assert 'result: "' + "x" * 200 + '"' in more.out
    assert "task-29 {8}" in more.out


def test_inspect_a_file_of_the_go_package(swoosh: Command, tmp_path: Path) -> None:
    """Three keys in any order, and no checksum: it is shown, and said to be unverified; its timestamp is foreign."""
    ran = swoosh("inspect", written(tmp_path / "snapshot.json", GO))
    assert ran.code == 0
    assert fact(ran, "checksum") == "none (unverified)"
    assert fact(ran, "format version") == "none (as the Go package writes)"
    assert fact(ran, "index") == "18446744073709551615"
    assert (fact(ran, "hlc"), fact(ran, "wall time")) == ("7.1@n", "foreign")
    assert "a [2]" in ran.out


def test_inspect_standard_input(swoosh: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """``-`` is standard input, bounded as a file is."""
    data = encoded(format="msgpack")
    ran = swoosh("inspect", "-", stdin=data)
    assert (ran.code, fact(ran, "index")) == (0, "42")
    monkeypatch.setattr(_input, "MAX_FILE_BYTES", len(data) - 1)
    ran = swoosh("inspect", "-", stdin=data)
    assert (ran.code, ran.out) == (1, "")
    assert "standard input: more where max_file_bytes allows" in ran.err


def test_inspect_any_type_and_schema(swoosh: Command, tmp_path: Path) -> None:
    """The state's type need not be known, and its schema version may be any."""
    snapshot = Snapshot(state=[1, {"deep": [True, None, 1.5]}])
    ran = swoosh("inspect", written(tmp_path / "s", encoded(snapshot, list[Any], schema_version=7, compression="zstd")))
    assert ran.code == 0
    assert (fact(ran, "schema version"), fact(ran, "hlc"), fact(ran, "wall time")) == ("7", "none", "none")
    assert [line.lstrip("│└├─ ") for line in ran.out.splitlines()[-6:]] == [
        "0: 1",
        "1 {1}",
        "deep [3]",
        "0: true",
        "1: null",
        "2: 1.5",
    ]


def test_inspect_a_backend(swoosh: Command, tmp_path: Path) -> None:
    """A directory is a `FileBackend`; one without a snapshot in it says so."""
    FileBackend(tmp_path / "var").put(SnapshotCodec(OrchestratorState).encode(SNAPSHOT), keep=1, allow_rollback=False)
    ran = swoosh("inspect", tmp_path / "var")
    assert (ran.code, fact(ran, "index")) == (0, "42")
    ran = swoosh("inspect", tmp_path)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"error: {tmp_path}: a directory without a FileBackend's snapshot; name the file\n"


def test_inspect_what_is_damaged(swoosh: Command, tmp_path: Path) -> None:
    """A damaged snapshot is not shown; the reason is, and what older generations there are."""
    store = FileSnapshotStore(tmp_path / "snapshot.json", keep=2)

    async def save_two() -> None:
        await store.save(SNAPSHOT)
        await store.save(msgspec.structs.replace(SNAPSHOT, last_applied_index=43))

    anyio.run(save_two)
    path = tmp_path / "snapshot.json"
    data = flipped(path.read_bytes())
    path.unlink()
    ran = swoosh("inspect", written(path, data))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"error: {path}: damaged: the checksum does not match")
    assert "older generations beside it: snapshot.json.0000000002-" in ran.err
    path.unlink()
    assert f"{path}: not found; older generations exist: snapshot.json.0000000002-" in swoosh("inspect", path).err


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "not found"),
        ("missing/", "not found"),
        ("fifo", "not a regular file"),
        ("empty", "damaged: the file is empty"),
        ("text", "damaged: not a snapshot"),
        ("text/below", "Not a directory"),
        ("newer", "format 2 found, 1 supported"),
        ("below", "schema version 0 found"),
        ("bomb", "max_file_bytes"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "verify", "export"])
def test_refusals(command: str, name: str, reason: str, swoosh: Command, tmp_path: Path) -> None:
    """What cannot be read is an error in one line, with exit code 1, in every command; nothing hangs or is shown."""
    os.mkfifo(tmp_path / "fifo")
    written(tmp_path / "empty", b"")
    written(tmp_path / "text", b"#!/bin/sh\n")
    written(tmp_path / "newer", resealed(encoded(), b'"format":1', b'"format":2'))
    written(tmp_path / "below", resealed(encoded(), b'"schema_version":1', b'"schema_version":0'))
    os.truncate(written(tmp_path / "bomb", b""), 1 << 40)
    ran = swoosh(command, f"{tmp_path}/{name}")
    if (command, name) in {("verify", "below"), ("export", "below")}:
        assert ran.code == 0  # every byte is as it was written, whatever it says of its schema
        return
    assert ran.code == 1
    told = ran.out if command == "verify" else ran.err
    assert reason in told
    assert len(told.splitlines()) == 1
    assert command == "verify" or ran.out == ""


def test_inspect_escapes(swoosh: Command, tmp_path: Path) -> None:
    """What is in a file, or in its name, does not steer the terminal."""
    snapshot = Snapshot(state={"k\x1b[2J": "v\x1b]0;title\x07", "[red]": "[/]"}, last_applied_hlc="\x9b31m")
    path = written(tmp_path / "\x1b[1mbold", encoded(snapshot, dict[str, str]))
    ran = swoosh("inspect", path)
    assert ran.code == 0
    assert not set(ran.out) & {"\x1b", "\x07", "\x9b"}
    assert 'k\\x1b[2J: "v\\x1b]0;title\\x07"' in ran.out
    assert '[red]: "[/]"' in ran.out
    assert "\x1b" not in swoosh("verify", path, tmp_path / "\x1b[1mmissing").out


def test_inspect_on_an_ascii_terminal(tmp_path: Path) -> None:
    """Where the output knows only ASCII, it is shown all the same."""
    path = written(tmp_path / "snapshot.json", encoded(Snapshot(state={"ä": "…" * 100}), dict[str, str]))
    ran = python("-m", "swoosh_async", "inspect", str(path), env={"PYTHONIOENCODING": "ascii"})
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "\\xe4" in ran.stdout


@pytest.mark.parametrize(
    ("hlc", "shown"),
    [
        ("", "none"),
        (str(Timestamp(0)), "1970-01-01T00:00:00.000000000Z (logical 0, node 0)"),
        (str(Timestamp(2**64 - 1, 1, 2)), "2554-07-21T23:34:33.709551615Z (logical 1, node 2)"),
        (HLC.upper(), "foreign"),
        ("1700000000", "foreign"),
    ],
)
def test_wall_time(hlc: str, shown: str) -> None:
    """A timestamp of this package has a wall time; any other text is foreign."""
    assert wall_time(hlc) == shown


def test_tree_is_bounded() -> None:
    """A tree is bounded in its breadth, its depth and in all, and says at each bound what is left out."""

    def lines(value: Any, **bounds: Any) -> list[str]:
        shown = io.StringIO()
        tree = tree_of("state", value, Bounds(**{"children": 10, "chars": 10, "nodes": 100} | bounds))
        Console(file=shown, width=200).print(tree)
        return [line.strip("│└├─ \xa0") for line in shown.getvalue().splitlines()]

    assert lines([0, 1, 2], children=2) == ["state [3]", "0: 0", "1: 1", "… and 1 more"]
    assert lines([[[1]]], depth=2) == ["state [1]", "0 [1]", "0 [1]", "… and 1 more"]
    wide = lines({"a": [1, 2, 3], "b": {}, "c": ()}, nodes=4)
    assert wide == ["state {3}", "a [3]", "0: 1", "… and 2 more", "b {}", "c []"]
    deep: Any = 0
    for _ in range(5000):
        deep = [deep]
    assert len(lines(deep)) == 14
    assert lines({"x" * 99: "y" * 99, b"k": b"z" * 99, "": 2**70})[1:] == [
        "x" * 10 + '…: "' + "y" * 10 + '…"',
        f"b'k': {'7a' * 5}… (99 bytes)",
        '"": 1180591620…',
    ]


# ---------------------------------------------------------------------- verify


def test_verify(swoosh: Command, tmp_path: Path) -> None:
    """Each path has its line; one that is damaged or cannot be read makes the exit code 1."""
    good = written(tmp_path / "good", encoded(compression="zstd", schema_version=3))
    go = written(tmp_path / "go", GO)
    bad = written(tmp_path / "bad", flipped(encoded()))
    ran = swoosh("verify", good, go, bad, tmp_path / "missing", "-", stdin=encoded())
    assert (ran.code, ran.err) == (1, "")
    assert ran.out.splitlines() == [
        f"{good}: ok",
        f"{go}: ok: it decodes, but carries no checksum to verify it by",
        f"{bad}: damaged: the checksum does not match: the file was damaged, cut off or edited",
        f"{tmp_path}/missing: unreadable: not found",
        "-: ok",
    ]
    assert swoosh("verify", good, go).code == 0


@pytest.mark.parametrize(("wire", "compression"), FORMATS)
def test_verify_finds_every_flipped_byte(wire: str, compression: str | None, swoosh: Command, tmp_path: Path) -> None:
    """Damage is found wherever it is."""
    data = encoded(Snapshot(state=OrchestratorState(), last_applied_index=1), format=wire, compression=compression)
    paths = [
        written(tmp_path / f"{at}", data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
        for at in range(0, len(data), 7)
    ]
    ran = swoosh("verify", *paths)
    assert ran.code == 1
    assert all(": damaged: " in line for line in ran.out.splitlines())
    assert len(ran.out.splitlines()) == len(paths)


def test_verify_a_legacy_file_that_does_not_decode(swoosh: Command, tmp_path: Path) -> None:
    """Without a checksum, a file is at least decoded."""
    broken = GO.replace(b"[1, 2]", b'"\xff"')
    ran = swoosh("verify", written(tmp_path / "go", broken))
    assert ran.code == 1
    assert "damaged" in ran.out


def test_verify_standard_input_that_is_closed(swoosh: Command) -> None:
    """Standard input may be closed, or empty."""
    assert "damaged: the file is empty" in swoosh("verify", "-").out
    ran = python("-c", "import sys, os; sys.stdin = None; from swoosh_async.cli import main; main()", "verify", "-")
    assert (ran.returncode, ran.stderr) == (1, "")
    assert ran.stdout.startswith("-: unreadable: read standard input: it is closed")


def test_long_work_shows_a_bar(swoosh: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Reading much shows a bar on standard error, on a terminal that can, and standard output stays clean."""
    path = written(tmp_path / "snapshot", encoded())
    monkeypatch.setattr(_terminal, "_LONG_BYTES", 1)
    assert swoosh("verify", path).err == ""
    monkeypatch.setattr(_terminal, "Console", terminals(_terminal.Console))
    assert swoosh("verify", path).err == ""
    monkeypatch.setenv("TERM", "xterm")
    ran = swoosh("verify", path)
    assert f"reading {path}" in ANSI.sub("", ran.err).replace("\n", "")
    assert ran.out == f"{path}: ok\n"
    monkeypatch.setattr(_terminal, "_LONG_BYTES", 1 << 20)
    assert swoosh("verify", path).err == ""


def terminals(console: Callable[..., Any]) -> Callable[..., Any]:
    """Consoles of which those on standard error are terminals."""

    def make(*, stderr: bool = False, width: int | None = None, **options: Any) -> Any:
        return console(stderr=stderr, force_terminal=stderr, width=300 if stderr else width, **options)

    return make


# ---------------------------------------------------------------------- export


@pytest.mark.parametrize(("wire", "compression"), FORMATS)
def test_export(wire: str, compression: str | None, swoosh: Command, tmp_path: Path) -> None:
    """A snapshot goes to standard output as it is stored, from a path or from standard input."""
    data = encoded(format=wire, compression=compression, schema_version=2)
    ran = swoosh("export", written(tmp_path / "snapshot", data))
    assert (ran.code, ran.err, ran.raw) == (0, "", data)
    assert swoosh("export", "-", stdin=data).raw == data
    ran = swoosh("export", "-", stdin=flipped(data))
    assert (ran.code, ran.raw) == (1, b"")


def test_export_spares_the_terminal(swoosh: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Bytes that are no text are not sent to a terminal."""
    packed = written(tmp_path / "packed", encoded(format="msgpack"))
    text = written(tmp_path / "text", encoded())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    ran = swoosh("export", packed)
    assert (ran.code, ran.out) == (1, "")
    assert "not text" in ran.err
    assert swoosh("export", text).raw == text.read_bytes()


def test_nobody_reads_the_output(tmp_path: Path) -> None:
    """Where the reader of a pipe has gone, the command ends without a traceback."""
    written(tmp_path / "snapshot", encoded(Snapshot(state=["x" * 99] * 3000), list[str]))
    for command in ("export", "inspect --children 3000"):
        here = "-P" if sys.flags.safe_path else ""
        line = f"{sys.executable} {here} -m swoosh_async {command} {tmp_path}/snapshot | true"
        ran = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
        assert "Traceback" not in ran.stderr


# ---------------------------------------------------------------------- the command itself


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra(missing: str) -> None:
    """Without the extra's libraries the command says what to install, with exit code 2."""
    ran = python("-c", f"import sys; sys.modules[{missing!r}] = None; from swoosh_async.cli import main; main()")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.splitlines()[-1].endswith("pip install 'swoosh-async[cli]'")
    assert len(ran.stderr.splitlines()) == 1


def test_other_missing_modules_are_told() -> None:
    """Another module that is missing is not blamed on the extra."""
    ran = python("-c", "import sys; sys.modules['aiofiles'] = None; from swoosh_async.cli import main; main()")
    assert ran.returncode == 1
    assert "ModuleNotFoundError: import of aiofiles halted" in ran.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), ["inspect", "verify", "journal", "history", "replay", "diff", "backup", "export", "demo", "--version"]),
        (("inspect",), ["PATH", "--children", "--chars", "standard input"]),
        (("verify",), ["PATH", "exit with code 1"]),
        (("journal",), ["DIR", "--from", "--to", "--follow", "--json", "--chars"]),
        (("history",), ["DIR", "--json"]),
        (("replay",), ["DIR", "--machine", "MODULE:NAME", "--to-index", "--at", "--verify", "--json"]),
        (("diff",), ["DIR", "--machine", "--most", "--chars", "--json", "latest"]),
        (("backup",), ["DIR", "TO", "new, or empty"]),
        (("export",), ["PATH", "standard output"]),
        (("demo",), ["DIR", "three times"]),
    ],
)
def test_help(args: tuple[str, ...], words: list[str], swoosh: Command) -> None:
    """Each command explains itself, and hides what is for tests only."""
    ran = swoosh(*args, "--help")
    text = " ".join(ANSI.sub("", ran.out).replace("│", " ").split())
    assert ran.code == 0
    assert [word for word in words if word not in text] == []
    assert "--source" not in text


def test_wrong_usage(swoosh: Command) -> None:
    """Wrong usage has exit code 2."""
    for args in (
        ["inspect"],
        ["verify"],
        ["nonsense"],
        ["inspect", "x", "--children", "0"],
        ["journal"],
        ["journal", "x", "--from", "0"],
        ["journal", "x", "--from", "3", "--to", "2"],
    ):
        assert swoosh(*args).code == 2


def test_python_dash_m() -> None:
    """`python -m swoosh_async` is the command."""
    ran = python("-m", "swoosh_async", "--version")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.fullmatch(r"swoosh-async (\d+\.\d+.*|\(not installed\))\n", ran.stdout)


def test_output_is_json_by_content(tmp_path: Path) -> None:
    """What `export` writes in a pipe is the file, which is JSON by default."""
    path = written(tmp_path / "snapshot.json", encoded())
    ran = python("-m", "swoosh_async", "export", str(path))
    assert json.loads(ran.stdout)["last_applied_index"] == 42

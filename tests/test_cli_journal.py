"""The command on a backend's directory: a journal's entries, what stands there, and whether it is whole."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import msgspec
import pytest
from rich.cells import cell_len
from rich.console import Console

from swoosh_async import FileSnapshotStore, HybridLogicalClock, Snapshot, Timestamp, _pages
from swoosh_async.backends.base import Batch, Index
from swoosh_async.backends.file import FileBackend, _segment
from swoosh_async.backends.file._frames import Seed, frame_bytes, read_segment_header
from swoosh_async.backends.file._survey import Survey
from swoosh_async.cli import _journal, _terminal
from swoosh_async.cli._events import Opaque, compact, json_line, plain
from swoosh_async.cli._outlet import Outlet
from swoosh_async.cli._reading import ReadingDisk
from swoosh_async.cli._verify import verdicts
from swoosh_async.codec import EventCodec
from swoosh_async.errors import BackendError, CorruptJournalError
from swoosh_async.journal import Journal

from .test_cli import ANSI, Command, Ran, command, fact, terminals

if sys.platform == "win32":
    pytest.skip("the file backend needs a POSIX system", allow_module_level=True)

WALL_NS = 1_700_000_000_123_456_789
WALL = "2023-11-14T22:13:20.123456789Z"
SEGMENT_BYTES = 4096
LONGEST_S = 20.0


class Key(msgspec.Struct, frozen=True):
    """A key that only its own type can hold."""

    n: int


@pytest.fixture
def swoosh(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Command:
    """Run the command with these arguments, in this process."""
    return command(monkeypatch, capsysbinary)


def filled(path: Path, *batches: Sequence[Any], event_type: Any = Any, before: int = 0, **options: Any) -> Path:
    """The path, with a journal there that has these batches more, and the entries before an index truncated."""

    async def fill() -> None:
        backend = FileBackend(path, **{"segment_bytes": SEGMENT_BYTES} | options)
        clock = HybridLogicalClock(7, time_ns=lambda: WALL_NS)
        async with Journal(backend, event_type, clock=clock) as journal:
            for batch in batches:
                await journal.append_many(batch)
            if before:
                await journal.truncate_before(before)

    anyio.run(fill)
    return path


def appended(path: Path, data: bytes, count: int = 1) -> None:
    """A batch of these very bytes is added to the journal there."""
    backend = FileBackend(path)
    claim = backend.claim()
    try:
        backend.append(Batch(Index(claim.bounds.last + 1), count, claim.epoch, data))
    finally:
        backend.release()


def segment_of(path: Path, base: int = 1) -> Path:
    """The segment of that base."""
    return path / f"journal.{base:020d}"


def changed(path: Path, at: int, data: bytes | None = None) -> None:
    """Other bytes stand in the file, or one bit is flipped."""
    with path.open("r+b") as file:
        file.seek(at)
        old = file.read(1)
        file.seek(at)
        file.write(bytes([old[0] ^ 1]) if data is None else data)


def everything(path: Path) -> dict[str, Any]:
    """Each file there: its content, its times, its permissions."""
    return {
        file.name: (file.read_bytes(), (facts := file.stat()).st_mtime_ns, facts.st_ctime_ns, facts.st_mode)
        for file in path.iterdir()
    }


def events_of(ran: Ran) -> list[Any]:
    """The events that were shown as JSON."""
    return [json.loads(line)["event"] for line in ran.out.splitlines()]


@contextmanager
def started(*args: str | Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The command, running in a process of its own, which is ended with the block."""
    here = ["-P"] if sys.flags.safe_path else []
    line = [sys.executable, *here, "-m", "swoosh_async", *map(str, args)]
    pipe = subprocess.PIPE
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONUNBUFFERED": ""}
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # who runs us in the background may have it ignored
    try:
        process = subprocess.Popen(line, stdout=pipe, stderr=pipe, env=environment, **options)
    finally:
        signal.signal(signal.SIGINT, before)
    timer = threading.Timer(LONGEST_S, process.kill)
    timer.start()
    try:
        with process:
            yield process
    finally:
        timer.cancel()
        process.kill()


# ---------------------------------------------------------------------- journal: what is shown


def test_a_table(swoosh: Command, tmp_path: Path) -> None:
    """Each entry is a line: its index, its time in UTC with the logical step, its event as a short text."""
    filled(tmp_path, [{"type": "Added", "id": "a", "n": [1, None, True, 0.5]}, "done"], [b"\x00\xff", {}])
    ran = swoosh("journal", tmp_path)
    assert (ran.code, ran.err) == (0, "")
    assert [line.rstrip() for line in ran.out.splitlines()] == [
        "   index  time (UTC) +logical                   event",
        f'       1  {WALL} +0     {{id: "a", n: [1, null, true, 0.5], type: "Added"}}',
        f'       2  {WALL} +1     "done"',
        f"       3  {WALL} +2     00ff (2 bytes)",
        f"       4  {WALL} +3     {{}}",
    ]


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        ([], range(3, 9)),
        (["--from", "3"], range(3, 9)),
        (["--from", "5", "--to", "6"], range(5, 7)),
        (["--to", "4"], range(3, 5)),
        (["--to", "2"], []),
        (["--from", "8", "--to", "99"], [8]),
        (["--from", "9"], []),
        (["--from", "4", "--to", "4", "--follow"], [4]),
    ],
)
def test_a_part(args: list[str], shown: Sequence[int], swoosh: Command, tmp_path: Path) -> None:
    """From and to are indexes, both included; without them it is all that is kept."""
    filled(tmp_path, [1, 2, 3], [4, 5], [6, 7, 8], before=3)
    ran = swoosh("journal", tmp_path, "--json", *args)
    assert (ran.code, ran.err) == (0, "")
    assert events_of(ran) == list(shown)


def test_json(swoosh: Command, tmp_path: Path) -> None:
    """A line of JSON has the index, the timestamp as text and the event, as msgspec renders what JSON has not."""
    at = datetime(2024, 1, 2, 3, 4, 5, 6, UTC)
    filled(tmp_path, [{"at": at, "data": b"\x00\xff"}, "ä", 2**64 - 1, {1: -1}])
    ran = swoosh("journal", tmp_path, "--json")
    assert ran.out.splitlines() == [
        f'{{"index":{n},"hlc":"{Timestamp(WALL_NS, n - 1, 7)}","event":{event}}}'
        for n, event in enumerate(
            ['{"at":"2024-01-02T03:04:05.000006Z","data":"AP8="}', '"ä"', "18446744073709551615", '{"1":-1}'], 1
        )
    ]


def test_events_that_json_has_not() -> None:
    """Keys that JSON has not become text, an extension an object, and what only its type can hold stays bytes."""

    def shown(packed: bytes) -> Any:
        line = json_line(1, Timestamp(0), plain(msgspec.Raw(packed)))
        return json.loads(line)["event"]

    assert shown(b"\x83\x92\x01\xa1a\x02\xc0\x03\xc3\x91\x04") == {'[1,"a"]': 2, "null": 3, "true": [4]}
    assert shown(msgspec.msgpack.encode([{1.5: {(1,): b"\xff"}}])) == [{"1.5": {"[1]": "/w=="}}]
    assert shown(msgspec.msgpack.encode(msgspec.msgpack.Ext(5, b"\xff"))) == {"ext": 5, "data": "/w=="}
    assert shown(msgspec.msgpack.encode({Key(1): 2})) == {"msgpack": "gYGhbgEC"}
    with pytest.raises(ValueError, match="utf-8"):
        plain(msgspec.Raw(b"\xa1\xff"))


def test_it_is_utf8_on_an_ascii_terminal(tmp_path: Path) -> None:
    """JSON is UTF-8 whatever the terminal is; the table escapes what its encoding has not."""
    filled(tmp_path, ["ä"])
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for args, shown in ((["--json"], '"ä"}\n'.encode()), ([], b'"\\xe4"\n')):
        line = [sys.executable, "-m", "swoosh_async", "journal", str(tmp_path), *args]
        ran = subprocess.run(line, capture_output=True, check=True, env=environment, timeout=LONGEST_S)
        assert ran.stdout.endswith(shown)


def test_it_does_not_steer_the_terminal(swoosh: Command, tmp_path: Path) -> None:
    """Control characters in events are escaped, in a table and in JSON, which still says what they were."""
    text = "\x1b[2J\x07\x7f\x9b\u202e\u2028\U000e0001"
    filled(tmp_path, [{text: text}, text])
    for args in ([], ["--json"]):
        ran = swoosh("journal", tmp_path, *args)
        assert all(c.isprintable() for c in ran.out.replace("\n", ""))
        assert len(ran.out.splitlines()) == 3 - len(args)
    assert events_of(ran) == [{text: text}, text]


def test_a_line_is_as_wide_as_the_terminal(swoosh: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a terminal no line is wider than it, also with wide characters; elsewhere an event has a bound of its own."""
    filled(tmp_path, ["x" * 500, "漢" * 500, "short"])
    widths = [cell_len(line) for line in swoosh("journal", tmp_path).out.splitlines()]
    assert max(widths) < 400
    assert [len(line) for line in swoosh("journal", tmp_path, "--chars", "5").out.splitlines()[1:]] == [54, 54, 54]
    monkeypatch.setattr(_journal, "Console", lambda: Console(force_terminal=True, width=80))
    widths = [cell_len(line) for line in swoosh("journal", tmp_path).out.splitlines()]
    assert max(widths) <= 80
    assert max(widths[1:3]) >= 79


def test_compact_is_bounded() -> None:
    """A text is as long as allowed, in depth and breadth, and no more of the event is looked at than is shown."""
    assert compact({"a": [1, {}], "": ()}, 99) == '{a: [1, {}], "": []}'
    assert compact({"abc": "def"}, 8) == '{abc: "d…'
    assert len(compact(["x" * 1000] * 1000, 50)) == 51
    deep: Any = 0
    for _ in range(500):
        deep = [deep]
    assert compact(deep, 9999) == "[" * 12 + "…" + "]" * 12
    assert compact(msgspec.msgpack.Ext(3, b"\x01" * 99), 9) == "ext 3: 01…"
    assert compact(Opaque(b"\x01\x02"), 99) == "msgpack 0102 (2 bytes)"

    class Long(list[int]):
        def __iter__(self) -> Iterator[int]:
            yield from range(100)
            raise AssertionError("looked too far")

    assert compact(Long(range(1000)), 20).endswith("…")


def test_it_streams(swoosh: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A page is read and shown before the next is read."""
    filled(tmp_path, *([n] * 3 for n in range(5)))
    steps: list[str] = []
    read, write = _pages.Pages.read, Outlet.write
    monkeypatch.setattr(_pages, "PAGE_BYTES", 1)
    monkeypatch.setattr(_pages.Pages, "read", lambda *args: [steps.append("read"), read(*args)][1])
    monkeypatch.setattr(Outlet, "write", lambda *args: [steps.append("write"), write(*args)][1])
    assert len(events_of(swoosh("journal", tmp_path, "--json"))) == 15
    assert steps == ["read", "write"] * 5


# ---------------------------------------------------------------------- journal: how it goes on and ends


def test_follow_and_ctrl_c(tmp_path: Path) -> None:
    """What a writer appends is shown as it comes; Ctrl-C ends it with 130, and nothing is said."""
    filled(tmp_path, [1])
    with started("journal", tmp_path, "--follow", "--json") as process:
        assert process.stdout is not None
        for n in (1, 2, 3):
            assert json.loads(process.stdout.readline())["event"] == n
            filled(tmp_path, [n + 1])
        assert json.loads(process.stdout.readline())["index"] == 4
        process.send_signal(signal.SIGINT)
        assert process.communicate() == (b"", b"")
    assert process.returncode == 130


def test_follow_up_to_an_index(tmp_path: Path) -> None:
    """Where it has a last index, it ends when that has come."""
    filled(tmp_path, [1])
    with started("journal", tmp_path, "-f", "--to", "2") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"   index")
        process.stdout.readline()
        filled(tmp_path, [2, 3])
        out, err = process.communicate()
    assert (process.returncode, out.count(b"\n"), err) == (0, 1, b"")


def test_a_quiet_follower_notices_that_nobody_reads(tmp_path: Path) -> None:
    """Where nothing comes, and the reader of the pipe goes, it ends all the same."""
    filled(tmp_path, [1])
    with started("journal", tmp_path, "--follow", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("end", ["close", "ctrl-c"])
def test_much_that_nobody_reads(end: str, tmp_path: Path) -> None:
    """In the midst of writing to a full pipe it ends at once, when the reader goes and at Ctrl-C."""
    filled(tmp_path, *[["x" * 1000]] * 200, segment_bytes=1 << 20)  # one at a time, through a buffer
    with started("journal", tmp_path, "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        os.read(process.stdout.fileno(), 100)
        if end == "close":
            process.stdout.close()
        else:
            process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b""
        assert process.wait() == (0 if end == "close" else 130)


def test_nothing_is_changed_beside_a_writer(swoosh: Command, tmp_path: Path) -> None:
    """Beside a writer that holds the lock, every command works, and leaves every byte and every time as it was."""
    anyio.run(FileSnapshotStore(tmp_path / "snapshot", Any, keep=2).save, Snapshot(state=[1]))
    filled(tmp_path, [1, 2], [3])
    backend = FileBackend(tmp_path)
    backend.claim()
    before = everything(tmp_path)
    for args in (["journal", tmp_path], ["inspect", tmp_path], ["verify", tmp_path], ["export", tmp_path]):
        assert swoosh(*args).code == 0
    assert everything(tmp_path) == before
    backend.release()


def test_a_reading_disk_refuses(tmp_path: Path) -> None:
    """With the disk of those who look, nothing can be made."""
    with pytest.raises(BackendError, match="Read-only"):
        FileBackend(tmp_path / "new", disk=ReadingDisk()).claim()
    with pytest.raises(BackendError, match="Read-only"):
        FileBackend(tmp_path, disk=ReadingDisk()).claim()
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- journal: what goes wrong


def test_errors_are_one_line(swoosh: Command, tmp_path: Path) -> None:
    """What cannot be read is an error in one line, with exit code 1."""
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "empty").mkdir()
    filled(tmp_path / "kept", [1, 2], [3], before=3)
    damaged = filled(tmp_path / "damaged", [1], [2], [3])
    changed(segment_of(damaged), 512 + 128 + 70)
    filled(tmp_path / "lost", [1])
    (tmp_path / "lost" / "journal").unlink()
    appended(filled(tmp_path / "foreign", [1]), struct.pack("<QIQ", 1, 0, 0))
    for path, words in (
        (tmp_path / "missing\x1b", "no such directory"),
        (file, "not a directory"),
        (tmp_path / "empty", "a directory without a FileBackend's journal"),
        (tmp_path / "kept", "begins at index 3, 1 is kept no more"),
        (damaged, f"{segment_of(damaged)}: at byte 640, index 2: "),
        (tmp_path / "lost", "the record beside the segments is missing"),
        (tmp_path / "foreign", "index 2: "),
    ):
        ran = swoosh("journal", path, "--json", "--from", "1")
        assert ran.code == 1, path
        assert words in ran.err
        assert len(ran.err.splitlines()) == 1
        assert "\x1b" not in ran.err


# ---------------------------------------------------------------------- inspect


def test_inspect_a_journal(swoosh: Command, tmp_path: Path) -> None:
    """The facts of the journal are shown: what is kept and since when, who claimed it, and its segments."""
    path = filled(tmp_path / "var", ["x" * 1500] * 2, [1, 2], ["y" * 1500], before=2)
    filled(path)
    ran = swoosh("inspect", path)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[0] == f"{path}/journal"
    assert (fact(ran, "first index"), fact(ran, "last index"), fact(ran, "entries")) == ("2", "5", "4")
    assert fact(ran, "first entry") == f"{WALL} (logical 1, node 7)"
    assert fact(ran, "last entry") == f"{WALL} (logical 4, node 7)"
    assert fact(ran, "epoch") == "2"
    assert fact(ran, "claimed by") == f"process {os.getpid()} on {os.uname().nodename}"
    assert fact(ran, "space") == "8,192 bytes"
    assert "segments [2]\n" in ran.out
    assert f"{segment_of(path).name}: 1 to 4, 4,096 bytes, epoch 1\n" in ran.out
    assert re.search(rf"{segment_of(path, 5).name}: 5 to 5, 4,096 bytes, 2,\d+ used, epoch 1\n", ran.out)
    few = swoosh("inspect", path, "--children", "1").out
    assert "… and 1 older" in few
    assert segment_of(path).name not in few


def test_inspect_both(swoosh: Command, tmp_path: Path) -> None:
    """A snapshot and a journal in one directory are both shown, and either of them when the other is damaged."""
    filled(tmp_path, [1])
    anyio.run(FileSnapshotStore(tmp_path / "snapshot", Any).save, Snapshot(state=[1], last_applied_index=1))
    ran = swoosh("inspect", tmp_path)
    assert (ran.code, fact(ran, "index"), fact(ran, "last index")) == (0, "1", "1")
    good = (tmp_path / "snapshot").read_bytes()
    changed(tmp_path / "snapshot", 100)
    ran = swoosh("inspect", tmp_path)
    assert (ran.code, fact(ran, "last index")) == (1, "1")
    assert (
        ran.err == f"error: {tmp_path}: damaged: the checksum does not match: the file was damaged, cut off or edited\n"
    )
    (tmp_path / "snapshot").write_bytes(good)
    changed(segment_of(tmp_path), 600)
    ran = swoosh("inspect", tmp_path)
    assert (ran.code, fact(ran, "index")) == (1, "1")
    assert ran.err.startswith(f"error: {segment_of(tmp_path)}: at byte 512, index 1: ")


def test_inspect_an_empty_journal(swoosh: Command, tmp_path: Path) -> None:
    """A journal that was never written has no entries; one that is wholly truncated keeps its last index."""
    ran = swoosh("inspect", filled(tmp_path / "new"))
    assert ran.code == 0
    assert (fact(ran, "first index"), fact(ran, "last index"), fact(ran, "entries")) == ("none", "none", "0")
    assert "segments [0]" in ran.out
    ran = swoosh("inspect", filled(tmp_path / "old", [1, 2], before=3))
    assert (fact(ran, "first index"), fact(ran, "last index"), fact(ran, "last entry")) == ("none", "2", "none")
    assert swoosh("journal", tmp_path / "new").out.count("\n") == 1


def torn(path: Path) -> Path:
    """The path, with a journal there whose last batch was cut off by a crash."""
    filled(path, [1], ["x" * 2000])
    changed(segment_of(path), 1536, bytes(512))
    return path


def test_torn_tails(swoosh: Command, tmp_path: Path) -> None:
    """An unfinished batch is no damage: inspect and verify tell of it, and of its copy when it was set aside."""
    path = torn(tmp_path / "var")
    ran = swoosh("inspect", path)
    assert (ran.code, fact(ran, "last index")) == (0, "1")
    assert re.fullmatch(r"2,\d+ bytes at the end", fact(ran, "unfinished"))
    assert "set aside" not in ran.out
    ran = swoosh("verify", path)
    assert ran.code == 0
    assert re.search(r": ok: entries 1 to 1 in 1 batch; 2,\d+ bytes of an unfinished batch behind them", ran.out)
    filled(path)
    ran = swoosh("inspect", path)
    assert "unfinished" not in ran.out
    assert re.search(rf"set aside \[1\]\n.*journal\.torn-{1:020d}-\d+: 2,\d+ bytes\n", ran.out)


# ---------------------------------------------------------------------- verify


def test_verify_a_backend(swoosh: Command, tmp_path: Path) -> None:
    """Each thing that is checked has its line: the snapshot, its older generations, the record, the segments."""
    store = FileSnapshotStore(tmp_path / "snapshot", Any, keep=3)
    for index in (1, 2):
        anyio.run(store.save, Snapshot(state=[1], last_applied_index=index))
    filled(tmp_path, ["x" * 1500] * 2, [1], ["y" * 1500])
    expected = [
        f"{tmp_path}/snapshot: ok",
        f"{tmp_path}/snapshot.0000000001-00000000000000000001: ok",
        f"{tmp_path}/journal: ok: epoch 1, kept from index 1 on",
        f"{segment_of(tmp_path)}: ok: entries 1 to 3 in 2 batches",
        f"{segment_of(tmp_path, 4)}: ok: entries 4 to 4 in 1 batch",
    ]
    ran = swoosh("verify", tmp_path)
    assert (ran.code, ran.err, ran.out.splitlines()) == (0, "", expected)
    (tmp_path / "snapshot").unlink()
    changed(tmp_path / "snapshot.0000000001-00000000000000000001", 100)
    ran = swoosh("verify", tmp_path)
    assert ran.code == 1
    assert [line.partition(": ")[2].partition(":")[0] for line in ran.out.splitlines()] == [
        "unreadable", "ok", "damaged", "ok", "ok", "ok",
    ]  # fmt: skip


def test_verify_finds_every_flipped_byte(tmp_path: Path) -> None:
    """Damage is found wherever it is, in the first segment and in the last, and told with path, offset and index."""
    filled(tmp_path, ["x" * 3400], [1, "two"], [3.0], ["y" * 100])
    for segment, offsets in (
        (segment_of(tmp_path), [0, 100, 511, 512, 600, 3000]),
        (segment_of(tmp_path, 2), range(0, 512 + 3 * 128 + 64, 9)),
    ):
        for at in offsets:
            changed(segment, at)
            found = {path: verdict for path, verdict in verdicts(str(tmp_path)) if verdict.status != "ok"}
            changed(segment, at)
            assert list(found) == [str(segment)], at
            place = re.match(r"at byte (\d+), index (\d+): ", found[str(segment)].detail)
            assert place is not None
            assert 0 <= at - int(place[1]) < 4096
    assert all(verdict.status == "ok" for _, verdict in verdicts(str(tmp_path)))


def test_verify_goes_on_behind_damage(swoosh: Command, tmp_path: Path) -> None:
    """The first damage of each segment is told, and the others are checked all the same."""
    filled(tmp_path, [1], [2], [3], ["x" * 3500], ["y" * 100])
    changed(segment_of(tmp_path), 512 + 128 + 70)
    ran = swoosh("verify", tmp_path)
    assert ran.code == 1
    _, first, second, third = ran.out.splitlines()
    assert first == f"{segment_of(tmp_path)}: damaged: at byte 640, index 2: a batch is damaged or missing"
    assert second == f"{segment_of(tmp_path, 4)}: ok: entries 4 to 4 in 1 batch"
    assert ": ok: entries 5 to 5" in third
    filled(tmp_path, [6], [7])
    changed(segment_of(tmp_path, 5), 600)
    changed(segment_of(tmp_path, 5), 512 + 192 + 128 + 70)
    *others, third = swoosh("verify", tmp_path).out.splitlines()
    assert others[1:] == [first, second]
    assert third == f"{segment_of(tmp_path, 5)}: damaged: at byte 512, index 5: a batch is damaged or missing"
    changed(tmp_path / "journal", 30)
    assert swoosh("verify", tmp_path).out.splitlines() == [
        f"{tmp_path}/journal: damaged: at byte 0, index 0: the record was damaged"
    ]


def test_verify_misses_a_segment(swoosh: Command, tmp_path: Path) -> None:
    """A segment that is gone, first, middle or last, is noticed, and the others are checked."""
    for base in (1, 2, 3):
        path = filled(tmp_path / f"{base}", ["x" * 3500], ["y" * 3500], ["z" * 3500])
        segment_of(path, base).unlink()
        ran = swoosh("verify", path)
        assert ran.code == 1
        assert ran.out.count(": damaged: ") == 1
        assert len(ran.out.splitlines()) == 3


def test_verify_decodes(swoosh: Command, tmp_path: Path) -> None:
    """A batch that is whole, but holds no events, is damage; events that only their own type can hold are none."""
    path = filled(tmp_path / "keys", [{Key(1): 2}, {Key(2): 3}], event_type=dict[Key, int])
    ran = swoosh("verify", path)
    assert (ran.code, ran.out.count("; 2 of them are whole, but only their own type can hold them")) == (0, 1)
    assert "msgpack 8181a16e0102 (6 bytes)" in swoosh("journal", path).out
    codec = EventCodec[Any](Any)
    good = codec.batch(Timestamp(1), [b"\x01", b"\x02"])
    for name, data, index in (
        ("short", b"123", 2),
        ("cut", good[:-1], 2),
        ("fewer", good, 2),
        ("text", codec.batch(Timestamp(1), [b"\x01", b"\xa1\xff", b"\x01"]), 3),
        ("bytes", codec.batch(Timestamp(1), [b"\x01", b"\x02", b"\xc1"]), 2),
    ):
        path = filled(tmp_path / name, [1])
        appended(path, data, 3)
        ran = swoosh("verify", path)
        assert ran.code == 1, name
        assert f"{segment_of(path)}: damaged: at byte 640, index {index}: " in ran.out, name


@pytest.mark.parametrize(("at", "first", "count", "place"), [(512, 2, 1, (512, 1)), (640, 2, 2, (640, 2))])
def test_verify_counts(at: int, first: int, count: int, place: tuple[int, int], tmp_path: Path) -> None:
    """A whole batch that stands where another belongs, or reaches into the next segment, is damage."""
    filled(tmp_path, [1], [2], ["x" * 3500])
    segment = segment_of(tmp_path)
    seed = read_segment_header(segment.read_bytes()[:512])
    assert isinstance(seed, Seed)
    payload = EventCodec[Any](Any).batch(Timestamp(1), [b"\x01"] * count)
    changed(segment, at, frame_bytes(seed, at, epoch=1, first=first, count=count, payload=payload))
    found = [verdict.detail for path, verdict in verdicts(str(tmp_path)) if verdict.status == "damaged"]
    assert found == [f"at byte {place[0]}, index {place[1]}: a batch is damaged or missing"]


def test_verify_looks_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A batch that looks damaged because it is being written is none."""
    filled(tmp_path, [1], [2])
    changed(segment_of(tmp_path), 640 + 70)
    again = SimpleNamespace(sleep=lambda _: changed(segment_of(tmp_path), 640 + 70))
    monkeypatch.setattr(_segment, "time", again)
    assert [verdict.detail for _, verdict in verdicts(str(tmp_path))][1:] == ["entries 1 to 2 in 2 batches"]


def test_verify_shows_a_bar(swoosh: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Reading a long segment shows a bar on a terminal, and standard output stays clean."""
    filled(tmp_path, [1])
    monkeypatch.setattr(_terminal, "_LONG_BYTES", 1)
    plain_out = swoosh("verify", tmp_path)
    assert plain_out.err == ""
    monkeypatch.setattr(_terminal, "Console", terminals(_terminal.Console))
    monkeypatch.setenv("TERM", "xterm")
    ran = swoosh("verify", tmp_path)
    assert f"reading {segment_of(tmp_path)}" in ANSI.sub("", ran.err).replace("\n", "")
    assert ran.out == plain_out.out


def test_verify_beside_a_busy_writer(tmp_path: Path) -> None:
    """While a writer appends, rotates and truncates, nothing is taken for damage."""
    filled(tmp_path, [0])
    done = threading.Event()
    backend = FileBackend(tmp_path, segment_bytes=8 * SEGMENT_BYTES)
    claim = backend.claim()
    data = EventCodec[Any](Any).batch(Timestamp(1), [msgspec.msgpack.encode("x" * 700)])

    def write() -> None:
        last = claim.bounds.last
        while not done.is_set():
            last = Index(last + 1)
            backend.append(Batch(last, 1, claim.epoch, data))
            if last % 200 == 0:
                backend.truncate_before(Index(last - 100))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(20):
            assert [found for found in verdicts(str(tmp_path)) if found[1].status != "ok"] == []
    finally:
        done.set()
        writer.join(LONGEST_S)
        backend.release()
    assert FileBackend(tmp_path).bounds().last > 20


# ---------------------------------------------------------------------- the survey


def test_survey(tmp_path: Path) -> None:
    """A survey tells of each segment and each batch where it stands, and of nothing where there is nothing."""
    nothing = Survey(tmp_path / "nowhere")
    assert (nothing.record(), list(nothing.bases()), list(nothing.torn())) == (None, [], [])
    assert (nothing.segment(1), list(nothing.batches(1))) == (None, [])
    filled(tmp_path, ["x" * 3400], [2, 3], [4])
    survey = Survey(tmp_path)
    record = survey.record()
    assert record is not None
    assert (record.epoch, record.first, record.pid) == (1, 1, os.getpid())
    assert list(survey.bases()) == [1, 2]
    first, second = survey.segment(1), survey.segment(2)
    assert first is not None
    assert second is not None
    assert (first.path, first.last, first.end) == (str(segment_of(tmp_path)), 1, None)
    found = list(survey.batches(2))
    assert [(at.offset, at.batch.first, at.batch.count) for at in found] == [(512, 2, 2), (640, 4, 1)]
    assert (second.base, second.last, second.end, second.torn_bytes) == (2, 4, found[-1].end, 0)


def test_survey_of_what_goes(tmp_path: Path) -> None:
    """A segment that was truncated meanwhile is none; one that has gone otherwise is missing."""
    filled(tmp_path, ["x" * 3500], ["y" * 3500], ["z" * 3500], before=2)
    survey = Survey(tmp_path)
    assert list(survey.bases()) == [2, 3]
    assert (survey.size_of(1), survey.segment(1), list(survey.batches(1))) == (0, None, [])
    assert survey.size_of(2) == segment_of(tmp_path, 2).stat().st_size
    segment_of(tmp_path, 2).unlink()
    with pytest.raises(CorruptJournalError, match="the segment has gone") as raised:
        survey.segment(2)
    assert (raised.value.path, raised.value.index) == (str(segment_of(tmp_path, 2)), 2)

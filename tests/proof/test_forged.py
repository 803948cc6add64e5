"""Lies with a right checksum, which is no signature: they are told or change nothing, soon and in little memory."""

from __future__ import annotations

import hashlib
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from swoosh_async import FileBackend, Snapshot, SnapshotCodec, Timestamp
from swoosh_async._check import check
from swoosh_async.codec import _zstd
from swoosh_async.codec._envelope import Head
from swoosh_async.errors import CorruptJournalError, FormatVersionError, SwooshError

from ._entrances import LOOKING, WRITING, at_once, command, filled, tried
from ._forge import batch_of, forge_frame, forge_header, forge_record, forge_segment, newest, part_of

if sys.platform != "linux":
    pytest.skip("it looks at /proc to bound its memory", allow_module_level=True)

from ._limits import bounded_memory, in_time

pytestmark = pytest.mark.slow

BOUND_S = 10
MORE_BYTES = 512 << 20
TIB = 1 << 40
U64 = (1 << 64) - 1
U32 = (1 << 32) - 1
COMMANDS = (("verify",), ("inspect",), ("journal", "--json"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine's home in which nothing is wrong."""
    home = tmp_path_factory.mktemp("whole") / "home"
    filled(home)
    return home


@pytest.fixture
def home(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it; and no more memory than is needed."""
    at_once(monkeypatch)
    shutil.copytree(whole, tmp_path / "home")
    command("--help")  # what is imported for it takes room, too
    with bounded_memory(MORE_BYTES):
        yield tmp_path / "home"


def told(home: Path) -> dict[str, str]:
    """What each entrance makes of a home, by name: "ok", or the error's name; none takes long, or raises others."""
    found: dict[str, str] = {}
    for name, entrance in {**LOOKING, **WRITING}.items():
        place = home.with_name("tried")
        if home.joinpath("journal").exists() and newest(home).stat().st_size >= TIB:
            place = home  # not to be copied
        else:
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(home, place)
        shutil.rmtree(home.with_name("backup"), ignore_errors=True)
        with in_time(BOUND_S):
            outcome = tried(entrance, place)
        found[name] = type(outcome).__name__ if isinstance(outcome, SwooshError) else "ok"
    for arguments in COMMANDS:
        with in_time(BOUND_S):
            code, _, errors = command(*arguments, home)
        assert code in (0, 1), errors
        found[" ".join(arguments)] = "ok" if code == 0 else "told"
    return found


# ---------------------------------------------------------------------- the record

RECORDS = {
    "an epoch of 70 bits": ({"epoch": 1 << 70}, "CorruptJournalError"),
    "an epoch of a thousand digits": ({"epoch": 10**1000}, "CorruptJournalError"),
    "an epoch below 0": ({"epoch": -1}, "CorruptJournalError"),
    "the last epoch": ({"epoch": (1 << 63) - 1}, "FencedError"),
    "a first index of 0": ({"first": 0}, "CorruptJournalError"),
    "a first index below 0": ({"first": -5}, "CorruptJournalError"),
    "a first index of 70 bits": ({"first": 1 << 70}, "CorruptJournalError"),
    "a first index behind the last": ({"first": 1000}, "CorruptJournalError"),
    "a beginning at 0": ({"begins": 0}, "CorruptJournalError"),
    "a beginning of 70 bits": ({"begins": 1 << 70}, "CorruptJournalError"),
    "a newest segment below 0": ({"newest": -1}, "CorruptJournalError"),
    "a newest segment that is not": ({"newest": 1000}, "CorruptJournalError"),
    "a process below 0": ({"pid": -1}, "CorruptJournalError"),
    "a host that steers the terminal": ({"host": "\x1b[2J\n" * 300}, "ok"),
    "a format of 70 bits": ({"format": 1 << 70}, "FormatVersionError"),
    "another store": ({"store": "0" * 32}, "CorruptJournalError"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record(home: Path, name: str) -> None:
    """A record with numbers that nobody writes is damage, and so is one that does not fit its segments."""
    facts, expected = RECORDS[name]
    forge_record(home, **facts)
    found = told(home)
    assert found["enter a journal"] == expected, found
    if expected != "FencedError":
        assert found["read"] == expected, found
    assert "\x1b" not in "".join(command("inspect", home)[1:])


def test_a_check_reports_it(home: Path) -> None:
    """`check` gives what is wrong with a journal back, also where nothing of it can be read."""
    forge_record(home, epoch=-1)
    report = anyio.run(check, FileBackend(home), str, tuple[str, ...])
    assert (report.snapshots, report.entries) == (3, 0)  # of two files with three names: a copy has no links
    assert [type(error) for error in report.errors] == [CorruptJournalError]
    forge_record(home, epoch=1, format=2)
    report = anyio.run(check, FileBackend(home), str, tuple[str, ...])
    assert [type(error) for error in report.errors] == [FormatVersionError]


# ---------------------------------------------------------------------- segments and their batches

SEGMENTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "batches of any length": (lambda home: forge_segment(home, longest=U64), "CorruptJournalError"),
    "no batch fits": (lambda home: forge_segment(home, longest=0), "CorruptJournalError"),
    "1 TiB": (lambda home: forge_segment(home, size=TIB, length=TIB), "ok"),
    "1 TiB of batches of any length": (
        lambda home: forge_segment(home, size=TIB, length=TIB, longest=U64),
        "CorruptJournalError",
    ),
    "a batch of 4 GiB": (lambda home: forge_header(home, U32), "CorruptJournalError"),
    "a batch of 4 GiB in 1 TiB": (
        lambda home: (forge_segment(home, size=TIB, length=TIB), forge_header(home, U32)),
        "CorruptJournalError",
    ),
    "a batch of an epoch of 64 bits": (
        lambda home: forge_frame(home, batch_of("x"), epoch=U64),
        "CorruptJournalError",
    ),
    "a batch of nothing": (lambda home: forge_frame(home, batch_of("x"), count=0), "CorruptJournalError"),
    "a batch of 4 billion": (lambda home: forge_frame(home, batch_of("x"), count=U32), "CorruptJournalError"),
    "fewer than it says": (lambda home: forge_frame(home, batch_of("x"), count=2), "CorruptJournalError"),
    "more than it says": (lambda home: forge_frame(home, batch_of("x", "y")), "CorruptJournalError"),
    "a gap": (lambda home: forge_frame(home, batch_of("x"), ahead=1), "CorruptJournalError"),
    "the last index": (lambda home: forge_frame(home, batch_of("x"), first=U64), "CorruptJournalError"),
    "no bytes": (lambda home: forge_frame(home, b""), "CorruptJournalError"),
    "half a time": (lambda home: forge_frame(home, bytes(19)), "CorruptJournalError"),
    "the end of time": (
        lambda home: forge_frame(home, batch_of("x", "y", at=Timestamp(U64, U32)), count=2),
        "CorruptJournalError",
    ),
    "a length that lies": (lambda home: forge_frame(home, part_of(b"\x91\xa1x", length=U32)), "CorruptJournalError"),
    "a count that lies": (lambda home: forge_frame(home, part_of(b"\x91\xa1x", count=U32)), "CorruptJournalError"),
    "an array of 4 billion": (
        lambda home: forge_frame(home, part_of(b"\xdd\xff\xff\xff\xff", count=U32), count=U32),
        "CorruptJournalError",
    ),
    "a map of 4 billion": (lambda home: forge_frame(home, part_of(b"\x91\xdf\xff\xff\xff\xff")), "CorruptJournalError"),
    "a text of 4 GiB": (lambda home: forge_frame(home, part_of(b"\x91\xdb\xff\xff\xff\xff")), "CorruptJournalError"),
    "another type": (lambda home: forge_frame(home, part_of(b"\x91\x01")), "CorruptJournalError"),
    "a text that is none": (lambda home: forge_frame(home, part_of(b"\x91\xa2\xed\xa0")), "CorruptJournalError"),
    "a deep event": (lambda home: forge_frame(home, part_of(b"\x91" * 800 + b"\xc0")), "CorruptJournalError"),
    "something behind it": (lambda home: forge_frame(home, batch_of("x") + b"zz"), "CorruptJournalError"),
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_segment(home: Path, name: str) -> None:
    """Whatever a segment's header, a batch's or an event says, no more is believed of it than stands there."""
    forge, expected = SEGMENTS[name]
    forge(home)
    found = told(home)
    assert found["enter a journal"] == expected, found
    if expected == "ok":
        return  # and what was truncated then is missed by the machine, which is let into the same home
    assert found["enter a machine"] == expected, found
    assert found["state_at"] == found["check"] == expected, found


# ---------------------------------------------------------------------- snapshots


def sealed(inner: bytes) -> bytes:
    """A compressed snapshot that holds these zstd frames."""
    head = Head("json", "", 0, 1, compressed=True)
    return head.sealed(hashlib.sha256(head.before + inner).hexdigest()) + inner


def written(state: bytes, wire: str = "json", index: bytes = b"0") -> bytes:
    """A snapshot with this state and index, as they are."""
    codec = SnapshotCodec(None, format=wire)  # type: ignore[arg-type]
    data = b"".join(codec.encode(Snapshot(state=None)))
    if wire == "json":
        data = data.replace(b'index":0', b'index":' + index).removesuffix(b"null}") + state + b"}"
    else:
        data = data.removesuffix(b"\xc0") + state
    before, _, after = data[:20], data[20:84], data[84:]
    if wire == "msgpack":
        at = data.index(b"sha256:") + 7
        before, after = data[:at], data[at + 64 :]
    return before + hashlib.sha256(before + after).hexdigest().encode() + after


def packed(*pieces: bytes) -> bytes:
    """One zstd frame."""
    return b"".join(_zstd.compress(pieces))


ENVELOPE = b'{"format":1,"last_applied_hlc":"","last_applied_index":%d,"schema_version":1,"state":%b}'
SNAPSHOTS: dict[str, bytes] = {
    "deep": written(b"[" * 900 + b"]" * 900),
    "deeper": written(b"[" * 5000 + b"]" * 5000),
    "very deep": written(b'{"a":' * 1_000_000),
    "deep in MessagePack": written(b"\x91" * 900 + b"\xc0", "msgpack"),
    "deeper in MessagePack": written(b"\x91" * 5000 + b"\xc0", "msgpack"),
    "a number of a million digits": written(b"9" * 1_000_000),
    "a number of 4000 digits": written(b"[" + b"9" * 4000 + b"]"),
    "a number that is infinite": written(b"1e999999999"),
    "a number that is nearly 0": written(b"1e-999999999"),
    "a number with many places": written(b"0." + b"1" * 1_000_000),
    "an index of 20 digits": written(b"[]", index=b"99999999999999999999"),
    "the last index": written(b"[]", index=b"18446744073709551615"),
    "the same key, often": written(b"{" + b'"a":1,' * 100_000 + b'"a":1}'),
    "a lone surrogate": written(b'["\\ud800"]'),
    "a text that is none": written(b'["\xed\xa0\x80"]'),
    "an array of 4 billion": written(b"\xdd\xff\xff\xff\xff", "msgpack"),
    "a map of 4 billion": written(b"\xdf\xff\xff\xff\xff", "msgpack"),
    "maps of 4 billion, one in another": written(b"\xdf\xff\xff\xff\xff\xa1a" * 400, "msgpack"),
    "arrays of 65,535, one in another": written(b"\xdc\xff\xff" * 400, "msgpack"),
    "a text of 4 GiB": written(b"\xdb\xff\xff\xff\xff", "msgpack"),
    "an extension": written(b"\xc9\x00\x00\x00\x04\x01abcd", "msgpack"),
    "a time of year 292 billion": written(b"\xc7\x0c\xff" + b"\x7f" * 12, "msgpack"),
    "a map with a map as key": written(b"\x81\x80\xc0", "msgpack"),
    "two frames": sealed(packed(ENVELOPE % (0, b'["a"]')) + packed(b'["b"]')),
    "half in each of two frames": sealed(
        packed((ENVELOPE % (0, b'["a"]'))[:50]) + packed((ENVELOPE % (0, b"[]"))[50:])
    ),
    "a frame and noise": sealed(packed(ENVELOPE % (0, b'["a"]')) + bytes(range(256))),
    "a frame in a frame": sealed(packed(sealed(packed(ENVELOPE % (0, b"[]"))))),
    "an empty frame": sealed(packed(b"")),
    "skippable frames only": sealed(b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd" * 1000),
    "a skippable frame of 4 GiB": sealed(b"\x50\x2a\x4d\x18\xff\xff\xff\xffabcd"),
    "a window of 2 GiB": sealed(b"\x28\xb5\x2f\xfd\x00" + bytes([21 << 3]) + b"\x01\x00\x00"),
    "a window of 128 MiB": sealed(b"\x28\xb5\x2f\xfd\x00" + bytes([17 << 3]) + b"\x01\x00\x00"),
    "a size of 2**64": sealed(b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8 + b"\x01\x00\x00"),
    "compressed a thousand times": sealed(packed((ENVELOPE % (0, b'["%b"]'))[:-3], *[b"a" * (1 << 20)] * 16, b'"]}')),
}


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_a_snapshot(home: Path, name: str) -> None:
    """A snapshot that says what it likes is told of, or shown; and the machine comes back by an older one."""
    data = SNAPSHOTS[name]
    path = home / "snapshot"
    before = [file for file in home.glob("snapshot.0*") if file.samefile(path)]
    for file in [path, *before]:
        file.unlink()
        file.write_bytes(data)
    with in_time(BOUND_S):
        outcome = tried(LOOKING["load"], home)
    assert isinstance(outcome, SwooshError | Snapshot)
    for arguments in (
        ("verify", home),
        ("inspect", path),
        ("export", path),
        ("history", home),
        ("diff", home, "12", "8"),
    ):
        with in_time(BOUND_S):
            code, _, errors = command(*arguments)
        assert code in (0, 1), (name, arguments, errors)
    entered = tried(WRITING["enter a machine"], home)
    assert isinstance(outcome, Snapshot) or not isinstance(entered, SwooshError), entered
    assert any(file.read_bytes() == data for file in home.iterdir() if file.name.startswith("snapshot")), "it is gone"


def test_it_can_fail(home: Path) -> None:
    """What asks for more memory than there is to be, or takes too long, is noticed."""
    with pytest.raises(MemoryError):
        bytearray(2 * MORE_BYTES)
    with pytest.raises(AssertionError), in_time(0):
        pass
    forge_header(home, 100)
    assert struct.pack("<I", 100) in newest(home).read_bytes()
    assert told(home)["enter a journal"] != "ok"

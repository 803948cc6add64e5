"""Every file, damaged at any byte and cut at any length, at every entrance: what was written, or an error with a name.

What each layer by itself makes of damage is held by tests/test_damage.py, test_log_damage.py, test_codec_damage.py and
their like; here it goes through all of it. By default places are taken at random, and who writes there; with
``SWOOSH_EVERY_BYTE=1`` it is each of them, which takes hours.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from swoosh_async.cli._verify import verdicts
from swoosh_async.errors import DivergenceError, SwooshError

from ._entrances import LOOKING, WRITING, at_once, command, filled, tried

pytest.importorskip("fcntl", reason="a file backend needs flock")

pytestmark = pytest.mark.slow

EVERY = bool(os.environ.get("SWOOSH_EVERY_BYTE"))
PLACES = 1
LONGEST_BATCH = 2048 + 512
COMMANDS = (("verify",), ("inspect",), ("history",), ("journal", "--json"))
SLOW = {"backup", "verify_replay"}
UNVERIFIED = {"history", "verify_replay"}
"""What tells of snapshots what their heads say, or goes by those that are whole: not the same with one that is not."""

Damage = Callable[[bytes, int], bytes]
DAMAGES: dict[str, Damage] = {
    "inverted": lambda data, at: data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :],
    "one bit": lambda data, at: data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :],
    "zero": lambda data, at: data[:at] + b"\0" + data[at + 1 :],
    "all ones": lambda data, at: data[:at] + b"\xff" + data[at + 1 :],
    "a sector": lambda data, at: data[: at // 512 * 512] + bytes(512) + data[at // 512 * 512 + 512 :],
    "cut off": lambda data, at: data[:at],
    "more": lambda data, at: data + bytes([at % 256]) * (1 + at % 700),
    "twice": lambda data, at: data[:at] + data,
}
KINDS: dict[str, dict[str, Any]] = {
    "json": {},
    "msgpack": {"format": "msgpack"},
    "json in zstd": {"compression": "zstd"},
    "msgpack in zstd": {"format": "msgpack", "compression": "zstd"},
    "a backup": {},
}
FILES = ("snapshot", "older", "journal", "oldest segment", "newest segment", ".snapshot.lock", ".journal.lock")
CASES = [(kind, file) for kind in KINDS for file in (FILES if kind in ("json", "a backup") else FILES[:2])]


@pytest.fixture(scope="module")
def shelf() -> Iterator[Path]:
    """A directory, in memory where there is such a place, for each of thousands of homes is copied."""
    path = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def whole(shelf: Path, request: pytest.FixtureRequest) -> Path:
    """A home of that kind in which nothing is wrong."""
    kind = request.param
    home = shelf / kind
    if not home.exists():
        made = shelf / "made"
        filled(made, **KINDS[kind])
        if kind == "a backup":
            LOOKING["backup"](made)
            shutil.rmtree(made)
            made = shelf / "backup"
        made.rename(home)
    return home


def copied(home: Path, to: Path) -> Path:
    """A copy of a home, in which a file with two names still is one."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.rmtree(to.with_name("backup"), ignore_errors=True)
    to.mkdir()
    known: dict[int, Path] = {}
    for path in sorted(home.iterdir()):
        inode = path.stat().st_ino
        if inode in known:
            os.link(known[inode], to / path.name)
        else:
            shutil.copyfile(path, to / path.name)
            known[inode] = to / path.name
    return to


def find(home: Path, file: str) -> Path:
    """The path of a file that is called so here."""
    segments = sorted(home.glob("journal.0*"))
    generations = sorted(home.glob("snapshot.0*"))
    named = {"older": generations[:1], "oldest segment": segments[:1], "newest segment": segments[-1:]}
    return named.get(file, [home / file])[0]


def harm(home: Path, file: str, data: bytes, *, in_place: bool) -> None:
    """Have a file hold that; in place, with all of its names."""
    path = find(home, file)
    if not in_place:
        path.unlink(missing_ok=True)
    path.write_bytes(data)


def contents(home: Path) -> dict[str, bytes]:
    """All files of a home."""
    return {path.name: path.read_bytes() for path in home.iterdir()}


def places(data: bytes, name: str, chance: random.Random) -> list[int]:
    """Where to damage a file: everywhere, or at some places, most of them where something stands."""
    if not data:
        return [1, 300] if name == "more" else []
    if EVERY:
        return list(range(len(data)))
    used = len(data.rstrip(b"\0"))
    return [*(chance.randrange(used) for _ in range(PLACES)), chance.randrange(len(data))]


def looks_torn(home: Path, file: str, data: bytes, at: int) -> bool:
    """Whether a sector that the disk has made zero there may look like a batch that a crash has left unfinished.

    It does where no batch begins behind it: docs/format.md has the argument.
    """
    is_last = find(home, file) == find(home, "newest segment")
    return is_last and at + LONGEST_BATCH > len(data.rstrip(b"\0"))


def is_right(name: str, found: object, right: object) -> bool:
    """Whether an entrance gave what it gives of the whole, or told of the damage."""
    if isinstance(found, SwooshError):
        return not isinstance(found, DivergenceError)
    return name in UNVERIFIED or found == right


@pytest.mark.parametrize(("whole", "file"), CASES, indirect=["whole"])
def test_every_byte(whole: Path, file: str, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what was written is ever given, whoever asks; and what is damaged is not deleted."""
    at_once(monkeypatch)
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    place = shelf / "tried"
    right = {name: tried(entrance, copied(whole, place)) for name, entrance in {**LOOKING, **WRITING}.items()}
    assert not [found for found in right.values() if isinstance(found, SwooshError)]
    before = find(whole, file).read_bytes() if find(whole, file).exists() else b""
    told = set()
    for damage, make in DAMAGES.items():
        for at in places(before, damage, chance):
            data = make(before, at)
            if data == before or (damage == "a sector" and looks_torn(whole, file, before, at)):
                continue
            what = f"seed {seed}: {damage} at {at} of {file}"
            in_place = chance.random() < 0.5
            copied(whole, place)
            harm(place, file, data, in_place=in_place)
            told |= looked(place, right, what, chance)
            for name, entrance in WRITING.items() if EVERY else [chance.choice(list(WRITING.items()))]:
                copied(whole, place)
                harm(place, file, data, in_place=in_place)
                found = tried(entrance, place)
                assert is_right(name, found, right[name]), (what, name, found)
                if isinstance(found, SwooshError) or file == "snapshot":
                    assert [kept for kept in contents(place).values() if data in kept or torn(kept, data)], (what, name)
                told |= {name} if isinstance(found, SwooshError) else set()
    expected = set[str]() if file.endswith(".lock") else {"check", "verify"}
    assert told >= expected, f"seed {seed}: only {told} have ever noticed"


def looked(place: Path, right: dict[str, object], what: str, chance: random.Random) -> set[str]:
    """Try those that only look, who change nothing; who told of damage. What is slow is not tried each time."""
    before = contents(place)
    told: set[str] = set()
    for name, entrance in LOOKING.items():
        if name in SLOW and not EVERY and chance.random() < 0.7:
            continue
        shutil.rmtree(place.with_name("backup"), ignore_errors=True)
        found = tried(entrance, place)
        assert is_right(name, found, right[name]), (what, name, found)
        told |= {name} if isinstance(found, SwooshError) else set()
    told |= {"verify"} if [found for _, found in verdicts(str(place)) if found.status != "ok"] else set()
    assert not told - UNVERIFIED or "verify" in told, f"{what}: {told} were told, and verify was not"
    for arguments in COMMANDS if EVERY else [chance.choice(COMMANDS)] * (chance.random() < 0.3):
        code, _, errors = command(*arguments, place)
        assert code in (0, 1), (what, arguments, errors)
        assert arguments[0] != "verify" or code == ("verify" in told), (what, told, errors)
    assert contents(place) == before, what
    return told


def torn(kept: bytes, data: bytes) -> bool:
    """Whether this is what was cut off that segment, and set aside."""
    return 0 < len(kept) < len(data) and kept in data


def test_a_check_that_passes_everything_is_found() -> None:
    """An entrance that gives something else, or blames the program instead of the file, is not right."""
    assert is_right("load", "as it was", "as it was")
    assert not is_right("load", "something else", "as it was")
    assert not is_right("state_at", DivergenceError("here", "state", older=1, newer=2), "as it was")

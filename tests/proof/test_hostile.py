"""A directory in which somebody has put what does not belong there: it is told, soon, and neither followed nor removed.

Lies inside of files are in test_forged.py; what stands in the place of a snapshot, or of a segment, is looked at by
each layer itself in tests/test_damage.py and tests/test_log_damage.py. By default a third of all places and things is
tried; with ``SWOOSH_EVERY_BYTE=1`` it is each.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from swoosh_async import BackendError, CorruptSnapshotError, FileSnapshotStore, LockedError, Snapshot
from swoosh_async.errors import SwooshError

from .._faults import BOUND_S, environment
from ._entrances import LOOKING, WRITING, at_once, command, filled, tried
from ._forge import newest

if sys.platform != "linux":
    pytest.skip("it looks at /proc to bound its memory", allow_module_level=True)

from ._limits import bounded_memory, in_time

BOUND_EACH_S = 10
MORE_BYTES = 512 << 20
JUNK = 10_000


@pytest.fixture(scope="module")
def shelf() -> Iterator[Path]:
    """A directory, in memory where there is such a place."""
    path = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    yield path
    subprocess.run(["rm", "-rf", path], check=True)


@pytest.fixture(scope="module")
def whole(shelf: Path) -> Path:
    """A machine's home in which nothing is wrong."""
    filled(shelf / "whole")
    return shelf / "whole"


@pytest.fixture
def home(whole: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, in which a file that has two names has them still; and no more memory than is needed."""
    at_once(monkeypatch)
    place = shelf / "home"
    copied(whole, place)
    command("--help")  # what is imported for it takes room, too
    with bounded_memory(MORE_BYTES):
        yield place
    subprocess.run(["rm", "-rf", place], check=True)


def copied(home: Path, to: Path) -> None:
    """Copy a home as it is."""
    subprocess.run(["rm", "-rf", to], check=True)
    subprocess.run(["cp", "-a", "--sparse=always", home, to], check=True)


def each(home: Path, *, commands: bool = True) -> dict[str, str]:
    """What each entrance makes of it, by name: "ok", or the error's name; none takes long, or raises others."""
    found: dict[str, str] = {}
    for name, entrance in {**LOOKING, **WRITING}.items():
        shutil.rmtree(home.with_name("backup"), ignore_errors=True)
        with in_time(BOUND_EACH_S):
            outcome = tried(entrance, home)
        found[name] = type(outcome).__name__ if isinstance(outcome, SwooshError) else "ok"
    for arguments in (("verify",), ("history",)) if commands else ():
        with in_time(BOUND_EACH_S):
            code, _, errors = command(*arguments, home)
        assert code in (0, 1), errors
        found[arguments[0]] = "ok" if code == 0 else "told"
    return found


# ---------------------------------------------------------------------- in the place of a file


def a_socket(path: Path) -> None:
    """A socket that nobody listens at; its address may be no longer than 107 bytes."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def a_full_directory(path: Path) -> None:
    """A directory that is not empty."""
    path.mkdir()
    path.joinpath("x").write_text("x")


def a_sparse_file(path: Path) -> None:
    """A file of 1 TiB without a byte in it."""
    path.touch()
    os.truncate(path, 1 << 40)


def a_device(path: Path) -> None:
    """A device that gives zeros for ever."""
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("making a device needs root: sudo .venv/bin/nox -s proof")


THINGS: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a socket": a_socket,
    "a directory": os.mkdir,
    "a full directory": a_full_directory,
    "a device": a_device,
    "a symlink to a device": lambda path: path.symlink_to("/dev/zero"),
    "a symlink to itself": lambda path: path.symlink_to(path.name),
    "a symlink to a directory": lambda path: path.symlink_to("/"),
    "a symlink to another file": lambda path: path.symlink_to(path.parent.parent / "treasure"),
    "a sparse file": a_sparse_file,
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 9),
}
PLACES: dict[str, str] = {
    ".snapshot.lock": ".snapshot.lock",
    ".journal.lock": ".journal.lock",
    "the record": "journal",
    "the latest snapshot": "snapshot",
    "a newer generation": "snapshot.9999999999-00000000000000000099",
    "an older generation": "snapshot.0000000001-00000000000000000004",
    "a later segment": "journal.00000000000000000099",
    "a segment behind all indexes": "journal.99999999999999999999",
    "a batch that was cut off": "journal.torn-00000000000000000001-512",
    "a damaged snapshot": "snapshot.corrupt-01234567",
    "a temp file of a snapshot": "snapshot-0123456789abcdef.tmp",
    "a temp file of a journal": "journal-0123456789abcdef.tmp",
}


EVERY = bool(os.environ.get("SWOOSH_EVERY_BYTE"))
CASES = [
    (place, thing)
    for row, place in enumerate(PLACES)
    for column, thing in enumerate(THINGS)
    if EVERY or (row + column) % 3 == 0
]


@pytest.mark.slow
@pytest.mark.parametrize(("place", "thing"), CASES)
def test_in_the_place_of(home: Path, place: str, thing: str) -> None:
    """Whatever stands wherever, each entrance does its work or tells; nothing hangs, is followed or is emptied."""
    treasure = home.parent / "treasure"
    treasure.write_bytes(b"precious")
    path = home / PLACES[place]
    path.unlink(missing_ok=True)
    THINGS[thing](path)
    before = path.lstat()
    found = each(home)
    assert treasure.read_bytes() == b"precious"
    if place == "the latest snapshot" and thing == "a symlink to another file":
        return  # which is where the snapshots are then
    if "temp file" in place:
        assert {found[name] for name in WRITING} == {"ok"}, found
        return
    if "generation" in place:
        return  # which is one too many, sooner or later, whatever it is
    stood = [path, *home.glob("snapshot.corrupt-*"), *home.glob("*/x")]
    assert any(other.lstat().st_ino == before.st_ino for other in stood if os.path.lexists(other)), "it is gone"
    if place == "a damaged snapshot":
        assert {*found.values()} == {"ok"}, found


@pytest.mark.parametrize("lock", [".snapshot.lock", ".journal.lock"])
@pytest.mark.parametrize("other", ["snapshot", "journal", "the newest segment"])
def test_a_lock_that_is_another_file(home: Path, lock: str, other: str) -> None:
    """A lock that is a hard link to a file of ours empties it in no way: it is refused."""
    other = newest(home).name if "segment" in other else other
    data = (home / other).read_bytes()
    (home / lock).unlink()
    os.link(home / other, home / lock)
    found = each(home, commands=False)
    assert found["load"] == "ok", found
    assert "BackendError" in found.values(), found
    assert (home / lock).stat().st_size == len(data)
    assert isinstance(tried(WRITING["save" if lock == ".snapshot.lock" else "enter a journal"], home), BackendError)


def test_two_locks_that_are_one_file(home: Path) -> None:
    """Where both locks are one file, a machine is told that it is locked when it saves, and by whom."""
    (home / ".snapshot.lock").unlink()
    os.link(home / ".journal.lock", home / ".snapshot.lock")
    with in_time(BOUND_EACH_S):
        found = tried(WRITING["enter a machine"], home)
    assert isinstance(found, LockedError)
    assert found.pid == os.getpid()
    assert not isinstance(tried(WRITING["enter a journal"], home), SwooshError)


# ---------------------------------------------------------------------- names


def strange_names(chance: random.Random) -> list[bytes]:
    """Names that are nearly ours, or nearly text."""
    ours = [b"snapshot", b"journal", b"snapshot.0000000003-00000000000000000012", b"journal.00000000000000000001"]
    ours += [b"snapshot-0123456789abcdef.tmp", b"journal.torn-00000000000000000001-512", b"snapshot.corrupt-00000000"]
    names = [name + more for name in ours for more in (b"\n", b" ", b"\xff", b"\x1b[2J", b"\xed\xa0\x80", b".", b"\\")]
    names += [more + name for name in ours for more in (b"\n", b" ", b"\xff", b".", b"-")]
    names += [b"journal.000000000000000000\xd9\xa1\xd9\xa2", b"snapshot.0000000001-0000000000000000000\xd9\xa1"]
    names += [b"journal." + b"9" * 40, b"snapshot." + b"9" * 100 + b"-" + b"9" * 20 + b"x", b"\n", b"\xff" * 255]
    names += [b"junk %d" % number + chance.randbytes(8).hex().encode() for number in range(JUNK)]
    return names


def test_ten_thousand_names(home: Path) -> None:
    """Names with line breaks, escapes and no text, and ten thousand more, hide nothing, and cost next to nothing."""
    names = strange_names(random.Random(1))
    for name in names:
        with open(os.path.join(os.fsencode(home), name), "wb"):
            pass
    with in_time(BOUND_EACH_S):
        found = each(home)
    assert {*found.values()} == {"ok"}, found
    left = {*os.listdir(os.fsencode(home))}
    swept = {name for name in names if name not in left}
    assert all(name.endswith(b".tmp") for name in swept), swept
    for arguments in (("verify",), ("inspect",), ("history",)):
        code, out, errors = command(*arguments, home)
        assert code == 0, errors
        assert "\x1b" not in out


def test_a_generation_with_a_number_without_end(home: Path) -> None:
    """A generation whose number leaves no room for the next one is a plain error, and nothing has changed."""
    (home / ("snapshot." + "9" * 220 + "-" + "0" * 20)).write_bytes(b"")
    before = (home / "snapshot").read_bytes()
    found = each(home)
    assert found["load"] == found["enter a journal"] == "ok", found
    assert (home / "snapshot").read_bytes() == before or found["save"] == "ok"


def test_a_directory_with_a_strange_name(whole: Path, shelf: Path) -> None:
    """A home whose own name holds a line break, an escape and what is no text is a home as any other."""
    place = Path(os.fsdecode(os.path.join(os.fsencode(shelf), b"\n\x1b[2J\xff\xed\xa0\x80")))
    copied(whole, place)
    assert {*each(place).values()} == {"ok"}
    for arguments in (("verify",), ("inspect",), ("history",), ("history", "--json"), ("journal",)):
        code, out, errors = command(*arguments, place)
        assert code == 0, errors
        assert "\x1b" not in out
        (place / "snapshot").chmod(0o600)
    (place / "journal").write_bytes(b"damaged")
    code, out, errors = command("verify", place)
    assert code == 1
    assert "\x1b" not in out + errors


# ---------------------------------------------------------------------- permissions

NOBODY = """
import json, os, sys
from pathlib import Path
from tests.proof._entrances import LOOKING, WRITING, command, tried
home, warm = map(Path, sys.argv[1:])
for entrance in {**LOOKING, **WRITING}.values():
    tried(entrance, warm)
command("inspect", warm)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
found = {name: type(tried(entrance, home)).__name__ for name, entrance in {**LOOKING, **WRITING}.items()}
found |= {name: command(name, home)[0] for name in ("verify", "inspect", "history", "journal")}
print(json.dumps(found))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming nobody needs root: sudo .venv/bin/nox -s proof")
@pytest.mark.parametrize("name", ["snapshot", "journal", "the newest segment", ".snapshot.lock", ".journal.lock"])
def test_what_may_not_be_read(whole: Path, shelf: Path, name: str) -> None:
    """A file that may not be read is no damage: nobody falls back from it, and nobody replaces it."""
    place = shelf / "public" / "home"
    for parent in (place.parent, shelf / "warm"):
        parent.mkdir(exist_ok=True)
    shelf.chmod(0o755)
    place.parent.chmod(0o777)
    copied(whole, place)
    subprocess.run(["chown", "-R", "65534:65534", place], check=True)
    path = newest(place) if "segment" in name else place / name
    data = path.read_bytes()
    shutil.chown(path, 0, 0)
    path.chmod(0o600)
    copied(whole, shelf / "warm" / "home")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NOBODY, str(place), str(shelf / "warm" / "home")],
        env=environment(), capture_output=True, text=True, timeout=BOUND_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = {
        "snapshot": ["load", "state_at", "check", "save", "enter a machine"],
        "journal": ["state_at", "check", "read", "enter a journal", "enter a machine"],
        "the newest segment": ["state_at", "check", "read", "enter a journal", "enter a machine"],
        ".snapshot.lock": ["save"],
        ".journal.lock": ["enter a journal", "enter a machine"],
    }[name]
    for entrance in told:
        assert f'"{entrance}": "BackendError"' in done.stdout, done.stdout
    assert "Corrupt" not in done.stdout
    assert path.read_bytes() == data
    assert f'"verify": {int(not name.endswith("lock"))}' in done.stdout


# ---------------------------------------------------------------------- replaced while it is read


def test_replaced_while_it_is_read(shelf: Path) -> None:
    """Whoever loads while others replace the file, by whatever, gets one of the snapshots, or is told."""
    path = shelf / "replaced" / "snap"
    store = FileSnapshotStore(path, list[int])
    sizes = (1, 200_000)
    files: list[bytes] = []
    for index, size in enumerate(sizes, 1):
        anyio.run(store.save, Snapshot(state=[index] * size, last_applied_index=index))
        files.append(path.read_bytes())
    done = threading.Event()

    def replace() -> None:
        chance = random.Random(1)
        other = path.with_name("other")
        while not done.is_set():
            kind = chance.randrange(6)
            if kind < 4:
                other.write_bytes(files[kind % 2])
                os.replace(other, path)
            elif kind == 4:  # in place, cut off
                with suppress(OSError), path.open("r+b") as file:  # or it is a FIFO
                    file.truncate(chance.randrange(len(files[1])))
            else:
                path.unlink()
                os.mkfifo(path)

    writer = threading.Thread(target=replace)
    writer.start()
    seen: set[str] = set()
    try:
        for _ in range(150):
            with in_time(BOUND_EACH_S):
                try:
                    snapshot = anyio.run(FileSnapshotStore(path, list[int]).load_latest)
                except SwooshError as error:
                    seen.add(type(error).__name__)
                else:
                    assert snapshot.state == [snapshot.last_applied_index] * sizes[snapshot.last_applied_index - 1]
                    seen.add("loaded")
    finally:
        done.set()
        writer.join()
    assert {"loaded", CorruptSnapshotError.__name__} <= seen

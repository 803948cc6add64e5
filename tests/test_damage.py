"""Whatever becomes of a file: loading it gives what was saved, or an error with a name, soon and in little memory."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import anyio
import pytest

import swoosh_async
from swoosh_async import (
    BackendError,
    CorruptSnapshotError,
    FallbackWarning,
    FileSnapshotStore,
    Snapshot,
    SnapshotNotFoundError,
)
from swoosh_async.codec import _zstd

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

State = Mapping[str, int]
Format = Literal["json", "msgpack"]
Compression = Literal["zstd"] | None

FORMATS: list[tuple[Format, Compression]] = [("json", None), ("msgpack", None), ("json", "zstd"), ("msgpack", "zstd")]
every_format = pytest.mark.parametrize(("format", "compression"), FORMATS)


def snap(index: int) -> Snapshot[State]:
    """A small snapshot."""
    return Snapshot(state={"a": index, "b": 2}, last_applied_hlc="2024-01-01", last_applied_index=index)


@pytest.fixture
def path() -> Iterator[Path]:
    """A snapshot's path; in memory where there is such a place, for each of thousands of loads has to fsync."""
    home = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    yield home / "snap"
    shutil.rmtree(home)


def read(path: Path) -> bytes:
    """What is in a file."""
    return path.read_bytes()


def write(path: Path, data: bytes) -> None:
    """Overwrite a file in place, and with it all of its names."""
    path.write_bytes(data)


def others(path: Path) -> dict[str, bytes]:
    """Every file beside the latest and the lock, with its content."""
    files = (file for file in path.parent.iterdir() if file.name not in (path.name, f".{path.name}.lock"))
    return {file.name: file.read_bytes() for file in files}


async def saved(path: Path, format: Format, compression: Compression) -> FileSnapshotStore[State]:
    """A store in which two snapshots were saved."""
    store = FileSnapshotStore(path, State, format=format, compression=compression, keep=2)
    for index in (1, 2):
        await store.save(snap(index))
    return store


def replace(path: Path, data: bytes) -> None:
    """Put other bytes in the place of the latest, and leave the generation that was the same file as it is."""
    path.with_name("new").write_bytes(data)
    path.with_name("new").chmod(0o666)
    path.with_name("new").rename(path)


# ---------------------------------------------------------------------- every byte


@every_format
@pytest.mark.parametrize("how", ["inverted", "one bit", "zeroed"])
async def test_every_byte_is_damaged(path: Path, format: Format, compression: Compression, how: str) -> None:
    """Whichever byte is another than was written, it is noticed."""
    store = await saved(path, format, compression)
    before = read(path)
    for at, byte in enumerate(before):
        bad = {"inverted": byte ^ 0xFF, "one bit": byte ^ (1 << at % 8), "zeroed": 0}[how]
        if bad == byte:
            continue
        replace(path, before[:at] + bytes([bad]) + before[at + 1 :])
        with pytest.raises(CorruptSnapshotError) as caught:
            await store.load_latest()
        assert caught.value.path == str(path)
        assert caught.value.reason
        assert "fallback=True" in str(caught.value)
    replace(path, before)
    assert await store.load_latest() == snap(2)


@every_format
async def test_every_length_is_cut(path: Path, format: Format, compression: Compression) -> None:
    """Wherever a file is cut off, it is noticed, down to the empty file."""
    store = await saved(path, format, compression)
    before = read(path)
    for length in range(len(before)):
        replace(path, before[:length])
        with pytest.raises(CorruptSnapshotError) as caught:
            await store.load_latest()
        assert caught.value.path == str(path)
    assert "the file was damaged, cut off or edited" in caught.value.reason


@every_format
async def test_something_is_added(path: Path, format: Format, compression: Compression) -> None:
    """Bytes behind the end, before the beginning or in the middle are noticed."""
    store = await saved(path, format, compression)
    before = read(path)
    for extra in (b"\0", b" ", b"\n", before, bytes(10_000)):
        for at in (0, len(before) // 2, len(before)):
            replace(path, before[:at] + extra + before[at:])
            with pytest.raises(CorruptSnapshotError):
                await store.load_latest()


@every_format
async def test_damage_in_place(path: Path, format: Format, compression: Compression) -> None:
    """Damage to the one file that both the latest and the newest generation are is told of the right older one."""
    store = await saved(path, format, compression)
    older, newest = sorted(others(path))
    data = bytearray(read(path))
    data[-3] ^= 1
    write(path, data)
    with pytest.raises(CorruptSnapshotError, match=f"older generations exist: {older};") as caught:
        await store.load_latest()
    assert caught.value.others == (older,)
    assert os.stat(path).st_ino == os.stat(path.with_name(newest)).st_ino


@every_format
async def test_an_older_generation_is_damaged(path: Path, format: Format, compression: Compression) -> None:
    """Whichever byte of an older generation is damaged, loading it by its reference says so."""
    store = await saved(path, format, compression)
    ref = (await store.history())[1]
    older = path.with_name(ref.name)
    before = read(older)
    for at in range(len(before)):
        write(older, before[:at] + bytes([before[at] ^ 0x55]) + before[at + 1 :])
        with pytest.raises(CorruptSnapshotError) as caught:
            await store.load(ref)
        assert caught.value.path == str(older)
        assert caught.value.others == ()
    assert await store.load_latest() == snap(2)


async def test_damage_beside_what_was_pruned(path: Path) -> None:
    """A reference to what was pruned is not found, whatever is damaged among the others."""
    store = FileSnapshotStore(path, State, keep=2)
    refs = [await store.save(snap(index)) for index in (1, 2, 3)]
    write(path.with_name(refs[1].name), b"damaged")
    with pytest.raises(SnapshotNotFoundError):
        await store.load(refs[0])


async def test_a_single_snapshot_has_no_others(path: Path) -> None:
    """Where nothing else is kept, the error says that, too."""
    store = FileSnapshotStore(path, State)
    await store.save(snap(1))
    write(path, read(path)[:-1])
    with pytest.raises(CorruptSnapshotError, match="no older generation exists") as caught:
        await store.load_latest()
    assert caught.value.others == ()


JUNK = {
    "empty": b"",
    "a space": b" ",
    "zeros": bytes(4096),
    "an object": b"{}",
    "an array": b"[]",
    "a half object": b'{"state":',
    "two of three keys": b'{"state":{},"last_applied_index":1}',
    "no index": b'{"state":{},"last_applied_hlc":"","last_applied_index":"1"}',
    "a negative index": b'{"state":{},"last_applied_hlc":"","last_applied_index":-1}',
    "too high an index": b'{"state":{},"last_applied_hlc":"","last_applied_index":18446744073709551616}',
    "a broken index": b'{"state":{},"last_applied_hlc":"","last_applied_index":1.5}',
    "no state of this type": b'{"state":[],"last_applied_hlc":"","last_applied_index":1}',
    "an unchecked format": b'{"state":{},"last_applied_hlc":"","last_applied_index":1,"format":1}',
    "an unchecked checksum": b'{"state":{},"last_applied_hlc":"","last_applied_index":1,"checksum":""}',
    "no text": b'{"state":{},"last_applied_hlc":"\xff","last_applied_index":1}',
    "deep": b'{"state":' + b"[" * 100_000,
    "a deep state": b'{"last_applied_hlc":"","last_applied_index":1,"state":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "only a beginning": b'{"checksum":"sha256:',
    "a zstd frame": bytes.fromhex("28b52ffd0400010000"),
    "a zip file": b"PK\x03\x04" + bytes(100),
    "an ELF program": b"\x7fELF" + bytes(100),
    "text": b"hello\n",
    "a byte order mark": b"\xef\xbb\xbf{}",
}


@pytest.mark.parametrize("name", JUNK)
async def test_something_else_entirely(path: Path, name: str) -> None:
    """A file that never was a snapshot is no snapshot; nor is it lost when one is saved in its place."""
    write(path, JUNK[name])
    store = FileSnapshotStore(path, State)
    with pytest.raises(CorruptSnapshotError) as caught:
        await store.load_latest()
    assert caught.value.path == str(path)
    with pytest.raises(CorruptSnapshotError):
        await store.load_latest(fallback=True)
    await store.save(snap(1))
    assert await store.load_latest() == snap(1)


# ---------------------------------------------------------------------- fallback


@every_format
async def test_fallback(path: Path, format: Format, compression: Compression) -> None:
    """Asked for it, loading goes back to the newest snapshot that is intact, and warns of what was lost."""
    store = FileSnapshotStore(path, State, format=format, compression=compression, keep=4)
    refs = [await store.save(snap(index)) for index in range(1, 5)]
    for ref in refs[2:]:
        file = path.with_name(ref.name)
        write(file, read(file)[:-1])
    with pytest.raises(CorruptSnapshotError) as caught:
        await store.load_latest()
    assert caught.value.others == tuple(ref.name for ref in (refs[2], refs[1], refs[0]))
    with pytest.warns(FallbackWarning, match=f"index 2 .{refs[1].name}. was loaded in its place"):
        assert await store.load_latest(fallback=True) == snap(2)
    for ref in refs[:2]:
        write(path.with_name(ref.name), b"")
    with pytest.raises(CorruptSnapshotError) as again:
        await store.load_latest(fallback=True)
    assert again.value.path == str(path)


async def test_fallback_where_nothing_is_wrong(path: Path) -> None:
    """An intact latest is loaded without a warning, also where a step back would be allowed."""
    store = await saved(path, "json", None)
    assert await store.load_latest(fallback=True) == snap(2)


async def test_fallback_from_a_missing_latest(path: Path) -> None:
    """A latest that is gone is gone back from as well, and only when asked for."""
    store = await saved(path, "json", None)
    os.unlink(path)
    with pytest.raises(SnapshotNotFoundError) as caught:
        await store.load_latest()
    assert len(caught.value.others) == 2
    with pytest.warns(FallbackWarning):
        assert await store.load_latest(fallback=True) == snap(2)


@every_format
async def test_a_save_sets_damage_aside(path: Path, format: Format, compression: Compression) -> None:
    """A save replaces a damaged latest, wherever the damage is, keeps it under another name, and keeps the elders."""
    await saved(path, format, compression)
    intact = read(path)
    for at in range(0, len(intact), 7):
        damaged = intact[:at] + bytes([intact[at] ^ 0x10]) + intact[at + 1 :]
        replace(path, damaged)
        store = FileSnapshotStore(path, State, format=format, compression=compression, keep=2)
        await store.save(snap(2))
        assert await store.load_latest() == snap(2)
        assert damaged in others(path).values()
        assert [ref.index for ref in await store.history()] == [2, 2]


# ---------------------------------------------------------------------- what is no file at all


def a_socket(path: Path) -> None:
    """A socket that nobody listens at."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


NO_FILES: dict[str, tuple[Callable[[Path], None], int]] = {
    "a FIFO": (os.mkfifo, errno.EINVAL),
    "a directory": (os.mkdir, errno.EINVAL),
    "a socket": (a_socket, errno.ENXIO),
    "a symlink to itself": (lambda path: os.symlink(path.name, path), errno.ELOOP),
}


@pytest.mark.parametrize("name", NO_FILES)
async def test_what_is_no_file(path: Path, name: str) -> None:
    """What is no regular file is told at once, by every way to use a store, and it and the older ones stay."""
    make, number = NO_FILES[name]
    await saved(path, "json", None)
    before = others(path)
    os.unlink(path)
    make(path)
    store = FileSnapshotStore(path, State, keep=2)
    for call in (
        store.load_latest,
        lambda: store.load_latest(fallback=True),
        store.history,
        lambda: store.save(snap(3)),
    ):
        with pytest.raises(BackendError) as caught:
            await call()
        assert (caught.value.path, caught.value.errno) == (str(path), number)
    assert others(path) == before
    assert path.name in os.listdir(path.parent)


async def test_what_leads_nowhere(path: Path) -> None:
    """Behind a dangling symlink there is no snapshot, and the next save makes one there."""
    await saved(path, "json", None)
    before = others(path)
    os.unlink(path)
    os.symlink("gone", path)
    store = FileSnapshotStore(path, State)
    for fallback in (False, True):
        with pytest.raises(SnapshotNotFoundError):
            await store.load_latest(fallback=fallback)
    assert await store.history() == []
    await store.save(snap(1))
    assert await store.load_latest() == snap(1)
    assert {name: data for name, data in others(path).items() if name in before} == before


# ---------------------------------------------------------------------- monsters

USE = """
import os, resource, sys, time, warnings
import anyio
from collections.abc import Mapping
from swoosh_async import FileSnapshotStore, Snapshot

path = sys.argv[1]
snap = Snapshot(state={"a": 9, "b": 9}, last_applied_index=9)

async def main():
    warm = FileSnapshotStore(path + ".warm", Mapping[str, int], keep=3, compression="zstd")
    await warm.save(snap)
    await warm.load_latest()
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    store = FileSnapshotStore(path, Mapping[str, int], keep=3, OPTIONS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    calls = {"load": store.load_latest, "fallback": lambda: store.load_latest(fallback=True),
             "history": store.history, "save": lambda: store.save(snap)}
    for name, call in calls.items():
        begun = time.monotonic()
        try:
            await call()
            told = "ok"
        except Exception as error:
            told = f"{type(error).__name__} {getattr(error, 'errno', '')}".strip()
        grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
        print(name, f"{time.monotonic() - begun:.3f}", grown_mb, told, sep="\\t")

warnings.simplefilter("ignore")
anyio.run(main)
"""


def use(path: Path, options: str = "") -> dict[str, str]:
    """What each way to use a store ends with for an ordinary user who has 3 GiB; none takes long, or much memory."""
    environment = {**os.environ, "PYTHONPATH": str(Path(swoosh_async.__file__).parent.parent)}
    command = [sys.executable, "-c", USE.replace("OPTIONS", options), str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():
        name, took_s, grown_mb, told = line.split("\t")
        assert float(took_s) < 10
        assert int(grown_mb) < 40
        found[name] = told
    return found


@pytest.fixture
def public() -> Iterator[Path]:
    """A snapshot's path, in a directory that every user may write, in which two were saved; the older one stays."""
    home = Path(tempfile.mkdtemp())
    home.chmod(0o777)
    path = home / "snap"
    anyio.run(saved, path, "json", None)
    for file in home.iterdir():
        file.chmod(0o666)
    before = others(path)
    yield path
    assert {name: read(path.with_name(name)) for name in before} == before
    shutil.rmtree(home)


ALL = ("load", "fallback", "history", "save")


@pytest.mark.parametrize("beginning", [b"", b"{", b'{"checksum":"sha256:', b"\x86\xa8checksum\xd9\x47sha256:"])
def test_a_sparse_file_of_a_tebibyte(public: Path, beginning: bytes) -> None:
    """A file that says it is 1 TiB long is refused by its length, whatever it begins with."""
    replace(public, beginning)
    os.truncate(public, 1 << 40)
    assert use(public) == dict.fromkeys(ALL, "LimitExceededError")
    assert public.stat().st_size == 1 << 40


def test_a_sparse_file_that_is_allowed(public: Path) -> None:
    """A file of 1 TiB that may be read is still not read when its beginning tells that it is no snapshot."""
    replace(public, b"")
    os.truncate(public, 1 << 40)
    found = use(public, "max_file_bytes=1 << 41")
    assert found == {"load": "CorruptSnapshotError", "fallback": "ok", "history": "ok", "save": "ok"}
    assert [path.stat().st_size for path in public.parent.glob("snap.corrupt-*")] == [1 << 40]


def test_a_file_that_is_larger_inside(public: Path) -> None:
    """A small file that decompresses to more than is allowed is refused before it is in memory."""
    before = b"\x53\x2a\x4d\x18\x47\x00\x00\x00sha256:"
    zeros = bytes(1 << 20)
    frame = b"".join(_zstd.compress(zeros for _ in range(512)))
    replace(public, before + hashlib.sha256(before + frame).hexdigest().encode() + frame)
    assert public.stat().st_size < 100_000
    found = use(public, "max_decoded_bytes=1 << 20")
    assert found["load"] == found["fallback"] == "LimitExceededError"


def test_a_file_that_may_not_be_read(public: Path) -> None:
    """A file without permission to read is no damage: there is no stepping back from it, and no saving over it."""
    public.chmod(0)
    assert use(public) == dict.fromkeys(ALL, f"BackendError {errno.EACCES}")


def test_a_directory_that_may_not_be_entered(public: Path) -> None:
    """A directory without permission to enter is told as what it is, and never as an empty one."""
    other = public.with_name("d")
    other.mkdir()
    for file in ("snap", ".snap.lock"):
        (public.parent / file).rename(other / file)
    other.chmod(0)
    try:
        assert use(other / "snap") == dict.fromkeys(ALL, f"BackendError {errno.EACCES}")
    finally:
        other.chmod(0o755)
        shutil.rmtree(other)

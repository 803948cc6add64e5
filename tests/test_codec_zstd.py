"""zstd, by whichever library there is: what one writes the other reads, in memory that the reader bounds."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import subprocess
import sys
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from swoosh_async.codec import SnapshotCodec, _zstd
from swoosh_async.codec._envelope import Head
from swoosh_async.errors import CorruptSnapshotError, LimitExceededError
from swoosh_async.models import OrchestratorState, Snapshot

from .golden.states import DEFAULT

# The standard library's, or the package that brings it to older Pythons; and the one that is used before 3.14.
LIBRARIES = {"compression.zstd": ("compression.zstd", "backports.zstd"), "zstandard": ("zstandard",)}


def library(name: str) -> Any:
    """A library, or what has the same face."""
    for module in LIBRARIES[name]:
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    pytest.skip(f"there is no {' and no '.join(LIBRARIES[name])}")


@pytest.fixture(params=LIBRARIES)
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the libraries in turn, as if there were no other one."""
    use(monkeypatch, request.param)


each = pytest.mark.usefixtures("either")


def use(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """From now on, there is this library and no other one."""
    found = library(name)
    monkeypatch.setattr(_zstd, "_find", lambda: (name, found))


def sealed(frame: bytes) -> bytes:
    """A file with a right checksum and that frame in it."""
    head = Head("json", "", 0, 1, compressed=True)
    return head.sealed(hashlib.sha256(head.before + frame).hexdigest()) + frame


def envelope(state: bytes) -> bytes:
    """What a frame of JSON holds."""
    return Head("json", "", 0, 1, compressed=True).inner + state + b"}"


@pytest.mark.parametrize("reads", LIBRARIES)
@pytest.mark.parametrize("writes", LIBRARIES)
@settings(max_examples=25, suppress_health_check=[])
@given(state=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.binary(max_size=300)))
def test_what_one_writes_the_other_reads(writes: str, reads: str, state: dict[str, bytes]) -> None:
    """Whichever library wrote a file, whichever reads it."""
    codec = SnapshotCodec(dict[str, bytes], format="msgpack", compression="zstd")
    with pytest.MonkeyPatch.context() as patch:
        use(patch, writes)
        data = b"".join(codec.encode(Snapshot(state=state)))
        use(patch, reads)
        assert codec.decode(data).snapshot.state == state


@each
def test_large_states() -> None:
    """What is larger than a step of either side comes back, and does not take much more room than it must."""
    state = ["x" * 1000, "y" * 3_000_000, *map(str, range(100_000))]
    codec = SnapshotCodec(list[str], compression="zstd")
    pieces = list(codec.encode(Snapshot(state=state)))
    data = b"".join(pieces)
    assert codec.decode(data).snapshot.state == state
    assert len(data) < 1_000_000


@each
def test_pieces_are_compressed_as_they_come() -> None:
    """Compression takes no more of its input than it needs for the next output."""
    taken = 0

    def source() -> Any:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield hashlib.sha512(b"%d" % number).digest() * 100

    packed = _zstd.compress(source())
    start = next(packed)
    assert taken < 1000
    held = _zstd.decompress(memoryview(start + b"".join(packed)), 1 << 30)
    assert held == b"".join(source())


@each
def test_damaged_frames() -> None:
    """With a right checksum, a frame that does not decompress, or ends too soon, is damage."""
    good = b"".join(_zstd.compress([envelope(b"{}")]))
    reader = SnapshotCodec(OrchestratorState)
    assert reader.decode(sealed(good)).snapshot == Snapshot(state=OrchestratorState())
    for bad in (
        b"",
        b"x",
        b"\0" * 100,
        good[1:],
        b"x" + good,
        good[:-1],
        good[:10],
        good[:6],
        envelope(b"{}"),
        good[:8] + b"\xff" * 40,
    ):
        with pytest.raises(CorruptSnapshotError, match="the checksum matches, but"):
            reader.decode(sealed(bad))


@each
def test_a_frame_that_states_no_size() -> None:
    """A frame may state the size of what it holds, or not."""
    for states_it in (True, False):
        frame = zstandard.ZstdCompressor(write_content_size=states_it).compress(envelope(b"{}"))
        assert SnapshotCodec(OrchestratorState).decode(sealed(frame)).snapshot.state == OrchestratorState()


@each
def test_a_window_that_is_too_large() -> None:
    """A frame that asks for more memory than is allowed for a window is damage."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=28, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = packer.compress(envelope(b'"' + b"x" * 100_000 + b'"')) + packer.flush()
    with pytest.raises(CorruptSnapshotError, match="does not decompress"):
        SnapshotCodec(str).decode(sealed(frame))


@each
def test_a_frame_that_needs_a_dictionary() -> None:
    """A frame that was compressed with a dictionary, which nobody has, is damage."""
    dictionary = zstandard.train_dictionary(2048, [b"sample %d of many" % number * 9 for number in range(500)])
    frame = zstandard.ZstdCompressor(dict_data=dictionary).compress(envelope(b"{}"))
    with pytest.raises(CorruptSnapshotError, match="does not decompress"):
        SnapshotCodec(OrchestratorState).decode(sealed(frame))


@each
def test_the_bound() -> None:
    """An envelope up to the bound is decompressed, one byte more is not."""
    inner = envelope(b'"' + b"x" * 1_000_000 + b'"')
    frame = b"".join(_zstd.compress([inner]))
    assert SnapshotCodec(str, max_decoded_bytes=len(inner)).decode(sealed(frame)).snapshot.state == "x" * 1_000_000
    reader = SnapshotCodec(str, max_decoded_bytes=len(inner) - 1)
    with pytest.raises(LimitExceededError) as caught:
        reader.decode(sealed(frame), where="here")
    assert (caught.value.what, caught.value.limit) == ("here", "max_decoded_bytes")
    assert (caught.value.found, caught.value.bound) == (None, len(inner) - 1)


BOMB = """
import resource, sys, tracemalloc
sys.path[:0] = sys.argv[2:]
import zstandard
from swoosh_async.codec import SnapshotCodec, _zstd
from swoosh_async.codec._envelope import Head
from swoosh_async.errors import LimitExceededError
import hashlib, importlib
if sys.argv[1] != "zstandard":
    library = importlib.import_module(sys.argv[1])
    _zstd._find = lambda: ("compression.zstd", library)
for states_it in (True, False):
    packer = zstandard.ZstdCompressor(level=3).compressobj(size=1 << 30 if states_it else -1)
    head = Head("json", "", 0, 1, compressed=True)
    frame = packer.compress(head.inner + b'"')
    rest = (1 << 30) - len(head.inner) - 2
    frame += b"".join(packer.compress(b"x" * min(1 << 20, rest - at)) for at in range(0, rest, 1 << 20))
    frame += packer.compress(b'"') + packer.flush()
    data = head.sealed(hashlib.sha256(head.before + frame).hexdigest()) + frame
    assert len(data) < 1 << 17
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        SnapshotCodec(str, max_decoded_bytes=1 << 20).decode(data)
    except LimitExceededError:
        pass
    else:
        raise SystemExit("a bomb went off")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if peak > 8 << 20 or grown > 64 << 10:
        raise SystemExit(f"{peak} bytes traced, {grown} kB grown")
print("defused")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no resource module")
@pytest.mark.parametrize("name", ["compression.zstd", "backports.zstd", "zstandard"])
def test_a_bomb(name: str) -> None:
    """32 kB that hold 1 GiB, whether they say so or not, are given up in a few MiB of memory."""
    try:
        importlib.import_module(name)
    except ImportError:
        pytest.skip(f"there is no {name}")
    command = [sys.executable, "-P", "-c", BOMB, name, *filter(None, sys.path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("defused\n", "", 0)


@each
def test_the_beginning_of_a_frame() -> None:
    """As much as is asked for of what a frame holds, from as much of the frame as is there."""
    held = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(50_000))
    frame = b"".join(_zstd.compress([held]))
    assert _zstd.beginning(memoryview(frame), 4096) == held[:4096]
    assert _zstd.beginning(memoryview(frame[: 1 << 20]), 4096) == held[:4096]
    assert _zstd.beginning(memoryview(frame), 1 << 30) == held
    with pytest.raises(_zstd.ZstdError):
        _zstd.beginning(memoryview(b"no frame at all"), 4096)


def test_without_any_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no zstd, asking for it says what to install, and everything else works."""
    data = b"".join(SnapshotCodec(OrchestratorState, compression="zstd").encode(DEFAULT))
    monkeypatch.setattr(_zstd, "_find", lambda: ("", None))
    assert not _zstd.available()
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'swoosh-async\[zstd\]'"):
        SnapshotCodec(OrchestratorState, compression="zstd")
    reader = SnapshotCodec(OrchestratorState)
    assert reader.decode(b"".join(reader.encode(DEFAULT))).snapshot == DEFAULT
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'swoosh-async\[zstd\]'"):
        reader.decode(data)


def test_the_library_is_found() -> None:
    """The standard library's is taken where there is one, else the package."""
    name, found = _zstd._find()
    assert name == ("compression.zstd" if importlib.util.find_spec("compression") else "zstandard")
    assert found.__name__.startswith(name)
    assert _zstd.available()


def test_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither can be imported, there is none."""
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert not _zstd.available()

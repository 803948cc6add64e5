"""Snapshots go out to and come in from open files of aiofiles and of anyio, in whatever format they are."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiofiles
import anyio
import pytest

from swoosh_async import (
    CorruptSnapshotError,
    FileSnapshotStore,
    FormatVersionError,
    InMemorySnapshotStore,
    InvalidStateError,
    LimitExceededError,
    SchemaVersionError,
    Snapshot,
    SnapshotNotFoundError,
    StaleSnapshotError,
    migration,
)

pytestmark = pytest.mark.anyio

State = Mapping[str, str]
FORMATS: list[tuple[Any, Any]] = [("json", None), ("msgpack", None), ("json", "zstd"), ("msgpack", "zstd")]


def snap(index: int, **state: str) -> Snapshot[State]:
    """A small snapshot."""
    return Snapshot(state=state or {"n": str(index)}, last_applied_hlc=f"t{index}", last_applied_index=index)


class Opened:
    """A file of anyio, opened by `async with` as one of aiofiles is."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    async def __aenter__(self) -> Any:
        self.file = await anyio.open_file(*self.arguments)
        return self.file

    async def __aexit__(self, *_: object) -> None:
        await self.file.aclose()


@pytest.fixture
def openers(anyio_backend_name: str) -> list[Any]:
    """Each library's way to open a file that works on this loop: aiofiles needs asyncio."""
    return [Opened] if anyio_backend_name == "trio" else [Opened, aiofiles.open]


class Bytes:
    """A file in memory that reads and writes a few bytes at a time, and writes down how it was used."""

    def __init__(self, data: bytes = b"", *, most: int = 1 << 30) -> None:
        self.buffer = io.BytesIO(data)
        self.most = most
        self.sizes: list[int] = []

    async def write(self, data: bytes) -> int:
        """Append."""
        assert type(data) is bytes
        await anyio.lowlevel.checkpoint()
        self.sizes.append(len(data))
        return self.buffer.write(data)

    async def read(self, size: int) -> bytes:
        """Go on reading."""
        await anyio.lowlevel.checkpoint()
        self.sizes.append(size)
        return self.buffer.read(min(size, self.most))


@pytest.mark.parametrize(("format", "compression"), FORMATS)
async def test_out_and_in(tmp_path: Path, openers: list[Any], format: Any, compression: Any) -> None:
    """What was exported is the stored file, byte for byte, and can be imported elsewhere."""
    store = FileSnapshotStore(tmp_path / "snap", State, format=format, compression=compression)
    saved = await store.save(snap(7, a="b"))
    for at, open_file in enumerate(openers):
        async with open_file(tmp_path / "out", "wb") as file:
            ref = await store.export(file)
        assert (ref.index, ref.hlc, ref.checksum, ref.size_bytes) == (7, "t7", saved.checksum, saved.size_bytes)
        assert ref.duration_s is None
        async with open_file(tmp_path / "out", "rb") as file:
            assert await file.read() == await anyio.Path(tmp_path / "snap").read_bytes()
        other = FileSnapshotStore(tmp_path / f"{at}" / "other", State)
        async with open_file(tmp_path / "out", "rb") as file:
            brought = await other.import_(file)
        assert brought.index == 7
        assert brought.duration_s is not None
        assert await other.load_latest() == snap(7, a="b")


@pytest.mark.parametrize(("source", "target"), list(itertools.product(FORMATS, FORMATS)))
async def test_between_formats(source: Any, target: Any) -> None:
    """A snapshot of any format is imported into a store of any other, and stored in that store's own."""
    first = InMemorySnapshotStore(State, format=source[0], compression=source[1])
    second = InMemorySnapshotStore(State, format=target[0], compression=target[1])
    saved = await first.save(snap(3, a="ü"))
    moved, back = Bytes(), Bytes()
    await first.export(moved)
    ref = await second.import_(Bytes(moved.buffer.getvalue()))
    assert await second.load_latest() == snap(3, a="ü")
    assert (ref.checksum == saved.checksum) is (source == target)
    await second.export(back)
    again = InMemorySnapshotStore(State, format=source[0], compression=source[1])
    assert (await again.import_(Bytes(back.buffer.getvalue()))).checksum == saved.checksum


async def test_in_small_and_large_pieces() -> None:
    """A large snapshot goes out in pieces, and comes in from a file that gives a little at a time."""
    store = InMemorySnapshotStore(State)
    large = snap(1, a="x" * 3_000_000)
    await store.save(large)
    out = Bytes()
    await store.export(out)
    assert len(out.sizes) > 2
    assert max(out.sizes) <= 1 << 20
    other = InMemorySnapshotStore(State)
    into = Bytes(out.buffer.getvalue(), most=100_000)
    await other.import_(into)
    assert all(0 < size <= 1 << 20 for size in into.sizes)
    assert await other.load_latest() == large


async def test_nothing_to_export() -> None:
    """Where there is no snapshot, nothing is written."""
    out = Bytes()
    with pytest.raises(SnapshotNotFoundError):
        await InMemorySnapshotStore().export(out)
    assert out.sizes == []


async def test_damage_is_not_exported(tmp_path: Path) -> None:
    """A damaged snapshot is not passed on, not even its beginning, and the error tells what else there is."""
    store = FileSnapshotStore(tmp_path / "snap", State, keep=2)
    for index in (1, 2):
        await store.save(snap(index))
    await anyio.Path(tmp_path / "snap").write_bytes(b"damaged")
    out = Bytes()
    with pytest.raises(CorruptSnapshotError) as caught:
        await store.export(out)
    assert (caught.value.path, len(caught.value.others)) == (str(tmp_path / "snap"), 1)
    assert out.sizes == []


@pytest.mark.parametrize(("format", "compression"), FORMATS)
async def test_damage_is_not_imported(format: Any, compression: Any) -> None:
    """A file of which any byte is another, or the end is missing, is refused, and the stored snapshot stands."""
    source = InMemorySnapshotStore(State, format=format, compression=compression)
    await source.save(snap(9))
    out = Bytes()
    await source.export(out)
    data = out.buffer.getvalue()
    store = InMemorySnapshotStore(State)
    await store.save(snap(1))
    for at in range(len(data)):
        with pytest.raises(CorruptSnapshotError, match="import"):
            await store.import_(Bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]))
        with pytest.raises(CorruptSnapshotError):
            await store.import_(Bytes(data[:at]))
    assert await store.load_latest() == snap(1)


async def test_too_large_to_import() -> None:
    """A file without an end is read no further than is allowed."""

    class Endless(Bytes):
        async def read(self, size: int) -> bytes:
            self.sizes.append(size)
            return bytes(size)

    store = InMemorySnapshotStore(State, max_decoded_bytes=5 << 20)
    await store.save(snap(1))
    endless = Endless()
    with pytest.raises(LimitExceededError, match="max_decoded_bytes") as caught:
        await store.import_(endless)
    assert caught.value.bound == 5 << 20
    assert sum(endless.sizes) <= 6 << 20
    assert await store.load_latest() == snap(1)


async def test_too_large_inside() -> None:
    """A small file that decompresses to more than is allowed is refused, too."""
    source = InMemorySnapshotStore(State, compression="zstd")
    await source.save(snap(1, a="x" * 3_000_000))
    out = Bytes()
    await source.export(out)
    assert len(out.buffer.getvalue()) < 10_000
    with pytest.raises(LimitExceededError):
        await InMemorySnapshotStore(State, max_decoded_bytes=1 << 20).import_(Bytes(out.buffer.getvalue()))


async def test_a_file_of_the_go_package(tmp_path: Path, openers: list[Any]) -> None:
    """A file that the seed's Go code has written is imported, and is from then on one with a checksum."""
    go = b'{ "state":{"a":"1"},\n "extra":null, "last_applied_index":18446744073709551615, "last_applied_hlc":"t" }\n'
    await anyio.Path(tmp_path / "go.json").write_bytes(go)
    store = FileSnapshotStore(tmp_path / "snap", State)
    for open_file in openers:
        async with open_file(tmp_path / "go.json", "rb") as file:
            ref = await store.import_(file)
        assert (ref.index, ref.hlc) == (2**64 - 1, "t")
    assert ref.checksum.startswith("sha256:")
    assert (await store.load_latest()).state == {"a": "1"}
    out = Bytes()
    exported = await store.export(out)
    assert exported.checksum == ref.checksum


async def test_a_go_file_goes_out_as_it_is(tmp_path: Path) -> None:
    """A stored file of the Go package is exported as it stands there; its reference says that it has no checksum."""
    go = b'{"state":{"a":"1"},"last_applied_hlc":"t","last_applied_index":5}'
    await anyio.Path(tmp_path / "snap").write_bytes(go)
    out = Bytes()
    ref = await FileSnapshotStore(tmp_path / "snap", State).export(out)
    assert out.buffer.getvalue() == go
    assert (ref.index, ref.checksum) == (5, "")


async def test_import_never_goes_back() -> None:
    """An import is a save: a lower index is refused, unless a step back was asked for."""
    source, store = InMemorySnapshotStore(State), InMemorySnapshotStore(State, keep=2)
    await source.save(snap(1))
    out = Bytes()
    await source.export(out)
    await store.save(snap(5))
    with pytest.raises(StaleSnapshotError):
        await store.import_(Bytes(out.buffer.getvalue()))
    await store.import_(Bytes(out.buffer.getvalue()), allow_rollback=True)
    assert [ref.index for ref in await store.history()] == [1, 5]


async def test_import_migrates() -> None:
    """A file of an older schema comes in as today's; one of a newer schema, or a newer format, does not."""

    @migration(1)
    def upper(state: Any) -> Any:
        return {key: value.upper() for key, value in state.items()}

    old, new = InMemorySnapshotStore(State), InMemorySnapshotStore(State, schema_version=2, migrations=[upper])
    await old.save(snap(1, a="b"))
    out, back = Bytes(), Bytes()
    await old.export(out)
    await new.import_(Bytes(out.buffer.getvalue()))
    assert (await new.load_latest()).state == {"a": "B"}
    await new.export(back)
    with pytest.raises(SchemaVersionError):
        await old.import_(Bytes(back.buffer.getvalue()))
    before, after = b'{"checksum":"sha256:', b'","format":2,"x":1}'
    with pytest.raises(FormatVersionError):
        await old.import_(Bytes(before + hashlib.sha256(before + after).hexdigest().encode() + after))
    assert (await old.load_latest()).state == {"a": "b"}


async def test_another_type_of_state() -> None:
    """A snapshot of another type does not come in."""
    source: Any = InMemorySnapshotStore(list[int])
    await source.save(Snapshot(state=[1, 2]))
    out = Bytes()
    await source.export(out)
    with pytest.raises(CorruptSnapshotError, match="does not decode as the declared type"):
        await InMemorySnapshotStore(State).import_(Bytes(out.buffer.getvalue()))


class BrokenError(Exception):
    """The file's own."""


class Broken(Bytes):
    """A file that fails after some calls."""

    def __init__(self, data: bytes = b"", *, after: int) -> None:
        super().__init__(data, most=10)
        self.after = after

    async def write(self, data: bytes) -> int:
        """Append, or fail."""
        if len(self.sizes) >= self.after:
            raise BrokenError
        return await super().write(data)

    async def read(self, size: int) -> bytes:
        """Go on reading, or fail."""
        if len(self.sizes) >= self.after:
            raise BrokenError
        return await super().read(size)


async def test_a_file_that_breaks() -> None:
    """An error of the file itself goes on as it is, changes nothing, and the store works on."""
    store = InMemorySnapshotStore(State)
    large = snap(1, a="x" * 3_000_000)
    await store.save(large)
    with pytest.raises(BrokenError):
        await store.export(Broken(after=2))
    with pytest.raises(BrokenError):
        await store.import_(Broken(b"{" * 1000, after=2))
    assert await store.load_latest() == large
    await store.save(snap(2))


async def test_a_text_file_is_refused(tmp_path: Path) -> None:
    """A file that was opened as text is no place for bytes, in either direction."""
    store = InMemorySnapshotStore(State)
    await store.save(snap(1))
    async with await anyio.open_file(tmp_path / "text", "w") as file:
        with pytest.raises(TypeError):
            await store.export(file)  # type: ignore[arg-type]
        await file.write("{}")
    async with await anyio.open_file(tmp_path / "text") as file:
        with pytest.raises(TypeError):
            await store.import_(file)  # type: ignore[arg-type]


async def test_cancelled_between_pieces() -> None:
    """A cancelled export stops between two pieces, a cancelled import before it has saved anything."""
    store = InMemorySnapshotStore(State)
    await store.save(snap(1, a="x" * 5_000_000))

    class Cancels(Bytes):
        async def write(self, data: bytes) -> int:
            scope.cancel()
            return await super().write(data)

        async def read(self, size: int) -> bytes:
            scope.cancel()
            return await super().read(size)

    out, into = Cancels(), Cancels(b"{" * 1000, most=10)
    for call in (lambda: store.export(out), lambda: store.import_(into)):
        with anyio.CancelScope() as scope:
            await call()
        assert scope.cancelled_caught
    assert (len(out.sizes), len(into.sizes)) == (0, 0)
    assert (await store.load_latest()).last_applied_index == 1


async def test_exporting_while_saving() -> None:
    """An export is of one snapshot, whole, whatever is saved meanwhile."""
    store = InMemorySnapshotStore(State)
    await store.save(snap(1, a="x" * 2_000_000))

    class Saves(Bytes):
        async def write(self, data: bytes) -> int:
            await store.save(snap(2 + len(self.sizes)))
            return await super().write(data)

    out = Saves()
    ref = await store.export(out)
    assert ref.index == 1
    other = InMemorySnapshotStore(State)
    await other.import_(Bytes(out.buffer.getvalue()))
    assert (await other.load_latest()).state == {"a": "x" * 2_000_000}


async def test_what_came_in_is_verified_as_any_save(tmp_path: Path) -> None:
    """What a Go file holds is saved only if it would come back; nothing is left of it otherwise."""
    deep = b'{"state":' + b"[" * 500 + b"]" * 500 + b',"last_applied_hlc":"\\ud800","last_applied_index":1}'
    store: Any = FileSnapshotStore(tmp_path / "snap", Any)
    with warnings.catch_warnings(), pytest.raises((CorruptSnapshotError, InvalidStateError)):
        await store.import_(Bytes(deep))
    assert os.listdir(tmp_path) == []

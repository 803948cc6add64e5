"""The stores keep their promises, in memory as in a file; what holds for files alone stands at the end."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import logging
import math
import os
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from swoosh_async import (
    BackendError,
    CorruptSnapshotError,
    Cursor,
    FileBackend,
    FileSnapshotStore,
    FormatVersionError,
    HybridLogicalClock,
    InMemorySnapshotStore,
    InvalidStateError,
    LimitExceededError,
    LockedError,
    OrchestratorState,
    OutcomeUnknownError,
    PoisonedError,
    SchemaVersionError,
    Snapshot,
    SnapshotNotFoundError,
    SnapshotRef,
    SnapshotStore,
    StaleSnapshotError,
    SwooshError,
    Task,
    Worker,
    migration,
)
from swoosh_async import snapshots as snapshots_module
from swoosh_async.backends.file import Generations
from swoosh_async.backends.memory import MemoryBackend

from ._disks import FailingDisk, PlainBlob, descriptors, temps, tree

pytestmark = pytest.mark.anyio

State = Mapping[str, str]


class Place(ABC):
    """Somewhere that outlives the stores on it."""

    @abstractmethod
    def store(self, state_type: Any = State, **options: Any) -> SnapshotStore[Any]:
        """A new store there."""

    @abstractmethod
    def plant(self, data: bytes, index: int) -> None:
        """Put bytes there as the latest snapshot, as some other program might."""

    @abstractmethod
    def raw(self) -> bytes:
        """The bytes of the latest snapshot."""


class InAFile(Place):
    """A path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def store(self, state_type: Any = State, **options: Any) -> SnapshotStore[Any]:
        """A file store on it."""
        return FileSnapshotStore(self.path, state_type, **options)

    def plant(self, data: bytes, index: int) -> None:
        """Write the file."""
        assert index >= 0
        self.path.write_bytes(data)

    def raw(self) -> bytes:
        """Read the file."""
        return self.path.read_bytes()


class InMemory(Place):
    """What the first store there keeps its bytes in."""

    def __init__(self) -> None:
        self.backend: Any = None

    def store(self, state_type: Any = State, **options: Any) -> SnapshotStore[Any]:
        """An in-memory store first, then others over its backend."""
        if self.backend is None:
            store: SnapshotStore[Any] = InMemorySnapshotStore(state_type, **options)
            self.backend = store._backend
            return store
        return SnapshotStore(self.backend, state_type, **options)

    def plant(self, data: bytes, index: int) -> None:
        """Put the bytes as they are."""

        class Planted(PlainBlob):
            head_bytes = 0

            def head(self) -> bytes:
                return b""

            def position_of(self, _: object) -> Any:
                return 0

        self.backend = self.backend or MemoryBackend()
        self.backend.put(Planted(index, data), keep=1, allow_rollback=True)

    def raw(self) -> bytes:
        """The bytes, through the backend."""
        with self.backend.open() as source:
            data: bytes = source.read(0, source.size_bytes)
            return data


@pytest.fixture(params=["file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place of each kind."""
    return InAFile(tmp_path / "snapshot.json") if request.param == "file" else InMemory()


def snap(index: int, **state: str) -> Snapshot[State]:
    """A small snapshot."""
    return Snapshot(state=state or {"n": str(index)}, last_applied_hlc=f"t{index}", last_applied_index=index)


async def indices(store: SnapshotStore[Any]) -> list[int]:
    """The indices of the history, each of them loaded, too."""
    refs = await store.history()
    for ref in refs:
        assert (await store.load(ref)).cursor == ref.cursor
    return [ref.index for ref in refs]


# ---------------------------------------------------------------------- save and load


async def test_round_trip(place: Place) -> None:
    """What was saved is what is loaded, by the same store and by another one on the same place."""
    store = place.store()
    await store.save(snap(42, a="b"))
    assert await store.load_latest() == snap(42, a="b")
    assert await place.store().load_latest() == snap(42, a="b")


class Point(msgspec.Struct, frozen=True):
    """A value."""

    x: float
    tags: frozenset[str] = frozenset()


class Mutable(msgspec.Struct):
    """A state that may be changed in place."""

    points: list[Point]
    by_name: dict[str, list[int]] = {}
    raw: bytes = b""


STATES: list[tuple[Any, Any]] = [
    (OrchestratorState, OrchestratorState().with_tasks(Task("a", labels={"k": "v"}), Task("b", dependencies=("a",)))),
    (OrchestratorState, OrchestratorState()),
    (dict[str, int], {"b": 2, "a": 1}),
    (dict[int, str], {10: "x", 9: "y"}),
    (list[Point], [Point(0.5, frozenset({"b", "a"})), Point(-1e300)]),
    (tuple[int, ...], ()),
    (Mutable, Mutable([Point(1.0)], {"k": [1, 2]}, b"\0\xff")),
    (str, "žluťoučký 🐎 \n\"'\\"),
    (bytes, bytes(range(256))),
    (None | int, None),
    (int, 2**64 - 1),
    (Any, {"a": [1, None, True, 1.5, {"b": "c"}]}),
]


@pytest.mark.parametrize(("state_type", "state"), STATES, ids=range(len(STATES)))
@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize("compression", [None, "zstd"])
async def test_states_of_many_types(place: Place, state_type: Any, state: Any, format: str, compression: str) -> None:
    """States of all kinds come back equal and of the same type, in every format."""
    store = place.store(state_type, format=format, compression=compression)
    await store.save(Snapshot(state=state, last_applied_index=2**64 - 1, last_applied_hlc='"\\ü'))
    loaded = await store.load_latest()
    assert loaded.state == state
    assert type(loaded.state) is type(state)
    assert loaded.cursor == Cursor(2**64 - 1, '"\\ü')


async def test_any_format_is_read_by_any_store(place: Place) -> None:
    """What a store writes is its own matter; it reads them all."""
    for at, (format_, compression) in enumerate(itertools.product(("json", "msgpack"), (None, "zstd"))):
        await place.store(format=format_, compression=compression).save(snap(at))
        for reader in (place.store(), place.store(format="msgpack", compression="zstd")):
            assert await reader.load_latest() == snap(at)


async def test_not_found(place: Place) -> None:
    """Where nothing was saved, that is said by an error of its own; the history is empty, and nothing is pruned."""
    store = place.store()
    for fallback in (False, True):
        with pytest.raises(SnapshotNotFoundError, match="snapshot not found"):
            await store.load_latest(fallback=fallback)
    with pytest.raises(SnapshotNotFoundError):
        await store.load(SnapshotRef(1, "", 1, "sha256:0"))
    assert await store.history() == []
    assert await store.prune() == []


@pytest.mark.parametrize(
    ("format", "compression", "digits_at"),
    [("json", None, 20), ("msgpack", None, 19), ("json", "zstd", 15), ("msgpack", "zstd", 15)],
)
async def test_what_a_reference_tells(place: Place, format: str, compression: str, digits_at: int) -> None:
    """A reference has index, time, length and duration, and the checksum that docs/format.md says the file has."""
    store = place.store(format=format, compression=compression)
    begun = time.monotonic()
    ref = await store.save(snap(42))
    took_s = time.monotonic() - begun
    data = place.raw()
    digits = hashlib.sha256(data[:digits_at] + data[digits_at + 64 :]).hexdigest()
    assert data[digits_at : digits_at + 64] == digits.encode()
    assert (ref.index, ref.hlc, ref.cursor) == (42, "t42", Cursor(42, "t42"))
    assert (ref.size_bytes, ref.checksum) == (len(data), f"sha256:{digits}")
    assert ref.duration_s is not None
    assert 0 < ref.duration_s <= took_s
    assert ref.name
    assert await store.history() == [msgspec.structs.replace(ref, duration_s=None)]


async def test_json_is_as_it_is_documented(place: Place) -> None:
    """A JSON snapshot is one canonical object, whatever order the state was made in."""
    await place.store().save(snap(1, b="2", a="1"))
    data = place.raw()
    assert json.dumps(json.loads(data), sort_keys=True, separators=(",", ":")).encode() == data
    assert list(json.loads(data)) == [
        "checksum",
        "format",
        "last_applied_hlc",
        "last_applied_index",
        "schema_version",
        "state",
    ]
    other = place.store()
    await other.save(snap(1, a="1", b="2"))
    assert place.raw() == data


async def test_nothing_is_shared(place: Place) -> None:
    """Neither what was saved nor what was loaded is tied to what is stored."""
    store = place.store(Mutable)
    state = Mutable([Point(1.0)], {"k": [1]}, b"raw")
    await store.save(Snapshot(state=state))
    state.points.append(Point(2.0))
    state.by_name["k"].append(2)
    first = (await store.load_latest()).state
    assert (first.points, first.by_name) == ([Point(1.0)], {"k": [1]})
    first.points.clear()
    first.by_name["k"].clear()
    second = (await store.load_latest()).state
    assert (second.points, second.by_name) == ([Point(1.0)], {"k": [1]})


async def test_bytes_are_not_shared(place: Place) -> None:
    """A bytearray in the state is saved as it was at the call, and what is loaded is another one each time."""
    store = place.store(dict[str, bytearray])
    state = {"k": bytearray(b"abc")}
    saving = store.save(Snapshot(state=state))
    state["k"][0] = 0
    await saving
    first = (await store.load_latest()).state
    assert first == {"k": bytearray(b"abc")}
    first["k"][0] = 0
    assert (await store.load_latest()).state == {"k": bytearray(b"abc")}


async def test_saved_as_it_was_at_the_call(place: Place) -> None:
    """What is done to the state between the call and the await, or meanwhile, is not saved."""
    store = place.store(dict[str, str])
    state = {"k": "before"}
    saving = store.save(Snapshot(state=state, last_applied_index=1))
    state["k"] = "after"
    state["more"] = "after"
    await saving
    assert (await store.load_latest()).state == {"k": "before"}


async def test_no_state_is_told(place: Place) -> None:
    """No error and no log line shows what is in a state."""
    store = place.store()
    await store.save(snap(5, secret="hunter2"))
    for bad in (snap(4, secret="hunter2"), Snapshot(state={"secret": "hunter2\ud800"}, last_applied_index=9)):
        with pytest.raises(SwooshError) as caught:
            await store.save(bad)
        assert "hunter2" not in str(caught.value)


# ---------------------------------------------------------------------- history


@pytest.mark.parametrize("keep", [1, 3, 5])
async def test_history(place: Place, keep: int) -> None:
    """As many snapshots as are to be kept stand in the history, newest first, and each can be loaded."""
    store = place.store(keep=keep)
    saved = [await store.save(snap(index)) for index in range(1, 8)]
    refs = await store.history()
    assert [(ref.cursor, ref.checksum, ref.size_bytes) for ref in refs] == [
        (ref.cursor, ref.checksum, ref.size_bytes) for ref in reversed(saved[-keep:])
    ]
    assert all(ref.duration_s is None for ref in refs)
    for ref in refs:
        assert await store.load(ref) == snap(ref.index)
        assert await place.store().load(ref) == snap(ref.index)


async def test_references_stay_good(place: Place) -> None:
    """A reference as `save` gave it can be loaded as long as its snapshot is kept; then that is not found."""
    store = place.store(keep=2)
    refs = [await store.save(snap(index)) for index in range(1, 5)]
    for ref in refs[2:]:
        assert await store.load(ref) == snap(ref.index)
    for ref in refs[:2]:
        with pytest.raises(SnapshotNotFoundError, match="it was pruned or replaced"):
            await store.load(ref)
    await store.prune(1)
    with pytest.raises(SnapshotNotFoundError):
        await store.load(refs[2])
    assert await store.load(refs[3]) == snap(4)


async def test_a_reference_to_what_was_replaced(place: Place) -> None:
    """With one snapshot kept, a reference to an earlier one does not load the later, though it has the same index."""
    store = place.store()
    first = await store.save(snap(1, a="first"))
    second = await store.save(snap(1, a="second"))
    with pytest.raises(SnapshotNotFoundError):
        await store.load(first)
    assert await store.load(second) == snap(1, a="second")


async def test_pruned_by_somebody_else_meanwhile() -> None:
    """What goes between the listing and the look is not in the history."""

    class Pruned(MemoryBackend):
        def names(self) -> Sequence[str]:
            names = super().names()
            self.prune(2)
            return names

    store: SnapshotStore[State] = SnapshotStore(Pruned(), State, keep=5)
    for index in range(1, 6):
        await store.save(snap(index))
    assert await indices(store) == [5, 4]


async def test_a_reference_from_before_more_were_kept(place: Place) -> None:
    """A reference stays good when the number of kept snapshots is raised, and its snapshot becomes an older one."""
    ref = await place.store().save(snap(1))
    store = place.store(keep=3)
    await store.save(snap(2))
    assert await store.load(ref) == snap(1)


async def test_a_reference_that_was_stored(place: Place) -> None:
    """A reference can be written down and read again, and is found by what it says even without its name."""
    store = place.store(keep=2)
    ref = await store.save(snap(1))
    await store.save(snap(2))
    again = msgspec.json.decode(msgspec.json.encode(ref), type=SnapshotRef)
    assert again == ref
    assert await store.load(msgspec.structs.replace(again, name="")) == snap(1)
    assert await store.load(msgspec.structs.replace(again, name="../../etc/passwd")) == snap(1)


async def test_how_many_are_kept_may_change(place: Place) -> None:
    """Stores that keep another number, one after the other on the same place, take over what is there."""
    for keep, index, expected in (
        (1, 1, [1]),
        (3, 2, [2, 1]),
        (3, 3, [3, 2, 1]),
        (3, 4, [4, 3, 2]),
        (1, 5, [5]),
        (3, 6, [6, 5]),
        (5, 7, [7, 6, 5]),
    ):
        await place.store(keep=keep).save(snap(index))
        assert await indices(place.store()) == expected


async def test_prune(place: Place) -> None:
    """Pruning leaves the newest, the store's own number unless told otherwise, and returns what went, newest first."""
    store = place.store(keep=5)
    for index in range(1, 6):
        await store.save(snap(index))
    before = await store.history()
    assert await store.prune() == []
    assert await store.prune(3) == before[3:]
    assert await indices(store) == [5, 4, 3]
    assert await place.store().prune() == before[1:3]
    assert await store.load_latest() == snap(5)


@pytest.mark.parametrize("keep", [0, -1, True, 1.5, "3"])
async def test_how_many_cannot_be_kept(place: Place, keep: Any) -> None:
    """A store keeps at least one, and says so at once."""
    with pytest.raises(ValueError, match="keep must be an int >= 1"):
        place.store(keep=keep)
    store = place.store()
    with pytest.raises(ValueError, match="keep must be an int >= 1"):
        await store.prune(keep)


# ---------------------------------------------------------------------- never backwards


@pytest.mark.parametrize("keep", [1, 3])
async def test_never_backwards(place: Place, keep: int) -> None:
    """A lower index is refused and changes nothing; an equal one is not; a step back has to be asked for."""
    store = place.store(keep=keep)
    await store.save(snap(5))
    with pytest.raises(StaleSnapshotError, match="allow_rollback") as caught:
        await place.store(keep=keep).save(snap(4))
    assert (caught.value.index, caught.value.stored) == (4, 5)
    assert await indices(store) == [5]
    await store.save(snap(5, again="yes"))
    assert await store.load_latest() == snap(5, again="yes")
    await store.save(snap(3), allow_rollback=True)
    assert await store.load_latest() == snap(3)
    await store.save(snap(4))
    assert await indices(store) == [4, 3, 5][:keep]


async def test_the_highest_index(place: Place) -> None:
    """An index of 2**64 - 1 can be saved, and only it can follow."""
    store = place.store()
    await store.save(snap(2**64 - 1))
    with pytest.raises(StaleSnapshotError):
        await store.save(snap(2**64 - 2))
    await store.save(snap(2**64 - 1))


# ---------------------------------------------------------------------- refusals


class Deep(msgspec.Struct):
    """A state as deep as one likes."""

    child: Deep | None = None


def deep(levels: int) -> Deep:
    """That many levels of it."""
    state = Deep()
    for _ in range(levels):
        state = Deep(state)
    return state


REFUSALS: dict[str, tuple[Any, Any, str]] = {  # in JSON
    "nan": (dict[str, float], {"a": 1.0, "b": math.nan}, "state['b']"),
    "infinity": (dict[str, float], {"b": -math.inf}, "state['b']"),
    "wrong type": (dict[str, int], {"a": 1, "b": "2"}, "state['b']"),
    "wrong type inside": (Mapping[str, Point], {"b": Point("1")}, "state['b'].x"),  # type: ignore[arg-type]
    "wrong type at all": (OrchestratorState, {"tasks": {}}, "state"),
    "none": (dict[str, int], {"b": None}, "state['b']"),
    "no whole number": (dict[str, int], {"b": 1.5}, "state['b']"),
    "lone surrogate": (dict[str, str], {"b": "\ud800"}, "state['b']"),
    "lone surrogate in a key": (dict[str, int], {"\udfff": 1}, "state"),
    "too deep": (Deep, deep(5000), "state"),
    "same text": (dict[int | str, int], {1: 1, "1": 2}, "state"),
    "no such type": (Any, {"b": object()}, "state['b']"),
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("keep", [1, 3])
async def test_refusals(place: Place, name: str, keep: int) -> None:
    """What would not come back as it is is refused, with the place in the state, and the older snapshot stands."""
    state_type, state, path = REFUSALS[name]
    older = snap(1)
    await place.store(keep=keep).save(older)
    before = place.raw()
    store = place.store(state_type, keep=keep)
    for _ in range(2):
        with pytest.raises(InvalidStateError) as caught:
            await store.save(Snapshot(state=state, last_applied_index=2))
        assert caught.value.path.startswith(path)
        assert isinstance(caught.value, ValueError)
    assert place.raw() == before
    assert await indices(place.store()) == [1]
    assert await place.store().load_latest() == older
    await place.store(keep=keep).save(snap(3))


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
async def test_integers_that_messagepack_has_not(place: Place, number: int) -> None:
    """An integer beyond 64 bits is refused where the format cannot hold it, and the older snapshot stands."""
    store = place.store(dict[str, int], format="msgpack")
    await store.save(Snapshot(state={"a": 1}, last_applied_index=1))
    with pytest.raises(InvalidStateError) as caught:
        await store.save(Snapshot(state={"a": 1, "b": number}, last_applied_index=2))
    assert caught.value.path.startswith("state['b']")
    assert (await store.load_latest()).state == {"a": 1}


async def test_no_snapshot_at_all(place: Place) -> None:
    """What is no snapshot is refused."""
    store = place.store()
    with pytest.raises(InvalidStateError, match="must be a Snapshot"):
        await store.save({"n": "1"})  # type: ignore[arg-type]
    with pytest.raises(InvalidStateError) as caught:
        await store.save(Snapshot(state={}, last_applied_hlc="\ud800"))
    assert caught.value.path == "last_applied_hlc"
    assert await store.history() == []


async def test_errors_come_at_the_await(place: Place) -> None:
    """A call never raises, whatever is wrong with what it was given: the error comes where it is awaited."""
    store = place.store(Any)
    calls = [
        store.save(Snapshot(state=object())),
        store.save(Snapshot(state={"a": "\ud800"})),
        store.save("no snapshot"),  # type: ignore[arg-type]
        store.save(Snapshot(state={}, last_applied_hlc="\ud800")),
    ]
    for call in calls:
        with pytest.raises(InvalidStateError):
            await call
    assert await store.history() == []


async def test_an_error_of_the_users_own_hook(place: Place) -> None:
    """What a hook raises, of whatever kind, comes at the await, too, and changes nothing."""

    class Odd:
        pass

    def hook(_: Any) -> Any:
        raise LookupError("the user's own")

    store = place.store(Any, enc_hook=hook)
    saving = store.save(Snapshot(state=Odd()))
    with pytest.raises((LookupError, InvalidStateError)):
        await saving
    assert await store.history() == []


async def test_a_call_that_is_not_awaited(place: Place) -> None:
    """A save that nobody awaits changes nothing."""
    store = place.store()
    store.save(snap(1)).close()
    assert await store.history() == []


# ---------------------------------------------------------------------- versions


class V1(msgspec.Struct):
    """A schema's first version."""

    name: str


class V3(msgspec.Struct):
    """Its third."""

    first: str
    last: str
    tags: list[str]


@migration(1)
def split(state: Any) -> Any:
    """The step from the first version to the second."""
    first, _, last = state["name"].partition(" ")
    return {"first": first, "last": last}


@migration(2)
def tag(state: Any) -> Any:
    """The step from the second to the third."""
    return {**state, "tags": []}


@pytest.mark.parametrize("format", ["json", "msgpack"])
async def test_migrations(place: Place, format: str) -> None:
    """A state of an older schema is loaded as today's, by every way of loading, and saved as such."""
    await place.store(V1, format=format).save(Snapshot(state=V1("Ada Lovelace"), last_applied_index=1))
    store = place.store(V3, schema_version=3, migrations=[tag, split], keep=2)
    old = (await store.history())[0]
    assert (await store.load_latest()).state == V3("Ada", "Lovelace", [])
    assert (await store.load(old)).state == V3("Ada", "Lovelace", [])
    await store.save(Snapshot(state=V3("Grace", "Hopper", ["navy"]), last_applied_index=2))
    assert (await store.load_latest()).state == V3("Grace", "Hopper", ["navy"])
    assert (await store.load(old)).state == V3("Ada", "Lovelace", [])


async def test_a_missing_migration(place: Place) -> None:
    """Where no step leads from what is stored, loading says which versions; saving is not kept out."""
    await place.store(V1).save(Snapshot(state=V1("Ada"), last_applied_index=1))
    store = place.store(V3, schema_version=3, migrations=[tag])
    with pytest.raises(SchemaVersionError) as caught:
        await store.load_latest()
    assert (caught.value.found, caught.value.supported) == (1, 3)
    await store.save(Snapshot(state=V3("a", "b", []), last_applied_index=2))
    assert (await store.load_latest()).state == V3("a", "b", [])


@pytest.mark.parametrize("keep", [1, 3])
@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize("compression", [None, "zstd"])
async def test_a_newer_schema_is_never_overwritten(place: Place, keep: int, format: str, compression: str) -> None:
    """An older program neither loads nor overwrites what a newer one has saved, not even when it may roll back."""
    newer = place.store(schema_version=2, keep=keep, format=format, compression=compression)
    await newer.save(snap(1))
    before = place.raw()
    older = place.store(keep=keep)
    for allow_rollback in (False, True):
        with pytest.raises(SchemaVersionError) as caught:
            await older.save(snap(5), allow_rollback=allow_rollback)
        assert (caught.value.found, caught.value.supported) == (2, 1)
    with pytest.raises(SchemaVersionError):
        await older.load_latest()
    with pytest.raises(SchemaVersionError):
        await older.load_latest(fallback=True)
    assert place.raw() == before
    await newer.save(snap(2))


def format_2() -> bytes:
    """A file as a version to come might write it: intact, and of a format that nobody here knows."""
    before, after = b'{"checksum":"sha256:', b'","format":2,"from":"the future"}'
    return before + hashlib.sha256(before + after).hexdigest().encode() + after


@pytest.mark.parametrize("keep", [1, 3])
async def test_a_newer_format_is_never_overwritten(place: Place, keep: int) -> None:
    """What a newer version of this package has written is intact: it is neither loaded, nor overwritten, nor moved."""
    place.plant(format_2(), 7)
    store = place.store(keep=keep)
    for allow_rollback in (False, True):
        with pytest.raises(FormatVersionError, match="upgrade") as caught:
            await store.save(snap(9), allow_rollback=allow_rollback)
        assert (caught.value.found, caught.value.supported) == (2, 1)
    for fallback in (False, True):
        with pytest.raises(FormatVersionError):
            await store.load_latest(fallback=fallback)
    assert place.raw() == format_2()


GO = b"""
{ "State": null, "last_applied_index" : 18446744073709551615,
  "state": {"b": "2", "a": "1"}, "extra": [1, 2, {}], "last_applied_hlc":"2024-01-01T00:00:00Z/7" }
"""


async def test_a_file_of_the_go_package(place: Place) -> None:
    """A file of the seed's Go code loads, stands in the history, is replaced by a save, and is kept beside it."""
    place.plant(GO, 2**64 - 1)
    store = place.store(keep=2)
    old = Snapshot(state={"a": "1", "b": "2"}, last_applied_index=2**64 - 1, last_applied_hlc="2024-01-01T00:00:00Z/7")
    assert await store.load_latest() == old
    (ref,) = await store.history()
    assert (ref.index, ref.hlc, ref.checksum, ref.size_bytes) == (2**64 - 1, old.last_applied_hlc, "", len(GO))
    with pytest.raises(StaleSnapshotError):
        await store.save(snap(1))
    await store.save(snap(2**64 - 1))
    assert await store.load_latest() == snap(2**64 - 1)
    assert await store.load(ref) == old


# ---------------------------------------------------------------------- its use


async def test_a_store_is_made_without_touching_anything(tmp_path: Path) -> None:
    """A constructor does no I/O: nothing is made, and what is wrong on the disk is told when it is used."""
    (tmp_path / "file").write_bytes(b"")
    store = FileSnapshotStore(tmp_path / "file" / "below" / "snap")
    FileSnapshotStore(tmp_path / "new" / "snap")
    FileBackend(tmp_path / "new")
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(BackendError):
        await store.load_latest()


async def test_what_a_store_is_called(tmp_path: Path) -> None:
    """A store shows where it keeps its snapshots, and nothing of them."""
    assert repr(FileSnapshotStore(tmp_path / "snap")) == f"<FileSnapshotStore {tmp_path / 'snap'}>"
    assert repr(InMemorySnapshotStore()) == "<InMemorySnapshotStore memory>"


async def test_options_that_make_no_sense(place: Place) -> None:
    """What is wrong with an option is said when the store is made."""
    for wrong, error in (
        ({"format": "yaml"}, ValueError),
        ({"compression": "gzip"}, ValueError),
        ({"schema_version": 0}, ValueError),
        ({"schema_version": 3, "migrations": [split]}, ValueError),
        ({"state_type": 5}, TypeError),
        ({"unknown": 1}, TypeError),
    ):
        with pytest.raises(error):
            place.store(**wrong)


def test_one_store_in_many_loops(place: Place) -> None:
    """A store made outside of any loop is used in one after the other, and in several at once, in threads."""
    store = place.store()
    anyio.run(store.save, snap(1))
    assert anyio.run(store.load_latest, backend="trio") == snap(1)
    errors: list[BaseException] = []

    def work(loop: str, first: int) -> None:
        async def save() -> None:
            for index in range(first, 40, 2):
                with contextlib.suppress(StaleSnapshotError):
                    await store.save(snap(index))

        try:
            anyio.run(save, backend=loop)
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=("asyncio", 2)), threading.Thread(target=work, args=("trio", 3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert anyio.run(store.load_latest) == snap(39)


async def test_saves_go_in_call_order(place: Place) -> None:
    """Of many saves at once, none overtakes an earlier one."""
    store = place.store(keep=100)
    numbers = itertools.count(1)

    async def save() -> None:
        await store.save(snap(next(numbers)))

    async with anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(save)
    assert await indices(store) == list(range(30, 0, -1))


async def test_cancelled_before_it_began(place: Place) -> None:
    """In a scope that is cancelled already, nothing is saved and nothing is read."""
    store = place.store()
    await store.save(snap(1))
    for call in (lambda: store.save(snap(2)), store.load_latest, store.history, store.prune):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await call()
        assert scope.cancelled_caught
    assert await store.load_latest() == snap(1)


class Nested(msgspec.Struct):
    """A state that can be changed deep inside."""

    inside: dict[str, list[int]]


async def test_a_slow_isolation_is_told_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that has to be encoded on the loop, and takes long, is warned of once, with what to do about it."""
    monkeypatch.setattr(snapshots_module, "SLOW_ISOLATION_S", 0.0)
    monkeypatch.setattr(snapshots_module, "_warned", set())
    store = place.store(Nested)
    with pytest.warns(RuntimeWarning, match=r"Nested can be changed deep inside.*frozen Structs") as caught:
        await store.save(Snapshot(state=Nested({"a": [1]}), last_applied_index=1))
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await store.save(Snapshot(state=Nested({"a": [2]}), last_applied_index=2))


# ---------------------------------------------------------------------- the design's lines


class MyState(msgspec.Struct, frozen=True):
    """What a service of somebody's knows."""

    counts: Mapping[str, int] = {}


@migration(1)
def older_1(state: Any) -> Any:
    """The step from version 1 to 2."""
    return state


@migration(2)
def older_2(state: Any) -> Any:
    """The step from version 2 to 3."""
    return state


async def test_the_designs_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines for stores in DESIGN.md §4 work as they are written."""
    monkeypatch.chdir(tmp_path)
    state, ts = OrchestratorState().with_workers(Worker("w")), HybridLogicalClock().now()
    migrations = [older_1, older_2]

    store = FileSnapshotStore("var/snapshot.json")
    ref = await store.save(Snapshot(state=state, last_applied_hlc=str(ts), last_applied_index=42))
    snapshot = await store.load_latest()
    assert snapshot.state == state
    assert (ref.index, ref.hlc) == (42, str(ts))

    kept = FileSnapshotStore("var/snapshot.json", MyState, keep=5)
    for index in range(43, 48):
        await kept.save(Snapshot(state=MyState({"a": index}), last_applied_index=index))
    refs = await kept.history()
    assert (await kept.load(refs[3])).state == MyState({"a": 44})

    packed = FileSnapshotStore(
        "var/snapshot.zst",
        MyState,
        format="msgpack",
        compression="zstd",
        verify=True,
        schema_version=3,
        migrations=migrations,
    )
    with pytest.raises(SnapshotNotFoundError):
        await packed.load_latest()
    await packed.save(Snapshot(state=MyState({"a": 1})))
    assert (await packed.load_latest()).state == MyState({"a": 1})

    memory = InMemorySnapshotStore()
    await memory.save(Snapshot(state=state))
    assert (await memory.load_latest()).state == state


# ---------------------------------------------------------------------- in files only


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    """A snapshot's path; afterwards no descriptor may be left open in its directory."""
    yield tmp_path / "snap"
    assert [found for found in descriptors() if str(tmp_path) in found] == []


async def test_too_large_for_its_file(path: Path) -> None:
    """A snapshot larger than may be read again is refused while it is written, and the older one stands."""
    store = FileSnapshotStore(path, State, max_file_bytes=10_000, keep=2)
    await store.save(snap(1))
    before = tree(path.parent)
    for compression in (None, "zstd"):
        store = FileSnapshotStore(path, State, max_file_bytes=10_000, keep=2, compression=compression)  # type: ignore[arg-type]
        with pytest.raises(LimitExceededError, match="max_file_bytes"):
            await store.save(snap(2, a=os.urandom(20_000).hex()))
        assert tree(path.parent) == before
    assert await store.load_latest() == snap(1)
    await store.save(snap(2, a="x" * 9000))


@pytest.mark.parametrize("keep", [1, 3])
@pytest.mark.parametrize("failing", ["rename", "close", "fsync directory", "ftruncate"])
async def test_poison(path: Path, failing: str, keep: int) -> None:
    """After a step whose outcome is unknown the store does nothing any more; a new one tells what is there."""
    await FileSnapshotStore(path, State, keep=keep).save(snap(1))
    calls = ["fsync ..", "open .lock", "create TEMP", "pwrite", "pwrite", "fsync TEMP", *(["link"] if keep > 1 else [])]
    calls += ["rename", "close", "fsync directory", "ftruncate"]
    disk = FailingDisk(path.parent, calls.index(failing))
    store = SnapshotStore(Generations(path, disk=disk), State, keep=keep)
    with pytest.raises(OutcomeUnknownError, match="open it anew") as unknown:
        await store.save(snap(2))
    assert disk.failed.split()[0] == failing.split(maxsplit=1)[0]
    assert unknown.value.errno == errno.EIO
    disk.calls.clear()
    ref = SnapshotRef(1, "t1", 1, "")
    calls_after: list[Any] = [
        lambda: store.save(snap(3)),
        store.load_latest,
        lambda: store.load_latest(fallback=True),
        store.history,
        store.prune,
        lambda: store.load(ref),
        lambda: store.export(None),  # type: ignore[arg-type]
    ]
    for call in calls_after:
        with pytest.raises(PoisonedError, match="make a new one") as poisoned:
            await call()
        assert (poisoned.value.where, poisoned.value.reason) == (str(path), unknown.value.step)
    assert disk.calls == []
    again = FileSnapshotStore(path, State, keep=keep)
    assert (await again.load_latest()).last_applied_index in (1, 2)
    await again.save(snap(3))
    assert (await indices(again))[0] == 3
    assert temps(path.parent) == []


async def test_saves_that_wait_behind_an_unknown_outcome(path: Path) -> None:
    """Saves that stood in line behind it are refused, and not carried out."""
    await FileSnapshotStore(path, State).save(snap(1))
    store = SnapshotStore(Generations(path, disk=FailingDisk(path.parent, 6)), State)
    outcomes: list[type[BaseException] | None] = []

    async def save(index: int) -> None:
        try:
            await store.save(snap(index))
        except SwooshError as error:
            outcomes.append(type(error))

    async with anyio.create_task_group() as tasks:
        for index in range(2, 7):
            tasks.start_soon(save, index)
    assert sorted(map(str, outcomes)) == sorted(map(str, [OutcomeUnknownError, *[PoisonedError] * 4]))


async def test_a_refused_step_poisons_nothing(path: Path) -> None:
    """After a step that failed before the rename, and a rename that a full disk has refused, the store works on."""
    for at in range(6):
        disk = FailingDisk(path.parent, at, errno.ENOSPC)
        store = SnapshotStore(Generations(path, disk=disk), State)
        with contextlib.suppress(SnapshotNotFoundError):
            await FileSnapshotStore(path, State).load_latest()
        with pytest.raises(BackendError, match="try again") as caught:
            await store.save(snap(at))
        assert caught.value.errno == errno.ENOSPC
        await store.save(snap(at))
        assert await store.load_latest() == snap(at)


async def test_locked_out(path: Path) -> None:
    """A save that does not get its turn in time says who has it, and changes nothing."""
    fcntl = pytest.importorskip("fcntl")
    store = FileSnapshotStore(path, State, lock_timeout_s=0.01)
    await store.save(snap(1))
    with (path.parent / ".snap.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LockedError) as caught:
            await store.save(snap(2))
        assert caught.value.pid == os.getpid()
        assert await store.load_latest() == snap(1)
    await store.save(snap(2))


async def test_history_leaves_out_what_is_damaged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A generation whose head is damaged is not in the history, and the log says so."""
    store = FileSnapshotStore(path, State, keep=3)
    refs = [await store.save(snap(index)) for index in (1, 2, 3)]
    (path.parent / refs[1].name).write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING, "swoosh_async"):
        assert [ref.index for ref in await store.history()] == [3, 1]
    assert refs[1].name in caplog.text
    with pytest.raises(CorruptSnapshotError):
        await store.load(refs[1])
    await store.save(snap(4))
    assert [ref.index for ref in await store.history()] == [4, 3]


async def test_a_symlink_is_followed(path: Path) -> None:
    """A symlink at the path leads to the snapshot, and stays a symlink."""
    os.symlink("elsewhere/snap", path)
    store = FileSnapshotStore(path, State)
    await store.save(snap(1))
    assert os.readlink(path) == "elsewhere/snap"
    assert sorted(os.listdir(path.with_name("elsewhere"))) == [".snap.lock", "snap"]
    assert await store.load_latest() == snap(1)


async def test_modes(path: Path) -> None:
    """A file is private unless another mode was chosen."""
    await FileSnapshotStore(path, State).save(snap(1))
    assert os.stat(path).st_mode & 0o777 == 0o600
    await FileSnapshotStore(path, State, mode=0o644).save(snap(2))
    assert os.stat(path).st_mode & 0o777 == 0o644


async def test_a_large_snapshot(path: Path) -> None:
    """Some megabytes in many pieces come back as they were."""
    state = {f"key {n}": "x" * 1000 for n in range(5000)}
    store = FileSnapshotStore(path, State)
    ref = await store.save(Snapshot(state=state))
    assert ref.size_bytes == os.stat(path).st_size > 5_000_000
    assert (await store.load_latest()).state == state

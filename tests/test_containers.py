"""Mappings of other libraries: once they are in the table, they are values, cut into pieces, and made again."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Literal, TypeVar

import msgspec
import pytest

from swoosh_async import Snapshot, SnapshotCodec, Task
from swoosh_async.codec._containers import CONTAINERS, Container
from swoosh_async.codec._plan import Plan

K = TypeVar("K")
V = TypeVar("V")


class Persistent(Mapping[K, V]):
    """A mapping that cannot be changed, as a library for persistent maps has it."""

    def __init__(self, entries: Mapping[K, V]) -> None:
        self._entries = dict(entries)

    def __getitem__(self, key: K) -> V:
        return self._entries[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the mapping into the table."""
    monkeypatch.setitem(CONTAINERS, Persistent, Container(lambda value: value.items(), Persistent))


class State(msgspec.Struct, frozen=True):
    tasks: Persistent[str, Task]
    times: Persistent[int, dt.datetime | None]


def state_of(n: int) -> State:
    """A state of n entries in each mapping."""
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return State(Persistent({f"t{i}": Task(f"t{i}") for i in range(n)}), Persistent(dict.fromkeys(range(n), moment)))


@pytest.mark.parametrize("n", [0, 3, 20_000])
@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_it_comes_back_as_it_was(n: int, format: Literal["json", "msgpack"]) -> None:
    """Small or large, in JSON or MessagePack, it is decoded as the same class with the same entries."""
    codec = SnapshotCodec(State, format=format)
    back = codec.decode(b"".join(codec.encode(Snapshot(state=state_of(n))))).snapshot.state
    assert back == state_of(n)
    assert type(back.tasks) is Persistent


def test_it_is_shared_not_copied() -> None:
    """It counts as a value, so nothing of it is copied when a save is called."""
    assert Plan(State).shared


def test_its_bytes_are_those_of_a_dict() -> None:
    """A large one is cut, and gives the bytes that a dict gives."""

    class Plain(msgspec.Struct, frozen=True):
        tasks: Mapping[str, Task]
        times: Mapping[int, dt.datetime | None]

    state = state_of(20_000)
    plain = Plain(dict(state.tasks), dict(state.times))
    pieces = list(SnapshotCodec(State).encode(Snapshot(state=state)))
    assert b"".join(pieces) == b"".join(SnapshotCodec(Plain).encode(Snapshot(state=plain)))
    assert len(list(SnapshotCodec(State)._pieces.of(state))) > 50


def test_without_immutables() -> None:
    """Where that library is missing, the package is whole, and the module that needs it says what to install."""
    without = (
        "import sys; sys.modules['immutables'] = None; import swoosh_async; print(swoosh_async.OrchestratorState()); "
    )
    line = [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-c", without + "import swoosh_async.persistent"]
    ran = subprocess.run(line, capture_output=True, text=True, check=False)
    assert ran.stdout.startswith("OrchestratorState(")
    last = ran.stderr.splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: ")
    assert last.endswith("needs immutables: pip install 'swoosh-async[persistent]'")

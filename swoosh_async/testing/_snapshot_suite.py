"""What every home of snapshots must do, as tests: the clauses of `SnapshotBackend`, one after the other.

Nothing here knows a codec, an event loop or a file.
"""

from __future__ import annotations

import threading

import pytest

from ..backends.base import SnapshotBackend
from ..errors import (
    SnapshotNotFoundError,
    StaleSnapshotError,
    SwooshError,
)
from ._blob import STEPS, PlainBlob, check, content, kept, put
from ._place import Opened
from ._snapshot_survival import Survival
from ._threads import BOUND_S, Task, insist

__all__ = ["SnapshotBackendSuite"]

_HIGHEST = (1 << 64) - 1
_OVERTAKE_S = 0.1
"""How long a writer that is held up gives another one to overtake it; one that takes turns lets it pass."""


class _RefusedError(Exception):
    """What a blob refuses itself with."""


class _InterruptedError(BaseException):
    """What comes from outside, and is no error."""


class SnapshotBackendSuite(Survival):
    """The tests that each `SnapshotBackend` must pass. Subclass it, and give it a fixture `place`."""

    @pytest.fixture
    def backend(self, opened: Opened[SnapshotBackend]) -> SnapshotBackend:
        """A backend at the place."""
        return opened.open()

    # ------------------------------------------------------------------ what is there

    def test_a_place_without_snapshots(self, backend: SnapshotBackend) -> None:
        """`open`: where there is none, it says so; there are no names, and nothing to prune."""
        for name in (None, "0", "latest", "a/b", "../x", ""):
            with pytest.raises(SnapshotNotFoundError):
                backend.open(name)
        assert list(backend.names()) == []
        assert list(backend.prune(1)) == []

    def test_where_is_for_messages(self, opened: Opened[SnapshotBackend]) -> None:
        """`where`: it has a name, which stays the same, also for another one there."""
        backend = opened.open()
        assert backend.where
        put(backend, PlainBlob(1))
        assert backend.where == opened.open().where

    def test_the_latest_is_what_was_put_last(self, opened: Opened[SnapshotBackend]) -> None:
        """`put`: each is the latest then, whole, under the name that is returned, for everybody."""
        backend = opened.open()
        for position in range(1, 4):
            blob = PlainBlob(position)
            stored = put(backend, blob)
            assert stored.size_bytes == len(blob.data)
            for reader in (backend, opened.open()):
                assert content(reader) == content(reader, stored.name) == blob.data
                assert kept(reader) == [position]

    def test_a_blob_is_asked_in_order(self, backend: SnapshotBackend) -> None:
        """`Blob`: the body is asked for once, and the head when the body has ended."""
        blob = PlainBlob(1, (b"a", b"b", b"c"))
        put(backend, blob)
        assert blob.steps[:4] == ["begin", "piece", "piece", "end"]
        assert set(blob.steps[4:]) == {"head"}

    @pytest.mark.parametrize(
        "pieces",
        [
            pytest.param((), id="none"),
            pytest.param((b"",), id="one that is empty"),
            pytest.param((b"", b"x", b"", b"y", b""), id="empty ones between"),
            pytest.param((bytes(100_000),), id="zeros"),
            pytest.param((bytes(range(256)) * 2, b"\r\n\0\xff", b'{"a":1}', "ä€".encode()), id="any bytes"),
            pytest.param(tuple(b"%d;" % number for number in range(5000)), id="many"),
            pytest.param((b"x", b"y" * 1_000_000, b"z"), id="long ones"),
        ],
    )
    def test_bytes_are_opaque(self, pieces: tuple[bytes, ...], opened: Opened[SnapshotBackend]) -> None:
        """`put`: whatever the pieces are, they come back as they were."""
        blob = PlainBlob(1, pieces)
        assert put(opened.open(), blob).size_bytes == len(blob.data)
        assert content(opened.open()) == blob.data

    def test_a_source_is_read_at_any_place(self, backend: SnapshotBackend) -> None:
        """`Source`: any part of it, in any order; fewer bytes at the end only, and none behind it."""
        blob = PlainBlob(1, (bytes(range(256)) * 20,))
        stored = put(backend, blob)
        data = blob.data
        with backend.open(stored.name) as source:
            assert source.name == stored.name
            assert source.path
            assert source.size_bytes == len(data)
            for offset, size in ((0, 0), (100, 7), (0, len(data)), (3000, 2000), (1, 1), (len(data) - 3, 3)):
                assert source.read(offset, size) == data[offset : offset + size]
                buffer = bytearray(b"?" * (size + 2))
                assert source.read_into(memoryview(buffer)[1:-1], offset) == size
                assert buffer == b"?" + data[offset : offset + size] + b"?"
            for offset in (len(data) - 5, len(data), len(data) + 10):
                rest = data[offset:]
                assert source.read(offset, 100) == rest
                buffer = bytearray(100)
                assert source.read_into(memoryview(buffer), offset) == len(rest)
                assert buffer[: len(rest)] == rest

    def test_nothing_is_aliased(self, backend: SnapshotBackend) -> None:
        """`put` and `open`: what a caller does to what he gave or got changes nothing."""
        blob = PlainBlob(1)
        pieces = [bytearray(piece) for piece in blob.pieces]
        blob.pieces = tuple(pieces)  # type: ignore[arg-type]  # pyright: ignore[reportAttributeAccessIssue]
        stored = put(backend, blob, keep=3)
        for piece in pieces:
            piece[:] = bytes(len(piece))
        put(backend, PlainBlob(2), keep=3)
        with backend.open(stored.name) as source:
            buffer = bytearray(source.size_bytes)
            source.read_into(memoryview(buffer), 0)
            before = bytes(buffer)
            check(before, stored.name)
            buffer[:] = bytes(len(buffer))
            assert source.read(0, source.size_bytes) == before
        for _ in range(2):
            names = backend.names()
            if isinstance(names, list):
                names.clear()
            assert kept(backend) == [2, 1]

    # ------------------------------------------------------------------ atomicity

    @pytest.mark.parametrize("error", [_RefusedError, _InterruptedError])
    @pytest.mark.parametrize("step", STEPS)
    @pytest.mark.parametrize("keep", [1, 3])
    def test_a_refused_blob_changes_nothing(
        self, keep: int, step: str, error: type[BaseException], opened: Opened[SnapshotBackend]
    ) -> None:
        """Atomicity: what a blob raises goes on as it is, and leaves everything as it was; the next is put as ever."""

        def refuse(now: str) -> None:
            if now == step:
                raise error

        backend = opened.open()
        before: list[int] = []
        for position in range(1, 4):
            with pytest.raises(error):
                put(backend, PlainBlob(position, hook=refuse), keep=keep)
            for reader in (backend, opened.open()):
                assert kept(reader) == before
            put(backend, PlainBlob(position), keep=keep)
            before = [position, *before][:keep]
            assert kept(backend) == before

    @pytest.mark.parametrize("step", STEPS)
    @pytest.mark.parametrize("keep", [1, 2])
    def test_half_a_blob_is_never_seen(self, keep: int, step: str, opened: Opened[SnapshotBackend]) -> None:
        """Atomicity: while one is put, the latest is the one before, whole, and what is kept is what was kept."""
        backend = opened.open()
        before: list[int] = []
        seen: list[list[int]] = []

        def look(now: str) -> None:
            if now == step:
                seen.append(kept(opened.open()))

        for position in range(1, 4):
            seen.clear()
            put(backend, PlainBlob(position, hook=look), keep=keep)
            assert seen
            assert all(each == before for each in seen)
            before = [position, *before][:keep]

    def test_an_open_source_shows_no_other(self, backend: SnapshotBackend) -> None:
        """`Source`: who reads goes on reading the same bytes, or is told that he cannot; he never reads others."""
        blob = PlainBlob(1)
        put(backend, blob)
        with backend.open() as source:
            for position in range(2, 5):
                put(backend, PlainBlob(position, (bytes(1000),)))
                try:
                    data = source.read(0, len(blob.data))
                except SwooshError:
                    continue
                assert data == blob.data

    # ------------------------------------------------------------------ what is kept

    @pytest.mark.parametrize("keep", [1, 2, 3, 5])
    def test_as_many_are_kept(self, keep: int, opened: Opened[SnapshotBackend]) -> None:
        """`keep`: so many of the newest are there, newest first, however often the place is opened anew."""
        for position in range(1, 8):
            put(opened.open(), PlainBlob(position), keep=keep)
            assert kept(opened.open()) == list(range(position, max(0, position - keep), -1))

    def test_how_many_are_kept_may_change(self, backend: SnapshotBackend) -> None:
        """`keep`: the number is each put's own."""
        for keep, position, expected in ((1, 1, [1]), (3, 2, [2, 1]), (3, 3, [3, 2, 1]), (1, 4, [4]), (3, 5, [5, 4])):
            put(backend, PlainBlob(position), keep=keep)
            assert kept(backend) == expected

    def test_names_are_permanent(self, opened: Opened[SnapshotBackend]) -> None:
        """`names`: a name stands for one snapshot or for none, also where positions repeat and all others are gone."""
        known: dict[str, bytes] = {}
        for number in range(8):
            blob = PlainBlob(5)
            stored = put(opened.open(), blob, keep=2)
            assert known.setdefault(stored.name, blob.data) == blob.data
            backend = opened.open()
            if number % 3 == 2:
                backend.prune(1)
            names = backend.names()
            assert names[0] == stored.name
            for name, data in known.items():
                if name in names:
                    assert content(backend, name) == data
                else:
                    with pytest.raises(SnapshotNotFoundError):
                        backend.open(name)

    def test_prune(self, opened: Opened[SnapshotBackend]) -> None:
        """`prune`: the newest stay, and the names of the others are returned and stand for nothing any more."""
        names = [put(opened.open(), PlainBlob(position), keep=9).name for position in range(1, 6)]
        backend = opened.open()
        assert list(backend.prune(9)) == []
        assert sorted(backend.prune(2)) == sorted(names[:3])
        assert kept(opened.open()) == [5, 4]
        for name in names[:3]:
            with pytest.raises(SnapshotNotFoundError):
                backend.open(name)
        assert list(backend.prune(1)) == [names[3]]
        assert list(backend.prune(1)) == []
        assert kept(opened.open()) == [5]

    # ------------------------------------------------------------------ order

    def test_never_backwards(self, opened: Opened[SnapshotBackend]) -> None:
        """Order: a lower position is refused and changes nothing, and an equal one is not; whoever asks."""
        put(opened.open(), PlainBlob(5), keep=3)
        for backend in (opened.open(), opened.open()):
            for position in (0, 4):
                with pytest.raises(StaleSnapshotError) as caught:
                    put(backend, PlainBlob(position), keep=3)
                assert (caught.value.index, caught.value.stored) == (position, 5)
                assert kept(backend) == kept(opened.open()) == [5]
        put(opened.open(), PlainBlob(5), keep=3)
        assert kept(opened.open()) == [5, 5]

    def test_back_on_purpose(self, opened: Opened[SnapshotBackend]) -> None:
        """Order: with `allow_rollback` a lower position becomes the latest, and the next is compared with that one."""
        put(opened.open(), PlainBlob(5), keep=3)
        put(opened.open(), PlainBlob(3), keep=3, allow_rollback=True)
        assert kept(opened.open()) == [3, 5]
        with pytest.raises(StaleSnapshotError) as caught:
            put(opened.open(), PlainBlob(2), keep=3)
        assert caught.value.stored == 3
        put(opened.open(), PlainBlob(4), keep=3)
        assert kept(opened.open()) == [4, 3, 5]

    def test_any_position(self, opened: Opened[SnapshotBackend]) -> None:
        """Order: positions are numbers of 64 bits, and compared as numbers."""
        rising = [0, 0, 9, 10, (1 << 31) - 1, 1 << 31, (1 << 53) + 1, (1 << 53) + 2, 1 << 63, _HIGHEST]
        for position in rising:
            put(opened.open(), PlainBlob(position), keep=len(rising))
            for lower in [each for each in (0, 2, position - 1) if 0 <= each < position]:
                with pytest.raises(StaleSnapshotError):
                    put(opened.open(), PlainBlob(lower), keep=len(rising))
        assert kept(opened.open()) == rising[::-1]

    def test_the_overtaken_is_refused(self, opened: Opened[SnapshotBackend]) -> None:
        """Order: the comparison is one step with the storing, so who was overtaken meanwhile does not go back."""
        slow, swift = opened.open(), opened.open()
        put(slow, PlainBlob(1))
        begun, go_on = threading.Event(), threading.Event()

        def hold_up(step: str) -> None:
            if step == "piece":
                begun.set()
                assert go_on.wait(BOUND_S)

        first = Task(lambda: put(slow, PlainBlob(5, hook=hold_up)))
        assert begun.wait(BOUND_S)
        second = Task(lambda: insist(lambda: put(swift, PlainBlob(7))))
        overtaken = second.wait(_OVERTAKE_S)
        go_on.set()
        assert second.end() is None
        assert isinstance(first.end(), StaleSnapshotError if overtaken else type(None))
        assert kept(opened.open()) == [7]

"""The part of the suite for homes of snapshots that damages them, has many write, and cuts their power."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest

from ..backends.base import SnapshotBackend
from ..errors import CorruptSnapshotError, FormatVersionError, SchemaVersionError, StaleSnapshotError
from ._blob import HEAD_BYTES, STEPS, PlainBlob, check, content, kept, put
from ._place import Opened, Suite
from ._threads import at_once, insist

__all__ = ["Survival"]


class _PowerCut(BaseException):
    """What ends a put in the middle."""


class Survival(Suite[SnapshotBackend]):
    """What becomes of snapshots when not all goes well."""

    # ------------------------------------------------------------------ what must not be overwritten

    @pytest.mark.parametrize("kind", ["newer", "other"])
    @pytest.mark.parametrize("allow_rollback", [False, True])
    def test_what_is_newer_is_not_overwritten(
        self,
        kind: str,
        allow_rollback: bool,
        opened: Opened[SnapshotBackend],
    ) -> None:
        """`put`: the blob is asked for what is stored; where that is newer than it knows, nothing changes."""
        newer = PlainBlob(5, kind=kind)
        put(opened.open(), newer)
        backend = opened.open()
        for position in (4, 5, 6):
            with pytest.raises(FormatVersionError if kind == "newer" else SchemaVersionError):
                put(backend, PlainBlob(position), keep=2, allow_rollback=allow_rollback)
            assert content(opened.open()) == newer.data
            assert len(opened.open().names()) == 1

    @pytest.mark.parametrize("part", ["head", "body"])
    @pytest.mark.parametrize("keep", [1, 3])
    def test_damage_is_seen_and_got_over(self, part: str, keep: int, opened: Opened[SnapshotBackend]) -> None:
        """`open`: damage is shown and not hidden, older ones stay; `put`: the next one is put, and is the latest."""
        put(opened.open(), PlainBlob(1), keep=keep)
        blob = PlainBlob(2)
        put(opened.open(), blob, keep=keep)
        data = blob.data[30:HEAD_BYTES] if part == "head" else blob.body_bytes
        opened.place.damage(data, bytes(byte ^ 1 for byte in data))
        backend = opened.open()
        with pytest.raises(CorruptSnapshotError):
            check(content(backend), "latest")
        names = backend.names()
        if keep > 1:
            assert check(content(backend, names[1]), names[1]) == 1
        put(opened.open(), PlainBlob(3), keep=keep)
        assert check(content(opened.open()), "latest") == 3

    # ------------------------------------------------------------------ concurrency

    def test_many_writers(self, opened: Opened[SnapshotBackend]) -> None:
        """Concurrency: of writers at once each is put whole or refused as stale, and the highest is the latest."""
        backends = [opened.open() for _ in range(4)]
        refused: list[int] = []
        done: list[int] = []

        def write(backend: SnapshotBackend, first: int) -> Callable[[], None]:
            def run() -> None:
                for position in range(first, 40, 4):
                    try:
                        insist(partial(put, backend, PlainBlob(position), keep=50))
                        done.append(position)
                    except StaleSnapshotError:
                        refused.append(position)

            return run

        at_once(*(write(backend, first) for first, backend in enumerate(backends)))
        assert sorted(done + refused) == list(range(40))
        assert kept(opened.open()) == sorted(done, reverse=True)
        assert done
        assert max(done) == 39

    def test_readers_beside_a_writer(self, opened: Opened[SnapshotBackend]) -> None:
        """Atomicity: beside a writer, the latest is there at any moment, whole, and never goes back."""
        writer = opened.open()
        put(writer, PlainBlob(0), keep=2)
        done = threading.Event()

        def write() -> None:
            try:
                for position in range(1, 60):
                    insist(partial(put, writer, PlainBlob(position, (bytes(position), bytes(3000))), keep=2))
            finally:
                done.set()

        def read() -> None:
            reader = opened.place.open()
            seen = 0
            while not done.is_set():
                position = check(content(reader), "latest")
                assert position >= seen
                seen = position
                assert reader.names()

        at_once(write, read, read)
        assert kept(opened.open()) == [59, 58]

    # ------------------------------------------------------------------ durability

    @pytest.mark.parametrize("keep", [1, 3])
    def test_what_was_acknowledged_survives(self, keep: int, opened: Opened[SnapshotBackend]) -> None:
        """Durability: after a power cut the latest is what was put last, and what was to be kept before it is there."""
        backend = opened.open()
        for position in (1, 2, 3, 4, 6, 8):
            put(backend, PlainBlob(position), keep=keep)
            if position > 4:
                put(backend, PlainBlob(position + 1), keep=keep)
            before = kept(backend)
            backend = opened.crash()
            assert kept(backend)[: len(before)] == before  # that others were removed need not be durable

    @pytest.mark.parametrize("step", STEPS)
    def test_a_power_cut_in_mid_put(self, step: str, opened: Opened[SnapshotBackend]) -> None:
        """Durability: older ones go only when the new one is durable; in a power cut before, they are there."""

        def cut(now: str) -> None:
            if now == step:
                opened.place.crash()
                raise _PowerCut

        put(opened.open(), PlainBlob(1))
        for position in (2, 3):
            with suppress(_PowerCut, Exception):  # what a backend without power raises is its own business
                put(opened.open(), PlainBlob(position, hook=cut))
            backend = opened.crash()
            assert kept(backend) == [position - 1]
            put(backend, PlainBlob(position))

    def test_what_was_read_survives(self, opened: Opened[SnapshotBackend]) -> None:
        """Durability: what another process has been shown is there after a power cut, and so is what was pruned to."""
        for position in range(1, 4):
            put(opened.open(), PlainBlob(position), keep=3)
        seen = content(opened.open())
        assert content(opened.crash()) == seen
        opened.open().prune(1)
        assert content(opened.crash()) == seen

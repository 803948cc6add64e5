"""Snapshots in memory keep the same contract as snapshots in files."""

from __future__ import annotations

import threading

import pytest

from swoosh_async.backends.memory import MemoryBackend
from swoosh_async.errors import FormatVersionError, InvalidStateError, SnapshotNotFoundError, StaleSnapshotError

from ._disks import PlainBlob, latest, put


@pytest.fixture
def backend() -> MemoryBackend:
    """An empty one."""
    return MemoryBackend()


def positions(backend: MemoryBackend) -> list[int]:
    """The positions of what is kept, newest first."""
    return [latest(backend, name) for name in backend.names()]


def test_nothing_there(backend: MemoryBackend) -> None:
    """An empty one has no latest, no names, and nothing to prune."""
    with pytest.raises(SnapshotNotFoundError, match="memory"):
        backend.open()
    assert list(backend.names()) == []
    assert list(backend.prune(1)) == []


def test_put_and_open(backend: MemoryBackend) -> None:
    """What was put is the latest, whole, under a name of its own."""
    stored = put(backend, 7)
    with backend.open() as source:
        assert (source.name, source.path, source.size_bytes) == (stored.name, stored.name, stored.size_bytes)
        data = source.read(0, 1000)
        assert data.endswith(b"body of 7")
        assert source.read(3, 4) == data[3:7]
        assert source.read(len(data), 1) == b""
    assert latest(backend, stored.name) == 7


@pytest.mark.parametrize("keep", [1, 2, 3, 5])
def test_as_many_are_kept(keep: int, backend: MemoryBackend) -> None:
    """After any number of saves there are as many as are to be kept, newest first."""
    for position in range(1, 8):
        put(backend, position, keep=keep)
        assert positions(backend) == list(range(position, max(0, position - keep), -1))


def test_how_many_are_kept_may_change(backend: MemoryBackend) -> None:
    """The number is each save's own."""
    for keep, position, expected in ((1, 1, [1]), (3, 2, [2, 1]), (3, 3, [3, 2, 1]), (1, 4, [4]), (3, 5, [5, 4])):
        put(backend, position, keep=keep)
        assert positions(backend) == expected


def test_names_are_permanent(backend: MemoryBackend) -> None:
    """A name never comes to stand for another snapshot, also of the same position, and is gone when it is pruned."""
    names = [put(backend, 1, keep=2).name for _ in range(4)]
    assert len(set(names)) == 4
    assert list(backend.names()) == [names[3], names[2]]
    with pytest.raises(SnapshotNotFoundError, match=names[0]):
        backend.open(names[0])


def test_prune(backend: MemoryBackend) -> None:
    """Pruning leaves the newest, and tells what went."""
    names = [put(backend, position, keep=5).name for position in range(1, 6)]
    assert list(backend.prune(2)) == [names[2], names[1], names[0]]
    assert positions(backend) == [5, 4]


def test_never_backwards(backend: MemoryBackend) -> None:
    """A lower position is refused and changes nothing, an equal one is not, and a roll-back has to be asked for."""
    put(backend, 5, keep=3)
    with pytest.raises(StaleSnapshotError) as caught:
        put(backend, 4, keep=3)
    assert (caught.value.where, caught.value.index, caught.value.stored) == ("memory", 4, 5)
    put(backend, 5, keep=3)
    put(backend, 3, keep=3, allow_rollback=True)
    assert positions(backend) == [3, 5, 5]


def test_what_the_blob_refuses(backend: MemoryBackend) -> None:
    """An error of the blob goes on as it is, and changes nothing."""
    put(backend, 1)
    with pytest.raises(InvalidStateError):
        backend.put(PlainBlob(2, b"some", InvalidStateError("state", "bad")), keep=1, allow_rollback=False)
    assert positions(backend) == [1]


def test_a_newer_format_is_never_overwritten(backend: MemoryBackend) -> None:
    """What a newer version has put there is refused, even where a roll-back is allowed."""

    class Newer(PlainBlob):
        def head(self) -> bytes:
            return b"newer".ljust(self.head_bytes)

    backend.put(Newer(1), keep=1, allow_rollback=False)
    for allow_rollback in (False, True):
        with pytest.raises(FormatVersionError):
            put(backend, 2, allow_rollback=allow_rollback)


def test_an_open_source_is_not_disturbed(backend: MemoryBackend) -> None:
    """Who reads goes on reading the same snapshot, whatever is put and pruned meanwhile."""
    put(backend, 1)
    with backend.open() as source:
        before = source.read(0, source.size_bytes)
        put(backend, 2)
        assert source.read(0, source.size_bytes) == before


def test_many_threads(backend: MemoryBackend) -> None:
    """Of many threads that put at once, the highest position is the latest, and every other was refused or put."""

    def work(first: int) -> None:
        for position in range(first, 100, 4):
            try:
                put(backend, position, keep=10)
            except StaleSnapshotError:
                continue

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = positions(backend)
    assert found[0] == 99
    assert found == sorted(found, reverse=True)

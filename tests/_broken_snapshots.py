"""Homes of snapshots each of which breaks one clause of the contract, and by which tests of the suite that is found."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import ClassVar

from swoosh_async.backends.base import Blob, Position, Source, Stored
from swoosh_async.errors import (
    BackendError,
    CorruptSnapshotError,
    FormatVersionError,
    SchemaVersionError,
    SnapshotNotFoundError,
    StaleSnapshotError,
    SwooshError,
)
from swoosh_async.testing._blob import PlainBlob

from ._places import Client

__all__ = ["BrokenSnapshots"]


class BrokenSnapshots(Client):
    """A home of snapshots that breaks the contract.

    Attributes:
        fails: The tests that find it.
    """

    fails: ClassVar[Sequence[str]] = ()

    def compare(self, blob: Blob, *, allow_rollback: bool) -> None:
        """Refuse a blob whose position is too low."""
        stored = self.memory._position(blob)
        if blob.position < stored and not allow_rollback:
            raise StaleSnapshotError(self.where, index=blob.position, stored=stored)

    def store(self, data: bytes, keep: int) -> Stored:
        """Keep these bytes as the latest, whatever they are."""
        with self.changing():
            self.memory._count += 1
            name = f"{self.memory._count:06d}"
            self.memory._kept = [(name, data), *self.memory._kept[: keep - 1]]
            return Stored(name, len(data))


class Mended(Blob):
    """A blob as another one, but for what a subclass does with it."""

    def __init__(self, blob: Blob) -> None:
        self.blob = blob

    @property
    def position(self) -> Position:
        return self.blob.position

    @property
    def head_bytes(self) -> int:
        return self.blob.head_bytes

    def body(self) -> Iterator[bytes]:
        return self.blob.body()

    def head(self) -> bytes:
        return self.blob.head()

    def position_of(self, stored: Source) -> Position:
        return self.blob.position_of(stored)

    def verify(self, stored: Source) -> None:
        self.blob.verify(stored)


class Other(Source):
    """A source as another one, but for what a subclass does with it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name, self.size_bytes = source.name, source.size_bytes

    def read_into(self, buffer: memoryview, offset: int) -> int:
        return self.source.read_into(buffer, offset)


# ---------------------------------------------------------------------- what is there


class Forgets(BrokenSnapshots):
    """Every third put is acknowledged, and not made."""

    fails = ("test_the_latest_is_what_was_put_last", "test_as_many_are_kept", "test_readers_beside_a_writer")
    count = 0

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        Forgets.count += 1
        if Forgets.count % 3 == 0:
            return Stored("forgotten", blob.head_bytes + len(b"".join(blob.body())))
        return super().put(blob, keep=keep, allow_rollback=allow_rollback)


class Drops(BrokenSnapshots):
    """The last byte of what is long is lost."""

    fails = ("test_bytes_are_opaque", "test_a_source_is_read_at_any_place")

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        class Shorter(Mended):
            def body(self) -> Iterator[bytes]:
                return (piece[:-1] if len(piece) > 1000 else piece for piece in self.blob.body())

        return super().put(Shorter(blob), keep=keep, allow_rollback=allow_rollback)


class AsksTwice(BrokenSnapshots):
    """The body is asked for twice."""

    fails = ("test_a_blob_is_asked_in_order",)

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        list(blob.body())
        return super().put(blob, keep=keep, allow_rollback=allow_rollback)


class HeadFirst(BrokenSnapshots):
    """The head is asked for before the body."""

    fails = ("test_a_blob_is_asked_in_order",)

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        blob.head()
        return super().put(blob, keep=keep, allow_rollback=allow_rollback)


class FindsAnything(BrokenSnapshots):
    """A name that stands for nothing gives the latest; and where there is none, nothing."""

    fails = ("test_a_place_without_snapshots", "test_names_are_permanent", "test_prune")

    def open(self, name: str | None = None) -> Source:
        try:
            return super().open(name)
        except SnapshotNotFoundError:
            if not self.memory._kept:
                raise BackendError("open") from None
            return super().open()


class HasTwoNames(BrokenSnapshots):
    """What it is called in messages is another each time."""

    fails = ("test_where_is_for_messages",)

    @property
    def where(self) -> str:
        return f"server of {id(self)}"


class ReadsOn(BrokenSnapshots):
    """A source gives zeros behind its end."""

    fails = ("test_a_source_is_read_at_any_place",)

    def open(self, name: str | None = None) -> Source:
        class Longer(Other):
            def read_into(self, buffer: memoryview, offset: int) -> int:
                super().read_into(buffer, offset)
                return len(buffer)

        return Longer(super().open(name))


class Follows(BrokenSnapshots):
    """A source of the latest shows whatever is the latest when it is read."""

    fails = ("test_an_open_source_shows_no_other",)

    def open(self, name: str | None = None) -> Source:
        memory = self.memory

        class Latest(Other):
            def read_into(self, buffer: memoryview, offset: int) -> int:
                return memory.open(name).read_into(buffer, offset)

        return Latest(super().open(name))


class KeepsThePieces(BrokenSnapshots):
    """What is put is kept as the pieces that the caller gave, and put together when it is read."""

    fails = ("test_nothing_is_aliased",)

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        pieces: list[bytes] = []

        class Remembering(Mended):
            def body(self) -> Iterator[bytes]:
                for piece in self.blob.body():
                    pieces.append(piece)
                    yield piece

        stored = super().put(Remembering(blob), keep=keep, allow_rollback=allow_rollback)
        self.server.notes[stored.name] = pieces
        return stored

    def open(self, name: str | None = None) -> Source:
        source = super().open(name)
        pieces, memory = self.server.notes[source.name], self.memory

        class Joined(Other):
            def read_into(self, buffer: memoryview, offset: int) -> int:
                data = next(data for name, data in memory._kept if name == self.name)
                data = data[: self.size_bytes - sum(map(len, pieces))] + b"".join(pieces)
                found = data[offset : offset + len(buffer)]
                buffer[: len(found)] = found
                return len(found)

        return Joined(source)


class GivesItsNames(BrokenSnapshots):
    """The list of names that is returned is its own."""

    fails = ("test_nothing_is_aliased",)

    def names(self) -> Sequence[str]:
        known: list[str] = self.server.notes.setdefault("names", [])
        told: set[str] = self.server.notes.setdefault("told", set())
        now = [name for name in super().names() if name not in told]
        told.update(now)
        known[:0] = now
        return known


# ---------------------------------------------------------------------- atomicity


class Tears(BrokenSnapshots):
    """What a blob had given before it refused itself is kept."""

    fails = ("test_a_refused_blob_changes_nothing",)

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        self.compare(blob, allow_rollback=allow_rollback)
        pieces: list[bytes] = []
        try:
            pieces.extend(blob.body())
            head = blob.head()
        except BaseException:
            self.store(b"".join(pieces), keep)
            raise
        self.compare(blob, allow_rollback=allow_rollback)
        return self.store(head + b"".join(pieces), keep)


class TellsOtherwise(BrokenSnapshots):
    """What a blob raises is told as an error of the backend's own."""

    fails = ("test_a_refused_blob_changes_nothing",)

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        try:
            return super().put(blob, keep=keep, allow_rollback=allow_rollback)
        except SwooshError:
            raise
        except Exception as error:
            raise BackendError("put") from error


class ShowsHalf(BrokenSnapshots):
    """What is being put is the latest already."""

    fails = ("test_half_a_blob_is_never_seen",)

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        self.compare(blob, allow_rollback=allow_rollback)
        before = list(self.memory._kept)
        if before:
            self.memory._kept.insert(0, ("half", b""))
        try:
            body = b"".join(blob.body())
            head = blob.head()
        finally:
            self.memory._kept = before
        self.compare(blob, allow_rollback=allow_rollback)
        return self.store(head + body, keep)


class RemovesFirst(BrokenSnapshots):
    """Older ones go before the new one is there."""

    fails = ("test_a_refused_blob_changes_nothing", "test_half_a_blob_is_never_seen", "test_a_power_cut_in_mid_put")

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        with self.changing():
            self.memory._kept = self.memory._kept[: keep - 1]
        return super().put(blob, keep=keep, allow_rollback=allow_rollback)


# ---------------------------------------------------------------------- what is kept


class PrunesTheNewest(BrokenSnapshots):
    """The oldest stay."""

    fails = ("test_prune", "test_what_was_read_survives")

    def prune(self, keep: int) -> Sequence[str]:
        with self.changing():
            gone = self.memory._kept[:-keep]
            self.memory._kept = self.memory._kept[-keep:]
            return [name for name, _ in gone]


class KeepsOneLess(BrokenSnapshots):
    """Of those to keep, one is missing."""

    fails = ("test_as_many_are_kept", "test_how_many_are_kept_may_change")

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        return super().put(blob, keep=max(1, keep - 1), allow_rollback=allow_rollback)


class KeepsWhatItKept(BrokenSnapshots):
    """How many are kept is settled by the first put."""

    fails = ("test_how_many_are_kept_may_change",)

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        first: int = self.server.notes.setdefault("keep", keep)
        return super().put(blob, keep=first, allow_rollback=allow_rollback)


class OldestFirst(BrokenSnapshots):
    """The names come in the other order."""

    fails = ("test_as_many_are_kept", "test_prune", "test_back_on_purpose", "test_any_position", "test_never_backwards")

    def names(self) -> Sequence[str]:
        return super().names()[::-1]


class ReusesNames(BrokenSnapshots):
    """A name is a slot, which is filled again."""

    fails = ("test_names_are_permanent",)

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        self.memory._count %= keep + 1
        return super().put(blob, keep=keep, allow_rollback=allow_rollback)


# ---------------------------------------------------------------------- order


class GoesBack(BrokenSnapshots):
    """A lower position is taken."""

    fails = ("test_never_backwards", "test_back_on_purpose", "test_any_position")

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        return super().put(blob, keep=keep, allow_rollback=allow_rollback or blob.position > 0)


class NeverGoesBack(BrokenSnapshots):
    """A lower position is refused also where it is meant."""

    fails = ("test_back_on_purpose",)

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        return super().put(blob, keep=keep, allow_rollback=allow_rollback and keep > 99)


class ComparesInHaste(BrokenSnapshots):
    """The position is compared first, and what is stored then is another matter."""

    fails = ("test_the_overtaken_is_refused",)

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        self.compare(blob, allow_rollback=allow_rollback)
        body = b"".join(blob.body())
        return self.store(blob.head() + body, keep)


class ComparesFloats(BrokenSnapshots):
    """Positions are compared as numbers of 53 bits."""

    fails = ("test_any_position",)

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        same = float(blob.position) == float(self.memory._position(blob))
        return super().put(blob, keep=keep, allow_rollback=allow_rollback or same)


# ---------------------------------------------------------------------- what must not be overwritten


class NeverAsks(BrokenSnapshots):
    """The position stands in a column, so the blob is not asked for it."""

    fails = ("test_what_is_newer_is_not_overwritten",)

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        with suppress(FormatVersionError, SchemaVersionError):
            return super().put(blob, keep=keep, allow_rollback=allow_rollback)
        return self.store(blob.head() + b"".join(blob.body()), keep)


class StopsAtDamage(BrokenSnapshots):
    """Where the latest is damaged, there is no going on."""

    fails = ("test_damage_is_seen_and_got_over",)

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        if self.names():
            blob.verify(self.open())
        return super().put(blob, keep=keep, allow_rollback=allow_rollback)


class HidesDamage(BrokenSnapshots):
    """Where the latest is damaged, the one before is shown in its place."""

    fails = ("test_damage_is_seen_and_got_over",)

    def open(self, name: str | None = None) -> Source:
        for each in self.names() if name is None else ():
            source = super().open(each)
            with suppress(CorruptSnapshotError):
                PlainBlob(0).verify(source)
                return source
        return super().open(name)


# ---------------------------------------------------------------------- concurrency and durability


class LosesTheRace(BrokenSnapshots):
    """What is kept is read, and written again with the new one in front, and others may do so meanwhile."""

    fails = ("test_many_writers",)

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        before = self.memory._kept
        stored = super().put(blob, keep=keep, allow_rollback=allow_rollback)
        new = self.memory._kept[0]
        time.sleep(0.0001)
        with self.changing():
            self.memory._kept = [new, *before[: keep - 1]]
        return stored


class IsGoneForAMoment(BrokenSnapshots):
    """Between one and the next there is none."""

    fails = ("test_readers_beside_a_writer",)

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        before, self.memory._kept = self.memory._kept, []
        time.sleep(0.0005)
        self.memory._kept = before
        return super().put(blob, keep=keep, allow_rollback=allow_rollback)


class IsHasty(BrokenSnapshots):
    """What is acknowledged is durable a moment later."""

    fails = ("test_what_was_acknowledged_survives", "test_what_was_read_survives")

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        with self.changing():
            pass
        return self.memory.put(blob, keep=keep, allow_rollback=allow_rollback)

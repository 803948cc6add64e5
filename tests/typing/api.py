"""Every public signature, used as users use it; checked by mypy and pyright, both strict, and never run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, assert_type

import aiofiles
import anyio
import msgspec

import swoosh_async
from swoosh_async import (
    Backend,
    BackendError,
    ClockDriftError,
    ClosedError,
    ConflictError,
    CorruptJournalError,
    CorruptSnapshotError,
    Cursor,
    DurabilityWarning,
    Entry,
    EventCodec,
    FallbackWarning,
    FencedError,
    FileBackend,
    FileSnapshotStore,
    FormatVersionError,
    HybridLogicalClock,
    InMemorySnapshotStore,
    InvalidStateError,
    Journal,
    JournalBackend,
    Lease,
    LimitExceededError,
    LockedError,
    MemoryBackend,
    OrchestratorState,
    OutcomeUnknownError,
    PoisonedError,
    Receipt,
    RecoveryReport,
    SchemaVersionError,
    Snapshot,
    SnapshotBackend,
    SnapshotCodec,
    SnapshotNotFoundError,
    SnapshotPolicy,
    SnapshotRef,
    SnapshotStore,
    StaleSnapshotError,
    StateMachine,
    SwooshError,
    Task,
    TaskStatus,
    Timestamp,
    TruncatedError,
    Worker,
    migration,
)
from swoosh_async.backends.base import Batch, Blob, Bounds, Claim, Epoch, Index, Position, Source, Stored
from swoosh_async.codec import CodecOptions, Decoded, EncodedSnapshot, Facts, Migration


class Book(msgspec.Struct, frozen=True):
    """A user's own state."""

    cash: float = 0.0


@migration(1)
def renamed(state: dict[str, Any]) -> dict[str, Any]:
    """A step between schemas."""
    return {"cash": state["money"]}


async def stores() -> None:
    """Stores, with the default state and with one's own."""
    default = FileSnapshotStore("var/snapshot.json")
    assert_type(default, FileSnapshotStore[OrchestratorState])
    assert_type((await default.load_latest()).state, OrchestratorState)
    assert_type(
        FileSnapshotStore(Path("x"), keep=3, mode=0o640, lock_timeout_s=1.0), FileSnapshotStore[OrchestratorState]
    )

    own = FileSnapshotStore(
        Path("var/book.zst"),
        Book,
        keep=5,
        mode=0o600,
        lock_timeout_s=2.5,
        max_file_bytes=1 << 20,
        format="msgpack",
        compression="zstd",
        verify=False,
        schema_version=2,
        migrations=[renamed],
        enc_hook=str,
        dec_hook=lambda declared, plain: declared(plain),
        max_decoded_bytes=1 << 20,
    )
    assert_type(own, FileSnapshotStore[Book])
    ref = await own.save(Snapshot(state=Book(1.5), last_applied_hlc="", last_applied_index=1), allow_rollback=True)
    assert_type(ref, SnapshotRef)
    assert_type((ref.index, ref.hlc, ref.size_bytes, ref.checksum, ref.name), tuple[int, str, int, str, str])
    assert_type(ref.duration_s, float | None)
    assert_type(ref.cursor, Cursor)
    assert_type(await own.load_latest(fallback=True), Snapshot[Book])
    assert_type(await own.load(ref), Snapshot[Book])
    assert_type(await own.history(), list[SnapshotRef])
    assert_type(await own.prune(), list[SnapshotRef])
    assert_type(await own.prune(2), list[SnapshotRef])

    assert_type(InMemorySnapshotStore(), InMemorySnapshotStore[OrchestratorState])
    assert_type(InMemorySnapshotStore(Book, keep=2, format="json"), InMemorySnapshotStore[Book])
    assert_type(InMemorySnapshotStore(dict[str, int]), InMemorySnapshotStore[dict[str, int]])
    anything = InMemorySnapshotStore[Mapping[str, int] | None](Mapping[str, int] | None)
    assert_type((await anything.load_latest()).state, Mapping[str, int] | None)
    assert_type(SnapshotStore(MemoryBackend()), SnapshotStore[OrchestratorState])
    backend = FileBackend("var/orchestrator", mode=0o600, lock_timeout_s=1.0, max_file_bytes=1 << 20)
    assert_type(SnapshotStore(backend, Book, keep=3), SnapshotStore[Book])


async def tasks_and_scopes(store: FileSnapshotStore[Book], snapshot: Snapshot[Book]) -> None:
    """A save can be started as any coroutine can."""
    async with anyio.create_task_group() as group:
        group.start_soon(store.save, snapshot)
    with anyio.move_on_after(1):
        await store.save(snapshot)


async def in_and_out(store: FileSnapshotStore[Book]) -> None:
    """Files of aiofiles and of anyio."""
    async with aiofiles.open("copy", "wb") as written:
        assert_type(await store.export(written), SnapshotRef)
    async with aiofiles.open("copy", "rb") as read:
        assert_type(await store.import_(read, allow_rollback=True), SnapshotRef)
    async with await anyio.open_file("copy", "wb") as written_too:
        await store.export(written_too)
    async with await anyio.open_file("copy", "rb") as read_too:
        await store.import_(read_too)


def models() -> None:
    """The default state and its helpers."""
    task = Task("a", TaskStatus.PENDING, attempts=0, deadline=1.5, dependencies=("b",), labels={"zone": "a"})
    assert_type(task.begun_by("w"), Task)
    assert_type(task.ended(TaskStatus.SUCCEEDED, "done"), Task)
    assert_type(task.status.final, bool)
    assert_type(task.labels, Mapping[str, str])
    state = OrchestratorState().with_tasks(task).without_tasks("b")
    state = state.with_workers(Worker("w", capacity=2, last_seen=1.0)).without_workers("v")
    state = state.with_leases(Lease("l", "w", 2.0, token=1)).without_leases("m")
    state = state.with_settings({"a": "b"}).without_settings("c")
    assert_type(state, OrchestratorState)
    assert_type([ready.id for ready in state.ready_tasks()], list[str])
    snapshot = Snapshot(state=state, last_applied_index=3)
    assert_type(snapshot, Snapshot[OrchestratorState])
    assert_type(snapshot.cursor < Cursor(4, "x"), bool)


def time() -> None:
    """Hybrid logical time."""
    clock = HybridLogicalClock(7, last="", max_drift_s=None, time_ns=lambda: 5)
    stamp = clock.now()
    assert_type(stamp, Timestamp)
    assert_type(clock.observe(Timestamp.parse(str(stamp))), Timestamp)
    assert_type(HybridLogicalClock(last=stamp).last, Timestamp)
    assert_type((stamp.wall_ns, stamp.logical, stamp.node), tuple[int, int, int])
    assert_type(stamp.plus(2) > stamp, bool)


def codec(stored: Source) -> None:
    """Bytes without a store."""
    options: CodecOptions = {"format": "json", "schema_version": 2, "migrations": [renamed]}
    made = SnapshotCodec(Book, **options)
    assert_type(renamed, Migration)
    encoded = made.encode(Snapshot(state=Book()))
    assert_type(encoded, EncodedSnapshot)
    assert_type([len(piece) for piece in encoded.body()], list[int])
    assert_type((encoded.head(), encoded.head_bytes, encoded.checksum), tuple[bytes, int, str])
    assert_type((encoded.cursor, encoded.eager), tuple[Cursor, bool])
    assert_type(made.schema_version, int)
    data = b"".join(encoded)
    assert_type(made.decode(data, where="here"), Decoded[Book])
    facts = made.decode(memoryview(data)).facts
    assert_type((facts.cursor, facts.checksum, facts.schema_version, facts.size_bytes), tuple[Cursor, str, int, int])
    assert_type(facts.format_version, int | None)
    assert_type(facts.format, Literal["json", "msgpack"])
    assert_type(facts.compression, Literal["zstd"] | None)
    assert_type(made.read(stored).snapshot.state, Book)
    assert_type(made.facts(stored), Facts)
    assert_type(made.verify(stored).cursor, Cursor)


class Shelf(SnapshotBackend):
    """A backend of a third party."""

    @property
    def where(self) -> str:
        """Where it is."""
        return "shelf"

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        """Store it."""
        assert_type(blob.position, Position)
        body = b"".join(blob.body())
        return Stored("name", len(blob.head() + body) + keep + allow_rollback)

    def open(self, name: str | None = None) -> Source:
        """Open it."""
        raise SnapshotNotFoundError(self.where, detail=name or "")

    def names(self) -> Sequence[str]:
        """What there is."""
        return ()

    def prune(self, keep: int) -> Sequence[str]:
        """Keep the newest."""
        return ()[:keep]


class Opened(msgspec.Struct, frozen=True, tag=True):
    """An event."""

    name: str


class Closed(msgspec.Struct, frozen=True, tag=True):
    """Another."""


async def journals(directory: Path, clock: HybridLogicalClock) -> None:
    """A journal of one type, and of a union, of which only the user can say what it is."""
    one = Journal(FileBackend(directory, segment_bytes=1 << 20, max_batch_bytes=1 << 20), Opened)
    assert_type(one, Journal[Opened])
    union: Journal[Opened | Closed] = Journal(
        MemoryBackend(),
        Opened | Closed,
        clock=clock,
        lock_timeout_s=1.5,
        epoch=3,
        read_only=False,
        batch_events=10,
        batch_bytes=1 << 10,
        enc_hook=None,
        dec_hook=None,
    )
    async with one as journal:
        assert_type(journal, Journal[Opened])
        receipt = assert_type(await journal.append(Opened("a"), expected_index=0), Receipt)
        assert_type((receipt.index, receipt.hlc), tuple[int, Timestamp])
        assert_type(await journal.append_many([Opened("b")], expected_index=1), list[Receipt])
        async for entry in journal.read(after=1, until=2):
            assert_type(entry, Entry[Opened])
            assert_type((entry.index, entry.hlc, entry.event), tuple[int, Timestamp, Opened])
        assert_type((journal.first_index, journal.last_index, journal.epoch), tuple[int, int, int])
        assert_type(journal.torn_bytes, int)
        await journal.truncate_before(2)
        await journal.aclose()
    async with union:
        await union.append(Closed())
        async for either in union.follow(after=0, poll_s=0.5):
            assert_type(either.event, Opened | Closed)
    assert_type(Entry.of(1, clock.now(), "x"), Entry[str])
    assert_type(Receipt.of(1, clock.take(3)), Receipt)
    clock.resume(Timestamp(1))


def applied(book: Book, event: Opened | Closed) -> Book:
    """What an event does to a book."""
    return book if isinstance(event, Closed) else Book(book.cash + len(event.name))


def applied_with_entry(book: Book, event: Opened | Closed, entry: Entry[Opened | Closed]) -> Book:
    """The same, by its time."""
    return Book(book.cash + entry.index + entry.hlc.logical) if event is entry.event else book


async def machines(backend: Backend, clock: HybridLogicalClock) -> None:
    """A machine, whose types follow from its function."""
    policy = SnapshotPolicy(every_events=10, every_s=1.5, when=lambda _: False, on_close=False, keep=2)
    assert_type(StateMachine(backend, applied_with_entry, Book(), Opened | Closed), StateMachine[Book, Opened | Closed])
    machine = StateMachine(
        backend,
        applied,
        Book(),
        Opened | Closed,
        state_type=Book,
        policy=policy,
        clock=clock,
        lock_timeout_s=1.0,
        epoch=2,
        on_progress=lambda done, of: done / of,
        on_snapshot_error=repr,
        batch_events=10,
        batch_bytes=1 << 20,
        format="msgpack",
        verify=False,
    )
    async with machine as entered:
        assert_type(entered, StateMachine[Book, Opened | Closed])
        report = assert_type(machine.recovery, RecoveryReport)
        assert_type((report.snapshot, report.entries, report.torn_bytes), tuple[SnapshotRef | None, int, int])
        assert_type(report.damaged, tuple[CorruptSnapshotError, ...])
        assert_type((report.claim_s, report.load_s, report.replay_s), tuple[float, float, float])
        assert_type(await machine.dispatch(Opened("a"), expected_index=0), Book)
        assert_type(await machine.dispatch_many([Opened("a"), Closed()], expected_index=1), Book)
        assert_type(await machine.transact(lambda book: [Closed()] if book.cash else []), Book)
        assert_type((machine.state, machine.cursor), tuple[Book, Cursor])
        assert_type(await machine.wait_for(lambda book: book.cash > 0), Book)
        assert_type(await machine.snapshot(), SnapshotRef)
        assert_type(machine.last_snapshot_error, Exception | None)
        async for entry in machine.changes(after=1):
            assert_type(entry.event, Opened | Closed)


def journal_bytes(backend: Backend, codec: EventCodec[Opened]) -> object:
    """The blocking side, as who writes a backend sees it."""
    reader: JournalBackend = backend
    claim = assert_type(reader.claim(Epoch(2)), Claim)
    assert_type((claim.epoch, claim.bounds, claim.tail, claim.torn_bytes), tuple[Epoch, Bounds, Batch | None, int])
    backend.append(Batch(Index(1), 1, claim.epoch, codec.batch(Timestamp(1), [codec.encode(Opened("a"))])))
    for batch in backend.read(Index(0), 1 << 20):
        assert_type((batch.first, batch.last, batch.count, batch.epoch), tuple[Index, Index, int, Epoch])
        for part in codec.parts(batch.data):
            assert_type(codec.events(part), list[Opened])
    backend.truncate_before(Index(1))
    backend.release()
    return (
        assert_type(backend.bounds(), Bounds),
        assert_type(backend.patience_s, float),
        assert_type(backend.where, str),
    )


def errors(error: SwooshError) -> object:  # noqa: C901, PLR0912  one case for each
    """What errors carry."""
    match error:
        case SnapshotNotFoundError():
            return assert_type(error.others, tuple[str, ...])
        case InvalidStateError():
            return assert_type((error.path, error.reason), tuple[str, str])
        case StaleSnapshotError():
            return assert_type((error.where, error.index, error.stored), tuple[str, int, int])
        case ConflictError():
            return assert_type((error.expected, error.found), tuple[int, int])
        case TruncatedError():
            return assert_type((error.where, error.after, error.first), tuple[str, int, int])
        case LockedError():
            return assert_type((error.pid, error.host, error.waited_s), tuple[int | None, str | None, float])
        case FencedError():
            return assert_type((error.epoch, error.found), tuple[int, int])
        case SchemaVersionError() | FormatVersionError():
            return assert_type((error.found, error.supported), tuple[int, int])
        case LimitExceededError():
            return assert_type((error.what, error.limit, error.bound), tuple[str, str, int]), error.found
        case ClosedError():
            return assert_type(error.where, str)
        case PoisonedError():
            return assert_type(error.reason, str)
        case BackendError() | OutcomeUnknownError():
            return assert_type((error.step, error.path, error.errno), tuple[str, str, int | None])
        case CorruptSnapshotError():
            return assert_type((error.path, error.reason, error.others), tuple[str, str, tuple[str, ...]])
        case CorruptJournalError():
            return assert_type((error.path, error.offset, error.index), tuple[str, int | None, int])
        case ClockDriftError():
            return assert_type((error.drift_s, error.max_drift_s), tuple[float, float])
        case _:
            return assert_type(swoosh_async.__version__, str), FallbackWarning, DurabilityWarning

"""What was before: a state at any point that is retained, replays that are compared, and copies that go on alone."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from anyio import to_thread

from swoosh_async import (
    Backend,
    BackendError,
    CheckReport,
    CorruptJournalError,
    CorruptSnapshotError,
    DivergenceError,
    FileBackend,
    InvalidStateError,
    Journal,
    MemoryBackend,
    OutcomeUnknownError,
    SchemaVersionError,
    Snapshot,
    SnapshotPolicy,
    SnapshotStore,
    StateMachine,
    Timestamp,
    TruncatedError,
    check,
    migration,
)
from swoosh_async.backends.base import Bounds, Index

pytestmark = pytest.mark.anyio

State = tuple[int, ...]
NEVER = SnapshotPolicy(every_events=None, on_close=False)


def rewrite(backend: Backend, change: Callable[[bytes], bytes]) -> None:
    """Change the bytes of the latest snapshot."""
    if isinstance(backend, MemoryBackend):
        name, kept = backend._kept[0]
        backend._kept[0] = name, change(kept)
        return
    path = Path(backend.where) / "snapshot"
    path.write_bytes(change(path.read_bytes()))


def damage(backend: Backend, at: int = -1) -> None:
    """Change a byte of the latest snapshot."""

    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[at] ^= 1
        return bytes(changed)

    rewrite(backend, change)


def apply(state: State, event: int) -> State:
    """All events, in order."""
    return (*state, event)


def machine_of(backend: Backend, policy: SnapshotPolicy = NEVER, **options: Any) -> StateMachine[State, int]:
    """A machine that gathers numbers."""
    return StateMachine(backend, apply, (), int, state_type=State, policy=policy, **options)


@pytest.fixture(params=["memory", "file"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """An empty one."""
    return MemoryBackend() if request.param == "memory" else FileBackend(tmp_path / "state")


async def numbers(backend: Backend, count: int, snapshots: tuple[int, ...] = (), keep: int = 3) -> list[Timestamp]:
    """Dispatch 1 to `count`, alone or some together, with snapshots behind these; returns each one's time."""
    async with machine_of(backend, SnapshotPolicy(every_events=None, on_close=False, keep=keep)) as machine:
        done = 0
        while done < count:
            some = min(1 + done % 3, count - done, *(at - done for at in snapshots if at > done))
            await machine.dispatch_many(range(done + 1, done + some + 1))
            done += some
            if done in snapshots:
                await machine.snapshot()
    return [time for _, time, _ in await entries_of(backend)]


# ---------------------------------------------------------------------- state_at


async def test_state_at_an_index(backend: Backend) -> None:
    """Every state from the first to the last is there, entered or not, where the journal reaches back to the first."""
    await numbers(backend, 20)
    machine = machine_of(backend)
    for index in range(21):
        assert await machine.state_at(index=index) == tuple(range(1, index + 1))
    assert await machine.state_at() == tuple(range(1, 21))
    async with machine:
        assert await machine.state_at(index=7) == tuple(range(1, 8))
        assert machine.state == tuple(range(1, 21))


async def test_state_at_a_time(backend: Backend) -> None:
    """A time means all up to it: at an entry's own, that entry is in the state; right before it, it is not."""
    times = await numbers(backend, 12)
    machine = machine_of(backend)
    for index, time in enumerate(times, 1):
        assert await machine.state_at(hlc=time) == tuple(range(1, index + 1))
        assert await machine.state_at(hlc=str(time)) == tuple(range(1, index + 1))
        before = (
            Timestamp(time.wall_ns, time.logical - 1, time.node) if time.logical else Timestamp(time.wall_ns - 1, 0, 0)
        )
        assert await machine.state_at(hlc=before) == tuple(range(1, index))
    assert await machine.state_at(hlc=Timestamp(0, 0, 0)) == ()


async def test_state_at_what_is_retained(backend: Backend) -> None:
    """Behind the oldest snapshot all is there, at it as well, and before it it is said that it is not."""
    times = await numbers(backend, 20, snapshots=(6, 12, 17), keep=2)
    machine = machine_of(backend)
    for index in range(12, 21):
        assert await machine.state_at(index=index) == tuple(range(1, index + 1))
        if index > 12:
            assert await machine.state_at(hlc=times[index - 13]) == tuple(range(1, index + 1))
    at_12 = (await SnapshotStore(backend, State).history())[-1].hlc
    assert await machine.state_at(hlc=at_12) == tuple(range(1, 13))
    for index in (0, 5, 11):
        with pytest.raises(TruncatedError):
            await machine.state_at(index=index)
    with pytest.raises(TruncatedError):
        await machine.state_at(hlc=Timestamp(1, 0, 0))


async def test_state_at_a_time_in_a_gap(backend: Backend) -> None:
    """A snapshot behind which entries were let go of stands for its own time only: nobody knows when the next came."""
    await numbers(backend, 9, snapshots=(4, 9))
    times = [time for _, time, _ in await entries_of(backend)]
    async with Journal(backend, int) as journal:
        await journal.truncate_before(8)
    machine = machine_of(backend)
    assert await machine.state_at(hlc=times[3]) == (1, 2, 3, 4)
    for time in (Timestamp(times[3].wall_ns, times[3].logical, 7), *times[4:7]):
        with pytest.raises(TruncatedError, match=f"the state at {time} can be had no more"):
            await machine.state_at(hlc=time)
    assert await machine.state_at(hlc=times[8]) == tuple(range(1, 10))


async def test_a_point_that_is_kept_no_more_is_named(backend: Backend, tmp_path: Path) -> None:
    """The error tells which state was asked for."""
    await numbers(backend, 9, snapshots=(4, 6), keep=2)
    machine = machine_of(backend)
    for index in (0, 3):
        for call in (machine.state_at(index=index), machine.fork(tmp_path / "fork", at=index)):
            with pytest.raises(TruncatedError, match=f"the state at index {index} can be had no more") as caught:
                await call
            assert (caught.value.point, caught.value.first) == (f"index {index}", 5)
    assert not (tmp_path / "fork").exists()


async def test_a_snapshot_that_cannot_be_read(backend: Backend) -> None:
    """Where a snapshot is kept that leads to a state, but cannot be read, it is said why."""
    await numbers(backend, 9, snapshots=(4, 6), keep=2)
    machine = machine_of(backend, schema_version=2)
    for call in (machine.state_at(index=5), machine.verify_replay()):
        with pytest.raises(CorruptSnapshotError, match=r"schema version 1 found, 2 supported.* kept from index 5 on"):
            await call


async def test_state_at_nonsense(backend: Backend) -> None:
    """What cannot be is a ValueError."""
    await numbers(backend, 3)
    machine = machine_of(backend)
    for wrong in (
        {"index": 4},
        {"index": -1},
        {"index": 1.5},
        {"index": True},
        {"hlc": "noon"},
        {"hlc": 7},
        {"hlc": b"noon"},
        {"index": 1, "hlc": Timestamp(1, 0, 0)},
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            await machine.state_at(**wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError):  # noqa: PT011
            await machine_of(MemoryBackend()).state_at(**{"index": 1, **wrong})  # type: ignore[arg-type]


async def test_state_at_passes_over_damage(tmp_path: Path) -> None:
    """A damaged snapshot on the way is passed over where the journal reaches behind it."""
    backend = FileBackend(tmp_path / "state")
    await numbers(backend, 9, snapshots=(3, 6))
    (tmp_path / "state" / "snapshot").write_bytes(b"{}")
    assert await machine_of(backend).state_at(index=8) == tuple(range(1, 9))


async def test_an_index_that_is_damaged(backend: Backend, tmp_path: Path) -> None:
    """A snapshot whose index is higher by damage is passed over as any other; the journal is not called lost."""
    await numbers(backend, 8, snapshots=(4, 8))
    await to_thread.run_sync(
        rewrite, backend, lambda data: data.replace(b'"last_applied_index":8', b'"last_applied_index":9')
    )
    machine = machine_of(backend)
    assert await machine.state_at() == tuple(range(1, 9))
    assert await machine.verify_replay() == 4
    await machine.backup(tmp_path / "copy")
    assert await machine_of(FileBackend(tmp_path / "copy")).state_at() == tuple(range(1, 9))


async def test_a_journal_that_was_lost(backend: Backend, tmp_path: Path) -> None:
    """Where a snapshot is ahead of the journal, nothing is shown or copied as if all were well."""
    await SnapshotStore(backend, State).save(Snapshot(state=(1, 2), last_applied_index=2))
    machine = machine_of(backend)
    with pytest.raises(CorruptJournalError, match="a snapshot holds index 2, and the journal ends before it"):
        await machine.state_at()
    with pytest.raises(CorruptJournalError, match="a snapshot holds index 2, and the journal ends before it"):
        await machine.backup(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


async def test_progress(backend: Backend) -> None:
    """Whoever waits for long is told how far it is."""
    await numbers(backend, 10, snapshots=(4,))
    seen: list[tuple[int, int]] = []
    await machine_of(backend).state_at(index=9, on_progress=lambda done, of: seen.append((done, of)))
    assert seen[-1] == (5, 5)


# ---------------------------------------------------------------------- verify_replay


async def test_replays_that_agree(backend: Backend) -> None:
    """A function of its arguments gives the same again, from snapshot to snapshot and up to now."""
    await numbers(backend, 20, snapshots=(6, 12, 17), keep=2)
    assert await machine_of(backend).verify_replay() == 5  # from 12 to 17: nobody holds a newer state
    async with machine_of(backend) as machine:
        assert await machine.verify_replay() == 8
        await machine.dispatch(21)
        assert await machine.verify_replay() == 9


async def test_a_replay_that_differs(backend: Backend) -> None:
    """A function that depends on more than its arguments is found, and where its states differ."""
    calls = 0

    def counts(state: Mapping[str, int], event: str) -> Mapping[str, int]:
        nonlocal calls
        calls += 1
        return {**state, event: calls if event == "b" else 0}

    def machine() -> StateMachine[Mapping[str, int], str]:
        return StateMachine(backend, counts, {}, str, state_type=Mapping[str, int], policy=NEVER)

    async with machine() as first:
        await first.dispatch_many(["a", "a"])
        await first.snapshot()
        assert await first.verify_replay() == 2
        await first.dispatch("b")
        await first.snapshot()
    with pytest.raises(DivergenceError, match=r"differs at state\.b;") as caught:
        await machine().verify_replay()
    assert (caught.value.older, caught.value.newer) == (2, 3)


async def test_nothing_to_replay_from(tmp_path: Path) -> None:
    """Where the journal is trimmed and no snapshot is whole, nothing can be verified."""
    backend = FileBackend(tmp_path / "state")
    await numbers(backend, 5, snapshots=(3,), keep=1)
    (tmp_path / "state" / "snapshot").write_bytes(b"{}")
    for path in (tmp_path / "state").glob("snapshot.*"):
        path.unlink()
    with pytest.raises(CorruptSnapshotError, match="no snapshot is whole"):
        await machine_of(backend).verify_replay()


# ---------------------------------------------------------------------- backup and fork


def drafts(path: Path) -> list[str]:
    """What is left there of copies that were not finished."""
    return [name for name in os.listdir(path) if name.endswith(".tmp")]


async def entries_of(backend: Backend) -> list[tuple[int, Timestamp, int]]:
    """What its journal holds."""
    async with Journal(backend, int, read_only=True) as journal:
        return [
            (entry.index, entry.hlc, entry.event) async for entry in journal.read(after=max(0, journal.first_index - 1))
        ]


async def test_a_backup(backend: Backend, tmp_path: Path) -> None:
    """A copy holds the same snapshots and entries, and a machine on it goes on alone, as the first one does."""
    await numbers(backend, 20, snapshots=(6, 12, 17), keep=2)
    copy = FileBackend(tmp_path / "copy")
    async with machine_of(backend) as machine:
        cursor = await machine.backup(tmp_path / "copy")
        assert cursor == machine.cursor
        await machine.dispatch(99)
    source = SnapshotStore(backend, State)
    history = [(ref.index, ref.hlc, ref.checksum) for ref in await source.history()]
    assert [(ref.index, ref.hlc, ref.checksum) for ref in await SnapshotStore(copy, State).history()] == history
    assert await entries_of(copy) == (await entries_of(backend))[:-1]
    async with machine_of(copy) as twin:
        assert twin.state == tuple(range(1, 21))
        assert await twin.dispatch(21) == tuple(range(1, 22))
        assert twin.cursor.index == 21
    assert await machine_of(backend).state_at() == (*range(1, 21), 99)
    assert sorted(os.listdir(tmp_path)) in (["copy"], ["copy", "state"])


async def test_a_backup_of_what_is_lost(backend: Backend, tmp_path: Path) -> None:
    """Where nothing leads to the state any more, there is no backup, least of all an empty one."""
    store = SnapshotStore(backend, State)
    await store.save(Snapshot(state=(1, 2), last_applied_index=2))
    damage(backend)
    for path in (tmp_path / "copy", tmp_path / "again"):
        with pytest.raises((CorruptJournalError, CorruptSnapshotError)):
            await machine_of(backend).backup(path)
    damage(backend, at=0)
    with pytest.raises(CorruptSnapshotError, match=r"no snapshot is whole and to be read .*, and the journal is empty"):
        await machine_of(backend).backup(tmp_path / "copy")
    assert sorted(os.listdir(tmp_path)) in ([], ["state"])


async def test_places_for_a_backup(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty directory is replaced; a symlink or a mount point cannot be, which is said before all else."""
    await numbers(backend, 3)
    machine = machine_of(backend)
    empty, link = tmp_path / "empty", tmp_path / "link"
    empty.mkdir()
    link.symlink_to(empty)
    with pytest.raises(BackendError, match="it is a symlink"):
        await machine.backup(link)
    with monkeypatch.context() as patch:
        patch.setattr("os.path.ismount", lambda _: True)
        with pytest.raises(BackendError, match="it is a mount point"):
            await machine.backup(empty)
    assert not drafts(tmp_path)
    await machine.backup(empty)
    assert await machine_of(FileBackend(empty)).state_at() == (1, 2, 3)


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (("rename", errno.EBUSY), BackendError),
        (("rename", errno.EIO), OutcomeUnknownError),
        (("fsync", errno.EIO), BackendError),
        (("ftruncate", errno.EIO), OutcomeUnknownError),
    ],
)
async def test_a_backup_that_fails(
    failure: tuple[str, int], error: type[Exception], backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure before it has its name changes nothing; behind that, at the probe too, the outcome is unknown."""
    await numbers(backend, 3)
    call, number = failure
    real = getattr(os, call)

    def fails(*args: Any, **kwargs: Any) -> Any:
        if call == "ftruncate" or "dst_dir_fd" not in kwargs:
            there = (tmp_path / "copy").exists()
            if call != "ftruncate" or there:
                raise OSError(number, os.strerror(number))
        return real(*args, **kwargs)

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(error, match=os.strerror(number)):
        await machine_of(backend).backup(tmp_path / "copy")
    monkeypatch.undo()
    assert (tmp_path / "copy").exists() == (call == "ftruncate")
    assert not drafts(tmp_path)


@pytest.mark.parametrize("at", [12, 13, 15, 17, 18, 20])
async def test_a_fork(backend: Backend, tmp_path: Path, at: int) -> None:
    """A fork stands where it was asked to, in the middle of a batch as well, and goes on with the next index."""
    await numbers(backend, 20, snapshots=(6, 12, 17), keep=2)
    cursor = await machine_of(backend).fork(tmp_path / "fork", at=at)
    assert cursor.index == at
    fork = FileBackend(tmp_path / "fork")
    assert await entries_of(fork) == [entry for entry in await entries_of(backend) if entry[0] <= at]
    for more in (1, 2):  # also behind a start that found no entry yet
        async with machine_of(fork) as machine:
            assert (machine.state[:at], machine.cursor.index) == (tuple(range(1, at + 1)), at + more - 1)
            await machine.dispatch(100)
    assert await machine_of(fork).state_at() == (*range(1, at + 1), 100, 100)


async def test_a_fork_at_a_time(backend: Backend, tmp_path: Path) -> None:
    """A time leads to the last entry up to it."""
    times = await numbers(backend, 9)
    assert (await machine_of(backend).fork(tmp_path / "fork", at=times[4])).index == 5
    assert await machine_of(FileBackend(tmp_path / "fork")).state_at() == (1, 2, 3, 4, 5)


async def test_forks_that_cannot_be(backend: Backend, tmp_path: Path) -> None:
    """What is not there, or stands in the way, is said, and nothing is left behind."""
    await numbers(backend, 20, snapshots=(6, 12), keep=1)
    machine = machine_of(backend)
    with pytest.raises(TruncatedError):
        await machine.fork(tmp_path / "fork", at=5)
    with pytest.raises(ValueError, match="index must be"):
        await machine.fork(tmp_path / "fork", at=21)
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("mine")
    with pytest.raises(BackendError, match="not empty"):
        await machine.backup(full)
    assert (full / "file").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) in (["full"], ["full", "state"])


async def test_a_copy_while_a_machine_runs(backend: Backend, tmp_path: Path) -> None:
    """What is copied beside a writer who trims is a prefix of what he wrote, with all that was acknowledged before."""
    policy = SnapshotPolicy(every_events=20, keep=1)
    async with anyio.create_task_group() as tasks, machine_of(backend, policy) as machine:
        going = True

        async def writes() -> None:
            while going:
                await machine.dispatch(len(machine.state) + 1)

        tasks.start_soon(writes)
        for number in range(4):
            acknowledged = machine.cursor.index
            cursor = await machine.backup(tmp_path / f"copy{number}")
            async with machine_of(FileBackend(tmp_path / f"copy{number}")) as copy:
                assert copy.state == tuple(range(1, cursor.index + 1))
                assert cursor.index == copy.cursor.index >= acknowledged
        going = False


async def test_a_copy_that_is_cancelled(backend: Backend, tmp_path: Path) -> None:
    """Nothing is left of it."""
    await numbers(backend, 30, snapshots=(10,))
    machine = machine_of(backend)
    for after_s in (0.0, 0.001, 0.003):
        with anyio.move_on_after(after_s) as scope:
            await machine.backup(tmp_path / "copy")
        if scope.cancelled_caught:
            assert not [name for name in os.listdir(tmp_path) if name.startswith("copy-")]
        if (tmp_path / "copy").exists():
            break
    if not (tmp_path / "copy").exists():
        await machine.backup(tmp_path / "copy")
    assert await machine_of(FileBackend(tmp_path / "copy")).state_at() == tuple(range(1, 31))


async def test_a_journal_that_begins_elsewhere(backend: Backend) -> None:
    """An empty journal may be told where to begin; one that has held an entry may not."""

    def begins() -> list[tuple[int, int]]:
        backend.claim()
        found: list[tuple[int, int]] = []
        for index in (41, 7):
            backend.truncate_before(Index(index))
            found.append((backend.bounds().first, backend.bounds().last))
        backend.release()
        return found

    assert await to_thread.run_sync(begins) == [(41, 40), (41, 40)]
    async with Journal(backend, int) as journal:
        assert (await journal.append(1)).index == 41
    async with Journal(backend, int) as journal:
        assert (journal.first_index, journal.last_index) == (41, 41)
        await journal.truncate_before(42)
        assert (await journal.append(2)).index == 42


# ---------------------------------------------------------------------- evolution


class AddedV1(msgspec.Struct, frozen=True, tag="added"):
    """What was written once: a name, and how often."""

    name: str
    times: int


class Added(msgspec.Struct, frozen=True, tag="added2"):
    """What is written today."""

    name: str


def names(state: tuple[str, ...], event: Added) -> tuple[str, ...]:
    """All names, in order."""
    return (*state, event.name)


def old_names(state: tuple[str, ...], event: AddedV1) -> tuple[str, ...]:
    """The same, as it was once."""
    return state + (event.name,) * event.times


UPCASTS = {AddedV1: lambda event: [Added(event.name)] * event.times}


async def old_program(backend: Backend, *, snapshot: bool = False) -> None:
    """What the program did before it was changed."""
    policy = SnapshotPolicy(every_events=None, on_close=snapshot, keep=1)
    async with StateMachine(backend, old_names, (), AddedV1, state_type=tuple[str, ...], policy=policy) as machine:
        await machine.dispatch_many([AddedV1("a", 1), AddedV1("b", 0), AddedV1("c", 3)])


def new_program(backend: Backend, **options: Any) -> StateMachine[tuple[str, ...], Added]:
    """The program as it is today."""
    options = {"state_type": tuple[str, ...], "policy": NEVER, "upcasts": UPCASTS, **options}
    return StateMachine(backend, names, (), Added, **options)


async def test_upcasts(backend: Backend) -> None:
    """An old event stands for any number of today's; only today's are written."""
    await old_program(backend)
    async with new_program(backend) as machine:
        assert machine.state == ("a", "c", "c", "c")
        assert machine.cursor.index == 3
        await machine.dispatch(Added("d"))
        with pytest.raises(ValueError, match="event"):
            await machine.dispatch(AddedV1("e", 1))  # type: ignore[arg-type]
        assert await machine.state_at(index=2) == ("a",)
    async with new_program(backend) as machine:
        assert machine.state == ("a", "c", "c", "c", "d")
    with pytest.raises(CorruptJournalError, match="does not decode"):
        async with new_program(backend, upcasts={}):
            pass


async def test_upcasts_in_steps(backend: Backend) -> None:
    """What stands for an event may be of an older type, too."""

    class AddedV0(msgspec.Struct, frozen=True, tag="added0"):
        name: str

    async with Journal(backend, AddedV0) as journal:
        await journal.append(AddedV0("z"))
    upcasts = {**UPCASTS, AddedV0: lambda event: [AddedV1(event.name, 2)]}
    async with new_program(backend, upcasts=upcasts) as machine:
        assert machine.state == ("z", "z")
    assert (await check(backend, Added, tuple[str, ...], upcasts=upcasts)).ok
    wrong = await check(backend, Added, tuple[str, ...], upcasts={**upcasts, AddedV1: lambda _: [7]})
    assert [str(error).partition(": ")[2] for error in wrong.errors] == [
        "index 1: what stands for it today is no event (a int does not come back equal as Added); mend its upcast"
    ]


async def test_a_journal_of_two_ages(backend: Backend) -> None:
    """A journal gives old events as they were written, and writes today's only."""
    await old_program(backend)
    async with Journal(backend, Added, older=[AddedV1]) as journal:
        await journal.append(Added("d"))
        with pytest.raises(ValueError, match="event"):
            await journal.append(AddedV1("e", 1))  # type: ignore[arg-type]
        events = [entry.event async for entry in journal.read()]
    assert events == [AddedV1("a", 1), AddedV1("b", 0), AddedV1("c", 3), Added("d")]


async def test_an_upcast_that_fails(backend: Backend) -> None:
    """Its error tells the index."""
    await old_program(backend)
    with pytest.raises(ZeroDivisionError) as caught:
        async with new_program(backend, upcasts={AddedV1: lambda event: [Added(str(1 // event.times))]}):
            pass
    assert caught.value.__notes__ == ["while index 2 was replayed, which is in the journal"]


@pytest.mark.parametrize("options", [{"schema_version": 2}, {"schema_version": 2, "migrations": "fails"}, {}])
async def test_a_snapshot_is_a_cache(backend: Backend, options: dict[str, Any]) -> None:
    """A snapshot that the new program cannot read is passed over where the journal reaches back to the first event."""
    if options.get("migrations") == "fails":
        options["migrations"] = [migration(1)(lambda _: 1 // 0)]
    store = SnapshotStore(backend, int)
    await old_program(backend)
    await store.save(Snapshot(state=7, last_applied_index=3, last_applied_hlc=""))
    async with new_program(backend, **options, policy=SnapshotPolicy(keep=1)) as machine:
        assert machine.state == ("a", "c", "c", "c")
        assert len(machine.recovery.damaged) == 1
        assert machine.recovery.entries == 3
        await machine.dispatch(Added("d"))
    async with new_program(backend, **options) as machine:
        assert (machine.state, machine.recovery.damaged, machine.recovery.entries) == (
            ("a", "c", "c", "c", "d"),
            (),
            0,
        )


async def test_a_cache_that_is_needed(backend: Backend) -> None:
    """Where the journal does not reach back, it is said what cannot be read, and why; nothing is started empty."""
    await old_program(backend, snapshot=True)
    with pytest.raises(CorruptSnapshotError, match=r"schema version 1 found, 2 supported.* is kept from index 4"):
        async with new_program(backend, schema_version=2):
            pass


async def test_a_newer_program_wrote_it(backend: Backend) -> None:
    """What a newer program wrote is never passed over."""
    await old_program(backend)
    await SnapshotStore(backend, tuple[str, ...], schema_version=2).save(Snapshot(state=(), last_applied_index=3))
    with pytest.raises(SchemaVersionError):
        async with new_program(backend):
            pass


async def test_an_older_event_is_not_written(backend: Backend) -> None:
    """An event that would be another when it is replayed is refused, although its type is among those of today."""

    def gathered(state: tuple[str, ...], event: Added | AddedV1) -> tuple[str, ...]:
        return (*state, type(event).__name__)

    async with StateMachine(
        backend, gathered, (), Added | AddedV1, state_type=tuple[str, ...], upcasts=UPCASTS, policy=NEVER
    ) as machine:
        assert await machine.dispatch(Added("a")) == ("Added",)
        for call in (
            machine.dispatch(AddedV1("b", 2)),
            machine.dispatch_many([Added("c"), AddedV1("b", 0)]),
            machine.transact(lambda _: [AddedV1("b", 1)]),
        ):
            with pytest.raises(InvalidStateError, match="a AddedV1 is of an older type"):
                await call
        assert (machine.state, machine.cursor.index) == (("Added",), 1)
        assert await machine.verify_replay() == 1


async def test_check(backend: Backend) -> None:
    """Before a deployment: what the new program can read, and what not."""
    await old_program(backend, snapshot=True)
    async with StateMachine(backend, old_names, (), AddedV1, state_type=tuple[str, ...], policy=NEVER) as machine:
        await machine.dispatch_many([AddedV1("d", 1), AddedV1("e", 0)])
        await machine.dispatch(AddedV1("f", 0))
    good = await check(backend, Added, tuple[str, ...], upcasts=UPCASTS)
    assert good == CheckReport(snapshots=1, entries=3, errors=())
    assert good.ok
    bad = await check(backend, Added, int)
    assert not bad.ok
    assert [type(error) for error in bad.errors] == [CorruptSnapshotError, CorruptJournalError, CorruptJournalError]
    assert (bad.snapshots, bad.entries) == (0, 0)
    newer = await check(backend, Added, tuple[str, ...], upcasts=UPCASTS, schema_version=2)
    assert [type(error) for error in newer.errors] == [SchemaVersionError]
    wrong = await check(backend, Added, tuple[str, ...], upcasts={AddedV1: lambda event: [1 // event.times, 2]})
    assert [error.index for error in wrong.errors if isinstance(error, CorruptJournalError)] == [4, 5, 6]


async def test_check_beside_a_writer_who_trims(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is trimmed after its bounds were looked at is passed over."""
    await numbers(backend, 9, snapshots=(6,), keep=1)
    whole, calls = await to_thread.run_sync(backend.bounds), 0

    def bounds() -> Bounds:  # as they were before the trimming, at the first look
        nonlocal calls
        calls += 1
        return Bounds(Index(1), whole.last) if calls == 1 else whole

    monkeypatch.setattr(backend, "bounds", bounds)
    assert await check(backend, int, State) == CheckReport(snapshots=1, entries=3, errors=())

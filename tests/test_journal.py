"""A journal keeps its promises, in memory as in files, on every loop; what it promises cancelled stands beside."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import random
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from anyio import CancelScope, to_thread
from anyio.lowlevel import checkpoint

from swoosh_async import (
    BackendError,
    ClosedError,
    ConflictError,
    CorruptJournalError,
    Entry,
    EventCodec,
    FencedError,
    FileBackend,
    HybridLogicalClock,
    InvalidStateError,
    Journal,
    LimitExceededError,
    LockedError,
    MemoryBackend,
    OutcomeUnknownError,
    PoisonedError,
    Receipt,
    Timestamp,
    TruncatedError,
)
from swoosh_async import _hop as hop_module
from swoosh_async.backends.base import Batch, Epoch, Index
from swoosh_async.journal import BATCH_EVENTS

from ._disks import in_child
from ._faults import BOUND_S, LOOPS, NATIVE, Backend, bounded, happens, process, turns, until
from ._journals import InFiles, InMemory, Place, Watched, opened, read, texts
from ._lines import in_threads

pytest.importorskip("fcntl", reason="a file backend needs flock")

pytestmark = pytest.mark.anyio
native = pytest.mark.parametrize("anyio_backend", NATIVE)

BAD = "\ud800"
"""An event that cannot be encoded."""


@pytest.fixture(params=["memory", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each place."""
    return InMemory() if request.param == "memory" else InFiles(tmp_path / "home")


@pytest.fixture
def watched(place: Place) -> Iterator[Watched]:
    """Each place, watched."""
    backend = Watched(place)
    yield backend
    assert backend.trouble == []


async def all_at_once(calls: list[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """Make those calls in tasks of their own, at once; what each of them returned or raised."""
    ends: list[Any] = [None] * len(calls)

    async def one(number: int) -> None:
        try:
            ends[number] = await calls[number]()
        except Exception as error:  # noqa: BLE001  it is what is asked for
            ends[number] = error

    async with anyio.create_task_group() as tasks:
        for number in range(len(calls)):
            tasks.start_soon(one, number)
    return ends


class Held:
    """Holds the first append of a watched backend in its thread, until it is let go."""

    def __init__(self, watched: Watched, step: str = "append") -> None:
        self.began = threading.Event()
        self._let_go = threading.Event()
        self._step = step
        watched.hook = self._hook

    def _hook(self, step: str) -> None:
        if step == self._step and not self.began.is_set():
            self.began.set()
            assert self._let_go.wait(BOUND_S), "nobody let it go"

    def let_go(self) -> None:
        """Let it go."""
        self._let_go.set()


async def behind_a_held_one(
    watched: Watched, journal: Journal[Any], calls: list[Callable[[], Awaitable[Any]]]
) -> list[Any]:
    """Make those calls while a first append is held, so that they are committed together; what became of them."""
    held = Held(watched)
    ends: list[Any] = [None] * len(calls)

    async def one(number: int) -> None:
        try:
            ends[number] = await calls[number]()
        except Exception as error:  # noqa: BLE001  it is what is asked for
            ends[number] = error

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(journal.append, "first")
        await happens(held.began)
        for number in range(len(calls)):
            tasks.start_soon(one, number)
            await until(lambda: len(journal._lane._waiting) + sum(end is not None for end in ends) > number)  # noqa: B023
        held.let_go()
    return ends


# ---------------------------------------------------------------------- append


async def test_empty(place: Place) -> None:
    """A new journal has no index, no entry, and its first epoch."""
    async with opened(place) as journal:
        assert (journal.first_index, journal.last_index, journal.epoch, journal.torn_bytes) == (0, 0, 1, 0)
        assert await read(journal) == []
        assert await read(journal, 7) == []
        assert place.backend().where in repr(journal)


async def test_indexes_begin_at_one(place: Place) -> None:
    """Each append gets the next index, from 1 on, and a receipt that tells it and its time; reading gives it back."""
    async with opened(place) as journal:
        receipts = [await journal.append(f"event {number}") for number in range(20)]
        assert [receipt.index for receipt in receipts] == list(range(1, 21))
        assert (journal.first_index, journal.last_index) == (1, 20)
        assert all(isinstance(receipt, Receipt) for receipt in receipts)
        assert all(one.hlc < two.hlc for one, two in itertools.pairwise(receipts))
        assert await read(journal) == [
            Entry.of(receipt.index, receipt.hlc, f"event {number}") for number, receipt in enumerate(receipts)
        ]


async def test_many_at_once(place: Place) -> None:
    """Of many appends at once each gets an index of its own, without gaps, in the order in which they were called."""
    async with opened(place) as journal:
        called: list[str] = []

        async def append(event: str) -> Receipt:
            called.append(event)
            return await journal.append(event)

        receipts = await all_at_once([partial(append, f"event {number}") for number in range(300)])
        by_index = sorted(receipts, key=lambda receipt: receipt.index)
        assert [receipt.index for receipt in by_index] == list(range(1, 301))
        assert all(one.hlc < two.hlc for one, two in itertools.pairwise(by_index))
        assert await texts(journal) == called
        assert [entry.hlc for entry in await read(journal)] == [receipt.hlc for receipt in by_index]


async def test_many_share_a_commit(watched: Watched) -> None:
    """Sixty-four tasks that append again and again need far fewer commits than appends; one task needs one for each."""
    async with opened(watched) as journal:

        async def appender() -> None:
            for _ in range(10):
                await journal.append("event")

        await all_at_once([appender] * 64)
        assert sum(watched.counts) == 640
        assert len(watched.batches) <= 40
        watched.batches.clear()
        await appender()
        assert watched.counts == [1] * 10


async def test_who_waits_shares_one_commit(watched: Watched) -> None:
    """All that wait while a commit is in flight are in the next one."""
    async with opened(watched) as journal:
        receipts = await behind_a_held_one(watched, journal, [partial(journal.append, "event")] * 100)
        assert watched.counts == [1, 100]
        assert [receipt.index for receipt in receipts] == list(range(2, 102))


async def test_the_event_of_the_call(place: Place) -> None:
    """What is appended is the event as it is at the call, whatever is done to it before it is awaited."""
    async with opened(place, list[int]) as journal:
        event, events = [1], [[2], [3]]
        one, many = journal.append(event), journal.append_many(events)
        event.append(9)
        events[0].append(9)
        events.append([9])
        await many
        await one
        assert await texts(journal) == [[2], [3], [1]]


async def test_order_of_the_first_await(place: Place) -> None:
    """Appends are carried out in the order in which they are first awaited."""
    async with opened(place) as journal:
        one, two = journal.append("one"), journal.append("two")
        assert (await two).index == 1
        assert (await one).index == 2


async def test_any_events(place: Place) -> None:
    """Events come back as they were, of any type."""

    class Began(msgspec.Struct, frozen=True, tag=True):
        task: str

    class Ended(msgspec.Struct, frozen=True, tag=True):
        task: str
        how: float

    events = [Began("a"), Ended("a", math.inf), Began("b")]
    async with opened(place, Began | Ended) as journal:
        for event in events:
            await journal.append(event)
        with pytest.raises(InvalidStateError, match=r"marshal event: event\.task"):
            await journal.append(Began(5))  # type: ignore[arg-type]
        assert await texts(journal) == events


async def test_large_events(place: Place) -> None:
    """An event that is larger than a segment, or than a page, is an event as any other."""
    events = ["a", "b" * 20_000, "c", "d" * (3 << 20), "e"]
    async with opened(place) as journal:
        receipts = await all_at_once([partial(journal.append, event) for event in events])
        assert sorted(receipt.index for receipt in receipts) == [1, 2, 3, 4, 5]
        assert sorted(await texts(journal)) == events
    async with opened(place) as journal:
        assert sorted(await texts(journal)) == events


# ---------------------------------------------------------------------- append many


@pytest.mark.parametrize("count", [0, 1, 2, 255, 256, 257, 5000])
async def test_append_many(count: int, watched: Watched) -> None:
    """Events that are appended together follow one another, in one commit, each with a receipt; so do none."""
    events = [f"event {number}" for number in range(count)]
    async with opened(watched) as journal:
        await journal.append("before")
        receipts = await journal.append_many(iter(events))
        assert [receipt.index for receipt in receipts] == list(range(2, count + 2))
        assert watched.counts == [1, count] if count else [1]
        assert await texts(journal, 1) == events
        assert [entry.hlc for entry in await read(journal, 1)] == [receipt.hlc for receipt in receipts]


async def test_append_many_between_others(watched: Watched) -> None:
    """Events that are appended together follow one another among those of others, in the same commit too."""
    async with opened(watched) as journal:
        calls: list[Callable[[], Awaitable[Any]]] = []
        for number in range(10):
            calls.append(partial(journal.append, f"{number}"))
            calls.append(partial(journal.append_many, [f"{number}.{part}" for part in range(number)]))
        ends = await behind_a_held_one(watched, journal, calls)
        assert watched.counts == [1, 10 + 45]
        found = await texts(journal, 1)
        for number in range(10):
            assert found[ends[2 * number].index - 2] == f"{number}"
            indexes = [receipt.index for receipt in ends[2 * number + 1]]
            assert indexes == list(range(indexes[0], indexes[0] + number)) if number else indexes == []
            assert [found[index - 2] for index in indexes] == [f"{number}.{part}" for part in range(number)]
        assert len(found) == 55


@pytest.mark.parametrize("count", [2, 300])
@pytest.mark.parametrize("at", [0, 1, -1])
async def test_all_or_none(count: int, at: int, place: Place) -> None:
    """One bad event refuses all of its own call, and nobody else's."""
    events = ["good"] * count
    events[at] = BAD
    async with opened(place) as journal:
        calls: list[Callable[[], Awaitable[Any]]] = [partial(journal.append, f"{number}") for number in range(10)]
        calls.insert(5, partial(journal.append_many, events))
        ends = await all_at_once(calls)
        bad = ends.pop(5)
        assert isinstance(bad, InvalidStateError)
        assert "nothing was saved" in str(bad)
        assert sorted(end.index for end in ends) == list(range(1, 11))
        assert sorted(await texts(journal)) == [f"{number}" for number in range(10)]


async def test_a_bad_event_is_refused_alone(watched: Watched) -> None:
    """An event that is refused does not take with it those who came with it, and is told of where it is awaited."""
    async with opened(watched) as journal:
        refused = journal.append(BAD)
        ends = await behind_a_held_one(watched, journal, [partial(journal.append, f"{number}") for number in range(5)])
        with pytest.raises(InvalidStateError, match="event: holds a lone surrogate"):
            await refused
        assert [end.index for end in ends] == [2, 3, 4, 5, 6]
        assert watched.counts == [1, 5]


async def test_an_iterable_that_fails(place: Place) -> None:
    """What the events' own iterator raises goes to the caller, and nothing is appended."""

    def events() -> Iterator[str]:
        yield "one"
        raise KeyError("mine")

    async with opened(place) as journal:
        with pytest.raises(KeyError, match="mine"):
            await journal.append_many(events())
        assert journal.last_index == 0


@pytest.mark.parametrize("count", [1, 300])
async def test_a_hook_that_fails(count: int, place: Place) -> None:
    """What a hook raises goes to its own caller, wherever it is encoded, and the journal goes on."""

    def enc_hook(value: Any) -> Any:
        if value == 666:
            raise LookupError("mine")
        return [value.real, value.imag]

    def dec_hook(_: type, plain: Any) -> complex:
        return complex(*plain)

    async with opened(place, complex, enc_hook=enc_hook, dec_hook=dec_hook) as journal:
        with pytest.raises(LookupError, match="mine"):
            await journal.append_many([*[1j] * (count - 1), 666 + 0j])
        await journal.append_many([2j] * count)
        assert await texts(journal) == [2j] * count


async def test_many_are_encoded_in_the_worker(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many events of a type that is a value are encoded in the worker thread; those that can change, at the call."""
    threads: set[int] = set()
    encode = EventCodec.encode

    def noted(codec: EventCodec[Any], event: Any) -> bytes:
        threads.add(threading.get_ident())
        return encode(codec, event)

    monkeypatch.setattr(EventCodec, "encode", noted)
    async with opened(watched, tuple[int, ...]) as journal:
        await journal.append_many([(1, 2)] * 300)
        assert len(threads) == 1
        assert threading.get_ident() not in threads
        threads.clear()
        await journal.append_many([(1, 2)] * 20)
        assert threads == {threading.get_ident()}
    threads.clear()
    async with opened(InMemory(), list[int]) as journal:
        await journal.append_many([[1, 2]] * 300)
        assert threads == {threading.get_ident()}


# ---------------------------------------------------------------------- the expected index


async def test_expected_index(place: Place) -> None:
    """The expected index is the last one there is before; any other is refused, and changes nothing."""
    async with opened(place) as journal:
        assert (await journal.append("a", expected_index=0)).index == 1
        assert (await journal.append("b", expected_index=1)).index == 2
        for wrong in (0, 1, 3, -1, 2**70):
            for call in (journal.append("c", expected_index=wrong), journal.append_many(["c"], expected_index=wrong)):
                with pytest.raises(ConflictError) as caught:
                    await call
                assert (caught.value.expected, caught.value.found) == (wrong, 2)
        assert [receipt.index for receipt in await journal.append_many(["c", "d"], expected_index=2)] == [3, 4]
        assert await journal.append_many([], expected_index=4) == []
        with pytest.raises(ConflictError):
            await journal.append_many([], expected_index=3)
        assert await texts(journal) == ["a", "b", "c", "d"]


async def test_one_of_many_wins(watched: Watched) -> None:
    """Of many that expect the same index exactly one wins, whether they are committed together or not."""
    async with opened(watched) as journal:

        def calls(expected: int) -> list[Callable[[], Awaitable[Any]]]:
            return [partial(journal.append, f"{number}", expected_index=expected) for number in range(50)]

        for index, ends in (
            (2, await behind_a_held_one(watched, journal, calls(1))),
            (3, await all_at_once(calls(2))),
        ):
            assert [end.index for end in ends if isinstance(end, Receipt)] == [index]
            losers = [end for end in ends if isinstance(end, ConflictError)]
            assert len(losers) == 49
            assert all((loser.expected, loser.found) == (index - 1, index) for loser in losers)
        assert journal.last_index == 3


async def test_a_counter(place: Place) -> None:
    """Tasks that read, decide and append with what they saw never build on what they have not seen."""
    async with opened(place, int) as journal:

        async def add_one() -> None:
            while True:
                last = journal.last_index
                total = (await texts(journal, last - 1))[-1] if last else 0
                try:
                    await journal.append(total + 1, expected_index=last)
                except ConflictError as error:
                    assert error.found > last  # noqa: PT017
                else:
                    return

        await all_at_once([add_one] * 20)
        assert await texts(journal) == list(range(1, 21))


async def test_expected_among_others(watched: Watched) -> None:
    """In one commit each expectation is held against what is before it in line."""
    async with opened(watched) as journal:
        ends = await behind_a_held_one(
            watched,
            journal,
            [
                partial(journal.append, "a", expected_index=0),
                partial(journal.append, "b", expected_index=1),
                partial(journal.append_many, ["c", "d"], expected_index=2),
                partial(journal.append, "e", expected_index=2),
                partial(journal.append, "f", expected_index=4),
                partial(journal.append_many, [BAD] * 300),
                partial(journal.append, "g", expected_index=5),
            ],
        )
        assert [(end.expected, end.found) for end in ends if isinstance(end, ConflictError)] == [(0, 1), (2, 4)]
        assert isinstance(ends[5], InvalidStateError)
        assert await texts(journal) == ["first", "b", "c", "d", "f", "g"]
        assert sum(watched.counts) == 6


# ---------------------------------------------------------------------- time


async def test_time_goes_on(place: Place) -> None:
    """Time increases strictly with the index: when the clock stands, is set back, and when the journal is reopened."""
    readings = iter([5000, 5000, 4000, 0, 6000, 6000, 1, *[0] * 100])
    for _ in range(4):
        clock = HybridLogicalClock(3, time_ns=lambda: next(readings))
        async with opened(place, clock=clock) as journal:
            await journal.append("one")
            await journal.append_many(["two"] * 3)
    async with opened(place, clock=HybridLogicalClock(4, time_ns=lambda: 0)) as journal:
        await journal.append("last")
        times = [entry.hlc for entry in await read(journal)]
    assert len(times) == 17
    assert all(one < two for one, two in itertools.pairwise(times))
    assert times[0].wall_ns == 5000
    assert times[-1].wall_ns == 6000
    assert [time.node for time in times] == [3] * 16 + [4]


async def test_time_goes_on_far_ahead(place: Place) -> None:
    """A journal that is far ahead of the clock is gone on behind; also where all its entries are kept no more."""
    ahead = 10**18
    async with opened(place, clock=HybridLogicalClock(time_ns=lambda: ahead)) as journal:
        await journal.append_many(["one"] * 5)
        await journal.truncate_before(6)
    async with opened(place, clock=HybridLogicalClock(max_drift_s=1, time_ns=lambda: 0)) as journal:
        assert (await journal.append("two")).hlc == Timestamp(ahead, 5, 0)


async def test_time_overflows_in_a_batch(place: Place) -> None:
    """The logical counter's end in the midst of a batch is passed over."""
    clock = HybridLogicalClock(last=Timestamp(7, 2**32 - 3), time_ns=lambda: 0)
    async with opened(place, clock=clock) as journal:
        receipts = await journal.append_many(["event"] * 6)
        assert [receipt.hlc.logical for receipt in receipts] == [2**32 - 2, 2**32 - 1, 0, 1, 2, 3]
        assert [entry.hlc for entry in await read(journal)] == [receipt.hlc for receipt in receipts]
        assert (await journal.append("event")).hlc == Timestamp(8, 4)


async def test_the_end_of_time(place: Place) -> None:
    """Where time ends, appending fails, nothing changes, and what is there can be read and opened."""
    clock = HybridLogicalClock(last=Timestamp(2**64 - 1, 2**32 - 3), time_ns=lambda: 0)
    async with opened(place, clock=clock) as journal:
        with pytest.raises(ValueError, match="wall_ns"):
            await journal.append_many(["event"] * 3)
        await journal.append_many(["event"] * 2)
        with pytest.raises(ValueError, match="wall_ns"):
            await journal.append("event")
        assert journal.last_index == 2
    async with opened(place, clock=HybridLogicalClock(time_ns=lambda: 0)) as journal:
        with pytest.raises(ValueError, match="wall_ns"):
            await journal.append("event")
        assert (await read(journal))[-1].hlc == Timestamp(2**64 - 1, 2**32 - 1)


# ---------------------------------------------------------------------- read


async def test_every_range(place: Place) -> None:
    """Every range is what lies behind the one index, up to the other, whatever batches it was appended in."""
    async with opened(place, int) as journal:
        for first, count in ((1, 1), (2, 2), (4, 3), (7, 4)):
            await journal.append_many(range(first, first + count))
        for after in range(13):
            assert await texts(journal, after) == list(range(after + 1, 11))
            for end in range(13):
                found = await read(journal, after, end)
                assert [entry.event for entry in found] == list(range(after + 1, min(end, 10) + 1))
                assert all(entry.index == entry.event for entry in found)


@pytest.mark.parametrize(("after", "until_index"), [(-1, None), (0, -1), (-1, 5)])
async def test_negative_indexes(after: int, until_index: int | None, place: Place) -> None:
    """There are none."""
    async with opened(place) as journal:
        with pytest.raises(ValueError, match=">= 0"):
            await read(journal, after, until_index)
        if until_index is None:
            with pytest.raises(ValueError, match=">= 0"):
                await anext(journal.follow(after))


async def test_many_pages(watched: Watched) -> None:
    """A journal longer than a page is read page by page, from any index, and what is read is all that is needed."""
    size, count = 40_000, 100
    async with opened(watched) as journal:
        for number in range(count):
            await journal.append(f"{number:03d}" * (size // 3))
        pages: list[str] = []
        watched.hook = pages.append
        found = await texts(journal)
        assert [int(event[:3]) for event in found] == list(range(count))
        assert 4 <= pages.count("read") <= (8 if isinstance(watched.backend, MemoryBackend) else count)
        pages.clear()
        assert [event[:3] for event in await texts(journal, 70, 72)] == ["070", "071"]
        assert pages.count("read") <= 2


async def test_left_off_early(watched: Watched) -> None:
    """Who leaves off early leaves nothing behind, and has had no more read than needed."""
    async with opened(watched) as journal:
        for _ in range(60):
            await journal.append("x" * 40_000)
        pages: list[str] = []
        watched.hook = pages.append
        async with aclosing(journal.read()) as entries:
            async for entry in entries:
                if entry.index == 3:
                    break
        assert 1 <= pages.count("read") <= 3
        assert len(await read(journal)) == 60


async def test_reads_while_appends_go_on(place: Place) -> None:
    """A read ends with what there was when it began; two of them side by side see the same, whole and in order."""
    async with opened(place, int) as journal:
        await journal.append_many(range(1, 101))
        over = anyio.Event()

        async def appends() -> None:
            while not over.is_set():
                await journal.append_many(range(journal.last_index + 1, journal.last_index + 4))

        async def reads() -> None:
            for _ in range(10):
                last = journal.last_index
                found: list[int] = []
                async with aclosing(journal.read()) as entries:
                    async for entry in entries:
                        found.append(entry.event)
                        if entry.index % 20 == 0:
                            await checkpoint()
                assert len(found) >= last
                assert found == list(range(1, len(found) + 1))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(appends)
            await all_at_once([reads, reads])
            over.set()


async def test_a_read_obeys_its_scope(place: Place) -> None:
    """A read under a cancelled scope reads nothing, and reading nothing again and again lets the loop turn."""
    async with opened(place) as journal:
        with CancelScope() as scope:
            scope.cancel()
            await read(journal)
        assert scope.cancelled_caught
        with anyio.move_on_after(0.01) as scope:
            while True:
                assert await read(journal) == []
        assert scope.cancelled_caught


async def test_another_type(place: Place) -> None:
    """What does not decode as the event type is told by its index, and what comes before is given."""
    async with opened(place, int | str) as journal:
        await journal.append_many([1, 2, 3, "s3cr3t", 5])
    async with opened(place, int) as journal:
        with pytest.raises(CorruptJournalError) as caught:
            await read(journal)
        assert (caught.value.index, caught.value.offset) == (4, None)
        assert "s3cr3t" not in str(caught.value)
        assert (await journal.append(6)).index == 6
        assert await texts(journal, 5) == [6]


# ---------------------------------------------------------------------- truncate


async def test_truncate(place: Place) -> None:
    """What is truncated is exact, to the entry, and stays so when the journal is reopened."""
    async with opened(place, int) as journal:
        for first, count in ((1, 1), (2, 2), (4, 3), (7, 4)):
            await journal.append_many(range(first, first + count))
        for index in (1, 2, 3, 3, 5, 2, 7, 8, 10):
            await journal.truncate_before(index)
            first = max(index, journal.first_index)
            assert (journal.first_index, journal.last_index) == (first, 10)
            assert await texts(journal) == list(range(first, 11))
            assert await texts(journal, first - 1) == list(range(first, 11))
            async with opened(place, int, read_only=True) as other:
                assert (other.first_index, other.last_index) == (first, 10)
                assert await texts(other) == list(range(first, 11))
    async with opened(place, int) as journal:
        assert (journal.first_index, journal.last_index) == (10, 10)
        await journal.truncate_before(11)
        assert (journal.first_index, journal.last_index) == (0, 10)
        assert await read(journal) == []
    async with opened(place, int) as journal:
        assert (journal.first_index, journal.last_index) == (0, 10)
        assert (await journal.append(11)).index == 11
        assert (journal.first_index, journal.last_index) == (11, 11)
        assert await texts(journal) == [11]


@pytest.mark.parametrize("index", [0, -1, 4, 2**70])
async def test_truncate_what_there_is_not(index: int, place: Place) -> None:
    """There is no truncating before an index that is not there yet, nor before the first of all."""
    async with opened(place) as journal:
        await journal.append_many(["event"] * 2)
        with pytest.raises(ValueError, match="index must be 1 to 3"):
            await journal.truncate_before(index)
        assert (journal.first_index, journal.last_index) == (1, 2)


async def test_truncated(place: Place) -> None:
    """Who asks for what is kept no more is told what is; who asks for all gets what is."""
    async with opened(place, int) as journal:
        await journal.append_many(range(1, 6))
        await journal.append_many(range(6, 11))
        await journal.truncate_before(8)
        for after in range(1, 7):
            for reading in (journal.read(after), journal.read(after, after + 1), journal.follow(after)):
                with pytest.raises(TruncatedError) as caught:
                    await anext(reading)
                assert (caught.value.after, caught.value.first) == (after, 8)
            assert await read(journal, after, after) == []
        assert await texts(journal, 7) == [8, 9, 10]
        assert await texts(journal, 0) == [8, 9, 10]
        assert await texts(journal, 0, 5) == []
        assert await texts(journal, 0, 9) == [8, 9]
        await journal.truncate_before(11)
        with pytest.raises(TruncatedError):
            await read(journal, 9)
        assert await read(journal, 10) == []


async def note(entries: AsyncIterator[Entry[Any]], seen: list[int]) -> None:
    """Write down the indexes of what comes, also where it ends with an error."""
    async for entry in entries:
        seen.append(entry.index)  # noqa: PERF401  a comprehension would forget them


async def test_truncated_while_read(place: Place) -> None:
    """A reader that is overtaken by truncation is told so, whether something is left or nothing, and never misled."""
    for left in (0, 1, 5):
        async with opened(place) as journal:
            before = journal.last_index
            for _ in range(60):
                await journal.append("x" * 40_000)
            async with aclosing(journal.read(before)) as entries:
                assert (await anext(entries)).index == before + 1
                await journal.truncate_before(journal.last_index + 1 - left)
                first = journal.last_index + 1 - left
                seen = [before + 1]
                with pytest.raises(TruncatedError) as caught:
                    await note(entries, seen)
                assert (caught.value.after, caught.value.first) == (seen[-1], first)
                assert seen == list(range(before + 1, seen[-1] + 1))
            async with aclosing(journal.follow(before + 2)) as entries:
                with pytest.raises(TruncatedError):
                    await anext(entries)


async def test_a_follower_overtaken_by_truncation(place: Place) -> None:
    """A follower that waits sees what comes, however much is truncated meanwhile; one that lags is told."""
    async with opened(place, int) as journal, aclosing(journal.follow()) as entries:
        await journal.append(1)
        assert (await anext(entries)).index == 1
        await journal.truncate_before(2)
        await journal.append(2)
        assert (await anext(entries)).index == 2
        for number in range(3, 9):
            await journal.append(number)
        await journal.truncate_before(9)
        try:
            found = [(await anext(entries)).index for _ in range(6)]
        except TruncatedError as error:
            assert (error.after, error.first) == (2, 9)  # noqa: PT017  whose bytes are there still may be found
        else:
            assert found == list(range(3, 9))


async def test_truncations_among_appends(watched: Watched) -> None:
    """A truncation takes its turn in line: it sees what was called before it, and not what was called after."""
    async with opened(watched) as journal:
        ends = await behind_a_held_one(
            watched,
            journal,
            [
                partial(journal.append, "two"),
                partial(journal.truncate_before, 3),
                partial(journal.truncate_before, 4),
                partial(journal.append, "three"),
                partial(journal.append, "four", expected_index=3),
            ],
        )
        assert (ends[0].index, ends[1], ends[3].index, ends[4].index) == (2, None, 3, 4)
        assert isinstance(ends[2], ValueError)
        assert watched.counts == [1, 1, 2]
        assert await texts(journal) == ["three", "four"]


# ---------------------------------------------------------------------- follow


class Follower:
    """A follower in a task of its own."""

    def __init__(self, journal: Journal[Any], after: int = 0, **options: Any) -> None:
        self.events: list[Any] = []
        self.indexes: list[int] = []
        self.end: Any = None
        self.scope: CancelScope
        self._journal = journal
        self._after = after
        self._options = options

    async def __call__(self) -> None:
        """Follow, and write down what comes, and how it ends."""
        with CancelScope() as self.scope:
            try:
                async with aclosing(self._journal.follow(self._after, **self._options)) as entries:
                    async for entry in entries:
                        self.events.append(entry.event)
                        self.indexes.append(entry.index)
                self.end = "ended"
            except Exception as error:  # noqa: BLE001  it is looked at
                self.end = error

    async def has(self, count: int) -> None:
        """Wait until that many have come."""
        await until(lambda: len(self.events) >= count or self.end)
        assert self.end is None


async def test_follow(place: Place) -> None:
    """A follower gets what is there, and then what comes, from where it wants, and ends when the journal is closed."""
    async with bounded(), anyio.create_task_group() as tasks:
        async with opened(place, int) as journal:
            await journal.append_many([1, 2, 3])
            followers = [Follower(journal, after) for after in (0, 2, 3, 5)]
            for follower in followers:
                tasks.start_soon(follower)
            await followers[0].has(3)
            for number in range(4, 30):
                await journal.append(number)
                await followers[0].has(number)
            await journal.append_many([30, 31])
            for follower in followers:
                await follower.has(31 - follower._after)
                assert follower.indexes == follower.events == list(range(follower._after + 1, 32))
        await until(lambda: all(follower.end for follower in followers))
    assert [follower.end for follower in followers] == ["ended"] * 4
    assert journal._followers == set()


async def test_follow_under_load(place: Place) -> None:
    """Several followers beside many appenders see every entry once, in order."""
    async with bounded(), anyio.create_task_group() as tasks, opened(place, int) as journal:
        followers = [Follower(journal) for _ in range(3)]
        for follower in followers:
            tasks.start_soon(follower)

        async def appender() -> None:
            for number in range(20):
                await journal.append(number)

        await all_at_once([appender] * 20)
        for follower in followers:
            await follower.has(400)
            assert follower.indexes == list(range(1, 401))
            assert follower.events == await texts(journal)


async def test_a_slow_follower(watched: Watched) -> None:
    """Who follows slowly hurries nobody, holds up nobody, and has nothing read for it before it asks."""
    async with opened(watched, int) as journal, aclosing(journal.follow()) as entries:
        await journal.append(1)
        assert (await anext(entries)).event == 1
        steps: list[str] = []
        watched.hook = steps.append
        for number in range(2, 300):
            await journal.append(number)
        assert "read" not in steps
        for number in range(2, 300):
            assert (await anext(entries)).event == number
        assert steps.count("read") <= 10


async def test_a_follower_is_cancelled(place: Place) -> None:
    """A follower that waits ends with its scope, leaves nothing behind, and others go on."""
    async with bounded(), anyio.create_task_group() as tasks, opened(place, int) as journal:
        followers = [Follower(journal) for _ in range(2)]
        for follower in followers:
            tasks.start_soon(follower)
        await journal.append(1)
        await followers[0].has(1)
        await until(lambda: len(journal._followers) == 2)
        followers[0].scope.cancel()
        await until(lambda: followers[0].scope.cancelled_caught)
        await until(lambda: len(journal._followers) == 1)  # the other may just be woken by what it has read already
        await journal.append(2)
        await followers[1].has(2)
        assert followers[0].events == [1]


@native
async def test_a_follower_is_cancelled_natively(place: Place) -> None:
    """The same, natively, at any turn of the loop."""
    async with opened(place, int) as journal:
        for after in range(12):
            follower = Follower(journal, journal.last_index)
            task = asyncio.create_task(follower())
            await turns(after)
            await journal.append(after)
            await turns(after)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert journal._followers == set()


async def test_a_follower_that_has_not_asked(place: Place) -> None:
    """A follower that is between two entries when the journal is closed ends at the next; one that begins is told."""
    async with opened(place, int) as journal:
        entries = journal.follow()
        await journal.append_many([1, 2, 3])
        assert (await anext(entries)).event == 1
    async with bounded():
        assert [entry.event async for entry in entries] == []
        with pytest.raises(ClosedError):
            await anext(journal.follow())


@pytest.mark.parametrize("backend", LOOPS)
async def test_a_follower_on_another_loop(backend: Backend, place: Place) -> None:
    """A follower on another loop, in another thread, gets what comes, and ends when the journal is closed."""
    async with opened(place, int) as journal:
        follower = Follower(journal)
        run = partial(anyio.run, follower, backend=backend[0], backend_options=backend[1])
        thread = threading.Thread(target=run)
        thread.start()
        for number in range(1, 50):
            await journal.append(number)
        await follower.has(49)
    async with bounded():
        await to_thread.run_sync(thread.join, BOUND_S)
    assert follower.events == list(range(1, 50))
    assert follower.end == "ended"


# ---------------------------------------------------------------------- read only


async def test_read_only(place: Place) -> None:
    """A journal that is only read needs no claim, sees what the writer makes durable, and cannot be written."""
    async with opened(place, int, read_only=True) as reader:
        assert (reader.first_index, reader.last_index, reader.epoch) == (0, 0, 0)
        assert await read(reader) == []
        async with opened(place, int) as journal:
            await journal.append_many([1, 2, 3])
            assert reader.last_index == 0
            assert await texts(reader) == [1, 2, 3]
            assert reader.last_index == 3
            for call in (reader.append(4), reader.append_many([4]), reader.truncate_before(2)):
                with pytest.raises(ClosedError):
                    await call
            async with opened(place, int, read_only=True) as late:
                assert (late.first_index, late.last_index) == (1, 3)
        assert await texts(reader, 1) == [2, 3]
    with pytest.raises(ClosedError):
        await read(reader)


async def test_follow_read_only(place: Place) -> None:
    """A follower without a claim looks again and again, and ends when its own journal is closed."""
    async with bounded(), anyio.create_task_group() as tasks, opened(place, int) as journal:
        async with opened(place, int, read_only=True) as reader:
            follower = Follower(reader, poll_s=0.001)
            tasks.start_soon(follower)
            for number in range(1, 6):
                await journal.append(number)
                await follower.has(number)
            waiting = Follower(reader, 5, poll_s=1000)
            tasks.start_soon(waiting)
            await until(lambda: len(reader._followers) == 2)
        await until(lambda: follower.end and waiting.end)
        assert (follower.events, follower.end, waiting.end) == ([1, 2, 3, 4, 5], "ended", "ended")
        await journal.append(6)


async def test_read_only_that_cannot_be_opened(watched: Watched) -> None:
    """A journal that could not be opened is not open."""

    def fails(step: str) -> None:
        if step == "bounds":
            raise BackendError("look at the journal")

    watched.hook = fails
    journal = Journal(watched, str, read_only=True)
    async with bounded():
        with pytest.raises(BackendError):
            await journal.__aenter__()
        with pytest.raises(ClosedError):
            await read(journal)


# ---------------------------------------------------------------------- open and close


async def test_before_it_is_entered(place: Place) -> None:
    """A journal that is not open does nothing, and says so; making it does no I/O."""
    journal = Journal(place.backend(), str)
    async with bounded():
        for call in (
            journal.append("event"),
            journal.append_many(["event"]),
            journal.truncate_before(1),
            anext(journal.read()),
            anext(journal.follow()),
        ):
            with pytest.raises(ClosedError, match="enter it with"):
                await call
    assert (journal.first_index, journal.last_index, journal.epoch) == (0, 0, 0)
    if isinstance(place, InFiles):
        assert not place.path.exists()


async def test_closed(place: Place) -> None:
    """A closed journal does nothing, and says so; closing it again does nothing; what it knew it still knows."""
    async with opened(place) as journal:
        await journal.append("event")
        entries = journal.read()
        late = journal.append("late")
        await journal.aclose()
        await journal.aclose()
        for call in (
            late,
            journal.append("event"),
            journal.append_many(["event"]),
            journal.truncate_before(1),
            anext(entries),
            anext(journal.follow()),
        ):
            with pytest.raises(ClosedError, match="is closed"):
                await call
        with pytest.raises(ClosedError):
            await journal.__aenter__()
        async with opened(place) as following:
            assert await texts(following) == ["event"]
    await journal.aclose()
    assert (journal.last_index, journal.epoch, following.epoch) == (1, 1, 2)


async def test_entered_twice(place: Place) -> None:
    """A journal is opened once."""
    async with opened(place) as journal:
        with pytest.raises(ClosedError):
            await journal.__aenter__()
        assert (await journal.append("event")).index == 1


async def test_closed_before_it_is_entered(place: Place) -> None:
    """One that is closed before it was opened cannot be opened, and has let go of nothing of others."""
    async with opened(place) as other:
        journal = Journal(place.backend(), str)
        await journal.aclose()
        with pytest.raises(ClosedError):
            await journal.__aenter__()
        assert (await other.append("event")).index == 1


async def test_one_that_was_not_opened_lets_go_of_nothing(watched: Watched) -> None:
    """One that found another writer, on the same backend, does not end that one's claim when it is closed."""
    async with opened(watched) as journal:
        other = Journal(watched, str, lock_timeout_s=0)
        with pytest.raises(LockedError):
            await other.__aenter__()
        await other.aclose()
        assert (await journal.append("event")).index == 1


async def test_closed_by_many(watched: Watched) -> None:
    """Many that close it at once end its claim once, and not that of the next."""
    steps: list[str] = []
    async with opened(watched) as journal:
        held = Held(watched)

        async def opens_next() -> None:
            async with opened(watched, lock_timeout_s=BOUND_S) as following:
                for _ in range(20):
                    await following.append("event")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(journal.append, "event")
            await happens(held.began)
            for _ in range(10):
                tasks.start_soon(journal.aclose)
            tasks.start_soon(opens_next)
            await until(lambda: len(journal._lane._waiting) == 10)
            watched.hook = steps.append
            held.let_go()
    assert steps.count("release") == 2


async def test_closed_while_it_is_opened(watched: Watched) -> None:
    """One that is closed by somebody else while it is opened is not open afterwards, and holds nothing."""
    for step in ("claim", "claimed"):
        held = Held(watched, step)
        journal = Journal(watched, str)

        async def opens(journal: Journal[str] = journal) -> None:
            with pytest.raises(ClosedError):
                await journal.__aenter__()

        async with bounded(), anyio.create_task_group() as tasks:
            tasks.start_soon(opens)
            await happens(held.began)
            await journal.aclose()
            held.let_go()
        async with opened(watched) as following:
            await following.append("event")


async def test_closed_while_it_waits_for_a_writer(watched: Watched) -> None:
    """One that is closed by somebody else while it waits for another writer gives up, and leaves that one alone."""
    async with opened(watched) as journal:
        waiting = Journal(watched, str, lock_timeout_s=math.inf)

        async def opens() -> None:
            with pytest.raises(ClosedError):
                await waiting.__aenter__()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(opens)
            await until(lambda: watched.claims >= 3)
            await waiting.aclose()
        assert (await journal.append("event")).index == 1


async def test_what_stands_in_line_is_committed(watched: Watched) -> None:
    """Closing commits all that stands in line, and refuses what comes then."""
    async with opened(watched) as journal:
        held = Held(watched)
        ends: list[Any] = []

        async def append(event: str) -> None:
            ends.append(await journal.append(event))

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(append, f"{number}")
                if number == 0:
                    await happens(held.began)
            await until(lambda: len(journal._lane._waiting) == 9)
            tasks.start_soon(journal.aclose)
            await until(lambda: journal._closed)
            with pytest.raises(ClosedError):
                await journal.append("late")
            held.let_go()
        assert sorted(receipt.index for receipt in ends) == list(range(1, 11))
        assert not journal._claimed


async def test_late_ones_do_not_come_between(watched: Watched) -> None:
    """An append that was called in time, and is awaited when another writer has come, changes nothing."""
    async with opened(watched) as journal:
        late = journal.append("late")
    async with opened(watched) as following:
        with pytest.raises((ClosedError, FencedError)):
            await late
        assert (await following.append("event")).index == 1


async def test_an_error_on_the_way_out(watched: Watched) -> None:
    """When letting go fails it is told, once, and those who follow are not left waiting."""

    def fails(step: str) -> None:
        if step == "release":
            raise OSError("no")

    async with bounded(), anyio.create_task_group() as tasks:
        journal = await Journal(watched, str).__aenter__()
        follower = Follower(journal)
        tasks.start_soon(follower)
        await until(lambda: journal._followers)
        watched.hook = fails
        with pytest.raises(OSError, match="no"):
            await journal.aclose()
        await journal.aclose()
        await until(lambda: follower.end)
        watched.hook = lambda _: None
        await to_thread.run_sync(watched.release)


async def test_an_error_of_the_block(place: Place) -> None:
    """An error in the block closes the journal, and goes on."""

    async def fails() -> None:
        async with opened(place) as journal:
            await journal.append("event")
            raise KeyError

    with pytest.raises(KeyError):
        await fails()
    async with opened(place) as journal:
        assert journal.last_index == 1


async def test_nothing_is_left(place: Place) -> None:
    """A journal has no task and no thread of its own, open or closed."""
    async with opened(place) as journal:
        tasks = len(anyio.get_running_tasks())
        await all_at_once([partial(journal.append, "event")] * 50)
        assert len(anyio.get_running_tasks()) == tasks
        assert hop_module._unbounded().borrowed_tokens == 0
        await read(journal)
        assert hop_module.readers().borrowed_tokens == 0
    assert journal._lane._leader is None
    assert not journal._lane._waiting


@pytest.mark.parametrize("option", ["batch_events", "batch_bytes"])
def test_wrong_bounds(option: str) -> None:
    """A bound below 1 is refused."""
    with pytest.raises(ValueError, match=option):
        Journal(MemoryBackend(), str, **{option: 0})


def test_wrong_type() -> None:
    """An event type that is not supported is refused at once."""
    with pytest.raises(TypeError):
        Journal(MemoryBackend(), list[int] | set[int])


# ---------------------------------------------------------------------- one writer


async def test_locked(place: Place) -> None:
    """A second writer is refused, at once or when its time is over, and told who holds the journal."""
    async with opened(place):
        for timeout_s in (0, 0.03):
            with pytest.raises(LockedError) as caught:
                async with opened(place, lock_timeout_s=timeout_s):
                    raise AssertionError
            assert caught.value.waited_s == timeout_s
            if isinstance(place, InFiles):
                assert (caught.value.pid, caught.value.host) == (os.getpid(), socket.gethostname())
    async with opened(place) as journal:
        assert journal.epoch == 2


async def test_waits_for_the_writer(watched: Watched) -> None:
    """Who waits for another writer looks again and again, holds no thread meanwhile, and comes in when that ends."""
    seen: list[int] = []

    async def waits(scope: CancelScope) -> None:
        with scope:
            async with opened(watched, lock_timeout_s=BOUND_S) as following:
                await following.append("second")

    async with bounded(), anyio.create_task_group() as tasks:
        async with opened(watched) as journal:
            scopes = [CancelScope(), CancelScope()]
            for scope in scopes:
                tasks.start_soon(waits, scope)
            while watched.claims < 9:
                await anyio.sleep(0.001)
                seen.append(watched.working)
            scopes[0].cancel()
            await journal.append("first")
        await until(lambda: watched.counts == [1, 1])
    assert scopes[0].cancelled_caught
    assert 0 in seen
    assert watched.claims < 100
    async with opened(watched) as journal:
        assert await texts(journal) == ["first", "second"]


HOLDER = """
import sys, anyio
from swoosh_async import FileBackend, Journal

async def main():
    async with Journal(FileBackend(sys.argv[1]), str) as journal:
        await journal.append("theirs")
        print("ready", flush=True)
        sys.stdin.readline()

anyio.run(main)
"""


async def test_held_by_another_process(tmp_path: Path) -> None:
    """The holder in another process is named; killed, it lets go; and what it appended is there."""
    with process(HOLDER, tmp_path) as other:
        assert other.stdout is not None
        assert await to_thread.run_sync(other.stdout.readline) == "ready\n"
        with pytest.raises(LockedError) as caught:
            async with opened(InFiles(tmp_path)):
                raise AssertionError
        assert caught.value.pid == other.pid
        async with opened(InFiles(tmp_path), read_only=True) as reader:
            assert await texts(reader) == ["theirs"]
        other.kill()
        async with opened(InFiles(tmp_path), lock_timeout_s=BOUND_S) as journal:
            assert await texts(journal) == ["theirs"]
            assert journal.epoch == 2


async def test_epochs(place: Place) -> None:
    """Each claim raises the epoch by one, or to what is given; what is not higher is refused, and holds nothing."""
    epochs: list[int] = []
    for epoch in (None, None, 7, None, 100):
        async with opened(place, epoch=epoch) as journal:
            epochs.append(journal.epoch)
            await journal.append("event")
    assert epochs == [1, 2, 7, 8, 100]
    for epoch in (100, 99, 1, 0, -5):
        with pytest.raises(FencedError) as caught:
            async with opened(place, epoch=epoch):
                raise AssertionError
        assert (caught.value.epoch, caught.value.found) == (epoch, 100)
    async with opened(place) as journal:
        assert journal.epoch == 101
        batches = place.backend().read(Index(0), 1 << 20) if isinstance(place, InMemory) else []
        assert [batch.epoch for batch in batches] in ([1, 2, 7, 8, 100], [])


async def test_a_forked_child_refuses(place: Place) -> None:
    """A forked child appends nothing, and closing it there lets go of nothing of its parent's."""

    def tries(coroutine: Any) -> BaseException | None:
        try:
            coroutine.send(None)
        except StopIteration:
            return None
        except BaseException as error:  # noqa: BLE001  it is looked at
            return error
        return AssertionError("it waits")

    async with opened(place) as journal:
        await journal.append("event")

        def child() -> None:
            for call in (journal.append("child's"), journal.append_many(["child's"]), journal.truncate_before(1)):
                assert isinstance(tries(call), LockedError)
            assert tries(journal.aclose()) is None
            assert isinstance(tries(journal.append("child's")), ClosedError)

        assert in_child(child) == 0
        assert (await journal.append("event")).index == 2
        if isinstance(place, InFiles):
            with pytest.raises(LockedError):
                async with opened(place):
                    raise AssertionError


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_many_loops(kind: str, tmp_path: Path) -> None:
    """Loops of all kinds, each in its own thread, share one journal: nothing is lost, doubled, or out of order."""
    watched = Watched(InMemory() if kind == "memory" else InFiles(tmp_path))
    journal: Journal[str] = Journal(watched, str)
    anyio.run(journal.__aenter__)
    receipts: dict[str, Receipt] = {}
    backends: list[Backend] = [loop.values[0] for loop in LOOPS]

    async def appends(loop: int) -> None:
        async def one(task: int) -> None:
            for turn in range(10):
                event = f"{loop} {task} {turn}"
                receipts[event] = await journal.append(event)
                if turn % 5 == task % 5:
                    entries = await read(journal, receipts[event].index - 1, receipts[event].index)
                    assert [entry.event for entry in entries] == [event]

        async with bounded(), anyio.create_task_group() as tasks:
            for task in range(8):
                tasks.start_soon(one, task)

    in_threads(
        [
            partial(anyio.run, appends, number, backend=backend[0], backend_options=backend[1])
            for number, backend in enumerate(backends)
        ]
    )
    entries = anyio.run(read, journal)
    anyio.run(journal.aclose)
    assert [entry.index for entry in entries] == list(range(1, 241))
    assert all(receipts[entry.event] == Receipt.of(entry.index, entry.hlc) for entry in entries)
    for loop, task in itertools.product(range(3), range(8)):
        mine = [receipts[f"{loop} {task} {turn}"].index for turn in range(10)]
        assert mine == sorted(mine)
    assert watched.trouble == []
    assert len(watched.batches) < 240


# ---------------------------------------------------------------------- bounds


@pytest.mark.parametrize("batch_events", [1, 7, 1000])
async def test_batches_have_no_more_events(batch_events: int, watched: Watched) -> None:
    """No more appends are committed together than may be, and no fewer than can be."""
    async with opened(watched, batch_events=batch_events) as journal:
        ends = await behind_a_held_one(watched, journal, [partial(journal.append, "event")] * 50)
        assert [end.index for end in ends] == list(range(2, 52))
        full, rest = divmod(50, batch_events)
        assert watched.counts == [1, *[batch_events] * full, *[rest] * (rest > 0)]


async def test_batches_have_no_more_bytes(watched: Watched) -> None:
    """No more bytes are committed together than may be, unless one append has more by itself."""
    async with opened(watched, batch_bytes=1000) as journal:
        events = [f"{number}" * size for number, size in enumerate([300, 300, 300, 300, 5000, 10, 10, 999, 1, 990])]
        await behind_a_held_one(watched, journal, [partial(journal.append, event) for event in events])
        assert watched.counts == [1, 3, 1, 1, 2, 1, 2]
        assert all(len(batch.data) < 1050 or batch.count == 1 for batch in watched.batches)
        assert sorted(await texts(journal, 1)) == sorted(events)


async def test_not_encoded_yet_is_alone(watched: Watched) -> None:
    """Many events that are still to be encoded are committed by themselves: nobody knows how many bytes they are."""
    async with opened(watched) as journal:
        calls: list[Callable[[], Awaitable[Any]]] = [
            partial(journal.append, "one"),
            partial(journal.append_many, ["many"] * 300),
            partial(journal.append_many, ["more"] * 300),
            partial(journal.append, "last"),
        ]
        await behind_a_held_one(watched, journal, calls)
        assert watched.counts == [1, 1, 300, 300, 1]


def test_bounds_by_default() -> None:
    """There are bounds unless others are given."""
    assert Journal(MemoryBackend(), str)._lane._batch_items == BATCH_EVENTS


# ---------------------------------------------------------------------- what fails


async def test_a_backend_that_fails(watched: Watched) -> None:
    """A step that failed is told to all whose it was, each its own error; nothing has changed, and it goes on."""
    async with opened(watched) as journal:
        failure = BackendError("write journal", "path", errno=28)
        watched.failing = [None, ("before", failure)]
        calls: list[Callable[[], Awaitable[Any]]] = [partial(journal.append, f"{number}") for number in range(10)]
        calls += [partial(journal.append_many, ["a", "b"]), partial(journal.append, "c", expected_index=1)]
        ends = await behind_a_held_one(watched, journal, calls)
        assert all(type(end) is BackendError and end.errno == 28 and end.path == "path" for end in ends)
        assert len(set(map(id, ends))) == len(ends)
        assert (journal.last_index, watched.counts) == (1, [1])
        receipts = await all_at_once([partial(journal.append, "again")] * 3)
        assert sorted(receipt.index for receipt in receipts) == [2, 3, 4]
        assert await texts(journal) == ["first", *["again"] * 3]
    async with opened(watched) as journal:
        assert await texts(journal) == ["first", *["again"] * 3]


async def test_a_backend_that_is_fenced_off(watched: Watched) -> None:
    """A writer that another has taken over from is told so, and has changed nothing."""
    async with opened(watched) as journal:
        watched.failing = [("before", FencedError("there", epoch=1, found=2))] * 2
        for _ in range(2):
            with pytest.raises(FencedError):
                await journal.append("event")
        assert journal.last_index == 0


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_unknown_outcome(when: str, watched: Watched) -> None:
    """When it is not known whether a batch is durable, all whose it was are told; nothing works until a reopening."""
    async with bounded(), anyio.create_task_group() as tasks:
        async with opened(watched) as journal:
            follower = Follower(journal)
            tasks.start_soon(follower)
            watched.failing = [None, (when, OutcomeUnknownError("fdatasync journal", "path", errno=5))]
            calls = [partial(journal.append, f"{number}") for number in range(10)]
            entries = journal.read()
            late = journal.append("late")
            ends = await behind_a_held_one(watched, journal, list(calls))
            assert all(type(end) is OutcomeUnknownError and end.errno == 5 for end in ends)
            assert len(set(map(id, ends))) == len(ends)
            for call in (
                late,
                journal.append("event"),
                journal.append_many(["event"] * 300),
                journal.append(BAD),
                journal.truncate_before(1),
                anext(entries),
                anext(journal.follow()),
            ):
                with pytest.raises(PoisonedError, match="fdatasync journal"):
                    await call
            await until(lambda: follower.end)
            assert isinstance(follower.end, PoisonedError)
            assert journal.last_index == 1
        async with opened(watched) as journal:
            there = [] if when == "before" else [f"{number}" for number in range(10)]
            assert sorted(await texts(journal, 1)) == there
            assert (await journal.append("next")).index == len(there) + 2


async def test_who_waits_when_it_is_poisoned(watched: Watched) -> None:
    """Those who wait behind a batch of unknown outcome are told that it is poisoned; nothing of theirs is appended."""
    async with opened(watched, batch_events=3) as journal:
        watched.failing = [None, ("before", OutcomeUnknownError("fdatasync journal"))]
        ends = await behind_a_held_one(watched, journal, [partial(journal.append, "event")] * 9)
        assert [type(end) for end in ends] == [OutcomeUnknownError] * 3 + [PoisonedError] * 6
        assert watched.counts == [1]


async def test_an_unknown_truncation(watched: Watched) -> None:
    """The same where it is a truncation."""

    def fails(step: str) -> None:
        if step == "truncate":
            raise OutcomeUnknownError("rename journal record")

    async with opened(watched) as journal:
        await journal.append("event")
        watched.hook = fails
        with pytest.raises(OutcomeUnknownError):
            await journal.truncate_before(2)
        with pytest.raises(PoisonedError):
            await journal.append("event")
        watched.hook = lambda _: None
    async with opened(watched) as journal:
        assert await texts(journal) == ["event"]


async def test_a_truncation_that_fails(watched: Watched) -> None:
    """A truncation that failed has changed nothing, and may be tried again."""

    def fails(step: str) -> None:
        if step == "truncate":
            raise BackendError("rename journal record")

    async with opened(watched) as journal:
        await journal.append("event")
        watched.hook = fails
        with pytest.raises(BackendError):
            await journal.truncate_before(2)
        assert journal.first_index == 1
        watched.hook = lambda _: None
        await journal.truncate_before(2)
        assert journal.first_index == 0


async def test_a_claim_that_fails(watched: Watched) -> None:
    """A journal that could not be claimed is not open, holds nothing, and another may be tried."""

    def fails(step: str) -> None:
        if step == "claim":
            raise BackendError("open journal")

    watched.hook = fails
    with pytest.raises(BackendError):
        async with opened(watched):
            raise AssertionError
    watched.hook = lambda _: None
    async with opened(watched) as journal:
        await journal.append("event")


async def test_too_large(place: Place) -> None:
    """Where a batch is too large for the backend, only what is too large by itself is refused."""
    watched = Watched(place, max_batch_bytes=1000)
    async with opened(watched) as journal:
        sizes = [100, 200, 300, 2000, 400, 500, 1, 1001, 950]
        calls: list[Callable[[], Awaitable[Any]]] = [partial(journal.append, "x" * size) for size in sizes]
        calls.append(partial(journal.append_many, ["y" * 300] * 5))
        calls.append(partial(journal.append, "z", expected_index=8))
        ends = await behind_a_held_one(watched, journal, calls)
        assert [isinstance(end, LimitExceededError) for end in ends] == [size > 1000 for size in sizes] + [True, False]
        assert [end.index for end in ends if isinstance(end, Receipt)] == list(range(2, 10))
        assert [len(event) for event in await texts(journal, 1)] == [size for size in sizes if size <= 1000] + [1]
    assert watched.trouble == []


async def test_one_too_large_among_many(place: Place) -> None:
    """One that is too large does not cost all that came with it a commit of their own."""
    watched = Watched(place, max_batch_bytes=10_000)
    async with opened(watched) as journal:
        sizes = [10] * 20 + [10_001] + [10] * 43
        ends = await behind_a_held_one(watched, journal, [partial(journal.append, "x" * size) for size in sizes])
        assert [isinstance(end, LimitExceededError) for end in ends] == [size > 10_000 for size in sizes]
        assert len(watched.batches) <= 8


async def test_too_large_for_a_file(tmp_path: Path) -> None:
    """The same with the bound of a file backend."""
    backend = FileBackend(tmp_path, max_batch_bytes=1000, lock_timeout_s=0)
    async with opened(backend) as journal:
        ends = await all_at_once([partial(journal.append, "x" * size) for size in (500, 2000, 500, 900)])
        assert [isinstance(end, LimitExceededError) for end in ends] == [False, True, False, False]
        assert journal.last_index == 3


async def test_unknown_among_the_too_large(place: Place) -> None:
    """A batch that is cut into pieces, one of which fails: each is told what became of its own."""
    watched = Watched(place, max_batch_bytes=1000)
    async with opened(watched) as journal:
        watched.failing = [None, None, None, ("after", OutcomeUnknownError("fdatasync journal"))]
        ends = await behind_a_held_one(watched, journal, [partial(journal.append, "x" * 800) for _ in range(4)])
    assert [type(end) for end in ends].count(OutcomeUnknownError) == 1
    kinds = [type(end) for end in ends]
    assert kinds == sorted(kinds, key=[Receipt, OutcomeUnknownError, PoisonedError].index)
    async with opened(watched) as journal:
        assert journal.last_index == 1 + kinds.count(Receipt) + 1


# ---------------------------------------------------------------------- what is damaged


def planted(memory: MemoryBackend, *counts: int, events: int) -> None:
    """Put batches there that say they have so many events, and have others."""
    codec: EventCodec[int] = EventCodec(int)
    claim = memory.claim()
    for count in counts:
        data = codec.batch(Timestamp(1), [codec.encode(number) for number in range(events)])
        memory.append(Batch(Index(memory.bounds().last + 1), count, claim.epoch, data))
    memory.release()


@pytest.mark.parametrize("counts", [(3,), (1,), (2, 3), (2, 1, 2)])
async def test_a_batch_with_a_wrong_count(counts: tuple[int, ...]) -> None:
    """A batch that has not as many events as it says is damaged: nobody looks for the others for ever."""
    place = InMemory()
    planted(place.memory, *counts, events=2)
    async with opened(place, int) as journal:
        with pytest.raises(CorruptJournalError, match="2 events where there should be"):
            await read(journal)


async def test_the_last_batch_without_a_time() -> None:
    """A journal whose last batch is damaged is not opened, and not held."""
    place = InMemory()
    claim = place.memory.claim()
    place.memory.append(Batch(Index(1), 1, claim.epoch, b"short"))
    place.memory.release()
    for _ in range(2):
        with pytest.raises(CorruptJournalError) as caught:
            async with opened(place, int):
                raise AssertionError
        assert caught.value.index == 1
    assert place.memory.claim(Epoch(10)).epoch == 10


async def test_a_batch_that_is_missing(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that has not what it says it has is told damaged, not truncated, and not waited for."""
    async with opened(watched) as journal:
        for _ in range(5):
            await journal.append("event")
        for found in ((), (watched.batches[3],)):
            monkeypatch.setattr(watched.backend, "read", lambda *_, found=found: found)
            with pytest.raises(CorruptJournalError) as caught:
                await read(journal)
            assert caught.value.index == 1


# ---------------------------------------------------------------------- all of it


async def test_a_life(place: Place) -> None:
    """Anything in any order, for a while, against a plain list."""
    chance = random.Random(7)
    there: list[str] = []
    first = 1
    for life in range(6):
        async with opened(place) as journal:
            for turn in range(15):
                event = f"{life} {turn}"
                match chance.randrange(6):
                    case 0:
                        await journal.append_many([event] * chance.randrange(5))
                        there += [event] * (journal.last_index - len(there))
                    case 1 if there:
                        first = max(first, chance.randint(1, len(there) + 1))
                        await journal.truncate_before(first)
                    case 2:
                        with pytest.raises(ConflictError):
                            await journal.append(event, expected_index=len(there) + 1)
                    case _:
                        assert (await journal.append(event, expected_index=len(there))).index == len(there) + 1
                        there.append(event)
                assert journal.last_index == len(there)
                assert await texts(journal) == there[first - 1 :]


# ---------------------------------------------------------------------- what callers and backends get wrong


@pytest.mark.parametrize("epoch", [1.5, True, 1 << 63, "3"])
def test_epochs_that_are_none(epoch: Any) -> None:
    """An epoch that is no int, or too large, is refused when the journal is made."""
    with pytest.raises(ValueError, match="epoch"):
        Journal(MemoryBackend(), str, epoch=epoch)


@pytest.mark.parametrize("index", [1.0, True, "1", None])
async def test_indexes_that_are_none(place: Place, index: Any) -> None:
    """An index that is no int is refused by whatever takes one, and the journal goes on."""
    async with bounded(), opened(place) as journal:
        await journal.append("a")
        with pytest.raises(ValueError, match="index"):
            await journal.truncate_before(index)
        for entries in (journal.read(after=index), journal.follow(after=index)):
            with pytest.raises(ValueError, match="int"):
                await anext(entries)
        assert (await journal.append("b")).index == 2
    async with bounded(), opened(place) as journal:
        assert await texts(journal) == ["a", "b"]


async def test_a_backend_that_raises_anything(watched: Watched) -> None:
    """An exception that no backend should raise leaves the outcome unknown, and the journal poisoned."""
    async with bounded(), Journal(watched, str) as journal:
        await journal.append("a")
        watched.failing = [("after", ZeroDivisionError("secret"))]
        with pytest.raises(OutcomeUnknownError) as caught:
            await journal.append("b")
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert "secret" not in str(caught.value)
        with pytest.raises(PoisonedError):
            await journal.append("c")


async def test_a_refusal_holds_nothing_of_the_batch(place: Place) -> None:
    """Who keeps a ConflictError keeps no frame in which the events of others stand."""
    async with bounded(), opened(place) as journal:
        await journal.append("a")
        with pytest.raises(ConflictError) as caught:
            await journal.append("b", expected_index=7)
        frame = caught.value.__traceback__
        while frame is not None:
            assert frame.tb_frame.f_code.co_name not in ("_gather", "_commit", "serve")
            frame = frame.tb_next


async def test_closed_when_it_was_about_to_wait(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower that begins to wait while the journal is being closed, by another thread, ends as well."""
    async with bounded(), opened(place) as journal:
        add = set.add

        class Followers(set[Any]):
            def add(self, follower: Any) -> None:
                journal._closed = (
                    True  # behind its look whether it is closed; those who wait were woken before this one
                )
                add(self, follower)

        monkeypatch.setattr(journal, "_followers", Followers())
        assert [entry async for entry in journal.follow()] == []
        journal._closed = False

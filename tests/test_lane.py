"""A lane serves in call order, one batch at a time, and who leaves it leaves nothing behind and nobody in the lurch."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from anyio import CancelScope
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swoosh_async._lane import Lane

from ._faults import (
    BOUND_S,
    LOOPS,
    NATIVE,
    STORM_S,
    Backend,
    Clerk,
    Steps,
    bounded,
    python,
    run,
    turns,
    until,
)
from ._lines import Line, Schedule, Storm, dawdling, in_threads
from .loop_guard import LoopGuard

pytestmark = pytest.mark.anyio
native = pytest.mark.parametrize("anyio_backend", NATIVE)


# ---------------------------------------------------------------------- service


@pytest.mark.parametrize("batch_items", [1, 4, 1000])
async def test_serves_in_call_order(batch_items: int) -> None:
    """Many callers, coming again and again, are served in the order of their calls, each with its own result."""
    line = Line(Clerk(held=False), batch_items=batch_items)

    async def caller(number: int) -> None:
        for turn in range(5):
            await line.call((number, turn))

    async with bounded(), anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(caller, number)
    assert line.clerk.served == line.order
    assert len(line.order) == 250
    assert max(map(len, line.clerk.batches)) <= batch_items
    assert line.ends == {item: f"done {item}" for item in line.order}
    assert line.troubles == []


async def test_a_batch_is_what_waits() -> None:
    """Who comes while others are served is served with all who wait then, up to the size of a batch."""
    line = Line(batch_items=3)
    async with bounded(), anyio.create_task_group() as tasks:
        tasks.start_soon(line.call, 0)
        await line.clerk.begins()
        for item in range(1, 6):
            tasks.start_soon(line.call, item)
            await line.takes(item)
        line.clerk.let_all_go()
    assert line.clerk.batches == [[0], [1, 2, 3], [4, 5]]


@native
async def test_place_is_taken_at_the_first_step() -> None:
    """A caller is in line before it waits for anything: what is called later is served later."""
    line = Line(Clerk(held=False))
    later, sooner = line.lane.submit("later"), line.lane.submit("sooner")  # not the making of a coroutine counts
    sooner_task = asyncio.create_task(sooner)
    later_task = asyncio.create_task(later)
    await asyncio.wait([sooner_task, later_task])
    assert line.clerk.served == ["sooner", "later"]


class UncopyableError(Exception):
    """It needs two arguments, and tells nobody."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


async def ends_of_a_failing_batch(error: BaseException) -> list[BaseException]:
    """What three callers get whose batch fails with that error."""

    def fails(item: Any) -> Any:
        if item:
            raise error
        return item

    line = Line(Clerk(outcome=fails), batch_items=3)

    async def caller(item: int) -> None:
        try:
            await line.call(item)
        except BaseException as caught:  # noqa: BLE001  it is what is looked at
            line.ends[item] = caught

    async with bounded(), anyio.create_task_group() as tasks:
        tasks.start_soon(caller, 0)
        await line.clerk.begins()
        for item in (1, 2, 3):
            tasks.start_soon(caller, item)
            await line.takes(item)
        line.clerk.let_all_go()
    return [line.ends[item] for item in (1, 2, 3)]


@pytest.mark.parametrize("error", [OSError(5, "disk"), ValueError("x"), SystemExit(3)])
async def test_error_goes_to_every_caller(error: BaseException) -> None:
    """What the service raises is raised to each caller of the batch, an exception of its own with the same cause."""
    error.__cause__ = KeyError("why")
    ends = await ends_of_a_failing_batch(error)
    assert [(type(end), end.args) for end in ends] == [(type(error), error.args)] * 3
    assert len({id(end) for end in ends}) == 3
    assert len({id(end.__traceback__) for end in ends}) == 3
    assert {end.__cause__ for end in ends} == {error.__cause__}


async def test_error_that_cannot_be_copied() -> None:
    """An exception that cannot be copied goes to every caller as it is."""
    ends = await ends_of_a_failing_batch(UncopyableError(1, 2))
    assert {str(end) for end in ends} == {"1 and 2"}


async def test_each_item_may_have_its_own_error() -> None:
    """An exception among the outcomes is raised to its caller alone."""
    line = Line(Clerk(outcome=lambda item: ValueError(item) if item % 2 else item), batch_items=9)

    async def caller(item: int) -> None:
        if item % 2:
            with pytest.raises(ValueError, match=str(item)):
                await line.lane.submit(item)
        else:
            assert await line.lane.submit(item) == item

    async with bounded(), anyio.create_task_group() as tasks:
        for item in range(6):
            tasks.start_soon(caller, item)
        line.clerk.let_all_go()


@pytest.mark.parametrize("outcomes", [[], [1, 2, 3], None, 7])
async def test_wrong_outcomes(outcomes: Any) -> None:
    """A service that does not return one outcome for each item is told so, and the line goes on."""
    answers = iter([outcomes, ["fine"]])
    lane: Lane[str, str] = Lane(lambda _: next(answers), batch_items=4)
    async with bounded():
        with pytest.raises((RuntimeError, TypeError)):
            await lane.submit("a")
        assert await lane.submit("b") == "fine"


async def test_nothing_to_wait_for_nobody_waits() -> None:
    """A caller whose scope is cancelled already is not served."""
    line = Line(Clerk(held=False))
    with CancelScope() as scope:
        scope.cancel()
        await line.lane.submit("never")
    assert scope.cancelled_caught
    assert await line.lane.submit("served") == "done served"
    assert line.clerk.served == ["served"]


# ---------------------------------------------------------------------- withdrawal


LEAVERS = pytest.mark.parametrize("leavers", [{1}, {3}, {5}, {1, 2}, {1, 3, 5}, {1, 2, 3, 4}, {1, 2, 3, 4, 5}])


@LEAVERS
@pytest.mark.parametrize("batch_items", [1, 2, 8])
async def test_withdrawn_by_scope(leavers: set[int], batch_items: int) -> None:
    """Who waits and is cancelled leaves at once, unserved; all others are served, in order."""
    line = Line(batch_items=batch_items)
    async with bounded(), anyio.create_task_group() as tasks:
        tasks.start_soon(line.call, 0)
        await line.clerk.begins()
        for item in range(1, 6):
            tasks.start_soon(line.call, item)
            await line.takes(item)
        for item in leavers:
            line.scopes[item].cancel()
        await until(lambda: line.cancelled() == leavers)
        line.clerk.let_all_go()
    assert line.clerk.served == [item for item in range(6) if item not in leavers]
    assert line.troubles == []


@native
@LEAVERS
@pytest.mark.parametrize("batch_items", [1, 2, 8])
async def test_withdrawn_natively(leavers: set[int], batch_items: int) -> None:
    """The same, cancelled natively."""
    line = Line(batch_items=batch_items)
    line.start(0)
    await line.clerk.begins()
    line.start(*range(1, 6))
    await line.takes(*range(1, 6))
    for item in leavers:
        line.tasks[item].cancel()
    await until(lambda: line.cancelled() == leavers)
    line.clerk.let_all_go()
    await line.all_end()
    assert line.clerk.served == [item for item in range(6) if item not in leavers]
    assert {item for item, task in line.tasks.items() if task.cancelled()} == leavers
    assert line.troubles == []


def handed_over(line: Line) -> None:
    """Let the batch end and block the loop until the lead has been handed over, which the loop does not know yet."""
    done = threading.Event()
    hand_over = line.lane._hand_over

    def watched() -> None:
        hand_over()
        done.set()

    line.lane._hand_over = watched  # type: ignore[method-assign]
    line.clerk.let_go()
    assert done.wait(BOUND_S)
    del line.lane._hand_over  # type: ignore[method-assign]
    with line.lane._mutex:  # the worker has left
        pass


@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("batch_items", [1, 2, 8])
@pytest.mark.parametrize("how", ["scope", "native"])
async def test_leaves_when_the_lead_was_handed_over(
    how: str, batch_items: int, after: int, anyio_backend_name: str
) -> None:
    """Whoever is to lead next, and is cancelled before it can, leaves the lead to the next."""
    if how == "native" and anyio_backend_name == "trio":
        how = "scope"
    line = Line(batch_items=batch_items)
    async with bounded(), anyio.create_task_group() as tasks:

        async def caller(item: int) -> None:
            if how == "native":
                line.start(item)
                await asyncio.wait([line.tasks[item]])
            else:
                await line.call(item)

        tasks.start_soon(caller, 0)
        await line.clerk.begins()
        for item in (1, 2, 3):
            tasks.start_soon(caller, item)
            await line.takes(item)
        handed_over(line)
        await turns(after)
        if how == "native":
            line.tasks[1].cancel()
        else:
            line.scopes[1].cancel()
        line.clerk.let_all_go()
    assert [item for item in line.clerk.served if item != 1] == [0, 2, 3]
    assert (line.ends[2], line.ends[3]) == ("done 2", "done 3")
    assert (1 in line.cancelled()) == (1 not in line.clerk.served) or after > 0
    assert line.troubles == []


@native
@pytest.mark.parametrize("after", range(10))
@pytest.mark.parametrize("batch_items", [1, 8])
async def test_leader_leaves_before_its_thread_has_begun(batch_items: int, after: int) -> None:
    """A leader that is cancelled on the way to its thread is served completely or not at all, and another leads."""
    line = Line(Clerk(held=False), batch_items=batch_items)
    line.start(0, 1, 2, 3)
    await turns(after)
    line.tasks[0].cancel()
    await line.all_end()
    assert [item for item in line.clerk.served if item] == [1, 2, 3]
    assert line.tasks[0].cancelled() or line.ends[0] == "done 0"
    assert line.troubles == []


@pytest.mark.parametrize("after", range(6))
@pytest.mark.parametrize("batch_items", [1, 8])
async def test_leader_under_a_scope_before_its_thread_has_begun(batch_items: int, after: int) -> None:
    """A leader whose scope is cancelled on its way to the thread is not taken back, but serves first."""
    line = Line(Clerk(held=False), batch_items=batch_items)
    async with bounded(), anyio.create_task_group() as tasks:
        for item in range(4):
            tasks.start_soon(line.call, item)
        await until(lambda: line.order)
        await turns(after)
        line.scopes[line.order[0]].cancel()
    assert line.clerk.served == line.order
    assert line.ends == {item: f"done {item}" for item in range(4)}
    assert line.troubles == []


@native
async def test_taken_back_before_its_thread() -> None:
    """A leader that is cancelled in its first turn was not served, and those behind it are."""
    line = Line(Clerk(held=False))
    line.start(0, 1)
    await turns(1)
    assert line.order == [0, 1]
    line.tasks[0].cancel()
    await line.all_end()
    assert line.clerk.served == [1]


@native
async def test_taken_by_another_loop_while_it_leaves(loop_guard: LoopGuard) -> None:
    """A leader that gives up just as another loop's leader takes its item waits for the end of it."""
    line = Line(batch_items=8)
    withdraw = line.lane._withdraw
    others: list[threading.Thread] = []

    def late(place: Any) -> bool:
        if not others:
            others.append(threading.Thread(target=anyio.run, args=(line.lane.submit, "another")))
            others[0].start()
            with loop_guard.allow():
                assert line.clerk._began.acquire(timeout=BOUND_S)
        return withdraw(place)

    line.lane._withdraw = late  # type: ignore[method-assign]
    line.start(0)
    await turns(1)
    line.tasks[0].cancel()
    await until(lambda: line.clerk.batches)
    await turns()
    assert line.clerk.batches == [[0, "another"]]
    assert not line.tasks[0].done()
    line.clerk.let_all_go()
    await line.all_end()
    assert line.tasks[0].cancelled()
    assert line.troubles == []
    await anyio.to_thread.run_sync(others[0].join)


@native
async def test_taken_by_another_loop_while_there_is_no_thread(loop_guard: LoopGuard) -> None:
    """A caller that gets no thread to lead with has its result all the same, if another loop's leader serves it."""
    line = Line(batch_items=8)
    others: list[threading.Thread] = []

    async def no_thread(_: Any) -> None:
        del line.lane._lead  # type: ignore[method-assign]
        others.append(threading.Thread(target=anyio.run, args=(line.lane.submit, "another")))
        others[0].start()
        with loop_guard.allow():
            assert line.clerk._began.acquire(timeout=BOUND_S)
        raise RuntimeError("can't start new thread")

    line.lane._lead = no_thread  # type: ignore[method-assign, assignment]
    line.start(0)
    await until(lambda: line.clerk.batches)
    await turns()
    assert line.clerk.batches == [[0, "another"]]
    line.clerk.let_all_go()
    await line.all_end()
    assert line.ends == {0: "done 0"}
    await anyio.to_thread.run_sync(others[0].join)


@native
@pytest.mark.parametrize("times", [1, 2, 5])
async def test_leader_cancelled_in_the_midst(times: int) -> None:
    """A leader that is cancelled while it serves ends after its batch, and then another leads."""
    line = Line()
    line.start(0)
    await line.clerk.begins()
    line.start(1, 2)
    await line.takes(1, 2)
    for _ in range(times):
        line.tasks[0].cancel()
        await turns()
        assert not line.tasks[0].done()
    line.clerk.let_all_go()
    await line.all_end()
    assert line.tasks[0].cancelled()
    assert line.clerk.served == [0, 1, 2]
    assert (line.ends[1], line.ends[2]) == ("done 1", "done 2")
    assert line.troubles == []


async def test_leader_under_a_scope_in_the_midst() -> None:
    """A leader whose scope is cancelled while it serves returns its result, and the next checkpoint is cancelled."""
    line = Line()
    async with bounded(), anyio.create_task_group() as tasks:
        tasks.start_soon(line.call, 0)
        await line.clerk.begins()
        tasks.start_soon(line.call, 1)
        await line.takes(1)
        line.scopes[0].cancel()
        await turns()
        assert 0 not in line.ends
        line.clerk.let_all_go()
    assert line.ends == {0: "done 0", 1: "done 1"}
    assert line.scopes[0].cancelled_caught


@native
async def test_leader_of_others_is_cancelled() -> None:
    """A newcomer that leads while an older item is served is withdrawn, and ends after the service that it leads."""
    line = Line()
    line.start("first")
    await line.clerk.begins()
    line.start("waits")
    await line.takes("waits")
    handed_over(line)
    line.start("newcomer")  # it comes before the one that is woken
    await line.clerk.begins()
    assert line.clerk.served == ["first", "waits"]
    assert line.ends.keys() == {"first"}
    for _ in range(5):
        line.tasks["newcomer"].cancel()
        await turns()
    assert not line.tasks["newcomer"].done()
    line.start("last")
    await line.takes("last")
    line.clerk.let_all_go()
    await line.all_end()
    assert line.clerk.served == ["first", "waits", "last"]
    assert line.tasks["newcomer"].cancelled()
    assert (line.ends["waits"], line.ends["last"]) == ("done waits", "done last")
    assert line.troubles == []


# ---------------------------------------------------------------------- begun


async def begun_in_between(line: Line) -> threading.Thread:
    """Have item 1 called to lead, and begun by another loop before its caller knows; the thread of that loop."""
    handed_over(line)
    other = threading.Thread(target=anyio.run, args=(line.lane.submit, "another"))
    other.start()
    assert line.clerk._began.acquire(timeout=BOUND_S)  # this loop stands still
    assert line.clerk.batches == [[0], [1, "another"]]
    return other


async def test_begun_when_it_was_to_lead() -> None:
    """A caller that is called to lead, and finds its item begun by somebody else, waits for the end of it."""
    line = Line(batch_items=2)
    async with bounded(), anyio.create_task_group() as tasks:
        tasks.start_soon(line.call, 0)
        await line.clerk.begins()
        tasks.start_soon(line.call, 1)
        await line.takes(1)
        other = await begun_in_between(line)
        await turns(20)
        assert 1 not in line.ends
        line.clerk.let_all_go()
    assert line.ends[1] == "done 1"
    await anyio.to_thread.run_sync(other.join)


@native
@pytest.mark.parametrize("after", range(5))
async def test_begun_when_it_was_to_lead_and_cancelled(after: int) -> None:
    """The same, cancelled natively at any turn."""
    line = Line(batch_items=2)
    line.start(0)
    await line.clerk.begins()
    line.start(1)
    await line.takes(1)
    other = await begun_in_between(line)
    await turns(after)
    line.tasks[1].cancel()
    await turns(20)
    assert 1 not in line.ends
    line.clerk.let_all_go()
    await line.all_end()
    assert line.tasks[1].cancelled()
    assert line.troubles == []
    await anyio.to_thread.run_sync(other.join)


async def begun_follower(line: Line, start: Callable[[int], None]) -> None:
    """Have item 1 led by 0, item 2 served in one batch with 1 that 1 leads, and that batch begun."""
    start(0)
    await line.clerk.begins()
    for item in (1, 2):
        start(item)
        await line.takes(item)
    line.clerk.let_go()
    await line.clerk.begins()
    assert line.clerk.batches == [[0], [1, 2]]


@native
@pytest.mark.parametrize("times", [1, 2, 5])
async def test_begun_follower_natively(times: int) -> None:
    """A follower that is cancelled while its item is served waits for the end, and raises then."""
    line = Line(batch_items=2)
    await begun_follower(line, line.start)
    for _ in range(times):
        line.tasks[2].cancel()
        await turns()
        assert not line.tasks[2].done()
    line.clerk.let_all_go()
    await line.all_end()
    assert line.tasks[2].cancelled()
    assert line.ends[1] == "done 1"
    assert line.troubles == []


async def test_begun_follower_under_a_scope() -> None:
    """A follower whose scope is cancelled while it is served returns its result; the next checkpoint is cancelled."""
    line = Line(batch_items=2)
    async with bounded(), anyio.create_task_group() as tasks:
        await begun_follower(line, lambda item: tasks.start_soon(line.call, item))
        line.scopes[2].cancel()
        await turns()
        assert 2 not in line.ends
        line.clerk.let_all_go()
    assert line.ends == {0: "done 0", 1: "done 1", 2: "done 2"}
    assert line.scopes[2].cancelled_caught


@native
@pytest.mark.parametrize("order", ["scope, native", "native, scope"])
async def test_begun_follower_by_both(order: str) -> None:
    """Cancelled by its scope and natively, in either order, it raises the native one, which does not come again."""
    line = Line(batch_items=2)
    await begun_follower(line, line.start)
    for how in order.split(", "):
        if how == "scope":
            line.scopes[2].cancel()
        else:
            line.tasks[2].cancel("native")
        await turns()
        assert not line.tasks[2].done()
    line.clerk.let_all_go()
    await line.all_end()
    assert line.tasks[2].cancelled()
    assert line.ends[2].args == ("native",)


@native
async def test_begun_follower_in_an_inner_task() -> None:
    """A native task awaited inside of a scope is cancelled by it natively, with a message that looks like a scope's."""
    line, scope = Line(batch_items=2), CancelScope()

    async def outer() -> None:
        with scope:
            await line.tasks[2]

    await begun_follower(line, line.start)
    waits = asyncio.create_task(outer())
    await turns()
    scope.cancel()
    await turns()
    assert not line.tasks[2].done()
    line.clerk.let_all_go()
    await line.all_end()
    await waits
    assert line.tasks[2].cancelled()
    assert scope.cancelled_caught


@native
async def test_begun_follower_in_two_timeouts() -> None:
    """When both of two timeouts of asyncio around it are over, the outer one tells, as it does anywhere."""
    line, loop = Line(batch_items=2), asyncio.get_running_loop()
    timeouts: list[asyncio.Timeout] = []
    told: list[str] = []

    async def caller() -> None:
        line.order.append(2)
        try:
            async with asyncio.timeout(None) as outer:
                try:
                    async with asyncio.timeout(None) as inner:
                        timeouts.extend((inner, outer))
                        await line.lane.submit(2)
                except TimeoutError:
                    told.append("inner")
        except TimeoutError:
            told.append("outer")

    def start(item: int) -> None:
        if item == 2:
            line.tasks[2] = asyncio.create_task(caller())
        else:
            line.start(item)

    await begun_follower(line, start)
    for timeout in timeouts:
        timeout.reschedule(loop.time() - 1)
        await turns()
    assert told == []
    line.clerk.let_all_go()
    await line.all_end()
    assert told == ["outer"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.parametrize("backend", NATIVE[:1])  # uvloop and the factory of Python 3.13.0 do not get on
def test_eager_tasks(backend: Backend) -> None:
    """Tasks that begin before they are scheduled are served and cancelled like others."""

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        line = Line(batch_items=2)
        line.start(0)
        await line.clerk.begins()
        line.start(1, 2, 3)
        assert line.order == [0, 1, 2, 3]
        line.tasks[1].cancel()
        line.scopes[2].cancel()
        line.clerk.let_all_go()
        await line.all_end()
        assert line.clerk.served == [0, 3]
        assert line.cancelled() == {1, 2}

    run(backend, main)


@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_no_busy_loop_while_its_item_is_served(anyio_backend: Backend) -> None:
    """A begun follower whose scope is cancelled is resumed once for it, and not at every turn."""
    del anyio_backend
    line, steps = Line(batch_items=2), Steps()
    scope = CancelScope()

    async def counted() -> None:
        with scope:
            await steps.of(line.lane.submit(2))

    async with bounded(), anyio.create_task_group() as tasks:

        def start(item: int) -> None:
            if item == 2:
                line.order.append(2)
                tasks.start_soon(counted)
            else:
                tasks.start_soon(line.call, item)

        await begun_follower(line, start)
        before = steps.count
        scope.cancel()
        await turns(1000)
        assert steps.count - before <= 2
        line.clerk.let_all_go()


# ---------------------------------------------------------------------- trouble


@pytest.mark.parametrize("backend", LOOPS)
def test_no_thread_can_be_started(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no thread each caller is told, unserved, and the line works again when it does."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        line = Line(Clerk(held=False), batch_items=2)

        async def caller(item: int) -> None:
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await line.lane.submit(item)

        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            patched.setattr("trio._core._thread_cache.THREAD_CACHE._idle_workers", {})
            async with anyio.create_task_group() as tasks:
                for item in range(9):
                    tasks.start_soon(caller, item)
        assert line.clerk.served == []
        assert await line.lane.submit("now") == "done now"

    run(backend, main)


@native
async def test_who_gives_up_is_let_go_of() -> None:
    """A line that stands still does not grow by callers that give up, and does not keep their items."""
    line = Line()
    line.start("stands")
    await line.clerk.begins()
    line.start("waits")
    for number in range(100):
        line.start(number)
        await turns(3)
        line.tasks[number].cancel()
        await turns(3)
        assert line.tasks.pop(number).cancelled()
    assert len(line.lane._waiting) <= 4
    line.clerk.let_all_go()
    await line.all_end()
    assert line.clerk.served == ["stands", "waits"]


class Item:
    """Something that can be watched as it goes."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only what nothing refers to goes; circles stay."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("backend", LOOPS)
def test_a_failure_does_not_keep_its_item(backend: Backend) -> None:
    """When the error is gone the item is gone, which may be a large state: no circle waits for the collector."""

    async def main() -> weakref.ref[Item]:
        lane: Lane[Item, None] = Lane(lambda items: [ValueError("no") for _ in items])
        item = Item()
        with pytest.raises(ValueError, match="no"):
            await lane.submit(item)
        return weakref.ref(item)

    assert run(backend, main)() is None


def test_a_leading_coroutine_is_closed() -> None:
    """A leader that is closed with its loop on the way to its thread was not served, and somebody else leads."""
    line = Line(Clerk(held=False))
    leader = line.lane.submit("closed")

    async def start() -> None:
        leader.send(None)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(start())
    loop.close()
    with pytest.raises(RuntimeError, match="no running event loop"):  # anyio's scopes cannot be left without one
        leader.close()
    assert anyio.run(line.lane.submit, "next") == "done next"
    assert line.clerk.served == ["next"]


@native
async def test_a_waiting_coroutine_is_closed() -> None:
    """A waiting caller whose coroutine is closed has left the line."""
    line = Line()
    line.start(0)
    await line.clerk.begins()
    closed = line.lane.submit("closed")
    closed.send(None)
    line.start(1)
    await line.takes(1)
    closed.close()
    line.clerk.let_all_go()
    await line.all_end()
    assert line.clerk.served == [0, 1]


@native
async def test_a_begun_coroutine_is_closed() -> None:
    """A caller whose coroutine is closed while its item is served cannot wait for the end, and does not try."""
    line = Line(batch_items=2)
    line.start(0)
    await line.clerk.begins()
    line.start(1)
    await line.takes(1)
    closed = line.lane.submit("closed")
    closed.send(None)
    line.clerk.let_go()
    await line.clerk.begins()
    assert line.clerk.batches == [[0], [1, "closed"]]
    closed.close()
    line.clerk.let_all_go()
    await line.all_end()
    assert await line.lane.submit("next") == "done next"


def test_a_waiting_coroutine_is_closed_without_a_loop() -> None:
    """The same after its loop has gone; who waits on another loop goes on."""
    line = Line()
    closed: list[Coroutine[Any, Any, Any]] = []
    gone = asyncio.new_event_loop()

    async def waits() -> None:
        line.start("leads")
        await line.clerk.begins()
        closed.append(line.lane.submit("closed"))
        closed[0].send(None)

    async def goes_on() -> str:
        task = asyncio.create_task(line.lane.submit("goes on"))
        await until(lambda: len(line.lane._waiting) == 2)
        await turns()
        line.clerk.let_go()  # its leader's loop stands still
        await until(lambda: line.clerk.ended)
        closed[0].close()
        line.clerk.let_all_go()
        return await task

    gone.run_until_complete(waits())
    assert asyncio.run(asyncio.wait_for(goes_on(), BOUND_S)) == "done goes on"
    gone.run_until_complete(line.all_end())
    gone.close()
    assert line.clerk.served == ["leads", "goes on"]


def test_a_loop_that_stands_still_is_passed_by() -> None:
    """Where the one to lead is on a loop that does not turn, whoever calls next leads for all who wait."""
    line = Line()
    still = asyncio.new_event_loop()
    leader = threading.Thread(target=anyio.run, args=(line.lane.submit, "leads"))

    async def wait() -> None:
        line.start("waits")
        await line.takes("waits")

    leader.start()
    assert line.clerk._began.acquire(timeout=BOUND_S)
    still.run_until_complete(wait())
    line.clerk.let_all_go()
    leader.join(BOUND_S)
    assert line.lane._leader is None
    assert anyio.run(line.lane.submit, "comes") == "done comes"
    still.run_until_complete(line.all_end())
    still.close()
    assert line.ends == {"waits": "done waits"}
    assert line.clerk.served == ["leads", "waits", "comes"]


def test_callers_of_a_closed_loop_are_passed_over() -> None:
    """Who waited on a loop that was closed over it is not waited for: the line goes on without it."""
    line = Line()
    gone = asyncio.new_event_loop()
    leader = threading.Thread(target=anyio.run, args=(line.lane.submit, "leads"))
    waiting = [line.lane.submit(item) for item in ("gone", "gone too")]

    async def wait() -> None:
        for one in waiting:
            one.send(None)

    async def go_on() -> list[Any]:
        tasks = [asyncio.create_task(line.lane.submit(item)) for item in ("one", "two")]
        await until(lambda: len(line.lane._waiting) == 4)
        await turns()
        line.clerk.let_all_go()
        return await asyncio.gather(*tasks)

    leader.start()
    assert line.clerk._began.acquire(timeout=BOUND_S)
    gone.run_until_complete(wait())
    gone.close()
    assert asyncio.run(asyncio.wait_for(go_on(), BOUND_S)) == ["done one", "done two"]
    leader.join(BOUND_S)
    assert line.clerk.served == ["leads", "one", "two"]
    for one in waiting:
        one.close()


# ---------------------------------------------------------------------- many loops, threads and processes


def test_many_loops() -> None:
    """Loops of all kinds share a lane; some of them end in the midst, and all callers of the others are served."""
    backends: list[Backend] = [loop.values[0] for loop in (*LOOPS, *LOOPS)]
    first = Line(Clerk(held=False), batch_items=7)
    lines = [first, *(Line(first.clerk) for _ in backends[1:])]

    async def caller(number: int, which: int) -> None:
        for turn in range(30):
            await lines[number].call((number, which, turn))

    async def all_are_served(number: int) -> None:
        async with bounded(), anyio.create_task_group() as tasks:
            for which in range(5):
                tasks.start_soon(caller, number, which)

    async def ends_natively(number: int) -> None:
        for which in range(5):
            lines[number].tasks[which] = asyncio.create_task(caller(number, which))
        await until(lambda: len(lines[number].ends) >= 20)

    async def ends_by_scope(number: int) -> None:
        async with bounded(), anyio.create_task_group() as tasks:
            for which in range(5):
                tasks.start_soon(caller, number, which)
            await until(lambda: len(lines[number].ends) >= 20)
            tasks.cancel_scope.cancel()

    mains = [all_are_served, all_are_served, all_are_served, ends_natively, ends_natively, ends_by_scope]
    for line in lines:
        line.lane = first.lane
    in_threads(
        [
            partial(anyio.run, main, number, backend=backends[number][0], backend_options=backends[number][1])
            for number, main in enumerate(mains)
        ]
    )
    assert [line.wrongs(number) for number, line in enumerate(lines)] == [[]] * len(lines)
    assert all(set(line.order) <= set(first.clerk.served) for line in lines[:3])


async def test_user_threads_that_call_back() -> None:
    """User threads that take up the whole shared limiter, and five more, call back into a lane: none waits for ever."""
    line = Line(Clerk(held=False))
    shared = int(anyio.to_thread.current_default_thread_limiter().total_tokens)
    everybody = threading.Barrier(shared)

    def user(number: int) -> None:
        if number < shared:
            everybody.wait(BOUND_S)  # now there is no thread left
        anyio.from_thread.run(line.call, number)

    async with bounded(), anyio.create_task_group() as tasks:
        for number in range(shared):
            tasks.start_soon(anyio.to_thread.run_sync, user, number)
        await turns()
        for number in range(shared, 45):
            tasks.start_soon(anyio.to_thread.run_sync, user, number)
    assert shared == 40
    assert line.clerk.served == line.order
    assert sorted(line.order) == list(range(45))


FORK = """
import asyncio, os, sys, threading, warnings
import anyio
from swoosh_async import _lane
from swoosh_async._lane import Lane

warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads is forked is what is tried here
began, let_go = threading.Event(), threading.Event()
parent = os.getpid()

def serve(items):
    if os.getpid() == parent:
        began.set()
        assert let_go.wait(30)
    return [f"{item} in {os.getpid()}" for item in items]

lane = Lane(serve, batch_items=2)
results = []

async def main():
    results.extend(await asyncio.gather(*(lane.submit(item) for item in "abc")))

thread = threading.Thread(target=asyncio.run, args=(main(),))
thread.start()
assert began.wait(30)
held = len(sys.argv) > 1  # whether the fork comes while somebody holds the mutex of the line
if held:
    lane._mutex.acquire()
child = os.fork()
if child == 0:
    class Os:  # all threads find at the same time that this is another process
        def getpid(self):
            if not known.__dict__:
                known.pid = os.getpid()
                everybody.wait(20)
            return os.getpid()

    known, everybody = threading.local(), threading.Barrier(8)
    _lane.os = Os()

    async def one(item):
        return await lane.submit(item)

    def thread_of_child(item):
        assert anyio.run(one, item, backend="trio") == f"{item} in {os.getpid()}"
        ended.append(item)

    ended = []
    threads = [threading.Thread(target=thread_of_child, args=(item,)) for item in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    os._exit(0 if sorted(ended) == list(range(8)) else 1)
if held:
    lane._mutex.release()
_, status = os.waitpid(child, 0)
let_go.set()
thread.join(20)
assert not thread.is_alive()
assert results == [f"{item} in {parent}" for item in "abc"], results
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("arguments", [(), ("held",)])
def test_fork_in_mid_service(arguments: tuple[str, ...]) -> None:
    """A child that is forked while the parent serves has a line of its own, for all its threads; the parent goes on."""
    assert python(FORK, *arguments) == (0, "", "")


CTRL_C = """
import os, signal, sys, threading
import anyio, trio
from swoosh_async._hop import Loop
from swoosh_async._lane import Lane

signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs us in the background may have it ignored
began, let_go = threading.Semaphore(0), threading.Semaphore(0)
ended = []

def serve(items):
    began.release()
    assert let_go.acquire(timeout=30)
    ended.extend(items)
    return items

lane = Lane(serve, batch_items=2)

async def other(item):
    await lane.submit(item)

async def let_first_go():
    while len(lane._waiting) < 2:
        await anyio.lowlevel.checkpoint()
    for _ in range(5):
        await anyio.lowlevel.checkpoint()
    let_go.release()

def interrupt(times, post):
    turned = threading.Event()

    def turn(left):
        post(lambda: turn(left - 1)) if left else turned.set()

    assert began.acquire(timeout=30)
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)
        post(lambda: turn(20))
        assert turned.wait(30)
        turned.clear()
    let_go.release()

async def main():
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other, "leads")
        assert await anyio.to_thread.run_sync(began.acquire)
        tasks.start_soon(other, "leads next")
        while not lane._waiting:
            await anyio.lowlevel.checkpoint()
        threading.Thread(target=interrupt, args=(int(sys.argv[2]), Loop().post)).start()
        tasks.start_soon(let_first_go)
        try:
            await lane.submit("begun")  # by the main task, which is the one that Ctrl-C comes to
        except BaseException as error:
            assert "begun" in ended, f"{error!r} while it was served"
            print(type(error).__name__)
            raise

try:
    anyio.run(main, backend=sys.argv[1])
except BaseException as error:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, KeyboardInterrupt), error
let_go.release(9)
assert anyio.run(lane.submit, "after") == "after"
"""


@pytest.mark.parametrize(
    ("loop", "times", "raised"),
    [("trio", 1, "KeyboardInterrupt"), ("trio", 3, "KeyboardInterrupt"), ("asyncio", 1, "CancelledError")],
)
def test_ctrl_c(loop: str, times: int, raised: str) -> None:
    """Ctrl-C reaches a caller whose item is served after it has been, and the line works afterwards."""
    assert python(CTRL_C, loop, times) == (0, f"{raised}\n", "")


CTRL_C_ANYWHERE = """
import linecache, sys, threading
import anyio
import anyio._backends._asyncio, anyio._backends._trio  # now, and not in the middle of what was interrupted
from swoosh_async import _hop, _lane

files = {_hop.__file__, _lane.__file__}

def at_line(number):
    "Ctrl-C at the so many-th line that the lane runs on the loop; whether there were that many, and what was wrong."
    batches, raised, lines = [], {}, 0
    lane = _lane.Lane(lambda items: batches.append(list(items)) or items, batch_items=2)

    def trace(frame, event, _):
        nonlocal lines
        code = frame.f_code.co_filename
        if code not in files or threading.current_thread() is not threading.main_thread():
            return None
        # No signal is handled between taking a lock and entering its block, nor between leaving that and letting go.
        if event == "line" and not linecache.getline(code, frame.f_lineno).strip().startswith("with self._mutex"):
            lines += 1
            if lines == number:
                raise KeyboardInterrupt
        return trace

    async def caller(item):
        try:
            await lane.submit(item)
        except BaseException:
            raised[item] = None
            raise

    async def main():
        async with anyio.create_task_group() as tasks:
            for item in range(5):
                tasks.start_soon(caller, item)

    async def after():
        with anyio.fail_after(20):
            assert await lane.submit("after") == "after"

    sys.settrace(trace)
    try:
        anyio.run(main, backend=sys.argv[1])
    except BaseException:
        pass
    finally:
        sys.settrace(None)
    before = [item for batch in batches for item in batch]
    anyio.run(after, backend="trio")
    served = [item for batch in batches for item in batch]
    assert len(set(served)) == len(served), (number, "served twice")
    assert not set(raised) & set(served) - set(before), (number, "served after its caller had gone")
    return lines >= number

number = 1
while at_line(number):
    number += 1
print(number > 100)
"""


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_ctrl_c_anywhere(loop: str) -> None:
    """Wherever Ctrl-C comes in the lane's own code, nobody is left waiting, and nothing is done that was given up."""
    code, out, _ = python(CTRL_C_ANYWHERE, loop)
    assert (code, out) == (0, "True\n")


# ---------------------------------------------------------------------- fairness and cost


@pytest.mark.parametrize("batch_items", [1, 16, 1000])
async def test_nobody_is_woken_for_nothing(batch_items: int) -> None:
    """Five hundred callers at once cost a number of wake-ups in proportion to their number, not to its square."""
    line, steps = Line(Clerk(held=False), batch_items=batch_items), Steps()

    async def caller(number: int) -> None:
        line.order.append(number)
        await steps.of(line.lane.submit(number))

    async with bounded(), anyio.create_task_group() as tasks:
        for number in range(500):
            tasks.start_soon(caller, number)
    assert line.clerk.served == line.order
    assert steps.count <= 8 * 500


async def test_only_those_are_woken_whom_it_concerns() -> None:
    """A hand-over wakes one of those who wait, and the end of a batch wakes nobody who came while it was served."""
    line = Line(batch_items=100)
    steps = {item: Steps() for item in range(21)}

    async def caller(item: int) -> None:
        line.order.append(item)
        await steps[item].of(line.lane.submit(item))

    async with bounded(), anyio.create_task_group() as tasks:
        for items in (range(1), range(1, 11), range(11, 21)):
            for item in items:
                tasks.start_soon(caller, item)
                await line.takes(item)
            if items.start:  # one batch waits, and the one before it ends
                before = {item: steps[item].count for item in items}
                line.clerk.let_go()
                await line.clerk.begins()
                await turns()
                resumed = [item for item in items if steps[item].count > before[item]]
                assert resumed == [items.start]
            else:
                await line.clerk.begins()
        line.clerk.let_all_go()
    assert line.clerk.batches == [[0], list(range(1, 11)), list(range(11, 21))]


def parted(weights: list[int], items: int, weight: int) -> list[list[int]]:
    """How a line of such weights is to be cut into batches: each as long as it may be, and one item may be any."""
    batches: list[list[int]] = []
    for number, one in enumerate(weights):
        last = batches[-1] if batches else []
        if not last or len(last) == items or sum(weights[item] for item in last) + one > weight:
            batches.append([number])
        else:
            last.append(number)
    return batches


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    weights=st.lists(st.integers(0, 12), min_size=1, max_size=30),
    items=st.sampled_from([1, 3, 100]),
    weight=st.integers(1, 20),
)
@pytest.mark.parametrize("backend", LOOPS)
def test_weights(backend: Backend, weights: list[int], items: int, weight: int) -> None:
    """A batch is no heavier than it may be unless it is a single item; order is kept, and no batch is cut for less."""
    clerk = Clerk()
    lane: Lane[int, str] = Lane(clerk, batch_items=items, batch_weight=weight, weigh=lambda number: weights[number])
    order: list[int] = []

    async def caller(number: int) -> None:
        order.append(number)
        assert await lane.submit(number) == f"done {number}"

    async def main() -> None:
        weights.append(weight)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(caller, len(weights) - 1)
            await clerk.begins()  # all others wait meanwhile
            for number in range(len(weights) - 1):
                tasks.start_soon(caller, number)
                await until(lambda number=number: len(order) == number + 2)  # type: ignore[misc]
            clerk.let_all_go()
        weights.pop()

    run(backend, main)
    assert clerk.batches[1:] == parted(weights, items, weight)
    assert clerk.trouble == []


async def test_a_heavy_one_is_not_passed() -> None:
    """What is too heavy for any company is served by itself in its turn, and light ones behind it do not overtake."""
    clerk = Clerk()
    lane: Lane[int, str] = Lane(clerk, batch_items=9, batch_weight=10, weigh=lambda item: 1000 if item == 3 else 1)
    async with bounded(), anyio.create_task_group() as tasks:
        for item in range(7):
            tasks.start_soon(lane.submit, item)
            await (turns() if item else clerk.begins())
        clerk.let_all_go()
    served = [item for batch in clerk.batches for item in batch]
    assert served == list(range(7))
    assert clerk.batches[1:] == [[1, 2], [3], [4, 5, 6]]


async def test_withdrawn_ones_weigh_nothing() -> None:
    """Who has left leaves room for others."""
    clerk = Clerk()
    lane: Lane[int, str] = Lane(clerk, batch_items=9, batch_weight=10, weigh=lambda _: 5)
    scopes = [CancelScope() for _ in range(6)]

    async def caller(item: int) -> None:
        with scopes[item]:
            await lane.submit(item)

    async with bounded(), anyio.create_task_group() as tasks:
        for item in range(6):
            tasks.start_soon(caller, item)
            await (turns() if item else clerk.begins())
        for item in (1, 3):
            scopes[item].cancel()
        await turns()
        clerk.let_all_go()
    assert clerk.batches == [[0], [2, 4], [5]]


@pytest.mark.parametrize("weight", [1, 16, 1000])
async def test_nobody_is_woken_for_nothing_by_weight(weight: int) -> None:
    """The same where it is the weight that cuts the batches."""
    clerk, steps, order = Clerk(held=False), Steps(), []
    lane: Lane[int, str] = Lane(clerk, batch_items=1000, batch_weight=weight, weigh=lambda _: 1)

    async def caller(number: int) -> None:
        order.append(number)
        await steps.of(lane.submit(number))

    async with bounded(), anyio.create_task_group() as tasks:
        for number in range(500):
            tasks.start_soon(caller, number)
    assert clerk.served == order
    assert steps.count <= 8 * 500


async def test_nobody_starves() -> None:
    """One that calls seldom is served in its turn among others that call again as soon as they are served."""
    line = Line(Clerk(held=False))
    over = threading.Event()

    async def again_and_again(number: int) -> None:
        turn = 0
        while not over.is_set():
            await line.call((number, turn))
            turn += 1

    async with bounded(), anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(again_and_again, number)
        for seldom in range(5):
            await turns(50)
            before = len(line.clerk.served)
            await line.call(seldom)
            assert line.clerk.served.index(seldom) - before <= 51
        over.set()
    assert line.troubles == []


async def test_nobody_starves_by_weight() -> None:
    """A heavy one is served in its turn among light ones that call again as soon as they are served."""
    clerk, over = Clerk(held=False), threading.Event()
    lane: Lane[int, str] = Lane(clerk, batch_items=100, batch_weight=20, weigh=abs)

    async def again_and_again() -> None:
        while not over.is_set():
            await lane.submit(-1)

    async with bounded(), anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(again_and_again)
        for heavy in (15, 25, 21):
            await turns(20)
            before = len(clerk.served)
            await lane.submit(heavy)
            assert clerk.served.index(heavy) - before <= 51
        over.set()
    assert all(len(batch) == 1 or sum(map(abs, batch)) <= 20 for batch in clerk.batches)
    assert clerk.trouble == []


# ---------------------------------------------------------------------- any schedule


Move = Callable[[Schedule, int], Coroutine[Any, Any, None]]
MOVES = st.tuples(
    st.sampled_from(
        [Schedule.submit, Schedule.submit, Schedule.settle, Schedule.let_go, Schedule.cancel_scope, Schedule.cancel]
    ),
    st.integers(0, 12),  # how many, or which
    st.integers(0, 6),  # how often the loop turns then
)


async def follow(moves: list[tuple[Move, int, int]], batch_items: int, *, natively: bool) -> None:
    """Make those moves, end all calls, and hold what became of them against what a lane promises."""
    async with anyio.create_task_group() as tasks:
        schedule = Schedule(batch_items, tasks, natively=natively)
        for move, number, then in moves:
            await move(schedule, number)
            await turns(then)
        await schedule.end()
    line, asked = schedule.line, schedule.asked
    served, cancelled = line.clerk.served, line.cancelled()
    assert line.troubles == []
    assert served == [item for item in line.order if item in set(served)]
    assert len(set(served)) == len(served)
    assert all(1 <= len(batch) <= batch_items for batch in line.clerk.batches)
    assert all(item in cancelled or line.ends[item] == f"done {item}" for item in line.order)
    assert all(item in served or item in cancelled for item in line.order)
    assert all(item in asked or line.scopes[item].cancel_called for item in cancelled)
    assert {item for item, task in line.tasks.items() if task.cancelled()} == asked
    assert not line.lane._waiting
    assert line.lane._leader is None


@pytest.mark.parametrize("backend", LOOPS)
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(moves=st.lists(MOVES, max_size=30), batch_items=st.sampled_from([1, 2, 3, 10]))
def test_any_schedule(backend: Backend, moves: list[tuple[Move, int, int]], batch_items: int) -> None:
    """Whatever callers come and are cancelled when: each is served once, in order, before it returns, or never."""
    run(backend, lambda: follow(moves, batch_items, natively=backend[0] == "asyncio"))


@pytest.mark.slow
@pytest.mark.parametrize("batch_items", [1, 2, 20])
def test_storm(batch_items: int) -> None:
    """Three loops of all kinds at once, for some time, with calls that are cancelled at random."""
    clerk = Clerk(held=False, outcome=dawdling)
    lane: Lane[Any, Any] = Lane(clerk, batch_items=batch_items)
    backends: list[Backend] = [loop.values[0] for loop in LOOPS]
    storms = [Storm(number, lane, clerk, natively=backends[number][0] == "asyncio") for number in range(3)]
    in_threads(
        [
            partial(anyio.run, storm.rage, STORM_S, backend=backend[0], backend_options=backend[1])
            for storm, backend in zip(storms, backends, strict=True)
        ]
    )
    for storm in storms:
        assert storm.wrongs + storm.line.wrongs(storm.number) == []
        assert set(map(type, storm.line.ends.values())) > {str}
    assert lane._leader is None
    assert not lane._waiting

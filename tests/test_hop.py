"""A hop returns after its thread has ended, whatever cancels it, and as often as it may."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
import trio
import trio.lowlevel
from anyio import CancelScope, CapacityLimiter, Event
from anyio.lowlevel import checkpoint, current_token

from swoosh_async._hop import Hop, Loop, readers, running, surely
from swoosh_async._hop import until as wait_for

from ._faults import (
    BOUND_S,
    LOOPS,
    NATIVE,
    Backend,
    Held,
    Steps,
    bounded,
    happens,
    loop_factory,
    poster,
    run,
    turns,
    until,
)

pytestmark = pytest.mark.anyio
native = pytest.mark.parametrize("anyio_backend", NATIVE)


async def test_returns_what_the_call_returns() -> None:
    """The call runs once, in another thread, and its result comes back."""
    threads: list[int] = []

    def call() -> str:
        threads.append(threading.get_ident())
        return "done"

    hop = Hop(call)
    assert not hop.started
    assert await hop.run() == "done"
    assert hop.started
    assert len(threads) == 1
    assert threads != [threading.get_ident()]


@pytest.mark.parametrize("error", [OSError(5, "disk"), KeyboardInterrupt(), SystemExit(3)])
async def test_raises_what_the_call_raises(error: BaseException) -> None:
    """What the call raises is raised where it is awaited, the same object."""

    def call() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await Hop(call).run()
    assert caught.value is error


@native
@pytest.mark.parametrize("times", [1, 2, 5])
async def test_native_cancel_waits_for_the_thread(times: int) -> None:
    """Cancelled natively, once or often, it raises after its thread has ended, and not before."""
    held = Held()
    task = asyncio.create_task(Hop(held).run())
    await happens(held.began)
    for _ in range(times):
        task.cancel()
        await turns()
        assert not task.done()
    held.let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert held.ended
    assert held.calls == 1
    assert task.cancelling() == times


@native
@pytest.mark.parametrize("after", range(12))
async def test_native_cancel_before_the_thread_takes_it_back(after: int) -> None:
    """Cancelled at each turn of the loop on the way to the thread, the call never runs, or has ended."""
    held = Held()
    held.let_go.set()
    hop = Hop(held)
    task = asyncio.create_task(hop.run())
    await turns(after)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        assert hop.started == held.ended
    assert await Hop(lambda: "next").run() == "next"  # the same worker thread: what it was given before is behind it
    assert held.calls == hop.started == held.ended
    if after == 0:
        assert not hop.started


def test_taken_back_is_never_begun() -> None:
    """A thread that comes after the call was taken back does not begin it; nor is it taken back once it has begun."""
    held = Held()
    held.let_go.set()
    hop = Hop(held)
    assert hop._abandon()
    with pytest.raises(RuntimeError, match="taken back"):
        hop._work()
    assert not hop.started
    assert held.calls == 0

    begun = Hop(held)
    begun._work()
    assert not begun._abandon()


async def test_scope_waits_for_the_next_checkpoint() -> None:
    """Under a cancelled scope it returns its result when the thread has ended, and the next checkpoint is cancelled."""
    held = Held()
    reached: list[str] = []

    async def caller(scope: CancelScope) -> None:
        with scope:
            reached.append(await Hop(held).run())
            await checkpoint()
            reached.append("went on")

    scope = CancelScope()
    async with bounded(), anyio.create_task_group() as tasks:
        tasks.start_soon(caller, scope)
        await happens(held.began)
        scope.cancel()
        await turns()
        assert reached == []
        held.let_go.set()
    assert reached == ["done"]
    assert scope.cancelled_caught
    assert held.ended


async def test_cancelled_scope_from_the_start_still_runs() -> None:
    """Begun inside a scope that is cancelled already, it runs: who calls checks for that before, as a lane does."""
    with CancelScope() as scope:
        scope.cancel()
        assert await Hop(lambda: "done").run() == "done"


async def absorbed_without_a_shield(held: Held) -> None:
    """How not to wait: it catches cancellations, and never leaves the scope that sends them."""
    event, post = Event(), poster()

    def work() -> None:
        held()
        post(event.set)

    threading.Thread(target=work).start()
    while not event.is_set():
        try:
            await event.wait()
        except asyncio.CancelledError:
            continue


async def hopped(held: Held) -> None:
    """The same call as a hop."""
    await Hop(held).run()


async def resumed_under_a_scope(call: Callable[[Held], Coroutine[Any, Any, None]]) -> int:
    """How often a task with such a call is resumed in the 1,000 turns of the loop after its scope was cancelled."""
    held, steps, scope = Held(), Steps(), CancelScope()

    async def caller() -> None:
        with scope:
            await steps.of(call(held))

    async with bounded(), anyio.create_task_group() as tasks:
        tasks.start_soon(caller)
        await happens(held.began)
        before = steps.count
        scope.cancel()
        await turns(1000)
        resumed = steps.count - before
        held.let_go.set()
    return resumed


async def test_no_busy_loop_under_a_scope() -> None:
    """While a cancelled scope waits for the thread the task is not resumed."""
    assert await resumed_under_a_scope(hopped) <= 1


@native
async def test_busy_loop_of_the_naive_way() -> None:
    """The way that only catches the cancellation is resumed at every turn: so the test above would find it."""
    assert await resumed_under_a_scope(absorbed_without_a_shield) > 500


@native
async def test_no_busy_loop_under_native_cancellations() -> None:
    """Each native cancellation resumes the task once, also inside of a scope that is cancelled as well."""
    held, steps, scope = Held(), Steps(), CancelScope()

    async def caller() -> None:
        with scope:
            await steps.of(Hop(held).run())

    task = asyncio.create_task(caller())
    await happens(held.began)
    before = steps.count
    scope.cancel()
    for _ in range(100):
        task.cancel()
        await turns(10)
    assert steps.count - before <= 101
    held.let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task


@native
async def test_timeout_of_asyncio() -> None:
    """asyncio.timeout gives TimeoutError, after the thread has ended."""
    held, loop = Held(), asyncio.get_running_loop()
    held.let_go.set()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as timeout:
            await Hop(lambda: fire(loop, lambda: timeout.reschedule(loop.time() - 1), held)).run()
    assert held.ended


@native
async def test_wait_for_of_asyncio() -> None:
    """asyncio.wait_for gives TimeoutError, after the thread has ended."""
    held, loop = Held(), asyncio.get_running_loop()
    loop.call_later(0.05, lambda: loop.call_soon(held.let_go.set))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Hop(held).run(), 0.02)
    assert held.ended


@native
async def test_failing_sibling() -> None:
    """A sibling that fails in an asyncio.TaskGroup cancels it, and the group ends after the thread has."""
    held, failing = Held(), asyncio.Event()
    held.let_go.set()
    loop = asyncio.get_running_loop()

    async def sibling() -> None:
        await failing.wait()
        raise OSError

    hops: list[asyncio.Task[Any]] = []

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            hops.append(tasks.create_task(Hop(lambda: fire(loop, failing.set, held)).run()))
            tasks.create_task(sibling())

    with pytest.raises(ExceptionGroup):
        await group()
    assert held.ended
    assert hops[0].cancelled()


def fire(loop: asyncio.AbstractEventLoop, deed: Callable[[], object], then: Callable[[], Any]) -> Any:
    """In a worker thread: have the loop do something, let it turn, and only then go on."""
    turned = threading.Event()

    def turn(left: int) -> None:
        if left:
            loop.call_soon(turn, left - 1)
        else:
            turned.set()

    loop.call_soon_threadsafe(deed)
    loop.call_soon_threadsafe(turn, 10)
    assert turned.wait(BOUND_S)
    return then()


@pytest.mark.parametrize("backend", NATIVE)
def test_loop_shutdown(backend: Backend) -> None:
    """A hop that is known to have begun holds up the end of its loop."""
    held = Held()

    async def main() -> asyncio.Task[Any]:
        task = asyncio.create_task(Hop(held).run())
        await happens(held.began)
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: loop.call_soon(lambda: loop.call_soon(held.let_go.set)))
        return task

    with asyncio.Runner(loop_factory=loop_factory(backend)) as runner:
        task = runner.run(main())
    assert held.ended
    assert task.cancelled()


@pytest.mark.parametrize("backend", LOOPS)
def test_no_thread_can_be_started(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no thread, the error goes to the caller, and the next hop works once there is one."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        held = Held()
        held.let_go.set()
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            patched.setattr("trio._core._thread_cache.THREAD_CACHE._idle_workers", {})
            for limiter in (None, readers()):
                hop = Hop(held)
                with pytest.raises(RuntimeError, match="can't start new thread"):
                    await hop.run(limiter)
                assert not hop.started
        assert readers().borrowed_tokens == 0
        assert await Hop(held).run(readers()) == "done"

    run(backend, main)


async def test_scope_is_obeyed_while_there_is_no_turn() -> None:
    """Who waits for the limiter is let go by a scope at once, and its call never runs."""
    limiter, first, second = CapacityLimiter(1), Held(), Held()
    async with bounded(), anyio.create_task_group() as tasks:
        tasks.start_soon(Hop(first).run, limiter)
        await happens(first.began)
        with anyio.move_on_after(0.01) as scope:
            await Hop(second).run(limiter)
        assert scope.cancelled_caught
        first.let_go.set()
    assert second.calls == 0
    assert limiter.borrowed_tokens == 0


@native
async def test_native_cancel_while_there_is_no_turn() -> None:
    """Natively as well; and a cancelled call keeps its turn until its thread has ended."""
    limiter, first, second = CapacityLimiter(1), Held(), Held()
    second.let_go.set()
    tasks = [asyncio.create_task(Hop(first).run(limiter))]
    await happens(first.began)
    tasks.append(asyncio.create_task(Hop(second).run(limiter)))
    tasks.append(asyncio.create_task(Hop(second).run(limiter)))
    await turns()
    tasks[0].cancel()
    tasks[1].cancel()
    await turns()
    assert [task.done() for task in tasks] == [False, True, False]
    assert second.calls == 0
    assert limiter.borrowed_tokens == 1
    first.let_go.set()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [True, True, False]
    assert second.calls == 1
    assert limiter.borrowed_tokens == 0


async def test_readers_are_bounded_and_writers_are_not() -> None:
    """At most eight reads run at a time on a loop, and a write runs beside them."""
    reads = [Held() for _ in range(9)]
    async with bounded(), anyio.create_task_group() as tasks:
        for held in reads:
            tasks.start_soon(Hop(held).run, readers())
        await until(lambda: sum(held.calls for held in reads) >= 8)
        assert await Hop(lambda: "written").run() == "written"
        assert sum(held.calls for held in reads) == 8
        for held in reads:
            held.let_go.set()
    assert sum(held.calls for held in reads) == 9


@native
async def test_cancelled_at_the_very_end() -> None:
    """A cancellation that comes in the turn in which the thread reports its end neither hangs nor is lost."""
    for after in range(6):
        held = Held()
        task = asyncio.create_task(Hop(held).run())
        await happens(held.began)
        held.let_go.set()
        await until(lambda held=held: held.ended)  # type: ignore[misc]
        await turns(after)
        cancelled = task.cancel()
        done, _ = await asyncio.wait([task], timeout=BOUND_S)
        assert done == {task}
        assert task.cancelled() or not cancelled


@native
async def test_until_returns_the_first_interruption() -> None:
    """Who waits in spite of cancellations gets the first of them, to raise it afterwards, or None."""
    event = Event()

    async def caller() -> BaseException | None:
        with CancelScope(shield=True):
            return await wait_for(event)

    task = asyncio.create_task(caller())
    await turns()
    for message in ("first", "second", "third"):
        task.cancel(message)
        await turns()
    event.set()
    first = await task
    assert isinstance(first, asyncio.CancelledError)
    assert first.args == ("first",)
    assert await wait_for(event) is None


def test_closed_before_the_thread_is_taken_back() -> None:
    """The coroutine of a loop that was closed over it can be closed; a call that had not begun then never begins."""
    held = Held()
    held.let_go.set()
    hop = Hop(held)
    loop = asyncio.new_event_loop()
    coroutine = hop.run()

    async def start() -> None:
        coroutine.send(None)  # up to the first checkpoint of to_thread, before there is a thread

    loop.run_until_complete(start())
    loop.close()
    with pytest.raises(RuntimeError, match="no running event loop"):  # anyio's scopes cannot be left without one
        coroutine.close()
    with pytest.raises(RuntimeError, match="taken back"):
        hop._work()
    assert held.calls == 0


async def test_a_loop_knows_the_cancellation_of_its_scope(anyio_backend_name: str) -> None:
    """What a scope around the caller sends comes again; what is sent natively, or by Ctrl-C, does not."""
    loop = Loop()
    caught: list[BaseException] = []
    known: list[bool] = []
    with CancelScope() as scope:
        scope.cancel()
        try:
            await checkpoint()
        except anyio.get_cancelled_exc_class() as error:
            caught.append(error)
            known.append(loop.comes_again(error))
            raise
    assert known == [True]
    assert loop.comes_again(caught[0]) == (anyio_backend_name == "trio")  # no cancelled scope is around us any more
    assert not loop.comes_again(KeyboardInterrupt())
    assert not loop.comes_again(OSError())
    if anyio_backend_name == "asyncio":
        assert not loop.comes_again(asyncio.CancelledError())


@pytest.mark.parametrize("backend", LOOPS)
def test_posting_to_a_loop_that_has_ended(backend: Backend) -> None:
    """Another thread is told when the loop is no more."""

    async def main() -> Loop:
        return Loop()

    assert not run(backend, main).post(lambda: None)


# ---------------------------------------------------------------------- surely


async def test_surely_awaits_what_there_is_to_do() -> None:
    """It is done once; what is done already is not done at all."""
    deeds: list[str] = []

    async def deed() -> None:
        await checkpoint()
        deeds.append("done")

    await surely(deed, lambda: bool(deeds))
    assert deeds == ["done"]
    await surely(deed, lambda: bool(deeds))
    assert deeds == ["done"]


async def test_surely_raises_what_fails() -> None:
    """What fails by itself is not tried again."""
    tries: list[int] = []

    async def fails() -> None:
        tries.append(1)
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        await surely(fails, lambda: False)
    assert tries == [1]


async def test_surely_under_a_cancelled_scope() -> None:
    """A scope that is cancelled, before or meanwhile, waits for the next checkpoint."""
    reached: list[str] = []
    for before in (True, False):
        with CancelScope() as scope:
            if before:
                scope.cancel()

            async def deed(scope: CancelScope = scope) -> None:
                scope.cancel()
                await turns()
                reached.append("done")

            reached.clear()
            await surely(deed, lambda: bool(reached))
            reached.append("behind it")
            await checkpoint()
            reached.append("never")
        assert scope.cancelled_caught
        assert reached == ["done", "behind it"]


@native
@pytest.mark.parametrize("times", [1, 2, 5])
async def test_surely_natively(times: int) -> None:
    """Cancelled natively, however often, it is begun anew until it is done; then the first cancellation is raised."""
    tries: list[int] = []
    done = threading.Event()

    async def deed() -> None:
        tries.append(1)
        if len(tries) <= times:
            await anyio.sleep_forever()
        done.set()

    task = asyncio.create_task(surely(deed, done.is_set))
    for number in range(times):
        await until(lambda number=number: len(tries) == number + 1)  # type: ignore[misc]
        assert not task.done()
        task.cancel(f"number {number}")
    with pytest.raises(asyncio.CancelledError, match="number 0"):
        await task
    assert len(tries) == times + 1
    assert task.cancelled()


@native
async def test_surely_in_time() -> None:
    """asyncio.timeout gives TimeoutError, once it is done."""
    tries: list[int] = []

    async def deed() -> None:
        tries.append(1)
        if len(tries) == 1:
            await anyio.sleep_forever()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await surely(deed, lambda: len(tries) == 2)
    assert len(tries) == 2


# ---------------------------------------------------------------------- running


async def test_running() -> None:
    """It is what a loop is known by, in any task of it."""
    assert running() is Loop().native
    seen: list[object] = []

    async def other() -> None:
        seen.append(running())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
    assert seen == [running()]


def test_running_nowhere() -> None:
    """Where no loop runs there is none."""
    with pytest.raises(Exception, match=r"(?i)async|loop"):
        running()


def test_running_differs() -> None:
    """Each loop is known by something else."""

    async def main() -> object:
        return running()

    seen = [run(loop.values[0], main) for loop in (*LOOPS, *LOOPS)]
    assert len(set(map(id, seen))) == len(seen)


@pytest.mark.parametrize("backend", NATIVE)
def test_running_as_a_guest(backend: Backend) -> None:
    """Trio as a guest of asyncio is known by itself, and its host, between its turns, by itself."""
    seen: dict[str, object] = {}

    async def guest() -> str:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            seen["guest"] = running()
            seen["guest's token"] = current_token().native_token
        seen["hopped"] = await Hop(lambda: "hopped").run()
        return "guest's result"

    async def host() -> str:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Any] = loop.create_future()
        trio.lowlevel.start_guest_run(
            guest,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=ended.set_result,
            host_uses_signal_set_wakeup_fd=True,
        )
        while not ended.done():
            seen["host"] = running()
            await asyncio.sleep(0)
        seen["host's loop"] = loop
        return ended.result().unwrap()

    with asyncio.Runner(loop_factory=loop_factory(backend)) as runner:
        assert runner.run(asyncio.wait_for(host(), BOUND_S)) == "guest's result"
    assert seen["host"] is seen["host's loop"]
    assert seen["guest"] is seen["guest's token"]
    assert seen["guest"] is not seen["host"]
    assert seen["hopped"] == "hopped"

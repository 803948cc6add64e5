"""Cancelling a verb at each of its phases and at each of its checkpoints, in every way that there is.

A *phase* is a call of the backend, or of the disk under it, in a worker thread; the thread is held there until the loop
has turned often enough for whoever returns too early to have returned. A *checkpoint* is where the verb's own task
waits: it is cancelled as it begins to wait, or when it has been woken and has not gone on yet.

What a verb is, and what is to be there after it, this file does not know: `_verbs.py` does.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Protocol

import anyio
import trio
from anyio import CancelScope, to_thread
from anyio.lowlevel import checkpoint

from swoosh_async import ClosedError

from .._faults import BOUND_S, KEEPS_NATIVE, Backend, bounded, poster, run, turns
from ..test_cancellation import BY_SCOPE, NATIVELY, WAYS, Way
from ._phases import Phases, World, at_work, counted_drafts
from ._points import Point

__all__ = ["ENDING", "Cancelled", "attempt", "ways_of"]

# ---------------------------------------------------------------------- in which way


async def _deadline(call: Awaitable[object], point: Any) -> str:
    """By the deadline of a scope around it, as of `move_on_after`."""
    returned = []
    with CancelScope() as scope:
        begun = anyio.current_time()
        point.deeds = [lambda: setattr(scope, "deadline", begun)]
        returned.append(await point.watch(call))
        await anyio.sleep(0.001)
        await checkpoint()
    assert scope.cancelled_caught
    return "returned" if returned else "cancelled"


def _both(*, first: str) -> Way:
    """By a scope around it and natively, one after the other."""

    async def way(call: Awaitable[object], point: Any) -> str:
        asked: list[bool] = []

        async def main() -> None:
            with CancelScope() as scope:
                deeds = [scope.cancel, lambda: asked.append(task.cancel())]
                point.deeds = deeds if first == "scope" else deeds[::-1]
                await point.watch(call)
                await checkpoint()

        task = asyncio.ensure_future(main())
        await asyncio.wait([task])
        swallowed = any(asked) and not task.cancelled() and KEEPS_NATIVE
        if not task.cancelled():
            task.result()
        return "swallowed" if swallowed else "cancelled"

    return way


ENDING = ("Ctrl-C", "shutdown")
MIXED = {"scope, then native": _both(first="scope"), "native, then scope": _both(first="native")}
ALL_WAYS: dict[str, Way] = WAYS | MIXED | {"deadline": _deadline}


def ways_of(backend: Backend, *, held: bool) -> list[str]:
    """The ways that there are on that loop; by `wait_for` only where the thread waits for its clock."""
    if backend[0] == "trio":
        return [*BY_SCOPE, "trio scope", "deadline", *ENDING]
    return [*(way for way in NATIVELY if held or way != "wait_for"), *MIXED, *BY_SCOPE, "deadline", *ENDING]


# ---------------------------------------------------------------------- one attempt

_LONG_ENOUGH_S = 1.0
"""How long a next call may take before a thread that is held still is let go, in seconds."""


class Cancelled(Protocol):
    """What is cancelled; each method's outcome is of the verb's own kind."""

    name: str
    alone: bool
    """Whether a thread that is at work when it has returned is its own."""

    def opened(self, world: World) -> Any:
        """A context with what the call is made on."""
        ...

    def call(self, subject: Any, world: World) -> Coroutine[Any, Any, Any]:
        """The call."""
        ...

    async def there(self, world: World) -> Any:
        """What is there, as another process sees it."""
        ...

    def judge(self, there: Any, world: World) -> Iterator[str]:
        """What is wrong about that, after the call."""
        ...

    async def next(self, subject: Any, world: World) -> None:
        """A next call."""
        ...

    def after_next(self, there: Any) -> Any:
        """What is to be there after that."""
        ...

    async def reopened(self, world: World) -> None:
        """Whatever the call may have held can be had again."""
        ...


def attempt(verb: Cancelled, backend: Backend, way: str, at: Callable[[Phases], Point], world: World) -> bool:
    """Make one call and cancel it; whether it came to that. What is wrong then stands in the world."""
    with counted_drafts(world.phases):
        if way == "Ctrl-C":
            _interrupted(verb, backend, at, world)
        elif way == "shutdown":
            _shut_down(verb, backend, at, world)
        else:
            run(backend, lambda: _cancelled(verb, way, at, world))
    world.point.let_go()
    world.phases.hook = lambda _: None
    world.phases.wait_until_idle()
    if world.point.reached:
        run(("asyncio", {}), lambda: _afterwards(verb, way, world))
    return world.point.reached


async def _called(verb: Cancelled, subject: Any, world: World, *, alone: bool = True) -> None:
    """Call it; whether a thread is at work when it returns is asked where nobody else may be at work."""
    try:
        world.result.append(await verb.call(subject, world))
    finally:
        if alone and verb.alone and (working := at_work(world)):
            world.wrongs.append(f"it returned while its thread worked on: {working}")


async def _cancelled(verb: Cancelled, way: str, at: Callable[[Phases], Point], world: World) -> None:
    """On one loop: the call, cancelled, what is there then, and a next call."""
    async with verb.opened(world) as subject:
        point = world.point = at(world.phases)
        try:
            outcome = await ALL_WAYS[way](_called(verb, subject, world), point)  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001  it is told with all else
            world.wrongs.append(f"it raised {error!r}")
            outcome = "raised"
        asked = point.asked if way.startswith("cancelled") else point.waited
        if way in NATIVELY and asked and outcome != "cancelled":
            world.wrongs.append(f"it swallowed a native cancellation: {outcome}")
        if outcome == "swallowed":
            world.wrongs.append("it swallowed a native cancellation")
        await turns(3)  # one that was left behind would come here
        if not point.reached:
            return
        there = await verb.there(world)
        world.wrongs += verb.judge(there, world)
        async with anyio.create_task_group() as tasks:
            ended = anyio.Event()
            tasks.start_soon(_next, verb, subject, world, ended)
            with anyio.move_on_after(_LONG_ENOUGH_S):
                await ended.wait()
            point.let_go()  # one that returned while it was held may hold up the next
        if any("the next call" in wrong for wrong in world.wrongs):
            return
        await to_thread.run_sync(world.phases.wait_until_idle)
        if (found := await verb.there(world)) != verb.after_next(there):
            world.wrongs.append(f"after the next call there is {found}, not {verb.after_next(there)}")


async def _next(verb: Cancelled, subject: Any, world: World, ended: anyio.Event) -> None:
    try:
        await verb.next(subject, world)
    except Exception as error:  # noqa: BLE001
        world.wrongs.append(f"the next call raised {error!r}")
    finally:
        ended.set()


def _interrupted(verb: Cancelled, backend: Backend, at: Callable[[Phases], Point], world: World) -> None:
    """Ctrl-C in the task of the call, which is the program's own."""

    async def main() -> None:
        async with verb.opened(world) as subject:
            point = world.point = at(world.phases)
            post = poster()  # it comes while the loop is at work, not this task
            point.deeds = [lambda: post(lambda: signal.raise_signal(signal.SIGINT))]
            await point.watch(_called(verb, subject, world))
            if backend[0] == "asyncio" and point.waited:
                world.wrongs.append("it swallowed a native cancellation")
            await anyio.sleep(BOUND_S)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs us may have it ignored
    try:
        run(backend, main)
    except* KeyboardInterrupt:
        pass
    except* Exception as error:  # noqa: BLE001
        world.wrongs.append(f"it raised {error!r}")
    else:
        world.wrongs.append("it swallowed Ctrl-C")
    finally:
        signal.signal(signal.SIGINT, before)


def _shut_down(verb: Cancelled, backend: Backend, at: Callable[[Phases], Point], world: World) -> None:
    """The program's own task returns, and the loop ends, while the call and who holds what it needs are tasks of it."""
    ends: list[str] = []

    async def main() -> None:
        ready, ending = anyio.Event(), anyio.Event()
        subjects: list[Any] = []

        async def owner() -> None:
            try:
                async with verb.opened(world) as subject:
                    subjects.append(subject)
                    ready.set()
                    await anyio.sleep(BOUND_S)
            except Exception as error:  # noqa: BLE001
                world.wrongs.append(f"what it was called on raised {error!r}")

        async def caller() -> None:
            try:
                await world.point.watch(_called(verb, subjects[0], world, alone=False))  # the owner leaves meanwhile
                ends.append("returned")
            except ClosedError:  # it came behind the owner's leaving
                ends.append("closed")
            except Exception as error:  # noqa: BLE001
                world.wrongs.append(f"it raised {error!r}")
            finally:
                ending.set()

        _spawn(owner, backend)
        await ready.wait()
        world.point = at(world.phases)
        world.point.deeds = [ending.set]
        _spawn(caller, backend)
        await ending.wait()

    try:
        run(backend, main)
    except Exception as error:  # noqa: BLE001
        world.wrongs.append(f"it raised {error!r}")
    if backend[0] == "asyncio" and world.point.waited and "returned" in ends:
        world.wrongs.append("it swallowed a native cancellation")


_tasks: set[asyncio.Task[None]] = set()


def _spawn(call: Callable[[], Coroutine[Any, Any, None]], backend: Backend) -> None:
    """Start a task that the loop's end cancels."""
    if backend[0] == "trio":
        trio.lowlevel.spawn_system_task(call)
        return
    task = asyncio.create_task(call())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def _afterwards(verb: Cancelled, way: str, world: World) -> None:
    """On another loop, when all is closed: what is left over, what is there, and whether it can be had again."""
    world.wrongs += world.left_over()
    if way in ENDING:
        world.wrongs += verb.judge(await verb.there(world), world)
    try:
        async with bounded():
            await verb.reopened(world)
    except Exception as error:  # noqa: BLE001
        world.wrongs.append(f"opening it again raised {error!r}")

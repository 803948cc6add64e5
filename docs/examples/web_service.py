"""A task service on Starlette: clients submit tasks, workers claim and finish them, and no acknowledged change is lost.

What may happen is decided by plain functions, what a client sent is checked before them, and what went wrong is told
behind them.

    SERVICE_DIR=var/service uvicorn --app-dir docs/examples web_service:app
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from swoosh_async import (
    BackendError,
    FencedError,
    FileBackend,
    LimitExceededError,
    OrchestratorState,
    OutcomeUnknownError,
    PoisonedError,
    SnapshotPolicy,
    StateMachine,
    Task,
    TaskStatus,
)

T = TypeVar("T")

# ---------------------------------------------------------------------- what happens


class Submitted(msgspec.Struct, frozen=True, tag=True):
    """There is something to do."""

    task: str
    dependencies: tuple[str, ...] = ()


class Claimed(msgspec.Struct, frozen=True, tag=True):
    """A worker has begun it."""

    task: str
    worker: str


class Finished(msgspec.Struct, frozen=True, tag=True):
    """It has ended, well or not."""

    task: str
    succeeded: bool
    result: str


Event = Submitted | Claimed | Finished
Machine = StateMachine[OrchestratorState, Event]
Decide = Callable[[OrchestratorState], Iterable[Event]]


def apply(state: OrchestratorState, event: Event) -> OrchestratorState:
    """The state after an event, which has happened: nothing is refused here."""
    match event:
        case Submitted():
            task = Task(event.task, dependencies=event.dependencies)
        case Claimed():
            task = state.tasks[event.task].begun_by(event.worker)
        case Finished():
            status = TaskStatus.SUCCEEDED if event.succeeded else TaskStatus.FAILED
            task = state.tasks[event.task].ended(status, event.result)
    return state.with_tasks(task)


# ---------------------------------------------------------------------- what may happen


class RefusedError(Exception):
    """The rules do not allow it."""


class UnknownTaskError(Exception):
    """There is no such task."""


def submit(state: OrchestratorState, name: str, dependencies: tuple[str, ...]) -> Iterable[Event]:
    """A name is given once, and what a task depends on is there before it, so that no two wait for each other."""
    known = state.tasks.get(name)
    if known is not None:
        if known.dependencies != dependencies:
            raise RefusedError(f"{name} is there already, with other dependencies")
        return ()
    if unknown := [other for other in dependencies if other not in state.tasks]:
        raise RefusedError(f"{name} depends on what is not there: {', '.join(unknown)}")
    return (Submitted(name, dependencies),)


def claim(state: OrchestratorState, name: str, worker: str) -> Iterable[Event]:
    """Only a free task is assigned, and only when what it depends on has succeeded."""
    task = known_task(state, name)
    if task.status is TaskStatus.RUNNING and task.assigned_worker == worker:
        return ()
    if task.status is not TaskStatus.PENDING:
        raise RefusedError(f"{name} is {task.status}")
    if waits_for := [other for other in task.dependencies if state.tasks[other].status is not TaskStatus.SUCCEEDED]:
        raise RefusedError(f"{name} waits for {', '.join(waits_for)}")
    return (Claimed(name, worker),)


def finish(state: OrchestratorState, name: str, outcome: Outcome) -> Iterable[Event]:
    """Only who has it can finish it."""
    task = known_task(state, name)
    ended = TaskStatus.SUCCEEDED if outcome.succeeded else TaskStatus.FAILED
    if (task.status, task.result) == (ended, outcome.result):
        return ()
    if task.assigned_worker != outcome.worker:
        raise RefusedError(f"{name} is not {outcome.worker}'s")
    return (Finished(name, outcome.succeeded, outcome.result),)


def known_task(state: OrchestratorState, name: str) -> Task:
    """The task of that name."""
    try:
        return state.tasks[name]
    except KeyError:
        raise UnknownTaskError(f"there is no {name}") from None


# ---------------------------------------------------------------------- what clients send

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
MAX_BODY_BYTES = 1 << 16


class Plan(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a submission."""

    dependencies: Annotated[tuple[Name, ...], msgspec.Meta(max_length=100)] = ()


class Claimant(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a claim."""

    worker: Name


class Outcome(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a finish."""

    worker: Name
    result: Annotated[str, msgspec.Meta(max_length=10_000)] = ""
    succeeded: bool = True


class InvalidInputError(Exception):
    """What a client sent is not what is asked for."""


async def body_of(request: Request[Any], body_type: type[T]) -> T:
    """The request's body, of that type."""
    try:
        return msgspec.json.decode(await request.body(), type=body_type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(str(error)) from error


def name_of(request: Request[Any]) -> str:
    """The name in the request's path."""
    try:
        return msgspec.convert(request.path_params["name"], Name)
    except msgspec.ValidationError as error:
        raise InvalidInputError(str(error)) from error


# ---------------------------------------------------------------------- the routes


class Open(TypedDict):
    """What is open as long as the service runs."""

    machine: Machine


async def put_task(request: Request[Open]) -> Response:
    """PUT /tasks/NAME: submit a task."""
    name, plan = name_of(request), await body_of(request, Plan)
    return await changed(request, name, lambda state: submit(state, name, plan.dependencies))


async def post_claim(request: Request[Open]) -> Response:
    """POST /tasks/NAME/claim: begin a task, if it is free."""
    name, claimant = name_of(request), await body_of(request, Claimant)
    return await changed(request, name, lambda state: claim(state, name, claimant.worker))


async def post_finish(request: Request[Open]) -> Response:
    """POST /tasks/NAME/finish: tell how it ended."""
    name, outcome = name_of(request), await body_of(request, Outcome)
    return await changed(request, name, lambda state: finish(state, name, outcome))


async def get_tasks(request: Request[Open]) -> Response:
    """GET /tasks: all tasks; ?ready=1: those that can be claimed."""
    state = request.state["machine"].state
    return json(list(state.ready_tasks() if "ready" in request.query_params else state.tasks.values()))


async def changed(request: Request[Open], name: str, decide: Decide) -> Response:
    """The task as it is after a change, which is durable when this returns."""
    state = await request.state["machine"].transact(decide)
    return json(state.tasks[name])


def json(value: object) -> Response:
    """A reply that is sent only now, behind the `await` that made it true."""
    return Response(msgspec.json.encode(value), media_type="application/json")


# ---------------------------------------------------------------------- what goes wrong


def answer(status: int) -> Callable[[Request[Any], Exception], Any]:
    """A handler that tells the client what is wrong."""

    async def handler(_request: Request[Any], error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status)

    return handler


async def give_up(_request: Request[Any], error: Exception) -> Response:
    """Nobody knows what the disk holds, or another writer has taken over: end, and let the next process look."""
    signal.raise_signal(signal.SIGTERM)
    return JSONResponse({"error": str(error)}, 503)


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncGenerator[Open, None]:
    """Recover before the first request, and let go of the directory after the last."""
    machine = StateMachine(
        FileBackend(os.environ["SERVICE_DIR"]),
        apply,
        OrchestratorState(),
        Event,
        policy=SnapshotPolicy(every_events=1000, every_s=60, keep=3),
        lock_timeout_s=30,
    )
    async with machine:
        yield {"machine": machine}


app = Starlette(
    routes=[
        Route("/tasks", get_tasks),
        Route("/tasks/{name}", put_task, methods=["PUT"]),
        Route("/tasks/{name}/claim", post_claim, methods=["POST"]),
        Route("/tasks/{name}/finish", post_finish, methods=["POST"]),
    ],
    exception_handlers={
        InvalidInputError: answer(422),
        UnknownTaskError: answer(404),
        RefusedError: answer(409),
        LimitExceededError: answer(413),
        BackendError: answer(503),
        OutcomeUnknownError: give_up,
        PoisonedError: give_up,
        FencedError: give_up,
    },
    lifespan=lifespan,
    max_body_size=MAX_BODY_BYTES,
)

"""What a service does with a machine: enters it, dispatches, takes a snapshot, backs it up."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import anyio

from swoosh_async import PoisonedError, SnapshotPolicy, StateMachine

from ._subject import Found, Subject, Trial, Work
from ._subject_journal import LONG, backend

__all__ = ["MACHINE"]


def _apply(state: tuple[str, ...], event: str) -> tuple[str, ...]:
    return (*state, event)


def _machine(home: Path) -> StateMachine[tuple[str, ...], str]:
    policy = SnapshotPolicy(every_events=None, on_close=False, keep=2)
    return StateMachine(backend(home), _apply, (), str, state_type=tuple[str, ...], policy=policy)


def _dispatched(home: Path) -> None:
    """Two snapshots, and events before, between and behind them, in three segments."""

    async def main() -> None:
        async with _machine(home) as machine:
            for number in range(7):
                await machine.dispatch(f"{number}{LONG}")
                if number in (0, 3):
                    await machine.snapshot()

    anyio.run(main)


async def _look_at_machine(home: Path) -> Found:
    return [event.removesuffix(LONG) for event in await _machine(home).state_at()]


async def _dispatch_on(home: Path, found: Found) -> None:
    async with _machine(home) as machine:
        assert [event.removesuffix(LONG) for event in machine.state] == found
        await machine.dispatch("z")
        await machine.snapshot()
    assert await _look_at_machine(home) == [*found, "z"]


async def _enter(trial: Trial) -> None:
    machine = _machine(trial.home)
    with trial.armed():
        await machine.__aenter__()
    if trial.ended != "done":
        machine = _machine(trial.home)
        await machine.__aenter__()
    await machine.dispatch("new")
    await machine.__aexit__(None, None, None)


async def _dispatch(trial: Trial) -> None:
    async with _machine(trial.home) as machine:
        with trial.armed():
            await machine.dispatch("new")
        if trial.ended == "unknown":
            await trial.poisoned(lambda: machine.dispatch("new"))
        elif trial.ended == "refused":
            trial.must(len(machine.state) == 7, "the state holds what was refused")
            await machine.dispatch("new")
    async with _machine(trial.home) as machine:
        if "new" not in machine.state:
            trial.must(trial.ended == "unknown", "what was dispatched is lost")
            await machine.dispatch("new")


async def _take_snapshot(trial: Trial) -> None:
    async with _machine(trial.home) as machine:
        state = machine.state
        with trial.armed():
            await machine.snapshot()
        trial.must(machine.state == state, "the state is another")
        if trial.ended == "unknown":  # of the journal that is trimmed behind it, or of the store, which is renewed
            with suppress(PoisonedError):
                await machine.snapshot()
        else:
            await machine.snapshot()
    async with _machine(trial.home) as machine:
        trial.must(machine.state == state, "the state is another")
        await machine.snapshot()


async def _back_up(trial: Trial) -> None:
    machine = _machine(trial.home / "from")
    with trial.armed():
        await machine.backup(trial.home / "to")
    if trial.ended != "done" and not (trial.home / "to").exists():
        await machine.backup(trial.home / "to")


async def _look_at_backup(home: Path) -> Found:
    assert len(await _look_at_machine(home / "from")) == 7
    return ["whole", *await _look_at_machine(home / "to")] if (home / "to").exists() else []


async def _use_backup(home: Path, found: Found) -> None:
    for name in ("from", *(("to",) if found else ())):
        async with _machine(home / name) as machine:
            await machine.dispatch("z")
            await machine.snapshot()


def _of(work: Work, before: Found, after: Found) -> Subject:
    return Subject(_dispatched, work, _look_at_machine, _dispatch_on, before, after)


_SEVEN = list("0123456")

MACHINE: dict[str, Subject] = {
    "enter": _of(_enter, _SEVEN, [*_SEVEN, "new"]),
    "dispatch": _of(_dispatch, _SEVEN, [*_SEVEN, "new"]),
    "snapshot": _of(_take_snapshot, _SEVEN, _SEVEN),
    "back up": Subject(
        lambda home: _dispatched(home / "from"), _back_up, _look_at_backup, _use_backup, [], ["whole", *_SEVEN]
    ),
}
"""What a service does with a machine, by name."""

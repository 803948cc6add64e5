"""A state as it stood at some point, found by folding the journal from the nearest snapshot on.

It is folded by a program's own machine; without one, only where a snapshot stands there is nothing to fold.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, NoReturn, TypeVar

import anyio
import msgspec
from rich.console import Group
from rich.text import Text

from ..backends.base import Backend
from ..codec import Facts
from ..errors import SwooshError
from ..machine import StateMachine
from ..models import Cursor
from ._input import any_schema, decoded
from ._inspect import wall_time
from ._machines import machine_of, plain_state, told_of_user
from ._points import Point
from ._telling import ending_at_once
from ._terminal import printable, progress, shortened
from ._tree import Bounds, tree_of

__all__ = ["Folded", "NoMachineError", "NoPointError", "Replayer", "as_facts", "report_of", "without"]

T = TypeVar("T")


class NoMachineError(SwooshError):
    """Entries are to be folded, and nobody has said how."""


class NoPointError(SwooshError):
    """There is no such point yet."""


class Folded(msgspec.Struct, frozen=True):
    """A state, and how it was found.

    Attributes:
        cursor: Where it stands.
        state: The state, as plain data.
        entries: How many entries were folded.
        took_s: How long it took to find it, in seconds.
    """

    cursor: Cursor
    state: Any
    entries: int
    took_s: float

    @property
    def per_s(self) -> float:
        """How many entries were folded in a second."""
        return self.entries / self.took_s if self.took_s else 0.0


class Replayer:
    """Finds states.

    Args:
        backend: Where the bytes are.
        name: The program's own machine, as ``MODULE:NAME``; None where there is none.

    Raises:
        MachineError: There is no such machine.
    """

    def __init__(self, backend: Backend, name: str | None) -> None:
        self._backend = backend
        self._machine = None if name is None else machine_of(name, backend)

    def at(self, point: Point) -> Folded:
        """The state at that point; on a terminal, a bar shows how far it is.

        Raises:
            NoPointError: It lies behind the end.
            NoMachineError: Entries are to be folded, and there is no machine.
            MachineError: The machine's own functions failed.
            TruncatedError: What leads to it is kept no more.
            SwooshError: What is stored cannot be read.
        """
        last = self._backend.bounds().last
        if self._machine is None and (kept := self._kept(point, last)) is not None:
            return kept
        if point.index is not None and point.index > last:
            raise NoPointError(f"there is no index {point.index} yet, the last is {last}")
        machine = self._machine or without(self._backend)
        entries = 0
        with progress("folding") as report:

            def count(done: int, of: int) -> None:
                nonlocal entries
                entries = done
                report(done, of)

            begun = time.monotonic()
            find = partial(machine.snapshot_at, index=point.index, hlc=point.hlc, on_progress=count)
            snapshot = self._run(find)
            took_s = time.monotonic() - begun
        if snapshot.state is _NOTHING:
            raise NoMachineError(_WITHOUT)
        state = snapshot.state if self._machine is None else plain_state(self._machine, snapshot)
        return Folded(snapshot.cursor, state, entries, took_s)

    def _kept(self, point: Point, last: int) -> Folded | None:
        """What a snapshot holds, of whatever schema, that stands just there; None where none does."""
        kept = list(_kept_in(self._backend))
        index = max([last, *(facts.cursor.index for _, facts in kept)]) if point.index is None else point.index
        for name, facts in kept:
            if facts.cursor.index == index if point.hlc is None else facts.cursor.hlc == str(point.hlc):
                begun = time.monotonic()
                with self._backend.open(name) as source:
                    snapshot = decoded(source).snapshot
                return Folded(snapshot.cursor, snapshot.state, 0, time.monotonic() - begun)
        return None

    def verify(self) -> int:
        """Replay between all snapshots, and compare; returns how many entries were folded.

        Raises:
            DivergenceError: A state is not what its entries lead to.
            SwooshError: As `at`.
        """
        if self._machine is None:
            raise NoMachineError(_WITHOUT)
        with progress("folding") as report:
            return self._run(partial(self._machine.verify_replay, on_progress=report))

    def _run(self, call: Callable[[], Awaitable[T]]) -> T:
        with told_of_user("folding: apply"), ending_at_once():
            return anyio.run(call)


_NOTHING = object()
_WITHOUT = (
    "entries must be folded to find that state, by your program's own function: give --machine MODULE:NAME,"
    " a function that takes a Backend and returns your StateMachine"
)


def without(backend: Backend) -> StateMachine[Any, Any]:
    """What finds the states of which a snapshot is kept, of whatever type, and refuses the others."""

    def refuse(_state: Any, _event: Any) -> NoReturn:
        raise NoMachineError(_WITHOUT)

    newest = max((facts.schema_version for _, facts in _kept_in(backend)), default=1)
    return StateMachine(backend, refuse, _NOTHING, msgspec.Raw, state_type=Any, schema_version=newest)


def _kept_in(backend: Backend) -> Iterator[tuple[str, Facts]]:
    """The snapshots that are kept, by name, and what they say of themselves."""
    for name in backend.names():
        try:
            with backend.open(name) as source:
                yield name, any_schema.facts(source)
        except SwooshError:  # it is told when it is needed
            continue


# ---------------------------------------------------------------------- for people, and for programs


def report_of(name: str, found: Folded, bounds: Bounds) -> Group:
    """A state as a title, its facts a line each, and a tree."""
    rate = f" in {found.took_s:.3f} s, {found.per_s:,.0f} a second" if found.entries else ""
    facts = (
        ("index", str(found.cursor.index)),
        ("hlc", shortened(printable(found.cursor.hlc), bounds.chars) or "none"),
        ("wall time", wall_time(found.cursor.hlc)),
        ("entries folded", f"{found.entries:,}{rate}"),
    )
    lines = (Text.assemble((f"{fact:16}", "dim"), value) for fact, value in facts)
    return Group(Text(printable(name), "bold"), *lines, tree_of("state", found.state, bounds))


def as_facts(found: Folded) -> dict[str, Any]:
    """The same by name, the state last."""
    return {
        "index": found.cursor.index,
        "hlc": found.cursor.hlc,
        "entries": found.entries,
        "took_s": round(found.took_s, 6),
        "state": found.state,
    }

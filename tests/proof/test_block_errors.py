"""A disk that fails from some block on: what is acknowledged is there after the next mount, or an error has said so.

Each operation is tried with the fault at its first write or flush, at its second, and so on, until it meets none.
Beside it, or not, a neighbour writes a file of its own and syncs it at the weakest moment: between a rename and the
fsync of its directory, or between an append's write and its fdatasync. Then it is the neighbour who is told of an error
in the file system's log, and not we.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import count
from typing import NamedTuple

import pytest

from swoosh_async.errors import BackendError, OutcomeUnknownError

from ._blocks import KINDS, Recorder, built, own_mounts, since_flush
from ._operations import APPEND, NEWER, OLDER, OPERATIONS, READ, SAVE, Beside, BesideUnprobed, Neighbour, Operation

pytestmark = [pytest.mark.blocks, pytest.mark.slow]

Disks = Callable[[str], Recorder]

THOROUGH = 1000
"""From how many ``--states`` on nothing is left out here."""


class Case(NamedTuple):
    """What goes wrong, but for when.

    Attributes:
        call: What a neighbour calls: ``fsync``, ``syncfs``, or ``alone`` for nothing.
        what: What fails: ``write`` or ``flush``.
        count: How often, or -1 for from then on.
    """

    call: str
    what: str
    count: int


ALL = [
    Case(call, what, often) for call in ("alone", "fsync", "syncfs") for what in ("write", "flush") for often in (-1, 1)
]
SOME = [Case("alone", "write", -1), Case("fsync", "write", -1), Case("syncfs", "write", 1), Case("fsync", "flush", 1)]


class Try(NamedTuple):
    """What came of one operation with one fault.

    Attributes:
        outcome: What its caller was told: ``done``, ``unknown`` or ``refused``.
        found: What was there after the next mount.
        met: Whether the fault was met.
    """

    outcome: str
    found: str
    met: bool

    @property
    def is_true(self) -> bool:
        """Whether what is there is what its caller was told."""
        return self.found == {"done": NEWER, "refused": OLDER}.get(self.outcome, self.found)


def attempt(call: Callable[[], object]) -> str:
    """What the caller of an operation is told."""
    try:
        call()
    except OutcomeUnknownError:
        return "unknown"
    except BackendError:
        return "refused"
    return "done"


def tried(disk: Recorder, operation: Operation, beside: Beside, case: Case, *, after: int) -> Try:
    """Try an operation while the disk fails, and look what is there; then the disk is as it was.

    What was acknowledged must survive that the power is cut at once. After an error the disk is well again, and the
    file system may still write what it holds in memory: what was refused must not come of it.
    """
    home = disk.at / operation.name
    disk.mount()
    try:
        neighbour = Neighbour(disk.at, case.call)
        do, end = operation.begin(home, beside)
        neighbour.sync()
        beside.neighbour = neighbour
        before = disk.failed()
        disk.fail(case.what, after, case.count)
        outcome = attempt(do)
        met = disk.failed() > before
        disk.mark("returned")
        if outcome == "done":
            disk.fail("write", 0)
            disk.fail("flush", 0)
        else:
            disk.heal()
        beside.neighbour = lambda: None
        end()
        neighbour.close()
    finally:
        disk.unmount()
        disk.heal()
    entries = disk.take_log()
    written = kept = [entry.write for entry in entries if entry.kind == "W"]
    if outcome == "done":
        returned = next(at for at, entry in enumerate(entries) if entry.write.data == b"returned")
        flushed, _ = since_flush(entries[:returned])
        kept = [entry.write for entry in entries[:flushed] if entry.kind == "W"]
    disk.put_back(written)
    with disk.holding(kept):
        disk.mount()
        found = operation.found(home)
        again, end = operation.begin(home, None)
        again()
        end()
        assert operation.found(home) == NEWER, "it does not go on"
    return Try(outcome, found, met)


def places(*, thorough: bool) -> Iterator[int]:
    """Behind how many writes or flushes the fault comes: any number, or 0, 1, 2, 3, 5, 8, 13 and so on."""
    if thorough:
        yield from count()
    at, following = 0, 1
    while True:
        yield at
        at, following = following, max(2, at + following)


def tries(disk: Recorder, operation: Operation, beside: Beside, case: Case, after: Iterable[int]) -> Iterator[Try]:
    """Tries with the fault at each of these places, up to the first where none is met."""
    for at in after:
        made = tried(disk, operation, beside, case, after=at)
        if not made.met:
            assert made == ("done", NEWER, False)
            assert at > 0, "it wrote nothing"
            return
        yield made


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disks]:
    """A disk of each kind, on which everything is prepared; what is mounted is seen by nobody else."""
    program = built(tmp_path_factory.mktemp("recorder"), "blocks")
    made: dict[str, Recorder] = {}
    with own_mounts(), ExitStack() as stack:

        def disk(kind: str) -> Recorder:
            if kind not in made:
                recorder = stack.enter_context(Recorder(program, kind, tmp_path_factory.mktemp(kind)))
                recorder.mount()
                for operation in OPERATIONS:
                    operation.prepare(recorder.at / operation.name)
                Neighbour(recorder.at, "alone").close()
                recorder.unmount()
                recorder.keep(recorder.take_log())
                made[kind] = recorder
            return made[kind]

        yield disk


@pytest.fixture
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether this is the long run."""
    return bool(request.config.getoption("--states") >= THOROUGH)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_told_is_true(disks: Disks, kind: str, operation: Operation, *, thorough: bool) -> None:
    """Wherever the disk begins to fail: what is acknowledged is there, and what is refused is not; and then it goes on.

    At each place with each case in the long run, and else at some with some.
    """
    for case in ALL if thorough else SOME:
        found = Counter(tries(disks(kind), operation, Beside(), case, places(thorough=thorough)))
        print(f"{kind:6} {operation.name:24} {case.call:6} {case.what} {case.count:2}  {in_words(found)}")  # noqa: T201
        assert all(made.is_true for made in found), found


def in_words(found: Counter[Try]) -> str:
    """How often what was told, and what was there."""
    return ", ".join(f"{often} {made.outcome}, {made.found} there" for made, often in sorted(found.items()))


def test_without_the_probe_it_is_not(disks: Disks, *, thorough: bool) -> None:
    """Where nobody asks whether the file system still writes, what is acknowledged or read is not there afterwards."""
    false: Counter[str] = Counter()
    for operation in (SAVE, APPEND, READ):
        for kind in KINDS if thorough else ("ext4", "xfs"):
            for call in ("fsync", "syncfs"):
                case = Case(call, "write", -1)
                found = Counter(tries(disks(kind), operation, BesideUnprobed(), case, places(thorough=thorough)))
                words = in_words(found)
                print(f"{kind:6} {operation.name:24} {call:6} without the probe  {words}")  # noqa: T201
                false[operation.name] += sum(often for made, often in found.items() if not made.is_true)
    assert set(+false) == {SAVE.name, APPEND.name, READ.name}, "on this kernel each fsync tells by itself"

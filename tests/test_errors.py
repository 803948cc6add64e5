"""Every error carries its facts, travels between tasks and processes, and ends with what to do."""

from __future__ import annotations

import copy
import errno
import inspect
import os
import pickle
import re
from collections.abc import Callable

import pytest

from swoosh_async import errors
from swoosh_async.clock import ClockDriftError
from swoosh_async.errors import (
    BackendError,
    ClosedError,
    ConflictError,
    CorruptJournalError,
    CorruptSnapshotError,
    DivergenceError,
    FencedError,
    FormatVersionError,
    InvalidStateError,
    LimitExceededError,
    LockedError,
    OutcomeUnknownError,
    PoisonedError,
    SchemaVersionError,
    SnapshotNotFoundError,
    StaleSnapshotError,
    SwooshError,
    TruncatedError,
    again,
)

TREE = re.compile(r"^ {4}(?:│   |)(?:├── |└── |)(\w+Error)\b(.*)$", re.MULTILINE)

# Each error as it is raised, its attributes, and what its message says to do.
EXAMPLES: list[tuple[SwooshError, dict[str, object], str]] = [
    (SnapshotNotFoundError("/s"), {"where": "/s", "others": ()}, "save one first"),
    (SnapshotNotFoundError("/s", detail="index 3"), {"where": "/s", "others": ()}, "history() tells what there is"),
    (
        SnapshotNotFoundError("/s", others=("b", "a"), detail="index 3"),
        {"where": "/s", "others": ("b", "a")},
        "older generations exist: b, a; load one of them by name",
    ),
    (
        InvalidStateError("state.x", "an integer out of range"),
        {"path": "state.x", "reason": "an integer out of range"},
        "mend the value, or its declared type",
    ),
    (
        StaleSnapshotError("/s", index=3, stored=5),
        {"where": "/s", "index": 3, "stored": 5},
        "save with allow_rollback=True to go back on purpose",
    ),
    (ConflictError(expected=3, found=5), {"expected": 3, "found": 5}, "read what came in between and decide anew"),
    (
        DivergenceError("/j", "state.x", older=3, newer=7),
        {"where": "/j", "path": "state.x", "older": 3, "newer": 7},
        "have apply depend on nothing but its arguments, or mark its change by a new event",
    ),
    (
        TruncatedError("/j", after=3, first=7),
        {"where": "/j", "after": 3, "first": 7, "point": ""},
        "load a snapshot that is as new as that, and read on behind it",
    ),
    (
        LockedError("/s.lock"),
        {"where": "/s.lock", "pid": None, "host": None, "waited_s": 0.0},
        "wait longer with lock_timeout_s",
    ),
    (
        LockedError("/s.lock", pid=7, host="here", waited_s=1.5),
        {"where": "/s.lock", "pid": 7, "host": "here", "waited_s": 1.5},
        "stop that process, or wait longer with lock_timeout_s",
    ),
    (
        LockedError("/s.lock", pid=os.getpid(), host="here", waited_s=1.5),
        {"where": "/s.lock", "pid": os.getpid(), "host": "here", "waited_s": 1.5},
        "that is this one: close what holds it here, or wait longer with lock_timeout_s",
    ),
    (
        LockedError("/s", pid=7, host="here", forked=True),
        {"where": "/s", "pid": 7, "host": "here", "waited_s": 0.0},
        "this one is a fork of it: open one of its own here, once that has let go",
    ),
    (FencedError("/s", epoch=3, found=4), {"where": "/s", "epoch": 3, "found": 4}, "open it anew to take over"),
    (
        SchemaVersionError(found=3, supported=2),
        {"found": 3, "supported": 2, "detail": ""},
        "run the newer program that wrote it",
    ),
    (
        SchemaVersionError(found=1, supported=2),
        {"found": 1, "supported": 2, "detail": ""},
        "register the migrations from 1 to 2",
    ),
    (
        SchemaVersionError(found=1, supported=2, detail="the migration from 1 raised KeyError"),
        {"found": 1, "supported": 2, "detail": "the migration from 1 raised KeyError"},
        "mend the migrations from 1 to 2",
    ),
    (
        FormatVersionError("/s", found=2, supported=1),
        {"where": "/s", "found": 2, "supported": 1},
        "upgrade swoosh-async to read it",
    ),
    (
        LimitExceededError("/s", limit="max_file_bytes", found=9, bound=8),
        {"what": "/s", "limit": "max_file_bytes", "found": 9, "bound": 8},
        "raise max_file_bytes if this is meant",
    ),
    (
        LimitExceededError("/s", limit="max_decoded_bytes", found=None, bound=8),
        {"what": "/s", "limit": "max_decoded_bytes", "found": None, "bound": 8},
        "raise max_decoded_bytes if this is meant",
    ),
    (ClosedError("/s"), {"where": "/s"}, "open a new one"),
    (ClosedError("/s", opened=False), {"where": "/s"}, "enter it with `async with` first"),
    (ClosedError("/s", read_only=True), {"where": "/s"}, "open a new one without read_only"),
    (
        PoisonedError("/s", reason="fsync"),
        {"where": "/s", "reason": "fsync"},
        "make a new one and load what is there",
    ),
    (BackendError("fsync snapshot"), {"step": "fsync snapshot", "path": "", "errno": None}, "try again"),
    (
        BackendError("fsync snapshot", "/s", errno=errno.ENOSPC, detail="No space left on device"),
        {"step": "fsync snapshot", "path": "/s", "errno": errno.ENOSPC},
        "mend the cause and try again",
    ),
    (
        OutcomeUnknownError("fsync snapshot directory", "/s", errno=errno.EIO),
        {"step": "fsync snapshot directory", "path": "/s", "errno": errno.EIO},
        "open it anew and load what is there",
    ),
    (
        CorruptSnapshotError("/s", "cut off"),
        {"path": "/s", "reason": "cut off", "others": ()},
        "load an older generation with fallback=True",
    ),
    (
        CorruptSnapshotError("/s", "cut off", others=()),
        {"path": "/s", "reason": "cut off", "others": ()},
        "no older generation exists; restore it from a backup",
    ),
    (
        CorruptSnapshotError("/s", "cut off", others=("b", "a")),
        {"path": "/s", "reason": "cut off", "others": ("b", "a")},
        "older generations exist: b, a; restore one, or load with fallback=True",
    ),
    (
        CorruptJournalError("/j", "checksum", offset=512, index=7),
        {"path": "/j", "reason": "checksum", "offset": 512, "index": 7},
        "restore the journal from a backup",
    ),
    (
        CorruptJournalError("/j", "no such type", offset=None, index=7, todo="read it as its own type"),
        {"path": "/j", "reason": "no such type", "offset": None, "index": 7},
        "index 7: no such type; read it as its own type",
    ),
    (
        ClockDriftError(drift_s=61.5, max_drift_s=60.0),
        {"drift_s": 61.5, "max_drift_s": 60.0},
        "set the clocks, or raise max_drift_s",
    ),
]
KINDS = [example[0] for example in EXAMPLES]


def classes() -> dict[str, type[SwooshError]]:
    """The exception classes that the module defines."""
    found = inspect.getmembers(errors, inspect.isclass)
    return {name: cls for name, cls in found if issubclass(cls, SwooshError)}


@pytest.mark.parametrize(("error", "attributes", "todo"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_carries_its_facts_and_ends_with_what_to_do(
    error: SwooshError, attributes: dict[str, object], todo: str
) -> None:
    """The attributes are those that its docstring names, and the message's last words say what to do."""
    assert {name: getattr(error, name) for name in attributes} == attributes
    documented = re.findall(r"^ {4}(\w+): ", inspect.getdoc(type(error)) or "", re.MULTILINE)
    assert documented or isinstance(error, ClosedError)
    assert set(documented) <= set(attributes)
    assert str(error).endswith(todo)
    assert re.search(r"[;:,] [^;:]*$", str(error)), "what is wrong and what to do are told apart"


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, again, *(
    lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
)])  # fmt: skip
@pytest.mark.parametrize(("error", "attributes", "todo"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_travels(
    travel: Callable[[SwooshError], SwooshError], error: SwooshError, attributes: dict[str, object], todo: str
) -> None:
    """A copy, and what is pickled at one end and loaded at the other, has the same class, message and facts."""
    twin = travel(error)
    assert twin is not error
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert twin.args == error.args
    assert {name: getattr(twin, name) for name in attributes} == attributes
    assert todo in str(twin)


def test_every_class_is_tried_here() -> None:
    """No class of the package is missing from the examples, and none from the module's own list."""
    tried = {type(error) for error in KINDS}
    assert set(classes().values()) - {SwooshError} == tried - {ClockDriftError}
    assert set(errors.__all__) == set(classes()) | {"DurabilityWarning"}


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    """The docstring draws each class once, under its real parent, and says which builtin it is as well."""
    drawn = dict(TREE.findall(errors.__doc__ or ""))
    assert drawn.keys() == classes().keys()
    builtins = {"ValueError": ValueError, "OSError": OSError}
    for name, rest in drawn.items():
        also = re.search(r"\(also an? (\w+)\)", rest)
        bases = (SwooshError, builtins[also[1]]) if also else (SwooshError,)
        assert classes()[name].__bases__ == (bases if name != "SwooshError" else (Exception,))


def test_the_tree_tells_what_happened() -> None:
    """Under "it may have happened" and "it is damaged" stand those errors whose messages say so."""
    text = errors.__doc__ or ""
    may, damaged = text.index("it may have happened"), text.index("it is damaged")
    assert may < text.index("OutcomeUnknownError") < damaged
    assert damaged < text.index("CorruptSnapshotError") < text.index("CorruptJournalError")
    assert "it may have happened" in str(OutcomeUnknownError("rename snapshot"))
    assert "nothing has changed" in str(BackendError("rename snapshot"))


def test_what_is_also_a_builtin_is_caught_as_one() -> None:
    """An OSError of ours has its errno where every OSError has it, and an invalid state is a ValueError."""
    with pytest.raises(OSError, match="write snapshot /s: disk full") as caught:
        raise BackendError("write snapshot", "/s", errno=errno.ENOSPC, detail="disk full")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(ValueError, match=r"state\.x"):
        raise InvalidStateError("state.x", "bad")


def test_again_keeps_the_cause_and_drops_the_traceback() -> None:
    """A twin for another task tells the same cause, and shares no traceback, which would grow with each raise."""
    cause = OSError("the disk")
    with pytest.raises(BackendError) as caught:
        raise BackendError("write snapshot") from cause
    twin = again(caught.value)
    assert caught.value.__traceback__ is not None
    assert twin.__cause__ is cause
    assert twin.__suppress_context__
    assert twin.__traceback__ is None


def test_again_keeps_what_cannot_be_copied() -> None:
    """Somebody else's exception that cannot be copied is raised as it is."""

    class StubbornError(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(one + two)

    error = StubbornError(1, 2)
    assert again(error) is error


def test_notes_travel() -> None:
    """A note that somebody has added goes along."""
    error = ClosedError("/s")
    error.add_note("while shutting down")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["while shutting down"]


def test_subclasses_of_users_travel() -> None:
    """A user's own subclass, whatever its arguments, is copied with its attributes as well."""
    error = OwnError(3)
    twin = pickle.loads(pickle.dumps(error))
    assert (type(twin), twin.number, twin.step, str(twin)) == (OwnError, 3, "own step", str(error))


class OwnError(BackendError):
    """A third party's error."""

    def __init__(self, number: int) -> None:
        super().__init__("own step")
        self.number = number

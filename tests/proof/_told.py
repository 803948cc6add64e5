"""What a service must be told of a call that was refused: the step's name, by what the call was, and of what."""

from __future__ import annotations

import os
import re

from ._boundary import Call, without_random

__all__ = ["STEPS", "check_told"]

_TEMP = r"\S*/snapshot-RANDOM\.tmp"
_FRESH = r"\S*/journal-RANDOM\.tmp"
_SNAPSHOT = r"\S*/snap(shot)?(\.\d+-\d+)?"
_SEGMENT = r"\S*/journal\.\d+"

STEPS: dict[str, str] = {
    r"(open|create|flock|fchmod) \S*\.lock": "lock (snapshot|journal)|(fsync|probe directory of) backup",
    r"stat \S*\.lock": "lock (snapshot|journal)|probe .+",
    r"ftruncate \S*\.lock": "probe .+|fsync journal directory",
    r"fsync \S*\.lock": "fsync backup",
    rf"(create|fchmod|flock) {_TEMP}": "create temp snapshot",
    rf"stat {_TEMP}": "(create temp|stat) snapshot",
    rf"pwrite {_TEMP}": "write snapshot",
    rf"fsync {_TEMP}": "fsync snapshot",
    rf"rename {_TEMP} {_SNAPSHOT}": "rename snapshot",
    rf"link \S+ ({_SNAPSHOT}|\S+\.corrupt-RANDOM)": "link snapshot generation",
    rf"open {_SNAPSHOT}": "open snapshot|read snapshot header|fsync backup",
    rf"stat {_SNAPSHOT}": "open snapshot|read snapshot header|look for",
    rf"pread {_SNAPSHOT}": "read snapshot",
    rf"fsync {_SNAPSHOT}": "fsync (snapshot|backup)",
    rf"close {_SNAPSHOT}": "close snapshot temp file",
    rf"unlink {_SNAPSHOT}": "remove snapshot generation",
    rf"create {_FRESH}": "create (journal record|journal segment|torn batch)",
    rf"fallocate {_FRESH}": "allocate journal segment",
    rf"fsync {_FRESH}": "allocate journal segment|write (journal record|torn batch)",
    rf"fdatasync {_FRESH}": "write journal segment header",
    rf"pwrite {_FRESH}": "write (journal record|torn batch|journal segment header)",
    rf"rename {_FRESH} \S*/journal": "rename journal record",
    rf"rename {_FRESH} {_SEGMENT}": "rename journal segment",
    rf"rename {_FRESH} \S*/journal\.torn-\S+": "rename torn batch",
    r"(open|stat) \S*/journal": "open journal record|fsync backup",
    rf"fsync (\S*/journal|{_SEGMENT})": "fsync backup",
    r"pread \S*/journal": "read journal record",
    rf"(open|stat) {_SEGMENT}": "open journal segment|fsync backup",
    rf"pread {_SEGMENT}": "read journal",
    rf"pwrite {_SEGMENT}": "(write|take back from) journal",
    rf"fdatasync {_SEGMENT}": "fdatasync journal",
    r"(open|stat) \S*/journal\.torn-\S+": "open torn batch",
    r"pread \S*/journal\.torn-\S+": "read torn batch",
    # directories; of a copy's the steps are the copy's
    r"mkdir \S+": "create (snapshot directory|backup)",
    r"open (\.|home\S*)": "(create|open) snapshot directory|fsync parent of snapshot directory|.+ backup",
    r"(stat|list) (\.|home\S*)": "((create|list) snapshot|fsync parent of snapshot) directory|.+ backup",
    r"fsync (\.|home\S*)": (
        "create snapshot directory|fsync (parent of )?snapshot directory|fsync directory of .+"
        "|fsync journal directory|(create|fsync) backup"
    ),
    r"rename home/to-RANDOM\.tmp home/to": "rename backup",
}
"""For each call, what its step may be called; the first that fits counts."""


def check_told(call: Call, step: str, path: str) -> None:
    """Check that the error's step is that of the call, and that its path is of that file, or of its directory."""
    what = str(call)
    expected = next((steps for calls, steps in STEPS.items() if re.fullmatch(calls, what)), None)
    assert expected is not None, f"no step is known of {what}"
    assert re.fullmatch(expected, step), f"{what} is told as {step!r}"
    told = without_random(path)
    assert any(_is_near(told, of) for of in call.paths), f"{what} is told of {told}"


def _is_near(told: str, of: str) -> bool:
    """Whether that is the path that a call was of, or in the same directory, or one of the two is in the other."""
    return (
        told == of
        or os.path.dirname(of) in (told, os.path.dirname(told))
        or f"{told}/".startswith(f"{of}/")
        or of == "."
    )

"""Everything that a service does with a disk, by name; also where it follows upon an earlier end."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from ._boundary import KILL, Call, run_before
from ._subject import Subject, Trial, copy_tree
from ._subject_journal import JOURNAL, append_on, claim, look_at_journal
from ._subject_machine import MACHINE
from ._subject_snapshots import SNAPSHOTS, load, look_at_snapshots, save, save_on

__all__ = ["SUBJECTS"]


def _killed(subject: Subject, behind: str) -> Callable[[Path], None]:
    """Makes a directory as it is when a process at work there was killed behind the first such call."""

    def prepare(home: Path) -> None:
        came = False

        def answer(call: Call) -> int | None:
            nonlocal came
            if came:
                return KILL
            came = re.fullmatch(behind, str(call)) is not None
            return None

        with tempfile.TemporaryDirectory(dir=home.parent) as directory:
            base = Path(directory)
            (base / "home").mkdir()
            subject.prepare(base / "home")
            trial = Trial(base)
            ran = run_before(base, lambda: trial.run(subject), answer)
            assert ran.told is None, f"it came to no {behind}"
            copy_tree(base / "home", home)

    return prepare


_unsynced = _killed(SNAPSHOTS["save, pruning"], r"rename \S+ home/snap")
_half_written = _killed(SNAPSHOTS["save, pruning"], r"pwrite home/snapshot-RANDOM\.tmp")
_rotated = _killed(JOURNAL["append, rotating"], r"rename \S+ home/journal\.\d+")
_recovering = _killed(JOURNAL["claim over a torn tail"], r"pwrite home/journal\.\d+")

SUBJECTS: dict[str, Subject] = {
    **SNAPSHOTS,
    **JOURNAL,
    **MACHINE,
    "save after a kill behind the rename": Subject(
        _unsynced, save(6), look_at_snapshots, save_on, [5, 4, 3, 2], [6, 5, 4]
    ),
    "load after a kill behind the rename": Subject(
        _unsynced, load(5), look_at_snapshots, save_on, [5, 4, 3, 2], [5, 4, 3, 2]
    ),
    "save after a kill before the rename": Subject(
        _half_written, save(5), look_at_snapshots, save_on, [4, 3, 2], [5, 4, 3]
    ),
    "claim after a kill in a rotation": Subject(
        _rotated, claim, look_at_journal, append_on, list("012"), [*"012", "new"]
    ),
    "claim after a kill in a recovery": Subject(
        _recovering, claim, look_at_journal, append_on, ["1", "2"], ["1", "2", "new"]
    ),
}
"""What a service does, by name."""

"""For tests of your own: the suites that every backend must pass, and what a disk may hold after a crash.

It needs pytest, which the package itself does not.
"""

import pytest

# before they are imported, so that a test that fails shows what it has compared
_SUITES = "_journal_suite", "_journal_survival", "_journal_truncation", "_snapshot_suite", "_snapshot_survival"
for _name in ("_batches", "_blob", "_threads", *_SUITES):
    pytest.register_assert_rewrite(f"{__name__}.{_name}")

from ._crash_disk import CrashDisk
from ._crash_states import CrashState, crash_states
from ._crash_trace import Trace
from ._journal_suite import JournalBackendSuite
from ._place import Place
from ._snapshot_suite import SnapshotBackendSuite

__all__ = [
    "CrashDisk",
    "CrashState",
    "JournalBackendSuite",
    "Place",
    "SnapshotBackendSuite",
    "Trace",
    "crash_states",
]

"""swoosh_async: an orchestrator's state, made durable from inside an asyncio or trio service.

`FileSnapshotStore(path)` has `save`, `load_latest`, `load`, `history` and `prune`; `Snapshot` is what they take and
give.
"""

from .backends.base import SnapshotBackend
from .backends.file import FileBackend
from .backends.memory import MemoryBackend
from .clock import ClockDriftError, HybridLogicalClock, Timestamp
from .codec import SnapshotCodec, migration
from .errors import (
    BackendError,
    ClosedError,
    ConflictError,
    CorruptJournalError,
    CorruptSnapshotError,
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
)
from .models import Cursor, Lease, OrchestratorState, Snapshot, Task, TaskStatus, Worker
from .snapshots import FallbackWarning, FileSnapshotStore, InMemorySnapshotStore, SnapshotRef, SnapshotStore

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "ClockDriftError",
    "ClosedError",
    "ConflictError",
    "CorruptJournalError",
    "CorruptSnapshotError",
    "Cursor",
    "FallbackWarning",
    "FencedError",
    "FileBackend",
    "FileSnapshotStore",
    "FormatVersionError",
    "HybridLogicalClock",
    "InMemorySnapshotStore",
    "InvalidStateError",
    "Lease",
    "LimitExceededError",
    "LockedError",
    "MemoryBackend",
    "OrchestratorState",
    "OutcomeUnknownError",
    "PoisonedError",
    "SchemaVersionError",
    "Snapshot",
    "SnapshotBackend",
    "SnapshotCodec",
    "SnapshotNotFoundError",
    "SnapshotRef",
    "SnapshotStore",
    "StaleSnapshotError",
    "SwooshError",
    "Task",
    "TaskStatus",
    "Timestamp",
    "Worker",
    "__version__",
    "migration",
]

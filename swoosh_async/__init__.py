"""swoosh_async: an orchestrator's state, made durable from inside an asyncio or trio service.

`FileSnapshotStore(path)` has `save`, `load_latest`, `load`, `history` and `prune`; `Snapshot` is what they take and
give. `Journal(FileBackend(directory), Event)` has `append`, `append_many`, `read`, `follow` and `truncate_before`.
`StateMachine(backend, apply, initial_state, Event)` joins both: `dispatch`, `transact`, `state`, recovery by itself.
"""

from ._check import CheckReport, check
from .backends.base import Backend, JournalBackend, SnapshotBackend
from .backends.file import FileBackend
from .backends.memory import MemoryBackend
from .clock import ClockDriftError, HybridLogicalClock, Timestamp
from .codec import EventCodec, SnapshotCodec, migration
from .errors import (
    BackendError,
    ClosedError,
    ConflictError,
    CorruptJournalError,
    CorruptSnapshotError,
    DivergenceError,
    DurabilityWarning,
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
)
from .journal import Entry, Journal, Receipt
from .machine import RecoveryReport, SnapshotPolicy, StateMachine
from .models import Cursor, Lease, OrchestratorState, Snapshot, Task, TaskStatus, Worker
from .snapshots import FallbackWarning, FileSnapshotStore, InMemorySnapshotStore, SnapshotRef, SnapshotStore

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "BackendError",
    "CheckReport",
    "ClockDriftError",
    "ClosedError",
    "ConflictError",
    "CorruptJournalError",
    "CorruptSnapshotError",
    "Cursor",
    "DivergenceError",
    "DurabilityWarning",
    "Entry",
    "EventCodec",
    "FallbackWarning",
    "FencedError",
    "FileBackend",
    "FileSnapshotStore",
    "FormatVersionError",
    "HybridLogicalClock",
    "InMemorySnapshotStore",
    "InvalidStateError",
    "Journal",
    "JournalBackend",
    "Lease",
    "LimitExceededError",
    "LockedError",
    "MemoryBackend",
    "OrchestratorState",
    "OutcomeUnknownError",
    "PoisonedError",
    "Receipt",
    "RecoveryReport",
    "SchemaVersionError",
    "Snapshot",
    "SnapshotBackend",
    "SnapshotCodec",
    "SnapshotNotFoundError",
    "SnapshotPolicy",
    "SnapshotRef",
    "SnapshotStore",
    "StaleSnapshotError",
    "StateMachine",
    "SwooshError",
    "Task",
    "TaskStatus",
    "Timestamp",
    "TruncatedError",
    "Worker",
    "__version__",
    "check",
    "migration",
]

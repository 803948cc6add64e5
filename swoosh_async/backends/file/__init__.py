"""Files on a local disk: durable verbs, one writer at a time, and generations of snapshots."""

from ._backend import FileBackend
from ._disk import Disk, OsDisk
from ._generations import LOCK_TIMEOUT_S, MAX_FILE_BYTES, Generations

__all__ = ["LOCK_TIMEOUT_S", "MAX_FILE_BYTES", "Disk", "FileBackend", "Generations", "OsDisk"]

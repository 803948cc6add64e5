"""Files on a local disk: durable verbs, one writer at a time, generations of snapshots, and a journal in segments."""

from ._backend import FileBackend
from ._disk import Disk, OsDisk
from ._draft import Draft
from ._generations import LOCK_TIMEOUT_S, MAX_FILE_BYTES, Generations
from ._survey import Located, Record, SegmentFacts, Survey, TornCopy

__all__ = [
    "LOCK_TIMEOUT_S",
    "MAX_FILE_BYTES",
    "Disk",
    "Draft",
    "FileBackend",
    "Generations",
    "Located",
    "OsDisk",
    "Record",
    "SegmentFacts",
    "Survey",
    "TornCopy",
]

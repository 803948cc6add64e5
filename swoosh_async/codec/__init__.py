"""Types to canonical bytes and back: a plan per type, the envelope with its checksum, migrations, events. Pure."""

from ._encoded import EncodedSnapshot
from ._facts import Facts
from ._migrations import Migration, migration
from ._wire import DecodeHook, Hook
from .event import EventCodec, EventsDamagedError
from .snapshot import MAX_DECODED_BYTES, CodecOptions, Decoded, SnapshotCodec

__all__ = [
    "MAX_DECODED_BYTES",
    "CodecOptions",
    "DecodeHook",
    "Decoded",
    "EncodedSnapshot",
    "EventCodec",
    "EventsDamagedError",
    "Facts",
    "Hook",
    "Migration",
    "SnapshotCodec",
    "migration",
]

"""Types to canonical bytes and back: a plan per type, the envelope with its checksum, migrations. All of it is pure."""

from ._migrations import Migration, migration
from .snapshot import MAX_DECODED_BYTES, CodecOptions, Decoded, EncodedSnapshot, Facts, SnapshotCodec

__all__ = [
    "MAX_DECODED_BYTES",
    "CodecOptions",
    "Decoded",
    "EncodedSnapshot",
    "Facts",
    "Migration",
    "SnapshotCodec",
    "migration",
]

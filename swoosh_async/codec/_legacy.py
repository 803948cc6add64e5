"""Files of the Go package: an object of three keys in any order, unknown ones beside them, no checksum. Pure."""

from __future__ import annotations

import msgspec

from ..errors import CorruptSnapshotError
from ..models import Snapshot
from ._envelope import FORMAT, HEADER_BYTES, Header
from ._facts import Facts, Opened
from ._roundtrip import DECODE_ERRORS

__all__ = ["may_be_json", "open_legacy"]

_OURS = frozenset({"checksum", "format", "schema_version"})


def may_be_json(data: memoryview) -> bool:
    """Whether it begins as an object of JSON does."""
    return bytes(data[:HEADER_BYTES]).lstrip(b" \t\r\n")[:1] == b"{"


def open_legacy(data: memoryview, where: str) -> Opened:
    """A file of the Go package: an object with its three keys, and nothing that would make it one of ours.

    Raises:
        CorruptSnapshotError: It is none, or was one of ours and has been damaged.
    """
    if len(data) == 0:
        raise CorruptSnapshotError(where, "the file is empty")
    try:
        raw = msgspec.json.decode(data, type=dict[str, msgspec.Raw]) if may_be_json(data) else {}
    except DECODE_ERRORS:
        raw = {}
    if _OURS & raw.keys():
        raise CorruptSnapshotError(where, "no checksum where it was written: the file was damaged or reformatted")
    if not {"state", "last_applied_hlc", "last_applied_index"} <= raw.keys():
        raise CorruptSnapshotError(where, "not a snapshot: neither one of this package nor one of the Go package")
    try:
        cursor = Snapshot(
            state=None,
            last_applied_hlc=msgspec.json.decode(raw["last_applied_hlc"], type=str),
            last_applied_index=msgspec.json.decode(raw["last_applied_index"], type=int),
        ).cursor
    except DECODE_ERRORS as error:
        raise CorruptSnapshotError(where, "the index or the timestamp is not one") from error
    header = Header(FORMAT, cursor.hlc, cursor.index, 1, 0)
    facts = Facts(cursor, "", 1, None, "json", None, len(data))
    return Opened(header, facts, memoryview(bytes(raw["state"])))

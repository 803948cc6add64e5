"""What reads bytes, or text, that anybody may have written, to be fuzzed: only errors with a name come out.

``python -m tests.proof.fuzz TARGET SECONDS`` runs one of the targets under atheris, guided by coverage, from its seeds;
``python -m tests.proof.fuzz all 180`` each of them for its share. atheris is not needed to import this.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from swoosh_async import EventCodec, OrchestratorState, Snapshot, SnapshotCodec, Timestamp
from swoosh_async.backends.file import _frames, _record, _scan
from swoosh_async.cli import _events, _inspect, _points
from swoosh_async.cli._input import Held, decoded
from swoosh_async.codec import EventsDamagedError, _envelope
from swoosh_async.errors import (
    CorruptSnapshotError,
    FormatVersionError,
    LimitExceededError,
    SchemaVersionError,
)

__all__ = ["TARGETS", "Target"]

LARGEST_BYTES = 1 << 20
"""What anything may be decompressed to here: it stands for the bound on memory."""

TOLD = (CorruptSnapshotError, FormatVersionError, SchemaVersionError, LimitExceededError)

STATE = OrchestratorState().with_settings({"a": "1", "\u00e9": "\u20ac"})
SNAPSHOT = Snapshot(state=STATE, last_applied_hlc=str(Timestamp(1 << 60, 3, 7)), last_applied_index=300)
PLAIN = Snapshot[Any](state={"a": [1, None, 2.5, "x" * 40], "b": {"c": True}}, last_applied_index=7)
SEED = _frames.Seed(store=bytes(range(16)), mark=b"\x00mark\xff\x00\x01", base=7, epoch=3, size=4096, longest=2048)
EVENTS = EventCodec[Any](Any)

_reader = SnapshotCodec(OrchestratorState, max_decoded_bytes=LARGEST_BYTES)
_plain_reader = SnapshotCodec[Any](Any, max_decoded_bytes=LARGEST_BYTES)


class Target(msgspec.Struct):
    """Something to be fuzzed.

    Attributes:
        call: Takes any bytes, and raises nothing.
        seeds: Bytes that are right, to begin with.
    """

    call: Callable[[bytes], object]
    seeds: list[bytes]


def sealed(data: bytes) -> bytes:
    """The same with the checksum that is right for it, where it has a place for one; or else none gets behind it."""
    frame = _envelope.frame_of(data)
    if frame is None or len(data) < frame.after:
        return data
    before, after = data[: frame.digits_at], data[frame.after :]
    return before + hashlib.sha256(before + after).hexdigest().encode() + after


def snapshot(data: bytes) -> None:
    """A snapshot's file: decoded as two types, verified, and its head read; as it is, and sealed."""
    for given in (data, sealed(data)):
        for codec in (_reader, _plain_reader):
            for call in (codec.read, codec.verify, codec.facts):
                try:
                    call(Held("here", given))
                except TOLD:
                    continue
    try:
        shown = decoded(Held("here", data))
    except TOLD:
        return
    _inspect.facts_of(shown.facts, 80)


def header(data: bytes) -> None:
    """An envelope behind its checksum."""
    for wire in ("json", "msgpack"):
        found = _envelope.read_header(wire, data)  # type: ignore[arg-type]
        assert found is None or 0 <= found.state_at <= len(data)


def segment(data: bytes) -> None:
    """What stands behind a segment's header, as a journal looks for its end, and reads it."""
    whole = (_frames.segment_header(SEED) + data)[: SEED.size].ljust(SEED.size, b"\0")
    asked = 0

    def read(offset: int, size: int) -> bytes:
        nonlocal asked
        asked += size
        assert asked < 64 * SEED.size + (1 << 22), "it reads without end"
        return whole[offset : offset + size]

    frames = list(_scan.frames_from(read, SEED, _frames.SEGMENT_HEADER_BYTES, 4096))
    assert all(one.last + 1 == two.first for (one, _), (two, _) in pairwise(frames))
    asked = 0
    assert _frames.SEGMENT_HEADER_BYTES <= _scan.seek(read, SEED, SEED.size, 9) <= SEED.size
    try:
        tail = _scan.find_tail(read, SEED)
    except _scan.Damage:
        return
    assert _frames.SEGMENT_HEADER_BYTES <= tail.end <= tail.torn_end <= SEED.size


def frames(data: bytes) -> None:
    """A segment's header, and a frame's."""
    _frames.read_segment_header(data[: _frames.SECTOR])
    found = _frames.read_frame(SEED, 512, data[: _frames.ALIGN])
    assert found is None or found.count >= 1


def record(data: bytes) -> None:
    """A journal's record; as it is, and sealed."""
    for given in (data, _record._sealed(data) if data.startswith(b"{") and _is_json(data) else data):
        found = _record.read_record(given)
        if isinstance(found, _record.Record):
            assert 0 <= found.epoch < 1 << 63
            assert min(found.first, found.begins) >= 1
            assert _record.read_record(_record.record_bytes(found)) == found


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def batch(data: bytes) -> None:
    """A batch of events: its time, its parts, its events as they are, as a type, and as they are shown."""
    try:
        stamp = EVENTS.stamp(data, _frames.MAX_FRAME_COUNT)
        parts = list(EVENTS.parts(data))
    except EventsDamagedError:
        return
    for part in parts:
        for codec in (EVENTS, _texts):
            with suppress(EventsDamagedError):
                assert len(codec.events(part)) == part.count
        try:
            raws = _raws.events(part)
        except EventsDamagedError:
            continue
        for raw in raws:
            try:
                shown = _events.plain(raw)
            except ValueError:  # what `verify` says of it: a text is none
                continue
            _events.compact(shown, 40)
            _events.json_line(1, stamp, shown)
    with suppress(EventsDamagedError):
        EVENTS.beginning(data, 2)


_texts = EventCodec(str)
_raws: EventCodec[msgspec.Raw] = EventCodec(msgspec.Raw)


def text(data: bytes) -> None:
    """A timestamp, and a point in a journal as people give it on the command line."""
    given = data.decode(errors="surrogateescape")
    with suppress(ValueError):
        assert str(Timestamp.parse(given)) == given
    try:
        found = _points.point_of(given)
    except ValueError:
        return
    assert found.index is None or found.index >= 0
    _inspect.wall_time(given)


def _written(codec: SnapshotCodec[Any], given: Snapshot[Any]) -> bytes:
    return b"".join(codec.encode(given))


def _segment() -> bytes:
    data, offset, index = b"", 512, SEED.base
    for payload in (b"a" * 100, bytes(600), EVENTS.batch(Timestamp(5), [b"\xa1x"])):
        frame = _frames.frame_bytes(SEED, offset, epoch=3, first=index, count=1, payload=payload)
        data, offset, index = data + frame, offset + len(frame), index + 1
    return data


_FORMATS: list[Any] = [("json", None), ("msgpack", None), ("json", "zstd"), ("msgpack", "zstd")]
_HEAD = b'"format":1,"last_applied_hlc":"x","last_applied_index":3,"schema_version":1,"state":'
_RECORD = _record.Record(3, 41, 1, "host", 17, 4711, "0123456789abcdef" * 2)
_TIMES = ["latest", "42", "18446744073709551616", "2026-01-31T12:00:00.5Z", "1969-12-31 23:59:59+00:00"]

TARGETS: dict[str, Target] = {
    "snapshot": Target(
        snapshot,
        [_written(SnapshotCodec(OrchestratorState, format=f, compression=c), SNAPSHOT) for f, c in _FORMATS]
        + [_written(SnapshotCodec[Any](Any, format=f, compression=c), PLAIN) for f, c in _FORMATS]
        + [b'{"last_applied_index":3,"state":{"a":[1,2]},"last_applied_hlc":"7.1@n"}'],
    ),
    "header": Target(header, [b'",' + _HEAD, b"{" + _HEAD, b"\x85" + msgspec.msgpack.encode({"format": 1})[1:]]),
    "segment": Target(segment, [_segment(), _segment()[:-64], b"", bytes(700) + b"x"]),
    "frames": Target(frames, [_frames.segment_header(SEED), _frames.segment_header(replace(SEED, base=1)), _segment()]),
    "record": Target(record, [_record.record_bytes(_RECORD), msgspec.json.encode(_RECORD)]),
    "batch": Target(
        batch,
        [
            EVENTS.batch(Timestamp(9, 1, 2), [EVENTS.encode(event) for event in events])
            for events in (["x"], [{"a": [1, 2.5, None]}, b"bytes", "\u20ac"], [{1: 2}, "y" * 300], [None] * 300)
        ],
    ),
    "text": Target(text, [str(Timestamp(1, 2, 3)).encode(), *map(str.encode, _TIMES)]),
}


# ---------------------------------------------------------------------- guided by coverage


def _guided(name: str, seconds: int, corpus: str) -> None:
    """Fuzz one target in this process, which does not come back."""
    atheris: Any = importlib.import_module("atheris")
    target = TARGETS[name]
    for number, seed in enumerate(target.seeds):
        Path(corpus, f"seed{number}").write_bytes(seed)
    for module in [name for name in sys.modules if name.startswith("swoosh_async.")]:
        if hasattr(found := sys.modules[module], "__file__"):
            _instrument(atheris, found)
    bounds = ["-rss_limit_mb=2048", "-timeout=10", "-max_len=8192", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", *bounds, corpus], target.call)
    atheris.Fuzz()


def _instrument(atheris: Any, module: Any) -> None:
    """Have each function of a module tell the fuzzer which way it goes."""
    for holder in [module, *(value for value in vars(module).values() if isinstance(value, type))]:
        for value in list(vars(holder).values()):
            made_here = getattr(value, "__module__", None) == module.__name__
            if made_here and hasattr(value, "__code__"):
                value.__code__ = atheris.instrument_func(value).__code__


def main() -> int:
    """As the module says."""
    name, seconds = sys.argv[1], int(sys.argv[2])
    if name != "all":
        with tempfile.TemporaryDirectory() as corpus:
            _guided(name, seconds, corpus)
        return 0
    share = max(1, seconds // len(TARGETS))
    command = [sys.executable, "-m", "tests.proof.fuzz"]
    return max(subprocess.run([*command, name, str(share)], env=os.environ, check=False).returncode for name in TARGETS)


if __name__ == "__main__":
    sys.exit(main())

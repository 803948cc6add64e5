"""Snapshots to bytes and back.

Encoding: isolate, encode canonically, decode again and compare, add up the checksum. Decoding: the checksum over every
byte first, then the format version, then the schema version, then the state, as its declared type and strictly.

This file is pure: where the bytes come from and go to is not known here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack, cast, overload

import msgspec

from ..errors import (
    CorruptSnapshotError,
    FormatVersionError,
    InvalidStateError,
    LimitExceededError,
    SchemaVersionError,
)
from ..models import Snapshot
from . import _zstd
from ._canonical import Canonical
from ._depth import check_depth
from ._difference import differences
from ._encoded import EncodedSnapshot
from ._envelope import (
    FORMAT,
    HEADER_BYTES,
    MAX_HEADER_BYTES,
    Checksum,
    Frame,
    Head,
    Header,
    digits_of,
    frame_of,
    read_header,
)
from ._facts import Facts, Opened, Stored, facts_of, format_of
from ._legacy import may_be_json, open_legacy
from ._migrations import Migration, Migrations
from ._pieces import Pieces
from ._plan import Plan
from ._roundtrip import DECODE_ERRORS, ENCODE_ERRORS, RoundTrip, told
from ._wire import DecodeHook, Hook, Json, MessagePack, Wire, WireFormat

__all__ = ["MAX_DECODED_BYTES", "CodecOptions", "Decoded", "SnapshotCodec"]

S = TypeVar("S")

MAX_DECODED_BYTES = 4 << 30
"""The largest envelope that is decompressed, unless told otherwise."""

_PIECE_BYTES = 1 << 20
_MISMATCH = "the checksum does not match: the file was damaged, cut off or edited"
_SHRUNK = "the file became shorter while it was read"


class CodecOptions(TypedDict, total=False):
    """The keyword arguments of `SnapshotCodec`, as stores pass them on."""

    format: WireFormat
    compression: Literal["zstd"] | None
    schema_version: int
    migrations: Iterable[Migration]
    enc_hook: Hook | None
    dec_hook: DecodeHook | None
    verify: bool
    max_decoded_bytes: int


class Decoded(msgspec.Struct, Generic[S], frozen=True):
    """A snapshot, and what its bytes said of it.

    Attributes:
        snapshot: The snapshot.
        facts: What its bytes said; every byte was checked unless `facts.checksum` is "".
    """

    snapshot: Snapshot[S]
    facts: Facts


class SnapshotCodec(Generic[S]):
    """Encodes and decodes snapshots of one state type.

    Equal snapshots give equal bytes: on every run, platform and hash seed (with compression: of every run with the same
    version of zstd). What is encoded can be decoded, and comes back equal.

    Args:
        state_type: Any type that msgspec can encode and decode.
        format: The wire format that is written; all are read.
        compression: Whether what is written is compressed; both are read. Needs the extra ``[zstd]`` before Python
            3.14.
        schema_version: The version of the state's schema, ≥ 1; raise it with each change that older files do not fit.
        migrations: The steps from older schema versions, made with `migration`.
        enc_hook: As msgspec's: turns an object of a type that msgspec does not know into one that it does.
        dec_hook: As msgspec's: the way back.
        verify: Whether what is encoded is decoded again and compared before it counts as encoded.
        max_decoded_bytes: The largest envelope that is compressed or decompressed.

    Raises:
        ValueError: The format or the compression is unknown, or the migrations do not lead to the schema version.
        ModuleNotFoundError: There is no zstd on this machine, and it was asked for.
        TypeError: msgspec does not support the type.
    """

    @overload
    def __init__(self, state_type: type[S], **options: Unpack[CodecOptions]) -> None: ...

    @overload
    def __init__(self, state_type: Any, **options: Unpack[CodecOptions]) -> None: ...

    def __init__(
        self,
        state_type: Any,
        *,
        format: WireFormat = "json",  # noqa: A002  the name that users know
        compression: Literal["zstd"] | None = None,
        schema_version: int = 1,
        migrations: Iterable[Migration] = (),
        enc_hook: Hook | None = None,
        dec_hook: DecodeHook | None = None,
        verify: bool = True,
        max_decoded_bytes: int = MAX_DECODED_BYTES,
    ) -> None:
        if format not in ("json", "msgpack"):
            raise ValueError('format must be "json" or "msgpack"')
        if compression not in (None, "zstd"):
            raise ValueError('compression must be None or "zstd"')
        if compression == "zstd" and not _zstd.available():
            raise ModuleNotFoundError("compression needs zstd: pip install 'swoosh-async[zstd]'")
        self._format: WireFormat = format
        self._compressed = compression is not None
        self._migrations = Migrations(schema_version, migrations)
        self._max_decoded_bytes = max_decoded_bytes
        self._plan = Plan(state_type)
        self._wires: dict[WireFormat, Wire] = {
            "json": Json(enc_hook, dec_hook),
            "msgpack": MessagePack(enc_hook, dec_hook),
        }
        self._roundtrips = {
            name: RoundTrip(self._plan.root, Canonical(self._plan, wire), wire) for name, wire in self._wires.items()
        }
        self._pieces = Pieces(self._plan, self._wires[format], self._roundtrips[format], verify=verify)
        self._wires[format].decoder(state_type)  # raises TypeError now, not at the first load

    # ------------------------------------------------------------------ encode

    def encode(self, snapshot: Snapshot[S], *, breathe: Callable[[], object] = bool) -> EncodedSnapshot:
        """The snapshot, as it is now, as an iterable of pieces.

        A state whose type makes it a value, or a container of values, is encoded when the pieces are asked for; any
        other is encoded at once.

        Args:
            snapshot: What to encode.
            breathe: Called after each piece, in whose making the GIL may have been held for some tenths of a
                millisecond.

        Raises:
            InvalidStateError: It is no snapshot, or (here or when the pieces are asked for) would not come back as it
                is.
        """
        given: object = snapshot
        if not isinstance(given, Snapshot):  # pyright: ignore[reportUnnecessaryIsInstance]  callers may be untyped
            raise InvalidStateError("snapshot", f"must be a Snapshot, not a {type(given).__name__}")
        cursor = snapshot.cursor
        try:
            head = Head(self._format, cursor.hlc, cursor.index, self.schema_version, compressed=self._compressed)
        except UnicodeEncodeError:
            raise InvalidStateError("last_applied_hlc", "holds a lone surrogate, which UTF-8 cannot express") from None
        if max(len(head), len(head.inner)) > MAX_HEADER_BYTES:
            raise InvalidStateError("last_applied_hlc", f"longer than {MAX_HEADER_BYTES} bytes with what is around it")
        state, isolated = self._plan.isolate(snapshot.state)
        if isolated:
            return EncodedSnapshot(self, cursor, head, lambda: self._body(head, self._state(state)), breathe)
        if self._plan.deep:
            check_depth(state)
        encoded = self._pieces.whole(self._plan.root, state, "state")
        return EncodedSnapshot(self, cursor, head, lambda: self._body(head, [encoded]), breathe, eager=True)

    @property
    def schema_version(self) -> int:
        """The schema version that is written."""
        return self._migrations.schema_version

    def _state(self, state: S) -> Iterator[bytes | memoryview]:
        if self._plan.deep:
            check_depth(state)
        yield from self._pieces.of(state)

    def _body(self, head: Head, state: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        """The body of the file: the state and what closes the envelope, compressed with all before it if so."""
        envelope = chain((head.inner,), state, (head.tail,))
        return _zstd.compress(self._bounded(envelope)) if self._compressed else envelope

    def _bounded(self, envelope: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        """The envelope, unless it is larger than would be decompressed again."""
        size = 0
        for piece in envelope:
            size += len(piece)
            if size > self._max_decoded_bytes:
                bound = self._max_decoded_bytes
                raise LimitExceededError("snapshot", limit="max_decoded_bytes", found=None, bound=bound)
            yield piece

    def difference(self, one: S, other: S) -> str | None:
        """Where two states differ first, by their canonical bytes, such as ``state.tasks['a']``; None if nowhere.

        Raises:
            InvalidStateError: One of them cannot be encoded.
        """
        if self._digest(one) == self._digest(other):
            return None
        roundtrip = self._roundtrips[self._format]
        plain = [roundtrip.plain(b"".join(self._state(state))) for state in (one, other)]
        return next((difference.path for difference in differences(*plain)), "state")

    def _digest(self, state: S) -> bytes:
        digest = hashlib.sha256()
        for piece in self._state(state):
            digest.update(piece)
        return digest.digest()

    # ------------------------------------------------------------------ decode

    def decode(self, data: bytes | bytearray | memoryview, *, where: str = "snapshot") -> Decoded[S]:
        """The snapshot that a file's bytes stand for, in whatever format; verified, all of it, before it is decoded.

        A file of the Go package (three keys in any order, unknown ones beside them, no checksum) is decoded too; its
        `facts.checksum` is "".

        Args:
            data: The whole file.
            where: What it is called in messages.

        Raises:
            CorruptSnapshotError: It is not what was written, or does not decode as the state type.
            FormatVersionError: Its envelope is newer than this reader.
            SchemaVersionError: Its schema is newer than this reader's, or no migrations lead from it.
            LimitExceededError: It decompresses to more than `max_decoded_bytes`.
        """
        opened = self._open(memoryview(data), where)
        return Decoded(self._snapshot(opened, where), opened.facts)

    def read(self, stored: Stored) -> Decoded[S]:
        """As `decode`, of stored bytes."""
        return self.decode(_read_all(stored), where=stored.name)

    def verify(self, stored: Stored) -> Facts:
        """Check every byte of a stored snapshot, without decoding its state; raises as `decode` does.

        No more than a piece of it is in memory, unless it is compressed or a file of the Go package.
        """
        start = stored.read(0, HEADER_BYTES)
        frame = frame_of(start)
        if frame is None or frame.format is None:
            return self.read_verified(stored)[1]
        digits = digits_of(start, frame)
        checksum = Checksum(start[: frame.digits_at])
        piece = memoryview(bytearray(_PIECE_BYTES))
        at = frame.after
        while n := stored.read_into(piece, at):
            checksum.update(piece[:n])
            at += n
        if at < stored.size_bytes:
            raise CorruptSnapshotError(stored.name, _SHRUNK)
        if digits is None or checksum.digits() != digits:
            raise CorruptSnapshotError(stored.name, _MISMATCH)
        inner = stored.read(frame.after, MAX_HEADER_BYTES)
        return facts_of(self._header(frame, inner, stored.name), digits, frame, inner, at)

    def read_verified(self, stored: Stored) -> tuple[bytes, Facts]:
        """All bytes of a stored snapshot, as they are, every one checked; raises as `verify` does."""
        data = _read_all(stored)
        return data, self._open(memoryview(data), stored.name).facts

    def facts(self, stored: Stored) -> Facts:
        """What the head of a stored snapshot says, which is verified only where it would refuse a writer.

        Raises:
            CorruptSnapshotError: Its head is damaged.
            FormatVersionError: It is intact, and its envelope is newer than this reader.
            SchemaVersionError: It is intact, and its schema is newer than this reader's.
            LimitExceededError: It decompresses to more than `max_decoded_bytes`.
        """
        start = stored.read(0, HEADER_BYTES)
        frame = frame_of(start)
        digits = digits_of(start, frame) if frame is not None else None
        if frame is not None and digits is not None:
            rest = start[frame.after :]
            if frame.format is None or read_header(frame.format, rest) is None:
                rest = stored.read(frame.after, MAX_HEADER_BYTES)  # a long timestamp, or a zstd frame's first block
            inner = self._beginning(rest) if frame.format is None else rest
            header = read_header(frame.format or format_of(inner), inner)
            if header is not None and header.format == FORMAT and header.schema_version <= self.schema_version:
                return facts_of(header, digits, frame, inner, stored.size_bytes)
        facts = self.verify(stored)
        if facts.checksum and facts.schema_version > self.schema_version:
            self._migrations.check(facts.schema_version)
        return facts

    def _beginning(self, rest: bytes) -> bytes:
        try:
            return _zstd.beginning(memoryview(rest), HEADER_BYTES)
        except _zstd.ZstdError:
            return b""

    def _open(self, data: memoryview, where: str) -> Opened:
        """Verify all bytes, and find the state among them."""
        start = bytes(data[:HEADER_BYTES])
        frame = frame_of(start)
        if frame is None:
            return open_legacy(data, where)
        digits = digits_of(start, frame)
        checksum = Checksum(start[: frame.digits_at])
        checksum.update(data[frame.after :])
        if digits is None or checksum.digits() != digits:
            raise CorruptSnapshotError(where, _MISMATCH)
        inner = data[frame.after :]
        if frame.format is None:
            inner = memoryview(self._decompress(inner, where))
        header = self._header(frame, inner, where)
        facts = facts_of(header, digits, frame, bytes(inner[:1]), len(data))
        state = inner[header.state_at : len(inner) - (facts.format == "json")]
        return Opened(header, facts, state)

    @staticmethod
    def _header(frame: Frame, inner: bytes | memoryview, where: str) -> Header:
        """The header at the beginning of a verified envelope."""
        wire = frame.format or format_of(bytes(inner[:1]))
        header = read_header(wire, bytes(inner[:HEADER_BYTES])) or read_header(wire, bytes(inner[:MAX_HEADER_BYTES]))
        if header is None:
            raise CorruptSnapshotError(where, "the checksum matches, but the envelope is not one of this package")
        if header.format != FORMAT:
            raise FormatVersionError(where, found=header.format, supported=FORMAT)
        return header

    def _decompress(self, data: memoryview, where: str) -> bytearray:
        try:
            return _zstd.decompress(data, self._max_decoded_bytes)
        except _zstd.ZstdError as error:
            raise CorruptSnapshotError(where, "the checksum matches, but the zstd frame does not decompress") from error
        except _zstd.TooLargeError:
            raise LimitExceededError(
                where, limit="max_decoded_bytes", found=None, bound=self._max_decoded_bytes
            ) from None

    def _snapshot(self, opened: Opened, where: str) -> Snapshot[S]:
        header = opened.header
        take = self._current if header.schema_version == self.schema_version else self._migrated
        return Snapshot(
            state=cast("S", take(opened, where)),
            last_applied_hlc=header.last_applied_hlc,
            last_applied_index=header.last_applied_index,
        )

    def _current(self, opened: Opened, where: str) -> Any:
        """The state of this schema version."""
        try:
            return self._roundtrips[opened.facts.format].decode(opened.state)
        except DECODE_ERRORS as error:
            reason = f"the state does not decode as the declared type ({told(error)})"
            if opened.facts.checksum:
                reason += ", though its bytes are as they were written: if the type has changed, raise schema_version"
            raise CorruptSnapshotError(where, reason) from None  # msgspec's own message may show contents

    def _migrated(self, opened: Opened, where: str) -> Any:
        """The state of an older schema version, brought to this one."""
        found = opened.header.schema_version
        self._migrations.check(found)
        roundtrip = self._roundtrips[opened.facts.format]
        try:
            plain = roundtrip.plain(opened.state)
        except DECODE_ERRORS as error:
            raise CorruptSnapshotError(where, f"the state does not decode ({told(error)})") from None
        migrated = self._migrations.apply(plain, found)
        try:
            return roundtrip.convert(migrated)
        except (*ENCODE_ERRORS, *DECODE_ERRORS) as error:
            detail = f"what the migrations gave does not decode as the declared type ({told(error)})"
            raise SchemaVersionError(found=found, supported=self.schema_version, detail=detail) from None


def _read_all(stored: Stored) -> bytes:
    """All of it, unless its beginning tells already that it is no snapshot."""
    start = stored.read(0, HEADER_BYTES)
    if frame_of(start) is None and not may_be_json(memoryview(start)):
        raise CorruptSnapshotError(stored.name, "the file is empty" if not start else "not a snapshot")
    data = stored.read(0, stored.size_bytes)
    if len(data) < stored.size_bytes:
        raise CorruptSnapshotError(stored.name, _SHRUNK)
    return data

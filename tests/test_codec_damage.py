"""Whatever happened to a file's bytes, reading them gives what was written, or an error that says what is wrong."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swoosh_async.codec import SnapshotCodec, _zstd, migration
from swoosh_async.codec._envelope import FORMAT, HEADER_BYTES, frame_of
from swoosh_async.errors import (
    CorruptSnapshotError,
    FormatVersionError,
    LimitExceededError,
    SchemaVersionError,
    SwooshError,
)
from swoosh_async.models import Cursor, OrchestratorState, Snapshot

from .golden.states import DEFAULT, HLC, Color

Format = Literal["json", "msgpack"]
Kind = tuple[Format, Literal["zstd"] | None]
KINDS: list[Kind] = [("json", None), ("msgpack", None), ("json", "zstd"), ("msgpack", "zstd")]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
READER = SnapshotCodec(OrchestratorState)
SMALL = Snapshot(
    state=OrchestratorState().with_settings({"a": "1", "b": "\u00e9"}), last_applied_hlc=HLC, last_applied_index=300
)


def written(kind: Kind, snapshot: Snapshot[Any] = SMALL, declared: Any = OrchestratorState, **options: Any) -> bytes:
    """A file of that kind."""
    codec = SnapshotCodec(declared, format=kind[0], compression=kind[1], **options)
    return b"".join(codec.encode(snapshot))


def resealed(data: bytes) -> bytes:
    """The same bytes with the checksum that is right for them."""
    frame = frame_of(data)
    assert frame is not None
    before, after = data[: frame.digits_at], data[frame.after :]
    return before + hashlib.sha256(before + after).hexdigest().encode() + after


def forged(old: bytes, new: bytes, kind: Kind = ("json", None), **options: Any) -> bytes:
    """A file in which some bytes are others, and the checksum is right."""
    data = written(kind, **options)
    assert data.count(old) == 1
    return resealed(data.replace(old, new))


def reason(data: bytes, reader: SnapshotCodec[Any] = READER) -> str:
    """Why it is damaged."""
    with pytest.raises(CorruptSnapshotError) as caught:
        reader.decode(data, where="here")
    assert caught.value.path == "here"
    assert str(caught.value).startswith(f"here: {caught.value.reason}; ")
    return caught.value.reason


class Stored:
    """Stored bytes as a backend shows them, which count what is asked of them."""

    name = "stored"

    def __init__(self, data: bytes, *, grown: int = 0) -> None:
        self.data = data
        self.size_bytes = len(data) + grown
        self.asked = 0

    def read(self, offset: int, size: int) -> bytes:
        """Some of them, counted."""
        self.asked += size
        return self.data[offset : offset + size]

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Likewise."""
        self.asked += len(buffer)
        piece = self.data[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)


# ---------------------------------------------------------------------- every byte, every length


def flips(data: bytes) -> Iterator[bytes]:
    """The file with one byte changed, for each byte and some changes."""
    for at in range(len(data)):
        for mask in (0x01, 0x20, 0x80, 0xFF, data[at] ^ 0x7B, data[at] ^ 0x30):
            if mask:
                yield data[:at] + bytes((data[at] ^ mask,)) + data[at + 1 :]


@every_kind
def test_every_flip_is_damage(kind: Kind) -> None:
    """Any one byte that is another makes the file damaged: never another snapshot, never a newer format or schema."""
    data = written(kind)
    for flipped in flips(data):
        assert "checksum" in (why := reason(flipped)) or "not a snapshot" in why


@every_kind
def test_every_length_is_damage(kind: Kind) -> None:
    """So does any end that is missing, and anything that is added, be it a mere newline."""
    data = written(kind)
    for length in range(len(data)):
        assert reason(data[:length])
    for added in (b"\n", b" ", b"}", b"\0", b"\0" * 4096, data, data[:1]):
        assert "checksum does not match" in reason(data + added)
        assert reason(added + data)


@every_kind
def test_every_swap_is_damage(kind: Kind) -> None:
    """Bytes that are moved, doubled, zeroed in a sector, or of another file are damage."""
    data = written(kind, DEFAULT)
    other = written(kind, Snapshot(state=OrchestratorState()))
    order = random.Random(1)
    for _ in range(300):
        start, end = sorted(order.sample(range(len(data)), 2))
        for changed in (
            data[:start] + data[end:],
            data[:end] + data[start:],
            data[:start] + bytes(end - start) + data[end:],
            data[:start] + other[start:end] + data[end:],
            data[:start] + data[start:end][::-1] + data[end:],
        ):
            if changed != data:
                assert reason(changed)


@given(st.binary(max_size=200) | st.binary(max_size=50).map(lambda tail: b'{"checksum":"sha256:' + b"0" * 64 + tail))
def test_noise_is_damage(noise: bytes) -> None:
    """Bytes that nobody wrote are damage, also where they begin like a file of ours."""
    assert reason(noise)
    with pytest.raises(CorruptSnapshotError):
        READER.facts(Stored(noise))


@every_kind
def test_reading_stored_bytes(kind: Kind) -> None:
    """A stored file is read, verified and given raw, and one that shrinks meanwhile is damaged."""
    data = written(kind)
    assert READER.read(Stored(data)).snapshot == SMALL
    assert READER.verify(Stored(data)) == READER.read(Stored(data)).facts
    assert READER.read_verified(Stored(data)) == (data, READER.verify(Stored(data)))
    for call in (READER.read, READER.verify, READER.read_verified):
        with pytest.raises(CorruptSnapshotError, match="became shorter while it was read"):
            call(Stored(data, grown=1))
        with pytest.raises(CorruptSnapshotError, match="stored: the file is empty"):
            call(Stored(b""))
        with pytest.raises(CorruptSnapshotError, match="checksum does not match"):
            call(Stored(data[:-1]))


def test_what_is_no_snapshot_is_not_read_to_its_end() -> None:
    """Of a huge file that does not begin like a snapshot, only the beginning is read."""
    huge = Stored(b"\x7fELF" * 4096)
    huge.size_bytes = 1 << 60
    with pytest.raises(CorruptSnapshotError, match="not a snapshot"):
        READER.read(huge)
    assert huge.asked <= HEADER_BYTES


# ---------------------------------------------------------------------- a checksum is no signature


@every_kind
@pytest.mark.parametrize("found", [0, 2, 99, 999_999_999])
def test_a_newer_format(kind: Kind, found: int) -> None:
    """A newer envelope with a right checksum is told apart from damage, whatever comes behind its version."""
    if kind[0] == "json":
        start, between, version = b"{", b'",', b'"format":%d,something new' % found
    else:
        start, between, version = b"\x85", b"", b"\xa6format" + msgspec.msgpack.encode(found) + b"something new"
    frame = frame_of(written(kind))
    assert frame is not None
    body = b"".join(_zstd.compress([start + version])) if kind[1] else between + version
    data = resealed(written(kind)[: frame.after] + body)
    with pytest.raises(FormatVersionError) as caught:
        READER.decode(data, where="here")
    assert (caught.value.where, caught.value.found, caught.value.supported) == ("here", found, FORMAT)
    with pytest.raises(FormatVersionError):
        READER.facts(Stored(data))
    assert "checksum does not match" in reason(data + b"\n")
    with pytest.raises(CorruptSnapshotError):
        READER.facts(Stored(data + b"\n"))


@every_kind
def test_a_newer_schema(kind: Kind) -> None:
    """A newer schema with a right checksum is told apart from damage, before anything of the state is decoded."""
    data = written(kind, schema_version=5)
    for call in (lambda: READER.decode(data), lambda: READER.facts(Stored(data))):
        with pytest.raises(SchemaVersionError) as caught:
            call()
        assert (caught.value.found, caught.value.supported) == (5, 1)
    with pytest.raises(CorruptSnapshotError):
        READER.facts(Stored(data[:-1]))
    assert SnapshotCodec(OrchestratorState, schema_version=6).facts(Stored(data)).schema_version == 5


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"last_applied_index":300', b'"last_applied_index":18446744073709551616'),
        (b'"last_applied_index":300', b'"last_applied_index":-1'),
        (b'"last_applied_index":300', b'"last_applied_index":3.0'),
        (b'"last_applied_index":300', b'"last_applied_index": 300'),
        (b'"last_applied_index":300', b'"last_applied_index":"300"'),
        (b'"last_applied_hlc":"', b'"last_applied_hlc":"\\ud800'),
        (b'"last_applied_hlc":"', b'"last_applied_hlc":"\xff'),
        (b'"last_applied_hlc":"', b'"last_applied_hlc":"\\x'),
        (b'"last_applied_hlc":"', b'"last_applied_hlc":"\n\\'),
        (b'"last_applied_hlc"', b'"last_applied_hlC"'),
        (b'"schema_version":1', b'"schema_version":1.0'),
        (b'"schema_version":1', b'"schema_version":-1'),
        (b'"schema_version":1', b'"schema_version":null'),
        (b'"format":1', b'"format":1.0'),
        (b'"format":1', b'"format":-1'),
        (b'"format":1', b'"format":99999999999'),
        (b'","format"', b'", "format"'),
        (b',"state":', b',"stats":'),
    ],
)
def test_an_envelope_that_is_not_ours(old: bytes, new: bytes) -> None:
    """With a right checksum, and still not as this package writes it, an envelope is refused."""
    assert reason(forged(old, new)) == "the checksum matches, but the envelope is not one of this package"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\xb2last_applied_index\xcd\x01\x2c", b"\xb2last_applied_index\xff"),
        (b"\xb2last_applied_index\xcd\x01\x2c", b"\xb2last_applied_index\xcb" + b"\0" * 8),
        (b"\xb2last_applied_index\xcd\x01\x2c", b"\xb2last_applied_index\xa3300"),
        (b"\xb0last_applied_hlc\xd9", b"\xb0last_applied_hlc\xdb"),
        (b"\xb0last_applied_hlc\xd9\x2a", b"\xb0last_applied_hlc\xd9\xff"),
        (b"\xb0last_applied_hlc\xd9\x2a1", b"\xb0last_applied_hlc\xd9\x2a\xff"),
        (b"\xb0last_applied_hlc\xd9", b"\xb0last_applied_hlc\xc4"),
        (b"\xaeschema_version\x01", b"\xaeschema_version\xc0"),
        (b"\xa6format\x01", b"\xa6format\xd0\x01"),
        (b"\xa5state", b"\xa5stats"),
        (b"\xa5state", b"\xc5state"),
    ],
)
def test_a_messagepack_envelope_that_is_not_ours(old: bytes, new: bytes) -> None:
    """So it is for MessagePack."""
    data = forged(old, new, ("msgpack", None))
    assert reason(data) == "the checksum matches, but the envelope is not one of this package"
    cut = written(("msgpack", None))
    for length in range(cut.index(b"\xa6format"), cut.index(b"\xa5state") + 6):
        assert "envelope is not one of this package" in reason(resealed(cut[:length]))


@pytest.mark.parametrize(
    "state",
    [b"", b"nul", b"[]", b"1", b'{"tasks":1}', b'{"tasks":{"a":{}}}', b'{"settings":{"a":"\xff"}}', b"{}}", b'{},"x":1',
     b"[" * 100_000, b'{"a":' * 100_000, b'{"settings":{"a":"\\ud800"}}', b'{"leases":{"a":NaN}}'],
)  # fmt: skip
def test_a_state_that_does_not_decode(state: bytes) -> None:
    """With a right checksum, a state that is not of the declared type does not decode; the type may have changed."""
    data = written(("json", None), Snapshot(state=OrchestratorState()))
    head, _, _ = data.partition(b',"state":')
    why = reason(resealed(head + b',"state":' + state + b"}"))
    assert why.startswith("the state does not decode as the declared type (")
    assert why.endswith(", though its bytes are as they were written: if the type has changed, raise schema_version")


@pytest.mark.parametrize(
    "state",
    [b"\xc1", b"\x90", b"\x81\xa5tasks\x01", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 100_000],
)
def test_a_messagepack_state_that_does_not_decode(state: bytes) -> None:
    """So it is for MessagePack, whose lengths may lie."""
    data = written(("msgpack", None), Snapshot(state=OrchestratorState()))
    head, _, _ = data.partition(b"\xa5state")
    assert "the state does not decode as the declared type (" in reason(resealed(head + b"\xa5state" + state))


@pytest.mark.parametrize("state", [b"", b"nul", b"[1", b'"\xff"', b'"\\ud800"', b"[" * 100_000])
def test_an_older_state_that_does_not_decode(state: bytes) -> None:
    """What is not even plain data is damage, and no migration sees it."""
    head, _, _ = written(("json", None)).partition(b',"state":')
    reader = SnapshotCodec(int, schema_version=2, migrations=[migration(1)(lambda _: 1)])
    assert reason(resealed(head + b',"state":' + state + b"}"), reader).startswith("the state does not decode (")


def test_what_was_written_is_not_shown() -> None:
    """Neither the error nor what is chained to it shows anything of a state; the place of what is wrong is named."""
    secret = "hunter2"
    data = written(("json", None), Snapshot(state={"a": {"b": [secret]}}), Any)
    for declared, place in (
        (dict[str, dict[str, list[Color]]], "$[...][...][0]"),
        (dict[str, dict[str, str]], "$[...][...]"),
    ):
        with pytest.raises(CorruptSnapshotError) as caught:
            SnapshotCodec(declared).decode(data)
        assert f"(ValidationError at {place})" in caught.value.reason
        assert secret not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_a_type_that_has_changed() -> None:
    """A file of another type is told from damage in words: its bytes are as they were written."""
    assert "if the type has changed, raise schema_version" in reason(
        written(("msgpack", None)), SnapshotCodec(list[int])
    )


# ---------------------------------------------------------------------- files of others


@pytest.mark.parametrize("indent", [0, 1, 2])
def test_reformatted_files(indent: int) -> None:
    """A file of ours that was reformatted, as jq does it, or edited, is refused: its checksum is worth nothing then."""
    data = written(("json", None), DEFAULT)
    reformatted = msgspec.json.format(data, indent=indent)
    assert "checksum" in reason(reformatted if reformatted != data else b" " + data)
    envelope = msgspec.json.decode(data)
    for missing in ("checksum", "format", "schema_version"):
        rest = {key: value for key, value in envelope.items() if key != missing}
        assert "checksum" in reason(msgspec.json.encode(rest))
    three = {key: envelope[key] for key in ("state", "last_applied_hlc", "last_applied_index")}
    assert READER.decode(msgspec.json.encode(three)).snapshot == DEFAULT, "which is what the Go package writes"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"last_applied_hlc":"","last_applied_index":0}', "not a snapshot"),
        ('{"last_applied_hlc":"","state":{}}', "not a snapshot"),
        ('{"last_applied_index":0,"state":{}}', "not a snapshot"),
        ('{"State":{},"last_applied_hlc":"","last_applied_index":0}', "not a snapshot"),
        ("{}", "not a snapshot"),
        ("[]", "not a snapshot"),
        ("null", "not a snapshot"),
        ("", "the file is empty"),
        (" \n", "not a snapshot"),
        ("\ufeff{}", "not a snapshot"),
        ('{"last_applied_hlc":"","last_applied_index":0,"state":{}', "not a snapshot"),
        ('{"last_applied_hlc":"","last_applied_index":0,"state":{}} x', "not a snapshot"),
        ('{"last_applied_hlc":"","last_applied_index":0,"state":{},}', "not a snapshot"),
        ('{"last_applied_hlc":null,"last_applied_index":0,"state":{}}', "the index or the timestamp is not one"),
        ('{"last_applied_hlc":5,"last_applied_index":0,"state":{}}', "the index or the timestamp is not one"),
        ('{"last_applied_hlc":"\\ud800","last_applied_index":0,"state":{}}', "not a snapshot"),
        ('{"last_applied_hlc":"","last_applied_index":18446744073709551616,"state":{}}', "the index or the timestamp"),
        ('{"last_applied_hlc":"","last_applied_index":-1,"state":{}}', "the index or the timestamp is not one"),
        ('{"last_applied_hlc":"","last_applied_index":1.0,"state":{}}', "the index or the timestamp is not one"),
        ('{"last_applied_hlc":"","last_applied_index":"1","state":{}}', "the index or the timestamp is not one"),
        ('{"last_applied_hlc":"","last_applied_index":true,"state":{}}', "the index or the timestamp is not one"),
        ('{"last_applied_hlc":"","last_applied_index":null,"state":{}}', "the index or the timestamp is not one"),
        ('{"last_applied_hlc":"","last_applied_index":%s,"state":{}}' % ("9" * 10_000), "the index or the timestamp"),
        ('{"last_applied_hlc":"","last_applied_index":1,"state":null}', "the state does not decode"),
        ('{"last_applied_hlc":"","last_applied_index":1,"state":[1]}', "the state does not decode"),
        ('{"last_applied_hlc":"","last_applied_index":1,"state":{},"format":1}', "damaged or reformatted"),
    ],
)
def test_files_of_the_go_package_that_lie(text: str, why: str) -> None:
    """A file with the three keys, and something else than what belongs there, is refused."""
    assert why in reason(text.encode())
    assert "though its bytes are as they were written" not in reason(text.encode()), "which nobody knows"


def test_files_of_the_go_package() -> None:
    """The three keys in any order, with spaces and unknown keys; of a key that comes twice the last one counts."""
    for text in (
        '{"state":{},"last_applied_hlc":"x","last_applied_index":7}',
        '\t{"x":[{"state":1}],"last_applied_index":7,"last_applied_hlc":"\\u0078","state":{"unknown":1}}\r\n',
        '{"state":1,"state":{},"last_applied_index":9,"last_applied_hlc":"x","last_applied_index":7}',
    ):
        decoded = READER.decode(text.encode())
        assert decoded.snapshot == Snapshot(state=OrchestratorState(), last_applied_hlc="x", last_applied_index=7)
        assert (decoded.facts.checksum, decoded.facts.format_version) == ("", None)
        assert READER.facts(Stored(text.encode())) == decoded.facts


# ---------------------------------------------------------------------- facts


@every_kind
@pytest.mark.parametrize("hlc", ["", HLC, "x" * 5000, "\0" * 5000, "x" * 200_000])
def test_facts_are_read_from_the_head(kind: Kind, hlc: str) -> None:
    """The facts of a large file are those that all of it gives, and only its head is asked for."""
    state = random.Random(1).randbytes(3 << 20)
    data = written(kind, Snapshot(state=state, last_applied_hlc=hlc, last_applied_index=2**64 - 1), bytes)
    stored = Stored(data)
    reader = SnapshotCodec(bytes, format="msgpack")
    facts = reader.facts(stored)
    assert facts == reader.decode(data).facts
    assert facts.cursor == Cursor(2**64 - 1, hlc)
    if kind[1] and len(hlc) > 1000:  # a timestamp of no sensible length, inside of a zstd frame
        assert stored.asked > len(data)
    else:
        assert stored.asked <= HEADER_BYTES + (0 if len(hlc) < 1000 and not kind[1] else 1 << 20)


@every_kind
def test_facts_of_a_damaged_head(kind: Kind) -> None:
    """A head that does not say what it should is looked at in full, and so is found to be damaged."""
    data = written(kind)
    frame = frame_of(data)
    assert frame is not None
    for flipped in flips(data[: frame.after + 20]):
        stored = Stored(flipped + data[frame.after + 20 :])
        try:
            facts = READER.facts(stored)
        except CorruptSnapshotError:
            assert stored.asked > HEADER_BYTES
        else:
            assert facts.checksum.startswith("sha256:")
            with pytest.raises(CorruptSnapshotError):
                READER.verify(stored)


@every_kind
def test_a_flip_refuses_no_writer(kind: Kind) -> None:
    """No flip makes a writer believe that a newer version of anything is stored: that is said of intact files only."""
    for flipped in flips(written(kind)):
        try:
            READER.facts(Stored(flipped))
        except CorruptSnapshotError:
            pass
        except SwooshError as error:
            pytest.fail(f"a flip is taken for {error!r}")


@every_kind
def test_positions(kind: Kind) -> None:
    """What is about to be written can tell a stored file's position, and whether it is intact."""
    codec = SnapshotCodec(OrchestratorState)
    blob = codec.encode(Snapshot(state=OrchestratorState()))
    assert blob.position_of(Stored(written(kind))) == 300
    blob.verify(Stored(written(kind)))
    with pytest.raises(CorruptSnapshotError):
        blob.verify(Stored(written(kind)[:-1]))


# ---------------------------------------------------------------------- bounds


def test_what_would_not_be_decompressed_is_not_compressed() -> None:
    """A state that is larger than the reader's bound is refused when it is saved, not when it is loaded."""
    state = ["x" * 1000] * 100
    for bound, fits in ((90_000, False), (200_000, True)):
        codec = SnapshotCodec(list[str], compression="zstd", max_decoded_bytes=bound)
        one = codec.encode(Snapshot(state=state))
        if fits:
            assert codec.decode(b"".join(one)).snapshot.state == state
        else:
            with pytest.raises(LimitExceededError, match="max_decoded_bytes allows 90000; raise max_decoded_bytes"):
                list(one)
    plain = SnapshotCodec(list[str], max_decoded_bytes=1)
    assert plain.decode(b"".join(plain.encode(Snapshot(state=state)))).snapshot.state == state

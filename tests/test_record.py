"""A journal's record: it comes back as it was written, and no damage passes."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swoosh_async.backends.file._record import (
    MAX_RECORD_BYTES,
    RECORD_FORMAT,
    Record,
    _sealed,
    read_record,
    record_bytes,
)

NUMBERS = st.integers(0, (1 << 63) - 1)
RECORD = Record(epoch=3, first=41, format=RECORD_FORMAT, host="höst", newest=17, pid=4711, store="0123456789abcdef" * 2)


def sealed(inner: bytes) -> bytes:
    """A record of these bytes, with a checksum that is right."""
    return _sealed(inner)


@given(
    st.builds(
        Record,
        epoch=NUMBERS,
        first=st.integers(1, (1 << 63) - 1),
        format=st.just(RECORD_FORMAT),
        host=st.text(st.characters(exclude_categories=["Cs"]), max_size=255),
        newest=NUMBERS,
        pid=NUMBERS,
        store=st.binary(min_size=16, max_size=16).map(bytes.hex),
    )
)
def test_a_record_comes_back(record: Record) -> None:
    """What was written is read, from one line, and the longest host's name leaves room."""
    data = record_bytes(record)
    assert read_record(data) == record
    assert data.count(b"\n") == 1
    assert data.endswith(b"\n")
    assert len(data) <= MAX_RECORD_BYTES


def test_a_person_can_read_it() -> None:
    """It is JSON, and its checksum is the SHA-256 of the text of what is inside."""
    data = record_bytes(RECORD)
    told = json.loads(data)
    assert told["record"] == msgspec.to_builtins(RECORD)
    inner = data[data.index(b'"record":') + len(b'"record":') : -2]
    assert told["checksum"] == f"sha256:{hashlib.sha256(inner).hexdigest()}"


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80, 0xFF])
def test_a_flipped_byte(flip: int) -> None:
    """Whichever byte is flipped, it is damaged: neither another record nor a newer format."""
    data = record_bytes(RECORD)
    for at in range(len(data)):
        assert read_record(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]) is None, at


def test_another_length() -> None:
    """Whatever is missing at the end, or stands behind it, it is damaged."""
    data = record_bytes(RECORD)
    for length in range(len(data)):
        assert read_record(data[:length]) is None
    for more in (b" ", b"\n", b"\0", data):
        assert read_record(data + more) is None


def test_a_newer_format() -> None:
    """An intact record of another format gives its version, whatever else is in it."""
    for inner in (b'{"format":2}', b'{"format":2,"epoch":"none","new":[1]}'):
        assert read_record(sealed(inner)) == 2


@pytest.mark.parametrize(
    "inner",
    [
        b"{}",
        b"[]",
        b'{"format":"1"}',
        b'{"format":null}',
        b'{"format":1}',
        b'{"epoch":-1,"first":1,"format":1,"host":"h","newest":0,"pid":1}',
        b'{"epoch":1,"first":1,"format":1,"host":"h","newest":0,"pid":1,"store":"00"}',
        b'{"epoch":1,"first":1,"format":1,"host":"h","newest":0,"pid":1,"store":"not hexadecimal, 32 letters long"}',
        b"[" * 3000,
    ],
)
def test_what_is_no_record(inner: bytes) -> None:
    """Where the checksum is right but what is inside is no record, it is damaged."""
    assert read_record(sealed(inner) if not inner.startswith(b"[[") else inner) is None


@given(st.binary(max_size=300))
def test_anything_else(data: bytes) -> None:
    """Bytes that nobody has written as a record are none."""
    assert read_record(data) is None

"""A journal's bytes: they come back as they were written, in their own place only, and no damage passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swoosh_async.backends.base import EPOCHS_END
from swoosh_async.backends.file._frames import (
    ALIGN,
    MAX_FRAME_COUNT,
    SECTOR,
    SEGMENT_FORMAT,
    SEGMENT_HEADER_BYTES,
    Frame,
    Seed,
    frame_bytes,
    frame_size,
    is_whole,
    is_zero,
    read_frame,
    read_segment_header,
    segment_header,
    zero_sectors,
)

U64 = st.integers(0, (1 << 64) - 1)
EPOCHS = st.integers(0, EPOCHS_END - 1)
SEED = Seed(store=bytes(range(16)), mark=b"\x00mark\xff\x00\x01", base=7, epoch=3, size=1 << 16, longest=4096)
SEEDS = st.builds(
    Seed,
    store=st.binary(min_size=16, max_size=16),
    mark=st.binary(min_size=8, max_size=8),
    base=U64,
    epoch=U64,
    size=U64,
    longest=U64,
)
OFFSETS = st.integers(SEGMENT_HEADER_BYTES // ALIGN, 1 << 40).map(lambda n: n * ALIGN)
PAYLOADS = st.one_of(
    st.binary(max_size=2000),
    st.integers(0, 3000).map(bytes),
    st.lists(st.sampled_from([bytes(512), b"\0" * 63 + b"\1", b"x" * 100]), max_size=9).map(b"".join),
)


def framed(payload: bytes, *, seed: Seed = SEED, offset: int = 512, first: int = 7) -> bytes:
    """The bytes of a frame of two entries."""
    return frame_bytes(seed, offset, epoch=seed.epoch, first=first, count=2, payload=payload)


def passes(data: bytes, *, seed: Seed = SEED, offset: int = 512) -> bool:
    """Whether these bytes are a whole frame at that place."""
    frame = read_frame(seed, offset, data[:ALIGN])
    return frame is not None and is_whole(seed, frame, data[ALIGN : frame.end - offset])


# ---------------------------------------------------------------------- segment headers


@given(SEEDS)
def test_a_segment_header_comes_back(seed: Seed) -> None:
    """What a segment's header was made of is read from it, and it is one sector long."""
    header = segment_header(seed)
    assert len(header) == SEGMENT_HEADER_BYTES == SECTOR
    assert read_segment_header(header) == seed


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_segment_header_with_a_flipped_byte(flip: int) -> None:
    """Whichever byte of a segment's header is flipped, it is damaged: not another segment, and not a newer format."""
    header = segment_header(SEED)
    for at in range(len(header)):
        assert read_segment_header(header[:at] + bytes([header[at] ^ flip]) + header[at + 1 :]) is None, at


def test_a_segment_header_of_another_length() -> None:
    """What is not one sector is no header, be it cut off, grown, or nothing."""
    header = segment_header(SEED)
    for length in range(len(header)):
        assert read_segment_header(header[:length]) is None
    assert read_segment_header(header + b"\0") is None
    assert read_segment_header(bytes(SECTOR)) is None


def test_a_newer_segment_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """An intact header of another format gives its version; one of another magic is damaged."""
    monkeypatch.setattr("swoosh_async.backends.file._frames.SEGMENT_FORMAT", SEGMENT_FORMAT + 8)
    newer = segment_header(SEED)
    monkeypatch.undo()
    assert read_segment_header(newer) == SEGMENT_FORMAT + 8
    monkeypatch.setattr("swoosh_async.backends.file._frames._SEGMENT_MAGIC", b"swooshjX")
    other = segment_header(SEED)
    monkeypatch.undo()
    assert read_segment_header(other) is None


# ---------------------------------------------------------------------- frames


@given(SEEDS, OFFSETS, st.tuples(EPOCHS, U64, st.integers(1, MAX_FRAME_COUNT)), PAYLOADS)
def test_a_frame_comes_back(seed: Seed, offset: int, facts: tuple[int, int, int], payload: bytes) -> None:
    """A frame's header tells what it was made of, its payload is whole, and it ends at a multiple of 64."""
    epoch, first, count = facts
    data = frame_bytes(seed, offset, epoch=epoch, first=first, count=count, payload=payload)
    frame = read_frame(seed, offset, data[:ALIGN])
    assert frame is not None
    assert (frame.epoch, frame.first, frame.count, frame.length) == (epoch, first, count, len(payload))
    assert (frame.offset, frame.last) == (offset, first + count - 1)
    assert (frame.end - offset, len(data)) == (frame_size(len(payload)),) * 2
    assert frame.end % ALIGN == 0
    assert frame.end - frame.payload_at - len(payload) < ALIGN
    assert data[ALIGN : ALIGN + frame.length] == payload
    assert is_whole(seed, frame, data[ALIGN:])
    assert is_whole(seed, frame, memoryview(data)[ALIGN:])


@given(st.lists(st.integers(0, 5000), max_size=20))
def test_a_header_never_straddles_a_sector(lengths: list[int]) -> None:
    """Whatever the lengths of the frames before it, a frame's header lies in one sector."""
    offset = SEGMENT_HEADER_BYTES
    for length in lengths:
        assert offset // SECTOR == (offset + ALIGN - 1) // SECTOR
        offset += frame_size(length)


@pytest.mark.parametrize("payload", [b"", b"payload", bytes(70), bytes(range(256)) * 2])
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_frame_with_a_flipped_byte(payload: bytes, flip: int) -> None:
    """Whichever byte of a frame is flipped, its padding included, it is not whole."""
    data = framed(payload)
    assert passes(data)
    for at in range(len(data)):
        assert not passes(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]), at


def test_a_frame_that_is_cut_off() -> None:
    """Of whatever length, part of a frame is no frame, and a frame with more behind it is none either."""
    data = framed(b"payload" * 20)
    for length in range(len(data)):
        assert not passes(data[:length])
    frame = read_frame(SEED, 512, data[:ALIGN])
    assert frame is not None
    assert not is_whole(SEED, frame, data[ALIGN:] + b"\0")
    assert read_frame(SEED, 512, data) is None


ELSEWHERE: list[Callable[[Seed], Seed]] = [
    lambda seed: replace(seed, base=seed.base + 1),
    lambda seed: replace(seed, store=bytes(16)),
    lambda seed: replace(seed, mark=b"12345678"),
]


@pytest.mark.parametrize("other", ELSEWHERE, ids=["base", "store", "mark"])
@given(payload=PAYLOADS)
def test_a_frame_of_another_segment(other: Callable[[Seed], Seed], payload: bytes) -> None:
    """A frame never passes in a segment of another base, store or mark."""
    assert not passes(framed(payload), seed=other(SEED))


@given(PAYLOADS, OFFSETS, OFFSETS)
def test_a_frame_in_another_place(payload: bytes, offset: int, other: int) -> None:
    """A frame never passes at another offset of its own segment."""
    assert passes(framed(payload, offset=offset), offset=other) == (offset == other)


def test_neither_half_of_a_misplaced_frame_passes() -> None:
    """Neither the header nor the payload of a misplaced frame passes by itself."""
    there, here = framed(b"a" * 100, offset=1024), framed(b"a" * 100)
    frame = read_frame(SEED, 512, here[:ALIGN])
    assert frame is not None
    assert is_whole(SEED, frame, here[ALIGN:])
    assert read_frame(SEED, 512, there[:ALIGN]) is None
    elsewhere = replace(frame, offset=1024)
    assert not is_whole(SEED, elsewhere, there[ALIGN:])  # its checksum is the one of this place
    assert not is_whole(SEED, elsewhere, here[ALIGN:])


# ---------------------------------------------------------------------- zeros


def naive_zero_sectors(data: bytes, offset: int) -> int:
    """The same, byte by byte."""
    seen: dict[int, bool] = {}
    for at, byte in enumerate(data[-offset % SECTOR :], -offset % SECTOR):
        sector = (offset + at) // SECTOR
        seen[sector] = seen.get(sector, True) and byte == 0
    return sum(seen.values())


@given(PAYLOADS, st.integers(0, 40))
def test_zero_sectors(data: bytes, place: int) -> None:
    """The sectors that are zero, but for a part of the first, are counted as one does by looking at each byte."""
    assert zero_sectors(data, place * ALIGN) == naive_zero_sectors(data, place * ALIGN)


@given(PAYLOADS, OFFSETS)
def test_a_frame_counts_its_zero_sectors(payload: bytes, offset: int) -> None:
    """A frame's header tells in how many sectors behind its own the payload, with its padding, is zero."""
    data = framed(payload, offset=offset)
    frame = read_frame(SEED, offset, data[:ALIGN])
    assert frame is not None
    assert frame.zeros == naive_zero_sectors(data[ALIGN:], offset + ALIGN)


@given(st.integers(0, 200_000), st.one_of(st.none(), st.integers(0, 200_000)))
def test_is_zero(size: int, at: int | None) -> None:
    """Only what has no other byte anywhere is zero."""
    data = bytearray(size)
    if at is not None and at < size:
        data[at] = 1
    assert is_zero(bytes(data)) == (not any(data))
    assert is_zero(memoryview(data)) == (not any(data))


def test_one_byte_alone_in_a_sector() -> None:
    """The last byte of a payload is not alone in its sector: when it is damaged, the sector does not look unwritten."""
    payload = b"x" * (SECTOR - ALIGN) + b"\x01"
    data = framed(payload)
    damaged = data[: ALIGN + len(payload) - 1] + b"\0" + data[ALIGN + len(payload) :]
    frame = read_frame(SEED, 512, damaged[:ALIGN])
    assert isinstance(frame, Frame)
    assert zero_sectors(damaged[ALIGN:], 512 + ALIGN) == frame.zeros

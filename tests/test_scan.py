"""A segment's end and its insides: found as one does who reads all of it, torn told from damage, nothing let pass."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from itertools import accumulate

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swoosh_async.backends.file._frames import (
    ALIGN,
    SECTOR,
    SEGMENT_HEADER_BYTES,
    Frame,
    Seed,
    frame_bytes,
    frame_size,
    is_whole,
    read_frame,
    segment_header,
)
from swoosh_async.backends.file._scan import Damage, Read, Tail, any_behind, find_tail, frames_from, seek

STORE, MARK, BASE = bytes(range(16)), b"\x93mark\x00\x01\xfe", 7
KIB, MIB = 1 << 10, 1 << 20


class Made(msgspec.Struct, frozen=True):
    """A segment in memory.

    Attributes:
        seed: What its header says.
        data: All of it.
        ends: Where each batch ends, and the header before them.
        lasts: The last index of each batch, and of what is before them.
        payloads: Each batch's payload.
    """

    seed: Seed
    data: bytes
    ends: Sequence[int]
    lasts: Sequence[int]
    payloads: Sequence[bytes]

    @property
    def end(self) -> int:
        """Where the next batch belongs."""
        return self.ends[-1]


def reader(data: bytes) -> Read:
    """Reads a segment in memory."""
    return lambda offset, size: data[offset : offset + max(0, size)]


def made(payloads: Sequence[bytes], *, size: int = 0, longest: int = 0, counts: Sequence[int] = ()) -> Made:
    """A segment of these batches; of 64 KiB more than they need, unless told otherwise."""
    ends = list(accumulate((frame_size(len(payload)) for payload in payloads), initial=SEGMENT_HEADER_BYTES))
    counts = counts or [1 + n % 3 for n in range(len(payloads))]
    lasts = list(accumulate(counts, initial=BASE - 1))
    size = size or ends[-1] + 64 * KIB
    longest = longest or max([8 * KIB, *(frame_size(len(payload)) for payload in payloads)])
    seed = Seed(store=STORE, mark=MARK, base=BASE, epoch=2, size=size, longest=longest)
    parts = [segment_header(seed)]
    for n, payload in enumerate(payloads):
        parts.append(frame_bytes(seed, ends[n], epoch=2 + n // 4, first=lasts[n] + 1, count=counts[n], payload=payload))
    return Made(seed, b"".join(parts).ljust(size, b"\0"), ends, lasts, payloads)


def naive(segment: Made, data: bytes) -> list[Frame]:
    """The whole frames from the beginning on, one after the other."""
    found: list[Frame] = []
    offset, index = SEGMENT_HEADER_BYTES, segment.seed.base
    while (frame := read_frame(segment.seed, offset, data[offset : offset + ALIGN])) is not None:
        if frame.first != index or not is_whole(segment.seed, frame, data[frame.payload_at : frame.end]):
            break
        found.append(frame)
        offset, index = frame.end, frame.last + 1
    return found


def tail_of(segment: Made, data: bytes | None = None) -> Tail:
    """How a segment ends, or what has become of it."""
    return find_tail(reader(segment.data if data is None else data), segment.seed)


def told(segment: Made, data: bytes) -> Tail | Damage:
    """How it ends, or that it is damaged."""
    try:
        return tail_of(segment, data)
    except Damage as damage:
        return damage


def flips(data: bytes, start: int, end: int, flip: int = 0xFF) -> Iterator[tuple[int, bytes]]:
    """The same bytes with one of them flipped, for each."""
    for at in range(start, end):
        yield at, data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]


PAYLOAD = st.one_of(
    st.binary(max_size=300),
    st.integers(0, 3000).map(bytes),
    st.tuples(st.integers(0, 3000), st.integers(0, 3000)).map(lambda n: bytes(n[0]) + b"x" + bytes(n[1])),
    st.integers(60 * KIB, 200 * KIB).map(bytes),
    st.integers(60 * KIB, 200 * KIB).map(lambda n: b"\xa5" * n),
    st.integers(MIB - KIB, MIB + 64 * KIB).map(bytes),
)
PAYLOADS = st.lists(PAYLOAD, max_size=12)
HEADERLIKE = [
    MARK * 40,
    b"x" * 37 + MARK,
    frame_bytes(Seed(STORE, MARK, BASE, 2, 1, 1), 512, epoch=2, first=BASE, count=1, payload=b"x"),
    segment_header(Seed(STORE, MARK, BASE, 2, 1, 1)),
]


# ---------------------------------------------------------------------- what is whole


@settings(max_examples=50)
@given(PAYLOADS)
def test_the_end_of_what_is_whole(payloads: list[bytes]) -> None:
    """The end that halving finds is the one that is found by going through all of it."""
    segment = made(payloads)
    frames = naive(segment, segment.data)
    assert [frame.last for frame in frames] == segment.lasts[1:]
    assert tail_of(segment) == Tail(frames[-1] if frames else None, segment.end, segment.end)


@settings(max_examples=30)
@given(st.lists(PAYLOAD, min_size=1, max_size=12), st.data())
def test_any_index_is_found(payloads: list[bytes], data: st.DataObject) -> None:
    """From where seek says, going on gives the batch with that index, with no more than a piece of the way to go."""
    segment = made(payloads)
    read = reader(segment.data)
    index = data.draw(st.integers(BASE, segment.lasts[-1] + 1))
    for end in (segment.end, segment.seed.size):
        start = seek(read, segment.seed, end, index)
        assert start in segment.ends
        before = [frame for frame, _ in frames_from(read, segment.seed, start, 4096) if frame.last < index]
        found = [frame for frame, _ in frames_from(read, segment.seed, start, 4096) if frame.last >= index]
        assert [frame.last for frame in before + found] == segment.lasts[1 + segment.ends.index(start) :]
        assert not found or found[0].first <= index


def test_seek_is_near() -> None:
    """In a long segment, little is left to go, wherever the index is."""
    segment = made([b"p" * 100] * 20_000)
    for index in range(BASE, segment.lasts[-1], 501):
        start = seek(reader(segment.data), segment.seed, segment.seed.size, index)
        place = next(n for n, last in enumerate(segment.lasts) if last >= index)
        assert 0 <= segment.ends[place] - start <= 192 * KIB


def test_little_is_read() -> None:
    """The end of a long segment, and any index in it, are found with a few reads, whatever its length."""
    segment = made([b"p" * 1000] * 20_000, size=64 * MIB)
    sizes: list[int] = []

    def read(offset: int, size: int) -> bytes:
        sizes.append(size)
        return segment.data[offset : offset + size]

    assert find_tail(read, segment.seed).end == segment.end
    assert (len(sizes) < 100, sum(sizes) < MIB) == (True, True)
    sizes.clear()
    seek(read, segment.seed, segment.seed.size, segment.lasts[-1] // 2)
    assert (len(sizes) < 50, sum(sizes) < MIB) == (True, True)


@settings(max_examples=30)
@given(PAYLOADS, st.integers(0, 3 * MIB))
def test_frames_one_after_the_other(payloads: list[bytes], want: int) -> None:
    """Whatever is asked for at a time, each frame comes with its payload, whole and in order, and then it ends."""
    segment = made(payloads)
    found = [
        (frame.last, bytes(payload)) for frame, payload in frames_from(reader(segment.data), segment.seed, 512, want)
    ]
    assert found == list(zip(segment.lasts[1:], payloads, strict=True))


def test_a_segment_that_is_full() -> None:
    """A segment with no space behind its last batch, or with less than a header needs, ends there."""
    payloads = [b"a" * 64, bytes(64), b"c" * 128]
    for more in (0, 1, 63):
        segment = made(payloads, size=SEGMENT_HEADER_BYTES + 448 + more)
        assert tail_of(segment) == Tail(naive(segment, segment.data)[-1], segment.end, segment.end)


@pytest.mark.parametrize("like", HEADERLIKE, ids=["marks", "mark", "frame", "segment"])
def test_what_looks_like_a_header(like: bytes) -> None:
    """Payloads that hold a mark, or a whole copy of another frame, are never taken for frames."""
    for before in range(0, 192, 32):
        payloads = [like, b"x" * before + like, like * 30, b"y" * before + like]
        segment = made(payloads)
        assert tail_of(segment).end == segment.end
        assert tail_of(segment) == Tail(naive(segment, segment.data)[-1], segment.end, segment.end)
        for index in range(BASE, segment.lasts[-1] + 1):
            assert seek(reader(segment.data), segment.seed, segment.end, index) in segment.ends
        torn = segment.data[: segment.ends[-2]] + bytes(ALIGN) + segment.data[segment.ends[-2] + ALIGN :]
        assert tail_of(segment, torn).end == segment.ends[-2]


def test_any_behind() -> None:
    """What is not zero right behind an offset, or some way on, is seen."""
    segment = made([b"a"])
    assert not any_behind(reader(segment.data), segment.end)
    assert not any_behind(reader(segment.data), segment.seed.size)
    for at in (0, 700, 60_000):
        data = bytearray(segment.data)
        data[segment.end + at] = 1
        assert any_behind(reader(bytes(data)), segment.end)


# ---------------------------------------------------------------------- torn


def without(segment: Made, sectors: Sequence[int]) -> bytes:
    """The segment as it is when these sectors of its last batch have not arrived."""
    start, data = segment.ends[-2], bytearray(segment.data)
    for sector in sectors:
        begin = max(start, sector * SECTOR)
        end = min(segment.end, (sector + 1) * SECTOR)
        data[begin:end] = bytes(end - begin)
    return bytes(data)


def sectors_of_the_last(segment: Made) -> list[int]:
    """The sectors in which bytes of the last batch stand."""
    return list(range(segment.ends[-2] // SECTOR, -(-segment.end // SECTOR)))


def check_torn(segment: Made, sectors: Sequence[int]) -> None:
    """What stands before the last batch stands; that is cut off where it begins, with all that is left of it."""
    data = without(segment, sectors)
    start = segment.ends[-2]
    frames = naive(segment, data)
    found = tail_of(segment, data)
    if data == segment.data:  # only zeros were lost
        assert found == Tail(frames[-1], segment.end, segment.end)
        return
    assert (found.last.last if found.last else BASE - 1, found.end) == (segment.lasts[-2], start)
    assert found.torn_end <= segment.end
    assert not any(data[found.torn_end :])
    assert (found.torn_bytes > 0) == any(data[start:])
    blank = data[: found.end] + bytes(found.torn_bytes) + data[found.torn_end :]
    assert tail_of(segment, blank) == Tail(found.last, start, start)


def zeros_in(length: int) -> bytes:
    """A payload in which sectors are zero, and others hold but one byte."""
    data = bytearray(length)
    for at in range(0, length, 1100):
        data[at] = 1
    return bytes(data)


@pytest.mark.parametrize("before", [[], [b"a" * 700], [b"a" * 100, bytes(900), b"b" * 340]], ids=len)
@pytest.mark.parametrize("payload", [b"z" * 10, b"z" * 2500, bytes(2500), zeros_in(3000), b"\0" * 600 + b"z" * 900])
def test_every_subset_of_sectors_is_torn(before: list[bytes], payload: bytes) -> None:
    """Whichever sectors of the last batch have not arrived, it is cut off exactly, and those before it stand."""
    segment = made([*before, payload])
    sectors = sectors_of_the_last(segment)
    assert len(sectors) <= 8
    for count in range(1, len(sectors) + 1):
        for lost in itertools.combinations(sectors, count):
            check_torn(segment, lost)


@settings(max_examples=60)
@given(PAYLOADS, PAYLOAD, st.randoms(use_true_random=False), st.floats(0, 1))
def test_any_subset_of_sectors_is_torn(before: list[bytes], payload: bytes, chance: random.Random, part: float) -> None:
    """The same of any batches, be they longer than all that is read at once, or full of zeros."""
    segment = made([*before, payload])
    sectors = sectors_of_the_last(segment)
    lost = [sector for sector in sectors if chance.random() < part] or sectors[-1:]
    check_torn(segment, lost)


@pytest.mark.parametrize("payload", [b"z" * 1500, zeros_in(1500)])
@pytest.mark.parametrize("before", [0, 330])
def test_torn_at_every_length(before: int, payload: bytes) -> None:
    """However much of the last batch had arrived, in whole sectors, what is there is cut off.

    Cut within a sector, which no disk does, it is cut off as well, or is damage; it never passes.
    """
    segment = made([b"a" * before, payload])
    start = segment.ends[-2]
    for length in range(segment.end - start):
        data = segment.data[: start + length].ljust(segment.seed.size, b"\0")
        found = told(segment, data)
        if data == segment.data:
            assert isinstance(found, Tail)
            assert found.end == segment.end
        elif (start + length) % SECTOR == 0 or length == 0:
            assert isinstance(found, Tail)
            assert (found.end, found.torn_end >= start) == (start, True)
        else:
            assert isinstance(found, Damage) or found.end == start


def test_the_one_that_was_torn_and_then_cut_in_part() -> None:
    """A tail of which a part is zero already, as by a claim that was killed while it cut, is cut off all the same."""
    segment = made([b"a" * 700, b"z" * 3000])
    torn = without(segment, [sectors_of_the_last(segment)[-1]])
    start = segment.ends[-2]
    for end in range(start, segment.end + 1, ALIGN):
        data = torn[:start] + bytes(end - start) + torn[end:]
        found = told(segment, data)
        if any(data[start : start + ALIGN]) or not any(data[start:]) or end % SECTOR == 0:
            assert isinstance(found, Tail)
            assert found.end == start


# ---------------------------------------------------------------------- damage


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
@pytest.mark.parametrize(
    "payloads", [[b"only"], [b"a" * 400, b"b" * 90, b"c" * 700], [bytes(600), b"b", zeros_in(1300)]]
)
def test_every_flipped_byte(payloads: list[bytes], flip: int) -> None:
    """Whichever byte behind the header is flipped, no batch is lost unnoticed.

    In the last batch it is damage, unless that byte was alone in a sector behind the header's; in the space ahead it is
    damage, or is cut off; before the last batch, whoever reads sees it.
    """
    segment = made(payloads, size=4096)
    whole = naive(segment, segment.data)
    for at, data in flips(segment.data, SEGMENT_HEADER_BYTES, segment.seed.size, flip):
        found = told(segment, data)
        if at >= segment.end:
            if isinstance(found, Tail):
                assert (found.last, found.end, found.torn_end) == (whole[-1], segment.end, at + 1)
            else:
                assert (found.index, at < segment.end + ALIGN) == (segment.lasts[-1] + 1, True)
            continue
        good = [last for frame, last in zip(whole, segment.lasts[1:], strict=True) if frame.end <= at]
        assert [frame.last for frame, _ in frames_from(reader(data), segment.seed, 512, 4096)] == good
        if at >= segment.ends[-2]:
            sector = at // SECTOR * SECTOR
            alone = sector > segment.ends[-2] and not any(data[sector : sector + SECTOR])
            assert isinstance(found, Tail) == alone
        elif isinstance(found, Tail):
            assert (found.last, found.end, found.torn_bytes) == (whole[-1], segment.end, 0)


def test_a_byte_that_was_alone_in_its_sector() -> None:
    """Where a flip leaves a sector of the last batch zero, it looks torn: it is told, so that it is set aside."""
    segment = made([b"a", bytes(512) + b"\1" + bytes(1500)])
    at = segment.ends[-2] + ALIGN + 512
    found = told(segment, segment.data[:at] + b"\0" + segment.data[at + 1 :])
    assert isinstance(found, Tail)
    assert found.torn_bytes == segment.end - segment.ends[-2]


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_header_that_is_missing(lost: int) -> None:
    """A header that is zero with whole batches behind it is damage, and not a torn tail."""
    segment = made([b"a" * 100, b"b" * 100, b"c" * 100, b"d" * 100])
    at = segment.ends[lost]
    found = told(segment, segment.data[:at] + bytes(ALIGN) + segment.data[at + ALIGN :])
    assert isinstance(found, Damage) or found.end == segment.end  # whoever reads it sees it
    cut = segment.data[:at] + bytes(segment.ends[3] - at) + segment.data[segment.ends[3] :]
    found = told(segment, cut)
    assert isinstance(found, Damage) or found.end == segment.end


def test_a_gap_of_zeros_before_whole_batches() -> None:
    """Zeros for long, but for not longer than a batch may be, with whole batches behind, are no end."""
    segment = made([b"a" * 100, *[b"b" * 90_000] * 8, b"c" * 100], size=4 * MIB, longest=MIB)
    for first, last in ((1, 8), (2, 7), (1, 9)):
        data = segment.data[: segment.ends[first]] + bytes(segment.ends[last] - segment.ends[first])
        data += segment.data[segment.ends[last] :]
        found = told(segment, data)
        assert isinstance(found, Damage) or found.end == segment.end


def test_a_batch_before_a_torn_one_that_is_damaged() -> None:
    """When the last batch is torn and the one before is not whole, that is damage: it was acknowledged."""
    segment = made([b"a" * 600, b"b" * 1200, b"c" * 1200])
    torn = without(segment, sectors_of_the_last(segment)[-1:])
    for at in range(segment.ends[1], segment.ends[2], 7):
        data = torn[:at] + bytes([torn[at] ^ 1]) + torn[at + 1 :]
        assert isinstance(told(segment, data), Damage), at


def test_bytes_behind_a_torn_batch() -> None:
    """A torn batch is the last that was begun: where other bytes stand behind it, that is damage."""
    segment = made([b"a" * 600, b"b" * 1200])
    torn = bytearray(without(segment, sectors_of_the_last(segment)[-1:]))
    torn[segment.end + 700] = 1
    assert isinstance(told(segment, bytes(torn)), Damage)


def test_a_frame_that_does_not_follow() -> None:
    """A frame that is valid where it stands, but with another index or an earlier epoch, is damage."""
    segment = made([b"a" * 100, bytes(200 * KIB)])
    last = segment.lasts[-1]
    for epoch, first in ((2, last + 2), (2, last), (1, last + 1)):
        more = frame_bytes(segment.seed, segment.end, epoch=epoch, first=first, count=1, payload=b"c")
        data = segment.data[: segment.end] + more + segment.data[segment.end + len(more) :]
        found = told(segment, data)
        assert isinstance(found, Damage), (epoch, first)
        assert (found.offset, found.index) == (segment.end, last + 1)
        assert len(list(frames_from(reader(data), segment.seed, 512, 1))) == 2


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=300), max_size=6), st.data())
def test_anything_at_all(payloads: list[bytes], data: st.DataObject) -> None:
    """Whatever overwrites a part of a segment, what is found ends at a batch that is whole, or it is damage."""
    segment = made(payloads, size=4096)
    at = data.draw(st.integers(SEGMENT_HEADER_BYTES, segment.seed.size - 1))
    junk = data.draw(st.one_of(st.binary(min_size=1, max_size=900), st.integers(1, 900).map(bytes)))
    changed = (segment.data[:at] + junk + segment.data[at + len(junk) :])[: segment.seed.size]
    found = told(segment, changed)
    if isinstance(found, Tail):
        assert found.end in segment.ends
        assert found.last is None or is_whole(segment.seed, found.last, changed[found.last.payload_at : found.last.end])
        assert not any(changed[found.torn_end : found.end + segment.seed.longest])

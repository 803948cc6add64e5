"""Finding one's way in a segment by its frames' own headers: where it ends, and where an index stands in it.

Nothing but the segment is needed, and little of it is read: a segment is filled from its beginning, so its end, and any
index in it, is found by halving. docs/format.md has the argument by which a torn tail is told from damage.

Pure: a function that reads is handed in, and what was found is handed back; nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from ._frames import ALIGN, MARK_BYTES, SEGMENT_HEADER_BYTES, Frame, Seed, is_whole, is_zero, read_frame, zero_sectors

__all__ = ["NEAR_BYTES", "Damage", "Read", "Tail", "any_behind", "find_tail", "frames_from", "seek"]

Read = Callable[[int, int], bytes]
"""The bytes of a segment from an offset on, so many; fewer only at its end."""

NEAR_BYTES = 1 << 16
"""How far behind an end readers look whether something stands there."""

_GRID = 1 << 16
_STRIDE = 1 << 20
_PROBE = 4096


class Damage(Exception):  # noqa: N818  not an error of this package: whoever catches it knows the path
    """Something that no crash leaves.

    Attributes:
        reason: What it is.
        offset: Where in the segment, in bytes.
        index: The index of the first entry that cannot be read.
    """

    def __init__(self, reason: str, *, offset: int, index: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset
        self.index = index


class Tail(msgspec.Struct, frozen=True):
    """How a segment ends.

    Attributes:
        last: Its last whole frame; None where there is none.
        end: Where the next frame belongs.
        torn_end: Where the bytes of a batch that a crash cut off end; `end` where there are none.
    """

    last: Frame | None
    end: int
    torn_end: int

    @property
    def torn_bytes(self) -> int:
        """How many bytes there are to cut, among them zeros."""
        return self.torn_end - self.end


def find_tail(read: Read, seed: Seed) -> Tail:
    """How the segment ends.

    Each batch is fsynced before the next one is begun, and the space ahead is zero. So a crash damages the last batch
    only, and leaves at least one of its sectors zero; what is damaged otherwise, no crash has damaged.

    Args:
        read: Reads the segment.
        seed: What its header says: how long it is, too, and how long a frame may be, so how far behind the end bytes
            are looked for.

    Raises:
        Damage: It is not what was written.
    """
    last = _last_header(read, seed, _some_end(read, seed.size))
    last = _walk(read, seed, last)
    torn: Frame | None = None
    if last is not None and not _whole(read, seed, last):
        torn, last = last, _last_header(read, seed, last.offset)
        _check_torn(read, torn)
        if last is not None and not _whole(read, seed, last):
            raise Damage("a batch before the last one is damaged", offset=last.offset, index=last.first)
    end = SEGMENT_HEADER_BYTES if last is None else last.end
    index = seed.base if last is None else last.last + 1
    if torn is not None and (torn.offset, torn.first) != (end, index):
        raise Damage("a batch before the last one is damaged", offset=end, index=index)
    behind = torn.end if torn is not None else end
    stray_end = _stray(read, seed, behind, min(seed.size, behind + seed.longest), index)
    if torn is not None and stray_end > behind:
        raise Damage("bytes stand behind the last batch", offset=behind, index=index)
    return Tail(last, end, stray_end)


def seek(read: Read, seed: Seed, end: int, index: int) -> int:
    """Where a frame begins from which on the frame with that index is found by going on; it is near."""
    low, high = SEGMENT_HEADER_BYTES, end
    while high - low > 2 * _GRID:
        middle = (low + high) // 2 // ALIGN * ALIGN
        frame = _next_header(read, seed, middle, high)
        if frame is None or frame.first > index:
            high = middle
        else:
            low = frame.offset
    return low


def any_behind(read: Read, offset: int) -> bool:
    """Whether there are bytes that are not zero near behind that offset."""
    return not is_zero(read(offset, NEAR_BYTES))


def frames_from(read: Read, seed: Seed, offset: int, want_bytes: int) -> Iterator[tuple[Frame, memoryview]]:
    """The whole frames from `offset` on, each with its payload, as long as each follows the one before.

    Args:
        read: Reads the segment.
        seed: What its header says.
        offset: Where to begin.
        want_bytes: How many bytes will be used, about; a frame is read whole in any case.
    """
    at, block, want_end = offset, memoryview(b""), offset + want_bytes
    before: Frame | None = None
    while True:
        if offset + ALIGN - at > len(block):
            at, block = offset, memoryview(read(offset, max(want_end - offset, _PROBE)))
        frame = _frame(seed, offset, block[offset - at : offset - at + ALIGN])
        if frame is None or not _follows(before, frame):
            return
        if frame.end - at > len(block):
            at, block = offset, memoryview(read(offset, max(want_end, frame.end) - offset))
        padded = block[frame.payload_at - at : frame.end - at]
        if not is_whole(seed, frame, padded):
            return
        yield frame, padded[: frame.length]
        before, offset = frame, frame.end


def _frame(seed: Seed, offset: int, header: bytes | memoryview) -> Frame | None:
    """As `read_frame`; one that is longer than may be in the segment is none, and so is never read."""
    frame = read_frame(seed, offset, header)
    return frame if frame is not None and frame.end - offset <= seed.longest else None


def _follows(before: Frame | None, frame: Frame) -> bool:
    return before is None or (frame.first == before.last + 1 and frame.epoch >= before.epoch)


# ---------------------------------------------------------------------- the end


def _some_end(read: Read, size: int) -> int:
    """A place behind which, up to the next place of the grid, there are zeros; found by halving."""
    low, high = 0, size // _GRID + 1
    while high - low > 1:
        middle = (low + high) // 2
        if is_zero(read(middle * _GRID, _PROBE)):
            high = middle
        else:
            low = middle
    return min(size, high * _GRID)


def _last_header(read: Read, seed: Seed, before: int) -> Frame | None:
    """The last frame whose header stands before that offset."""
    end = before
    while end > SEGMENT_HEADER_BYTES:
        start = max(SEGMENT_HEADER_BYTES, (end - 1) // _GRID * _GRID)
        block = read(start, end - start)
        at = len(block)
        while (at := block.rfind(seed.mark, 0, max(0, at + MARK_BYTES - 1))) >= 0:
            frame = _frame(seed, start + at, block[at : at + ALIGN])
            if frame is not None:
                return frame
        end = start
    return None


def _first_header(seed: Seed, start: int, block: bytes) -> Frame | None:
    """The first frame whose header stands in a block, which stands at `start`."""
    at = -1
    while (at := block.find(seed.mark, at + 1)) >= 0:
        frame = _frame(seed, start + at, block[at : at + ALIGN])
        if frame is not None:
            return frame
    return None


def _next_header(read: Read, seed: Seed, start: int, end: int) -> Frame | None:
    """The first frame whose header stands in between; None also where there are zeros for long."""
    while start < end:
        block = read(start, min(_GRID, end - start))
        frame = _first_header(seed, start, block)
        if frame is not None or is_zero(block):
            return frame
        start += len(block)
    return None


def _walk(read: Read, seed: Seed, frame: Frame | None) -> Frame | None:
    """The last frame of those that follow one another from this one on, or from the beginning."""
    offset = SEGMENT_HEADER_BYTES if frame is None else frame.end
    while (following := _frame(seed, offset, read(offset, ALIGN))) is not None:
        expected = seed.base if frame is None else frame.last + 1
        if following.first != expected or (frame is not None and following.epoch < frame.epoch):
            raise Damage(f"index {following.first} stands where {expected} belongs", offset=offset, index=expected)
        frame, offset = following, following.end
    return frame


def _whole(read: Read, seed: Seed, frame: Frame) -> bool:
    return is_whole(seed, frame, read(frame.payload_at, frame.end - frame.payload_at))


def _check_torn(read: Read, frame: Frame) -> None:
    """Check that a crash can have left this frame as it is.

    Raises:
        Damage: No sector of it, behind the header's, is zero that was not so by nature.
    """
    padded = read(frame.payload_at, frame.end - frame.payload_at)
    if len(padded) < frame.end - frame.payload_at:
        raise Damage("the segment was cut off", offset=frame.offset, index=frame.first)
    if zero_sectors(padded, frame.payload_at) <= frame.zeros:
        raise Damage("the checksum does not match: the batch was damaged", offset=frame.offset, index=frame.first)


def _stray(read: Read, seed: Seed, start: int, end: int, index: int) -> int:
    """Where the bytes end that stand behind the last frame; `start` where there are none.

    Raises:
        Damage: They are not what is left of a batch whose header did not arrive.
    """
    if any(read(start, min(ALIGN, end - start))):
        raise Damage("the header of a batch was damaged", offset=start, index=index)
    found = start
    for at in range(start, end, _STRIDE):
        block = read(at, min(_STRIDE, end - at))
        if not is_zero(block):
            found = at + len(block.rstrip(b"\0"))
            if _first_header(seed, at, block) is not None:
                raise Damage("the header of a batch is missing", offset=start, index=index)
    return found

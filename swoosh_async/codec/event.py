"""Events to bytes and back: each for itself when it is appended, and by the batch when they are replayed.

A batch begins with the timestamp of its first entry; each further entry is one logical step later. Behind it stand
parts, each a length, a count and one MessagePack array of events, so that replay decodes a whole part in one call; a
batch has one part unless it is large, for msgspec holds the GIL while it decodes.

This file is pure: where the bytes come from and go to is not known here.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from types import GenericAlias
from typing import Any, Generic, TypeVar, Union, overload

import msgspec

from ..clock import Timestamp
from ..errors import InvalidStateError
from ._canonical import Canonical
from ._depth import check_depth
from ._plan import Plan
from ._roundtrip import DECODE_ERRORS, RoundTrip, told
from ._wire import DecodeHook, Hook, MessagePack

__all__ = ["EventCodec", "EventsDamagedError", "Part"]

E = TypeVar("E")

_STAMP = struct.Struct("<QIQ")  # wall, logical, node
_PART = struct.Struct("<II")  # length, count
_PART_BYTES = 1 << 15
_PART_EVENTS = 256  # so few, gone before the next are made, do not set off the garbage collector


class EventsDamagedError(Exception):
    """The bytes of a batch are not those of events of the declared type.

    Attributes:
        reason: What is wrong, without any contents.
        skip: How many events of the batch come before.
    """

    def __init__(self, reason: str, *, skip: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.skip = skip


class Part(msgspec.Struct, frozen=True):
    """Some events of a batch that follow one another.

    Attributes:
        skip: How many events of the batch come before.
        count: How many they are.
        data: A MessagePack array of them.
    """

    skip: int
    count: int
    data: memoryview


class EventCodec(Generic[E]):
    """Encodes and decodes events of one type.

    Args:
        event_type: Any type that msgspec can encode and decode; a tagged union of Structs, most often.
        older: Types of events that are read as well, but not written any more.
        enc_hook: As msgspec's, for types that it does not know.
        dec_hook: As msgspec's, the way back.

    Raises:
        TypeError: msgspec does not support the type.
    """

    @overload
    def __init__(
        self,
        event_type: type[E],
        *,
        older: Iterable[type] = ...,
        enc_hook: Hook | None = ...,
        dec_hook: DecodeHook | None = ...,
    ) -> None: ...

    @overload
    def __init__(
        self,
        event_type: Any,
        *,
        older: Iterable[type] = ...,
        enc_hook: Hook | None = ...,
        dec_hook: DecodeHook | None = ...,
    ) -> None: ...

    def __init__(
        self,
        event_type: Any,
        *,
        older: Iterable[type] = (),
        enc_hook: Hook | None = None,
        dec_hook: DecodeHook | None = None,
    ) -> None:
        self._plan = Plan(event_type)
        wire = MessagePack(enc_hook, dec_hook)
        self._wire = wire
        self._roundtrip = RoundTrip(self._plan.root, Canonical(self._plan, wire), wire)
        self._regular = self._plan.is_regular(self._plan.root) and not self._plan.deep
        self._encode: Callable[[Any], bytes] = wire.encode
        self._decode: Callable[[Any], E] = wire.decoder(event_type)
        union: Any = Union
        stored: Any = union[(event_type, *older)]
        self._decode_stored: Callable[[Any], E] = wire.decoder(stored)
        self._decode_all: Callable[[Any], list[E]] = wire.decoder(GenericAlias(list, (stored,)))

    @property
    def shared(self) -> bool:
        """Whether an event is a value all the way down, and so may be encoded later than it is given."""
        return self._plan.shared

    def encode(self, event: E) -> bytes:
        """The event's canonical bytes.

        Raises:
            InvalidStateError: It would not come back as it is.
        """
        return self.twin(event)[0]

    def twin(self, event: E) -> tuple[bytes, E]:
        """The event's canonical bytes, and the event as it comes back from them, which nobody else has.

        Raises:
            InvalidStateError: It would not come back as it is.
        """
        if self._regular:
            try:
                encoded = self._encode(event)
                back = self._decode(encoded)
                if back == event:
                    return encoded, back
            except Exception:  # noqa: BLE001, S110  a closer look tells what it is, and without its contents
                pass
        try:
            if self._plan.deep:
                check_depth(event)
            encoded = self._roundtrip.encode(event, self._plan.root, "event")
            self._roundtrip.check(event, encoded, self._plan.root, "event")
        except InvalidStateError as error:
            path = error.path.replace("state", "event", 1) if error.path.startswith("state") else error.path
            raise InvalidStateError(path, error.reason, what="event") from None
        return encoded, self._decode(encoded)

    def batch(self, first: Timestamp, events: Sequence[bytes]) -> bytes:
        """The bytes of a batch of encoded events, the first of which has that timestamp."""
        pieces = [_STAMP.pack(first.wall_ns, first.logical, first.node)]
        ends = list(accumulate(map(len, events)))
        begin, done = 0, 0
        while begin < len(events):
            end = max(begin + 1, bisect_right(ends, done + _PART_BYTES, begin, min(begin + _PART_EVENTS, len(ends))))
            pieces += self._part(events[begin:end], ends[end - 1] - done)
            begin, done = end, ends[end - 1]
        return b"".join(pieces)

    def _part(self, events: Sequence[bytes], size: int) -> list[bytes]:
        opening = self._wire.opening(len(events), mapping=False)
        return [_PART.pack(len(opening) + size, len(events)), opening, *events]

    def beginning(self, data: bytes, count: int) -> bytes:
        """The bytes of a batch with the first `count` events only of the given one.

        Raises:
            EventsDamagedError: They are not what was written.
        """
        events: list[bytes] = []
        for part in self.parts(data):
            if part.skip >= count:
                break
            try:
                raws = msgspec.msgpack.decode(part.data, type=list[msgspec.Raw])
            except DECODE_ERRORS as error:
                raise self._which(part, error) from None
            events += map(bytes, raws[: count - part.skip])
        return self.batch(self.stamp(data), events)

    @staticmethod
    def stamp(data: bytes, count: int = 1) -> Timestamp:
        """The timestamp of a batch's first entry.

        Args:
            data: The batch.
            count: How many entries there are in it, each of which has one of its own.

        Raises:
            EventsDamagedError: There is none.
        """
        if len(data) < _STAMP.size:
            raise EventsDamagedError("the batch is too short for its timestamp", skip=0)
        stamp = Timestamp(*_STAMP.unpack_from(data))
        try:
            stamp.plus(count - 1)
        except ValueError:
            raise EventsDamagedError("the batch's timestamp leaves none for its last entries", skip=0) from None
        return stamp

    @staticmethod
    def parts(data: bytes) -> Iterator[Part]:
        """The parts of a batch.

        Raises:
            EventsDamagedError: They are not what was written.
        """
        view = memoryview(data)
        at, skip = _STAMP.size, 0
        while at < len(view):
            length, count = _PART.unpack_from(view, at) if len(view) - at >= _PART.size else (len(view), 0)
            at += _PART.size
            if length > len(view) - at or count == 0:
                raise EventsDamagedError("a part of the batch is cut off", skip=skip)
            yield Part(skip, count, view[at : at + length])
            at += length
            skip += count

    def events(self, part: Part) -> list[E]:
        """The events of a part.

        Raises:
            EventsDamagedError: They do not decode as the declared type.
        """
        try:
            events = self._decode_all(part.data)
        except DECODE_ERRORS as error:
            raise self._which(part, error) from None  # msgspec's own message may show contents
        if len(events) != part.count:
            raise EventsDamagedError("a part of the batch has not as many events as it says", skip=part.skip)
        return events

    def _which(self, part: Part, error: Exception) -> EventsDamagedError:
        skip = part.skip
        try:
            for raw in msgspec.msgpack.decode(part.data, type=list[msgspec.Raw]):
                self._decode_stored(raw)
                skip += 1
        except DECODE_ERRORS as found:
            error = found
        return EventsDamagedError(f"the event does not decode as the declared type ({told(error)})", skip=skip)

"""A state's canonical bytes in pieces, so that nobody holds the GIL for long and no more than a piece is in memory.

msgspec holds the GIL while it encodes. So a large mapping, sequence, set or str is cut, at any depth: small entries are
encoded together, as many as make a piece; a large one is taken apart itself. The pieces, joined, are the very bytes
that one call gives. Each is decoded again and compared before it is handed out, if that is asked for.

This file is pure. An empty piece is a place where the caller may let others run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from operator import itemgetter
from types import GenericAlias
from typing import Any

import msgspec

from ..errors import InvalidStateError
from ._canonical import SameTextError, option_of
from ._columns import Columns, size_of
from ._containers import is_known_mapping
from ._plan import Plan
from ._roundtrip import ENCODE_ERRORS, RoundTrip
from ._sorted import sorted_groups
from ._types import Fixed, Mapping, Node, Record, Scalar, Sequence, Set, Union
from ._values import is_array, is_set, is_tuple, step_to
from ._wire import TEXT_PIECE, Wire

__all__ = ["PIECE_BYTES", "Pieces"]

PIECE_BYTES = 1 << 16
"""How large a piece is meant to be."""

PIECE_ITEMS = 1 << 13
"""How many items of containers a value may hold and still be encoded in one call."""

_CHANGED = "was changed while it was saved, though its type promises that it is not"
_FIRST = 8
_MOST = 512


class Pieces:
    """An encoder in pieces of the values of one plan.

    Args:
        plan: The type's plan.
        wire: The format.
        roundtrip: Encodes and checks a part at a time.
        verify: Whether each piece is decoded again and compared.
    """

    def __init__(self, plan: Plan, wire: Wire, roundtrip: RoundTrip, *, verify: bool) -> None:
        self._plan = plan
        self._wire = wire
        self._roundtrip = roundtrip
        self._verify = verify
        self._columns = Columns()
        self._loose: dict[int, Node] = {}

    def of(self, state: Any) -> Iterator[bytes | memoryview]:
        """The pieces of a state.

        Raises:
            InvalidStateError: It cannot be encoded, or would not come back as it is.
        """
        try:
            yield from self._value(self._plan.root, state, "state")
        except (RuntimeError, KeyError):  # a mapping or a set that changed under our hands
            raise InvalidStateError("state", _CHANGED) from None  # a KeyError shows a key

    def whole(self, node: Node, value: Any, path: str) -> bytes:
        """A value in one piece, checked."""
        encoded = self._roundtrip.encode(value, node, path)
        if self._verify:
            self._roundtrip.check(value, encoded, node, path)
        elif self._wire.format == "json" and not self._finite(node, value):
            self._roundtrip.check(value, encoded, node, path)  # NaN may have become null
        return encoded

    def _finite(self, node: Node, value: Any) -> bool:
        try:
            return self._columns.finite(node, [value])
        except Exception:  # noqa: BLE001  not of its declared type, which a closer look will name
            return False

    def _is_large(self, node: Node, values: list[Any]) -> bool:
        """Whether these values hold too much for one call: by their items, and by their texts.

        The texts within the containers of entries are judged by a sample; all else is counted.
        """
        one, most = len(values) == 1, 4 * PIECE_BYTES
        try:
            if self._columns.held(node, values, PIECE_ITEMS) > PIECE_ITEMS:
                return True
            if self._columns.texts(node, values, levels=1 if one else 0) > most:
                return True
        except Exception:  # noqa: BLE001  not of its declared type, which encoding it will tell
            return False
        sample = () if one else (values[0], values[len(values) // 2], values[-1])
        return any(size_of(value, most) > most for value in sample)

    # ------------------------------------------------------------------ one value

    def _value(self, node: Node, value: Any, path: str) -> Iterator[bytes | memoryview]:
        option = option_of(node, value) if isinstance(node, Union) else node
        if not self._is_large(option, [value]):
            yield self.whole(node, value, path)
            return
        match option:
            case Mapping() if is_known_mapping(value) and not option.bounded:
                yield from self._mapping(option, value, path)
            case Set() if is_set(value) and isinstance(value, set | frozenset) and not option.bounded:
                yield from self._set(option, value, path)
            case Sequence() if is_array(value) and option.takes(value) and not option.bounded:
                groups = (list(islice(rest, _MOST)) for rest in [iter(value)] for _ in range(0, len(value), _MOST))
                yield from self._cut(_Items(option, self._loose_of(option)), groups, len(value), path)
            case Fixed() if is_tuple(value) and len(value) == len(option.items):
                yield from self._fixed(option, value, path)
            case Record() if not option.atomic and option.is_all_of(value):
                yield from self._record(option, value, path)
            case Scalar() if type(value) is str and option.declared is str and len(value) > TEXT_PIECE:
                yield from self._text(value, path)
            case _:
                yield self.whole(node, value, path)

    def _mapping(self, node: Mapping, value: Any, path: str) -> Iterator[bytes | memoryview]:
        wire = self._wire
        by_key = isinstance(node.key, Scalar) and node.key.plain is str

        def text(key: Any) -> Any:
            return wire.key_order(wire.key(key))

        entries = _Entries(node, self._loose_of(node), value, wire)
        groups = self._sorted(value, None if by_key else text, node, value, path)
        return self._cut(entries, groups if by_key else self._told_apart(groups, text, path), len(value), path)

    def _set(self, node: Set, value: Any, path: str) -> Iterator[bytes | memoryview]:
        def encoded(item: Any) -> bytes:
            return self._roundtrip.encode(item, node.item, path + "{…}")

        groups = self._sorted(value, None if self._plan.is_regular(node) else encoded, node, value, path)
        return self._cut(_Items(node, self._loose_of(node)), groups, len(value), path)

    def _sorted(
        self, keys: Collection[Any], order: Callable[[Any], Any] | None, node: Node, value: Any, path: str
    ) -> Iterator[list[Any]]:
        try:
            yield from sorted_groups(keys, order)
        except ENCODE_ERRORS as error:
            raise self._roundtrip.refusal(value, error, node, path) from None

    def _told_apart(self, groups: Iterator[list[Any]], order: Callable[[Any], Any], path: str) -> Iterator[list[Any]]:
        """The groups, unless two keys have the same text: in the order by text they stand beside each other."""
        last: Any = None
        for group in groups:
            texts = list(map(order, group))
            if texts and (texts[0] == last or len(set(texts)) < len(texts)):
                raise self._roundtrip.refusal(None, SameTextError(), self._plan.root, path)
            last = texts[-1] if texts else last
            yield group

    def _fixed(self, node: Fixed, value: tuple[Any, ...], path: str) -> Iterator[bytes | memoryview]:
        before = self._wire.opening(len(value), mapping=False)
        for i, (child, part) in enumerate(zip(node.items, value, strict=True)):
            yield before
            yield from self._value(child, part, f"{path}[{i}]")
            before = self._wire.comma
        yield self._wire.closing(mapping=False)

    def _record(self, node: Record, value: Any, path: str) -> Iterator[bytes | memoryview]:
        """What msgspec makes of the record with its large fields left open, and those fields in between."""
        parts = {name: node.get(value, name) for name in node.fields}
        large = [
            name
            for name, part in parts.items()
            if self._is_large(node.fields[name], [part]) and not self._roundtrip.is_left_out(node, name, part)
        ]
        if not large:
            yield self.whole(node, value, path)
            return
        for name, part in parts.items():
            if name not in large and part is not msgspec.UNSET:
                self.whole(node.fields[name], part, f"{path}{node.step(name)}")  # only to check it
        shell, marks = self._shell(node, value, large, path)
        for mark in sorted(marks, key=shell.index):
            before, shell = shell.split(mark, 1)
            yield before
            name = marks[mark]
            yield from self._value(node.fields[name], parts[name], f"{path}{node.step(name)}")
        yield shell

    def _shell(self, node: Record, value: Any, large: list[str], path: str) -> tuple[bytes, dict[bytes, str]]:
        """The record with a mark in place of each large field; the marks stand nowhere else in it."""
        salt = 0
        while True:
            marks = {f"\0{salt}:{i}\0".encode(): name for i, name in enumerate(large)}
            twin = copy.copy(value)
            for mark, name in marks.items():
                node.put(twin, name, msgspec.Raw(mark))
            shell = self._roundtrip.encode(twin, node, path)
            if all(shell.count(mark) == 1 for mark in marks):
                return shell, marks
            salt += 1

    def _text(self, value: str, path: str) -> Iterator[bytes | memoryview]:
        """A long str, some of its characters at a time."""
        wire = self._wire
        try:
            yield wire.text_opening(value)
            for at in range(0, len(value), TEXT_PIECE):
                yield wire.text(value[at : at + TEXT_PIECE])
            yield wire.text_closing
        except UnicodeEncodeError as error:
            raise self._roundtrip.refusal(value, error, _TEXT, path) from None

    # ------------------------------------------------------------------ many

    def _cut(
        self, kind: _Entries | _Items, groups: Iterator[list[Any]], length: int, path: str
    ) -> Iterator[bytes | memoryview]:
        """The entries or items of a container: small ones together, large ones taken apart."""
        wire, mapping = self._wire, isinstance(kind, _Entries)
        before = wire.opening(length, mapping=mapping)
        count, done = _FIRST, 0
        for group in groups:
            yield b""
            at = 0
            while at < len(group):
                some = group[at : at + count]
                chunk = kind.chunk(some)
                if not self._is_large(kind.child, kind.values(chunk)):
                    encoded = self._chunk(kind, chunk, path, done)
                    yield before
                    yield wire.inner(encoded, len(some))
                    count = max(1, min(2 * count, _MOST, count * PIECE_BYTES // len(encoded)))
                elif len(some) > 1:
                    count = max(1, len(some) // 4)
                    continue
                else:
                    (part,) = kind.values(chunk)
                    yield before + kind.prefix(some[0])
                    yield from self._value(kind.child, part, path + kind.step(some[0], done))
                    count = 2
                at += len(some)
                done += len(some)
                before = wire.comma
        if done != length:
            raise InvalidStateError(path, _CHANGED)
        yield wire.closing(mapping=mapping)

    def _chunk(self, kind: _Entries | _Items, chunk: Any, path: str, done: int) -> bytes:
        """Some entries or items in one piece; where one is wrong, its own path is named, not its place in the chunk."""
        try:
            return self.whole(kind.loose, chunk, path)
        except InvalidStateError as error:
            refusal = error
        if isinstance(kind, _Items):
            for i, item in enumerate(chunk, done):
                self.whole(kind.child, item, path + kind.step(item, i))
        raise refusal

    def _loose_of(self, node: Mapping | Sequence | Set) -> Node:
        """The node of a few of a container's entries, without its constraints."""
        found = self._loose.get(id(node))
        if found is None:
            if isinstance(node, Mapping):
                declared: Any = GenericAlias(dict, (node.key.declared, node.value.declared))
                found = Mapping(declared, node.key, node.value, read_only=True)
            else:
                declared = GenericAlias(list, (node.item.declared,))
                found = Sequence(declared, node.item, kind=list, read_only=True)
            self._loose[id(node)] = found
        return found


class _Entries:
    """A mapping's entries, by their keys."""

    def __init__(self, node: Mapping, loose: Node, value: Any, wire: Wire) -> None:
        self.child = node.value
        self.loose = loose
        self._mapping = value
        self._wire = wire

    def chunk(self, keys: list[Any]) -> dict[Any, Any]:
        if len(keys) == 1:
            return {keys[0]: self._mapping[keys[0]]}
        return dict(zip(keys, itemgetter(*keys)(self._mapping), strict=True))

    def values(self, chunk: Any) -> list[Any]:
        return list(chunk.values())

    def prefix(self, key: Any) -> bytes:
        return self._wire.key(key) + self._wire.colon

    def step(self, key: Any, _at: int) -> str:
        return step_to(key)


class _Items:
    """A sequence's or a set's items."""

    def __init__(self, node: Sequence | Set, loose: Node) -> None:
        self.child = node.item
        self.loose = loose
        self._ordered = isinstance(node, Sequence)

    def chunk(self, items: list[Any]) -> list[Any]:
        return items

    def values(self, chunk: Any) -> list[Any]:
        return list(chunk)

    def prefix(self, _item: Any) -> bytes:
        return b""

    def step(self, _item: Any, at: int) -> str:
        return f"[{at}]" if self._ordered else "{…}"


_TEXT = Scalar(str)

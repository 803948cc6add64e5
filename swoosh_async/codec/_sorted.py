"""A long sort in short steps: the same order as `sorted`, group by group, never long at a time.

Sorting 500,000 keys in one call holds the GIL for some hundred milliseconds. So the keys are sorted in chunks, each
chunk is cut at splitters that were sampled from all of them, and the slices between two splitters make a group, which
is sorted for itself. Sorted slices are long runs, which Python's sort merges instead of sorting them again; keys that
come nearly sorted already fall into few slices and cost a fraction.

After the sample sort of Frazer and McKellar, "Samplesort: A Sampling Approach to Minimal Storage Tree Sorting" (1970).
The keys stand in lists, which the garbage collector goes through, key by key, as long as they are young: with 500,000
keys some 15 ms each time, with the GIL held. So the lists are made old before they are filled.

This file is pure. An empty group is a place where the caller may let others run.
"""

from __future__ import annotations

import gc
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from typing import Any, cast

__all__ = ["sorted_groups"]

GROUP = 2048
_BUCKETS = 512
_OVERSAMPLE = 16


def sorted_groups(keys: Collection[Any], order: Callable[[Any], Any] | None = None) -> Iterator[list[Any]]:
    """The keys in ascending order, in groups of which each is sorted and none is long.

    Args:
        keys: What to sort; iterated several times, and not to be changed meanwhile.
        order: What to sort by; None for the keys themselves.

    Yields:
        Groups; an empty one after each step of work.

    Raises:
        TypeError: They cannot be ordered.
    """
    n = len(keys)
    if n <= GROUP:
        yield sorted(keys, key=cast("Any", order))
        return
    buckets = min(_BUCKETS, n // GROUP + 1)
    stride = max(1, n // (buckets * _OVERSAMPLE))
    sample: list[Any] = []
    rest = iter(keys)
    while part := list(islice(rest, 0, GROUP * _OVERSAMPLE, stride)):
        sample.extend(part if order is None else map(order, part))
        yield []
    sample.sort()
    splitters = sample[_OVERSAMPLE // 2 :: max(1, len(sample) // buckets)]
    yield []
    groups: list[list[Any]] = [[] for _ in range(len(splitters) + 1)]
    if gc.isenabled():
        gc.collect(1)  # while they are empty: as old objects they are not gone through by each young collection
    rest = iter(keys)
    while chunk := list(islice(rest, GROUP)):
        chunk.sort(key=cast("Any", order))
        _deal(chunk, splitters, groups, order)
        yield []
    groups.reverse()
    while groups:
        group = groups.pop()
        if len(group) > 4 * GROUP and len(group) < n:
            yield from sorted_groups(group, order)
        else:
            group.sort(key=cast("Any", order))
            yield group


def _deal(chunk: list[Any], splitters: list[Any], groups: list[list[Any]], order: Callable[[Any], Any] | None) -> None:
    """Append each part of a sorted chunk to the group between whose splitters it falls."""
    first, last = chunk[0], chunk[-1]
    if order is not None:
        first, last = order(first), order(last)
    low, high = bisect_left(splitters, first), bisect_left(splitters, last)
    at = 0
    for i in range(low, high):
        end = bisect_left(chunk, splitters[i], at, key=order)
        if end > at:
            groups[i].extend(chunk[at:end])
            at = end
    groups[high].extend(chunk[at:])

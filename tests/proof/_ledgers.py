"""What must be there after a power cut, by what was told before it; and what is wrong with what is found. Pure.

A line that was read before the cut is sure, and what it tells of must be there again: as acknowledged, or as read. One
that was read later is not, for on XFS fsync of a directory returns 0 on a file system that has been shut down already.
Such late acknowledgements are counted, and so are those of them that are not there.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ._children import Facts
from ._writers import SCENARIOS, Snapshots, chained

__all__ = ["BrokenError", "Ledger", "Tally", "ledgers"]

_KEPT = 4000


class BrokenError(Exception):
    """A promise was not kept.

    Attributes:
        kind: Which: "lost", "torn", "read, then lost", "wrong", or "failed" where a process failed.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Tally(msgspec.Struct):
    """How much was tried, and how it ended."""

    cuts: int = 0
    recovering: int = 0
    """Cuts before a process had recovered from the one before."""
    kills: int = 0
    acknowledged: int = 0
    read: int = 0
    unfinished: int = 0
    """Cuts with something begun that was not acknowledged."""
    torn_tails: int = 0
    """How often a batch was set aside that was not acknowledged."""
    late: int = 0
    late_lost: int = 0
    seconds: float = 0.0


class Ledger:
    """What was told of one scenario; for each kind of line, a method of its name hears it.

    Attributes:
        tally: How much was tried, and how it ended.
        known: Up to which index it is known what there is.
        opened: Whether it was surely told that a process had recovered.
    """

    def __init__(self) -> None:
        self.tally = Tally()
        self.known = 0
        self.opened = False
        self.number = 0
        self.sure = False

    @property
    def unfinished(self) -> bool:
        """Whether something was begun that is not acknowledged yet."""
        raise NotImplementedError

    def hear(self, number: int, told: Iterable[Facts], *, sure: bool) -> None:
        """Hear what a process has told, before the cut (or with none), or later.

        Raises:
            BrokenError: A promise was not kept.
        """
        self.number, self.sure = number, sure
        for what, *facts in told:
            hear = getattr(self, f"hear_{what}", None)
            if hear is not None:
                hear(*facts)


def ledgers() -> dict[str, Ledger]:
    """A new one for each scenario."""
    made: dict[str, Ledger] = {}
    for name, scenario in SCENARIOS.items():
        if isinstance(scenario, Snapshots):
            made[name] = _Saves(scenario.keep)
        else:
            made[name] = _Dispatches() if name == "machine" else _Appends()
    return made


def _must(kept: object, kind: str, message: str) -> None:
    if not kept:
        raise BrokenError(kind, message)


class _Saves(Ledger):
    """Of a store: the newest that was acknowledged or loaded, and who had begun what.

    Args:
        keep: How many snapshots it keeps.
    """

    def __init__(self, keep: int) -> None:
        super().__init__()
        self._keep = keep
        self._acknowledged = (0, 0)
        self._loaded = (0, 0)
        self._begun = {(0, 0)}
        self._late: list[tuple[int, int]] = []
        self._kept = 0

    @property
    def unfinished(self) -> bool:
        return max(self._begun) > self._acknowledged

    def hear_opened(self, kept: list[tuple[int, int]]) -> None:
        if self.sure:
            self.opened = True
            self._look([(index, maker) for index, maker in kept])

    def hear_begun(self, index: int) -> None:
        self._begun.add((index, self.number))

    def hear_acknowledged(self, index: int) -> None:
        if self.sure:
            self._acknowledged = (index, self.number)
            self.tally.acknowledged += 1
        else:
            self._late.append((index, self.number))

    def hear_loaded(self, index: int, maker: int) -> None:
        if self.sure:
            self._loaded = max(self._loaded, (index, maker))
            self.tally.read += 1

    def _look(self, kept: list[tuple[int, int]]) -> None:
        latest = kept[0] if kept else (0, 0)
        _must(latest >= self._acknowledged, "lost", f"{latest} is there, {self._acknowledged} was acknowledged")
        _must(latest >= self._loaded, "read, then lost", f"{latest} is there, {self._loaded} was loaded")
        _must(latest in self._begun, "wrong", f"{latest} is there, which nobody had begun")
        _must(kept == sorted(set(kept), reverse=True), "wrong", f"the history is {kept}")
        _must(len(kept) >= min(self._keep, self._kept), "lost", f"only {len(kept)} of {self._kept} are kept")
        self.tally.late += len(self._late)
        self.tally.late_lost += sum(save > latest for save in self._late)
        self._late.clear()
        self._acknowledged = self._loaded = latest
        self._begun = {latest}
        self._kept = min(len(kept), self._keep)
        self.known = latest[0]


class _Turns:
    """Which turns of which tasks were begun, and which of them were seen: each once, whole, and in order."""

    def __init__(self) -> None:
        self._begun: dict[tuple[int, int], int] = {}
        self._seen: dict[tuple[int, int], tuple[int, int]] = {}
        self._open = ""
        self.waiting = 0
        """How many were begun and have not ended."""

    def begin(self, number: int, task: int, turn: int) -> None:
        """A task is about to write."""
        self._begun[number, task] = turn
        self.waiting += 1

    def settle(self) -> None:
        """All that was begun so far has been seen, or never will be."""
        self._begun.clear()
        self._seen.clear()
        self.waiting = 0

    def see(self, head: str, *, first: bool = False) -> None:
        """An event is there, behind the one that was seen before; or it is the first that is kept."""
        number, task, turn, part, _ = map(int, head.split(" "))
        _must(turn <= self._begun.get((number, task), 0), "wrong", f"nobody had begun {head}")
        before = self._seen.get((number, task), (0, -1))
        _must((turn, part) > before, "wrong", f"{head} is out of order, or there twice")
        self._seen[number, task] = turn, part
        whole = self._open == ("" if part == 0 else f"{number} {task} {turn} {part}")
        _must(whole or first, "wrong", f"{head} is torn off")
        self._open = f"{number} {task} {turn} {part + 1}" if task % 4 == 0 and part < 2 else ""


class _Promised:
    """What was acknowledged, read, or acknowledged late, by its index, since it was last looked at."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._acknowledged: dict[int, object] = {}
        self._read: dict[int, object] = {}
        self._late: dict[int, object] = {}

    @property
    def last(self) -> int:
        """The last index that was acknowledged surely."""
        return max(self._acknowledged, default=0)

    def acknowledge(self, index: int, what: object, *, sure: bool) -> None:
        """Somebody was told that it is durable."""
        _must(index not in self._acknowledged, "wrong", f"{index} was acknowledged twice")
        (self._acknowledged if sure else self._late)[index] = what
        self._tally.acknowledged += sure

    def read(self, index: int, what: object) -> None:
        """Somebody has read it."""
        self._read[index] = what
        self._tally.read += 1

    def look(self, first: int, there: dict[int, object]) -> None:
        """Compare with what is there, of which everything before `first` was let go of."""
        for kind, promised in (("lost", self._acknowledged), ("read, then lost", self._read)):
            for index, what in promised.items():
                if index >= first:
                    _must(there.get(index) == what, kind, f"{index}: {what} was, {there.get(index)} is there")
        self._tally.late += len(self._late)
        self._tally.late_lost += sum(index >= first and there.get(index) != what for index, what in self._late.items())
        self._acknowledged.clear()
        self._read.clear()
        self._late.clear()


class _Appends(Ledger):
    """Of a journal: every entry that is kept."""

    def __init__(self) -> None:
        super().__init__()
        self._promised = _Promised(self.tally)
        self._turns = _Turns()
        self._there: dict[int, object] = {}
        self._newest = ""
        self._must_be_gone = self._may_be_gone = 1
        self._bounds = (1, 0)
        self._seen: list[tuple[int, str, str]] = []

    @property
    def unfinished(self) -> bool:
        return self._turns.waiting > 0

    def hear_opened(self, first: int, last: int, torn_bytes: int) -> None:
        self._bounds = first, last
        self._seen.clear()
        self.tally.torn_tails += torn_bytes > 0

    def hear_seen(self, index: int, head: str, hlc: str) -> None:
        self._seen.append((index, head, hlc))
        self.hear_read(index, head, hlc)

    def hear_checked(self) -> None:
        if self.sure:
            self.opened = True
            self._look(*self._bounds)

    def hear_begun(self, task: int, turn: int) -> None:
        self._turns.begin(self.number, task, turn)

    def hear_acknowledged(self, entries: list[tuple[int, str, str]]) -> None:
        self._turns.waiting -= 1
        for index, *entry in entries:
            self._promised.acknowledge(index, entry, sure=self.sure)

    def hear_truncating(self, index: int) -> None:
        self._may_be_gone = max(self._may_be_gone, index)

    def hear_truncated(self, index: int) -> None:
        if self.sure:
            self._must_be_gone = max(self._must_be_gone, index)

    def hear_read(self, index: int, head: str, hlc: str) -> None:
        if self.sure:
            self._promised.read(index, [head, hlc])

    def _look(self, first: int, last: int) -> None:
        last_promised = max(self.known, self._promised.last)
        _must(last >= last_promised, "lost", f"{last} is the last, {last_promised} was promised")
        may, must = self._may_be_gone, self._must_be_gone
        _must(must <= first <= may, "lost", f"{first} is the first; {must} must be gone, {may} may be")
        expected = max(first, min((index for index, *_ in self._seen), default=last + 1))
        _must(expected <= max(first, self.known + 1), "lost", f"{expected} is the first that was read")
        for index, head, hlc in self._seen:
            _must(index == expected, "lost", f"{index} comes where {expected} should")
            expected += 1
            if index <= self.known:
                _must(self._there.get(index) == [head, hlc], "wrong", f"{index} has changed to {head} {hlc}")
                continue
            self._turns.see(head, first=index == first)
            _must(hlc > self._newest, "wrong", f"time went back at {index}")
            self._newest = hlc
            self._there[index] = [head, hlc]
        _must(expected == last + 1, "lost", f"{expected} was not read")
        self._promised.look(first, self._there)
        for index in [index for index in self._there if index < first]:
            del self._there[index]
        self._turns.settle()
        self.known = last
        self._must_be_gone = self._may_be_gone = first


class _Dispatches(Ledger):
    """Of a machine: its state, which holds every event."""

    def __init__(self) -> None:
        super().__init__()
        self._promised = _Promised(self.tally)
        self._turns = _Turns()
        self._there: dict[int, object] = {}
        self._chains: dict[int, int] = {0: 0}
        self._loaded: dict[int, int] = {}

    @property
    def unfinished(self) -> bool:
        return self._turns.waiting > 0

    def hear_opened(self, count: int, chain: int, new: list[str], torn_bytes: int) -> None:
        self.tally.torn_tails += torn_bytes > 0
        if self.sure:
            self.opened = True
            self._look(count, chain, new)

    def hear_begun(self, task: int, turn: int) -> None:
        self._turns.begin(self.number, task, turn)

    def hear_withdrawn(self) -> None:
        self._turns.waiting -= 1

    def hear_acknowledged(self, count: int, heads: list[str]) -> None:
        self._turns.waiting -= 1
        for index, head in enumerate(heads, count - len(heads) + 1):
            self._promised.acknowledge(index, head, sure=self.sure)

    def hear_read(self, index: int, head: str, _: str) -> None:
        if self.sure:
            self._promised.read(index, head)

    def hear_loaded(self, count: int, chain: int) -> None:
        if self.sure:
            self._loaded[count] = chain
            self.tally.read += 1

    def _look(self, count: int, chain: int, new: list[str]) -> None:
        last_promised = max(self.known, self._promised.last)
        _must(count >= last_promised, "lost", f"it came back at {count}, {last_promised} was promised")
        _must(len(new) == count - self.known, "wrong", f"{len(new)} are new, from {self.known} to {count}")
        for index, head in enumerate(new, self.known + 1):
            self._turns.see(head)
            self._there[index] = head
            self._chains[index] = chained(self._chains[index - 1], head)
        _must(chain == self._chains[count], "wrong", f"the state at {count} is not the fold of what was acknowledged")
        for index, digest in self._loaded.items():
            _must(index <= count, "read, then lost", f"it came back at {count}, {index} was loaded")
            _must(self._chains.get(index, digest) == digest, "wrong", f"what was loaded at {index} is not there")
        oldest = count - _KEPT
        self._promised.look(oldest, self._there)
        for index in [index for index in self._there if index < oldest]:
            del self._there[index], self._chains[index]
        self._loaded.clear()
        self._turns.settle()
        self.known = count

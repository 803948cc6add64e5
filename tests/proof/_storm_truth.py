"""What a storm must have left: all that was acknowledged, whole, in order and once, and nothing that should be gone.

It blocks, and uses neither a loop nor a thread, so that the process that forks the others can look by itself.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swoosh_async import EventCodec, Snapshot, SnapshotCodec, Timestamp
from swoosh_async.backends.base import Batch, Index
from swoosh_async.backends.file import FileBackend, Generations

from ._storm_roles import STORES, State, backend, folded, saved_state

__all__ = ["Truth"]

_SNAPSHOTS = "|".join(["snapshot", *STORES])
_KNOWN = re.compile(
    rf"\.({_SNAPSHOTS}|journal)\.lock|({_SNAPSHOTS})(\.[0-9]{{10}}-[0-9]{{20}})?"
    r"|journal|journal\.[0-9]{20}|journal\.torn-[0-9]{20}-[0-9]+(-[0-9]+)?"
)
_TEMP = re.compile(r"snapshot-[0-9a-f]{16}\.tmp|journal-[0-9a-f]{16}\.tmp")
_DRAFT = re.compile(r"[0-9.]+-[0-9a-f]{16}\.tmp")

_events = EventCodec(str)
_states = SnapshotCodec(State)
_saved = SnapshotCodec(dict[str, str])


class Truth:
    """What is known of a home, and of the copies of it.

    Args:
        home: The home.
        copies: The directory of the copies.
    """

    def __init__(self, home: Path, copies: Path) -> None:
        self.home = home
        self.copies = copies
        self.events: list[str] = []
        self.states = [State()]
        self.acknowledged: dict[int, str] = {}
        self.saved = dict.fromkeys(STORES, 0)
        self.truncated = 1
        self.copied: dict[str, int] = {}
        self.heard: dict[str, int] = {}
        self.temps = self.drafts = self.torn = 0

    # ------------------------------------------------------------------ hear

    def hear(self, what: str, *facts: Any) -> None:
        """Take in what a process told."""
        self.heard[what] = self.heard.get(what, 0) + 1
        if what == "appended":
            last, events = facts
            for index, event in enumerate(events, last - len(events) + 1):
                assert index not in self.acknowledged, f"{index} was acknowledged twice"
                assert index > len(self.events), f"{index} was there before"
                self.acknowledged[index] = event
        elif what == "saved":
            name, index = facts
            self.saved[name] = max(self.saved[name], index)
        elif what == "truncated":
            self.truncated = max(self.truncated, facts[0])
        elif what == "copied":
            self.copied[facts[0]] = facts[1]
        elif what == "checked":
            assert facts == ([],), f"a check found {facts}"
        elif what == "ran":
            command, code, said = facts
            assert code == 0, f"{command} ended with {code}: {said}"
        else:
            assert what in ("open", "stood"), (what, facts)

    # ------------------------------------------------------------------ look

    def look(self, killed: int) -> None:
        """Look at all of it, after so many processes were killed, and change nothing but that copies go."""
        self._journal()
        self._snapshots()
        for name, keep in STORES.items():
            self._store(name, keep)
        self._copies(killed)
        self._names()

    def tidy(self) -> None:
        """Write as the next service would: a claim and a save, behind which nothing of dead writers is left."""
        home = backend(self.home)
        claim = home.claim()
        self.torn += claim.torn_bytes > 0
        assert claim.bounds.last == len(self.events), "a claim finds another end than a reader"
        home.release()
        self.save("one", self.saved["one"] + 1)
        left = [name for name in os.listdir(self.home) if _TEMP.fullmatch(name)]
        assert left == [], f"the next writer has left {left}"
        self._journal()

    def save(self, name: str, index: int) -> None:
        """Save into one of the stores."""
        blob = _saved.encode(Snapshot(state=saved_state(index), last_applied_index=index))
        Generations(self.home / name).put(blob, keep=STORES[name], allow_rollback=False)
        self.saved[name] = index

    def append(self, event: str) -> None:
        """Append one event."""
        home = backend(self.home)
        claim = home.claim()
        index = Index(claim.bounds.last + 1)
        home.append(Batch(index, 1, claim.epoch, _events.batch(Timestamp(1), [_events.encode(event)])))
        home.release()
        self.acknowledged[index] = event

    def _journal(self) -> None:
        home = backend(self.home)
        bounds = home.bounds()
        assert bounds.last >= max(self.acknowledged, default=len(self.events)), "an acknowledged event is missing"
        assert bounds.first >= self.truncated, "what was let go of is there again"
        found = dict(self.acknowledged)
        for index, event in _entries(home, bounds.first, bounds.last):
            known = self.events[index - 1] if index <= len(self.events) else found.setdefault(index, event)
            assert known == event, f"{index} is not what was acknowledged"
        for index in range(len(self.events) + 1, bounds.last + 1):
            self.events.append(found[index])
            self.states.append(folded(self.states[-1], found[index]))
        self.acknowledged.clear()
        oldest = min((int(name.rpartition("-")[2]) for name in home.names()), default=0)
        assert bounds.first <= oldest + 1, "nothing leads from the oldest snapshot on"

    def _snapshots(self) -> None:
        home = backend(self.home)
        for name in home.names():
            self._is_a_state(home, name, len(self.events))

    def _is_a_state(self, home: FileBackend, name: str, last: int) -> int:
        with home.open(name) as source:
            snapshot = _states.read(source).snapshot
        index = snapshot.last_applied_index
        assert index <= last, f"{name} is ahead of the journal"
        assert snapshot.state == self.states[index], f"{name} is not what its events lead to"
        return index

    def _store(self, name: str, keep: int) -> None:
        store = Generations(self.home / name)
        indices = []
        for stored in store.names():
            with store.open(stored) as source:
                snapshot = _saved.read(source).snapshot
            assert snapshot.state == saved_state(snapshot.last_applied_index), f"{stored} is not what was saved"
            indices.append(snapshot.last_applied_index)
        assert indices[0] >= self.saved[name], f"{name} has lost {self.saved[name]}, and holds {indices}"
        assert indices == sorted(indices, reverse=True), f"{name} is out of order: {indices}"
        behind = sum(
            index >= self.saved[name] for index in indices
        )  # their savers may have died before they removed any
        assert min(keep, self.saved[name]) <= len(indices) <= keep + behind, f"{name} keeps {indices}"
        self.saved[name] = indices[0]

    def _copies(self, killed: int) -> None:
        names = os.listdir(self.copies)
        drafts = [name for name in names if _DRAFT.fullmatch(name)]
        assert len(drafts) <= killed, drafts
        assert {*self.copied} <= {*names}, "a copy is missing"
        for name in {*names} - {*drafts}:
            self._copy(self.copies / name, self.copied.get(name))
        for name in names:
            shutil.rmtree(self.copies / name)
        self.drafts += len(drafts)
        self.copied.clear()

    def _copy(self, path: Path, acknowledged: int | None) -> None:
        copy = FileBackend(path)
        bounds = copy.bounds()
        ends = [self._is_a_state(copy, name, bounds.last) for name in copy.names()]
        assert bounds.first <= max(ends, default=0) + 1, f"{path} does not lead to its end"
        assert acknowledged is None or max(bounds.last, *ends, 0) == acknowledged, f"{path} is not what was copied"
        for index, event in _entries(copy, bounds.first, bounds.last):
            assert self.events[index - 1] == event, f"{index} of {path} is not what was copied"
        assert not [name for name in os.listdir(path) if not _KNOWN.fullmatch(name)], f"{path} holds something else"

    def _names(self) -> None:
        unknown = [name for name in os.listdir(self.home) if not _KNOWN.fullmatch(name)]
        assert all(map(_TEMP.fullmatch, unknown)), f"{unknown} should not be there"
        self.temps += len(unknown)


def _entries(home: FileBackend, first: int, last: int) -> Iterator[tuple[int, str]]:
    """All entries, with their indexes, which have no gap."""
    after = first - 1
    while after < last:
        for batch in home.read(Index(after), 1 << 20):
            assert batch.first <= after + 1 <= batch.last, "there is a gap"
            events = [event for part in _events.parts(batch.data) for event in _events.events(part)]
            assert len(events) == batch.count, "a batch is not whole"
            yield from ((index, event) for index, event in enumerate(events, batch.first) if after < index <= last)
            after = batch.last

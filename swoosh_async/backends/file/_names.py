"""The names that stand in a snapshot's directory, and what is to be done with them: decided here, done elsewhere.

For a snapshot called ``NAME``: ``NAME`` itself is the latest; ``NAME.<number>-<position>`` is a generation, immutable,
the newest of them being the same file as the latest; ``.NAME.lock`` is the lock; ``NAME.corrupt-<random>`` was set
aside; ``snapshot-<random>.tmp`` is being written, or was when its writer died.

This file is pure: names in, names out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

import msgspec

__all__ = ["NAME_BYTES", "Generation", "Names", "is_temp"]

NAME_BYTES = 255
"""The longest name of a file on Linux's file systems, in bytes."""

_LONGEST_SUFFIX = ".0000000000-00000000000000000000"
_TEMP = re.compile(r"snapshot-.+\.tmp")


class Generation(msgspec.Struct, frozen=True, order=True):
    """A kept snapshot, ordered by age.

    Attributes:
        number: Counts up with each save.
        position: The index that it stands for.
        name: Its file's name.
    """

    number: int
    position: int
    name: str


def is_temp(name: str) -> bool:
    """Whether a file of that name may be one that is being written."""
    return _TEMP.fullmatch(name) is not None


class Names:
    """The names around one snapshot.

    Args:
        latest: The snapshot's own name.
    """

    def __init__(self, latest: str) -> None:
        self.latest = latest
        self.lock = f".{latest}.lock"
        self._generation = re.compile(re.escape(latest) + r"\.([0-9]{10,})-([0-9]{20})")

    def too_long(self) -> bool:
        """Whether the longest of the names would not fit into a directory."""
        return len(os.fsencode(self.latest + _LONGEST_SUFFIX)) > NAME_BYTES

    def parse(self, name: str) -> Generation | None:
        """The generation of that name; None if it is not one."""
        match = self._generation.fullmatch(name)
        return None if match is None else Generation(int(match[1]), int(match[2]), name)

    def generations(self, names: Iterable[str]) -> list[Generation]:
        """The generations among `names`, newest first."""
        return sorted(filter(None, map(self.parse, names)), reverse=True)

    def next_number(self, generations: Sequence[Generation]) -> int:
        """The number of the generation after the newest."""
        return generations[0].number + 1 if generations else 1

    def generation(self, number: int, position: int) -> Generation:
        """The generation of that number and position."""
        return Generation(number, position, f"{self.latest}.{number:010d}-{position:020d}")

    def corrupt(self, token: str) -> str:
        """The name under which a damaged snapshot is set aside."""
        return f"{self.latest}.corrupt-{token}"

    def kept(self, generations: Sequence[Generation], latest: Generation | None) -> list[Generation]:
        """The generations that were the latest once, newest first: those up to the one that is the latest now."""
        return [g for g in generations if latest is None or g.number <= latest.number]

    def orphans(self, generations: Sequence[Generation], latest: Generation | None) -> list[Generation]:
        """The generations that are newer than the latest, and were never acknowledged.

        Their writer died between naming them and making them the latest. They go before a newer one is named, for then
        they could not be told from the others.
        """
        return [g for g in generations if latest is not None and g.number > latest.number]

    def surplus(self, generations: Sequence[Generation], latest: Generation | None, keep: int) -> list[Generation]:
        """The generations to remove so that `keep` snapshots stay, the latest among them."""
        kept = self.kept(generations, latest)[: keep if latest is not None else keep - 1]
        return [g for g in generations if g not in kept]

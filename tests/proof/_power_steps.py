"""Cuts the power before and behind each system call of one deed, and lets the deed go on, to see what it says.

It is told either that nothing has happened, and then nothing has; or that it may have; or that it is done, and then it
is there when the power is back. A process of its own, for it forks: ``python -P -m tests.proof._power_steps KIND HOME
DISK DEED…``. It tells on its standard output what becomes of it, one line of JSON for each deed.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, cast

import anyio

from swoosh_async.backends.file import Disk, OsDisk
from swoosh_async.errors import OutcomeUnknownError, SwooshError

from ._children import Child, Facts, Tell, begun, failures, say
from ._deeds import DEEDS, Deed, Enter, Load
from ._ledgers import BrokenError
from ._mounts import Image, cut
from ._weak_disks import DISKS
from ._writers import LOOPS


class CuttingDisk:
    """Another disk's calls, before or behind one of which the power is cut; what comes later is asked for all the same.

    Args:
        inner: The other disk.
        at: Where what it works on is mounted.
    """

    def __init__(self, inner: Disk, at: Path) -> None:
        self._inner = inner
        self._at = at
        self._left = -1
        self._behind = False
        self.cut = ""
        """Where the power was cut; empty if it was not."""

    def arm(self, call: int, *, behind: bool) -> None:
        """Cut the power before the call of that number, from here on, or behind it."""
        self._left, self._behind = call, behind

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._call, name, getattr(self._inner, name))

    def _call(self, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        here = self._left == 0
        self._left -= 1
        if here and not self._behind:
            self._cut(f"before {name}")
        try:
            return call(*arguments)
        finally:
            if here and self._behind:
                self._cut(f"behind {name}")

    def _cut(self, where: str) -> None:
        self.cut = where
        cut(self._at)


class Attempt(NamedTuple):
    """One of them, what it said, and where the power was cut; "" for at rest behind its last step."""

    home: Path
    outcome: str
    cut: str


class Steps:
    """One deed, again and again, with the power cut at another of its steps each time.

    Args:
        image: The file system, which is mounted.
        deed: What is done.
        disk: The system calls that change the disk.
    """

    def __init__(self, image: Image, deed: type[Deed], disk: Disk) -> None:
        self._image = image
        self._deed = deed
        self._disk = disk
        self._attempts: list[Attempt] = []

    @property
    def outcomes(self) -> Counter[str]:
        """What the deed has said, and how often."""
        return Counter(attempt.outcome for attempt in self._attempts)

    def run(self) -> None:
        """Cut the power at each step, and at rest behind the last; and then look at what is left of each.

        Raises:
            BrokenError: What the deed has said is not so.
        """
        for behind in (False, True):
            for call in count():
                self._attempts.append(self._attempt(call, behind=behind))
                if not self._attempts[-1].cut:
                    break
        told = self._told(self._look, len(self._attempts))
        for attempt, (what, *facts) in zip(self._attempts, told, strict=True):
            if what != "there":
                raise BrokenError(what, str(facts))
            self._judge(attempt, facts[0])

    def _attempt(self, call: int, *, behind: bool) -> Attempt:
        """Cut it at that step, if the deed has so many."""
        disk = CuttingDisk(self._disk, self._image.at)
        home = self._image.at / f"{self._deed.__name__}-{len(self._attempts)}"
        deed = self._deed(home, cast("Disk", disk))

        async def attempt(tell: Tell) -> None:
            await deed.prepare()
            disk.arm(call, behind=behind)
            outcome = "done"
            try:
                await deed.do()
            except SwooshError as error:
                outcome = type(error).__name__
            tell("outcome", outcome, disk.cut)
            await anyio.sleep_forever()

        ((what, *facts),) = self._told(attempt, 1)
        if what != "outcome":
            raise BrokenError(what, str(facts))
        outcome, where = facts
        if not where:
            self._image.cut()
        self._image.unmount()
        self._image.mount()
        return Attempt(home, outcome, where)

    async def _look(self, tell: Tell) -> None:
        for attempt in self._attempts:
            try:
                tell("there", await self._deed(attempt.home, OsDisk()).there())
            except Exception as error:  # noqa: BLE001  it is told
                tell(*next(failures(error)))
        await anyio.sleep_forever()

    def _told(self, work: Callable[[Tell], Awaitable[None]], lines: int) -> list[Facts]:
        """So many lines of what a process has told."""
        loop, options = LOOPS[len(self._attempts) % len(LOOPS)]
        child = Child(lambda tell: anyio.run(work, tell, backend=loop, backend_options=options))
        try:
            child.hear_until(lambda told: len(told) >= lines)
        finally:
            child.kill()
        return child.told[:lines]

    def _judge(self, attempt: Attempt, there: int) -> None:
        old, new = self._deed.old, self._deed.new
        right = {"done": (new,), OutcomeUnknownError.__name__: (old, new)}.get(attempt.outcome, (old,))
        if issubclass(self._deed, Load | Enter) and attempt.outcome != "done":
            right = (old, new)  # nobody was told what is there
        if there not in right:
            where = attempt.cut or "at rest"
            said = f"{self._deed.__name__}, cut {where}: {attempt.outcome}, and {there} is there, of {old} and {new}"
            raise BrokenError("lost" if attempt.outcome == "done" else "wrong", said)


def main(kind: str, home: str, disk: str, *deeds: str) -> None:
    """Make the file system, and do all deeds, or these."""
    image = begun(kind, home)
    if image is None:
        return
    for name in deeds or DEEDS:
        steps = Steps(image, DEEDS[name], DISKS[disk]() if disk else OsDisk())
        broken = None
        try:
            steps.run()
        except BrokenError as error:
            broken = error.kind, str(error)
        say("deed", name, steps.outcomes, broken)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Cuts the power of a file system under load, again and again, and looks each time at what is there.

A process of its own, for it forks: ``python -P -m tests.proof._power_cuts KIND HOME CUTS WRITERS READERS SCENARIO…``,
where the disks of writers and readers may be empty. It tells on its standard output what becomes of it, in JSON.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from swoosh_async.backends.file import Disk

from ._children import Child, Facts, begun, say
from ._ledgers import BrokenError, Ledger, ledgers
from ._mounts import Image
from ._weak_disks import DISKS, Slow
from ._writers import SCENARIOS, Plan, on_a_loop

_PROGRESS_S = 5.0


class Storm:
    """Power cuts of one file system.

    Args:
        image: The file system, which is mounted.
        scenarios: What is done to it, in turn.
        writers: The system calls of those who write; None for the operating system's own, some of them slow.
        readers: The system calls of those who read; None for the operating system's own.
    """

    def __init__(
        self, image: Image, scenarios: Sequence[str], writers: Disk | None = None, readers: Disk | None = None
    ) -> None:
        self.ledgers = {name: ledger for name, ledger in ledgers().items() if name in scenarios}
        self._image = image
        self._writers = writers
        self._readers = readers
        self._chance = random.Random(image.kind)
        self.scenario = ""
        """Which of them is at work."""

    @property
    def cuts(self) -> int:
        """How many there were."""
        return sum(ledger.tally.cuts for ledger in self.ledgers.values())

    def run(self, cuts: int) -> None:
        """Cut the power so often, and then look at everything once more.

        Raises:
            BrokenError: A promise was not kept.
        """
        names = list(self.ledgers)
        number = 0
        told = time.monotonic()
        while self.cuts < cuts:
            number += 1
            self._round(number, names[number % len(names)])
            if time.monotonic() > told + _PROGRESS_S:
                told = time.monotonic()
                say("progress", self.cuts)
        for name in names:
            number += 1
            self._round(number, name, last=True)

    def _round(self, number: int, name: str, *, last: bool = False) -> None:
        """Let one process write, and one read beside it, until the power is cut, or it is only killed."""
        begun = time.monotonic()
        self.scenario = name
        chance, ledger, scenario = self._chance, self.ledgers[name], SCENARIOS[name]
        manner = "rest" if last else chance.choice(["load", "load", "load", "recovery", "rest"])
        cuts = not last and chance.random() > 0.1
        plan = Plan(
            place=self._image.at / name.replace(", ", "-"),
            number=number,
            rests_after=chance.randrange(1, 20) if manner == "rest" else 0,
            known=0 if name == "journal" and (last or chance.random() < 0.05) else ledger.known,
            disk=self._writers or (Slow() if chance.random() < 0.2 else None),
        )
        children = [Child(on_a_loop(scenario.write, plan))]
        if not last and (self._readers or chance.random() < 0.4):
            children.append(Child(on_a_loop(scenario.read, replace(plan, disk=self._readers))))
        try:
            self._wait(children[0], manner)
            for child in children:
                child.hear()
            sure = [len(child.told) for child in children]
            if cuts:
                self._image.cut()
                if chance.random() < 0.5:  # what runs on is told that the disk is gone, and tells nobody otherwise
                    time.sleep(chance.random() * 0.004)
        finally:
            for child in children:
                child.kill()
        if cuts:
            self._image.unmount()
            self._image.mount()
        else:
            sure = [len(child.told) for child in children]
        ledger.opened = False
        _judge(ledger, number, [child.told for child in children], sure)
        if last and not ledger.opened:
            raise BrokenError("failed", f"{children[0].told[-1:]} is all that the last process told")
        tally = ledger.tally
        tally.cuts += cuts
        tally.kills += not cuts
        tally.recovering += cuts and not ledger.opened
        tally.seconds += time.monotonic() - begun

    def _wait(self, writer: Child, manner: str) -> None:
        chance = self._chance
        if manner == "recovery":
            time.sleep(chance.random() * 0.012)
        elif manner == "rest":
            writer.hear_until(lambda told: told and told[-1][0] in ("rests", "refused", "failed", "torn"))
        else:
            lines = chance.randrange(1, 60)
            writer.hear_until(lambda told: len(told) >= lines)
            time.sleep(chance.random() * 0.004)


def _judge(ledger: Ledger, number: int, told: list[list[Facts]], sure: list[int]) -> None:
    """Hear what the children have told before the cut, and then what they told later."""
    for facts, known in zip(told, sure, strict=True):
        _judge_errors(facts[:known], after=False)
        _judge_errors(facts[known:], after=True)
        ledger.hear(number, facts[:known], sure=True)
    ledger.tally.unfinished += ledger.unfinished
    for facts, known in zip(told, sure, strict=True):
        ledger.hear(number, facts[known:], sure=False)


def _judge_errors(told: list[Facts], *, after: bool) -> None:
    for what, *facts in told:
        if what in ("torn", "failed") or (what == "refused" and not after):
            raise BrokenError("torn" if what == "torn" else "failed", str(facts))


def main(kind: str, home: str, cuts: str, writers: str, readers: str, *scenarios: str) -> None:
    """Make the file system, and cut its power so often."""
    image = begun(kind, home)
    if image is None:
        return
    disks = [DISKS[name]() if name else None for name in (writers, readers)]
    storm = Storm(image, scenarios or tuple(SCENARIOS), *disks)
    broken = None
    try:
        storm.run(int(cuts))
    except BrokenError as error:
        broken = error.kind, str(error), storm.scenario
        image.keep(Path(home) / f"{kind}.image")
    say("ended", {name: ledger.tally for name, ledger in storm.ledgers.items()}, broken)


if __name__ == "__main__":
    main(*sys.argv[1:])

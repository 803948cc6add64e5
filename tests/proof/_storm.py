"""A storm of SIGKILLs over one home: processes that do all there is to do, forked, killed at random, and looked after.

``python _storm.py HOME KILLS SEED [MUTANT]``, with the directory of the tests on the path; it prints what there was.
"""

from __future__ import annotations

import json
import os
import random
import selectors
import signal
import sys
import time
from pathlib import Path
from typing import Any

import anyio._backends._asyncio
import anyio._backends._trio
import trio

from swoosh_async.backends.file import OsDisk, _directory, _segments, _writer

from ._storm_roles import ROLES
from ._storm_truth import Truth

__all__ = ["MUTANTS", "storm"]

_LINES = {"looks": 4, "commands": 3}
"""How many lines a process tells at most before it is killed, where they are not as many as those of who writes."""

_LONGEST_S = 0.3
_LONGEST_LOOK_S = 2.0
_LOOPS = anyio._backends._asyncio, anyio._backends._trio, trio
"""Imported here, once, and not by each child."""


class Process:
    """A forked process, until it is killed.

    Args:
        role: What it does.
        number: Which process of the storm it is.
        truth: What it works on, and what hears of it.
        seed: What its chance comes from.
    """

    def __init__(self, role: str, number: int, truth: Truth, seed: str) -> None:
        self.role = role
        self._truth = truth
        chance = random.Random(f"kill {seed} {number}")
        self._lines_left = 0 if number % 4 == 0 else chance.randrange(1, _LINES.get(role, 60))
        self._pause_s = chance.random() * (0.03 if self._lines_left == 0 else 0.003)
        self._told = b""
        self.out, into = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self.out)
            _live(role, number, truth, into, random.Random(f"{seed} {number}"))
        os.close(into)
        longest_s = _LONGEST_LOOK_S if role in _LINES else _LONGEST_S
        self.dies_at = time.monotonic() + (longest_s if self._lines_left else self._pause_s)

    def listen(self) -> bool:
        """Read what it has told; False where it will tell nothing more."""
        if not (data := os.read(self.out, 1 << 16)):
            return False
        self._told += data
        self._lines_left -= data.count(b"\n")
        if self._lines_left <= 0:
            self.dies_at = min(self.dies_at, time.monotonic() + self._pause_s)
        return True

    def kill(self) -> None:
        """Kill it, and hear all that it has told."""
        os.kill(self._pid, signal.SIGKILL)
        while self.listen():
            pass
        os.close(self.out)
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        facts = [json.loads(line) for line in self._told.split(b"\n")[:-1]]
        assert code == -signal.SIGKILL, f"{self.role} ended by itself: {facts[-1:]}"
        for fact in facts:
            self._truth.hear(*fact)


def _live(role: str, number: int, truth: Truth, into: int, chance: random.Random) -> None:
    """What a child does; it never returns."""

    def tell(*facts: Any) -> None:
        os.write(into, json.dumps(facts).encode() + b"\n")

    try:
        ROLES[role](truth.home, truth.copies, number, chance, tell)
        tell("failed", "it has ended")
    except BaseException as error:  # noqa: BLE001  whatever it is, it is told, and the parent must not be run here
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        tell("failed", repr(error))
    finally:
        os._exit(1)


def _round(first: int, truth: Truth, seed: str) -> int:
    """Some processes at once: one that writes the journal, and any that save and look; how many they were."""
    chance = random.Random(f"round {seed} {first}")
    roles = [chance.choice(["dispatches", "dispatches", "appends"])]
    roles += [role for role in ("saves", "saves", "looks", "commands") if chance.random() < 0.7]
    chance.shuffle(roles)
    living = [Process(role, number, truth, seed) for number, role in enumerate(roles, first)]
    with selectors.DefaultSelector() as selector:
        for process in living:
            selector.register(process.out, selectors.EVENT_READ, process)
        while living:
            wait_s = max(0.0, min(process.dies_at for process in living) - time.monotonic())
            for key, _ in selector.select(wait_s):
                if not key.data.listen():
                    key.data.dies_at = 0.0
            for process in [process for process in living if process.dies_at <= time.monotonic()]:
                selector.unregister(process.out)
                living.remove(process)
                process.kill()
    return len(roles)


def storm(home: Path, kills: int, seed: str) -> dict[str, int]:
    """Kill so many processes, or some more; raises AssertionError where anything is not as it must be."""
    truth = Truth(home / "home", home / "copies")
    truth.copies.mkdir()
    truth.home.mkdir()
    for name in truth.saved:
        truth.save(name, 1)
    truth.append("the first")
    killed = 0
    while killed < kills:
        number = _round(killed, truth, seed)
        killed += number
        truth.look(number)
        if random.Random(f"tidy {seed} {killed}").random() < 0.5:
            truth.tidy()  # or else the next one comes to what the dead have left
    truth.tidy()
    counts = {"kills": killed, "events": len(truth.events), "temps": truth.temps, "drafts": truth.drafts}
    return counts | {"torn": truth.torn} | truth.heard


# ---------------------------------------------------------------------- mutants


def _in_place() -> None:
    """A rename of the one snapshot that is none: the target is overwritten, piece by piece."""
    by_name = OsDisk.rename

    def rename(self: OsDisk, source: str, target: str, dir_fd: int) -> None:
        if target != "one":
            by_name(self, source, target, dir_fd)
            return
        reader = os.open(source, os.O_RDONLY, dir_fd=dir_fd)
        writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=dir_fd)
        while piece := os.read(reader, 64):
            os.write(writer, piece)
        os.close(reader)
        os.close(writer)
        os.unlink(source, dir_fd=dir_fd)

    OsDisk.rename = rename  # type: ignore[method-assign]


def _too_early() -> None:
    """An acknowledgement before the event has been written, which is done with the next one, or at the end."""
    waiting: list[tuple[int, bytes, int]] = []
    close = _writer.Writer.close

    def flush() -> None:
        while waiting:
            fd, data, offset = waiting.pop()
            os.pwrite(fd, data, offset)
            os.close(fd)

    def write(_: _segments.Segments, active: _segments.Active, data: bytes, *_more: Any) -> None:
        flush()
        waiting.append((os.dup(active.fd), data, active.end))

    def flush_and_close(self: _writer.Writer) -> None:
        flush()
        close(self)

    _segments.Segments.write = write  # type: ignore[method-assign]
    _writer.Writer.close = flush_and_close  # type: ignore[method-assign]


def _no_sweep() -> None:
    """Nobody removes what dead writers have left."""
    _directory.Directory.sweep = lambda _: None  # type: ignore[method-assign]
    _segments.Segments.sweep = lambda _: None  # type: ignore[method-assign]


MUTANTS = {"in place": _in_place, "too early": _too_early, "no sweep": _no_sweep}
"""What must not go unnoticed."""


def main() -> None:
    """As the module says."""
    home, kills, seed, *mutant = sys.argv[1:]
    for name in mutant:
        MUTANTS[name]()
    sys.stdout.write(json.dumps(storm(Path(home), int(kills), seed)))


if __name__ == "__main__":
    main()

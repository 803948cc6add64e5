"""Killed at random under load, again and again: what was acknowledged is there, once, in order, and without gaps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ._faults import python

pytest.importorskip("fcntl", reason="a file backend needs flock")

KILLS = 200

# It forks its children itself, and has neither a loop nor a thread, so that a child costs some milliseconds only.
SCRIPT = """
import json, os, random, signal, sys, time
from importlib.util import find_spec

import anyio, trio
import anyio._backends._asyncio, anyio._backends._trio
from swoosh_async import EventCodec, FileBackend, Journal
from swoosh_async.backends.base import Index

path, kills, seed = sys.argv[1], int(sys.argv[2]), sys.argv[3]
LOOPS = [("asyncio", {}), ("trio", {})] + [("asyncio", {"use_uvloop": True})] * (find_spec("uvloop") is not None)


def backend():
    return FileBackend(path, segment_bytes=1 << 14, lock_timeout_s=0)


def child(number, pipe):
    chance = random.Random(f"{seed} {number}")

    def tell(*facts):
        os.write(pipe, json.dumps(facts).encode() + b"\\n")

    async def main():
        async with Journal(backend(), str, batch_events=chance.choice([3, 100])) as journal:
            tell("open", journal.last_index, journal.torn_bytes)

            async def appender(task):
                turn = 0
                while True:
                    turn += 1
                    size = chance.choice([0, 10, 200, 3000])
                    if task % 4 == 0:
                        events = [f"{number} {task} {turn} {part} " + "x" * size for part in range(3)]
                        for receipt, event in zip(await journal.append_many(events), events):
                            tell("appended", receipt.index, event, str(receipt.hlc))
                    elif task == 5 and turn % 3 == 2:
                        index = max(1, journal.last_index - 100)
                        tell("truncate", index)
                        await journal.truncate_before(index)
                        tell("truncated", index)
                    else:
                        event = f"{number} {task} {turn} 0 " + "x" * size
                        receipt = await journal.append(event)
                        tell("appended", receipt.index, event, str(receipt.hlc))

            async with anyio.create_task_group() as tasks:
                for task in range(16):
                    tasks.start_soon(appender, task)

    loop, options = LOOPS[number % len(LOOPS)]
    anyio.run(main, backend=loop, backend_options=options)


def killed(number):
    # What a child told before it was killed: after so many lines, or at some time on its way.
    chance = random.Random(f"kill {seed} {number}")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            child(number, writer)
        finally:
            os._exit(1)
    os.close(writer)
    told = b""
    lines = 0 if number % 4 == 0 else chance.randrange(1, 150)
    while told.count(b"\\n") < lines and (more := os.read(reader, 65536)):
        told += more
    time.sleep(chance.random() * (0.03 if lines == 0 else 0.003))
    os.kill(pid, signal.SIGKILL)
    while more := os.read(reader, 65536):
        told += more
    os.close(reader)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL, "it ended by itself"
    return [json.loads(line) for line in told.split(b"\\n")[:-1]]


class Checked:
    # What there must be, and what is wrong.

    def __init__(self):
        self.codec = EventCodec(str)
        self.acknowledged = {}
        self.may_be_gone = self.must_be_gone = 1
        self.last = self.torn = self.opened = 0
        self.events = {}
        self.turns = {}
        self.newest = ""

    def hear(self, told):
        for what, *facts in told:
            if what == "open":
                self.opened += 1
                self.torn += facts[1] > 0
                assert facts[0] == self.last, f"it opened at {facts[0]}, not {self.last}"
            elif what == "truncate":
                self.may_be_gone = max(self.may_be_gone, facts[0])
            elif what == "truncated":
                self.must_be_gone = max(self.must_be_gone, facts[0])
            else:
                index, event, hlc = facts
                assert index not in self.acknowledged, f"{index} was acknowledged twice"
                self.acknowledged[index] = event, hlc

    def look(self):
        home = backend()
        claim = home.claim()
        try:
            first, last = claim.bounds.first, claim.bounds.last
            self.torn += claim.torn_bytes > 0
            assert self.must_be_gone <= first <= self.may_be_gone, (self.must_be_gone, first, self.may_be_gone)
            assert last >= max(self.acknowledged, default=0), "an acknowledged event is missing at the end"
            after = max(self.last, first - 1)
            while after < last:
                for batch in home.read(Index(after), 1 << 20):
                    index, stamp = batch.first, self.codec.stamp(batch.data)
                    events = [event for part in self.codec.parts(batch.data) for event in self.codec.events(part)]
                    assert len(events) == batch.count
                    assert batch.first <= after + 1, "there is a gap"
                    for step, event in enumerate(events):
                        if batch.first + step > after:
                            self.see(batch.first + step, event, str(stamp.plus(step)))
                    after = batch.last
            self.last = last
        finally:
            home.release()

    def see(self, index, event, hlc):
        assert event not in self.events, f"{event[:20]} is there twice"
        self.events[event] = index
        assert self.acknowledged.get(index, (event, hlc)) == (event, hlc), f"{index} is not what was acknowledged"
        number, task, turn, part = map(int, event.split(" ")[:4])
        assert (turn, part) > self.turns.get((number, task), (0, 0)), f"{event[:20]} is out of order"
        self.turns[number, task] = turn, part
        assert hlc > self.newest, "time went back"
        self.newest = hlc

    def all_of_it(self):
        # Once more from the beginning, in one go, with what was acknowledged by all.
        home = backend()
        first, last = home.bounds().first, home.bounds().last
        found, after = {}, first - 1
        while after < last:
            for batch in home.read(Index(after), 1 << 20):
                events = [event for part in self.codec.parts(batch.data) for event in self.codec.events(part)]
                found.update(zip(range(batch.first, batch.last + 1), events))
                after = batch.last
        for index, (event, _) in self.acknowledged.items():
            assert index < first or found.get(index) == event, f"{index} is missing"


checked = Checked()
for number in range(kills):
    checked.hear(killed(number))
    checked.look()
checked.all_of_it()
print(json.dumps([checked.opened, checked.torn, checked.last, len(checked.acknowledged), checked.must_be_gone]))
"""


@pytest.mark.slow
def test_killed_at_random(tmp_path: Path) -> None:
    """Sixteen tasks append and truncate until the process is killed, two hundred times, on loops of all kinds."""
    code, out, _ = python(SCRIPT, tmp_path, KILLS, "seed")
    assert code == 0
    opened, _, last, acknowledged, truncated = json.loads(out)
    assert opened > KILLS / 2
    assert last >= acknowledged > 20 * KILLS
    assert truncated > last / 2

"""Killed at random under load and beside snapshots, again and again: what was acknowledged is in the state, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ._faults import python

pytest.importorskip("fcntl", reason="a file backend needs flock")

KILLS = 200

# It forks its children itself, and has neither a loop nor a thread, so that a child costs some milliseconds only. What
# is in the state each child tells when it has come back: all that the parent has not heard of before.
SCRIPT = """
import json, os, random, signal, sys, time
from importlib.util import find_spec

import anyio, msgspec, trio
import anyio._backends._asyncio, anyio._backends._trio
from swoosh_async import FileBackend
from swoosh_async.machine import SnapshotPolicy, StateMachine

path, kills, seed = sys.argv[1], int(sys.argv[2]), sys.argv[3]
LOOPS = [("asyncio", {}), ("trio", {})] + [("asyncio", {"use_uvloop": True})] * (find_spec("uvloop") is not None)


class State(msgspec.Struct, frozen=True):
    count: int = 0
    recent: tuple[str, ...] = ()


def apply(state, event, entry):
    assert entry.index == state.count + 1
    if event.startswith("!"):
        raise ValueError(event)
    return State(state.count + 1, (*state.recent, event)[-2000:])


def child(number, pipe, known):
    chance = random.Random(f"{seed} {number}")

    def tell(*facts):
        os.write(pipe, json.dumps(facts).encode() + b"\\n")

    async def main():
        machine = StateMachine(
            FileBackend(path, segment_bytes=1 << 14, lock_timeout_s=0), apply, State(), str,
            policy=SnapshotPolicy(every_events=50, keep=3), batch_events=chance.choice([3, 100]), lock_timeout_s=0,
        )
        async with machine:
            state, report = machine.state, machine.recovery
            begun = 0 if report.snapshot is None else report.snapshot.index
            new = state.count - known
            assert 0 <= new <= len(state.recent), (known, state.count)
            tell("open", state.count, state.recent[len(state.recent) - new:], begun, report.entries)
            assert not report.damaged and report.entries == state.count - begun
            if number == kills:
                return

            async def dispatcher(task):
                turn = 0
                while True:
                    turn += 1
                    events = [f"{number} {task} {turn} 0"]
                    if task % 4 == 0:
                        events = [f"{number} {task} {turn} {part}" for part in range(3)]
                        after = await machine.dispatch_many(events)
                    elif task % 4 == 1:
                        after = await machine.transact(lambda state: events if state.count % 2 else ())
                        if events[0] not in after.recent[-1:]:
                            continue
                    elif task == 6 and turn % 3 == 0:
                        try:
                            await machine.dispatch_many([*events, "!"])
                        except ValueError:
                            continue
                    else:
                        after = await machine.dispatch(*events)
                    tell("done", after.count, after.recent[-len(events):], events)

            async with anyio.create_task_group() as tasks:
                for task in range(16):
                    tasks.start_soon(dispatcher, task)

    loop, options = LOOPS[number % len(LOOPS)]
    anyio.run(main, backend=loop, backend_options=options)


def killed(number, known):
    # What a child told before it was killed: after so many lines, or at some time on its way.
    chance = random.Random(f"kill {seed} {number}")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        code = 1
        try:
            child(number, writer, known)
            code = 0
        except BaseException as error:
            os.write(writer, json.dumps(["failed", repr(error)]).encode() + b"\\n")
        finally:
            os._exit(code)
    os.close(writer)
    told = b""
    if number < kills:
        lines = 0 if number % 4 == 0 else chance.randrange(1, 150)
        while told.count(b"\\n") < lines and (more := os.read(reader, 65536)):
            told += more
        time.sleep(chance.random() * (0.03 if lines == 0 else 0.003))
        os.kill(pid, signal.SIGKILL)
    while more := os.read(reader, 65536):
        told += more
    os.close(reader)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    facts = [json.loads(line) for line in told.split(b"\\n")[:-1]]
    assert code == (-signal.SIGKILL if number < kills else 0), (code, facts[-1:])
    return facts


class Checked:
    # What there must be, and what is wrong.

    def __init__(self):
        self.there = []
        self.seen = set()
        self.turns = {}
        self.acknowledged = {}
        self.opened = self.begun = self.replayed = 0

    def hear(self, told):
        for what, count, *facts in told:
            if what == "open":
                events, begun, entries = facts
                self.opened += 1
                self.begun, self.replayed = begun, self.replayed + entries
                for event in events:
                    self.see(event)
                assert len(self.there) == count, f"it came back at {count}, not {len(self.there)}"
                for index, event in self.acknowledged.items():
                    assert self.there[index - 1] == event, f"{index} is not what was acknowledged"
                self.acknowledged.clear()
            else:
                shown, events = facts
                assert shown == events, f"{events} are not what its caller was shown"
                for index, event in enumerate(events, count - len(events) + 1):
                    assert index not in self.acknowledged, f"{index} was acknowledged twice"
                    assert index > len(self.there), f"{index} was there before"
                    self.acknowledged[index] = event

    def see(self, event):
        assert event not in self.seen, f"{event} is there twice"
        self.seen.add(event)
        self.there.append(event)
        number, task, turn, part = map(int, event.split(" "))
        assert (turn, part) > self.turns.get((number, task), (0, 0)), f"{event} is out of order"
        assert part == 0 or self.there[-2] == f"{number} {task} {turn} {part - 1}", f"{event} is torn off"
        self.turns[number, task] = turn, part


checked = Checked()
acknowledged = 0
for number in range(kills + 1):
    told = killed(number, len(checked.there))
    checked.hear(told)
    acknowledged += sum(len(facts[3]) for facts in told if facts[0] == "done")
assert not checked.acknowledged
print(json.dumps([checked.opened, len(checked.there), acknowledged, checked.begun, checked.replayed]))
"""


@pytest.mark.slow
def test_killed_at_random(tmp_path: Path) -> None:
    """Sixteen tasks dispatch until the process is killed, two hundred times, on loops of all kinds."""
    code, out, errors = python(SCRIPT, tmp_path, KILLS, "seed")
    assert code == 0, errors
    opened, there, acknowledged, begun, replayed = json.loads(out)
    assert opened > KILLS / 2
    assert there >= acknowledged > 20 * KILLS
    assert begun > there - 500
    assert replayed < 300 * opened

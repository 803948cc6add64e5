"""The programs of the tests of contention: each forks its children itself, looks on, and prints what it has counted."""

from __future__ import annotations

__all__ = ["IN_TURN", "STOPPED"]

# It forks its children itself, and has neither a loop nor a thread, so that a child costs some milliseconds only.
STOPPED = """
import itertools, json, os, signal, sys, threading, traceback
from importlib.util import find_spec
from pathlib import Path

import anyio, trio
import anyio._backends._asyncio, anyio._backends._trio
from swoosh_async import EventCodec, FileBackend, Journal, LockedError, SnapshotCodec, SnapshotStore, StaleSnapshotError
from swoosh_async.backends.base import Index
from tests._faults import BOUND_S
from tests._journals import SEGMENT_BYTES
from tests.proof._phases import Counted, Phases
from tests.test_cancellation import State, snapshot

home, verb = Path(sys.argv[1]), sys.argv[2]
LOOPS = [("asyncio", {}), ("trio", {})] + [("asyncio", {"use_uvloop": True})] * (find_spec("uvloop") is not None)
snapshots, events = SnapshotCodec(State), EventCodec(str)


def backend(path, lock_timeout_s=0.0):
    return FileBackend(path, segment_bytes=SEGMENT_BYTES, lock_timeout_s=lock_timeout_s)


def put(path, index, lock_timeout_s=0.0):
    backend(path, lock_timeout_s).put(snapshots.encode(snapshot(index)), keep=3, allow_rollback=False)


def latest(path):
    with backend(path).open() as source:
        found = snapshots.read(source).snapshot
    assert found == snapshot(found.last_applied_index), "a snapshot is not whole"
    return found.last_applied_index


def all_events(path):
    # The first index that is kept, and the events from there on.
    home = backend(path)
    first, found = home.bounds().first, []
    while batches := home.read(Index(first - 1 + len(found)), 1 << 20):
        for batch in batches:
            assert batch.first == first + len(found), "a gap, or one twice"
            found += [event[:5] for part in events.parts(batch.data) for event in events.events(part)]
    return first, found


def forked(call):
    # A child; its pid, and a file of what it tells, which ends when it has.
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            call(lambda *facts: os.write(writer, json.dumps(facts).encode() + b"\\n"))
        except BaseException:
            os.write(writer, json.dumps(["failed", traceback.format_exc()]).encode() + b"\\n")
        os._exit(0)
    os.close(writer)
    return pid, os.fdopen(reader)


def ended(child):
    pid, told = child
    with told:
        facts = [json.loads(line) for line in told]
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (0, -signal.SIGKILL)
    assert not [fact for fact in facts if fact[0] == "failed"], facts
    return facts


def stops(path, number, tell):
    # The child: makes its calls, and stops at that phase of the one that is looked at.
    phases = Phases()
    home = Counted(path, phases, lock_timeout_s=BOUND_S)

    def hook(at):
        if at == str(number):
            tell("stopped", phases.steps[number])
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # this very thread goes no step further

    def arm():
        phases.steps.clear()
        phases.hook = hook

    async def saves():
        store = SnapshotStore(home, State, keep=3)
        arm()
        try:
            await store.save(snapshot(4))
            tell("saved", 4)
        except StaleSnapshotError as error:
            tell("stale", error.stored)

    async def appends():
        if verb == "claim":
            arm()
        async with Journal(home, str) as journal:
            for text in ("one", "two" + "x" * 3000):
                tell("appended", (await journal.append(text)).index)
            if verb != "claim":
                arm()
            if verb == "truncate":
                await journal.truncate_before(2)
            if verb != "release":
                tell("appended", (await journal.append("three" + "x" * 6000 * (verb == "rotate"))).index)
                phases.hook = lambda _: None
                tell("appended", (await journal.append("four")).index)
        phases.hook = lambda _: None
        tell("closed", journal.epoch)

    loop, options = LOOPS[number % len(LOOPS)]
    anyio.run(saves if verb == "save" else appends, backend=loop, backend_options=options)
    tell("passed")


def check_save(path, child, go_on):
    pid = child[0]
    before = latest(path)
    assert before in (3, 4)
    try:
        put(path, 5)
        refused = False
    except LockedError as error:
        assert error.pid == pid, error
        refused = True
    waits = forked(lambda tell: (put(path, 6, BOUND_S), tell("saved", 6)))
    os.kill(pid, signal.SIGCONT if go_on else signal.SIGKILL)
    told = ended(child)
    assert ended(waits) == [["saved", 6]]
    assert latest(path) == 6
    if go_on:
        assert told[-1] == ["passed"] and (told[-2] == ["saved", 4] or told[-2][0] == "stale"), told
        assert refused or before == 4 or told[-2][0] == "stale", "it was saved although a newer one was there"
    put(path, 7)
    assert latest(path) == 7
    assert not [name for name in os.listdir(path) if name.endswith(".tmp")], "a temp is left"
    return refused


def check_events(path, child, go_on):
    pid = child[0]
    expected = ["one", "twoxx", "three", "four"][: 4 if verb != "release" else 2]
    first, found = all_events(path)
    assert found == expected[first - 1 :][: len(found)]
    others = backend(path)
    try:
        others.claim()
        others.release()
        refused = False
    except LockedError as error:
        assert error.pid == pid, error
        refused = True
    os.kill(pid, signal.SIGCONT if go_on else signal.SIGKILL)
    told = ended(child)
    acknowledged = max((fact[1] for fact in told if fact[0] == "appended"), default=0)
    claim = others.claim()
    try:
        assert claim.bounds.last >= acknowledged, "an acknowledged event is gone"
        if go_on:
            assert told[-1] == ["passed"] and claim.bounds.last == len(expected), told
            assert claim.epoch == told[-2][1] + 1 or (not refused and claim.epoch > told[-2][1]), (claim.epoch, told)
        first, found = all_events(path)
        assert first in (((2,) if go_on else (1, 2)) if verb == "truncate" else (1,))
        assert found == expected[first - 1 : claim.bounds.last]
    finally:
        others.release()
    assert not [name for name in os.listdir(path) if name.endswith(".tmp")], "a temp is left"
    return refused


seen, held = [], 0
for number in itertools.count():
    passed = False
    for go_on in (True, False):
        path = home / f"{number} {go_on}"
        if verb == "save":
            for index in (1, 2, 3):
                put(path, index)
        child = forked(lambda tell: stops(path, number, tell))
        _, status = os.waitpid(child[0], os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            assert json.loads(child[1].read().splitlines()[-1]) == ["passed"]
            passed = True
            continue
        held += (check_save if verb == "save" else check_events)(path, child, go_on)
    if passed:
        break
print(json.dumps([number, held]))
"""

IN_TURN = """
import json, os, random, signal, sys
from importlib.util import find_spec
from pathlib import Path

import anyio, trio
import anyio._backends._asyncio, anyio._backends._trio
from swoosh_async import EventCodec, FileBackend, Journal, SnapshotPolicy, StateMachine
from swoosh_async.backends.base import Index
from tests._faults import BOUND_S
from tests._journals import SEGMENT_BYTES

path, what, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
LOOPS = [("asyncio", {}), ("trio", {})] + [("asyncio", {"use_uvloop": True})] * (find_spec("uvloop") is not None)


def apply(state, event):
    return (*state, event)


def backend():
    return FileBackend(path, segment_bytes=SEGMENT_BYTES, lock_timeout_s=BOUND_S)


def contends(number, pipe):
    # Claims, appends with three tasks, and lets go, again and again; one in four is killed in the middle of it.
    chance = random.Random(number)

    def tell(*facts):
        os.write(pipe, json.dumps(facts).encode() + b"\\n")

    async def main():
        for turn in range(rounds):
            dies = number % 4 == 3 and turn == rounds // 2

            async def appends(task):
                for step in range(4):
                    event = f"{number} {turn} {task} {step} " + "x" * chance.choice([0, 500, 3000])
                    if what == "journal":
                        index, epoch = (await one.append(event)).index, one.epoch
                    else:
                        index = (await one.dispatch(event)).index(event) + 1
                        epoch = one._journal.epoch
                    tell(epoch, index, event)
                    if dies and step == 2:
                        os.kill(os.getpid(), signal.SIGKILL)

            if what == "journal":
                one = Journal(backend(), str)
            else:
                policy = SnapshotPolicy(every_events=10, keep=2)
                one = StateMachine(backend(), apply, (), str, state_type=tuple[str, ...], policy=policy)
            async with one, anyio.create_task_group() as tasks:
                for task in range(3):
                    tasks.start_soon(appends, task)

    loop, options = LOOPS[number % len(LOOPS)]
    anyio.run(main, backend=loop, backend_options=options)


reader, writer = os.pipe()
children = []
for number in range(4):
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        contends(number, writer)
        os._exit(0)
    children.append(pid)
os.close(writer)
with os.fdopen(reader) as lines:
    told = [json.loads(line) for line in lines]
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
assert codes == [0, 0, 0, -signal.SIGKILL], codes

epochs = {}
for epoch, index, event in told:
    owner = event.split(" ")[:2]
    assert epochs.setdefault(epoch, owner) == owner, f"epoch {epoch} was claimed twice"
found, codec, home = {}, EventCodec(str), backend()
first, last = home.bounds().first, home.bounds().last
after, newest = first - 1, (0, "")
while after < last:
    for batch in home.read(Index(after), 1 << 20):
        assert batch.first == after + 1, "a gap, or one twice"
        stamp = codec.stamp(batch.data)
        assert (batch.epoch, str(stamp)) > newest, "epochs, or times, go back"
        newest = batch.epoch, str(stamp.plus(batch.count - 1))
        for part in codec.parts(batch.data):
            for event in codec.events(part):
                after += 1
                found[after] = batch.epoch, event
        assert after == batch.last
for epoch, index, event in told:
    assert index < first or found[index] == (epoch, event), f"{index} is not what was acknowledged"
if what == "machine":
    async def state():
        async with StateMachine(home, apply, (), str, state_type=tuple[str, ...]) as machine:
            return machine.state

    state = anyio.run(state)
    assert len(state) == last
    for epoch, index, event in told:
        assert state[index - 1] == event, f"{index} is not what was acknowledged"
    assert len(set(state)) == len(state), "one is there twice"
print(json.dumps([len(told), len(epochs), last]))
"""

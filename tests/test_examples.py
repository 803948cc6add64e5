"""The services of docs/examples, as their users run them: killed in mid-work, and started again."""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import json
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest
import trio

from swoosh_async import FileBackend, OrchestratorState, SnapshotStore, Task, TaskStatus

from ._faults import BOUND_S, environment

pytest.importorskip("fcntl", reason="a file backend needs flock")

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
if not EXAMPLES.is_dir():
    pytest.skip(f"the examples are not here: {EXAMPLES}", allow_module_level=True)

SAFE_PATH = ["-P"] if sys.flags.safe_path else []


def in_threads(*threads: threading.Thread) -> None:
    """Start them and wait for all of them."""
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND_S)
    assert not any(thread.is_alive() for thread in threads), "somebody waits for ever"


# ---------------------------------------------------------------------- the web service


class Client:
    """One connection to the service."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=BOUND_S)

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """The status and the body of the reply."""
        raw = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, raw)
        reply = self._connection.getresponse()
        told = reply.read()
        return reply.status, json.loads(told) if reply.headers["Content-Type"] == "application/json" else told

    def tasks(self, query: str = "") -> dict[str, Task]:
        """All tasks, or those that are ready."""
        status, told = self.ask("GET", f"/tasks{query}")
        assert status == 200, told
        return {task["id"]: task_of(task) for task in told}

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def task_of(told: Mapping[str, Any]) -> Task:
    """A task from a reply."""
    return Task(**{**told, "status": TaskStatus(told["status"]), "dependencies": tuple(told["dependencies"])})


class Service:
    """The web service in a process of its own.

    Attributes:
        process: The process.
        port: Where it listens.
    """

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port
        self._clients: list[Client] = []

    def client(self) -> Client:
        """One more connection."""
        self._clients.append(Client(self.port))
        return self._clients[-1]

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.close()

    def stop(self) -> None:
        """Have it end in order."""
        self.process.terminate()
        assert self.process.wait(BOUND_S) == -signal.SIGTERM


UVICORN = ["-m", "uvicorn", "--app-dir", str(EXAMPLES), "web_service:app", "--port", "0", "--no-access-log"]


@contextmanager
def serving(directory: Path, *command: str) -> Iterator[Service]:
    """The service on that directory, which does not outlive this block, once it says on which port it listens."""
    with subprocess.Popen(
        [sys.executable, *SAFE_PATH, *(command or UVICORN)],
        env=environment() | {"SERVICE_DIR": str(directory)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            told: list[str] = []
            for line in process.stderr:
                told.append(line)
                if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                    break
            else:
                pytest.fail("it did not start: " + "".join(told))
            with closing(Service(process, int(found[1]))) as service:
                yield service
        finally:
            process.kill()


def test_what_a_client_was_told_is_there_after_a_kill(tmp_path: Path) -> None:
    """Clients submit, claim and finish until the service is killed; the next one knows all that they were told."""
    told: dict[str, Task] = {}
    unanswered: dict[str, tuple[str, str, dict[str, Any]]] = {}
    enough = threading.Event()

    def busy(client: Client, name: str) -> None:
        number = 0
        try:
            while True:
                number += 1
                task = f"{name}-{number}"
                for request in (
                    ("PUT", f"/tasks/{task}", {}),
                    ("POST", f"/tasks/{task}/claim", {"worker": name}),
                    ("POST", f"/tasks/{task}/finish", {"worker": name, "result": f"of {task}"}),
                ):
                    unanswered[task] = request
                    status, reply = client.ask(*request)
                    assert status == 200, reply
                    told[task] = task_of(reply)
                    del unanswered[task]
                if len(told) >= 40:
                    enough.set()
        except (OSError, http.client.HTTPException):
            enough.set()

    def kill(process: subprocess.Popen[str]) -> None:
        assert enough.wait(BOUND_S)
        process.kill()

    with serving(tmp_path) as service:
        in_threads(
            *(threading.Thread(target=busy, args=(service.client(), name), daemon=True) for name in "abcd"),
            threading.Thread(target=kill, args=(service.process,), daemon=True),
        )
        assert service.process.wait(BOUND_S) == -signal.SIGKILL
    assert len(told) >= 40
    assert len(unanswered) == 4

    with serving(tmp_path) as service:
        client = service.client()
        there = client.tasks()
        assert {name: there[name] for name in told.keys() - unanswered.keys()} == {
            name: task for name, task in told.items() if name not in unanswered
        }
        for name, request in unanswered.items():  # it may have happened; asked again, it has happened once
            status, reply = client.ask(*request)
            assert status == 200, reply
            assert task_of(reply).attempts <= 1
            told[name] = task_of(reply)
        there = client.tasks()
        assert there == told
        service.stop()

    newest = anyio.run(SnapshotStore(FileBackend(tmp_path), OrchestratorState).load_latest)
    assert newest.state.tasks == told  # the last snapshot was taken when it was asked to end


def test_only_one_of_two_gets_it(tmp_path: Path) -> None:
    """Two workers race for each task, and for each of them it is one that gets it."""
    names = [f"task-{number}" for number in range(25)]
    start = threading.Barrier(2)
    statuses: dict[str, list[int]] = {"ann": [], "bob": []}

    def race(client: Client, worker: str) -> None:
        for name in names:
            start.wait(BOUND_S)
            statuses[worker].append(client.ask("POST", f"/tasks/{name}/claim", {"worker": worker})[0])

    with serving(tmp_path) as service:
        client = service.client()
        for name in names:
            assert client.ask("PUT", f"/tasks/{name}", {})[0] == 200
        in_threads(
            *(threading.Thread(target=race, args=(service.client(), name), daemon=True) for name in ("ann", "bob"))
        )
        tasks = client.tasks()
    for name, ann, bob in zip(names, statuses["ann"], statuses["bob"], strict=True):
        assert sorted((ann, bob)) == [200, 409]
        assert (tasks[name].assigned_worker, tasks[name].attempts) == ("ann" if ann == 200 else "bob", 1)


def test_replies(tmp_path: Path) -> None:
    """What the rules refuse is 409, what is not understood 422, what is not there 404, and what is too large 413."""
    with serving(tmp_path) as service:
        client = service.client()

        def status(method: str, path: str, body: object) -> int:
            return client.ask(method, f"/tasks/{path}", body)[0]

        assert status("PUT", "fetch", {}) == 200
        assert status("PUT", "build", {"dependencies": ["fetch"]}) == 200
        assert list(client.tasks("?ready=1")) == ["fetch"]

        before = client.tasks()
        assert status("PUT", "build", {}) == 409
        assert status("PUT", "other", {"dependencies": ["nothing"]}) == 409
        assert status("POST", "build/claim", {"worker": "ann"}) == 409
        assert status("POST", "fetch/finish", {"worker": "ann"}) == 409
        assert status("POST", "other/claim", {"worker": "ann"}) == 404
        assert status("POST", "other/finish", {"worker": "ann"}) == 404
        assert status("PUT", "x" * 201, {}) == 422
        for body in (b"", b"{", b'{"worker":"\xff"}', b'{"worker":' + b"[" * 50_000, b"[]", b'{"worker":1}', b"{}"):
            assert status("POST", "fetch/claim", body) == 422
        assert status("POST", "fetch/claim", {"worker": ""}) == 422
        assert status("POST", "fetch/claim", {"worker": "ann", "more": 1}) == 422
        assert status("PUT", "other", {"dependencies": "fetch"}) == 422
        assert client.tasks() == before
        assert status("PUT", "other", b" " * 70_000 + b"{}") == 413

        client = service.client()  # who sent too much is hung up on
        assert client.tasks() == before
        for _ in range(2):  # asked again, as by a client that did not get the reply
            assert status("PUT", "build", {"dependencies": ["fetch"]}) == 200
            assert status("POST", "fetch/claim", {"worker": "ann"}) == 200
        assert status("POST", "fetch/claim", {"worker": "bob"}) == 409
        assert status("POST", "fetch/finish", {"worker": "bob"}) == 409
        for _ in range(2):
            assert status("POST", "fetch/finish", {"worker": "ann", "result": "fetched"}) == 200
        assert status("POST", "fetch/finish", {"worker": "ann", "result": "otherwise"}) == 409
        assert status("POST", "fetch/claim", {"worker": "ann"}) == 409
        assert list(client.tasks("?ready=1")) == ["build"]
        assert client.tasks()["fetch"] == Task("fetch", TaskStatus.SUCCEEDED, attempts=1, result="fetched")


ON_A_FAILING_DISK = """
import errno, functools, os, sys
import uvicorn

examples, trouble = sys.argv[1:3]
sys.path.insert(0, examples)
import web_service
from swoosh_async import FileBackend
from swoosh_async.backends.file import OsDisk


class Disk(OsDisk):
    def pwrite(self, fd, data, offset):
        if os.path.exists(trouble + ".full"):
            os.unlink(trouble + ".full")
            raise OSError(errno.ENOSPC, "no room")
        return super().pwrite(fd, data, offset)

    def fdatasync(self, fd):
        if os.path.exists(trouble + ".broken"):
            raise OSError(errno.EIO, "a failing disk")
        super().fdatasync(fd)


web_service.FileBackend = functools.partial(FileBackend, disk=Disk())
uvicorn.run(web_service.app, port=0, access_log=False)
"""


def test_it_ends_when_an_outcome_is_unknown(tmp_path: Path) -> None:
    """A full disk is 503 and goes by; one that fails is 503 and the end, and the next process knows what is there."""
    directory, full, broken = tmp_path / "var", tmp_path / "disk.full", tmp_path / "disk.broken"
    with serving(directory, "-c", ON_A_FAILING_DISK, str(EXAMPLES), str(tmp_path / "disk")) as service:
        client = service.client()
        assert client.ask("PUT", "/tasks/first", {})[0] == 200
        full.touch()
        status, reply = client.ask("PUT", "/tasks/second", {})
        assert (status, "no room" in reply["error"]) == (503, True), reply
        assert client.ask("PUT", "/tasks/second", {})[0] == 200
        broken.touch()
        status, reply = client.ask("PUT", "/tasks/third", {})
        assert (status, "it may have happened" in reply["error"]) == (503, True), reply
        assert service.process.wait(BOUND_S) == -signal.SIGTERM
    with serving(directory) as service:
        client = service.client()
        assert {"first", "second"} <= client.tasks().keys() <= {"first", "second", "third"}
        assert client.ask("PUT", "/tasks/third", {})[0] == 200


# ---------------------------------------------------------------------- the trio service

FILES = 400
PIPE_BYTES = 4096


@pytest.fixture(scope="module")
def service() -> Iterator[ModuleType]:
    """The service's module, imported."""
    spec = importlib.util.spec_from_file_location("trio_service", EXAMPLES / "trio_service.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "trio_service", module)  # where msgspec looks up what its annotations name
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files in directories, whose names are so long that to tell of all of them fills any pipe."""
    root = tmp_path_factory.mktemp("tree")
    for number in range(FILES):
        path = root / f"{number % 5:0240}" / f"{number % 3}" / f"{number:0240}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * 1000)
    (root / "empty").mkdir()
    return root


def digest_of(path: Path, name: str, digests: dict[str, str]) -> str:
    """A file's or directory's digest, worked out in one go; those of all that is in it go to `digests`."""
    if path.is_dir():
        inside = sorted(path.iterdir(), key=lambda each: each.name)
        content = "".join(
            f"{below} {digest_of(each, below, digests)}\n"
            for each in inside
            for below in [each.name if name == "." else f"{name}/{each.name}"]
        ).encode()
    else:
        content = path.read_bytes()
    digests[name] = hashlib.sha256(content).hexdigest()
    return digests[name]


@pytest.fixture(scope="module")
def digests(tree: Path) -> dict[str, str]:
    """What there must be in the end."""
    found: dict[str, str] = {}
    digest_of(tree, ".", found)
    return found


@contextmanager
def digesting(directory: Path, tree: Path) -> Iterator[subprocess.Popen[str]]:
    """The service at its work, which does not outlive this block.

    Its pipe is small, so that it cannot get far ahead of who reads, and is never done before it can be killed.
    """
    command = [sys.executable, *SAFE_PATH, EXAMPLES / "trio_service.py", directory, tree, "--workers", "3"]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, text=True, pipesize=PIPE_BYTES
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def told_by(process: subprocess.Popen[str], count: int | None = None) -> dict[str, str]:
    """What it says that it has done: the next `count` tasks, or all up to its end."""
    assert process.stdout is not None
    told: dict[str, str] = {}
    while (count is None or len(told) < count) and (line := process.stdout.readline()).endswith("\n"):
        if len(words := line.split()) == 2:
            told[words[0]] = words[1]
    return told


def results_in(module: ModuleType, directory: Path) -> dict[str, Task]:
    """The tasks as the service's machine has them."""

    async def tasks() -> dict[str, Task]:
        async with module.machine_in(directory) as machine:
            return dict(machine.state.tasks)

    return trio.run(tasks)


def test_killed_twice_it_ends_as_if_run_in_one_go(
    tmp_path: Path, service: ModuleType, tree: Path, digests: dict[str, str]
) -> None:
    """Killed at random in mid-work, it goes on; nothing that it said is lost or done again, and nothing is left out."""
    chance = random.Random()
    told: dict[str, str] = {}
    for _ in range(2):
        with digesting(tmp_path, tree) as process:
            told |= told_by(process, chance.randrange(1, 40))
            process.kill()
            more = told_by(process)
            assert process.wait(BOUND_S) == -signal.SIGKILL
            assert not told.keys() & more.keys()
            told |= more
    with digesting(tmp_path, tree) as process:
        more = told_by(process)
        assert process.wait(BOUND_S) == 0
    assert not told.keys() & more.keys()
    tasks = results_in(service, tmp_path)
    assert {name: task.result for name, task in tasks.items()} == digests
    assert {task.status for task in tasks.values()} == {TaskStatus.SUCCEEDED}
    assert (told | more).items() <= digests.items()
    assert all(tasks[name].attempts <= 3 for name in tasks)


def test_asked_to_end_it_goes_on_later(tmp_path: Path, tree: Path, digests: dict[str, str]) -> None:
    """On SIGTERM it ends in order, with a snapshot of all that it said; run again, it does the rest."""
    with digesting(tmp_path, tree) as process:
        told = told_by(process, 5)
        process.terminate()
        told |= told_by(process)
        assert process.wait(BOUND_S) == 128 + signal.SIGTERM
    newest = anyio.run(SnapshotStore(FileBackend(tmp_path), OrchestratorState).load_latest)
    done = {name: task.result for name, task in newest.state.tasks.items() if task.status is TaskStatus.SUCCEEDED}
    assert told.items() <= done.items()
    assert len(done) < len(digests)
    with digesting(tmp_path, tree) as process:
        told = told_by(process)
        assert process.wait(BOUND_S) == 0
    assert {**done, **told} == digests


def test_what_was_running_is_begun_again(tmp_path: Path, service: ModuleType) -> None:
    """A task that a dead process had begun is begun once more; what fails, and what depends on it, is told."""
    source, directory = tmp_path / "source", tmp_path / "var"
    (source / "below").mkdir(parents=True)
    for name in ("kept", "below/gone", "below/there"):
        (source / name).write_text(name)

    async def begin() -> None:
        async with service.machine_in(directory) as machine:
            await machine.dispatch_many(service.plan(source))
            await machine.dispatch(service.Begun("kept", "worker-of-old"))

    trio.run(begin)
    (source / "below" / "gone").unlink()
    for _ in range(2):  # the second time there is nothing left to do
        assert trio.run(service.serve, directory, source, 2) == service.FAILED
    tasks = results_in(service, directory)
    assert tasks["kept"] == Task("kept", TaskStatus.SUCCEEDED, attempts=2, result=hashlib.sha256(b"kept").hexdigest())
    assert tasks["below/gone"].result == "FileNotFoundError"
    assert {name: task.status for name, task in tasks.items()} == {
        "kept": TaskStatus.SUCCEEDED,
        "below/there": TaskStatus.SUCCEEDED,
        "below/gone": TaskStatus.FAILED,
        "below": TaskStatus.PENDING,
        ".": TaskStatus.PENDING,
    }


def test_no_worker_is_left_over(tmp_path: Path, service: ModuleType, tree: Path, digests: dict[str, str]) -> None:
    """With more workers than tasks are ready at a time, all of them end."""
    assert trio.run(service.serve, tmp_path, tree, 20) == 0
    assert {name: task.result for name, task in results_in(service, tmp_path).items()} == digests

"""The boundary of a process: each system call of a child that touches a directory comes before its parent first.

The kernel itself asks: seccomp_unotify(2), a filter that a child puts upon itself, whose calls then wait until another
process has answered. So nothing of the program under test is replaced, and what it is refused it is refused by the
system, as strace(1) would have it; but with no program to start and none to attach, so that thousands of faults take
seconds. The parent may refuse a call, kill the child before it, or let it go on.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import platform
import re
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .._disks import forked

__all__ = ["ARMED", "HEALED", "KILL", "SHORT", "Answer", "Call", "Ran", "must_be_asked", "run_before", "without_random"]

ARMED, HEALED = ".armed", ".healed"
"""Names that a child looks for, in order to tell that from here on, or up to here, its calls count."""

KILL = -1
"""Instead of an error number: the child is killed, and the call is not made."""


class _Kind(NamedTuple):
    """A system call.

    Attributes:
        verb: What it is called here; one word for those that do the same.
        numbers: Its numbers on x86-64 and on ARM64; -1 where there is none.
        paths: Which arguments are paths, each behind the one that is its directory's descriptor, -1 for none; none
            where the first argument is the descriptor of what it works on.
    """

    verb: str
    numbers: tuple[int, int]
    paths: tuple[tuple[int, int], ...] = ()


_KINDS = [
    _Kind("open", (257, 56), ((0, 1),)),
    _Kind("mkdir", (83, -1), ((-1, 0),)),
    _Kind("mkdir", (258, 34), ((0, 1),)),
    _Kind("pwrite", (18, 68)),
    _Kind("pread", (17, 67)),
    _Kind("pread", (295, 69)),
    _Kind("fsync", (74, 82)),
    _Kind("fdatasync", (75, 83)),
    _Kind("link", (265, 37), ((0, 1), (2, 3))),
    _Kind("rename", (82, -1), ((-1, 0), (-1, 1))),
    _Kind("rename", (264, 38), ((0, 1), (2, 3))),
    _Kind("rename", (316, 276), ((0, 1), (2, 3))),
    _Kind("unlink", (87, -1), ((-1, 0),)),
    _Kind("unlink", (263, 35), ((0, 1),)),
    _Kind("unlink", (84, -1), ((-1, 0),)),
    _Kind("ftruncate", (77, 46)),
    _Kind("fallocate", (285, 47)),
    _Kind("fchmod", (91, 52)),
    _Kind("list", (217, 61)),
    _Kind("flock", (73, 32)),
    _Kind("close", (3, 57)),
    _Kind("stat", (5, 80)),
    _Kind("stat", (4, -1), ((-1, 0),)),
    _Kind("stat", (6, -1), ((-1, 0),)),
    _Kind("stat", (262, 79), ((0, 1),)),
]
_ARCHITECTURES = {"x86_64": (0, 0xC000003E, 317), "aarch64": (1, 0xC00000B7, 277)}  # linux/audit.h; and seccomp(2)

_RANDOM = re.compile(r"(?<=-)[0-9a-f]{16}(?=\.tmp)"), re.compile(r"(?<=corrupt-)[0-9a-f]{8}")
_AT_FDCWD = -100

# linux/seccomp.h, linux/filter.h, linux/prctl.h
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_ALLOW, _ASK = 0x7FFF0000, 0x7FC00000
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_RECEIVE, _SEND, _PUT = 0xC0502100, 0xC0182101, 0x40182103
_CONTINUE = 1


class Call(NamedTuple):
    """A call that a child is about to make.

    Attributes:
        verb: What it does.
        paths: What it does it to, relative to the directory; random parts of names are left out.
        creates: Whether it is the opening of a file that may be made.
        writes: Whether it is the opening of a file to be written.
    """

    verb: str
    paths: tuple[str, ...]
    creates: bool = False
    writes: bool = False

    def __str__(self) -> str:
        return " ".join(("create" if self.creates else self.verb, *self.paths))


SHORT = -2
"""Likewise: half of what it was to write is written, and it says so."""

Answer = Callable[[Call], "int | None"]
"""What a call gets: an error number, `KILL`, or None for what it asked for."""


class Ran(NamedTuple):
    """What came of a child.

    Attributes:
        calls: The calls that it made, as far as they counted.
        told: What it told at its end; None if it was killed.
        code: Its exit status, or the negative number of the signal that killed it.
    """

    calls: list[Call]
    told: Any
    code: int


def must_be_asked() -> None:
    """Skip the test where the kernel does not let a process answer for another."""
    if sys.platform != "linux" or platform.machine() not in _ARCHITECTURES:
        pytest.skip("system calls are intercepted on Linux, x86-64 or ARM64, only")
    try:
        told = run_before(Path("/nowhere"), lambda: 1, lambda _: None).told
    except OSError as error:
        pytest.skip(f"seccomp_unotify is not permitted here ({error}): docker run --security-opt seccomp=unconfined")
    assert told == 1


def run_before(root: Path, work: Callable[[], Any], answer: Answer) -> Ran:
    """Fork a child that does `work` and tells what that returns, as JSON; each of its calls below `root` is answered.

    Raises:
        OSError: A child cannot put a filter upon itself here.
    """
    ours, theirs = socket.socketpair()
    pid = forked()
    if pid == 0:
        ours.close()
        _be_child(theirs, work)
    theirs.close()
    with ours:
        try:
            word, given, _, _ = socket.recv_fds(ours, 16, 1)
            if not given:
                raise OSError(int(word), os.strerror(int(word)))
            supervisor = _Supervisor(pid, given[0], os.path.realpath(root), answer)
            ours.sendall(b"go")
            told = supervisor.answer_until_the_end(ours)
        finally:
            if sys.exc_info()[0] is not None:
                os.kill(pid, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Ran(supervisor.calls, json.loads(told) if told else None, code)


def _be_child(pipe: socket.socket, work: Callable[[], Any]) -> None:
    code = 1
    try:
        try:
            listener = _filter()
        except OSError as error:
            pipe.sendall(str(error.errno).encode())
            os._exit(code)
        socket.send_fds(pipe, [b"listen"], [listener])
        os.close(listener)
        pipe.recv(2)
        pipe.sendall(json.dumps(work()).encode())
        code = 0
    except BaseException:  # noqa: BLE001  nothing of the child may go on into pytest
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _filter() -> int:
    """Put the filter upon this process, and return the descriptor at which its calls are told."""
    column, architecture, seccomp = _ARCHITECTURES[platform.machine()]
    numbers = [kind.numbers[column] for kind in _KINDS if kind.numbers[column] >= 0]
    lines = [(_LOAD, 0, 0, 4), (_EQUAL, 0, len(numbers) + 1, architecture), (_LOAD, 0, 0, 0)]
    lines += [(_EQUAL, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    lines += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ASK)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    program = struct.pack("H6xQ", len(lines), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    listener: int = libc.syscall(seccomp, _SET_MODE_FILTER, _NEW_LISTENER, program)
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return listener


class _Supervisor:
    """Who answers."""

    def __init__(self, pid: int, listener: int, root: str, answer: Answer) -> None:
        column = _ARCHITECTURES[platform.machine()][0]
        self._kinds = {kind.numbers[column]: kind for kind in _KINDS}
        self._pid = pid
        self._listener = listener
        self._root = root
        self._answer = answer
        self._counts = False
        self.calls: list[Call] = []

    def answer_until_the_end(self, pipe: socket.socket) -> bytes:
        """Answer each call until the child has closed its end of the pipe; what it told."""
        told = b""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(pipe, select.POLLIN)
        try:
            while True:
                for fd, event in poll.poll(60_000) or [(-1, 0)]:
                    assert fd >= 0, "the child hangs"
                    if fd == self._listener and event & select.POLLIN:
                        self._serve()
                    elif fd == pipe.fileno():
                        piece = pipe.recv(1 << 16)
                        if not piece:
                            return told
                        told += piece
        finally:
            os.close(self._listener)

    def _serve(self) -> None:
        asked = bytearray(80)
        try:
            fcntl.ioctl(self._listener, _RECEIVE, asked)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):  # it is gone
                return
            raise
        ident, thread, _, number, _, _, *arguments = struct.unpack("QIIiIQ6Q", asked)
        kind = self._kinds[number]
        verdict = self._judge(thread, kind, arguments)
        if verdict == KILL:
            os.kill(self._pid, signal.SIGKILL)
            return
        if verdict and kind.verb == "close":
            self._put_nothing(ident, arguments[0])
        answer = struct.pack("QqiI", ident, 0, -(verdict or 0), 0 if verdict else _CONTINUE)
        if verdict == SHORT:
            answer = struct.pack("QqiI", ident, _write_half(thread, *arguments[:4]), 0, 0)
        with suppress(FileNotFoundError):  # it is gone
            fcntl.ioctl(self._listener, _SEND, answer)

    def _put_nothing(self, ident: int, fd: int) -> None:
        """Put /dev/null in a descriptor's place: a close that fails lets go of it as well: close(2)."""
        nothing = os.open(os.devnull, os.O_RDWR)
        try:
            fcntl.ioctl(self._listener, _PUT, struct.pack("QIIII", ident, 1, nothing, fd, 0))
        finally:
            os.close(nothing)

    def _judge(self, thread: int, kind: _Kind, arguments: list[int]) -> int | None:
        whole = [self._path(thread, arguments, *at) for at in kind.paths or ((0, -1),)]
        paths = tuple(os.path.relpath(path, self._root) for path in whole)
        if not any(self._is_ours(path) for path in whole):
            return None
        name = os.path.basename(whole[0])
        if name in (ARMED, HEALED):
            self._counts = name == ARMED
            return None
        if not self._counts:
            return None
        flags = arguments[2] if kind.verb == "open" else 0
        verb = "unlock" if kind.verb == "flock" and arguments[1] == fcntl.LOCK_UN else kind.verb
        call = Call(
            verb,
            tuple(without_random(path) for path in paths),
            creates=bool(flags & os.O_CREAT),
            writes=bool(flags & (os.O_WRONLY | os.O_RDWR)),
        )
        self.calls.append(call)
        return self._answer(call)

    def _is_ours(self, path: str) -> bool:
        """Whether it is the root, or in it."""
        return path == self._root or path.startswith(f"{self._root}/")

    def _path(self, thread: int, arguments: list[int], at: int, name_at: int) -> str:
        """The whole path of what a call works on; "" where it has none."""
        name = self._text(thread, arguments[name_at]) if name_at >= 0 else ""
        if name.startswith("/"):
            return os.path.normpath(name)
        fd = ctypes.c_int(arguments[at] & 0xFFFFFFFF).value if at >= 0 else _AT_FDCWD
        try:
            directory = os.readlink(f"/proc/{thread}/cwd" if fd == _AT_FDCWD else f"/proc/{thread}/fd/{fd}")
        except OSError:  # no descriptor of its
            return ""
        return os.path.normpath(os.path.join(directory.removesuffix(" (deleted)"), name)) if name else directory

    def _text(self, thread: int, address: int) -> str:
        try:
            with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
                return os.pread(memory.fileno(), 4096, address).partition(b"\0")[0].decode(errors="replace")
        except OSError:
            return ""


def _write_half(thread: int, fd: int, address: int, size: int, offset: int) -> int:
    """Write half of what a thread was to write, in its place; how much that is."""
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        data = os.pread(memory.fileno(), (size + 1) // 2, address)
    file = os.open(f"/proc/{thread}/fd/{fd}", os.O_WRONLY)
    try:
        return os.pwrite(file, data, offset)
    finally:
        os.close(file)


def without_random(path: str) -> str:
    """A path without the random parts of names."""
    for random in _RANDOM:
        path = random.sub("RANDOM", path)
    return path

"""The house stands: imports run down its floors, few rooms await, fewer touch files, and none is missing from the plan.

An import counts wherever it stands, inside a function or under TYPE_CHECKING as well: who reads the one room must know
the other. A room is one module, or a folder of them; inside a room imports are free as long as they make no circle.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = "swoosh_async"
FLOORS = [
    ["errors"],
    ["backends/base", "_lane", "clock", "models"],
    ["backends/memory", "backends/file", "codec"],
    ["snapshots", "journal", "persistent"],
    ["machine", "testing"],
    ["__init__", "cli"],
]
FACE = "__init__"
ANNEXES = {
    "_breather": "_lane",
    "_hop": "_lane",
    "_turns": "_lane",
    "backends/__init__": "backends/base",
    "__main__": "cli",
}
ANNEXES |= dict.fromkeys(["_commits", "_entries", "_pages"], "journal")
ANNEXES |= dict.fromkeys(
    ["_check", "_copies", "_folded", "_folds", "_keeper", "_past", "_policy", "_recovery"], "machine"
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS, 1) for room in rooms}
WING_OF = dict.fromkeys(["backends/base", "backends/memory", "backends/file"], "bytes")
WING_OF |= dict.fromkeys(["clock", "models", "codec"], "types")
MAY_AWAIT = {"_lane", "snapshots", "journal", "machine", "testing", "cli"}
NEVER_AWAIT = {
    "_breather",
    "_commits",
    "_copies",
    "_entries",
    "_folds",
    "_pages",
    "_policy",
    "_recovery",
}  # annexes that are stricter than their rooms
KNOW_LOOPS = {"_hop": {"asyncio"}}  # which loop is running, at less than anyio's price
MAY_OPEN = {"backends/file", "cli", "testing"}

AWAITS = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)  # and comprehensions with `async for`
LOOPS = {"asyncio", "trio", "uvloop"}
FILE_MODULES = {"aiofiles", "fcntl", "glob", "mmap", "msvcrt", "shutil", "sqlite3", "subprocess", "tempfile"}
OPENERS = {"open", "io.open", "io.FileIO", "anyio.open_file", "anyio.Path"}
PATH_CALLS = {"hardlink_to", "is_dir", "is_file", "iterdir", "lstat", "mkdir", "read_bytes", "read_text", "rglob"}
PATH_CALLS |= {"rmdir", "symlink_to", "unlink", "write_bytes", "write_text"}
PURE_OS = {
    "os",
    "os.PathLike",
    "os.fsdecode",
    "os.fsencode",
    "os.fspath",
    "os.getpid",
    "os.name",
    "os.path",
    "os.strerror",
}
PURE_OS |= {f"os.path.{name}" for name in ("basename", "dirname", "isabs", "join", "normpath", "split", "splitext")}


def room_of(path: str) -> str | None:
    """The room that a module lies in, or None where the plan has none for it."""
    stem = path.removesuffix(".py")
    stem = ANNEXES.get(stem, stem)
    return next((room for room in FLOOR_OF if stem == room or stem.startswith(room + "/")), None)


def names_used(path: str, tree: ast.AST) -> Iterator[str]:
    """The full dotted name of all that a module imports, and of all that it reaches by dots, as in ``os.path.join``."""
    here = [PACKAGE, *path.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [
                *(here[: len(here) + 1 - node.level] if node.level else []),
                *([node.module] if node.module else []),
            ]
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Attribute | ast.Name):
            yield ast.unparse(node)


def imports(path: str, tree: ast.AST, sources: Mapping[str, str]) -> set[str]:
    """The package's own modules that a module imports; what is no module's name is taken from the package above it."""
    found: set[str] = set()
    for name in names_used(path, tree):
        if name.split(".")[0] == PACKAGE:
            parts = name.split(".")[1:]
            stems = ["/".join(parts[:end]) for end in range(len(parts), 0, -1)]
            found.add(
                next(
                    (file for stem in stems for file in (f"{stem}.py", f"{stem}/__init__.py") if file in sources), FACE
                )
            )
    return found


def touches_files(tree: ast.AST, names: set[str]) -> set[str]:
    """What a module uses that reads, writes or looks at files."""
    methods = {
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    of_os = {
        ".".join(name.split(".")[: 3 if name.startswith("os.path.") else 2]) for name in names if name.startswith("os.")
    }
    modules = {name for name in names if name.split(".")[0] in FILE_MODULES}
    return modules | (names & OPENERS) | (of_os - PURE_OS) | (methods & PATH_CALLS)


def wrong_in(path: str, source: str, sources: Mapping[str, str]) -> Iterator[str]:
    """What one module does that its room may not do."""
    room, tree = room_of(path), ast.parse(source)
    if room is None:
        yield "is not in the plan"
        return
    names = set(names_used(path, tree))
    for target in imports(path, tree, sources):
        other = room_of(target)
        if other == FACE:
            yield "imports the face"
        elif other is not None and other != room and FLOOR_OF[other] >= FLOOR_OF[room]:
            yield f"imports {other}, which is not below"
        elif {WING_OF.get(room), WING_OF.get(other or "")} == {"bytes", "types"}:
            yield f"imports {other} from the other wing"
    stem = path.removesuffix(".py")
    for loop in LOOPS & {name.split(".")[0] for name in names} - KNOW_LOOPS.get(stem, set()):
        yield f"knows {loop}"
    if (room not in MAY_AWAIT or stem in NEVER_AWAIT) and any(
        isinstance(node, AWAITS) or getattr(node, "is_async", 0) for node in ast.walk(tree)
    ):
        yield "awaits"
    if room not in MAY_OPEN and (touched := touches_files(tree, names)):
        yield f"touches files: {', '.join(sorted(touched))}"


def circle(sources: Mapping[str, str]) -> list[str]:
    """The modules that are left when, again and again, all that import nothing left are taken away."""
    left = {path: imports(path, ast.parse(source), sources) for path, source in sources.items()}
    while free := [path for path, targets in left.items() if not targets & left.keys()]:
        for path in free:
            del left[path]
    return sorted(left)


def wrongs(sources: Mapping[str, str]) -> list[str]:
    """Everything that is wrong with a package, given as its modules' paths and sources."""
    found = [f"{path} {wrong}" for path, source in sources.items() for wrong in wrong_in(path, source, sources)]
    return found + [f"{path} is in a circle, or imports one" for path in circle(sources)]


def test_the_house_stands() -> None:
    """The package keeps to the plan."""
    root = Path(__file__).parent.parent / PACKAGE
    sources = {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in root.rglob("*.py")}
    assert sources
    assert wrongs(sources) == []


@pytest.mark.parametrize(
    ("path", "source", "wrong"),
    [
        ("errors.py", "from .clock import Timestamp", "imports clock, which is not below"),
        ("errors.py", "def f():\n    import swoosh_async.models", "imports models, which is not below"),
        ("clock.py", "if TYPE_CHECKING:\n    from . import models", "imports models, which is not below"),
        ("machine.py", "from swoosh_async.testing import CrashDisk", "imports testing, which is not below"),
        ("codec/__init__.py", "from ..backends.base import Backend", "imports backends/base from the other wing"),
        ("backends/file/_disk.py", "from ...models import Snapshot", "imports models from the other wing"),
        ("backends/__init__.py", "from .memory import MemoryBackend", "imports backends/memory, which is not below"),
        ("snapshots.py", "from swoosh_async import Snapshot", "imports the face"),
        ("cli/__init__.py", "from .. import __version__", "imports the face"),
        ("codec/_plan.py", "from . import _pieces", "is in a circle, or imports one"),
        ("_lane.py", "import asyncio", "knows asyncio"),
        ("testing/__init__.py", "from trio.lowlevel import checkpoint", "knows trio"),
        ("backends/memory.py", "async def f(): ...", "awaits"),
        ("codec/_plan.py", "x = [y async for y in z]", "awaits"),
        ("snapshots.py", "open(path)", "touches files: open"),
        ("snapshots.py", "import os\nos.fspath(path), os.path.exists(path)", "touches files: os.path.exists"),
        ("backends/memory.py", "from os import fsync", "touches files: os.fsync"),
        ("codec/_plan.py", "path.read_bytes()", "touches files: read_bytes"),
        ("journal.py", "import fcntl", "touches files: fcntl"),
        ("attic.py", "", "is not in the plan"),
        ("backends/redis.py", "", "is not in the plan"),
    ],
)
def test_the_plan_is_held(path: str, source: str, wrong: str) -> None:
    """Each rule, broken once in a house that stands, is found."""
    house = {f"{room}.py": "" for room in FLOOR_OF if room not in ("codec", "backends/file", "testing", "cli")}
    house |= {f"{room}/__init__.py": "" for room in ("codec", "backends/file", "testing", "cli")}
    house |= {"codec/_plan.py": "", "codec/_pieces.py": "from ._plan import plan", "backends/__init__.py": ""}
    house |= {"__main__.py": "from .cli import main", "_hop.py": "", "__init__.py": "from .codec import X as X"}
    assert wrongs(house) == []
    assert f"{path} {wrong}" in wrongs(house | {path: source})

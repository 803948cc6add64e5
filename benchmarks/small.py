"""The suite of small saves: 1 KB beside the bare system calls and the peers, and 1,000 tasks beside the json module."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import msgspec

from swoosh_async import OrchestratorState, Snapshot, SnapshotCodec

from . import oneshot, savers
from .blocks import Block, awaited, block_ratio, blocking, calls_of
from .laps import interleave, percentile
from .loops import LOOPS
from .machine import machine
from .markdown import figure
from .report import Bar, Bars, Report, Table, Target
from .states import orchestrator
from .syscalls import same_calls_as_save

__all__ = ["measure"]

Contestants = dict[str, Callable[[], Block]]
Found = dict[str, list[Block]]

_ROUNDS = 60
_LONG_ROUNDS = 300
_KILOBYTE_TASKS = 4
_THOUSAND = 1000

_BARE = "bare system calls, blocking"
_HOP = "bare system calls, one hop into a thread"
_AIOFILES = "aiofiles, call by call"
_AIOFILES_SAME = "the same steps with aiofiles, call by call"

_JSON = "json, sorted keys + bare system calls, blocking"
_ONESHOT = "msgspec in one call + bare system calls, blocking"
_ENCODE = "encode alone: swoosh_async"
_ENCODE_UNVERIFIED = "encode alone: swoosh_async, verify=False"
_ENCODE_ONESHOT = "encode alone: msgspec in one call"
_ENCODE_JSON = "encode alone: json, sorted keys"


def measure(directory: Path, *, long: bool) -> Report:
    """Measure, writing in `directory`."""
    where = machine(directory)
    rounds = _LONG_ROUNDS if long else _ROUNDS
    kilobyte = interleave("1 KB", _one_kilobyte(directory), rounds)
    thousand = interleave("1,000 tasks", _thousand_tasks(directory), rounds // 2)
    tables = [
        _table("A save of 1 KB", kilobyte, _BARE),
        _table("1,000 tasks, 200 KB", thousand, _JSON),
    ]
    pictures = [
        _bars("a save of 1 KB, median, milliseconds", kilobyte),
        _bars("1,000 tasks, median, milliseconds", thousand),
    ]
    return Report("small", where, [*_targets_of_kilobyte(kilobyte), *_targets_of_thousand(thousand)], tables, pictures)


def _swoosh(loop: str) -> str:
    return f"swoosh_async on {loop}"


# ---------------------------------------------------------------------- contestants


def _one_kilobyte(parent: Path) -> Contestants:
    state = orchestrator(_KILOBYTE_TASKS)
    data = b"".join(_pieces(SnapshotCodec(OrchestratorState), state))
    bare, hop, same = (_holding(parent / name, data) for name in ("bare", "hop", "same"))
    peers: dict[str, savers.Opener] = {
        "json + aiofiles": savers.aiofiles_json,
        "pickle + aiofiles": savers.aiofiles_pickle,
        "aiosqlite, WAL, synchronous=FULL": savers.sqlite_msgspec,
        "diskcache, synchronous=FULL": savers.diskcache_pickle,
    }
    return {
        _BARE: partial(blocking, partial(same_calls_as_save, bare, data)),
        _HOP: partial(awaited, "asyncio", savers.one_hop, hop, data),
        **{_swoosh(loop): partial(awaited, loop, savers.swoosh, parent / loop, state) for loop in LOOPS},
        _AIOFILES_SAME: partial(awaited, "asyncio", savers.aiofiles_same_steps, same, data),
        _AIOFILES: partial(awaited, "asyncio", savers.aiofiles_bytes, parent, data),
        **{name: partial(awaited, "asyncio", opener, parent, state) for name, opener in peers.items()},
    }


def _thousand_tasks(parent: Path) -> Contestants:
    state = orchestrator(_THOUSAND)
    verified: SnapshotCodec[OrchestratorState] = SnapshotCodec(OrchestratorState)
    unverified: SnapshotCodec[OrchestratorState] = SnapshotCodec(OrchestratorState, verify=False)
    data = oneshot.encode(state)
    by_msgspec, by_json = _holding(parent / "msgspec", data), _holding(parent / "json", data)
    saves: dict[str, savers.Opener] = {"": savers.swoosh, ", verify=False": savers.swoosh_unverified}
    return {
        **{
            _swoosh("asyncio") + how: partial(awaited, "asyncio", opener, parent / f"1000{how}", state)
            for how, opener in saves.items()
        },
        _ONESHOT: partial(blocking, lambda: same_calls_as_save(by_msgspec, oneshot.encode(state))),
        _JSON: partial(blocking, lambda: same_calls_as_save(by_json, _json(state))),
        _ENCODE: partial(blocking, partial(_pieces, verified, state)),
        _ENCODE_UNVERIFIED: partial(blocking, partial(_pieces, unverified, state)),
        _ENCODE_ONESHOT: partial(blocking, partial(oneshot.encode, state)),
        _ENCODE_JSON: partial(blocking, partial(_json, state)),
    }


def _holding(directory: Path, data: bytes) -> Path:
    """A new directory with a snapshot, as a save finds it."""
    directory.mkdir()
    (directory / "snapshot.json").write_bytes(data)
    return directory


def _pieces(codec: SnapshotCodec[OrchestratorState], state: OrchestratorState) -> list[bytes]:
    return list(codec.encode(Snapshot(state=state, last_applied_hlc=savers.HLC, last_applied_index=1)))


def _json(state: OrchestratorState) -> bytes:
    return json.dumps(msgspec.to_builtins(state), sort_keys=True).encode()


# ---------------------------------------------------------------------- what was found


def _targets_of_kilobyte(found: Found) -> list[Target]:
    return [
        Target(f"save 1 KB on {loop} / {short}", block_ratio(found[_swoosh(loop)], found[base]), bound)
        for base, short, bound in (
            (_BARE, "the same system calls, bare", 1.35),
            (_AIOFILES_SAME, "the same steps with aiofiles", 0.6),
            (_AIOFILES, "the least with aiofiles", 0.6),
        )
        for loop in LOOPS
    ]


def _targets_of_thousand(found: Found) -> list[Target]:
    pairs = (
        ("encode 1,000 tasks: json, sorted keys / swoosh_async", _ENCODE_JSON, _ENCODE),
        ("save 1,000 tasks: json, sorted keys + bare system calls / swoosh_async", _JSON, _swoosh("asyncio")),
    )
    return [Target(what, block_ratio(found[over], found[ours]), 5, at_least=True) for what, over, ours in pairs]


def _table(title: str, found: Found, base: str) -> Table:
    rows = []
    for name, blocks in found.items():
        took_ms = [took * 1e3 for took in calls_of(blocks)]
        times = figure(block_ratio(blocks, found[base]), "×")
        rows.append([name, figure(median(took_ms)), figure(percentile(took_ms, 99)), figure(min(took_ms)), times])
    return Table(title, ["", "median, ms", "p99, ms", "least, ms", f"of *{base}*"], rows)


def _bars(title: str, found: Found) -> Bars:
    return Bars(title, [Bar(name, median(calls_of(blocks)) * 1e3, "swoosh" in name) for name, blocks in found.items()])

"""Every verb of a journal that awaits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio

from swoosh_async import Journal

from .._journals import opened as opened_journal
from .._journals import texts
from ._phases import World
from ._verbs import Effect, Kind, Verb

__all__ = ["JOURNAL_VERBS"]

_TEXTS = [f"{number} " + "x" * 3000 for number in range(1, 7)]
_LONG = "long " + "x" * 9000


class Open(Kind):
    """Six entries in three segments."""

    async def prepare(self, world: World) -> None:
        async with Journal(world.fresh(), str) as journal:
            for text in _TEXTS:
                await journal.append(text)

    @asynccontextmanager
    async def opened(self, world: World) -> AsyncIterator[Any]:
        async with Journal(world.backend, str) as journal:
            yield journal

    async def there(self, world: World) -> Any:
        async with opened_journal(world.fresh(), read_only=True) as journal:
            return journal.first_index, await texts(journal)

    async def next(self, subject: Any, world: World) -> None:
        del world
        await subject.append("next")

    def after_next(self, there: Any) -> Any:
        return there[0], [*there[1], "next"]

    async def reopened(self, world: World) -> None:
        async with Journal(world.fresh(), str) as journal:
            await journal.append("reopened")


class Closing(Open):
    """A journal that is opened or closed by the call, so that the next call is another one's, on the same backend."""

    async def next(self, subject: Any, world: World) -> None:
        del subject
        async with Journal(world.backend, str) as journal:
            await journal.append("next")


async def _open(subject: None, world: World) -> None:
    del subject
    async with Journal(world.backend, str) as journal:
        await journal.append("new")


async def _open_to_read(subject: None, world: World) -> list[str]:
    del subject
    async with Journal(world.backend, str, read_only=True) as journal:
        return await texts(journal)


async def _read(journal: Journal[str], world: World) -> list[str]:
    async with aclosing(journal.read()) as entries:
        async for entry in entries:
            world.seen.append(entry.event)
    return list(world.seen)


async def _follow(journal: Journal[str], world: World) -> list[str]:
    async with aclosing(journal.follow(2)) as entries:
        async for entry in entries:
            world.seen.append(entry.event)
            if len(world.seen) == 4:
                break
    return list(world.seen)


async def _follow_on(journal: Journal[str], world: World) -> list[str]:
    """Follow to an entry that comes only now."""
    async with anyio.create_task_group() as tasks, aclosing(journal.follow(5)) as entries:
        async for entry in entries:
            world.seen.append(entry.event)
            if len(world.seen) == 2:
                break
            tasks.start_soon(journal.append, "new")
    return list(world.seen)


def _appended(*new: str) -> Effect:
    return lambda there: (there[0], [*there[1], *new])


_EVENTS, _CLOSING = Open(), Closing()
JOURNAL_VERBS = [
    Verb(
        "open, append, close",
        _CLOSING,
        "Journal.__aenter__ Journal.__aexit__",
        _open,
        _appended("new"),
        opens=True,
    ),
    Verb("open to read", _CLOSING, "Journal.__aenter__ Journal.__aexit__", _open_to_read, gives=_TEXTS, opens=True),
    Verb("aclose", _CLOSING, "Journal.aclose", lambda journal, _: journal.aclose()),
    Verb("append", _EVENTS, "Journal.append", lambda journal, _: journal.append("new"), _appended("new")),
    Verb("append, rotating", _EVENTS, "Journal.append", lambda journal, _: journal.append(_LONG), _appended(_LONG)),
    Verb(
        "append_many",
        _EVENTS,
        "Journal.append_many",
        lambda journal, _: journal.append_many(["new"] * 300),
        _appended(*["new"] * 300),
    ),
    Verb("read", _EVENTS, "Journal.read", _read, gives=_TEXTS),
    Verb("follow", _EVENTS, "Journal.follow", _follow, gives=_TEXTS[2:]),
    Verb(
        "follow on",
        _EVENTS,
        "Journal.follow",
        _follow_on,
        _appended("new"),
        gives=[_TEXTS[5], "new"],
        alone=False,
    ),
    Verb(
        "truncate_before",
        _EVENTS,
        "Journal.truncate_before",
        lambda journal, _: journal.truncate_before(5),
        lambda there: (5, there[1][4:]),
    ),
]

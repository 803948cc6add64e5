"""What a public verb that awaits is to a test: how it is called, what it leads to, and what it gives.

A verb has a *kind*: what is there before it, what it is called on, and how to tell what is there then. Whatever is
cancelled, there is what was there before or what the verb leads to, and the latter where it has returned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from ._phases import World

__all__ = ["Effect", "Kind", "Verb"]

Call = Callable[[Any, World], Coroutine[Any, Any, Any]]
Effect = Callable[[Any], Any]


class Kind(ABC):
    """What verbs of one class have in common."""

    @abstractmethod
    async def prepare(self, world: World) -> None:
        """Make what is there before."""

    @abstractmethod
    def opened(self, world: World) -> AbstractAsyncContextManager[Any]:
        """What a call is made on."""

    @abstractmethod
    async def there(self, world: World) -> Any:
        """What is there, as another process sees it."""

    @abstractmethod
    async def next(self, subject: Any, world: World) -> None:
        """A next call on the same, or, where it was a call that closes it, on another one."""

    @abstractmethod
    def after_next(self, there: Any) -> Any:
        """What is to be there after it."""

    @abstractmethod
    async def reopened(self, world: World) -> None:
        """Claim everything that the call may have held, and write."""


class Verb:
    """One verb.

    Args:
        name: What it is called, and how.
        kind: Its kind.
        covers: The methods that it stands for.
        call: The call; on nothing where it opens what it needs.
        effects: What it may lead to, of what was there; the last is what is there when it has returned.
        gives: What is to be told of its result; nothing where nothing is.
        opens: Whether it is called on nothing.
        alone: Whether no thread but its own works meanwhile.
    """

    def __init__(
        self,
        name: str,
        kind: Kind,
        covers: str,
        call: Call,
        *effects: Effect,
        gives: Any = None,
        opens: bool = False,
        alone: bool = True,
    ) -> None:
        self.name = name
        self.kind = kind
        self.covers = covers.split()
        self.call = call
        self.effects = effects or (lambda there: there,)
        self.gives = gives
        self.opens = opens
        self.alone = alone

    @asynccontextmanager
    async def opened(self, world: World) -> AsyncIterator[Any]:
        """What it is called on."""
        if world.facts is None:
            world.facts = await self.kind.there(world)
        if self.opens:
            yield None
            return
        async with self.kind.opened(world) as subject:
            yield subject

    async def there(self, world: World) -> Any:
        """As its kind has it."""
        return await self.kind.there(world)

    def judge(self, there: Any, world: World) -> Iterator[str]:
        """What is wrong about what is there, and about what it gave."""
        leads_to = [effect(world.facts) for effect in self.effects]
        if there not in ([world.facts, *leads_to] if not world.result else leads_to[-1:]):
            yield f"{'it has returned and ' * bool(world.result)}there is {there}"
        if world.result and self.gives is not None and world.result != [self.gives]:
            yield f"it gave {world.result[0]}"
        if world.seen and world.seen != self.gives[: len(world.seen)]:
            yield f"it has shown {world.seen}"

    async def next(self, subject: Any, world: World) -> None:
        """As its kind has it."""
        await self.kind.next(subject, world)

    def after_next(self, there: Any) -> Any:
        """As its kind has it."""
        return self.kind.after_next(there)

    async def reopened(self, world: World) -> None:
        """As its kind has it."""
        await self.kind.reopened(world)

"""The default state on persistent maps: an event costs the change of a few entries, however many there are.

What is stored is the same as of an `OrchestratorState`. This module needs the extra ``[persistent]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar, cast

import msgspec

from .codec._containers import HARMLESS
from .models import Lease, OrchestratorState, Task, Worker

try:
    from immutables import Map
except ModuleNotFoundError as error:
    if error.name != "immutables":
        raise
    needed = "swoosh_async.persistent needs immutables: pip install 'swoosh-async[persistent]'"
    raise ModuleNotFoundError(needed, name=error.name) from error

__all__ = ["PersistentState"]

V = TypeVar("V")


class PersistentState(OrchestratorState, frozen=True):
    """An `OrchestratorState` whose mappings are `immutables.Map`: with k changed entries a helper takes O(k log n).

    A mapping of another kind that is given to the constructor becomes a `Map`. Stored bytes are those of an
    `OrchestratorState`, and each of the two loads what the other has saved. The entries of a `Map` are in no order: it
    differs from one process to the next, so an `apply` that goes by it (by the first of `ready_tasks`, say) is not
    pure.

    Attributes:
        workers: By id.
        tasks: By id.
        leases: By name.
        settings: By name.
    """

    workers: Map[str, Worker] = Map()
    tasks: Map[str, Task] = Map()
    leases: Map[str, Lease] = Map()
    settings: Map[str, str] = Map()

    def __post_init__(self) -> None:
        for name in OrchestratorState.__struct_fields__:
            given = getattr(self, name)
            if not isinstance(given, Map):
                msgspec.structs.force_setattr(self, name, Map(given))

    @staticmethod
    def _with(old: Mapping[str, V], new: Iterable[tuple[str, V]]) -> Mapping[str, V]:
        return cast("Map[str, V]", old).update(new)

    @staticmethod
    def _without(old: Mapping[str, V], keys: Iterable[str]) -> Mapping[str, V]:
        left = cast("Map[str, V]", old).mutate()
        for key in keys:
            left.pop(key, None)
        return left.finish()


HARMLESS.add(PersistentState.__post_init__)

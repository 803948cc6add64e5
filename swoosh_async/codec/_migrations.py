"""Steps from one schema version of a state to the next, on plain data.

This file is pure, and knows nothing of formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from ..errors import SchemaVersionError

__all__ = ["Migration", "Migrations", "migration"]

_VERSION_END = 1 << 63


class Migration(msgspec.Struct, frozen=True):
    """A step from one schema version to the next.

    Attributes:
        from_version: The schema version that it reads, ≥ 1.
        step: Takes the state as plain data (dicts, lists, str, numbers, …) and returns it as the next version has it.
    """

    from_version: int
    step: Callable[[Any], Any]

    def __call__(self, state: Any) -> Any:
        """Apply the step."""
        return self.step(state)


def migration(from_version: int) -> Callable[[Callable[[Any], Any]], Migration]:
    """Register a function as the step from `from_version` to `from_version + 1`.

    Args:
        from_version: The schema version that the function reads, ≥ 1.

    Returns:
        A decorator; what it makes goes into `migrations=[…]` of a codec or a store.

    Raises:
        ValueError: `from_version` is below 1.
    """
    if type(from_version) is not int or from_version < 1:
        raise ValueError("from_version must be an int >= 1")
    return lambda step: Migration(from_version, step)


class Migrations:
    """The steps to one schema version.

    Args:
        schema_version: Where they lead, 1 ≤ schema_version < 2**63.
        steps: In any order.

    Raises:
        ValueError: There are two steps from one version, one from `schema_version` or above, or a gap between them.
    """

    def __init__(self, schema_version: int, steps: Iterable[Migration]) -> None:
        if type(schema_version) is not int or not 1 <= schema_version < _VERSION_END:
            raise ValueError("schema_version must be an int with 1 <= schema_version < 2**63")
        self.schema_version = schema_version
        self._steps: dict[int, Migration] = {}
        for step in steps:
            if step.from_version in self._steps:
                raise ValueError(f"two migrations from schema version {step.from_version}")
            self._steps[step.from_version] = step
        froms = sorted(self._steps)
        if froms and (froms[-1] != schema_version - 1 or froms[-1] - froms[0] != len(froms) - 1):
            raise ValueError(f"migrations from {froms} do not lead, step by step, to {schema_version}")

    def check(self, found: int) -> None:
        """Check that a state of that schema version can be read.

        Raises:
            SchemaVersionError: It is newer, or no migrations lead from it.
        """
        if found != self.schema_version and found not in self._steps:
            raise SchemaVersionError(found=found, supported=self.schema_version)

    def apply(self, state: Any, found: int) -> Any:
        """The state as `schema_version` has it.

        Raises:
            SchemaVersionError: It is newer, no migrations lead from it, or one of them failed.
        """
        self.check(found)
        for version in range(found, self.schema_version):
            try:
                state = self._steps[version](state)
            except Exception as error:
                detail = f"the migration from {version} raised {type(error).__name__}"
                raise SchemaVersionError(found=found, supported=self.schema_version, detail=detail) from error
        return state

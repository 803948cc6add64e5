"""What a stored snapshot says of itself, and its state, as people read it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rich.console import Group
from rich.text import Text

from ..clock import Timestamp
from ..codec import Decoded, Facts
from ._terminal import printable, shortened
from ._tree import Bounds, tree_of

__all__ = ["facts_of", "report", "utc", "wall_time"]


def report(name: str, found: Decoded[Any], bounds: Bounds) -> Group:
    """A snapshot as a title, its facts a line each, and its state as a tree."""
    facts = (Text.assemble((f"{fact:16}", "dim"), value) for fact, value in facts_of(found.facts, bounds.chars))
    return Group(Text(printable(name), "bold"), *facts, tree_of("state", found.snapshot.state, bounds))


def facts_of(facts: Facts, chars: int) -> list[tuple[str, str]]:
    """What is known besides the state, by name."""
    algorithm, _, digits = facts.checksum.partition(":")
    checksum = [("checksum", "verified"), (algorithm, digits)] if digits else [("checksum", "none (unverified)")]
    return [
        ("format", facts.format),
        ("compression", facts.compression or "none"),
        ("format version", str(facts.format_version or "none (as the Go package writes)")),
        ("index", str(facts.cursor.index)),
        ("hlc", shortened(printable(facts.cursor.hlc), chars) or "none"),
        ("wall time", wall_time(facts.cursor.hlc)),
        ("size", f"{facts.size_bytes:,} bytes"),
        ("schema version", str(facts.schema_version)),
        *checksum,
    ]


def wall_time(hlc: str) -> str:
    """When that was, in ISO 8601, to the nanosecond, in UTC; ``foreign`` where it is no timestamp of this package."""
    if not hlc:
        return "none"
    try:
        timestamp = Timestamp.parse(hlc)
    except ValueError:
        return "foreign"
    return f"{utc(timestamp)} (logical {timestamp.logical}, node {timestamp.node})"


def utc(timestamp: Timestamp) -> str:
    """Its wall time in ISO 8601, to the nanosecond, in UTC."""
    seconds, ns = divmod(timestamp.wall_ns, 1_000_000_000)
    wall = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{wall}.{ns:09d}Z"

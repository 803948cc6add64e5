"""What the demo's orchestrator tells the command that started it: one message a line, as JSON, on its standard output.

This file is pure.
"""

from __future__ import annotations

import msgspec

__all__ = ["Acknowledged", "Failed", "Finished", "Found", "Message", "from_line", "to_line"]


class Found(msgspec.Struct, frozen=True, tag=True):
    """What it found when it started, and how it came by it.

    Attributes:
        index: How many events were applied; 0 where there was nothing.
        start: How often an orchestrator was started on this run's work, this time included.
        done: How many tasks had ended.
        again: How many tasks were running, and are begun again.
        snapshot: The index of the snapshot that it began with; None where there was none.
        passed_over: How many newer snapshots were damaged, and passed over.
        entries: How many entries were replayed.
        torn_bytes: How much was cut off the journal.
        claim_s: How long the claim took, in seconds.
        load_s: How long the snapshot took, in seconds.
        replay_s: How long the replay took, in seconds.
    """

    index: int
    start: int
    done: int
    again: int
    snapshot: int | None = None
    passed_over: int = 0
    entries: int = 0
    torn_bytes: int = 0
    claim_s: float = 0.0
    load_s: float = 0.0
    replay_s: float = 0.0


class Acknowledged(msgspec.Struct, frozen=True, tag=True):
    """A dispatch has returned: its event is durable, and all before it.

    Attributes:
        index: Up to where events are in the state; the event's own index, or a higher one.
        task: The task that it is about.
        attempts: How often that was begun.
        result: What that gave, or why it failed; None where it has begun.
        duration_s: How long the dispatch took, in seconds.
    """

    index: int
    task: str
    attempts: int
    result: str | None
    duration_s: float


class Finished(msgspec.Struct, frozen=True, tag=True):
    """Every task has ended, that is durable, and the machine is closed."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It cannot go on.

    Attributes:
        reason: Why, for people.
    """

    reason: str


Message = Found | Acknowledged | Finished | Failed

_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def to_line(message: Message) -> bytes:
    """The message as a line."""
    return msgspec.json.encode(message) + b"\n"


def from_line(line: bytes) -> Message | None:
    """The message that a line holds; None where it is none, or was cut off, as a killed process's last one may be."""
    try:
        return _decoder.decode(line) if line.endswith(b"\n") else None
    except msgspec.DecodeError:
        return None

"""What the demo's orchestrator tells the command that started it: one message a line, as JSON, on its standard output.

This file is pure.
"""

from __future__ import annotations

import msgspec

__all__ = ["Failed", "Finished", "Found", "Message", "Saved", "from_line", "to_line"]


class Found(msgspec.Struct, frozen=True, tag=True):
    """What it found when it started, in the latest snapshot.

    Attributes:
        index: How many events were applied; 0 where there was no snapshot.
        start: How often an orchestrator was started on this run's work, this time included.
        done: How many tasks had ended.
        again: How many tasks were running, and are begun again.
    """

    index: int
    start: int
    done: int
    again: int


class Saved(msgspec.Struct, frozen=True, tag=True):
    """A save has returned: what is in it is acknowledged.

    Attributes:
        index: How many events were applied.
        hlc: The last event's hybrid logical timestamp, as text.
        done: How many tasks had ended.
        duration_s: How long the save took, in seconds.
    """

    index: int
    hlc: str
    done: int
    duration_s: float


class Finished(msgspec.Struct, frozen=True, tag=True):
    """Every task has ended, and that is saved."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It cannot go on.

    Attributes:
        reason: Why, for people.
    """

    reason: str


Message = Found | Saved | Finished | Failed

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

"""The command `swoosh-async`, or `python -m swoosh_async`: the extra ``[cli]``, without which it says what to install.

This file imports neither of the extra's libraries, and nothing of the command, before it is called.
"""

from __future__ import annotations

import io
import sys
import warnings

__all__ = ["main"]

_EXTRA = frozenset({"rich", "typer"})


def main() -> None:
    """Run the command with this process's arguments; it exits with 0, with 1 for a failure, with 2 for wrong usage."""
    try:
        from ..errors import DurabilityWarning
        from ._app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        print(f"swoosh-async needs {error.name}: pip install 'swoosh-async[cli]'", file=sys.stderr)
        sys.exit(2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an ellipsis must not stop it on an ASCII terminal
    warnings.simplefilter("ignore", DurabilityWarning)  # looking needs no durability
    app()

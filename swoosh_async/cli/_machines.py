"""A program's own state machine, named on the command line as ``MODULE:NAME``: a function that takes a backend."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from ..backends.base import Backend
from ..errors import SwooshError
from ..machine import StateMachine
from ..models import Snapshot
from ._input import Held, decoded

__all__ = ["MachineError", "machine_of", "plain_state", "told_of_user"]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class MachineError(SwooshError):
    """A program's state machine cannot be made, or its own functions failed."""


def machine_of(name: str, backend: Backend) -> StateMachine[Any, Any]:
    """The machine that a function of that name makes of a backend; looked for in the current directory as well.

    Raises:
        MachineError: There is no such function, or it gives no machine.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise MachineError(f"--machine {name}: give MODULE:NAME, such as myservice.state:machine")
    function = _named(name, _imported(name, module_name), function_name)
    if isinstance(function, StateMachine):
        raise MachineError(f"--machine {name}: a StateMachine; give a function that takes a Backend and returns one")
    if not callable(function):
        raise MachineError(f"--machine {name}: a {type(function).__name__}; give a function that takes a Backend")
    with told_of_user(f"--machine {name}: calling it with a backend"):
        made: object = function(backend)
    if inspect.iscoroutine(made):
        made.close()
        raise MachineError(f"--machine {name}: an async function; give a plain one, which returns the StateMachine")
    if not isinstance(made, StateMachine):
        raise MachineError(f"--machine {name}: it returned a {type(made).__name__}, not a StateMachine")
    return made  # pyright: ignore[reportUnknownVariableType]  of whatever types


def plain_state(machine: StateMachine[Any, Any], snapshot: Snapshot[Any]) -> Any:
    """The snapshot's state as plain data, as it would be read from the machine's own snapshots.

    Raises:
        InvalidStateError: It would not come back as it is.
    """
    return decoded(Held("state", b"".join(machine.codec.encode(snapshot)))).snapshot.state


@contextmanager
def told_of_user(what: str) -> Generator[None, None, None]:
    """Turn what a program's own code raises into a `MachineError`: its class and where it was, but nothing it says."""
    try:
        yield
    except SwooshError:
        raise
    except (Exception, SystemExit) as error:
        raise MachineError(f"{what} failed: {type(error).__name__}{_place(error)}") from error


def _imported(name: str, module_name: str) -> Any:
    if not sys.flags.safe_path and "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name == missing or module_name.startswith(f"{missing}."):
            raise MachineError(f"--machine {name}: there is no module {missing}{_where()}") from None
        raise MachineError(f"--machine {name}: importing it failed: no module {missing}{_place(error)}") from error
    except (Exception, SystemExit) as error:
        raise MachineError(
            f"--machine {name}: importing it failed: {type(error).__name__}: {error}{_place(error)}"
        ) from error


def _where() -> str:
    return "" if sys.flags.safe_path else ", in the current directory or among what is installed"


def _named(name: str, module: Any, function_name: str) -> Any:
    found = module
    for part in function_name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise MachineError(f"--machine {name}: {module.__name__} has no {function_name}") from None
    return found


def _place(error: BaseException) -> str:
    """Where it was raised, in code that is not this package's."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((_PACKAGE, "<")) and frame.filename != importlib.__file__:
            return f", at {frame.filename}:{frame.lineno}"
    return ""

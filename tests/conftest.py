"""What every test stands on: the three event loops, a guard over them, and how Hypothesis searches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import settings

from .loop_guard import LoopGuard

# Under coverage, on two busy cores, a single slow example says nothing. In CI a run must not depend on luck.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if "CI" in os.environ else "here")

# What tests start is no more bothered by temporary directories in memory than they are: see pyproject.toml.
os.environ.setdefault("PYTHONWARNINGS", "ignore:the file system at")


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the proofs go on; what is not given here is what they do in each run."""
    proofs = parser.getgroup("proof")
    proofs.addoption("--cuts", type=int, default=100, help="how many power cuts, over all file systems together")
    proofs.addoption("--states", type=int, default=300, help="how many crash states of blocks, likewise")
    proofs.addoption("--kills", type=int, default=200, help="how many kills in a storm")


without_uvloop = pytest.mark.skipif(find_spec("uvloop") is None, reason="uvloop is not installed here")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop", marks=without_uvloop),
        pytest.param(("trio", {}), id="trio"),
    ],
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Each event loop in turn, for the tests marked `anyio`."""
    return request.param


@pytest.fixture(scope="session", autouse=True)
def guard_of_the_session() -> Iterator[LoopGuard]:
    """The guard, installed once."""
    guard = LoopGuard("swoosh_async")
    guard.install()
    yield guard
    guard.remove()


@pytest.fixture(autouse=True)
def loop_guard(guard_of_the_session: LoopGuard) -> Iterator[LoopGuard]:
    """The guard; a test in which the package blocks an event loop fails, even if the error was swallowed."""
    guard_of_the_session.take()
    yield guard_of_the_session
    if found := guard_of_the_session.take():
        pytest.fail("the event loop was blocked: " + "; ".join(found))

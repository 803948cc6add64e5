"""What is checked before a change lands: `nox` runs all of it, `nox -s NAME` one part, `nox --list` shows the parts."""

from __future__ import annotations

import sys

import nox

PROJECT = nox.project.load_toml("pyproject.toml")
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHONS = sorted({"3.11", "3.12", "3.13", HERE}, key=lambda python: int(python.partition(".")[2]))

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "venv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False  # whoever has one Python tests on that one
nox.options.sessions = ["lint", "types", "tests", "docs"]


def install(session: nox.Session, *what: str, group: str) -> None:
    """Install a dependency group, and the package where it is needed, at the versions of constraints.txt."""
    session.install("-c", "constraints.txt", *what, *nox.project.dependency_groups(PROJECT, group))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests on each Python that is there, with coverage on the one at hand. Arguments go to pytest, without."""
    install(session, ".[cli,zstd,persistent]", group="test")
    # -P: the tests see the package as installed, not the checkout
    if session.posargs or session.python != HERE:
        session.run("python", "-P", "-m", "pytest", *session.posargs)
    else:
        session.run("python", "-P", "-m", "coverage", "run", "-m", "pytest")
        session.notify("coverage")


@nox.session
def coverage(session: nox.Session) -> None:
    """Show which lines and branches no test has reached, on any Python."""
    install(session, group="test")
    session.run("coverage", "combine")
    session.run("coverage", "report")


@nox.session
def lint(session: nox.Session) -> None:
    """Hold the code to the rules and the layout set in pyproject.toml."""
    install(session, group="lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check the package, and the public face as its users see it, with mypy and pyright, both strict."""
    install(session, ".[cli,zstd,persistent]", group="types")
    session.run("mypy")
    session.run("pyright", env={"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"})


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, every warning an error, and run its examples."""
    install(session, ".[cli,zstd,persistent]", group="docs")
    for builder in ("html", "doctest"):
        session.run("sphinx-build", "-n", "-W", "--keep-going", "-q", "-b", builder, "docs", f"docs/_build/{builder}")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure side by side with what people use today; arguments go to `python -m benchmarks`."""
    install(session, ".[cli,zstd,persistent]", group="bench")
    session.run("python", "-m", "benchmarks", *session.posargs)

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
nox.options.sessions = ["lint", "types", "tests", "proof", "docs"]


def install(session: nox.Session, *what: str, group: str) -> None:
    """Install a dependency group, and the package where it is needed, at the versions of constraints.txt."""
    session.install("-c", "constraints.txt", *what, *nox.project.dependency_groups(PROJECT, group))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests on each Python that is there, the slow ones on the one at hand; arguments go to pytest."""
    which = session.posargs or (() if session.python == HERE else ("-m", "not slow"))
    pytest(session, "--ignore=tests/proof", *which)


@nox.session
def proof(session: nox.Session) -> None:
    """Try to make it lose data: power cuts, crash states, faults, kills. `-- -m 'not slow'` takes a minute, no root."""
    where = () if any(argument.startswith("tests") for argument in session.posargs) else ("tests/proof",)
    pytest(session, *where, *session.posargs, group="proof")


@nox.session
def powercut(session: nox.Session) -> None:
    """Cut the power of real file systems under load; `-- --cuts 10000` for a long run. Needs root."""
    pytest(session, "-m", "powercut", "-s", "tests/proof", *session.posargs)


@nox.session
def blocks(session: nox.Session) -> None:
    """Crash real file systems at every block that they write; `-- --states 5000` for a long run. Needs root."""
    pytest(session, "-m", "blocks", "-s", "tests/proof", *session.posargs)


def pytest(session: nox.Session, *arguments: str, group: str = "test") -> None:
    """Run pytest over the package as installed."""
    install(session, ".[cli,zstd,persistent]", group=group)
    session.run("python", "-P", "-m", "pytest", *arguments)  # -P: not the checkout


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests, and show which lines and branches none of them has reached."""
    install(session, ".[cli,zstd,persistent]", group="test")
    session.run("python", "-P", "-m", "coverage", "run", "-m", "pytest", "--ignore=tests/proof", *session.posargs)
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

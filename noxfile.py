"""The checks one by one, each in an environment of its own: ``nox``, or ``nox -s docs``.

What has to pass is `.ci/run`. Its commands for lint, types and tests are the same;
`tests/test_habits.py` compares them.
"""

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True

OLDEST = ("numba==0.61.0", "numpy==2.0.0", "scipy==1.14.0")
TOOLS = ("pytest", "pytest-xdist", "hypothesis", "ml_dtypes")


@nox.session
def tests(session: nox.Session) -> None:
    """Tests and examples in docstrings; arguments after -- go to pytest."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """Tests of the core with the oldest versions that pyproject.toml allows."""
    session.install("-e", ".", *OLDEST, *TOOLS)
    session.run("python", "-m", "pytest", *(session.posargs or ["tests"]))


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and the format of the code."""
    session.install("-e", ".[lint]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types of the package, by the strict rules of pyproject.toml."""
    session.install("-e", ".[lint]")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, warnings as errors: docs/_build/html/index.html."""
    session.install("-e", ".[docs]")
    session.run(
        "python", "-m", "sphinx", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html"
    )


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Speed and memory beside other libraries; arguments after -- say what."""
    session.install("-e", ".[bench]")
    session.run("python", "-m", "benchmarks", *(session.posargs or ["--quick"]))


@nox.session
def cuda_simulator(session: nox.Session) -> None:
    """Kernels for GPUs in numba's simulator, which needs none."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "tests/test_simulator.py", *session.posargs)

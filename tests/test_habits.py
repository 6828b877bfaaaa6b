"""Files about the project agree with each other and with the package."""

import ast
import re
from pathlib import Path

import pytest

import smoothl1

ROOT = Path(__file__).parent.parent


def sessions():
    """Commands of each session of the noxfile, the parts that are fixed."""
    functions = [
        node
        for node in ast.parse((ROOT / "noxfile.py").read_text()).body
        if isinstance(node, ast.FunctionDef)
    ]
    return {
        function.name: [
            " ".join(part.value for part in call.args if isinstance(part, ast.Constant))
            for call in ast.walk(function)
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "session.run"
        ]
        for function in functions
    }


def test_nox_runs_what_ci_runs():
    ci = (ROOT / ".ci" / "run").read_text()
    for name in ("lint", "types"):
        for command in sessions()[name]:
            assert re.search(rf'/bin/{re.escape(command)}"?\n', ci.replace('"', "")), command
    (command,) = sessions()["tests"]
    assert f".venv/bin/{command}\n" in (ROOT / "README.md").read_text()


def test_hooks_run_the_same_tools():
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with Dask")
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    tools = {hook["entry"].removesuffix(" --force-exclude") for hook in repository["hooks"]}
    wanted = sessions()["lint"] + sessions()["types"]
    assert tools == {re.sub(r" (--check )?\.$", "", command) for command in wanted}


def test_scripts_that_are_named_exist():
    for name in re.findall(r"(?:benchmarks/)?(\w+\.py)\b", (ROOT / "noxfile.py").read_text()):
        places = [ROOT / folder / name for folder in ("benchmarks", "tests")]
        assert any(place.exists() for place in places), name


def test_the_citation_is_of_this_version():
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with Dask")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == smoothl1.__version__
    assert citation["title"] == "smoothl1"
    assert citation["license"] == "BSD-3-Clause"
    assert {"message", "authors"} <= citation.keys()


@pytest.mark.parametrize("name", ["wrong_number", "slow", "crash_or_hang"])
def test_issue_forms(name):
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with Dask")
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    if not folder.exists():
        pytest.skip("a source distribution has no .github")
    form = yaml.safe_load((folder / f"{name}.yml").read_text())
    assert {"name", "description", "body"} <= form.keys()
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all("label" in field["attributes"] for field in fields)
    assert "python -m smoothl1 info" in str(form)

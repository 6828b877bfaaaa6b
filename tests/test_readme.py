"""What the README and the example say is what happens; its Python runs in `test_docs`."""

import re
from pathlib import Path

from smoothl1.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_first_lines_of_shell_are_the_two_commands():
    blocks = re.findall(r"^```shell\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    run, test = blocks[0].splitlines()
    assert run.endswith("docs/examples/robust_line.py")
    assert test.endswith("-m pytest")


def test_the_line_of_shell_that_fits_a_file(capsys, monkeypatch):
    (command,) = re.findall(r"^\.venv/bin/python -m smoothl1 (.*)$", README, re.MULTILINE)
    monkeypatch.chdir(ROOT)
    assert main(command.split()) == 0
    assert "-102.5302" in capsys.readouterr().out


def test_the_example_fits_a_robust_line(run_python):
    out = run_python(
        f"import runpy; runpy.run_path({str(ROOT / 'docs/examples/robust_line.py')!r}, "
        "run_name='__main__')"
    )
    rows = {line[:16].strip(): line[16:].split() for line in out.splitlines()}
    for name, wanted in {
        "least squares": (-260.059, 5.04148),
        "smooth L1": (-102.530, 2.03960),
    }.items():
        for got, value in zip(map(float, rows[name]), wanted, strict=True):
            assert abs(got / value - 1) < 1e-5

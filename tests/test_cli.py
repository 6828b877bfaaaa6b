"""The command line: right numbers, and one clear line for every kind of bad input."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, special

from smoothl1 import cli
from smoothl1.cli import main

PHONES = str(Path(__file__).parent.parent / "docs" / "data" / "phones.csv")
FIT = ["fit", PHONES, "--target", "calls"]


@pytest.fixture
def table(tmp_path, rng):
    """A CSV file of 200 rows, and its columns."""
    columns = {"a": rng.normal(size=200), "b": 1e6 * rng.normal(size=200) + 3e7}
    columns["w"] = rng.random(200)
    columns["y"] = 2.0 * columns["a"] - 3e-6 * columns["b"] + rng.standard_t(2, size=200)
    path = tmp_path / "data.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(map(repr, c.tolist()) for c in columns.values()), strict=True))
    return path, columns


def run_json(capsys, *arguments):
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_phones(capsys):
    for method in cli.METHODS:
        result = run_json(capsys, *FIT, "--beta", "mad", "--method", method)
        assert result["scale"] == pytest.approx(9.00931, abs=1e-4)
        assert result["coefficients"]["intercept"] == pytest.approx(-102.530, abs=1e-3)
        assert result["coefficients"]["year"] == pytest.approx(2.03961, abs=1e-5)
        assert result["least_squares"]["intercept"] == pytest.approx(-260.059, abs=1e-3)
        assert result["least_squares"]["year"] == pytest.approx(5.04148, abs=1e-5)
        assert result["rows_in_linear_region"] == 9
        assert result["converged"]


def test_table_of_a_fit(capsys):
    assert main([*FIT, "--beta", "mad"]) == 0
    out = capsys.readouterr()
    assert out.err == ""
    lines = out.out.splitlines()
    assert lines[0].startswith("calls: 24 rows, beta = 12.117")
    assert lines[2].split() == ["least", "squares", "smooth", "L1"]
    assert lines[3].split() == ["intercept", "-260.0592", "-102.5302"]
    assert lines[4].split() == ["year", "5.041478", "2.039611"]
    assert lines[6].startswith("9 of 24 rows in the linear region")


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_fit_of_any_scale(capsys, table, l2, weighted):
    path, c = table
    weight = c["w"] if weighted else np.ones(200)
    arguments = ["--weight", "w"] if weighted else []
    result = run_json(
        capsys, "fit", path, "--target", "y", "--features", "a,b", "--beta", 0.5, "--l2", l2,
        *arguments,
    )  # fmt: skip

    def objective(v):
        residual = v[0] * c["a"] + v[1] * 1e-6 * c["b"] + v[2] - c["y"]
        loss = (weight * special.huber(0.5, residual)).sum() / weight.sum() / 0.5
        return loss + l2 / 2 * (v[0] ** 2 + (v[1] * 1e-6) ** 2)

    got = result["coefficients"]
    v = np.array([got["a"], got["b"] * 1e6, got["intercept"]])
    assert result["loss"] == pytest.approx(objective(v), rel=1e-9)
    best = optimize.minimize(objective, v, method="Nelder-Mead", tol=1e-10)
    assert objective(v) <= best.fun * (1 + 1e-9)


def test_missing_values(capsys, table):
    path, _ = table
    lines = path.read_text().splitlines()
    for k, missing in ((5, ""), (9, "NaN"), (11, "NA")):
        fields = lines[k].split(",")
        fields[1] = missing
        lines[k] = ",".join(fields)
    path.write_text("\n".join(lines))
    arguments = ["fit", str(path), "--target", "y", "--features", "a,b"]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err == (
        f"smoothl1: {path}, line 6, column b: the value is missing; "
        "--drop-missing leaves such rows out\n"
    )
    result = run_json(capsys, *arguments, "--drop-missing")
    assert (result["rows"], result["rows_left_out"]) == (197, 3)


def test_outputs(capsys, table, tmp_path):
    path, _ = table
    output, plot = tmp_path / "c.csv", tmp_path / "p.png"
    arguments = ["fit", path, "--target", "y", "--features", "a,b", "--output", output]
    result = run_json(capsys, *arguments)
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {r["coefficient"]: float(r["smooth_l1"]) for r in rows} == result["coefficients"]
    assert {r["coefficient"]: float(r["least_squares"]) for r in rows} == result["least_squares"]
    pytest.importorskip("matplotlib", reason="matplotlib is optional")
    for features in ("a,b", "a"):
        assert main([*map(str, arguments), "--features", features, "--plot", str(plot)]) == 0
        assert plot.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.csv", "data.csv", "p.png"]


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (None, [], "No such file or directory"),
        ("", [], "the first line must name the columns"),
        ("a,a,y\n1,2,3\n", [], "two columns have the same name: a"),
        ("a,y\n", [], "2 coefficients need at least as many rows, got 0"),
        ("a,y\n1,2\n", [], "2 coefficients need at least as many rows, got 1"),
        ("y\n1\n2\n", [], "there must be at least one feature"),
        ("a,y\n1,2\n2,x3\n", [], "line 3, column y: expected a finite number, got 'x3'"),
        ("a,y\n1,2\n2,inf\n", [], "line 3, column y: expected a finite number, got 'inf'"),
        ("a,y\n1,2\n2\n", [], "line 3: expected 2 fields, got 1"),
        ("a,y\n1,2\n1,3\n1,4\n", [], "column a is constant"),
        ("a,y\n1,2\n2,3\n", ["--features", "z"], "no column 'z'; there are a, y"),
        ("a,y\n1,2\n2,3\n", ["--target", "z"], "no column 'z'"),
        ("a,y\n1,2\n2,3\n", ["--features", "a,a"], "column a is asked for twice"),
        ("a,y\n1,2\n2,3\n", ["--features", "y"], "column y is asked for twice"),
        ("a,w,y\n1,1,2\n2,-1,3\n4,0,1\n", ["--weight", "w"], "weights must be at least 0"),
        ("a,y\n1,2\n2,3\n3,4\n", ["--beta", "mad"], "lie exactly on the model"),
        ("a,y\n1,2\n2,3\n", ["--beta", "0", "--method", "trust-exact"], "does not work with"),
        ("a,y\n1,2\n2,3\n", ["--output", "/no/such/c.csv"], "no such folder as '/no/such'"),
        ("a,y\n1,2\n2,3\n", ["--delimiter", "ab"], "--delimiter must be one character"),
        ('a,y\n1,"2\n', [], "unexpected end of data; is a quotation mark left open?"),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, text, arguments, message):
    path = tmp_path / "data.csv"
    if text is not None:
        path.write_text(text)
    before = sorted(tmp_path.iterdir())
    assert main(["fit", str(path), "--target", "y", *arguments]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.startswith("smoothl1: ")
    assert out.err.count("\n") == 1
    assert message in out.err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fit"], "required: DATA.csv, --target"),
        ([*FIT, "--beta", "-1"], "must be a finite number of at least 0 or mad, got '-1'"),
        ([*FIT, "--beta", "many"], "got 'many'"),
        ([*FIT, "--l2", "inf"], "got 'inf'"),
        ([*FIT, "--method", "Powell"], "invalid choice: 'Powell'"),
    ],
)
def test_bad_options_are_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("smoothl1: ")
    assert err.count("\n") == 1
    assert message in err


def test_bytes_that_are_no_text(capsys, tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(b"a,y\n" + b"1,2\n" * 500 + b"\xff\xfe,3\n")
    assert main(["fit", str(path), "--target", "y"]) == 2
    assert "line 502: the text is not UTF-8" in capsys.readouterr().err
    assert main(["fit", str(tmp_path), "--target", "y"]) == 2
    assert "Is a directory" in capsys.readouterr().err


@pytest.mark.parametrize("beta", [1e3, 1e9, 1e12])
@pytest.mark.parametrize("method", cli.METHODS)
def test_huge_beta_is_least_squares(capsys, beta, method):
    result = run_json(capsys, *FIT, "--beta", beta, "--method", method)
    for name, value in result["least_squares"].items():
        assert result["coefficients"][name] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("outlier", [1e6, 1e10, 1e14])
@pytest.mark.parametrize("method", cli.METHODS)
def test_one_gross_outlier_changes_little(capsys, tmp_path, rng, outlier, method):
    a = rng.normal(size=100)
    y = 2 * a + rng.normal(size=100)
    y[17] = outlier
    path = write(tmp_path, a=a, y=y)
    result = run_json(capsys, "fit", path, "--target", "y", "--method", method)
    v = np.array([result["coefficients"][name] for name in ("a", "intercept")])
    slope = np.clip(v[0] * a + v[1] - y, -1, 1)
    assert abs(slope.mean()) < 1e-6
    assert abs((slope * a).mean()) < 1e-6


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e-12, 1e150, 1e300])
@pytest.mark.parametrize("column", ["year", "calls"])
def test_any_unit(capsys, tmp_path, scale, column):
    year, calls = np.loadtxt(PHONES, delimiter=",", skiprows=1, unpack=True)
    data = {"year": year, "calls": calls}
    data[column] = data[column] * scale
    path = write(tmp_path, **data)
    beta = 1.345 * 9.00903 * (scale if column == "calls" else 1.0)
    result = run_json(capsys, "fit", path, "--target", "calls", "--beta", beta)
    by = scale if column == "calls" else 1 / scale
    assert result["coefficients"]["year"] == pytest.approx(2.03960 * by, rel=1e-5)
    mad = run_json(capsys, "fit", path, "--target", "calls", "--beta", "mad")
    assert mad["coefficients"]["year"] == pytest.approx(2.03961 * by, rel=1e-5)


def test_rows_of_weight_0_are_absent(capsys, tmp_path, rng):
    a, weight = rng.normal(size=400), np.r_[np.ones(100), np.zeros(300)]
    y = 2 * a + rng.normal(size=400)
    y[100:] *= 1e3
    arguments = ["--target", "y", "--beta", "mad"]
    some = run_json(
        capsys, "fit", write(tmp_path, a=a, y=y, w=weight), *arguments, "--weight", "w"
    )  # fmt: skip
    rest = run_json(capsys, "fit", write(tmp_path, a=a[:100], y=y[:100]), *arguments)
    assert (some["rows"], some["rows_left_out"]) == (100, 300)
    for name in ("coefficients", "scale", "rows_in_linear_region"):
        assert some[name] == rest[name]
    path = write(tmp_path, a=a, y=y, w=np.r_[1.0, np.zeros(399)])
    assert main(["fit", str(path), "--target", "y", "--weight", "w"]) == 2
    assert "2 coefficients need at least as many rows, got 1" in capsys.readouterr().err


def write(folder, **columns):
    """A CSV file of columns."""
    path = folder / "written.csv"
    lines = [",".join(columns), *(",".join(map(repr, row)) for row in
             zip(*(c.tolist() for c in columns.values()), strict=True))]  # fmt: skip
    path.write_text("\n".join(lines))
    return path


def test_outputs_that_would_destroy_something(capsys, table, tmp_path):
    path, _ = table
    before = path.read_bytes()
    (tmp_path / "folder").mkdir()
    good = str(tmp_path / "good.csv")
    for arguments, message in (
        (["--output", str(path)], "must be different files"),
        (["--output", good, "--plot", good], "must be different files"),
        (["--output", good, "--plot", str(tmp_path / "folder")], "not a file that can be replaced"),
        (["--output", "/dev/null"], "not a file that can be replaced"),
    ):
        assert main(["fit", str(path), "--target", "y", "--features", "a", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.csv", "folder"]
    (tmp_path / "link.csv").symlink_to(good)
    output = ["--output", str(tmp_path / "link.csv")]
    assert main(["fit", str(path), "--target", "y", "--features", "a", *output]) == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "good.csv").read_text().startswith("coefficient,")


def test_names_that_need_care(capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is optional")
    path, plot = tmp_path / "data.csv", str(tmp_path / "p.png")
    path.write_text('"a,b",$y^$,\n1,2,7\n2,3,8\n4,4,9\n')
    arguments = ["fit", str(path), "--target", "$y^$"]
    assert main(arguments) == 2
    assert "column 3 has no name; choose columns with --features" in capsys.readouterr().err
    assert main([*arguments, "--features", '"a,b"', "--plot", plot]) == 0
    path.write_text("a;y\n1;2\n")
    assert main(["fit", str(path), "--target", "y"]) == 2
    assert "is the --delimiter ';'?" in capsys.readouterr().err
    path.write_text("a\ty\n1_0\t2\n")
    assert main(["fit", str(path), "--target", "y", "--delimiter", "tab"]) == 2
    assert "expected a finite number, got '1_0'" in capsys.readouterr().err


def test_other_delimiters_quotes_and_marks(capsys, tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(b'\xef\xbb\xbf"a b"; y\r\n1;"2"\r\n2; 3\r\n\r\n4;5.5\r\n')
    result = run_json(capsys, "fit", path, "--target", "y", "--delimiter", ";")
    assert result["rows"] == 3
    assert list(result["coefficients"]) == ["intercept", "a b"]


def test_features_that_depend_on_each_other(capsys, tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("a,b,y\n1,2,1\n2,4,3\n3,6,2\n5,10,7\n")
    assert main(["fit", str(path), "--target", "y"]) == 0
    assert "linear combinations of others" in capsys.readouterr().err


def test_no_convergence_is_said(capsys, monkeypatch):
    from smoothl1 import fit

    monkeypatch.setattr(fit, "ROUNDS", 2)
    assert main([*FIT, "--beta", "mad"]) == 1
    out = capsys.readouterr()
    assert "still changes after 2 rounds" in out.err
    assert "least squares" in out.out


def test_progress_of_long_fits(capsys, monkeypatch):
    monkeypatch.setattr(cli._Progress, "AFTER", 0.0)
    monkeypatch.setattr(cli._Progress, "EVERY", 0.0)
    for beta in ("1", "1e6"):
        assert main([*FIT, "--beta", beta, "--json"]) == 0
        out, err = capsys.readouterr()
        lines = err.splitlines()
        assert lines[0].startswith("iteration 1, loss ")
        last = float(lines[-1].split()[3].rstrip(","))
        assert last == pytest.approx(json.loads(out)["loss"], rel=1e-6)


def test_info(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["numpy"] == np.__version__
    assert facts["threads"]["runner"] in ("serial", "prange", "pool")
    assert facts["threads"]["reason"]
    assert facts["cuda"]["reason"]
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for topic in facts:
        assert topic in out.splitlines()


@pytest.mark.parametrize("layer", ["default", "workqueue"])
def test_info_tells_the_runner(layer):
    done = subprocess.run(
        [sys.executable, "-m", "smoothl1", "info", "--json"], capture_output=True, text=True,
        check=True, timeout=60, env={**os.environ, "NUMBA_THREADING_LAYER": layer},
    )  # fmt: skip
    facts = json.loads(done.stdout)["threads"]
    if facts["number"] == 1:
        assert (facts["runner"], facts["reason"]) == ("serial", "there is one thread")
    elif layer == "workqueue":
        assert facts["runner"] == "pool"
        assert "could end or hang" in facts["reason"]
    else:
        assert facts["runner"] == "prange" or facts["layer"] not in ("omp", "tbb")


def test_warmup(capsys, monkeypatch):
    from smoothl1 import warmup

    listed = warmup.calls()
    assert len({name for name, _ in listed}) == len(listed) > 20
    monkeypatch.setattr(warmup, "calls", lambda: listed[:2])
    assert main(["warmup"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(" 1/2  loss, small, float64")
    assert len(out) == 3


def test_all_of_warmup():
    from smoothl1 import warmup

    for _, call in warmup.calls():
        call()


def test_as_a_program():
    commands = [[sys.executable, "-m", "smoothl1"]]
    script = shutil.which("smoothl1", path=str(Path(sys.executable).parent))
    commands += [[script]] if script else []
    for command in commands:
        done = subprocess.run(
            [*command, *FIT, "--beta", "mad"], capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        shown = done.stderr.splitlines()  # a slow machine shows how far it is
        assert all(line.startswith("iteration ") for line in shown)
        assert "-102.5302" in done.stdout


def run_program(*arguments, **options):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.Popen(
        [sys.executable, "-m", "smoothl1", *arguments], stderr=subprocess.PIPE, text=True,
        env=environment | options.pop("env", {}), **options,
    )  # fmt: skip


def test_a_reader_that_has_left_is_no_error():
    program = run_program("info", stdout=subprocess.PIPE)
    program.stdout.close()
    assert program.stderr.read() == ""
    program.stderr.close()
    assert program.wait(timeout=60) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        program = run_program("info", stdout=full)
        err = program.communicate(timeout=60)[1]
    assert (program.returncode, err) == (1, "smoothl1: cannot print: No space left on device\n")


def test_a_pipe_is_read_once(tmp_path):
    with open(PHONES) as file:
        program = run_program(
            "fit", "/dev/stdin", "--target", "calls", stdin=file, stdout=subprocess.PIPE
        )
        out, err = program.communicate(timeout=60)
    assert err == ""
    assert "24 rows" in out


def test_names_that_the_terminal_cannot_show(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("größe,y\n1,2\n2,3\n3,5\n", encoding="utf-8")
    program = run_program(
        "fit", str(path), "--target", "y", stdout=subprocess.PIPE, env={"PYTHONIOENCODING": "ascii"}
    )
    out, err = program.communicate(timeout=60)
    assert (program.returncode, err) == (0, "")
    assert "gr\\xf6" in out

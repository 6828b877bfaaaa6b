"""The benchmarks measure what they say: competitors are right, results are kept."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import reference

if not (Path(__file__).parent.parent / "benchmarks").is_dir():
    pytest.skip("needs the benchmarks of a clone", allow_module_level=True)

from benchmarks import __main__ as command
from benchmarks import measure, pictures, results, targets
from benchmarks.calls import Call, base_bytes, operands
from benchmarks.cases import Case, Settings, all_cases, verified
from benchmarks.measure import interleave, summarise
from benchmarks.peers import PEERS, competitors
from benchmarks.reference import expected, verify
from benchmarks.results import Row

ROOT = Path(__file__).parent.parent
TINY = Settings(n=3000, seconds=0.01, largest=100, rows=500, rounds=1, expensive=False)
HERE = [
    name for name, (_, library) in PEERS.items() if library != "jax" and name != "torch.compile"
]


def calls():
    x, target = operands((30, 40))
    weight = np.random.default_rng(1).random((30, 40), np.float32)
    for work in ("loss", "grad", "value_and_grad", "hess"):
        for reduction in ("mean", "sum", "none"):
            yield Call(x, target, work, reduction, beta=0.3)
        yield Call(x, target, work, axis=0, beta=2.5)
        yield Call(x, target[:, :1], work, axis=1)
        yield Call(x, target, work, weight=weight)
        yield Call(x, target, work, where=weight > 0.4)
        yield Call(x, target, work, beta=weight[0] + np.float32(0.1))
        yield Call(*(v.ravel().astype(np.float64) for v in (x, target)), work)
        yield Call(*(v.astype(np.float16) for v in operands(50, "float16")), work)


@pytest.mark.parametrize("call", list(calls()), ids=lambda c: f"{c.work}-{c.reduction}-{c.x.dtype}")
def test_expected_results_are_the_definition(call):
    loss, grad, hess = reference.elements(call.x, call.target, call.beta)
    factor = np.ones(call.shape) if call.weight is None else call.weight.astype(np.float64)
    factor = factor if call.where is None else np.where(call.where, factor, 0)
    by = factor.sum(axis=call.axis, keepdims=True) if call.reduction == "mean" else 1.0
    loss = loss * factor
    if call.reduction != "none":
        loss = loss.sum(axis=call.axis) / np.reshape(by, loss.sum(axis=call.axis).shape)
    wanted = {"loss": loss, "grad": grad * factor / by, "hess": hess * factor / by}
    for name, got in zip(call.results, expected(call), strict=True):
        np.testing.assert_allclose(got, wanted[name], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("call", list(calls()), ids=lambda c: f"{c.work}-{c.reduction}-{c.x.dtype}")
def test_competitors_are_right(call):
    work = competitors(call, HERE)
    assert {"smoothl1", "numpy"} <= set(work)
    wanted = expected(call)
    for function in work.values():
        verify(call, function(), wanted)
        verify(call, function(), wanted)  # nothing is left over from the first call


def test_competitors_in_jax_are_right(run_python):
    pytest.importorskip("jax", reason="JAX is optional")
    run_python(
        """
        from test_benchmarks import calls
        from benchmarks.peers import PEERS, competitors
        from benchmarks.reference import expected, verify

        names = [name for name, (_, library) in PEERS.items() if library == "jax"]
        for call in calls():
            for function in competitors(call, names).values():
                verify(call, function(), expected(call))
        """
    )


def test_wrong_competitors_are_left_out_and_ours_may_not_be_wrong(capsys):
    call = Call(*operands(20))
    right = verified("case", call, {"numpy": competitors(call, ["numpy"])["numpy"],
                                    "other": lambda: 7.0})  # fmt: skip
    assert list(right) == ["numpy"]
    assert "other is left out" in capsys.readouterr().err
    with pytest.raises(AssertionError, match="case, smoothl1"):
        verified("case", call, {"smoothl1": lambda: 7.0})


def test_bytes_are_counted_once():
    x, target = operands((30, 40))
    assert base_bytes(np.broadcast_to(target[:, :1], (30, 40))) == 30 * 4
    assert Call(x, target).bytes_moved == 2 * 1200 * 4
    assert Call(x, target, "value_and_grad").bytes_moved == 3 * 1200 * 4
    assert Call(x, target, "value_and_grad", "none").bytes_moved == 4 * 1200 * 4
    assert Call(x, target[:, :1], weight=x).bytes_moved == (2 * 1200 + 30) * 4


def test_rounds_take_turns():
    order = []
    times = interleave(
        {name: lambda name=name: order.append(name) for name in "ab"}, 0.0, least=3, settle=0.0
    )
    assert times["a"].rounds == times["b"].rounds == 3
    turns = [name for k, name in enumerate(order) if not k or order[k - 1] != name]
    assert turns == ["a", "b"] * 4


def test_slow_calls_are_all_timed():
    calls = []
    interleave({"slow": lambda: calls.append(time.sleep(0.01))}, 0.0, least=3, settle=1e-4)
    assert len(calls) == 2 + 3  # two to find out how long it takes


def test_ratios_are_those_within_a_round(monkeypatch):
    seconds = itertools.cycle([1.0, 4.0, 9.0, 1.0, 1.0, 3.0, 7.0, 14.0])  # of both, in turns
    monkeypatch.setattr(measure, "sample", lambda *_: next(seconds))
    times = interleave({"smoothl1": None, "torch": None}, 0.0, least=3)
    assert times["smoothl1"].median == 7.0
    assert times["torch"].median == 3.0
    assert times["torch"].ratios == {"smoothl1": 2.0}
    assert times["smoothl1"].ratios == {"smoothl1": 1.0}
    rows = [
        Row("a", name, "s", timing.median, timing.low, timing.high, 3, ratios=timing.ratios)
        for name, timing in times.items()
    ]
    (target,) = targets.ratio("P", "a", results.by_case(rows)["a"], "torch", 1)
    assert (target.measured, target.met) == ("2.00x", True)


def test_timings_are_medians_between_quintiles():
    timing = summarise([5.0, 1.0, 2.0, 4.0, 3.0, 100.0])
    assert (timing.low, timing.median, timing.high, timing.rounds) == (2.0, 3.5, 5.0, 6)


def make(case, competitor, median, n=10, unit="s"):
    return Row(case, competitor, unit, median, median, median, 3, n, "float32", 8 * n)


def test_results_are_appended_found_and_compared(tmp_path):
    table = tmp_path / "results" / "table.jsonl"
    run = results.describe(TINY)
    assert run["threads"] >= 1
    first = [make("works/a", "smoothl1", 2.0), make("works/a", "add_up", 1.0)]
    second = [make("works/a", "smoothl1", 1.0), make("works/a", "add_up", 0.5),
              make("works/b", "smoothl1", 1.0), make("works/a", "torch", 9.0)]  # fmt: skip
    results.append(table, run | {"run": "1", "commit": "aaa"}, first)
    results.append(table, run | {"run": "2", "commit": "bbb"}, second)
    assert [rows for _, rows in results.load(table)] == [first, second]
    assert results.find("aaa", table)[1] == first
    assert results.find(str(table))[1] == results.find("latest", table)[1] == second
    with pytest.raises(ValueError, match=r"'ccc'; the table holds aaa \(1\), bbb \(2\)"):
        results.find("ccc", table)
    line, rest = results.compare(first, second)
    assert "0.50 of the time, yardstick 0.50" in line
    assert rest.startswith("1 cases were not measured then")
    with pytest.raises(ValueError, match="no file, commit or run ''"):
        results.find("", table)


def test_targets_compare_with_peers_and_yardsticks():
    rows = [make("works/loss/mean", name, t) for name, t in
            {"smoothl1": 2.0, "add_up": 1.9, "torch": 7.0}.items()]  # fmt: skip
    rows += [make("memory/strided", "smoothl1", 1.5, unit="MiB")]
    small = {"smoothl1 on torch": 16e-6, "smoothl1 on jax": 6e-6, "jax.jit": 4.98e-6}
    rows += [make("calls/loss/64", name, t) for name, t in small.items()]
    rows += [make("sizes/value_and_grad/1e2", name, t) for name, t in
             {"smoothl1 on torch": 2.0, "torch": 2.1}.items()]  # fmt: skip
    found = {(t.figure, t.what): (t.measured, t.met) for t in targets.targets(rows)}
    assert found == {
        ("P1", "loss, of add_up"): ("95%", True),
        ("P1", "loss, torch"): ("3.50x", False),
        ("P5", "memory/strided"): ("1.50 MiB", True),
        ("torch", "loss, n = 64"): ("16 us", False),
        ("torch", "n = 1e2, backward, torch"): ("1.05x", True),
        ("JAX", "loss, n = 64, jax.jit"): ("0.83x", False),
    }


def test_a_case_that_fails_costs_no_other(capsys):
    def fail(settings):
        raise RuntimeError("of some library")

    row = make("b", "smoothl1", 1.0)
    cases = [Case("a", fail), Case("b", lambda settings: [row])]
    assert command.measure(cases, TINY, quiet=True) == ([row], 1)
    assert "a failed: RuntimeError('of some library')" in capsys.readouterr().err


def test_an_interrupted_run_keeps_what_was_measured(capsys):
    def stop(settings):
        raise KeyboardInterrupt

    row = make("a", "smoothl1", 1.0)
    cases = [Case("a", lambda settings: [row]), Case("b", stop), Case("c", stop)]
    assert command.measure(cases, TINY, quiet=True) == ([row], 130)
    assert "[2/3" in capsys.readouterr().err


def test_a_quick_run_takes_turns_and_ends_in_time(capsys):
    row = make("a", "smoothl1", 1.0)
    names = ["a/1", "a/2", "a/3", "b/1", "c/1", "c/2"]
    cases = command.in_turns([Case(name, lambda settings: [row]) for name in names])
    assert [case.name for case in cases] == ["a/1", "b/1", "c/1", "a/2", "c/2", "a/3"]
    assert command.measure(cases, TINY, True, seconds=-1) == ([], 0)
    assert "6 of 6 cases are left out" in capsys.readouterr().err
    assert len(command.measure(cases, TINY, True)[0]) == 6


def test_every_case_runs_and_is_drawn(tmp_path, monkeypatch):
    """One thread: on a machine that runs other tests, threads wait for each other."""
    table = tmp_path / "table.jsonl"
    wanted = {case.name for case in all_cases(TINY)}
    groups = sorted({name.partition("/")[0] for name in wanted} - {"start"})
    words = ["--quick", "--json", "--threads", "1", "--output", str(table)]
    words += [
        "--n",
        "2000",
        "--seconds",
        "0.01",
        "--only",
        "start/import",
    ]
    for group in groups:
        words += ["--only", group]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words], cwd=ROOT, capture_output=True, text=True,
        timeout=600, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert table.read_text() == done.stdout
    ((run, rows),) = results.load(table)
    assert run["threads"] == 1
    assert {row.case.partition("/")[0] for row in rows} == {*groups, "start"}
    assert all(row.median > 0 for row in rows if row.unit == "s")
    pages = [tmp_path / "README.md", tmp_path / "docs" / "performance.md"]
    (tmp_path / "docs" / "pictures").mkdir(parents=True)
    for page in pages:
        page.write_text("before\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nafter\n")
    monkeypatch.setattr(pictures, "DOCS", tmp_path / "docs")
    monkeypatch.setattr(pictures, "FOLDER", tmp_path / "docs" / "pictures")
    pictures.draw(run, rows)
    for name in pictures.PICTURES:
        assert (tmp_path / "docs" / "pictures" / f"{name}.svg").stat().st_size > 5000
        assert (tmp_path / "docs" / "pictures" / f"{name}.png").stat().st_size > 5000
    for page in pages:
        text = page.read_text()
        assert "old" not in text
        assert text.startswith("before")
        assert text.endswith("after\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--only", "nothing"], "no case fits nothing"), (["--threads", "0"], "at least 1, got 0")],
)
def test_the_command_line_refuses(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(words)
    assert message in f"{stopped.value} {capsys.readouterr().err}"


def test_the_cases_have_names_of_their_own(capsys):
    assert command.main(["--list"]) == 0
    names = capsys.readouterr().out.split("\n")[:-1]
    assert len(names) == len(set(names)) > 60

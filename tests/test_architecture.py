"""The import table of the package, and that importing it does nothing."""

import ast
from pathlib import Path

import pytest

import smoothl1

PACKAGE = Path(smoothl1.__file__).parent

# What each module may import from the package: when it is loaded, and later,
# inside functions.
ALLOWED = {
    "__init__": {"functional", "module", "optimize", "threads", "validate"},
    "formula": set(),
    "plan": set(),
    "records": set(),
    "threads": set(),
    "types_only": set(),
    "parts": set(),
    "jit": {"parts", "types_only"},
    "validate": set(),
    "signatures": {"validate"},
    "problem": {"plan", "validate"},
    "halves": {"jit"},
    "memory": {"jit"},
    "turn": {"jit", "memory"},
    "descriptions": {"jit", "memory", "plan", "turn"},
    "panels": {"descriptions", "jit", "memory", "plan", "turn"},
    "seconds": {"jit", "memory"},
    "vectors": set(),
    "gather": {"descriptions", "halves", "jit", "memory", "panels", "seconds", "turn"},
    "blocks": {
        "formula",
        "gather",
        "jit",
        "memory",
        "panels",
        "plan",
        "records",
        "sums",
        "vectors",
    },
    "products": {"plan"},
    "sums": {"gather", "jit", "plan", "records"},
    "parallel": {"jit", "memory", "threads"},
    "kernels": {"blocks", "jit", "memory", "parallel", "plan", "records", "sums"},
    "launch": {
        "descriptions",
        "gather",
        "kernels",
        "plan",
        "problem",
        "records",
        "threads",
        "validate",
    },
    "sums_run": {"gather", "kernels", "launch", "plan", "records", "threads", "validate"},
    "interleave": {"plan", "sums_run", "threads"},
    "new_arrays": {"validate"},
    "cpu": {
        "interleave",
        "launch",
        "new_arrays",
        "plan",
        "problem",
        "records",
        "sums_run",
        "validate",
    },
    "small": {"blocks", "jit", "memory", "plan", "sums"},
    "plain": {
        "jit",
        "kernels",
        "new_arrays",
        "plan",
        "records",
        "sums_run",
        "threads",
        "validate",
    },
    "along": {
        "gather",
        "kernels",
        "new_arrays",
        "plain",
        "plan",
        "records",
        "sums_run",
        "threads",
        "validate",
    },
    "short": {
        "along",
        "kernels",
        "new_arrays",
        "plain",
        "plan",
        "records",
        "small",
        "sums_run",
        "threads",
        "validate",
    },
    "small_tensors": {"jit", "memory", "small"},
    "short_tensors": {
        "autograd",
        "calls",
        "functional",
        "jit",
        "kernels",
        "short",
        "small",
        "small_tensors",
    },
    "short_jax": {"new_arrays", "short", "small", "validate"},
    "frames": set(),
    "xla": {"frames", "jit", "kernels", "memory", "plan", "records", "threads"},
    "jax_gpu": {"calls", "devices", "frames", "plan", "problem", "validate", "views"},
    "operations": {"validate"},
    "often_jax": {"jit", "kernels", "operations", "plain", "short", "short_jax", "xla"},
    "backend": {"problem"},
    "calls": {"problem", "validate"},
    "generic": {"calls", "problem", "validate"},
    "devices": {"validate"},
    "cuda_elements": {"formula"},
    "cuda_numbers": set(),
    "cuda_forms": set(),
    "cuda_taking": {"cuda_elements", "cuda_forms", "cuda_numbers"},
    "cuda_folds": {"cuda_forms", "cuda_taking"},
    "cuda_kernels": {"cuda_folds", "cuda_forms", "cuda_taking"},
    "cuda_rows": {"cuda_folds", "cuda_forms", "cuda_numbers", "cuda_taking"},
    "cuda_boxes": {"cuda_folds", "cuda_forms", "cuda_numbers", "cuda_rows", "cuda_taking"},
    "cuda_flat": {"cuda_folds", "cuda_forms", "cuda_numbers", "cuda_taking"},
    "boxes": {"plan"},
    "cuda_work": {"calls", "devices", "plan", "problem"},
    "cuda_arguments": {"boxes", "cuda_forms", "cuda_work", "devices", "plan"},
    "cuda_launch": {
        "cuda_arguments",
        "cuda_flat",
        "cuda_folds",
        "cuda_forms",
        "cuda_kernels",
        "cuda_work",
        "devices",
        "plan",
        "validate",
    },
    "cuda_sums": {
        "cuda_arguments",
        "cuda_flat",
        "cuda_folds",
        "cuda_forms",
        "cuda_kernels",
        "cuda_launch",
        "cuda_rows",
        "cuda_work",
        "devices",
        "plan",
    },
    "cuda_crossing": {
        "boxes",
        "cuda_arguments",
        "cuda_boxes",
        "cuda_folds",
        "cuda_forms",
        "cuda_launch",
        "cuda_sums",
        "cuda_work",
        "devices",
    },
    "cuda": {
        "calls",
        "cuda_crossing",
        "cuda_launch",
        "cuda_sums",
        "cuda_work",
        "devices",
        "problem",
        "validate",
    },
    "views": {"calls", "devices", "generic", "problem", "validate"},
    "kinds": {"calls", "devices", "new_arrays", "validate", "views"},
    "autograd": {"calls", "functional", "generic", "kinds", "validate", "views"},
    "operators": {"autograd", "calls", "functional", "validate"},
    "torch": {"backend", "functional", "validate"},
    "chunks": {"validate"},
    "dask_blocks": {"backend", "calls", "problem", "threads", "validate"},
    "dask": {"calls", "chunks", "dask_blocks", "problem", "validate"},
    "dask_rows": {"arguments", "chunks", "designs", "threads", "validate"},
    "functional": {"backend", "calls", "kinds", "operations", "problem", "signatures", "validate"},
    "module": {"functional", "signatures", "validate"},
    "linear": {
        "blocks",
        "gather",
        "jit",
        "memory",
        "panels",
        "parallel",
        "plan",
        "products",
        "sums",
    },
    "arguments": {"validate"},
    "designs": {"arguments", "functional", "plan", "validate"},
    "objective": {"arguments", "validate"},
    "linear_objective": {"arguments", "designs", "kinds", "objective", "validate"},
    "residual_objective": {"arguments", "functional", "objective", "validate"},
    "least_squares": {"arguments", "functional", "validate"},
    "optimize": {"least_squares", "linear_objective", "residual_objective"},
    "table": {"arguments"},
    "fit": {"arguments", "linear_objective", "table", "validate"},
    "plot": {"arguments", "fit", "validate"},
    "info": {"__init__", "devices", "jit", "threads"},
    "warmup": {"functional", "linear_objective"},
    "cli": {"__init__", "arguments", "fit", "objective", "table", "validate"},
    "__main__": {"cli"},
}
LATER = {
    "xla": {"__init__"},
    "jax_gpu": {"__init__", "cuda_work", "functional", "kinds"},
    "views": {"cuda"},
    "backend": {"autograd", "cpu", "often_jax", "short", "short_tensors"},
    "kinds": {"autograd", "chunks", "dask", "jax_gpu", "operators", "short_jax"},
    "linear_objective": {"dask_rows"},
    "threads": {"jit", "parallel"},
    "designs": {"gather", "linear", "sums_run", "threads"},
    "cli": {"info", "jit", "plot", "warmup"},
}


def imports(path):
    """Modules of the package that a module imports: when loaded, and later."""
    tree = ast.parse(path.read_text())
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
    }
    found = {False: set(), True: set()}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module] if node.module else [a.name for a in node.names]
            names = ["__init__" if name == "__version__" else name for name in names]
            found[node in inside].update(names)
        elif isinstance(node, ast.Import):
            assert not any(a.name.startswith("smoothl1") for a in node.names), path
    return found[False], found[True]


def test_the_table_names_every_module():
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(ALLOWED)


@pytest.mark.parametrize("module", ALLOWED)
def test_imports(module):
    loaded, later = imports(PACKAGE / f"{module}.py")
    assert loaded <= ALLOWED[module]
    assert later <= LATER.get(module, set())


def test_all_is_what_is_public():
    assert sorted(smoothl1.__all__) == smoothl1.__all__
    for name in smoothl1.__all__:
        assert getattr(smoothl1, name).__doc__


def test_import_is_inert(run_python):
    out = run_python(
        """
        import sys, threading
        import smoothl1
        heavy = {"numba", "llvmlite", "scipy", "torch", "jax", "dask", "ml_dtypes"}
        print(heavy & {name.partition(".")[0] for name in sys.modules}, threading.active_count())
        """
    )
    assert out.split() == ["set()", "1"]


def test_only_the_compiled_modules_import_numba():
    gpus = {path.stem for path in PACKAGE.glob("cuda*.py")}
    for path in PACKAGE.glob("*.py"):
        roots = {
            name.partition(".")[0]
            for node in ast.parse(path.read_text()).body
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in [getattr(node, "module", None) or node.names[0].name]
        }
        arithmetic = {"blocks", "formula", "halves", "kernels", "linear", "sums"}
        helpers = {"gather", "memory", "parallel", "products", "turn", "vectors"}
        compilers = {"jit", "parts", "types_only"}
        compiled = {"small_tensors", "xla"} | compilers | helpers | arithmetic
        assert "numba" not in roots or path.stem in compiled | gpus, path

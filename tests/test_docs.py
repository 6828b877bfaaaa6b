"""What the pages say is what happens: code, the conversion table, the API page."""

import math
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import optimize, special

import smoothl1 as sl
from smoothl1.cli import _parser

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
OPTIONAL = ("dask", "distributed", "jax", "matplotlib", "sklearn", "statsmodels", "torch")


def blocks_of(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def pages_with_code():
    """The README and the pages that Sphinx does not run itself."""
    pages = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    own = [page for page in pages if "_build" not in page.parts]
    plain = [page for page in own if "file_format: mystnb" not in page.read_text()]
    return [page for page in plain if "```python" in page.read_text()]


@pytest.fixture
def one_thread():
    """OpenMP's threads wait long for each other while other tests keep the cores busy."""

    def use(torch):
        before.append((torch, torch.get_num_threads()))
        torch.set_num_threads(1)

    before = []
    yield use
    for torch, threads in before:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("page", pages_with_code(), ids=lambda page: page.stem)
def test_pages_run(page, one_thread):
    blocks = blocks_of(page)
    assert len(blocks) == page.read_text().count("```python")
    for library in re.findall(r"^(?:import|from) (\w+)", "".join(blocks), re.MULTILINE):
        if library in OPTIONAL:
            module = pytest.importorskip(library, reason=f"{library} is optional")
            if library == "torch":
                one_thread(module)
    namespace = {}
    for block in blocks:
        exec(compile(block, str(page.relative_to(ROOT)), "exec"), namespace)


def test_the_pages_that_run_are_many():
    names = {str(page.relative_to(ROOT)) for page in pages_with_code()}
    howto = {
        f"docs/howto/{name}.md" for name in ("axes", "masks", "migrate", "scipy", "thresholds")
    }
    assert names >= {"README.md", "docs/arrays.md", "docs/dask.md"} | howto


# The conversion table. Each row has a definition that shares nothing with the library: the
# other library, or what its documentation says.


def rows_of_the_table():
    text = (DOCS / "howto" / "migrate.md").read_text()
    table = re.findall(r"^\| (.+?) \| (.+?) \| `([^|]+)` \|$", text, re.MULTILINE)
    return {(system, there): here for system, there, here in table}


def torch_call(name, **options):
    def call(v):
        torch = pytest.importorskip("torch", reason="torch is optional")
        given = {key: value(v) if callable(value) else value for key, value in options.items()}
        given = {
            k: torch.from_numpy(a) if isinstance(a, np.ndarray) else a for k, a in given.items()
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the deprecated ways to reduce
            function = getattr(torch.nn.functional, name)
            return function(torch.from_numpy(v.x), torch.from_numpy(v.target), **given).numpy()

    return call


def huber_t(method):
    def call(v):
        norms = pytest.importorskip("statsmodels.robust.norms", reason="statsmodels is optional")
        return getattr(norms.HuberT(v.t), method)(v.r)

    return call


def smooth(v):
    """As PyTorch, Burn, fvcore, MLX, MMDetection and gluon define it, with beta for a name."""
    size = np.abs(v.r)
    return np.where(size < v.beta, 0.5 * size**2 / v.beta, size - 0.5 * v.beta)


def huber(v):
    """As Keras, Optax, Paddle, Burn, MLX and GTSAM define it, with delta for a name."""
    size = np.abs(v.r)
    return np.where(size <= v.delta, 0.5 * size**2, v.delta * size - 0.5 * v.delta**2)


def sigma_form(v):
    square = v.sigma**2
    inside = np.abs(v.r) < 1 / square
    return np.where(inside, 0.5 * (v.sigma * v.r) ** 2, np.abs(v.r) - 0.5 / square)


def huber_of_squares(s, radius):
    return np.array([s if s <= radius else 2 * math.sqrt(radius * s) - radius for s in s])


def huber_regressor_objective(v):
    huber = pytest.importorskip("sklearn.linear_model._huber", reason="scikit-learn is optional")
    parameters = np.concatenate([v.coef, [v.b, v.sigma]])
    ones = np.ones(len(v.y))
    return huber._huber_loss_and_gradient(parameters, v.X, v.y, v.epsilon, v.alpha, ones)[0]


def huber_regressor(v):
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is optional")
    model = linear.HuberRegressor(epsilon=v.epsilon, alpha=v.alpha, tol=1e-9, max_iter=1000)
    model.fit(v.X, v.y)
    v.sigma = model.scale_
    return model.coef_


THERE = {
    ("PyTorch", "`smooth_l1_loss(x, target, beta=beta)`"): torch_call(
        "smooth_l1_loss", beta=lambda v: v.beta
    ),
    ("PyTorch", "`smooth_l1_loss(x, target, size_average=False, beta=beta)`"): torch_call(
        "smooth_l1_loss", beta=lambda v: v.beta, size_average=False
    ),
    ("PyTorch", "`smooth_l1_loss(x, target, reduce=False, beta=beta)`"): torch_call(
        "smooth_l1_loss", beta=lambda v: v.beta, reduce=False
    ),
    ("PyTorch", "`huber_loss(x, target, delta=delta)`"): torch_call(
        "huber_loss", delta=lambda v: v.delta
    ),
    ("PyTorch", "`huber_loss(x, target, delta=delta, weight=weight)`"): torch_call(
        "huber_loss", delta=lambda v: v.delta, weight=lambda v: v.weight
    ),
    ("PyTorch", "`l1_loss(x, target)`"): torch_call("l1_loss"),
    ("Burn", "`SmoothL1LossConfig::new().with_beta(beta).init().forward(x, target)`"): smooth,
    ("Burn", "`smooth_l1.forward_with_reduction(x, target, Reduction::Auto)`"): (
        lambda v: smooth(v).mean()
    ),
    ("Burn", "`smooth_l1.forward_reduce_dims(x, target, &[1])`"): (
        lambda v: smooth(v).mean(axis=1, keepdims=True)
    ),
    ("Burn", "`HuberLossConfig::new(delta).init().forward(x, target, Reduction::Mean)`"): (
        lambda v: huber(v).mean()
    ),
    ("Lucid", "`SmoothL1Loss(beta=beta)(x, target)`"): lambda v: smooth(v).mean(),
    ("Lucid", "`huber_loss(x, target, delta)`"): lambda v: huber(v).mean(),
    ("MLX", "`smooth_l1_loss(x, target, beta)`"): lambda v: smooth(v).mean(),
    ("MLX", "`huber_loss(x, target, delta)`"): huber,
    ("fvcore", "`smooth_l1_loss(x, target, beta)`"): smooth,
    ("MMDetection", "`SmoothL1Loss(beta=beta)(x, target, weight)`"): (
        lambda v: (smooth(v) * v.weight).mean()
    ),
    ("MMDetection", "`SmoothL1Loss(beta=beta)(x, target, weight, avg_factor=count)`"): (
        lambda v: (smooth(v) * v.weight).sum() / v.count
    ),
    ("Fast R-CNN (Caffe)", "layer `SmoothL1Loss` with `sigma`"): (
        lambda v: sigma_form(v).sum() / v.x.shape[0]
    ),
    ("MXNet", "`nd.smooth_l1(r, scalar=sigma)`"): sigma_form,
    ("MXNet", "`gluon.loss.HuberLoss(rho)(x, target)`"): lambda v: smooth(v).mean(axis=1),
    ("Paddle", "`smooth_l1_loss(x, target, delta=delta)`"): lambda v: huber(v).mean(),
    ("Keras", "`losses.Huber(delta)(target, x)`"): lambda v: huber(v).mean(axis=-1).mean(),
    ("Keras", "`losses.huber(target, x, delta)`"): lambda v: huber(v).mean(axis=-1),
    ("Keras", "`losses.Huber(delta)(target, x, sample_weight=w)`"): (
        lambda v: (v.w * huber(v).mean(axis=-1)).sum() / len(v.w)
    ),
    (
        "Keras",
        '`losses.Huber(delta, reduction="mean_with_sample_weight")(target, x, sample_weight=w)`',
    ): lambda v: (v.w * huber(v).mean(axis=-1)).sum() / v.w.sum(),
    ("Optax", "`huber_loss(x, target, delta)`"): huber,
    ("SciPy", "`special.huber(delta, r)`"): lambda v: special.huber(v.delta, v.r),
    ("SciPy", '`optimize.least_squares(fun, p, loss="huber", f_scale=C)`, its `cost`'): (
        lambda v: optimize.least_squares(v.fun, v.p, loss="huber", f_scale=v.C, max_nfev=1).cost
    ),
    (
        "scikit-learn",
        "`HuberRegressor(epsilon, alpha)`, its objective at `coef, b, sigma`",
    ): huber_regressor_objective,
    (
        "scikit-learn",
        "`HuberRegressor(epsilon, alpha).fit(X, y)`, its `coef_`, with `scale_` as `sigma`",
    ): huber_regressor,
    ("statsmodels", "`HuberT(t).rho(r)`"): huber_t("rho"),
    ("statsmodels", "`HuberT(t).psi(r)`"): huber_t("psi"),
    ("statsmodels", "`HuberT(t).weights(r)`"): huber_t("weights"),
    ("statsmodels", "`HuberT(t).psi_deriv(r)`"): huber_t("psi_deriv"),
    ("R, MASS", "`psi.huber(r, k)`"): lambda v: np.minimum(1, v.k / np.abs(v.r)),
    ("GTSAM", "`mEstimator::Huber(k)`, its `loss(r)`"): huber,
    ("Ceres", "`HuberLoss(a)` on residual blocks, the rows of `r`"): (
        lambda v: 0.5 * huber_of_squares((v.r**2).sum(axis=1), v.a**2).sum()
    ),
    (
        "Theseus",
        "`HuberLoss`, its `evaluate(s, log_radius)` with s the squared norms of rows of `r`",
    ): lambda v: huber_of_squares((v.r**2).sum(axis=1), np.exp(v.log_radius)),
}


def example(value):
    """Names that the expressions use; every threshold is the value or follows from it."""
    rng = np.random.default_rng(5)
    x, target = 1.5 * rng.normal(size=(2, 7, 4))
    X = rng.normal(size=(60, 3))
    coef = np.array([1.0, -2.0, 0.5])
    y = X @ coef + 0.7 + 0.3 * rng.standard_t(2, size=60)
    names = ("beta", "delta", "rho", "sigma", "C", "t", "k", "a")
    return SimpleNamespace(
        **dict.fromkeys(names, value), log_radius=math.log(value), epsilon=1 + value, alpha=0.7,
        x=x, target=target, r=x - target, weight=rng.random((7, 4)), w=rng.random(7), count=5,
        X=X, y=y, coef=coef, b=0.6, p=np.array([0.1]), fun=lambda p: (x - target).ravel() + p,
    )  # fmt: skip


def test_every_row_has_a_definition():
    assert rows_of_the_table().keys() == THERE.keys()


@pytest.mark.parametrize("value", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("row", THERE, ids=lambda row: " ".join(row).replace("`", ""))
def test_conversions(row, value):
    names = example(value)
    wanted = np.asarray(THERE[row](names))
    got = np.asarray(eval(rows_of_the_table()[row], {"np": np, "sl": sl} | vars(names)))
    assert got.shape == wanted.shape
    is_fit = row[1].startswith("`HuberRegressor(epsilon, alpha).fit")
    np.testing.assert_allclose(got, wanted, rtol=1e-4 if is_fit else 1e-12, atol=1e-14)


def test_the_api_page_has_everything_public():
    module, found = "", set()
    for line in (DOCS / "api.md").read_text().splitlines():
        directive, _, name = line.partition(":: ")
        if directive == ".. currentmodule":
            module = name
        elif directive in (".. autofunction", ".. autoclass"):
            found.add(f"{module}.{name}")
    public = {f"smoothl1.{name}" for name in sl.__all__ if name != "optimize"}
    public |= {f"smoothl1.optimize.{name}" for name in sl.optimize.__all__}
    assert found == public | {"smoothl1.torch.SmoothL1Loss"}


def test_the_api_page_has_every_option_of_the_command_line():
    section = (DOCS / "api.md").read_text().partition("## Command line")[2]
    (commands,) = (action for action in _parser()._actions if isinstance(action.choices, dict))
    for name, command in commands.choices.items():
        assert f"`smoothl1 {name}" in section
        wanted = {o for action in command._actions for o in action.option_strings if o[:2] == "--"}
        part = section.partition(f"### `smoothl1 {name}")[2].partition("\n### ")[0]
        assert set(re.findall(r"--[a-z][\w-]*", part)) == wanted - {"--help"}


def test_the_design_page_names_every_module():
    named = set(re.findall(r"`(\w+)\.py`", (DOCS / "design.md").read_text()))
    modules = {path.stem for path in (ROOT / "smoothl1").glob("*.py")}
    assert modules - {"__init__", "__main__"} <= named

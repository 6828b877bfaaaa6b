"""Every error of the contract: its type, its words, and that nothing was touched."""

import numpy as np
import pytest

import smoothl1 as sl

X = np.arange(6.0).reshape(2, 3)
T = np.ones((2, 3))
ALL = (sl.smooth_l1_loss, sl.smooth_l1_grad, sl.smooth_l1_value_and_grad, sl.smooth_l1_hess)


class Foreign:
    """An array of a kind that nobody knows."""

    __module__ = "torch.fake"

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("must not be converted")


class Unreadable:
    """An array whose memory NumPy cannot read."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("not on this CPU")


BAD = [
    ({"beta": -1.0}, ValueError, "beta must be finite and at least 0, got -1.0"),
    ({"beta": np.nan}, ValueError, "beta must be finite and at least 0, got nan"),
    ({"beta": np.inf}, ValueError, "beta must be finite and at least 0, got inf"),
    ({"beta": 10**400}, ValueError, "beta is too large for a float64, .* 1329 bits"),
    ({"beta": 10**5000}, ValueError, "beta is too large for a float64, .* 16610 bits"),
    ({"beta": True}, TypeError, "beta must be a number or an array of numbers, got a boolean"),
    ({"beta": "1"}, TypeError, "beta must be a numpy.ndarray, a list or a number, got str$"),
    ({"beta": 1j}, TypeError, "beta must be .* got complex"),
    ({"beta": [1.0, -2.0, 0.5]}, ValueError, "every beta must be .* got -2.0 at index 1"),
    ({"beta": [1.0, np.nan, 0.5]}, ValueError, "every beta must be .* got nan at index 1"),
    ({"beta": [[1.0], [np.inf]]}, ValueError, r"every beta must be .* got inf at index \(1, 0\)"),
    ({"beta": [1.0, 2.0]}, ValueError, r"do not broadcast .* x \(2, 3\), .* beta \(2,\)"),
    ({"reduction": "average"}, ValueError, "reduction must be one of 'none', .* got 'average'"),
    ({"reduction": 3}, ValueError, "reduction must be one of .* got 3"),
    ({"reduction": None}, ValueError, "reduction must be one of .* got None"),
    ({"reduction": ["mean"]}, ValueError, "reduction must be one of .* got"),
    ({"axis": 2}, np.exceptions.AxisError, "axis 2 is out of bounds: .* 2 .*-2 to 1 are allowed"),
    ({"axis": -3}, np.exceptions.AxisError, "axis -3 is out of bounds"),
    ({"axis": (0, 0)}, ValueError, r"axis must not name an axis twice, got \(0, 0\)"),
    ({"axis": (0, -2)}, ValueError, "axis must not name an axis twice"),
    ({"axis": 1.0}, TypeError, "axis must be None, an integer or a tuple of integers, got 1.0"),
    ({"axis": True}, TypeError, "axis must be None, an integer or a tuple"),
    ({"axis": 0, "reduction": "none"}, ValueError, "axis must be None with reduction='none'"),
    ({"keepdims": 1}, TypeError, "keepdims must be True or False, got 1"),
    ({"normalizer": 2.0, "reduction": "sum"}, ValueError, "normalizer goes only with .*'sum'"),
    ({"normalizer": 2.0, "reduction": "none"}, ValueError, "normalizer goes only with .*'none'"),
    ({"normalizer": 0.0}, ValueError, "normalizer must be finite and above 0, got 0.0"),
    ({"normalizer": np.nan}, ValueError, "normalizer must be finite and above 0, got nan"),
    ({"normalizer": [2.0]}, TypeError, r"normalizer must be a real number, got shape \(1,\)"),
    ({"weight": np.ones((4,))}, ValueError, r"do not broadcast .* weight \(4,\)"),
    ({"weight": T > 0}, TypeError, "weight has dtype bool, .*select elements with where="),
    ({"weight": "w"}, TypeError, "weight must be .* got str"),
    ({"where": T}, TypeError, "where must be boolean, got dtype float64; .* != 0"),
    ({"where": 1}, TypeError, "where must be True, False or an array of booleans, got 1"),
    ({"where": np.ones(4, bool)}, ValueError, r"do not broadcast .* where \(4,\)"),
    ({"dtype": "int64"}, TypeError, "dtype must be one of float64, .* got 'int64'"),
    ({"dtype": np.longdouble}, TypeError, "dtype must be one of float64"),
    ({"dtype": ">f4"}, TypeError, "dtype must be one of float64"),
    ({"dtype": "nonsense"}, TypeError, "dtype must be one of float64, .* got 'nonsense'"),
    ({"out": [1.0]}, TypeError, "out must be a numpy.ndarray like the operands, got list"),
]


@pytest.mark.parametrize("function", ALL)
@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_options(function, options, error, message):
    with pytest.raises(error, match=message):
        function(X, T, **options)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, TypeError, "must hold real numbers, got None"),
        (True, TypeError, "must hold real numbers, got True"),
        ("a", TypeError, "must be a numpy.ndarray, a list or a number, got str"),
        (1j, TypeError, "got complex; take the loss of its absolute value"),
        (X > 1, TypeError, "has dtype bool, .*where="),
        (X.astype(complex), TypeError, "has dtype complex128"),
        (X.astype(object), TypeError, r"has dtype object, .*\.astype\(float\)"),
        (X.astype("U"), TypeError, r"has dtype <U.*\.astype\(float\)"),
        (X.astype(np.longdouble), TypeError, r"has dtype .* allowed are .*astype\(np.float64\)"),
        (X.astype("M8[s]"), TypeError, "has dtype datetime64.* divide by a unit"),
        ([[1.0], [1.0, 2.0]], ValueError, "is not a rectangular list.* fill up short rows"),
        ([Unreadable()], TypeError, "must be a list of numbers, .*Unreadable.*: not on this CPU"),
        ([True], TypeError, "has dtype bool"),
        (np.ma.masked_array(X), TypeError, r"numpy.ma.*filled\(0\) and where=~np.ma.getmaskarray"),
        (Foreign(), TypeError, r"torch.fake.Foreign; pass .*detach\(\).cpu\(\).numpy\(\)"),
        ({1.0}, TypeError, r"got set; pass list\("),
        (object(), TypeError, "got object$"),
        (memoryview(b"a"), TypeError, "got memoryview"),
    ],
)
@pytest.mark.parametrize("name", ["x", "target", "weight"])
def test_bad_operands(value, error, message, name):
    operands = {"x": X, "target": T, name: value}
    if name == "weight" and value is None:
        return
    with pytest.raises(error, match=f"^{name} .*{message}"):
        sl.smooth_l1_loss(**operands)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_matrices_are_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"x must be .*matrix; pass np.asarray\(x\)"):
        sl.smooth_l1_loss(np.asmatrix(X), T)


def test_a_mask_inside_a_list_is_not_lost():
    with pytest.raises(TypeError, match=r"pass target.filled\(0\) .*getmaskarray\(target\)"):
        sl.smooth_l1_loss(X, [np.ma.masked_array([1.0, 2, 3]), [1.0, 2, 3]])


@pytest.mark.parametrize("name", ["beta", "normalizer", "grad_output"])
def test_long_doubles_are_never_rounded_silently(name):
    with pytest.raises(TypeError, match=f"^{name} has dtype .* allowed are"):
        sl.smooth_l1_grad(X, T, **{name: np.longdouble(0.5)})


def test_scipy_sparse_is_refused_with_the_remedy():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=r"x must be .*scipy.sparse.*; pass x.toarray\(\)"):
        sl.smooth_l1_loss(sparse.csr_array(X), T)


def test_both_shapes_are_named():
    with pytest.raises(ValueError, match=r"x \(2, 3\), target \(3, 2\)"):
        sl.smooth_l1_loss(X, T.T)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.full((2, 3), 7.0), ValueError, r"shape of the result \(3,\), got \(2, 3\)"),
        (np.full(3, 7, "f4"), TypeError, "dtype of the result float64, got float32"),
        (np.full(3, 7, ">f8"), TypeError, "dtype of the result float64, got >f8"),
        (np.broadcast_to(np.full(1, 7.0), (3,)), ValueError, "must be writable"),
    ],
)
def test_bad_out_is_untouched(out, error, message):
    before = out.copy()
    with pytest.raises(error, match=message):
        sl.smooth_l1_loss(X, T, axis=0, out=out)
    np.testing.assert_array_equal(out, before)


def test_out_that_overlaps_itself():
    room = np.full(4, 7.0)
    out = np.lib.stride_tricks.as_strided(room, (2, 3), (8, 8))
    with pytest.raises(ValueError, match="must not overlap itself"):
        sl.smooth_l1_grad(X, T, out=out)
    assert room.tolist() == [7.0] * 4


def test_outputs_that_share_memory():
    room = np.full((2, 3), 7.0)
    with pytest.raises(ValueError, match="out and grad_out must not share memory"):
        sl.smooth_l1_value_and_grad(X, T, reduction="none", out=room, grad_out=room[::-1])
    assert (room == 7).all()


@pytest.mark.parametrize("options", [{"beta": -1.0}, {"axis": 5}, {"weight": np.ones(7)}])
def test_out_is_untouched_by_every_error(options):
    room = np.full((2, 3), 7.0)
    with pytest.raises(ValueError, match=r"beta|axis|weight"):
        sl.smooth_l1_grad(X, T, out=room, **options)
    with pytest.raises(ValueError, match="wrt must be 'x' or 'target', got 'y'"):
        sl.smooth_l1_grad(X, T, out=room, wrt="y")
    with pytest.raises(ValueError, match=r"grad_output must broadcast to .*shape"):
        sl.smooth_l1_grad(X, T, out=room, grad_output=np.ones(3))
    with pytest.raises(TypeError, match="grad_output has dtype complex128"):
        sl.smooth_l1_grad(X, T, out=room, grad_output=np.ones(3) * 1j, axis=0)
    assert (room == 7).all()


def test_huber_names_delta():
    with pytest.raises(ValueError, match="delta must be finite and at least 0, got -1"):
        sl.huber_loss(X, T, delta=-1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'beta'"):
        sl.huber_loss(X, T, beta=1.0)
    with pytest.raises(TypeError, match="unexpected keyword"):
        sl.huber_loss(X, T, wrt="x")


def test_arguments_after_the_arrays_are_keywords():
    with pytest.raises(TypeError, match="positional"):
        sl.smooth_l1_loss(X, T, 1.0)


def test_no_axis_of_a_number():
    with pytest.raises(np.exceptions.AxisError, match=r"0 dimension.*only None and \(\)"):
        sl.smooth_l1_loss(1.0, 2.0, axis=0)


def test_bfloat16_says_what_it_needs(run_python):
    out = run_python(
        """
        import sys
        sys.modules["ml_dtypes"] = None
        import numpy as np
        import smoothl1 as sl
        try:
            sl.smooth_l1_loss(np.ones(2), np.ones(2), dtype="bfloat16")
        except ImportError as error:
            print(error)
        """
    )
    assert out.strip() == "bfloat16 needs ml_dtypes: pip install ml_dtypes"


def test_a_dtype_that_no_one_can_read():
    with pytest.raises(TypeError, match=r"dtype must be one of float64, .* got 'f4,,'"):
        sl.smooth_l1_loss(X, T, dtype="f4,,")


def test_an_empty_list_selects_nothing():
    assert sl.smooth_l1_loss([], [], where=[], reduction="sum") == 0


def test_a_call_like_one_before_is_checked_like_the_first():
    # What follows from options is looked up, and True is equal to 1.
    x, y = np.ones((3, 4)), np.zeros(4)
    for options in ({"axis": 1}, {"axis": (0, 1)}, {"keepdims": True}, {"normalizer": 1}):
        sl.smooth_l1_loss(x, y, **options)
    for options in (
        {"axis": True}, {"axis": (False, True)}, {"axis": 1.0}, {"keepdims": 1},
        {"normalizer": True},
    ):  # fmt: skip
        with pytest.raises(TypeError, match=next(iter(options))):
            sl.smooth_l1_loss(x, y, **options)
    for options in ({"axis": [1]}, {"axis": np.int64(1)}, {"axis": (np.int8(-1),)}):
        assert sl.smooth_l1_loss(x, y, **options).shape == (3,)


def test_forms_of_calls_do_not_mix():
    x = np.array([[0.5, 3.0], [1.0, -2.0]], np.float32)
    sums = {
        "mean": sl.smooth_l1_loss(x, 0.0, beta=0.5),
        "sum": sl.smooth_l1_loss(x, 0.0, beta=0.5, reduction="sum"),
        "by four": sl.smooth_l1_loss(x, 0.0, beta=0.5, normalizer=4.0),
        "wide": sl.smooth_l1_loss(x, 0.0, beta=0.5, dtype=np.float64),
        "other operand": sl.smooth_l1_loss(x, np.zeros(2), beta=0.5),
        "columns": sl.smooth_l1_loss(x.T, 0.0, beta=0.5, axis=0),
    }
    assert sums["mean"] == sums["by four"] == sums["sum"] / 4 == 1.375
    assert [sums[name].dtype.name for name in ("mean", "wide", "other operand")] == [
        "float32", "float64", "float64",
    ]  # fmt: skip
    np.testing.assert_array_equal(sums["columns"], [1.5, 1.25])

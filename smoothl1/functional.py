"""The public functions: validate, plan, choose, run, wrap."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, overload

from . import backend, operations
from .calls import Call, Wanted
from .kinds import foreign
from .problem import Problem, check
from .validate import (
    DIVIDES,
    Array,
    Reduction,
    check_grad_output,
    check_out,
    check_separate,
    check_wrt,
)

if TYPE_CHECKING:
    from typing import Unpack

    from .signatures import (
        Floats,
        GradOut,
        Numbers,
        Options,
        Out,
        Scalar,
        ToElements,
        ToScalar,
        ToSlopes,
    )

EXACT = 1 << 53  # integers up to here are floats
X = "x"  # the very object, as Python has one of each letter; else the long way looks


@overload
def smooth_l1_loss(
    x: Numbers, target: Numbers, *, beta: Numbers = ..., **options: Unpack[ToScalar]
) -> Scalar: ...  # fmt: skip
@overload
def smooth_l1_loss(
    x: Numbers, target: Numbers, *, beta: Numbers = ..., **options: Unpack[ToElements]
) -> Floats: ...  # fmt: skip
@overload
def smooth_l1_loss(
    x: Any, target: Any, *, beta: Any = ..., out: Out, **options: Unpack[Options]
) -> Out: ...  # fmt: skip
@overload
def smooth_l1_loss(
    x: Any, target: Any, *, beta: Any = ..., out: Any = ..., **options: Unpack[Options]
) -> Any: ...  # fmt: skip
def smooth_l1_loss(
    x: Any,
    target: Any,
    *,
    beta: Any = 1.0,
    reduction: str = "mean",
    axis: Any = None,
    keepdims: bool = False,
    weight: Any = None,
    where: Any = None,
    normalizer: float | None = None,
    dtype: Any = None,
    out: Any = None,
) -> Any:
    """Smooth L1 loss of ``x - target``, elementwise or reduced.

    With r = x - target the loss is r² / (2 beta) where abs(r) < beta, and
    abs(r) - beta / 2 elsewhere. ``beta = 0`` is the absolute error.

    Parameters
    ----------
    x, target : array_like
        Real numbers of shapes that broadcast: float64, float32, float16,
        bfloat16 or integers. The result has the promoted floating type;
        integers take that of the floating operands, or float64, before they
        are subtracted. Python numbers are weak. `beta` is in their unit.
        Arrays are NumPy's, or all of one of PyTorch, JAX, CuPy, numba (on a
        GPU), Dask and array_api_strict; results are of that kind, on the same
        device.
        Gradients of PyTorch and transforms of JAX flow through; Dask arrays
        give lazy results.
    beta : float or array_like, default 1.0
        Finite threshold(s) of at least 0; an array broadcasts. Kept in float64.
    reduction : {"mean", "sum", "none", "auto"}, default "mean"
        "auto" is "mean".
    axis : int, tuple of int or None, default None
        Axes to reduce, None for all, () for none. Must be None with "none".
    keepdims : bool, default False
        Keep reduced axes with size 1.
    weight : array_like, optional
        Factors of the element losses; takes part in broadcasting and
        promotion. "mean" divides by the sum of the weights over `axis`.
    where : array_like of bool, optional
        Elements to include. The others count nothing, even if they are NaN.
    normalizer : float, optional
        Positive number that "mean" divides by instead.
    dtype : dtype, optional
        Floating type of the result.
    out : ndarray, optional
        Takes the result; of its exact shape and dtype. May overlap operands.

    Returns
    -------
    scalar or ndarray
        The loss, in the unit of `x`; `out` if it was given. A NumPy scalar if
        all axes are reduced, and a 0-d array in other libraries.

    Raises
    ------
    TypeError
        For kinds of array and dtypes other than those above.
    ValueError
        For values and shapes that are not allowed. No error leaves anything in
        `out`: all checks come first.

    See Also
    --------
    smooth_l1_grad : Its gradient.
    smooth_l1_value_and_grad : Both from one pass over the data.
    smooth_l1_hess : The diagonal of its Hessian.
    huber_loss : `beta` times this loss.

    Notes
    -----
    Elements are computed in float64 and rounded once. Those of float64 are
    within 1 ulp of the exact loss of the rounded difference x - target.
    Sums run in float64 in one fixed order: results have the same bits for
    any number of threads and any strides. A NaN gives NaN, an infinite
    difference an infinite loss; the mean of nothing is NaN, the sum 0.

    References
    ----------
    .. [1] Ross Girshick, "Fast R-CNN", ICCV 2015, https://doi.org/10.1109/ICCV.2015.169
    .. [2] Peter J. Huber, "Robust estimation of a location parameter", 1964,
       https://doi.org/10.1214/aoms/1177703732

    Examples
    --------
    >>> import smoothl1 as sl
    >>> float(sl.smooth_l1_loss([0.0, 1.0, 3.0], [0.5, 1.0, 1.0], beta=0.5))
    0.6666666666666666
    >>> sl.smooth_l1_loss([0.0, 1.0, 3.0], 1.0, reduction="none")
    array([0.5, 0. , 1.5])

    One loss per row, of rows of which some elements are missing:

    >>> import numpy as np
    >>> x = np.array([[0.0, 1.0, np.nan], [2.0, np.nan, 4.0]])
    >>> sl.smooth_l1_loss(x, 1.0, axis=1, where=~np.isnan(x))
    array([0.25, 1.5 ])

    """
    if (
        type(x) is operations.kind
        and weight is None and where is None and normalizer is None
        and dtype is None and out is None
    ):  # fmt: skip
        made = operations.result(x, target, beta, reduction, axis, keepdims, "loss")
        if made is not None:
            return made
    threshold = beta if type(beta) is float else _small_integer(beta)
    if (
        weight is None and where is None and normalizer is None and dtype is None and out is None
        and 0.0 <= threshold < math.inf
        and isinstance(reduction, str)
        and reduction in DIVIDES
        and (way := backend.short_ways.get(type(x)) or backend.find_way(type(x))) is not None
    ):  # fmt: skip
        loss = way.loss(x, target, threshold, DIVIDES[reduction], axis, keepdims)
        if loss is not None:
            return loss
    if (kind := foreign(x, target, beta, weight, where, out)) is not None:
        return kind.run(Call(smooth_l1_loss, Wanted.LOSS, {
            "x": x, "target": target, "beta": beta, "reduction": reduction, "axis": axis,
            "keepdims": keepdims, "weight": weight, "where": where, "normalizer": normalizer,
            "dtype": dtype, "out": out,
        }))  # fmt: skip
    problem = check(
        x, target, beta=beta, reduction=reduction, axis=axis, keepdims=keepdims, weight=weight,
        where=where, normalizer=normalizer, dtype=dtype,
    )  # fmt: skip
    check_out("out", out, problem.plan().result_shape, problem.dtype)
    return _wrap(backend.choose(problem).loss(problem, out), problem, out)


@overload
def huber_loss(
    x: Numbers, target: Numbers, *, delta: Numbers = ..., **options: Unpack[ToScalar]
) -> Scalar: ...  # fmt: skip
@overload
def huber_loss(
    x: Numbers, target: Numbers, *, delta: Numbers = ..., **options: Unpack[ToElements]
) -> Floats: ...  # fmt: skip
@overload
def huber_loss(
    x: Any, target: Any, *, delta: Any = ..., out: Out, **options: Unpack[Options]
) -> Out: ...  # fmt: skip
@overload
def huber_loss(
    x: Any, target: Any, *, delta: Any = ..., out: Any = ..., **options: Unpack[Options]
) -> Any: ...  # fmt: skip
def huber_loss(
    x: Any,
    target: Any,
    *,
    delta: Any = 1.0,
    reduction: str = "mean",
    axis: Any = None,
    keepdims: bool = False,
    weight: Any = None,
    where: Any = None,
    normalizer: float | None = None,
    dtype: Any = None,
    out: Any = None,
) -> Any:
    """Huber loss of ``x - target``, elementwise or reduced.

    With r = x - target the loss is r² / 2 where abs(r) < delta, and
    delta (abs(r) - delta / 2) elsewhere: delta times that of `smooth_l1_loss`
    with ``beta = delta``.

    Parameters
    ----------
    x, target : array_like
        As for `smooth_l1_loss`.
    delta : float or array_like, default 1.0
        Finite threshold(s) of at least 0, in the unit of `x`.
    reduction, axis, keepdims, weight, where, normalizer, dtype, out
        As for `smooth_l1_loss`.

    Returns
    -------
    scalar or ndarray
        As for `smooth_l1_loss`, in the squared unit of `x`.

    Raises
    ------
    TypeError, ValueError
        As `smooth_l1_loss`.

    See Also
    --------
    smooth_l1_grad : Gradient, to be multiplied by `delta`.

    Notes
    -----
    Elements are rounded once, as those of `smooth_l1_loss`, and sums run in the
    same order. ``delta = 0`` gives 0 for every finite difference.

    References
    ----------
    .. [1] P. J. Huber, "Robust estimation of a location parameter", 1964,
       https://doi.org/10.1214/aoms/1177703732

    Examples
    --------
    >>> import smoothl1 as sl
    >>> sl.huber_loss([0.0, 4.0], 0.5, delta=2.0, reduction="none")
    array([0.125, 5.   ])

    """
    if (kind := foreign(x, target, delta, weight, where, out)) is not None:
        return kind.run(Call(huber_loss, Wanted.HUBER, {
            "x": x, "target": target, "delta": delta, "reduction": reduction, "axis": axis,
            "keepdims": keepdims, "weight": weight, "where": where, "normalizer": normalizer,
            "dtype": dtype, "out": out,
        }))  # fmt: skip
    problem = check(
        x, target, beta=delta, reduction=reduction, axis=axis, keepdims=keepdims, weight=weight,
        where=where, normalizer=normalizer, dtype=dtype, beta_name="delta",
    )  # fmt: skip
    check_out("out", out, problem.plan().result_shape, problem.dtype)
    return _wrap(backend.choose(problem).loss(problem, out, huber=True), problem, out)


@overload
def smooth_l1_grad(
    x: Numbers, target: Numbers, *, out: None = ...,
    wrt: str = ..., grad_output: Numbers | None = ..., **options: Unpack[ToSlopes],
) -> Floats: ...  # fmt: skip
@overload
def smooth_l1_grad(
    x: Any, target: Any, *, beta: Any = ..., out: Out,
    wrt: str = ..., grad_output: Any = ..., **options: Unpack[Options],
) -> Out: ...  # fmt: skip
@overload
def smooth_l1_grad(
    x: Any, target: Any, *, beta: Any = ..., out: Any = ...,
    wrt: str = ..., grad_output: Any = ..., **options: Unpack[Options],
) -> Any: ...  # fmt: skip
def smooth_l1_grad(
    x: Any,
    target: Any,
    *,
    beta: Any = 1.0,
    reduction: str = "mean",
    axis: Any = None,
    keepdims: bool = False,
    weight: Any = None,
    where: Any = None,
    normalizer: float | None = None,
    dtype: Any = None,
    out: Any = None,
    wrt: str = "x",
    grad_output: Any = None,
) -> Any:
    """Gradient of the (reduced) smooth L1 loss with respect to one argument.

    The slope of an element is r / beta where abs(r) < beta, and the sign of r
    elsewhere; 0 for r = 0.

    Parameters
    ----------
    x, target, beta, reduction, axis, keepdims, weight, where, normalizer, dtype
        As for `smooth_l1_loss`.
    out : ndarray, optional
        Takes the gradient; of its exact shape and dtype. May overlap operands.
    wrt : {"x", "target"}, default "x"
        Argument to differentiate by. Axes along which it is broadcast are summed.
    grad_output : array_like, optional
        Factor(s) of the shape of the loss, or that broadcast to it: the
        result is the product of this vector with the Jacobian.

    Returns
    -------
    ndarray
        The gradient, of the shape of that argument and the dtype of the loss;
        `out` if it was given. Slopes have no unit.

    Raises
    ------
    TypeError, ValueError
        As `smooth_l1_loss`.

    See Also
    --------
    smooth_l1_value_and_grad : The loss too, from the same pass over the data.

    Notes
    -----
    Elements are rounded once; those of float64 are within 1 ulp. Sums along
    broadcast axes run in float64 in one fixed order. A NaN gives NaN, an
    infinite difference a slope of 1 or -1, an element that `where` leaves out 0.

    Examples
    --------
    >>> import smoothl1 as sl
    >>> sl.smooth_l1_grad([0.0, 1.0, 3.0], 1.5, beta=2.0, reduction="sum")
    array([-0.75, -0.25,  0.75])

    """
    if (
        type(x) is operations.kind
        and weight is None and where is None and normalizer is None
        and dtype is None and out is None
        and wrt is X and grad_output is None
    ):  # fmt: skip
        made = operations.result(x, target, beta, reduction, axis, keepdims, "grad")
        if made is not None:
            return made
    threshold = beta if type(beta) is float else _small_integer(beta)
    if (
        weight is None and where is None and normalizer is None and dtype is None
        and wrt is X and grad_output is None
        and 0.0 <= threshold < math.inf
        and isinstance(reduction, str)
        and reduction in DIVIDES
        and (way := backend.short_ways.get(type(x)) or backend.find_way(type(x))) is not None
    ):  # fmt: skip
        slopes = way.slope(x, target, threshold, DIVIDES[reduction], axis, keepdims, False, out)
        if slopes is not None:
            return slopes
    if (kind := foreign(x, target, beta, weight, where, out, grad_output)) is not None:
        return kind.run(Call(smooth_l1_grad, Wanted.GRAD, {
            "x": x, "target": target, "beta": beta, "reduction": reduction, "axis": axis,
            "keepdims": keepdims, "weight": weight, "where": where, "normalizer": normalizer,
            "dtype": dtype, "out": out, "wrt": wrt, "grad_output": grad_output,
        }))  # fmt: skip
    check_wrt(wrt)
    problem = check(
        x, target, beta=beta, reduction=reduction, axis=axis, keepdims=keepdims, weight=weight,
        where=where, normalizer=normalizer, dtype=dtype,
    )  # fmt: skip
    upstream = check_grad_output(grad_output, problem.plan().result_shape)
    check_out("out", out, _shape(problem, wrt), problem.dtype)
    run = backend.choose(problem)
    return run.slope(problem, wrt, upstream, out, curvature=False)


@overload
def smooth_l1_value_and_grad(
    x: Numbers, target: Numbers, *, beta: Numbers = ..., wrt: str = ..., grad_out: None = ...,
    **options: Unpack[ToScalar],
) -> tuple[Scalar, Floats]: ...  # fmt: skip
@overload
def smooth_l1_value_and_grad(
    x: Numbers, target: Numbers, *, beta: Numbers = ..., wrt: str = ..., grad_out: None = ...,
    **options: Unpack[ToElements],
) -> tuple[Floats, Floats]: ...  # fmt: skip
@overload
def smooth_l1_value_and_grad(
    x: Numbers, target: Numbers, *, wrt: str = ..., out: None = ..., grad_out: None = ...,
    **options: Unpack[ToSlopes],
) -> tuple[Any, Floats]: ...  # fmt: skip
@overload
def smooth_l1_value_and_grad(
    x: Any, target: Any, *, beta: Any = ..., wrt: str = ..., out: Out, grad_out: GradOut,
    **options: Unpack[Options],
) -> tuple[Out, GradOut]: ...  # fmt: skip
@overload
def smooth_l1_value_and_grad(
    x: Any, target: Any, *, beta: Any = ..., wrt: str = ..., out: Any = ..., grad_out: Any = ...,
    **options: Unpack[Options],
) -> tuple[Any, Any]: ...  # fmt: skip
def smooth_l1_value_and_grad(
    x: Any,
    target: Any,
    *,
    beta: Any = 1.0,
    reduction: str = "mean",
    axis: Any = None,
    keepdims: bool = False,
    weight: Any = None,
    where: Any = None,
    normalizer: float | None = None,
    dtype: Any = None,
    out: Any = None,
    wrt: str = "x",
    grad_out: Any = None,
) -> tuple[Any, Any]:
    """Loss and gradient from one pass over the data.

    Parameters
    ----------
    x, target, beta, reduction, axis, keepdims, weight, where, normalizer, dtype
        As for `smooth_l1_loss`.
    out : ndarray, optional
        Takes the loss; of its exact shape and dtype. May overlap operands.
    wrt : {"x", "target"}, default "x"
        Argument to differentiate by. Axes along which it is broadcast are summed.
    grad_out : ndarray, optional
        Takes the gradient, as `out` does the loss; apart from it in memory.

    Returns
    -------
    loss : scalar or ndarray
        Bit for bit the result of `smooth_l1_loss`.
    grad : ndarray
        The result of `smooth_l1_grad`, of the shape of the argument `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `smooth_l1_loss`.

    See Also
    --------
    optimize.LinearObjective : The same for linear models, with products by X.

    Notes
    -----
    A mean with weights or a mask reads these once more beforehand, since
    their sum divides the gradient.

    Examples
    --------
    >>> import smoothl1 as sl
    >>> loss, grad = sl.smooth_l1_value_and_grad([0.0, 3.0], [0.5, 1.0], reduction="sum")
    >>> float(loss), grad
    (1.625, array([-0.5,  1. ]))

    """
    threshold = beta if type(beta) is float else _small_integer(beta)
    if (
        weight is None and where is None and normalizer is None and dtype is None and out is None
        and wrt is X
        and 0.0 <= threshold < math.inf
        and isinstance(reduction, str)
        and reduction in DIVIDES
        and (way := backend.short_ways.get(type(x)) or backend.find_way(type(x))) is not None
    ):  # fmt: skip
        divides = DIVIDES[reduction]
        pair = way.value_and_grad(x, target, threshold, divides, axis, keepdims, grad_out)
        if pair is not None:
            return pair
    if (kind := foreign(x, target, beta, weight, where, out, grad_out)) is not None:
        return kind.run(Call(smooth_l1_value_and_grad, Wanted.VALUE_AND_GRAD, {
            "x": x, "target": target, "beta": beta, "reduction": reduction, "axis": axis,
            "keepdims": keepdims, "weight": weight, "where": where, "normalizer": normalizer,
            "dtype": dtype, "out": out, "wrt": wrt, "grad_out": grad_out,
        }))  # fmt: skip
    check_wrt(wrt)
    problem = check(
        x, target, beta=beta, reduction=reduction, axis=axis, keepdims=keepdims, weight=weight,
        where=where, normalizer=normalizer, dtype=dtype,
    )  # fmt: skip
    check_out("out", out, problem.plan().result_shape, problem.dtype)
    check_out("grad_out", grad_out, _shape(problem, wrt), problem.dtype)
    check_separate(out, grad_out)
    loss, grad = backend.choose(problem).value_and_grad(problem, wrt, out, grad_out)
    return _wrap(loss, problem, out), grad


@overload
def smooth_l1_hess(
    x: Numbers, target: Numbers, *, out: None = ..., **options: Unpack[ToSlopes],
) -> Floats: ...  # fmt: skip
@overload
def smooth_l1_hess(
    x: Any, target: Any, *, beta: Any = ..., out: Out, **options: Unpack[Options],
) -> Out: ...  # fmt: skip
@overload
def smooth_l1_hess(
    x: Any, target: Any, *, beta: Any = ..., out: Any = ..., **options: Unpack[Options],
) -> Any: ...  # fmt: skip
def smooth_l1_hess(
    x: Any,
    target: Any,
    *,
    beta: Any = 1.0,
    reduction: str = "mean",
    axis: Any = None,
    keepdims: bool = False,
    weight: Any = None,
    where: Any = None,
    normalizer: float | None = None,
    dtype: Any = None,
    out: Any = None,
) -> Any:
    """Diagonal of the Hessian of the (reduced) smooth L1 loss in ``x``.

    The curvature of an element is 1 / beta where abs(r) < beta, and 0
    elsewhere, also at abs(r) = beta.

    Parameters
    ----------
    x, target, beta, reduction, axis, keepdims, weight, where, normalizer, dtype
        As for `smooth_l1_loss`.
    out : ndarray, optional
        Takes the result; of its exact shape and dtype. May overlap operands.

    Returns
    -------
    ndarray
        The diagonal, of the shape of `x` and the dtype of the loss, in the
        inverse unit of `x`. Axes along which `x` is broadcast are summed.

    Raises
    ------
    TypeError, ValueError
        As `smooth_l1_loss`.

    Notes
    -----
    Without broadcasting all other second derivatives are 0. ``beta = 0`` gives
    0, a NaN gives NaN, an infinite difference 0. Sums are those of
    `smooth_l1_grad`.

    Examples
    --------
    >>> import smoothl1 as sl
    >>> sl.smooth_l1_hess([0.0, 1.0, 3.0], 1.0, beta=2.0, reduction="sum")
    array([0.5, 0.5, 0. ])

    """
    if (
        type(x) is operations.kind
        and weight is None and where is None and normalizer is None
        and dtype is None and out is None
    ):  # fmt: skip
        made = operations.result(x, target, beta, reduction, axis, keepdims, "hess")
        if made is not None:
            return made
    threshold = beta if type(beta) is float else _small_integer(beta)
    if (
        weight is None and where is None and normalizer is None and dtype is None
        and 0.0 <= threshold < math.inf
        and isinstance(reduction, str)
        and reduction in DIVIDES
        and (way := backend.short_ways.get(type(x)) or backend.find_way(type(x))) is not None
    ):  # fmt: skip
        slopes = way.slope(x, target, threshold, DIVIDES[reduction], axis, keepdims, True, out)
        if slopes is not None:
            return slopes
    if (kind := foreign(x, target, beta, weight, where, out)) is not None:
        return kind.run(Call(smooth_l1_hess, Wanted.HESS, {
            "x": x, "target": target, "beta": beta, "reduction": reduction, "axis": axis,
            "keepdims": keepdims, "weight": weight, "where": where, "normalizer": normalizer,
            "dtype": dtype, "out": out,
        }))  # fmt: skip
    problem = check(
        x, target, beta=beta, reduction=reduction, axis=axis, keepdims=keepdims, weight=weight,
        where=where, normalizer=normalizer, dtype=dtype,
    )  # fmt: skip
    check_out("out", out, problem.x_shape, problem.dtype)
    run = backend.choose(problem)
    return run.slope(problem, "x", None, out, curvature=True)


def _small_integer(beta: Any) -> float:
    """Return the float of an integer that has one, NaN for all else, which goes the long way."""
    return float(beta) if type(beta) is int and 0 <= beta <= EXACT else math.nan


def _shape(problem: Problem, wrt: str) -> tuple[int, ...]:
    return problem.x_shape if wrt == "x" else problem.target_shape


def _wrap(loss: Array, problem: Problem, out: Array | None) -> Any:
    """Make a NumPy scalar of what is reduced to one number, as NumPy does."""
    if out is not None or loss.ndim > 0 or problem.reduction is Reduction.NONE:
        return loss
    return loss[()]

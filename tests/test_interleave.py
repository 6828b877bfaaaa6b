"""Both reductions run every task once, and touch the same elements at about the same time."""

import numpy as np
import pytest

import smoothl1 as sl
from smoothl1 import interleave, sums_run
from smoothl1.plan import divide, make_plan

# shape, axes of the loss, axes of the slopes
CASES = [
    ((300, 1000), (0, 1), (0,)),
    ((300, 1009), (0, 1), (1,)),
    ((20, 20_000), (0, 1), (0,)),
    ((20, 20_000), (0,), (1,)),
    ((20_000, 20), (1,), (0,)),
    ((40, 30, 200), (0, 2), (1,)),
    ((40, 30, 200), (1,), (0, 2)),
    ((40, 200, 30), (0, 1, 2), (0, 2)),
]


def elements(division, ranges):
    """Flat indices of the elements in tasks, which are counted from the definition."""
    plan = division.plan
    tasks = np.concatenate([np.arange(*r) for r in ranges]) if len(ranges) else np.arange(0)
    outer, rows, columns = np.indices((plan.outer, plan.rows, plan.columns)).reshape(3, -1)
    if plan.short:
        owner = outer // (2048 // (plan.rows * plan.columns))
    else:
        unit = rows // (division.each * 16 * plan.lanes)
        owner = (unit * plan.outer + outer) * plan.tiles + columns // plan.tile
    flat = np.arange(np.prod(plan.shape)).reshape(plan.shape).transpose(plan.order).ravel()
    return flat[np.isin(owner, tasks)]


@pytest.mark.parametrize(("shape", "axes", "summed"), CASES)
def test_slabs_hold_every_task_once_and_the_same_elements(monkeypatch, shape, axes, summed):
    monkeypatch.setattr(interleave, "SLAB", 1 << 16)
    memory = tuple(range(len(shape)))
    plans = [make_plan(shape, a, True, memory) for a in (axes, summed)]
    one, other = (divide(plan, plan.size // 512) for plan in plans)
    seen, shared, count = ([], []), 0, 0
    for slab in interleave.schedule(one, other):
        held = [elements(d, ranges) for d, ranges in zip((one, other), slab, strict=True)]
        for had, now in zip(seen, held, strict=True):
            had.append(now)
        shared += np.intersect1d(*held).size
        count += 1
    for had in seen:
        assert np.array_equal(np.sort(np.concatenate(had)), np.arange(np.prod(shape)))
    assert count >= np.prod(shape) // interleave.SLAB
    assert shared > 0.6 * np.prod(shape)  # slabs this small have wide edges


def test_groups_of_tasks(monkeypatch):
    monkeypatch.setattr(interleave, "SLAB", 1 << 10)
    monkeypatch.setattr(interleave, "GROUPS", 7)
    plans = [make_plan((64, 1024), axes, True, (0, 1)) for axes in ((0, 1), (0,))]
    one, other = (divide(plan, 64) for plan in plans)
    ranges = np.concatenate([first for first, _ in interleave.schedule(one, other)])
    assert sorted(t for a, b in ranges for t in range(a, b)) == list(range(one.tasks))


@pytest.mark.parametrize(
    ("own", "shape", "axis"),
    [((257,), (300, 257), None), ((300, 1), (300, 257), None), ((20, 1), (20, 5003), 0)],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_bits_do_not_depend_on_slabs(monkeypatch, rng, own, shape, axis, weighted):
    x, target = rng.normal(size=own), rng.normal(size=shape)
    options = {"beta": 0.4, "axis": axis, "weight": target**2 if weighted else None}
    loss = sl.smooth_l1_loss(x, target, **options)
    grad = sl.smooth_l1_grad(x, target, **options)
    monkeypatch.setattr(interleave, "SLAB", 1 << 12)
    monkeypatch.setattr(sums_run, "FINE", 1 << 8)
    both = sl.smooth_l1_value_and_grad(x, target, **options)
    assert np.array_equal(both[0], loss)
    assert np.array_equal(both[1], grad)


def test_losses_of_elements_beside_sums_of_slopes(rng):
    x, target = rng.normal(size=(1, 70)), rng.normal(size=(90, 70))
    loss, grad = sl.smooth_l1_value_and_grad(x, target, beta=0.4, reduction="none")
    assert np.array_equal(loss, sl.smooth_l1_loss(x, target, beta=0.4, reduction="none"))
    assert np.array_equal(grad, sl.smooth_l1_grad(x, target, beta=0.4, reduction="none"))

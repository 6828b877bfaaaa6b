"""What a call costs for each kind of array, beside the library of the arrays.

    python benchmarks/kinds.py [--repeats 15] [--largest 4194304]

For each size: the mean loss; loss and gradient. PyTorch runs its function and
its module, forward and backward; JAX runs the loss as a user would write it, under
`jax.jit`, and this library both eagerly and under `jax.jit`. Values are compared
before anything is timed. Times are microseconds, medians of interleaved rounds,
each a mean over enough calls to take about a millisecond.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

import smoothl1 as sl

BETA = 0.7
SIZES = (64, 1000, 16384, 262144, 4194304)


def measure(work, calls, repeats):
    """Median microseconds of each callable, run round by round."""
    times = {name: [] for name in work}
    for _ in range(repeats):
        for name, function in work.items():
            function()
            start = time.perf_counter()
            for _ in range(calls):
                function()
            times[name].append((time.perf_counter() - start) / calls * 1e6)
    return {name: statistics.median(spent) for name, spent in times.items()}


def show(title, n, times, ours, peer):
    listed = ", ".join(f"{name} {spent:.1f}" for name, spent in times.items())
    print(
        f"{title:24s} n={n:<8d} {listed};  {peer}/{ours} {times[peer] / times[ours]:.2f}",
        flush=True,
    )


def torch_cases(n, x, target, calls, repeats):
    import torch

    from smoothl1.torch import SmoothL1Loss

    a, b = torch.from_numpy(x), torch.from_numpy(target)
    leaf = a.clone().requires_grad_()
    function = torch.nn.functional.smooth_l1_loss
    module, theirs = SmoothL1Loss(beta=BETA), torch.nn.SmoothL1Loss(beta=BETA)
    torch.testing.assert_close(module(a, b), theirs(a, b), rtol=1e-5, atol=0)

    def train(loss):
        def step():
            leaf.grad = None
            loss(leaf, b).backward()

        return step

    times = measure(
        {
            "smoothl1": lambda: sl.smooth_l1_loss(a, b, beta=BETA),
            "torch": lambda: function(a, b, beta=BETA),
        },
        calls,
        repeats,
    )
    show("torch loss", n, times, "smoothl1", "torch")
    times = measure(
        {
            "smoothl1": train(lambda x, t: sl.smooth_l1_loss(x, t, beta=BETA)),
            "torch": train(lambda x, t: function(x, t, beta=BETA)),
            "our module": train(module),
            "their module": train(theirs),
        },
        calls,
        repeats,
    )
    show("torch loss + backward", n, times, "smoothl1", "torch")
    show("", n, times, "our module", "their module")


def jax_cases(n, x, target, calls, repeats):
    import jax
    import jax.numpy as jnp

    def plain(x, target):
        size = jnp.abs(x - target)
        return jnp.where(size < BETA, size * size / (2 * BETA), size - BETA / 2).mean()

    def ours(x, target):
        return sl.smooth_l1_loss(x, target, beta=BETA)

    a, b = jnp.asarray(x), jnp.asarray(target)
    np.testing.assert_allclose(ours(a, b), plain(a, b), rtol=1e-5)
    compiled, traced = jax.jit(plain), jax.jit(ours)
    both, traced_both = jax.jit(jax.value_and_grad(plain)), jax.jit(jax.value_and_grad(ours))
    times = measure(
        {
            "eager": lambda: ours(a, b).block_until_ready(),
            "traced": lambda: traced(a, b).block_until_ready(),
            "jax.jit": lambda: compiled(a, b).block_until_ready(),
        },
        calls,
        repeats,
    )
    show("jax loss", n, times, "eager", "jax.jit")
    times = measure(
        {
            "eager": lambda: sl.smooth_l1_value_and_grad(a, b, beta=BETA)[1].block_until_ready(),
            "traced": lambda: traced_both(a, b)[1].block_until_ready(),
            "jax.jit": lambda: both(a, b)[1].block_until_ready(),
        },
        calls,
        repeats,
    )
    show("jax loss + gradient", n, times, "eager", "jax.jit")


def numpy_cases(n, x, target, calls, repeats):
    times = measure(
        {
            "loss": lambda: sl.smooth_l1_loss(x, target, beta=BETA),
            "both": lambda: sl.smooth_l1_value_and_grad(x, target, beta=BETA),
        },
        calls,
        repeats,
    )
    show("numpy", n, times, "loss", "both")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--largest", type=int, default=SIZES[-1])
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    for n in (size for size in SIZES if size <= options.largest):
        x, target = rng.normal(size=(2, n)).astype(np.float32)
        calls = max(1, min(200, 1_000_000 // n))
        for cases in (numpy_cases, torch_cases, jax_cases):
            cases(n, x, target, calls, options.repeats)


if __name__ == "__main__":
    main()

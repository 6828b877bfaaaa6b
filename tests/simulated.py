"""Set-up of numba's simulator of GPUs, which runs every thread as one of Python's.

Blocks are tiny, so that small arrays make ragged grids. The simulator's fused
multiplication and addition rounds twice; here it rounds once, as on a GPU.
"""

import numpy as np
from numba.cuda.simulator.kernelapi import FakeCUDAModule

from smoothl1 import cuda_kernels, cuda_launch, cuda_sums

cuda_kernels.THREADS = 4
cuda_launch.LEAST_BLOCKS = 1
cuda_sums.WARP, cuda_sums.FEW_ROWS, cuda_sums.ROWS_PER_THREAD = 2, 2, 4
cuda_sums.FLAT_CHUNK = 32  # elements: several blocks for a hundred elements


def fma(module, a, b, c):
    """Rounded once where the sum is exact in float64, as that of a product and its rounding is."""
    return np.float32(np.float64(a) * np.float64(b) + np.float64(c))


FakeCUDAModule.fma = fma

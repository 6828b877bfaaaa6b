"""Width of vectors: 512 bits where that pays.

LLVM takes 256 bits on all processors of Intel, since older ones lower their clock for more.
On an Emerald Rapids losses take 5 to 18 % less time with 512 bits in the cache, and up to 5 %
less from memory; the others named here have cores of that family. Bits are the same.
"""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

WIDE = ("sapphirerapids", "emeraldrapids", "graniterapids", "graniterapids-d")
ATTRIBUTE = '"prefer-vector-width"="512"'


@intrinsic
def prefer_wide(typing_context):
    """Have the loops of the function that calls this use the widest vectors."""

    def codegen(context, builder, signature, args):
        _, processor, _ = context.codegen().magic_tuple()
        if processor in WIDE:
            # llvmlite knows the names of other attributes only, and writes this one all the same.
            set.add(builder.function.attributes, ATTRIBUTE)
        return context.get_dummy_value()

    return types.void(), codegen

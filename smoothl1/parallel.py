"""The one parallel loop, which all kernels use.

A kernel with a ``prange`` of its own is compiled three times: alone, for the threads, and
for the caller. Here a kernel that is called with a job puts its arguments in a row on the
stack and gives the loop an address at which it can be called with them, chunk by chunk.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba import prange, types
from numba.core import cgutils
from numba.core.callconv import RETCODE_OK
from numba.extending import intrinsic

from .jit import native
from .memory import view
from .threads import NO_JOB, Chunks

LOOP, CHUNKS, FIRST = range(3)  # words of a job; then first task, last task, done for each chunk


def new_job(chunks: Chunks) -> Any:
    """Words that tell a kernel to run the tasks of some chunks in the parallel loop."""
    kind, words = _prepared(chunks)
    return kind.from_buffer_copy(words)


@lru_cache(maxsize=256)
def _prepared(chunks: Chunks) -> tuple[type[Any], bytes]:
    words = [parallel_loop(), len(chunks)]
    for first, last in chunks:
        words += first, last, False
    kind = ctypes.c_int64 * len(words)
    return kind, bytes(kind(*words))


def undone(job: Any) -> list[int]:
    """Numbers of the chunks that a kernel has not done."""
    done = job[FIRST + 2 :: 3]
    return [chunk for chunk, flag in enumerate(done) if not flag] if 0 in done else []


@native("void(int64, int64, int64)", parallel=True)
def parallel_loop(kernel, arguments, job):
    """Call a kernel for each chunk of a job."""
    chunks = view(job, FIRST, np.int64)[CHUNKS]
    words = view(job, FIRST + 3 * chunks, np.int64)
    for chunk in prange(chunks):
        place = FIRST + 3 * chunk
        words[place + 2] = _call(kernel, arguments, words[place], words[place + 1])


@intrinsic
def _call(typing_context, kernel, arguments, first, last):
    """Call what `runs_in_parallel` gave to the loop; whether it came to its end."""
    word = types.int64

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64)] * 3)
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

    return word(word, word, word, word), codegen


@intrinsic
def runs_in_parallel(typing_context, job):
    """Let the loop run a job by calls of the kernel this stands in; False if there is no job.

    The last three arguments of the kernel are the first and the last task and the job.
    """

    def codegen(context, builder, signature, args):
        has_job = builder.icmp_signed("!=", args[0], args[0].type(NO_JOB))
        with builder.if_then(has_job, likely=False):
            _start_loop(builder, args[0])
        return has_job

    return types.boolean(types.int64), codegen


def _start_loop(builder, job):
    word, kernel = ir.IntType(64), builder.function
    given = kernel.args[2:-3]  # after the places of a result and an error
    row = ir.LiteralStructType([value.type for value in given])
    memory = cgutils.alloca_once(builder, row)
    for i, value in enumerate(given):
        builder.store(value, cgutils.gep_inbounds(builder, memory, 0, i))
    loop = builder.load(builder.inttoptr(job, word.as_pointer()))
    kind = ir.FunctionType(ir.VoidType(), [word] * 3)
    caller = builder.ptrtoint(_caller(kernel, row), word)
    arguments = builder.ptrtoint(memory, word)
    builder.call(builder.inttoptr(loop, kind.as_pointer()), [caller, arguments, job])


def _caller(kernel, row):
    """Function that calls a kernel with arguments that lie in a row, and a range of tasks."""
    word = ir.IntType(64)
    name = f"{kernel.name}.chunk"
    function = ir.Function(kernel.module, ir.FunctionType(word, [word] * 3), name)
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    memory, first, last = function.args
    memory = builder.inttoptr(memory, row.as_pointer())
    places = [cgutils.alloca_once(builder, kind.type.pointee) for kind in kernel.args[:2]]
    given = [
        builder.load(cgutils.gep_inbounds(builder, memory, 0, i)) for i in range(len(row.elements))
    ]
    code = builder.call(kernel, [*places, *given, first, last, word(NO_JOB)])
    done = builder.icmp_signed("==", code, code.type(RETCODE_OK.constant))
    builder.ret(builder.zext(done, word))
    return function

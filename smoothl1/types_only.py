"""A compiler that stops at types, for functions that are always inlined.

numba compiles an overload before it inlines it, only to learn what it returns, and throws the
code away: a sixth of the time of compiling a kernel.
"""

from __future__ import annotations

from numba.core.compiler import CompilerBase, DefaultPassBuilder, compile_result
from numba.core.compiler_machinery import FunctionPass, PassManager, register_pass
from numba.core.typed_passes import NopythonTypeInference
from numba.core.typing import signature


@register_pass(mutates_CFG=False, analysis_only=True)
class _Signature(FunctionPass):
    _name = "signature"

    def __init__(self):
        super().__init__()

    def run_pass(self, state):
        """Make a result that holds a signature and no code."""
        state.cr = compile_result(
            typing_context=state.typingctx,
            target_context=state.targetctx,
            signature=signature(state.return_type, *state.args),
            entry_point=len,  # numba wants something built in; nobody calls it
            objectmode=False,
        )
        return False


class TypesOnly(CompilerBase):
    """From bytecode to the types of arguments and results."""

    def define_pipelines(self):
        """All passes."""
        passes = PassManager("types")
        passes.passes.extend(DefaultPassBuilder.define_untyped_pipeline(self.state).passes)
        passes.add_pass(NopythonTypeInference, "types")
        passes.add_pass(_Signature, "signature")
        passes.finalize()
        return [passes]

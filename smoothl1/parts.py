"""A compiler for functions that only kernels call, which are parts of them.

numba finishes whatever it compiles: each function, with all that it calls, is optimised and
assembled, though a kernel that calls it is optimised again as a whole and needs no machine
code of it. Here parts have none, and are optimised on their own up to those with the
innermost loops: left to the kernel, such loops took up to 1.4 times as long.
"""

from __future__ import annotations

from numba.core.analysis import compute_cfg_from_blocks
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.typed_passes import NativeLowering


class _Part(JITCodeLibrary):
    """Code to be linked into that of kernels."""

    def __init__(self, codegen, name, has_loops):
        super().__init__(codegen, name)
        self._has_loops = has_loops  # also in what it calls, once finalized

    def finalize(self):
        """Take in what it calls."""
        is_outer = False
        for library in dict.fromkeys(self._linking_libraries):
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
            is_outer |= getattr(library, "_has_loops", False)
        self._has_loops |= is_outer
        if not is_outer:
            self._optimize_final_module()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(NativeLowering):
    _name = "part_lowering"

    def run_pass(self, state):
        """Lower a function into a part, known to callers by a callable that is nothing else."""
        loops = compute_cfg_from_blocks(state.func_ir.blocks).loops()
        state.library = _Part(state.targetctx.codegen(), state.func_id.func_qualname, bool(loops))
        state.flags.no_compile = True
        super().run_pass(state)
        key = [].clear  # numba wants something built in; no one calls it
        state.targetctx.insert_user_function(key, state.cr.fndesc, [state.library])
        state.cr = state.cr._replace(cfunc=key)
        return True


class PartCompiler(CompilerBase):
    """From bytecode to code for kernels."""

    def define_pipelines(self):
        """All passes."""
        usual = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes = PassManager("part")
        for one, why in usual.passes:
            passes.add_pass(_PartLowering if one is NativeLowering else one, why)
        passes.finalize()
        return [passes]

"""The jit engine: the three contractions, by programs of generated kernels that are made once and kept."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from preimage.engines import decisions
from preimage.engines.base import (
    Array,
    Chain,
    DType,
    Epilogue,
    Plan,
    apply_epilogue,
    empty_like_order,
    supported_dtype,
)
from preimage.engines.buffers import aligned
from preimage.engines.ir.epilogue import EpilogueSpec
from preimage.engines.jit import branches
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.compiler.kernels import Target
from preimage.engines.jit.conv import autotune
from preimage.engines.jit.conv.recorded import record_call
from preimage.engines.jit.conv.winograd.applies import choose as choose_tiles
from preimage.engines.jit.depthwise.applies import is_depthwise
from preimage.engines.jit.elementwise import JitKernels
from preimage.engines.jit.elementwise.copies import readable
from preimage.engines.jit.index.partition import Band, bands_within, cut, images_at_once
from preimage.engines.jit.products import JitProducts
from preimage.engines.jit.products.integers import JitIntegers
from preimage.engines.jit.products.recurrent import run_directions
from preimage.engines.jit.program import Program
from preimage.engines.jit.request import (
    ELEMENTS,
    SMALL_MACS,
    ConvRequest,
    Request,
    WeightGradRequest,
    dense_strides,
    is_little,
    is_readable,
    little_work,
)
from preimage.engines.jit.runtime.bound_call import Bound, Ready, call_key, epilogue_arrays, example_result, finish_of, lies_like
from preimage.engines.jit.runtime.kept_programs import PROGRAMS, KeptPrograms
from preimage.engines.jit.runtime.link import LinkedProgram, address_of, link
from preimage.engines.jit.runtime.program_call import WarmCall
from preimage.engines.jit.runtime.replay import ReplaySteps
from preimage.engines.jit.runtime.scratch import Scratch
from preimage.engines.jit.select import LARGE_KERNEL, considered, lower, planned_decisions, unreachable_decisions
from preimage.engines.jit.weight_grad.call import WeightGradients, node_bytes, request_for_shapes
from preimage.engines.prepared import PreparedWeight
from preimage.engines.recording import Fixed, apart, state
from preimage.geometry import ConvGeometry
from preimage.settings import current, thread_count

__all__ = ["JitEngine"]

MOST_PHASES = 1 << 12  # each has its own list of taps, written in Python
Weight = Array | PreparedWeight


class JitEngine:
    """Kernels generated for this CPU; the same bits for any batch, thread count, layout and tile."""

    name = "jit"
    takes_prepared = True
    kernels = JitKernels()
    products = JitProducts()
    integers = JitIntegers()
    recurrent = staticmethod(run_directions)  #: recurrent layers, all steps in one call
    replay = ReplaySteps.recorded  #: recorded steps, made ready to run again
    promises = ("repeat", "batch", "threads", "layout", "tiling", "cpu")

    def __init__(self, tile: tuple[int, int, int] | None = None, tuned: bool = True) -> None:
        """tile: (lanes, vectors, pixels) of the dense schedule instead of the planned one; tuned: tiles that were measured
        (`tuning`) are used. For tests and measurements.
        """
        self._tile, self._tuned = tile, tuned
        self._programs = KeptPrograms()
        self._ready: decisions.Shortcuts[tuple[Any, ...], Ready] = decisions.Shortcuts(PROGRAMS)
        self._scratch = Scratch()
        self._weight_gradient = WeightGradients(self._linked, self._scratch)

    def unavailable(self) -> str | None:
        return kernels.unavailable()

    def supports(self, geometry: ConvGeometry, contraction: str, dtype: DType) -> str | None:
        if not supported_dtype(dtype):
            return f"dtype {dtype} is not one of float32, float64, float16, bfloat16"
        if geometry.is_empty:
            return None  # nothing is planned
        phases = prod(min(s, n) for s, n in zip(geometry.stride, geometry.input_size, strict=True))
        if contraction == "conv_transpose" and phases > MOST_PHASES:
            return f"strides {geometry.stride} make {phases:,} stride phases, most of them without taps; at most {MOST_PHASES:,} are planned"
        if contraction != "conv_weight_grad" and prod(geometry.kernel_size) >= LARGE_KERNEL:
            return self._too_large(geometry, contraction, dtype)
        return None

    def _too_large(self, geometry: ConvGeometry, contraction: str, dtype: DType) -> str | None:
        """Why no strategy takes a kernel of many taps, in one of the memory orders."""
        both = [considered(self.request(geometry, contraction, dtype, last)) for last in (False, True)]
        return next((refused["direct"] for found, refused in both if not found), None)

    def conv(self, geometry: ConvGeometry, x: Array, w: Weight, epilogue: Epilogue | None = None) -> Array:
        return self._gather(geometry, "conv", x, w, epilogue)

    def conv_transpose(self, geometry: ConvGeometry, y: Array, w: Weight, epilogue: Epilogue | None = None) -> Array:
        return self._gather(geometry, "conv_transpose", y, w, epilogue)

    def _gather(self, geometry: ConvGeometry, contraction: str, x: Array, w: Weight, epilogue: Epilogue | None) -> Array:
        settings = current()
        threads = settings.threads or thread_count(settings)
        key = call_key(geometry, contraction, x, w, epilogue, settings, threads)
        ready = self._ready.get(key)
        if ready is not None and ready.geometry is geometry:
            return self._run_ready(ready, ready.empty(), x, w, epilogue)
        shape = geometry.output_shape if contraction == "conv" else geometry.input_shape
        out = empty_like_order(shape, x)
        if out.size == 0:
            branches.call("empty.result")
            return out
        if x.size == 0 or w.shape[0] * w.shape[1] == 0:
            branches.call("empty.input")
            return _sums_of_nothing(out, w if x.size == 0 and contraction == "conv" else None, epilogue)
        straight = readable(x)
        if straight is not x:
            branches.call("input.copied")
        moved = epilogue is not None and epilogue.residual is not None and not lies_like(epilogue.residual, out)
        if moved:
            branches.call("residual.copied")
            assert epilogue is not None
            assert epilogue.residual is not None
            same = np.empty_like(out)
            same[...] = epilogue.residual
            epilogue = replace(epilogue, residual=same)
        ready = self._into(geometry, contraction, straight, w, epilogue, out, threads)
        if ready is not None and not moved and straight.strides == x.strides:
            self._ready.keep(key, ready)
        return out

    def _request(
        self, g: ConvGeometry, contraction: str, dtype: DType, given: tuple[int, ...], result: tuple[int, ...], finish: EpilogueSpec,
        threads: int, prepared: bool,
    ) -> ConvRequest:  # fmt: skip
        """given, result: the strides of the input and of the result."""
        return ConvRequest(
            geometry=g, contraction=contraction, element=ELEMENTS[dtype.name], in_strides=given, out_strides=result, finish=finish,
            threads=threads if g.inside_macs > SMALL_MACS else 1, every_tap=False, single=False, prepared=prepared,
            target=kernels.current_target(), little=self._tile is None and is_little(g), fast=current().accuracy == "fast",
            tile=self._tile,
        )  # fmt: skip

    def _into(
        self, g: ConvGeometry, contraction: str, x: Array, w: Weight, epilogue: Epilogue | None, out: Array, threads: int
    ) -> Ready | None:  # fmt: skip
        """Fill `out`; in bands where scratch memory or tables would pass a limit. What was made for the call, if it was one."""
        images = images_at_once(g, contraction)
        if images < g.batch:
            branches.call("partition.tables")
            self._by_bands(cut(g, contraction, -(-g.batch // images)), contraction, x, w, epilogue, out, threads)
            return None
        prepared = type(w) is PreparedWeight
        request = self._request(g, contraction, x.dtype, x.strides, out.strides, finish_of(epilogue), threads, prepared)
        linked = self._linked(request)
        bands = bands_within(linked.program.scratch_bytes, g, contraction)
        if bands is not None:
            self._by_bands(bands, contraction, x, w, epilogue, out, threads)
            return None
        decisions.report(linked.program.decisions)
        ready = Ready(request, linked, out, request.threads, self._scratch)
        self._run_ready(ready, out, x, w, epilogue)
        return ready

    def bind(
        self, geometry: ConvGeometry, contraction: str, x: Array, w: PreparedWeight, epilogue: Epilogue | None = None,
        chain: Chain | None = None, channels_last: bool = False,
    ) -> Bound | None:  # fmt: skip
        """The call for arrays that lie in memory as x does (and as the epilogue's residual), ready to be made again and again;
        `chain`: steps after the epilogue, before the result is stored. channels_last: the result is laid out so, however x is.

        None where a call needs more than its kernels: copies, bands, an empty array. The settings of now are part of it.
        """
        shape = geometry.output_shape if contraction == "conv" else geometry.input_shape
        out = example_result(shape, x, channels_last)
        residual = None if epilogue is None else epilogue.residual
        if not out.size or not x.size or not w.array.size or not is_readable(x):
            return None
        if residual is not None and not lies_like(residual, out):
            return None
        if images_at_once(geometry, contraction) < geometry.batch:
            return None
        w = w.fixed()
        finish = finish_of(epilogue, chain)
        request = self._request(geometry, contraction, x.dtype, x.strides, out.strides, finish, thread_count(), True)
        linked = self._linked(request)
        if bands_within(linked.program.scratch_bytes, geometry, contraction) is not None:
            return None
        memory, finite = self._packed(w, linked.program)
        if linked.skips_padding and not finite:
            request, linked = self._for_all_weights(request)
            memory, _ = self._packed(w, linked.program)
        decisions.report(linked.program.decisions)
        arrays = epilogue_arrays(epilogue, out.dtype, linked.bias_repeat, chain)
        arrays.pop("residual", None)
        return Bound(Ready(request, linked, out, request.threads, self._scratch), memory, arrays)

    def warm(
        self, geometry: ConvGeometry, contraction: str, x: Array, w: Weight, epilogue: Epilogue | None, channels_last: bool
    ) -> WarmCall | None:
        """Calls like one that was made under these settings, and that skip all that it found out; None where there are none.

        channels_last: their result has its channels in the last axis.
        """
        settings = current()
        threads = settings.threads or thread_count(settings)
        if contraction == "conv_weight_grad":
            assert isinstance(w, np.ndarray)
            return self._weight_gradient.warm(geometry, x, w, threads)
        bias = None if epilogue is None else epilogue.bias
        ready = self._ready.get(call_key(geometry, contraction, x, w, epilogue, settings, threads))
        if ready is None or ready.geometry is not geometry or not (isinstance(w, PreparedWeight) or w.flags.c_contiguous):
            return None
        if bias is not None and (ready.linked.bias_repeat != 1 or bias.dtype != x.dtype or not bias.flags.c_contiguous):
            return None
        return ready.warm(channels_last)

    def _by_bands(
        self, bands: list[Band] | None, contraction: str, x: Array, w: Weight, epilogue: Epilogue | None, out: Array, threads: int
    ) -> None:  # fmt: skip
        assert bands is not None
        for part, read, written in bands:
            own = epilogue
            if epilogue is not None and epilogue.residual is not None:
                own = replace(epilogue, residual=epilogue.residual[written])
            self._into(part, contraction, x[read], w, own, out[written], threads)

    def _run_ready(self, ready: Ready, out: Array, x: Array, w: Weight, epilogue: Epilogue | None) -> Array:
        """Run a program on arrays of the strides that it was made for."""
        if (here := state.recorder) is not None:
            fixed = Fixed(self._packed(w, ready.linked.program)[0]) if type(w) is PreparedWeight else None
            record_call(here, ready, out, x, w, fixed, epilogue)
            return out
        linked, finite = ready.linked, True
        more = _NOTHING if epilogue is None else epilogue_arrays(epilogue, ready.dtype, linked.bias_repeat)
        if type(w) is PreparedWeight:
            weights, finite = self._packed(w, linked.program)
        else:
            assert not isinstance(w, PreparedWeight)
            if not w.flags.c_contiguous:
                branches.call("weights.copied")
                w = np.ascontiguousarray(w)
            weights = w
        flagged = ready.run(x, weights, out, more)
        if linked.skips_padding and (flagged or not finite):
            request, linked = self._for_all_weights(ready.request)
            self._run_ready(Ready(request, linked, out, request.threads, self._scratch), out, x, w, epilogue)
        return out

    def for_all_weights(self, request: ConvRequest) -> ConvRequest:
        """The request of a call whose weights are not finite: in a conv taps over the padding count; a transpose multiplies no zero."""
        forward = request.contraction == "conv"
        branches.call("exact.every_tap" if forward else "exact.single_positions")
        return replace(request, every_tap=forward, single=not forward)

    def _for_all_weights(self, request: ConvRequest) -> tuple[ConvRequest, LinkedProgram]:
        again = self.for_all_weights(request)
        linked = self._linked(again)
        decisions.report(linked.program.decisions)
        assert linked.bias_repeat == 1, "such a program has no folded phases"
        return again, linked

    def _packed(self, w: PreparedWeight, program: Program) -> tuple[Array, bool]:
        """The weights as a program wants them, and whether all are finite."""
        array, forms = w.state
        found = forms.get(program.packed_key)
        if found is None:
            assert program.packing is not None
            memory, flag = aligned(program.packed_bytes), np.zeros(1, np.int64)
            once = link(Program("packing", (program.packing,)), 1)
            with apart():
                once.run({"w": address_of(array), "packed": address_of(memory), "flag": address_of(flag)}, 1)
            found = forms[program.packed_key] = (memory, not flag[0])
        return found

    def _linked(self, request: Request) -> LinkedProgram:
        linked = self._programs.get(request)
        if linked is None:
            linked = link(self.lower(request), request.threads)
            self._programs.keep(request, linked)
        return linked

    def lower(self, request: Request) -> Program:
        """The program of a request, with the tile that was measured for it, if one was. Compiles nothing."""
        if isinstance(request, ConvRequest) and self._tuned and request.tile is None and not request.single:
            tile = None if is_depthwise(request) else autotune.tile_for(request)
            if tile is not None:
                program = lower(replace(request, tile=tile, little=False))
                program.details["tile"] += ", tuned"
                return program
        return lower(request)

    def forget(self) -> None:
        """Drop every program and every call that was made ready."""
        self._programs.forget()

    def conv_weight_grad(self, geometry: ConvGeometry, x: Array, y: Array) -> Array:
        settings = current()
        return self._weight_gradient(geometry, x, y, settings.threads or thread_count(settings))

    def audit_variants(self, promise: str) -> list[tuple[str, Any]]:
        """Schedules that the audit compares with the one that is taken: those of large work, for work of any size."""
        return [("schedules of large work", lambda: little_work(0))] if promise == "schedules" else []

    def unreachable_decisions(self) -> dict[str, str]:
        """Declared decisions that no call can take on this machine, and why: what a report of coverage need not ask for."""
        return unreachable_decisions(kernels.current_target())

    def request(self, geometry: ConvGeometry, contraction: str, dtype: DType, channels_last: bool = False) -> Request:
        """What a call on dense arrays of a layout asks for, of so many images as one plan is made for."""
        item = dtype.itemsize
        if contraction == "conv_weight_grad":
            return request_for_shapes(geometry, ELEMENTS[dtype.name], item, channels_last, thread_count())
        images = images_at_once(geometry, contraction)
        part = geometry if images == geometry.batch else replace(geometry, batch=images)
        shapes = (part.input_shape, part.output_shape)[:: 1 if contraction == "conv" else -1]
        x, out = (dense_strides(s, item, channels_last) for s in shapes)
        return self._request(part, contraction, dtype, x, out, EpilogueSpec(), thread_count(), False)

    def program(
        self, geometry: ConvGeometry, contraction: str, dtype: DType, channels_last: bool = False,
        target: Target | str | None = None,
    ) -> Program:  # fmt: skip
        """The program of a call on dense arrays. Nothing is compiled or loaded, and the target need not be this machine."""
        request = self.request(geometry, contraction, dtype, channels_last)
        if target is not None:
            request = replace(request, target=kernels.named_target(target) if isinstance(target, str) else target)
        return self.lower(request)

    planned_decisions = planned_decisions

    def error_bound(self, geometry: ConvGeometry, contraction: str, dtype: DType) -> float | None:
        """c, where accuracy="fast" lets no result be off by more than c |a|_2 |b|_1 (`InexactEngine`); None where the exact order is taken."""
        choice = choose_tiles(geometry, contraction, ELEMENTS[dtype.name])
        if isinstance(choice, str):
            return None
        return choice.error * (2.0**-53 if dtype.itemsize == 8 else 2.0**-24)

    def plan(self, geometry: ConvGeometry, contraction: str, dtype: DType, channels_last: bool = False) -> Plan:
        threads, item = thread_count(), dtype.itemsize
        request = self.request(geometry, contraction, dtype, channels_last)
        images, program = request.geometry.batch, self.lower(request)
        details, workspace = dict(program.details), program.workspace_bytes
        if isinstance(request, WeightGradRequest) and geometry.batch:
            workspace += node_bytes(request, geometry.batch, dtype, workspace)
        if images < geometry.batch:
            details["images"] = f"{images} at a time, of {geometry.batch}"
        return Plan(
            self.name, contraction, program.algorithm, geometry, dtype.name, geometry.work_flop, geometry.array_bytes(item),
            workspace, threads, self.promises, details, program.refused, program.decisions,
        )  # fmt: skip


def _sums_of_nothing(out: Array, w: Weight | None, epilogue: Epilogue | None) -> Array:
    """`out` where no input meets any weight. w: weights whose taps all lie on padding, whose zeros take part: 0 * inf is NaN."""
    out[...] = 0
    with np.errstate(all="ignore"):
        if w is not None:
            weights = w.array if isinstance(w, PreparedWeight) else w
            zeros = (weights * weights.dtype.type(0)).sum(axis=tuple(range(1, weights.ndim)))
            out += zeros.reshape(-1, *[1] * (out.ndim - 2))
        return apply_epilogue(out, epilogue)


#: Arrays of no epilogue.
_NOTHING: dict[str, Array] = {}

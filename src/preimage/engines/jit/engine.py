"""The jit engine: the three contractions, by recipes of generated kernels that are made once and kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import numpy as np

from preimage.engines.base import (
    Array,
    DType,
    Epilogue,
    Plan,
    aligned_empty,
    apply_epilogue,
    empty_like_order,
    supported_dtype,
)
from preimage.engines.jit import llvm, weight_grad
from preimage.engines.jit.bands import halves
from preimage.engines.jit.dense import dense_recipe
from preimage.engines.jit.depthwise import depthwise_recipe, is_depthwise
from preimage.engines.jit.locks import ForkLock
from preimage.engines.jit.recipe import ALIGN, Recipe, address_of
from preimage.engines.jit.request import Request
from preimage.engines.jit.schedules.epilogue import Finish
from preimage.engines.prepared import PreparedWeight
from preimage.geometry import ConvGeometry
from preimage.settings import current, thread_count

__all__ = ["JitEngine"]

ELEMENTS = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16"}
RECIPES = 2048  # kept at most; the least recently used go first
SMALL_MACS = 500_000  # less work than this is not worth handing out
Weight = Array | PreparedWeight
_NO_EPILOGUE = {"bias": 0, "residual": 0, "limits": 0}


class _Scratch(threading.local):
    """One thread's workspace, kept between calls. Its first bytes are the word in which packing says "not finite"."""

    memory: Any = None
    address = 0
    size = 0
    flag: Any = None

    def take(self, size: int) -> int:
        if size + ALIGN > self.size:
            self.memory = np.empty(size + 2 * ALIGN, np.uint8)
            start = -self.memory.ctypes.data % ALIGN
            self.address, self.size = self.memory.ctypes.data + start, size + ALIGN
            self.flag = self.memory[start : start + 8].view(np.int64)
        self.flag[0] = 0
        return self.address


class _Ready:
    """What a call needs once its recipe is known: the shape of the result in memory, and where the scratch lies."""

    __slots__ = ("axes", "buffers", "dtype", "geometry", "recipe", "request", "shape", "size", "threads")

    def __init__(self, request: Request, recipe: Recipe, out: Array, n_threads: int) -> None:
        self.request, self.recipe, self.geometry, self.threads = request, recipe, request.geometry, n_threads
        self.dtype, self.size = out.dtype, recipe.workspace_bytes
        last = not out.flags.c_contiguous
        self.shape = (out.shape[0], *out.shape[2:], out.shape[1]) if last else out.shape
        self.axes = (0, out.ndim - 1, *range(1, out.ndim - 1)) if last else None
        at, self.buffers = ALIGN, {}
        for buffer in recipe.buffers:
            self.buffers[buffer.name] = at
            at += -(-buffer.size // ALIGN) * ALIGN

    def empty(self) -> Array:
        memory = aligned_empty(self.shape, self.dtype)
        return memory if self.axes is None else memory.transpose(self.axes)


class JitEngine:
    """Kernels generated for this CPU; the same bits for any batch, thread count, layout and tile."""

    name = "jit"
    takes_prepared = True
    promises = ("repeat", "batch", "threads", "layout", "tiling", "cpu")

    def __init__(self, tile: tuple[int, int, int] | None = None) -> None:
        """tile: (lanes, vectors, pixels) of the dense schedule instead of the planned one; for tests and measurements."""
        self._tile = tile
        self._recipes: OrderedDict[Request, Recipe] = OrderedDict()
        self._lock = ForkLock()
        self._ready: dict[tuple[Any, ...], _Ready] = {}
        self._scratch = _Scratch()

    def unavailable(self) -> str | None:
        return llvm.unavailable()

    def supports(self, geometry: ConvGeometry, contraction: str, dtype: DType) -> str | None:
        if not supported_dtype(dtype):
            return f"dtype {dtype} is not one of float32, float64, float16, bfloat16"
        return None

    def conv(self, geometry: ConvGeometry, x: Array, w: Weight, epilogue: Epilogue | None = None) -> Array:
        return self._gather(geometry, "conv", x, w, epilogue)

    def conv_transpose(self, geometry: ConvGeometry, y: Array, w: Weight, epilogue: Epilogue | None = None) -> Array:
        return self._gather(geometry, "conv_transpose", y, w, epilogue)

    def _gather(self, geometry: ConvGeometry, contraction: str, x: Array, w: Weight, epilogue: Epilogue | None) -> Array:
        threads = thread_count()
        if epilogue is None:
            key = (
                id(geometry), contraction, x.strides, x.dtype.num, threads, type(w) is PreparedWeight, id(llvm.current_target()),
                current().workspace_bytes,
            )  # fmt: skip
            ready = self._ready.get(key)
            if ready is not None and ready.geometry is geometry:
                return self._run_ready(ready, ready.empty(), x, w, _NO_EPILOGUE)
        shape = geometry.output_shape if contraction == "conv" else geometry.input_shape
        out = empty_like_order(shape, x)
        if out.size == 0:
            return out
        if x.size == 0 or w.shape[0] * w.shape[1] == 0:
            out[...] = 0
            if x.size == 0 and contraction == "conv":  # every tap lies on padding, whose zeros take part: 0 * inf is NaN
                weights = w.array if isinstance(w, PreparedWeight) else w
                with np.errstate(invalid="ignore"):
                    zeros = (weights * weights.dtype.type(0)).sum(axis=tuple(range(1, weights.ndim)))
                out += zeros.reshape(-1, *[1] * geometry.ndim)
            return apply_epilogue(out, epilogue)
        x = _readable(x)
        if epilogue is not None and epilogue.residual is not None:
            epilogue = replace(epilogue, residual=_placed_like(epilogue.residual, out))
        ready = self._into(geometry, contraction, x, w, epilogue, out, threads)
        if ready is not None and epilogue is None and x.strides == key[2]:
            self._keep(key, ready)
        return out

    def _into(
        self, g: ConvGeometry, contraction: str, x: Array, w: Weight, epilogue: Epilogue | None, out: Array, threads: int
    ) -> _Ready | None:  # fmt: skip
        """Fill `out`; in bands where the scratch memory would pass the limit. What was made for the call, if it was one."""
        finish, addresses, keep = _finish(out, epilogue)
        request = Request(
            g, contraction, ELEMENTS[x.dtype.name], x.strides, out.strides, finish,
            threads if g.inside_macs > SMALL_MACS else 1, False, False, type(w) is PreparedWeight, llvm.current_target(), self._tile,
        )  # fmt: skip
        recipe = self._recipe(request)
        activations = sum(buffer.size for buffer in recipe.buffers if buffer.name != "packed")
        bands = halves(g, contraction) if activations > current().workspace_bytes else None
        if bands is not None:
            for part, read, written in bands:
                cut = epilogue
                if epilogue is not None and epilogue.residual is not None:
                    cut = replace(epilogue, residual=epilogue.residual[written])
                self._into(part, contraction, x[read], w, cut, out[written], threads)
            return None
        ready = _Ready(request, recipe, out, request.threads)
        if recipe.bias_repeat > 1 and finish.bias:
            assert epilogue is not None
            assert epilogue.bias is not None
            bias = np.tile(epilogue.bias.astype(out.dtype), recipe.bias_repeat)
            addresses["bias"] = address_of(bias)
            keep.append(bias)
        self._run_ready(ready, out, x, w, addresses)
        del keep
        return ready

    def _run_ready(self, ready: _Ready, out: Array, x: Array, w: Weight, extra: dict[str, int]) -> Array:
        """Run a recipe on arrays of the strides that it was made for."""
        recipe, scratch = ready.recipe, self._scratch
        base = scratch.take(ready.size + ALIGN)
        addresses = {name: base + at for name, at in ready.buffers.items()}
        addresses["x"] = address_of(x)
        addresses["out"] = address_of(out)
        addresses.update(extra)
        finite = True
        if type(w) is PreparedWeight:
            packed, finite = self._packed(w, recipe, base)
            addresses["packed"] = packed
        else:
            assert not isinstance(w, PreparedWeight)
            if not w.flags.c_contiguous:
                w = np.ascontiguousarray(w)
            addresses["w"] = address_of(w)
            addresses["flag"] = base
        recipe.run(addresses, ready.threads)
        if recipe.skips_padding and (not finite or scratch.flag[0]):
            self._run_exactly(ready.request, out, x, w, extra)
        return out

    def _run_exactly(self, request: Request, out: Array, x: Array, w: Weight, extra: dict[str, int]) -> None:
        """Again, for weights that are not finite: in a conv taps over the padding count; a transpose multiplies no zero."""
        forward = request.contraction == "conv"
        exact = replace(request, every_tap=forward, single=not forward)
        recipe = self._recipe(exact)
        if recipe.bias_repeat != 1 or request.geometry != exact.geometry:
            raise AssertionError("an exact recipe has no folded phases")
        self._run_ready(_Ready(exact, recipe, out, exact.threads), out, x, w, extra)

    def _packed(self, w: PreparedWeight, recipe: Recipe, flag: int) -> tuple[int, bool]:
        array, forms = w.state
        found = forms.get(recipe.packed_key)
        if found is None:
            assert recipe.packing is not None
            memory = np.empty(recipe.packed_bytes + ALIGN, np.uint8)
            start = -memory.ctypes.data % ALIGN
            memory = memory[start : start + recipe.packed_bytes]
            once = Recipe("packing", [recipe.packing])
            once.run({"w": array.ctypes.data, "packed": memory.ctypes.data, "flag": flag}, 1)
            found = (memory, not self._scratch.flag[0])
            forms[recipe.packed_key] = found
        return found[0].ctypes.data, found[1]

    def _run(self, recipe: Recipe, addresses: dict[str, int], n_threads: int) -> None:
        at = self._scratch.take(recipe.workspace_bytes + ALIGN) + ALIGN
        for buffer in recipe.buffers:
            addresses[buffer.name] = at
            at += -(-buffer.size // ALIGN) * ALIGN
        recipe.run(addresses, n_threads)

    def _recipe(self, request: Request) -> Recipe:
        recipe = self._recipes.get(request)
        if recipe is None:
            recipe = depthwise_recipe(request) if is_depthwise(request) else dense_recipe(request)
            self._keep_recipe(request, recipe)
        return recipe

    def _keep_recipe(self, request: Request, recipe: Recipe) -> None:
        with self._lock:
            self._recipes[request] = recipe
            while len(self._recipes) > RECIPES:
                self._recipes.popitem(last=False)

    def _keep(self, key: tuple[Any, ...], ready: _Ready) -> None:
        with self._lock:
            if len(self._ready) >= RECIPES:
                self._ready.clear()
            self._ready[key] = ready

    def conv_weight_grad(self, geometry: ConvGeometry, x: Array, y: Array) -> Array:
        return weight_grad.conv_weight_grad(geometry, x, y, thread_count(), self._run)

    def plan(self, geometry: ConvGeometry, contraction: str, dtype: DType, channels_last: bool = False) -> Plan:
        forward, threads = contraction == "conv", thread_count()
        element, item = ELEMENTS[dtype.name], dtype.itemsize
        if contraction == "conv_weight_grad":
            recipe = weight_grad.recipe_for_shapes(geometry, element, item, channels_last, threads)
        else:
            shapes = (geometry.input_shape, geometry.output_shape)
            x, out = (_strides(s, item, channels_last) for s in (shapes if forward else shapes[::-1]))
            recipe = self._recipe(
                Request(geometry, contraction, element, x, out, Finish(), threads, False, False, False, llvm.current_target())
            )
        return Plan(
            self.name, contraction, recipe.algorithm, geometry, dtype.name, geometry.work_flop, geometry.array_bytes(item),
            recipe.workspace_bytes, threads, self.promises, recipe.details, recipe.refused,
        )  # fmt: skip


def _strides(shape: tuple[int, ...], item: int, channels_last: bool) -> tuple[int, ...]:
    array = (
        empty_like_order(shape, np.moveaxis(np.empty((0, 2, 2, 2), np.uint8), -1, 1))
        if channels_last
        else np.empty(shape, np.uint8)
    )
    return tuple(s * item for s in array.strides)


def _readable(x: Array) -> Array:
    """x itself if its channels or its last axis lie contiguously, else a copy in C order."""
    item, shape, strides = x.itemsize, x.shape, x.strides
    if len(shape) > 2:
        if shape[1] == 1 or strides[1] == item:
            if shape[-1] == 1 or strides[-1] == shape[1] * item:
                return x
        elif strides[-1] == item:
            return x
    return np.ascontiguousarray(x)


def _placed_like(residual: Array, out: Array) -> Array:
    """The residual as it is read: where the result is written."""
    if residual.strides == out.strides and residual.dtype == out.dtype:
        return residual
    same = np.empty_like(out)
    same[...] = residual
    return same


def _finish(out: Array, epilogue: Epilogue | None) -> tuple[Finish, dict[str, int], list[Any]]:
    """What the epilogue's code must do, the addresses of its arrays, and the arrays (to be kept alive)."""
    addresses = {"bias": 0, "residual": 0, "limits": 0}
    if epilogue is None:
        return Finish(), addresses, []
    keep: list[Any] = []
    if epilogue.bias is not None:
        bias = np.ascontiguousarray(epilogue.bias, out.dtype)
        addresses["bias"] = bias.ctypes.data
        keep.append(bias)
    if epilogue.residual is not None:
        addresses["residual"] = address_of(epilogue.residual)
        keep.append(epilogue.residual)
    if epilogue.activation in ("leaky_relu", "clip"):
        pair = (epilogue.slope, 0.0) if epilogue.activation == "leaky_relu" else (epilogue.lo, epilogue.hi)
        limits = np.array(pair, np.float64 if out.dtype == np.float64 else np.float32)
        addresses["limits"] = limits.ctypes.data
        keep.append(limits)
    return Finish(epilogue.bias is not None, epilogue.residual is not None, epilogue.activation), addresses, keep

"""The jit engine: the three contractions, by recipes of generated kernels that are made once and kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from preimage.engines.base import Array, DType, Epilogue, Plan, apply_epilogue, empty_like_order, supported_dtype
from preimage.engines.jit import llvm, weight_grad
from preimage.engines.jit.dense import Request, dense_recipe
from preimage.engines.jit.depthwise import depthwise_recipe, is_depthwise
from preimage.engines.jit.recipe import ALIGN, Recipe
from preimage.engines.jit.schedules.epilogue import Finish
from preimage.geometry import ConvGeometry
from preimage.settings import thread_count

__all__ = ["JitEngine"]

ELEMENTS = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16"}
RECIPES = 2048  # kept at most; the least recently used go first


class _Scratch(threading.local):
    """One thread's workspace, kept between calls."""

    memory: Any = None

    def take(self, size: int) -> int:
        if self.memory is None or len(self.memory) < size:
            self.memory = np.empty(size, np.uint8)
        address = int(self.memory.ctypes.data)
        return -(-address // ALIGN) * ALIGN


class JitEngine:
    """Kernels generated for this CPU; the same bits for any batch, thread count, layout and tile."""

    name = "jit"
    promises = ("repeat", "batch", "threads", "layout", "tiling", "cpu")

    def __init__(self) -> None:
        self._recipes: OrderedDict[Request, Recipe] = OrderedDict()
        self._lock = threading.Lock()
        self._scratch = _Scratch()

    def unavailable(self) -> str | None:
        return llvm.unavailable()

    def supports(self, geometry: ConvGeometry, contraction: str, dtype: DType) -> str | None:
        if not supported_dtype(dtype):
            return f"dtype {dtype} is not one of float32, float64, float16, bfloat16"
        return None

    def conv(self, geometry: ConvGeometry, x: Array, w: Array, epilogue: Epilogue | None = None) -> Array:
        return self._gather(geometry, "conv", geometry.output_shape, x, w, epilogue)

    def conv_transpose(self, geometry: ConvGeometry, y: Array, w: Array, epilogue: Epilogue | None = None) -> Array:
        return self._gather(geometry, "conv_transpose", geometry.input_shape, y, w, epilogue)

    def _gather(
        self, geometry: ConvGeometry, contraction: str, shape: tuple[int, ...], x: Array, w: Array, epilogue: Epilogue | None
    ) -> Array:
        out = empty_like_order(shape, x)
        if out.size == 0:
            return out
        if x.size == 0 or w.size == 0:
            out[...] = 0
            return apply_epilogue(out, epilogue)
        x, w = _readable(x), np.ascontiguousarray(w)
        finish, addresses, keep = _finish(out, epilogue)
        request = Request(
            geometry, contraction, ELEMENTS[x.dtype.name], x.strides, out.strides, finish, thread_count(), False, False
        )
        recipe = self._recipe(request)
        if recipe.bias_repeat > 1 and finish.bias:
            assert epilogue is not None and epilogue.bias is not None
            bias = np.tile(epilogue.bias.astype(out.dtype), recipe.bias_repeat)
            addresses["bias"] = bias.ctypes.data
            keep.append(bias)
        flag = np.zeros(1, np.int64)
        addresses.update(x=x.ctypes.data, w=w.ctypes.data, out=out.ctypes.data, flag=flag.ctypes.data)
        self._run(recipe, addresses, request.threads)
        if flag[0] and recipe.skips_padding:  # weights that are not finite: taps over the padding count
            forward = contraction == "conv"
            exact = Request(
                geometry, contraction, request.element, x.strides, out.strides, finish, request.threads, forward, not forward
            )
            self._run(self._recipe(exact), addresses, request.threads)
        del keep
        return out

    def _run(self, recipe: Recipe, addresses: dict[str, int], n_threads: int) -> None:
        at = self._scratch.take(recipe.workspace_bytes)
        for buffer in recipe.buffers:
            addresses[buffer.name] = at
            at += -(-buffer.size // ALIGN) * ALIGN
        recipe.run(addresses, n_threads)

    def _recipe(self, request: Request) -> Recipe:
        recipe = self._recipes.get(request)
        if recipe is None:
            recipe = depthwise_recipe(request) if is_depthwise(request) else dense_recipe(request)
            with self._lock:
                self._recipes[request] = recipe
                while len(self._recipes) > RECIPES:
                    self._recipes.popitem(last=False)
        return recipe

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
            recipe = self._recipe(Request(geometry, contraction, element, x, out, Finish(), threads, False, False))
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
    if shape[1] == 1 or strides[1] == item:
        line = shape[1] * item
        if len(shape) == 2 or shape[-1] == 1 or strides[-1] == line:
            return x
    elif len(shape) == 2 or strides[-1] == item:
        return x
    return np.ascontiguousarray(x)


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
        residual = epilogue.residual
        if residual.strides != out.strides or residual.dtype != out.dtype:
            residual = np.empty_like(out)
            residual[...] = epilogue.residual
        addresses["residual"] = residual.ctypes.data
        keep.append(residual)
    if epilogue.activation in ("leaky_relu", "clip"):
        pair = (epilogue.slope, 0.0) if epilogue.activation == "leaky_relu" else (epilogue.lo, epilogue.hi)
        limits = np.array(pair, np.float64 if out.dtype == np.float64 else np.float32)
        addresses["limits"] = limits.ctypes.data
        keep.append(limits)
    return Finish(epilogue.bias is not None, epilogue.residual is not None, epilogue.activation), addresses, keep

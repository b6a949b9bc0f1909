"""The engine `cuda`: the three contractions on an NVIDIA GPU, or in its simulator, with the bits of the contract (docs/contract.md)."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from preimage.engines.base import (
    Array,
    DType,
    Epilogue,
    Plan,
    accumulator_dtype,
    apply_epilogue,
    empty_like_order,
    is_channels_last,
    supported_dtype,
)
from preimage.engines.cuda.arrays import arrays_for
from preimage.engines.cuda.constants import Constants
from preimage.engines.cuda.device import Arrays, Device, Operand
from preimage.engines.cuda.devices import device_of
from preimage.engines.cuda.devices import unavailable as device_unavailable
from preimage.engines.cuda.elementwise import DeviceKernels
from preimage.engines.cuda.products import DeviceProducts
from preimage.engines.cuda.schedules.gather import Gather, PackedWeight, gather_plan, pack, run_gather
from preimage.engines.cuda.schedules.weights import run_weights, weight_plan
from preimage.engines.cuda.tensor_cores import properties_for
from preimage.engines.prepared import PreparedWeight
from preimage.geometry import ConvGeometry
from preimage.settings import current

__all__ = ["CudaEngine"]

#: Stride phases of a transpose at most: each has its own list of taps, written in Python.
MOST_PHASES = 1 << 12


class CudaEngine:
    """device: one that is made already; by default that of the setting `device`."""

    name = "cuda"
    takes_prepared = True
    promises = ("repeat", "batch", "threads", "layout", "tiling", "cpu")

    def __init__(self, device: Device | None = None) -> None:
        self._device = device
        self._constants: dict[Device, Constants] = {}
        self.products = DeviceProducts(self.conv)
        #: Of arrays that lie on a device; NumPy's are left to NumPy.
        self.kernels: Any = DeviceKernels(self._constants, device)

    @property
    def device(self) -> Device:
        """Where NumPy's arrays are computed. Raises: EngineError with the reason where it is not there."""
        return device_of(current().device) if self._device is None else self._device

    def unavailable(self) -> str | None:
        if self._device is not None:
            return None
        why = device_unavailable(current().device)
        return why and f'{why} (device="simulator" runs the same kernels on the CPU, slowly)'

    def supports(self, geometry: ConvGeometry, contraction: str, dtype: DType) -> str | None:
        if not supported_dtype(dtype):
            return f"dtype {dtype} is not one of float32, float64, float16, bfloat16"
        phases = prod(min(s, n) for s, n in zip(geometry.stride, geometry.input_size, strict=True))
        if contraction == "conv_transpose" and phases > MOST_PHASES:
            return f"strides {geometry.stride} make {phases:,} stride phases, most of them without taps; at most {MOST_PHASES:,} are planned"
        return None

    def conv(self, geometry: ConvGeometry, x: Any, w: Any, epilogue: Epilogue | None = None) -> Any:
        return self._gather(geometry, False, x, w, epilogue)

    def conv_transpose(self, geometry: ConvGeometry, y: Any, w: Any, epilogue: Epilogue | None = None) -> Any:
        return self._gather(geometry, True, y, w, epilogue)

    def conv_weight_grad(self, geometry: ConvGeometry, x: Any, y: Any) -> Any:
        if not prod(geometry.weight_shape) or not y.size:
            return np.zeros(geometry.weight_shape, x.dtype)
        arrays, constants = self._arrays(x)
        a, b = (_lifted(arrays.take(array), geometry) for array in (x, y))
        last = is_channels_last(a) and is_channels_last(b)
        plan = weight_plan(_with_axis(geometry), x.dtype, properties_for(arrays.device, x.dtype), current().workspace_bytes, last)
        return arrays.give(_lowered(run_weights(plan, a, b, arrays, constants), geometry))

    def plan(self, geometry: ConvGeometry, contraction: str, dtype: DType, channels_last: bool = False) -> Plan:
        g, properties, sums, room = (
            geometry,
            properties_for(self.device, dtype),
            accumulator_dtype(dtype),
            current().workspace_bytes,
        )
        if contraction == "conv_weight_grad":
            weights = weight_plan(g, dtype, properties, room, channels_last)
            launch, algorithm, workspace = weights.launch, weights.algorithm, weights.workspace_bytes
            details: dict[str, Any] = {"parts of an image": len(weights.units.units), "images at a time": weights.images}
        else:
            plan = gather_plan(g, contraction == "conv_transpose", dtype, properties, channels_last, None, room)
            launch, algorithm, workspace = plan.launch, plan.algorithm, plan.packed_count * sums.itemsize
            workspace += plan.scratch_bytes(sums, properties)
            details = {"stride phases": len(plan.tables.phases) // plan.units, "levels of sums": plan.tables.depth}
        details = {"device": f"{properties.name} ({properties.arch})", "tile": str(launch.tile), "tiles": launch.tiles} | details
        details |= {"waves": launch.waves, "share of multiply-adds": launch.share}
        details |= {"layout": "channels last" if channels_last else "channels first"}
        return Plan(
            self.name, contraction, algorithm, g, dtype.name, g.work_flop, g.array_bytes(dtype.itemsize), workspace, 1,
            self.promises, details,
        )  # fmt: skip

    # ---- calls

    def _arrays(self, example: Any) -> tuple[Arrays, Constants]:
        """How the arrays of a call reach the device, and what lies there already."""
        arrays = arrays_for(example, self._device)
        constants = self._constants.get(arrays.device)
        if constants is None:
            constants = self._constants.setdefault(arrays.device, Constants(arrays.device))
        return arrays, constants

    def _gather(self, g: ConvGeometry, transpose: bool, x: Any, w: Any, epilogue: Epilogue | None) -> Any:
        shape = g.input_shape if transpose else g.output_shape
        if not prod(shape):
            return empty_like_order(shape, x)
        if not x.size:  # every sum is empty
            return _zeros(shape, x, epilogue)
        arrays, constants = self._arrays(x)
        source, room = _lifted(arrays.take(x), g), current().workspace_bytes
        plan = gather_plan(
            _with_axis(g), transpose, x.dtype, properties_for(arrays.device, x.dtype), is_channels_last(source), None, room
        )
        packed = self._packed(plan, w, arrays, constants)
        result = run_gather(plan, source, packed, arrays, constants, is_channels_last(source), epilogue)
        return arrays.give(_lowered(result, g))

    def _packed(self, plan: Gather, w: Any, arrays: Arrays, constants: Constants) -> PackedWeight:
        """The weights as the gather reads them; those of a PreparedWeight stay on the device."""
        if type(w) is not PreparedWeight:
            return pack(plan, arrays.take(w), arrays, constants)
        array, forms = w.state
        key = (self.name, id(arrays.device), plan.packing)
        found: Any = forms.get(key)
        if found is None:
            packed = pack(plan, arrays.take(array), arrays, constants)
            found = forms.setdefault(key, (packed, packed.finite))  # type: ignore[arg-type]
        kept: PackedWeight = found[0]
        return kept


def _with_axis(g: ConvGeometry) -> ConvGeometry:
    """A geometry without spatial axes as one with an axis of one position."""
    if g.ndim:
        return g
    return ConvGeometry.from_conv((*g.input_shape, 1), (*g.weight_shape, 1), groups=g.groups)


def _lifted(operand: Operand, g: ConvGeometry) -> Operand:
    """An array of such a geometry, with the axis."""
    if g.ndim:
        return operand
    return replace(operand, shape=(*operand.shape, 1), strides=(*operand.strides, operand.dtype.itemsize))


def _lowered(operand: Operand, g: ConvGeometry) -> Operand:
    """And without it."""
    return operand if g.ndim else replace(operand, shape=operand.shape[:-1], strides=operand.strides[:-1])


def _zeros(shape: tuple[int, ...], like: Array, epilogue: Epilogue | None) -> Array:
    sums = empty_like_order(shape, like, accumulator_dtype(like.dtype))
    sums[...] = 0
    return apply_epilogue(sums, epilogue).astype(like.dtype, copy=False)

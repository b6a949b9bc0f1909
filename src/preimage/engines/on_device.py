"""Calls whose arrays lie on a GPU: which engine takes them, and what it computes beside the contractions."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.autograd.device_arrays import DeviceArray, place_of
from preimage.engines import DEVICE_ENGINES, get
from preimage.engines.base import ElementwiseKernels, Engine, Epilogue
from preimage.engines.prepared import PreparedWeight
from preimage.errors import EngineError
from preimage.geometry import ConvGeometry
from preimage.locks import import_apart
from preimage.settings import current

__all__ = ["device_engine", "device_kernels", "is_on_device", "one_place"]

_NAMES = {"conv": ("x", "w"), "conv_transpose": ("y", "w"), "conv_weight_grad": ("x", "y")}


def is_on_device(a: Any, b: Any = None) -> bool:
    """Whether one of the operands of a contraction lies on a GPU."""
    return isinstance(a, DeviceArray) or isinstance(b.array if type(b) is PreparedWeight else b, DeviceArray)


def one_place(**given: Any) -> None:
    """Raises: EngineError unless all arrays (None: left out) lie on one device and are of one library; the message names both places."""
    places = {name: place_of(a) for name, a in given.items() if a is not None}
    if len(set(places.values())) > 1:
        first, *rest = places.items()
        other = next(item for item in rest if item[1] != first[1])
        raise EngineError(
            f"{first[0]} is on {first[1]}, {other[0]} on {other[1]}: all arrays of a call must be of one library and on one device;"
            " cupy.asarray(x), x.cuda() and x.to(y.device) copy to one"
        )


def one_place_for(contraction: str, a: Any, b: Any, epilogue: Epilogue | None) -> None:
    """`one_place` for the operands of a contraction."""
    first, second = _NAMES[contraction]
    given = {first: a, second: b.array if type(b) is PreparedWeight else b}
    if epilogue is not None:
        given |= {"b": epilogue.bias, "residual": epilogue.residual}
    one_place(**given)


def device_engine(example: DeviceArray) -> Engine:
    """The engine for arrays on a GPU: "cuda", or the one asked for by name. Raises: EngineError where that one computes on the CPU."""
    wanted = current().engine
    if wanted == "auto":
        wanted = DEVICE_ENGINES[0]
    elif wanted not in DEVICE_ENGINES:
        raise EngineError(
            f"engine {wanted!r} computes on the CPU, and the arrays are on {place_of(example)}; leave the engine at 'auto' for them, or"
            f" name one of {', '.join(DEVICE_ENGINES)}"
        )
    return get(wanted)


def supporting_engine(contraction: str, geometry: ConvGeometry, example: DeviceArray) -> Engine:
    """`device_engine`, which takes this call. Raises: EngineError with the reason."""
    engine = device_engine(example)
    why = engine.supports(geometry, contraction, example.dtype)
    if why is not None:
        raise EngineError(f"engine {engine.name!r} cannot take this {contraction}: {why}")
    return engine


def brought_there(made: Any, example: DeviceArray) -> Any:
    """A result on the device of `example`: what an engine gives for empty operands may be an array of NumPy's."""
    if isinstance(made, DeviceArray):
        return made
    arrays = import_apart("preimage.engines.cuda.arrays").arrays_for(example)
    out = arrays.make(made.shape, made.dtype)
    if made.size:
        arrays.device.upload(out.address, np.ascontiguousarray(made), arrays.stream)
    return arrays.give(out)


def device_kernels(what: str, example: DeviceArray) -> ElementwiseKernels:
    """What the engine computes beside the contractions. Raises: EngineError where it computes nothing else."""
    engine = device_engine(example)
    if engine.kernels is None:
        raise EngineError(f"engine {engine.name!r} has no {what} for arrays on {place_of(example)}; engine 'cuda' has")
    return engine.kernels

"""What the engine computes beside the contractions, on arrays that lie on a device: chains of elementwise steps, sums per channel."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import Any

import numpy as np

from preimage.engines.base import Steps, accumulator_dtype, is_channels_last, supported_dtype
from preimage.engines.cuda.arrays import arrays_for
from preimage.engines.cuda.constants import Constants
from preimage.engines.cuda.device import Arrays, Device, Operand
from preimage.engines.cuda.schedules.chain_kernel import ChainSpec
from preimage.engines.cuda.schedules.gather import ELEMENTS, given
from preimage.engines.cuda.schedules.sums_kernel import SumsArguments, SumsSpec
from preimage.engines.cuda.schedules.weights import launch_reduce
from preimage.engines.order import BLOCK
from preimage.errors import EngineError

__all__ = ["DeviceKernels"]

Shape = tuple[int, ...]
#: Steps whose code asks for memory of each thread's own (the reduction of large angles), which no kernel of a GPU takes.
MISSING = frozenset(("cos", "sin", "tan"))
#: Blocks of threads a multiprocessor at most; each takes elements until there are no more.
BLOCKS = 16


def _joined(sizes: Shape, strides: Sequence[Shape]) -> tuple[Shape, list[Shape]]:
    """Neighbouring axes that lie alike in every array as one. strides: of each array, its axes as those of `sizes`."""
    kept: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for k, size in enumerate(sizes):
        if size == 1:
            continue
        here = [s[k] for s in strides]
        if kept and all(own[-1] == step * size for own, step in zip(steps, here, strict=True)):
            kept[-1] *= size
            for own, step in zip(steps, here, strict=True):
                own[-1] = step
        else:
            kept.append(size)
            for own, step in zip(steps, here, strict=True):
                own.append(step)
    if not kept:
        return (1,), [(0,) for _ in strides]
    return tuple(kept), [tuple(own) for own in steps]


class DeviceKernels:
    """Of one engine. constants: of a device, what lies there already."""

    def __init__(self, constants: dict[Device, Constants], device: Device | None = None) -> None:
        self._constants, self._device = constants, device

    def _of(self, example: Any) -> tuple[Arrays, Constants]:
        arrays = arrays_for(example, self._device)
        constants = self._constants.get(arrays.device)
        if constants is None:
            constants = self._constants.setdefault(arrays.device, Constants(arrays.device))
        return arrays, constants

    def run_chain(
        self, operands: Sequence[Any], steps: Steps, numbers: Sequence[float] = (), results: tuple[int, ...] | None = None
    ) -> tuple[Any, ...]:
        """The values of the steps named by `results` (places; by default the last step's), of arrays of one dtype that broadcast.

        Results lie channels innermost where the first operand of the whole shape does. 16-bit values are computed as float32 and
        rounded once. Raises: EngineError for arrays of several dtypes, and for sin, cos and tan.
        """
        dtype = operands[0].dtype
        if any(a.dtype != dtype for a in operands) or not supported_dtype(dtype):
            raise EngineError(f"a chain takes arrays of one dtype, got {', '.join(str(a.dtype) for a in operands)}")
        missing = [word for word, _ in steps if word in MISSING]
        if missing:
            raise EngineError(f"engine 'cuda' has no {missing[0]} for arrays on a GPU; bring the array to the host for it")
        arrays, constants = self._of(operands[0])
        shape = np.broadcast_shapes(*[a.shape for a in operands])
        like = next((a for a in operands if a.shape == shape), None)
        last = like is not None and is_channels_last(like)
        places = (len(operands) + len(numbers) + len(steps) - 1,) if results is None else results
        taken = [arrays.take(a) for a in operands]
        made = [arrays.make(shape, dtype, last) for _ in places]
        if prod(shape):
            _launch_chain(taken, made, steps, numbers, places, arrays, constants)
        return tuple(arrays.give(result) for result in made)

    def channel_sums(self, x: Any, mode: str, images: bool, g: Any = None, m: Any = None) -> tuple[Any, ...]:
        """Sums over space, (N, C), or over images too (`images`), (C,), in the contract's order. mode: "plain" alone is there."""
        if mode != "plain":
            raise EngineError(f"engine 'cuda' sums arrays as they are, mode 'plain'; it has no {mode!r}")
        arrays, constants = self._of(x)
        made = _channel_sums(arrays.take(x), images, arrays, constants)
        return (arrays.give(made),)


def _launch_chain(
    operands: Sequence[Operand], results: Sequence[Operand], steps: Steps, numbers: Sequence[float], places: tuple[int, ...],
    arrays: Arrays, constants: Constants,
) -> None:  # fmt: skip
    shape, dtype = results[0].shape, results[0].dtype
    order = sorted(range(len(shape)), key=lambda k: -results[0].strides[k])
    sizes, strides = _joined(tuple(shape[k] for k in order), [_steps(a, shape, order) for a in [*operands, *results]])
    element, inner = ELEMENTS[dtype.name], accumulator_dtype(dtype)
    spec = ChainSpec(
        len(sizes),
        ELEMENTS[inner.name],
        (element,) * len(operands),
        len(numbers),
        tuple(steps),
        places,
        (element,) * len(results),
    )
    held = constants.place(np.array(numbers or (0.0,), inner))
    words = {f"array_{a}": array.address for a, array in enumerate([*operands, *results])}
    words |= {f"size_{k}": size for k, size in enumerate(sizes)}
    words |= {f"stride_{a}_{k}": step for a, own in enumerate(strides) for k, step in enumerate(own)}
    count = prod(sizes)
    device = arrays.device
    blocks = min(ceil(count / spec.threads), device.properties.multiprocessors * BLOCKS)
    device.launch(
        device.load(spec), (blocks, 1, 1), given(spec.arguments(numbers=held.address, count=count, **words)), arrays.stream
    )


def _steps(array: Operand, shape: Shape, order: Sequence[int]) -> Shape:
    """Elements from one index to the next along every axis of the whole shape, in this order; 0 where the array is repeated."""
    item, missing = array.dtype.itemsize, len(shape) - array.ndim
    own = [0] * missing + [s // item if n > 1 else 0 for s, n in zip(array.strides, array.shape, strict=True)]
    return tuple(own[k] for k in order)


def _channel_sums(x: Operand, images: bool, arrays: Arrays, constants: Constants) -> Operand:
    device, dtype = arrays.device, x.dtype
    inner = accumulator_dtype(dtype)
    count, channels, space = x.shape[0], x.shape[1], prod(x.shape[2:])
    result = arrays.make((channels,) if images else (count, channels), dtype)
    if not prod(result.shape):
        return result
    if not x.shape[0] * space:
        device.fill(result.address, prod(result.shape) * dtype.itemsize, 0, arrays.stream)
        return result
    sizes, (steps,) = _joined(x.shape[2:], [_steps(x, x.shape, range(2, x.ndim))])
    if len(sizes) > 1:  # space does not lie along one stride
        x, copied = arrays.make(x.shape, dtype), x
        _launch_chain([copied], [x], (), (), (0,), arrays, constants)
        steps = (1,)
    item, blocks = dtype.itemsize, ceil(space / BLOCK)
    spec = SumsSpec(ELEMENTS[dtype.name], ELEMENTS[inner.name], is_channels_last(x))
    sums = device.allocate(blocks * count * channels * inner.itemsize)
    words = SumsArguments(
        x=x.address, output=sums.address, images=count, channels=channels, space=space, blocks=blocks,
        image_stride=x.strides[0] // item, channel_stride=x.strides[1] // item, space_stride=steps[-1],
    )  # fmt: skip
    groups = spec.threads // spec.lanes
    grid = min(ceil(blocks * count * channels / groups), device.properties.multiprocessors * BLOCKS)
    device.launch(device.load(spec), (grid, 1, 1), given(words), arrays.stream)
    total = device.allocate(count * channels * inner.itemsize) if images else None
    names = ELEMENTS[inner.name], ELEMENTS[dtype.name]
    to, out = (result.address, names[1]) if total is None else (total.address, names[0])
    launch_reduce(names[0], out, sums.address, to, blocks, count * channels, arrays, constants)
    if total is not None:
        launch_reduce(*names, total.address, result.address, count, channels, arrays, constants)
    return result

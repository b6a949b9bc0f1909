"""conv and conv_transpose on a device: weights packed, tables put there, one launch of the gather."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

import numpy as np

from preimage.engines.base import Array, Chain, DType, Epilogue, accumulator_dtype, is_channels_last
from preimage.engines.cuda.constants import Constants
from preimage.engines.cuda.device import Arrays, Memory, Operand, Properties
from preimage.engines.cuda.plan import Launch, gather_tile, spreads
from preimage.engines.cuda.schedules.direct_kernel import DirectSpec
from preimage.engines.cuda.schedules.gather_kernel import PLAIN, GatherSpec, shared_levels
from preimage.engines.cuda.schedules.join_kernel import JoinArguments, JoinSpec
from preimage.engines.cuda.schedules.pack_kernel import PackArguments, PackSpec
from preimage.engines.cuda.schedules.tables import GatherTables, gather_tables, order_of
from preimage.engines.cuda.tile import DirectTile, Tile
from preimage.engines.ir.epilogue import EpilogueSpec
from preimage.errors import EngineError
from preimage.geometry import ConvGeometry

__all__ = ["ELEMENTS", "Gather", "PackedWeight", "check_range", "gather_plan", "given", "pack", "run_gather"]

ELEMENTS = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16"}
#: Sums of a thread up to which the `strict` form finds registers.
MOST_STRICT = 64
#: Elements of one image, or of a channel of it, are counted with 32 bits.
MOST_ELEMENTS = 2**31 - 1


@dataclass(frozen=True)
class Gather:
    """How one geometry is computed on a device: the tile, the tables, the outputs and channels of a group."""

    g: ConvGeometry
    transpose: bool
    launch: Launch
    tables: GatherTables
    outs: int
    channels: int
    units: int = 1

    @property
    def out_blocks(self) -> int:
        return ceil(self.outs / self.launch.tile.bm)

    @property
    def packed_count(self) -> int:
        return self.tables.rows * self.g.groups * self.out_blocks * self.launch.tile.bm

    @property
    def tiles(self) -> int:
        groups = ceil(self.g.groups / self.launch.tile.groups)
        return self.position_blocks * self.out_blocks * groups * len(self.tables.phases)

    @property
    def spread(self) -> bool:
        return spreads(self.g, self.transpose, self.launch.tile)

    @property
    def algorithm(self) -> str:
        """In words, for plans."""
        if isinstance(self.launch.tile, DirectTile):
            return "direct, every thread for itself"
        words = (
            "gather by tiles"
            + (" on tensor cores" if self.launch.tile.matrix else "")
            + (", terms of several taps a step" if self.spread else "")
        )
        return words + (f", sums in {self.units} parts" if self.units > 1 else "")

    @property
    def position_blocks(self) -> int:
        return ceil(self.g.batch * self.tables.pixels / self.launch.tile.bn)

    @property
    def packing(self) -> tuple[Any, ...]:
        """What the order of packed weights depends on."""
        g, tile = self.g, self.launch.tile
        if not self.transpose:
            return False, tile.bm, tile.bk, g.groups, self.spread
        phases = tuple(min(s, n) for s, n in zip(g.stride, g.input_size, strict=True))
        starts = tuple(lo % s for (lo, _), s in zip(g.padding, g.stride, strict=True))
        return True, tile.bm, tile.bk, g.groups, g.stride, g.dilation, phases, starts

    def grid(self, properties: Properties) -> int:
        """Blocks at a time: each takes tiles until there are no more."""
        return min(self.tiles, properties.multiprocessors * self.launch.tile.blocks_per_multiprocessor)

    def spec(
        self, dtype: DType, properties: Properties, channels_last: bool = False, vector: str = "", strict: bool = False,
        epilogue: EpilogueSpec = PLAIN,
    ) -> GatherSpec | DirectSpec:  # fmt: skip
        """The kernel. channels_last: how the input lies; the others as in `GatherSpec`."""
        tile, element, inner = self.launch.tile, ELEMENTS[dtype.name], ELEMENTS[accumulator_dtype(dtype).name]
        if isinstance(tile, DirectTile):
            return DirectSpec(self.g.ndim, tile, self.tables.depth, element, inner, strict, epilogue)
        if strict and tile.matrix:
            tile = replace(tile, matrix=False)  # terms are left out one by one
        elif strict and tile.sums > MOST_STRICT:
            tile = tile.thinner()
        copies = "spread" if self.spread else "last" if channels_last else "plain"
        spec = GatherSpec(
            self.g.ndim, tile, self.tables.depth, 0, element, inner, self.tables.ragged, copies, vector, strict,
            self.units > 1, epilogue,
        )  # fmt: skip
        return shared_levels(spec, properties.multiprocessor_shared_bytes // tile.blocks_per_multiprocessor - 1024)

    def scratch_bytes(self, dtype: DType, properties: Properties) -> int:
        """Memory for sums that find no room in shared memory, and for parts of sums. dtype: of the sums."""
        parts = self.units * prod(self.result_shape) * dtype.itemsize if self.units > 1 else 0
        return self.spec(dtype, properties).scratch_bytes * self.grid(properties) + parts

    @property
    def result_shape(self) -> tuple[int, ...]:
        return self.g.input_shape if self.transpose else self.g.output_shape


@dataclass(frozen=True)
class PackedWeight:
    """Weights as a gather reads them, and the word on the device that says whether one is not finite."""

    memory: Memory
    finite: bool

    @property
    def nbytes(self) -> int:
        return self.memory.size


def gather_plan(
    g: ConvGeometry, transpose: bool, dtype: DType, properties: Properties, channels_last: bool = False, launch: Launch | None = None,
    workspace_bytes: int = 0,
) -> Gather:  # fmt: skip
    """channels_last: how the input lies; workspace_bytes: for parts of sums."""
    item = accumulator_dtype(dtype).itemsize
    launch = launch or gather_tile(g, transpose, item, properties, channels_last)
    tile = launch.tile
    outs = g.in_channels_per_group if transpose else g.out_channels_per_group
    channels = g.out_channels_per_group if transpose else g.in_channels_per_group
    width = g.groups * ceil(outs / tile.bm) * tile.bm
    level, units = _division(g, transpose, launch, item, properties, workspace_bytes)
    tables = gather_tables(g, transpose, tile.bk, width, spreads(g, transpose, tile), level)
    return Gather(g, transpose, launch, tables, outs, channels, units)


def _division(
    g: ConvGeometry, transpose: bool, launch: Launch, itemsize: int, properties: Properties, workspace_bytes: int
) -> tuple[int, int]:
    """Into parts of which level a sum is divided, and how many: where tiles fill less than half of a device. 0, 1: it is not."""
    wanted = properties.multiprocessors * launch.tile.blocks_per_multiprocessor
    order, count = order_of(g, transpose), prod(g.input_shape if transpose else g.output_shape)
    if isinstance(launch.tile, DirectTile) or 2 * launch.tiles > wanted or (transpose and max(g.stride) > 1):
        return 0, 1
    for level in range(order.depth, 0, -1):
        units = prod(order.sizes[level])
        if units * count * itemsize > workspace_bytes:
            break
        if launch.tiles * units >= wanted or level == 1:
            return level, units
    return 0, 1


def pack(plan: Gather, w: Operand, arrays: Arrays, constants: Constants) -> PackedWeight:
    """The weights as the gather reads them."""
    device, g, tile = arrays.device, plan.g, plan.launch.tile
    sums = accumulator_dtype(w.dtype)
    memory = device.allocate(plan.packed_count * sums.itemsize)
    flag = device.allocate(8)
    device.fill(flag.address, 8, 0, arrays.stream)
    spec = PackSpec(ELEMENTS[w.dtype.name], ELEMENTS[sums.name], tile.bm)
    strides = [s // w.dtype.itemsize for s in w.strides]
    channel, tap = plan.tables.weight_rows.T
    taps = np.stack(np.unravel_index(np.maximum(tap, 0), g.kernel_size)).T @ np.array([*strides[2:], 0][: g.ndim], np.int64)
    channel_stride, out_stride = (strides[0], strides[1]) if plan.transpose else (strides[1], strides[0])
    places = np.where(tap < 0, -1, channel * channel_stride + taps)
    kernel, width = device.load(spec), g.groups * plan.out_blocks * tile.bm
    for first, count in plan.tables.weight_phases:
        if not count:
            continue
        rows = constants.place(places[first : first + count])
        words = PackArguments(
            source=w.address, output=memory.address + first * width * sums.itemsize, flag=flag.address, rows=rows.address,
            row_count=count, groups=g.groups, outs=plan.outs, out_blocks=plan.out_blocks,
            group_stride=strides[0] * g.out_channels_per_group, out_stride=out_stride,
        )  # fmt: skip
        blocks = min(ceil(count * width / spec.threads), device.properties.multiprocessors * 16)
        device.launch(kernel, (blocks, 1, 1), given(words), arrays.stream)
    finite = True
    if plan.transpose:
        found = np.zeros(1, np.int64)
        device.download(found, flag.address, arrays.stream)
        finite = not found[0]
    flag.free()
    return PackedWeight(memory, finite)


def given(arguments: Any) -> list[int]:
    """The words of an argument vector whose values are numbers."""
    return [int(value) for _, value in arguments.given()]


def epilogue_spec(epilogue: Epilogue | None, chain: Chain | None, dtype: DType) -> tuple[EpilogueSpec, Array]:
    """Which steps the kernel has, and the numbers that it reads."""
    e = epilogue or Epilogue()
    limits: tuple[float, ...] = ()
    if e.activation == "leaky_relu":
        limits = (e.slope,)
    elif e.activation == "clip":
        limits = (e.lo, e.hi)
    steps: Any = ()
    if chain is not None:
        steps, limits = chain
    spec = EpilogueSpec(e.bias is not None, e.residual is not None, e.activation, tuple(steps), len(limits) if steps else 0)
    return spec, np.array(limits or (0.0,), accumulator_dtype(dtype))


def _vector(plan: Gather, result: Operand, lanes: int) -> str:
    """Whether `lanes` neighbouring positions, or channels, are neighbours in the result, and lie on a boundary of so many."""
    strides = [s // result.dtype.itemsize for s in result.strides]
    image, channel, *axes = strides
    if result.address % 16 or image % lanes or (plan.units > 1 and prod(result.shape) % lanes):
        return ""
    if channel == 1 and plan.outs % lanes == 0 and not any(s % lanes for s in axes):
        return "" if isinstance(plan.launch.tile, Tile) and plan.launch.tile.matrix else "channels"
    step = 1
    for n, stride in zip(reversed(result.shape[2:]), reversed(axes), strict=True):
        if n > 1 and stride != step:
            return ""
        step *= n
    whole = len(plan.tables.phases) == plan.units and (not plan.transpose or max(plan.g.stride) == 1)
    return "positions" if whole and step % lanes == 0 and channel % lanes == 0 else ""


def run_gather(
    plan: Gather, x: Operand, w: PackedWeight, arrays: Arrays, constants: Constants, channels_last: bool,
    epilogue: Epilogue | None = None, chain: Chain | None = None,
) -> Operand:  # fmt: skip
    """The result of conv, or of conv_transpose, of arrays that lie on the device."""
    sums = accumulator_dtype(x.dtype)
    result = arrays.make(plan.result_shape, x.dtype, channels_last)
    steps, finishing, _keep = _finishing(epilogue, chain, result, channels_last, arrays, constants)
    if plan.units == 1:
        _launch(plan, x, w, result, steps, finishing, arrays, constants)
        return result
    count = prod(result.shape)
    parts = arrays.device.allocate(plan.units * count * sums.itemsize)
    strides = tuple(s // result.itemsize * sums.itemsize for s in result.strides)
    part = Operand(parts.address, result.shape, strides, sums, parts)
    _launch(plan, x, w, part, PLAIN, {"part": count}, arrays, constants)
    spec = JoinSpec(plan.tables.outer_depth, ELEMENTS[sums.name], ELEMENTS[x.dtype.name], steps)
    closes = constants.place(plan.tables.closes)
    words = JoinArguments(
        input=parts.address, output=result.address, closes=closes.address, units=plan.units, count=count,
        channel=result.strides[1] // result.itemsize, channels=result.shape[1], **finishing,
    )  # fmt: skip
    device = arrays.device
    blocks = min(ceil(count / spec.threads), device.properties.multiprocessors * 16)
    device.launch(device.load(spec), (blocks, 1, 1), given(words), arrays.stream)
    return result


def _finishing(
    epilogue: Epilogue | None, chain: Chain | None, result: Operand, channels_last: bool, arrays: Arrays, constants: Constants
) -> tuple[EpilogueSpec, dict[str, int], list[Any]]:
    """The epilogue's steps, the addresses of what they read, and what has to live until the kernel was launched."""
    dtype = result.dtype
    steps, limits = epilogue_spec(epilogue, chain, dtype)
    e = epilogue or Epilogue()
    bias, residual = _as_dtype(e.bias, dtype), _laid_out(_as_dtype(e.residual, dtype), channels_last)
    keep: list[Any] = [constants.place(limits)]
    found = {"limits": keep[0].address, "bias": 0, "residual": 0}
    for name, array in (("bias", bias), ("residual", residual)):
        if array is not None:
            keep.append(arrays.take(array))
            found[name] = keep[-1].address
    if residual is not None:
        _check_layout(keep[-1], result)
    return steps, found, keep


def _launch(
    plan: Gather, x: Operand, w: PackedWeight, result: Operand, steps: EpilogueSpec, finishing: dict[str, int], arrays: Arrays,
    constants: Constants,
) -> None:  # fmt: skip
    """The gather itself, into the result or into its parts."""
    device, lanes = arrays.device, 16 // accumulator_dtype(x.dtype).itemsize
    strict = plan.transpose and not w.finite
    spec = plan.spec(x.dtype, device.properties, is_channels_last(x), _vector(plan, result, lanes), strict, steps)
    grid = plan.grid(device.properties)
    scratch = device.allocate(spec.scratch_bytes * grid)
    tables = [constants.place(table) for table in (plan.tables.phases, plan.tables.items, plan.tables.blocks)]
    phases, items, blocks = (table.address for table in tables)
    words = spec.arguments(
        input=x.address, weight=w.memory.address, output=result.address, scratch=scratch.address, phases=phases, items=items,
        blocks=blocks, tiles=plan.tiles, position_blocks=plan.position_blocks, out_blocks=plan.out_blocks, groups=plan.g.groups,
        batch=plan.g.batch, channels=plan.channels, outs=plan.outs, **finishing, **_strides(plan, x, result),
    )  # fmt: skip
    device.launch(device.load(spec), (grid, 1, 1), given(words), arrays.stream)


def _as_dtype(array: Any, dtype: DType) -> Any:
    return array if array is None or array.dtype == dtype else array.astype(dtype)


def _laid_out(array: Any, channels_last: bool) -> Any:
    """A residual in the result's own order."""
    if not isinstance(array, np.ndarray):
        return array
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1) if channels_last else np.ascontiguousarray(array)


def _check_layout(residual: Operand, result: Operand) -> None:
    """Raise EngineError for an array on the device that lies otherwise in memory than the result: the kernel reads it as it writes."""
    apart = [k for k, n in enumerate(result.shape) if n > 1 and residual.strides[k] != result.strides[k]]
    if apart:
        raise EngineError(
            f"residual {residual.shape} has the strides {residual.strides}, the result on the device {result.strides}; give a residual"
            " that lies in memory as the result does (a contiguous copy in the memory order of the input)"
        )


def _strides(plan: Gather, x: Operand, result: Operand) -> dict[str, int]:
    """Sizes and strides in elements, by the names of the kernel's arguments."""
    check_range(x, result)
    g = plan.g
    found: dict[str, int] = {}
    for name, operand in (("in", x), ("out", result)):
        item = operand.dtype.itemsize
        strides = [s // item for s in operand.strides]
        found |= {f"{name}_image": strides[0], f"{name}_channel": strides[1]}
        found |= {f"{name}_stride_{k}": stride for k, stride in enumerate(strides[2:])}
    found |= {f"in_size_{k}": size for k, size in enumerate(x.shape[2:])}
    for k, stride in enumerate(g.stride):
        found |= {f"in_step_{k}": 1 if plan.transpose else stride, f"out_step_{k}": stride if plan.transpose else 1}
    return found


def check_range(*operands: Operand) -> None:
    """Raise EngineError where 31 bits do not number the elements of an image, or the positions of all images."""
    for operand in operands:
        reach = sum(
            (n - 1) * abs(s) // operand.dtype.itemsize for n, s in zip(operand.shape[1:], operand.strides[1:], strict=True)
        )
        positions = operand.shape[0] * prod(operand.shape[2:])
        if max(reach, positions) > MOST_ELEMENTS:
            raise EngineError(
                f"the cuda engine numbers the elements of an image, and the positions of a batch, with 31 bits; shape {operand.shape} has"
                f" {max(reach, positions)}; use smaller images, or a part of the batch at a time"
            )

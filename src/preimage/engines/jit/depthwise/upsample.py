"""The program of a depthwise transposed convolution with a long stride, channels-first: see `upsample_kernel`."""

from __future__ import annotations

from itertools import pairwise
from math import prod

from preimage.engines.ir.builder import ELEMENT_BYTES
from preimage.engines.jit import branches
from preimage.engines.jit.depthwise.applies import row_stride
from preimage.engines.jit.depthwise.upsample_kernel import Arg, SpreadSpec
from preimage.engines.jit.index.taps import Axis, Ints, as_ints, gather_axes
from preimage.engines.jit.program import Buffer, KernelCall, Program, ProgramBuilder, Value, kernel_call, operands
from preimage.engines.jit.request import ConvRequest

__all__ = ["lower_spread"]

SCRATCH_BYTES = 32 << 10  # of a thread; it should stay in the L1 cache beside a channel's weights
MOST_SUMS = 16


def lower_spread(r: ConvRequest, packing: KernelCall) -> Program:
    """Tables of what meets in which row; units of a plane and a chunk of rows. packing: puts the weights in a line, as they are."""
    g = r.geometry
    inner = "f64" if r.element == "f64" else "f32"
    item = ELEMENT_BYTES[inner]
    stride, taps, lo = g.stride[-1], g.kernel_size[-1] // g.stride[-1], g.padding[-1][0]
    large, small = g.input_size[-1], g.output_size[-1]
    full = r.target.vector_bytes // item
    lanes = min((full, full // 2), key=lambda n: (-(-stride // n) * n, -n))
    first, last = lo // stride, (large - 1 + lo) // stride
    positions = last - first + 1
    tile = min(positions, max(1, MOST_SUMS // -(-stride // lanes)))
    start = first * stride - lo
    pitch = -(-(positions + taps - 1) // lanes) * lanes * item
    row_axis = gather_axes(g, r.contraction)[1] if g.ndim == 2 else None
    rows, row_taps, reach = _rows(row_axis, row_stride(r.out_strides, g.ndim), g.kernel_size[-1] * item)
    planes = g.batch * g.groups
    most = max(1, SCRATCH_BYTES // pitch)
    pieces = max(-(-row_axis.in_size // most) if row_axis else 1, 1 if r.threads == 1 else -(-8 * r.threads // planes))
    chunks = _chunks(reach, min(pieces, len(rows)))
    units = planes * len(chunks)
    per_task = 1 if r.threads > 1 else units
    scratch = pitch * max(int(chunks[:, 3].max()), 1)

    program = ProgramBuilder("depthwise, channels first, vectors across stride phases")
    program.packing, program.packed_key = packing, ("spread", r.element)
    program.packed_bytes = prod(g.weight_shape) * item + r.target.vector_bytes  # a run's last vector may hang over
    if not r.prepared:
        program.pack_first()
    program.buffers.append(Buffer("scratch", scratch * r.threads))
    ragged = start != 0 or (large + lo) % stride != 0 or stride % lanes != 0
    take = branches.upsample
    take("taken")
    take("axes.one" if row_axis is None else "axes.two")
    take("stores.ragged" if ragged else "stores.whole")
    take("vectors.full" if lanes == full else "vectors.half")
    take("taps.one" if taps == 1 else "taps.several")
    take("tile.one_column" if tile == 1 else "tile.several_columns")
    take("chunks.one" if len(chunks) == 1 else "chunks.several")
    spec = SpreadSpec(r.element, r.element, inner, lanes, tile, stride, taps, ragged, r.finish)
    values: dict[int, Value] = {
        **operands(Arg), Arg.SCRATCH: "scratch",
        Arg.SCRATCH_BYTES: scratch, Arg.UNITS: units, Arg.UNITS_PER_TASK: per_task, Arg.N_CHUNKS: len(chunks),
        Arg.CHANNELS: g.groups, Arg.X_IMAGE: r.in_strides[0], Arg.X_CHANNEL: r.in_strides[1],
        Arg.X_ROW: row_stride(r.in_strides, g.ndim), Arg.OUT_IMAGE: r.out_strides[0], Arg.OUT_CHANNEL: r.out_strides[1],
        Arg.CHUNKS: chunks, Arg.ROWS: rows, Arg.TAPS: row_taps, Arg.ROW_PITCH: pitch,
        Arg.FIRST: first - taps + 1, Arg.IN_COLUMNS: small, Arg.OUT_COLUMNS: large, Arg.POSITIONS: positions, Arg.START: start,
        Arg.WEIGHT_BYTES: prod(g.kernel_size) * item,
    }  # fmt: skip
    tasks = -(-units // per_task)
    program.calls.append(kernel_call("depthwise", spec, values, tasks))
    program.skips_padding = True  # zeros beside the rows are multiplied
    program.details = {
        "tile": f"{tile} input columns x {stride} stride phases, in vectors of {lanes}",
        "rows": f"{len(chunks)} chunks a plane, {scratch} bytes of scratch a thread",
        "tasks": str(tasks),
    }
    return program.done()


def _rows(axis: Axis | None, out_row: int, weight_row: int) -> tuple[Ints, Ints, list[tuple[int, int]]]:
    """Every output row's offset and taps; the taps; and the lowest and highest input row of each (0, -1: none)."""
    rows: list[tuple[int, int, int]] = []
    taps: list[tuple[int, int]] = []
    reach: list[tuple[int, int]] = []
    for ih in range(axis.out_size if axis else 1):
        found = [(0, 0)]
        if axis is not None:
            phase, turn = axis.phases[ih % len(axis.phases)], ih // len(axis.phases)
            found = [(turn + offset, kh) for kh, offset in phase.taps if 0 <= turn + offset < axis.in_size]
        rows.append((ih * out_row, len(taps), len(taps) + len(found)))
        reach.append((min((at for at, _ in found), default=0), max((at for at, _ in found), default=-1)))
        taps += [(at, kh * weight_row) for at, kh in found]
    return as_ints(rows), as_ints(taps).reshape(-1, 2), reach


def _chunks(reach: list[tuple[int, int]], count: int) -> Ints:
    """Rows in so many chunks: first, last + 1, and which input rows they read."""
    edges = [len(reach) * k // count for k in range(count + 1)]
    chunks = []
    for begin, end in pairwise(edges):
        some = [r for r in reach[begin:end] if r[1] >= 0]
        low, high = min((a for a, _ in some), default=0), max((b for _, b in some), default=-1)
        chunks.append((begin, end, low, high - low + 1))
    return as_ints(chunks)

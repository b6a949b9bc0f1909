"""The program of a depthwise transposed convolution with a long stride, channels-first: see `upsample_kernel`."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import numpy as np

from preimage.engines.base import Array
from preimage.engines.ir.builder import ELEMENT_BYTES
from preimage.engines.jit import branches
from preimage.engines.jit.depthwise.applies import row_stride
from preimage.engines.jit.depthwise.upsample_kernel import Chunk, Row, Tap, UpsampleArguments, UpsampleSpec
from preimage.engines.jit.index.taps import Axis, gather_axes
from preimage.engines.jit.index.terms import Terms, node_tables
from preimage.engines.jit.program import Buffer, KernelCall, Program, ProgramBuilder, kernel_call, operands
from preimage.engines.jit.request import ConvRequest

__all__ = ["lower_upsample"]


def lower_upsample(r: ConvRequest, packing: KernelCall) -> Program:
    """Tables of what meets in which row; units of a plane and a chunk of rows. packing: puts the weights in a line, as they are."""
    g, costs = r.geometry, r.target.costs.depthwise
    inner = "f64" if r.element == "f64" else "f32"
    item = ELEMENT_BYTES[inner]
    stride, taps, lo = g.stride[-1], g.kernel_size[-1] // g.stride[-1], g.padding[-1][0]
    large, small = g.input_size[-1], g.output_size[-1]
    full = r.target.vector_bytes // item
    lanes = min((full, full // 2), key=lambda n: (-(-stride // n) * n, -n))
    first, last = lo // stride, (large - 1 + lo) // stride
    positions = last - first + 1
    tile = min(positions, max(1, costs.most_sums // -(-stride // lanes)))
    start = first * stride - lo
    pitch = -(-(positions + taps - 1) // lanes) * lanes * item
    row_axis = gather_axes(g, r.contraction)[1] if g.ndim == 2 else None
    terms = Terms.of(1, gather_axes(g, r.contraction)[1:])
    rows, row_taps, nodes, reach = _rows(row_axis, row_stride(r.out_strides, g.ndim), g.kernel_size[-1] * item, terms)
    planes = g.batch * g.groups
    most = max(1, costs.scratch_bytes // pitch)
    pieces = max(-(-row_axis.in_size // most) if row_axis else 1, 1 if r.threads == 1 else -(-8 * r.threads // planes))
    chunks = _chunks(reach, min(pieces, len(rows)))
    units = planes * len(chunks)
    per_task = 1 if r.threads > 1 else units
    scratch = pitch * max(int(chunks["rows"].max()), 1)

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
    spec = UpsampleSpec(
        element=r.element, out=r.element, inner=inner, lanes=lanes, positions=tile, stride=stride, taps=taps, ragged=ragged,
        depth=terms.order.depth, lone=terms.lone_rows(1), finish=r.finish,
    )  # fmt: skip
    values = UpsampleArguments(
        **operands(), scratch="scratch", scratch_bytes=scratch, units=units, units_per_task=per_task, n_chunks=len(chunks),
        channels=g.groups, x_image=r.in_strides[0], x_channel=r.in_strides[1], x_row=row_stride(r.in_strides, g.ndim),
        out_image=r.out_strides[0], out_channel=r.out_strides[1], chunks=chunks, rows=rows, taps=row_taps, nodes=nodes, row_pitch=pitch,
        first=first - taps + 1, in_columns=small, out_columns=large, positions=positions, start=start,
        weight_bytes=prod(g.kernel_size) * item,
    )  # fmt: skip
    tasks = -(-units // per_task)
    program.calls.append(kernel_call("depthwise", spec, values, tasks))
    program.skips_padding = True  # zeros beside the rows are multiplied
    program.details = {
        "tile": f"{tile} input columns x {stride} stride phases, in vectors of {lanes}",
        "rows": f"{len(chunks)} chunks a plane, {scratch} bytes of scratch a thread",
        "tasks": str(tasks),
    }
    return program.done()


def _rows(axis: Axis | None, out_row: int, weight_row: int, terms: Terms) -> tuple[Array, Array, Array, list[tuple[int, int]]]:
    """Every output row's offset and taps; the taps; blocks and groups of them; and the lowest and highest input row of each (0, -1: none)."""
    offsets: list[int] = []
    taps: list[tuple[int, int, int, int]] = []
    reach: list[tuple[int, int]] = []
    for ih in range(axis.out_size if axis else 1):
        found = [(0, 0, 0)]
        if axis is not None:
            phase, turn = axis.phases[ih % len(axis.phases)], ih // len(axis.phases)
            found = [(turn + offset, kh, k) for k, (kh, offset) in enumerate(phase.taps) if 0 <= turn + offset < axis.in_size]
        offsets.append(ih * out_row)
        reach.append((min((at for at, _, _ in found), default=0), max((at for at, _, _ in found), default=-1)))
        taps += [(at, kh * weight_row, ih, k) for at, kh, k in found]
    at, weight, owner, rank = np.array(taps, np.int64).reshape(-1, 4).T
    members = terms.members(2, rank) if axis is not None else terms.members(1, rank)
    ranges, nodes = node_tables(owner, members, len(offsets), terms.lone_rows(1))
    rows = Row(output=offsets, first=ranges["first"], end=ranges["end"]).table()
    return rows, Tap(row=at, weight=weight).table(), nodes, reach


def _chunks(reach: list[tuple[int, int]], count: int) -> Array:
    """Rows in so many chunks: first, last + 1, and which input rows they read."""
    edges = [len(reach) * k // count for k in range(count + 1)]
    chunks = []
    for begin, end in pairwise(edges):
        some = [r for r in reach[begin:end] if r[1] >= 0]
        low, high = min((a for a, _ in some), default=0), max((b for _, b in some), default=-1)
        chunks.append((begin, end, low, high - low + 1))
    first, end, lowest, rows = np.array(chunks, np.int64).T
    return Chunk(first=first, end=end, lowest=lowest, rows=rows).table()

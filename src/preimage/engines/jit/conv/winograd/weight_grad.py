"""The program of a weight gradient by Winograd's algorithms (`weight_grad_kernel`)."""

from __future__ import annotations

from math import gcd, isqrt, lcm, prod

import numpy as np

from preimage.engines.base import Array
from preimage.engines.ir.builder import ELEMENT_BYTES
from preimage.engines.jit.conv.winograd import branches
from preimage.engines.jit.conv.winograd.applies import Choice, block_of
from preimage.engines.jit.conv.winograd.input_kernel import AXES, points_of, tile_memory
from preimage.engines.jit.conv.winograd.lower import Tile, by_axis, choose_tile, name_of, odd_lines, three
from preimage.engines.jit.conv.winograd.weight_grad_kernel import GradientArguments, GradientSpec, ImageStep
from preimage.engines.jit.program import Buffer, Program, ProgramBuilder, kernel_call
from preimage.engines.jit.request import WeightGradRequest

__all__ = ["lower_winograd_grad"]

MOST_ROWS = 48  # pieces of output channels are whole vectors and whole tiles of the products: of so many at least
BAND_TILES = 64  # about so many tiles of a band: the sums over them wait in memory in between


def lower_winograd_grad(r: WeightGradRequest, choice: Choice) -> Program:
    """The program. Compiles nothing."""
    g, item = r.geometry, ELEMENT_BYTES[r.element]
    channels, outputs = g.in_channels_per_group, g.out_channels_per_group
    shape = ((1, 1),) * (AXES - g.ndim) + choice.shape
    points, tiles = prod(points_of(shape)), prod(choice.counts)
    lanes = gcd(r.target.vector_bytes // item, channels, outputs)
    parts = min(outputs // lanes, -(-r.threads // g.groups)) if r.threads > 1 else 1
    part = -(-outputs // parts // lanes) * lanes
    parts = -(-outputs // part)
    tile = choose_tile(r.target, item, outputs, channels, part, lcm_most=MOST_ROWS)
    step = block_of(tiles)
    band = min(-(-BAND_TILES // step) * step, tiles)
    rows, some = _piece(r, points * item, part, channels, tile)
    row_pieces, channel_pieces = -(-part // rows), -(-channels // some)
    together = 1 if band == tiles else row_pieces * channel_pieces
    v_point, w_point, m_point = (odd_lines(n * item) for n in (band * some, band * rows, rows * some))
    v_piece, w_piece, m_piece = (odd_lines(points * n) for n in (v_point, w_point, m_point))
    v_at = max(
        tile_memory(sizes, points_of(shape), tile.lanes, item, strides[1] != item)
        for sizes, strides in ((points_of(shape), r.x_strides), (tuple(m for m, _ in shape), r.y_strides))
    )
    w_at = v_at + channel_pieces * v_piece
    m_at = w_at + row_pieces * w_piece
    steps = _image_steps(g.batch)
    node_bytes, nodes_at = -(-part * r.out_strides[0] // 64) * 64, m_at + together * m_piece
    thread_bytes = -(-(nodes_at + int(steps["node"].max()) * node_bytes) // 4096) * 4096 + 64
    taps = r.out_strides[2:]
    along = by_axis(
        count=three(choice.counts, 1), lo=three(tuple(lo for lo, _ in g.padding), 0), in_=three(g.input_size, 1),
        in_stride=three(r.x_strides[2:], 0), y=three(g.output_size, 1), y_stride=three(r.y_strides[2:], 0), out_tap=three(taps, 0),
    )  # fmt: skip
    values = GradientArguments(
        **along, input="x", weight="y", output="out", zeros=np.zeros(max(channels, outputs) * item // 8 + 1, np.int64),
        scratch="scratch", thread_bytes=thread_bytes, tiles=tiles, in_image=r.x_strides[0], in_channel=r.x_strides[1],
        channels=channels, v_point=v_point, v_tile=some * item, v_at=v_at, y_image=r.y_strides[0], images=g.batch, image_steps=steps,
        nodes_at=nodes_at, node_bytes=node_bytes, y_channel=r.y_strides[1],
        parts=parts, part=part, outputs=outputs, band=band, bands=-(-tiles // band), step=step, w_point=w_point, w_tile=rows * item,
        w_at=w_at, m_point=m_point, m_row=some * item, m_at=m_at, some_rows=rows, some_channels=some,
        channel_pieces=channel_pieces, pieces=row_pieces * channel_pieces, turns=row_pieces * channel_pieces // together,
        together=together, v_piece=v_piece, w_piece=w_piece, m_piece=m_piece, out_row=r.out_strides[0], out_in=r.out_strides[1],
    )  # fmt: skip
    spec = GradientSpec(
        element=r.element, lanes=tile.lanes, vectors=tile.vectors, pixels=tile.pixels, shape=shape,
        planes_in=r.x_strides[1] != item, planes_y=r.y_strides[1] != item, rows=r.out_strides[1] != item,
        far=together * m_piece > r.target.l2_bytes,
    )  # fmt: skip
    program = ProgramBuilder(f"{name_of(choice)}, weight gradient")
    program.calls.append(kernel_call("weight gradient", spec, values, g.groups * parts))
    program.buffers.append(Buffer("scratch", thread_bytes * r.threads, grows=False))
    branches.take("taken.weight_grad")
    program.details |= _said(r, choice, tile)
    program.details |= {
        "bands": f"{-(-tiles // band)} of {band} tiles, of {tiles}; images one after another",
        "tasks": f"{parts} parts of {part} output channels, in pieces of {rows} by {some} input channels",
    }
    return program.done()


def _said(r: WeightGradRequest, choice: Choice, tile: Tile) -> dict[str, str]:
    """What a plan says of it whatever its bands."""
    lanes = r.target.vector_bytes / ELEMENT_BYTES[r.element]
    return {
        "accuracy": f"fast: an error of at most {choice.error:.0f} u max|x| sum|y| (docs/contract.md has the measured one)",
        "predicted": f"{choice.work / (2 * lanes):,.0f} cycles of one thread by the model for an image,"
        f" {choice.exact_work / choice.work:.2f} times less work than the exact order",
        "tile": f"{tile.pixels} output channels x {tile.vectors} vectors of {tile.lanes} input channels",
    }


def _piece(r: WeightGradRequest, sum_bytes: int, rows: int, channels: int, tile: Tile) -> tuple[int, int]:
    """Output and input channels whose sums fill part of the second cache: about a square, so that few operands are read again.

    sum_bytes: of all points of a pair of channels.
    """
    most = r.target.l2_bytes * 3 // 8 // sum_bytes
    width, unit = tile.vectors * tile.lanes, lcm(tile.pixels, tile.lanes)
    some = min(channels, max(1, isqrt(most) // width) * width)
    return min(-(-rows // unit), max(1, most // some // unit)) * unit, some


def _image_steps(images: int) -> Array:
    """What becomes of each image: after image i there are as many nodes as i + 1 has ones, the last ones are joined at the end."""
    steps = ImageStep.zeros(images)
    for i in range(images):
        before, odd = i.bit_count(), i & 1
        steps["node"][i], steps["adds"][i] = before - odd, odd
        left = 1 if i == images - 1 else (i + 1).bit_count()
        steps["joins"][i] = before - odd + 1 - left
    return steps

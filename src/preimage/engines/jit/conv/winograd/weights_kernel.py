"""Transforming weights: G of every pair of channels, to [point][block of output channels][input channel][width].

float32 weights are transformed in float64 and rounded once. One task is a block of output channels of a group:

    for i in input channels, for vector of the block's output channels
        taps of `lanes` output channels, which lie one after another: transposed in registers
        G along one axis after another
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Elements, Integer, Words, elements
from preimage.engines.ir.builder import ELEMENT_BYTES, Kernel, Num
from preimage.engines.jit.conv.winograd.input_kernel import AXES, Shape, each_line, place_in, points_of
from preimage.engines.jit.conv.winograd.transforms import apply_paired_rows, weight_matrix
from preimage.engines.jit.packing.copy_kernel import transposed
from preimage.records import record

AHEAD = 512  # bytes: lines of every point are asked for before they are written: so many streams the CPU does not foresee

__all__ = ["TransformArguments", "TransformSpec", "build"]


class TransformArguments(Arguments):
    """Strides in bytes."""

    source: Elements = elements("element")
    result: Elements = elements("element")
    flag: Words  # every call that packs weights has one; nothing depends on it here
    group_blocks: Integer
    group_stride: Integer  # from a group's weights to the next group's
    out_stride: Integer  # between output channels
    in_stride: Integer  # between input channels
    channels: Integer  # input channels of a group
    panel_bytes: Integer  # of a point


@record
class TransformSpec:
    """flipped: the taps are read backwards along every axis (the transpose)."""

    arguments: ClassVar = TransformArguments

    element: str
    lanes: int
    vectors: int
    shape: Shape
    flipped: bool

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: TransformSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = TransformArguments.read(f, spec, at_entry=True)
    width, lanes = spec.vectors * spec.lanes, spec.lanes
    taps, points = tuple(t for _, t in spec.shape), points_of(spec.shape)
    group, block = f.task // args.group_blocks, f.task % args.group_blocks
    source = args.source.at_bytes(group * args.group_stride + block * width * args.out_stride)
    blocks = args.group_blocks * args.panel_bytes  # from a point to the next
    result = args.result.at_bytes(group * blocks * prod(points) + block * args.panel_bytes)
    memory, item = f.room("f64", prod(points) * lanes), lanes * ELEMENT_BYTES["f64"]
    with f.loop(0, args.channels, once=True) as i, f.loop(0, spec.vectors, once=True) as v:
        here = source.at_bytes(i.index * args.in_stride + v.index * lanes * args.out_stride)
        loaded: list[Num] = []
        for first in range(0, prod(taps), lanes):
            count = min(lanes, prod(taps) - first)
            mask = None if count == lanes else f.lane_mask(lanes, count)
            lines = [here.at_bytes(args.out_stride * lane).at(first).load(lanes, mask) for lane in range(lanes)]
            loaded += transposed(lines)[:count]
        if spec.flipped:
            loaded.reverse()
        for tap, value in zip(product(*map(range, taps)), loaded, strict=True):
            place_in(memory, tap, points, item).store(value.as_f64())
        to = result.at((i.index * spec.vectors + v.index) * lanes)
        for number in range(prod(points)):
            f.prefetch(to.at_bytes(blocks * number + AHEAD), write=True)
        sizes, axes = list(taps), [k for k in range(AXES) if taps[k] > 1]
        for axis in axes:
            with each_line(f, axis, sizes, points[axis]) as line:
                values = [place_in(memory, at, points, item).load(lanes) for at in line.reads]
                found = apply_paired_rows(f, weight_matrix(taps[axis], points[axis]), values)
                for at, value in zip(line.writes, found, strict=True):
                    if axis == axes[-1]:
                        place_in(to, at, points, blocks).store(value.rounded(spec.element))
                    else:
                        place_in(memory, at, points, item).store(value)
            sizes[axis] = points[axis]
    return f.ir()

"""Depthwise convolutions of integers, and the phases of transposed ones: planned, and their weights packed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preimage.engines.base import Array
from preimage.engines.ir.builder import LINE_BYTES
from preimage.engines.jit.compiler.target import Target
from preimage.engines.jit.products.integers.gather import Gather
from preimage.engines.jit.products.integers.plan import way_of
from preimage.engines.jit.products.integers.words_kernel import BLOCK, BLOCK_ORDER
from preimage.engines.jit.request import SMALL_MACS
from preimage.records import record

__all__ = ["DepthwisePlan", "fits_bytes", "packed_taps", "plan_depthwise"]

#: Channels that lie side by side in a thread's memory are a multiple of these bytes.
UNIT = 16


@record
class DepthwisePlan:
    """way: as in words_kernel.py, with one tap a word but for `quads`; lanes, vectors: of a block; pixels: results of a line whose sums are held in
    registers; line_share, channel_share: lines and channels of a task."""

    way: str
    images: int
    channels: int
    gather: Gather
    taps_z: int
    taps_y: int
    taps_x: int
    lanes: int
    vectors: int
    pixels: int
    line_share: int
    channel_share: int
    threads: int

    @property
    def width(self) -> int:
        return self.vectors * self.lanes

    @property
    def planes(self) -> int:
        return self.gather.rows // (self.gather.out_y * self.gather.out_x)

    @property
    def reach_y(self) -> int:
        """Lines between those of the first and the last tap."""
        return (self.taps_y - 1) * self.gather.tap_y

    @property
    def room_y(self) -> int:
        """Lines of a plane in a thread's memory."""
        return (self.line_share - 1) * self.gather.step_y + self.reach_y + 1

    @property
    def room_x(self) -> int:
        """Positions of a line there."""
        return (self.gather.out_x - 1) * self.gather.step_x + (self.taps_x - 1) * self.gather.tap_x + 1

    @property
    def room(self) -> int:
        """Bytes of what the taps of a task meet."""
        return self.taps_z * self.room_y * self.room_x * self.channel_share

    @property
    def thread_bytes(self) -> int:
        """With what is read, and not used, behind the last line."""
        behind = (self.pixels - 1) * self.gather.step_x * self.channel_share + self.width
        return -(-(self.room + behind) // LINE_BYTES) * LINE_BYTES

    @property
    def line_tasks(self) -> int:
        return -(-self.gather.out_y // self.line_share)

    @property
    def channel_tasks(self) -> int:
        return -(-self.channels // self.channel_share)

    @property
    def tasks(self) -> int:
        return self.images * self.planes * self.line_tasks * self.channel_tasks

    @property
    def steps(self) -> int:
        """Of the loop over the taps."""
        taps = self.taps_z * self.taps_y * self.taps_x
        return -(-taps // 4) if self.way == "quads" else taps

    def tap_places(self) -> list[int]:
        """Where each tap of the first result lies in a thread's memory; the first one again for taps that are not there."""
        g, position = self.gather, self.channel_share
        line = self.room_x * position
        places = [
            (z * self.room_y + y * g.tap_y) * line + x * g.tap_x * position
            for z in range(self.taps_z)
            for y in range(self.taps_y)
            for x in range(self.taps_x)
        ]
        return places + places[:1] * (-len(places) % 4 if self.way == "quads" else 0)

    def __str__(self) -> str:
        sums = {"quads": "four taps of 8 bits", "pairs": "one tap of 16 bits"}.get(self.way, "one tap") + " in a 32-bit word"
        return "\n".join(
            [
                f"integer depthwise convolution on jit: {self.images} x {self.gather.rows} results x {self.channels} channels",
                f"  sums: {sums}, exact in 32 bits",
                f"  tile: {self.pixels} results x {self.width} channels  tasks: {self.tasks} of {self.line_share} lines and "
                f"{self.channel_share} channels",
                f"  lines with their padding: {self.room} bytes a task  threads: {self.threads}",
            ]
        )


def fits_bytes(w: Array, zero: Array | None) -> bool:
    """Whether all weights less their zero points are numbers of 8 bits with a sign."""
    values = _centred(w, zero)
    return bool(values.min() >= -128 and values.max() <= 127)


def plan_depthwise(images: int, channels: int, gather: Gather, bytes_: bool, threads: int, target: Target) -> DepthwisePlan:
    """The plan for a target. gather: of rows of one channel; bytes_: whether weights have 8 bits."""
    lanes, way = target.vector_bytes // 4, way_of(target)[0]
    way = "pairs" if way == "quads" and not bytes_ else way
    vectors = BLOCK // lanes if way == "quads" else min(2, -(-channels // lanes))
    pixels = 4 if target.vector_registers > 16 or way != "quads" else 2
    taps = gather.runs_z, gather.runs_y, gather.runs_x * gather.run_taps
    macs = images * gather.rows * channels * taps[0] * taps[1] * taps[2]
    unit = max(UNIT, vectors * lanes)

    def plan(lines: int, share: int) -> DepthwisePlan:
        share = -(-share // unit) * unit
        return DepthwisePlan(
            way, images, channels, gather, *taps, lanes, vectors, pixels, lines, share, threads if macs > SMALL_MACS else 1
        )  # fmt: skip

    share, most = channels, target.l2_bytes * 3 // 8
    while share > 4 * unit and plan(min(gather.out_y, 4), share).room > most:
        share = -(-share // 2)
    one = plan(1, share)
    room_y = most // max(1, one.taps_z * one.room_x * one.channel_share)
    lines = max(1, min(gather.out_y, (room_y - one.room_y) // gather.step_y + 1))
    if macs > SMALL_MACS and threads > 1:
        wanted = min(4 * threads, max(1, macs // target.costs.products.task_macs))
        while plan(lines, share).tasks < wanted and (lines > 1 or share > unit):
            lines, share = (-(-lines // 2), share) if lines > 4 or share <= unit else (lines, -(-share // 2))
    return plan(-(-gather.out_y // -(-gather.out_y // lines)), share)


def _centred(w: Array, zero: Array | None) -> Array:
    """Weights (channels, 1, *kernel) less their zero points, tap by tap."""
    values = w.reshape(len(w), -1).astype(np.int32)
    return values if zero is None else values - zero.astype(np.int32).reshape(-1, 1)


def packed_taps(w: Array, zero: Array | None, taps: Sequence[range], plan: DepthwisePlan) -> Array:
    """Weights (channels, 1, *kernel) less their zero points as the kernel reads them: (blocks, words of taps and their sum, channels of a block)."""
    picked = w[(slice(None), slice(None), *[slice(t.start, t.stop if t.stop >= 0 else None, t.step) for t in taps])]
    values = _centred(picked, zero).T
    blocks = -(-len(w) // plan.width)
    lines = np.zeros((plan.steps + 1, blocks * plan.width), np.int32)
    lines[-1, : len(w)] = values.sum(axis=0)
    if plan.way == "quads":
        bytes_ = np.zeros((plan.steps * 4, blocks * plan.width), np.int8)
        bytes_[: len(values), : len(w)] = values
        words = bytes_.reshape(plan.steps, 4, -1).swapaxes(1, 2).copy().view(np.int32)[..., 0]
        lines[:-1] = words.reshape(plan.steps, blocks, plan.width)[..., BLOCK_ORDER].reshape(plan.steps, -1)
    else:
        lines[:-1, : len(w)] = values & 0xFFFF if plan.way == "pairs" else values
    return np.ascontiguousarray(lines.reshape(len(lines), blocks, plan.width).swapaxes(0, 1))

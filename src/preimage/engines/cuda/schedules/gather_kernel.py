"""Gathering convolution: conv and conv_transpose as one register-tiled kernel, every sum in the contract's order.

    for every tile:                                     # bm channels of a group x bn positions of a phase
        for step in the steps of the phase:             # bk channels under one tap, through shared memory, `stages` deep
            for k in range(bk):  sums[i][j] = fma(x[k][j], w[k][i], sums[i][j])
            where a block ends:  sums go to those of their group, and begin at +0 again     (levels.py)
        finish and store

A block of threads makes bm output channels x bn positions (images and places flattened, so that small maps fill a block). Weights lie
packed [phase][group][block of channels][step][bk][bm]; what the packing adds is -0, and what is filled in for channels
that are missing is +0: their product is -0, which no sum feels. Positions outside the input are +0 and take part (docs/contract.md). A
transposed convolution has no products there, so its `strict` form, for weights that are not finite, leaves them out.
Outputs alone are divided among threads, so the bits depend neither on the tile nor on the number of blocks.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from preimage.engines.cuda.device import Target
from preimage.engines.cuda.gpu import GpuKernel
from preimage.engines.cuda.schedules.pipeline import Pipeline, copy_number, shared_bytes
from preimage.engines.cuda.schedules.tables import BlockRow, item_record, phase_record
from preimage.engines.cuda.tile import Tile
from preimage.engines.ir.arguments import Elements, Integer, Records, elements
from preimage.engines.ir.builder import Bit, Int, Int32, Num
from preimage.engines.ir.epilogue import EpilogueArguments, EpilogueSpec, finish
from preimage.engines.ir.types import ELEMENT_BYTES
from preimage.records import record

__all__ = ["PLAIN", "GatherSpec", "gather_arguments", "shared_levels"]

PLAIN = EpilogueSpec()


class _GatherArguments(EpilogueArguments):
    """Beside these, for every spatial axis k: in_size_k, in_stride_k, in_step_k, out_stride_k, out_step_k. Strides count elements."""

    scratch: Elements = elements("inner", default=0)
    phases: Records[Any]
    items: Records[Any]
    blocks: Records[BlockRow]
    tiles: Integer
    position_blocks: Integer
    out_blocks: Integer
    groups: Integer
    batch: Integer
    channels: Integer  # of a group
    outs: Integer
    in_image: Integer
    in_channel: Integer
    out_image: Integer
    out_channel: Integer


@cache
def gather_arguments(ndim: int) -> type[Any]:
    words = ("in_size", "in_stride", "in_step", "out_stride", "out_step")
    names: dict[str, Any] = {"phases": Records[phase_record(ndim)], "items": Records[item_record(ndim)]}  # type: ignore[misc]
    names |= {f"{word}_{k}": Integer for word in words for k in range(ndim)}
    return type(f"GatherArguments{ndim}", (_GatherArguments,), {"__annotations__": names, "__module__": __name__})


@record
class GatherSpec:
    """What the code depends on. element: as input and output are stored; inner: as sums are kept, and packed weights.

    depth: levels of sums above the blocks, of which in_shared lie in shared memory. ragged: some items' channels are no multiple of bk.
    vector: the positions of a run are neighbours in the result, and aligned.
    """

    ndim: int
    tile: Tile
    depth: int
    in_shared: int
    element: str
    inner: str
    ragged: bool = False
    vector: bool = False
    strict: bool = False
    epilogue: EpilogueSpec = PLAIN

    @property
    def arguments(self) -> type[Any]:
        return gather_arguments(self.ndim)

    @property
    def threads(self) -> int:
        return self.tile.threads

    @property
    def blocks_per_multiprocessor(self) -> int:
        return self.tile.blocks_per_multiprocessor

    @property
    def writes(self) -> tuple[str, ...]:
        return ("output", "scratch")

    @property
    def out(self) -> str:
        return self.element

    @property
    def lanes(self) -> int:
        """Numbers in 16 bytes."""
        return 16 // ELEMENT_BYTES[self.inner]

    @property
    def shared_bytes(self) -> int:
        return shared_bytes(self.tile, self.inner, self.in_shared, strict=self.strict)

    @property
    def scratch_bytes(self) -> int:
        """Memory that a block of threads needs for sums."""
        return ELEMENT_BYTES[self.inner] * (self.depth - self.in_shared) * self.tile.threads * self.tile.sums

    def ir(self, target: Target) -> str:
        return _Gather(target, self).text()


class _Gather:
    """The kernel under construction: what all tiles share."""

    def __init__(self, target: Target, spec: GatherSpec) -> None:
        t = spec.tile
        assert t.threads % t.bn == 0
        assert t.bk % (t.threads // t.bn) == 0
        assert t.bk * t.bm % (spec.lanes * t.threads) == 0
        f = GpuKernel(target, spec)
        self.f, self.spec, self.tile = f, spec, t
        self.args = spec.arguments.read(f, spec)
        self.row, self.column = f.thread_number // t.bn, f.thread_number % t.bn
        self.rows = t.threads // t.bn
        scratch = self.args.scratch.at(f.block(0).wide() * (spec.scratch_bytes // ELEMENT_BYTES[spec.inner]))
        self.pipeline = Pipeline(f, t, spec.inner, spec.depth, spec.in_shared, scratch, strict=spec.strict)

    def axis(self, word: str) -> list[Int32]:
        return [self.f.number(f"{word}_{k}") for k in range(self.spec.ndim)]

    def text(self) -> str:
        f, t = self.f, self.tile
        with f.loop(f.block(0), f.number("tiles"), f.grid, once=False) as loop:
            number = f.index(loop)
            blocks, outs, groups = f.number("position_blocks"), f.number("out_blocks"), f.number("groups")
            rest = number // blocks
            first = (number - rest * blocks) * t.bn
            upper = rest // outs
            out_block = rest - upper * outs
            phase_number = upper // groups
            _Tile(self, self.args.phases[phase_number.wide()], upper - phase_number * groups, out_block, first).write()
        return f.module()


class _Tile:
    """One tile: what its threads copy, add up and store."""

    def __init__(self, kernel: _Gather, phase: Any, group: Int32, out_block: Int32, first: Int32) -> None:
        self.k, self.f, self.spec, self.t = kernel, kernel.f, kernel.spec, kernel.tile
        self.phase, self.group, self.out_block, self.first = phase, group, out_block, first
        self.counts = [getattr(phase, f"count_{k}").narrow() for k in range(self.spec.ndim)]
        self.starts = [getattr(phase, f"start_{k}").narrow() for k in range(self.spec.ndim)]
        plane = self.counts[0]
        for count in self.counts[1:]:
            plane = plane * count
        self.plane, self.positions = plane, self.f.number("batch") * plane
        self.steps = phase.steps.narrow()

    def place(self, position: Int32) -> tuple[Int32, list[Int32]]:
        """Image, and index along every axis, of a flattened position."""
        image = position // self.plane
        rest, found = position - image * self.plane, []
        for count in reversed(self.counts[1:]):
            above = rest // count
            found.append(rest - above * count)
            rest = above
        return image, [rest, *reversed(found)]

    def write(self) -> None:
        f = self.f
        with f.when(self.first < self.positions):
            f.barrier()  # nobody reads the tile before any more
            self._begin_copies()
            item = self.phase.first_item.narrow()
            sums = self.k.pipeline.run(
                self.steps,
                [*self._item(item), self.weights, item],
                self._issue,
                self.phase.first_block.narrow(),
                self.k.args.blocks,
            )
            self._store(sums)

    # ---- copies: every thread has one position, every (threads / bn)th channel of a step, and 16 bytes of weights at a time

    def _begin_copies(self) -> None:
        f, spec = self.f, self.spec
        position = self.first + self.k.column
        self.inside = position < self.positions
        image, index = self.place(self.inside.pick(position, f.i32(0)))
        self.origin = [i * step for i, step in zip(index, self.k.axis("in_step"), strict=True)]
        args = self.k.args
        channel = self.group * f.number("channels") + self.k.row
        self.image = args.input.at(image.wide() * f.long_number("in_image"))
        self.source = self.image.at(channel * f.number("in_channel"))
        step_weights = self.t.bk * self.t.bm
        block = (self.group * f.number("out_blocks") + self.out_block).wide() * (self.steps.wide() * step_weights)
        weights = args.pointer(args.fields["weight"], spec.inner)
        self.weights = weights.at(self.phase.weights + block).at(f.thread_number * spec.lanes)

    def _item(self, number: Int32) -> list[Any]:
        """Where this thread's position lies under an item: address, whether it may be read, channels left."""
        f = self.f
        row = self.k.args.items[number.wide()]
        conditions, offset = [self.inside], row.first_channel.narrow() * f.number("in_channel")
        for k, (size, stride) in enumerate(zip(self.k.axis("in_size"), self.k.axis("in_stride"), strict=True)):
            at = self.origin[k] + getattr(row, f"shift_{k}").narrow()
            conditions.append(at.below(size))
            offset = offset + at * stride
        valid = f.all_of(*conditions)
        return [self.source.at(valid.pick(offset, f.i32(0))), valid.pick(f.i32(1), f.i32(0)), row.channels.narrow()]

    def _issue(self, state: list[Any], stage: Int32) -> list[Any]:
        """Copy one step into a stage, and go on to the next."""
        f, t, k = self.f, self.t, self.k
        source, valid, left, weights, item = state
        to, here = k.pipeline.n_side.at(stage).at(f.thread_number), source
        step = f.number("in_channel") * k.rows
        for j in range(t.bk // k.rows):
            exists = valid > 0
            if self.spec.ragged:
                exists = exists & (left > k.row + j * k.rows)
            copy_number(f, to.at(j * t.threads), here, exists, self.spec.inner)
            here = here.at(step)
        if self.spec.strict:
            flag = (valid > 0).select(f.const(self.spec.inner, 1, 1.0), f.zeros(self.spec.inner, 1))
            k.pipeline.flags.at(stage).at(k.column).store(flag)
        lanes = self.spec.lanes
        for j in range(t.bk * t.bm // (lanes * t.threads)):
            at = j * lanes * t.threads
            f.copy_async(k.pipeline.m_side.at(stage).at(f.thread_number * lanes).at(at), weights.at(at), 16, f.i32(16))
        left = left - t.bk
        source, weights = source.at(f.number("in_channel") * t.bk), weights.at(t.bk * t.bm)
        with f.when(left <= 0, [source, valid, left, item]) as following:
            following.carry = [*self._item(item + 1), item + 1]
        source, valid, left, item = following.result
        return [source, valid, left, weights, item]

    # ---- the result

    def _store(self, sums: list[Num]) -> None:
        f, t, v = self.f, self.t, self.spec.lanes
        size = ELEMENT_BYTES[self.spec.element]
        width = v if self.spec.vector else 1
        image_stride, strides, steps = f.long_number("out_image"), self.k.axis("out_stride"), self.k.axis("out_step")
        runs: list[tuple[int, Bit, Int]] = []
        for column in range(0, t.tn, width):
            position = self.first + self.k.pipeline.n(column)
            image, index = self.place(position)
            at = image.wide() * image_stride
            for i, step, start, stride in zip(index, steps, self.starts, strides, strict=True):
                at = at + ((i * step + start) * stride).wide()
            runs.append((column, position < self.positions, at))
        for row in range(t.tm):
            out = self.out_block * t.bm + self.k.pipeline.m(row)
            with f.when(out < f.number("outs")):
                channel = self.group * f.number("outs") + out
                across = (channel * f.number("out_channel")).wide()
                for column, exists, at in runs:
                    with f.when(exists):
                        value = f.together(sums[row * t.tn + column : row * t.tn + column + width])
                        finish(
                            f, self.spec.epilogue, value, self.spec.element, (at + across) * size, channel, None, True, size * width
                        )  # fmt: skip


def shared_levels(spec: GatherSpec, shared_bytes: int) -> GatherSpec:
    """The spec with as many levels of sums in shared memory as fit."""
    fits = [n for n in range(spec.depth + 1) if replace(spec, in_shared=n).shared_bytes <= shared_bytes]
    return replace(spec, in_shared=max(fits, default=0))

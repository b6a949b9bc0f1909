"""Gathering convolution: conv and conv_transpose as one register-tiled kernel, every sum in the contract's order.

    for every tile:                                     # bm channels of a group x bn positions of a phase
        for step in the steps of the phase:             # bk terms through shared memory, `stages` deep (gather_copies.py)
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
from preimage.engines.cuda.schedules.gather_copies import COPIES
from preimage.engines.cuda.schedules.pipeline import Pipeline, shared_bytes
from preimage.engines.cuda.schedules.positions import Positions
from preimage.engines.cuda.schedules.tables import BlockRow, item_record, phase_record
from preimage.engines.cuda.tile import Tile, Tiled
from preimage.engines.ir.arguments import Elements, Integer, Records, elements, integer
from preimage.engines.ir.builder import Bit, Int, Int32, Num, Ptr
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
    part: Integer = integer(default=0)  # elements from a unit's part to the next


@cache
def gather_arguments(ndim: int) -> type[Any]:
    words = ("in_size", "in_stride", "in_step", "out_stride", "out_step")
    names: dict[str, Any] = {"phases": Records[phase_record(ndim)], "items": Records[item_record(ndim)]}  # type: ignore[misc]
    names |= {f"{word}_{k}": Integer for word in words for k in range(ndim)}
    return type(f"GatherArguments{ndim}", (_GatherArguments,), {"__annotations__": names, "__module__": __name__})


@record
class GatherSpec(Tiled):
    """What the code depends on. element: as input and output are stored; inner: as sums are kept, and packed weights.

    depth: levels of sums above the blocks, of which in_shared lie in shared memory. ragged: some items' channels are no multiple of bk.
    copies: how the inputs of a step are brought (gather_copies.py). vector: what 16 bytes of the result hold where they are aligned
    neighbours: "positions" or "channels". partial: the result is the parts of units, for `join_kernel`.
    """

    ndim: int
    tile: Tile
    depth: int
    in_shared: int
    element: str
    inner: str
    ragged: bool = False
    copies: str = "plain"
    vector: str = ""
    strict: bool = False
    partial: bool = False
    epilogue: EpilogueSpec = PLAIN

    @property
    def arguments(self) -> type[Any]:
        return gather_arguments(self.ndim)

    @property
    def writes(self) -> tuple[str, ...]:
        return ("output", "scratch")

    @property
    def out(self) -> str:
        return self.inner if self.partial else self.element

    @property
    def lanes(self) -> int:
        """Numbers in 16 bytes."""
        return 16 // ELEMENT_BYTES[self.inner]

    @property
    def n_pad(self) -> int:
        """Lines of inputs lie so far apart that copies of one position each, and reads of four lines by a warp, meet no memory bank twice."""
        return 4 if self.copies == "last" or self.tile.matrix else 0

    @property
    def m_pad(self) -> int:
        """And lines of weights."""
        return 4 if self.tile.matrix else 0

    @property
    def shared_bytes(self) -> int:
        return shared_bytes(self.tile, self.inner, self.in_shared, self.m_pad, self.n_pad, self.strict)

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
        if spec.copies == "last":
            assert t.bn % (t.threads // t.bk) == 0
        else:
            assert t.threads % t.bn == 0
            assert t.bk % (t.threads // t.bn) == 0
        assert t.bk * t.bm % (spec.lanes * t.threads) == 0
        assert not t.matrix or (spec.inner == "f64" and not spec.strict and spec.lanes * t.threads % t.bm == 0)
        f = GpuKernel(target, spec)
        self.f, self.spec, self.tile = f, spec, t
        self.args = spec.arguments.read(f, spec)
        scratch = self.args.scratch.at(f.block(0).wide() * (spec.scratch_bytes // ELEMENT_BYTES[spec.inner]))
        self.pipeline = Pipeline(f, t, spec.inner, spec.depth, spec.in_shared, scratch, spec.m_pad, spec.n_pad, spec.strict)

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
        self.group, self.out_block, self.first = group, out_block, first
        self.where = Positions(self.f, kernel.args, self.spec.ndim, phase)

    def write(self) -> None:
        f, phase = self.f, self.where.phase
        with f.when(self.first < self.where.total):
            f.barrier()  # nobody reads the tile before any more
            self.copies = COPIES[self.spec.copies](self.k.pipeline, self.where, self.spec, self.group, self.first)
            steps, begin = phase.steps.narrow(), [self._weights(), *self.copies.state(phase.first_item.narrow())]
            sums = self.k.pipeline.run(steps, begin, self._issue, phase.first_block.narrow(), self.k.args.blocks)
            self._store(sums)

    def _weights(self) -> Ptr:
        """This thread's 16 bytes of the first step's weights."""
        f, spec, phase, args = self.f, self.spec, self.where.phase, self.k.args
        step = self.t.bk * self.t.bm
        block = (self.group * f.number("out_blocks") + self.out_block).wide() * (phase.packed * step) + phase.first_step * step
        weights = args.pointer(args.fields["weight"], spec.inner)
        own: Ptr = weights.at(phase.weights + block).at(f.thread_number * spec.lanes)
        return own

    def _issue(self, state: list[Any], stage: Int32) -> list[Any]:
        """Copy one step into a stage, and go on to the next."""
        f, t, lanes = self.f, self.t, self.spec.lanes
        weights: Ptr = state[0]
        following = self.copies.issue(state[1:], stage)
        first, pad = f.thread_number * lanes, self.spec.m_pad
        to = self.k.pipeline.m_side.at(stage).at(first // t.bm * pad + first if pad else first)
        for j in range(t.bk * t.bm // (lanes * t.threads)):
            at = j * lanes * t.threads
            f.copy_async(to.at(at + at // t.bm * pad), weights.at(at), 16, f.i32(16))
        return [weights.at(t.bk * t.bm), *following]

    def _store(self, sums: list[Num]) -> None:
        f, t = self.f, self.t
        vector = self.spec.vector
        high, wide = (self.spec.lanes if vector == along else 1 for along in ("channels", "positions"))
        size = ELEMENT_BYTES[self.spec.out]
        runs: list[tuple[int, Bit, Int]] = []
        for column in range(0, t.tn, wide):
            position = self.first + self.k.pipeline.n(column)
            runs.append((column, position < self.where.total, self.where.result(position)))
        for row in range(0, t.tm, high):
            out = self.out_block * t.bm + self.k.pipeline.m(row)
            with f.when(out < f.number("outs")):
                channel = self.group * f.number("outs") + out
                across = (channel * f.number("out_channel")).wide()
                for column, exists, at in runs:
                    with f.when(exists):
                        value = f.together([sums[(row + i) * t.tn + column + j] for i in range(high) for j in range(wide)])
                        place, align = (at + across) * size, size * high * wide
                        finish(f, self.spec.epilogue, value, self.spec.out, place, channel, None, high == 1, align)


def shared_levels(spec: GatherSpec, shared_bytes: int) -> GatherSpec:
    """The spec with as many levels of sums in shared memory as fit."""
    fits = [n for n in range(spec.depth + 1) if replace(spec, in_shared=n).shared_bytes <= shared_bytes]
    return replace(spec, in_shared=max(fits, default=0))

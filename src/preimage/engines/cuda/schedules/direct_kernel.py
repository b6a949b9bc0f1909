"""Gathering convolution where a group has few outputs or channels (depthwise, few groups, few outputs): each thread makes its sums alone.

    for every tile:                              # `outs` channels of a group x `columns` positions a thread
        for item in the items of the phase:      # some channels under one tap
            for channel of the item:  sums[i][j] = fma(x[j], w[i], sums[i][j])
            where a block ends:  sums go to those of their group, which are registers too
        finish and store

Neighbouring threads have neighbouring positions; where channels lie innermost in memory, neighbouring groups (`across`). So what a warp
reads lies together. Weights are packed as for the tiles of `gather_kernel`, one row a term: [phase][group][block of outputs][term][outs].
"""

from __future__ import annotations

from typing import Any, ClassVar

from preimage.engines.cuda.device import Target
from preimage.engines.cuda.gpu import GpuKernel
from preimage.engines.cuda.schedules.gather_kernel import PLAIN, gather_arguments
from preimage.engines.cuda.schedules.levels import closed_sums
from preimage.engines.cuda.schedules.positions import Positions
from preimage.engines.cuda.tile import DirectTile, Tiled
from preimage.engines.ir.builder import Bit, Int32, Num, Ptr
from preimage.engines.ir.epilogue import EpilogueSpec, finish
from preimage.engines.ir.types import ELEMENT_BYTES
from preimage.records import record

__all__ = ["DirectSpec"]


@record
class DirectSpec(Tiled):
    """What the code depends on. element: as input and output are stored; inner: as sums are kept, and packed weights; depth: levels of
    sums above the blocks.
    """

    ndim: int
    tile: DirectTile
    depth: int
    element: str
    inner: str
    strict: bool = False
    epilogue: EpilogueSpec = PLAIN

    writes: ClassVar[tuple[str, ...]] = ("output",)
    shared_bytes: ClassVar[int] = 0
    scratch_bytes: ClassVar[int] = 0

    @property
    def arguments(self) -> type[Any]:
        return gather_arguments(self.ndim)

    @property
    def out(self) -> str:
        return self.element

    def ir(self, target: Target) -> str:
        return _Direct(target, self).text()


class _Direct:
    """The kernel under construction."""

    def __init__(self, target: Target, spec: DirectSpec) -> None:
        self.f = f = GpuKernel(target, spec)
        self.spec, self.t = spec, spec.tile
        self.args = spec.arguments.read(f, spec)

    def text(self) -> str:
        f, t = self.f, self.t
        with f.loop(f.block(0), f.number("tiles"), f.grid) as loop:
            number = f.index(loop)
            blocks, outs, groups = f.number("position_blocks"), f.number("out_blocks"), f.number("groups")
            rest = number // blocks
            first = (number - rest * blocks) * t.bn
            upper = rest // outs
            out_block = rest - upper * outs
            if t.across:
                group_blocks = (groups + (t.threads - 1)) // t.threads
                phase_number = upper // group_blocks
                group = (upper - phase_number * group_blocks) * t.threads + f.thread_number
                positions = [first + j for j in range(t.columns)]
            else:
                phase_number = upper // groups
                group = upper - phase_number * groups
                positions = [first + f.thread_number + j * t.threads for j in range(t.columns)]
            where = Positions(f, self.args, self.spec.ndim, self.args.phases[phase_number.wide()])
            with f.when((first < where.total) & (group < groups)):
                self._tile(where, group, out_block, positions)
        return f.module()

    def _tile(self, where: Positions, group: Int32, out_block: Int32, positions: list[Int32]) -> None:
        f, t, spec = self.f, self.t, self.spec
        phase, depth = where.phase, spec.depth
        exists = [position < where.total for position in positions]
        channel = (group * f.number("channels")).wide() * f.long_number("in_channel")
        begins = [where.source(e.pick(p, f.i32(0))) for e, p in zip(exists, positions, strict=True)]
        sources = [(image.at(channel), origin) for image, origin in begins]
        line = (group * f.number("out_blocks") + out_block).wide() * (phase.packed * t.outs)
        weights = self.args.pointer(self.args.fields["weight"], spec.inner).at(phase.weights + line)
        blocks, block = self.args.blocks, phase.first_block.narrow()
        zeros = [f.zeros(spec.inner, 1)] * t.sums
        carry = [weights, block, blocks[block.wide()].steps.narrow(), *zeros * (depth + 1)]
        with f.loop(f.i32(0), phase.items.narrow(), carry=carry) as turn:
            weights, block, left = turn.carry[:3]
            sums = turn.carry[3 : 3 + t.sums]
            item = self.args.items[phase.first_item + f.index(turn).wide()]
            channels = item.channels.narrow()
            weights, *sums = self._item(where, item, channels, sources, weights, sums)
            left = left - channels
            upper = turn.carry[3 + t.sums :]
            if depth:
                with f.when(left <= 0, [block, left, *sums, *upper]) as end:
                    closed = closed_sums(f, sums, upper, blocks[block.wide()].closes.narrow())
                    end.carry = [block + 1, blocks[(block + 1).wide()].steps.narrow(), *zeros, *closed]
                block, left = end.result[:2]
                sums, upper = end.result[2 : 2 + t.sums], end.result[2 + t.sums :]
            turn.carry = [weights, block, left, *sums, *upper]
        self._store(where, turn.result[len(turn.result) - t.sums :], group, out_block, positions, exists)

    def _item(
        self, where: Positions, item: Any, channels: Int32, sources: list[tuple[Ptr, list[Int32]]], weights: Ptr, sums: list[Num]
    ) -> list[Any]:
        """An item's terms added: (weights behind it, sums)."""
        f, t, spec = self.f, self.t, self.spec
        first = item.first_channel.narrow() * f.number("in_channel")
        read: list[tuple[Ptr, Bit]] = []
        for image, origin in sources:
            inside, offset = where.under(item, origin)
            valid = f.all_of(*inside)
            read.append((image.at(valid.pick(first + offset, f.i32(0))), valid))
        begin = [weights, *(source for source, _ in read), *sums]
        with f.loop(f.i32(0), channels, carry=begin) as term:
            weights, places = term.carry[0], term.carry[1 : 1 + t.columns]
            sums = term.carry[1 + t.columns :]
            row = weights.load(t.outs, align=ELEMENT_BYTES[spec.inner] * t.outs)
            xs = [valid.select(place.load(), f.zeros(spec.inner, 1)) for place, (_, valid) in zip(places, read, strict=True)]
            made = []
            for i in range(t.outs):
                for j, x in enumerate(xs):
                    before = sums[i * t.columns + j]
                    after = before.plus_product(x, row.lane(i))
                    made.append(read[j][1].select(after, before) if spec.strict else after)
            step = f.number("in_channel")
            term.carry = [weights.at(t.outs), *(place.at(step) for place in places), *made]
        return [term.result[0], *term.result[1 + t.columns :]]

    def _store(
        self, where: Positions, sums: list[Num], group: Int32, out_block: Int32, positions: list[Int32], exists: list[Bit]
    ) -> None:
        f, t, spec = self.f, self.t, self.spec
        size = ELEMENT_BYTES[spec.element]
        places = [where.result(position) for position in positions]
        for i in range(t.outs):
            out = out_block * t.outs + i
            with f.when(out < f.number("outs")):
                channel = group * f.number("outs") + out
                across = channel.wide() * f.long_number("out_channel")
                for j, at in enumerate(places):
                    with f.when(exists[j]):
                        value = sums[i * t.columns + j]
                        finish(f, spec.epilogue, value, spec.element, (at + across) * size, channel, None, True, size)

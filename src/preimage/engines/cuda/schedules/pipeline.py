"""The loop that all register-tiled kernels share: steps of terms come through shared memory, several ahead, and are added up.

    stage:   bk lines of bm numbers of one operand, then bk lines of bn of the other (`pad` and `n_pad` numbers apart), then `flags`
    step:    wait for the stage to read; barrier; copy a later step into the stage that was read before; bk terms of every sum

One barrier a step is enough: behind it all threads have read the stage that is written next, and see the one that is read next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from preimage.engines.cuda.gpu import GpuKernel
from preimage.engines.cuda.schedules.levels import LevelSums
from preimage.engines.cuda.tile import Tile
from preimage.engines.ir.arguments import Rows
from preimage.engines.ir.builder import Bit, Int32, Num, Ptr
from preimage.engines.ir.types import ELEMENT_BYTES

__all__ = ["Pipeline", "copy_number", "shared_bytes", "stage_numbers"]


def stage_numbers(tile: Tile, pad: int, n_pad: int, strict: bool) -> int:
    """Numbers of a stage. pad, n_pad: between the lines of one operand and of the other."""
    return tile.bk * (tile.bm + tile.bn + pad + n_pad) + (tile.bn if strict else 0)


def shared_bytes(tile: Tile, inner: str, in_shared: int, pad: int = 0, n_pad: int = 0, strict: bool = False) -> int:
    """Of a block, for its stages and the sums of so many levels."""
    numbers = tile.stages * stage_numbers(tile, pad, n_pad, strict)
    return ELEMENT_BYTES[inner] * (numbers + in_shared * tile.threads * tile.sums)


def copy_number(f: GpuKernel, to: Ptr, source: Ptr, valid: Bit, inner: str, width: int = 1) -> None:
    """One number, or `width` neighbours, to shared memory, or zeros. Those of 16 bits are widened on the way, and so they come at once.

    Nothing is read where `valid` does not hold, so the address may be any.
    """
    if source.element == inner:
        size = ELEMENT_BYTES[inner] * width
        f.copy_async(to, source, size, valid.pick(f.i32(size), f.i32(0)))
        return
    with f.when(valid, [f.zeros(inner, 1)]) as known:
        known.carry = [source.load()]
    to.store(known.result[0])


@dataclass
class Pipeline:
    """The loop in one kernel. lanes: numbers of 16 bytes, which a thread reads at a time."""

    f: GpuKernel
    tile: Tile
    inner: str
    depth: int
    in_shared: int
    scratch: Ptr
    pad: int = 0
    n_pad: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        f, t = self.f, self.tile
        self.lanes = 16 // ELEMENT_BYTES[self.inner]
        self.stage = stage_numbers(t, self.pad, self.n_pad, self.strict)
        base = f.shared(self.inner)
        self.m_side, self.n_side = base, base.at(t.bk * (t.bm + self.pad))
        self.flags = base.at(t.bk * (t.bm + t.bn + self.pad + self.n_pad))
        warp, lane = f.thread_number // 32, f.thread_number % 32
        self.m0 = (warp % t.warps_m) * (8 * t.tm) + (lane // 4) * (1 if t.matrix else self.lanes)
        self.n0 = (warp // t.warps_m) * (4 * t.tn) + (lane % 4) * self.lanes
        held = base.at(t.stages * self.stage)
        self.levels = LevelSums(f, self.depth, t.sums, self.lanes, self.inner, self.in_shared, held, self.scratch)

    def m(self, number: int) -> Int32:
        """Where the number-th of the thread's tm rows lies in the tile."""
        if self.tile.matrix:
            return self.m0 + 8 * number
        return self.m0 + (number // self.lanes * 8 * self.lanes + number % self.lanes)

    def n(self, number: int) -> Int32:
        """Where the number-th of its tn columns lies."""
        return self.n0 + (number // self.lanes * 4 * self.lanes + number % self.lanes)

    def run(
        self,
        steps: Int32,
        state: Sequence[Any],
        issue: Callable[[list[Any], Int32], list[Any]],
        first_block: Int32,
        blocks: Rows[Any],
    ) -> list[Num]:
        """The sums of a tile. issue(state, stage): copies the next step into a stage, and gives the state after it; blocks: rows whose
        columns `steps` and `closes` say how long a block is, and how many levels of sums end with it.
        """
        f, t, stage = self.f, self.tile, self.stage
        width = len(state)
        self.levels.clear()
        now = list(state)
        for ahead in range(t.stages - 1):
            with f.when(steps > ahead, now) as some:
                some.carry = issue(now, f.i32(ahead * stage))
            now = some.result
            f.commit()
        sums = [f.zeros(self.inner, 1)] * t.sums
        left = blocks[first_block.wide()].steps.narrow()
        carry = [f.i32(0), f.i32((t.stages - 1) * stage), first_block, left, *now, *sums]
        with f.loop(f.i32(0), steps, carry=carry) as step:
            reading, writing, block, left = step.carry[:4]
            now, sums = step.carry[4 : 4 + width], step.carry[4 + width :]
            f.wait_group(t.stages - 2)
            f.barrier()
            with f.when(step.index + (t.stages - 1) < steps, now) as more:
                more.carry = issue(now, writing)
            now = more.result
            f.commit()
            sums = self._products(reading, sums)
            if self.depth:
                left = left - 1
                with f.when(left <= 0, [block, left, *sums]) as end:
                    closed = self.levels.close(sums, blocks[block.wide()].closes.narrow())
                    end.carry = [block + 1, blocks[(block + 1).wide()].steps.narrow(), *closed]
                block, left, *sums = end.result
            step.carry = [self._after(reading), self._after(writing), block, left, *now, *sums]
        return self.levels.total(step.result[4 + width :])

    def _after(self, stage: Int32) -> Int32:
        moved = stage + self.stage
        return moved.equals(self.tile.stages * self.stage).pick(self.f.i32(0), moved)

    def _fragment(self, stage: Int32, k: int) -> tuple[list[Num], list[Num]]:
        """What a thread reads of the k-th terms of a stage."""
        t, v = self.tile, self.lanes
        m_side = self.m_side.at(stage).at(self.m0).at(k * (t.bm + self.pad))
        n_side = self.n_side.at(stage).at(self.n0).at(k * (t.bn + self.n_pad))
        rows = [m_side.at(r * 8 * v).load(v, align=16) for r in range(t.tm // v)]
        columns = [n_side.at(c * 4 * v).load(v, align=16) for c in range(t.tn // v)]
        return [run.lane(i) for run in rows for i in range(v)], [run.lane(i) for run in columns for i in range(v)]

    def _products(self, stage: Int32, sums: list[Num]) -> list[Num]:
        """bk terms of every chain."""
        if self.tile.matrix:
            return self._matrix_products(stage, sums)
        t, v = self.tile, self.lanes
        flags: list[Bit] = []
        if self.strict:
            zero, at = self.f.zeros(self.inner, 1), self.flags.at(stage).at(self.n0)
            runs = [at.at(c * 4 * v).load(v, align=16) for c in range(t.tn // v)]
            flags = [run.lane(i).is_above(zero) for run in runs for i in range(v)]
        rows, columns = self._fragment(stage, 0)
        for k in range(t.bk):
            ahead = self._fragment(stage, k + 1) if k + 1 < t.bk else (rows, columns)
            new = [rows[i].fma(columns[j], sums[i * t.tn + j]) for i in range(t.tm) for j in range(t.tn)]
            if flags:
                new = [flags[n % t.tn].select(value, sums[n]) for n, value in enumerate(new)]
            sums, (rows, columns) = new, ahead
        return sums

    def _matrix_products(self, stage: Int32, sums: list[Num]) -> list[Num]:
        """The same, four terms at a time by all threads of a warp."""
        f, t = self.f, self.tile
        lane = f.thread_number % 32
        term, line = lane % 4, lane // 4
        m_side = self.m_side.at(stage).at(term * (t.bm + self.pad) + self.m0)  # m0 has the line in it already
        n_side = self.n_side.at(stage).at(term * (t.bn + self.n_pad) + (self.n0 - term * self.lanes) + line)
        for k in range(0, t.bk, 4):
            rows = [m_side.at(k * (t.bm + self.pad) + 8 * r).load() for r in range(t.tm)]
            columns = [n_side.at(k * (t.bn + self.n_pad) + 8 * c).load() for c in range(t.tn // 2)]
            sums = f.multiply(rows, columns, sums)
        return sums

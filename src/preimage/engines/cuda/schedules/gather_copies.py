"""How the threads of a gather bring a step's inputs to shared memory: one class for each way in which they lie.

plain    a thread has one position and every (threads / bn)th channel of a step: neighbouring threads read neighbouring positions
spread   for few channels: a step holds terms of several taps, so every number has an item, and a place, of its own
last     for channels innermost in memory: a thread has one channel of a step and every (threads / bk)th position

`state` is what a thread needs for the next step; `issue` copies one, and gives the state after it.
"""

from __future__ import annotations

from typing import Any

from preimage.engines.cuda.gpu import GpuKernel
from preimage.engines.cuda.schedules.pipeline import Pipeline, copy_number
from preimage.engines.cuda.schedules.positions import Positions
from preimage.engines.cuda.tile import Tile
from preimage.engines.ir.builder import Bit, Int32, Ptr

__all__ = ["COPIES", "Copies"]


class Copies:
    """One tile's. spec: the gather's; group: of the tile; first: its first position."""

    def __init__(self, pipeline: Pipeline, where: Positions, spec: Any, group: Int32, first: Int32) -> None:
        self.f: GpuKernel = where.f
        self.t: Tile = pipeline.tile
        self.pipeline, self.where, self.spec = pipeline, where, spec
        self.base = group * self.f.number("channels")
        self.begin(first)

    def begin(self, first: Int32) -> None:
        raise NotImplementedError

    def state(self, item: Int32) -> list[Any]:
        raise NotImplementedError

    def issue(self, state: list[Any], stage: Int32) -> list[Any]:
        raise NotImplementedError

    def _source(self, position: Int32) -> tuple[Bit, Ptr, list[Int32]]:
        """Whether a position exists, its image at the group's first channel, and where its window begins."""
        exists = position < self.where.total
        image, origin = self.where.source(exists.pick(position, self.f.i32(0)))
        return exists, image.at(self.base * self.f.number("in_channel")), origin

    def _line(self, stage: Int32) -> Ptr:
        """Where a thread that has one position, and every (threads / bn)th line of a step, puts its first number."""
        pad, number = self.pipeline.n_pad, self.f.thread_number
        place: Ptr = self.pipeline.n_side.at(stage).at(number // self.t.bn * pad + number if pad else number)
        return place

    def _item(self, number: Int32) -> Any:
        return self.where.args.items[number.wide()]


class Plain(Copies):
    """state: address, whether it may be read, channels left, item."""

    def begin(self, first: Int32) -> None:
        t = self.t
        self.row, self.column, self.rows = self.f.thread_number // t.bn, self.f.thread_number % t.bn, t.threads // t.bn
        self.exists, self.image, self.origin = self._source(first + self.column)
        self.source = self.image.at(self.row * self.f.number("in_channel"))

    def state(self, item: Int32) -> list[Any]:
        f, row = self.f, self._item(item)
        inside, offset = self.where.under(row, self.origin)
        offset = row.first_channel.narrow() * f.number("in_channel") + offset
        valid = f.all_of(self.exists, *inside)
        return [self.source.at(valid.pick(offset, f.i32(0))), valid.pick(f.i32(1), f.i32(0)), row.channels.narrow(), item]

    def issue(self, state: list[Any], stage: Int32) -> list[Any]:
        f, t = self.f, self.t
        source, valid, left, item = state
        to, here = self._line(stage), source
        step = f.number("in_channel") * self.rows
        for j in range(t.bk // self.rows):
            exists = valid > 0
            if self.spec.ragged:
                exists = exists & (left > self.row + j * self.rows)
            copy_number(f, to.at(j * self.rows * (t.bn + self.pipeline.n_pad)), here, exists, self.spec.inner)
            here = here.at(step)
        if self.spec.strict:
            flag = (valid > 0).select(f.const(self.spec.inner, 1, 1.0), f.zeros(self.spec.inner, 1))
            self.pipeline.flags.at(stage).at(self.column).store(flag)
        left, source = left - t.bk, source.at(f.number("in_channel") * t.bk)
        with f.when(left <= 0, [source, valid, left, item]) as following:
            following.carry = self.state(item + 1)
        return following.result


class Spread(Copies):
    """state: the step's first item."""

    def begin(self, first: Int32) -> None:
        t = self.t
        self.row, self.column, self.rows = self.f.thread_number // t.bn, self.f.thread_number % t.bn, t.threads // t.bn
        self.exists, self.image, self.origin = self._source(first + self.column)

    def state(self, item: Int32) -> list[Any]:
        return [item]

    def issue(self, state: list[Any], stage: Int32) -> list[Any]:
        f, t = self.f, self.t
        to = self._line(stage)
        for j in range(t.bk // self.rows):
            row = self._item(state[0] + (self.row + j * self.rows))
            inside, offset = self.where.under(row, self.origin)
            valid = f.all_of(self.exists, row.channels.narrow() > 0, *inside)
            offset = row.first_channel.narrow() * f.number("in_channel") + offset
            copy_number(
                f,
                to.at(j * self.rows * (t.bn + self.pipeline.n_pad)),
                self.image.at(valid.pick(offset, f.i32(0))),
                valid,
                self.spec.inner,
            )
        return [state[0] + t.bk]


class Last(Copies):
    """state: of every position its address and whether it may be read, then channels left, item."""

    def begin(self, first: Int32) -> None:
        f, t = self.f, self.t
        self.channel, self.row, self.rows = f.thread_number % t.bk, f.thread_number // t.bk, t.threads // t.bk
        self.sources = [self._source(first + self.row + j * self.rows) for j in range(t.bn // self.rows)]

    def state(self, item: Int32) -> list[Any]:
        f, row = self.f, self._item(item)
        channel = (row.first_channel.narrow() + self.channel) * f.number("in_channel")
        found: list[Any] = []
        for exists, image, origin in self.sources:
            inside, offset = self.where.under(row, origin)
            valid = f.all_of(exists, *inside)
            found += [image.at(valid.pick(channel + offset, f.i32(0))), valid.pick(f.i32(1), f.i32(0))]
        return [*found, row.channels.narrow(), item]

    def issue(self, state: list[Any], stage: Int32) -> list[Any]:
        f, t, pad = self.f, self.t, self.pipeline.n_pad
        left, item = state[-2:]
        to = self.pipeline.n_side.at(stage).at(self.channel * (t.bn + pad) + self.row)
        moved: list[Any] = []
        for j in range(t.bn // self.rows):
            source, valid = state[2 * j : 2 * j + 2]
            exists = valid > 0
            if self.spec.ragged:
                exists = exists & (left > self.channel)
            copy_number(f, to.at(j * self.rows), source, exists, self.spec.inner)
            if self.spec.strict:
                flag = (valid > 0).select(f.const(self.spec.inner, 1, 1.0), f.zeros(self.spec.inner, 1))
                with f.when(self.channel < 1):
                    self.pipeline.flags.at(stage).at(self.row + j * self.rows).store(flag)
            moved += [source.at(f.number("in_channel") * t.bk), valid]
        left = left - t.bk
        with f.when(left <= 0, [*moved, left, item]) as following:
            following.carry = self.state(item + 1)
        return following.result


COPIES: dict[str, type[Copies]] = {"plain": Plain, "spread": Spread, "last": Last}

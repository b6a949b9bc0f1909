"""Products of 8-bit integers, sums exact:

    for a task: some rows of a product, some panels of its columns
        rows of A, as words, in the thread's memory        # rows_kernel.py
        for panel of columns                               # columns_kernel.py
            for `rows` rows side by side
                sums = 0
                for word of terms
                    sums += word of A, spread, x words of B, in registers
                stored: as they are, scaled, or scaled, rounded, moved to the zero point and held within the type's range

Integer sums have no order, so tiles, tasks and instructions change no bit.
"""

from __future__ import annotations

from preimage.engines.ir.builder import Bit, Int, Kernel, Num, Ptr
from preimage.engines.jit.products.integers.columns_kernel import panel_words
from preimage.engines.jit.products.integers.finish_kernel import Finishing
from preimage.engines.jit.products.integers.product_arguments import ProductArguments, ProductSpec
from preimage.engines.jit.products.integers.rows_kernel import pack_rows, zero_point
from preimage.engines.jit.products.integers.words_kernel import minus, sum_of_products, times

__all__ = ["UNROLL", "build"]

#: Words of the inner loop's body: rows are padded to whole numbers of them.
UNROLL = 4


def build(spec: ProductSpec) -> str:
    """The kernel's IR text. Tasks: products x shares of rows x shares of panels."""
    f = Kernel()
    args = ProductArguments.read(f, spec)
    product, rest = f.task // args.product_tasks, f.task % args.product_tasks
    first = rest // args.column_tasks * args.share
    rows = args.share.minimum(args.rows - first)
    start = rest % args.column_tasks * args.panel_share
    own = args.scratch.at_bytes(f.thread * args.thread_bytes)
    pack_rows(f, spec, args, product, first, rows, own)
    matrix = args.weight.at_bytes(args.b_places.at(product).load_int())
    out = args.output.at_bytes(args.out_places.at(product).load_int())
    pitch = args.words * spec.width + panel_words(spec.way, 0, spec.width)
    with f.loop(start, (start + args.panel_share).minimum(args.panels)) as panel:
        columns = matrix.at(panel.index * pitch)
        with f.loop(0, rows, spec.rows, once=True) as top:
            sums = _sums(f, spec, args, own.at_bytes(top.index * args.pitch), columns)
            held = f.room("i32", spec.rows * spec.width)
            for k, value in enumerate(sums):
                held.at(k * spec.lanes).store(value)
            channel = args.channel_places.at(product).load_int()
            tile = _Tile(f, spec, args.here, own, columns.at(args.words * spec.width), panel.index * spec.width, channel)
            with f.loop(0, (rows - top.index).minimum(spec.rows), once=True) as r:
                row = top.index + r.index
                tile.store(out, first + row, row, held.at(r.index * spec.width))
    return f.ir()


def _sums(f: Kernel, spec: ProductSpec, args: ProductArguments, a: Ptr, b: Ptr) -> list[Num]:
    """Of a tile: row by row the sums of its vectors."""
    pitch, count = args.pitch, spec.rows * spec.vectors
    lines = [a.at_bytes(pitch * r) for r in range(spec.rows)]
    with f.loop(0, args.words, UNROLL, carry=[f.zeros("i32", spec.lanes)] * count, once=True) as word:
        sums = list(word.carry)
        line = b.at(word.index * spec.width)
        for k in range(UNROLL):
            vectors = [line.at(k * spec.width + v * spec.lanes).load(spec.lanes) for v in range(spec.vectors)]
            for r in range(spec.rows):
                value = lines[r].at(word.index).at(k).splat(spec.lanes)
                for v in range(spec.vectors):
                    at = r * spec.vectors + v
                    sums[at] = sum_of_products(f, spec.way, sums[at], value, vectors[v])
        word.carry = sums
    return list(word.result)


class _Tile:
    """What is done with the sums of a tile. behind: what stands behind the words of its panel; column: its first; channel: the product's first."""

    def __init__(
        self, f: Kernel, spec: ProductSpec, args: ProductArguments, own: Ptr, behind: Ptr, column: Int, channel: Int
    ) -> None:  # fmt: skip
        self.f, self.spec, self.args = f, spec, args
        self.own, self.behind, self.column, self.channel = own, behind, column, channel
        self.finishing = Finishing(f, spec, args)

    def store(self, out: Ptr, row: Int, place: Int, sums: Ptr) -> None:
        """The results of one row; place: of the row in the thread's memory. A whole panel of bytes is stored at once."""
        f, spec, args = self.f, self.spec, self.args
        if spec.axes:
            line = out.at_bytes(self.own.as_type("i64").at_bytes(args.row_places).at(place).load_int())
        else:
            line = out.at_bytes(row * args.out_row)
        whole = args.columns >= self.column + spec.width
        with f.when(whole):
            values = [self._value(place, sums, v, None) for v in range(spec.vectors)]
            if spec.kind == "i8" and len(values) == 2:
                values = [values[0].shuffle(values[1], range(spec.width))]
            for v, value in enumerate(values):
                line.at(self.column + v * spec.lanes).store(self.finishing.stored(value))
        with f.when(whole.negated()):
            for v in range(spec.vectors):
                at = self.column + v * spec.lanes
                mask = f.lane_mask(spec.lanes, args.columns - at)
                line.at(at).store(self.finishing.stored(self._value(place, sums, v, mask)), mask)

    def _value(self, place: Int, sums: Ptr, vector: int, mask: Bit | None) -> Num:
        value = sums.at(vector * self.spec.lanes).load(self.spec.lanes)
        total = self._without_zeros(value, place, vector) if self.spec.way == "quads" else value
        return self.finishing.finished(total, self.channel + self.column + vector * self.spec.lanes, mask)

    def _without_zeros(self, sums: Num, place: Int, vector: int) -> Num:
        """sum ab - a_zero (sum b - terms b_zero) - b_zero sum a, of numbers as the kernel counts them."""
        f, spec, args = self.f, self.spec, self.args
        at, lanes = vector * spec.lanes, spec.lanes
        column = self.behind.at(at).load(lanes)
        sums = minus(f, sums, times(f, column, zero_point(f, spec, args).splat(lanes)))
        if not spec.zeros:
            return sums
        zero = self.behind.at(spec.width + at).load(lanes)
        return minus(f, sums, times(f, zero, self.own.at_bytes(args.row_sums).at(place).splat(lanes)))

"""The rows of the left factor A that a task takes, written to the thread's memory as words (words_kernel.py): `pairs` as 16-bit numbers less the
zero point, `quads` as bytes without sign. An image is gathered: the positions that a row's taps meet, one run of neighbouring bytes after
another, the zero point where they lie outside.
"""

from __future__ import annotations

from preimage.engines.ir.builder import Bit, Int, Kernel, Num, Ptr
from preimage.engines.jit.products.integers.product_arguments import ProductArguments, ProductSpec
from preimage.engines.jit.products.integers.words_kernel import extended, flipped, minus

__all__ = ["Bytes", "pack_rows", "zero_point"]

#: Bytes that are moved at a time; shorter runs go by halves of it, then one by one.
PIECE = 16


def zero_point(f: Kernel, spec: ProductSpec, args: ProductArguments) -> Num:
    """A's zero point as a scalar of 32 bits, as the kernel counts it."""
    given = args.a_zero.load()
    if spec.way == "quads" and spec.signed:
        return extended(f, flipped(f, given), False)
    return extended(f, given, spec.signed)


class Bytes:
    """How runs of bytes are moved: as they are. outside: what stands for zero."""

    item, element = 1, "i8"

    def __init__(self, f: Kernel, zero: Num) -> None:
        self.f, self.zero = f, zero

    def outside(self, lanes: int) -> Num:
        """What stands for zero."""
        return self.zero.splat(lanes)

    def terms(self, bytes_: Num) -> Num:
        """What bytes become."""
        return bytes_

    def put(self, target: Ptr, at: Int, value: Num) -> None:
        """Store terms behind the first `at`."""
        target.as_type(self.element).at_bytes(at * self.item).store(value)

    def copy(self, source: Ptr, target: Ptr, count: Int) -> None:
        """`count` neighbouring bytes. The last vector of a run ends where the run does."""
        f = self.f

        def moved(at: Int, lanes: int) -> None:
            self.put(target, at, self.terms(source.at_bytes(at).load(lanes)))

        with f.loop(0, count - (PIECE - 1), PIECE) as k:
            moved(k.index, PIECE)
        long = count >= PIECE
        with f.when(long):
            moved(count - PIECE, PIECE)
        with f.when(long.negated()):
            half = PIECE // 2
            enough = count >= half
            with f.when(enough):
                moved(f.i64(0), half)
                moved(count - half, half)
            with f.when(enough.negated()), f.loop(0, count) as k:
                moved(k.index, 1)

    def fill(self, target: Ptr, first: Int, last: Int) -> None:
        """Zero points from one term to another."""
        f = self.f
        with f.loop(first, last - (PIECE // 2 - 1), PIECE // 2) as k:
            self.put(target, k.index, self.outside(PIECE // 2))
        with f.loop(last - (last - first).maximum(0) % (PIECE // 2), last) as k:
            self.put(target, k.index, self.outside(1))


class _Terms(Bytes):
    """As the terms of words."""

    def __init__(self, f: Kernel, spec: ProductSpec, args: ProductArguments) -> None:
        given = args.a_zero.load()
        self.spec = spec
        if spec.way == "quads":
            super().__init__(f, flipped(f, given) if spec.signed else given)
            return
        self.item, self.element = 2, "i16"
        super().__init__(f, extended(f, given, spec.signed, "i16"))

    def outside(self, lanes: int) -> Num:
        return self.zero.splat(lanes) if self.spec.way == "quads" else self.f.zeros("i16", lanes)

    def terms(self, bytes_: Num) -> Num:
        if self.spec.way == "quads":
            return flipped(self.f, bytes_) if self.spec.signed else bytes_
        return minus(self.f, extended(self.f, bytes_, self.spec.signed, "i16"), self.zero.splat(bytes_.lanes))


def pack_rows(f: Kernel, spec: ProductSpec, args: ProductArguments, product: Int, first: Int, rows: Int, own: Ptr) -> None:
    """Write rows `first` ... to `own`, with the sums of their terms and the places of their results where these count."""
    moves = _Terms(f, spec, args)
    source = args.a.at_bytes(args.a_places.at(product).load_int())
    room = args.words * 4 if spec.way == "quads" else args.words * 2  # terms of a packed row
    with f.loop(0, rows, once=True) as row:
        target = own.at_bytes(row.index * args.pitch)
        if spec.axes:
            _gather(f, spec, args, moves, first + row.index, row.index, source, target, own)
        else:
            moves.copy(source.at_bytes((first + row.index) * args.a_row), target, args.terms)
        moves.fill(target, args.terms, room)
        if spec.zeros:
            own.at_bytes(args.row_sums).at(row.index).store(_sum(f, target, args.terms))


def _gather(
    f: Kernel, spec: ProductSpec, args: ProductArguments, moves: Bytes, row: Int, place: Int, source: Ptr, target: Ptr, own: Ptr
) -> None:  # fmt: skip
    """One row of an image; place: of the row in the thread's memory."""
    y, x = row // args.out_x, row % args.out_x
    result = x * args.out_step_x
    z = None
    if spec.axes == 3:
        z, y = y // args.out_y, y % args.out_y
        result = result + z * args.out_step_z
    own.as_type("i64").at_bytes(args.row_places).at(place).store_int(result + y * args.out_step_y)
    if z is None:
        _plane(f, args, moves, source, target, (y, x), None)
        return
    front = z * args.step_z + args.base_z
    plane = args.runs_y * args.runs_x * args.run_taps * args.channels * moves.item
    with f.loop(0, args.runs_z, once=True) as tz:
        at_z = front + tz.index * args.tap_z
        to = target.at_bytes(tz.index * plane)
        _plane(f, args, moves, source.at_bytes(at_z * args.stride_z), to, (y, x), at_z.below(args.size_z))


def _plane(
    f: Kernel, args: ProductArguments, moves: Bytes, source: Ptr, target: Ptr, output: tuple[Int, Int], there: Bit | None
) -> None:  # fmt: skip
    """The runs of one plane of an image; there: whether it is one."""
    top, left = output[0] * args.step_y + args.base_y, output[1] * args.step_x + args.base_x
    run = args.run_taps * args.channels
    with f.loop(0, args.runs_y, once=True) as ty:
        at_y = top + ty.index * args.tap_y
        line = source.at_bytes(at_y * args.stride_y)
        inside = at_y.below(args.size_y) if there is None else at_y.below(args.size_y) & there
        with f.loop(0, args.runs_x, once=True) as tx:
            at_x = left + tx.index * args.tap_x
            to = target.at_bytes((ty.index * args.runs_x + tx.index) * run * moves.item)
            whole = inside & (at_x >= 0) & (at_x + args.run_taps <= args.size_x)
            with f.when(whole):
                moves.copy(line.at_bytes(at_x * args.stride_x), to, run)
            with f.when(whole.negated()):
                begin = (f.i64(0) - at_x).maximum(0).minimum(args.run_taps)
                end = (args.size_x - at_x).maximum(0).minimum(args.run_taps)
                begin, end = inside.pick(begin, args.run_taps), inside.pick(end.maximum(begin), args.run_taps)
                moves.fill(to, f.i64(0), begin * args.channels)
                first = to.at_bytes(begin * args.channels * moves.item)
                moves.copy(line.at_bytes((at_x + begin) * args.stride_x), first, (end - begin) * args.channels)
                moves.fill(to, end * args.channels, run)


def _sum(f: Kernel, target: Ptr, terms: Int) -> Num:
    """The sum of a packed row's bytes."""
    with f.loop(0, terms, carry=[f.zeros("i32", 1)]) as k:
        value = extended(f, target.as_type("i8").at_bytes(k.index).load(), False)
        k.carry = [Num(f, f.let(f"add i32 {k.carry[0].value}, {value.value}"), "i32", 1)]
    total: Num = k.result[0]
    return total

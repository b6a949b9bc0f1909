"""Sine and cosine on vectors, with the same bits on every CPU.

    x = n pi/2 + r,  |r| <= pi/4 (and a little);   sin(r) = r + r^3 S(r^2),   cos(r) = 1 - r^2 / 2 + r^4 C(r^2)

S and C are Chebyshev fits (mpmath.chebyfit, 50 digits; errors 2e-20, and 3e-11 where f32 is computed in f64). Up to 2^30, n times pi/2 is
taken off as three numbers. Larger arguments, which are rare, go element by element: those binary digits of 2/pi that can reach the fraction
of x 2/pi are multiplied with x in integers (Payne and Hanek 1983).
"""

from __future__ import annotations

import itertools

from preimage.engines.ir.builder import Int, Kernel, Num, Ptr
from preimage.engines.ir.math import polynomial
from preimage.engines.ir.words import Word, converted, mirrored

__all__ = ["cos", "sin"]

# fmt: off
_S = (
    -7.5842639960341665692e-13, 1.6058489509558741758e-10, -2.5052105961377000552e-8, 2.7557319218542834916e-6,
    -0.00019841269841264020417, 0.0083333333333333309988, -0.16666666666666666665,
)
_C = (
    -1.1379086634729478872e-11, 2.0876096058995369453e-9, -2.7557317025923459087e-7, 0.000024801587298282115935,
    -0.0013888888888887071015, 0.041666666666666665046,
)
_S_SHORT = (2.7237577241177232765e-6, -0.00019839989577384701878, 0.008333331691203201197, -0.16666666663373742339)
_C_SHORT = (-2.7290652397974527248e-7, 0.000024800519285940304243, -0.0013888887518862507279, 0.041666666663919334808)
#: 64 zeros, then the binary digits of 2/pi.
_TWO_OVER_PI = (
    0x0000000000000000, 0xA2F9836E4E441529, 0xFC2757D1F534DDC0, 0xDB6295993C439041, 0xFE5163ABDEBBC561,
    0xB7246E3A424DD2E0, 0x06492EEA09D1921C, 0xFE1DEB1CB129A73E, 0xE88235F52EBB4484, 0xE99C7026B45F7E41,
    0x3991D639835339F4, 0x9C845F8BBDF9283B, 0x1FF897FFDE05980F, 0xEF2F118B5A0A6D1F, 0x6D367ECF27CB09B7,
    0x4F463F669E5FEA2D, 0x7527BAC7EBE5F17B, 0x3D0739F78A5292EA, 0x6BFB5FB11F8D5D08, 0x56033046FC7B6BAB,
    0xF0CFBC209AF4361D,
)
# fmt: on
_HALF_PI = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33)
_SHIFT = 1.5 * 2**52
_FAR = 2.0**30


def sin(f: Kernel, x: Num) -> Num:
    """The sine; NaN of an infinity."""
    return _wave(f, x, 0)


def cos(f: Kernel, x: Num) -> Num:
    """The cosine; NaN of an infinity."""
    return _wave(f, x, 1)


def _wave(f: Kernel, x: Num, quarter: int) -> Num:
    short, wide = x.dtype == "f32", converted(x, "f64")
    quadrant, r, rest = _reduced(f, wide, short)
    quadrant = quadrant + quarter
    z = r * r
    number = f.const
    one = number("f64", x.lanes, 1.0)
    half = z * number("f64", x.lanes, 0.5)
    if short:
        sine = (r * z).fma(polynomial(f, _S_SHORT, z), r)
        cosine = (z * z).fma(polynomial(f, _C_SHORT, z), one - half)
    else:
        v, s = z * r, polynomial(f, _S[:-1], z)
        first = number("f64", x.lanes, _S[-1])
        sine = r - (z.fma((rest * number("f64", x.lanes, 0.5)) - v * s, mirrored(rest)) - v * first)
        w = one - half
        cosine = w + (((one - w) - half) + (z.fma(z * polynomial(f, _C, z), mirrored(r * rest))))
    odd = (quadrant & 1).equals(1)
    value: Num = odd.select(cosine, sine)
    value = (quadrant & 2).equals(2).select(mirrored(value), value)
    if quarter == 0:  # of -0 too
        value = x.is_equal(f.zeros(x.dtype, x.lanes)).select(wide, value)
    endless = wide.absolute().is_equal(number("f64", x.lanes, float("inf")))
    return converted(endless.select(number("f64", x.lanes, float("nan")), value), x.dtype)


def _reduced(f: Kernel, x: Num, short: bool) -> tuple[Word, Num, Num]:
    """The quadrant (modulo 4, in its lowest bits), r, and what r leaves out."""
    lanes = x.lanes

    def number(value: float) -> Num:
        return f.const("f64", lanes, value)

    high, middle, low = _HALF_PI
    shifted = x.fma(number(0.63661977236758134308), number(_SHIFT))
    minus = number(_SHIFT) - shifted
    first = minus.fma(number(high), x)  # exact
    if short:
        r, rest = minus.fma(number(middle), first), f.zeros("f64", lanes)
    else:
        second = minus * number(middle)
        lost = minus.fma(number(middle), mirrored(second))
        r = first + second
        back = r - first
        rest = minus.fma(number(low), lost) + ((first - (r - back)) + (second - back))
    rooms = [f.room("f64", lanes) for _ in range(4)]
    for room, value in zip(rooms, (x, r, rest, Word.of(shifted).as_float()), strict=True):
        room.store(value)
    size = x.absolute()
    far = size.is_below(number(_FAR)).negated() & size.is_below(number(float("inf")))
    with f.when(far.anywhere()), f.loop(0, lanes) as lane:
        one = rooms[0].at(lane.index).load().absolute()
        here = one.is_below(f.const("f64", 1, _FAR)).negated() & one.is_below(f.const("f64", 1, float("inf")))
        with f.when(here):
            _reduce_far(f, lane.index, rooms)
    return Word.of(rooms[3].load(lanes)), rooms[1].load(lanes), rooms[2].load(lanes)


def _reduce_far(f: Kernel, lane: Int, rooms: list[Ptr]) -> None:
    """One element: |x| = m 2^e, whose product with 2/pi is wanted modulo 4."""
    x = rooms[0].at(lane).load()
    bits = Word.of(x)
    m = (bits & ((1 << 52) - 1)) | (1 << 52)
    start = ((bits >> 52) & 0x7FF) + (64 - 2 - 1075)  # digits before these make multiples of 4
    words = f.table("two_over_pi", _TWO_OVER_PI)
    place, shift = Int(f, (start >> 6).value), (start & 63).value
    digits = [words.at(place + k).load_int().value for k in range(4)]
    f.declare("llvm.fshl.i64", "i64", "i64, i64, i64")
    top, middle, low = (f.let(f"call i64 @llvm.fshl.i64(i64 {a}, i64 {b}, i64 {shift})") for a, b in itertools.pairwise(digits))
    wide = f.let(f"zext i64 {m.value} to i128")

    def times(word: str) -> str:
        return f.let(f"mul i128 {wide}, {f.let(f'zext i64 {word} to i128')}")

    tail = f.let(f"lshr i128 {times(low)}, 64")
    whole = f.let(f"add i128 {tail}, {times(middle)}")
    whole = f.let(f"add i128 {whole}, {f.let(f'shl i128 {times(top)}, 64')}")
    # The two highest bits are the quadrant, rounded to the nearest; what is left is a signed fraction of pi/2.
    raised = f.let(f"add i128 {whole}, {1 << 125}")
    quarters = f.let(f"lshr i128 {raised}, 126")
    quadrant = Word(f, f.let(f"trunc i128 {quarters} to i64"), "i64", 1)
    left = f.let(f"sub i128 {whole}, {f.let(f'shl i128 {quarters}, 126')}")
    below = f.let(f"icmp slt i128 {left}, 0")
    size = f.let(f"select i1 {below}, i128 {f.let(f'sub i128 0, {left}')}, i128 {left}")

    def part(shift: int, bits: int) -> Num:
        """Some bits as an exact number."""
        moved = f.let(f"trunc i128 {f.let(f'lshr i128 {size}, {shift}')} to i64")
        taken = f.let(f"and i64 {moved}, {(1 << bits) - 1}")
        return Num(f, f.let(f"uitofp i64 {taken} to double"), "f64", 1) * f.const("f64", 1, 2.0 ** (shift - 126))

    a, b, c = part(75, 53), part(22, 53), part(0, 22)
    fraction = a + b
    rest = (b - (fraction - a)) + c
    total = fraction + rest
    rest = rest - (total - fraction)
    high, low_half = f.const("f64", 1, _HALF_PI[0]), f.const("f64", 1, _HALF_PI[1])
    r = total * high
    left_out = total.fma(high, mirrored(r)) + total.fma(low_half, rest * high)
    negative = f.let(f"icmp slt i64 {bits.value}, 0")
    turned = f.let(f"xor i1 {below}, {negative}")
    sign = f.let(f"select i1 {turned}, double -1.0, double 1.0")
    signed = Num(f, sign, "f64", 1)
    back = f.let(f"sub i64 0, {quadrant.value}")
    number = Word(f, f.let(f"select i1 {negative}, i64 {back}, i64 {quadrant.value}"), "i64", 1)
    rooms[1].at(lane).store(r * signed)
    rooms[2].at(lane).store(left_out * signed)
    rooms[3].at(lane).store(number.as_float())

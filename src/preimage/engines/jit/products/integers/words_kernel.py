"""32-bit words that hold neighbouring terms of a sum, and what is added up of two of them.

    pairs   two terms of 16 bits, each less its zero point: -255 to 255. Their products and the sum of two are exact.
    quads   four terms of 8 bits, of A without sign and of B with one, zero points and all; what these add is taken off at the end.

Sums are taken modulo 2^32, as int32 numbers add.
"""

from __future__ import annotations

from preimage.engines.ir.builder import Kernel, Num
from preimage.engines.ir.types import constant, type_of

__all__ = [
    "BLOCK",
    "BLOCK_ORDER",
    "TERMS",
    "ahead",
    "extended",
    "flipped",
    "join",
    "minus",
    "narrowed",
    "plus",
    "sum_of_products",
    "times",
    "words_of",
]

#: Terms that a word holds, by the way in which products are added up.
TERMS = {"pairs": 2, "quads": 4, "plain": 2}
#: Neighbouring channels whose bytes `words_of` takes, and where it leaves them: words of `BLOCK // 4` channels, four times.
BLOCK = 32
BLOCK_ORDER = tuple(half * 16 + part * 4 + k for part in range(4) for half in range(2) for k in range(4))
#: What LLVM calls the instructions, by the way and the bytes of a vector.
_PAIRS = {32: "llvm.x86.avx2.pmadd.wd", 64: "llvm.x86.avx512.pmaddw.d.512"}
_QUADS = {16: "llvm.x86.avx512.vpdpbusd.128", 32: "llvm.x86.avx512.vpdpbusd.256", 64: "llvm.x86.avx512.vpdpbusd.512"}


def _op(f: Kernel, op: str, a: Num, b: Num | int) -> Num:
    right = b.value if isinstance(b, Num) else constant(a.dtype, a.lanes, b)
    return a.like(f.let(f"{op} {a.typed}, {right}"))


def plus(f: Kernel, a: Num, b: Num) -> Num:
    """The sum of two vectors of integers."""
    return _op(f, "add", a, b)


def minus(f: Kernel, a: Num, b: Num) -> Num:
    """The difference of two vectors of integers."""
    return _op(f, "sub", a, b)


def flipped(f: Kernel, bytes_: Num) -> Num:
    """Bytes with the other sign convention: 128 less for those without sign, 128 more for those with one."""
    return _op(f, "xor", bytes_, -128)


def times(f: Kernel, a: Num, b: Num) -> Num:
    """The product of two vectors of integers."""
    return _op(f, "mul", a, b)


def extended(f: Kernel, bytes_: Num, signed: bool, element: str = "i32") -> Num:
    """Bytes as wider integers."""
    op = "sext" if signed else "zext"
    return Num(f, f.let(f"{op} {bytes_.typed} to {type_of(element, bytes_.lanes)}"), element, bytes_.lanes)


def narrowed(f: Kernel, x: Num, element: str) -> Num:
    """The lowest bits of integers."""
    return Num(f, f.let(f"trunc {x.typed} to {type_of(element, x.lanes)}"), element, x.lanes)


def join(f: Kernel, terms: list[Num]) -> Num:
    """Terms of 32 bits in one word, the first in its lowest bits."""
    bits = 32 // len(terms)
    word = _op(f, "and", terms[0], (1 << bits) - 1)
    for k, term in enumerate(terms[1:-1], 1):
        word = _op(f, "or", word, _op(f, "shl", _op(f, "and", term, (1 << bits) - 1), bits * k))
    return _op(f, "or", word, _op(f, "shl", terms[-1], bits * (len(terms) - 1)))


def sum_of_products(f: Kernel, way: str, total: Num, a: Num, b: Num) -> Num:
    """The total and, lane by lane, the products of the terms of two words."""
    size = 4 * total.lanes
    if way == "plain":
        high = times(f, _op(f, "ashr", a, 16), _op(f, "ashr", b, 16))
        low = times(f, *[_op(f, "ashr", _op(f, "shl", x, 16), 16) for x in (a, b)])
        return plus(f, total, plus(f, high, low))
    if way == "pairs":
        halves, name = type_of("i16", 2 * total.lanes), _PAIRS[size]
        f.declare(name, total.type, f"{halves}, {halves}")
        parts = [f.once(f"bitcast {x.typed} to {halves}") for x in (a, b)]
        made = total.like(f.let(f"call {total.type} @{name}({halves} {parts[0]}, {halves} {parts[1]})"))
        # by name, or LLVM would add the products of several steps first, which leaves no registers for the sums
        return total.like(f.let(f'call {total.type} asm "vpaddd $1, $0, $0", "=v,v,0"({made.typed}, {total.typed})'))
    name = _QUADS[size]  # whose operands newer versions of LLVM call bytes, and take as words too
    f.declare(name, total.type, ", ".join([total.type] * 3))
    return total.like(f.let(f"call {total.type} @{name}({total.typed}, {a.typed}, {b.typed})"))


def _interleaved(f: Kernel, a: Num, b: Num, high: bool) -> Num:
    """The elements of the lower or upper halves of every 16 bytes of two vectors in turn: what `vpunpck` does."""
    each = a.lanes // 2  # of 16 of the 32 bytes
    first = each // 2 if high else 0
    picked = [
        k + side * a.lanes
        for half in range(2)
        for k in range(half * each + first, half * each + first + each // 2)
        for side in (0, 1)
    ]
    return a.shuffle(b, picked)


def words_of(f: Kernel, terms: list[Num]) -> list[Num]:
    """Words of four terms from four vectors of a block's bytes, one of each tap: four vectors, which hold the channels in `BLOCK_ORDER`."""
    pairs = [_interleaved(f, terms[k], terms[k + 1], high) for high in (False, True) for k in (0, 2)]
    halves = [Num(f, f.once(f"bitcast {p.typed} to {type_of('i16', BLOCK // 2)}"), "i16", BLOCK // 2) for p in pairs]
    made = [_interleaved(f, halves[k], halves[k + 1], high) for k in (0, 2) for high in (False, True)]
    return [Num(f, f.once(f"bitcast {m.typed} to {type_of('i32', BLOCK // 4)}"), "i32", BLOCK // 4) for m in made]


def ahead(parts: list[Num], lanes: int) -> list[Num]:
    """Four vectors in `BLOCK_ORDER` as vectors of so many neighbouring channels."""
    joined = [parts[0].shuffle(parts[1], range(16)), parts[2].shuffle(parts[3], range(16))]
    whole = joined[0].shuffle(joined[1], range(32))
    order = [BLOCK_ORDER.index(k) for k in range(BLOCK)]
    return [whole.shuffle(whole, order[k : k + lanes]) for k in range(0, BLOCK, lanes)]

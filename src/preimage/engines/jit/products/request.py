"""What the program of a product depends on, and the tile that its kernel takes."""

from __future__ import annotations

from math import prod

import numpy as np

from preimage.engines.ir.builder import ELEMENT_BYTES
from preimage.engines.ir.epilogue import EpilogueSpec
from preimage.engines.jit.compiler.target import Target
from preimage.records import record

__all__ = ["ProductRequest", "Side", "Tile", "choose_rows", "joined_rows", "matrix_places", "standard_vectors"]

Ints = tuple[int, ...]


@record
class Side:
    """One factor as its kernel reads it: `members` rows of A or columns of B, with `terms` each, of every product of a batch.

    Strides in bytes; places: where the matrix of each product begins.
    """

    members: int
    terms: int
    member_stride: int
    term_stride: int
    places: Ints

    def by_terms(self, item: int) -> bool:
        """Whether the terms of a member are neighbours in memory (else its members are, or it must be copied)."""
        return self.term_stride == item and (self.member_stride != item or self.terms > 1)

    def is_readable(self, item: int) -> bool:
        """Whether one of its axes is contiguous."""
        return item in (self.member_stride, self.term_stride)


def matrix_places(shape: Ints, strides: Ints, lead: Ints) -> Ints:
    """Where the matrix of each product of a batch begins, in bytes.

    shape: (..., rows, columns); lead: the batch's axes, to which those before the matrix are broadcast.
    """
    at = np.zeros(1, np.int64)
    missing = len(lead) - (len(shape) - 2)
    for axis, size in enumerate(lead):
        own = axis - missing
        step = 0 if own < 0 or shape[own] == 1 else strides[own]
        at = (at[:, None] + np.arange(size, dtype=np.int64) * step).ravel()
    return tuple(at.tolist())


def joined_rows(shape: Ints, strides: Ints) -> tuple[int, int] | None:
    """How many rows all matrices of an array (..., rows, columns) have and the stride from one to the next; None where they are not evenly spaced."""
    count, stride = shape[-2], strides[-2]
    for size, step in zip(shape[-3::-1], strides[-3::-1], strict=True):
        if size == 1:
            continue
        if count == 1:
            stride = step
        elif step != count * stride:
            return None
        count *= size
    return count, stride


@record
class ProductRequest:
    """C[p] = A[p] B[p] for every product p of a batch; element: f32, f64, f16 or bf16. prepared: B comes packed.

    out_row, out_product: bytes from a row of the result to the next, and from a product's to the next's; 0: the result is dense.
    bias_cycle: the bias is one for every row of so many products, after which it begins anew; 0: one for every column.
    """

    element: str
    a: Side
    b: Side
    finish: EpilogueSpec
    threads: int
    target: Target
    prepared: bool = False
    out_row: int = 0
    out_product: int = 0
    bias_cycle: int = 0

    @property
    def result_row(self) -> int:
        return self.out_row or self.columns * self.item

    @property
    def result_product(self) -> int:
        return self.out_product or self.rows * self.result_row

    @property
    def rows(self) -> int:
        return self.a.members

    @property
    def columns(self) -> int:
        return self.b.members

    @property
    def terms(self) -> int:
        return self.a.terms

    @property
    def products(self) -> int:
        return len(self.a.places)

    @property
    def macs(self) -> int:
        return prod((self.products, self.rows, self.columns, self.terms))

    @property
    def sums(self) -> str:
        return "f64" if self.element == "f64" else "f32"

    @property
    def item(self) -> int:
        return ELEMENT_BYTES[self.element]

    @property
    def lanes(self) -> int:
        return self.target.vector_bytes // ELEMENT_BYTES[self.sums]


@record
class Tile:
    """Rows and vectors of columns whose sums are in registers."""

    rows: int
    vectors: int


def standard_vectors(columns: int, lanes: int) -> int:
    """Vectors of a packed panel: two, fewer where there are fewer columns."""
    return min(2, -(-columns // lanes))


def most_rows(target: Target, vectors: int) -> int:
    """Rows of the largest tile: sums, a vector line of B and one element of A share the registers.

    With 32 registers the totals of the blocks before find room beside the sums of two vectors of up to 8 rows. Larger tiles would load less,
    but put their totals into memory at the end of each block (256 x 256 x 256 on Zen 4: 110 GFLOP/s with 6 rows, 96 with 14).
    """
    if target.vector_registers > 16:
        return 14 if vectors == 1 else 8
    return max(1, (target.vector_registers - 1) // vectors - 1)


#: Rows that a tile may have: few numbers, so that few kernels are made.
ROWS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14)


def choose_rows(rows: int, vectors: int, target: Target, most: int = 14) -> int:
    """The tile's rows for which all tiles together take the least time: products and loads, two of each in a cycle.

    most: rows that may lie in the first cache together.
    """

    def cost(r: int) -> tuple[float, int]:
        tiles = -(-rows // r)
        return tiles * (max(r * vectors, 4 + r + vectors, 8) / 2 + 0.5), -r

    most = min(rows, most, most_rows(target, vectors))
    return min((r for r in ROWS if r <= most), key=cost)

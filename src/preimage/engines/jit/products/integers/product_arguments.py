"""The argument vector of products of integers, and what its code depends on."""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Elements, Integer, Words, elements
from preimage.records import record

__all__ = ["FinishedTile", "IntegerTypes", "ProductArguments", "ProductSpec"]


class ProductArguments(Arguments):
    """Strides, places and steps in bytes; all else counts.

    Rows of A are runs of neighbouring bytes: one of all terms; where A is gathered, `runs_z` x `runs_y` x `runs_x` runs of `run_taps` positions with
    `channels` terms each. Row number r is output (z, y, x) of so many planes of out_y lines of out_x; its run (tz, ty, tx) begins at position
    (z * step_z + base_z + tz * tap_z, ...) of size_z x size_y x size_x, and is zero outside. Of two axes no z is read.
    """

    a: Elements = elements("byte")
    a_zero: Elements = elements("byte")
    a_row: Integer
    weight: Elements = elements("word")
    output: Elements = elements("kind")
    out_row: Integer
    factor: Elements = elements("float")
    bias: Elements = elements("added")
    zero: Elements = elements("kind")
    a_places: Words
    b_places: Words
    out_places: Words
    channel_places: Words  # the first of each product's columns among the factors and the bias
    rows: Integer  # of a product
    columns: Integer
    terms: Integer
    words: Integer
    panels: Integer
    share: Integer  # rows of a task
    panel_share: Integer  # panels of a task
    column_tasks: Integer
    product_tasks: Integer
    scratch: Elements = elements("word")
    thread_bytes: Integer
    pitch: Integer  # from a packed row to the next
    row_sums: Integer  # where they begin in the scratch
    row_places: Integer  # where a row's result lies: where these begin in the scratch
    out_y: Integer
    out_x: Integer
    out_step_z: Integer
    out_step_y: Integer
    out_step_x: Integer
    step_z: Integer
    step_y: Integer
    step_x: Integer
    base_z: Integer
    base_y: Integer
    base_x: Integer
    tap_z: Integer
    tap_y: Integer
    tap_x: Integer
    size_z: Integer
    size_y: Integer
    size_x: Integer
    stride_z: Integer
    stride_y: Integer
    stride_x: Integer
    runs_z: Integer
    runs_y: Integer
    runs_x: Integer
    run_taps: Integer
    channels: Integer


class IntegerTypes:
    """What the types are called that arguments of these kernels point to."""

    __slots__ = ()

    byte: ClassVar[str] = "i8"
    word: ClassVar[str] = "i32"
    float: ClassVar[str] = "f32"


class FinishedTile(IntegerTypes):
    """Specs of tiles of sums that are finished before they are stored."""

    __slots__ = ()

    lanes: int
    vectors: int
    finish: str

    @property
    def added(self) -> str:
        """The type of a bias."""
        return "f32" if self.finish == "scaled" else "i32"

    @property
    def width(self) -> int:
        """Columns of a panel, channels of a block."""
        return self.vectors * self.lanes


@record
class ProductSpec(FinishedTile):
    """way: as in words_kernel.py; signed: A's type; lanes: 32-bit words of a vector; rows, vectors: of a tile; axes: of A, an image, or 0.

    finish: "int32" stores the sums; "scaled" stores float32 sums * factor, "requantised" integers round(sums * factor) + zero, of type `kind`.
    factors: one for each column, not one for all; bias: added to every row, to the sums (int32) or, "scaled", to the products with the factor.
    zeros: B's zero points count (quads): some may not be 0.
    """

    arguments: ClassVar = ProductArguments

    way: str
    signed: bool
    lanes: int
    rows: int
    vectors: int
    axes: int
    finish: str
    kind: str
    unsigned: bool = False
    factors: bool = False
    bias: bool = False
    zeros: bool = False

    def ir(self) -> str:
        """The text of the kernel."""
        from preimage.engines.jit.products.integers.product_kernel import build

        return build(self)

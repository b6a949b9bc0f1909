"""Contractions of 8-bit integers on the engine that the settings choose (`Engine.integers`).

The integers stand for (q - zero_point) * scale. Sums of products are exact, as int32 numbers add (modulo 2^32); what is done with them is a
`Finish`. Every function gives None where no engine has such kernels, or they do not take the call: then sums are taken in floats that hold them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np

from preimage.engines import around
from preimage.engines.base import Array
from preimage.engines.recurrent import Cell
from preimage.geometry import ConvGeometry
from preimage.records import record
from preimage.settings import current

__all__ = ["Finish", "IntegerKernels", "QuantisedLstm", "conv", "conv_transpose", "dynamic", "lstm", "matmul"]

BYTES = frozenset((np.dtype(np.int8), np.dtype(np.uint8)))


@record
class Finish:
    """What is done with the sums of a contraction before they are stored.

    int32: nothing; bias (int32, one for each output channel) is added first, as in all of these.
    requantised: round(float32(sums) * factor) + zero, halves to the even, held within the range of zero's type, which is the result's.
    scaled: float32(sums) * factor + bias, in float32; the bias is float32.
    factor: float32, one number, or one for each output channel. zero: one number of 8 bits.
    """

    way: Literal["int32", "scaled", "requantised"] = "int32"
    factor: Array | None = None
    zero: Array | None = None
    bias: Array | None = None


@record
class QuantisedLstm:
    """An LSTM in one direction whose state is quantised before every step, over its range in all sequences, and multiplied by 8-bit weights.

    products (steps, batch, 4 * hidden): of the inputs, with the biases; weight (hidden, 4 * hidden) in units of scale (one number, or one for each
    column), zero likewise; their columns in the order of the cell's gates. states: h and c before the first step, each (batch, hidden); last: dense
    arrays that take those after the last. y (steps, batch, hidden): takes h after every step. peephole (3, hidden): of i, f, o.
    """

    cell: Cell
    products: Array
    weight: Array
    scale: Array
    zero: Array
    states: tuple[Array, Array]
    last: tuple[Array, Array]
    y: Array
    reverse: bool = False
    peephole: Array | None = None


class IntegerKernels(Protocol):
    """What an engine may compute of arrays of 8-bit integers that have elements; None where it does not take them."""

    def matmul(self, a: Array, a_zero: Array | None, b: Array, b_zero: Array | None, finish: Finish) -> Array | None:
        """(a - a_zero) (..., m, k) times (b - b_zero) (..., k, n). a_zero: one number; b_zero: one, or one for each column."""
        ...

    def conv(
        self, geometry: ConvGeometry, x: Array, x_zero: Array | None, w: Array, w_zero: Array | None, finish: Finish
    ) -> Array | None: ...  # fmt: skip

    def conv_transpose(
        self, geometry: ConvGeometry, y: Array, y_zero: Array | None, w: Array, w_zero: Array | None, finish: Finish
    ) -> Array | None: ...  # fmt: skip

    def dynamic(self, x: Array) -> tuple[Array, Array, Array] | None:
        """float32 values as uint8 over their range, which zero is made part of; the scale and the zero point."""
        ...

    def lstm(self, directions: Sequence[QuantisedLstm]) -> None:
        """Fill y and the last states of every direction; they must not depend on each other."""
        ...


def _kernels() -> IntegerKernels | None:
    engine = around.active_engine()
    found: IntegerKernels | None = getattr(engine, "integers", None)
    return found


def _fit(*pairs: tuple[Array, Array | None]) -> bool:
    """Whether the arrays have 8 bits and elements, and each the zero point of its type."""
    return all(q.dtype in BYTES and q.size and (zero is None or zero.dtype == q.dtype) for q, zero in pairs)


def _said(what: str, made: Any, *arrays: Array) -> Any:
    if made is not None and current().debug:
        shapes = ", ".join(f"{a.shape} {a.dtype}" for a in arrays)
        print(f"preimage: integer {what} of {shapes} runs on generated kernels", file=sys.stderr)
    return made


def matmul(a: Array, a_zero: Array | None, b: Array, b_zero: Array | None, finish: Finish) -> Array | None:
    """The matrix product of arrays with at least two axes; the other axes broadcast."""
    kernels = _kernels()
    if (
        kernels is None
        or not _fit((a, a_zero), (b, b_zero))
        or min(a.ndim, b.ndim) < 2
        or (a_zero is not None and a_zero.size > 1)
    ):
        return None
    made: Array | None = _said("product", kernels.matmul(a, a_zero, b, b_zero, finish), a, b)
    return made


def conv(geometry: ConvGeometry, x: Array, x_zero: Array | None, w: Array, w_zero: Array | None, finish: Finish) -> Array | None:
    """The convolution of (x - x_zero) with (w - w_zero); the padding is zero. w_zero: one number, or one for each output channel."""
    kernels = _kernels()
    if kernels is None or not _fit((x, x_zero), (w, w_zero)):
        return None
    made: Array | None = _said("convolution", kernels.conv(geometry, x, x_zero, w, w_zero, finish), x, w)
    return made


def conv_transpose(
    geometry: ConvGeometry, y: Array, y_zero: Array | None, w: Array, w_zero: Array | None, finish: Finish
) -> Array | None:
    """The transposed convolution of (y - y_zero) with (w - w_zero). w_zero: one number, or one for each output channel."""
    kernels = _kernels()
    if kernels is None or not _fit((y, y_zero), (w, w_zero)):
        return None
    made: Array | None = _said("deconvolution", kernels.conv_transpose(geometry, y, y_zero, w, w_zero, finish), y, w)
    return made


def dynamic(x: Array) -> tuple[Array, Array, Array] | None:
    """DynamicQuantizeLinear: uint8 values, their scale and their zero point."""
    kernels = _kernels()
    if kernels is None or x.dtype != np.float32 or not x.size:
        return None
    made: tuple[Array, Array, Array] | None = _said("quantisation", kernels.dynamic(x), x)
    return made


def lstm(directions: Sequence[QuantisedLstm]) -> bool:
    """Fill y and the last states of layers with 8-bit weights, whose arrays have elements; False where no engine does."""
    kernels = _kernels()
    if kernels is None or not all(_fit((d.weight, d.zero)) and d.products.size for d in directions):
        return False
    kernels.lstm(directions)
    _said("LSTM", True, *(d.weight for d in directions))
    return True

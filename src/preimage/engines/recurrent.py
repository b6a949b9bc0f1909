"""What an engine may be given of recurrent layers: the cell, and what it is run on. The formulas are those of `ops/recurrent.py`."""

from __future__ import annotations

from typing import Literal

from preimage.engines.base import Array, Chain
from preimage.records import record

__all__ = ["Cell", "Direction"]


@record
class Cell:
    """What happens in a step.

    order: where the rows of each gate stand in the weights, the gates being h (rnn), i, f, g, o (lstm) or r, z, n (gru).
    activations: of h (rnn), of the gates, of g and of c (lstm), of the gates and of n (gru), as elementwise steps whose place 0 is the value;
    then their numbers. clip: arguments of the activations are held within -clip..clip (not that of c). coupled: f is 1 - i. reset_after: r
    multiplies the product of h, not h.
    """

    kind: Literal["rnn", "lstm", "gru"]
    order: tuple[int, ...]
    activations: tuple[Chain, ...]
    clip: float | None = None
    coupled: bool = False
    reset_after: bool = True


@record
class Direction:
    """One layer in one direction: arrays of one dtype that have elements, of any strides.

    products (steps, batch, gates * hidden): of the inputs, with the biases; contiguous. weight_hh (gates * hidden, hidden).
    states: h (and c of an lstm), each (batch, hidden), units side by side. y (steps, batch, hidden): takes h after every step. last: take the last
    states. lengths (batch,): int64. peephole (3, hidden): of i, f, o. inside (hidden,): what a gru adds to the product of n before r multiplies it.
    """

    cell: Cell
    products: Array
    weight_hh: Array
    states: tuple[Array, ...]
    y: Array
    last: tuple[Array, ...]
    lengths: Array | None = None
    reverse: bool = False
    peephole: Array | None = None
    inside: Array | None = None

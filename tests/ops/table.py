"""One row per operation and kind of use: what test_table.py runs every check of the suite on."""

from rows_arrays import PRODUCTS, REDUCTIONS, SHAPES
from rows_pointwise import ACTIVATIONS, POINTWISE
from rows_space import POOLS, RESIZES

ROWS = [*POINTWISE, *ACTIVATIONS, *REDUCTIONS, *SHAPES, *PRODUCTS, *POOLS, *RESIZES]

#: Operations with tests of their own beside this table.
ELSEWHERE = {
    "argmax",
    "argmin",
    "conv",
    "conv_transpose",
    "conv_weight_grad",
    "pad",
    "fold_margin",
    "unfold",
    "fold",
    "rnn",
    "lstm",
    "gru",
}

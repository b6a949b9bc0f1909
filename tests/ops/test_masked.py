"""Masked arrays: no operation minds a mask, so every one of them refuses such an array and says what to do."""

import numpy as np
import pytest
from table import ROWS

import preimage as pre
from preimage import linop, nn, ops, optim
from preimage.errors import DTypeError


def masked(a):
    return np.ma.masked_array(a, mask=np.arange(np.size(a)).reshape(np.shape(a)) % 2 == 0)


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_every_operation_of_the_table(row):
    """Each argument in turn; a refused call says so before it computes."""
    inputs = row.inputs(np.random.default_rng(0))
    for k, value in enumerate(inputs):
        if not isinstance(value, np.ndarray):
            continue
        given = [masked(v) if j == k else v for j, v in enumerate(inputs)]
        with pytest.raises(DTypeError, match="masked array"):
            row.op(*given)


X, W, Y = np.ones((1, 2, 5, 6)), np.ones((3, 2, 2, 2)), np.ones((1, 3, 4, 5))
CALLS = {
    "conv x": lambda: pre.conv(masked(X), W),
    "conv w": lambda: pre.conv(X, masked(W)),
    "conv b": lambda: pre.conv(X, W, masked(np.ones(3))),
    "conv residual": lambda: pre.conv(X, W, residual=masked(Y)),
    "conv_transpose": lambda: pre.conv_transpose(masked(Y), W),
    "conv_weight_grad": lambda: pre.conv_weight_grad(X, masked(Y), kernel_size=2),
    "prepare": lambda: pre.prepare(masked(W)),
    "reflect": lambda: pre.conv(masked(X), W, padding=1, padding_mode="reflect"),
    "channels_last": lambda: ops.max_pool(masked(X), 2, layout="channels_last"),
    "pad": lambda: ops.pad(masked(X), 1),
    "unfold": lambda: ops.unfold(masked(X), 2),
    "fold": lambda: ops.fold(masked(np.ones((1, 4, 20))), (5, 6), (2, 2)),
    "where condition": lambda: ops.where(masked(np.ones(3, bool)), 1.0, 2.0),
    "take indices": lambda: ops.take(X, masked(np.zeros(2, int)), 2),
    "switches": lambda: ops.max_unpool(np.ones((1, 1, 2)), masked(np.zeros((1, 1, 2), int)), 3),
    "list": lambda: ops.add([masked(np.ones(2)), np.ones(2)], 1.0),
    "concat": lambda: ops.concat([np.ones(2), masked(np.ones(2))]),
    "Tensor": lambda: pre.Tensor(masked(X)),
    "Parameter": lambda: nn.Parameter(masked(X)),
    "Tensor + masked": lambda: pre.Tensor(X) + masked(X),
    "masked * Tensor": lambda: masked(X) * pre.Tensor(X),
    "assign": lambda: pre.Tensor(X).assign(masked(X)),
    "backward": lambda: (pre.Tensor(X, requires_grad=True) * 2.0).backward(masked(X)),
    "layer": lambda: nn.Conv2d(2, 3, 2)(masked(X.astype(np.float32))),
    "batch norm": lambda: nn.BatchNorm2d(2)(masked(X.astype(np.float32))),
    "dropout": lambda: nn.Dropout()(masked(X)),
    "loss": lambda: nn.mse_loss(masked(X), X),
    "loss target": lambda: nn.cross_entropy(np.ones((2, 3)), masked(np.array([0, 1]))),
    "class weights": lambda: nn.cross_entropy(np.ones((2, 3)), np.array([0, 1]), weight=masked(np.ones(3))),
    "buffer": lambda: nn.BatchNorm2d(2).register_buffer("another", masked(np.ones(2))),
    "state": lambda: nn.Linear(2, 1).load_state_dict({"weight": masked(np.ones((1, 2))), "bias": np.ones(1)}),
    "linop": lambda: linop.Conv(W, input_size=(5, 6)) @ masked(X),
    "diagonal": lambda: linop.Diagonal(masked(X)),
    "identity": lambda: linop.Identity(X.shape) @ masked(X),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_refused(name):
    with pytest.raises(DTypeError, match=r"masked array.*filled"):
        CALLS[name]()


def test_optimiser_state():
    optimiser = optim.SGD([nn.Parameter(np.ones(2))], lr=0.1, momentum=0.9)
    saved = {**optimiser.state_dict(), "state": {0: {"step": 1, "momentum": masked(np.ones(2))}}}
    with pytest.raises(DTypeError, match="masked array"):
        optimiser.load_state_dict(saved)


def test_other_kinds_of_arrays_are_arrays():
    class Mine(np.ndarray):
        def __mul__(self, other):
            raise NotImplementedError

    mine = np.arange(4.0).reshape(2, 2).view(Mine)
    got = ops.multiply(mine, mine)
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got, np.arange(4.0).reshape(2, 2) ** 2)

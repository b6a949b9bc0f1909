"""numpy.seterr(all="raise"), or warnings as errors, change nothing: infinities, overflow and underflow give what IEEE 754 says.

Every row of the table, the contractions in every padding mode, layers, losses and optimisers, forward and backward, on every engine.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from table import ROWS

import preimage as pre
from preimage import linop, nn, ops, optim
from preimage.engines import around

ENDS = [np.inf, -np.inf, np.nan, 0.0, -0.0, 3e38, -3e38, 1e-45, 1e308, 5e-324, 6e4, -6e4]
DTYPES = [np.float32, np.float64, np.float16]


@pytest.fixture(autouse=True)
def _strict(monkeypatch):
    """Floating-point flags raise; small arrays take the generated kernels where the engine has them."""
    monkeypatch.setattr(around, "LEAST_CHAIN", 1)
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@np.errstate(all="ignore")
def spoilt(rng, array, dtype, share):
    """The array with a share of its elements at the ends of what floats hold."""
    array = np.array(array, np.float64)
    return np.asarray(np.where(rng.random(array.shape) < share, rng.choice(ENDS, array.shape), array)).astype(dtype)


def there_and_back(op, arrays, diff=None):
    """The op on arrays; on Tensors, with first and second derivatives."""
    rng, wanted = np.random.default_rng(5), range(len(arrays)) if diff is None else diff
    op(*arrays)
    inputs = [pre.Tensor(a, requires_grad=k in wanted) for k, a in enumerate(arrays)]
    result = op(*inputs)
    cotangent = pre.Tensor(spoilt(rng, rng.standard_normal(result.shape), result.dtype, 0.3), requires_grad=True)
    leaves = [inputs[k] for k in wanted]
    first = pre.grad(result, leaves, cotangent, create_graph=True, allow_unused=True)
    sums = [ops.sum(g) for g in first if g is not None and g.requires_grad]
    if sums:
        pre.grad(sums, [*leaves, cotangent], allow_unused=True)


@pytest.mark.parametrize("name", ["auto", "gemm"])  # generated kernels, and NumPy alone
def test_every_operation(name):
    rng = np.random.default_rng(0)
    with pre.config(engine=name):
        for row in ROWS:
            for share, dtype in ((0.2, np.float32), (0.6, np.float16)):
                there_and_back(row.op, [spoilt(rng, a, dtype, share) for a in row.inputs(rng)], row.diff)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_contractions(engine, mode):
    rng = np.random.default_rng(0)
    for dtype in DTYPES[::2]:
        x, w, b, y, r = (
            spoilt(rng, rng.standard_normal(s), dtype, 0.1) for s in ((1, 4, 5, 4), (4, 2, 3, 3), 4, (1, 4, 7, 6), (1, 4, 3, 2))
        )
        for activation in (None, "relu", "leaky_relu", "clip"):
            options = {"padding": 2, "padding_mode": mode, "groups": 2}
            epilogue = {"activation": activation, **options}
            there_and_back(lambda x, w, b, y, e=epilogue: ops.conv(x, w, b, residual=y, **e), [x, w, b, y])
            there_and_back(lambda x, w, b, r, e=epilogue: ops.conv_transpose(x, w, b, residual=r, **e), [x, w, b, r])
        there_and_back(lambda x, y, o=options: ops.conv_weight_grad(x, y, kernel_size=3, **o), [x, y])
        there_and_back(lambda y: ops.pad(y, 2, mode=mode, value=1e300), [y])
        there_and_back(lambda y: ops.fold_margin(y, 2, mode=mode), [y])
        there_and_back(lambda x: ops.fold(ops.unfold(x, 3, padding=1), (5, 4), (3, 3), padding=1), [x])


def test_arrays_without_elements(engine):
    w = np.full((2, 3, 2), np.inf, np.float32)
    residual = np.full((1, 2, 1), np.nan, np.float32)
    empty = np.zeros((1, 3, 0), np.float32)
    assert np.isnan(ops.conv(empty, w, padding=1, activation="relu", residual=residual)).all()
    assert np.isnan(ops.conv_weight_grad(empty, residual * np.inf, kernel_size=2, padding=1)).all()
    assert ops.standardize(np.zeros((2, 0)), 1).shape == (2, 0)
    assert ops.standardize(np.zeros((0, 2)), 0).shape == (0, 2)


def test_layers_losses_optimisers_and_operators(engine):
    rng = np.random.default_rng(0)
    for dtype in DTYPES:
        x = spoilt(rng, rng.standard_normal((2, 4, 7, 6)), dtype, 0.2)
        for make in (
            lambda: nn.ConvTranspose2d(4, 2, 3, padding=1), lambda: nn.BatchNorm2d(4), lambda: nn.GroupNorm(2, 4),
            lambda: nn.LayerNorm((7, 6)), lambda: nn.InstanceNorm2d(4), lambda: nn.PReLU(4), lambda: nn.Linear(6, 3),
        ):  # fmt: skip
            layer = make().astype(dtype)
            layer(pre.Tensor(x, requires_grad=True)).sum().backward()
            parameters = list(layer.parameters())
            for kind in (optim.SGD, optim.Adam) if parameters else ():
                optim.clip_grad_norm(parameters, 1.0)
                kind(parameters, lr=1e30).step()
        a, b = (spoilt(rng, rng.standard_normal((3, 4)), dtype, 0.3) for _ in range(2))
        for loss in (nn.mse_loss, nn.l1_loss, nn.huber_loss, nn.bce_with_logits_loss, nn.cross_entropy):
            there_and_back(loss, [a, b])
        assert (pre.Tensor(a) < b).dtype == bool
        A = linop.Diagonal(a)
        assert (2.0 * (A.T @ A) @ b).shape == b.shape

"""What users write, for type checkers to read (test_typing.py runs them; nothing here is run).

A line that a checker must find wrong ends in `# wrong`. `assert_type` says what it must find on the others.
"""

from __future__ import annotations

from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import preimage as pre
from preimage import functional, linop, nn, ops, optim
from preimage.engines import PreparedWeight
from preimage.typing import Array, Layout, Operand, Padding, Value

x = np.zeros((1, 3, 32, 32), np.float32)
w = np.zeros((8, 3, 5, 5), np.float32)
b = np.zeros(8, np.float32)
t = pre.Tensor(x, requires_grad=True)
k = pre.Tensor(w, requires_grad=True)


# -- the contractions: arrays give an array, and a Tensor among them gives a Tensor --------------------------------------

assert_type(pre.conv(x, w), Array)
assert_type(pre.conv(x, w, b, stride=2, padding=((0, 1), (2, 3)), activation="relu"), Array)
assert_type(pre.conv(t, w), pre.Tensor)
assert_type(pre.conv(x, k, b), pre.Tensor)
assert_type(pre.conv(x, w, pre.Tensor(b)), pre.Tensor)
assert_type(pre.conv(x, w, residual=t), pre.Tensor)
assert_type(pre.conv(x, pre.prepare(w), padding="same"), Array)
assert_type(pre.prepare(w), PreparedWeight)
assert_type(pre.conv_transpose(x, w, output_padding=1, stride=2), Array)
assert_type(pre.conv_transpose(t, w, output_size=(64, 64)), pre.Tensor)
assert_type(pre.conv_weight_grad(x, x, kernel_size=3), Array)
assert_type(pre.conv_weight_grad(x, t, kernel_size=(3, 3), padding=np.int64(1)), pre.Tensor)
assert_type(pre.conv([[[0.0, 1.0]]], [[[1.0, 2.0]]]), Array)

pre.conv(x, w, padding_mode="mirror")  # wrong
pre.conv(x, w, layout="NHWC")  # wrong
pre.conv(x, w, stride="2")  # wrong
pre.conv(x, w, padding="full")  # wrong
pre.conv(x, w, activation="gelu")  # wrong
pre.conv(x, w, strides=2)  # wrong
pre.conv("x", w)  # wrong
pre.conv(x)  # wrong
pre.conv_weight_grad(x, x)  # wrong
pre.conv(x, w).backward()  # wrong
ops.exp(pre.prepare(w))  # wrong
assert_type(pre.conv(x, w), pre.Tensor)  # wrong


# -- other operations ----------------------------------------------------------------------------------------------------

assert_type(ops.exp(x), Array)
assert_type(ops.exp(2.0), Array)
assert_type(ops.softmax([1000.0, 1000.0]), Array)
assert_type(ops.relu(t), pre.Tensor)
assert_type(ops.add(x, t), pre.Tensor)
assert_type(ops.multiply(t, 2), pre.Tensor)
assert_type(ops.divide(x, x), Array)
assert_type(ops.where(x > 0, x, 0.0), Array)
assert_type(ops.where(x > 0, t, 0.0), pre.Tensor)
assert_type(ops.sum(t, (2, 3), keepdims=True), pre.Tensor)
assert_type(ops.argmax(t, axis=1), Array)
assert_type(ops.reshape(x, 1, -1), Array)
assert_type(ops.reshape(t, (1, -1)), pre.Tensor)
assert_type(ops.concat([x, x], axis=1), Array)
assert_type(ops.concat([t, t]), pre.Tensor)
assert_type(ops.split(t, [1, 2], axis=1), list[pre.Tensor])
assert_type(ops.max_pool(x, 2), Array)
assert_type(ops.max_pool(t, 2, return_switches=True), tuple[pre.Tensor, Array])
assert_type(ops.upsample(x, scale_factor=2, mode="linear"), Array)
assert_type(ops.getitem(t, (..., None, slice(2), [0, 1])), pre.Tensor)
assert_type(pre.pad(t, 1, mode="reflect"), pre.Tensor)
assert_type(ops.matmul(x, t), pre.Tensor)
assert_type(ops.linear(x, pre.prepare(np.zeros((5, 32)))), Array)

ops.exp(None)  # wrong
ops.sum(x, axis="rows")  # wrong
ops.upsample(x, scale_factor=2, mode="bicubically")  # wrong
ops.gelu(x, approximate="erf")  # wrong
ops.concat(t, axis=0, dim=1)  # wrong
ops.relu(x, inplace=True)  # wrong
ops.relux(x)  # wrong


def either(value: Array | pre.Tensor) -> None:
    """What may be either stays either."""
    assert_type(ops.exp(value), Array | pre.Tensor)
    assert_type(ops.add(value, 1.0), Array | pre.Tensor)
    assert_type(ops.add(value, t), pre.Tensor)


def narrow(a: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """An array of a known dtype is taken, and what comes back fits where one is wanted."""
    return pre.conv(a, w, stride=2)


def blur(image: Operand, size: int = 3, padding: Padding = "same", layout: Layout = "channels_first") -> Value:
    """Functions of users' own can be typed with the same names."""
    return ops.avg_pool(image, size, stride=1, padding=padding, layout=layout)


# -- Tensors -------------------------------------------------------------------------------------------------------------

loss = (pre.conv(t, k, stride=2) ** 2).mean()
assert_type(loss, pre.Tensor)
loss.backward()
assert_type(t.grad, pre.Tensor | None)
assert_type(t.data, Array)
assert_type(t.shape, tuple[int, ...])
assert_type(t + 1, pre.Tensor)
assert_type(1 - t, pre.Tensor)
assert_type(t @ t, pre.Tensor)
assert_type(t[0, ..., ::2], pre.Tensor)
assert_type(t > 0, Array)
assert_type(t.sum(dim=(2, 3)), pre.Tensor)
assert_type(t.sum(out=np.zeros(())), Array)
assert_type(t.var(1, correction=1), pre.Tensor)
assert_type(t.argmax(), Array)
assert_type(t.reshape(1, -1).T, pre.Tensor)
assert_type(t.item(), float)
assert_type(list(t), list[pre.Tensor])
assert_type(np.asarray(t).ndim, int)

t.add_(1)  # wrong
t.sum(axes=1)  # wrong
t.reshape("3")  # wrong
pre.Tensor("abc")  # wrong
t.grad.item()  # wrong

assert_type(pre.grad(loss, t), pre.Tensor)
assert_type(pre.grad(loss, [t, k], create_graph=True), list[pre.Tensor])
assert_type(pre.grad(loss, t, allow_unused=True), pre.Tensor | None)
assert_type(pre.grad(loss, [t, k], allow_unused=True), list[pre.Tensor | None])

pre.grad(x, t)  # wrong
pre.grad(loss, x)  # wrong


# -- nets ----------------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """A net as users write it."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 16, 4, stride=2, padding=1, rng=0)
        self.up = nn.ConvTranspose2d(16, 3, 4, stride=2, padding=1, dtype="float64")
        self.norm = nn.BatchNorm2d(16, momentum=None)

    def forward(self, image: pre.Tensor) -> pre.Tensor:
        hidden = self.norm(self.down(image)).relu()
        return self.up(hidden, output_size=(32, 32))


net = Net().train()
assert_type(net, Net)
assert_type(net.down(t), pre.Tensor)
assert_type(net.down(x), Value)
assert_type(net.down.weight, nn.Parameter)
assert_type(net.down.bias, nn.Parameter | None)
assert_type(net.state_dict(), dict[str, Array])
assert_type([p.size for p in net.parameters()], list[int])

layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 10))
assert_type(layers(t), pre.Tensor)
assert_type(layers(x), Value)
assert_type(layers[0], nn.Module)
assert_type(layers[1:], nn.Sequential)
assert_type(nn.MaxPool2d(2)(t), pre.Tensor)
assert_type(nn.MaxPool2d(2, return_indices=True)(t), tuple[pre.Tensor, Array])
assert_type(nn.cross_entropy(layers(t), np.array([3])), pre.Tensor)
assert_type(nn.mse_loss(x, x, reduction="sum"), Array)
assert_type(nn.MSELoss()(x, t), pre.Tensor)
assert_type(nn.init.kaiming_normal((8, 3, 5, 5), rng=0), Array)
assert_type(nn.init.kaiming_normal_(net.down.weight, mode="fan_out"), pre.Tensor)
net.load_state_dict({"down.weight": w, "down.bias": pre.Tensor(b)}, strict=False)

nn.Conv2d(3, 16)  # wrong
nn.Conv2d(3, 16, 3, padding_mode="border")  # wrong
nn.Sequential(ops.relu)  # wrong
nn.mse_loss(x, x, reduction="average")  # wrong
layers(x).backward()  # wrong
nn.Upsample(scale_factor=2, mode="cubic")  # wrong
nn.init.kaiming_normal_(net.down.weight, fan="out")  # wrong


# -- optimisers, operators, plans ----------------------------------------------------------------------------------------

optimiser = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
optim.Adam([{"params": [k], "lr": 0.01}, {"params": list(net.parameters())}], betas=(0.9, 0.99))
assert_type(optimiser.lr, float)
assert_type(optimiser.groups[0]["lr"], float)
optimiser.load_state_dict(optimiser.state_dict())
optim.poly(optimiser, max_iter=100, power=0.9).step()

optim.SGD([x], lr=0.1)  # wrong
optim.SGD(net.parameters(), rate=0.1)  # wrong

A = linop.Conv(w, input_size=(32, 32), padding=2)
assert_type(A @ x, Array)
assert_type(A @ t, pre.Tensor)
assert_type(A.T @ A, linop.Operator)
assert_type(2 * A, linop.Operator)
assert_type(A.matvec(x.reshape(-1)), Array)
pre.check_adjoint(A)
pre.check_adjoint(lambda v: ops.pad(v, 2), np.zeros((1, 1, 5)))
pre.check_grads(lambda v, m: pre.conv(v, m), [x, w], order=1)

A @ "x"  # wrong
linop.Conv(w)  # wrong
pre.check_grads(3, [x])  # wrong

geometry = pre.ConvGeometry.from_conv((1, 64, 56, 56), (64, 64, 3, 3), padding=1)
assert_type(geometry.output_shape, tuple[int, ...])
assert_type(pre.plan(geometry, "float64", "conv_transpose").workspace_bytes, int)
assert_type(pre.engines(), dict[str, str])
with pre.config(engine="gemm", threads=1):
    pass

pre.plan(geometry, contraction="forward")  # wrong
pre.conv_transposed(x, w)  # wrong

unused: Any = (either, narrow, blur)


# -- torch's names ---------------------------------------------------------------------------------------------------------

assert_type(functional.conv2d(x, w, b, 2, 1), Array)
assert_type(functional.conv2d(x, k), pre.Tensor)
assert_type(functional.conv_transpose2d(t, w, stride=2, output_padding=1), pre.Tensor)
assert_type(functional.relu(x, inplace=True), Array)
assert_type(functional.relu(functional.pad(t, (1, 2))), pre.Tensor)
assert_type(functional.max_pool2d(x, 2), Array)
assert_type(functional.max_pool2d(t, 2, return_indices=True), tuple[pre.Tensor, Array])
assert_type(functional.interpolate(t, scale_factor=2, mode="bilinear"), pre.Tensor)
assert_type(functional.cross_entropy(t, np.zeros(3, np.int64)), pre.Tensor)
assert_type(functional.mse_loss(x, x), Array)
assert_type(functional.cat([t, t], dim=1), pre.Tensor)
assert_type(functional.one_hot([1, 2]), Array)
functional.conv2d(x, w, strides=2)  # wrong
functional.softmax(x, dim="1")  # wrong
functional.relu("x")  # wrong

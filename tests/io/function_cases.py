"""A row for every function of preimage.functional: a forward that uses it. Methods, operators and operations: `tensor_cases`.

A row is `forward(m, *inputs)` and the inputs, arrays or shapes of random ones; m has the parameters `weight`, ... that the row names by their shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import preimage.functional as F  # noqa: N812 - as its users import it
from preimage import nn, ops

Shape = tuple[int, ...]
ROW, LINE, MAP, VOLUME = (2, 6), (2, 4, 7), (2, 4, 6, 5), (2, 4, 3, 4, 5)


class Case(NamedTuple):
    """forward(m, *inputs), the inputs, and the shapes of parameters."""

    forward: Callable[..., Any]
    inputs: tuple[Any, ...] = (MAP,)
    parameters: dict[str, Shape] = {}  # noqa: RUF012 - never changed
    fixed: bool = False  # the batch of the example is part of the forward
    cut: bool = False  # the module cuts its gradient off, which a graph does not say


class Net(nn.Module):
    """A Module of a row."""

    def __init__(self, case: Case, seed: int = 0) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        for name, shape in case.parameters.items():
            setattr(self, name, nn.Parameter(rng.standard_normal(shape).astype(np.float32)))
        self.register_buffer("mean", np.float32([0.1, -0.2, 0.3, 0.5]))
        self.register_buffer("var", np.float32([0.5, 1.5, 0.7, 2.0]))
        self.case = case

    def forward(self, *inputs: Any) -> Any:
        return self.case.forward(self, *inputs)


def of(function: Callable[..., Any], *shapes: Any, **options: Any) -> Case:
    """A function of all inputs, with options."""
    return Case(lambda m, *x: function(*x, **options), shapes or (MAP,))


def with_weights(forward: Callable[..., Any], shape: Any, **parameters: Shape) -> Case:
    return Case(forward, (shape,), parameters)


#: Functions of one value that are called the same in `preimage.functional` and among the operations.
ACTIVATIONS = (
    "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh", "sigmoid",
    "tanh", "softplus", "softsign",
)  # fmt: skip
LABELS = np.array([1, 3])
PIXELS = np.array([[[0, 1, 2, 3, 1]] * 6] * 2)
CHANCE = np.random.default_rng(3).random((2, 4, 6, 5), np.float32)
GRID = np.random.default_rng(4).uniform(-1.2, 1.2, (2, 3, 4, 2)).astype(np.float32)
POSITIVE = (0.2 + np.random.default_rng(5).random((2, 4, 6, 5))).astype(np.float32)

FUNCTIONAL: dict[str, Case] = {
    **{
        name: of(getattr(F, name))
        for name in (
            *ACTIVATIONS,
            "logsigmoid",
            "tanhshrink",
            "softshrink",
            "hardshrink",
        )
    },
    "leaky_relu of slope": of(F.leaky_relu, negative_slope=0.3),
    "elu of alpha": of(F.elu, alpha=0.7),
    "celu of alpha": of(F.celu, alpha=0.7),
    "gelu by tanh": of(F.gelu, approximate="tanh"),
    "hardtanh of bounds": of(F.hardtanh, min_val=-0.5, max_val=0.25),
    "softplus of beta": of(F.softplus, beta=2.0, threshold=1.5),
    "threshold": of(F.threshold, threshold=0.3, value=-2.0),
    "prelu": with_weights(lambda m, x: F.prelu(x, m.weight), MAP, weight=(4,)),
    "prelu of one weight": with_weights(lambda m, x: F.prelu(x, m.weight), MAP, weight=(1,)),
    "glu": of(F.glu, dim=1),
    "scaled_dot_product_attention": of(lambda x: F.scaled_dot_product_attention(x, x * 0.5, x - 1.0, is_causal=True)),
    "softmax": of(F.softmax, dim=1),
    "softmin": of(F.softmin, dim=-1),
    "log_softmax": of(F.log_softmax, dim=1),
    "normalize": of(F.normalize),
    "normalize of one": of(F.normalize, p=1.0, dim=-1),
    "normalize of infinity": of(F.normalize, p=float("inf")),
    "conv1d": with_weights(lambda m, x: F.conv1d(x, m.weight, m.bias, 2, 1), LINE, weight=(3, 4, 3), bias=(3,)),
    "conv2d": with_weights(lambda m, x: F.conv2d(x, m.weight, padding="same", groups=2), MAP, weight=(6, 2, 3, 3)),
    "conv2d of a constant": of(lambda x: F.conv2d(x, np.ones((4, 1, 3, 3), np.float32) / 9, groups=4)),
    "conv2d without a batch": with_weights(lambda m, x: F.conv2d(x, m.weight), (4, 6, 5), weight=(3, 4, 3, 3))._replace(
        fixed=True
    ),
    "conv2d of a computed weight": with_weights(
        lambda m, x: F.conv2d(x, m.weight * m.gain / ops.sum(m.weight)), MAP, weight=(3, 4, 3, 3), gain=(3, 1, 1, 1)
    ),
    "conv3d": with_weights(lambda m, x: F.conv3d(x, m.weight, dilation=(1, 2, 2)), VOLUME, weight=(3, 4, 2, 2, 2)),
    "conv_transpose1d": with_weights(
        lambda m, x: F.conv_transpose1d(x, m.weight, m.bias, 2, 1, 1), LINE, weight=(4, 3, 4), bias=(3,)
    ),
    "conv_transpose2d": with_weights(lambda m, x: F.conv_transpose2d(x, m.weight, stride=(2, 3)), MAP, weight=(4, 3, 3, 2)),
    "conv_transpose3d": with_weights(lambda m, x: F.conv_transpose3d(x, m.weight, groups=2), VOLUME, weight=(4, 2, 2, 2, 2)),
    "linear": with_weights(lambda m, x: F.linear(x, m.weight, m.bias), MAP, weight=(3, 5), bias=(3,)),
    "fold": of(F.fold, (2, 24, 15), output_size=(9, 6), kernel_size=(3, 2), stride=2, padding=(1, 0)),
    "unfold": of(F.unfold, kernel_size=(3, 2), padding=1, stride=2),
    "embedding": with_weights(lambda m, i: F.embedding(i, m.weight), np.array([[1, 0, 3], [2, 2, 4]]), weight=(5, 3)),
    "embedding with padding": with_weights(
        lambda m, i: F.embedding(i, m.weight, padding_idx=2), np.array([[1, 0, 3], [2, 2, 4]]), weight=(5, 3)
    )._replace(cut=True),
    "one_hot": of(F.one_hot, np.array([[1, 0, 3], [2, 2, 4]]), num_classes=5),
    "cat": of(lambda a, b: F.cat([a, b, a], 1), MAP, (2, 3, 6, 5)),
    "stack": of(lambda a, b: F.stack([a, b], -1), MAP, MAP),
    "chunk": of(lambda x: F.chunk(x, 3, 1)),
    "chunk of the batch": of(lambda x: F.chunk(x, 2)),
    "flatten": of(F.flatten, start_dim=1),
    "flatten of some": of(F.flatten, start_dim=1, end_dim=2),
    "flatten with the batch": of(F.flatten, end_dim=1),
    "permute": of(F.permute, dims=(0, 2, 3, 1)),
    "clamp": of(F.clamp, min=-0.5, max=0.3),
    "clamp below": of(F.clamp, min=0.1),
    "batch_norm": Case(lambda m, x: F.batch_norm(x, m.mean, m.var, m.weight, m.bias), (MAP,), {"weight": (4,), "bias": (4,)}),
    "batch_norm without weights": Case(lambda m, x: F.batch_norm(x, m.mean, m.var, eps=0.1)),
    "group_norm": with_weights(lambda m, x: F.group_norm(x, 2, m.weight, m.bias), MAP, weight=(4,), bias=(4,)),
    "instance_norm": with_weights(lambda m, x: F.instance_norm(x, weight=m.weight, bias=m.bias), MAP, weight=(4,), bias=(4,)),
    "instance_norm by running values": Case(lambda m, x: F.instance_norm(x, m.mean, m.var, use_input_stats=False)),
    "layer_norm": with_weights(lambda m, x: F.layer_norm(x, (6, 5), m.weight, m.bias), MAP, weight=(6, 5), bias=(6, 5)),
    "layer_norm without weights": of(F.layer_norm, normalized_shape=5, eps=0.1),
    "rms_norm": with_weights(lambda m, x: F.rms_norm(x, 5, m.weight), MAP, weight=(5,)),
    "local_response_norm": of(F.local_response_norm, size=3),
    **{name: of(getattr(F, name), training=False) for name in ("dropout", "dropout1d", "dropout2d", "dropout3d")},
    "max_pool1d": of(F.max_pool1d, LINE, kernel_size=3, stride=2, padding=1),
    "max_pool2d": of(F.max_pool2d, kernel_size=(3, 2), ceil_mode=True),
    "max_pool2d with indices": of(F.max_pool2d, kernel_size=2, return_indices=True),
    "max_pool3d": of(F.max_pool3d, VOLUME, kernel_size=2),
    "max_unpool1d": of(lambda x: F.max_unpool1d(*F.max_pool1d(x, 2, return_indices=True), 2), (2, 4, 6)),
    "max_unpool2d": of(lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2, output_size=(6, 5))),
    "max_unpool3d": of(lambda x: F.max_unpool3d(*F.max_pool3d(x, 2, return_indices=True), 2, output_size=(3, 4, 5)), VOLUME),
    "avg_pool1d": of(F.avg_pool1d, LINE, kernel_size=3, stride=2, padding=1),
    "avg_pool2d": of(F.avg_pool2d, kernel_size=3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
    "avg_pool2d with a divisor": of(F.avg_pool2d, kernel_size=2, divisor_override=3),
    "avg_pool3d": of(F.avg_pool3d, VOLUME, kernel_size=2),
    "adaptive_avg_pool1d": of(F.adaptive_avg_pool1d, LINE, output_size=3),
    "adaptive_avg_pool2d": of(F.adaptive_avg_pool2d, output_size=1),
    "adaptive_avg_pool3d": of(F.adaptive_avg_pool3d, VOLUME, output_size=(3, 2, 1)),
    "adaptive_max_pool1d": of(F.adaptive_max_pool1d, LINE, output_size=1),
    "adaptive_max_pool2d": of(F.adaptive_max_pool2d, output_size=(4, 3)),
    "adaptive_max_pool3d": of(F.adaptive_max_pool3d, VOLUME, output_size=(1, 2, 5)),
    "pad": of(F.pad, pad=(1, 2, 0, 3), value=0.5),
    "pad that crops": of(F.pad, pad=(-1, 2, 1, -2)),
    "pad by reflection": of(F.pad, pad=(1, 2, 3, 0), mode="reflect"),
    "pad by reflection of more than there is": of(F.pad, pad=(9, 2, 1, 7), mode="reflect"),
    "pad by replication": of(F.pad, pad=(1, 7), mode="replicate"),
    "pad around": of(F.pad, pad=(2, 1), mode="circular"),
    "pad of the batch": of(F.pad, pad=(0, 0, 0, 0, 0, 0, 1, 0)),
    "interpolate": of(F.interpolate, scale_factor=2),
    "interpolate to a size": of(F.interpolate, size=(7, 9), mode="nearest-exact"),
    "interpolate bilinear": of(F.interpolate, scale_factor=(1.5, 2), mode="bilinear"),
    "interpolate bilinear, one axis kept": of(F.interpolate, scale_factor=(1.15, 2), mode="bilinear"),
    "interpolate bilinear, corners": of(F.interpolate, size=(9, 8), mode="bilinear", align_corners=True),
    "interpolate bicubic": of(F.interpolate, size=(9, 8), mode="bicubic"),
    "interpolate with antialias": of(F.interpolate, size=(3, 2), mode="bilinear", antialias=True),
    "interpolate bicubic with antialias": of(F.interpolate, size=(3, 2), mode="bicubic", antialias=True),
    "interpolate linear": of(F.interpolate, LINE, scale_factor=2, mode="linear"),
    "interpolate trilinear": of(F.interpolate, VOLUME, size=(4, 6, 7), mode="trilinear"),
    "interpolate area": of(F.interpolate, size=(3, 5), mode="area"),
    "pixel_shuffle": of(F.pixel_shuffle, upscale_factor=2),
    "pixel_unshuffle": of(F.pixel_unshuffle, (2, 3, 6, 4), downscale_factor=2),
    "channel_shuffle": of(F.channel_shuffle, groups=2),
    "grid_sample": of(F.grid_sample, MAP, GRID),
    "grid_sample bicubic": of(F.grid_sample, MAP, GRID * 0.7, mode="bicubic", align_corners=True),
    "grid_sample nearest": of(F.grid_sample, MAP, GRID, mode="nearest", padding_mode="border"),
    "grid_sample reflected": of(F.grid_sample, MAP, GRID, padding_mode="reflection", align_corners=True),
    "affine_grid": Case(lambda m, t: F.affine_grid(t, (t.shape[0], 3, 4, 5)), ((2, 2, 3),)),
    "cross_entropy": of(F.cross_entropy, ROW, LABELS),
    "cross_entropy of pixels": of(F.cross_entropy, MAP, PIXELS, ignore_index=2),
    "cross_entropy, summed": of(F.cross_entropy, ROW, LABELS, reduction="sum"),
    "cross_entropy, smoothed": of(F.cross_entropy, ROW, LABELS, label_smoothing=0.1, reduction="none"),
    "cross_entropy of chances": of(F.cross_entropy, MAP, CHANCE),
    "nll_loss": of(F.nll_loss, ROW, LABELS),
    "binary_cross_entropy": of(F.binary_cross_entropy, CHANCE, CHANCE[::-1].copy()),
    "binary_cross_entropy_with_logits": of(F.binary_cross_entropy_with_logits, MAP, CHANCE),
    "mse_loss": of(F.mse_loss, MAP, CHANCE),
    "l1_loss": of(F.l1_loss, MAP, CHANCE, reduction="sum"),
    "huber_loss": of(F.huber_loss, MAP, CHANCE, delta=0.4),
    "smooth_l1_loss": of(F.smooth_l1_loss, MAP, CHANCE, beta=0.4, reduction="none"),
    "kl_div": of(F.kl_div, MAP, CHANCE),
    "kl_div of logarithms": of(F.kl_div, MAP, -CHANCE, log_target=True, reduction="batchmean"),
}

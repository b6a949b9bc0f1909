"""Entries of the promise for layers, losses and optimisers."""

from __future__ import annotations

from typing import Any

import numpy as np

import preimage as pre
from preimage import nn, ops, optim
from promise import BATCH, Entry

X1, X2, X3 = (BATCH, 6, 40), (BATCH, 19, 13, 11), (BATCH, 4, 7, 6, 5)
BY_SPACE = {1: X1, 2: X2, 3: X3}


def layer(
    name: str, make: Any, shape: tuple[int, ...], *, training: bool = False, images: bool = True, label: str = "", **options: Any
) -> Entry:
    """The layer on x and on its own parameters, which are inputs as well, so that they have gradients and layouts."""
    made = make()
    held = [np.array(p.data) for p in made.parameters()]
    rng = np.random.default_rng(3)
    values = [(rng.standard_normal(p.shape) * 0.5).astype(np.float32) for p in held]

    def run(x: Any, *parameters: Any) -> Any:
        module = make().train(training)
        for name_, value in zip([n for n, _ in module.named_parameters()], parameters, strict=True):
            _put(module, name_, value)
        return module(x)

    return Entry(name, run, (shape, *values), (True,), images, tuple(range(1 + len(values))), label=label, **options)


def _put(module: Any, name: str, value: Any) -> None:
    """Parameter `name` is this Tensor (or a parameter of this array)."""
    *path, last = name.split(".")
    for part in path:
        module = getattr(module, part)
    if isinstance(value, pre.Tensor):
        module._parameters[last] = value
    else:
        getattr(module, last).assign(np.array(value))


def of_spaces(kind: str, make: Any, **options: Any) -> list[Entry]:
    """Entries of kind1d, kind2d and kind3d; make: from the class and the channels."""
    return [
        layer(f"{kind}{n}d", lambda n=n, shape=shape: make(getattr(nn, f"{kind}{n}d"), shape[1]), shape, **options)
        for n, shape in BY_SPACE.items()
    ]


def _unpool(n: int) -> Entry:
    shape = (BATCH, 3, *[4] * n)
    pooled, switches = ops.max_pool(np.random.default_rng(1).standard_normal(shape), 2, return_switches=True)
    return Entry(f"MaxUnpool{n}d", lambda y, s: getattr(nn, f"MaxUnpool{n}d")(2)(y, s), (pooled.shape, switches), (True, True))


def _recurrent(name: str) -> Entry:
    return layer(name, lambda: _First(getattr(nn, name)(6, 7, batch_first=True)), (BATCH, 5, 6))


def _rows(weight: Any) -> Any:
    """Rows of a table, some of them more than once."""
    table = nn.Embedding(*weight.shape, padding_idx=2)
    _put(table, "weight", weight)
    return table(np.array([[3, 0, 8, 3], [2, 7, 1, 3]]))


class _First(nn.Module):
    """The first result of a module."""

    def __init__(self, inside: Any) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Any) -> Any:
        return self.inside(x)[0]


ACTIVATIONS = (
    "CELU", "ELU", "GELU", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid", "Mish", "PReLU", "ReLU", "ReLU6", "SELU", "SiLU",
    "Sigmoid", "Softplus", "Softsign", "Tanh", "Tanhshrink", "Hardshrink", "Softshrink", "Identity", "Flatten",
)  # fmt: skip
BATCH_MATES = "batch statistics"

LAYERS = [
    *[layer(name, getattr(nn, name), X2) for name in ACTIVATIONS],
    *of_spaces("Conv", lambda kind, c: kind(c, 8, 3, padding=1)),
    *of_spaces("ConvTranspose", lambda kind, c: kind(c, 5, 3, stride=2)),
    *of_spaces("BatchNorm", lambda kind, c: kind(c)),
    *of_spaces("BatchNorm", lambda kind, c: kind(c), training=True, images=False, label=BATCH_MATES),
    *of_spaces("InstanceNorm", lambda kind, c: kind(c, affine=True)),
    *of_spaces("Dropout", lambda kind, c: kind(0.5)),
    *of_spaces("AvgPool", lambda kind, c: kind(2)),
    *of_spaces("MaxPool", lambda kind, c: kind(2)),
    *of_spaces("AdaptiveAvgPool", lambda kind, c: kind(3)),
    *of_spaces("AdaptiveMaxPool", lambda kind, c: kind(3)),
    *[_unpool(n) for n in BY_SPACE],
    layer("Dropout", lambda: nn.Dropout(0.5), X2),
    layer("GroupNorm", lambda: nn.GroupNorm(19, 19), X2, label="one channel a group"),
    layer("GroupNorm", lambda: nn.GroupNorm(3, 6), X1),
    layer("LayerNorm", lambda: nn.LayerNorm((13, 11)), X2),
    layer("LayerNorm", lambda: nn.LayerNorm(600), (BATCH, 4, 600), label="long rows"),
    layer("Linear", lambda: nn.Linear(11, 23), X2),
    layer("Linear", lambda: nn.Linear(600, 10), (BATCH, 600), label="of rows"),
    layer("Softmax", lambda: nn.Softmax(1), X2),
    layer("LogSoftmax", lambda: nn.LogSoftmax(1), X2),
    layer("Softmin", lambda: nn.Softmin(1), X2),
    layer("GLU", lambda: nn.GLU(1), X1),
    layer("Threshold", lambda: nn.Threshold(0.1, 0.7), X2),
    layer("RMSNorm", lambda: nn.RMSNorm((13, 11)), X2),
    layer("LocalResponseNorm", lambda: nn.LocalResponseNorm(5, alpha=0.5), X2),
    *of_spaces("CircularPad", lambda kind, c: kind(2)),
    *of_spaces("ConstantPad", lambda kind, c: kind(1, 0.5)),
    *of_spaces("ReflectionPad", lambda kind, c: kind(3)),
    *of_spaces("ReplicationPad", lambda kind, c: kind(2)),
    *of_spaces("ZeroPad", lambda kind, c: kind(1)),
    layer("ChannelShuffle", lambda: nn.ChannelShuffle(3), X1),
    layer("Unfold", lambda: nn.Unfold((3, 2), padding=1, stride=2), X2),
    layer("Fold", lambda: nn.Fold((5, 6), (3, 2), padding=1, stride=2), (BATCH, 12, 12)),
    layer("UpsamplingNearest2d", lambda: nn.UpsamplingNearest2d(scale_factor=2), X2),
    layer("UpsamplingBilinear2d", lambda: nn.UpsamplingBilinear2d((17, 20)), X2),
    Entry("Embedding", lambda w: _rows(w), ((9, 6),), (False,), False, (0,)),
    layer("PixelShuffle", lambda: nn.PixelShuffle(2), (BATCH, 8, 5, 6)),
    layer("PixelUnshuffle", lambda: nn.PixelUnshuffle(2), (BATCH, 3, 6, 8)),
    layer("Upsample", lambda: nn.Upsample(scale_factor=2, mode="bilinear"), X2),
    layer("Unflatten", lambda: nn.Unflatten(1, (2, 3)), X1),
    layer("Sequential", lambda: nn.Sequential(nn.Conv2d(19, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 11 * 9, 4)), X2),
    layer(
        "Sequential",
        lambda: nn.Sequential(nn.BatchNorm2d(19), nn.LeakyReLU(0.2)),
        X2,
        training=True,
        images=False,
        label="normalised and rectified, " + BATCH_MATES,
    ),
    *[_recurrent(name) for name in ("RNN", "LSTM", "GRU")],
]

_classes = np.array([3, 0, 18, 7, 5])
_places = np.random.default_rng(2).integers(0, 19, (BATCH, 13, 11))


def _loss(name: str, wanted: tuple[int, ...], function: str, label: str = "") -> list[Entry]:
    """The layer with the mean of all, and the function image by image."""
    kind = "unit" if name in ("BCELoss", "DiceLoss") else "normal"
    whole = Entry(name, lambda x, t: getattr(nn, name)()(x, t), (X2, X2), (True, True), False, wanted, kind, label=label)
    sums = Entry(function, lambda x, t: getattr(nn, function)(x, t, reduction="sum"), (X2, X2), (True, True), False, wanted, kind)
    each = Entry(function, lambda x, t: getattr(nn, function)(x, t, reduction="none"), (X2, X2), (True, True), True, wanted, kind)
    return [whole, each, sums]


_weights = np.linspace(0.5, 2, 19, dtype=np.float32)
LOSSES = [
    *_loss("MSELoss", (0, 1), "mse_loss"),
    *_loss("L1Loss", (0, 1), "l1_loss"),
    *_loss("HuberLoss", (0, 1), "huber_loss"),
    Entry("SmoothL1Loss", lambda x, t: nn.SmoothL1Loss(beta=0.5)(x, t), (X2, X2), (True, True), False, (0, 1)),
    Entry("KLDivLoss", lambda x, t: nn.KLDivLoss("batchmean")(x, t), (X2, X2), (True, True), False, (0, 1), "unit"),
    *_loss("BCELoss", (0,), "bce_loss"),
    *_loss("BCEWithLogitsLoss", (0,), "bce_with_logits_loss"),
    Entry("DiceLoss", lambda x, t: nn.DiceLoss()(x, t), (X2, X2), (True, True), False, (0,), "unit"),
    Entry("dice_loss", lambda x, t: nn.dice_loss(x, t, reduction="none"), (X2, X2), (True, True), True, (0,), "unit"),
    Entry("NLLLoss", lambda x: nn.NLLLoss()(x, _places), (X2,), images=False),
    Entry("nll_loss", lambda x, t: nn.nll_loss(x, t, reduction="none"), (X2, _places), (True, True)),
    Entry("CrossEntropyLoss", lambda x: nn.CrossEntropyLoss(weight=_weights)(x, _places), (X2,), images=False),
    Entry("CrossEntropyLoss", lambda x: nn.CrossEntropyLoss()(x, _classes), ((BATCH, 19),), images=False, label="of rows"),
    Entry("cross_entropy", lambda x, t: nn.cross_entropy(x, t, reduction="none"), (X2, _places), (True, True)),
]


def _steps(make: Any) -> Any:
    """Three steps of an optimiser on two parameters, whose gradients are the inputs."""

    def run(*gradients: Any) -> Any:
        rng = np.random.default_rng(4)
        parameters = [nn.Parameter(rng.standard_normal(g.shape).astype(g.dtype)) for g in gradients]
        change = make(parameters)
        for _ in range(3):
            for p, g in zip(parameters, gradients, strict=True):
                p.grad = pre.Tensor(g)
            change(parameters)
        return [np.array(p.data) for p in parameters]

    return run


def _step(kind: str, **options: Any) -> Any:
    def make(parameters: Any) -> Any:
        optimizer = getattr(optim, kind)(parameters, lr=0.01, **options)
        return lambda _: optimizer.step()

    return make


def _norm(parameters: Any) -> Any:
    def change(held: Any) -> None:
        optim.clip_grad_norm(held, 0.5)
        for p in held:
            p.assign(p.data - p.grad.data)

    return change


def _range(parameters: Any) -> Any:
    def change(held: Any) -> None:
        optim.clip_grad_value(held, 0.5)
        for p in held:
            p.assign(p.data - p.grad.data)

    return change


GRADIENTS = ((24, 19, 3, 3), (24,))
OPTIMISERS = [
    Entry(name, _steps(make), GRADIENTS, (False,), False, (), dtypes=(np.float32, np.float64, np.float16))
    for name, make in (
        ("SGD", _step("SGD", momentum=0.9, weight_decay=0.01)),
        *((kind, _step(kind)) for kind in ("AdaGrad", "Adagrad", "Adam", "AdamW", "RMSProp", "RMSprop")),
        ("clip_grad_norm", _norm),
        ("clip_grad_value", _range),
    )
]

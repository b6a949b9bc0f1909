"""Activation layers. `epilogue` says how a convolution before it can do the activation itself (engines.base.Epilogue)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from preimage import functional, ops
from preimage.nn.module import Layer, Parameter
from preimage.ops.layout import check_layout
from preimage.ops.operands import check_room, count_of, float_dtype, number_of
from preimage.typing import DTypeLike, EpilogueOptions, Layout, Operand, Value

__all__ = [
    "CELU", "ELU", "GELU", "GLU", "SELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid", "LogSoftmax", "Mish",
    "PReLU", "ReLU", "ReLU6", "SiLU", "Sigmoid", "Softmax", "Softmin", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink", "Threshold",
]  # fmt: skip


class _Activation(Layer):
    """A function of one argument with fixed options."""

    #: Of one that gives x where x > 0, else slope * x: that slope; 0 for max(x, 0).
    rectifier_slope: float | None = None

    def __init__(self, function: Callable[..., Value], **options: Any) -> None:
        super().__init__()
        self._function, self._options = function, options

    def forward(self, x: Operand) -> Value:
        return self._function(x, **self._options)

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self._options.items())

    def epilogue(self) -> EpilogueOptions | None:
        """Options for ops.conv that fuse this activation; None where it cannot be fused."""
        return None


class ReLU(_Activation):
    """max(x, 0)."""

    def __init__(self, inplace: bool = False) -> None:  # PyTorch's argument; nothing is ever changed in place here
        super().__init__(ops.relu)

    rectifier_slope = 0.0

    def epilogue(self) -> EpilogueOptions:
        return {"activation": "relu"}


class LeakyReLU(_Activation):
    """x where x > 0, else negative_slope * x."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__(ops.leaky_relu, slope=negative_slope)
        self.rectifier_slope = float(negative_slope) if isinstance(negative_slope, int | float) and negative_slope else None

    def epilogue(self) -> EpilogueOptions:
        return {"activation": "leaky_relu", "slope": self._options["slope"]}


class Hardtanh(_Activation):
    """x held between min_val and max_val."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        super().__init__(ops.hardtanh, lo=min_val, hi=max_val)

    def epilogue(self) -> EpilogueOptions:
        return {"activation": "clip", "clip_range": (self._options["lo"], self._options["hi"])}


class ReLU6(Hardtanh):
    """min(max(x, 0), 6)."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(0.0, 6.0)


class ELU(_Activation):
    """x where x > 0, else alpha (exp(x) - 1)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__(ops.elu, alpha=alpha)


class CELU(_Activation):
    """x where x > 0, else alpha (exp(x / alpha) - 1)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__(ops.celu, alpha=alpha)


class SELU(_Activation):
    """The scaled elu."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(ops.selu)


class GELU(_Activation):
    """x times the normal distribution function of x; approximate="tanh" for the formula with tanh."""

    def __init__(self, approximate: Literal["none", "tanh"] = "none") -> None:
        super().__init__(ops.gelu, approximate=approximate)


class Sigmoid(_Activation):
    """1 / (1 + exp(-x))."""

    def __init__(self) -> None:
        super().__init__(ops.sigmoid)


class LogSigmoid(_Activation):
    """log(sigmoid(x))."""

    def __init__(self) -> None:
        super().__init__(ops.log_sigmoid)


class Tanh(_Activation):
    """The hyperbolic tangent."""

    def __init__(self) -> None:
        super().__init__(ops.tanh)


class Softplus(_Activation):
    """log(1 + exp(beta x)) / beta."""

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__(ops.softplus, beta=beta)


class Softsign(_Activation):
    """x / (1 + |x|)."""

    def __init__(self) -> None:
        super().__init__(ops.softsign)


class SiLU(_Activation):
    """x * sigmoid(x)."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(ops.silu)


class Mish(_Activation):
    """x * tanh(softplus(x))."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(ops.mish)


class Hardsigmoid(_Activation):
    """x / 6 + 1/2 held between 0 and 1."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(ops.hardsigmoid)


class Hardswish(_Activation):
    """x * hardsigmoid(x)."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(ops.hardswish)


class Softmax(_Activation):
    """exp(x) / sum(exp(x)) along an axis."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__(ops.softmax, axis=dim)


class LogSoftmax(_Activation):
    """log(softmax(x)) along an axis."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__(ops.log_softmax, axis=dim)


class Softmin(_Activation):
    """softmax(-x) along an axis."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__(functional.softmin, dim=dim)


class GLU(_Activation):
    """The first half along an axis times the sigmoid of the second."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__(functional.glu, dim=dim)


class Hardshrink(_Activation):
    """x, and 0 where it is not further than lambd from 0."""

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__(functional.hardshrink, lambd=lambd)


class Softshrink(_Activation):
    """x moved towards 0 by lambd, 0 where it is nearer (the proximal operator of lambd |x|)."""

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__(functional.softshrink, lambd=lambd)


class Tanhshrink(_Activation):
    """x - tanh(x)."""

    def __init__(self) -> None:
        super().__init__(functional.tanhshrink)


class Threshold(_Activation):
    """x where it is above the threshold, else value."""

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__(functional.threshold, threshold=threshold, value=value)


class PReLU(Layer):
    """x where x > 0, else weight * x with learned weights, one or one per channel."""

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, *, dtype: DTypeLike = np.float32, layout: Layout = "channels_first"
    ) -> None:
        super().__init__()
        self.num_parameters, self.layout = count_of(num_parameters, "PReLU: num_parameters", 1), check_layout(layout)
        check_room("PReLU", (self.num_parameters,), float_dtype(dtype))
        self.weight = Parameter(np.full(self.num_parameters, number_of(init, "PReLU: init"), float_dtype(dtype)))

    def forward(self, x: Operand) -> Value:
        return ops.prelu(x, self.weight, layout=self.layout)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"

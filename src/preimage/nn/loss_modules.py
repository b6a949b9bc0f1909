"""The losses as modules, with fixed options."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, overload

from preimage import functional
from preimage.autograd import Tensor
from preimage.errors import OptionError
from preimage.nn.module import Module
from preimage.ops.losses import (
    bce_loss,
    bce_with_logits_loss,
    cross_entropy,
    dice_loss,
    huber_loss,
    l1_loss,
    mse_loss,
    nll_loss,
)
from preimage.ops.operands import flag_of, number_of
from preimage.typing import Array, ArrayLike, LossReduction, Operand, Value

__all__ = [
    "BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "DiceLoss", "HuberLoss", "KLDivLoss", "L1Loss", "MSELoss", "NLLLoss", "SmoothL1Loss", "_Loss",
]  # fmt: skip


class _Loss(Module):
    """A loss with fixed options."""

    _function: Callable[..., Value]

    if TYPE_CHECKING:

        @overload
        def __call__(self, prediction: Tensor, target: Operand) -> Tensor: ...
        @overload
        def __call__(self, prediction: ArrayLike, target: Tensor) -> Tensor: ...
        @overload
        def __call__(self, prediction: ArrayLike, target: ArrayLike) -> Array: ...
        def __call__(self, prediction: Operand, target: Operand) -> Value: ...

    def __init__(self, **options: object) -> None:
        super().__init__()
        self._options = options

    def forward(self, prediction: Operand, target: Operand) -> Value:
        return type(self)._function(prediction, target, **self._options)

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self._options.items() if isinstance(v, str | bool | int | float))


class MSELoss(_Loss):
    """The mean squared difference."""

    _function = staticmethod(mse_loss)

    def __init__(self, reduction: LossReduction = "mean") -> None:
        super().__init__(reduction=reduction)


class L1Loss(_Loss):
    """The mean absolute difference."""

    _function = staticmethod(l1_loss)

    def __init__(self, reduction: LossReduction = "mean") -> None:
        super().__init__(reduction=reduction)


class HuberLoss(_Loss):
    """Squared near zero, absolute beyond delta."""

    _function = staticmethod(huber_loss)

    def __init__(self, reduction: LossReduction = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction=reduction, delta=delta)


class SmoothL1Loss(_Loss):
    """Squared near zero, absolute beyond beta, over beta."""

    _function = staticmethod(functional.smooth_l1_loss)

    def __init__(self, reduction: LossReduction = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction=reduction, beta=beta)


class KLDivLoss(_Loss):
    """target (log target - prediction), with log probabilities predicted; "batchmean" divides the sum by the first axis."""

    _function = staticmethod(functional.kl_div)

    def __init__(self, reduction: Literal["none", "mean", "sum", "batchmean"] = "mean", log_target: bool = False) -> None:
        super().__init__(reduction=reduction, log_target=flag_of(log_target, "KLDivLoss: log_target"))


class NLLLoss(_Loss):
    """The negative log-probability of the target class."""

    _function = staticmethod(nll_loss)

    def __init__(self, weight: Operand | None = None, ignore_index: int = -100, reduction: LossReduction = "mean") -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)


class CrossEntropyLoss(_Loss):
    """Cross entropy from logits."""

    _function = staticmethod(cross_entropy)

    def __init__(
        self,
        weight: Operand | None = None,
        ignore_index: int = -100,
        reduction: LossReduction = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing)


class BCELoss(_Loss):
    """Binary cross entropy from probabilities."""

    _function = staticmethod(bce_loss)

    def __init__(self, weight: Operand | None = None, reduction: LossReduction = "mean") -> None:
        super().__init__(weight=weight, reduction=reduction)


class BCEWithLogitsLoss(_Loss):
    """Binary cross entropy from logits."""

    _function = staticmethod(bce_with_logits_loss)

    def __init__(
        self, weight: Operand | None = None, reduction: LossReduction = "mean", pos_weight: Operand | None = None
    ) -> None:
        super().__init__(weight=weight, reduction=reduction, pos_weight=pos_weight)


class DiceLoss(_Loss):
    """1 - the Dice coefficient, from probabilities."""

    _function = staticmethod(dice_loss)

    def __init__(self, smooth: float = 1.0, reduction: LossReduction = "mean") -> None:
        smooth = number_of(smooth, "DiceLoss: smooth")
        if smooth < 0 or not math.isfinite(smooth):
            raise OptionError(f"DiceLoss: smooth must not be negative, got {smooth}")
        super().__init__(smooth=smooth, reduction=reduction)

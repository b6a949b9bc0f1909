"""Optimisers, learning-rate schedules and gradient clipping."""

from preimage.optim import schedule
from preimage.optim.clip import clip_grad_norm, clip_grad_value
from preimage.optim.optimizer import Optimizer
from preimage.optim.rules import SGD, AdaGrad, Adagrad, Adam, AdamW, RMSProp, RMSprop
from preimage.optim.schedule import Schedule, cosine, exp, fixed, from_caffe, inv, multistep, poly, sigmoid, step

__all__ = [
    "SGD", "AdaGrad", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSProp", "RMSprop", "Schedule", "clip_grad_norm", "clip_grad_value", "cosine", "exp",
    "fixed", "from_caffe", "inv", "multistep", "poly", "schedule", "sigmoid", "step",
]  # fmt: skip


def __dir__() -> list[str]:
    """The public names; modules lie behind them."""
    return sorted(__all__)

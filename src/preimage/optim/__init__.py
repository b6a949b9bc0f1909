"""Optimisers, learning-rate schedules and gradient clipping."""

from preimage.optim import schedule
from preimage.optim.clip import clip_grad_norm, clip_grad_value
from preimage.optim.optimizer import SGD, AdaGrad, Adam, AdamW, Optimizer, RMSProp
from preimage.optim.schedule import Schedule, cosine, exp, fixed, from_caffe, inv, multistep, poly, sigmoid, step

__all__ = [
    "SGD", "AdaGrad", "Adam", "AdamW", "Optimizer", "RMSProp", "Schedule", "clip_grad_norm", "clip_grad_value", "cosine", "exp",
    "fixed", "from_caffe", "inv", "multistep", "poly", "schedule", "sigmoid", "step",
]  # fmt: skip

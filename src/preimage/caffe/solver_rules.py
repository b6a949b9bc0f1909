"""Caffe's update rules and learning-rate policies.

Update of a weight w with gradient g, rate r = rate(iter) lr_mult and d = weight_decay decay_mult. First all gradients (sums over iter_size
passes) are scaled down to the norm clip_gradients where they are longer, and divided by iter_size; then g += d w (L2) or d sign(w) (L1), and

    SGD       h = m h + r g;                      w -= h
    Nesterov  h' = m h + r g;                     w -= (1 + m) h' - m h
    AdaGrad   h += g^2;                           w -= r g / (sqrt(h) + delta)
    RMSProp   h = q h + (1 - q) g^2;              w -= r g / (sqrt(h) + delta)
    AdaDelta  h = m h + (1 - m) g^2;  u = g sqrt((k + delta) / (h + delta));  k = m k + (1 - m) u^2;  w -= r u
    Adam      h = m h + (1 - m) g;  k = n k + (1 - n) g^2;  w -= r sqrt(1 - n^t) / (1 - m^t) h / (sqrt(k) + delta)

Source: BVLC/caffe, src/caffe/solvers (rules and policies, read as facts).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, sqrt
from typing import Any

import numpy as np

from preimage import ops
from preimage.errors import FileFormatError
from preimage.io.caffe.wire.message import Message

__all__ = ["TWO_HISTORIES", "TYPES", "change", "clipped", "current_step", "rate", "regularised"]

TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
#: Rules that keep two arrays (h and k) for each weight.
TWO_HISTORIES = ("AdaDelta", "Adam")
_POLICIES = "fixed, step, exp, inv, multistep, poly, sigmoid"


def rate(solver: Message, step: int) -> float:
    """The learning rate at an iteration, by lr_policy.

    Raises: FileFormatError for a policy that is unknown or lacks its settings, and where they give no number.
    """
    try:
        found = _rate(solver, step)
        if isinstance(found, complex):
            raise ValueError("the power of a negative number")
    except FileFormatError:
        raise
    except (ArithmeticError, ValueError) as error:
        raise FileFormatError(
            f"lr_policy {solver.lr_policy!r} with gamma {solver.gamma:g}, power {solver.power:g}, stepsize {solver.stepsize}, "
            f"max_iter {solver.max_iter} gives no learning rate at iteration {step}: {error}"
        ) from None
    return float(found)


def _rate(solver: Message, step: int) -> Any:
    base, gamma, policy = solver.base_lr, solver.gamma, solver.lr_policy
    if policy in ("step", "sigmoid") and not solver.has("stepsize"):
        raise FileFormatError(f"lr_policy {policy!r} needs stepsize")
    if policy == "fixed":
        return base
    if policy in ("step", "multistep"):
        return base * gamma ** current_step(solver, step)
    if policy == "exp":
        return base * gamma**step
    if policy == "inv":
        return base * (1 + gamma * step) ** -solver.power
    if policy == "poly":
        return base * max(1 - step / max(solver.max_iter, 1), 0.0) ** solver.power
    if policy == "sigmoid":
        return base / (1 + exp(-gamma * (step - solver.stepsize)))
    raise FileFormatError(f"lr_policy {policy!r} is unknown; known: {_POLICIES}")


def current_step(solver: Message, step: int) -> int:
    """How often the rate of the policies `step` and `multistep` was lowered up to an iteration; 0 for the others."""
    if solver.lr_policy == "step":
        return int(step // max(solver.stepsize, 1))
    return sum(step >= value for value in solver.stepvalue) if solver.lr_policy == "multistep" else 0


def clipped(solver: Message, gradients: Mapping[str, Any]) -> dict[str, Any]:
    """The gradients, scaled down to the norm clip_gradients where that is set and they are longer, and divided by iter_size."""
    factor = 1.0
    if solver.clip_gradients >= 0:
        norm = sqrt(sum(float(ops.sum(np.square(g, dtype=np.float64))) for g in gradients.values()))
        if norm > solver.clip_gradients:
            factor = solver.clip_gradients / norm
    factor /= max(solver.iter_size, 1)
    return {name: g if factor == 1 else g * np.float32(factor) for name, g in gradients.items()}


def regularised(solver: Message, g: Any, weight: Any, decay_mult: float) -> Any:
    """The gradient with that of the weight decay. Raises: FileFormatError for an unknown regularization_type."""
    decay, kind = np.float32(solver.weight_decay * decay_mult), solver.regularization_type
    if kind not in ("L1", "L2"):
        raise FileFormatError(f"regularization_type {kind!r} is unknown; known: L1, L2")
    return g + decay * (np.sign(weight) if kind == "L1" else weight) if decay else g


def change(rule: str, p: Message, step: int, g: Any, r: Any, h: Any, k: Any) -> tuple[Any, Any, Any]:
    """What the rule takes off a weight at an iteration, and its two histories afterwards. Raises: FileFormatError for settings of Adam's."""
    m = np.float32(p.momentum)
    if rule in ("SGD", "Nesterov"):
        fresh = m * h + r * g
        taken = fresh if rule == "SGD" else (1 + m) * fresh - m * h
        h = fresh
    elif rule in ("AdaGrad", "RMSProp"):
        q = np.float32(p.rms_decay)
        h = h + g * g if rule == "AdaGrad" else q * h + (1 - q) * g * g
        taken = r * g / (np.sqrt(h) + np.float32(p.delta))
    elif rule == "AdaDelta":
        h = m * h + (1 - m) * g * g
        taken = g * np.sqrt((k + np.float32(p.delta)) / (h + np.float32(p.delta)))
        k = m * k + (1 - m) * taken * taken
        taken = r * taken
    else:
        if not (0 <= p.momentum < 1 and 0 <= p.momentum2 < 1):
            raise FileFormatError(f"Adam needs momentum and momentum2 from 0 to below 1, got {p.momentum:g} and {p.momentum2:g}")
        n, t = np.float32(p.momentum2), step + 1
        h, k = m * h + (1 - m) * g, n * k + (1 - n) * g * g
        correction = np.float32(sqrt(1 - p.momentum2**t) / (1 - p.momentum**t))
        taken = r * correction * h / (np.sqrt(k) + np.float32(p.delta))
    return taken.astype(np.float32, copy=False), h, k

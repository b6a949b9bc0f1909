"""Optimisers: each turns the gradients that lie on the parameters into a step. The update rules are PyTorch's, term by term."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from preimage.engines import around
from preimage.optim.optimizer import Array, Group, Optimizer, Params, State

__all__ = ["SGD", "AdaGrad", "Adagrad", "Adam", "AdamW", "RMSProp", "RMSprop"]


class _Chain:
    """Elementwise steps written down one by one, to run in one pass (engines/around.py).

    A place is an operand's number; a number's is 100 and more, a step's 1000 and more, until their counts are known.
    """

    def __init__(self, *operands: Array) -> None:
        self._operands = operands
        self._numbers: list[float] = []
        self._steps: list[tuple[str, tuple[int, ...]]] = []

    def number(self, value: float) -> int:
        """The place of a number."""
        self._numbers.append(float(value))
        return 99 + len(self._numbers)

    def step(self, word: str, *places: int) -> int:
        """The place of a step's result."""
        self._steps.append((word, places))
        return 999 + len(self._steps)

    def run(self, *results: int) -> tuple[Array, ...] | None:
        """The values at these places as new arrays; None where no generated kernel runs."""
        n, m = len(self._operands), len(self._numbers)

        def place(k: int) -> int:
            return k if k < 100 else k - 100 + n if k < 1000 else k - 1000 + n + m

        steps = tuple([(word, tuple([place(k) for k in places])) for word, places in self._steps])
        return around.chain(self._operands, steps, self._numbers, tuple([place(k) for k in results]))


class SGD(Optimizer):
    """v = momentum v + (1 - dampening) g;  p -= lr v, or lr (g + momentum v) with nesterov; g takes weight_decay p first.

    The first v is g itself.
    """

    state_names: ClassVar[Mapping[str, str]] = {"momentum": "momentum_buffer"}

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**options, "nesterov": nesterov, "maximize": maximize})

    def _updated(self, p: Array, g: Array, state: State, group: Group) -> Array:
        fused = self._fused(p, g, state, group)
        if fused is not None:
            return fused
        g = -g if group["maximize"] else g
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p
        momentum = group["momentum"]
        if momentum:
            if "momentum" in state:
                state["momentum"] = momentum * state["momentum"] + (1 - group["dampening"]) * g
            else:
                state["momentum"] = np.array(g)
            g = g + momentum * state["momentum"] if group["nesterov"] else state["momentum"]
        return np.asarray(p - group["lr"] * g)

    def _fused(self, p: Array, g: Array, state: State, group: Group) -> Array | None:
        """The same steps, rounded alike, in one pass; None where no generated kernel takes them."""
        held = state.get("momentum")
        if group["maximize"] or held is None or p.size < around.LEAST_CHAIN:
            return None
        chain = _Chain(p, g, held)
        at_p, at_g, at_v = range(3)
        if group["weight_decay"]:
            at_g = chain.step("add", at_g, chain.step("mul", chain.number(group["weight_decay"]), at_p))
        momentum = chain.number(group["momentum"])
        old = chain.step("mul", momentum, at_v)
        at_v = chain.step("add", old, chain.step("mul", chain.number(1 - group["dampening"]), at_g))
        if group["nesterov"]:
            at_g = chain.step("add", at_g, chain.step("mul", momentum, at_v))
        else:
            at_g = at_v
        made = chain.run(at_v, chain.step("sub", at_p, chain.step("mul", chain.number(group["lr"]), at_g)))
        if made is None:
            return None
        state["momentum"], p = made
        return p


class Adam(Optimizer):
    """m and v: running means of g and g^2, freed of their start at 0;  p -= lr m / (sqrt(v) + eps) (Kingma and Ba 2015).

    weight_decay is added to the gradient; `AdamW` takes it off the parameter instead.
    """

    _decoupled = False
    state_names: ClassVar[Mapping[str, str]] = {"mean": "exp_avg", "square": "exp_avg_sq", "largest": "max_exp_avg_sq"}

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "amsgrad": amsgrad, "maximize": maximize})

    def _updated(self, p: Array, g: Array, state: State, group: Group) -> Array:
        fused = self._fused(p, g, state, group)
        if fused is not None:
            return fused
        g = -g if group["maximize"] else g
        (b1, b2), decay, lr = group["betas"], group["weight_decay"], group["lr"]
        if decay and self._decoupled:
            p = p * (1 - lr * decay)
        elif decay:
            g = g + decay * p
        m = state["mean"] = b1 * state.get("mean", np.zeros_like(g)) + (1 - b1) * g
        v = state["square"] = b2 * state.get("square", np.zeros_like(g)) + (1 - b2) * (g * g)
        if group["amsgrad"]:
            v = state["largest"] = np.maximum(state.get("largest", v), v)
        first, second = 1 - b1 ** state["step"], 1 - b2 ** state["step"]
        return np.asarray(p - (lr / first) * m / (np.sqrt(v) / second**0.5 + group["eps"]))

    def _fused(self, p: Array, g: Array, state: State, group: Group) -> Array | None:
        """The same steps, rounded alike, in one pass; None where no generated kernel takes them."""
        if group["maximize"] or group["amsgrad"] or "mean" not in state or p.size < around.LEAST_CHAIN:
            return None
        (b1, b2), decay, lr = group["betas"], group["weight_decay"], group["lr"]
        chain = _Chain(p, g, state["mean"], state["square"])
        at_p, at_g, at_m, at_v = range(4)
        if decay and self._decoupled:
            at_p = chain.step("mul", at_p, chain.number(1 - lr * decay))
        elif decay:
            at_g = chain.step("add", at_g, chain.step("mul", chain.number(decay), at_p))
        first, second = 1 - b1 ** state["step"], 1 - b2 ** state["step"]
        at_m = chain.step("add", chain.step("mul", chain.number(b1), at_m), chain.step("mul", chain.number(1 - b1), at_g))
        fresh = chain.step("mul", chain.number(1 - b2), chain.step("mul", at_g, at_g))
        at_v = chain.step("add", chain.step("mul", chain.number(b2), at_v), fresh)
        top = chain.step("mul", chain.number(lr / first), at_m)
        below = chain.step(
            "add", chain.step("div", chain.step("sqrt", at_v), chain.number(second**0.5)), chain.number(group["eps"])
        )
        made = chain.run(at_m, at_v, chain.step("sub", at_p, chain.step("div", top, below)))
        if made is None:
            return None
        state["mean"], state["square"], p = made
        return p


class AdamW(Adam):
    """Adam with the weight decay taken off the parameter: p -= lr weight_decay p (Loshchilov and Hutter 2019)."""

    _decoupled = True

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize)


class RMSProp(Optimizer):
    """v: a running mean of g^2 (less the square of that of g, if centered);  p -= lr g / (sqrt(v) + eps), with momentum.

    Centred, v is kept as a variance, which cannot fall below 0 as the difference of two rounded means does:
    v = alpha v + alpha (1 - alpha) (g - m)^2 with the mean m before this step, the same number.
    """

    state_names: ClassVar[Mapping[str, str]] = {
        "square": "square_avg",
        "mean": "grad_avg",
        "momentum": "momentum_buffer",
        "variance": "variance",
    }

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        options = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, {**options, "centered": centered})

    def _updated(self, p: Array, g: Array, state: State, group: Group) -> Array:
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p
        alpha = group["alpha"]
        if group["centered"]:
            mean = state.get("mean", np.zeros_like(g))
            if "variance" not in state:  # the start, or state saved as the mean of the squares
                state["variance"] = np.maximum(state.pop("square", np.zeros_like(g)) - mean * mean, 0)
            away = g - mean
            v = state["variance"] = alpha * state["variance"] + alpha * (1 - alpha) * (away * away)
            state["mean"] = alpha * mean + (1 - alpha) * g
        else:
            v = state["square"] = alpha * state.get("square", np.zeros_like(g)) + (1 - alpha) * (g * g)
        step = g / (np.sqrt(v) + group["eps"])
        if group["momentum"]:
            step = state["momentum"] = group["momentum"] * state.get("momentum", np.zeros_like(g)) + step
        return np.asarray(p - group["lr"] * step)


class AdaGrad(Optimizer):
    """v: the sum of all g^2;  p -= lr / (1 + (step - 1) lr_decay) g / (sqrt(v) + eps) (Duchi et al. 2011)."""

    state_names: ClassVar[Mapping[str, str]] = {"sum": "sum"}

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        options = {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay}
        super().__init__(params, {**options, "initial_accumulator_value": initial_accumulator_value, "eps": eps})

    def _updated(self, p: Array, g: Array, state: State, group: Group) -> Array:
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p
        v = state["sum"] = state.get("sum", np.full_like(g, group["initial_accumulator_value"])) + g * g
        lr = group["lr"] / (1 + (state["step"] - 1) * group["lr_decay"])
        return np.asarray(p - lr * g / (np.sqrt(v) + group["eps"]))


#: As PyTorch spells them.
RMSprop, Adagrad = RMSProp, AdaGrad

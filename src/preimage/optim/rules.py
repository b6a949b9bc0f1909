"""Optimisers: each turns the gradients that lie on the parameters into a step. The update rules are PyTorch's, term by term."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from preimage.optim.optimizer import Array, Group, Optimizer, Params, State
from preimage.optim.together import Chain, Written

__all__ = ["SGD", "AdaGrad", "Adagrad", "Adam", "AdamW", "RMSProp", "RMSprop"]


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

    def _written(self, state: State, group: Group) -> Written | None:
        momentum = group["momentum"]
        if momentum and "momentum" not in state:
            return None
        chain, (at_p, at_g, at_v) = Chain(), range(3)
        if group["maximize"]:
            at_g = chain.step("neg", at_g)
        at_g = chain.plus(at_g, group["weight_decay"], at_p)
        if not momentum:
            return chain.written((), chain.step("sub", at_p, chain.scaled(group["lr"], at_g)))
        at_v = chain.step("add", chain.scaled(momentum, at_v), chain.scaled(1 - group["dampening"], at_g))
        at_g = chain.plus(at_g, momentum, at_v) if group["nesterov"] else at_v
        return chain.written(("momentum",), at_v, chain.step("sub", at_p, chain.scaled(group["lr"], at_g)))


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

    def _written(self, state: State, group: Group) -> Written | None:
        if group["amsgrad"] or "mean" not in state:
            return None
        (b1, b2), decay, lr = group["betas"], group["weight_decay"], group["lr"]
        chain, (at_p, at_g, at_m, at_v) = Chain(), range(4)
        if group["maximize"]:
            at_g = chain.step("neg", at_g)
        if decay and self._decoupled:
            at_p = chain.step("mul", at_p, chain.number(1 - lr * decay))
        else:
            at_g = chain.plus(at_g, decay, at_p)
        first, second = 1 - b1 ** state["step"], 1 - b2 ** state["step"]
        at_m = chain.running(b1, at_m, at_g)
        at_v = chain.running(b2, at_v, chain.step("mul", at_g, at_g))
        root = chain.step("div", chain.step("sqrt", at_v), chain.number(second**0.5))
        below = chain.step("add", root, chain.number(group["eps"]))
        top = chain.scaled(lr / first, at_m)
        return chain.written(("mean", "square"), at_m, at_v, chain.step("sub", at_p, chain.step("div", top, below)))


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

    def _written(self, state: State, group: Group) -> Written | None:
        alpha, centered, momentum = group["alpha"], group["centered"], group["momentum"]
        states = ("variance", "mean") if centered else ("square",)
        states = (*states, "momentum") if momentum else states
        if not all(name in state for name in states):
            return None
        chain, at_p, at_g = Chain(), 0, 1
        at = {name: k for k, name in enumerate(states, 2)}
        at_g = chain.plus(at_g, group["weight_decay"], at_p)
        if centered:
            away = chain.step("sub", at_g, at["mean"])
            fresh = chain.scaled(alpha * (1 - alpha), chain.step("mul", away, away))
            at["variance"] = chain.step("add", chain.scaled(alpha, at["variance"]), fresh)
            at["mean"] = chain.running(alpha, at["mean"], at_g)
        else:
            at["square"] = chain.running(alpha, at["square"], chain.step("mul", at_g, at_g))
        below = chain.step("add", chain.step("sqrt", at[states[0]]), chain.number(group["eps"]))
        step = chain.step("div", at_g, below)
        if momentum:
            step = at["momentum"] = chain.step("add", chain.scaled(momentum, at["momentum"]), step)
        return chain.written(states, *at.values(), chain.step("sub", at_p, chain.scaled(group["lr"], step)))


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

    def _written(self, state: State, group: Group) -> Written | None:
        if "sum" not in state:
            return None
        chain, (at_p, at_g, at_v) = Chain(), range(3)
        at_g = chain.plus(at_g, group["weight_decay"], at_p)
        at_v = chain.step("add", at_v, chain.step("mul", at_g, at_g))
        lr = group["lr"] / (1 + (state["step"] - 1) * group["lr_decay"])
        below = chain.step("add", chain.step("sqrt", at_v), chain.number(group["eps"]))
        return chain.written(("sum",), at_v, chain.step("sub", at_p, chain.step("div", chain.scaled(lr, at_g), below)))


#: As PyTorch spells them.
RMSprop, Adagrad = RMSProp, AdaGrad

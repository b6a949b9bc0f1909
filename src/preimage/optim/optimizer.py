"""Optimisers: each turns the gradients that lie on the parameters into a step. The update rules are PyTorch's, term by term.

A step computes new arrays and assigns them, so a graph that still needs the old values says so instead of going wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.autograd import Tensor, refuse_masked
from preimage.engines import around
from preimage.engines.base import accumulator_dtype
from preimage.errors import OptionError, ShapeError

__all__ = ["SGD", "AdaGrad", "Adam", "AdamW", "Optimizer", "RMSProp"]

Array = NDArray[Any]
State = dict[str, Any]


def _copied(held: Mapping[str, Any]) -> State:
    return {name: np.array(value) if isinstance(value, np.ndarray) else value for name, value in held.items()}


class Optimizer:
    """Parameters in groups, each group with its options, and a state per parameter.

    params: Tensors, or dicts {"params": [...], option: value} for groups of their own. Narrow floats are updated in float32
    and rounded once; their state is float32.

    Raises: OptionError for no parameters, one that comes twice, or an option out of its range.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        given = list(params)
        if not given:
            raise OptionError(f"{type(self).__name__} got no parameters")
        groups = given if isinstance(given[0], Mapping) else [{"params": given}]
        self.groups: list[dict[str, Any]] = []
        seen: set[Tensor] = set()
        for group in groups:
            unknown = set(group) - set(defaults) - {"params"}
            if unknown:
                raise OptionError(
                    f"{type(self).__name__} has no option {', '.join(sorted(unknown))}; it has {', '.join(defaults)}"
                )
            held = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
            for p in held:
                if not isinstance(p, Tensor) or not p.is_leaf:
                    raise OptionError(f"{type(self).__name__} changes leaves, got {type(p).__name__}")
                if p in seen:
                    raise OptionError(f"a parameter of shape {p.shape} comes twice")
                seen.add(p)
            options = {**defaults, **{k: v for k, v in group.items() if k != "params"}}
            self._check(options)
            self.groups.append({"params": held, **options})
        # by the Tensor itself, which a copy of the optimiser copies along with the groups; numbers of memory would stay behind
        self._state: dict[Tensor, State] = {}

    def _check(self, options: dict[str, Any]) -> None:
        for name in ("lr", "momentum", "weight_decay", "eps", "lr_decay", "initial_accumulator_value"):
            if name in options and not options[name] >= 0:
                raise OptionError(f"{type(self).__name__}: {name} must be at least 0, got {options[name]}")
        for name, value in (("alpha", options.get("alpha")), *(("betas", b) for b in options.get("betas", ()))):
            if value is not None and not 0 <= value < 1:
                raise OptionError(f"{type(self).__name__}: {name} must lie in 0..1 (1 excluded), got {value}")

    @property
    def lr(self) -> float:
        """The learning rate of the first group; setting it sets all groups."""
        return float(self.groups[0]["lr"])

    @lr.setter
    def lr(self, value: float) -> None:
        for group in self.groups:
            group["lr"] = value

    def parameters(self) -> list[Tensor]:
        """All parameters, group by group."""
        return [p for group in self.groups for p in group["params"]]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def step(self) -> None:
        """Change every parameter that has a gradient."""
        for group in self.groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                wide = accumulator_dtype(parameter.dtype)
                state = self._state.setdefault(parameter, {"step": 0})
                state["step"] += 1
                value = parameter.data.astype(wide, copy=False)
                gradient = parameter.grad.data.astype(wide, copy=False)
                with np.errstate(all="ignore"):
                    parameter.assign(self._updated(value, gradient, state, group).astype(parameter.dtype, copy=False))

    def _updated(self, p: Array, g: Array, state: State, group: dict[str, Any]) -> Array:
        """The parameter after a step: a new array."""
        raise NotImplementedError

    # -- state -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Options of the groups and copies of the state, parameters by number: what `load_state_dict` takes."""
        number = {p: k for k, p in enumerate(self.parameters())}
        state = {number[p]: _copied(held) for p, held in self._state.items() if p in number}
        groups = [
            {**{k: v for k, v in g.items() if k != "params"}, "params": [number[p] for p in g["params"]]} for g in self.groups
        ]
        return {"state": state, "groups": groups}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a saved state: same groups and parameter shapes.

        Raises: OptionError for other groups; ShapeError for state of another shape.
        """
        own = [len(g["params"]) for g in self.groups]
        if [len(g["params"]) for g in saved["groups"]] != own:
            raise OptionError(f"the state is of {[len(g['params']) for g in saved['groups']]} parameters per group, wanted {own}")
        parameters = self.parameters()
        state: dict[Tensor, State] = {}
        for number, held in saved["state"].items():
            if not 0 <= int(number) < len(parameters):
                raise OptionError(f"the state has a parameter {number}; there are {len(parameters)}, counted from 0")
            parameter = parameters[int(number)]
            for name, value in held.items():
                refuse_masked(value, f"state {name} of parameter {number}")
                if np.ndim(value) and np.shape(value) != parameter.shape:
                    raise ShapeError(f"state {name} of parameter {number} has shape {np.shape(value)}, wanted {parameter.shape}")
            state[parameter] = _copied(held)
        for group, options in zip(self.groups, saved["groups"], strict=True):
            group.update({k: v for k, v in options.items() if k != "params"})
        self._state = state

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v}" for k, v in self.groups[0].items() if k != "params")
        return f"{type(self).__name__}({options}; {len(self.parameters())} parameters)"


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

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening):
            raise OptionError("SGD: nesterov needs a momentum above 0 and no dampening")
        options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**options, "nesterov": nesterov, "maximize": maximize})

    def _updated(self, p: Array, g: Array, state: State, group: dict[str, Any]) -> Array:
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

    def _fused(self, p: Array, g: Array, state: State, group: dict[str, Any]) -> Array | None:
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

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "amsgrad": amsgrad, "maximize": maximize})

    def _updated(self, p: Array, g: Array, state: State, group: dict[str, Any]) -> Array:
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

    def _fused(self, p: Array, g: Array, state: State, group: dict[str, Any]) -> Array | None:
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
        params: Iterable[Any],
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

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        options = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, {**options, "centered": centered})

    def _updated(self, p: Array, g: Array, state: State, group: dict[str, Any]) -> Array:
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

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        options = {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay}
        super().__init__(params, {**options, "initial_accumulator_value": initial_accumulator_value, "eps": eps})

    def _updated(self, p: Array, g: Array, state: State, group: dict[str, Any]) -> Array:
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p
        v = state["sum"] = state.get("sum", np.full_like(g, group["initial_accumulator_value"])) + g * g
        lr = group["lr"] / (1 + (state["step"] - 1) * group["lr_decay"])
        return np.asarray(p - lr * g / (np.sqrt(v) + group["eps"]))

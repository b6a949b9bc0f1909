"""Learning-rate schedules: a rate as a function of the number of steps taken, Caffe's policies among them.

    schedule = optim.poly(opt, max_iter=1000, power=0.9)
    ... opt.step(); schedule.step()

The formulas with i, the steps taken so far (Caffe's iteration), and the rate at the start:

    fixed       base                              inv       base * (1 + gamma * i) ** -power
    step        base * gamma ** floor(i / size)   poly      base * (1 - i / max_iter) ** power
    multistep   base * gamma ** (stepvalues <= i) sigmoid   base / (1 + exp(-gamma * (i - stepsize)))
    exp         base * gamma ** i                 cosine    low + (base - low) * (1 + cos(pi i / max_iter)) / 2

Source: the comment on lr_policy in Caffe's caffe.proto, SGDSolver::GetLearningRate.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from preimage.errors import OptionError
from preimage.ops.operands import integer_of, number_of, sizes_of
from preimage.optim.optimizer import Optimizer

__all__ = ["Schedule", "cosine", "exp", "fixed", "from_caffe", "inv", "multistep", "poly", "sigmoid", "step"]


class ScheduleState(TypedDict):
    """Where a schedule stands: the steps taken, and the rates at the start."""

    count: int
    base: list[float]


class Schedule:
    """Sets each group's rate to its rate at the start times factor(i), i counting the calls of `step`.

    warmup: over that many steps the rate first rises evenly to its value.
    """

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float], warmup: int = 0) -> None:
        if not isinstance(optimizer, Optimizer) or not callable(factor):
            raise OptionError(
                f"a Schedule takes an Optimizer and a function of the step, got {type(optimizer).__name__} and {type(factor).__name__}"
            )
        self.optimizer, self.factor, self.warmup = optimizer, factor, integer_of(warmup, "warmup", 0)
        self.base = [float(g["lr"]) for g in optimizer.groups]
        self.count = 0
        self._set()

    def _set(self) -> None:
        rise = min(1.0, (self.count + 1) / (self.warmup + 1))
        for group, base in zip(self.optimizer.groups, self.base, strict=True):
            group["lr"] = base * self._now() * rise

    def _now(self) -> float:
        try:
            return float(self.factor(self.count))
        except (OverflowError, ZeroDivisionError, TypeError) as error:  # powers of hostile numbers: too large, of 0, or complex
            raise OptionError(f"the schedule has no rate at step {self.count}: {error}") from None

    def step(self) -> None:
        """One step of the optimiser was taken."""
        self.count += 1
        self._set()

    @property
    def lr(self) -> float:
        """The rate of the first group now."""
        return self.optimizer.lr

    def state_dict(self) -> ScheduleState:
        """Where it stands."""
        return {"count": self.count, "base": list(self.base)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from there. Raises: OptionError for another number of groups."""
        given: Mapping[str, Any] = state
        if len(given["base"]) != len(self.base):
            raise OptionError(f"the schedule's state is of {len(given['base'])} groups, wanted {len(self.base)}")
        self.count, self.base = int(given["count"]), [float(b) for b in given["base"]]
        self._set()


def fixed(optimizer: Optimizer, *, warmup: int = 0) -> Schedule:
    """The rate as it is."""
    return Schedule(optimizer, lambda i: 1.0, warmup)


def step(optimizer: Optimizer, *, stepsize: int, gamma: float = 0.1, warmup: int = 0) -> Schedule:
    """Times gamma after every stepsize steps."""
    size, rate = integer_of(stepsize, "step: stepsize", 1), number_of(gamma, "step: gamma")
    return Schedule(optimizer, lambda i: float(rate ** (i // size)), warmup)


def multistep(optimizer: Optimizer, *, stepvalues: Sequence[int], gamma: float = 0.1, warmup: int = 0) -> Schedule:
    """Times gamma at each of these steps."""
    values, rate = list(sizes_of(stepvalues, "multistep: stepvalues")), number_of(gamma, "multistep: gamma")
    if values != sorted(values):
        raise OptionError(f"multistep: stepvalues must rise, got {values}")
    return Schedule(optimizer, lambda i: float(rate ** bisect_right(values, i)), warmup)


def exp(optimizer: Optimizer, *, gamma: float, warmup: int = 0) -> Schedule:
    """Times gamma at every step."""
    rate = number_of(gamma, "exp: gamma")
    return Schedule(optimizer, lambda i: float(rate**i), warmup)


def inv(optimizer: Optimizer, *, gamma: float, power: float, warmup: int = 0) -> Schedule:
    """Falling like an inverse power."""
    rate, exponent = number_of(gamma, "inv: gamma"), number_of(power, "inv: power")
    return Schedule(optimizer, lambda i: float((1 + rate * i) ** -exponent), warmup)


def poly(optimizer: Optimizer, *, max_iter: int, power: float = 1.0, warmup: int = 0) -> Schedule:
    """Falling to 0 at max_iter, and staying there."""
    end, exponent = integer_of(max_iter, "poly: max_iter", 1), number_of(power, "poly: power")
    return Schedule(optimizer, lambda i: float(max(0.0, 1 - i / end) ** exponent), warmup)


def sigmoid(optimizer: Optimizer, *, gamma: float, stepsize: float, warmup: int = 0) -> Schedule:
    """A smooth step at `stepsize`: down for a negative gamma."""

    rate, middle = number_of(gamma, "sigmoid: gamma"), number_of(stepsize, "sigmoid: stepsize")

    def factor(i: int) -> float:
        x = rate * (i - middle)
        e = math.exp(-abs(x))
        return 1 / (1 + e) if x >= 0 else e / (1 + e)

    return Schedule(optimizer, factor, warmup)


def cosine(optimizer: Optimizer, *, max_iter: int, low: float = 0.0, warmup: int = 0) -> Schedule:
    """Half a cosine from the rate to `low` (a fraction of it) at max_iter, and staying there."""
    end, least = integer_of(max_iter, "cosine: max_iter", 1), number_of(low, "cosine: low")
    return Schedule(optimizer, lambda i: least + (1 - least) * (1 + math.cos(math.pi * min(i, end) / end)) / 2, warmup)


_NEEDS: dict[str, tuple[Callable[..., Schedule], dict[str, str]]] = {
    "fixed": (fixed, {}),
    "step": (step, {"stepsize": "stepsize", "gamma": "gamma"}),
    "multistep": (multistep, {"stepvalues": "stepvalue", "gamma": "gamma"}),
    "exp": (exp, {"gamma": "gamma"}),
    "inv": (inv, {"gamma": "gamma", "power": "power"}),
    "poly": (poly, {"max_iter": "max_iter", "power": "power"}),
    "sigmoid": (sigmoid, {"gamma": "gamma", "stepsize": "stepsize"}),
}


def from_caffe(optimizer: Optimizer, solver: Mapping[str, object]) -> Schedule:
    """The schedule that a Caffe solver names: lr_policy and the fields that it needs, as a mapping.

    Raises: OptionError for a policy that does not exist, or a field that is missing.
    """
    if not isinstance(solver, Mapping):
        raise OptionError(f"a solver's fields are a dict, got {type(solver).__name__}")
    policy = solver.get("lr_policy", "fixed")
    if not isinstance(policy, str) or policy not in _NEEDS:
        raise OptionError(f"lr_policy must be one of {', '.join(_NEEDS)}, got {policy!r}")
    build, fields = _NEEDS[policy]
    missing = [field for field in fields.values() if field not in solver]
    if missing:
        raise OptionError(f"lr_policy {policy!r} needs {', '.join(missing)}")
    return build(optimizer, **{name: solver[field] for name, field in fields.items()})

"""What all optimisers share: groups of parameters with options, a state per parameter, and how both are saved.

A step computes new arrays and assigns them, so a graph that still needs the old values says so instead of going wrong. They lie in the memory of the
old ones where nobody else refers to these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Required, TypeAlias, TypedDict, cast

import numpy as np

from preimage.autograd import Tensor, array_of, fitted
from preimage.engines.base import accumulator_dtype
from preimage.errors import OptionError
from preimage.floating_point import in_standard_mode
from preimage.ops.operands import count_of, entries, flag_of, number_of
from preimage.optim.together import Job, Together, Written
from preimage.optim.torch_state import from_torch
from preimage.typing import Array

__all__ = ["Array", "Group", "Optimizer", "OptimizerState", "Params", "State"]

State = dict[str, Any]
#: Parameters, or groups of them: dicts with the parameters under "params" and options of their own.
Params: TypeAlias = Iterable[Tensor | Mapping[str, object]] | Mapping[str, object]


class Group(TypedDict, total=False):
    """The parameters of a group and the options that its optimiser has."""

    params: Required[list[Tensor]]
    lr: Required[float]
    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool
    maximize: bool
    betas: tuple[float, float]
    eps: float
    amsgrad: bool
    alpha: float
    centered: bool
    lr_decay: float
    initial_accumulator_value: float


class OptimizerState(TypedDict):
    """What an optimiser goes on from: the state of its parameters by number, and the options of its groups."""

    state: dict[int, dict[str, Any]]
    groups: list[dict[str, Any]]


def _copied(held: State) -> State:
    return {name: np.array(value) if isinstance(value, np.ndarray) else value for name, value in held.items()}


def _shown(value: object) -> str:
    return (
        type(value).__name__
        if not isinstance(value, Mapping)
        else f"a dict with {', '.join(repr(k) for k in list(value)[:5]) or 'nothing'}"
    )


def _whole(value: Any) -> Any:
    """A count that was saved as a float, or as an array without axes; anything else as it is."""
    number = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _are_groups(value: object) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(g, Mapping) and isinstance(g.get("params"), list | tuple) for g in value
    )


class Optimizer:
    """Parameters in groups, each group with its options, and a state per parameter.

    params: Tensors, or dicts {"params": [...], option: value} for groups of their own. Narrow floats are updated in float32
    and rounded once; their state is float32.

    Raises: OptionError for no parameters, one that comes twice, or an option out of its range.
    """

    #: The arrays that a parameter's state may hold, and the names that torch gives them.
    state_names: ClassVar[Mapping[str, str]] = {}

    def __init__(self, params: Params, defaults: Mapping[str, object]) -> None:
        given: list[Any] = [params] if isinstance(params, Tensor | Mapping) else entries(params) or []
        if not given:
            raise OptionError(f"{type(self).__name__} got no parameters")
        groups = given if isinstance(given[0], Mapping) else [{"params": given}]
        if not isinstance(defaults, Mapping):
            raise OptionError(f"{type(self).__name__}: defaults must be a dict of options, got {type(defaults).__name__}")
        self._defaults = dict(defaults)
        self.groups: list[Group] = []
        for group in groups:
            self.add_param_group(group)
        # by the Tensor itself, which a copy of the optimiser copies along with the groups; numbers of memory would stay behind
        self._state: dict[Tensor, State] = {}
        self._together = Together()

    def add_param_group(self, group: Mapping[str, object]) -> None:
        """One more group: {"params": [...], option: value}; options that it does not name are as they were given at the start.

        Raises: OptionError for an option that does not exist, what is no leaf, and a parameter that comes twice.
        """
        name = type(self).__name__
        if not isinstance(group, Mapping) or "params" not in group:
            raise OptionError(f"{name}: a group is a dict with the parameters under 'params', got {_shown(group)}")
        unknown = [str(k) for k in group if k not in self._defaults and k != "params"]
        if unknown:
            raise OptionError(f"{name} has no option {', '.join(sorted(unknown))}; it has {', '.join(self._defaults)}")
        params: Any = group["params"]
        held = [params] if isinstance(params, Tensor) else [params] if entries(params) is None else entries(params) or []
        seen = set(self.parameters())
        for p in held:
            if not isinstance(p, Tensor) or not p.is_leaf:
                raise OptionError(f"{name} changes leaves, got {_shown(p)}")
            if p in seen:
                raise OptionError(f"a parameter of shape {p.shape} comes twice")
            seen.add(p)
        options = {**self._defaults, **{k: v for k, v in group.items() if k != "params"}}
        self.groups.append(cast("Group", {"params": held, **self._checked(options)}))

    @property
    def param_groups(self) -> list[Group]:
        """`groups` under PyTorch's name."""
        return self.groups

    def _checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options as Python numbers. Raises: OptionError for one out of its range."""
        name, checked = type(self).__name__, dict(options)
        for key in ("lr", "momentum", "weight_decay", "eps", "lr_decay", "initial_accumulator_value", "dampening"):
            if key in checked:
                checked[key] = number_of(checked[key], f"{name}: {key}", least=None if key == "dampening" else 0)
        if "alpha" in checked:
            checked["alpha"] = self._share(checked["alpha"], "alpha")
        if "betas" in checked:
            pair = entries(checked["betas"])
            if pair is None or len(pair) != 2:
                raise OptionError(f"{name}: betas must be two numbers, got {checked['betas']!r}")
            checked["betas"] = tuple(self._share(b, "betas") for b in pair)
        for key in ("nesterov", "maximize", "amsgrad", "centered"):
            if key in checked:
                checked[key] = flag_of(array_of(checked[key]), f"{name}: {key}")
        if checked.get("nesterov") and (checked["momentum"] <= 0 or checked["dampening"]):
            raise OptionError(f"{name}: nesterov needs a momentum above 0 and no dampening")
        return checked

    def _share(self, value: Any, key: str) -> float:
        name = f"{type(self).__name__}: {key}"
        number = number_of(value, name)
        if not 0 <= number < 1:
            raise OptionError(f"{name} must lie in 0..1 (1 excluded), got {value}")
        return number

    @property
    def lr(self) -> float:
        """The learning rate of the first group; setting it sets all groups."""
        return float(self.groups[0]["lr"])

    @lr.setter
    def lr(self, value: float) -> None:
        rate = number_of(value, f"{type(self).__name__}: lr", least=0)
        for group in self.groups:
            group["lr"] = rate

    def parameters(self) -> list[Tensor]:
        """All parameters, group by group."""
        return [p for group in self.groups for p in group["params"]]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    @in_standard_mode
    @np.errstate(all="ignore")
    def step(self) -> None:
        """Change every parameter that has a gradient."""
        for group in self.groups:
            jobs: list[Job] = []
            known: dict[Any, Written | None] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self._state.setdefault(parameter, {"step": 0})
                state["step"] += 1
                like = tuple(state), state["step"]
                if like not in known:
                    known[like] = self._written(state, group)
                written = known[like]
                job = None if written is None else Job.of(parameter, parameter.grad, state, written)
                if job is None:
                    self._step_alone(parameter, state, group)
                else:
                    jobs.append(job)
            for job in self._together.run(jobs):
                self._step_alone(job.parameter, job.state, group)

    def _step_alone(self, parameter: Tensor, state: State, group: Group) -> None:
        assert parameter.grad is not None
        wide = accumulator_dtype(parameter.dtype)
        value = parameter.data.astype(wide, copy=False)
        gradient = parameter.grad.data.astype(wide, copy=False)
        parameter.assign(self._updated(value, gradient, state, group).astype(parameter.dtype, copy=False))

    def _written(self, state: State, group: Group) -> Written | None:
        """The update of a parameter with this state as elementwise steps, rounded as those of `_updated`; None where that is not written down."""
        return None

    def _updated(self, p: Array, g: Array, state: State, group: Group) -> Array:
        """The parameter after a step: a new array."""
        raise NotImplementedError

    # -- state -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> OptimizerState:
        """Options of the groups and copies of the state, parameters by number: what `load_state_dict` takes."""
        number = {p: k for k, p in enumerate(self.parameters())}
        state = {number[p]: _copied(held) for p, held in self._state.items() if p in number}
        groups = [
            {**{k: v for k, v in g.items() if k != "params"}, "params": [number[p] for p in g["params"]]} for g in self.groups
        ]
        return {"state": state, "groups": groups}

    def load_state_dict(self, saved: Mapping[str, object]) -> None:
        """Go on from a saved state: same groups and parameter shapes. What torch.optim's optimiser of the same name saves is taken too.

        All or nothing: where something does not fit, nothing is changed.
        Raises: OptionError for other groups, options and states; ShapeError for state of another shape; DTypeError for state that holds no
            real numbers.
        """
        name = type(self).__name__
        given: Any = saved
        if isinstance(given, Mapping) and "param_groups" in given:
            given = from_torch(given, self.state_names, {*self._defaults, "params"}, name)
        if not isinstance(given, Mapping) or not isinstance(given.get("state"), Mapping) or not _are_groups(given.get("groups")):
            raise OptionError(f"{name}: a saved state has 'state' and 'groups' (torch: 'param_groups'), got {_shown(given)}")
        own, theirs = [len(g["params"]) for g in self.groups], [len(g["params"]) for g in given["groups"]]
        if theirs != own:
            raise OptionError(f"the state is of {theirs} parameters per group, wanted {own}")
        parameters = self.parameters()
        state: dict[Tensor, State] = {}
        for number, held in given["state"].items():
            k = (
                int(number)
                if isinstance(number, str) and number.isdecimal()
                else count_of(number, "the number of a parameter", 0)
            )
            if not k < len(parameters):
                raise OptionError(f"the state has a parameter {number}; there are {len(parameters)}, counted from 0")
            state[parameters[k]] = self._fitted_state(held, parameters[k], k)
        options = []
        for group, wanted in zip(self.groups, given["groups"], strict=True):
            unknown = [str(k) for k in wanted if k not in group]
            if unknown:
                raise OptionError(f"{name} has no option {', '.join(sorted(unknown))}; it has {', '.join(self._defaults)}")
            given_options = {k: v for k, v in wanted.items() if k != "params"}
            options.append(self._checked({**{k: v for k, v in group.items() if k != "params"}, **given_options}))
        for group, checked in zip(self.groups, options, strict=True):
            group.update(cast("Group", checked))
        self._state = state

    def _fitted_state(self, held: Any, parameter: Tensor, number: int) -> State:
        """One parameter's saved state in the dtype and shape that its steps need."""
        if not isinstance(held, Mapping):
            raise OptionError(f"the state of parameter {number} must be a dict, got {_shown(held)}")
        wide = accumulator_dtype(parameter.dtype)
        state: State = {"step": count_of(_whole(held.get("step", 0)), f"state step of parameter {number}", 0)}
        for name, value in held.items():
            if name == "step":
                continue
            if name not in self.state_names:
                known = ", ".join(self.state_names) or "none"
                raise OptionError(f"{type(self).__name__} keeps no state {name!r} (parameter {number}); it keeps {known}")
            state[name] = np.array(fitted(value, wide, parameter.shape, f"state {name} of parameter {number}"))
        return state

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v}" for k, v in self.groups[0].items() if k != "params")
        return f"{type(self).__name__}({options}; {len(self.parameters())} parameters)"

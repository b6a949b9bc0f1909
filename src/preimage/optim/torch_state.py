"""The state of torch.optim's optimisers, as ours: a dict with 'state' and 'param_groups', its arrays under torch's names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from preimage.errors import OptionError

__all__ = ["from_torch"]

#: Options of torch's groups that say how a step is computed, not what it is.
_HOW = frozenset(("foreach", "capturable", "differentiable", "fused", "initial_lr"))


def from_torch(saved: Mapping[str, Any], names: Mapping[str, str], options: Collection[str], optimizer: str) -> dict[str, object]:
    """The same state under our names. `names`: ours to torch's; `options`: those of our groups.

    Raises: OptionError for a state of another kind, and for a weight decay that is taken off elsewhere than this optimiser does.
    """
    ours = {theirs: own for own, theirs in names.items()}
    groups, state = [], {}
    if not isinstance(saved["param_groups"], list | tuple) or not isinstance(saved.get("state", {}), Mapping):
        raise OptionError(f"{optimizer}: 'param_groups' must be a list and 'state' a dict, as torch saves them")
    for group in saved["param_groups"]:
        if not isinstance(group, Mapping):
            raise OptionError(f"{optimizer}: a group of 'param_groups' must be a dict, got {type(group).__name__}")
        decoupled = group.get("decoupled_weight_decay")
        if decoupled is not None and bool(decoupled) != (optimizer == "AdamW") and group.get("weight_decay"):
            raise OptionError(
                f"the state is of an optimiser whose weight decay is {'decoupled (AdamW)' if decoupled else 'added to the gradient (Adam)'};"
                f" {optimizer} does otherwise"
            )
        # what is not known here and off there changes nothing; what is on is refused by the optimiser
        left = {k: v for k, v in group.items() if k not in _HOW and k != "decoupled_weight_decay"}
        groups.append({k: v for k, v in left.items() if k in options or not (v is None or v is False)})
    for number, held in saved.get("state", {}).items():
        if not isinstance(held, Mapping):
            raise OptionError(f"{optimizer}: the state of parameter {number} must be a dict, got {type(held).__name__}")
        # torch keeps None where there is no momentum yet
        state[number] = {k if k == "step" else ours.get(k, k): v for k, v in held.items() if v is not None}
    return {"state": state, "groups": groups}

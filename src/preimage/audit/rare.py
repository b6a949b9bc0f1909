"""Examples of what cases at random hardly ever make a planner decide: a case each, and the trial that takes it.

They lie in rare.json, which `python tools/rare_geometries.py` writes. The search for rare decisions (`steer`) asks them first and begins
at them, so that no decision depends on what a search happens to find.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from preimage.audit.case import Case
from preimage.audit.coverage import Way
from preimage.audit.data import PRECISION
from preimage.audit.findings import Trial

__all__ = ["FILE", "Rare", "rare_cases", "trial_of", "way_of"]

FILE = Path(__file__).with_name("rare.json")


@dataclass(frozen=True)
class Rare:
    """A case, the trial that asks for it, and the decisions that the call was seen to take."""

    case: Case
    trial: Trial
    takes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"takes": list(self.takes), "case": self.case.with_(label="").to_json(), "trial": asdict(self.trial)}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Rare:
        """What `to_json` wrote."""
        trial = Trial(**{**row["trial"], "extra": _tuples(row["trial"]["extra"])})
        return cls(Case.from_json(row["case"]), trial, tuple(row["takes"]))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


@cache
def rare_cases() -> tuple[Rare, ...]:
    """The rows of rare.json."""
    return tuple(Rare.from_json(row) for row in json.loads(FILE.read_text())["rows"])


def trial_of(way: Way) -> Trial:
    """What asks in that way: the exact check, or for weights that are not finite the one of hard values."""
    layout = "channels_last" if way.channels_last else "contiguous"
    if not way.finite:
        return Trial("hard", way.result, way.dtype, layout, extra=("mixed", 0, 0, 1, way.under))
    return Trial("exact", way.result, way.dtype, layout, extra=(PRECISION[way.dtype], way.under))


def way_of(trial: Trial) -> Way | None:
    """The way whose `trial_of` a trial is; None where it is of another kind, which planning says nothing of."""
    under = trial.extra[-1] if trial.extra else None
    if not isinstance(under, tuple):
        return None
    way = Way(trial.result, trial.dtype, trial.layout == "channels_last", under, trial.check != "hard")
    return way if trial == trial_of(way) else None

"""Missing errors: calls that cannot be answered must be refused, by an error and not by a result or a crash."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from preimage.audit.case import Case
from preimage.audit.checks.base import Check, Operands
from preimage.audit.findings import Failure, Tally, Trial
from preimage.audit.invalid import Invalid, invalid_at
from preimage.audit.subjects.base import Refused, Subject

__all__ = ["Errors"]


class Errors(Check):
    """One invalid call a case; the case itself plays no part."""

    name = "errors"

    def trials(self, subject: Subject, case: Case, rng: np.random.Generator) -> Iterable[Trial]:
        del case
        if subject.takes_invalid:
            number = int(rng.integers(1 << 20))
            yield Trial(self.name, invalid_at(number).op, subject.dtypes[0], extra=(number,))

    def data_key(self, trial: Trial) -> Any:
        return None

    def draw(self, case: Case, trial: Trial, seed: int) -> Operands:
        del trial, seed
        none = np.zeros(0)
        return Operands(case, none, none, none, none, none)

    def attempt(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        call = trial.extra[0] if isinstance(trial.extra[0], Invalid) else invalid_at(int(trial.extra[0]))
        try:
            got: Any = subject.call_invalid(call)
        except Refused as reason:
            tally.refused[f"invalid call: {reason}"] += 1
            return None
        except subject.errors:
            tally.runs[self.name] += 1
            return None
        except Exception as error:
            message = (
                f"{call.why}: raised {type(error).__name__} ({str(error)[:120]}), wanted {subject.errors[0].__name__}: {call}"
            )
            return Failure("missing error", message, script=f"# {call}")
        tally.runs[self.name] += 1
        shape = getattr(got, "shape", None)
        return Failure("missing error", f"{call.why}: gave a result of shape {shape} for {call}", script=f"# {call}")

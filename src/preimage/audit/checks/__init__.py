"""The checks by name, in the order in which they run. A check is one file and one row here."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from preimage.audit.checks.base import Check

__all__ = ["Check", "make", "names"]

_ROWS = {
    "exact": "preimage.audit.checks.exact:Exact",
    "rounding": "preimage.audit.checks.rounding:Rounding",
    "identities": "preimage.audit.checks.identities:Identities",
    "contract": "preimage.audit.checks.contract:Contract",
    "bits": "preimage.audit.checks.bits:Bits",
    "repeat": "preimage.audit.checks.bits:Repeat",
    "hard": "preimage.audit.checks.hard:Hard",
    "errors": "preimage.audit.checks.errors:Errors",
    "memory": "preimage.audit.checks.memory:Memory",
}


def names() -> tuple[str, ...]:
    """The names of the checks."""
    return tuple(_ROWS)


def make(name: str, *, brief: bool = False) -> Check:
    """The check of that name; brief: in the form for long runs, where it has one."""
    module, _, kind = _ROWS[name].partition(":")
    made: Any = getattr(import_module(module), kind)
    check: Check = made(brief=True) if brief and name == "exact" else made()
    return check

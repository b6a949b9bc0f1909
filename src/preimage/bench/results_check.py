"""What a benchmark's JSON file must hold, field by field: such files are passed around, and tables and pages rely on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from preimage.errors import FileFormatError

__all__ = ["run_fields"]

Test = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e300 and isfinite(value)


def _list_of(test: Test, value: Any) -> bool:
    return isinstance(value, list) and all(map(test, value))


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def _speeds(value: Any) -> bool:
    return isinstance(value, dict) and all(k.isascii() and k.isdigit() and len(k) < 19 and _positive(v) for k, v in value.items())


_ROW: dict[str, Test] = {
    **dict.fromkeys(("layer", "kind", "tier", "label", "what", "contraction", "dtype", "contestant", "layout", "checked", "error"), _text),
    "threads": _whole, "work_flop": _whole, "inside_flop": _positive, "array_bytes": _positive,
    "channels": lambda v: _list_of(_whole, v) and len(v) == 2,
    "time_ns": lambda v: _list_of(lambda t: t is None or _positive(t), v),
}  # fmt: skip
_PROBE: dict[str, Test] = {
    "dtype": _text, "threads": _whole, "peak_gflops": _positive, "how": _text, "memory_gbytes": _speeds,
    "peaks": lambda v: _list_of(_positive, v) and len(v) > 0,
}  # fmt: skip
_MACHINE: dict[str, Test] = {
    "cpu": _text, "target": _text, "system": _text, "denormals": _text, "versions": _texts,
    "affinity": lambda v: _list_of(_whole, v),
}  # fmt: skip
_RUN: dict[str, Test] = {
    "machine": lambda v: isinstance(v, dict), "protocol": lambda v: isinstance(v, dict), "absent": _texts,
    "probes": lambda v: isinstance(v, list), "rows": lambda v: isinstance(v, list) and len(v) > 0,
    "seconds": lambda v: v == 0 or _positive(v),
}  # fmt: skip


def run_fields(data: Any, where: str) -> dict[str, Any]:
    """The fields of a run, each looked at. Raises: FileFormatError that names the first field which is missing or wrong."""
    run = _checked(data, _RUN, where, exact=True)
    _checked(run["machine"], _MACHINE, f"{where}: machine", exact=False)
    for k, probe in enumerate(run["probes"]):
        _checked(probe, _PROBE, f"{where}: probes[{k}]", exact=True)
    for k, row in enumerate(run["rows"]):
        _checked(row, _ROW, f"{where}: rows[{k}]", exact=True)
    return run


def _checked(data: Any, wanted: Mapping[str, Test], where: str, *, exact: bool) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise FileFormatError(f"{where}: is no object with the fields {', '.join(wanted)}")
    for name, test in wanted.items():
        if name not in data:
            raise FileFormatError(f"{where}: has no {name!r}; a run that `preimage bench --json` wrote has")
        if not test(data[name]):
            raise FileFormatError(
                f"{where}: {name} is {str(data[name])[:60]!r}, which it never is in a run of `preimage bench --json`"
            )
    if exact and (other := set(data) - set(wanted)):
        raise FileFormatError(f"{where}: {sorted(other)[0]!r} is no field of it")
    return data

"""A failure as a few lines of Python for the failing library alone."""

from __future__ import annotations

import numpy as np

from preimage.audit.checks.base import operands_names
from preimage.audit.data import IDLE_STRIDES
from preimage.audit.shrink import Shrunk
from preimage.audit.subjects.base import Array, Subject, literal

__all__ = ["reproducer"]

_MOST = 200
_SHOWN = 40

_LAYOUTS = {
    "idle": "(lambda a: np.lib.stride_tricks.as_strided(a, a.shape, [t if n == 1 else s for n, s, t in zip(a.shape, a.strides, {4})]))({0})",
    "channels_last": "np.moveaxis(np.ascontiguousarray(np.moveaxis({0}, 1, -1)), -1, 1)",
    "fortran": "np.asfortranarray({0})",
    "strided": "np.repeat({0}, 2, axis=-1)[..., ::2]",
    "reversed": "{0}[(slice(None, None, -1),) * {1}].copy()[(slice(None, None, -1),) * {1}]",
    "inner": "np.pad({0}, 1)[(slice(1, -1),) * {1}]",
    "offset": "np.concatenate([np.zeros(1, {2}), {0}.ravel()])[1:].reshape({3})",
}


def _expression(a: Array, dtype: str, layout: str) -> str:
    if a.size > _MOST:
        return f"... # an array of shape {a.shape}, too large to print"
    text = literal(np.asarray(a), dtype)
    idle = tuple(IDLE_STRIDES[k % len(IDLE_STRIDES)] for k in range(a.ndim))
    return _LAYOUTS.get(layout, "{0}").format(text, a.ndim, f"np.{dtype}", a.shape, idle)


def reproducer(subject: Subject, shrunk: Shrunk) -> str:
    """The script: operands, the call, what it gives and what the definition gives."""
    trial, ops, failure = shrunk.trial, shrunk.operands, shrunk.failure
    if failure.script is not None:
        return failure.script
    result = trial.result
    dtype = trial.dtype
    arrays = {"conv": (ops.x, ops.w), "conv_transpose": (ops.y, ops.w), "conv_weight_grad": (ops.x, ops.y), "bias_grad": (ops.y,)}
    lines = []
    names = operands_names(result)
    layout = str(trial.extra[1]) if trial.check == "bits" and trial.extra[0] == "layout" else trial.layout
    for name, a in zip(names, arrays[result], strict=True):
        lines.append(f"{name} = {_expression(a, dtype, layout)}")
    bias = None
    if trial.bias:
        bias = "b"
        lines.append(f"b = {_expression(ops.bias(result), dtype, 'contiguous')}")
    script = subject.script(ops.case, result, {n: n for n in names}, bias)
    if trial.check == "exact" and len(trial.extra) > 1 and trial.extra[1]:
        script = subject.script_under(trial.extra[1], script)
    body = script.split("\n")
    imports = [line for line in body if line.startswith(("import ", "from "))]
    if dtype == "bfloat16":
        imports.append("import ml_dtypes")
        lines = [line.replace("np.bfloat16", "ml_dtypes.bfloat16") for line in lines]
    text = [*imports, *lines, *(line for line in body if line not in imports), "print(np.asarray(got))"]
    if trial.check == "bits":
        text.append("# compare with the same call in other circumstances:")
    text.append(f"# {failure.message}")
    text += _values("wanted", failure.want, failure.wrong) + _values("got", failure.got, failure.wrong)
    return "\n".join(text)


def _values(name: str, a: Array | None, wrong: Array | None) -> list[str]:
    """A result as a comment: all of it if it is small, else the elements that are wrong."""
    if a is None:
        return []
    flat = np.asarray(a).reshape(-1)
    if flat.size <= _SHOWN:
        return [f"# {name + ':':8}{[v.item() for v in flat]} (flat)"]
    if wrong is None or wrong.shape != np.asarray(a).shape:
        return []
    at = np.flatnonzero(wrong)[:8]
    return [f"# {name + ':':8}" + ", ".join(f"flat[{i}] = {flat[i].item()}" for i in at)]

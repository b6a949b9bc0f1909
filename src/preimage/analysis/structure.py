"""Which elements of a value can depend on which of another, whatever the numbers: the fields of a recorded net, exactly.

A set of elements is a boolean array. `sources` goes backwards through an operation (which elements of an argument can these
elements of the result depend on?), `targets` forwards. Values and weights play no part: a weight of 0 still connects, a ReLU
that is off too. Operations that only move, add or average elements are run on the sets themselves; a contraction is run with
all-ones weights; elementwise operations connect what lies at the same place; what is not known connects everything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.analysis.record import Call, Record
from preimage.autograd import Spec, no_grad, primitives
from preimage.settings import config

__all__ = ["field_of", "reached_from", "sources", "targets"]

Array = NDArray[Any]

ELEMENTWISE = frozenset((
    "add", "subtract", "multiply", "divide", "negative", "exp", "expm1", "log", "log1p", "sqrt", "square", "reciprocal", "rsqrt",
    "sin", "cos", "power_number", "power", "select", "maximum", "minimum", "clip", "sign", "abs", "relu", "leaky_relu", "hardtanh",
    "hardsigmoid", "prelu", "sigmoid", "tanh", "softplus", "elu", "silu", "mish", "softsign", "hardswish", "binary_cross_entropy",
    "erf", "normal_cdf", "gelu", "gelu_tanh", "astype", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctanh", "cosh", "sinh", "tan",
))  # fmt: skip
#: Linear in their one argument, with nothing but ones and fractions: sets go through as numbers do.
MOVES = frozenset((
    "reshape", "transpose", "getitem", "put", "broadcast_to", "sum_to", "sum", "mean", "sum_over_space", "spread_over_space", "pad",
    "fold_margin", "take_switches", "put_switches", "sum_pool", "sum_unpool", "avg_pool", "avg_unpool",
    "adaptive_avg_pool", "adaptive_avg_unpool", "unfold", "fold", "upsample", "upsample_back",
))  # fmt: skip
CONTRACTIONS = frozenset(("conv", "conv_transpose", "conv_weight_grad", "matmul", "linear"))
REDUCTIONS = frozenset(("max", "min", "logsumexp"))
ALONG = frozenset(("softmax", "log_softmax", "standardize", "inverse_deviation", "normalise"))


def sources(call: Call, k: int, chosen: Array) -> Array:
    """The elements of argument k that the chosen elements of the result can depend on."""
    name, spec = call.op.name, call.specs[k]
    if not chosen.any():
        return np.zeros(spec.shape, bool)
    with np.errstate(all="ignore"), no_grad(), config(engine="gemm"):  # the sets compile nothing
        if name in ELEMENTWISE:
            return _summed(chosen, spec.shape)
        if name in MOVES:
            return _back(call, k, chosen, call.params)
        if name == "concat":
            return _back(call, k, chosen, call.params)
        if name in CONTRACTIONS:
            return _back(call, k, chosen, call.params)
        if name == "max_pool":
            return _through("sum_unpool", chosen, call.params)
        if name == "adaptive_max_pool":
            return _through("adaptive_avg_unpool", chosen, call.params)
        if name in REDUCTIONS:
            return _spread(chosen, spec.shape, call.params["axis"])
        if name in ALONG and not k:
            return _spread(np.asarray(chosen.any(axis=_axes(call), keepdims=True)), spec.shape, _axes(call))
        if name == "normalise":
            return np.asarray(chosen.any(axis=(0, *range(2, chosen.ndim))))
    return np.ones(spec.shape, bool)


def targets(call: Call, k: int, chosen: Array, shape: tuple[int, ...]) -> Array:
    """The elements of the result (of this shape) that can depend on the chosen elements of argument k."""
    name = call.op.name
    if not chosen.any():
        return np.zeros(shape, bool)
    with np.errstate(all="ignore"), no_grad(), config(engine="gemm"):
        if name in ELEMENTWISE:
            return np.broadcast_to(chosen, shape).copy()
        if name in MOVES:
            params = call.params | ({"value": 0.0} if "value" in call.params else {})
            return _is_set(call.op.forward(_numbers(chosen), **params))
        if name == "concat":
            parts = [_numbers(chosen) if j == k else np.zeros(s.shape, np.float32) for j, s in enumerate(call.specs)]
            return _is_set(call.op.forward(*parts, **call.params))
        if name in CONTRACTIONS:
            args: list[Any] = [np.ones(s.shape, np.float32) if isinstance(s, Spec) else s for s in call.specs]
            args[k] = _numbers(chosen)
            if k == 2:  # the bias is added: it meets no product
                args[0], args[1] = np.zeros_like(args[0]), np.zeros_like(args[1])
            elif len(args) > 2:
                args[2] = None
            return _is_set(call.op.forward(*args, **call.params))
        if name == "max_pool":
            return _through("sum_pool", chosen, call.params)
        if name == "adaptive_max_pool":
            return _through("adaptive_avg_pool", chosen, call.params)
        if name in REDUCTIONS:
            return np.asarray(chosen.any(axis=call.params["axis"], keepdims=call.params["keepdims"]))
        if name == "normalise" and k:
            return np.broadcast_to(chosen.reshape(-1, *[1] * (len(shape) - 2)), shape).copy()
        if name in ALONG:
            hit = np.asarray(chosen.any(axis=_axes(call), keepdims=True))
            return hit if hit.shape == shape else np.broadcast_to(hit, shape).copy()
    return np.ones(shape, bool)


def _numbers(chosen: Array) -> Array:
    return chosen.astype(np.float32)


def _is_set(numbers: Any) -> Array:
    found: Array = np.asarray(numbers) != 0
    return found


def _axes(call: Call) -> tuple[int, ...]:
    if call.op.name == "normalise":
        return (*((0,) if call.params["images"] else ()), *range(2, len(call.specs[0].shape)))
    axis = call.params["axis"]
    return (axis,) if isinstance(axis, int) else tuple(axis)


def _back(call: Call, k: int, chosen: Array, params: dict[str, Any]) -> Array:
    """The operation's own rule, on sets: ones for every other argument."""
    rule = call.op.rule(k)
    assert rule is not None
    args: list[Any] = list(call.specs)
    if call.op.name in CONTRACTIONS:
        args = [np.ones(s.shape, np.float32) if isinstance(s, Spec) else s for s in args]
    else:
        args = [Spec(s.shape, np.dtype(np.float32)) if isinstance(s, Spec) else s for s in args]
    return _is_set(rule(_numbers(chosen), None, *args, **params))


def _through(name: str, chosen: Array, params: dict[str, Any]) -> Array:
    return _is_set(primitives()[name].forward(_numbers(chosen), **params))


def _summed(chosen: Array, shape: tuple[int, ...]) -> Array:
    """Any over the axes along which `shape` was repeated."""
    extra = chosen.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(extra + j for j, n in enumerate(shape) if n == 1 and chosen.shape[extra + j] != 1)
    return np.asarray(chosen.any(axis=axes)).reshape(shape) if axes else chosen.reshape(shape)


def _spread(chosen: Array, shape: tuple[int, ...], axis: Any) -> Array:
    kept = tuple(1 if j in axis else n for j, n in enumerate(shape))
    return np.broadcast_to(chosen.reshape(kept), shape).copy()


# -- through a whole record --------------------------------------------------------------------------------------------


def field_of(record: Record, number: int, chosen: Array, wanted: int) -> Array:
    """The elements of value `wanted` (an input, say) that the chosen elements of value `number` can depend on."""
    sets: dict[int, Array] = {number: chosen}
    for call in reversed(record.calls):
        if call.result not in sets or call.result == wanted:
            continue
        hit = sets.pop(call.result)
        for k, argument in enumerate(call.arguments):
            if argument is None or not (record.values[argument].depends or argument == wanted):
                continue
            found = sources(call, k, hit)
            sets[argument] = sets[argument] | found if argument in sets else found
    return sets.get(wanted, np.zeros(record.shape(wanted), bool))


def reached_from(record: Record, number: int, chosen: Array, wanted: int) -> Array:
    """The elements of value `wanted` (an output, say) that can depend on the chosen elements of value `number`."""
    sets: dict[int, Array] = {number: chosen}
    for call in record.calls:
        shape = record.shape(call.result)
        for k, argument in enumerate(call.arguments):
            if argument in sets:
                found = targets(call, k, sets[argument], shape)
                sets[call.result] = sets[call.result] | found if call.result in sets else found
    return sets.get(wanted, np.zeros(record.shape(wanted), bool))

"""Calls that every convolution library ought to refuse, by the thousand and by seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Invalid", "invalid", "invalid_at"]


@dataclass(frozen=True)
class Invalid:
    """A call that no convolution library should answer: shapes and arguments, and why they cannot be.

    op is "conv" or "conv_transpose"; bias None means that none is given. dtype and weight_dtype name NumPy dtypes.
    """

    why: str
    op: str
    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    bias_shape: tuple[int, ...] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    weight_dtype: str = "float32"

    def __str__(self) -> str:
        given = "".join(f", {k}={v}" for k, v in self.arguments.items())
        bias = f", bias {self.bias_shape}" if self.bias_shape is not None else ""
        return f"{self.op}(input {self.input_shape} {self.dtype}, weight {self.weight_shape} {self.weight_dtype}{bias}{given})"


def invalid(count: int, seed: int = 0) -> Iterator[Invalid]:
    """`count` invalid calls, each made from a valid one by one change."""
    for i in range(count):
        yield invalid_at(i, seed)


def invalid_at(i: int, seed: int = 0) -> Invalid:
    """Invalid call number i of a seed's sequence."""
    return _invalid(np.random.default_rng((seed, i, 0xBAD)), i)


def _invalid(rng: np.random.Generator, i: int) -> Invalid:
    ndim = int(rng.choice((1, 2, 2, 3)))
    op = "conv" if rng.random() < 0.5 else "conv_transpose"
    groups = int(rng.choice((1, 2, 3)))
    a, b = groups * int(rng.integers(2, 4)), groups * int(rng.integers(2, 4))
    kernel = tuple(int(v) for v in rng.integers(1, 4, ndim))
    size = tuple(int(v) for v in rng.integers(6, 10, ndim))
    x = (2, a, *size)
    w = (b, a // groups, *kernel) if op == "conv" else (a, b // groups, *kernel)
    arguments: dict[str, Any] = {"groups": groups}
    changes = ["groups 0", "groups negative", "groups do not divide", "stride 0", "stride negative", "dilation 0", "channels differ",
               "bias length", "bias length 1", "bias matrix", "one axis too few", "stride entries", "integers"]  # fmt: skip
    changes += ["kernel too large", "out channels indivisible"] if op == "conv" else ["output_padding too large", "nothing left"]
    why = changes[i % len(changes)]
    bias: tuple[int, ...] | None = None
    dtype = weight_dtype = "float32"
    match why:
        case "groups 0":
            arguments["groups"] = 0
        case "groups negative":
            arguments["groups"] = -groups
        case "groups do not divide":
            arguments["groups"] = a + 1
        case "stride 0":
            arguments["stride"] = 0
        case "stride negative":
            arguments["stride"] = -1
        case "dilation 0":
            arguments["dilation"] = 0
        case "channels differ":
            w = (w[0], w[1] + 1, *kernel) if op == "conv" else (w[0] + groups, *w[1:])
        case "bias length":
            bias = (b + 1,)
        case "bias length 1":
            bias = (1,)
        case "bias matrix":
            bias = (b, 1)
        case "one axis too few":
            w = w[:-1]
        case "stride entries":
            arguments["stride"] = (1,) * (ndim + 1)
        case "integers":
            dtype = weight_dtype = "int32"
        case "kernel too large":
            w = (*w[:-1], size[-1] + 1)
        case "out channels indivisible":
            groups = 3
            w = (3 * (b // 3 + 1) + 1, 2, *kernel)
            x = (2, 6, *size)
            arguments["groups"] = 3
        case "output_padding too large":
            arguments["output_padding"] = 2
            arguments["stride"] = 2
        case "nothing left":
            arguments["padding"] = size[-1] * 2 + kernel[-1]
    return Invalid(why, op, x, w, bias, arguments, dtype, weight_dtype)

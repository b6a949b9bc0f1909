"""Which operations take arrays that lie on a GPU, beside the contractions: what nets of convolutions have around them.

Each is one chain of the device engine's kernels, with the bits of the CPU's. Operands are of one shape, or a number. What is not in the
tables below raises an error that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from preimage.autograd import primitives
from preimage.autograd.device_arrays import DeviceArray
from preimage.engines.around import chain_on_device
from preimage.engines.on_device import one_place
from preimage.errors import ShapeError
from preimage.ops import activation, pointwise  # declared before they are looked up

__all__: list[str] = []

_ = activation, pointwise

#: Operations of one argument: the words of the chain, and the numbers that they take from the operation's parameters.
_UNARY: dict[str, tuple[str, tuple[str, ...]]] = {
    "exp": ("exp", ()),
    "leaky_relu": ("leaky_relu", ("slope",)),
    "relu": ("relu", ()),
    "sigmoid": ("sigmoid", ()),
    "sqrt": ("sqrt", ()),
    "tanh": ("tanh", ()),
    "hardtanh": ("clip", ("lo", "hi")),
}
#: Operations of two arguments.
_BINARY = {"add": "add", "subtract": "sub", "multiply": "mul", "divide": "div", "maximum": "maximum", "minimum": "minimum"}


def _unary(word: str, names: Sequence[str]) -> Callable[..., Any]:
    def forward(x: Any, **params: Any) -> Any:
        numbers = [params[name] for name in names]
        return chain_on_device((x,), ((word, tuple(range(1 + len(numbers)))),), numbers, None)[0]

    return forward


def _binary(name: str, word: str) -> Callable[..., Any]:
    def forward(a: Any, b: Any) -> Any:
        arrays = [v for v in (a, b) if not _is_number(v)]
        one_place(**{f"argument {k + 1}": v for k, v in enumerate(arrays)})
        if len(arrays) == 2 and a.shape != b.shape:
            raise ShapeError(
                f"{name}: shapes {a.shape} and {b.shape} differ; on {arrays[0].device} arrays of one shape are taken, or a number"
            )
        numbers = [float(v) for v in (a, b) if _is_number(v)]
        places = (1, 0) if _is_number(a) else (0, 1)  # numbers stand after the arrays
        return chain_on_device(arrays, ((word, places),), numbers, None)[0]

    return forward


def _is_number(value: Any) -> bool:
    return not isinstance(value, DeviceArray) and np.ndim(value) == 0


def _negative(x: Any) -> Any:
    return chain_on_device((x,), (("mul", (0, 1)),), (-1.0,), None)[0]


def _clip(x: Any, *, lo: float | None, hi: float | None) -> Any:
    bounds = [v for v in (lo, hi) if v is not None]
    if not bounds:
        return x.copied()
    word = "clip" if len(bounds) == 2 else "maximum" if hi is None else "minimum"
    return chain_on_device((x,), ((word, tuple(range(1 + len(bounds)))),), bounds, None)[0]


def _install() -> None:
    table = primitives()
    for name, (word, names) in _UNARY.items():
        table[name].on_device = _unary(word, names)
    for name, word in _BINARY.items():
        table[name].on_device = _binary(name, word)
    table["negative"].on_device = _negative
    table["clip"].on_device = _clip


_install()

"""Who runs: a contestant turns a problem into a call without arguments, and the call's value into a NumPy array.

An engine is called through the public operations (`pre.conv`, ...), as a user would; `direct=True` calls its methods with a
ready geometry instead. Peers are in `peers`. All data are made and put into the contestant's layout before any clock runs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from preimage.bench.problem import Array, Problem, ordered
from preimage.engines import get as get_engine
from preimage.errors import EngineError, PreimageError
from preimage.settings import config

__all__ = ["LAYOUTS", "Contestant", "EngineContestant", "contestants", "thread_limit"]

LAYOUTS = ("channels_last", "channels_first")
Call = Callable[[], Any]


class Contestant(Protocol):
    """name and layout say who it is; `exact`: its sums are sums, so integer data must come out exact; ours: not a peer."""

    name: str
    layout: str
    exact: bool
    ours: bool

    def refuses(self, problem: Problem, what: str) -> str | None: ...

    def prepare(self, problem: Problem, what: str, threads: int) -> Call: ...

    def result(self, value: Any, problem: Problem, what: str) -> Array: ...


class EngineContestant:
    """One of this library's engines."""

    ours = True

    def __init__(self, name: str, layout: str, direct: bool = False, accuracy: str = "exact") -> None:
        self.name, self.layout, self.direct = name if accuracy == "exact" else f"{name} {accuracy}", layout, direct
        self.exact = accuracy == "exact"
        self.settings = {"engine": name, "accuracy": accuracy}
        self._engine = get_engine(name)

    def refuses(self, problem: Problem, what: str) -> str | None:
        if what == "grad_bias":
            return None if self.settings["engine"] == "jit" else "the bias gradient does not depend on the engine: see jit"
        return self._engine.supports(problem.layer.geometry, problem.layer.contraction(what), np.dtype(problem.dtype))

    def prepare(self, problem: Problem, what: str, threads: int) -> Call:
        contraction = problem.layer.contraction(what)
        return self._direct(problem, what, contraction) if self.direct else self._public(problem, what, contraction)

    def _direct(self, problem: Problem, what: str, contraction: str) -> Call:
        g, w, engine = problem.layer.geometry, problem.w, self._engine
        if contraction == "conv":
            x = ordered(problem.x, self.layout)
            return lambda: engine.conv(g, x, w)
        if contraction == "conv_transpose":
            y = ordered(problem.y, self.layout)
            return lambda: engine.conv_transpose(g, y, w)
        if contraction == "conv_weight_grad":
            x, y = ordered(problem.x, self.layout), ordered(problem.y, self.layout)
            return lambda: engine.conv_weight_grad(g, x, y)
        return self._public(problem, what, contraction)

    def _public(self, problem: Problem, what: str, contraction: str) -> Call:
        from preimage.ops.conv import conv, conv_transpose, conv_weight_grad, sum_over_space

        g, w = problem.layer.geometry, problem.w
        options: dict[str, Any] = {"stride": g.stride, "padding": g.padding, "dilation": g.dilation}
        if contraction == "conv":
            x = ordered(problem.x, self.layout)
            return lambda: conv(x, w, groups=g.groups, **options)
        if contraction == "conv_transpose":
            y = ordered(problem.y, self.layout)
            return lambda: conv_transpose(y, w, output_size=g.input_size, groups=g.groups, **options)
        if contraction == "conv_weight_grad":
            x, y = ordered(problem.x, self.layout), ordered(problem.y, self.layout)
            return lambda: conv_weight_grad(x, y, kernel_size=g.kernel_size, groups=g.groups, **options)
        a = ordered(problem.x if problem.layer.kind == "deconv" else problem.y, self.layout)
        return lambda: sum_over_space(a, layout="channels_first")

    def result(self, value: Any, problem: Problem, what: str) -> Array:
        return np.asarray(value)


@cache
def _blas_setters() -> tuple[Any, ...]:
    """The functions that set the number of threads of the BLAS inside NumPy (OpenBLAS, in NumPy's own wheels)."""
    found = []
    for name in ("numpy.libs", "scipy.libs"):
        for path in sorted((Path(np.__file__).parent.parent / name).glob("*openblas*")):
            library = ctypes.CDLL(str(path))
            for symbol in ("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads", "openblas_set_num_threads"):
                if hasattr(library, symbol):
                    found.append(getattr(library, symbol))
                    break
    return tuple(found)


@contextmanager
def thread_limit(threads: int, contestant: Contestant | None = None) -> Iterator[None]:
    """Everything inside runs on so many threads: this library's engines, NumPy's BLAS, torch; with the contestant's settings."""
    import sys

    for setter in _blas_setters():
        setter(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
    with config(threads=threads, **getattr(contestant, "settings", {})):
        yield


def contestants(
    names: tuple[str, ...], layouts: tuple[str, ...] = LAYOUTS, direct: bool = False, accuracies: tuple[str, ...] = ("exact",)
) -> tuple[tuple[Contestant, ...], dict[str, str]]:
    """The contestants of those names, and for each that is not here the reason why.

    Names: those of the engines, "torch", "onnxruntime", "jax". Each takes part once per layout that it knows, engines
    once per accuracy.
    """
    from preimage.bench.peers import PEERS

    present: list[Contestant] = []
    absent: dict[str, str] = {}
    for name in names:
        try:
            if name in PEERS:
                present += PEERS[name](layouts)
            else:
                present += [EngineContestant(name, layout, direct, how) for how in accuracies for layout in layouts]
        except (ImportError, EngineError) as error:
            absent[name] = str(error)
    if not present:
        raise PreimageError("no contestant is here: " + "; ".join(f"{k}: {v}" for k, v in absent.items()))
    return tuple(present), absent

"""Matrix products on the engine that the settings choose (`Engine.products`): for "auto" the first that runs here.

Every engine takes the four float dtypes. What other dtypes there are, NumPy multiplies itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from preimage.engines import get, names
from preimage.engines.base import Array, Engine, Epilogue
from preimage.engines.prepared import PreparedWeight
from preimage.errors import EngineError
from preimage.resources import release_memory
from preimage.settings import current

__all__ = ["linear", "matmul", "warm", "warm_linear"]

#: By the settings `engine` and `device`, the engine that was found.
_found: dict[tuple[str, str], Engine] = {}


def _choose(wanted: str) -> Engine:
    reasons = []
    for name in names() if wanted == "auto" else (wanted,):
        try:
            engine = get(name)
        except EngineError as error:
            if wanted != "auto":
                raise
            reasons.append(str(error))
            continue
        if getattr(engine, "products", None) is not None:
            _found[wanted, current().device] = engine
            return engine
        reasons.append(f"engine {name!r} has no matrix products")
    raise EngineError("no engine can take this matrix product: " + "; ".join(reasons))


def matmul(a: Array, b: Array, epilogue: Epilogue | None = None) -> Array:
    """a (..., m, k) times b (..., k, n), of one dtype; the other axes broadcast. The epilogue's channels are the n columns."""
    return _run("matmul", a, b, epilogue)


def linear(x: Array, w: Array | PreparedWeight, epilogue: Epilogue | None = None) -> Array:
    """x (..., k) times the transpose of w (n, k), of one dtype; w may be prepared."""
    return _run("linear", x, w, epilogue)


def warm(a: Array, b: Array) -> Callable[..., Array | None] | None:
    """A product that `matmul` has made under these settings, for more arrays of the same shapes, strides and dtypes: `call(a, b)`.

    None where the engine has no such calls. A call may give None, and has then done nothing.
    """
    return _made("warm", a, b)


def warm_linear(x: Array, w: Array | PreparedWeight, bias: Array | None) -> Callable[..., Array | None] | None:
    """The same of `linear`: `call(x, w, bias)`, with a prepared w or not, with a bias or None, as here."""
    return _made("warm_linear", x, w, bias)


def _made(maker_name: str, *operands: Array | PreparedWeight | None) -> Callable[..., Array | None] | None:
    settings = current()
    engine = _found.get((settings.engine, settings.device))
    maker = None if settings.debug or engine is None else getattr(engine.products, maker_name, None)
    made: Callable[..., Array | None] | None = maker and maker(*operands)
    return made


def _run(what: str, a: Array, b: Array | PreparedWeight, epilogue: Epilogue | None) -> Array:
    settings = current()
    engine = _found.get((settings.engine, settings.device)) or _choose(settings.engine)
    if settings.debug:
        _say(what, engine, a, b)
    if type(b) is PreparedWeight and not engine.takes_prepared:
        b = b.array
    multiply: Callable[..., Array] = getattr(engine.products, what)
    try:
        return multiply(a, b, epilogue)
    except MemoryError:  # what is only kept for later calls is given back, and the call made once more
        if not release_memory():
            raise
    return multiply(a, b, epilogue)


def _say(what: str, engine: Engine, a: Any, b: Any) -> None:
    """With PREIMAGE_DEBUG: which engine multiplies what."""
    print(f"preimage: {what} of {a.shape} and {b.shape} {np.dtype(a.dtype)} runs on {engine.name}", file=sys.stderr)

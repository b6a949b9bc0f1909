"""The engines, their registry and the choice between them.

One row of `_ROWS` adds an engine: its name and the module that holds its class. Modules are imported on first use.
`choose` takes the engine asked for by name, or else raises with the reason; "auto" takes the first row that is available
and supports the call, and `PREIMAGE_DEBUG=1` says which and why.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import numpy as np

from preimage.engines.base import CONTRACTIONS, Array, Engine, Epilogue, Plan
from preimage.errors import EngineError, OptionError
from preimage.geometry import ConvGeometry
from preimage.settings import current

__all__ = ["Array", "Engine", "Epilogue", "Plan", "choose", "engines", "get", "names", "plan"]

# In order of preference for "auto": name -> "module:class".
_ROWS = {
    "jit": "preimage.engines.jit.engine:JitEngine",
    "gemm": "preimage.engines.gemm:GemmEngine",
    "reference": "preimage.engines.reference:ReferenceEngine",
}
_loaded: dict[str, Engine | str] = {}


def names() -> tuple[str, ...]:
    """The names of the engines, preferred first."""
    return tuple(_ROWS)


def _load(name: str) -> Engine | str:
    """The engine, or the reason why it cannot run here. Remembered."""
    if name not in _loaded:
        module, _, class_name = _ROWS[name].partition(":")
        try:
            engine: Engine = getattr(import_module(module), class_name)()
        except ImportError as error:
            _loaded[name] = f"cannot be imported: {error}"
        else:
            _loaded[name] = engine.unavailable() or engine
    return _loaded[name]


def get(name: str) -> Engine:
    """The engine of that name.

    Raises: OptionError for an unknown name; EngineError with the reason if it cannot run here.
    """
    if name not in _ROWS:
        raise OptionError(f"no engine is called {name!r}; there are {', '.join(_ROWS)} and 'auto'")
    found = _load(name)
    if isinstance(found, str):
        raise EngineError(f"engine {name!r} cannot run here: {found}")
    return found


def engines() -> dict[str, str]:
    """Every engine with "available", or the reason why it is not."""
    return {name: found if isinstance(found := _load(name), str) else "available" for name in _ROWS}


def choose(geometry: ConvGeometry, contraction: str, dtype: np.dtype[Any]) -> Engine:
    """The engine for one call, by the setting `engine`.

    Raises: EngineError with the reason, if the engine asked for by name cannot take this call.
    """
    settings = current()
    if settings.engine != "auto":
        engine = get(settings.engine)
        why = engine.supports(geometry, contraction, dtype)
        if why is not None:
            raise EngineError(f"engine {settings.engine!r} cannot take this {contraction}: {why}")
        return engine
    reasons = []
    for name in _ROWS:
        found = _load(name)
        reason = found if isinstance(found, str) else found.supports(geometry, contraction, dtype)
        if reason is None:
            assert not isinstance(found, str)
            if settings.debug:
                why = f" ({'; '.join(reasons)})" if reasons else ""
                print(f"preimage: {contraction} runs on {name}{why}", file=sys.stderr)
            return found
        reasons.append(f"{name}: {reason}")
    raise EngineError(f"no engine can take this {contraction}: {'; '.join(reasons)}")


def plan(
    geometry: ConvGeometry,
    dtype: Any = np.float32,
    contraction: str = "conv",
    *,
    layout: str = "channels_first",
) -> Plan:
    """What would run for this geometry with the settings in force: algorithm, blocking, flop, bytes, workspace, promises."""
    if contraction not in CONTRACTIONS:
        raise OptionError(f"contraction must be one of {', '.join(CONTRACTIONS)}, got {contraction!r}")
    if layout not in ("channels_first", "channels_last"):
        raise OptionError(f"layout must be 'channels_first' or 'channels_last', got {layout!r}")
    dtype = np.dtype(dtype)
    return choose(geometry, contraction, dtype).plan(geometry, contraction, dtype, layout == "channels_last")

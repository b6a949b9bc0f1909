"""The engines, their registry and the choice between them.

One row of `_ROWS` adds an engine: its name and the module that holds its class. Modules are imported on first use.
`choose` takes the engine asked for by name, or else raises with the reason; "auto" takes the first row that is available
and supports the call. `run` is the one door from the operations to an engine: it remembers the choice for a geometry, and with
PREIMAGE_DEBUG it says on stderr 1 the engine and why, 2 time, GFLOP/s and bytes, 3 the plan,
and for each kernel that a plan of jit first asks for 4 its IR, 5 its assembly.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np

from preimage.autograd.device_arrays import DeviceArray
from preimage.engines.base import (
    CONTRACTIONS,
    SMALL_KERNEL,
    Array,
    Chain,
    Engine,
    Epilogue,
    InexactEngine,
    Plan,
    is_channels_last,
)
from preimage.engines.prepared import PreparedWeight
from preimage.errors import DTypeError, EngineError, OptionError, OutOfMemoryError
from preimage.geometry import ConvGeometry
from preimage.locks import LOCK, import_apart
from preimage.resources import available_memory, release_memory
from preimage.settings import Settings, allowing, current
from preimage.typing import Contraction, DTypeLike, Layout

__all__ = [
    "Array",
    "Engine",
    "Epilogue",
    "Plan",
    "PreparedWeight",
    "bind",
    "choose",
    "engines",
    "get",
    "names",
    "plan",
    "replayer",
    "run",
    "step_store",
    "warm",
]

# In order of preference for "auto": name -> "module:class".
_ROWS = {
    "jit": "preimage.engines.jit.engine:JitEngine",
    "gemm": "preimage.engines.gemm:GemmEngine",
    "reference": "preimage.engines.reference:ReferenceEngine",
    "fft": "preimage.engines.fft.engine:FftEngine",
    "cudnn": "preimage.engines.cudnn.engine:CudnnEngine",
    "cuda": "preimage.engines.cuda.engine:CudaEngine",
}
#: Those of them that sum in orders of their own: they run only where accuracy="fast" allows it, and then before the others, unless they decline
#: (`declines`): by the geometry alone, since the choice changes bits.
INEXACT: tuple[str, ...] = ("fft",)
#: Those of them that decline small kernels (`SMALL_KERNEL`), so none is loaded to say so.
_FOR_LARGE_KERNELS = frozenset({"fft"})
#: Those that compute on GPUs: arrays on a device go to the first of them, NumPy's only where one is asked for by name.
DEVICE_ENGINES = ("cuda", "cudnn")
_NOT_EXACT = "it sums in an order of its own, which accuracy='fast' allows"
_loaded: dict[str, Engine | str] = {}
#: An engine that cannot be loaded while less memory than this is to be had may be loaded later.
LOADING_BYTES = 512 << 20
#: With less than this none is imported: modules written in C (Python's own _hashlib) may crash where they find no memory.
IMPORT_BYTES = 32 << 20


def names() -> tuple[str, ...]:
    """The names of the engines, preferred first."""
    return tuple(_ROWS)


def _load(name: str) -> Engine | str:
    """The engine, or the reason why it cannot run here. Remembered; engines on devices are asked about the device of the setting."""
    found = _loaded.get(name)
    if found is None:
        module, _, class_name = _ROWS[name].partition(":")
        room = available_memory()
        if room < IMPORT_BYTES:
            raise OutOfMemoryError(f"there is not enough memory to load the engine {name!r}: {room >> 20} MiB")
        try:
            maker = getattr(import_apart(module), class_name)
            with LOCK:
                engine: Engine | str = _loaded.get(name) or maker()
                made = engine if isinstance(engine, str) or name in DEVICE_ENGINES else engine.unavailable() or engine
        except ImportError as error:
            made = f"cannot be imported: {error}"
        if isinstance(made, str) and available_memory() < LOADING_BYTES:  # another engine would give other bits
            raise OutOfMemoryError(f"there is not enough memory to load the engine {name!r}: {made}")
        found = _loaded.setdefault(name, made)
    if name in DEVICE_ENGINES and not isinstance(found, str):
        return found.unavailable() or found
    return found


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


def _choose(geometry: ConvGeometry, contraction: str, dtype: np.dtype[Any], settings: Settings) -> tuple[Engine, str]:
    """The engine for one call, and why it is this one."""
    if settings.engine != "auto":
        engine = get(settings.engine)
        refused = _NOT_EXACT if settings.engine in INEXACT and settings.accuracy != "fast" else None
        why = refused or engine.supports(geometry, contraction, dtype)
        if why is not None:
            raise EngineError(f"engine {settings.engine!r} cannot take this {contraction}: {why}")
        return engine, "asked for by name"
    reasons: list[str] = []
    # First: to ask an exact engine about a huge kernel may take as long as the transforms.
    if settings.accuracy == "fast":
        small = max(geometry.kernel_size, default=0) <= SMALL_KERNEL
        asked = [name for name in INEXACT if not (small and name in _FOR_LARGE_KERNELS)]
        for engine, why in _inexact(geometry, contraction, dtype, asked):
            if why is None:
                return engine, "accuracy='fast' allows it"
            reasons.append(f"{engine.name}: {why}")
    exact = _first(
        geometry, contraction, dtype, [name for name in _ROWS if name not in INEXACT and name not in DEVICE_ENGINES], reasons
    )
    if exact is None:
        raise EngineError(f"no engine can take this {contraction}: {'; '.join(reasons)}")
    return exact, "; ".join(reasons) or "first choice"


def _inexact(
    geometry: ConvGeometry, contraction: str, dtype: np.dtype[Any], names: Iterable[str]
) -> Iterator[tuple[InexactEngine, str | None]]:
    """Those of the engines that can take a call where accuracy="fast", and why they had better not."""
    for name in names:
        engine = cast("InexactEngine | None", _first(geometry, contraction, dtype, [name], []))
        if engine is not None:
            yield engine, engine.declines(geometry, contraction, dtype)


def _first(geometry: ConvGeometry, contraction: str, dtype: np.dtype[Any], names: list[str], reasons: list[str]) -> Engine | None:
    """The first of the engines that can take a call; why the others cannot goes to `reasons`."""
    for name in names:
        found = _load(name)
        reason = found if isinstance(found, str) else found.supports(geometry, contraction, dtype)
        if reason is None:
            assert not isinstance(found, str)
            return found
        reasons.append(f"{name}: {reason}")
    return None


def choose(geometry: ConvGeometry, contraction: str, dtype: np.dtype[Any]) -> Engine:
    """The engine for one call, by the setting `engine`.

    Raises: EngineError with the reason, if the engine asked for by name cannot take this call.
    """
    return _choose(geometry, contraction, dtype, current())[0]


_Choices = dict[tuple[ConvGeometry, str, Any], Engine]
#: The choices made under one set of settings, and the settings: one tuple, so that threads see both or neither.
_remembered: tuple[Settings | None, _Choices] = (None, {})
_MOST_CHOICES = 4096


def run(
    contraction: str, geometry: ConvGeometry, a: Array, b: Array | PreparedWeight, epilogue: Epilogue | None = None,
    accuracy: str | None = None,
) -> Array:  # fmt: skip
    """One contraction on the engine that the settings choose; a and b are checked arrays in the contraction's order.

    The weights (b of conv and conv_transpose) may be prepared. accuracy: instead of the setting.
    """
    global _remembered
    if type(a) is not np.ndarray or isinstance(b.array if type(b) is PreparedWeight else b, DeviceArray):
        made = _run_on_device(contraction, geometry, a, b, epilogue)
        if made is not None:
            return made
    settings = current()
    if accuracy is not None and accuracy != settings.accuracy:
        with allowing(accuracy):
            return run(contraction, geometry, a, b, epilogue)
    if settings.debug:
        return _run_logged(contraction, geometry, a, b, epilogue, settings)
    under, choices = _remembered
    if under is not settings:
        choices = {}
        _remembered = (settings, choices)
    key = (geometry, contraction, a.dtype)
    engine = choices.get(key)
    if engine is None:
        engine = _choose(geometry, contraction, a.dtype, settings)[0]
        if len(choices) >= _MOST_CHOICES:
            choices.clear()
        choices[key] = engine
    try:
        return _call(engine, contraction, geometry, a, b, epilogue)
    except MemoryError:  # what is only kept for later calls is given back, and the call made once more
        if not release_memory():
            raise
    return _call(engine, contraction, geometry, a, b, epilogue)


def bind(
    contraction: str, geometry: ConvGeometry, a: Array, w: PreparedWeight, epilogue: Epilogue | None = None,
    chain: Chain | None = None, channels_last: bool = False, accuracy: str | None = None,
) -> Callable[..., Array] | None:  # fmt: skip
    """`run` for arrays of one shape and place in memory, ready to be called again: `call(a, residual)` with other arrays that lie
    as these do. `chain`: elementwise steps after the epilogue; channels_last: the result is laid out so, however `a` is.
    None where the engine, or this call, is not to be had so.
    The settings of now (accuracy: instead of that setting), and the values that w has now, are part of it.
    """
    with allowing(accuracy) as settings:
        engine = _choose(geometry, contraction, a.dtype, settings)[0]
        maker = getattr(engine, "bind", None)
        if maker is None or settings.debug:
            return None
        made: Callable[..., Array] | None = maker(geometry, contraction, a, w, epilogue, chain, channels_last)
        return made


def warm(
    contraction: str,
    geometry: ConvGeometry,
    a: Array,
    b: Array | PreparedWeight,
    epilogue: Epilogue | None = None,
    channels_last: bool = False,
) -> Callable[..., Array | None] | None:
    """A call that `run` has made under these settings, for more arrays of the same shapes, strides and dtypes: `call(a, b, bias)`.

    None where the engine has no such calls. A call may give None, and has then done nothing: `run` does it. channels_last: its result has
    its channels in the last axis.
    """
    settings = current()
    maker = None if settings.debug else getattr(_choose(geometry, contraction, a.dtype, settings)[0], "warm", None)
    made: Callable[..., Array | None] | None = maker and maker(geometry, contraction, a, b, epilogue, channels_last)
    return made


def _run_on_device(contraction: str, geometry: ConvGeometry, a: Any, b: Any, epilogue: Epilogue | None) -> Array | None:
    """A contraction of arrays on a GPU; None where none lies on one."""
    from preimage.engines import on_device

    if not on_device.is_on_device(a, b):
        return None
    on_device.one_place_for(contraction, a, b, epilogue)
    engine = on_device.supporting_engine(contraction, geometry, a)
    if current().debug:
        print(f"preimage: {contraction} runs on {engine.name} (its arrays are on {a.device})", file=sys.stderr)
    made: Array = on_device.brought_there(_call(engine, contraction, geometry, a, b, epilogue), a)
    return made


def replayer() -> Callable[..., Any] | str:
    """What makes recorded steps ready to run again (engines/recording.py): that of the engine that the settings choose; or why there is none."""
    wanted = current().engine
    for name in _ROWS if wanted == "auto" else (wanted,):
        engine = _load(name)
        if not isinstance(engine, str):
            return getattr(engine, "replay", None) or f"engine {name!r} runs no recorded kernels"
    return "no engine runs here"


def step_store() -> Any | None:
    """What writes such steps down and reads them (a module with `stored` and `restored`), for the engine that the settings choose; or None.

    No engine is imported for it: what is read back runs without.
    """
    wanted = current().engine
    return import_apart("preimage.engines.jit.runtime.stored_steps") if wanted in ("auto", "jit") else None


def _call(
    engine: Engine, contraction: str, geometry: ConvGeometry, a: Array, b: Any, epilogue: Epilogue | None
) -> Array:  # fmt: skip
    if type(b) is PreparedWeight and not engine.takes_prepared:
        b = b.array
    if contraction == "conv":
        return engine.conv(geometry, a, b, epilogue)
    if contraction == "conv_transpose":
        return engine.conv_transpose(geometry, a, b, epilogue)
    return engine.conv_weight_grad(geometry, a, b)


def _run_logged(
    contraction: str, geometry: ConvGeometry, a: Array, b: Any, epilogue: Epilogue | None, settings: Settings
) -> Array:
    """`run` with the lines of PREIMAGE_DEBUG: the figures are those of `plan`, and the time of this call."""
    engine, why = _choose(geometry, contraction, a.dtype, settings)
    print(f"preimage: {contraction} runs on {engine.name} ({why})", file=sys.stderr)
    start = time.perf_counter_ns()
    result = _call(engine, contraction, geometry, a, b, epilogue)
    time_ns = max(1, time.perf_counter_ns() - start)
    if settings.debug >= 2:
        moved = geometry.array_bytes(a.dtype.itemsize)
        print(
            f"preimage:   {time_ns / 1e6:.3f} ms  {geometry.work_flop / time_ns:.2f} GFLOP/s  {moved} bytes"
            f"  {moved / time_ns:.2f} GB/s",
            file=sys.stderr,
        )
    if settings.debug >= 3:
        print(f"preimage: {engine.plan(geometry, contraction, a.dtype, is_channels_last(a))}", file=sys.stderr)
    return result


def plan(
    geometry: ConvGeometry,
    dtype: DTypeLike = np.float32,
    contraction: Contraction = "conv",
    *,
    layout: Layout = "channels_first",
) -> Plan:
    """What would run for this geometry with the settings in force: algorithm, blocking, flop, bytes, workspace, promises."""
    if not isinstance(geometry, ConvGeometry):
        raise OptionError(f"plan takes a ConvGeometry, got {type(geometry).__name__}; ConvGeometry.from_conv makes one")
    if not isinstance(contraction, str) or contraction not in CONTRACTIONS:
        raise OptionError(f"contraction must be one of {', '.join(CONTRACTIONS)}, got {contraction!r}")
    if not isinstance(layout, str) or layout not in ("channels_first", "channels_last"):
        raise OptionError(f"layout must be 'channels_first' or 'channels_last', got {layout!r}")
    try:
        dtype = np.dtype(dtype)
    except TypeError:
        raise DTypeError(f"dtype must be float32, float64, float16 or bfloat16, got {dtype!r}") from None
    engine = choose(geometry, contraction, dtype)
    if geometry.is_empty or not geometry.batch:
        return Plan(
            engine.name, contraction, "nothing is multiplied: an array has no elements", geometry, dtype.name, 0,
            geometry.array_bytes(dtype.itemsize), 0, 1, engine.promises,
        )  # fmt: skip
    found = engine.plan(geometry, contraction, dtype, layout == "channels_last")
    if engine.name in INEXACT:
        return found
    refused, details = dict(found.refused), dict(found.details)
    for other, why in _inexact(geometry, contraction, dtype, INEXACT):
        gain = other.gain(geometry, contraction, dtype)
        if current().accuracy == "fast":
            refused[other.name] = why or f"the engine {engine.name!r} was asked for by name"
        elif why is None and gain >= LARGE_KERNEL:
            details["large kernel"] = _slow(geometry, gain)
    return replace(found, details=details, refused=refused)


#: A kernel counts as large where fast Fourier transforms would be this many times faster.
LARGE_KERNEL = 2


def _slow(g: ConvGeometry, gain: float) -> str:
    """What a plan says of a kernel so large (a point spread function as large as the picture) that adding up its taps is the slow way."""
    return (
        f"slow: every output adds up the products of {math.prod(g.kernel_size)} taps and {g.in_channels_per_group} channels,"
        f" {g.work_flop:.2g} flop in all; accuracy='fast' takes fast Fourier transforms, about {gain:.2g} times faster"
    )

"""Our own engines, and anyone's object that has the three contractions.

`EngineSubject` calls an engine of the registry as `preimage.ops` does, and the public functions for what stands above an
engine: gradients by automatic differentiation, derivatives of second order, refused calls. `ObjectSubject` takes any object

    conv(geometry, x, w) -> y      conv_transpose(geometry, y, w) -> x      conv_weight_grad(geometry, x, y) -> w

where geometry is a preimage.ConvGeometry; one that lacks a contraction is audited on the others.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from preimage import ops
from preimage.audit.case import Case
from preimage.audit.data import dtype_of
from preimage.audit.invalid import Invalid
from preimage.audit.subjects.base import Array, Fault, Refused, Subject, Variant
from preimage.engines import INEXACT, decisions, get
from preimage.engines.buffers import trim
from preimage.errors import OptionError, PreimageError
from preimage.settings import allowing, config

__all__ = ["EngineSubject", "ObjectSubject"]

#: Up to so many multiply-adds a case is computed by kernels whose sizes are arguments, where as few as may be shall be compiled.
FEW_KERNELS_MACS = 1 << 24
_LITTLE_MACS = {"schedules": 0, "few kernels": FEW_KERNELS_MACS}


#: Contractions in the contract's order, by engine.
_BY_CONTRACT = dict.fromkeys(("jit", "cuda"), frozenset({"conv", "conv_transpose", "conv_weight_grad"}))


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())


def _norms(case: Case, result: str, a: Array, b: Array) -> Array:
    """|a|_2 |b|_1 of what meets in a result: of an image and group of the activations, and of the weights of one channel of the result."""
    groups, space = case.groups, (1,) * case.ndim
    a, b = np.abs(a.astype(np.float64)), np.abs(b.astype(np.float64))
    lengths: Array = np.sqrt(np.square(a.reshape(len(a), groups, -1)).sum(-1))  # (images, groups)
    if result == "conv_weight_grad":
        sizes = b.reshape(*b.shape[:2], -1).sum(-1)  # (images, channels)
        found: Array = (np.repeat(lengths, b.shape[1] // groups, axis=1) * sizes).sum(0)
        return found.reshape(-1, 1, *space)
    taps = b.reshape(groups, -1, *b.shape[1:])
    taps = taps.reshape(*taps.shape[:3], -1).sum(-1)  # (groups, outer, inner)
    sizes = taps.sum(2 if result == "conv" else 1)  # (groups, channels of the result)
    return np.asarray((lengths[:, :, None] * sizes).reshape(len(a), -1, *space))


_SUPPORTS = "wanted None for a call that it takes, and else the reason as text"


class ObjectSubject(Subject):
    """An object with the three contractions. It may also have, each with the meaning of the attribute of Subject:
    name, promises, sums_by_contract, dtypes, padding_takes_part, rounds_once, any_strides, must_be_exact, supports(geometry, contraction, dtype).
    """

    def __init__(self, target: Any, spec: str | None = None) -> None:
        self.target = target
        self._spec = spec
        self.name = getattr(target, "name", None) or type(target).__name__
        self.promises = frozenset(getattr(target, "promises", ()))
        self.sums_by_contract = frozenset(getattr(target, "sums_by_contract", ()))
        for attribute in ("dtypes", "padding_takes_part", "rounds_once", "any_strides", "must_be_exact"):
            if hasattr(target, attribute):
                setattr(self, attribute, getattr(target, attribute))
        self._takes_bias = {r: _has_parameter(getattr(target, r, None), "bias") for r in ("conv", "conv_transpose")}

    @property
    def spec(self) -> str | None:
        return self._spec

    def refuses(self, case: Case, result: str, dtype: str) -> str | None:
        if result == "bias_grad" and not hasattr(self.target, "bias_grad"):
            return "has no bias_grad"
        if not hasattr(self.target, result):
            return f"has no {result}"
        supports = getattr(self.target, "supports", None)
        if supports is None or result == "bias_grad":
            return None
        try:
            why = supports(case.geometry(), result, dtype_of(dtype))
        except Exception as error:
            raise OptionError(f"{self.name}.supports raised {type(error).__name__}: {error}; {_SUPPORTS}, for {case}") from error
        if why is not None and not isinstance(why, str):
            raise OptionError(f"{self.name}.supports gave {why!r}; {_SUPPORTS}")
        return None if why is None else f"your supports(): {why}"

    def run(self, case: Case, result: str, *operands: Array, bias: Array | None = None) -> Array:
        method = getattr(self.target, result)
        if bias is None:
            return np.asarray(method(case.geometry(), *operands))
        if not self._takes_bias.get(result):
            raise Refused("takes no bias")
        return np.asarray(method(case.geometry(), *operands, bias=bias))

    def script(self, case: Case, result: str, operands: dict[str, str], bias: str | None) -> str:
        kind = type(self.target)
        call = ", ".join(operands.values()) + (f", bias={bias}" if bias else "")
        return "\n".join(
            [
                "import numpy as np",
                "from preimage import ConvGeometry",
                f"from {kind.__module__} import {kind.__qualname__}",
                f"geometry = {_geometry_text(case)}",
                f"got = {kind.__qualname__}().{result}(geometry, {call})",
            ]
        )


def _has_parameter(function: Any, name: str) -> bool:
    if function is None:
        return False
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def _geometry_text(case: Case) -> str:
    return (
        f"ConvGeometry(batch={case.batch}, in_channels={case.in_channels}, out_channels={case.out_channels}, groups={case.groups},"
        f" input_size={case.input_size}, output_size={case.output_size}, kernel_size={case.kernel_size}, stride={case.stride},"
        f" padding={case.padding}, dilation={case.dilation})"
    )


@lru_cache(maxsize=1)
def _targets() -> list[Variant]:
    """The narrower vector units that this CPU can run code for, beside its own."""
    from preimage.engines.jit.compiler import kernels

    found: list[Variant] = []
    for name in ("avx2", "avx512"):
        if kernels.named_target(name).runs_here:
            found.append((f"vectors of {name}", lambda name=name: kernels.use_target(name)))  # type: ignore[misc]
    return found


def _small_caches() -> list[Variant]:
    """The present target with caches so small that cases of any size do not fit them."""
    from preimage.engines.jit.compiler import kernels

    small = replace(kernels.current_target(), l1_bytes=1 << 10, l2_bytes=4 << 10, l3_bytes=16 << 10)
    return [("caches of 1, 4 and 16 KiB", lambda: kernels.use_target(small))]


class EngineSubject(Subject):
    """An engine of the registry, by name."""

    padding_takes_part = True
    rounds_once = True
    any_strides = True
    must_be_exact = True
    takes_invalid = True
    takes_epilogue = True
    dtypes: tuple[str, ...] = ("float32", "float64", "float16", "bfloat16")
    differentiates = frozenset({"gradients", "double_backward"})

    def __init__(self, name: str, engine: str | None = None) -> None:
        """engine: of which this is the calls with accuracy="fast"; by default the engine of that name."""
        self.name, self._engine_name = name, engine or name
        self.rounds_once = self._engine_name != "cudnn"  # which stores 16-bit sums before the bias is added
        self.must_be_exact = name not in INEXACT and engine is None
        if not self.must_be_exact:
            self.differentiates = frozenset()  # whose results are compared with integers
        self._settings: dict[str, Any] = {"engine": self._engine_name}
        if not self.must_be_exact:
            self._settings["accuracy"] = "fast"
        self.errors = (PreimageError,)
        self._reason: str | None = None
        try:
            self.engine = get(self._engine_name)
            self.promises = frozenset(self.engine.promises)
            self.sums_by_contract = _BY_CONTRACT.get(name, frozenset())
        except PreimageError as error:
            self._reason = str(error)
        try:
            import ml_dtypes  # noqa: F401
        except ImportError:
            self.dtypes = tuple(d for d in self.dtypes if d != "bfloat16")

    @property
    def spec(self) -> str:
        return self.name

    def unavailable(self) -> str | None:
        return self._reason

    def refuses(self, case: Case, result: str, dtype: str) -> str | None:
        if result == "bias_grad":
            return None
        try:
            return self.engine.supports(case.geometry(), result, dtype_of(dtype))
        except Exception as error:
            return Fault(f"asked whether it takes this, raised {type(error).__name__}: {str(error).strip()[:300]}")

    def run(self, case: Case, result: str, *operands: Array, bias: Array | None = None) -> Array:
        if result == "bias_grad":
            from preimage.ops.conv import sum_over_space

            return np.asarray(sum_over_space(operands[0], layout="channels_first"))
        if result == "conv_weight_grad":
            with allowing(self._settings.get("accuracy")):
                return self.engine.conv_weight_grad(case.geometry(), *operands)
        return self.run_epilogue(case, result, *operands, **({} if bias is None else {"bias": bias}))

    def stated_bound(self, case: Case, result: str, dtype: str, *operands: Array) -> Array | None:
        """c |a|_2 |b|_1 of `engines.base.InexactEngine`, for each image and channel of the result."""
        if self.must_be_exact or result == "bias_grad":
            return None
        engine: Any = self.engine
        bound = engine.error_bound(case.geometry(), result, dtype_of(dtype))
        return None if bound is None else _norms(case, result, *operands) * float(bound)

    def product(self, a: Array, b: Array) -> Array:
        with config(**self._settings):
            return np.asarray(ops.matmul(a, b))

    def total(self, x: Array, axes: tuple[int, ...]) -> Array:
        with config(**self._settings):
            return np.asarray(ops.sum(x, axes))

    def run_epilogue(self, case: Case, result: str, *operands: Array, **epilogue: Any) -> Array:
        from preimage.engines.base import Epilogue

        given = Epilogue(**epilogue) if epilogue else None
        with allowing(self._settings.get("accuracy")):
            return getattr(self.engine, result)(case.geometry(), *operands, given)  # type: ignore[no-any-return]

    @property
    def takes_prepared(self) -> bool:  # type: ignore[override]
        """Whether the engine takes weights that are packed beforehand."""
        return self.engine.takes_prepared

    def run_prepared(self, case: Case, result: str, a: Array, w: Array, how: str, **epilogue: Any) -> Array:
        from preimage.engines.base import Epilogue
        from preimage.engines.prepared import PreparedWeight

        with allowing(self._settings.get("accuracy")):
            return self._with_prepared(case, result, a, PreparedWeight(w), how, Epilogue(**epilogue))

    def _with_prepared(self, case: Case, result: str, a: Array, packed: Any, how: str, given: Any) -> Array:
        if how == "packed":
            return getattr(self.engine, result)(case.geometry(), a, packed, given)  # type: ignore[no-any-return]
        chain = ((("mul", (0, 1)),), (2.0,)) if how == "bound, with a chain" else None
        if not hasattr(self.engine, "bind"):
            raise Refused("a call that cannot be bound")
        call = self.engine.bind(case.geometry(), result, a, packed, given, chain)
        if call is None:
            raise Refused("a call that cannot be bound")
        residual = given.residual
        return np.asarray(call(a) if residual is None else call(a, residual))

    def variants(self, promise: str) -> list[Variant]:
        from preimage.settings import config

        if promise == "threads":
            return [(f"threads={n}", lambda n=n: config(threads=n)) for n in (1, 2, 3)]  # type: ignore[misc]
        own: list[Variant] = []
        if promise == "tiling":
            own = [(f"workspace_bytes={n}", lambda n=n: config(workspace_bytes=n)) for n in (0, 1 << 14)]  # type: ignore[misc]
        if promise == "cpu" and self._engine_name == "jit":
            own = _targets()
        if promise == "caches" and self._engine_name == "jit":
            own = _small_caches()
        if promise == "tiles" and self._engine_name == "jit":
            own = [(f"tiles of {p} pixels", lambda v=v, p=p: self._given_tile(v, p)) for v, p in ((1, 3), (2, 5))]  # type: ignore[misc]
        if promise == "few kernels" and self._engine_name == "jit":
            from preimage.engines.jit.request import little_work

            own = [("schedules of little work", lambda: little_work(FEW_KERNELS_MACS))]
        more = getattr(self.engine, "audit_variants", None)  # an engine may offer schedules of its own to be compared
        return own + (list(more(promise)) if more is not None else [])

    def forget_workspace(self) -> None:
        trim()
        kept = getattr(self.engine, "_scratch", None)
        if kept is not None:
            self.engine._scratch = type(kept)()  # type: ignore[attr-defined]

    def _layer(self, case: Case, x: Any, w: Any, b: Any) -> Any:
        import preimage as pre

        return pre.conv(x, w, b, stride=case.stride, padding=case.padding, dilation=case.dilation, groups=case.groups)

    def gradients(self, case: Case, x: Array, w: Array, b: Array, gy: Array) -> tuple[Array, Array, Array, Array]:
        import preimage as pre

        if not case.is_conv:
            raise Refused("no convolution gives these sizes")
        with pre.config(**self._settings):
            leaves: list[Any] = [pre.Tensor(a, requires_grad=True) for a in (x, w, b)]
            y = self._layer(case, *leaves)
            y.backward(gy)
            gx, gw, gb = (np.asarray(leaf.grad.data) for leaf in leaves)
            return y.numpy(), gx, gw, gb

    def double_backward(self, case: Case, x: Array, w: Array, gy: Array, vx: Array, vw: Array) -> tuple[Array, Array, Array]:
        import preimage as pre

        if not case.is_conv:
            raise Refused("no convolution gives these sizes")
        with pre.config(**self._settings):
            tx, tw, tg = (pre.Tensor(a, requires_grad=True) for a in (x, w, gy))
            y = self._layer(case, tx, tw, None)
            gx, gw = pre.grad(y, [tx, tw], tg, create_graph=True)
            found = pre.grad((gx * vx).sum() + (gw * vw).sum(), [tx, tw, tg])
            return tuple(np.asarray(f.data) for f in found)  # type: ignore[return-value]

    def call_invalid(self, call: Invalid) -> Any:
        import preimage as pre

        rng = np.random.default_rng(0)
        x = (rng.random(call.input_shape) * 9).astype(call.dtype)
        w = (rng.random(call.weight_shape) * 9).astype(call.weight_dtype)
        b = None if call.bias_shape is None else np.ones(call.bias_shape, call.dtype)
        function = pre.conv if call.op == "conv" else pre.conv_transpose
        with pre.config(**self._settings):
            return function(x, w, b, **call.arguments)

    @cached_property
    def plans(self) -> bool:  # type: ignore[override]
        """Whether the engine declares decisions."""
        return bool(decisions.declared(self.name))

    @property
    def unreachable(self) -> dict[str, str]:  # type: ignore[override]
        """Decisions that no call can take on this machine, and why."""
        asked = getattr(self.engine, "unreachable_decisions", None)
        return {} if asked is None else asked()

    @contextmanager
    def _given_tile(self, vectors: int, pixels: int) -> Iterator[None]:
        """An engine that takes a certain tile, instead of its own."""
        from preimage.engines.jit.compiler import kernels
        from preimage.engines.jit.engine import JitEngine

        kept: Any = self.engine
        given: Any = JitEngine((kernels.current_target().vector_bytes // 8, vectors, pixels))
        self.engine = given
        try:
            yield
        finally:
            self.engine = kept

    def planned(
        self, case: Case, result: str, dtype: np.dtype[Any], channels_last: bool, finite: bool
    ) -> frozenset[str]:  # fmt: skip
        if self._engine_name != "jit":
            return frozenset()
        planned: Any = self.engine
        with allowing(self._settings.get("accuracy")):
            found: frozenset[str] = planned.planned_decisions(case.geometry(), result, dtype, channels_last, finite)
        return found

    def script_under(self, under: tuple[str, ...], script: str) -> str:
        if "    got =" not in script:
            return super().script_under(under, script)
        head = f"with pre.config({_words(self._settings)}"
        for text in under:
            promise, _, number = text.partition(":")
            if promise == "threads":
                script = script.replace(head, f"{head}, threads={int(number) + 1}")
            elif promise in _LITTLE_MACS:
                script = script.replace("):\n    got", f"), little_work({_LITTLE_MACS[promise]}):\n    got")
                script = f"from preimage.engines.jit.request import little_work\n{script}"
            else:
                script = super().script_under((text,), script)
        return script

    def script(self, case: Case, result: str, operands: dict[str, str], bias: str | None) -> str:
        lines = ["import numpy as np", "import preimage as pre"]
        common = f"stride={case.stride}, padding={case.padding}, dilation={case.dilation}, groups={case.groups}"
        given = ", ".join(operands.values()) + (f", {bias}" if bias else "")
        if result == "conv_transpose":
            call = f"pre.conv_transpose({given}, {common}, output_size={case.input_size})"
        elif result == "conv_weight_grad":
            call = f"pre.conv_weight_grad({given}, kernel_size={case.kernel_size}, {common})"
        elif result == "conv" and case.is_conv:
            call = f"pre.conv({given}, {common})"
        elif result == "conv":
            lines.append("from preimage.engines import get")
            lines.append(f"geometry = {_geometry_text(case).replace('ConvGeometry', 'pre.ConvGeometry')}")
            call = f"get({self.name!r}).conv(geometry, {given})"
        else:
            return "\n".join([*lines, f"got = {given}.sum(axis={(0, *range(2, case.ndim + 2))})"])
        return "\n".join([*lines, f"with pre.config({_words(self._settings)}):", f"    got = {call}"])

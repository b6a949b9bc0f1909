"""Subject: what is audited. It computes any of RESULTS for a Case, says what it cannot express, and what it promises.

An adapter overrides `run`, and as much of the rest as its library has. Arrays are NumPy, logical shape (N, C, *spatial),
any strides, read-only; the weights are (out_channels, in_channels // groups, *kernel) for all results.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.audit.case import Case
from preimage.audit.invalid import Invalid
from preimage.errors import EngineError

__all__ = ["REFUSALS", "Array", "Fault", "InstalledSubject", "Refused", "Subject", "Variant", "literal"]

Array = NDArray[Any]
Variant = tuple[str, Callable[[], AbstractContextManager[Any]]]


class Refused(Exception):  # noqa: N818 - not an error: the subject says that it cannot express a call
    """Raised by an adapter for a call that its library openly does not offer; counted, not a finding."""


#: What a call may raise that is no finding: the subject, or an engine of ours inside it, says in words that it does not take it.
REFUSALS = (Refused, EngineError)


class Fault(str):
    """What a subject raised when it was asked what it takes: in the place of a refusal, but a finding. It must not end a long run."""

    __slots__ = ()


class Subject:
    """One library, or one way of calling it."""

    name = "subject"
    #: Changes under which the bits must stay the same (a part of preimage.engines.base.PROMISES); others are only measured.
    promises: frozenset[str] = frozenset()
    #: The contractions whose bits are those of `preimage.contract`.
    sums_by_contract: frozenset[str] = frozenset()
    #: Whether padding counts as zeros that take part (0 * inf = NaN), as the library's contract says; None: either is right.
    padding_takes_part: bool | None = None
    #: Whether narrow floats are summed in float32 and rounded once, as the library's contract says.
    rounds_once = False
    #: Whether the subject takes any strides, so that layouts are part of every check.
    any_strides = False
    #: Whether an inexact result on integers is a defect. Otherwise it is measured, and a defect above the rounding bound.
    must_be_exact = False
    dtypes: tuple[str, ...] = ("float32",)
    #: Which of the identities through automatic differentiation it has: "gradients", "double_backward".
    differentiates: frozenset[str] = frozenset()
    #: What a refused invalid call must raise.
    errors: tuple[type[BaseException], ...] = (Exception,)
    takes_invalid = False
    takes_epilogue = False
    takes_prepared = False
    #: Whether it declares and takes decisions.
    plans = False
    #: Decisions that no call can take on this machine, and why.
    unreachable: dict[str, str] = {}  # noqa: RUF012 - a default, never changed

    @property
    def spec(self) -> str | None:
        """The text from which another process can make this subject, or None: then it is handed over as it is."""
        return None

    def unavailable(self) -> str | None:
        """None, or why it cannot run here."""
        return None

    def refuses(self, case: Case, result: str, dtype: str) -> str | None:
        """None, or why this subject cannot express that result of that case; a Fault where it failed at the question."""
        del case, result, dtype
        return None

    def run(self, case: Case, result: str, *operands: Array, bias: Array | None = None) -> Array:
        """One of RESULTS; bias has one value per channel of the result (conv and conv_transpose only)."""
        raise NotImplementedError

    def stated_bound(self, case: Case, result: str, dtype: str, *operands: Array) -> Array | None:
        """What results may be off by, as the subject itself states it, of an algorithm that sums in an order of its own (Fourier
        transforms): an array that broadcasts to the result. None: the bound of sums of products in any order holds.
        """
        del case, result, dtype, operands
        return None

    def product(self, a: Array, b: Array) -> Array:
        """The matrix product of two matrices, where the library has one (`audit.accuracy`)."""
        raise NotImplementedError

    def total(self, x: Array, axes: tuple[int, ...]) -> Array:
        """The sum over the axes, where the library has one (`audit.accuracy`)."""
        raise NotImplementedError

    def run_epilogue(self, case: Case, result: str, *operands: Array, **epilogue: Any) -> Array:
        """A contraction with its bias, residual and activation (where `takes_epilogue`)."""
        raise NotImplementedError

    def run_prepared(self, case: Case, result: str, a: Array, w: Array, how: str, **epilogue: Any) -> Array:
        """The same with weights packed beforehand (where `takes_prepared`). how: "packed"; "bound", where the call too is made
        beforehand; "bound, with a chain": and its result is doubled by a step after the epilogue.
        """
        raise NotImplementedError

    def variants(self, promise: str) -> list[Variant]:
        """Settings to run under that must give the same bits if the subject promises `promise`: "threads", "tiling",
        "cpu". "caches" comes under "cpu": what another machine of the same instructions would take. Three more come under "tiling":
        "schedules" and "tiles" are settings that cost much to try, and "few kernels" is the one under which cases of any sizes cost
        least.
        """
        del promise
        return []

    def forget_workspace(self) -> None:
        """Give back memory that is kept between calls, so that the next call takes new memory, which is guarded."""

    def gradients(self, case: Case, x: Array, w: Array, b: Array, gy: Array) -> tuple[Array, Array, Array, Array]:
        """y of the case's layer, with its gradients in x, w and b for the cotangent gy, by automatic differentiation."""
        raise NotImplementedError

    def double_backward(self, case: Case, x: Array, w: Array, gy: Array, vx: Array, vw: Array) -> tuple[Array, Array, Array]:
        """Gradients in x, w and gy of <grad_x, vx> + <grad_w, vw>, where grad_x, grad_w are those of <gy, conv(x, w)>."""
        raise NotImplementedError

    def call_invalid(self, call: Invalid) -> Any:
        """Make the call; an error of `errors` is what is wanted."""
        raise NotImplementedError

    def planned(
        self, case: Case, result: str, dtype: np.dtype[Any], channels_last: bool, finite: bool
    ) -> frozenset[str]:  # fmt: skip
        """The decisions (`preimage.engines.decisions`) that the plan of a call takes, where `plans`; nothing runs."""
        del case, result, dtype, channels_last, finite
        return frozenset()

    def script_under(self, under: tuple[str, ...], script: str) -> str:
        """The same lines under settings, each "promise:number" of `variants`."""
        names = (self.variants(p)[int(k)][0] for p, _, k in (text.partition(":") for text in under))
        return f"{script}\n# computed under: {', '.join(names)}"

    def script(self, case: Case, result: str, operands: dict[str, str], bias: str | None) -> str:
        """A few lines of Python that compute `got` with the failing library alone; operands are expressions by name."""
        names = ", ".join(f"{k}={v}" for k, v in operands.items())
        return f"# {self.name}.run(case, {result!r}) with {names}{f', bias={bias}' if bias else ''}\n# case = {case}"


class InstalledSubject(Subject):
    """A library that is imported when its subject is made. packages: what must be there; the first one is kept as `library`."""

    packages: tuple[str, ...] = ()

    def __init__(self, name: str) -> None:
        self.name = name
        self.library: Any = None
        self._reason: str | None = None
        try:
            self.library, *_ = [import_module(each) for each in self.packages]
        except ImportError as error:
            self._reason = f"not installed ({error})"

    @property
    def spec(self) -> str:
        return self.name

    def unavailable(self) -> str | None:
        return self._reason


def literal(a: Array, dtype: str) -> str:
    """A short NumPy expression for a small array."""
    if a.size and np.all(a == a.flat[0]):
        value = a.flat[0].item()
        text = {0.0: "zeros", 1.0: "ones"}.get(value)
        if text:
            return f"np.{text}({a.shape}, np.{dtype})"
        return f"np.full({a.shape}, {_number(value)}, np.{dtype})"
    flat = ", ".join(_number(v.item()) for v in a.reshape(-1))
    return f"np.array([{flat}], np.{dtype}).reshape{a.shape}"


def _number(value: Any) -> str:
    if isinstance(value, float):
        if np.isnan(value):
            return "np.nan"
        if np.isinf(value):
            return "np.inf" if value > 0 else "-np.inf"
        return repr(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
    return repr(value)

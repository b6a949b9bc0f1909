"""One budget for every foreign file: memory, work, time. A small file must not be able to ask for all the memory, or for hours.

    with limits(memory_bytes=2 << 30, flop=10**12, seconds=5):
        graph = load_model(path)
        graph.run(feeds)

memory_bytes: all that a file's arrays and a run's values take together; unless it is set, four fifths of the memory that is free
for this process (containers' limits included). flop: one run. seconds: one run, looked at between its nodes. elements: one value. trips: one loop
of a model.

`check` foresees what a node would make from the shapes that it is given, for the words that can multiply sizes: the
contractions, windows, products and broadcasting. Words that take sizes from data (Expand, Range, Tile ...) check themselves.
A `Meter` adds up what a run holds and does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, MutableSet, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from preimage.autograd import array_of
from preimage.errors import FileFormatError, OptionError, PreimageError
from preimage.geometry import ConvGeometry
from preimage.records import record
from preimage.resources import available_memory

__all__ = [
    "Budget", "Meter", "allowed", "check", "check_bytes", "check_deadline", "check_work", "checked_size", "current", "deadline", "has_passed",
    "is_metered", "limits", "looping", "memory_bytes", "metered",
]  # fmt: skip

#: How an error says what to set.
_HOW = "{name} of preimage.io.limits.limits; --{option} of preimage run, convert and info"
#: The part of the free memory that a foreign file may take.
SHARE = 0.8
#: Work that a node inside a loop or branch counts as, at least: what a call takes anyway.
STEP_FLOP = 1 << 24
#: Words whose arguments do not broadcast: they check themselves, or their result has the first argument's size.
_THEMSELVES = (
    "rnn", "gru", "lstm", "if", "loop", "scan", "concatfromsequence", "sequenceinsert", "sequenceconstruct", "gather", "gatherelements",
    "quantizelinear", "dequantizelinear", "instancenormalization", "groupnormalization",
)  # fmt: skip
#: Runs that are remembered to have passed.
MOST_PASSED = 256
#: Words (as `check` spells them) whose result is no larger than their largest argument, or a view of it.
_SMALLER = (
    "reduce", "arg", "maxpool", "avgpool", "averagepool", "lppool", "global", "adaptive", "gather", "slice", "split", "shape", "size",
    "topk", "compress", "mean", "sum", "squeeze", "unsqueeze", "flatten", "reshape", "transpose", "identity", "crop", "dropout",
    "roi", "nonmax", "unique", "detection", "accuracy", "silence", "sequence",
)  # fmt: skip


@record
class Budget:
    """What a foreign file may take; memory_bytes None: a share of what is free, seconds None: any time."""

    memory_bytes: int | None = None
    flop: int = 2**50
    seconds: float | None = None
    elements: int = 2**29
    trips: int = 2**20


_DEFAULT = Budget()
_budget: ContextVar[Budget] = ContextVar("preimage_budget", default=_DEFAULT)
_meter: ContextVar[Meter | None] = ContextVar("preimage_meter", default=None)


@contextmanager
def limits(
    *,
    memory_bytes: int | None = None,
    flop: int | None = None,
    seconds: float | None = None,
    elements: int | None = None,
    trips: int | None = None,
) -> Iterator[None]:
    """Other limits inside a `with` block, in this thread. Raises: OptionError for a limit that is not positive."""
    given = {"memory_bytes": memory_bytes, "flop": flop, "seconds": seconds, "elements": elements, "trips": trips}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name, value in changes.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise OptionError(f"{name} must be positive, got {value!r}")
    token = _budget.set(replace(_budget.get(), **changes))
    try:
        yield
    finally:
        _budget.reset(token)


def current() -> Budget:
    """The limits that hold now."""
    return _budget.get()


def allowed() -> int:
    """Elements that one value may have."""
    return _budget.get().elements


def memory_bytes() -> int:
    """Bytes that may be taken now: the limit that was set, or the share of the free memory."""
    asked = _budget.get().memory_bytes
    return int(SHARE * available_memory()) if asked is None else asked


def _gib(size: float) -> str:
    if size > 1e27:  # sizes of a damaged file may be larger than any float
        return "more than 1e+18 GiB"
    return f"{size / 2**30:.3g} GiB" if size >= 2**20 else f"{size:.0f} bytes"


def check_bytes(size: int, what: str) -> None:
    """Refuse what would take more than the memory allowed. Raises: FileFormatError that names the setting."""
    most = memory_bytes()
    if size > most:
        raise FileFormatError(_too_much(what, size, most))


def _too_much(what: str, size: float, most: float) -> str:
    return f"{what} would take {_gib(size)} of memory; {_gib(most)} are allowed ({_HOW.format(name='memory_bytes', option='memory')})"


class Meter:
    """Memory and work of one run of a graph. `with meter:` makes the checks of this thread count against it.

    held: bytes that are taken before the run begins (stored arrays). outer: the meter of the run whose node runs this graph (the body of a
    loop, a branch); what is done here is counted there, and every node counts as STEP_FLOP at least: a loop over next to nothing takes time, too.
    """

    def __init__(self, held: int = 0, outer: Meter | None = None) -> None:
        budget = _budget.get()
        self.outer = outer
        self._sizes: dict[str, int] = {}
        if outer is None:
            self.most_bytes = budget.memory_bytes if budget.memory_bytes is not None else held + memory_bytes()
            self.most_flop, self.bytes, self.flop, self.end = budget.flop, held, 0, deadline()
        else:
            self.most_bytes, self.most_flop, self.end = outer.most_bytes, outer.most_flop, outer.end
            self.bytes, self.flop = outer.bytes, outer.flop

    def __enter__(self) -> Meter:
        self._token = _meter.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _meter.reset(self._token)
        if self.outer is not None:
            self.outer.flop = self.flop

    def foresee(self, size: int, what: str) -> None:
        """Refuse a value of so many bytes where it does not fit beside those that are alive."""
        if self.bytes + size > self.most_bytes:
            raise FileFormatError(
                _too_much(f"{what}: its result and the values that are alive", self.bytes + size, self.most_bytes)
            )

    def work(self, flop: int, what: str) -> None:
        """Add work, and refuse it where all together is too much."""
        self.flop += flop
        if self.flop > self.most_flop:
            raise FileFormatError(_too_long(what, self.flop, self.most_flop))

    def made(self, values: Mapping[str, Any], what: str) -> None:
        """Count the results of a node. Views count like arrays: they keep what they look at alive."""
        for name, value in values.items():
            array = array_of(value)
            self.foresee(array.nbytes, what)
            self._sizes[name] = array.nbytes
            self.bytes += array.nbytes
            self.work(array.size, what)
        if self.outer is not None:
            self.work(STEP_FLOP, what)

    def dropped(self, name: str) -> None:
        """A value is not needed any more."""
        self.bytes -= self._sizes.pop(name, 0)


@contextmanager
def metered(passed: MutableSet[Any], key: Any, held: Callable[[], int], always: bool = False) -> Iterator[Meter | None]:
    """A Meter for a run whose like (`key`: its shapes) has not passed yet; None for one that has: it takes no more than before (unless `always`).

    Inside the run of another graph, always one that counts there.
    """
    outer = _meter.get()
    if outer is not None:
        with Meter(outer=outer) as inner:
            yield inner
        return
    key = (key, _budget.get())
    meter = None if key in passed and not always else Meter(held())
    with meter or nullcontext():
        yield meter
    if len(passed) >= MOST_PASSED:
        passed.clear()
    passed.add(key)


def has_passed(passed: MutableSet[Any], key: Any) -> bool:
    """Whether a run like this one was metered under the limits of now, and took no more than they allow."""
    return (key, _budget.get()) in passed


def _too_long(what: str, flop: int, most: int) -> str:
    return f"{what}: {flop:.3g} flop in one run are more than the {most:.3g} allowed ({_HOW.format(name='flop', option='flop')})"


@contextmanager
def looping(what: str) -> Iterator[Callable[[int, int], None]]:
    """A loop whose bodies count as one run; gives the function to call before each: the number of the trip, and the bytes kept so far."""
    most = _budget.get().trips

    def before(trip: int, kept_bytes: int) -> None:
        if trip >= most:
            raise FileFormatError(f"{what}: more than the {most} trips allowed (trips of preimage.io.limits.limits)")
        meter.foresee(kept_bytes, what)
        if meter.end is not None:
            check_deadline(meter.end, f"trip {trip} of {what}")

    outer = _meter.get()
    with Meter(outer=outer) as meter:
        yield before


def is_metered() -> bool:
    """Whether a run counts what it makes: one that begins now is part of it."""
    return _meter.get() is not None


def deadline() -> float | None:
    """When a run that begins now must have ended, in seconds of time.monotonic; None: whenever. One inside another ends with that."""
    meter = _meter.get()
    if meter is not None:
        return meter.end
    seconds = _budget.get().seconds
    return None if seconds is None else time.monotonic() + seconds


def check_deadline(end: float, what: str) -> None:
    """Raises: FileFormatError where the time of a run is up."""
    if time.monotonic() > end:
        seconds = _budget.get().seconds
        how = _HOW.format(name="seconds", option="seconds")
        raise FileFormatError(f"the run is stopped before {what}: it takes longer than the {seconds} s allowed ({how})")


def checked_size(shape: Sequence[Any], what: str, itemsize: int = 4) -> tuple[int, ...]:
    """`shape` as integers.

    Raises: FileFormatError where a size is negative, or the whole larger than the limit.
    """
    sizes = tuple(int(v) for v in shape)
    if any(v < 0 for v in sizes) or len(sizes) > 32:
        raise FileFormatError(f"{what}: impossible shape {sizes}")
    elements = prod(sizes)
    if elements > (most := _budget.get().elements):
        raise FileFormatError(
            f"{what}: a result of shape {sizes} is larger than the limit of {most} elements (elements of preimage.io.limits.limits)"
        )
    meter = _meter.get()
    if meter is not None:
        meter.foresee(elements * itemsize, what)
    return sizes


def check(op: str, values: Sequence[Any], attributes: Any, what: str) -> None:
    """Refuse a node whose result, foreseen from the shapes of its inputs, would be larger than the limits.

    Raises: FileFormatError that names the node.
    """
    arrays = [array_of(v) for v in values if v is not None]
    shapes = [tuple(np.shape(a)) for a in arrays]
    word = op.removeprefix("onnx.").lower().replace("_", "")
    meter = _meter.get()
    if meter is not None and not word.startswith(_SMALLER):
        meter.foresee(max((a.nbytes if hasattr(a, "nbytes") else np.asarray(a).nbytes for a in arrays), default=0), what)
    if len(shapes) < 2:
        return
    if word in ("conv", "convtranspose"):
        _check_contraction(word, shapes, attributes, what)
    elif word in ("matmul", "gemm", "linear"):
        a, b = shapes[:2]
        if a and b:
            checked_size([max(prod(a[:-1]), 1), max(b[-1], b[0] if len(b) > 1 else 1, 1)], what)
            check_work(2 * prod(a) * max(b), what)
    elif len(shapes) <= 3 and word not in _THEMSELVES:
        longest = max(map(len, shapes))
        if prod(map(prod, shapes)) > allowed() and longest:
            aligned = [(1,) * (longest - len(s)) + s for s in shapes]
            widest = prod(max(column) for column in zip(*aligned, strict=True))
            if widest > allowed():
                raise FileFormatError(
                    f"{what}: shapes {shapes} together are larger than the limit of {allowed()} elements"
                    " (elements of preimage.io.limits.limits)"
                )


def check_work(flop: int, what: str) -> None:
    """Count the work of a node that begins, and refuse it where a run's would be too much. Raises: FileFormatError that names the setting."""
    meter = _meter.get()
    if meter is not None:
        meter.work(flop, what)
    elif flop > (most := _budget.get().flop):
        raise FileFormatError(_too_long(what, flop, most))


def _check_contraction(word: str, shapes: Sequence[tuple[int, ...]], attributes: Any, what: str) -> None:
    given = {
        "stride": attributes.get("stride", attributes.get("strides")) or 1,
        "dilation": attributes.get("dilation", attributes.get("dilations")) or 1,
        "groups": attributes.get("groups", attributes.get("group", 1)),
        "padding": attributes.get("padding", 0),
    }
    pads = attributes.get("pads")
    if pads:
        given["padding"] = [(pads[k], pads[k + len(pads) // 2]) for k in range(len(pads) // 2)]
    extra = attributes.get("output_padding") or 0
    try:
        if word == "conv":
            geometry = ConvGeometry.from_conv(shapes[0], shapes[1], **given)
            result = geometry.output_shape
        else:
            geometry = ConvGeometry.from_conv_transpose(shapes[0], shapes[1], output_padding=extra, **given)
            result = geometry.input_shape
    except PreimageError:
        return  # the contraction itself says what is wrong
    checked_size(result, what)
    check_work(geometry.work_flop, what)

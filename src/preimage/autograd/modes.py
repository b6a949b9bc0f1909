"""Whether operations record, and who watches them run: per thread and async task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, contextmanager
from contextvars import ContextVar, Token
from typing import Any

__all__ = ["enable_grad", "is_grad_enabled", "no_grad", "observe", "observer"]

#: Called as observer(op, args, params, result) after every operation on Tensors.
Observer = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]

_observer: ContextVar[Observer | None] = ContextVar("preimage_observer", default=None)


def observer() -> Observer | None:
    """Who watches here and now; None as a rule."""
    return _observer.get()


@contextmanager
def observe(watch: Observer) -> Iterator[None]:
    """A `with` block in which watch(op, args, params, result) is called after every operation that is given a Tensor."""
    token = _observer.set(watch)
    try:
        yield
    finally:
        _observer.reset(token)


#: How the reverse sweep adds two arrays, where not by NumPy.
adder: ContextVar[Callable[[Any, Any], Any] | None] = ContextVar("preimage_adder", default=None)


@contextmanager
def adding_by(function: Callable[[Any, Any], Any]) -> Iterator[None]:
    """A `with` block in which the reverse sweep adds arrays by this function: for who records what is computed, and has to see sums, too."""
    token = adder.set(function)
    try:
        yield
    finally:
        adder.reset(token)


_recording: ContextVar[bool] = ContextVar("preimage_recording", default=True)


def is_grad_enabled() -> bool:
    """Whether operations on Tensors record the DAG here and now."""
    return _recording.get()


class _Mode(ContextDecorator):
    _value: bool

    def __init__(self) -> None:
        self._tokens: list[Token[bool]] = []

    def __enter__(self) -> None:
        self._tokens.append(_recording.set(self._value))

    def __exit__(self, *_: object) -> None:
        _recording.reset(self._tokens.pop())


class no_grad(_Mode):  # noqa: N801 - PyTorch's word
    """A `with` block (or decorator) in which nothing is recorded."""

    _value = False


class enable_grad(_Mode):  # noqa: N801 - PyTorch's word
    """A `with` block (or decorator) in which operations record again, inside a no_grad."""

    _value = True

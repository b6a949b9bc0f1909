"""Whether operations record: per thread and async task."""

from __future__ import annotations

from contextlib import ContextDecorator
from contextvars import ContextVar, Token

__all__ = ["enable_grad", "is_grad_enabled", "no_grad"]

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

"""Settings: engine, device, threads, workspace, accuracy, debug level. Environment variables give the first values.

    with preimage.config(engine="gemm", threads=1):
        ...

A setting holds for the calls made inside the `with` block in this thread (and async task); `config.set(...)` changes
the whole process. Environment: PREIMAGE_ENGINE, PREIMAGE_DEVICE, PREIMAGE_THREADS, PREIMAGE_WORKSPACE_BYTES, PREIMAGE_ACCURACY,
PREIMAGE_DEBUG (0..5: 1 the engine chosen and why; 2 time, GFLOP/s, bytes; 3 the plan; 4 LLVM IR; 5 assembly). A variable
with a wrong value is an error of the first call that asks for a setting, not of the import.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ContextDecorator, contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from operator import index
from typing import Any

from preimage.errors import OptionError
from preimage.resources import cpu_quota, parse_bytes

__all__ = [
    "ACCURACIES",
    "Settings",
    "allowing",
    "check_accuracy",
    "config",
    "current",
    "set_defaults",
    "thread_count",
    "with_threads",
]

ACCURACIES = ("exact", "fast")


@dataclass(frozen=True, slots=True)
class Settings:
    """One immutable set of settings.

    engine: "auto" or the name of an engine; device: of engines that run on GPUs, "auto" (the first), "cuda:1" or 1 (by number), or
    "simulator" (the GPU's kernels on the CPU, slowly, with the same bits);
    threads: 0 means one per CPU of the process's affinity mask, and no more than whole
    CPUs of its control group's quota (a container's limit);
    workspace_bytes: how much scratch memory one call may take; accuracy: "exact" (one order of summation), or "fast": algorithms
    that multiply less and round more may run, where they are faster; debug: 0..5.
    """

    engine: str = "auto"
    threads: int = 0
    workspace_bytes: int = 64 << 20
    accuracy: str = "exact"
    debug: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.engine, str) or not self.engine:
            raise OptionError(f"engine must be a name such as 'auto' or 'gemm', got {self.engine!r}")
        for name, least in (("threads", 0), ("workspace_bytes", 0), ("debug", 0)):
            value = getattr(self, name)
            try:
                number = least - 1 if isinstance(value, bool) else index(value)
            except TypeError:
                number = least - 1
            if number < least:
                raise OptionError(f"{name} must be an integer of at least {least}, got {value!r}")
            object.__setattr__(self, name, number)  # NumPy's integers as Python's
        object.__setattr__(self, "device", _checked_device(self.device))
        check_accuracy(self.accuracy)


def check_accuracy(value: object) -> None:
    """Raises: OptionError unless it is a word that `accuracy` may be."""
    if not isinstance(value, str) or value not in ACCURACIES:
        raise OptionError(f"accuracy must be one of {', '.join(ACCURACIES)}, got {value!r}")


def _checked_device(device: object) -> str:
    """The device by its name; GPUs may be given by number."""
    if isinstance(device, str) and device in ("auto", "simulator", "cuda"):
        return "cuda:0" if device == "cuda" else device
    number = device.removeprefix("cuda:") if isinstance(device, str) else str(device)
    whole = isinstance(device, str) or (hasattr(device, "__index__") and not isinstance(device, bool))
    if not (whole and number.isascii() and number.isdigit()):
        raise OptionError(f"device must be 'auto', 'simulator', 'cuda:0' or the number of a GPU, got {device!r}")
    return f"cuda:{int(number)}"


_NAMES = tuple(f.name for f in fields(Settings))


def _checked_replace(settings: Settings, changes: dict[str, Any]) -> Settings:
    for name in changes:
        if name not in _NAMES:
            raise OptionError(f"no setting is called {name!r}; there are {', '.join(_NAMES)}")
    try:
        return _replaced(settings, *changes, *changes.values())
    except TypeError:  # a value that cannot be hashed, which is none
        return replace(settings, **changes)


@lru_cache(maxsize=256, typed=True)
def _replaced(settings: Settings, *changes: Any) -> Settings:
    """The settings with changes: names, then their values. One object for the same settings: caches are looked up by it."""
    half = len(changes) // 2
    return replace(settings, **dict(zip(changes[:half], changes[half:], strict=True)))


def with_threads(settings: Settings, threads: int) -> Settings:
    """The settings with a number of threads; as they are where that is 0."""
    return _replaced(settings, "threads", threads) if threads else settings


def _from_environment() -> Settings:
    settings = Settings()
    for name in _NAMES:
        variable = f"PREIMAGE_{name.upper()}"
        text = os.environ.get(variable)
        if not text:
            continue
        value: Any = text
        if name == "workspace_bytes":
            value = parse_bytes(text, f"the environment variable {variable}")
        elif name not in ("engine", "accuracy", "device"):
            if not (text.strip().isascii() and text.strip().isdigit()):
                raise OptionError(f"the environment variable {variable} must be an integer of at least 0, got {text!r}")
            value = int(text)
        try:
            settings = replace(settings, **{name: value})
        except OptionError as error:
            raise OptionError(f"the environment variable {variable}: {error}") from None
    return settings


_defaults: Settings | None = None  # until they are asked for
_override: ContextVar[Settings | None] = ContextVar("preimage_settings", default=None)


def current() -> Settings:
    """The settings in force for this thread, now.

    Raises: OptionError if an environment variable that gives one of them has a wrong value.
    """
    return _override.get() or _defaults or _first()


def _first() -> Settings:
    global _defaults
    _defaults = _from_environment()
    return _defaults


def set_defaults(**changes: Any) -> None:
    """Change the settings of the whole process (every thread that is not inside a `with config(...)`)."""
    global _defaults
    _defaults = _checked_replace(_defaults or _first(), changes)


_affinity: Callable[[int], Collection[int]] | None = getattr(os, "sched_getaffinity", None)
_quota = 0  # whole CPUs of the control groups' quota, once it was looked up


def thread_count(settings: Settings | None = None) -> int:
    """How many threads a call may use: the setting, or one per CPU that this process may run on, within its CPU quota.

    The affinity mask is asked for at every call; the quota is read from files, once.
    """
    threads = (settings or current()).threads
    if threads:
        return threads
    count = len(_affinity(0)) if _affinity is not None else os.cpu_count() or 1
    return count if 0 < count <= _quota else min(count or 1, _quota or _look_up_quota())


def _look_up_quota() -> int:
    global _quota
    _quota = cpu_quota() or sys.maxsize
    return _quota


@contextmanager
def allowing(accuracy: str | None) -> Iterator[Settings]:
    """The settings of now with another accuracy, inside the block and in this thread; None: as they are."""
    settings = current()
    if accuracy is None or accuracy == settings.accuracy:
        yield settings
        return
    changed = _replaced(settings, "accuracy", accuracy)
    token = _override.set(changed)
    try:
        yield changed
    finally:
        _override.reset(token)


class config(ContextDecorator):  # noqa: N801 - reads as a word of the library: `with pre.config(...)`
    """Settings for the calls inside a `with` block (or a decorated function), in this thread only.

    Raises: OptionError for a setting that does not exist or a value that is not allowed, at once.
    """

    def __init__(self, **changes: Any) -> None:
        self._changes = changes
        self._tokens: list[Token[Settings | None]] = []
        _checked_replace(current(), changes)

    def __enter__(self) -> Settings:
        settings = _checked_replace(current(), self._changes)
        self._tokens.append(_override.set(settings))
        return settings

    def __exit__(self, *_: object) -> None:
        _override.reset(self._tokens.pop())

    @staticmethod
    def current() -> Settings:
        """The settings in force now."""
        return current()

    @staticmethod
    def set(**changes: Any) -> None:
        """Change the settings of the whole process."""
        set_defaults(**changes)

"""What pycaffe says about the process: mode, device, solvers side by side, the log, a clock. One process and the CPU compute here."""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

from preimage.caffe.errors import LayerError

__all__ = [
    "NCCL", "Timer", "has_nccl", "init_log", "log", "set_device", "set_mode_cpu", "set_mode_gpu", "set_multiprocess",
    "set_solver_count", "set_solver_rank", "solver_count", "solver_rank",
]  # fmt: skip

_logger = logging.getLogger("preimage.caffe")
_solvers = {"count": 1, "rank": 0}


def set_mode_cpu() -> None:
    """The CPU computes; it always does."""


def set_mode_gpu() -> None:
    """Warns: the CPU computes."""
    warnings.warn("preimage.caffe computes on the CPU; set_mode_gpu changes nothing", stacklevel=2)


def set_device(device: int) -> None:
    """Warns for a device: there is none to choose."""
    warnings.warn(f"preimage.caffe computes on the CPU; set_device({device}) changes nothing", stacklevel=2)


def solver_count() -> int:
    """How many solvers the script says work side by side; each is a process of its own."""
    return _solvers["count"]


def set_solver_count(count: int) -> None:
    """Note how many solvers work side by side, for layers that ask."""
    _solvers["count"] = int(count)


def solver_rank() -> int:
    """Which of them this one is."""
    return _solvers["rank"]


def set_solver_rank(rank: int) -> None:
    """Note which of the solvers this one is."""
    _solvers["rank"] = int(rank)


def set_multiprocess(multiprocess: bool) -> None:
    """Nothing to choose: solvers are processes of their own."""


def has_nccl() -> bool:
    """False: gradients are not exchanged between devices."""
    return False


class NCCL:
    """Refuses: there is no exchange between devices (has_nccl says so)."""

    def __init__(self, *_: Any) -> None:
        raise LayerError("preimage.caffe has no NCCL; has_nccl() is False")


def log(text: str) -> None:
    """Write to the logger `preimage.caffe`, at level INFO."""
    _logger.info("%s", text)


def init_log(level: int = 0, stderr: bool = True) -> None:
    """Show the log on standard error: from level 0 (all), 1 (warnings) or 2 (errors)."""
    _logger.setLevel((logging.INFO, logging.WARNING, logging.ERROR)[min(max(level, 0), 2)])
    if stderr and not any(isinstance(handler, logging.StreamHandler) for handler in _logger.handlers):
        _logger.addHandler(logging.StreamHandler())


class Timer:
    """A clock: `start()`, `stop()`, then `ms`, the milliseconds between."""

    def __init__(self) -> None:
        self._begin = self._end = 0

    def start(self) -> None:
        """Begin."""
        self._begin = time.perf_counter_ns()

    def stop(self) -> None:
        """End."""
        self._end = time.perf_counter_ns()

    @property
    def ms(self) -> float:
        """Milliseconds from start to stop."""
        return (self._end - self._begin) / 1e6

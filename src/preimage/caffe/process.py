"""What pycaffe says about the process: mode, device, solvers side by side, the log, a clock. One process computes: the CPU, or a GPU that
`set_mode_gpu` chose.
"""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

from preimage.caffe.errors import LayerError
from preimage.engines import get
from preimage.errors import PreimageError
from preimage.ops.operands import count_of
from preimage.settings import config, current, set_defaults

__all__ = [
    "NCCL", "Timer", "has_nccl", "init_log", "log", "set_device", "set_mode_cpu", "set_mode_gpu", "set_multiprocess",
    "set_solver_count", "set_solver_rank", "solver_count", "solver_rank",
]  # fmt: skip

_logger = logging.getLogger("preimage.caffe")
_solvers = {"count": 1, "rank": 0, "device": 0}
GPU_ENGINE = "cuda"


def set_mode_cpu() -> None:
    """The CPU computes from now on, in the whole process: `config.set(engine="auto")` where a GPU did."""
    if current().engine == GPU_ENGINE:
        set_defaults(engine="auto", device="auto")


def set_mode_gpu() -> None:
    """Contractions run on the GPU of `set_device` (or the first) from now on, in the whole process, with the CPU's bits: the engine cuda.

    `config.set(engine="cudnn")` takes Caffe's own cuDNN calls instead. Where there is no GPU a warning says why, and the CPU computes.
    """
    _mode_gpu(f"cuda:{_solvers['device']}", "set_mode_gpu")


def set_device(device: int) -> None:
    """Which GPU `set_mode_gpu` takes, by number. Where it is not there a warning says why.

    Raises: OptionError for what is no number of a device.
    """
    number = count_of(device, "device", 0)
    if current().engine == GPU_ENGINE:
        _mode_gpu(f"cuda:{number}", f"set_device({number})")
    elif (reason := _why_not(f"cuda:{number}")) is not None:
        warnings.warn(f"preimage.caffe computes on the CPU: {reason}; set_device({number}) changes nothing", stacklevel=2)
        return
    _solvers["device"] = number


def _why_not(device: str) -> str | None:
    """Why the engine cuda cannot run on a device, or None."""
    try:
        with config(device=device):
            get(GPU_ENGINE)
    except PreimageError as error:
        return str(error)
    return None


def _mode_gpu(device: str, call: str) -> None:
    reason = _why_not(device)
    if reason is None:
        set_defaults(engine=GPU_ENGINE, device=device)
    else:
        warnings.warn(f"preimage.caffe computes on the CPU: {reason}; {call} changes nothing", stacklevel=3)


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

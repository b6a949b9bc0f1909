"""The kernels of specs, found again without writing the specs out."""

from __future__ import annotations

from typing import Any

from preimage.engines.ir.arguments import Arguments
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.runtime.link import compiled, launch_arrays
from preimage.settings import thread_count

__all__ = ["kept_kernel", "lanes_for", "launch_spec"]

_kept: dict[tuple[Any, int], tuple[kernels.LoadedKernel, Any]] = {}
_MOST_KEPT = 1024


def kept_kernel(spec: Any) -> kernels.LoadedKernel:
    """The kernel of a spec for the current target."""
    target = kernels.current_target()
    found = _kept.get((spec, id(target)))
    if found is None:
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        found = _kept[spec, id(target)] = (compiled(spec), target)  # the target is held, so that its id stays its own
    return found[0]


def launch_spec(spec: Any, arguments: Arguments, tasks: int) -> None:
    """Run the kernel of a spec."""
    launch_arrays(kept_kernel(spec), arguments.listed(), tasks, thread_count() if tasks > 1 else 1)


def lanes_for(target: kernels.Target, itemsize: int, heavy: bool) -> int:
    """Elements of a vector. Heavy steps work on 64 bytes at a time: narrower registers then share the constants that they load."""
    return max(target.vector_bytes, 64 if heavy else 0) // itemsize

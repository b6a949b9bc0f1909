"""Whether there is memory to compile and load kernels: asked before LLVM finds out, which would end the process."""

from __future__ import annotations

import mmap

from preimage.errors import OutOfMemoryError
from preimage.resources import available_memory, release_memory

__all__ = ["LOAD_BYTES", "MODULE_BYTES", "THREAD_BYTES", "check_mapping", "check_room", "compiling_bytes"]

#: What LLVM takes at most for modules: so much, and so many times their text. Measured (kernels of all schedules): 40 MiB and 20 times.
MODULE_BYTES = 48 << 20
TEXT_FACTOR = 40
#: What a thread takes beside, most of it address space: a stack, and the C library's memory for it.
THREAD_BYTES = 80 << 20
#: To link an object file, beside twice its size.
LOAD_BYTES = 4 << 20


def compiling_bytes(characters: int) -> int:
    """What it takes to compile modules whose texts have so many characters together."""
    return MODULE_BYTES + TEXT_FACTOR * characters


def check_room(wanted: int) -> None:
    """Raise OutOfMemoryError if so many bytes cannot be had, even after what is only kept was given back."""
    if available_memory() < wanted and (not release_memory() or available_memory() < wanted):
        raise OutOfMemoryError(
            f"compiling or loading a kernel takes up to {wanted >> 20} MiB of memory, and {available_memory() >> 20} MiB can be had"
        )


def check_mapping(wanted: int) -> None:
    """The same for what takes little, by trying: a look at every limit would take longer than linking."""
    try:
        mmap.mmap(-1, wanted).close()
    except (OSError, MemoryError):
        check_room(wanted)

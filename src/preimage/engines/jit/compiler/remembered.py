"""What LLVM says of this machine and of itself, remembered on disk, so that a process that compiles nothing need not load it.

The answer is kept under everything that it depends on: what the system says of the first CPU, and the file of LLVM's library (size and time).
Where the system does not say, nothing is remembered. It lies with the compiled kernels and is trusted as they are (`disk_cache`).
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable

from preimage.engines import disk_cache
from preimage.locks import import_apart

__all__ = ["Answer", "answer", "circumstances", "keep"]

#: What LLVM says, as words: name of the CPU, triple, features, version.
Answer = dict[str, str]
_FIELDS = {"cpu", "triple", "features", "tools"}
#: What changes from one look to the next.
_UNSTEADY = (b"cpu MHz", b"bogomips", b"microcode", b"apicid", b"initial apicid", b"core id", b"physical id", b"processor")
MOST_BYTES = 1 << 14  # of the description of one CPU


def answer(ask: Callable[[], Answer]) -> Answer:
    """What `ask()` says: from disk where it was asked before under the same circumstances."""
    key = circumstances()
    if key is None:
        return ask()
    stored = disk_cache.read(key)
    if stored is not None:
        try:
            found = json.loads(stored)
        except ValueError:
            found = None
        if isinstance(found, dict) and found.keys() == _FIELDS and all(isinstance(value, str) for value in found.values()):
            return found
    made = ask()
    _new.append((key, made))
    return made


_new: list[tuple[str, Answer]] = []  # answers that are not on disk yet


def keep() -> None:
    """Write down what was asked, beside the first kernel that this process loads: one that only plans writes nothing."""
    while _new:
        try:
            key, made = _new.pop()
        except IndexError:  # another thread was quicker
            return
        disk_cache.write(key, json.dumps(made).encode())


def circumstances() -> str | None:
    """This CPU and LLVM's library, in words; None where the system does not say."""
    if sys.platform != "linux":
        return None
    try:
        llvmlite = import_apart("llvmlite")  # its version alone: the binding is a module of its own
        with open("/proc/cpuinfo", "rb", 0) as file:
            lines = file.read(MOST_BYTES).partition(b"\n\n")[0].splitlines()
        library = os.stat(os.path.join(os.path.dirname(llvmlite.__file__ or ""), "binding", "libllvmlite.so"))
    except (ImportError, OSError):
        return None
    steady = b"\n".join([line for line in lines if not line.startswith(_UNSTEADY)])
    if b"flags" not in steady and b"Features" not in steady:
        return None
    return disk_cache.key(
        about="what LLVM says of this CPU",
        cpu=steady.decode("ascii", "replace"),
        machine=platform.machine(),
        library=f"{llvmlite.__version__} {library.st_size} {library.st_mtime_ns}",
    )

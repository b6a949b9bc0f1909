"""PTX on disk, in the folder and manner of the CPU's object code; what was loaded or made lately in memory, bounded.

PTX is text for the driver's own compiler, which keeps its machine code in a cache of its own.
"""

from __future__ import annotations

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from preimage.engines import disk_cache
from preimage.engines.cuda.device import KernelSpec
from preimage.locks import LOCK, import_apart

__all__ = ["Kept", "ptx", "source_digest"]

K = TypeVar("K")
V = TypeVar("V")
#: Kernels, plans, tables kept in memory at most; those used longest ago go first.
MOST_KEPT = 512


class Kept(Generic[K, V]):
    """What was made under its key, the last `most` that were asked for."""

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._most = most
        self._made: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._made)

    def get(self, key: K, make: Callable[[K], V]) -> V:
        """What is kept under a key, else what `make(key)` gives; two threads may both make it, and one of the two is kept."""
        with LOCK:
            found = self._made.get(key)
            if found is not None:
                self._made.move_to_end(key)
                return found
        made = make(key)
        gone = []
        with LOCK:
            made = self._made.setdefault(key, made)
            while len(self._made) > self._most:
                gone.append(self._made.popitem(last=False))
        return made  # `gone` goes after the lock is given up: a finaliser may wait for the device

    def forget(self) -> None:
        """Drop everything."""
        with LOCK:
            made, self._made = self._made, OrderedDict()
        made.clear()


@functools.cache
def source_digest() -> str:
    """A digest of the files that make the text of a kernel from its spec: of this engine and of the text layer."""
    engines = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted([*(engines / "cuda").rglob("*.py"), *(engines / "ir").glob("*.py"), engines / "order.py"]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def ptx(spec: KernelSpec, capability: tuple[int, int]) -> str:
    """The PTX of a kernel for GPUs of a compute capability: from disk, or compiled now and stored."""
    compiler: Any = import_apart("preimage.engines.cuda.ptx")
    arch = compiler.architecture(capability)
    full = disk_cache.key(kind="ptx", spec=repr(spec), source=source_digest(), arch=arch, tools=compiler.toolchain())
    stored = disk_cache.read(full)
    if stored is not None:
        return stored.decode()
    made: str = compiler.compile_ptx(spec, arch)
    disk_cache.write(full, made.encode())
    return made

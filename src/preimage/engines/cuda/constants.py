"""Tables and small arrays that lie on a device while they are of use: uploaded once, the least recently used freed first."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from preimage.engines.base import Array
from preimage.engines.cuda.device import Device, Memory
from preimage.locks import LOCK
from preimage.resources import register_keeper

__all__ = ["Constants"]


class Constants:
    """Of one device."""

    MOST_BYTES = 64 << 20

    def __init__(self, device: Device) -> None:
        self._device = device
        self._held: OrderedDict[tuple[str, bytes], Memory] = OrderedDict()
        self._bytes = 0
        register_keeper(self)

    def place(self, array: Array) -> Memory:
        """Memory with the contents of an array; keep it while a kernel that reads it may run."""
        array = np.ascontiguousarray(array)
        key = (array.dtype.str, array.tobytes())
        with LOCK:
            found = self._held.get(key)
            if found is None:
                found = self._device.allocate(array.nbytes)
                if array.nbytes:
                    self._device.upload(found.address, array)
                self._held[key] = found
                self._bytes += array.nbytes
            self._held.move_to_end(key)
            while self._bytes > self.MOST_BYTES and len(self._held) > 1:
                (_, contents), _ = self._held.popitem(last=False)
                self._bytes -= len(contents)
        return found

    def clear(self) -> int:
        """Forget all; how many bytes of the host that gives back."""
        with LOCK:
            held, self._bytes = self._bytes, 0
            self._held.clear()
        return held

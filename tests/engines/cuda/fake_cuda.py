"""A double of NVIDIA's driver, called through the C calling convention: ctypes callbacks with the types of cuda.h, written here a second time.

    fake = FakeCuda()
    gpu = Gpu(0, library=fake)

Its device memory is the host's, so that a simulated kernel can work on it: `fake.run` is called for each launch. It records calls, gives
a result code at the n-th call of a function (`fail`), has a kernel fail later (`fault`), checks addresses, handles and contexts, and
counts what lives.
"""

# ruff: noqa: N802 - the driver's own names

from __future__ import annotations

import ctypes
import itertools
import threading
from collections import Counter

_LETTERS = {
    "I": ctypes.c_uint,
    "i": ctypes.c_int,
    "P": ctypes.c_void_p,
    "Z": ctypes.c_size_t,
    "Q": ctypes.c_uint64,
    "B": ctypes.c_ubyte,
}
#: The C types of the arguments: P is any pointer or handle.
SIGNATURES = {
    "cuInit": "I", "cuDriverGetVersion": "P", "cuDeviceGetCount": "P", "cuDeviceGet": "Pi", "cuDeviceGetName": "Pii",
    "cuDeviceGetAttribute": "Pii", "cuDeviceTotalMem_v2": "Pi", "cuDevicePrimaryCtxRetain": "Pi", "cuDevicePrimaryCtxRelease_v2": "i",
    "cuCtxGetCurrent": "P", "cuCtxPushCurrent_v2": "P", "cuCtxPopCurrent_v2": "P", "cuCtxSynchronize": "",
    "cuModuleLoadDataEx": "PPIPP", "cuModuleGetFunction": "PPP", "cuModuleUnload": "P", "cuFuncGetAttribute": "PiP",
    "cuFuncSetAttribute": "Pii", "cuLaunchKernel": "PIIIIIIIPPP", "cuMemGetInfo_v2": "PP", "cuMemAlloc_v2": "PZ", "cuMemFree_v2": "Q",
    "cuMemcpyHtoDAsync_v2": "QPZP", "cuMemcpyDtoHAsync_v2": "PQZP", "cuMemcpyDtoDAsync_v2": "QQZP", "cuMemsetD8Async": "QBZP",
    "cuStreamSynchronize": "P", "cuStreamWaitEvent": "PPI", "cuEventCreate": "PI", "cuEventDestroy_v2": "P", "cuEventRecord": "PP",
    "cuEventElapsedTime": "PPP", "cuPointerGetAttribute": "PiQ",
}  # fmt: skip
_WITHOUT_CONTEXT = {name for name in SIGNATURES if name.startswith(("cuInit", "cuDriver", "cuDevice", "cuCtxGet", "cuCtxP"))}
OUT_OF_MEMORY, INVALID_VALUE, INVALID_CONTEXT, INVALID_HANDLE, INVALID_PTX, ILLEGAL_ADDRESS = 2, 1, 201, 400, 218, 700
#: After these a context is of no use any more.
STICKY = {214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721}
ATTRIBUTES = {
    75: 9,
    76: 0,
    16: 132,
    97: 232448,
    81: 233472,
    82: 65536,
    13: 1980000,
    38: 50 << 20,
    36: 2619000,
    37: 5120,
    39: 2048,
}


def _put(address, kind, value):
    kind.from_address(address).value = value


def _wide(values):
    return [v or 0 for v in values]


class FakeCuda:
    """See the module's text. devices, version, attributes: what the double says of itself; memory: bytes of its device."""

    def __init__(self, devices=1, version=12040, memory=1 << 30, attributes=(), without=()):
        self.devices, self.version, self.memory = devices, version, memory
        self.attributes = ATTRIBUTES | dict(attributes)
        self.calls: list[tuple] = []
        self.seen = Counter()
        self.launches: list[dict] = []
        self.retained = Counter()
        self.allocated: dict[int, tuple] = {}
        self.modules: dict[int, str] = {}
        self.events: dict[int, int] = {}
        self.run = None  # called with (ptx, grid, threads, parameters as words, shared bytes)
        self.local_bytes = 0
        self.parameters = 16  # words of a kernel that are read, unless `count` of a text says otherwise
        self._failures: dict[str, dict[int, int]] = {}
        self._fault = 0
        self._stuck = 0
        self._stacks = threading.local()
        self._handles = itertools.count(0x1000, 16)
        self._functions = {}
        for name, letters in SIGNATURES.items():
            if name not in without:
                kind = ctypes.CFUNCTYPE(ctypes.c_int, *[_LETTERS[k] for k in letters])
                self._functions[name] = kind(self._called(name))

    def __getattr__(self, name):
        try:
            return self.__dict__["_functions"][name]
        except KeyError:
            raise AttributeError(name) from None

    def fail(self, name, n, code):
        """The n-th call of a function from now on (the first is 1) gives this code."""
        self._failures.setdefault(name, {})[self.seen[name] + n] = code

    def fault(self, code):
        """The next launch fails with this code when somebody waits for it; so does everything after."""
        self._fault = code

    def again(self):
        """As new: nothing fails, nothing was counted."""
        self._failures.clear()
        self.seen.clear()
        self.calls.clear()
        self.launches.clear()
        self._fault = self._stuck = 0
        self.retained.clear()
        for held in (self.allocated, self.modules, self.events, self.stack()):
            held.clear()

    @property
    def alive(self):
        """What lives on the device: nothing, once all is given back."""
        return {
            "contexts": sum(self.retained.values()),
            "memory": len(self.allocated),
            "modules": len(self.modules),
            "events": len(self.events),
        }

    @property
    def used(self):
        return sum(size for _, size in self.allocated.values())

    def stack(self):
        """The contexts of this thread, the current one last."""
        if not hasattr(self._stacks, "value"):
            self._stacks.value = []
        return self._stacks.value

    def _called(self, name):
        method = getattr(self, f"_{name}")

        def call(*arguments):
            arguments = _wide(arguments)
            self.calls.append((name, *arguments))
            self.seen[name] += 1
            code = self._failures.get(name, {}).get(self.seen[name], 0)
            if code in STICKY:
                self._stuck = code
            if code:
                return code
            if name not in _WITHOUT_CONTEXT:
                if not self.stack():
                    return INVALID_CONTEXT
                if self._stuck:
                    return self._stuck
            try:
                return method(*arguments) or 0
            except Exception as error:  # a callback's exception would be printed and lost
                self.calls.append(("raised", repr(error)))
                return 999

        return call

    # ---- devices and contexts

    def _cuInit(self, flags):
        return 0 if self.devices else 100

    def _cuDriverGetVersion(self, to):
        _put(to, ctypes.c_int, self.version)

    def _cuDeviceGetCount(self, to):
        _put(to, ctypes.c_int, self.devices)

    def _cuDeviceGet(self, to, ordinal):
        _put(to, ctypes.c_int, 70 + ordinal)

    def _cuDeviceGetName(self, to, size, device):
        text = f"Fake GPU {device - 70}".encode() + b"\0"
        assert len(text) <= size
        ctypes.memmove(to, text, len(text))

    def _cuDeviceGetAttribute(self, to, number, device):
        if number not in self.attributes:
            return INVALID_VALUE
        _put(to, ctypes.c_int, self.attributes[number])
        return 0

    def _cuDeviceTotalMem_v2(self, to, device):
        _put(to, ctypes.c_size_t, self.memory)

    def _cuDevicePrimaryCtxRetain(self, to, device):
        self.retained[device] += 1
        _put(to, ctypes.c_void_p, 0xC0 + device)

    def _cuDevicePrimaryCtxRelease_v2(self, device):
        self.retained[device] -= 1

    def _cuCtxGetCurrent(self, to):
        _put(to, ctypes.c_void_p, self.stack()[-1] if self.stack() else 0)

    def _cuCtxPushCurrent_v2(self, context):
        self.stack().append(context)

    def _cuCtxPopCurrent_v2(self, to):
        _put(to, ctypes.c_void_p, self.stack().pop())

    def _settle(self):
        if self._fault and self.launches:
            self._stuck, self._fault = self._fault, 0
        return self._stuck

    def _cuCtxSynchronize(self):
        return self._settle()

    # ---- modules and launches

    def _cuModuleLoadDataEx(self, to, text, count, options, values):
        text = ctypes.string_at(text)
        assert count == 2
        assert list((ctypes.c_int * 2).from_address(options)) == [5, 6]
        log, room = (ctypes.c_void_p * 2).from_address(values)
        if b".entry" not in text:
            words = b"ptxas fatal: no .entry in the text\0"
            assert len(words) <= room
            ctypes.memmove(log, words, len(words))
            return INVALID_PTX
        handle = next(self._handles)
        self.modules[handle] = text.decode()
        _put(to, ctypes.c_void_p, handle)
        return 0

    def _cuModuleGetFunction(self, to, module, symbol):
        if module not in self.modules:
            return INVALID_HANDLE
        if b".entry " + ctypes.string_at(symbol) not in self.modules[module].encode():
            return 500
        _put(to, ctypes.c_void_p, module + 1)
        return 0

    def _cuModuleUnload(self, module):
        return 0 if self.modules.pop(module, None) is not None else INVALID_HANDLE

    def _cuFuncGetAttribute(self, to, number, function):
        if function - 1 not in self.modules:
            return INVALID_HANDLE
        _put(to, ctypes.c_int, {4: 96, 3: self.local_bytes}[number])
        return 0

    def _cuFuncSetAttribute(self, function, number, value):
        return 0 if function - 1 in self.modules and number == 8 and value <= self.attributes[97] else INVALID_VALUE

    def _cuLaunchKernel(self, function, x, y, z, tx, ty, tz, shared, stream, parameters, extra):
        if function - 1 not in self.modules:
            return INVALID_HANDLE
        if not (x and y and z and 0 < tx * ty * tz <= 1024) or extra or y > 65535 or z > 65535:
            return INVALID_VALUE
        text = self.modules[function - 1]
        count = text.count(".param .u64") + text.count(".param .b64") or 0
        words = []
        for k in range(count):
            cell = ctypes.c_void_p.from_address(parameters + 8 * k).value
            words.append(ctypes.c_uint64.from_address(cell).value)
        self.launches.append({"grid": (x, y, z), "threads": tx, "shared": shared, "stream": stream, "words": words})
        if self.run is not None and not self._fault:
            self.run(text, (x, y, z), tx, words, shared)
        return 0

    # ---- memory

    def _cuMemGetInfo_v2(self, free, total):
        _put(free, ctypes.c_size_t, self.memory - self.used)
        _put(total, ctypes.c_size_t, self.memory)

    def _cuMemAlloc_v2(self, to, size):
        if not size:
            return INVALID_VALUE
        if self.used + size > self.memory:
            return OUT_OF_MEMORY
        held = ctypes.create_string_buffer(size + 255)
        address = -(-ctypes.addressof(held) // 256) * 256
        ctypes.memset(address, 0xFF, size)  # NaN, until it is written
        self.allocated[address] = (held, size)
        _put(to, ctypes.c_uint64, address)
        return 0

    def _cuMemFree_v2(self, address):
        return 0 if self.allocated.pop(address, None) is not None else INVALID_VALUE

    def _inside(self, address, size):
        return any(at <= address and address + size <= at + n for at, (_, n) in self.allocated.items())

    def _cuMemcpyHtoDAsync_v2(self, to, source, size, stream):
        if not self._inside(to, size):
            return INVALID_VALUE
        ctypes.memmove(to, source, size)
        return 0

    def _cuMemcpyDtoHAsync_v2(self, to, source, size, stream):
        if not self._inside(source, size):
            return INVALID_VALUE
        ctypes.memmove(to, source, size)
        return self._settle()

    def _cuMemcpyDtoDAsync_v2(self, to, source, size, stream):
        if not (self._inside(source, size) and self._inside(to, size)):
            return INVALID_VALUE
        ctypes.memmove(to, source, size)
        return 0

    def _cuMemsetD8Async(self, to, byte, size, stream):
        if not self._inside(to, size):
            return INVALID_VALUE
        ctypes.memset(to, byte, size)
        return 0

    def _cuPointerGetAttribute(self, to, number, address):
        if number != 9 or not self._inside(address, 1):
            return INVALID_VALUE
        _put(to, ctypes.c_int, 0)
        return 0

    # ---- streams and events

    def _cuStreamSynchronize(self, stream):
        return self._settle()

    def _cuStreamWaitEvent(self, stream, event, flags):
        return 0 if event in self.events else INVALID_HANDLE

    def _cuEventCreate(self, to, flags):
        handle = next(self._handles)
        self.events[handle] = 0
        _put(to, ctypes.c_void_p, handle)

    def _cuEventDestroy_v2(self, event):
        return 0 if self.events.pop(event, None) is not None else INVALID_HANDLE

    def _cuEventRecord(self, event, stream):
        if event not in self.events:
            return INVALID_HANDLE
        self.events[event] = len(self.launches)
        return 0

    def _cuEventElapsedTime(self, to, begin, end):
        if begin not in self.events or end not in self.events:
            return INVALID_HANDLE
        _put(to, ctypes.c_float, 0.25 * (self.events[end] - self.events[begin]))
        return 0

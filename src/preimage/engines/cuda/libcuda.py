"""The functions of NVIDIA's driver that `driver.py` calls, with their C types, and what its result codes mean in our words.

Source: NVIDIA, CUDA Driver API; types and numbers as in cuda.h.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable, Mapping
from ctypes import POINTER, c_char_p, c_float, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p
from typing import Any

from preimage.errors import EngineError, OutOfMemoryError, PreimageError

__all__ = ["LOST", "OUT_OF_MEMORY", "bind", "driver_error", "open_library", "too_old"]

_P = c_void_p
_PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (_P, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDeviceTotalMem_v2": (POINTER(c_size_t), c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(_P), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxGetCurrent": (POINTER(_P),),
    "cuCtxPushCurrent_v2": (_P,),
    "cuCtxPopCurrent_v2": (POINTER(_P),),
    "cuCtxSynchronize": (),
    "cuModuleLoadDataEx": (POINTER(_P), c_char_p, c_uint, _P, _P),
    "cuModuleGetFunction": (POINTER(_P), _P, c_char_p),
    "cuModuleUnload": (_P,),
    "cuFuncGetAttribute": (POINTER(c_int), c_int, _P),
    "cuFuncSetAttribute": (_P, c_int, c_int),
    "cuLaunchKernel": (_P, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, _P, _P, _P),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, _P, c_size_t, _P),
    "cuMemcpyDtoHAsync_v2": (_P, c_uint64, c_size_t, _P),
    "cuMemcpyDtoDAsync_v2": (c_uint64, c_uint64, c_size_t, _P),
    "cuMemsetD8Async": (c_uint64, c_ubyte, c_size_t, _P),
    "cuStreamSynchronize": (_P,),
    "cuStreamWaitEvent": (_P, _P, c_uint),
    "cuEventCreate": (POINTER(_P), c_uint),
    "cuEventDestroy_v2": (_P,),
    "cuEventRecord": (_P, _P),
    "cuEventElapsedTime": (POINTER(c_float), _P, _P),
    "cuPointerGetAttribute": (_P, c_int, c_uint64),
}

OUT_OF_MEMORY = 2
_NO_DEVICE = 100
_ILLEGAL_ADDRESS = 700

#: After these the driver refuses every later call of this process on the device.
_FAULTS = {
    214: "its memory had an error that could not be corrected (ECC); if it happens again the card is broken",
    220: "a link between GPUs had an error that could not be corrected",
    226: "an error of the hardware was contained",
    700: "a kernel read or wrote outside its arrays",
    702: "a kernel ran longer than the system allows; a GPU that also drives a display has such a limit",
    709: "its context was destroyed by another library of this process (cudaDeviceReset does so)",
    710: "a kernel's assertion failed",
    714: "a kernel's stack was damaged",
    715: "a kernel had an instruction that the GPU does not know",
    716: "a kernel used an address that is not aligned",
    717: "a kernel used an address of the wrong kind of memory",
    718: "a kernel jumped to no instruction",
    719: "a kernel failed",
    721: "a kernel did not give back tensor memory",
}
LOST = frozenset(_FAULTS)

_OURS = "which is a fault of preimage: please report it"
_REASONS = {
    1: f"an argument is refused, {_OURS}",
    3: "the driver is not initialised in this process; a child made by fork cannot use CUDA, one made by spawn can",
    4: "the driver is shutting down with the process",
    34: "the library that was found is a stub for linking, not a driver; LD_LIBRARY_PATH names a folder of CUDA's stubs",
    46: "another process has the GPU for itself (exclusive compute mode), or it is not available",
    101: "there is no such device",
    102: "the device is not licensed for compute",
    200: "the kernel's code is not valid",
    201: "the context is not valid: another library of this process destroyed it",
    209: "the driver has no compiler for this GPU",
    218: "the kernel's PTX is not valid",
    221: "the driver's PTX compiler is missing: libnvidia-ptxjitcompiler, a part of the driver, is not installed",
    222: "the driver is too old for the kernel's version of PTX; update it",
    223: "compiling PTX is switched off (CUDA_DISABLE_PTX_JIT)",
    304: "the operating system refused a call",
    400: f"a handle is not valid, {_OURS}",
    500: f"something asked for by name is not there, {_OURS}",
    701: "the kernel asks for more registers or shared memory than the GPU has",
    800: "the operation is not permitted",
    801: "the operation is not supported on this system",
    802: "the system is not ready: on machines with NVSwitch, nvidia-fabricmanager must run",
    803: "the driver's library and its kernel module are of different versions; after an update the machine must be restarted",
    804: "the GPU does not run with a compatibility package of CUDA; install a newer driver",
    805: "the MPS server cannot be reached",
    807: "the MPS server is not ready",
    808: "the MPS server has too many clients",
    900: "a stream is being captured into a graph, where this operation is not allowed; make the call once before the capture",
    901: "a stream's capture into a graph has failed",
    906: "a stream is being captured into a graph, and the default stream may not be used meanwhile",
    908: "a stream is being captured into a graph by another thread",
}


@functools.cache
def open_library() -> Any:
    """The driver's library. Raises: EngineError where there is none."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise EngineError(f"NVIDIA's driver is not installed: {name} cannot be loaded ({error})") from None


def bind(library: Any) -> Mapping[str, Callable[..., int]]:
    """The functions of a library by name, with their types. Raises: EngineError where one is missing."""
    found: dict[str, Callable[..., int]] = {}
    for name, arguments in _PROTOTYPES.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise EngineError(too_old(f"it has no function {name}")) from None
        function.argtypes, function.restype = arguments, c_int
        found[name] = function
    return found


def too_old(why: str) -> str:
    """The words for a driver that cannot be used at all."""
    return f"NVIDIA's driver is too old: {why}; version 520 (CUDA 11.8) or newer is needed"


def hidden_devices() -> str:
    """What CUDA_VISIBLE_DEVICES says, where it does."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f"; CUDA_VISIBLE_DEVICES is {visible!r}"


def driver_error(where: str, call: str, code: int, note: str = "") -> PreimageError:
    """The error for a result code. where: the device; call: the function of the driver; note: more words."""
    end = f" [{call.removesuffix('_v2')}: {code}]"
    if code == OUT_OF_MEMORY:
        wanted = note or "the driver found none for itself"
        return OutOfMemoryError(
            f"{where} has not enough memory: {wanted}. Other libraries of this process may keep some (CuPy:"
            f" get_default_memory_pool().free_all_blocks(), torch: torch.cuda.empty_cache()){end}"
        )
    if code == _NO_DEVICE:
        return EngineError(f"the driver sees no NVIDIA GPU{hidden_devices()}{end}")
    if code in LOST:
        more = "; compute-sanitizer finds the place" if code == _ILLEGAL_ADDRESS else ""
        return EngineError(
            f"{where} is lost to this process: {_FAULTS[code]}{more}. No later call can use it: start the process again{end}"
        )
    return EngineError(f"{where}: {_REASONS.get(code, 'the driver failed')}{'; ' + note if note else ''}{end}")

"""Object code linked without LLVM: the same functions, the pages' rights, and files that it leaves to LLVM's linker."""

from __future__ import annotations

import ctypes
import gc
import json
import re

import numpy as np
import pytest

from preimage.engines import disk_cache
from preimage.engines.jit.compiler import kernels, object_loader, remembered, toolchain
from preimage.engines.jit.runtime import pool

if kernels.unavailable() or not object_loader.supported():
    pytest.skip("object files are read on Linux and x86-64 alone", allow_module_level=True)

# A constant beside the code, a function outside, and a second function.
TEXT = """
declare i32 @memcmp(ptr, ptr, i64)

define void @kernel(ptr %args, i64 %task) {
  %p = load ptr, ptr %args
  %q = getelementptr double, ptr %p, i64 1
  %same = call i32 @memcmp(ptr %p, ptr %q, i64 8)
  %equal = icmp eq i32 %same, 0
  %x = load double, ptr %p
  %y = fmul double %x, 1.25
  %z = select i1 %equal, double %y, double -3.5
  %r = getelementptr double, ptr %p, i64 2
  store double %z, ptr %r
  ret void
}

define i64 @second() {
  ret i64 77
}
"""


@pytest.fixture(scope="module")
def code():
    return kernels.object_code(TEXT)


def test_functions_constants_and_calls_outside(code):
    pages = object_loader.load(code, ("kernel", "second"))
    assert ctypes.CFUNCTYPE(ctypes.c_int64)(pages.addresses["second"])() == 77
    for first, second, wanted in ((2.0, 2.0, 2.5), (2.0, 3.0, -3.5)):
        x = np.array([first, second, 0.0])
        pool.launch(toolchain.LoadedKernel(pages.addresses["kernel"], pages, 0), pool.pack_args(x.ctypes.data), 1, 1)
        assert x[2] == wanted


def test_code_cannot_be_written_and_goes_with_its_pages(code):
    pages = object_loader.load(code, ("kernel",))
    address = pages.addresses["kernel"]
    assert rights(address) == "r-xp"
    del pages
    gc.collect()
    assert rights(address) != "r-xp"


def rights(address):
    """What may be done with the page at an address."""
    with open("/proc/self/maps") as file:
        for line in file:
            begin, end = (int(word, 16) for word in line.split()[0].split("-"))
            if begin <= address < end:
                return line.split()[1]
    return None


def test_what_it_does_not_read_llvm_links(code):
    with_variable = kernels.object_code("@x = global i64 5\ndefine i64 @kernel() {\n  %v = load i64, ptr @x\n  ret i64 %v\n}\n")
    assert object_loader.load(with_variable, ("kernel",)) is None  # memory to write to
    linked = kernels.load_object(with_variable)["kernel"]
    assert ctypes.CFUNCTYPE(ctypes.c_int64)(int(linked))() == 5
    unknown = kernels.object_code(
        "declare void @nobody_has_this()\ndefine void @kernel() {\n  call void @nobody_has_this()\n  ret void\n}\n"
    )
    assert object_loader.load(unknown, ("kernel",)) is None
    assert object_loader.load(code, ("not there",)) is None
    assert object_loader.load(code[:18] + b"\xb7\0" + code[20:], ("kernel",)) is None  # another machine


def test_damaged_files_never_reach_beyond_themselves(code):
    """Every byte of the headers and tables changed, and every length: refused, or linked to something within its own pages."""
    rng = np.random.default_rng(0)
    for k in range(240):
        if k % 3:
            damaged = bytearray(code)
            for at in rng.integers(0, len(code), 3):
                damaged[at] = rng.integers(0, 256)
        else:
            damaged = code[: rng.integers(0, len(code))]
        pages = object_loader.load(bytes(damaged), ("kernel",))
        if pages is not None:
            assert rights(pages.addresses["kernel"]) == "r-xp"


def test_what_llvm_says_of_the_cpu_is_asked_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", str(tmp_path))
    asked = []

    def ask():
        asked.append(1)
        return {"cpu": "c", "triple": "t", "features": "+fma", "tools": "llvm"}

    def answer():
        found = remembered.answer(ask)
        remembered.keep()
        return found

    assert remembered.answer(ask) == answer()
    assert len(asked) == 2  # nothing is written before there is a kernel
    assert answer() == answer()
    assert len(asked) == 2
    (file,) = tmp_path.glob("*.obj")
    key = remembered.circumstances()
    assert re.search("flags", json.loads(key)["cpu"])
    for damaged in (b"no json", b"[]", b'{"cpu": 1}'):
        assert disk_cache.write(key, damaged)
        assert answer()["cpu"] == "c"
    file.write_bytes(file.read_bytes()[:-1])  # cut off
    assert answer()["cpu"] == "c"
    assert len(asked) == 6
    monkeypatch.setattr(remembered, "circumstances", lambda: None)
    answer()
    assert len(asked) == 7


def test_what_llvm_says_is_what_is_remembered():
    assert toolchain._answer() == toolchain._asked()

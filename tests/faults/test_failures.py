"""The n-th allocation, thread start, compilation, link, write or rename fails, for every n until a call meets none.

The call itself is right or raises one of our errors or MemoryError; the next one is right, bit for bit, and nothing is left behind.
"""

from __future__ import annotations

import _thread
import errno
import os
import subprocess
import sys
from typing import Any

import calls
import numpy as np
import pytest
from harness import Door, allocator, collected, every, failing, forget, forget_pool

import preimage as pre
from preimage.engines import disk_cache, get
from preimage.engines.jit.compiler import toolchain
from preimage.engines.jit.runtime import pool

OURS = (MemoryError, pre.PreimageError)


@pytest.fixture
def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", "off")


@pytest.fixture
def disk(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lasting", [False, True], ids=["one", "all later"])
@pytest.mark.parametrize("name", calls.CALLS)
def test_the_nth_allocation_of_a_warm_call(name, lasting):
    call, faults = calls.CALLS[name].use(), allocator()
    wanted = [call() for _ in range(3)][-1]
    engine: Any = get("jit")
    live: dict[int, int] = {}

    def run() -> None:
        assert call() == wanted

    def anew(n: int) -> Any:
        assert call() == wanted
        if n == 2:
            live[n] = collected()
        engine._scratch.clear()
        return faults.failing(n, lasting)

    assert every(anew, run, (MemoryError,)) >= 2
    run()
    assert collected() <= live[2] + 2  # no failure holds on to memory


@pytest.mark.parametrize("name", ["conv by 2 threads", "conv_transpose", "conv_weight_grad by 2 threads", "gradients"])
def test_the_nth_allocation_of_a_first_call(name, disk):
    """Plans and tables are being made; kernels come from disk."""
    call, faults = calls.CALLS[name].use(), allocator()
    wanted = call()

    def anew(n: int) -> Any:
        assert call() == wanted
        forget()
        return faults.failing(1 + (n - 1) * 13)

    def run() -> None:
        assert call() == wanted

    assert every(anew, run, (MemoryError,)) >= 5


def test_memory_that_is_only_kept_is_given_back_before_a_call_fails(monkeypatch):
    from preimage.engines import buffers
    from preimage.engines.spare import Spare

    spare = Spare(1 << 40)
    monkeypatch.setattr(buffers, "_spare", spare)
    call = calls.CALLS["conv"].use()
    wanted = call()
    large = buffers.aligned_empty((buffers.LARGE_BYTES,), np.dtype("u1"))
    del large
    assert spare.bytes > 0
    with allocator().failing(1) as door:
        assert call() == wanted  # tried again
    assert door.met
    assert spare.bytes == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of address space are Linux's")
@pytest.mark.parametrize("state", ["cold", "engine", "warm"])
def test_no_amount_of_memory_ends_the_process(state):
    """LLVM ends the process when it finds no memory; so does a thread that finds none for what is its own. In children, whose
    address space may grow by so many MiB."""
    code = f"""
import os, resource, signal
os.environ["PREIMAGE_CACHE_DIR"] = "off"
import numpy as np, preimage as pre
pre.config.set(threads=2)
x, w = np.ones((1, 64, 30, 30), "f4"), np.ones((64, 64, 3, 3), "f4")
if {state!r} == "engine":
    pre.engines()
if {state!r} == "warm":
    pre.conv(x[:, :32], w[:, :32])
steps = (1, 6, 20, 60, 120, 200, 230, 245, 260, 300) if {state!r} == "cold" else (0, 1, 2, 4, 7, 12, 20, 30, 50, 70, 140)
for mib in steps:
    child = os.fork()
    if not child:
        signal.alarm(60)
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (mib << 20),) * 2)
        try:
            os._exit(0 if (pre.conv(x, w) == 576).all() else 3)
        except MemoryError:
            os._exit(1)
        except BaseException:
            os._exit(4)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), end=" ")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert set(run.stdout.split()) <= {"0", "1"}, run.stdout + run.stderr
    assert "1" in run.stdout


# -- threads -----------------------------------------------------------------------------------------------------------


def test_the_nth_worker_cannot_be_started():
    call = calls.CALLS["conv by 2 threads"].use()
    pre.config.set(threads=5)
    wanted = call()

    def anew(n: int) -> Any:
        forget_pool()
        return failing(pool._loaded_code(), "add_worker", n, gives=errno.EAGAIN)

    def run() -> None:
        for _ in range(3):
            assert call() == wanted

    assert every(anew, run, ()) == 4
    forget_pool()
    with failing(pool._loaded_code(), "add_worker", 1, gives=errno.EAGAIN, lasting=True):
        run()
        assert pool.pool_size() == 0
    for _ in range(pool.PATIENCE + 1):
        assert call() == wanted
    assert pool.pool_size() == 4  # the system is asked again, now and then


@pytest.mark.parametrize("how", ["refused", "no memory", "never begins"])
def test_the_nth_helper_of_the_compiler_cannot_be_started(how, no_disk):
    call = calls.CALLS["conv by 2 threads"].use()
    wanted = call()
    error = {"refused": RuntimeError("can't start new thread"), "no memory": MemoryError(), "never begins": None}[how]

    def anew(n: int) -> Any:
        forget()
        return failing(_thread, "start_new_thread", n, error, gives=1)

    def run() -> None:
        assert call() == wanted

    assert every(anew, run, ()) >= 1


@pytest.mark.parametrize("how", ["refused", "never begins"])
def test_an_engine_is_imported_where_no_thread_can_be_had(how):
    code = f"""
import _thread
import numpy as np, preimage as pre
from preimage import locks
locks.BEGIN_S = 0.1
def refuse(*_):
    if {how!r} == "refused":
        raise RuntimeError("can't start new thread")
    return 1
_thread.start_new_thread = refuse
pre.config.set(threads=1)
assert (pre.conv(np.ones((1, 2, 5, 5)), np.ones((2, 2, 3, 3))) == 18).all()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# -- the compiler ------------------------------------------------------------------------------------------------------


def kernels_of(call: Any) -> int:
    """How many kernels a call asks for, which depends on the plan and so on the CPU."""
    from preimage.engines.jit.compiler import kernels

    forget()
    call()
    return kernels.loaded_count()


@pytest.mark.parametrize("error", [RuntimeError("LLVM says no"), MemoryError(), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("door", ["object_code", "load_object"])
def test_the_nth_kernel_cannot_be_made(door, error, no_disk):
    call = calls.CALLS["conv by 2 threads"].use()
    wanted, count = call(), kernels_of(call)

    def anew(n: int) -> Any:
        assert call() == wanted
        forget()
        from preimage.engines.jit.compiler import kernels

        return failing(toolchain.Work if door == "object_code" else kernels, door, n, error)

    def run() -> None:
        assert call() == wanted

    assert every(anew, run, (type(error),)) == count >= 2


# -- the disk ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["open", "fdopen", "replace"])
def test_the_nth_step_of_keeping_kernels_fails(door, disk):
    """The call is right all the same, and no part of a file stays. The reasons take turns."""
    codes = (errno.ENOSPC, errno.EACCES, errno.EIO)
    call = calls.CALLS["conv by 2 threads"].use()
    wanted, count = call(), kernels_of(call)

    def anew(n: int) -> Any:
        disk_cache.clear()
        forget()
        code = codes[n % len(codes)]
        return failing(disk_cache.os, door, n, OSError(code, os.strerror(code)))

    def run() -> None:
        assert call() == wanted
        assert not [path for path in disk.iterdir() if path.suffix != ".obj"]
        assert all(disk_cache._unpack(path.read_bytes(), "") is None for path in disk.iterdir())  # readable, and of other keys

    assert every(anew, run, ()) >= count >= 2


def test_a_fault_is_noticed():
    """The harness itself: a door that is met must fail, and one that is not must end the search."""
    uses = []

    class Place:
        @staticmethod
        def step() -> int:
            uses.append(1)
            return 7

    def run() -> None:
        assert Place.step() + Place.step() == 14

    assert every(lambda n: failing(Place, "step", n, MemoryError()), run, (MemoryError,)) == 2
    with pytest.raises(AssertionError):
        every(lambda n: failing(Place, "step", n, gives=8), run, (MemoryError,))
    assert Door(1).fails_now()
    assert allocator().failing is not None
    assert get("jit").name == "jit"

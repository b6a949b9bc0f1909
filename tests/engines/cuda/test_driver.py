"""The driver's calls against a double of libcuda: order, arguments, every failure in our words, nothing left behind."""

from __future__ import annotations

import gc
import os
import threading
from dataclasses import dataclass

import numpy as np
import pytest
from fake_cuda import SIGNATURES, FakeCuda

from preimage.engines.cuda import driver, libcuda
from preimage.engines.cuda.driver import Gpu
from preimage.errors import EngineError, OutOfMemoryError, PreimageError

PTX = ".version 7.8\n.target sm_90\n.visible .entry kernel(\n.param .u64 a,\n.param .u64 b\n)\n{ ret; }"


@dataclass(frozen=True)
class Spec:
    threads: int = 64
    shared_bytes: int = 1024
    text: str = PTX

    arguments = None

    def ir(self, target):
        raise AssertionError("its PTX is given")


@pytest.fixture(autouse=True)
def _ready_ptx(monkeypatch):
    monkeypatch.setattr(driver.cache, "ptx", lambda spec, arch: spec.text)


def scenario(fake):
    """Everything that a call does, once."""
    gpu = Gpu(0, library=fake)
    try:
        return everything(gpu)
    finally:
        gpu.trim()  # kernels hold the device, and it holds them


def everything(gpu):
    kernel = gpu.load(Spec(shared_bytes=100_000))
    assert gpu.load(Spec(shared_bytes=100_000)) is kernel
    x = np.arange(1000, dtype=np.float32)
    a, b = gpu.allocate(x.nbytes), gpu.allocate(x.nbytes)
    gpu.upload(a.address, x, 7)
    gpu.fill(b.address, x.nbytes, 0, 7)
    gpu.copy(b.address, a.address, 400, 7)
    gpu.launch(kernel, (3, 2, 1), (a.address, -5), 7)
    y = np.empty_like(x)
    gpu.download(y, b.address, 7)
    a.free()
    gpu._thread.stream = 7
    c = gpu.allocate(x.nbytes)  # what was a, waited for on another stream
    gpu.fill(c.address, 4, 0, 9)
    assert gpu.ordinal_of(c.address) == 0
    assert gpu.memory()[1] == 1 << 30
    gpu.times_ms(lambda: gpu.launch(kernel, (1, 1, 1), (0, 0)), 2, 1)
    return y


def settled(fake):
    gc.collect()
    return fake.alive


NOTHING = {"contexts": 0, "memory": 0, "modules": 0, "events": 0}


def test_one_of_everything():
    fake = FakeCuda()
    y = scenario(fake)
    assert y[:100].tolist() == list(range(100))
    assert not y[100:].any()
    launch = fake.launches[0]
    assert launch["grid"] == (3, 2, 1)
    assert (launch["threads"], launch["shared"], launch["stream"]) == (64, 100_000, 7)
    assert launch["words"][1] == 2**64 - 5
    assert settled(fake) == NOTHING
    assert ("raised",) not in [c[:1] for c in fake.calls]
    assert set(SIGNATURES) == set(fake.seen) == set(libcuda._PROTOTYPES)


def test_properties_are_the_devices():
    gpu = Gpu(1, library=FakeCuda(devices=2))
    known = gpu.properties
    assert (known.name, known.arch, known.multiprocessors) == ("Fake GPU 1", "sm_90", 132)
    assert (known.block_shared_bytes, known.multiprocessor_shared_bytes, known.memory_bytes) == (232448, 233472, 1 << 30)
    assert str(gpu) == "Fake GPU 1, sm_90, driver for CUDA 12.4"


@pytest.mark.parametrize("code", [2, 719, 999])
@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_every_failure_of_every_call_is_ours(name, code):
    """The n-th call of the function fails, for every n: an error of ours or a whole result, and nothing stays behind."""
    fake = FakeCuda()
    scenario(fake)
    counted, raised = fake.seen[name], 0
    for n in range(1, counted + 1):
        fake.again()
        fake.fail(name, n, code)
        raised += failed_as_it_should(fake, name, code)
        left = fake.alive
        if code == 719:
            continue  # the device is lost with all that it held
        if name in RELEASES or name in CONTEXTS:
            assert sum(left.values()) <= 1, (n, left)  # what the driver did not take back is its own
        else:
            assert left == NOTHING, (n, left)
        assert len(fake.stack()) <= (name in CONTEXTS)
    assert raised > 0 or name in RELEASES


RELEASES = {"cuMemFree_v2", "cuModuleUnload", "cuEventDestroy_v2", "cuDevicePrimaryCtxRelease_v2", "cuCtxSynchronize"}
CONTEXTS = {"cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2", "cuCtxGetCurrent"}


def failed_as_it_should(fake, name, code):
    """Whether the scenario failed; that it did so in our words."""
    try:
        scenario(fake)
    except PreimageError as error:
        kind, said = type(error), str(error)
    else:
        return False
    assert kind is (OutOfMemoryError if code == 2 else EngineError), said
    assert f"{name.removesuffix('_v2')}: {code}]" in said or (code == 2 and name in CONTEXTS and "cuMemAlloc: 2]" in said)
    assert "GPU 0" in said
    assert code != 719 or "start the process again" in said
    return True


def test_a_fresh_device_works_after_any_failure():
    fake = FakeCuda()
    for name in ("cuMemAlloc_v2", "cuModuleLoadDataEx", "cuLaunchKernel", "cuMemcpyHtoDAsync_v2"):
        fake.fail(name, 1, 999)
        with pytest.raises(EngineError, match="the driver failed"):
            scenario(fake)
        fake.calls.clear()
        assert scenario(fake)[99] == 99


# ---- no device, too old a driver


def test_no_driver(monkeypatch):
    libcuda.open_library.cache_clear()
    monkeypatch.setattr(libcuda.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError("no such file")))
    with pytest.raises(EngineError, match=r"NVIDIA's driver is not installed: libcuda\.so\.1 cannot be loaded"):
        Gpu(0)
    libcuda.open_library.cache_clear()


def test_no_device(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(EngineError, match="sees no NVIDIA GPU; CUDA_VISIBLE_DEVICES is ''"):
        Gpu(0, library=FakeCuda(devices=0))
    with pytest.raises(EngineError, match="there is no GPU 3: the driver sees 2; CUDA_VISIBLE_DEVICES is ''"):
        Gpu(3, library=FakeCuda(devices=2))


def test_too_old_a_driver():
    with pytest.raises(EngineError, match=r"too old: it knows CUDA 11\.4; version 520"):
        Gpu(0, library=FakeCuda(version=11040))
    with pytest.raises(EngineError, match="too old: it has no function cuStreamWaitEvent"):
        Gpu(0, library=FakeCuda(without=("cuStreamWaitEvent",)))


# ---- kernels


def test_the_compilers_words_are_in_the_error():
    gpu = Gpu(0, library=FakeCuda())
    with pytest.raises(EngineError, match=r"PTX is not valid.*the compiler says: ptxas fatal: no \.entry"):
        gpu.load(Spec(text=".version 7.8"))
    with pytest.raises(EngineError, match="asked for by name is not there"):
        gpu.load(Spec(text=PTX.replace("kernel", "other")))


def test_too_much_shared_memory_is_refused():
    fake = FakeCuda()
    gpu = Gpu(0, library=fake)
    with pytest.raises(EngineError, match="an argument is refused"):
        gpu.load(Spec(shared_bytes=1 << 20))
    assert settled(fake)["modules"] == 0


def test_a_kernel_that_fails_loses_the_device():
    fake = FakeCuda()
    gpu = Gpu(0, library=fake)
    kernel = gpu.load(Spec())
    fake.fault(700)
    gpu.launch(kernel, (1, 1, 1), (0, 0))
    with pytest.raises(
        EngineError, match=r"GPU 0 \(Fake GPU 0\) is lost to this process: a kernel read or wrote outside its arrays"
    ):
        gpu.synchronise()
    before = len(fake.calls)
    with pytest.raises(EngineError, match="is lost to this process"):
        gpu.allocate(10)
    assert len(fake.calls) == before  # the driver is not asked again


@pytest.mark.parametrize("grid", [(1, 65536, 1), (1, 1, 65536), (1 << 31, 1, 1), (1, -1, 1)])
def test_a_grid_that_cannot_be(grid):
    gpu = Gpu(0, library=FakeCuda())
    with pytest.raises(EngineError, match="blocks cannot be launched"):
        gpu.launch(gpu.load(Spec()), grid, (0, 0))


def test_kernels_in_memory_are_bounded():
    fake = FakeCuda()
    gpu = Gpu(0, library=fake)
    gpu._kernels._most = 8
    for k in range(100):
        gpu.load(Spec(threads=k + 1))
    assert len(fake.modules) == 8
    gpu.trim()
    assert settled(fake)["modules"] == 0


# ---- memory


def test_out_of_memory_says_how_much_there_is():
    gpu = Gpu(0, library=FakeCuda(memory=1 << 20))
    held = gpu.allocate(1 << 19)
    with pytest.raises(OutOfMemoryError, match="1048576 bytes were wanted, 524288 of 1048576 are free") as caught:
        gpu.allocate(1 << 20)
    assert isinstance(caught.value, MemoryError)
    del held
    gpu.allocate(1 << 20)


def test_what_is_kept_goes_before_a_call_fails():
    fake = FakeCuda(memory=1 << 24)
    gpu = Gpu(0, library=fake)
    gpu.allocate(1 << 19).free()
    assert len(fake.allocated) == 1
    whole = gpu.allocate(1 << 24)
    assert len(fake.allocated) == 1
    del whole


def test_freed_memory_is_taken_again_and_bounded():
    fake = FakeCuda(memory=1 << 30)
    gpu = Gpu(0, library=fake)
    first = gpu.allocate(5000)
    address = first.address
    first.free()
    first.free()  # twice is once
    assert gpu.allocate(4700).address == address  # 5,120 bytes both
    for _ in range(3):
        blocks = [gpu.allocate(20 << 20) for _ in range(8)]
        for block in blocks:
            block.free()
    assert fake.used <= (1 << 30) // 16 + 8192


def test_nothing_leaks_over_a_thousand_calls():
    fake = FakeCuda()
    gpu = Gpu(0, library=fake)
    x = np.arange(3000, dtype=np.float32)
    counts = []
    for k in range(1000):
        kernel = gpu.load(Spec(threads=32 + k % 3))
        a, b = gpu.allocate(x.nbytes), gpu.allocate(1 + k)
        gpu.upload(a.address, x)
        gpu.launch(kernel, (1, 1, 1), (a.address, b.address), k % 2)
        gpu.download(x, a.address)
        a.free()
        if k % 5:
            b.free()
        if k % 100 == 99:
            fake.calls.clear()
            counts.append((fake.used, len(fake.modules), len(fake.events)))
    del a, b, kernel
    assert counts[1][1:] == counts[-1][1:] == (3, 0)
    assert counts[-1][0] <= counts[1][0] + 3000
    del gpu
    assert settled(fake) == NOTHING


def test_a_failing_thousand_leaves_nothing():
    fake = FakeCuda()
    for _ in range(200):
        fake.fail("cuLaunchKernel", 1, 701)
        with pytest.raises(EngineError, match="more registers or shared memory"):
            scenario(fake)
        fake.calls.clear()
    assert settled(fake) == NOTHING


def test_copies_outside_an_allocation_are_refused():
    gpu = Gpu(0, library=FakeCuda())
    a = gpu.allocate(512)
    with pytest.raises(EngineError, match="an argument is refused"):
        gpu.upload(a.address, np.zeros(1024, np.float32))


# ---- streams, contexts, threads, processes


def test_memory_from_another_stream_is_waited_for():
    fake = FakeCuda()
    gpu = Gpu(0, library=fake)
    a = gpu.allocate(4096)
    gpu.fill(a.address, 4096, 0, 7)
    a.free()
    fake.calls.clear()
    b = gpu.allocate(4096)
    gpu.fill(b.address, 4096, 0, 9)
    names = [c[0] for c in fake.calls if c[0].startswith(("cuEvent", "cuStream", "cuMemset"))]
    assert names == ["cuEventCreate", "cuEventRecord", "cuStreamWaitEvent", "cuEventDestroy_v2", "cuMemsetD8Async"]
    assert [c[2] for c in fake.calls if c[0] == "cuEventRecord"] == [7]
    assert [c[1] for c in fake.calls if c[0] == "cuStreamWaitEvent"] == [9]
    b.free()
    fake.calls.clear()
    c = gpu.allocate(4096)
    gpu.fill(c.address, 4096, 0, 9)  # the same stream: nothing to wait for
    assert not [c for c in fake.calls if c[0].startswith("cuEvent")]


def test_the_callers_context_stays_current():
    fake = FakeCuda()
    gpu = Gpu(0, library=fake)
    fake.stack().append(0xABC)  # another library's
    a = gpu.allocate(64)
    assert fake.stack() == [0xABC]
    fake.fail("cuMemsetD8Async", 1, 999)
    with pytest.raises(EngineError):
        gpu.fill(a.address, 64)
    assert fake.stack() == [0xABC]
    fake.stack().append(gpu._context)  # ours already: nothing is pushed
    before = fake.seen["cuCtxPushCurrent_v2"]
    gpu.fill(a.address, 64)
    assert fake.seen["cuCtxPushCurrent_v2"] == before
    fake.stack().clear()
    del a


def test_threads_share_a_device():
    fake = FakeCuda()
    gpu = Gpu(0, library=fake)
    found = []

    def work(stream):
        x = np.full(500, stream, np.float32)
        for _ in range(50):
            a = gpu.allocate(x.nbytes)
            gpu.upload(a.address, x, stream)
            y = np.empty_like(x)
            gpu.download(y, a.address, stream)
            found.append(bool((y == stream).all()))
            a.free()

    threads = [threading.Thread(target=work, args=(k,)) for k in (3, 4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == [True] * 100


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_is_told_and_frees_nothing():
    fake = FakeCuda()
    gpu = Gpu(0, library=fake)
    memory = gpu.allocate(64)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        before = len(fake.calls)
        try:
            gpu.allocate(64)
            text = "nothing raised"
        except BaseException as error:
            text = str(error)
        del memory
        os.write(write, f"{text} {len(fake.calls) - before} calls".encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode()
    assert "in use before this process was forked" in said
    assert said.endswith(" 0 calls")

"""The door to LLVM: code runs, keeps its numbers, is cached, is freed; other targets compile."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import preimage as pre

kernels = pytest.importorskip("preimage.engines.jit.compiler.kernels")
if kernels.unavailable():
    pytest.skip(kernels.unavailable(), allow_module_level=True)

from preimage.engines.ir import builder, functions  # noqa: E402
from preimage.engines.jit.compiler import toolchain  # noqa: E402
from preimage.engines.jit.runtime import pool  # noqa: E402
from preimage.errors import EngineError  # noqa: E402
from preimage.geometry import ConvGeometry  # noqa: E402


def adds(value: int) -> str:
    """A kernel that adds `value` to the 64-bit integer at args[0] + 8 * task."""
    return f"""
define void @kernel(ptr %args, i64 %task) {{
  %base = load ptr, ptr %args
  %at = getelementptr i64, ptr %base, i64 %task
  %old = load i64, ptr %at
  %new = add i64 %old, {value}
  store i64 %new, ptr %at
  ret void
}}
"""


def code_pages() -> int | None:
    """How many pages of code the process has mapped, where the system tells."""
    try:
        with open("/proc/self/maps") as file:
            places = [line.split()[0].split("-") for line in file if "x" in line.split()[1]]
    except OSError:
        return None
    return sum(int(end, 16) - int(begin, 16) for begin, end in places) // mmap.PAGESIZE


def call(kernel, array, tasks=1):
    pool.launch(kernel, pool.pack_args(array.ctypes.data), tasks, 1)


def test_text_becomes_a_function_that_runs():
    x = np.zeros(5, np.int64)
    call(kernels.compile_module(adds(3)), x, 5)
    assert x.tolist() == [3] * 5


def test_the_same_text_is_compiled_once():
    assert kernels.compile_module(adds(4)) is kernels.compile_module(adds(4))


def test_hundreds_of_kernels_live_side_by_side_and_are_freed():
    x = np.zeros(1, np.int64)
    code = [kernels.object_code(adds(value)) for value in range(3)]
    before = code_pages()
    loaded = [kernels.load_object(code[n % 3])["kernel"] for n in range(400)]
    assert len({int(k) for k in loaded}) == 400
    for kernel in loaded:
        call(kernel, x)
    assert x[0] == sum(n % 3 for n in range(400))
    if before is not None:
        during = code_pages()
        del kernel, loaded
        gc.collect()
        after = code_pages()
        assert during > before + 200, "the check would not notice"
        assert after < before + 50


def test_a_kernel_dropped_from_memory_stays_loaded_while_it_is_held():
    kernel = kernels.compile_module(adds(11))
    kernels.forget()
    gc.collect()
    x = np.zeros(1, np.int64)
    call(kernel, x)
    assert x[0] == 11
    assert kernels.compile_module(adds(11)) is not kernel


def test_memory_holds_a_bounded_number_of_kernels(monkeypatch):
    monkeypatch.setattr(kernels, "MEMORY_KERNELS", 5)
    for value in range(100, 120):
        kernels.compile_module(adds(value))
    assert kernels.loaded_count() == 5


PRODUCT_AND_SUM = """
define void @kernel(ptr %args, i64 %task) {
  %p = load ptr, ptr %args
  %a = load float, ptr %p
  %p1 = getelementptr float, ptr %p, i64 1
  %b = load float, ptr %p1
  %p2 = getelementptr float, ptr %p, i64 2
  %c = load float, ptr %p2
  %ab = fmul float %a, %b
  %abc = fadd float %ab, %c
  %fused = call float @llvm.fma.f32(float %a, float %b, float %c)
  %p3 = getelementptr float, ptr %p, i64 3
  store float %abc, ptr %p3
  %p4 = getelementptr float, ptr %p, i64 4
  store float %fused, ptr %p4
  ret void
}
declare float @llvm.fma.f32(float, float, float)
"""


@pytest.mark.parametrize("name", ["host", "avx512", "avx2"])
def test_a_product_and_a_sum_are_not_contracted(name):
    target = kernels.named_target(name)
    if not target.runs_here:
        pytest.skip(f"{name} code does not run here")
    a = np.float32(1 + 2**-12)
    x = np.array([a, a, -1, 0, 0], np.float32)
    call(kernels.compile_module(PRODUCT_AND_SUM, target=target), x)
    exact = float(a) * float(a) - 1  # exact in float64
    assert x[3] == np.float32(np.float32(a * a) - np.float32(1))
    assert x[4] == np.float32(exact)
    assert x[3] != x[4], "the numbers chosen must tell the two apart"


def test_denormals_are_kept():
    x = np.array([2**-100, 2**-40, 0, 0, 0], np.float32)
    call(kernels.compile_module(PRODUCT_AND_SUM), x)
    assert x[3] == np.float32(2**-140)
    assert x[4] == np.float32(2**-140)


def test_the_assembly_of_a_narrower_target_has_its_registers():
    text = """
define void @kernel(ptr %args, i64 %task) {
  %v = load <16 x float>, ptr %args, align 4
  %w = fmul <16 x float> %v, %v
  store <16 x float> %w, ptr %args, align 4
  ret void
}
"""
    if not kernels.host().triple.startswith("x86_64"):
        pytest.skip("names of x86 registers")
    assert "zmm" in kernels.assembly(text, kernels.named_target("avx512"))
    narrow = kernels.assembly(text, kernels.named_target("avx2"))
    assert "ymm" in narrow
    assert "zmm" not in narrow
    assert "%v" in kernels.checked_ir(text)


def test_arm_code_is_an_object_file_and_refuses_to_run_here():
    target = kernels.named_target("neon")
    code = kernels.object_code(PRODUCT_AND_SUM, target)
    assert code[:4] == b"\x7fELF"
    assert int.from_bytes(code[18:20], "little") == 183  # EM_AARCH64
    if not target.runs_here:
        with pytest.raises(EngineError, match="cannot run on this CPU"):
            kernels.compile_module(PRODUCT_AND_SUM, target=target)


def test_the_thread_pool_and_a_schedule_compile_for_every_target():
    from preimage.engines.jit.runtime import pool_ir
    from preimage.engines.jit.weight_grad import tile_kernel, tiling

    geometry = ConvGeometry.from_conv((1, 64, 9, 9), (48, 64, 3, 3), padding=1)
    for name, fused in (("neon", "fmla"), ("avx2", "vfmadd"), ("avx512", "vfmadd")):
        target = kernels.named_target(name)
        assert len(kernels.object_code(pool_ir.pool_ir(target.triple), target)) > 1000
        reading = tiling.read_geometry(geometry, 4, target)
        text = tile_kernel.build(tiling.tile_spec(reading, "f32", True, (0, 0), False, True, True))
        assert kernels.assembly(text, target).count(fused) >= reading.tile_rows * len(reading.lanes)


def test_functions_with_loops_that_are_left_and_atomics():
    """Collatz steps, counted in a cell and added to a word by compare-and-swap; 0 comes back for what is no positive number."""
    f = functions.Function("steps", "i64", total="ptr", n="i64")
    total, value, count = f.parameter("total"), f.cell(f.number("n")), f.cell(0)
    with f.when(f.number("n") < 1):
        f.give(0)
    with f.forever() as walking:
        n = value.load_int()
        with f.when(n.equals(1)):
            walking.leave()
        odd = (n & 1).equals(1)
        value.store_int(odd.pick(n * 3 + 1, n >> 1))
        count.store_int(count.load_int() + 1)
    with f.forever() as adding:
        old = total.atomic_load("acquire")
        done, seen = total.compare_exchange(old, old + count.load_int(), "acq_rel", "acquire")
        with f.when(done & seen.equals(old)):
            adding.leave()
    with f.when(total.atomic_update("or", 1 << 40, "seq_cst") >= 1 << 40):
        total.atomic_store(-1, "release")
    f.give(count.load_int())
    loaded = kernels.load_all([kernels.wanted_module(functions.module([f]), ("steps",), "steps", level=kernels.CONTROL_LEVEL)])[0]
    steps = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64)(int(loaded["steps"]))
    total = np.zeros(1, np.int64)
    assert [steps(total.ctypes.data, n) for n in (0, -3)] == [0, 0]
    assert total[0] == 0
    assert steps(total.ctypes.data, 27) == 111
    assert total[0] == 111 | 1 << 40
    assert steps(total.ctypes.data, 1) == 0
    assert total[0] == -1


def test_a_loop_shows_the_code_generator_no_counter():
    """Nothing but a frozen copy and the next turn depends on a loop's counter: addresses stay as a schedule writes them."""
    f = builder.Kernel()
    x, y, n = f.ptr_arg(0, "f32"), f.ptr_arg(1, "f32"), f.int_arg(2)
    with f.loop(0, n) as row, f.loop(0, n, 16, carry=[f.zeros("f32", 16)]) as i:
        i.carry = [x.at(i.index * n + row.index).load(16) + i.carry[0]]
        y.at(row.index).store(i.carry[0])
    lines = f.ir().splitlines()
    counters = [line.split(" = ")[0] for line in lines if " = phi i64 " in line]
    assert len(counters) == 2
    for counter in counters:
        uses = [line for line in lines if re.search(rf"{counter}\b", line) and not line.startswith(counter)]
        assert sorted(use.split(" = ")[1].split(f"{counter}, ")[0] for use in uses) == ["add i64 ", "add nsw i64 "]
    assert sum(" = freeze i64 " in line for line in lines) == len(counters)
    kernels.checked_ir(f.ir())


def test_whether_a_mask_is_true_anywhere():
    f = builder.Kernel()
    x, y = f.ptr_arg(0, "f32"), f.ptr_arg(1, "i64")
    for k, lanes in enumerate((1, 4, 16)):
        with f.when(x.at(16 * k).load(lanes).is_nan().anywhere()):
            y.at(k).store_int(1)
    kernel = kernels.compile_module(f.ir())
    for place, expected in ((None, [0, 0, 0]), (0, [1, 0, 0]), (1, [0, 0, 0]), (19, [0, 1, 0]), (20, [0, 0, 0]), (47, [0, 0, 1])):
        data, found = np.zeros(48, np.float32), np.zeros(3, np.int64)
        if place is not None:
            data[place] = np.nan
        pool.launch(kernel, pool.pack_args(data.ctypes.data, found.ctypes.data), 1, 1)
        assert found.tolist() == expected


def test_an_unknown_target_is_named():
    with pytest.raises(EngineError, match="no target is called 'sse9'"):
        kernels.named_target("sse9")


def test_wrong_text_is_refused_and_nothing_is_kept():
    count = kernels.loaded_count()
    with pytest.raises(RuntimeError):
        kernels.compile_module("define void @kernel(ptr %args, i64 %task) { ret i32 0 }")
    assert kernels.loaded_count() == count


def test_host_description_is_plausible():
    host = kernels.host()
    assert host.vector_bytes in (16, 32, 64)
    assert host.vector_registers in (16, 32)
    assert 8 << 10 <= host.l1_bytes <= 1 << 20
    assert host.l1_bytes <= host.l2_bytes <= host.l3_bytes


def test_llvmlite_is_not_loaded_with_the_package():
    code = "import sys, preimage; assert not any(m.startswith('llvmlite') for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_fork_in_the_middle_of_compiling_leaves_the_child_able_to_compile():
    if not hasattr(os, "fork"):
        pytest.skip("no fork")
    code = """
import os, threading, time, warnings
warnings.simplefilter("ignore")
from preimage.engines.jit.compiler import toolchain as kernels
stop = False
text = "define void @kernel(ptr %a, i64 %t) {\\n  %x = add i64 %t, NUMBER\\n  ret void\\n}"
def busy():
    n = 0
    while not stop:
        n += 1
        kernels.object_codes([kernels.Work(text.replace("NUMBER", f"{n}{k}"), kernels.host()) for k in range(3)], 2)
        time.sleep(0.0005)  # a lock is not fair: let the fork have its turn
worker = threading.Thread(target=busy)
worker.start()
for turn in range(8):
    child = os.fork()
    if child == 0:
        kernels.object_code(text.replace("NUMBER", "7777"))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop = True
worker.join()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def added_by(kernel):
    result = np.zeros(1, np.int64)
    call(kernel, result)
    return int(result[0])


def asked(numbers, made):
    """Kernels that add the numbers; each is counted in `made` whenever its text is made."""

    def one(number):
        def text():
            made.append(number)
            return adds(number)

        return kernels.wanted(f"add {number}", text)

    return [one(number) for number in numbers]


def loaded(modules):
    return [found["kernel"] for found in kernels.load_all(modules)]


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_kernels_asked_for_together_are_compiled_once_each(n_threads, monkeypatch):
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", "off")
    kernels.forget()
    numbers, made = [n_threads * 1000 + k for k in range(7)], []
    with pre.config(threads=n_threads):
        made_kernels = loaded(asked(numbers, made))
        again = loaded(asked(numbers, made))
    assert [added_by(kernel) for kernel in made_kernels] == numbers
    assert made == numbers
    assert again == made_kernels


def test_what_the_disk_has_is_not_compiled_together_again(tmp_path, monkeypatch):
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", str(tmp_path / "kernels"))
    made = []
    loaded(asked([1, 2], made))
    kernels.forget()
    made_kernels = loaded(asked([1, 2, 3], made))
    assert made == [1, 2, 3]
    assert [added_by(kernel) for kernel in made_kernels] == [1, 2, 3]


def test_a_text_that_is_refused_among_others_keeps_none(monkeypatch):
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", "off")
    kernels.forget()
    modules = [*asked([11, 12], []), kernels.wanted("nonsense", lambda: "no module at all")]
    with pre.config(threads=2), pytest.raises(RuntimeError, match="parsing error"):
        loaded(modules)
    assert kernels.loaded_count() == 0
    assert added_by(loaded(asked([11], []))[0]) == 11


def test_code_made_side_by_side_is_the_code_made_alone():
    texts = [PRODUCT_AND_SUM, *(adds(k) for k in range(5))] * 2
    works = [toolchain.Work(text, kernels.current_target()) for text in texts]
    assert toolchain.object_codes(works, 4) == [kernels.object_code(text) for text in texts]


def test_llvm_is_there_before_helpers_begin(monkeypatch):
    """One that had to import it would wait for the lock of the thread that waits for the helper."""
    begun = []

    class Probe(toolchain.Helpers):
        def __init__(self, run, count):
            begun.append(toolchain._binding.cache_info().currsize)
            super().__init__(run, count)

    monkeypatch.setattr(toolchain, "Helpers", Probe)
    toolchain._binding.cache_clear()
    toolchain.object_codes([toolchain.Work(text, kernels.current_target()) for text in (adds(1), adds(2))], 2)
    assert begun == [1]


@pytest.mark.parametrize(("level", "ir", "listing"), [(3, False, False), (4, True, False), (5, True, True)])
def test_kernels_are_printed_from_level_4_on(level, ir, listing):
    """PREIMAGE_DEBUG: 4 prints the IR of each kernel that a plan first asks for, 5 its assembly too; once, whatever the disk has."""
    code = "import numpy as np, preimage as pre\nfor _ in range(2): pre.conv(np.ones((1, 3, 8, 8)), np.ones((4, 3, 3, 3)))"
    env = {**os.environ, "PREIMAGE_DEBUG": str(level)}
    text = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=60).stderr
    assert ("define void @kernel" in text, "its assembly for" in text and ".text" in text) == (ir, listing)
    names = [line for line in text.splitlines() if line.startswith("preimage: kernel ")]
    assert len(names) == len(set(names))

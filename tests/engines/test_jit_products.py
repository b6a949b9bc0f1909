"""Matrix products beside the executable definition, bit for bit; BLAS is in the engine `gemm` alone."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import preimage as pre
from preimage import ops
from preimage.audit import products
from preimage.engines import get
from preimage.engines.ir.epilogue import EpilogueSpec
from preimage.engines.jit.compiler import kernels, toolchain
from preimage.engines.jit.products import lower
from preimage.engines.jit.products.call import product_request
from preimage.engines.jit.products.dots_kernel import DotsSpec
from preimage.engines.jit.products.lower import lower_product
from preimage.engines.jit.products.stream_kernel import StreamSpec
from preimage.engines.order import Cut, Order

SOURCE = Path(pre.__file__).parent


def test_random_cases_have_the_bits_of_the_definition(width):
    """A slice of `preimage audit products -n 20000`, on vectors of each width that there is here."""
    rng = np.random.default_rng(20261127)
    for number in range(20):
        case = products.draw(rng, number)
        assert products.differences(case) == [], case


@pytest.mark.parametrize("shapes", [((1, 500), (500, 600)), ((3, 300), (300, 500)), ((14, 300), (300, 40)), ((200, 130), (130, 20)),
                                    ((2, 3000), (3000, 9)), ((300, 1), (1, 200)), ((37, 1000), (1000, 1)), ((1, 2999), (2999, 23)),
                                    ((1, 260), (260, 9))], ids=str)  # fmt: skip
def test_every_way_of_reading_the_factors(shapes, width):
    """Streamed, local, packed and direct B, dot products; packed A; a sum of three levels; several threads."""
    for layouts, dtype in ((("rows", "rows"), "float32"), (("columns", "columns"), "float32"), (("rows", "columns"), "float16"),
                           (("rows", "columns"), "float32")):  # fmt: skip
        case = products.ProductCase(*shapes, dtype, layouts, 3, 5, False)
        assert products.differences(case) == [], case


@pytest.mark.parametrize(("rows", "terms", "columns"), [(1, 2048, 40), (1, 200, 40), (2, 2048, 40), (1, 2048, 3)])
def test_one_row_times_contiguous_columns_is_dot_products(rows, terms, columns):
    """Where columns and blocks of terms fill vectors."""
    a, b = np.empty((rows, terms), np.float32), np.empty((columns, terms), np.float32).T
    program = lower_product(product_request(a, b, EpilogueSpec(), 1)[0])
    assert isinstance(program.calls[-1].spec, DotsSpec) == ((rows, terms, columns) == (1, 2048, 40))


@pytest.mark.parametrize("terms", [512, 521, 700, 1024, 2048, 2311])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("columns", [9, 16, 39])
def test_dot_products_of_whole_lines(terms, dtype, columns, width):
    """Blocks in the lanes of vectors of a line or half of one; short blocks, ends of blocks, columns that fill no vector."""
    case = products.ProductCase((1, terms), (terms, columns), dtype, ("rows", "columns"), 2, terms, False)
    assert products.differences(case) == [], case
    a, b = np.empty((1, terms), dtype), np.empty((columns, terms), dtype).T
    request = product_request(a, b, EpilogueSpec(), 1)[0]
    spec = lower_product(request).calls[-1].spec
    if width == "avx512" and dtype != "float16" and columns >= 16:
        assert isinstance(spec, DotsSpec)
        assert spec.whole_lines


@pytest.mark.parametrize(("size", "local"), [(64, False), (96, False), (120, False), (128, True), (160, True)])
def test_a_near_b_is_read_where_it_lies_unless_its_lines_share_sets(size, local):
    a = np.empty((size, size), np.float32)
    request = replace(product_request(a, a, EpilogueSpec(), 1)[0], target=toolchain.named_target("avx512"))
    assert lower_product(request).calls[-1].spec.local == local
    for threads in (1, 2):
        case = products.ProductCase((size, size), (size, size), "float32", ("rows", "rows"), threads, size, False)
        assert products.differences(case) == [], case


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("columns", [2048, 2061, 4096])
def test_streamed_lines_begin_anywhere(dtype, columns, width):
    """Wherever B begins in a line of the cache, the columns before the first whole vector have the same bits, and meet no infinity of others."""
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((2, 521)).astype(dtype), rng.standard_normal((521, columns)).astype(dtype)
    a[1, 3], b[7, [0, 3, 40]] = np.inf, np.inf
    if dtype != "float16":
        spec = lower_product(product_request(a, b, EpilogueSpec(), 1)[0]).calls[-1].spec
        assert isinstance(spec, StreamSpec) == (b.nbytes > kernels.current_target().l2_bytes // 2)
    with np.errstate(all="ignore"):
        wanted = None
        for offset in (0, 1, 4, 7, 15, 16):
            memory = np.empty(b.size + 80, dtype)
            start = -memory.ctypes.data % 64 // b.itemsize + offset
            moved = memory[start : start + b.size].reshape(b.shape)
            moved[:] = b
            for threads in (1, 3):
                with pre.config(threads=threads, engine="jit"):
                    found = ops.matmul(a, moved)
                wanted = found if wanted is None else wanted
                np.testing.assert_array_equal(found, wanted)
    assert np.isfinite(wanted[0]).sum() == columns - 3
    assert np.isinf(wanted[1]).sum() >= columns - 3
    exact = a[0].astype("f8") @ b.astype("f8")
    np.testing.assert_allclose(wanted[0], exact, rtol=2e-2, atol=0.5 if dtype == "float16" else 1e-3)


def test_threads_have_even_shares():
    """Of packing A along its columns, which must not cut a line, and of tiles: 128 in tasks of at most 10 are 16 tasks of 8, not 13."""
    a = np.empty((512, 256), np.float32).T
    for threads, tasks in ((1, 1), (2, 4)):
        request = replace(product_request(a, a.T, EpilogueSpec(), threads)[0], target=toolchain.named_target("avx512"))
        packing, multiply = lower_product(request).calls
        assert (packing.name, packing.tasks) == ("pack A", tasks)
        assert multiply.tasks % threads == 0
    assert lower._even_tiles(128, 10, 1, 2) == 8
    assert lower._even_tiles(128, 10, 1, 1) == 10
    assert lower._even_tiles(64, 64, 3, 2) == 32


def test_narrow_vectors_where_wide_loads_are_slow(width, change_costs):
    """One wide vector of columns is two narrow ones, with the same bits."""
    change_costs(tiling={"wide_load_cycles": 1.35})
    columns = 14 if width == "avx512" else 6
    for rows, terms, layout in ((30, 200, "rows"), (5, 40, "columns"), (300, 20, "far apart")):
        case = products.ProductCase((rows, terms), (terms, columns), "float32", ("rows", layout), 2, 7, False)
        assert products.differences(case) == [], case
    a, b = np.empty((30, 200), np.float32), np.empty((200, columns), np.float32)
    request = product_request(a, b, EpilogueSpec(), 1)[0]
    assert lower_product(request).calls[-1].spec.lanes * 2 == request.lanes


def test_another_order_is_found(monkeypatch):
    """The check fails on a planted fault: blocks of one term less."""

    def other(axes):
        order = Order.of(axes)
        levels = tuple(Cut(c.axis, c.step - 1 if not k else c.step) for k, c in enumerate(order.levels))
        return SimpleNamespace(levels=levels, depth=order.depth)

    case = products.ProductCase((5, 300), (300, 9), "float32", ("rows", "rows"), 1, 0, False)
    kept = get("jit").products
    kept.forget()
    with pre.config(engine="jit"):
        assert products.differences(case) == []
        kept.forget()
        monkeypatch.setattr(lower, "Order", SimpleNamespace(of=other))
        assert "product" in products.differences(case)[0]
    kept.forget()


def test_the_engine_that_is_asked_for_multiplies(capfd):
    a = np.ones((3, 4), np.float32)
    for engine in ("jit", "gemm", "reference"):
        with pre.config(engine=engine, debug=1):
            ops.matmul(a, a.T)
            ops.linear(a, a)
        said = capfd.readouterr().err
        assert f"matmul of (3, 4) and (4, 3) float32 runs on {engine}" in said
        assert f"linear of (3, 4) and (3, 4) float32 runs on {engine}" in said


_TRAINED = """
import hashlib, numpy as np, preimage as pre
rng = np.random.default_rng(0)
net = pre.nn.Sequential(pre.nn.Linear(300, 200, rng=1), pre.nn.ReLU(), pre.nn.Linear(200, 10, rng=2))
x, y = rng.standard_normal((96, 300)).astype(np.float32), rng.standard_normal((96, 10)).astype(np.float32)
optimiser = pre.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
for _ in range(3):
    optimiser.zero_grad()
    ((net(pre.Tensor(x)) - y) ** 2).mean().backward()
    optimiser.step()
print(hashlib.sha256(b"".join(p.data.tobytes() for p in net.parameters())).hexdigest())
"""


def test_what_is_trained_does_not_depend_on_the_threads_of_blas():
    found = set()
    for blas, own in ((1, 1), (2, 3)):
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        env = {**os.environ, **dict.fromkeys(names, str(blas)), "PREIMAGE_THREADS": str(own)}
        found.add(subprocess.run([sys.executable, "-c", _TRAINED], env=env, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1


#: NumPy's functions that may call BLAS, and the files that may call them: the engine `gemm` and the definitions that it is
#: measured against; what is exact in whole numbers, for which NumPy has loops of its own.
BLAS = re.compile(r"\bnp\.(matmul|dot|vdot|inner|tensordot)\(")
MAY = frozenset(("engines/blas.py", "audit/exhaustive.py", "audit/oracle.py", "io/onnx/operators/reductions.py"))


def test_blas_is_in_the_engine_gemm_alone():
    calls = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py") if BLAS.search(path.read_text())}
    assert "engines/blas.py" in calls
    assert calls - MAY == set()


@pytest.mark.skipif(pre.engines()["jit"] != "available", reason="threads are the jit engine's")
@pytest.mark.parametrize(("rows", "dtype", "threads", "whole"), [
    (80, "f4", 1, False), (81, "f4", 2, False), (144, "f4", 2, False), (160, "f4", 2, True), (112, "f8", 2, False), (128, "f8", 2, True),
])  # fmt: skip
def test_a_product_that_is_done_before_others_wake_is_shared_with_those_awake(rows, dtype, threads, whole, monkeypatch):
    from preimage.engines.jit.products import call
    from preimage.engines.jit.runtime import program_call

    a, b = (np.random.default_rng(k).standard_normal((rows, rows)).astype(dtype) for k in range(2))
    asked, made = [], []
    lowered, function = call.lower_product, program_call.native_function
    monkeypatch.setattr(call, "lower_product", lambda request: asked.append(request.threads) or lowered(request))
    monkeypatch.setattr(program_call, "native_function", lambda *given: made.append(given[-2]) or function(*given))
    with pre.config(threads=2, engine="jit"):
        shared = call.JitProducts().matmul(a, b)
    assert asked == [threads]
    ((run, _, workers, work),) = made
    assert (run != 0, workers) == (threads == 2, threads - 1)
    assert (work >= program_call.WHOLE_WORK) == whole
    with pre.config(threads=1, engine="jit"):
        assert call.JitProducts().matmul(a, b).tobytes() == shared.tobytes()


@pytest.mark.skipif(pre.engines()["jit"] != "available", reason="threads are the jit engine's")
def test_without_functions_a_product_that_is_done_before_others_wake_is_one_threads(monkeypatch):
    """Recorded programs run on threads that are awake, so there more of them are shared; the bits are the same."""
    from preimage.engines.jit.products import call
    from preimage.engines.jit.runtime import native_function
    from preimage.engines.recording import Recorder

    a, b = (np.random.default_rng(k).standard_normal((128, 128)).astype(np.float32) for k in range(2))
    asked = []
    lowered = call.lower_product
    for module in (call, native_function):
        monkeypatch.setattr(module, "interpreter", lambda: None)
    monkeypatch.setattr(call, "lower_product", lambda request: asked.append(request.threads) or lowered(request))
    engine = call.JitProducts()
    with pre.config(threads=2, engine="jit"):
        alone = engine.matmul(a, b)
        recorder = Recorder()
        known = [recorder.watch(each) for each in (a, b)]
        with recorder:
            shared = engine.matmul(*known)
        again = engine.matmul(a, b)
    assert asked == [1, 2]
    assert alone.tobytes() == shared.tobytes() == again.tobytes()
    assert recorder.broken is None


@pytest.mark.parametrize(("name", "rows"), [("avx512", 14), ("avx512", 8), ("avx2", 6)])
@pytest.mark.parametrize("rows_of_a", [True, False])
def test_sums_of_a_tile_stay_in_registers(name, rows, rows_of_a):
    """In the innermost loop nothing is read from the stack or put there: of the tiles that products have, and of one that takes 31 registers."""
    if not toolchain.host().triple.startswith("x86_64"):
        pytest.skip("reads assembly of x86-64")
    a, b = np.empty((96, 64), np.float32), np.empty((64, 96), np.float32)
    request, _ = product_request(a if rows_of_a else np.asfortranarray(a), b, EpilogueSpec(), 1)
    request = replace(request, target=toolchain.named_target(name))
    spec = replace(lower_product(request).calls[-1].spec, rows=rows)
    blocks = re.split(r"^\.L\w+:", toolchain.assembly(spec.ir(), request.target), flags=re.MULTILINE)
    body = max(blocks, key=lambda block: block.count("vfmadd231ps"))
    assert body.count("vfmadd231ps") >= 24
    assert "%rsp" not in body

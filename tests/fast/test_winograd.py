"""Winograd's algorithms: matrices, which convolutions take them, bits, hostile data, errors, plans."""

import os
import tracemalloc
from fractions import Fraction
from itertools import product

import fast_cases
import numpy as np
import pytest

import preimage as pre
from preimage import contract, contract_fast
from preimage.engines import get
from preimage.engines.base import CONTRACTIONS
from preimage.engines.jit.conv.winograd import transforms
from preimage.engines.jit.conv.winograd.applies import choose, order_of
from preimage.engines.jit.conv.winograd.lower import _even_band

SHAPES = [(2, 3), (3, 2), (4, 3), (3, 4), (2, 5), (5, 2), (6, 3), (4, 5)]


@pytest.mark.parametrize(("m", "r"), SHAPES)
def test_the_matrices_give_a_convolution_exactly(m, r):
    """In fractions, on whole numbers: y = A^T [(G w) * (B^T x)]."""
    rng, a = np.random.default_rng(m * 8 + r), m + r - 1
    x, w = ([Fraction(int(v)) for v in rng.integers(-9, 10, n)] for n in (a, r))
    out, weights, inputs = transforms.output_matrix(m, a), transforms.weight_matrix(r, a), transforms.input_matrix(a)

    def times(matrix, vector):
        return [sum(c * v for c, v in zip(row, vector, strict=True)) for row in matrix]

    product_ = [u * v for u, v in zip(times(weights, w), times(inputs, x), strict=True)]
    assert times(out, product_) == [sum(x[k + t] * w[t] for t in range(r)) for k in range(m)]
    assert all(np.float32(c) == c for matrix in (out, inputs) for row in matrix for c in row)  # float32 has them exactly
    if a < 8:
        assert [[list(row) for row in matrix] for matrix in (out, weights, inputs)] == list(contract_fast.matrices(m, r))


def test_the_order_over_channels_is_the_contracts_in_smaller_blocks():
    for terms in (16, 17, 64, 100, 256, 700, 2304, 5000):
        limit = contract_fast._limit(terms)
        blocks, _ = contract.cut((terms,), limit)
        assert order_of(terms).blocks() == blocks


def test_which_tiles_are_taken_is_the_definitions():
    taken = set()
    for channels, outputs, size, kernel, groups in product((16, 32, 64, 256), (24, 64, 100), (7, 14, 56), (2, 3, 5), (1, 2)):
        for dtype, element in ((np.float32, "f32"), (np.float64, "f64"), (np.float16, "f16")):
            g = pre.ConvGeometry.from_conv(
                (3, channels * groups, size, size), (outputs * groups, channels, kernel, kernel), padding=1, groups=groups
            )
            for name in CONTRACTIONS:
                ours = choose(g, name, element)
                wanted = contract_fast.tiles(g, name, dtype)
                assert (None if isinstance(ours, str) else ours.shape) == wanted, (g, name, ours)
                taken.add(wanted)
    assert len(taken) >= 4


def test_a_slice_of_the_cases_has_the_definitions_bits():
    first, count = 0, int(os.environ.get("PREIMAGE_CONTRACT_CASES", "6"))
    found = [case for seed in range(first, first + count) for case in fast_cases.differing(seed)]
    assert [case for case in found if case[1]] == []
    assert len({kind for kind, _ in found}) >= 3


def layer(channels=48, outputs=32, size=17, batch=1, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, channels, size, size)).astype(dtype)
    return x, rng.standard_normal((outputs, channels, 3, 3)).astype(dtype)


def test_the_definition_would_notice_another_order(monkeypatch):
    """The check of bits can fail: with blocks of another size the definition differs."""
    x, w = layer()
    got = pre.conv(x, w, padding=1, accuracy="fast")
    assert (got == contract_fast.conv(x, w, padding=1)).all()
    monkeypatch.setattr(contract_fast, "_limit", lambda terms: 32)
    assert (got != contract_fast.conv(x, w, padding=1)).any()
    monkeypatch.undo()
    assert (got != pre.conv(x, w, padding=1)).any()


@pytest.mark.parametrize("name", ["conv", "conv_transpose"])
def test_bits_do_not_depend_on_batch_threads_layout_tile_or_memory(name):
    x, w = layer(48 if name == "conv" else 64, 64 if name == "conv" else 48, batch=3)
    if name == "conv_transpose":
        w = w.swapaxes(0, 1).copy()
    call = getattr(pre, name)
    wanted = call(x, w, padding=1, accuracy="fast")
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    others = [call(x[k : k + 1], w, padding=1, accuracy="fast")[0] for k in range(3)]
    assert (np.stack(others) == wanted).all()
    for threads, workspace in product((1, 2, 3), (0, 1 << 14, 64 << 20)):
        with pre.config(threads=threads, workspace_bytes=workspace, accuracy="fast"):
            assert (call(x, w, padding=1) == wanted).all()
            assert (call(last, pre.prepare(w), padding=1) == wanted).all()


def test_the_error_is_within_its_bound_and_rms_within_a_unit():
    x, w = layer(64, 64, 32)
    truth = pre.conv(x.astype(np.float64), w.astype(np.float64), padding=1)
    size = pre.conv(np.abs(x).astype(np.float64), np.abs(w).astype(np.float64), padding=1)
    error = (pre.conv(x, w, padding=1, accuracy="fast") - truth) / (size * 2.0**-24)
    assert 0.2 < np.sqrt((error**2).mean()) < 0.65
    assert np.abs(error).max() < 8
    choice = choose(pre.ConvGeometry.from_conv(x.shape, w.shape, padding=1), "conv", "f32")
    bound = choice.error * np.abs(x).max() * np.abs(w).sum(axis=(1, 2, 3)).min() * 2.0**-24
    assert np.abs(error * size * 2.0**-24).max() < bound


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, 3e38])
def test_what_is_not_finite_reaches_its_tiles_and_no_others(bad):
    x, w = layer(48, 32, 17)
    clean = pre.conv(x, w, padding=1, accuracy="fast")
    x[0, 5, 9, 13] = bad
    got = pre.conv(x, w, padding=1, accuracy="fast")
    m = choose(pre.ConvGeometry.from_conv(x.shape, w.shape, padding=1), "conv", "f32").shape[0][0]
    reached = np.zeros((17, 17), bool)  # tiles whose input, m + 2 wide, holds the position
    for a, b in product(range(0, 17, m), range(0, 17, m)):
        if a - 1 <= 9 < a + m + 1 and b - 1 <= 13 < b + m + 1:
            reached[a : a + m, b : b + m] = True
    assert (got[..., ~reached] == clean[..., ~reached]).all()
    assert not np.isfinite(got[0, 0, 9, 13]) or bad == 3e38
    assert (got == contract_fast.conv(x, w, padding=1)).sum() + np.isnan(got).sum() == got.size


def test_denormal_numbers_are_kept():
    x, w = layer(48, 32, 17)
    tiny = (x * np.float32(1e-39)).astype(np.float32)
    got = pre.conv(tiny, w, padding=1, accuracy="fast")
    assert (got == contract_fast.conv(tiny, w, padding=1)).all()
    assert np.count_nonzero(got)


def test_one_huge_value_drowns_its_own_tile_alone():
    """What a tile's largest value rounds away: the bound is of the largest value of the tile, not of the sum's terms."""
    x, w = layer(48, 32, 17)
    clean = pre.conv(x, w, padding=1, accuracy="fast")
    x[0, 0, 0, 0] = 1e8
    got = pre.conv(x, w, padding=1, accuracy="fast")
    truth = pre.conv(x.astype(np.float64), w.astype(np.float64), padding=1)
    choice = choose(pre.ConvGeometry.from_conv(x.shape, w.shape, padding=1), "conv", "f32")
    m = choice.shape[0][0]
    assert (got[..., m:, m:] == clean[..., m:, m:]).all()
    bound = choice.error * 2.0**-24 * 1e8 * np.abs(w).sum(axis=(1, 2, 3)).max()
    assert np.abs(got - truth).max() <= bound


def test_the_plan_names_algorithm_time_bound_and_what_was_refused():
    g = pre.ConvGeometry.from_conv((1, 64, 56, 56), (64, 64, 3, 3), padding=1)
    assert "winograd" not in str(pre.plan(g)).lower()  # the default is exact
    with pre.config(accuracy="fast"):
        plan = pre.plan(g)
        assert plan.algorithm == "Winograd F(4x4, 3x3)"
        assert "u max|x| sum|w|" in plan.details["accuracy"]
        assert "cycles of one thread" in plan.details["predicted"]
        assert "cycles by the model" in plan.refused["direct"]
        strided = pre.ConvGeometry.from_conv((1, 64, 56, 56), (64, 64, 3, 3), padding=1, stride=2)
        assert "stride (2, 2)" in pre.plan(strided).refused["winograd"]
        assert "channels a group" in pre.plan(pre.ConvGeometry.from_conv((1, 3, 56, 56), (64, 3, 3, 3))).refused["winograd"]


@pytest.mark.parametrize("contraction", CONTRACTIONS)
@pytest.mark.parametrize(("inputs", "outputs", "size"), [(64, 64, (1500,)), (64, 56, (40, 43)), (32, 40, (14, 13, 15))])
def test_memory_is_within_the_stated_workspace(inputs, outputs, size, contraction):
    """Beside its operands a call holds its result and what its plan says; weight gradients of three images, sums of images among it."""
    g = pre.ConvGeometry.from_conv((3, inputs, *size), (outputs, inputs, *[3] * len(size)), padding=1)
    jit = get("jit")
    x, w, y = (np.random.default_rng(1).standard_normal(s).astype("f4") for s in (g.input_shape, g.weight_shape, g.output_shape))
    given = {"conv": (x, w), "conv_transpose": (y, w), "conv_weight_grad": (x, y)}[contraction]
    for threads in (1, 2):
        with pre.config(threads=threads, accuracy="fast"):
            plan, peaks = jit.plan(g, contraction, x.dtype), []
            assert plan.algorithm.startswith("Winograd")
            result = getattr(jit, contraction)(g, *given).nbytes
            for _ in range(3):  # the least of three: now and then the interpreter enlarges a table of its own meanwhile
                jit._scratch.clear()
                tracemalloc.start()
                getattr(jit, contraction)(g, *given)
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
            assert plan.workspace_bytes // 2 < min(peaks) <= result + plan.workspace_bytes + 32_768


@pytest.mark.parametrize("threads", [2, 3, 5, 8])
def test_bands_leave_no_thread_much_more_than_its_share(threads):
    for tiles in range(16 * threads, 600, 7):
        band, loads = _even_band(tiles, 1, threads, 8, 48), [0] * threads
        for first in range(0, tiles, band):  # threads take bands as they come
            loads[loads.index(min(loads))] += min(band, tiles - first)
        assert band <= 48
        assert max(loads) <= tiles / threads + 16, (tiles, band, loads)


def test_transformed_weights_are_kept_beside_the_others():
    x, w = layer()
    kept = pre.prepare(w)
    exact = pre.conv(x, kept, padding=1)
    one = kept.packed_bytes
    fast = pre.conv(x, kept, padding=1, accuracy="fast")
    both = kept.packed_bytes
    assert both > one > 0
    assert (pre.conv(x, kept, padding=1, accuracy="fast") == fast).all()
    assert (pre.conv(x, kept, padding=1) == exact).all()
    assert kept.packed_bytes == both


def test_weight_gradients_keep_bits_and_what_is_not_finite_stays_in_its_channels():
    x, _ = layer(24, 32, 33, batch=2)
    y = np.random.default_rng(1).standard_normal((2, 32, 33, 33)).astype(np.float32)
    assert contract_fast.tiles(pre.ConvGeometry.from_conv(x.shape, (32, 24, 3, 3), padding=1), "conv_weight_grad", np.float32)
    wanted = pre.conv_weight_grad(x, y, kernel_size=3, padding=1, accuracy="fast")
    assert (wanted == contract_fast.conv_weight_grad(x, y, (3, 3), padding=1)).all()
    for threads, workspace in product((1, 2, 3), (0, 64 << 20)):
        with pre.config(threads=threads, workspace_bytes=workspace, accuracy="fast"):
            for last in (False, True):
                a, b = (np.moveaxis(np.ascontiguousarray(np.moveaxis(v, 1, -1)), -1, 1) if last else v for v in (x, y))
                assert (pre.conv_weight_grad(a, b, kernel_size=3, padding=1) == wanted).all()
    y[0, 7, 0, 3] = np.inf
    got = pre.conv_weight_grad(x, y, kernel_size=3, padding=1, accuracy="fast")
    assert not np.isfinite(got[7]).any()
    assert (np.delete(got, 7, 0) == np.delete(wanted, 7, 0)).all()


@pytest.mark.parametrize("images", [2, 3, 4, 6, 7, 8])
def test_the_images_of_a_weight_gradient_are_added_as_the_contracts_tree_has_it(images):
    """In one launch, shared among threads by output channels; beside the definition, and beside the sum of parts of the batch."""
    rng = np.random.default_rng(images)
    x, y = rng.standard_normal((images, 32, 13, 14)).astype("f4"), rng.standard_normal((images, 40, 13, 14)).astype("f4")
    wanted = contract_fast.conv_weight_grad(x, y, (3, 3), padding=1)
    for threads in (1, 3):
        for lay in (np.ascontiguousarray, lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)):
            with pre.config(threads=threads, accuracy="fast"):
                assert pre.conv_weight_grad(lay(x), lay(y), kernel_size=3, padding=1).tobytes() == wanted.tobytes()
    other = pre.conv_weight_grad(np.roll(x, 1, 0), np.roll(y, 1, 0), kernel_size=3, padding=1, accuracy="fast")
    assert images == 2 or other.tobytes() != wanted.tobytes(), "an order that this test could not tell apart"


def test_gradients_of_a_fast_call_are_fast():
    x, w = layer(32, 32, 28)
    a, b = pre.Tensor(x, requires_grad=True), pre.Tensor(w, requires_grad=True)
    y = pre.conv(a, b, padding=1, accuracy="fast")
    g = np.random.default_rng(2).standard_normal(y.shape).astype(np.float32)
    (y * pre.Tensor(g)).sum().backward()
    assert (a.grad.numpy() == contract_fast.conv_transpose(g, w, padding=1)).all()
    assert (b.grad.numpy() == contract_fast.conv_weight_grad(x, g, (3, 3), padding=1)).all()
    assert (a.grad.numpy() != pre.conv_transpose(g, w, padding=1)).any()
    assert (b.grad.numpy() != pre.conv_weight_grad(x, g, kernel_size=3, padding=1)).any()


@pytest.mark.parametrize("last", [False, True])
def test_the_epilogue_follows_the_transform_in_the_same_order(last):
    x, w = layer(batch=2)
    b, r = (np.random.default_rng(5).standard_normal(n).astype(np.float32) for n in (32, (2, 32, 17, 17)))
    plain = pre.conv(x, w, padding=1, accuracy="fast")
    if last:
        x, r = (np.moveaxis(np.ascontiguousarray(np.moveaxis(v, 1, -1)), -1, 1) for v in (x, r))
    got = pre.conv(x, w, b, padding=1, residual=r, activation="leaky_relu", slope=0.1, accuracy="fast")
    wanted = plain + b.reshape(-1, 1, 1) + r
    assert (got == np.where(wanted < 0, wanted * np.float32(0.1), wanted)).all()


def test_an_optimised_graph_runs_its_convolutions_by_tiles():
    from preimage.io import graph as graphs

    x, _ = layer(batch=2)
    net = pre.nn.Sequential(pre.nn.Conv2d(48, 32, 3, padding=1), pre.nn.ReLU(), pre.nn.Conv2d(32, 48, 3, padding=1))
    graph = graphs.optimise(graphs.trace(net, x), accuracy="fast")
    with pre.no_grad():
        got = [np.asarray(graph(x)) for _ in range(2)]
        with pre.config(accuracy="fast"):
            wanted = np.asarray(net(x))
        exact = np.asarray(net(x))
    assert (got[0] == wanted).all()
    assert (got[1] == wanted).all()
    assert (wanted != exact).any()


def test_the_plan_of_every_node_is_that_of_its_accuracy(tmp_path, capsys):
    from preimage.cli import main
    from preimage.io import graph as graphs
    from preimage.io.inspection import inspect_model

    x, _ = layer(batch=1)
    net = pre.nn.Sequential(pre.nn.Conv2d(48, 32, 3, padding=1), pre.nn.Conv2d(32, 4, 1))
    for accuracy, wanted in (("fast", "jit: Winograd F(4x4, 3x3)"), ("exact", "jit: direct"), (None, "jit: direct")):
        graph = graphs.optimise(graphs.trace(net, x), accuracy=accuracy)
        first, second = [found for found in inspect_model(graph, {"input": x}).layers if found.op == "conv"]
        assert first.schedule == wanted
        assert "kernel (1, 1)" in second.refused["winograd"] if accuracy == "fast" else "winograd" not in second.refused
    pytest.importorskip("onnx")
    pre.save_model(net, tmp_path / "net.onnx", example=x)
    with pytest.raises(SystemExit) as end:
        main(["info", str(tmp_path / "net.onnx"), "--shape", "input=" + ",".join(map(str, x.shape)), "--fast"])
    assert not end.value.code
    assert "Winograd" in "".join(capsys.readouterr().out.split())


def test_sessions_and_optimised_models_take_an_accuracy(tmp_path):
    pytest.importorskip("onnx")
    from preimage import runtime

    x, _ = layer(batch=1)
    net = pre.nn.Conv2d(48, 32, 3, padding=1)
    pre.save_model(net, tmp_path / "net.onnx", example=x)
    found = {}
    for accuracy in (None, "exact", "fast"):
        for level in (0, 99):
            options = runtime.SessionOptions(accuracy=accuracy, graph_optimization_level=runtime.GraphOptimizationLevel(level))
            session = runtime.InferenceSession(str(tmp_path / "net.onnx"), options)
            found[accuracy, level] = session.run(None, {session.get_inputs()[0].name: x})[0]
    weight, bias = net.weight.data, net.bias.data
    for (accuracy, _), value in found.items():
        assert (value == pre.conv(x, weight, bias, padding=1, accuracy=accuracy)).all()
    assert (found["fast", 99] != found["exact", 99]).any()
    with pre.no_grad():
        assert (np.asarray(pre.optimise(net, example=x, accuracy="fast")(x)) == found["fast", 99]).all()
    with pytest.raises(pre.OptionError, match="accuracy must be one of"):
        runtime.SessionOptions(accuracy="quick")

"""why and reach against the Jacobian, NaN hunts, and the layer as matrices."""

from __future__ import annotations

import numpy as np
import pytest

import preimage as pre
from preimage import analysis, nn, ops
from preimage.errors import GraphError, OptionError


@pytest.fixture
def rng():
    return np.random.default_rng(67)


def jacobian(f, x, step=1e-6):
    """By central differences: shares nothing with the gradients. (outputs, inputs)."""
    columns = []
    for k in range(x.size):
        e = np.zeros(x.size)
        e[k] = step
        e = e.reshape(x.shape)
        columns.append((f(x + e) - f(x - e)).reshape(-1) / (2 * step))
    return np.stack(columns, axis=1)


LAYERS = {
    "conv": {
        "transposed": False, "shape": (1, 4, 6, 5), "w": (6, 2, 3, 2), "stride": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 2),
        "groups": 2,
    },
    "reflect": {"transposed": False, "shape": (1, 2, 7), "w": (3, 2, 3), "padding": 2, "padding_mode": "reflect"},
    "deconv": {"transposed": True, "shape": (1, 4, 3, 3), "w": (4, 3, 4, 3), "stride": 2, "padding": 1, "groups": 2, "output_padding": (0, 1)},
    "circular deconv": {"transposed": True, "shape": (2, 2, 5), "w": (2, 3, 3), "stride": 2, "padding": 1, "padding_mode": "circular"},
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_slides_are_rows_and_strokes_columns_of_the_jacobian(name, rng):
    o = dict(LAYERS[name])
    transposed, x, w = o.pop("transposed"), rng.standard_normal(o.pop("shape")), rng.standard_normal(o.pop("w"))
    make, run = (analysis.trace_conv_transpose, pre.conv_transpose) if transposed else (analysis.trace_conv, pre.conv)
    t = make(x, w, **o)
    dense = jacobian(lambda v: run(v, w, **o), x)
    for at in rng.permutation(dense.shape[0])[:8]:
        index = np.unravel_index(at, t.output_shape)
        row = np.zeros(x.shape)
        for term in analysis.why(t, index).terms:
            if term.input_index is not None:
                row[term.input_index] += term.weight
        np.testing.assert_allclose(row.reshape(-1), dense[at], atol=1e-7)
    for at in rng.permutation(dense.shape[1])[:8]:
        stroke = analysis.reach(t, np.unravel_index(at, x.shape))
        column = np.zeros(t.output_shape)
        np.add.at(column, tuple(stroke.outputs.T), stroke.weights)
        np.testing.assert_allclose(column.reshape(-1), dense[:, at], atol=1e-7)
    if x.shape[0] == 1:
        matrix = analysis.layer_matrix(t)
        np.testing.assert_allclose(matrix.dense(), dense, atol=1e-7)
        np.testing.assert_array_equal(matrix.T.dense(), matrix.dense().T)
        assert (t.w.reshape(-1)[matrix.weights] == matrix.values).all()
    groups = t.geometry.groups
    for image, group in ((0, 0), (x.shape[0] - 1, groups - 1)):
        m = analysis.gemm(t, image, group)
        channels = t.output_shape[1] // groups
        want = t.output[image, group * channels : (group + 1) * channels]
        got = m.folded(want.size).reshape(want.shape) if transposed else m.result.reshape(want.shape)
        if not transposed or t.padding_mode == "zeros":
            np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def test_the_jacobian_of_a_whole_net(rng):
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1, rng=1, dtype=np.float64),
        nn.Tanh(),
        nn.ConvTranspose2d(3, 2, 4, 2, 1, rng=2, dtype=np.float64),
    )
    x = rng.standard_normal((1, 2, 6, 6))
    t = pre.Tensor(x, requires_grad=True)
    y = net(t)
    dense = jacobian(lambda v: net(pre.Tensor(v)).data, x)
    for index in ((0, 1, 3, 3), (0, 0, 0, 5)):
        row = np.zeros(x.shape)
        found = analysis.why(y, index, of=t)
        for i, factor in zip(found.indices, found.factors, strict=True):
            row[i] = factor
        at = np.ravel_multi_index(index, y.shape)
        np.testing.assert_allclose(row.reshape(-1), dense[at], atol=1e-7)
        assert list(np.abs(found.products)) == sorted(np.abs(found.products), reverse=True)
        assert found.values[0] == x[found.indices[0]]
        column = np.zeros(y.shape)
        reached = analysis.reach(t, index, y)
        for i, factor in zip(reached.indices, reached.factors, strict=True):
            column[i] = factor
        np.testing.assert_allclose(column.reshape(-1), dense[:, np.ravel_multi_index(index, x.shape)], atol=1e-7)


def test_why_follows_the_record_back_to_the_contractions(rng):
    x = pre.Tensor(rng.standard_normal((1, 2, 8, 8)).astype(np.float32), requires_grad=True)
    conv = nn.Conv2d(2, 4, 3, rng=1)
    other = nn.Conv2d(2, 4, 1, rng=2)
    a = ops.max_pool(ops.relu(conv(x)), 2)
    found = analysis.why(a, (0, 1, 1, 2))
    (s,) = found.sums
    assert found.paths == (("max_pool", "relu"),)
    assert max(s.value, 0) == found.value == a.data[0, 1, 1, 2]
    assert s.bias == float(conv.bias.data[1])
    assert [abs(t.product) for t in found.terms] == sorted((abs(t.product) for t in s.terms), reverse=True)
    skip = ops.add(conv(x), other(x)[:, :, 1:7, 1:7])
    both = analysis.why(skip, (0, 3, 2, 2))
    assert len(both.sums) == 2
    assert np.float32(both.sums[0].value) + np.float32(both.sums[1].value) == skip.data[0, 3, 2, 2]
    assert both.sums[1].index == (0, 3, 3, 3)
    assert "getitem" in str(both)
    scaled = ops.multiply(x, pre.Tensor(np.float32(2), requires_grad=True, name="scale"))
    assert {name for name, _, _ in analysis.why(scaled, (0, 0, 0, 0)).leaves} == {"scale", "leaf"}
    last = nn.Conv2d(2, 4, 3, rng=1, layout="channels_last")
    moved = last(ops.transpose(x, (0, 2, 3, 1)))
    assert analysis.why(moved, (0, 2, 3, 1)).sums[0].value == moved.data[0, 2, 3, 1]
    # a weight gradient is a contraction too
    w = pre.Tensor(rng.standard_normal((3, 2, 3)), requires_grad=True)
    small = pre.Tensor(rng.standard_normal((2, 2, 6)), requires_grad=True)
    gw = pre.grad((pre.conv(small, w) ** 2).sum(), w, create_graph=True)
    assert analysis.why(gw, (1, 0, 2)).sums[0].value == gw.data[1, 0, 2]


def test_why_and_reach_say_what_they_cannot(rng):
    x = pre.Tensor(rng.standard_normal((1, 2, 20, 20)), requires_grad=True)
    for call, error, text in (
        (lambda: analysis.why(x, (0, 0, 0, 0)), OptionError, "no recorded operation"),
        (lambda: analysis.why(x.data, (0, 0, 0, 0)), OptionError, "got ndarray"),
        (lambda: analysis.why(ops.mean(x), ()), OptionError, "800 others"),
        (lambda: analysis.reach(x, (0, 0, 0, 0)), OptionError, "reach\\(x, index, y\\)"),
        (lambda: analysis.reach(x, (0, 0, 0, 0), pre.Tensor(np.ones(3), requires_grad=True) * 2), GraphError, "does not lead"),
        (lambda: analysis.why(ops.relu(x), (0, 0, 0, 0), of=3), OptionError, "of must be a Tensor"),
    ):
        with pytest.raises(error, match=text):
            call()
    y = ops.relu(x).sum()
    relu = ops.relu(x)
    z = ops.square(relu)
    z.sum().backward()
    with pytest.raises(OptionError, match="freed by backward"):
        analysis.why(z, (0, 0, 0, 0))
    assert y.size == 1


def test_first_nan_in_modules():
    class Odd(nn.Module):
        def forward(self, x):
            return ops.log(ops.subtract(x, 0.5))

    net = nn.Sequential({"first": nn.Conv2d(1, 1, 1, bias=False, rng=0), "odd": Odd(), "last": nn.Conv2d(1, 1, 3, rng=1)})
    net["first"].weight.assign(np.ones((1, 1, 1, 1)))
    x = np.ones((1, 1, 5, 5), np.float32)
    assert analysis.first_nan(net, x) is None
    x[0, 0, 2, 3] = 0.25
    born = analysis.first_nan(net, x)
    assert (born.layer, born.op, born.index) == ("odd", "log", (0, 0, 2, 3))
    assert np.isnan(born.value)
    assert born.inputs == ((0, (0, 0, 2, 3), -0.25),)
    assert "born in odd (log) at [0, 0, 2, 3]" in str(born)
    x[0, 0, 1, 1] = np.inf
    given = analysis.first_nan(net, x)
    assert (given.op, given.index) == ("input", (0, 0, 1, 1))
    net["last"].weight.data[0, 0, 1, 1] = np.nan
    assert analysis.first_nan(net, np.ones((1, 1, 5, 5), np.float32)).op == "parameter"
    big = nn.Sequential(nn.Conv1d(1, 1, 2, bias=False, rng=0))
    big[0].weight.assign(np.full((1, 1, 2), 2.0))
    over = analysis.first_nan(big, np.full((1, 1, 3), 2e38, np.float32))
    assert (over.op, over.value) == ("conv", np.inf)
    assert len(over.inputs) == 4


def test_first_nan_in_a_graph(tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    from preimage.io.files import load_model

    nodes = [helper.make_node("Sqrt", ["x"], ["a"], "root"), helper.make_node("Div", ["a", "x"], ["y"], "ratio")]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    model = load_model(tmp_path / "m.onnx")
    assert analysis.first_nan(model, np.ones((2, 2), np.float32)) is None
    born = analysis.first_nan(model, np.array([[1, 2], [0, 3]], np.float32))
    assert (born.layer, born.op, born.index) == ("ratio", "divide", (1, 0))
    assert analysis.first_nan(model, np.array([[1, -2], [0, 3]], np.float32)).layer == "root"


def test_matrices_refuse_what_is_too_large():
    t = analysis.trace_conv(np.ones((1, 8, 64, 64), np.float32), np.ones((64, 8, 5, 5), np.float32))
    with pytest.raises(OptionError, match="at most 4000000"):
        analysis.layer_matrix(t)
    with pytest.raises(OptionError, match="group is 1; the layer has 1"):
        analysis.gemm(t, group=1)

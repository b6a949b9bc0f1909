"""io.onnx: the operators' own test cases, real models against onnxruntime, hostile files, export and back."""

from __future__ import annotations

import numpy as np
import pytest
from fuzz_onnx import fuzz
from models import place
from onnx_backend import DEPARTURES, cases, run

import preimage as pre
from preimage.io import files, limits
from preimage.io import onnx as onnx_io
from preimage.io.graph import Graph, Input, Node
from preimage.io.graph.passes import optimise
from preimage.io.onnx import export
from preimage.io.onnx.tracing import trace

onnx = pytest.importorskip("onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper
rng = np.random.default_rng


def model(nodes, inputs, outputs, stored=None, opset=17):
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info(k, 1, s) for k, s in inputs.items()],
        [helper.make_tensor_value_info(k, 1, None) for k in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (stored or {}).items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def values(graph, feeds, **options):
    with pre.no_grad(), pre.config(**options):
        found = graph.run(feeds)
    return [
        np.asarray(getattr(found[k], "data", found[k]) if isinstance(found[k], pre.Tensor) else found[k]) for k in graph.outputs
    ]


def oracle(proto, feeds):
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    data = proto if isinstance(proto, bytes) else proto.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, feeds)


# -- operators ---------------------------------------------------------------------------------------------------------


def test_every_backend_case_in_scope_passes():
    outcomes = [run(*case) for case in cases()]
    assert [(o.name, o.why) for o in outcomes if o.status == "failed"] == []
    assert {o.name for o in outcomes if o.status == "departs"} == set(DEPARTURES)
    passed = [o for o in outcomes if o.status == "passed"]
    assert len(passed) > 1200
    ran = {op for o in passed for op in o.ops}
    assert {
        "Conv",
        "ConvTranspose",
        "MaxPool",
        "AveragePool",
        "BatchNormalization",
        "Resize",
        "Pad",
        "LRN",
        "MaxUnpool",
        "Gemm",
    } <= ran


def test_the_backend_runner_can_fail(monkeypatch):
    case = next(c for c in cases(("node",)) if c[0] == "test_basic_conv_with_padding")
    assert run(*case).status == "passed"
    wrong = [(i, [np.asarray(o) + 1 for o in outputs]) for i, outputs in case[2]]
    assert run(case[0], case[1], wrong, *case[3:]).status == "failed"


def test_unsupported_nodes_are_all_named_before_anything_runs():
    net = model(
        [helper.make_node("Nope", ["x"], ["a"], name="first"), helper.make_node("Einsum2", ["a"], ["y"], name="second")],
        {"x": [1]},
        ["y"],
    )
    with pytest.raises(pre.FileFormatError, match=r"2 nodes .*'first' \(Nope\).*'second' \(Einsum2\)"):
        onnx_io.load(net)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../b", "", "C:\\x", "x\0y", "missing.bin"])
def test_external_data_only_from_the_models_own_folder(tmp_path, location):
    inside = tmp_path / "net"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(bytes(64))
    net = model([helper.make_node("Add", ["x", "w"], ["y"])], {"x": [4]}, ["y"], {"w": np.ones(4, np.float32)})
    tensor = net.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    (inside / "m.onnx").write_bytes(net.SerializeToString())
    with pytest.raises(pre.FileFormatError, match="data at"):
        onnx_io.load(inside / "m.onnx")


def test_external_data_beside_the_model_is_read(tmp_path):
    stored = rng(0).standard_normal((3, 4)).astype(np.float32)
    (tmp_path / "w.bin").write_bytes(b"12345678" + stored.tobytes())
    net = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [2, 3]}, ["y"], {"w": stored})
    tensor = net.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "w.bin"), ("offset", "8"), ("length", str(stored.nbytes))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    (tmp_path / "m.onnx").write_bytes(net.SerializeToString())
    assert np.array_equal(onnx_io.load(tmp_path / "m.onnx").weights["w"].data, stored)


def test_a_small_file_cannot_ask_for_all_memory():
    big = model([helper.make_node("ConstantOfShape", ["s"], ["y"])], {}, ["y"], {"s": np.array([2**20, 2**20, 2**20])})
    with pytest.raises(pre.FileFormatError, match="larger than the limit"):
        onnx_io.load(big).run({})
    outer = model([helper.make_node("Add", ["a", "b"], ["y"])], {"a": [4096, 1], "b": [1, 4096]}, ["y"])
    with limits.limits(elements=10**6), pytest.raises(pre.FileFormatError, match="larger than the limit"):
        onnx_io.load(outer).run({"a": np.zeros((4096, 1), np.float32), "b": np.zeros((1, 4096), np.float32)})


def test_mutated_models_give_our_error_or_a_result():
    counts, offenders = fuzz(0, 600)
    assert offenders == []
    assert counts["ran"] > 20
    assert counts["refused"] > 200


# -- parameters, gradients, training -----------------------------------------------------------------------------------


def test_parameters_have_the_files_names_and_can_be_trained():
    r = rng(1)
    stored = {
        "c.weight": r.standard_normal((4, 2, 3, 3)).astype(np.float32),
        "c.bias": np.zeros(4, np.float32),
        "shape": np.array([0, -1]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "c.weight", "c.bias"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Reshape", ["b", "shape"], ["y"]),
    ]
    net = onnx_io.load(model(nodes, {"x": ["n", 2, 6, 5]}, ["y"], stored))
    assert sorted(name for name, _ in net.named_parameters()) == ["c.bias", "c.weight"]
    x = r.standard_normal((3, 2, 6, 5)).astype(np.float32)
    optimiser = pre.optim.SGD(net.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        optimiser.zero_grad()
        loss = (net(pre.Tensor(x)) ** 2).sum()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


# -- export ------------------------------------------------------------------------------------------------------------


class UNet(pre.nn.Module):
    def __init__(self):
        super().__init__()
        nn = pre.nn
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, rng=0), nn.BatchNorm2d(8), nn.LeakyReLU(0.1))
        self.pool = nn.MaxPool2d(2)
        self.deep = nn.Conv2d(8, 12, 3, padding=2, dilation=2, groups=4, rng=1)
        self.up = nn.ConvTranspose2d(12, 8, 3, stride=2, padding=1, output_padding=1, rng=2)
        self.head = nn.Conv2d(16, 2, 1, rng=3)

    def forward(self, x):
        a = self.down(x)
        b = pre.ops.relu(self.deep(self.pool(a)))
        return self.head(pre.ops.concat([a, self.up(b)], axis=1)) * 0.5 + 1.0


def test_a_module_of_ones_own_is_traced_and_exported(tmp_path):
    net = UNet()
    net.eval()
    x = rng(2).random((2, 3, 12, 10)).astype(np.float32)
    with pre.no_grad():
        want = net(pre.Tensor(x)).data
    graph = trace(net, x)
    assert np.array_equal(values(graph, {"input": x})[0], want)
    assert graph.weights["deep.weight"].data is net.deep.weight.data
    export.save(net, tmp_path / "u.onnx", example=x)
    assert [p.name for p in tmp_path.iterdir()] == ["u.onnx"]
    other = rng(3).random((3, 3, 12, 10)).astype(np.float32)  # the batch size is open
    with pre.no_grad():
        want = net(pre.Tensor(other)).data
    got = oracle((tmp_path / "u.onnx").read_bytes(), {"input": other})[0]
    np.testing.assert_allclose(got, want, atol=1e-5)
    again = onnx_io.load(tmp_path / "u.onnx")
    np.testing.assert_allclose(values(again, {"input": other})[0], want, atol=1e-6)


def test_what_a_module_does_that_graphs_cannot_say_is_named():
    class Odd(pre.nn.Module):
        def forward(self, x):
            y = pre.ops.put(x, (1, 4), (slice(None), [0, 2]))
            return y + pre.ops.max_unpool(x[None], np.array([[[0, 1]]]), 4, overlap="add")

    with pytest.raises(pre.FileFormatError, match=r"2 operations .*put, put_switches"):
        trace(Odd(), np.zeros((1, 2), np.float32))


# -- real models -------------------------------------------------------------------------------------------------------

REAL = {
    "centerface": [(1, 3, 64, 96), (2, 3, 128, 64), (1, 3, 256, 256)],
    "classifier": [(1, 3, 48, 192), (3, 3, 48, 96)],
    "recogniser": [(1, 3, 48, 160)],
}


def opened(name):
    proto = onnx.load(place(name))
    for info in (*proto.graph.input, *proto.graph.output):
        for k, dim in enumerate(info.type.tensor_type.shape.dim):
            dim.dim_param = f"{info.name}_{k}"
    del proto.graph.value_info[:]
    return proto


@pytest.mark.parametrize(("name", "shape"), [(n, s) for n, shapes in REAL.items() for s in shapes])
@pytest.mark.parametrize("rewritten", [False, True])
def test_real_models_equal_onnxruntime(name, shape, rewritten):
    x = (rng(5).random(shape) * (255 if name == "centerface" else 1)).astype(np.float32)
    net = onnx_io.load(place(name), open_sizes=True)
    want = oracle(opened(name), {net.inputs[0].name: x})
    got = values(optimise(net) if rewritten else net, {net.inputs[0].name: x})
    for a, b in zip(got, want, strict=True):
        assert np.abs(a - b).max() <= 1e-4 * np.ptp(b)


def page(height, width):
    image = pytest.importorskip("PIL.Image")
    data = pytest.importorskip("skimage.data")
    picture = image.fromarray(data.page()).convert("RGB").resize((width, height))
    scaled = (np.asarray(picture, np.float32) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None]).astype(np.float32)


@pytest.mark.parametrize("size", [(160, 384), (320, 320)])
def test_the_text_detector_equals_onnxruntime(size):
    x = page(*size)
    x = np.concatenate([x, x[..., ::-1]])  # a batch of two
    want = oracle(onnx.load(place("dbnet")), {"x": x})[0]
    assert np.ptp(want) > 0.9  # there is text in it
    for net in (onnx_io.load(place("dbnet")), optimise(onnx_io.load(place("dbnet")))):
        assert np.abs(values(net, {"x": x})[0] - want).max() <= 1e-4 * np.ptp(want)


def vocoder(tmp_path):
    target = tmp_path / "vocoder.onnx"
    onnx.utils.extract_model(str(place("voice")), str(target), ["/Mul_7_output_0"], ["output"], check_model=False)
    proto = onnx.load(target)
    for info in (*proto.graph.input, *proto.graph.output):  # the cut leaves an input without a type
        shape = ["batch", 192, "time"] if info.name == "/Mul_7_output_0" else None
        info.CopyFrom(helper.make_tensor_value_info(info.name, 1, shape))
    return proto


@pytest.mark.parametrize("shape", [(1, 192, 20), (2, 192, 33)])
def test_the_vocoder_equals_onnxruntime(tmp_path, shape):
    proto = vocoder(tmp_path)
    z = rng(6).standard_normal(shape).astype(np.float32)
    net = onnx_io.load(proto)
    want = oracle(proto, {net.inputs[0].name: z})[0]
    for each in (net, optimise(net)):
        got = values(each, {net.inputs[0].name: z})[0]
        assert got.reshape(-1).shape[0] == shape[0] * shape[2] * 256
        assert np.abs(got - want).max() <= 1e-4 * np.ptp(want)


@pytest.mark.parametrize("name", ["centerface", "dbnet", "classifier", "recogniser"])
def test_export_runs_in_onnxruntime_and_changes_no_weight(name):
    net = onnx_io.load(place(name), open_sizes=True)
    proto = export.from_graph(net)
    x = page(160, 384) if name == "dbnet" else rng(7).random((1, 3, 48 if name != "centerface" else 64, 96)).astype(np.float32)
    ours = values(net, {net.inputs[0].name: x})
    for a, b in zip(ours, oracle(proto, {net.inputs[0].name: x}), strict=True):
        assert np.abs(a - b).max() <= 1e-4 * max(float(np.ptp(b)), 1e-3)
    again = onnx_io.load(proto)
    assert sorted(again.weights) == sorted(net.weights)
    for key, parameter in net.weights.items():
        assert again.weights[key].data.tobytes() == parameter.data.tobytes()
    for a, b in zip(ours, values(again, {net.inputs[0].name: x}), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    "after",
    [
        [Node("y", "clip", ("c",), ("y",), {"lo": -0.5, "hi": 1.5})],
        [Node("y", "mul", ("c", "c"), ("y",))],
        [Node("k", "add", ("c", "three"), ("k",)), Node("d", "div", ("k", "three"), ("d",)), Node("y", "tanh", ("d",), ("y",))],
        [Node("r", "add", ("c", "c2"), ("r",)), Node("l", "leaky_relu", ("r",), ("l",), {"slope": 0.2}), Node("y", "mul", ("l", "r"), ("y",))],
    ],
    ids=["clip", "square", "numbers", "residual"],
)  # fmt: skip
def test_an_optimised_graph_is_exported_too(after):
    r = rng(5)
    w, x = r.standard_normal((6, 3, 3, 3)).astype(np.float32), r.standard_normal((2, 3, 9, 8)).astype(np.float32)
    first = [Node(k, "conv", ("x", "w"), (k,), {"padding": ((1, 1), (1, 1))}) for k in ("c", "c2")]
    graph = Graph(
        [*first, *after], [Input("x", (None, 3, None, None))], ["y"], parameters={"w": w}, constants={"three": np.float32(3)}
    )
    fused = optimise(graph)
    assert len(fused.nodes) < len(graph.nodes)
    (want,) = values(graph, {"x": x})
    (got,) = oracle(export.from_graph(fused), {"x": x})
    (back,) = values(onnx_io.load(export.from_graph(fused)), {"x": x})
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(back, want, rtol=1e-5, atol=1e-6)


def test_same_bits_for_any_batch_and_threads():
    net = optimise(onnx_io.load(place("centerface"), open_sizes=True))
    x = (rng(8).random((3, 3, 64, 64)) * 255).astype(np.float32)
    key = net.inputs[0].name
    together = values(net, {key: x}, threads=1)
    for threads in (1, 2):
        for n in range(3):
            for a, b in zip(together, values(net, {key: x[n : n + 1]}, threads=threads), strict=True):
                assert a[n : n + 1].tobytes() == b.tobytes()


def test_the_last_layers_of_centerface_learn_a_toy_target(tmp_path):
    net = onnx_io.load(place("centerface"), open_sizes=True)
    last = {key for node in net.nodes[-12:] for key in node.inputs if key in net.weights}
    for key, parameter in net.weights.items():
        parameter.requires_grad = key in last
    x = (rng(9).random((1, 3, 64, 64)) * 255).astype(np.float32)
    target = rng(10).random((1, 2, 16, 16)).astype(np.float32)
    optimiser = pre.optim.Adam([net.weights[k] for k in sorted(last)], lr=1e-2)
    losses = []
    for _ in range(50):
        optimiser.zero_grad()
        found = net.run({net.inputs[0].name: pre.Tensor(x)})
        loss = ((found[net.outputs[1]] - target) ** 2).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    files.save_model(net, tmp_path / "tuned.onnx")
    want = values(net, {net.inputs[0].name: x})
    for a, b in zip(want, oracle((tmp_path / "tuned.onnx").read_bytes(), {net.inputs[0].name: x}), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3 * max(1.0, float(np.abs(b).max())))

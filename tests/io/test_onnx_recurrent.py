"""RNN, GRU and LSTM of ONNX against onnxruntime: every form that it runs, drawn at random; sizes all different."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import preimage as pre
from preimage.io import onnx as onnx_io

onnx = pytest.importorskip("onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
USUAL = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
STEPS, BATCH, FEATURES, HIDDEN = 5, 3, 4, 6


def net(op, rng, *, direction="forward", bias=True, lengths=False, states=False, peephole=False, stored=True, **attributes):
    """A model of one node, and arrays to feed it."""
    count, rows = 2 if direction == "bidirectional" else 1, GATES[op] * HIDDEN
    batch_first = attributes.get("layout", 0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    feeds = {"x": draw(BATCH, STEPS, FEATURES) if batch_first else draw(STEPS, BATCH, FEATURES)}
    arrays = {"w": draw(count, rows, FEATURES) / 2, "r": draw(count, rows, HIDDEN) / 2}
    inputs = ["x", "w", "r", "b" if bias else "", "len" if lengths else "", "h" if states else ""]
    if bias:
        arrays["b"] = draw(count, 2 * rows)
    if lengths:
        feeds["len"] = np.array([STEPS - 2, STEPS, 1], np.int32)
    first = (BATCH, count) if batch_first else (count, BATCH)
    if states:
        feeds["h"] = draw(*first, HIDDEN)
    if op == "LSTM":
        inputs += ["c" if states else "", "p" if peephole else ""]
        if states:
            feeds["c"] = draw(*first, HIDDEN)
        if peephole:
            arrays["p"] = draw(count, 3 * HIDDEN)
    outputs = ["y", "y_h", "y_c"][: 3 if op == "LSTM" else 2]
    node = helper.make_node(op, inputs, outputs, hidden_size=HIDDEN, direction=direction, **attributes)
    if not stored:
        feeds |= arrays
        arrays = {}
    infos = [
        helper.make_tensor_value_info(k, onnx.TensorProto.INT32 if v.dtype == np.int32 else onnx.TensorProto.FLOAT, v.shape)
        for k, v in feeds.items()
    ]
    graph = helper.make_graph(
        [node], "net", infos, [helper.make_tensor_value_info(k, 1, None) for k in outputs],
        [numpy_helper.from_array(v, k) for k, v in arrays.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), feeds


def ours(model, feeds):
    with pre.no_grad():
        found = onnx_io.load(model).run(feeds)
    return [np.asarray(found[o.name]) for o in model.graph.output]


def theirs(model, feeds):
    ort = pytest.importorskip("onnxruntime")
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_every_form_agrees_with_onnxruntime(op):
    rng = np.random.default_rng(1)
    flags = {"RNN": [{}], "GRU": [{}, {"linear_before_reset": 1}], "LSTM": [{}, {"peephole": True}, {"input_forget": 1}]}[op]
    forms = itertools.product(("forward", "reverse", "bidirectional"), (False, True), (False, True), flags)
    for direction, lengths, states, flag in forms:
        model, feeds = net(op, rng, direction=direction, lengths=lengths, states=states, bias=lengths or states, **flag)
        for a, b in zip(ours(model, feeds), theirs(model, feeds), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6, err_msg=f"{op} {direction} {lengths} {states} {flag}")


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_activations_and_clip_agree_with_onnxruntime(op):
    rng = np.random.default_rng(2)
    words = [
        "Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus",
    ]  # fmt: skip
    with_alpha, with_beta = (
        {"Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu"},
        {"Affine", "ScaledTanh", "HardSigmoid"},
    )
    for k, word in enumerate(words):
        direction = ("forward", "bidirectional")[k % 2]
        names = [word, *USUAL[op][1:]] * (1 + k % 2)
        attributes = {"activations": names, "clip": 0.7 + 0.1 * k}
        attributes |= {"activation_alpha": [0.3, 0.2][: 1 + k % 2]} if word in with_alpha else {}
        attributes |= {"activation_beta": [0.6, 0.5][: 1 + k % 2]} if word in with_beta else {}
        model, feeds = net(op, rng, direction=direction, states=True, **attributes)
        for a, b in zip(ours(model, feeds), theirs(model, feeds), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=f"{op} {names}")


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_batch_first_is_the_same_with_axes_exchanged(op):
    """onnxruntime has no layout 1: it is compared with layout 0."""
    model, feeds = net(op, np.random.default_rng(3), direction="bidirectional", lengths=True, states=True)
    first, _ = net(op, np.random.default_rng(3), direction="bidirectional", lengths=True, states=True, layout=1)
    del first.graph.initializer[:]
    first.graph.initializer.extend(model.graph.initializer)
    turned = {k: v if k == "len" else np.swapaxes(v, 0, 1) for k, v in feeds.items()}
    y, *states = ours(model, feeds)
    y_first, *states_first = ours(first, turned)
    assert np.array_equal(y_first, y.transpose(2, 0, 1, 3))
    for a, b in zip(states_first, states, strict=True):
        assert np.array_equal(a, np.swapaxes(b, 0, 1))


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_weights_are_parameters_and_have_gradients(op):
    model, feeds = net(op, np.random.default_rng(4), direction="bidirectional", states=True)
    graph = onnx_io.load(model)
    assert sorted(graph.weights) == ["b", "r", "w"]
    found = graph.run(feeds)
    sum(found[k].sum() for k in graph.outputs).backward()
    assert all(np.abs(p.grad).max() > 0 for p in graph.parameters())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"direction": "sideways"}, "direction 'sideways'"),
        ({"activations": ["Sine"]}, "activation 'Sine'"),
        ({"activations": ["Tanh", "Tanh"]}, "2 activations"),
        ({"direction": "bidirectional"}, "do not fit"),
        ({"hidden_size": 7}, "hidden_size is 7"),
    ],
)
def test_wrong_forms_are_refused_in_words(change, words):
    model, feeds = net("RNN", np.random.default_rng(5))
    node = model.graph.node[0]
    for key, value in change.items():
        for old in [a for a in node.attribute if a.name == key]:
            node.attribute.remove(old)
        node.attribute.append(helper.make_attribute(key, value))
    with pytest.raises(pre.PreimageError, match=words):
        ours(model, feeds)


def test_long_sequences_count_as_work():
    """The work of a net that loops is foreseen: steps times the weights."""
    from preimage.io.limits import limits

    model, feeds = net("LSTM", np.random.default_rng(6))
    with limits(flop=1000), pytest.raises(pre.FileFormatError, match="flop in one run"):
        ours(model, feeds)


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_lengths_that_are_an_input_are_read_by_the_program(op):
    """Recorded once, then run with other lengths, one of them wrong; those of another dtype are converted by a kernel."""
    model, feeds = net(op, np.random.default_rng(7), direction="bidirectional", lengths=True)
    graph = pre.optimise(onnx_io.load(model))
    with pre.no_grad():
        for _ in range(3):
            graph.run(feeds)
        assert not graph.programs[-1].functions
        for lengths in ([STEPS, 1, 3], [0, STEPS, 2]):
            other = feeds | {"len": np.array(lengths, np.int32)}
            want = onnx_io.load(model).run(other)
            for name, value in graph.run(other).items():
                np.testing.assert_array_equal(value, want[name])
            assert graph.why_no_program is None
        with pytest.raises(pre.ShapeError, match="lengths must lie in"):
            graph.run(feeds | {"len": np.array([1, STEPS + 1, 1], np.int32)})

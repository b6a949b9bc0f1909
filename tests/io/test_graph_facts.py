"""Dtypes, shapes and contents before anything runs: every op has a rule, each rule says what runs, arithmetic on open sizes is right.

Every case of the package onnx is compared in test_onnx.py (`onnx_backend.run`), whole files by `graph_facts.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from caffe_nets import build
from graph_facts import disagreements, every_value

import preimage.io.caffe
import preimage.io.onnx  # noqa: F401 - both register their words
from preimage.io.graph import OPS, Graph, Input, Node
from preimage.io.graph.facts import SHAPES, Fact, infer
from preimage.io.graph.sizes import Size, UnknownError, broadcast, product

RNG = np.random.default_rng(12)


def test_every_op_has_a_rule() -> None:
    assert not [name for name in OPS if name not in SHAPES]
    assert not [name for name in SHAPES if name not in OPS]


def test_arithmetic_on_open_sizes() -> None:
    n, m = Size.of("n"), Size.of("m")
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b, c = (int(v) for v in rng.integers(1, 9, 3))
        values = {"n": int(rng.integers(1, 50)), "m": int(rng.integers(1, 50))}

        def at(size: Any, values: dict[str, int] = values) -> int:
            if not isinstance(size, Size):
                return int(size)
            return sum(count * int(np.prod([values[name] for name in names], dtype=int)) for names, count in size.terms)

        p, q = n * a + m * b - c, m * c + a
        x, y = at(p), at(q)
        assert at(p + q) == x + y
        assert at(p - q) == x - y
        assert at(p * q) == x * y
        assert at((p * b) // b) == x
        assert at((p * n) // n) == x
        assert (p - p, p // p, p * 0) == (0, 1, 0)
        assert p // 7 == (p + 1 - 1) // 7
        assert p // 7 != q // 7 or p == q
    assert product([n, 3, m]) == m * n * 3
    with pytest.raises(UnknownError):
        n // 0
    with pytest.raises(UnknownError):
        n * (1 << 70)


def test_a_size_stays_small_whatever_is_done_to_it() -> None:
    size: Any = Size.of("x.0")
    for k in range(300):
        size = (size * Size.of(f"y.{k}") + k) // 3
        assert len(repr(size)) < 2000


def test_open_sizes_broadcast() -> None:
    n, m = Size.of("n"), Size.of("m")
    assert broadcast((n, 3), (1,)) == (n, 3)
    assert broadcast((n, 3), (n, 1)) == (n, 3)
    assert broadcast((n,), (5,)) == (5,)
    assert broadcast((n,), (m,)) == (None,)
    assert broadcast((4, n, 1), (m,)) == (4, n, m)
    with pytest.raises(UnknownError):
        broadcast((2,), (3,))


def graph_of(*nodes: Node, shape: tuple[Any, ...] = (None, 4, None, None), **constants: Any) -> Graph:
    return Graph(nodes, [Input("x", shape)], [nodes[-1].outputs[0]], constants=constants)


def node(op: str, inputs: str, output: str, **attributes: Any) -> Node:
    return Node(output, op, tuple(inputs.split()), (output,), attributes)


def test_the_shape_arithmetic_of_an_exporter_is_followed_on_open_sizes() -> None:
    graph = graph_of(
        node("onnx.Shape", "x", "s"),
        node("onnx.Gather", "s two", "h"),
        node("onnx.Mul", "h two", "h2"),
        node("onnx.Unsqueeze", "h2 zeros", "u"),
        node("onnx.Concat", "minus four u", "t", axis=0),
        node("onnx.Slice", "s zeros ones", "n"),
        node("onnx.Concat", "n four minus", "flat", axis=0),
        node("onnx.Reshape", "x flat", "y"),
        two=np.array(2), zeros=np.array([0]), ones=np.array([1]), four=np.array([4]), minus=np.array([-1]),
    )  # fmt: skip
    facts = infer(graph)
    height, width = Size.of("x.2"), Size.of("x.3")
    assert facts["y"].shape == (Size.of("x.0"), 4, height * width)
    assert facts["t"].value is not None
    assert facts["t"].value.tolist() == [-1, 4, height * 2]
    assert facts["t"].known is None
    exact = infer(graph, {"x": Fact("float32", (2, 4, 6, 5))})
    assert exact["y"].shape == (2, 4, 30)
    assert exact["t"].known is not None
    assert exact["t"].known.tolist() == [-1, 4, 12]


def test_computed_amounts_leave_the_number_of_axes_known() -> None:
    """What is cut, padded and repeated by numbers of the input has sizes of its own, and as many axes as before."""
    graph = graph_of(
        node("onnx.ReduceMax", "x", "m", keepdims=0), node("onnx.Cast", "m", "c", to=7), node("onnx.Reshape", "c one", "n"),
        node("onnx.Expand", "n eight", "pads"), node("onnx.Expand", "n four", "many"),
        node("onnx.Pad", "x pads", "padded"), node("onnx.Expand", "n two", "both"),
        node("onnx.Pad", "x both fill axes", "padded_axes"), node("onnx.Tile", "x many", "tiled"),
        node("onnx.Slice", "x n n one", "cut"), node("onnx.Slice", "x many many", "cut_all"), node("onnx.Expand", "x many", "wide"),
        node("onnx.Expand", "m many", "grown"),
        one=np.array([1]), two=np.array([2]), four=np.array([4]), eight=np.array([8]), axes=np.array([-1]), fill=np.array(0.0, np.float32),
    )  # fmt: skip
    facts = infer(graph)
    known = (Size.of("x.0"), 4, Size.of("x.2"), Size.of("x.3"))
    assert facts["cut"].shape == (known[0], Size.of("cut.1"), *known[2:])
    for key in ("padded", "tiled", "cut_all", "wide", "grown"):
        assert facts[key].shape == tuple(Size.of(f"{key}.{axis}") for axis in range(4))
    assert facts["padded_axes"].shape == (*known[:3], Size.of("padded_axes.3"))


def test_contents_of_weights_that_training_changes_are_not_contents() -> None:
    graph = Graph(
        [node("add", "x m", "y")], [Input("x", (2,))], ["y"], buffers={"m": np.zeros(2, np.float32)}, updates={"m": "y"}
    )
    assert infer(graph.train())["m"].value is None  # type: ignore[arg-type]
    assert infer(graph.eval())["m"].value is not None  # type: ignore[arg-type]


def test_what_is_broken_is_unknown_and_raises_nothing() -> None:
    for bad in (
        node("onnx.Transpose", "x", "y", perm=[0, 9, 1, 2]),
        node("onnx.Transpose", "x", "y", perm="junk"),
        node("onnx.Concat", "x k", "y", axis=99),
        node("onnx.Conv", "x k", "y", strides=[0, 0]),
        node("onnx.Resize", "x k k k", "y"),
        node("onnx.Slice", "x k k", "y"),
        node("onnx.Split", "x", "y", split=[-5, 2**62]),
        node("onnx.Pad", "x", "y", pads=[-(2**62)] * 8),
        node("onnx.Cast", "x", "y"),
        node("onnx.Einsum", "x", "y", equation="->->..."),
        node("onnx.Range", "k k k", "y"),
    ):
        fact = infer(graph_of(bad, k=np.array([0.5, 2.0], np.float32)))["y"]
        assert fact.shape is None or all(isinstance(d, Size) or d >= 0 for d in fact.shape)


X, SMALL = (2, 6, 5, 7), (2, 3, 4, 4)
LAYERS: list[tuple[str, Any]] = [
    ('AbsVal"', [X]), ('Power" power_param { power: 2 shift: 1 }', [X]), ('Exp"', [X]), ('Threshold"', [X]), ('Dropout"', [X]),
    ('Log" log_param { shift: 5 }', [X]), ('ArgMax" argmax_param { top_k: 2 }', [X]), ('ArgMax" argmax_param { out_max_val: true top_k: 3 }', [X]),
    ('ArgMax" argmax_param { axis: 1 top_k: 3 }', [X]), ('BatchNorm"', [X]), ('Scale" scale_param { axis: 1 bias_term: true }', [X]),
    ('Concat"', [X, X]), ('Eltwise" eltwise_param { operation: SUM coeff: 2 coeff: 1 }', [X, X]),
    ('Convolution" convolution_param { num_output: 4 kernel_size: 3 pad: 1 stride: 2 group: 2 }', [X]),
    ('Deconvolution" convolution_param { num_output: 4 kernel_size: 3 stride: 2 pad: 1 group: 2 }', [X]),
    ('Crop" crop_param { axis: 2 offset: 1 }', [X, SMALL]), ('InnerProduct" inner_product_param { num_output: 9 axis: 2 }', [X]),
    ('Im2col" convolution_param { kernel_size: 3 stride: 2 pad: 1 }', [SMALL]), ('LRN" lrn_param { local_size: 3 }', [X]),
    ('LRN" lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL }', [X]), ('MVN"', [X]), ('Normalize" norm_param { across_spatial: false }', [X]),
    ('Permute" permute_param { order: 0 order: 2 order: 1 order: 3 }', [X]), ('Pooling" pooling_param { pool: AVE kernel_size: 3 stride: 2 }', [X]),
    ('Pooling" pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }', [X]), ('Pooling" pooling_param { pool: AVE global_pooling: true }', [X]),
    ('Reduction" reduction_param { operation: MEAN axis: 1 }', [X]), ('Reshape" reshape_param { shape { dim: 0 dim: -1 } }', [X]),
    ('Reshape" reshape_param { shape { dim: 3 dim: -1 } axis: 1 num_axes: 1 }', [X]), ('Tile" tile_param { axis: 2 tiles: 3 }', [SMALL]),
    ('Flatten" flatten_param { axis: 1 end_axis: 2 }', [X]), ('Slice" slice_param { axis: 1 slice_point: 2 }', [X]), ('Softmax"', [X]),
    ('EuclideanLoss"', [X, X]), ('SigmoidCrossEntropyLoss"', [X, X]), ('PReLU"', [X]), ('ELU"', [X]), ('Clip" clip_param { min: 0 max: 1 }', [X]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "shapes"), LAYERS)
def test_layers_of_caffe(text: str, shapes: Any) -> None:
    graph = build(f'type: "{text}', *shapes, tops=2 if text.startswith("Slice") else 1)
    feeds = {item.name: RNG.random(shape) for item, shape in zip(graph.inputs, shapes, strict=True)}
    wrong, counts = disagreements(graph, feeds, every_value(graph, feeds))
    assert not [line for line in wrong if "from inputs" in line]
    assert counts["inputs: whole"] == len([key for n in graph.nodes for key in n.outputs if key])


def test_the_comparison_can_fail() -> None:
    graph = graph_of(node("onnx.ReduceSum", "x", "y", axes=[1], keepdims=0), shape=(2, 4, 3, 3))
    feeds = {"x": RNG.random((2, 4, 3, 3)).astype(np.float32)}
    made = every_value(graph, feeds)
    assert disagreements(graph, feeds, made)[0] == []
    for other in (made["y"].astype(np.float64), made["y"][:, None], made["y"][:1]):
        assert disagreements(graph, feeds, {"y": other})[0]

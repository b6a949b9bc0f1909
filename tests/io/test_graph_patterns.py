"""Every pattern: found in any order of operands, the same values and gradients as what it replaces; near misses are left alone."""

from __future__ import annotations

import ast
import itertools
from typing import Any

import numpy as np
import pytest

import preimage as pre
import preimage.io.onnx
from preimage.io.graph import Graph, Input, Node, optimise
from preimage.io.graph.match import View, find
from preimage.io.graph.moving_patterns import MOVING
from preimage.io.graph.patterns import PATTERNS
from preimage.io.graph.rewriting import rewrite_patterns

RNG = np.random.default_rng(21)
SHAPE = (2, 6, 5, 4)
#: Operators of expressions that are ONNX's: name -> (op, attributes).
_OPS: dict[str, str] = {
    "erf": "onnx.Erf",
    "mean": "onnx.ReduceMean",
    "total": "onnx.ReduceSum",
    "highest": "onnx.ReduceMax",
    "maximum": "onnx.Max",
    "minimum": "onnx.Min",
    "pow": "onnx.Pow",
    "neg": "onnx.Neg",
    "length": "onnx.ReduceL2",
    "total_squares": "onnx.ReduceSumSquare",
}
_REDUCED = ("mean", "total", "highest", "total_squares")


class Spelled:
    """A graph made from an expression as exporters would: binary nodes, numbers as stored arrays; `flip` swaps operands that commute."""

    def __init__(self, text: str, flip: int = 0, axes: tuple[int, ...] = (1,), **stored: Any) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[str, Any] = {k: np.asarray(v, np.float64) for k, v in stored.items()}
        self.flips, self.axes = itertools.cycle([bool(flip & 1), bool(flip & 2), bool(flip & 4)]), axes
        self.seen: dict[str, str] = {}
        self.output = self.value(ast.parse(text, mode="eval").body)

    def add(self, op: str, inputs: list[str], **attributes: Any) -> str:
        if op in ("add", "mul", "onnx.Max", "onnx.Min") and next(self.flips):
            inputs = inputs[::-1]
        key = f"v{len(self.nodes)}"
        self.nodes.append(Node(key, op, tuple(inputs), (key,), attributes))
        return key

    def number(self, value: float) -> str:
        key = f"c{len(self.constants)}"
        self.constants[key] = np.asarray(value, np.float64)
        return key

    def value(self, tree: ast.expr) -> str:
        text = ast.unparse(tree)
        if not isinstance(tree, ast.Name | ast.Constant) and text in self.seen:
            return self.seen[text]  # what stands twice is computed once
        self.seen[text] = key = self._value(tree)
        return key

    def _value(self, tree: ast.expr) -> str:
        match tree:
            case ast.Name(id=name):
                return name
            case ast.Constant(value=value):
                return self.number(float(value))  # type: ignore[arg-type]
            case ast.UnaryOp(operand=ast.Constant(value=value)):
                return self.number(-float(value))  # type: ignore[arg-type]
            case ast.BinOp(op=ast.Pow(), left=left, right=right):
                return self.add("onnx.Pow", [self.value(left), self.value(right)])
            case ast.BinOp(op=op, left=left, right=right):
                word = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div"}[type(op)]  # type: ignore[index]
                return self.add(word, [self.value(left), self.value(right)])
            case ast.Call(func=ast.Name(id=word), args=args, keywords=keywords):
                options: dict[str, Any] = {str(k.arg): ast.literal_eval(k.value) for k in keywords}
                if word in _REDUCED:
                    options = {"axes": list(self.axes), "keepdims": 1} | options
                return self.add(_OPS.get(word, word), [self.value(a) for a in args], **options)
        raise AssertionError(ast.unparse(tree))

    def graph(
        self,
        *,
        shape: tuple[Any, ...] = SHAPE,
        outputs: tuple[str, ...] = (),
        inputs: tuple[str, ...] = ("x",),
        dtype: str = "float64",
    ) -> Graph:
        given = [Input(name, shape, dtype) for name in inputs]
        return Graph(self.nodes, given, [self.output, *outputs], constants=self.constants).eval()  # type: ignore[return-value]


def words(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def same(before: Graph, after: Graph, *, shape: tuple[int, ...] = SHAPE, scale: float = 2.0) -> None:
    """Values and gradients of both, in float64."""
    arrays = [RNG.standard_normal(shape) * scale for _ in before.inputs]
    found = []
    for graph in (before, after):
        leaves = [pre.Tensor(a, requires_grad=True) for a in arrays]
        y = graph(*leaves)
        cotangent = np.random.default_rng(5).standard_normal(y.shape)
        found.append([y.data, *(g.data for g in pre.grad(y, leaves, cotangent))])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6 * np.abs(a).max())


_SQUARES = "sqrt(mean((x - mean(x)) ** 2) + 0.001)"
#: (name, an exporter's expression, the op that it becomes)
FOUND = [
    ("GELU", "x * 0.5 * (1 + erf(x / 1.4142135))", "gelu"),
    ("GELU", "x * (0.5 * (erf(x * 0.70710678) + 1))", "gelu"),
    ("GELU", "0.5 * (x * (erf(x / 1.41421356) + 1))", "gelu"),
    ("GELU", "(x + x * erf(x / 1.4142135)) * 0.5", None),  # another form: left alone
    ("GELU by tanh", "0.5 * x * (1 + tanh(0.79788456 * (x + 0.044715 * x ** 3)))", "gelu"),
    ("GELU by tanh", "x * ((tanh((x + x * x * x * 0.044715) * 0.79788456) + 1) * 0.5)", "gelu"),
    ("GELU by tanh", "0.5 * x * (1 + tanh(0.79788456 * x * (1 + 0.044715 * x * x)))", "gelu"),
    ("Mish", "x * tanh(softplus(x))", "mish"),
    ("Mish", "x * tanh(log(1 + exp(x)))", "mish"),
    ("SiLU", "x * sigmoid(x)", "swish"),
    ("SiLU", "x * sigmoid(x * 1.702)", "swish"),
    ("SiLU", "x / (1 + exp(-1 * x))", "swish"),
    ("SiLU", "x / (exp(neg(x)) + 1)", "swish"),
    ("HardSwish", "x * clip(x + 3, lo=0.0, hi=6.0) / 6", "hard_swish"),
    ("HardSwish", "x * (clip(x + 3, lo=0.0, hi=6.0) * 0.16666667)", "hard_swish"),
    ("HardSwish", "x * clip(x * 0.16666667 + 0.5, lo=0.0, hi=1.0)", "hard_swish"),
    ("HardSwish", "x * hard_sigmoid(x, alpha=0.16666667, beta=0.5)", "hard_swish"),
    ("HardSigmoid", "clip(x + 3, lo=0.0, hi=6.0) / 6", "hard_sigmoid"),
    ("LeakyReLU", "maximum(x, x * 0.3)", "leaky_relu"),
    ("ReLU", "maximum(x, 0)", "relu"),
    ("Clip", "minimum(maximum(x, 0), 6)", "clip"),
    ("Clip", "minimum(relu(x), 6)", "clip"),
    ("Clip", "minimum(x, 0.5)", "clip"),
    ("Clip", "maximum(x, 0.5)", "clip"),
    ("LayerNorm", f"(x - mean(x)) / {_SQUARES}", "layer_norm"),
    ("LayerNorm", "(x - mean(x)) * rsqrt(mean((x - mean(x)) * (x - mean(x))) + 0.001)", "layer_norm"),
    ("LayerNorm", f"(x - mean(x)) / {_SQUARES} * W + B", "layer_norm"),
    ("LayerNorm", f"x * (W / {_SQUARES}) + (B - mean(x) * (W / {_SQUARES}))", "layer_norm"),
    ("RMSNorm", "x / sqrt(mean(x ** 2) + 0.001)", "rms_norm"),
    ("RMSNorm", "W * (x * rsqrt(mean(x * x) + 0.001))", "rms_norm"),
    ("softmax", "exp(x - highest(x)) / total(exp(x - highest(x)))", "softmax"),
    ("root of a sum of squares", "sqrt(total(x ** 2))", "onnx.ReduceL2"),
    ("root of a sum of squares", "sqrt(total_squares(x))", "onnx.ReduceL2"),
]
STORED = {"W": RNG.standard_normal((6, 1, 1)), "B": RNG.standard_normal((6, 1, 1))}


@pytest.mark.parametrize(("name", "text", "op"), FOUND)
@pytest.mark.parametrize("flip", [0, 5, 7])
def test_an_expression_becomes_its_word(name: str, text: str, op: str | None, flip: int) -> None:
    before = Spelled(text, flip, **{k: v for k, v in STORED.items() if k in text}).graph()
    after = rewrite_patterns(before)
    if op is None:
        assert not after.changes
        return
    assert words(after) == [op]
    assert after.changes[name] == 1
    if op != "softmax":  # the highest value has gradients of its own in the plain form
        same(before, after)
    else:
        x = RNG.standard_normal(SHAPE)
        with pre.no_grad():
            np.testing.assert_allclose(after(x), before(x), rtol=1e-12)


def test_every_pattern_is_tested() -> None:
    tested = {name for name, _, op in FOUND if op} | {"weight of LayerNorm", "bias of LayerNorm", "weight of RMSNorm"}
    tested |= {"attention", "GroupNorm", "InstanceNorm", "mean over space", "means of means", "channel shuffle", "DepthToSpace"}
    assert {p.name for p in (*PATTERNS, *MOVING)} == tested


#: Expressions that are nearly one of the patterns, and must stay as they are.
NEAR = [
    "x * 0.5 * (1 + erf(x / 1.4))",
    "x * 0.4 * (1 + erf(x / 1.41421356))",
    "x * 0.5 * (2 + erf(x / 1.41421356))",
    "x * 0.5 * (1 - erf(x / 1.41421356))",
    "x * 0.5 + (1 + erf(x / 1.41421356))",
    "z * 0.5 * (1 + erf(x / 1.41421356))",
    "x * 0.5 / (1 + erf(x / 1.41421356))",
    "0.5 * x * (1 + tanh(0.8 * (x + 0.044715 * x ** 3)))",
    "0.5 * x * (1 + tanh(0.79788456 * (x + 0.044715 * x ** 2)))",
    "0.5 * x * (1 + tanh(0.79788456 * (x - 0.044715 * x ** 3)))",
    "z * tanh(softplus(x))",
    "x * tanh(log(2 + exp(x)))",
    "z * sigmoid(x)",
    "x / sigmoid(x)",
    "x + sigmoid(x)",
    "x / (1 + exp(x))",
    "x * clip(x + 2, lo=0.0, hi=6.0) / 6",
    "x * clip(x + 3, lo=0.0, hi=5.0) / 6",
    "x * clip(x + 3, lo=-1.0, hi=6.0) / 6",
    "z * clip(x + 3, lo=0.0, hi=6.0) / 7",
    "x * hard_sigmoid(x, alpha=0.2, beta=0.5)",
    "clip(x + 3, lo=0.0, hi=6.0) / 3",
    "maximum(x, x * 1.5)",
    "maximum(x, x * -0.5)",
    "maximum(z, x * 0.5)",
    "maximum(x, z)",
    "(x - mean(x)) / sqrt(mean((z - mean(x)) ** 2) + 0.001)",
    "(x - mean(z)) / sqrt(mean((x - mean(x)) ** 2) + 0.001)",
    "(x + mean(x)) / sqrt(mean((x - mean(x)) ** 2) + 0.001)",
    "(x - mean(x)) / sqrt(mean((x - mean(x)) ** 3) + 0.001)",
    "(x - mean(x)) / sqrt(mean((x - mean(x)) ** 2) - 0.5)",
    "(x - mean(x)) * sqrt(mean((x - mean(x)) ** 2) + 0.001)",
    "(x - mean(x, axes=[2])) / sqrt(mean((x - mean(x)) ** 2) + 0.001)",
    "x / sqrt(mean(x ** 2, keepdims=0) + 0.001)",
    "x / sqrt(mean(z ** 2) + 0.001)",
    "x / sqrt(mean(x ** 3) + 0.001)",
    "exp(x - highest(x)) / total(exp(x - highest(x)), axes=[2])",
    "exp(x - highest(x)) / total(exp(x - highest(z)))",
    "sqrt(total(x ** 3))",
    "sqrt(total(x * z))",
]


@pytest.mark.parametrize("text", NEAR)
def test_near_misses_stay(text: str) -> None:
    before = Spelled(text).graph(inputs=("x", "z") if "z" in text else ("x",))
    after = rewrite_patterns(before)
    assert words(after) == words(before), after.changes


@pytest.mark.parametrize(("name", "text", "op"), [row for row in FOUND if row[2] and "(" in row[1]])
def test_a_value_that_others_take_keeps_its_nodes(name: str, text: str, op: str) -> None:
    spelled = Spelled(text, **{k: v for k, v in STORED.items() if k in text})
    if len(spelled.nodes) < 2:
        return
    for inner in spelled.nodes[:-1]:
        after = rewrite_patterns(spelled.graph(outputs=(inner.outputs[0],)))
        assert inner.outputs[0] in {key for node in after.nodes for key in node.outputs}
        with pre.no_grad():
            x = RNG.standard_normal(SHAPE)
            for a, b in zip(after(x), spelled.graph(outputs=(inner.outputs[0],))(x), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_over_other_axes_it_is_another_norm() -> None:
    before = Spelled("(x - mean(x)) / sqrt(mean((x - mean(x)) ** 2, axes=[3]) + 0.001)").graph()
    after = rewrite_patterns(before)
    assert words(after) == ["onnx.ReduceMean", "sub", "rms_norm"]
    same(before, after)


def test_integers_stay() -> None:
    spelled = Spelled("maximum(x, 0)")
    spelled.constants = {key: np.asarray(v, np.int64) for key, v in spelled.constants.items()}
    assert words(rewrite_patterns(spelled.graph(dtype="int64"))) == ["onnx.Max"]


def test_weights_that_make_the_result_larger_stay_outside() -> None:
    wide = np.ones((3, 2, 6, 5, 4))
    after = rewrite_patterns(Spelled(f"(x - mean(x)) / {_SQUARES} * W", W=wide).graph())
    assert words(after) == ["layer_norm", "mul"]
    assert len(after.nodes[0].inputs) == 1
    large = Spelled("maximum(x, k)", k=np.zeros((1, 1, 1, 1, 1)))
    assert words(rewrite_patterns(large.graph())) == ["onnx.Max"]


@pytest.mark.parametrize("flip", [0, 1, 7])
@pytest.mark.parametrize(
    "text", ["matmul(q, k) * 0.3", "matmul(q, k)", "matmul(q * 0.3, k)", "matmul(q, k) * 0.3 + M", "matmul(q, k) / 4 + M"]
)
def test_attention(text: str, flip: int) -> None:
    shape = (2, 3, 5, 5)
    mask = {"M": RNG.standard_normal((5, 5))} if "M" in text else {}
    before = Spelled(f"matmul(softmax({text}, axis=-1), v)", flip, **mask).graph(shape=shape, inputs=("q", "k", "v"))
    after = rewrite_patterns(before)
    assert words(after) == ["attention"]
    same(before, after, shape=shape, scale=1)
    other = Spelled(f"matmul(softmax({text}, axis=2), v)", flip, **mask).graph(shape=shape, inputs=("q", "k", "v"))
    assert "attention" not in words(rewrite_patterns(other))


def test_group_norm() -> None:
    def graph(groups: int, scale: float = 1.0, shape: tuple[int, ...] = (0, 3, -1)) -> Graph:
        nodes = [
            Node("s", "onnx.Shape", ("x",), ("s",)),
            Node("a", "onnx.Reshape", ("x", "shape"), ("a",)),
            Node("b", "onnx.InstanceNormalization", ("a", "w", "z"), ("b",), {"epsilon": 0.01}),
            Node("y", "onnx.Reshape", ("b", "s"), ("y",)),
        ]
        constants = {"shape": np.array(shape), "w": np.full(groups, scale), "z": np.zeros(groups)}
        return Graph(nodes, [Input("x", (None, 6, None, None), "float64")], ["y"], constants=constants)

    after = rewrite_patterns(graph(3))
    assert [n.op for n in after.nodes if n.op != "onnx.Shape"] == ["group_norm"]
    same(graph(3), after)
    single = graph(1, shape=(0, 1, -1))  # whose scale is a single number
    assert "group_norm" in words(rewrite_patterns(single))
    same(single, rewrite_patterns(single))
    assert "group_norm" not in words(rewrite_patterns(graph(3, 2.0)))
    assert "group_norm" not in words(
        rewrite_patterns(graph(6, shape=(0, 6, 5, -1)).replaced(inputs=[Input("x", None, "float64")]))
    )


def test_the_mean_over_space() -> None:
    def graph(axes: list[int]) -> Graph:
        return Graph([Node("y", "onnx.ReduceMean", ("x",), ("y",), {"axes": axes})], [Input("x", SHAPE, "float64")], ["y"])

    assert words(rewrite_patterns(graph([2, 3]))) == ["global_avg_pool"]
    assert words(rewrite_patterns(graph([-1, -2]))) == ["global_avg_pool"]
    assert words(rewrite_patterns(graph([1, 3]))) == ["onnx.ReduceMean"]
    same(graph([2, 3]), rewrite_patterns(graph([2, 3])))


def test_means_of_means() -> None:
    both = Spelled("mean(mean(x, axes=[3]), axes=[2])").graph()
    after = rewrite_patterns(both)
    assert words(after) == ["global_avg_pool"]
    assert after.changes == {"means of means": 1, "mean over space": 1}
    same(both, after)
    dropped = Spelled("mean(mean(x, axes=[3], keepdims=0), axes=[1])").graph()
    assert words(rewrite_patterns(dropped)) == words(dropped)


def test_attributes_that_make_no_sense_leave_the_node_alone() -> None:
    odd = Spelled("mean(x, axes=[2, 3], keepdims=3)").graph()
    assert words(rewrite_patterns(odd)) == ["onnx.ReduceMean"]
    nodes = [
        Node("a", "transpose", ("x",), ("a",), {"axes": (0, 2, 3, 1)}),
        Node("y", "onnx.ReduceMax", ("a",), ("y",), {"axes": [1], "keepdims": 7}),
    ]
    graph = Graph(nodes, [Input("x", SHAPE, "float64")], ["y"])
    same(graph, optimise(graph))


def moving(split: tuple[int, ...], order: tuple[int, ...], join: tuple[int, ...], shape: Any) -> Graph:
    nodes = [
        Node("a", "onnx.Reshape", ("x", "split"), ("a",)),
        Node("b", "transpose", ("a",), ("b",), {"axes": order}),
        Node("y", "onnx.Reshape", ("b", "join"), ("y",)),
    ]
    constants = {"split": np.array(split), "join": np.array(join)}
    return Graph(nodes, [Input("x", shape, "float64")], ["y"], constants=constants)


def test_channels_shuffled() -> None:
    g = moving((0, 3, 2, 5, 4), (0, 2, 1, 3, 4), (0, -1, 5, 4), (None, 6, 5, 4))
    after = rewrite_patterns(g)
    assert words(after) == ["channel_shuffle"]
    same(g, after)
    x = np.moveaxis(RNG.standard_normal((2, 5, 4, 6)), -1, 1)
    with pre.no_grad():
        np.testing.assert_array_equal(after(x), g(x))
        assert after(x).strides[1] == 8  # channels stay innermost
    for other in (
        moving((0, 3, 2, 5, 4), (0, 1, 2, 3, 4), (0, -1, 5, 4), SHAPE),
        moving((0, 3, 2, 5, 4), (0, 2, 1, 4, 3), (0, -1, 4, 5), SHAPE),
        moving((0, 3, 2, 5, 4), (0, 2, 1, 3, 4), (0, 3, 10, 4), SHAPE),
    ):
        assert words(rewrite_patterns(other)) == words(other)


def test_depth_into_space() -> None:
    shape = (2, 12, 5, 3)
    for split, order in (((0, 2, 2, 3, 5, 3), (0, 3, 4, 1, 5, 2)), ((0, 3, 2, 2, 5, 3), (0, 1, 4, 2, 5, 3))):
        g = moving(split, order, (0, 3, 10, 6), shape)
        after = rewrite_patterns(g)
        assert words(after) == ["onnx.DepthToSpace"]
        same(g, after, shape=shape)
        assert words(rewrite_patterns(moving(split, order, (0, 3, 6, 10), shape))) == words(g)
    assert words(rewrite_patterns(moving((0, 2, 2, 3, 5, 3), (0, 1, 4, 2, 5, 3), (0, 2, -1, 6), shape)))[0] == "onnx.Reshape"


def test_normalisations_that_onnx_names() -> None:
    stored = {"W": RNG.standard_normal(4), "B": RNG.standard_normal(4), "C": RNG.standard_normal(6), "D": RNG.standard_normal(6)}
    for node, word in (
        (Node("y", "onnx.LayerNormalization", ("x", "W", "B"), ("y",), {"epsilon": 0.01}), "layer_norm"),
        (Node("y", "onnx.LayerNormalization", ("x", "W"), ("y",), {"axis": 3}), "layer_norm"),
        (Node("y", "onnx.InstanceNormalization", ("x", "C", "D"), ("y",), {"epsilon": 0.01}), "instance_norm"),
    ):
        g = Graph([node], [Input("x", SHAPE, "float64")], ["y"], constants={k: stored[k] for k in node.inputs[1:]})
        after = rewrite_patterns(g)
        assert words(after) == [word]
        same(g, after)
    several = Node("y", "onnx.LayerNormalization", ("x", "W"), ("y", "m"), {"outputs": 2})
    g = Graph([several], [Input("x", SHAPE, "float64")], ["y", "m"], constants={"W": stored["W"]})
    assert words(rewrite_patterns(g)) == ["onnx.LayerNormalization"]


def test_a_search_without_end_finds_nothing_soon() -> None:
    """Sums of sums of the same value have more orders than any machine can try."""
    nodes = [Node("v0", "add", ("x", "x"), ("v0",))]
    for k in range(1, 300):
        nodes.append(Node(f"v{k}", "add" if k % 2 else "mul", (f"v{k - 1}", f"v{k - 1}"), (f"v{k}",)))
    graph = Graph(nodes, [Input("x", SHAPE)], ["v299"])
    view = View(graph.nodes, graph.outputs, {}, {})
    for pattern in PATTERNS:
        assert find(pattern.text, nodes[-1], view) is None
    assert not rewrite_patterns(graph).changes

"""The passes on graphs made by hand: what they change, what they leave, and that the values stay."""

from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage.io.graph import Graph, Input, Node
from preimage.io.graph.passes import channels_last, drop_identities, fold_affine, fold_constants, fuse_epilogues, optimise
from preimage.io.graph.pointwise import fuse_chains, fuse_pointwise

RNG = np.random.default_rng(6)
X = RNG.standard_normal((2, 4, 6, 5)).astype(np.float32)
CONV = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}


def node(op: str, inputs: str, output: str, **attributes: Any) -> Node:
    return Node(output, op, tuple("" if key == "-" else key for key in inputs.split()), (output,), attributes)


def array(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def graph(*nodes: Node, outputs: str = "y", **stored: Any) -> Graph:
    return Graph(nodes, [Input("x", (None, 4, None, None))], outputs.split(), parameters=stored).eval()  # type: ignore[return-value]


def ops_of(g: Graph) -> list[str]:
    return [n.op for n in g.nodes]


def same(before: Graph, after: Graph, tolerance: float = 0, engine: str = "gemm") -> None:
    with pre.no_grad(), pre.config(engine=engine):
        wanted, found = before(X), after(X)
    wanted, found = (v if isinstance(v, tuple) else (v,) for v in (wanted, found))
    for a, b in zip(wanted, found, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= tolerance * np.abs(a).max()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("op", ["conv", "conv_transpose"])
def test_batch_norm_scale_and_offset_fold_into_the_weights(op: str, groups: int) -> None:
    weight = array(6, 4 // groups, 3, 3) if op == "conv" else array(4, 6 // groups, 3, 3)
    g = graph(
        node(op, "x w b", "c", groups=groups, **CONV),
        node("batch_norm", "c s o m v", "n", eps=0.01),
        node("mul", "n k", "p"),
        node("sub", "p q", "r"),
        node("div", "r k", "t"),
        node("add", "q t", "y"),
        w=weight, b=array(6), s=array(6), o=array(6), m=array(6), v=np.abs(array(6)), k=np.abs(array(6, 1, 1)) + 1, q=array(1, 6, 1, 1),
    )  # fmt: skip
    after = fold_affine(g)
    assert ops_of(after) == [op]
    assert not after.weights
    same(g, after, 1e-5)


def test_what_is_no_affine_map_per_channel_stays() -> None:
    g = graph(node("conv", "x w -", "c", **CONV), node("mul", "c k", "y"), w=array(6, 4, 3, 3), k=array(1, 6, 6, 5))
    assert ops_of(fold_affine(g)) == ["conv", "mul"]
    g = graph(node("conv", "x w", "c", **CONV), node("mul", "c c", "y"), w=array(6, 4, 3, 3))
    assert ops_of(fold_affine(g)) == ["conv", "mul"]
    g = graph(node("conv", "x w", "c", **CONV), node("sub", "k c", "y"), w=array(6, 4, 3, 3), k=array(6, 1, 1))
    assert ops_of(fold_affine(g)) == ["conv", "sub"]
    g = graph(node("conv", "x w", "c", **CONV), node("mul", "c k", "y"), outputs="y c", w=array(6, 4, 3, 3), k=array(6, 1, 1))
    assert ops_of(fold_affine(g)) == ["conv", "mul"]
    g = graph(
        node("conv", "x w", "c", **CONV),
        node("mul", "c k", "a"),
        node("abs", "c", "b"),
        node("add", "a b", "y"),
        w=array(6, 4, 3, 3),
        k=array(6, 1, 1),
    )
    assert ops_of(fold_affine(g)) == ["conv", "mul", "abs", "add"]
    g = graph(node("conv", "x w", "c", **CONV), node("div", "c k", "y"), w=array(6, 4, 3, 3), k=np.zeros((6, 1, 1), np.float32))
    assert ops_of(fold_affine(g)) == ["conv", "div"]


@pytest.mark.parametrize(
    ("op", "options"), [("relu", {}), ("leaky_relu", {"slope": 0.2}), ("clip", {"lo": -0.5, "hi": 0.5}), ("clip", {"lo": 0.1})]
)
def test_activations_and_residuals_fuse(op: str, options: dict[str, float]) -> None:
    g = graph(
        node("conv", "x w b", "c", **CONV),
        node("add", "c x", "s"),
        node(op, "s", "y", **options),
        w=array(4, 4, 3, 3),
        b=array(4),
    )
    after = fuse_epilogues(g)
    assert ops_of(after) == ["conv"]
    assert after.nodes[0].inputs == ("x", "w", "b", "x")
    same(g, after)
    g = graph(
        node("conv_transpose", "x w", "c", **CONV), node(op, "c", "d", **options), node("add", "x d", "y"), w=array(4, 4, 3, 3)
    )
    after = fuse_epilogues(g)
    assert ops_of(after) == ["conv_transpose", "add"]  # the sum comes after the activation here
    same(g, after)


def test_a_residual_that_must_be_broadcast_is_still_right() -> None:
    g = graph(
        node("global_avg_pool", "x", "m"),
        node("conv", "x w", "c", **CONV),
        node("add", "m c", "s"),
        node("relu", "s", "y"),
        w=array(4, 4, 3, 3),
    )
    after = fuse_epilogues(g)
    assert ops_of(after) == ["global_avg_pool", "conv"]
    same(g, after)


def test_two_convolutions_into_one_sum() -> None:
    g = graph(
        node("conv", "x w", "c", **CONV),
        node("conv", "x v", "d", **CONV),
        node("add", "c d", "s"),
        node("relu", "s", "y"),
        w=array(4, 4, 3, 3),
        v=array(4, 4, 3, 3),
    )
    after = fuse_epilogues(g)
    assert ops_of(after) == ["conv", "conv"]
    same(g, after)


def test_values_that_others_need_are_left() -> None:
    g = graph(node("conv", "x w", "c", **CONV), node("relu", "c", "r"), node("add", "r c", "y"), w=array(4, 4, 3, 3))
    assert ops_of(fuse_epilogues(g)) == ["conv", "relu", "add"]
    g = graph(node("conv", "x w", "c", **CONV), node("relu", "c", "y"), outputs="c y", w=array(4, 4, 3, 3))
    assert ops_of(fuse_epilogues(g)) == ["conv", "relu"]


def test_identities_and_constants() -> None:
    g = graph(
        node("identity", "x", "a"),
        node("abs", "k", "b"),
        node("mul", "b b", "c"),
        node("add", "a c", "d"),
        node("identity", "d", "y"),
        k=array(4, 1, 1),
    )
    after = drop_identities(g)
    assert ops_of(after) == ["abs", "mul", "add", "identity"]  # an output keeps its name
    after = fold_constants(after)
    assert ops_of(after) == ["add", "identity"]
    same(g, after)
    assert ops_of(fold_constants(g.train())) == ops_of(g)  # type: ignore[arg-type]


def test_channels_last_keeps_the_bits() -> None:
    g = graph(node("conv", "x w", "c", **CONV), node("relu", "c", "y"), w=array(4, 4, 3, 3))
    after = channels_last(g)
    assert ops_of(after) == ["conv", "relu"]
    assert after.nodes[0].attributes["innermost"]
    same(g, after, engine="jit")  # whose bits no memory layout changes
    assert channels_last(after) is after
    assert ops_of(optimise(g)) == ["conv"]
    two = graph(
        node("conv", "x w", "a", **CONV), node("conv", "x v", "b", **CONV), node("add", "a b", "y"),
        w=array(4, 4, 3, 3), v=array(4, 4, 3, 3),
    )  # fmt: skip
    after = channels_last(two)
    assert ops_of(after) == ["channels_innermost", "conv", "conv", "add"]
    same(two, after, engine="jit")
    assert channels_last(after) is after


@pytest.mark.parametrize("op", ["conv", "conv_transpose"])
@pytest.mark.parametrize("channels", [1, 3, 4, 24])
def test_the_first_contraction_lays_its_result_out(op: str, channels: int) -> None:
    weight = array(20, channels, 3, 3) if op == "conv" else array(channels, 20, 3, 3)
    stored = {"w": weight, "b": array(20)}
    g = Graph(
        [node(op, "x w b", "y", stride=(2, 2))], [Input("x", (None, channels, None, None))], ["y"], parameters=stored
    ).eval()
    ready = optimise(g)
    for batch, size in ((1, (17, 15)), (3, (30, 8))):
        x = RNG.standard_normal((batch, channels, *size)).astype(np.float32)
        for threads in (1, 2):
            for engine in ("jit", "gemm"):
                with pre.no_grad(), pre.config(threads=threads, engine=engine):
                    want = g(x)
                    for data in (x, np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1), x[:, :, ::-1][:, :, ::-1]):
                        for _ in range(2):
                            got = ready(data)
                            assert channels == 1 or got.strides[1] == 4
                            assert np.abs(got - want).max() <= (0 if engine == "jit" else 1e-4)


CHAIN = (  # nearly a HardSwish, which would be rounded at other places
    node("add", "c three", "p"),
    node("clip", "p", "q", lo=0.0, hi=6.0),
    node("mul", "q c", "r"),
    node("div", "r seven", "s"),
    node("leaky_relu", "s", "t", slope=0.2),
    node("sub", "half t", "y"),
)
SINGLES = {"three": np.float32(3), "seven": np.full((1, 1, 1), 7, np.float32), "half": np.full(1, 0.5, np.float32)}
SHAPES = {
    "dense": ("conv", (40, 4, 3, 3), CONV),
    "few": ("conv", (3, 4, 3, 3), CONV),
    "depthwise": ("conv", (4, 1, 3, 3), CONV | {"groups": 4}),
    "groups": ("conv", (6, 2, 3, 3), CONV | {"groups": 2}),
    "pointwise": ("conv", (24, 4, 1, 1), {}),
    "strided": ("conv", (20, 4, 2, 2), {"stride": (2, 2)}),
    "transposed": ("conv_transpose", (4, 18, 3, 3), {"stride": (2, 2)}),
    "one out": ("conv_transpose", (4, 1, 4, 4), {"stride": (2, 2), "padding": ((1, 1), (1, 1))}),
}


@pytest.mark.parametrize("engine", ["jit", "gemm", "reference"])
@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("residual", [False, True])
def test_a_chain_goes_into_the_epilogue_and_keeps_the_bits(case: str, engine: str, residual: bool) -> None:
    op, shape, options = SHAPES[case]
    stored = {"w": array(*shape), "b": array(shape[0] if op == "conv" else shape[1])}
    first = [node(op, "x w b", "c", **options)]
    if residual:
        first = [node(op, "x w b", "e", **options), node("sigmoid", "e", "f"), node(op, "x w b f", "c", **options)]
    g = Graph([*first, *CHAIN], [Input("x", (None, 4, None, None))], ["y"], parameters=stored, constants=SINGLES).eval()
    after = fuse_chains(fuse_pointwise(g))
    assert len(after.nodes) == len(first)
    assert "chain" in after.nodes[-1].attributes
    ready = optimise(g)
    x = RNG.standard_normal((2, 4, 13, 11)).astype(np.float32)
    x[0, 0, 0, :3] = [np.nan, np.inf, -np.inf]
    for data in (x, np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)):
        for threads in (1, 2):
            with pre.no_grad(), pre.config(engine=engine, threads=threads), np.errstate(all="ignore"):
                want = g(data)
                for _ in range(2):
                    np.testing.assert_array_equal(after(data), want)
                    if engine == "jit":
                        np.testing.assert_array_equal(ready(data), want)
    with pre.config(engine=engine), np.errstate(all="ignore"):
        t = pre.Tensor(np.nan_to_num(x, posinf=1, neginf=-1), requires_grad=True)
        np.testing.assert_array_equal(pre.grad(after(t).sum(), t).data, pre.grad(g(t).sum(), t).data)


def test_chains_that_stay_outside() -> None:
    w = array(6, 4, 3, 3)

    def fused(*nodes: Node, outputs: str = "y", **stored: Any) -> list[str]:
        g = Graph(nodes, [Input("x", (None, 4, None, None))], outputs.split(), parameters={"w": w}, constants=stored)
        return ops_of(fuse_chains(fuse_pointwise(g)))

    conv = node("conv", "x w", "c", **CONV)
    three = np.float32(3)
    assert fused(conv, node("mul", "c k", "y"), k=three) == ["conv"]
    assert fused(conv, node("mul", "c k", "y"), k=array(6, 1, 1)) == ["conv", "mul"]  # one value each channel
    assert fused(conv, node("mul", "c k", "y"), k=np.full((1,) * 5, 3, np.float32)) == ["conv", "mul"]  # one axis more
    assert fused(conv, node("sigmoid", "c", "y")) == ["conv", "sigmoid"]
    assert fused(conv, node("mul", "c k", "y"), outputs="y c", k=three) == ["conv", "mul"]
    assert fused(conv, node("mul", "c k", "d"), node("abs", "c", "e"), node("add", "d e", "y"), k=three).count("conv") == 1
    relu = node("conv", "x w", "c", activation="relu", **CONV)
    assert fused(relu, node("mul", "c k", "y"), k=three) == ["conv", "mul"]

"""Mutated ONNX models: each must give an error of ours or a result, within 5 seconds and 1 GiB; never a crash or foreign error.

Those that run are rewritten by all passes (`io.graph.optimise`) and run again: the results must agree.

python tests/io/fuzz_onnx.py --count 20000        # the long run; prints counts and every offender's seed
python tests/io/fuzz_onnx.py --seed 1234 --count 1 --verbose
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from functools import cache

import fuzz_process
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx_control_models import BRANCHES, HEAD, QUANTISED, RECURRENT, SCAN, WHILE

from preimage import PreimageError, no_grad
from preimage.io import limits
from preimage.io import onnx as onnx_io
from preimage.io.graph import Graph, optimise

_HUGE = [-1, -(2**63), 2**63 - 1, 2**31, 2**40, 10**9, 0, 1, 2, 65536, 2**20]


@cache
def base_models() -> list[bytes]:
    """Small models that between them use most of what a convolutional net does."""
    rng = np.random.default_rng(0)

    def model(nodes, inputs, outputs, stored, opset=17):
        graph = helper.make_graph(
            nodes, "fuzz",
            [helper.make_tensor_value_info(k, TensorProto.FLOAT, s) for k, s in inputs.items()],
            [helper.make_tensor_value_info(k, TensorProto.FLOAT, None) for k in outputs],
            [numpy_helper.from_array(v, k) for k, v in stored.items()],
        )  # fmt: skip
        proto = helper.make_model(
            graph, opset_imports=[helper.make_opsetid(d, v) for d, v in (("", opset), ("ai.onnx.ml", 2), ("com.microsoft", 1))]
        )
        proto.ir_version = 8
        return proto.SerializeToString()

    f32 = lambda *s: rng.standard_normal(s).astype(np.float32)  # noqa: E731
    node = helper.make_node
    net = model(
        [
            node("Conv", ["x", "w1", "b1"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
            node("BatchNormalization", ["a", "s", "t", "m", "v"], ["b"]),
            node("Relu", ["b"], ["c"]),
            node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2], strides=[2, 2]),
            node("ConvTranspose", ["d", "w2"], ["e"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Resize", ["e", "", "scales"], ["f"], mode="linear"),
            node("Concat", ["f", "f"], ["g"], axis=1),
            node("AveragePool", ["g"], ["h"], kernel_shape=[3, 3], ceil_mode=1),
            node("Pad", ["h", "pads"], ["i"], mode="reflect"),
            node("GlobalAveragePool", ["i"], ["j"]),
            node("Flatten", ["j"], ["k"]),
            node("Gemm", ["k", "w3", "b3"], ["l"], transB=1),
            node("Softmax", ["l"], ["y"]),
        ],
        {"x": [1, 3, 16, 12]}, ["y"],
        {"w1": f32(4, 3, 3, 3), "b1": f32(4), "s": f32(4), "t": f32(4), "m": f32(4), "v": np.abs(f32(4)) + 1, "w2": f32(4, 2, 2, 2),
         "scales": np.array([1, 1, 2, 2], np.float32), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w3": f32(5, 4), "b3": f32(5)},
    )  # fmt: skip
    shapes = model(
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["n"]),
            node("Unsqueeze", ["n", "axes"], ["n1"]),
            node("Concat", ["n1", "tail"], ["target"], axis=0),
            node("Reshape", ["x", "target"], ["r"]),
            node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
            node("Slice", ["t", "starts", "ends", "ax", "steps"], ["u"]),
            node("ReduceMean", ["u"], ["v"], axes=[1], keepdims=1),
            node("Expand", ["v", "big"], ["w"]),
            node("Range", ["zero", "limit", "one"], ["ri"]),
            node("ConstantOfShape", ["tail"], ["cs"]),
            node("Tile", ["w", "times"], ["z"]),
            node("Split", ["z"], ["p", "q"], axis=2),
            node("Add", ["p", "q"], ["y"]),
        ],
        {"x": [2, 3, 4, 4]}, ["y", "ri", "cs"],
        {"zero": np.array(0), "one": np.array(1), "limit": np.array(7), "axes": np.array([0]), "tail": np.array([6, 8]),
         "starts": np.array([1]), "ends": np.array([7]), "ax": np.array([1]), "steps": np.array([2]), "big": np.array([2, 3, 6]),
         "times": np.array([1, 2, 1])}, opset=14,
    )  # fmt: skip
    audio = model(
        [
            node("ConvTranspose", ["x", "w"], ["a"], kernel_shape=[4], strides=[2], pads=[1, 1]),
            node("LeakyRelu", ["a"], ["b"], alpha=0.1),
            node("Conv", ["b", "w2"], ["c"], kernel_shape=[3], dilations=[3], pads=[3, 3], group=2),
            node("Tanh", ["c"], ["y"]),
        ],
        {"x": [1, 4, 10]}, ["y"], {"w": f32(4, 6, 4), "w2": f32(6, 3, 3)}, opset=11,
    )  # fmt: skip
    old = model(
        [
            node("ImageScaler", ["x"], ["a"], scale=0.5, bias=[0.1, -0.2, 0.3]),
            node("Conv", ["a", "w"], ["b"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Add", ["b", "c"], ["d"], broadcast=1, axis=1, consumed_inputs=[0, 0]),
            node("Relu", ["d"], ["e"], consumed_inputs=[0]),
            node("Upsample", ["e"], ["f"], height_scale=2.0, width_scale=1.0, mode="nearest"),
            node("Crop", ["f"], ["g"], border=[1, 0, 2, 1]),
            node("Cast", ["g"], ["h"], to="FLOAT"),
            node("Tile", ["h", "two", "axis"], ["i"]),
            node("Reshape", ["i"], ["y"], shape=[0, -1]),
        ],
        {"x": [1, 3, 6, 7]}, ["y"], {"w": f32(4, 3, 3, 3), "c": f32(4), "two": np.float32([2]), "axis": np.float32([2])}, opset=4,
    )  # fmt: skip
    regions = model(
        [
            node("DeformConv", ["x", "w", "o", "b", "m"], ["d"], pads=[1, 1, 1, 1], offset_group=2),
            node("RoiAlign", ["d", "r", "i"], ["e"], output_height=3, output_width=2, spatial_scale=0.5),
            node("RoiAlign", ["d", "r", "i"], ["f"], output_height=3, output_width=2, mode="max", sampling_ratio=2),
            node("MaxRoiPool", ["d", "q"], ["g"], pooled_shape=[3, 2], spatial_scale=0.7),
            node("Sum", ["e", "f", "g"], ["h"]),
            node("CumSum", ["h", "axis"], ["k"]),
            node("Unique", ["k"], ["u", "", "v"]),
            node("Slice", ["k", "zero", "two"], ["s"], name="rows"),
            node("MatMul", ["s", "turn"], ["t"]),
            node("Det", ["t"], ["y"]),
            node("LabelEncoder", ["v"], ["l"], domain="ai.onnx.ml", keys_int64s=[0, 2, 1], values_strings=["a", "b", "cd"]),
            node("LabelEncoder", ["l"], ["z"], domain="ai.onnx.ml", keys_strings=["cd", "a"], values_floats=[1.0, 2.0]),
        ],
        {"x": [2, 4, 6, 7]}, ["y", "u", "z"],
        {"w": f32(5, 4, 3, 3), "o": f32(2, 36, 6, 7), "b": f32(5), "m": f32(2, 18, 6, 7), "r": np.abs(f32(3, 4)) * 5, "i": np.array([0, 1, 1]),
         "q": np.float32([[0, 1, 1, 5, 6], [1, 0, 2, 3, 3], [1, 4, 4, 9, 9]]), "axis": np.array(1), "zero": np.array([0, 0]),
         "two": np.array([2, 2]), "turn": f32(2, 3)}, opset=21,
    )  # fmt: skip
    small = lambda *s: rng.integers(-60, 60, s).astype(np.int8)  # noqa: E731
    lstm = model(
        [node("DynamicQuantizeLSTM", ["x", "w", "r", "b", "", "", "", "", "s", "z", "s", "z"], ["y", "h", "c"], domain="com.microsoft",
              direction="bidirectional", hidden_size=4)],
        {"x": [5, 2, 3]}, ["y", "h", "c"],
        {"w": small(2, 3, 16), "r": small(2, 4, 16), "b": f32(2, 32), "s": np.float32([0.01, 0.02]), "z": np.zeros(2, np.int8)},
    )  # fmt: skip
    return [net, shapes, audio, old, regions, lstm, *_with_graphs(rng), *pattern_models(rng)]


def _with_graphs(rng: np.random.Generator) -> list[bytes]:
    """Branches, loops, and a recurrent layer, whose stored arrays get values here."""
    parsed = [onnx.parser.parse_model(HEAD + text) for text in (BRANCHES, WHILE, SCAN, QUANTISED, RECURRENT)]
    for key, shape in (("w", (2, 20, 3)), ("r", (2, 20, 5)), ("b", (2, 40))):
        parsed[-1].graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), key))
    return [each.SerializeToString() for each in parsed]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage: bytes or structure."""
    kind = rng.randrange(4)
    if kind == 0:
        raw = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 5, 20])):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        return bytes(raw)
    if kind == 1:
        cut = rng.randrange(len(data))
        return data[:cut] if rng.random() < 0.6 else data[:cut] + data[cut + rng.randrange(1, 40) :]
    model = onnx.ModelProto()
    model.ParseFromString(data)
    for _ in range(rng.choice([1, 1, 2, 3])):
        _structure(_some_graph(model.graph, rng), rng)
    return model.SerializeToString()


def _some_graph(graph, rng: random.Random):
    """The graph, or one inside its nodes."""
    inner = [a.g for node in graph.node for a in node.attribute if a.type == 5 and a.g.node]
    return _some_graph(rng.choice(inner), rng) if inner and rng.random() < 0.5 else graph


def _structure(graph, rng: random.Random) -> None:
    node = rng.choice(graph.node)
    what = rng.randrange(14)
    if what in (1, 2, 7, 8, 11) and not graph.initializer:
        what = 3
    if what == 9 and not graph.input:
        what = 10
    if what == 0 and node.attribute:
        a = rng.choice(node.attribute)
        if a.ints:
            a.ints[rng.randrange(len(a.ints))] = rng.choice(_HUGE)
        elif a.type == 2:
            a.i = rng.choice(_HUGE)
        else:
            a.f = rng.choice([float("nan"), float("inf"), -1.0, 1e38])
    elif what == 1:
        tensor = rng.choice(graph.initializer)
        if tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_HUGE)
    elif what == 2:
        tensor = rng.choice(graph.initializer)
        try:
            value = numpy_helper.to_array(tensor).copy()
        except Exception:  # damaged already by an earlier step
            return
        if value.size:
            flat = value.reshape(-1)
            flat[rng.randrange(value.size)] = (
                rng.choice(_HUGE) if value.dtype == np.int64 else np.array(rng.choice([0, 1, -1])).astype(value.dtype)
            )
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    elif what == 3:
        if not node.input:
            node.input.append("x")
        node.input[rng.randrange(len(node.input))] = rng.choice([*node.output, *rng.choice(graph.node).output, "", "nothing"])
    elif what == 4:
        node.output[0] = rng.choice([rng.choice(graph.node).output[0], "x", ""])
    elif what == 5:
        node.op_type = rng.choice([n.op_type for n in graph.node] + ["If", "Nope", "Loop", "Einsum"])
    elif what == 6:
        del node.attribute[:]
    elif what == 7:
        rng.choice(graph.initializer).data_type = rng.randrange(0, 30)
    elif what == 8:
        tensor = rng.choice(graph.initializer)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", rng.choice(["../../etc/passwd", "/etc/passwd", "weights.bin", "a\0b", ".", "", "C:\\x"])),
                           ("offset", rng.choice(["0", "-5", "x", "999999999999"])), ("length", rng.choice(["8", "-1", "", "1e9"]))):  # fmt: skip
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
    elif what == 9:
        dims = graph.input[0].type.tensor_type.shape.dim
        if dims:
            dims[rng.randrange(len(dims))].dim_value = rng.choice([0, 1, 5, 33, -3, 2**40])
    elif what == 10:
        graph.node.add().CopyFrom(node)
    elif what == 11:
        graph.initializer.add().CopyFrom(rng.choice(graph.initializer))
    elif what == 12:
        order = list(graph.node)
        rng.shuffle(order)
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in order]
        del graph.node[:]
        graph.node.extend(copies)
    elif what == 13 and node.attribute:
        a = rng.choice(node.attribute)
        a.name = rng.choice(
            [
                "pads",
                "axis",
                "to",
                "junk",
                "kernel_shape",
                "opset",
                "outputs",
                "captured",
                "x",
                "self",
                "shape",
                "broadcast",
                "keys_floats",
            ]
        )


def pattern_models(rng: np.random.Generator) -> list[bytes]:
    """What the passes rewrite: activations and norms spelled out, attention, transpositions, padding, shape arithmetic."""
    texts = (
        "g (float[2,6,8,4] x) => (float[a,b,c,d] y) <float[1] half={0.5}, float one={1.0}, float root={1.4142135}, int64[1] a1={1},"
        " float eps={0.001}, float[6,1,1] w={1,2,3,4,5,6}, float three={3.0}, float zero={0.0}, float six={6.0}> {"
        " e1=Div(x,root) e2=Erf(e1) e3=Add(e2,one) e4=Mul(x,e3) g=Mul(e4,half) m=ReduceMean<axes=[1]>(g) c=Sub(g,m) q=Mul(c,c)"
        " v=ReduceMean<axes=[1]>(q) ve=Add(v,eps) s=Sqrt(ve) n=Div(c,s) nw=Mul(n,w) p=Add(nw,three) k=Clip(p,zero,six) h=Mul(nw,k) hs=Div(h,six)"
        " si=Sigmoid(hs) sl=Mul(hs,si) z=Max(sl,zero) y=Min(z,six) }",
        "g (float[2,3,5,4] q, float[2,3,4,6] k, float[2,3,6,4] v) => (float[a,b,c,d] y)"
        " <float scale={0.5}, int64[3] t={0,3,-1}, int64[4] u={0,3,5,4}> {"
        " s=MatMul(q,k) sc=Mul(s,scale) p=Softmax<axis=-1>(sc) o=MatMul(p,v) r=Reshape(o,t) i=Identity(r) y=Reshape(i,u) }",
        "g (float[1,8,8,4] x) => (float[a,b,c,d] y, float[a,b,c,d] z) <int64[8] pads={0,0,1,1,0,0,1,1}, float[4] s={1,2,3,4}, int64[1] one={1},"
        " int64[5] split={0,2,2,8,8}, int64[4] join={0,4,8,8}> {"
        " t=Transpose<perm=[0,3,1,2]>(x) r=Relu(t) b=Transpose<perm=[0,2,3,1]>(r) m=Mul(b,s) u=Transpose<perm=[0,3,1,2]>(m) p=Pad(u,pads)"
        " a=Reshape(u,split) c=Transpose<perm=[0,2,1,3,4]>(a) y=Reshape(c,join) sh=Shape(p)"
        " ss=Slice(sh,one,one) z=MaxPool<kernel_shape=[3,3],auto_pad=\"SAME_UPPER\">(p) }",
    )  # fmt: skip
    made = []
    for text in texts:
        parsed = onnx.parser.parse_model('<ir_version: 9, opset_import: ["" : 17]>\n' + text)
        made.append(parsed.SerializeToString())
    return made


def attempt(data: bytes) -> str:
    """What one model gives: "refused" (an error of ours), "ran", or how the rewritten graph's results differ; anything else is raised."""
    try:
        net = onnx_io.load(data)
        rng = np.random.default_rng(0)
        feeds = {}
        for item in net.inputs:
            shape = tuple(d if isinstance(d, int) and 0 <= d < 64 else 2 for d in item.shape or ())
            feeds[item.name] = rng.random(shape).astype(item.dtype if item.dtype != "bfloat16" else "float32")
    except PreimageError:
        return "refused"
    with no_grad():
        try:
            found = net.run(feeds)
        except PreimageError:
            found = None
        return _rewritten(net, feeds, found)


def _rewritten(net: Graph, feeds, found) -> str:
    """The graph after all passes beside the graph: it may refuse what the graph refuses, and must give what it gives."""
    try:
        again = optimise(net).run(feeds)
    except PreimageError:
        return "refused" if found is None else "differs: refused after the passes"
    if found is None:
        return "refused"  # what fails may be what nobody needs
    for key, value in found.items():
        a, b = np.asarray(value), np.asarray(again[key])
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"differs: {key} is {b.dtype}{b.shape}, was {a.dtype}{a.shape}"
        if a.dtype.kind == "f" and a.size and np.all(np.isfinite(a)):
            span = max(float(np.abs(a).max()), 1e-30)
            if not np.abs(a - b).max() <= 1e-3 * span and not _overflows(net, feeds):
                return f"differs: {key} by {np.abs(a - b).max()} of {span}"
    return "ran"


def _overflows(net: Graph, feeds) -> bool:
    """Whether a value inside is infinite or NaN though the results are not: a normalisation found in it is computed without squares that overflow."""
    inside = net.run(feeds, [name for node in net.nodes for name in node.outputs if name])
    found = [np.asarray(value) for value in inside.values()]
    return not all(np.isfinite(value).all() for value in found if value.dtype.kind == "f")


def _case(seed: int) -> str:
    """What the model of a seed gives."""
    bases = base_models()
    with np.errstate(all="ignore"), limits.limits(elements=2**24, flop=2**32):
        return attempt(mutate(bases[seed % len(bases)], random.Random(seed)))


def fuzz(first: int, count: int) -> tuple[Counter[str], list[tuple[int, str]]]:
    """Counts of outcomes, and the offenders by seed."""
    base_models()  # made once, in the parent
    return fuzz_process.fuzz(_case, first, count, ("ran", "refused"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    if options.verbose:
        data = mutate((bases := base_models())[options.seed % len(bases)], random.Random(options.seed))
        with tempfile.NamedTemporaryFile("wb", suffix=".onnx", delete=False) as file:
            file.write(data)
        print("written to", file.name)
        print(attempt(data))
        return 0
    start = time.perf_counter()
    counts, offenders = fuzz(options.seed, options.count)
    print(dict(counts), f"in {time.perf_counter() - start:.0f} s")
    for seed, why in offenders[:50]:
        print("offender: seed", seed, why)
    return 1 if offenders else 0


if __name__ == "__main__":
    raise SystemExit(main())

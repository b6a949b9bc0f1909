"""Random DAGs analysed, and every number found again by brute force.

    python tests/analysis/dags.py --count 1000 --seed 0

A DAG of 3 to 9 nodes (convolution, deconvolution, pooling, up-sampling, crop, padding, elementwise, concatenation, addition) over one
or two spatial axes, with groups, strides, dilations, unequal padding. Against the analysis:

    fields      impulse responses: one run whose batch holds every single-element change of the input; which outputs change
    flop        the reference engine run on numbers that count how often they are multiplied
    memory      weak references to every array while the nodes run one by one, each value dropped after its last use
"""

from __future__ import annotations

import argparse
import weakref
from collections import namedtuple
from importlib import import_module
from unittest import mock

import numpy as np

import preimage as pre
from preimage import ops
from preimage.analysis.network import analyse
from preimage.autograd import Primitive, array_of
from preimage.autograd.primitive import Node as Node_
from preimage.engines.reference import ReferenceEngine
from preimage.errors import PreimageError

conv_module = import_module("preimage.ops.conv")  # the package has a function of that name

Node = namedtuple("Node", "name op inputs outputs run call")
Item = namedtuple("Item", "name dtype shape")


class Dag:
    """Nodes over named values: what `analyse` reads of a graph, and nothing of the library's own graphs."""

    def __init__(self, shape):
        self.inputs, self.nodes, self.shapes = [Item("x", "float64", shape)], [], {"x": shape}
        self.outputs = ["x"]

    def add(self, op, inputs, run, call=None):
        """call: (contraction, weight, options) of a convolution or deconvolution."""
        name = f"n{len(self.nodes)}"
        made = run(*(np.ones(self.shapes[k]) for k in inputs))
        if min(made.shape) < 1 or made.size > 600:
            return None
        self.nodes.append(Node(name, op, tuple(inputs), (name,), run, call))
        self.shapes[name], self.outputs = made.shape, [name]
        return name

    def run(self, feeds, fetch=None):
        values = dict(feeds)
        for node in self.nodes:
            values[node.name] = node.run(*(values[k] for k in node.inputs))
        return {k: values[k] for k in (fetch or self.outputs)}


def weights(rng, shape, fan):
    """Between 1/2 and 1 over the fan: positive, so that nothing cancels, and values stay near 1."""
    return rng.uniform(0.5, 1, shape) / fan


def random_dag(rng):
    """A DAG whose output depends on its input."""
    ndim = int(rng.integers(1, 3))
    size = tuple(int(n) for n in rng.integers(5, 10 if ndim == 2 else 16, ndim))
    dag = Dag((1, int(rng.integers(1, 4)), *size))
    values = ["x"]
    wanted = int(rng.integers(3, 10))
    for _ in range(200):
        if len(dag.nodes) == wanted:
            break
        name = values[-1] if rng.random() < 0.7 else values[int(rng.integers(len(values)))]
        maker = MAKERS[int(rng.integers(len(MAKERS)))]
        try:
            made = maker(dag, name, values, rng)
        except PreimageError:  # a kernel that does not fit
            continue
        if made:
            values.append(made)
    return dag


def per_axis(rng, ndim, least, most):
    return tuple(int(n) for n in rng.integers(least, most + 1, ndim))


def convolution(dag, name, values, rng):
    _, channels, *size = dag.shapes[name]
    groups = int(rng.choice([g for g in (1, 2, 3) if channels % g == 0]))
    out = groups * int(rng.integers(1, 3))
    kernel = per_axis(rng, len(size), 1, 3)
    w = weights(rng, (out, channels // groups, *kernel), channels // groups * np.prod(kernel))
    options = {
        "stride": per_axis(rng, len(size), 1, 3), "dilation": per_axis(rng, len(size), 1, 2), "groups": groups,
        "padding": tuple(per_axis(rng, 2, -1 if rng.random() < 0.1 else 0, 2) for _ in size),
    }  # fmt: skip
    b = weights(rng, (out,), 1) if rng.random() < 0.5 else None
    if rng.random() < 0.2 and min(min(p) for p in options["padding"]) >= 0:
        options["padding_mode"] = str(rng.choice(["reflect", "replicate", "circular"]))
    return dag.add("conv", [name], lambda x: ops.conv(x, w, b, **options), ("conv", w, b, options))


def deconvolution(dag, name, values, rng):
    _, channels, *size = dag.shapes[name]
    groups = int(rng.choice([g for g in (1, 2, 3) if channels % g == 0]))
    kernel = per_axis(rng, len(size), 1, 4)
    each = int(rng.integers(1, 3))
    w = weights(rng, (channels, each, *kernel), channels // groups * np.prod(kernel))
    stride = per_axis(rng, len(size), 1, 3)
    options = {
        "stride": stride, "dilation": per_axis(rng, len(size), 1, 2), "groups": groups,
        "padding": tuple(per_axis(rng, 2, 0, 1) for _ in size), "output_padding": tuple(int(rng.integers(0, s)) for s in stride),
    }  # fmt: skip
    b = weights(rng, (each * groups,), 1) if rng.random() < 0.5 else None
    return dag.add("conv_transpose", [name], lambda x: ops.conv_transpose(x, w, b, **options), ("conv_transpose", w, b, options))


def pooling(dag, name, values, rng):
    ndim = len(dag.shapes[name]) - 2
    kernel, stride = per_axis(rng, ndim, 2, 3), per_axis(rng, ndim, 1, 3)
    options = {"stride": stride, "padding": per_axis(rng, ndim, 0, 1), "ceil_mode": bool(rng.random() < 0.3)}
    pool = ops.max_pool if rng.random() < 0.5 else ops.avg_pool
    return dag.add("pool", [name], lambda x: pool(x, kernel, **options))


def resizing(dag, name, values, rng):
    ndim = len(dag.shapes[name]) - 2
    mode = str(rng.choice(["nearest", "linear", "nearest-exact"]))
    factor = tuple(float(f) for f in rng.choice([1.0, 1.5, 2.0, 3.0], ndim))
    return dag.add("upsample", [name], lambda x: ops.upsample(x, scale_factor=factor, mode=mode))


def crop(dag, name, values, rng):
    size = dag.shapes[name][2:]
    key = [slice(None), slice(None)]
    for n in size:
        start = int(rng.integers(0, min(3, n)))
        key.append(slice(start, int(rng.integers(max(start + 1, n - 2), n + 1)), int(rng.choice([1, 1, 2]))))
    return dag.add("crop", [name], lambda x: ops.getitem(x, tuple(key)))


def margin(dag, name, values, rng):
    ndim = len(dag.shapes[name]) - 2
    pairs = tuple(per_axis(rng, 2, 0, 2) for _ in range(ndim))
    mode = str(rng.choice(["zeros", "replicate", "circular"]))
    return dag.add("pad", [name], lambda x: ops.pad(x, pairs, mode=mode))


def elementwise(dag, name, values, rng):
    f = [ops.relu, ops.sqrt, lambda x: ops.leaky_relu(x, 0.1), lambda x: ops.multiply(x, 0.5)][int(rng.integers(4))]
    return dag.add("elementwise", [name], f)


def join(dag, name, values, rng):
    """Two values cropped to their common size, laid side by side or added."""
    other = values[int(rng.integers(len(values)))]
    a, b = dag.shapes[name], dag.shapes[other]
    if len(a) != len(b) or name == other:
        return None
    key = (slice(None), slice(None), *(slice(0, min(m, n)) for m, n in zip(a[2:], b[2:], strict=True)))
    if rng.random() < 0.5 or a[1] != b[1]:
        return dag.add("concat", [name, other], lambda x, y: ops.concat([x[key], y[key]], axis=1))
    return dag.add("add", [name, other], lambda x, y: ops.add(x[key], y[key]))


MAKERS = [convolution, convolution, deconvolution, deconvolution, pooling, resizing, crop, margin, elementwise, join, join]


# -- brute force -------------------------------------------------------------------------------------------------------


def dependence(dag, rng):
    """(outputs, inputs) booleans: does this output change with this input? Changes so large that they win every maximum."""
    shape = dag.shapes["x"]
    count = int(np.prod(shape))
    x = np.repeat(rng.uniform(0.5, 1, shape), count + 1, axis=0)
    x.reshape(count + 1, count)[np.arange(count), np.arange(count)] += 1e150
    y = dag.run({"x": x})[dag.outputs[0]]
    y = y.reshape(count + 1, -1)
    return (y[:count] != y[count]).T


class Counted:
    """A number that counts: `made` multiplications in all; `terms` products of two numbers that went into this one."""

    made = 0
    __slots__ = ("terms",)

    def __init__(self, terms=0):
        self.terms = terms

    def __mul__(self, other):
        Counted.made += 1
        return Counted(int(isinstance(other, Counted)))

    __rmul__ = __mul__

    def __add__(self, other):
        return Counted(self.terms + other.terms) if isinstance(other, Counted) else self

    __radd__ = __add__


def counted(shape):
    made = np.empty(shape, object)
    for index in np.ndindex(*shape):
        made[index] = Counted()
    return made


def multiplications(contraction, geometry):
    """(all, those of two numbers of the operands that reach the result), from running the reference engine."""
    shapes = {
        "conv": (geometry.input_shape, geometry.weight_shape), "conv_transpose": (geometry.output_shape, geometry.weight_shape),
        "conv_weight_grad": (geometry.input_shape, geometry.output_shape),
    }[contraction]  # fmt: skip
    Counted.made = 0
    with mock.patch("preimage.engines.reference.empty_like_order", lambda shape, like: np.empty(shape, like.dtype)):
        result = getattr(ReferenceEngine(), contraction)(geometry, *map(counted, shapes))
    return Counted.made, sum(v.terms for v in result.flat if isinstance(v, Counted))


def expected_cost(dag):
    """Sums over the contractions of a DAG: forward, input gradient, weight gradient, with and without padded taps; bias additions."""
    total = np.zeros(7, np.int64)
    reach = {"x"}
    for node in dag.nodes:
        reach.add(node.name)
        if node.call is None:
            continue
        contraction, w, b, options = node.call
        shape = dag.shapes[node.inputs[0]]
        plain = {k: v for k, v in options.items() if k != "padding_mode"}
        if options.get("padding_mode", "zeros") != "zeros":  # the margin is made first: no tap meets a zero
            shape = (*shape[:2], *(n + lo + hi for n, (lo, hi) in zip(shape[2:], plain.pop("padding"), strict=True)))
        make = pre.ConvGeometry.from_conv if contraction == "conv" else pre.ConvGeometry.from_conv_transpose
        g = make(shape, w.shape, **plain)
        back = "conv_transpose" if contraction == "conv" else "conv"
        counts = [multiplications(c, g) for c in (contraction, back, "conv_weight_grad")]
        total[:6] += np.array(counts).reshape(6)
        total[6] += 0 if b is None else int(np.prod(dag.shapes[node.name]))
    return total


class Tracker:
    """Bytes of the arrays that operations made and that are alive, sampled as each operation ends."""

    def __init__(self, start):
        self.sizes, self.peak, self.start, self.watching = {}, start, start, True

    def seen(self, result, args):
        if not self.watching:
            return result
        root = _root(np.asarray(array_of(result)))
        if id(root) not in self.sizes and not any(_root(a) is root for a in map(array_of, args)):
            self.sizes[id(root)] = np.asarray(result).nbytes
            weakref.finalize(root, self.sizes.pop, id(root), None)
        self.peak = max(self.peak, self.start + sum(self.sizes.values()))
        return result

    def __enter__(self):
        self._call, self._fused = Primitive.__call__, conv_module.fused
        Primitive.__call__ = lambda op, *args, **params: self.seen(self._call(op, *args, **params), args)
        # contractions that nothing records go to the engine directly
        conv_module.fused = lambda contraction, a, *rest: self.seen(self._fused(contraction, a, *rest), (a,))
        return self

    def __exit__(self, *_):
        Primitive.__call__, conv_module.fused = self._call, self._fused


def _root(a):
    while isinstance(a, np.ndarray) and isinstance(a.base, np.ndarray):
        a = a.base
    return a


def measured_peak(dag):
    """The most bytes alive while the nodes run one by one on arrays, each value dropped after its last use; the input stays."""
    x = np.ones(dag.shapes["x"])
    last = {k: t for t, node in enumerate(dag.nodes) for k in (*node.inputs, node.name)}
    last |= {"x": len(dag.nodes), dag.outputs[0]: len(dag.nodes)}
    values = {"x": x}
    with pre.config(engine="reference"), Tracker(x.nbytes) as tracker:
        for t, node in enumerate(dag.nodes):
            values[node.name] = node.run(*(values[k] for k in node.inputs))
            for k in [k for k in values if last[k] <= t]:
                del values[k]
    return tracker.peak


def measured_training(dag):
    """Bytes alive after a recorded forward pass, and the most at once until the gradient is there (cotangents may share memory)."""
    x = np.ones(dag.shapes["x"])
    cotangents = Node_.cotangents
    with pre.config(engine="reference"), Tracker(x.nbytes) as tracker:

        def watched(node, g, wanted, create_graph):
            tracker.watching = False  # what a rule makes on its way is its workspace
            found = cotangents(node, g, wanted, create_graph)
            tracker.watching = True
            for v in found:
                if v is not None:
                    tracker.seen(np.asarray(v), (np.asarray(g),))
            return found

        t = pre.Tensor(x, requires_grad=True)
        y = dag.run({"x": t})[dag.outputs[0]]
        saved = tracker.start + sum(tracker.sizes.values())
        tracker.peak = saved
        with mock.patch.object(Node_, "cotangents", watched):
            if y is not t:
                y.backward(np.ones(y.shape))
    return saved, tracker.peak


# -- the comparison ----------------------------------------------------------------------------------------------------


def check(dag, rng):
    """Every number of the analysis against brute force. Raises AssertionError."""
    with pre.config(engine="reference"):
        found = analyse(dag, np.ones(dag.shapes["x"]))
        matrix = dependence(dag, rng)
    output = found.record.outputs[0]
    assert found.record.shape(output) == dag.shapes[dag.outputs[0]]
    outputs = list(np.ndindex(*dag.shapes[dag.outputs[0]]))
    inputs = list(np.ndindex(*dag.shapes["x"]))
    for at in rng.permutation(len(outputs))[:4]:
        got = found.receptive_field(outputs[at]).reshape(-1)
        assert (got == matrix[at]).all(), ("receptive", outputs[at])
    for at in rng.permutation(len(inputs))[:4]:
        got = found.projective_field(inputs[at]).reshape(-1)
        assert (got == matrix[:, at]).all(), ("projective", inputs[at])
    # borderless relations hold what is really seen, and per axis nothing is seen outside of them
    axes = found.layers[-1].axes if found.layers else ()
    wraps = any(n.call and n.call[3].get("padding_mode") for n in dag.nodes) or any(n.op == "pad" for n in dag.nodes)
    clamps = any(n.op == "upsample" for n in dag.nodes)
    if not (wraps or clamps):
        for at in rng.permutation(len(outputs))[:4]:
            seen = matrix[at].reshape(dag.shapes["x"])
            for k, axis in enumerate(axes[2:], 2):
                if axis is not None and not isinstance(axis.relation, type(None)) and hasattr(axis.relation, "seen"):
                    real = set(np.flatnonzero(seen.any(axis=tuple(j for j in range(seen.ndim) if j != axis.of))).tolist())
                    assert real <= set(axis.relation.seen(outputs[at][k])), ("relation", k, outputs[at])
    c = found.cost
    got = (
        c.macs, c.inside_macs, c.grad_input_macs, c.inside_grad_input_macs, c.grad_weight_macs, c.inside_grad_weight_macs, c.bias_adds
    )  # fmt: skip
    # weights are constants here, so no weight gradient is asked for: its count is that of the layers
    want = expected_cost(dag).tolist()
    assert got[:4] == tuple(want[:4]), ("cost", got, want)
    assert got[6] == want[6], ("bias", got, want)
    assert want[4:6] == want[:2]
    saved, peak = measured_training(dag)
    assert found.memory.saved_bytes == saved, ("saved", found.memory.saved_bytes, saved)
    assert saved <= peak <= found.memory.training_peak_bytes, ("training", found.memory.training_peak_bytes, peak)
    assert found.memory.forward_peak_bytes == measured_peak(dag), ("memory", found.memory.forward_peak_bytes, measured_peak(dag))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kinds = {}
    for k in range(options.count):
        rng = np.random.default_rng([options.seed, k])
        dag = random_dag(rng)
        try:
            check(dag, rng)
        except AssertionError as error:
            print(
                f"DAG {k}: {error}\n  "
                + "\n  ".join(f"{n.name} {n.op} {n.inputs} {dag.shapes[n.name]} {n.call and n.call[3]}" for n in dag.nodes)
            )
            raise SystemExit(1) from error
        for node in dag.nodes:
            kinds[node.op] = kinds.get(node.op, 0) + 1
    print(f"{options.count} DAGs: fields, costs and memory equal brute force; nodes: {kinds}")


if __name__ == "__main__":
    main()

"""Tiny Caffe nets for tests: a layer described in a line, run and differentiated in float64, and index-loop oracles."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import preimage as pre
from preimage.io import caffe
from preimage.io.caffe.assemble import Limits

RNG = np.random.default_rng(8)


def net_text(layer: str, *shapes: tuple[int, ...], tops: int = 1) -> str:
    """A net of Input layers a, b, c... and one layer under test with tops y, y1, ..."""
    lines = []
    for name, shape in zip("abcdefgh", shapes, strict=False):
        dims = " ".join(f"dim: {n}" for n in shape)
        lines.append(f'layer {{ name: "in_{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}')
    bottoms = " ".join(f'bottom: "{name}"' for name, _ in zip("abcdefgh", shapes, strict=False))
    outs = " ".join(f'top: "y{k or ""}"' for k in range(tops))
    lines.append(f'layer {{ name: "t" {bottoms} {outs} {layer} }}')
    return "\n".join(lines)


def build(layer: str, *shapes: tuple[int, ...], tops: int = 1, phase: str = "TEST", seed: int = 0) -> Any:
    """The graph of such a net, with float64 weights drawn at random, so that results can be compared closely."""
    graph = caffe.load(
        caffe.parse_text("NetParameter", net_text(layer, *shapes, tops=tops)), phase=phase, seed=seed, limits=Limits()
    )
    graph.astype(np.float64)
    rng = np.random.default_rng(seed + 1)
    for name in graph.weights:
        graph.put(name, rng.standard_normal(graph.array(name).shape))
    for name in graph.state:
        graph.put(name, 0.5 + rng.random(graph.array(name).shape))
    return graph


def run(graph: Any, *inputs: Any) -> Any:
    """The outputs for float64 inputs."""
    with pre.no_grad(), pre.config(engine="reference"):
        return graph(*(np.asarray(x, np.float64) for x in inputs))


def gradients(graph: Any, inputs: list[Any], cotangent: Any, wanted: list[int], out: int = 0) -> tuple[list[Any], list[Any]]:
    """Gradients of <cotangent, output> by the graph and by central differences, for the inputs `wanted` and all weights."""
    arrays = [np.asarray(x, np.float64) for x in inputs]
    leaves = [pre.Tensor(x, requires_grad=k in wanted) for k, x in enumerate(arrays)]
    with pre.config(engine="reference"):
        result = graph(*leaves)
        result = result[out] if isinstance(result, tuple) else result
        targets = [leaves[k] for k in wanted] + list(graph.weights.values())
        found = [g.data for g in pre.grad(result, targets, cotangent)]

    def value() -> float:
        y = run(graph, *arrays)
        return float(np.sum((y[out] if isinstance(y, tuple) else y) * cotangent))

    measured = []
    for target in [arrays[k] for k in wanted] + [graph.array(name) for name in graph.weights]:
        slope = np.zeros(target.shape)
        for place in np.ndindex(target.shape):
            kept = target[place]
            target[place] = kept + 1e-5
            up = value()
            target[place] = kept - 1e-5
            slope[place] = (up - value()) / 2e-5
            target[place] = kept
        measured.append(slope)
    return found, measured


def conv_loops(x: Any, w: Any, b: Any, stride: Any, pad: Any, dilation: Any, group: int) -> Any:
    """Convolution from its definition, over any number of spatial axes."""
    n, _, *space = x.shape
    outs = [
        (s + 2 * p - d * (k - 1) - 1) // t + 1 for s, p, d, k, t in zip(space, pad, dilation, w.shape[2:], stride, strict=True)
    ]
    y = np.zeros((n, w.shape[0], *outs))
    per_in, per_out = w.shape[1], w.shape[0] // group
    for image, o in itertools.product(range(n), range(w.shape[0])):
        for place in np.ndindex(*outs):
            total = b[o]
            for i, tap in itertools.product(range(per_in), np.ndindex(*w.shape[2:])):
                at = [p * t - q + k * d for p, t, q, k, d in zip(place, stride, pad, tap, dilation, strict=True)]
                if all(0 <= a < s for a, s in zip(at, space, strict=True)):
                    total += x[(image, o // per_out * per_in + i, *at)] * w[(o, i, *tap)]
            y[(image, o, *place)] = total
    return y


def deconv_loops(x: Any, w: Any, b: Any, stride: Any, pad: Any, dilation: Any, group: int) -> Any:
    """Deconvolution by adding up stencils: w is (in, out / group, k...)."""
    n, channels, *space = x.shape
    outs = [
        t * (s - 1) + d * (k - 1) + 1 - 2 * p for s, p, d, k, t in zip(space, pad, dilation, w.shape[2:], stride, strict=True)
    ]
    per_out, per_in = w.shape[1], channels // group
    y = np.zeros((n, per_out * group, *outs)) + np.asarray(b).reshape(-1, *(1,) * len(outs))
    for image, c in itertools.product(range(n), range(channels)):
        for place in np.ndindex(*space):
            for o, tap in itertools.product(range(per_out), np.ndindex(*w.shape[2:])):
                at = [p * t - q + k * d for p, t, q, k, d in zip(place, stride, pad, tap, dilation, strict=True)]
                if all(0 <= a < s for a, s in zip(at, outs, strict=True)):
                    y[(image, c // per_in * per_out + o, *at)] += x[(image, c, *place)] * w[(c, o, *tap)]
    return y

"""Warm times of a model's nodes, beside what bounds each: the peak of multiply-adds, or the speed of memory.

A node's work: multiply-adds of contractions, matrix products and recurrent layers, 2 flop each; nodes that have none do 0. Its bytes:
every array that it takes and gives, once. The least time that the machine allows is the larger of work / peak and bytes / bandwidth, with
the bandwidth of the smallest probed working set that holds the node's arrays (`bench.probes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from statistics import median

import numpy as np

from preimage.autograd import no_grad
from preimage.bench.probes import Probes
from preimage.io.graph import Graph, Node, Step
from preimage.io.inspection import geometry_of
from preimage.settings import thread_count

__all__ = ["NodeTime", "profile"]

Shapes = Mapping[str, tuple[int, ...]]
#: Gates of the recurrent layers: how many times the hidden size their matrices have rows.
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True, slots=True)
class NodeTime:
    """One node: its median time over the runs, its work and traffic, and the least time that the machine allows ("compute" or "memory")."""

    name: str
    op: str
    shapes: tuple[tuple[int, ...], ...]
    time_ns: float
    work_flop: int
    moved_bytes: int
    bound: str
    least_ns: float

    @property
    def gflops(self) -> float:
        """GFLOP/s reached."""
        return self.work_flop / self.time_ns

    @property
    def gbytes(self) -> float:
        """GB/s reached."""
        return self.moved_bytes / self.time_ns

    @property
    def reached(self) -> float:
        """The least time / the time."""
        return self.least_ns / self.time_ns


def profile(graph: Graph, feeds: Mapping[str, np.ndarray], *, rounds: int = 9) -> list[NodeTime]:
    """The nodes of a graph, slowest first, after a run that is not counted."""
    probe = Probes("float32", thread_count())
    probe.again(memory=True)
    runs: list[list[Step]] = []
    with no_grad():
        graph.run(feeds)
        for _ in range(rounds):
            steps: list[Step] = []
            graph.run(feeds, steps=steps)
            runs.append(steps)
    shapes = {key: tuple(np.shape(p.data)) for key, p in graph.weights.items()}
    shapes |= {key: tuple(np.shape(value)) for key, value in (graph.state | graph.constants | dict(feeds)).items()}
    sizes = {key: int(np.asarray(p.data).nbytes) for key, p in graph.weights.items()}
    sizes |= {key: int(np.asarray(value).nbytes) for key, value in (graph.state | graph.constants | dict(feeds)).items()}
    found = []
    for number, step in enumerate(runs[0]):
        node = step.node
        shapes.update(zip(node.outputs, step.shapes, strict=False))
        each = step.output_bytes // max(len(node.outputs), 1)
        sizes.update(dict.fromkeys(node.outputs, each))
        moved = step.output_bytes + sum(sizes.get(key, 0) for key in dict.fromkeys(node.inputs) if key)
        work = _work(graph, node, shapes)
        compute, memory = work / probe.peak_gflops, moved / _bandwidth(probe, moved)
        time_ns = max(median(run[number].time_ns for run in runs), 1)
        bound = "compute" if compute >= memory else "memory"
        found.append(
            NodeTime(node.name, node.op.removeprefix("onnx."), step.shapes, time_ns, work, moved, bound, max(compute, memory))
        )  # fmt: skip
    return sorted(found, key=lambda n: -n.time_ns)


def _bandwidth(probe: Probes, size: int) -> float:
    speeds = sorted((probe.memory or {}).items())
    return next((speed for held, speed in speeds if held >= size), speeds[-1][1])


def _work(graph: Graph, node: Node, shapes: Shapes) -> int:
    geometry = geometry_of(graph, node, shapes)
    if geometry is not None:
        return geometry.work_flop
    op = node.op.removeprefix("onnx.")
    made, taken = shapes.get(node.outputs[0], ()), [shapes.get(key, ()) for key in node.inputs]
    if op in ("matmul", "linear", "MatMul", "Gemm", "com.microsoft::FusedMatMul", "MatMulInteger", "QLinearMatMul") and taken[0]:
        turned = op == "Gemm" and bool(node.attributes.get("transA"))
        return 2 * prod(made) * taken[0][0 if turned else -1]
    if op in _GATES and len(taken[0]) == 3 and len(taken[1]) == 3:
        steps, batch, size = taken[0]
        directions, rows, _ = taken[1]
        return 2 * steps * batch * directions * rows * (size + rows // _GATES[op])
    return 0

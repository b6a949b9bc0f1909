"""The peers, where they are installed: torch (oneDNN), onnxruntime (MLAS), jax (XLA). Each is imported on first use.

torch takes part in both memory layouts, tensors and weights already in that layout; 1-D channels-last runs as 2-D with a
height of 1, because torch knows no channels-last 3-D tensor. A gradient is asked for alone (`convolution_backward` with an
output mask), so none does more than it must. Unequal padding is what its user would write: F.pad before, a crop behind.
onnxruntime and jax run the forward pass; onnxruntime on NCHW, its own order.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

import numpy as np

from preimage.bench.problem import Array, Problem, ordered
from preimage.bench.suite import Layer
from preimage.errors import EngineError

__all__ = ["PEERS", "torch_truth"]


# ------------------------------------------------------------------------------------------------------------- torch


class _TorchSizes:
    """A layer in torch's words: one padding number an axis, and what must be padded or cropped beside it."""

    def __init__(self, layer: Layer, lift: bool) -> None:
        g = layer.geometry
        self.transposed = layer.kind == "deconv"
        pairs = g.padding
        self.common = [max(0, min(lo, hi)) for lo, hi in pairs]
        self.rest = [(lo - c, hi - c) for (lo, hi), c in zip(pairs, self.common, strict=True)]
        self.stride, self.dilation, self.groups = list(g.stride), list(g.dilation), g.groups
        self.output_padding = list(g.output_padding) if self.transposed else [0] * g.ndim
        if lift:  # 1-D as 2-D
            self.common, self.rest = [0, *self.common], [(0, 0), *self.rest]
            self.stride, self.dilation = [1, *self.stride], [1, *self.dilation]
            self.output_padding = [0, *self.output_padding]
        self.uneven = any(pair != (0, 0) for pair in self.rest)
        #: F.pad's order: the last axis first
        self.pad = [v for pair in reversed(self.rest) for v in pair]

    def crop(self, t: Any) -> Any:
        """The large side without the extra padding: what F.pad's adjoint keeps."""
        for axis, (lo, hi) in enumerate(self.rest):
            t = t.narrow(2 + axis, lo, t.shape[2 + axis] - lo - hi)
        return t


def _torch_call(torch: Any, layer: Layer, contraction: str, x: Any, w: Any, y: Any, lift: bool) -> Any:
    """The call for tensors x (large), w, y (small), unpadded."""
    s = _TorchSizes(layer, lift)
    pad = torch.nn.functional.pad
    conv, back = torch.convolution, torch.ops.aten.convolution_backward.default
    args = (s.stride, s.common, s.dilation, s.transposed, s.output_padding, s.groups)
    if contraction == "conv_weight_grad":
        mask = [False, True, False]
        if s.transposed:
            return lambda: back(pad(x, s.pad) if s.uneven else x, y, w, None, *args, mask)[1]
        return lambda: back(y, pad(x, s.pad) if s.uneven else x, w, None, *args, mask)[1]
    forward = (contraction == "conv") != s.transposed
    if forward:
        if s.transposed:
            return lambda: s.crop(conv(y, w, None, *args)) if s.uneven else conv(y, w, None, *args)
        return lambda: conv(pad(x, s.pad) if s.uneven else x, w, None, *args)
    mask = [True, False, False]
    if s.transposed:
        return lambda: back(pad(x, s.pad) if s.uneven else x, y, w, None, *args, mask)[0]
    like = pad(x, s.pad)  # only its sizes and layout are used
    return lambda: s.crop(back(y, like, w, None, *args, mask)[0]) if s.uneven else back(y, like, w, None, *args, mask)[0]


class TorchContestant:
    """torch on the CPU in one memory layout."""

    name = "torch"
    exact = False
    ours = False

    def __init__(self, layout: str) -> None:
        import torch

        self._torch, self.layout = torch, layout

    def refuses(self, problem: Problem, what: str) -> str | None:
        g = problem.layer.geometry
        if g.ndim not in (1, 2, 3):
            return f"torch has no {g.ndim}-D convolution"
        return None

    def prepare(self, problem: Problem, what: str, threads: int) -> Any:
        torch, layer = self._torch, problem.layer
        torch.set_num_threads(threads)
        contraction = layer.contraction(what)
        lift = layer.geometry.ndim == 1 and self.layout == "channels_last"
        x, y = self._tensor(problem.x, lift), self._tensor(problem.y, lift)
        if what == "grad_bias":
            a = x if layer.kind == "deconv" else y
            axes = [0, *range(2, a.ndim)]
            return lambda: a.sum(axes)
        return _torch_call(torch, layer, contraction, x, self._tensor(problem.w, lift), y, lift)

    def _tensor(self, a: Array, lift: bool) -> Any:
        torch = self._torch
        t = torch.from_numpy(np.ascontiguousarray(a).copy())
        if lift:
            t = t.unsqueeze(2)
        if self.layout == "channels_last" and t.ndim >= 4:
            t = t.contiguous(memory_format=torch.channels_last if t.ndim == 4 else torch.channels_last_3d)
        return t

    def result(self, value: Any, problem: Problem, what: str) -> Array:
        if what != "grad_bias" and problem.layer.geometry.ndim == 1 and value.ndim == 4:
            value = value.squeeze(2)
        return np.asarray(value.detach().numpy())


def torch_truth(layer: Layer, contraction: str, x: Array, w: Array, y: Array) -> Array:
    """A contraction by torch, in the dtype of the arrays (float64 for exact answers)."""
    import torch

    if layer.geometry.ndim not in (1, 2, 3):
        raise ImportError("torch has no convolution of that many dimensions")
    tx, tw, ty = (torch.from_numpy(a) for a in (x, w, y))
    return np.asarray(_torch_call(torch, layer, contraction, tx, tw, ty, False)().numpy())


# ------------------------------------------------------------------------------------------------------- onnxruntime


class OnnxRuntimeContestant:
    """onnxruntime on the CPU: one node, forward only, weights constant (it may repack them once)."""

    name = "onnxruntime"
    layout = "channels_first"
    exact = False
    ours = False

    def __init__(self) -> None:
        import onnx
        import onnxruntime

        self._onnx, self._runtime = onnx, onnxruntime

    def refuses(self, problem: Problem, what: str) -> str | None:
        if what != "forward":
            return "onnxruntime runs forward passes only"
        if np.dtype(problem.dtype) != np.float32:
            return "onnxruntime's CPU convolutions are float32"
        return None

    def prepare(self, problem: Problem, what: str, threads: int) -> Any:
        helper, numpy_helper = self._onnx.helper, self._onnx.numpy_helper
        layer, g = problem.layer, problem.layer.geometry
        deconv = layer.kind == "deconv"
        source = problem.y if deconv else problem.x
        pads = [lo for lo, _ in g.padding] + [hi for _, hi in g.padding]
        attributes: dict[str, Any] = {"strides": g.stride, "dilations": g.dilation, "group": g.groups, "pads": pads}
        if deconv:
            attributes["output_padding"] = g.output_padding
        node = helper.make_node("ConvTranspose" if deconv else "Conv", ["a", "w"], ["b"], **attributes)
        float_ = self._onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            [node],
            "layer",
            [helper.make_tensor_value_info("a", float_, source.shape)],
            [helper.make_tensor_value_info("b", float_, None)],
            [numpy_helper.from_array(problem.w, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        # Its idle threads would spin through the turns of the others.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads == 1 else "0")
        session = self._runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feed = {"a": ordered(source, "channels_first")}
        return lambda: session.run(None, feed)[0]

    def result(self, value: Any, problem: Problem, what: str) -> Array:
        return np.asarray(value)


# --------------------------------------------------------------------------------------------------------------- jax


class JaxContestant:
    """jax on the CPU (XLA), compiled per layer. XLA makes its pool once a process, one thread per CPU of the affinity mask then."""

    name = "jax"
    exact = False
    ours = False
    _pool: ClassVar[int | None] = None

    def __init__(self, layout: str) -> None:
        import jax  # type: ignore[import-not-found,unused-ignore]

        self._jax, self.layout = jax, layout

    def refuses(self, problem: Problem, what: str) -> str | None:
        if what != "forward":
            return "only the forward pass of jax is timed"
        if problem.layer.kind == "deconv" and problem.layer.geometry.groups > 1:
            return "jax has no grouped transposed convolution in one call"
        if np.dtype(problem.dtype) != np.float32:
            return "jax computes in float32 unless the whole process is switched to float64"
        return None

    def _start(self, threads: int) -> None:
        """Make XLA's pool of so many threads, which then may run anywhere."""
        if JaxContestant._pool is None and hasattr(os, "sched_setaffinity"):
            mask, before = os.sched_getaffinity(0), set(os.listdir("/proc/self/task"))
            os.sched_setaffinity(0, sorted(mask)[:threads])
            try:
                self._jax.devices("cpu")
            finally:
                for task in {*os.listdir("/proc/self/task")} - before:
                    os.sched_setaffinity(int(task), mask)
                os.sched_setaffinity(0, mask)
            JaxContestant._pool = threads
        if JaxContestant._pool not in (None, threads):
            raise EngineError(f"jax has {JaxContestant._pool} thread(s) in this process for good: run --threads {threads} alone")

    def prepare(self, problem: Problem, what: str, threads: int) -> Any:
        self._start(threads)
        jax, g = self._jax, problem.layer.geometry
        space = "DHW"[-g.ndim :] if g.ndim else ""
        order = f"N{space}C" if self.layout == "channels_last" else f"NC{space}"
        numbers = (order, f"OI{space}", order)
        options: dict[str, Any]
        deconv = problem.layer.kind == "deconv"
        source = problem.y if deconv else problem.x
        if deconv:  # the definition: stretch by the stride, slide the mirrored stencil
            kernel = np.ascontiguousarray(np.flip(problem.w, tuple(range(2, 2 + g.ndim))).swapaxes(0, 1))
            extents = zip(g.kernel_extent, g.padding, g.output_padding, strict=True)
            padding = [(e - 1 - lo, e - 1 - hi + extra) for e, (lo, hi), extra in extents]
            options = {"window_strides": (1,) * g.ndim, "padding": padding, "lhs_dilation": g.stride, "rhs_dilation": g.dilation}
        else:
            kernel = problem.w
            options = {"window_strides": g.stride, "padding": list(g.padding), "rhs_dilation": g.dilation}
        options |= {"dimension_numbers": numbers, "feature_group_count": g.groups}
        run = jax.jit(lambda a, b: jax.lax.conv_general_dilated(a, b, **options))
        if self.layout == "channels_last":
            source = np.ascontiguousarray(np.moveaxis(source, 1, -1))
        a, b = jax.device_put(source), jax.device_put(kernel)
        return lambda: run(a, b).block_until_ready()

    def result(self, value: Any, problem: Problem, what: str) -> Array:
        a = np.asarray(value)
        return np.moveaxis(a, -1, 1) if self.layout == "channels_last" else a


PEERS: dict[str, Any] = {
    "torch": lambda layouts: [TorchContestant(layout) for layout in layouts],
    "onnxruntime": lambda layouts: [OnnxRuntimeContestant()],
    "jax": lambda layouts: [JaxContestant(layout) for layout in layouts],
}

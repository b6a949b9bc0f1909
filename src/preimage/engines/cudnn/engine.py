"""The engine `cudnn`: the contractions by cuDNN's classic calls, literally those of Caffe's cuDNN layer.

    conv               cudnnConvolutionForward
    conv_transpose     cudnnConvolutionBackwardData
    conv_weight_grad   cudnnConvolutionBackwardFilter
    sums per channel   cudnnConvolutionBackwardBias

Algorithms that cuDNN calls deterministic alone, so the same call gives the same bits on one GPU and version; nothing more is promised.
Channels-last arrays are rearranged before and after. Unless accuracy="fast", no algorithm that transforms and no TF32.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from preimage.engines.base import Array, DType, Epilogue, Plan, is_channels_last, supported_dtype
from preimage.engines.cuda.arrays import arrays_for
from preimage.engines.cuda.driver import Gpu
from preimage.engines.cuda.products import DeviceProducts
from preimage.engines.cudnn.choose import DEFAULT_MATH, FMA_MATH, Shapes, choose_algorithm, refused, shapes_of
from preimage.engines.cudnn.library import Descriptor, Library, open_library
from preimage.engines.cudnn.session import Handle, Session
from preimage.errors import EngineError
from preimage.geometry import ConvGeometry
from preimage.settings import current

__all__ = ["CudnnEngine"]

_CALLS = {
    "conv": "ConvolutionForward",
    "conv_transpose": "ConvolutionBackwardData",
    "conv_weight_grad": "ConvolutionBackwardFilter",
}


class CudnnEngine:
    """library: a libcudnn that is open already; by default it is looked for."""

    name = "cudnn"
    takes_prepared = False
    promises = ("repeat",)

    def __init__(self, library: Library | None = None) -> None:
        self._given = library
        self._threads = threading.local()

    @property
    def kernels(self) -> Any:
        """The sums that cuDNN has a call for."""
        return CudnnSums(self)

    @property
    def products(self) -> Any:
        """Each product is a convolution with a kernel of one position."""
        return DeviceProducts(self.conv)

    @property
    def library(self) -> Library:
        return self._given or open_library()

    def unavailable(self) -> str | None:
        from preimage.engines.cuda import devices

        try:
            _ = self.library
        except EngineError as error:
            return str(error)
        if current().device == "simulator":
            return "cuDNN runs on NVIDIA GPUs alone, and the setting device is 'simulator'"
        return devices.unavailable(current().device)

    def supports(self, geometry: ConvGeometry, contraction: str, dtype: DType) -> str | None:
        if not supported_dtype(dtype):
            return f"dtype {dtype} is not float32, float64, float16 or bfloat16"
        return refused(geometry, dtype.name)

    # ---- the contractions

    def conv(self, geometry: ConvGeometry, x: Array, w: Array, epilogue: Epilogue | None = None) -> Array:
        g, shapes = geometry, shapes_of(geometry)
        with self._session(x) as s:
            out = s.arrays.make(g.output_shape, x.dtype, is_channels_last(x))
            result = out.address if not is_channels_last(x) else s.memory(_count(g.output_shape) * s.itemsize)
            if _count(g.output_shape) and x.size and w.size:
                large = s.into_window(s.dense(s.take(x)), shapes, g.batch, g.in_channels)
                weights = s.dense(s.take(w))
                known = _Descriptors(s, g, shapes)
                chosen = self._chosen(s, g, "conv", known)
                s.run(
                    "ConvolutionForward",
                    known.large,
                    large,
                    known.weight,
                    weights,
                    known.convolution,
                    chosen,
                    known.small,
                    result,
                )
            else:
                s.arrays.device.fill(result, _count(g.output_shape) * s.itemsize, 0, s.arrays.stream)
            s.finish(result, (g.batch, g.out_channels, *shapes.small), epilogue)
            return s.give(result, out)  # type: ignore[no-any-return]

    def conv_transpose(self, geometry: ConvGeometry, y: Array, w: Array, epilogue: Epilogue | None = None) -> Array:
        g, shapes = geometry, shapes_of(geometry)
        with self._session(y) as s:
            out = s.arrays.make(g.input_shape, y.dtype, is_channels_last(y))
            direct = shapes.plain and not is_channels_last(y)
            window = out.address if direct else s.memory(g.batch * g.in_channels * _count(shapes.window) * s.itemsize)
            if _count(g.input_shape) and y.size and w.size:
                small, weights = s.dense(s.take(y)), s.dense(s.take(w))
                known = _Descriptors(s, g, shapes)
                chosen = self._chosen(s, g, "conv_transpose", known)
                s.run(
                    "ConvolutionBackwardData",
                    known.weight,
                    weights,
                    known.small,
                    small,
                    known.convolution,
                    chosen,
                    known.large,
                    window,
                )
            else:
                s.arrays.device.fill(window, g.batch * g.in_channels * _count(shapes.window) * s.itemsize, 0, s.arrays.stream)
            result = s.out_of_window(window, shapes, g.batch, g.in_channels)
            s.finish(result, (g.batch, g.in_channels, *shapes.caller), epilogue)
            return s.give(result, out)  # type: ignore[no-any-return]

    def conv_weight_grad(self, geometry: ConvGeometry, x: Array, y: Array) -> Array:
        g, shapes = geometry, shapes_of(geometry)
        with self._session(x) as s:
            out = s.arrays.make(g.weight_shape, x.dtype)
            if _count(g.weight_shape) and x.size and y.size:
                large = s.into_window(s.dense(s.take(x)), shapes, g.batch, g.in_channels)
                small = s.dense(s.take(y))
                known = _Descriptors(s, g, shapes)
                chosen = self._chosen(s, g, "conv_weight_grad", known)
                s.run(
                    "ConvolutionBackwardFilter", known.large, large, known.small, small, known.convolution, chosen, known.weight,
                    out.address,
                )  # fmt: skip
            else:
                s.arrays.device.fill(out.address, _count(g.weight_shape) * s.itemsize, 0, s.arrays.stream)
            return s.give(out.address, out)  # type: ignore[no-any-return]

    def plan(self, geometry: ConvGeometry, contraction: str, dtype: DType, channels_last: bool = False) -> Plan:
        """What would run; the algorithm is chosen by cuDNN when the call is made."""
        g, shapes = geometry, shapes_of(geometry)
        details = {
            "call": f"cudnn{_CALLS[contraction]}",
            "math": "TF32 allowed" if current().accuracy == "fast" else "fused multiply-adds of the arrays' type",
            "algorithms": "deterministic ones, by cuDNN's heuristics",
            "layout": "channels last, rearranged before and after" if channels_last else "channels first",
            "large side": "as it is" if shapes.plain else f"by way of a window of {shapes.window}",
        }
        return Plan(
            self.name, contraction, "cuDNN", g, dtype.name, g.work_flop, g.array_bytes(dtype.itemsize), current().workspace_bytes, 1,
            self.promises, details,
        )  # fmt: skip

    # ---- within

    def _chosen(self, s: Session, g: ConvGeometry, contraction: str, known: _Descriptors) -> Any:
        settings = current()
        order = {
            "conv": (known.large, known.weight, known.convolution, known.small),
            "conv_transpose": (known.weight, known.small, known.convolution, known.large),
            "conv_weight_grad": (known.large, known.small, known.convolution, known.weight),
        }
        proposals = s.proposals(_CALLS[contraction], *order[contraction])
        chosen, reasons = choose_algorithm(contraction, proposals, settings.workspace_bytes, settings.accuracy == "fast")
        if chosen is None:
            listed = "; ".join(f"{name}: {why}" for name, why in reasons.items()) or "it proposes none"
            raise EngineError(f"cuDNN has no algorithm for this {contraction}: {listed}. Engine 'cuda' takes it")
        return chosen

    @contextmanager
    def _session(self, example: Any) -> Iterator[Session]:
        """A session for arrays like this one, with the GPU's context current."""
        arrays, library = arrays_for(example), self.library
        gpu: Any = arrays.device
        if not isinstance(gpu, Gpu):
            raise EngineError(f"cuDNN runs on NVIDIA GPUs alone, and the setting device is {current().device!r}")
        handles: dict[Gpu, Handle] | None = getattr(self._threads, "handles", None)
        if handles is None:
            handles = self._threads.handles = {}
        handle = handles.get(gpu)
        if handle is None:
            handle = handles[gpu] = Handle(gpu, library)
        with gpu.inside():
            session = Session(library, handle, arrays, example.dtype)
            yield session
            session.close()  # after a failure what was taken goes with its objects, once the device is idle


class CudnnSums:
    """What this engine computes beside the contractions: the bias's gradient."""

    def __init__(self, engine: CudnnEngine) -> None:
        self._engine = engine

    def channel_sums(self, x: Any, mode: str, images: bool, g: Any = None, m: Any = None) -> tuple[Any, ...]:
        """The sums of the channels of (N, C, *space), over images and space. Raises: EngineError for what cuDNN has no call for."""
        if mode != "plain" or not images:
            raise EngineError("cuDNN sums over batch and space alone; engine 'cuda' has the other sums")
        with self._engine._session(x) as s:
            out = s.arrays.make((x.shape[1],), x.dtype)
            if x.size:
                space = (1,) * (4 - x.ndim) + x.shape[2:]
                s.bias_gradient(s.dense(s.take(x)), (*x.shape[:2], *space), out.address)
            else:
                s.arrays.device.fill(out.address, x.shape[1] * s.itemsize, 0, s.arrays.stream)
            return (s.arrays.give(out),)


class _Descriptors:
    """The descriptors of one geometry."""

    def __init__(self, s: Session, g: ConvGeometry, shapes: Shapes) -> None:
        math = DEFAULT_MATH if current().accuracy == "fast" else FMA_MATH
        library = s.library
        self._held = (
            s.tensor((g.batch, g.in_channels, *shapes.window)),
            s.tensor((g.batch, g.out_channels, *shapes.small)),
            Descriptor.filter(library, s.name, (g.out_channels, g.in_channels_per_group, *shapes.kernel)),
            Descriptor.convolution(library, s.compute, shapes.padding, shapes.stride, shapes.dilation, g.groups, math),
        )
        self.large, self.small, self.weight, self.convolution = (d.handle for d in self._held)


def _count(shape: Sequence[int]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count

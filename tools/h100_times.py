"""Times for tools/h100.py: layers by the engine cuda on torch's arrays, beside torch, whose answers are compared with ours first."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

import preimage as pre

#: name, batch, in, out, groups, size, kernel, stride, padding, dilation, transpose
LAYERS = (
    ("3x3 56x56x64", 32, 64, 64, 1, (56, 56), 3, 1, 1, 1, False), ("3x3 28x28x128", 32, 128, 128, 1, (28, 28), 3, 1, 1, 1, False),
    ("3x3 14x14x256", 32, 256, 256, 1, (14, 14), 3, 1, 1, 1, False), ("3x3 7x7x512", 32, 512, 512, 1, (7, 7), 3, 1, 1, 1, False),
    ("1x1 56x56 64-256", 32, 64, 256, 1, (56, 56), 1, 1, 0, 1, False), ("stem 7x7 s2", 32, 3, 64, 1, (224, 224), 7, 2, 3, 1, False),
    ("dilated by 12", 4, 256, 256, 1, (41, 41), 3, 1, 12, 12, False), ("32 groups", 32, 128, 128, 32, (28, 28), 3, 1, 1, 1, False),
    ("depthwise 3x3", 32, 128, 128, 128, (56, 56), 3, 1, 1, 1, False), ("3-D 3x3x3", 2, 32, 64, 1, (16, 32, 32), 3, 1, 1, 1, False),
    ("deconv 4x4 s2 256-128", 16, 128, 256, 1, (64, 64), 4, 2, 1, 1, True), ("deconv 2x2 s2 128-64", 16, 64, 128, 1, (128, 128), 2, 2, 0, 1, True),
    ("deconv 4x4 s2 64-3", 16, 3, 64, 1, (256, 256), 4, 2, 1, 1, True), ("batch 1 3x3 56x56x64", 1, 64, 64, 1, (56, 56), 3, 1, 1, 1, False),
    ("batch 1 deconv 4x4 s2", 1, 128, 256, 1, (32, 32), 4, 2, 1, 1, True),
)  # fmt: skip
#: Those that are timed in float64 too.
DOUBLE = ("3x3 28x28x128", "3x3 14x14x256", "3-D 3x3x3", "deconv 4x4 s2 256-128")
#: torch's settings: allow_tf32, cudnn.benchmark, channels last
PEERS = {
    "torch default": (True, False, False), "torch fp32": (False, False, False), "torch fp32 benchmark": (False, True, False),
    "torch fp32 benchmark channels_last": (False, True, True), "torch tf32 benchmark channels_last": (True, True, True),
}  # fmt: skip
OURS = {"preimage cuda": False, "preimage cuda channels_last": True}
PASSES = ("forward", "input gradient", "weight gradient")
#: Peers whose layout is ours, and which compute in float32 as we do.
EQUAL = {"preimage cuda": "torch fp32 benchmark", "preimage cuda channels_last": "torch fp32 benchmark channels_last"}


def geometry_of(row: tuple[Any, ...]) -> pre.ConvGeometry:
    """Of a row of LAYERS without its name and `transpose`."""
    batch, inner, outer, groups, size, kernel, stride, padding, dilation = row
    kernel = kernel if isinstance(kernel, tuple) else (kernel,) * len(size)
    return pre.ConvGeometry.from_conv(
        (batch, inner, *size), (outer, inner // groups, *kernel), stride=stride, padding=padding, dilation=dilation, groups=groups
    )


def torch_ms(torch: Any, call: Callable[[], object], repeat: int) -> float:
    """Median milliseconds of a call, by torch's events."""
    for _ in range(3):
        call()
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeat)]
    for begin, end in marks:
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median([begin.elapsed_time(end) for begin, end in marks])


def ours(g: pre.ConvGeometry, transpose: bool, x: Any, w: Any, y: Any) -> dict[str, Callable[[], Any]]:
    """Our call of each pass of a layer; x is its large side, y its small one."""
    options: dict[str, Any] = {"stride": g.stride, "padding": g.padding, "dilation": g.dilation, "groups": g.groups}
    prepared = pre.prepare(w)

    def down() -> Any:
        return pre.conv(x, prepared, **options)

    def up() -> Any:
        return pre.conv_transpose(y, prepared, output_size=g.input_size, **options)

    def weights() -> Any:
        return pre.conv_weight_grad(x, y, kernel_size=g.kernel_size, **options)

    return dict(zip(PASSES, (up, down, weights) if transpose else (down, up, weights), strict=True))


def theirs(torch: Any, g: pre.ConvGeometry, transpose: bool, x: Any, w: Any, y: Any) -> dict[str, Callable[[], Any]]:
    """And torch's."""
    padding = [lo for lo, _ in g.padding]
    layer = getattr(torch.nn.functional, f"conv{'_transpose' if transpose else ''}{g.ndim}d")
    given, above = (y, x) if transpose else (x, y)

    def forward() -> Any:
        return layer(given, w, stride=g.stride, padding=padding, dilation=g.dilation, groups=g.groups)

    def gradient(number: int) -> Callable[[], Any]:
        wanted = [k == number for k in range(3)]
        return lambda: torch.ops.aten.convolution_backward(
            above, given, w, None, list(g.stride), padding, list(g.dilation), transpose, [0] * g.ndim, g.groups, wanted
        )[number]

    return dict(zip(PASSES, (forward, gradient(0), gradient(1)), strict=True))


def layer_times(torch: Any, rng: np.random.Generator, row: tuple[Any, ...], dtype: str, repeat: int) -> list[dict[str, Any]]:
    """TFLOP/s of one layer's passes, ours first; and how far torch's answer without TF32 is from ours."""
    name, *rest, transpose = row
    g = geometry_of(tuple(rest))
    made = [
        torch.from_numpy(rng.standard_normal(s).astype(dtype)).cuda() for s in (g.input_shape, g.weight_shape, g.output_shape)
    ]
    order = torch.channels_last if g.ndim == 2 else torch.channels_last_3d
    last = [a.contiguous(memory_format=order) for a in made]
    rows = [{"layer": name, "pass": which, "dtype": dtype, "gflop": g.work_flop / 1e9} for which in PASSES]
    answers: dict[str, Any] = {}

    def measure(row: dict[str, Any], label: str, call: Callable[[], Any]) -> Any:
        try:
            row[label] = g.work_flop / 1e9 / max(torch_ms(torch, call, repeat), 1e-9)
            return call()
        except Exception as error:
            row[label] = f"failed: {error}"[:200]
            return None

    for label, innermost in OURS.items():
        calls = ours(g, transpose, *(last if innermost else made))
        for row_ in rows:
            answer = measure(row_, label, calls[row_["pass"]])
            answers.setdefault(row_["pass"], answer)
    for label, (tf32, benchmark, innermost) in PEERS.items():
        if dtype == "float64" and tf32:
            continue  # the setting is float32's
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = tf32, benchmark
        calls = theirs(torch, g, transpose, *(last if innermost else made))
        for row_ in rows:
            answer = measure(row_, label, calls[row_["pass"]])
            mine = answers[row_["pass"]]
            if label == "torch fp32" and answer is not None and mine is not None:
                row_["largest difference"] = float((answer - mine).abs().max())
    return rows


def shares(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Geometric means of our speed over torch's at equal layout, TF32 off, of float32's layers in two dimensions, and how many they are."""
    found: dict[str, Any] = {}
    flat = [row for row in rows if row["dtype"] == "float32" and not row["layer"].startswith("3-D")]
    for mine, peer in EQUAL.items():
        for which in PASSES:
            pairs = [(r.get(mine), r.get(peer)) for r in flat if r["pass"] == which]
            logs = [math.log(a / b) for a, b in pairs if isinstance(a, float) and isinstance(b, float)]
            if logs:
                found[f"{mine} / {peer}, {which}"] = {"mean": math.exp(statistics.fmean(logs)), "layers": len(logs)}
    return found

"""ONNX's poolings and Resize: random attributes and sizes against the operators' definitions in index loops, and against onnxruntime."""

import itertools
from fractions import Fraction
from math import ceil, floor
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import helper  # noqa: E402
from onnx_models import model, onnxruntimes, ours  # noqa: E402

import preimage as pre  # noqa: E402
from preimage.io import onnx as onnx_io  # noqa: E402

# -- poolings ----------------------------------------------------------------------------------------------------------


def window_axis(n: int, k: int, s: int, d: int, attributes: dict[str, Any], axis: int, ndim: int) -> tuple[int, int, int]:
    """Outputs and padding (lo, hi) of one axis, as the operator's text has them."""
    extent, auto = (k - 1) * d + 1, attributes.get("auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        outputs = -(-n // s)
        total = max((outputs - 1) * s + extent - n, 0)
        lo = total // 2 if auto == "SAME_UPPER" else total - total // 2
        return outputs, lo, total - lo
    lo, hi = (0, 0) if auto == "VALID" else (attributes["pads"][axis], attributes["pads"][axis + ndim])
    room = n + lo + hi - extent
    outputs = (-(-room // s) if attributes["ceil_mode"] else room // s) + 1
    if attributes["ceil_mode"] and (outputs - 1) * s >= n + lo:  # no window starts behind the input
        outputs -= 1
    return outputs, lo, hi


def pooled(op: str, x: Any, a: dict[str, Any]) -> Any:
    """The operator's definition, window by window."""
    kernel, strides, dilations, space = a["kernel_shape"], a["strides"], a["dilations"], x.shape[2:]
    axes = zip(space, kernel, strides, dilations, strict=True)
    rows = [window_axis(*sizes, a, i, len(kernel)) for i, sizes in enumerate(axes)]
    y = np.zeros(x.shape[:2] + tuple(row[0] for row in rows))
    for o in itertools.product(*(range(row[0]) for row in rows)):
        values, count = [], 0
        for t in itertools.product(*map(range, kernel)):
            at = [i * s - row[1] + j * d for i, s, row, j, d in zip(o, strides, rows, t, dilations, strict=True)]
            if all(0 <= p < n for p, n in zip(at, space, strict=True)):
                values.append(x[(..., *at)].astype(np.float64))
                count += 1
            elif a.get("count_include_pad") and all(-row[1] <= p < n + row[2] for p, n, row in zip(at, space, rows, strict=True)):
                count += 1
        inside = np.array(values)
        if op == "MaxPool":
            y[(..., *o)] = inside.max(0)
        elif op == "AveragePool":
            y[(..., *o)] = inside.sum(0) / count
        else:
            y[(..., *o)] = (np.abs(inside) ** a["p"]).sum(0) ** (1 / a["p"])
    return y


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_poolings_with_every_attribute(op: str, seed: int) -> None:
    rng = np.random.default_rng([seed, len(op)])
    ndim = int(rng.integers(1, 4))
    kernel, strides, dilations = rng.integers(2, 5, ndim), rng.integers(1, 5, ndim), rng.integers(1, 3, ndim)
    space = [int(rng.integers((k - 1) * d + 1, (k - 1) * d + 7)) for k, d in zip(kernel, dilations, strict=True)]
    a: dict[str, Any] = {"kernel_shape": kernel.tolist(), "strides": strides.tolist(), "dilations": dilations.tolist()}
    a["ceil_mode"] = seed % 2
    auto = rng.choice(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
    a |= {"pads": rng.integers(0, np.tile(kernel, 2)).tolist()} if auto == "NOTSET" else {"auto_pad": str(auto)}
    a |= {"count_include_pad": int(rng.integers(0, 2))} if op == "AveragePool" else {}
    a |= {"p": int(rng.integers(1, 4))} if op == "LpPool" else {}
    feeds = {"x": rng.integers(-9, 10, (2, 3, *space)).astype(np.float32)}
    proto = model([helper.make_node(op, ["x"], ["y"], **a)], feeds, opset=19)
    with np.errstate(all="ignore"):
        wanted = pooled(op, feeds["x"], a)
    (found,) = ours(proto, feeds)
    assert found.shape == wanted.shape
    assert np.allclose(found, wanted, rtol=1e-5, atol=1e-5)
    if auto.startswith("SAME") and (max(dilations) > 1 or any(strides > kernel)):
        return  # there onnxruntime leaves the dilation out, or cuts the input
    theirs = onnxruntimes(proto, feeds)
    assert theirs is None or np.allclose(found, theirs[0], rtol=1e-5, atol=1e-5)


def test_lp_pool_of_a_window_that_ends_in_padding() -> None:
    feeds = {"x": np.ones((1, 1, 3), np.float32)}
    proto = model([helper.make_node("LpPool", ["x"], ["y"], kernel_shape=[2], strides=[2], p=1, ceil_mode=1)], feeds, opset=18)
    assert ours(proto, feeds)[0].ravel().tolist() == [2, 1]


# -- Resize ------------------------------------------------------------------------------------------------------------

COORDINATES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize",
)  # fmt: skip
ROUNDINGS = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
SCALES = [(1, 2), (3, 5), (7, 10), (3, 10), (3, 2), (2, 1), (3, 1), (1, 3), (2, 3), (4, 3), (11, 10), (17, 10), (5, 3), (5, 2)]
HALF = Fraction(1, 2)


def position(o: int, n: int, m: int, scale: Fraction, coordinates: str, start: Fraction, end: Fraction) -> Fraction:
    """Where output o of m reads an axis of n elements; sizes that are no whole number are rounded down first."""
    if coordinates == "align_corners":
        return Fraction(o * (n - 1), m - 1) if m > 1 else Fraction(0)
    if coordinates == "asymmetric":
        return o / scale
    if coordinates == "tf_crop_and_resize":
        return start * (n - 1) + o * (end - start) * (n - 1) / (m - 1) if m > 1 else HALF * (start + end) * (n - 1)
    if coordinates == "pytorch_half_pixel" and m == 1:
        return Fraction(0)
    shift = Fraction(n, 2) * (1 - Fraction(m) / (n * scale)) if coordinates == "half_pixel_symmetric" else 0
    return shift + (o + HALF) / scale - HALF


def nearest(p: Fraction, rounding: str) -> int:
    if rounding == "round_prefer_floor":
        return ceil(p - HALF)
    return floor(p + HALF) if rounding == "round_prefer_ceil" else floor(p) if rounding == "floor" else ceil(p)


def cubic(t: float, a: float = -0.75) -> float:
    t = abs(t)
    return (a + 2) * t**3 - (a + 3) * t**2 + 1 if t <= 1 else a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def blended(x: Any, p: Fraction, mode: str, exclude: bool) -> float:
    n, low = len(x), floor(p)
    taps = range(low, low + 2) if mode == "linear" else range(low - 1, low + 3)
    weights = [max(0.0, 1 - abs(float(k - p))) if mode == "linear" else cubic(float(k - p)) for k in taps]
    if exclude:
        weights = [w if 0 <= k < n else 0.0 for k, w in zip(taps, weights, strict=True)]
        weights = [w / sum(weights) for w in weights]
    return sum(w * float(x[min(max(k, 0), n - 1)]) for k, w in zip(taps, weights, strict=True))


@pytest.mark.parametrize(
    ("mode", "rounding"), [*(("nearest", r) for r in ROUNDINGS), ("linear", ""), ("cubic", ""), ("cubic", "x")]
)
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_resize_is_its_definition(coordinates: str, mode: str, rounding: str) -> None:
    rng = np.random.default_rng([COORDINATES.index(coordinates), len(mode), len(rounding)])
    compared = 0
    for case in range(30):
        n = int(rng.integers(1, 30))
        start, end = (Fraction(int(v), 20) for v in ([0, 2, 5, -4][case % 4], [20, 18, 15, 26][case % 4]))
        stored: dict[str, Any] = {"roi": np.array([0, 0, start, 0, 1, 1, end, 1], np.float32)}
        if case % 2:
            m = int(rng.integers(1, 40))
            scale = Fraction(m, n)
            stored["sizes"] = np.array([1, 1, m, 2], np.int64)
        else:
            scale = Fraction(*SCALES[int(rng.integers(len(SCALES)))])
            m = floor(n * scale)
            stored["scales"] = np.array([1, 1, scale, 1], np.float32)
        if not m:
            continue
        x = rng.permutation(2 * n).astype(np.float32).reshape(1, 1, n, 2)
        node = helper.make_node(
            "Resize", ["x", "roi", "scales" if "scales" in stored else "", "sizes" if "sizes" in stored else ""], ["y"], mode=mode,
            coordinate_transformation_mode=coordinates, extrapolation_value=-7.0, exclude_outside=int(rounding == "x"),
            **({"nearest_mode": rounding} if mode == "nearest" else {}),
        )  # fmt: skip
        proto = model([node], {"x": x}, stored)
        (found,) = ours(proto, {"x": x})
        assert found.shape == (1, 1, m, 2)
        places = [position(o, n, m, scale, coordinates, start, end) for o in range(m)]
        same = m == n and scale == 1 and coordinates != "tf_crop_and_resize"
        for o, p in enumerate(places):
            if coordinates == "tf_crop_and_resize" and not 0 <= p <= n - 1:
                wanted = np.full(2, -7.0)
            elif same:
                wanted = x[0, 0, o]
            elif mode == "nearest":
                wanted = x[0, 0, min(max(nearest(p, rounding), 0), n - 1)]
            else:
                wanted = np.array([blended(x[0, 0, :, c], p, mode, rounding == "x") for c in range(2)])
            assert np.allclose(found[0, 0, o], wanted, atol=1e-4 if mode != "nearest" else 0), (n, m, scale, o, p)
        # onnxruntime computes positions in float32 and copies the input where the sizes agree: compared away from both
        sure = [(mode != "nearest" and coordinates[:2] != "tf") or abs(2 * p - round(2 * p)) > Fraction(1, 1000) for p in places]
        if n != m and any(sure) and (theirs := onnxruntimes(proto, {"x": x})) is not None:
            assert np.allclose(found[:, :, sure], theirs[0][:, :, sure], atol=1e-3)
            compared += 1
    assert compared >= 2


def test_resize_with_aligned_corners_and_a_size_that_is_no_whole_number() -> None:
    feeds = {"x": np.arange(3, dtype=np.float32).reshape(1, 1, 3)}
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear", coordinate_transformation_mode="align_corners")
    proto = model([node], feeds, {"s": np.array([1, 1, 1.5], np.float32)})
    assert np.allclose(ours(proto, feeds)[0].ravel(), [0, 2 / 3, 4 / 3, 2])  # as torch.nn.Upsample(1.5, align_corners=True)


@pytest.mark.parametrize(("n", "m", "coordinates", "rounding", "o", "wanted"), [
    (14, 18, "asymmetric", "floor", 9, 7), (7, 9, "half_pixel", "floor", 4, 3), (7, 29, "align_corners", "floor", 14, 3),
])  # fmt: skip
def test_nearest_places_that_floats_miss(n: int, m: int, coordinates: str, rounding: str, o: int, wanted: int) -> None:
    x = np.arange(n, dtype=np.float32).reshape(1, 1, n)
    node = helper.make_node(
        "Resize", ["x", "", "", "z"], ["y"], mode="nearest", coordinate_transformation_mode=coordinates, nearest_mode=rounding
    )
    assert ours(model([node], {"x": x}, {"z": np.array([1, 1, m], np.int64)}), {"x": x})[0][0, 0, o] == wanted


def test_resize_differentiates_where_places_are_exact() -> None:
    x = np.random.default_rng(0).random((1, 2, 5), np.float32)
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear", coordinate_transformation_mode="align_corners")
    graph = onnx_io.load(model([node], {"x": x}, {"s": np.array([1, 1, 1.5], np.float32)}).SerializeToString())
    leaf = pre.Tensor(x, requires_grad=True)
    weights = np.random.default_rng(1).random((1, 2, 7), np.float32)
    (graph(leaf) * weights).sum().backward()
    with pre.no_grad():
        columns = [np.vdot(np.asarray(graph(np.eye(10, dtype=np.float32)[k].reshape(x.shape))), weights) for k in range(10)]
    assert leaf.grad is not None
    assert np.allclose(np.ravel(np.asarray(leaf.grad)), columns, atol=1e-5)

"""TopK, CumSum and Einsum of ONNX by their quick ways, against NumPy's plain ones; ties, NaN, every axis and memory order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import helper  # noqa: E402
from onnx_models import model, ours  # noqa: E402

import preimage as pre  # noqa: E402
from preimage.io import onnx as onnx_io  # noqa: E402


def by_sorting(x: Any, count: int, largest: int) -> Any:
    """Places along the last axis: by value, the first of equal ones first, NaN last."""
    keys = -x.astype(np.float64) if largest else x
    return np.argsort(keys, -1, kind="stable")[..., :count]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32])
@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize(("shape", "count"), [((3, 5, 200), 7), ((64,), 16), ((2, 70), 70), ((2, 90), 0)])
def test_top_k_of_long_lines(shape: tuple[int, ...], count: int, largest: int, dtype: Any) -> None:
    rng = np.random.default_rng(len(shape) + count)
    x = rng.integers(-9, 9, shape).astype(dtype)  # many ties
    if dtype != np.int32:
        x.reshape(-1)[rng.integers(0, x.size, 5)] = np.nan
        x.reshape(-1, shape[-1])[0, 3:] = np.nan  # more of them than numbers
    proto = model(
        [helper.make_node("TopK", ["x", "k"], ["y", "i"], largest=largest)], {"x": x}, {"k": np.array([count])}, "y i", 18
    )  # fmt: skip
    values, places = ours(proto, {"x": x})
    want = by_sorting(x, count, largest)
    np.testing.assert_array_equal(places, want)
    np.testing.assert_array_equal(values, np.take_along_axis(x, want, -1))


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
@pytest.mark.parametrize(("exclusive", "reverse"), [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_cumulative_sums(axis: int, exclusive: int, reverse: int, dtype: Any) -> None:
    x = np.random.default_rng(8).integers(-99, 99, (4, 7, 5)).astype(dtype)
    proto = model(
        [helper.make_node("CumSum", ["x", "a"], ["y"], exclusive=exclusive, reverse=reverse)],
        {"x": x},
        {"a": np.array(axis)},
        opset=18,
    )
    want = np.flip(np.cumsum(np.flip(x, axis), axis), axis) if reverse else np.cumsum(x, axis)
    (got,) = ours(proto, {"x": x})
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, want - x if exclusive else want)


PRODUCTS = [
    ("ij,jk->ik", (3, 4), (4, 5)), ("bhid,bhjd->bhij", (2, 3, 4, 5), (2, 3, 6, 5)), ("bhij,bhjd->bihd", (2, 3, 4, 5), (2, 3, 5, 7)),
    ("abc,cbd->da", (2, 3, 4), (4, 3, 5)), ("ab,ab->", (3, 4), (3, 4)), ("b i, i -> b", (3, 4), (4,)), ("nchw,ndhw->ncd", (2, 3, 4, 5), (2, 6, 4, 5)),
]  # fmt: skip
OTHERS = [
    ("ij->ji", (3, 4), None), ("ij,kl->ik", (3, 4), (2, 5)), ("ij,jk", (3, 4), (4, 5)), ("...i,...i->...", (2, 3, 4), (2, 3, 4)),
    ("ii,ij->j", (3, 3), (3, 4)), ("i,j->ij", (3,), (4,)), ("ij,jk->ik", (3, 1), (4, 5)), ("ijk,jk->ik", (2, 3, 4), (3, 4)),
]  # fmt: skip


@pytest.mark.parametrize(("equation", "first", "second"), [*PRODUCTS, *OTHERS], ids=lambda value: str(value).replace(" ", "_"))
def test_einsum(equation: str, first: tuple[int, ...], second: tuple[int, ...] | None) -> None:
    """Small integers, so that any order of the sum gives the same; products are kernels of the program, too."""
    rng = np.random.default_rng(9)
    feeds = {k: rng.integers(-9, 9, s).astype(np.float32) for k, s in (("x", first), ("z", second)) if s is not None}
    proto = model(
        [helper.make_node("Einsum", list(feeds), ["e"], equation=equation), helper.make_node("Relu", ["e"], ["y"])], feeds
    )
    want = np.maximum(np.einsum(equation, *feeds.values()), 0)
    graph = pre.optimise(onnx_io.load(proto.SerializeToString()))
    with pre.no_grad():
        for _ in range(3):
            np.testing.assert_array_equal(graph.run(feeds)["y"], want)
    if (equation, first, second) in PRODUCTS:
        assert not graph.programs[-1].functions

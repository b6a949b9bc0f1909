"""Every geometry of the cases files, by value: the contractions and the bias gradient equal an independent oracle exactly.

Small-integer data: every partial sum is exact in float32, so any order of summation gives the same bits and no tolerance is
needed. DeepBench's are large and checked by shape. The bug reports' own properties are in test_hard_cases.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest

import oracle
import preimage as pre
from geometries import batch_of, cases, geometry_of, operands
from preimage.engines import INEXACT, get
from preimage.engines.base import CONTRACTIONS
from preimage.geometry import ConvGeometry
from preimage.ops.contraction import sum_over_space

CHUNKS = 8
SHARED = Path(__file__).parents[2] / "shared" / "cases"
#: Multiply-adds beyond which the loops of `reference` would take seconds, and `gemm` does nothing that it does not do for fewer: there
#: `jit`, whose plans depend on the size, is compared alone.
SLOW_MACS = 30_000_000
#: Multiply-adds beyond which the engine computes everything, one image, and the oracle some elements: borders, middle, a few channels.
LARGE_MACS = 60_000_000
#: Multiply-adds beyond which the first rows are computed, where `jit` takes the same kernels for them as for the whole.
HUGE_MACS = 2_000_000_000


def _few(size, most=6):
    """Indices at both ends and in the middle."""
    if size <= most:
        return list(range(size))
    return sorted({*range(most // 3), size // 2 - 1, size // 2, *range(size - most // 3, size)})


def expectations(x, w, y, s, large):
    """What the oracle says of the three contractions, and which part of each result it says it of."""
    if not large or s.groups > 1:
        return {
            "conv": (..., oracle.conv(x, w, s)),
            "conv_transpose": (..., oracle.conv_transpose(y, w, s)),
            "conv_weight_grad": (..., oracle.conv_weight_grad(x, y, s)),
        }
    outer, inner, images = _few(w.shape[0]), _few(w.shape[1]), range(x.shape[0])
    small, big, taps = [_few(n) for n in s.small], [_few(n) for n in s.large], [_few(k, 3) for k in s.kernel]
    return {
        "conv": (np.ix_(images, outer, *small), oracle.conv(x, w[outer], s, only=small)),
        "conv_transpose": (np.ix_(images, inner, *big), oracle.conv_transpose(y, w[:, inner], s, only=big)),
        "conv_weight_grad": (np.ix_(outer, inner, *taps), oracle.conv_weight_grad(x[:, inner], y[:, outer], s, only=taps)),
    }


def kernels_of(geometry):
    """The kernels that `jit` takes for each contraction, and what it fixes in them."""
    return [
        {*program.specs, *(program.packing.specs if program.packing else ())}
        for program in (get("jit").program(geometry, contraction, np.dtype(np.float32), False) for contraction in CONTRACTIONS)
    ]


def first_rows(geometry):
    """Fewer outputs along the first axis, with the padding at both ends and the remainder as they were; the whole where `jit` takes other
    kernels for every such part.
    """
    whole, wanted = geometry.output_size[0], kernels_of(geometry)
    rows = max(1, whole * HUGE_MACS // geometry.macs)
    while rows < whole:
        less = (whole - rows) * geometry.stride[0]
        part = replace(
            geometry,
            input_size=(geometry.input_size[0] - less, *geometry.input_size[1:]),
            output_size=(rows, *geometry.output_size[1:]),
        )
        if kernels_of(part) == wanted:
            return part
        rows *= 2
    return geometry


def check(engines, case):
    """Three contractions and the bias gradient of one case on every engine, against one oracle; gives how many results were compared."""
    geometry = geometry_of(case, batch_of(case))
    large = geometry.macs > LARGE_MACS
    if large:
        geometry = geometry_of(case, 1)
    deconv = case["kind"] == "deconv"
    assert list(geometry.input_size if deconv else geometry.output_size) == case["output"], case
    if geometry.macs > HUGE_MACS and pre.engines()["jit"] == "available":
        geometry = first_rows(geometry)
    x, w, y = operands(geometry, np.random.default_rng(geometry.macs))
    expected = expectations(x, w, y, oracle.sizes_of(geometry), large)
    shapes = {"conv": y.shape, "conv_transpose": x.shape, "conv_weight_grad": w.shape}
    result = x if deconv else y
    sums, checked = oracle.bias_grad(result), 0
    for engine in engines:
        if engine.name in ("reference", "gemm") and geometry.macs > SLOW_MACS and len(engines) > 1:
            continue
        with pre.config(engine=engine.name):
            found = {
                "conv": engine.conv(geometry, x, w),
                "conv_transpose": engine.conv_transpose(geometry, y, w),
                "conv_weight_grad": engine.conv_weight_grad(geometry, x, y),
            }
            for what, (part, wanted) in expected.items():
                assert found[what].dtype == np.float32
                assert found[what].shape == shapes[what], (engine.name, what, case)
                assert np.array_equal(found[what][part], wanted), f"{what} on {engine.name} differs on {case}"
            assert np.array_equal(sum_over_space(result, layout="channels_first"), sums), (engine.name, case)
        checked += 4
    return checked


def _possible(name):
    return [c for c in cases(name) if "expect_error" not in c and not c.get("big") and c["output"] is not None]


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("name", ["benchdnn_conv_select", "benchdnn_deconv", "hard_cases"])
def test_every_case_by_value(name, chunk):
    engines = [get(engine) for engine, state in pre.engines().items() if state == "available" and engine not in INEXACT]
    checked = sum(check(engines, case) for case in _possible(name)[chunk::CHUNKS])
    assert checked > 4 * len(engines)


def test_the_counts():
    """What the collection holds is what was agreed on, so that nothing drops out unseen."""
    counts = {name: len(cases(name)) for name in ("benchdnn_conv_select", "benchdnn_deconv", "deepbench", "hard_cases")}
    assert counts == {"benchdnn_conv_select": 926, "benchdnn_deconv": 233, "deepbench": 192, "hard_cases": 104}


@pytest.mark.parametrize("case", [c for c in cases("hard_cases") if "expect_error" in c], ids=lambda c: c["name"])
def test_cases_that_are_errors(case):
    """Each gives our error, in its constructor or in the call; test_hard_cases.py looks at the texts."""
    if case["class"] in ("dtype", "bias", "stride_zero", "padding"):
        pytest.skip("an argument that the geometry fields do not carry: see test_hard_cases.py")
    with pytest.raises(pre.errors.GeometryError):
        geometry_of(case, case["batch"])


def test_deepbench_by_shape():
    for case in cases("deepbench"):
        g = geometry_of(case, case["batch"])
        assert list(g.output_size) == case["output"], case
        assert g.output_shape == (case["batch"], case["out_channels"], *case["output"])
        assert g.work_flop == 2 * case["batch"] * prod(case["output"]) * prod(g.weight_shape)
        back = ConvGeometry.from_conv_transpose(
            g.output_shape, g.weight_shape, stride=g.stride, padding=g.padding, dilation=g.dilation, groups=g.groups,
            output_size=g.input_size,
        )  # fmt: skip
        assert back == g


def test_the_copy_is_the_collection():
    """Where the collection itself lies beside the repository, the committed copy has its numbers."""
    if not SHARED.is_dir():
        return  # the copy is all there is
    for name in ("benchdnn_conv_select", "benchdnn_deconv", "deepbench", "hard_cases"):
        there = json.loads((SHARED / f"{name}.json").read_text())["cases"]
        assert [{k: c[k] for k in mine} for c, mine in zip(there, cases(name), strict=True)] == cases(name)

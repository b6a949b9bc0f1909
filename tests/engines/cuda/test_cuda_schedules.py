"""The GPU's schedules one by one, each forced onto a geometry that it is for: bits of jit, what plans choose and say, the kernels' text.

pytest tests/engines/cuda/test_cuda_schedules.py --update-golden      # write tests/golden/cuda.json anew
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cases import same_bits

import preimage as pre
from preimage.engines import get
from preimage.engines.base import Epilogue
from preimage.engines.cuda import plan as plans
from preimage.engines.cuda.device import Properties
from preimage.engines.cuda.engine import CudaEngine
from preimage.engines.cuda.schedules import gather, weights
from preimage.engines.cuda.schedules.chain_kernel import ChainSpec
from preimage.engines.cuda.schedules.gather import gather_plan
from preimage.engines.cuda.schedules.join_kernel import JoinSpec
from preimage.engines.cuda.schedules.pack_kernel import PackSpec
from preimage.engines.cuda.schedules.reduce_kernel import ReduceSpec
from preimage.engines.cuda.schedules.sums_kernel import SumsSpec
from preimage.engines.cuda.schedules.weights import weight_plan
from preimage.engines.cuda.schedules.weights_kernel import WeightSpec
from preimage.engines.cuda.simulate import Simulator
from preimage.engines.cuda.tile import DirectTile, Tile
from preimage.engines.ir.epilogue import EpilogueSpec
from preimage.engines.order import Order

GOLDEN = Path(__file__).parents[2] / "golden/cuda.json"
RNG = np.random.default_rng(7)
H100 = Properties("H100", "sm_90", 132, 232448, 233472)
SMALL = Tile(4, 4, 1, 1, 8, 4, 8)
conv = pre.ConvGeometry.from_conv

DEPTHWISE = conv((2, 36, 7, 6), (36, 1, 3, 3), stride=(2, 1), padding=((1, 0), (2, 1)), groups=36)
LONG_DEPTHWISE = conv((1, 3, 700), (6, 1, 330), padding=20, groups=3)  # two levels of sums above the blocks
FEW_OUTPUTS = conv((2, 21, 5, 6), (3, 21, 3, 2), padding=1, dilation=(1, 2))
FEW_CHANNELS = conv((2, 3, 9, 8), (20, 3, 7, 3), padding=1, stride=2)
DENSE = conv((2, 20, 6, 5), (24, 20, 3, 3), stride=(1, 2), padding=1)


def force(monkeypatch, tile):
    for itemsize in plans.TILES:
        monkeypatch.setitem(plans.TILES, itemsize, ((tile, 0.5),))
    monkeypatch.setattr(plans, "DIRECT", ())
    monkeypatch.setattr(plans, "DIRECT_WEIGHTS", ())


def laid(a, last):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) if last else a


def operands(g, last, dtype=np.float32):
    x, w, y = (RNG.standard_normal(s).astype(dtype) for s in (g.input_shape, g.weight_shape, g.output_shape))
    return laid(x, last), w, laid(y, last)


def check(g, last, dtype=np.float32, contractions=("conv", "conv_transpose", "conv_weight_grad")):
    """Threads in reversed order, copies as late as they may."""
    engine = CudaEngine(Simulator(lambda n: np.arange(n)[::-1], lazy=True))
    x, w, y = operands(g, last, dtype)
    x[(0, 0, *[min(1, n - 1) for n in g.input_size])] = np.inf  # what reads beyond a group's channels meets it
    given = {"conv": (x, w), "conv_transpose": (y, w), "conv_weight_grad": (x, y)}
    for contraction in contractions:
        got, wanted = (getattr(e, contraction)(g, *given[contraction]) for e in (engine, get("jit")))
        assert same_bits(got, wanted), contraction


@pytest.mark.parametrize(
    ("tile", "g", "last"),
    [
        (DirectTile(1, 4), DEPTHWISE, False),
        (DirectTile(1, 4, across=True), DEPTHWISE, True),
        (DirectTile(1, 1), LONG_DEPTHWISE, False),
        (DirectTile(4, 4), FEW_OUTPUTS, False),
        (DirectTile(4, 1), FEW_OUTPUTS, True),
    ],
)
def test_threads_by_themselves(monkeypatch, tile, g, last):
    force(monkeypatch, tile)
    check(g, last, contractions=("conv", "conv_transpose"))


@pytest.mark.parametrize(
    ("tile", "g", "last"), [(DirectTile(1, 9, True), DEPTHWISE, True), (DirectTile(4, 4, True), LONG_DEPTHWISE, False)]
)
def test_weight_gradients_of_few_weights(monkeypatch, tile, g, last):
    force(monkeypatch, tile)
    with pre.config(workspace_bytes=1 << 14):  # so images are not divided to the last
        check(g, last, contractions=("conv_weight_grad",))


@pytest.mark.parametrize(("g", "dtype"), [(DENSE, np.float32), (DENSE, np.float16), (FEW_CHANNELS, np.float64)])
def test_channels_innermost(monkeypatch, g, dtype):
    force(monkeypatch, SMALL if dtype != np.float64 else plans.TILES[8][-1][0])
    check(g, True, dtype)


LONG = conv((2, 4, 50), (8, 4, 33), padding=((20, 9),), stride=2)  # more taps than a word has bits
CUBES = conv((2, 8, 5, 4, 6), (12, 8, 3, 2, 3), stride=(2, 1, 1), padding=((1, 0), (0, 2), (2, 1)), dilation=(1, 2, 1))
TINY = conv((3, 4, 1, 2), (5, 4, 3, 2), padding=1)  # an image of fewer positions than a step has
TWO_GROUPS = conv((2, 24, 7, 5), (16, 12, 3, 3), padding=((0, 1), (2, 0)), dilation=2, groups=2)


def weight_specs(monkeypatch):
    """Those that are launched, in order."""
    seen, load = [], Simulator.load
    monkeypatch.setattr(Simulator, "load", lambda self, spec: seen.append(spec) or load(self, spec))
    return lambda: [spec for spec in seen if isinstance(spec, WeightSpec)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("g", [LONG, CUBES, TINY, TWO_GROUPS], ids=["long", "cubes", "tiny", "groups"])
def test_weight_gradients_by_tiles(monkeypatch, g, last, dtype):
    """Taps at the edges told apart by bits, and by comparing where they are too many; copies of one number and of 16 bytes."""
    force(monkeypatch, SMALL if dtype != np.float64 else plans.TILES[8][-1][0])
    specs = weight_specs(monkeypatch)
    check(g, last, dtype, ("conv_weight_grad",))
    lanes = 16 // np.dtype(dtype).itemsize
    even = g.in_channels_per_group % lanes == 0 and g.out_channels_per_group % lanes == 0
    assert {(s.compared, s.wide) for s in specs()} == {(g is LONG, last and dtype != np.float16 and even)}


@pytest.mark.parametrize("size", [(1,), (700,), (40, 37), (9, 50, 11)])
def test_units_are_the_nodes_of_an_images_sum(size):
    """Against the definition: blocks of the order one after another, those of a node together; every position once."""
    order = Order.of(size[::-1])
    for level in range(1, order.depth + 2):
        found = weights.units_of(size, level, 8)
        blocks, units = found.blocks[:-1], found.units
        assert [*zip(blocks["first"], blocks["end"], strict=True)] == order.blocks()
        nodes = [order.member(np.unravel_index(b, size)[::-1], level) if level <= order.depth else 0 for b in blocks["first"]]
        assert [n for u in units for n in nodes[u["first_block"] : u["first_block"] + u["blocks"]]] == nodes
        assert all(len({*nodes[u["first_block"] : u["first_block"] + u["blocks"]]}) == 1 for u in units)
        assert len(units) == len({*nodes}) == len(found.closes)
        assert units["steps"].sum() == sum(-(-(end - first) // 8) for first, end in order.blocks())
        assert found.closes[-1] == found.outer_depth + 1


@pytest.mark.parametrize(("at", "image", "channel", "wide"), [(64, 64, 4, True), (68, 64, 4, False), (64, 68, 4, False)])
def test_channels_that_are_not_aligned_are_copied_one_by_one(at, image, channel, wide):
    spec = weight_plan(CUBES, np.dtype(np.float32), H100, 1 << 30, True, plans.Launch(SMALL, 1, 1, 0.5)).spec
    x, y = (SimpleNamespace(address=a, dtype=np.dtype(np.float32), strides=(image, channel, 64, 32, 32)) for a in (at, 64))
    assert weights._wide(spec, CUBES, x, y) is wide


def test_steps_of_several_taps(monkeypatch):
    force(monkeypatch, SMALL)
    assert gather_plan(FEW_CHANNELS, False, np.dtype(np.float32), H100).spread
    check(FEW_CHANNELS, False, contractions=("conv",))


SMALL_MAP = conv((1, 160, 3, 4), (24, 160, 3, 3), padding=1)  # 1,440 terms: blocks of 64 and less, groups of them


@pytest.mark.parametrize(("level", "units"), [(1, 27), (2, 3)])
@pytest.mark.parametrize("last", [False, True])
def test_small_maps_share_a_sum_out(monkeypatch, level, units, last):
    """Blocks, or groups of blocks, of terms are parts; the join adds them and finishes."""
    force(monkeypatch, SMALL)
    monkeypatch.setattr(gather, "_division", lambda *_: (level, units))
    x, w, y = operands(SMALL_MAP, last)
    e = Epilogue(RNG.standard_normal(24).astype(np.float32), laid(RNG.standard_normal(y.shape).astype(np.float32), last), "relu")
    simulator = Simulator(lambda n: np.arange(n)[::-1], lazy=True)
    got, wanted = (engine.conv(SMALL_MAP, x, w, e) for engine in (CudaEngine(simulator), get("jit")))
    assert same_bits(got, wanted)


def test_where_a_sum_is_shared_out():
    g, wide = conv((1, 512, 7, 7), (512, 512, 3, 3), padding=1), np.dtype(np.float32)
    plan = gather_plan(g, False, wide, H100, workspace_bytes=1 << 28)
    assert plan.units == len(plan.tables.phases) > 1
    assert f"sums in {plan.units} parts" in plan.algorithm
    assert gather_plan(g, False, wide, H100, workspace_bytes=1 << 10).units == 1
    assert gather_plan(g, False, wide, H100, workspace_bytes=1 << 28).packing == gather_plan(g, False, wide, H100).packing
    assert gather_plan(conv((64, 512, 7, 7), (512, 512, 3, 3), padding=1), False, wide, H100, workspace_bytes=1 << 28).units == 1


@pytest.mark.parametrize("tile", [SMALL, DirectTile(4, 1)])
def test_infinite_weights_meet_nothing_outside(monkeypatch, tile):
    """Channels innermost, with an epilogue, whose bias and residual are read 16 bytes at a time."""
    force(monkeypatch, tile)
    x, w, y = operands(DENSE, True)
    w[1, 2, 0, 1] = np.inf
    bias, residual = RNG.standard_normal(20).astype(np.float32), laid(RNG.standard_normal(x.shape).astype(np.float32), True)
    e = Epilogue(bias, residual, "leaky_relu", 0.25)
    got, wanted = (engine.conv_transpose(DENSE, y, w, e) for engine in (CudaEngine(Simulator()), get("jit")))
    assert np.isfinite(wanted).any()
    assert not np.isfinite(wanted).all()
    assert same_bits(got, wanted)


# ---- what is chosen on a large GPU, and what the kernels' text is

LAYERS = {
    "dense 3x3": (conv((32, 128, 28, 28), (128, 128, 3, 3), padding=1), False),
    "dense 3x3 channels last": (conv((32, 128, 28, 28), (128, 128, 3, 3), padding=1), True),
    "small map": (conv((1, 512, 7, 7), (512, 512, 3, 3), padding=1), False),
    "three channels": (conv((32, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3), False),
    "three outputs": (conv((16, 3, 256, 256), (64, 3, 4, 4), stride=2, padding=1), False),
    "depthwise": (conv((32, 128, 56, 56), (128, 1, 3, 3), padding=1, groups=128), False),
    "depthwise channels last": (conv((32, 128, 56, 56), (128, 1, 3, 3), padding=1, groups=128), True),
    "32 groups": (conv((32, 128, 28, 28), (128, 4, 3, 3), padding=1, groups=32), False),
    "3-D": (conv((2, 32, 16, 32, 32), (64, 32, 3, 3, 3), padding=1), False),
}


def described(g, last, dtype):
    """Of each contraction the algorithm, the tile, and a digest of the kernel's text as LLVM's NVPTX back end gets it."""
    made = {}
    for contraction in ("conv", "conv_transpose", "conv_weight_grad"):
        if contraction == "conv_weight_grad":
            plan = weight_plan(g, dtype, H100, 1 << 30, last)
            spec = plan.spec
        else:
            plan = gather_plan(g, contraction == "conv_transpose", dtype, H100, last, None, 1 << 28)
            spec = plan.spec(dtype, H100, last)
        made[contraction] = [plan.algorithm, str(plan.launch.tile), digest(spec)]
    return made


def digest(spec):
    return f"{type(spec).__name__} {hashlib.sha256(spec.ir('ptx').encode()).hexdigest()[:16]}"


def test_plans_and_texts_are_the_recorded_ones(request):
    made = {name: described(g, last, np.dtype(np.float32)) for name, (g, last) in LAYERS.items()}
    made["float64 dense 3x3"] = described(*LAYERS["dense 3x3"], np.dtype(np.float64))
    specs = [PackSpec("f16", "f32", 32), ReduceSpec(1, "f32", "f32"), SumsSpec("f32", "f32", False), SumsSpec("f32", "f32", True)]
    specs.append(JoinSpec(2, "f32", "f16", EpilogueSpec(True, True, "relu")))
    specs.append(ChainSpec(2, "f32", ("f32", "f32"), 0, (("add", (0, 1)), ("tanh", (2,))), (3,), ("f32",)))
    made["others"] = [digest(spec) for spec in specs]
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(json.dumps(made, indent=1) + "\n")
    assert made == json.loads(GOLDEN.read_text())


def test_layers_get_the_schedule_that_is_for_them():
    made = json.loads(GOLDEN.read_text())
    words = {name: [row[0] for row in made[name].values()] for name in LAYERS}
    assert words["depthwise"] == ["direct, every thread for itself"] * 2 + ["weight gradient, every thread for itself"]
    assert words["three outputs"][1] == "direct, every thread for itself"
    assert words["three channels"][0] == "gather by tiles, terms of several taps a step"
    assert words["dense 3x3"] == ["gather by tiles", "gather by tiles", "weight gradient by tiles"]
    assert "neighbouring groups" in made["depthwise channels last"]["conv"][1]


def test_a_plan_says_it():
    with pre.config(engine="cuda", device="simulator"):
        text = str(pre.plan(conv((8, 64, 14, 14), (64, 1, 3, 3), groups=64), "float32", contraction="conv"))
    assert "direct, every thread for itself" in text
    assert "a thread, neighbouring threads in neighbouring positions" in text

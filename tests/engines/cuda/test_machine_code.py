"""PTX holds IEEE operations only, for every architecture; what NVIDIA's assembler makes of it is recorded (machine_code.py)."""

from __future__ import annotations

import json

import machine_code
import pytest

from preimage.engines.cuda import plan as plans
from preimage.engines.cuda import ptx
from preimage.engines.cuda.elementwise import MISSING
from preimage.engines.cuda.schedules.chain_kernel import ChainSpec
from preimage.engines.cuda.schedules.direct_kernel import DirectSpec
from preimage.engines.cuda.schedules.gather_kernel import GatherSpec
from preimage.engines.cuda.schedules.pack_kernel import PackSpec
from preimage.engines.cuda.schedules.reduce_kernel import ReduceSpec
from preimage.engines.cuda.schedules.sums_kernel import SumsSpec
from preimage.engines.cuda.schedules.weights_direct_kernel import WeightDirectSpec
from preimage.engines.cuda.schedules.weights_kernel import WeightSpec
from preimage.engines.cuda.tile import DirectTile, Tile
from preimage.engines.ir.elementwise import LOGIC, QUESTIONS, WORDS
from preimage.engines.ir.epilogue import EpilogueSpec
from preimage.errors import EngineError

SMALL, NARROW = Tile(4, 4, 1, 1), Tile(2, 4, 1, 1, 8, 3)
EPILOGUE = EpilogueSpec(True, True, None, (("tanh", (0,)), ("mul", (2, 1))), 1)


def chain_of_everything(dtype):
    """Every word of a chain once, on the operands that it takes."""
    steps, taken = [], {"clip": 3, "if_positive": 3, "elu": 4, "leaky_relu": 2, "power": 2}
    two = {"add", "sub", "mul", "div", "maximum", "minimum"}
    for word in sorted(WORDS.keys() - MISSING):
        steps.append((word, tuple(range(taken.get(word, 2 if word in two else 1)))))
    first = 4 + len(steps)
    steps += [(word, (0,) if word.startswith("is_") else (0, 1)) for word in QUESTIONS]
    steps += [(word, (first,) if word == "not" else (first, first + 1)) for word in LOGIC]
    steps.append(("where", (first, 0, 1)))
    places = tuple(4 + k for k in range(len(steps)))
    return ChainSpec(2, dtype, (dtype,) * 4, 0, tuple(steps), places, (dtype,) * len(places))


SPECS = [
    GatherSpec(2, SMALL, 1, 1, "f32", "f32", vector="positions", epilogue=EPILOGUE),
    GatherSpec(3, SMALL, 2, 1, "bf16", "f32", True, "last", "channels", True),
    GatherSpec(1, SMALL, 0, 0, "f16", "f32", False, "spread"),
    GatherSpec(2, NARROW, 1, 1, "f64", "f64"),
    WeightSpec(2, SMALL, 1, "f32", "f32", True, True),
    WeightSpec(1, SMALL, 1, "bf16", "f32", compared=True),
    WeightSpec(1, NARROW, 0, "f64", "f64"),
    DirectSpec(2, DirectTile(4, 4), 2, "f32", "f32", True, EPILOGUE),
    DirectSpec(1, DirectTile(1, 4, True), 0, "bf16", "f32"),
    WeightDirectSpec(2, DirectTile(1, 4, True), 1, "f16", "f32"),
    PackSpec("bf16", "f32", 32),
    ReduceSpec(2, "f32", "f16"),
    SumsSpec("f16", "f32", False),
    SumsSpec("f64", "f64", True),
    chain_of_everything("f32"),
    chain_of_everything("f64"),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_ptx_holds_nothing_but_ieee_operations(spec):
    listing = ptx.to_ptx(spec.ir("ptx"), "sm_90")
    assert ptx.foreign_operations(listing) == []


@pytest.mark.parametrize("word", sorted(MISSING))
def test_words_that_would_need_local_memory(word):
    with pytest.raises(EngineError, match="memory of its own"):
        ChainSpec(1, "f32", ("f32",), 0, ((word, (0,)),), (1,), ("f32",)).ir("ptx")


@pytest.mark.parametrize("arch", ptx.ARCHITECTURES)
def test_every_architecture(arch):
    listing = ptx.to_ptx(SPECS[0].ir("ptx"), arch)
    assert ".target " + arch in listing
    assert "fma.rn.f32" in listing
    assert ptx.foreign_operations(listing) == []


# ---- the record: python tests/engines/cuda/machine_code.py --write


def recorded():
    return json.loads(machine_code.RECORD.read_text())["kernels"]


def test_nothing_is_spilled_and_registers_suffice():
    rows = recorded()
    assert [name for name, row in rows.items() if row["spilled"]] == []
    assert [name for name, row in rows.items() if row["registers"] > machine_code.MOST] == []
    full = [name for name, r in rows.items() if -(-r["registers"] // 8) * 8 * r["threads"] * r["blocks"] > machine_code.REGISTERS]
    assert full == []


@pytest.mark.parametrize("kernel", ["gather", "weights"])
def test_big_tiles_are_multiply_adds(kernel):
    big = {name: row["multiply-adds"] for name, row in recorded().items() if name.startswith(f"{kernel} f32 128 x 128")}
    assert len(big) == len(ptx.ARCHITECTURES)
    assert min(big.values()) >= 0.85


@pytest.mark.parametrize(
    ("kind", "size", "dtype"), [(k, s, d) for k in ("gather", "weights") for s, d in ((4, "f32"), (8, "f64"))]
)
def test_plans_take_the_recorded_shares(kind, size, dtype):
    for tile, share in plans.TILES[size]:
        stated = share if kind == "gather" else plans.WEIGHT_SHARES[tile]
        assert stated == pytest.approx(recorded()[f"{kind} {dtype} {tile} (sm_90)"]["multiply-adds"], abs=0.006)


@pytest.mark.parametrize("copies", ["gather last", "weights last", "weights wide"])
def test_so_they_are_where_channels_lie_innermost(copies):
    (share,) = [row["multiply-adds"] for name, row in recorded().items() if name.startswith(f"{copies} f32 128 x 128")]
    assert share >= 0.85


def test_the_record_is_of_the_kernels_that_there_are():
    assert list(recorded()) == [f"{name} ({arch})" for name, _, arch in machine_code.kernels()]


@pytest.mark.skipif(
    machine_code.tool("ptxas") is None or machine_code.tool("nvdisasm") is None, reason="ptxas and nvdisasm are not here"
)
def test_the_assembler_gives_what_is_recorded():
    name, row = next((n, r) for n, r in recorded().items() if n.startswith("gather f32 32 x 16"))
    assert machine_code.everything(name) == {name: row}


LISTING = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   FFMA R1, R2, R3, R1 ;
        /*0020*/              @P0  BRA `(.L_x_2) ;
        /*0030*/                   FADD R1, R2, R3 ;
        /*0040*/                   STS [R1], R2 ;
.L_x_2:
        /*0050*/                   FFMA R1, R2, R3, R1 ;
        /*0060*/             @!P1  BRA `(.L_x_3) ;
        /*0070*/                   LDGSTS.E [R1], [R2] ;
.L_x_3:
        /*0080*/              @P2  BRA `(.L_x_1) ;
        /*0090*/                   EXIT ;
"""


def test_what_is_run_once_a_tap_is_left_out_of_the_share():
    assert machine_code.main_loop(LISTING, "FFMA") == (2 / 6, 6)
    assert machine_code.main_loop("", "FFMA") == (0.0, 0)

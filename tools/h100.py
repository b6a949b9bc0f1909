"""Everything that only a device can tell, in one run of at most eight minutes: bits, ceilings, times, and NVIDIA's own checkers.

    python tools/h100.py --json h100.json             # needs an NVIDIA GPU; torch for the times beside cuDNN
    python tools/h100.py --quick --json quick.json    # a small part of each, for a look

Parts, in this order; each is guarded, the file is written after each, and none begins after the stop rule's time:
device      the GPU, the driver, versions
ceilings    multiply-adds alone, and a copy
bits        geometries x tiles x dtypes x contractions against the engine jit, which computes on this machine's CPU
dmma        whether float64's tensor cores keep the contract's chain
times       layers by the engine cuda on torch's arrays, beside torch: as it comes, without TF32, channels last, with cuDNN's benchmark;
            forward and both gradients, float32 and float64 (h100_times.py)
sanitizer   compute-sanitizer's memcheck and racecheck on small cases, where it is installed
profile     ncu on the best and the worst layer, where it is installed

The exit status is 1 if a bit differs, or a checker finds something.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from h100_times import DOUBLE, LAYERS, geometry_of, layer_times, shares

import preimage as pre
from preimage.engines import get
from preimage.engines.cuda import plan as plans
from preimage.engines.cuda import tensor_cores
from preimage.engines.cuda.devices import device_of
from preimage.engines.cuda.engine import CudaEngine
from preimage.engines.cuda.tile import AnyTile

LIMIT_S = 480.0
CONTRACTIONS = ("conv", "conv_transpose", "conv_weight_grad")

#: batch, in, out, groups, size, kernel, stride, padding, dilation
BITS = (
    (1, 8, 16, 1, (9, 11), (3, 3), 1, 1, 1), (2, 13, 21, 1, (12, 10), (3, 3), 2, 1, 1), (3, 24, 140, 1, (7, 7), (1, 1), 1, 0, 1),
    (2, 12, 20, 4, (11, 13), (5, 3), (2, 1), (2, 0), (1, 2)), (1, 3, 64, 1, (57, 61), (7, 7), 2, 3, 1), (1, 5, 6, 1, (20, 20), (2, 2), 3, 0, 1),
    (8, 64, 64, 1, (56, 56), (3, 3), 1, 1, 1), (4, 128, 64, 1, (32, 32), (4, 4), 2, 1, 1), (2, 64, 64, 1, (41, 41), (3, 3), 1, 12, 12),
    (2, 6, 9, 3, (40,), (5,), 2, ((3, 1),), 1), (1, 8, 12, 1, (7, 9, 8), (3, 2, 3), (1, 2, 1), 1, 1), (2, 32, 32, 32, (19, 17), (3, 3), 1, 1, 1),
)  # fmt: skip


@dataclass
class Run:
    """One run: the device, the clock, what was found."""

    gpu: Any
    quick: bool
    limit_s: float
    json_file: Path | None
    begun: float = field(default_factory=time.monotonic)
    found: dict[str, Any] = field(default_factory=dict)
    rng: Any = field(default_factory=lambda: np.random.default_rng(5))

    def left(self) -> float:
        return self.limit_s - (time.monotonic() - self.begun)

    def say(self, *words: object) -> None:
        print(f"[{time.monotonic() - self.begun:6.1f}]", *words, flush=True)

    def write(self) -> None:
        if self.json_file is not None:
            self.json_file.write_text(json.dumps(self.found, indent=1) + "\n")


# ---- what the device is


def part_device(run: Run) -> dict[str, Any]:
    known = run.gpu.properties
    versions = {}
    for name in ("numpy", "llvmlite", "torch"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = ""
    found = {
        "name": known.name, "arch": known.arch, "multiprocessors": known.multiprocessors, "clock_khz": known.clock_khz,
        "memory_bytes": known.memory_bytes, "driver": run.gpu.driver_version, "python": platform.python_version(),
        "preimage": pre.__version__, "versions": versions,
    }  # fmt: skip
    run.say(found["name"], found["arch"], "driver", found["driver"])
    return found


# ---- ceilings


@dataclass(frozen=True)
class MultiplyAdds:
    """A kernel of multiply-adds alone: `sums` independent ones a thread and turn."""

    element: str = "float"
    sums: int = 32
    threads: int = 256
    shared_bytes: int = 0
    arguments: Any = None

    def ir(self, target: str) -> str:
        t, n = self.element, self.sums
        suffix = "f32" if t == "float" else "f64"
        steps = "\n".join(f"%n{k} = call {t} @llvm.fma.{suffix}({t} %a, {t} %b, {t} %s{k})" for k in range(n))
        phis = "\n".join(f"%s{k} = phi {t} [ %a, %entry ], [ %n{k}, %loop ]" for k in range(n))
        total = "\n".join(f"%t{k} = fadd {t} {'%n0' if k == 1 else f'%t{k - 1}'}, %n{k}" for k in range(1, n))
        return f"""target triple = "nvptx64-nvidia-cuda"
declare {t} @llvm.fma.{suffix}({t}, {t}, {t})
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
define ptx_kernel void @kernel(i64 %yw, i64 %turns) {{
entry:
  %y = inttoptr i64 %yw to ptr addrspace(1)
  %tid = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %a = sitofp i32 %tid to {t}
  %b = fmul {t} %a, 0x3F50000000000000
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i1, %loop ]
  {phis}
  {steps}
  %i1 = add i64 %i, 1
  %more = icmp slt i64 %i1, %turns
  br i1 %more, label %loop, label %end
end:
  {total}
  %q = getelementptr {t}, ptr addrspace(1) %y, i32 %tid
  store {t} %t{n - 1}, ptr addrspace(1) %q
  ret void
}}"""


def part_ceilings(run: Run) -> dict[str, Any]:
    gpu, turns = run.gpu, 64 if run.quick else 4096
    found: dict[str, Any] = {}
    for name, element in (("float32", "float"), ("float64", "double")):
        spec = MultiplyAdds(element)
        kernel, out = gpu.load(spec), gpu.allocate(8 * spec.threads)
        blocks = gpu.properties.multiprocessors * 8
        work = 2 * spec.sums * turns * spec.threads * blocks
        ms = statistics.median(gpu.times_ms(lambda k=kernel, o=out, b=blocks: gpu.launch(k, (b, 1, 1), (o.address, turns)), 10))
        found[f"fma_{name}_tflops"] = work / max(ms, 1e-9) / 1e9
    size = (1 << 20) if run.quick else (1 << 30)
    a, b = gpu.allocate(size), gpu.allocate(size)
    ms = statistics.median(gpu.times_ms(lambda: gpu.copy(b.address, a.address, size), 10))
    found["copy_gb_per_s"] = 2 * size / max(ms, 1e-9) / 1e6
    run.say("ceilings", {k: round(v, 1) for k, v in found.items()})
    return found


# ---- bits


@contextmanager
def only_tile(itemsize: int, row: tuple[AnyTile, float]) -> Iterator[None]:
    """Every plan takes this tile; of weight gradients those that have a kernel for it."""
    kept = plans.TILES[itemsize], plans.DIRECT, plans.DIRECT_WEIGHTS
    plans.TILES[itemsize], plans.DIRECT, plans.DIRECT_WEIGHTS = (row,), (), ()
    try:
        yield
    finally:
        plans.TILES[itemsize], plans.DIRECT, plans.DIRECT_WEIGHTS = kept


def same_bits(a: Any, b: Any) -> bool:
    """The same shape and bits; NaN as NaN."""
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    kind = f"u{a.itemsize}"
    return a.shape == b.shape and bool(((a.view(kind) == b.view(kind)) | ((a != a) & (b != b))).all())


def part_bits(run: Run) -> dict[str, Any]:
    """On a fresh engine for each tile, so that no plan of another one is found again."""
    rows = BITS[:3] if run.quick else BITS
    dtypes = ("float32", "float16") if run.quick else ("float32", "float64", "float16")
    found: dict[str, Any] = {"same": 0, "different": [], "failed": [], "left_out": 0}
    for dtype in dtypes:
        wide = 8 if dtype == "float64" else 4
        tiles = plans.TILES[wide][-1:] if run.quick else (*plans.TILES[wide], *plans.DIRECT, *plans.DIRECT_WEIGHTS)
        if tensor_cores.properties_for(run.gpu, np.dtype(dtype)).matrix:
            tiles = (*tiles, *plans.MATRIX)
        for row in rows:
            g = geometry_of(row)
            x, w, y = (run.rng.standard_normal(s).astype(dtype) for s in (g.input_shape, g.weight_shape, g.output_shape))
            jit, operands = get("jit"), {"conv": (x, w), "conv_transpose": (y, w), "conv_weight_grad": (x, y)}
            wanted = {c: getattr(jit, c)(g, *operands[c]) for c in CONTRACTIONS}
            for tile in tiles:
                for contraction in CONTRACTIONS:
                    if run.left() < 0:
                        found["left_out"] += 1
                        continue
                    what = f"{contraction} {dtype} {row} tile {tile[0]}"
                    try:
                        with only_tile(wide, tile):
                            got = getattr(CudaEngine(run.gpu), contraction)(g, *operands[contraction])
                    except Exception as error:
                        found["failed"].append(f"{what}: {error}"[:400])
                        continue
                    if same_bits(got, wanted[contraction]):
                        found["same"] += 1
                    else:
                        found["different"].append(what)
    run.say("bits:", found["same"], "same,", len(found["different"]), "different,", len(found["failed"]), "failed")
    return found


# ---- times


def part_times(run: Run) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        return {"not measured": f"torch cannot be imported: {error}"}
    if not torch.cuda.is_available():
        return {"not measured": "torch sees no GPU"}
    found: dict[str, Any] = {"unit": "TFLOP/s", "rows": [], "left_out": [], "failed": []}
    layers = [(row, "float32") for row in LAYERS] + [(row, "float64") for row in LAYERS if row[0] in DOUBLE]
    for row, dtype in layers[:1] + layers[-1:] if run.quick else layers:
        if run.left() < 30:
            found["left_out"].append(f"{row[0]} {dtype}")
            continue
        try:
            made = layer_times(torch, run.rng, row, dtype, 3 if run.quick else 20)
        except Exception as error:
            found["failed"].append(f"{row[0]} {dtype}: {error}"[:400])
            continue
        found["rows"] += made
        for times in made:
            run.say({k: round(v, 2) if isinstance(v, float) else v for k, v in times.items()})
    found["shares"] = shares(found["rows"])
    run.say(found["shares"])
    return found


# ---- float64 on tensor cores


def part_dmma(run: Run) -> dict[str, Any]:
    """Whether float64's tensor cores keep the contract's chain."""
    found = tensor_cores.same(run.gpu)
    run.say("tensor cores, of 64 sums those with the chain's bits:", found)
    return {"sums": 64, "with the chain's bits": found}


# ---- NVIDIA's checkers, on a child that runs one small part


def one_case(number: int) -> int:
    """What the checkers watch: the contractions of one geometry, by the planned tile."""
    g, rng, engine = geometry_of(BITS[number]), np.random.default_rng(1), CudaEngine(device_of("auto"))
    x, w, y = (rng.standard_normal(s).astype(np.float32) for s in (g.input_shape, g.weight_shape, g.output_shape))
    engine.conv(g, x, w)
    engine.conv_transpose(g, y, w)
    engine.conv_weight_grad(g, x, y)
    return 0


def one_layer(name: str) -> int:
    """What the profiler watches: one layer, once."""
    row = next(r for r in LAYERS if r[0] == name)
    g, rng, engine = geometry_of(row[1:-1]), np.random.default_rng(1), CudaEngine(device_of("auto"))
    shape = g.output_shape if row[-1] else g.input_shape
    a, w = (rng.standard_normal(s).astype(np.float32) for s in (shape, g.weight_shape))
    (engine.conv_transpose if row[-1] else engine.conv)(g, a, w)
    return 0


def watched(run: Run, tool: list[str], arguments: list[str], most_s: float) -> dict[str, Any]:
    """A checker over a child of this file: its status and the end of what it says."""
    path = shutil.which(tool[0])
    if path is None:
        return {"not run": f"{tool[0]} is not installed"}
    if run.left() < 20:
        return {"not run": "out of time"}
    command = [path, *tool[1:], sys.executable, str(Path(__file__).resolve()), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=min(most_s, run.left()), check=False)
    except subprocess.TimeoutExpired:
        return {"not run": f"not over after {min(most_s, run.left()):.0f} s"}
    return {"status": done.returncode, "said": (done.stdout + done.stderr)[-6000:]}


def part_sanitizer(run: Run) -> dict[str, Any]:
    found = {}
    for kind in ("memcheck",) if run.quick else ("memcheck", "racecheck", "initcheck"):
        for number in (0, 3) if not run.quick else (0,):
            tool = ["compute-sanitizer", "--tool", kind, "--error-exitcode", "9"]
            found[f"{kind} {BITS[number]}"] = watched(run, tool, ["--case", str(number)], 60)
    run.say("sanitizer:", {k: v.get("status", v.get("not run")) for k, v in found.items()})
    return found


def part_profile(run: Run) -> dict[str, Any]:
    """ncu on the layers whose share of torch's float32 speed was the best and the worst."""
    rows = run.found.get("times", {}).get("rows", [])
    shares = {
        r["layer"]: r["preimage cuda"] / r["torch fp32"]
        for r in rows
        if (r["pass"], r["dtype"]) == ("forward", "float32")
        and isinstance(r.get("preimage cuda"), float)
        and isinstance(r.get("torch fp32"), float)
    }
    if not shares:
        return {"not run": "no layer was measured beside torch"}
    metrics = "sm__inst_executed_pipe_fma.avg.pct_of_peak_sustained_active,smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio"
    tool = ["ncu", "--metrics", metrics, "--section", "SpeedOfLight", "--section", "Occupancy", "--section", "WarpStateStats"]
    found = {}
    for which, name in (("best", max(shares, key=shares.__getitem__)), ("worst", min(shares, key=shares.__getitem__))):
        found[which] = {"layer": name, "share": shares[name]} | watched(run, tool, ["--layer", name], 60)
    run.say("profile:", {k: (v["layer"], v.get("status", v.get("not run"))) for k, v in found.items()})
    return found


PARTS: dict[str, Callable[[Run], dict[str, Any]]] = {
    "device": part_device, "ceilings": part_ceilings, "bits": part_bits, "dmma": part_dmma, "times": part_times, "sanitizer": part_sanitizer,
    "profile": part_profile,
}  # fmt: skip


def everything(run: Run) -> bool:
    """All parts; whether nothing is wrong."""
    for name, part in PARTS.items():
        if run.left() < 0:
            run.found[name] = {"not run": "out of time"}
            continue
        try:
            run.found[name] = part(run)
        except Exception as error:
            run.say(name, "failed")
            traceback.print_exc()
            run.found[name] = {"failed": f"{type(error).__name__}: {error}"[:1000]}
        run.found["seconds"] = time.monotonic() - run.begun
        run.write()
    bits = run.found["bits"]
    checked = [c.get("status", 0) for c in run.found["sanitizer"].values() if isinstance(c, dict)]
    return not (bits.get("different") or bits.get("failed") or any(checked))


def main(arguments: list[str] | None = None, gpu: Any = None) -> int:
    """gpu: a device that is open already; by default the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write what was found there")
    parser.add_argument("--quick", action="store_true", help="a small part of each")
    parser.add_argument("--seconds", type=float, default=LIMIT_S, help="the stop rule's time")
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--layer", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.case is not None:
        return one_case(given.case)
    if given.layer is not None:
        return one_layer(given.layer)
    if gpu is None:
        try:
            gpu = device_of("cuda:0")
        except pre.PreimageError as error:
            print(f"nothing to measure: {error}", file=sys.stderr)
            return 2
    run = Run(gpu, given.quick, given.seconds, given.json)
    return 0 if everything(run) else 1


if __name__ == "__main__":
    sys.exit(main())

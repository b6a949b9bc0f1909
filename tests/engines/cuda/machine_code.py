"""What NVIDIA's assembler makes of the kernels: registers, spills, and the share of multiply-adds in the loop that takes the time.

python tests/engines/cuda/machine_code.py --write        # tests/golden/cuda_machine_code.json anew

Needs ptxas and nvdisasm (`pip install nvidia-cuda-nvcc nvidia-cuda-nvdisasm`, or a CUDA toolkit), by PREIMAGE_CUDA_BIN or the PATH.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preimage.engines.cuda import ptx
from preimage.engines.cuda.plan import DIRECT, DIRECT_WEIGHTS, MATRIX, TILES
from preimage.engines.cuda.schedules.direct_kernel import DirectSpec
from preimage.engines.cuda.schedules.gather_kernel import GatherSpec
from preimage.engines.cuda.schedules.weights_direct_kernel import WeightDirectSpec
from preimage.engines.cuda.schedules.weights_kernel import WeightSpec
from preimage.engines.cuda.tensor_cores import ARCHITECTURES

RECORD = Path(__file__).parents[2] / "golden/cuda_machine_code.json"
#: Registers of a multiprocessor, and of a thread at most.
REGISTERS, MOST = 65536, 255
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)(.*)$")
_LABEL = re.compile(r"^(\.L_x_\d+):")


def tool(name: str) -> str | None:
    """The path of one of NVIDIA's programs, or None."""
    return shutil.which(name, path=os.environ.get("PREIMAGE_CUDA_BIN")) or shutil.which(name)


def kernels() -> Iterator[tuple[str, Any, str]]:
    """(name, spec, architecture): every tile for an H100, the largest for all architectures."""
    for size, dtype in ((4, "f32"), (8, "f64")):
        for number, (tile, _) in enumerate(TILES[size]):
            archs = ptx.ARCHITECTURES if number == 0 and size == 4 else ("sm_90",)
            for arch in archs:
                yield f"gather {dtype} {tile}", GatherSpec(2, tile, 1, 1, dtype, dtype, vector="positions"), arch
                yield f"weights {dtype} {tile}", WeightSpec(2, tile, 1, dtype, dtype), arch
    tile = TILES[4][0][0]
    for copies in ("spread", "last"):
        yield f"gather {copies} f32 {tile}", GatherSpec(2, tile, 1, 1, "f32", "f32", copies == "spread", copies), "sm_90"
    thin = tile.thinner()
    yield f"gather strict f32 {thin}", GatherSpec(2, thin, 1, 1, "f32", "f32", strict=True), "sm_90"
    yield f"gather f16 {tile}", GatherSpec(2, tile, 1, 1, "f16", "f32", True), "sm_90"
    yield f"weights last f32 {tile}", WeightSpec(2, tile, 1, "f32", "f32", True), "sm_90"
    yield f"weights wide f32 {tile}", WeightSpec(2, tile, 1, "f32", "f32", True, True), "sm_90"
    yield f"weights compared f32 {tile}", WeightSpec(2, tile, 1, "f32", "f32", compared=True), "sm_90"
    for matrix, _ in MATRIX:
        for arch in ARCHITECTURES:
            yield f"gather f64 {matrix}", GatherSpec(2, matrix, 1, 1, "f64", "f64", vector="positions"), arch
            yield f"weights f64 {matrix}", WeightSpec(2, matrix, 1, "f64", "f64"), arch
    for direct, _ in DIRECT:
        yield f"direct f32 {direct}", DirectSpec(2, direct, 1, "f32", "f32"), "sm_90"
    for direct, _ in DIRECT_WEIGHTS:
        yield f"direct weights f32 {direct}", WeightDirectSpec(2, direct, 1, "f32", "f32"), "sm_90"


def assembled(spec: Any, arch: str) -> dict[str, Any]:
    """registers, spilled bytes and the multiply-adds' share of the main loop, of the kernel of a spec."""
    with tempfile.TemporaryDirectory() as folder:
        source, code = Path(folder, "k.ptx"), Path(folder, "k.cubin")
        source.write_text(ptx.to_ptx(spec.ir("ptx"), arch))
        command = [tool("ptxas") or "ptxas", "-v", "-arch", arch, str(source), "-o", str(code)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        listing = subprocess.run([tool("nvdisasm") or "nvdisasm", str(code)], capture_output=True, text=True, check=True).stdout
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", said)
    assert registers
    operation = "DMMA" if getattr(spec.tile, "matrix", False) else "DFMA" if spec.inner == "f64" else "FFMA"
    share, instructions = main_loop(listing, operation)
    return {
        "threads": spec.threads,
        "blocks": spec.blocks_per_multiprocessor,
        "registers": int(registers[1]),
        "spilled": sum(map(int, spills)),
        "multiply-adds": round(share, 3),
        "instructions": instructions,
    }


def main_loop(listing: str, operation: str) -> tuple[float, int]:
    """The share of an operation among the instructions that every turn of the main loop runs, and how many these are.

    The main loop is the shortest that holds most of the operation. What a branch in it skips, and what has neither the operation nor copies to
    shared memory, is run once a tap or once a block of terms, and is left out.
    """
    words, labels, jumps = [], {}, []
    for text in listing.splitlines():
        label = _LABEL.match(text)
        if label:
            labels[label[1]] = len(words)
        found = _INSTRUCTION.match(text)
        if found:
            target = re.search(r"(\.L_x_\d+)", found[2])
            if found[1].startswith("BRA") and target:
                jumps.append((len(words), target[1]))
            words.append(found[1])
    ways = [(at, labels[to]) for at, to in jumps if to in labels]
    loops = [(to, at) for at, to in ways if to <= at]
    counted = [(sum(w.startswith(operation) for w in words[a : b + 1]), b - a, a, b) for a, b in loops]
    if not counted:
        return 0.0, 0
    most = max(count for count, *_ in counted)
    count, _, begin, end = min((row for row in counted if row[0] >= 0.9 * most), key=lambda row: row[1])
    seldom: set[int] = set()
    for at, to in ways:
        skipped = words[at + 1 : to]
        if begin <= at < to <= end and not any(w.startswith((operation, "LDGSTS")) for w in skipped):
            seldom |= set(range(at + 1, to))
    size = end + 1 - begin - len(seldom)
    return count / size, size


def everything(only: str = "") -> dict[str, dict[str, Any]]:
    """Of every kernel whose name holds `only`."""
    named = ((f"{name} ({arch})", spec, arch) for name, spec, arch in kernels())
    return {name: assembled(spec, arch) for name, spec, arch in named if only in name}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the record")
    parser.add_argument("--only", default="", help="kernels whose name holds this")
    options = parser.parse_args()
    if tool("ptxas") is None or tool("nvdisasm") is None:
        print("ptxas and nvdisasm are not here", file=sys.stderr)
        return 2
    said = subprocess.run([tool("ptxas") or "ptxas", "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"V([\d.]+)", said)
    made = {"ptxas": version[1] if version else "", "tools": ptx.toolchain(), "kernels": everything(options.only)}
    for name, row in made["kernels"].items():
        print(
            f"{row['registers']:4} registers {row['spilled']:4} spilled {row['multiply-adds']:6.1%} of {row['instructions']:5}  {name}"
        )
    if options.write:
        RECORD.write_text(json.dumps(made, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The audit of contractions of 8-bit integers (`preimage.audit.integers`), with products added up in a way that this CPU need not have.

    python tests/engines/integer_cases.py --cases 20000 [--seed 0] [--way quads]

`--way quads` runs the kernels for VNNI on any CPU, with a definition in place of the instruction; `--way plain` those of CPUs without either.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from preimage.audit.integers import differing
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.products.integers import call, depthwise, plan

# -- the instruction of VNNI, defined --------------------------------------------------------------------------------


def definition(lanes: int, name: str) -> str:
    """vpdpbusd in IR: to each 32-bit lane the four products of its bytes, of the first factor without sign and of the second with one."""
    words, many, wide = f"<{lanes} x i32>", f"<{4 * lanes} x i8>", f"<{4 * lanes} x i32>"
    lines = [f"%a = bitcast {words} %x to {many}", f"%b = bitcast {words} %y to {many}", f"%c = zext {many} %a to {wide}",
             f"%d = sext {many} %b to {wide}", f"%p = mul {wide} %c, %d", f"%t0 = add {words} %s, zeroinitializer"]  # fmt: skip
    for k in range(4):
        picked = ", ".join(f"i32 {4 * lane + k}" for lane in range(lanes))
        lines += [f"%q{k} = shufflevector {wide} %p, {wide} %p, {words} <{picked}>", f"%t{k + 1} = add {words} %t{k}, %q{k}"]
    body = "\n".join([*lines, f"ret {words} %t4"])
    return f"define internal {words} @{name}({words} %s, {words} %x, {words} %y) {{\n{body}\n}}\n"


def without_the_instruction(text: str) -> str:
    """A kernel's text with the definition in the place of the instruction."""
    lines = [line for line in text.splitlines() if not ("declare" in line and "vpdpbusd" in line)]
    if len(lines) == len(text.splitlines()):
        return text
    changed = "\n".join(lines)
    for bits, lanes in ((128, 4), (256, 8), (512, 16)):
        if f"vpdpbusd.{bits}" in changed:
            changed = changed.replace(f"@llvm.x86.avx512.vpdpbusd.{bits}", f"@dot{bits}") + "\n" + definition(lanes, f"dot{bits}")
    return changed


@contextmanager
def added_up(way: str | None) -> Iterator[None]:
    """Products are added up in this way inside the block; None: as this CPU wants it."""
    if way is None:
        yield
        return
    loaded: dict[object, object] = {}

    def kernel(spec: object) -> object:
        if spec not in loaded:
            loaded[spec] = kernels.compile_module(without_the_instruction(spec.ir()))  # type: ignore[attr-defined]
        return loaded[spec]

    chosen = [mock.patch.object(module, "way_of", return_value=(way, "")) for module in (plan, depthwise)]
    with chosen[0], chosen[1], mock.patch.object(call, "kept_kernel", kernel):
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--way", choices=["pairs", "quads", "plain"])
    given = parser.parse_args()
    with added_up(given.way):
        return int(differing(given.seed, given.cases) > 0)


if __name__ == "__main__":
    sys.exit(main())

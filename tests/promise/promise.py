"""The promise as a test: bits that depend on the values alone.

Every entry is computed once on one thread from C-ordered arrays, forward and with the gradients of a random cotangent. Then again
on 2 and 3 threads, in other memory layouts, on narrower vectors where the machine has wider ones, each image alone, the batch turned
round, and a part of the batch. All bits must be equal; what a sum over the batch gives is compared where the batch is whole.

    python tests/promise/promise.py            # every entry, every variant; prints the list of exceptions
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import preimage as pre
from preimage.engines.jit.compiler import kernels

BATCH = 5


@dataclass(frozen=True)
class Entry:
    """name: what of the public surface it is about. op: takes the inputs (arrays or Tensors), gives an array or several.

    shapes: of the inputs, or arrays. batched: whether the first axis of each input counts images. images: whether that of the results
    does, and each image's depends on it alone. diff: inputs that have a gradient. kind: which values (normal, positive, unit, integer).
    """

    name: str
    op: Callable[..., Any]
    shapes: tuple[Any, ...]
    batched: tuple[bool, ...] = (True,)
    images: bool = True
    diff: tuple[int, ...] = (0,)
    kind: str = "normal"
    dtypes: tuple[Any, ...] = (np.float32,)
    label: str = field(default="")

    def __str__(self) -> str:
        return f"{self.name} {self.label}".strip()

    def inputs(self, dtype: Any) -> list[Any]:
        rng = np.random.default_rng(7)
        return [_values(rng, s, self.kind, dtype) if isinstance(s, tuple) else s for s in self.shapes]

    def is_batched(self, k: int) -> bool:
        return self.batched[k] if k < len(self.batched) else False


def _values(rng: np.random.Generator, shape: tuple[int, ...], kind: str, dtype: Any) -> Any:
    if kind == "positive":
        return rng.uniform(0.5, 2.0, shape).astype(dtype)
    if kind == "unit":
        return rng.uniform(0.05, 0.95, shape).astype(dtype)
    return (rng.standard_normal(shape) * 2).astype(dtype)


# -- layouts -----------------------------------------------------------------------------------------------------------


def channels_last(a: Any) -> Any:
    """Channels (axis 1) innermost; a matrix by columns."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) if a.ndim > 1 else a


def fortran(a: Any) -> Any:
    return np.asfortranarray(a)


def sliced(a: Any) -> Any:
    """Every other element of a larger array, along the first and the last axis."""
    if not a.ndim:
        return a
    wide = np.repeat(np.repeat(a, 2, -1), 2, 0)
    return wide[::2, ..., ::2] if a.ndim > 1 else wide[::4]


def backwards(a: Any) -> Any:
    """Negative strides along every axis."""
    turned = (slice(None, None, -1),) * a.ndim
    return np.ascontiguousarray(a[turned])[turned] if a.ndim else a


LAYOUTS = {"channels last": channels_last, "Fortran": fortran, "sliced": sliced, "negative strides": backwards}


# -- computing ---------------------------------------------------------------------------------------------------------


def _arrays(result: Any) -> list[Any]:
    several = result if isinstance(result, tuple | list) else (result,)
    return [np.asarray(r.data if isinstance(r, pre.Tensor) else r) for r in several]


def cotangents(entry: Entry, results: list[Any]) -> list[Any]:
    rng = np.random.default_rng(11)
    return [(rng.standard_normal(r.shape) + 0.5).astype(r.dtype) for r in results]


def compute(entry: Entry, inputs: list[Any], gs: list[Any] | None) -> tuple[list[Any], dict[int, Any]]:
    """The results, and by input the gradients of their products with the cotangents."""
    if not entry.diff or gs is None:
        return _arrays(entry.op(*inputs)), {}
    tensors = [pre.Tensor(a, requires_grad=True) if k in entry.diff else a for k, a in enumerate(inputs)]
    given = entry.op(*tensors)
    several = list(given) if isinstance(given, tuple | list) else [given]
    outs = [(t, g) for t, g in zip(several, gs, strict=True) if isinstance(t, pre.Tensor) and t.requires_grad]
    found = pre.grad([t for t, _ in outs], [tensors[k] for k in entry.diff], [pre.Tensor(g) for _, g in outs], allow_unused=True)
    grads = {k: g.data for k, g in zip(entry.diff, found, strict=True) if g is not None}
    return _arrays(several), grads


def same(a: Any, b: Any) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and _bits(a) == _bits(b)


def _bits(a: Any) -> bytes:
    return a.tobytes() if a.dtype.kind in "iub" else np.where(np.isnan(a), a.dtype.type(np.nan), a).tobytes()


def variants(entry: Entry, dtype: Any, quick: bool = False) -> Iterator[tuple[str, bool]]:
    """What was varied, and whether all bits were those of the plain computation. quick: some of the variants."""
    inputs = entry.inputs(dtype)
    with pre.config(threads=1):
        results, _ = compute(entry, inputs, None)
        gs = cotangents(entry, results)
        want = compute(entry, inputs, gs)
    everything = [*want[0], *want[1].values()]

    def equal(given: list[Any], g: list[Any]) -> bool:
        got = compute(entry, given, g)
        return all(same(a, b) for a, b in zip([*got[0], *got[1].values()], everything, strict=True))

    for threads in (2,) if quick else (2, 3):
        with pre.config(threads=threads):
            yield f"{threads} threads", equal(inputs, gs)
    for name, lay in LAYOUTS.items():
        if quick and name not in ("channels last", "negative strides"):
            continue
        yield name, equal([_laid(lay, a) for a in inputs], [_laid(lay, g) for g in gs])
    for name in ("avx2", "avx512"):
        target = kernels.named_target(name)
        if target.runs_here and target.key != kernels.current_target().key:
            with kernels.use_target(name):
                yield name, equal(inputs, gs)
    if entry.images:
        for part, word in _parts()[4:6] if quick else _parts():
            yield word, _part_is_equal(entry, inputs, gs, want, part)


def _laid(lay: Callable[[Any], Any], a: Any) -> Any:
    return lay(a) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a


def _parts() -> list[tuple[list[int], str]]:
    alone = [([k], f"image {k} alone") for k in range(BATCH)]
    moved, turned = [*range(1, BATCH), 0], list(range(BATCH))[::-1]
    return [*alone, (moved, "the batch, one place on"), (turned, "the batch backwards"), ([1, 2, 3], "part of the batch")]


def _part_is_equal(entry: Entry, inputs: list[Any], gs: list[Any], want: Any, part: list[int]) -> bool:
    given = [a[part] if entry.is_batched(k) else a for k, a in enumerate(inputs)]
    got = compute(entry, given, [g[part] for g in gs])
    forward = all(same(a, b[part]) for a, b in zip(got[0], want[0], strict=True))
    return forward and all(same(g, want[1][k][part]) for k, g in got[1].items() if entry.is_batched(k))


def broken(entries: list[Entry], quick: bool = False) -> list[str]:
    """Lines that name what changed bits: the exceptions to the promise. quick: in one dtype, some of the variants."""
    lines = []
    for entry in entries:
        for dtype in entry.dtypes[:1] if quick else entry.dtypes:
            wrong = [what for what, fine in variants(entry, dtype, quick) if not fine]
            if wrong:
                lines.append(f"{entry} ({np.dtype(dtype).name}): {', '.join(wrong)}")
    return lines


def report(lines: list[str]) -> str:
    """The sentence that docs/contract.md has, and the exceptions."""
    return "\n".join([f"Exceptions: {len(lines) or 'none'}.", *(f"- {line}" for line in lines)])


if __name__ == "__main__":
    from entries import ENTRIES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="entries whose name contains this")
    chosen = [e for e in ENTRIES if parser.parse_args().only in str(e)]
    exceptions = broken(chosen)
    print(f"{len(chosen)} entries.")
    print(report(exceptions))
    raise SystemExit(bool(exceptions))

"""The conformance pack: geometries with integer data and exact answers as plain files, for any language and without this library.

    FOLDER/index.json       what the pack is, and every case: sizes, options, its file
    FOLDER/case_0000.npz    x, w, y and the four answers; an uncompressed zip of .npy files (float32, little-endian, C order)
    FOLDER/README.md        the format, in words

Data are integers so small that every sum, in any order, fused or not, is exact in float32: an answer is right or wrong, and there is no
tolerance. The answers come from the audit's oracle, which computes in int64 and shares no code with any engine.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from preimage.audit.case import RESULTS, Case
from preimage.audit.data import PRECISION, integers
from preimage.audit.generate import case_at
from preimage.audit.oracle import contract, operands
from preimage.errors import OptionError

__all__ = ["pack"]

FORMAT = 1
#: A case larger than this many elements in all its arrays is left to the audit itself.
MOST_ELEMENTS = 40_000
#: Strides and dilations above this are left to the audit, too: some libraries keep them in 32 bits.
LONGEST_STEP = 4096
_TRIES = 200

README = """\
# Conformance pack: convolutions with exact integer answers

`index.json` lists the cases; each has a file `.npz`, an uncompressed zip of `.npy` arrays: float32, little-endian, C order.
Every number is an integer, and every partial sum is exact in float32 (in float64, too), in any order of summation, with or without
fused multiply-adds. So a result is right if it is equal, and wrong otherwise. Algorithms that transform the data first
(Winograd, FFT) need not be exact.

Of each case, in `index.json`: `batch`, `in_channels`, `out_channels`, `groups`; and for each spatial axis `input_size`,
`output_size`, `kernel_size`, `stride`, `dilation`, `padding` as (lo, hi), where negative padding cuts, and `output_padding`, by which
the transposed convolution comes back to `input_size`.

Arrays: x (batch, in_channels, *input_size), w (out_channels, in_channels / groups, *kernel_size), y (batch, out_channels, *output_size).
Answers, with x taken as zero outside of its range (g: group, o: its output channel, i: its input channel, p: position, k: tap):

    conv              conv[n, g*O + o, p]      = sum over i, k of  x[n, g*I + i, p*stride - lo + k*dilation] * w[g*O + o, i, k]
    conv_transpose    the transpose of that map, applied to y: an array of x's shape (PyTorch's conv_transpose with the same w)
    conv_weight_grad  the gradient in w of the sum of conv(x, w) * y: an array of w's shape
    bias_grad         the sums of y over batch and space: (out_channels,)
"""


def pack(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """The files of a pack of `count` cases as (name, content), index.json last.

    Raises: OptionError for a count below 1, or where fewer cases of that size can be drawn.
    """
    if count < 1:
        raise OptionError(f"a pack has at least 1 case, got {count}")
    yield "README.md", README.encode()
    rows: list[dict[str, Any]] = []
    for case in _drawn(count, seed):
        name = f"case_{len(rows):04}.npz"
        rows.append(_row(case, name))
        yield name, _npz(_arrays(case, np.random.default_rng((seed, len(rows)))))
    index = {"format": FORMAT, "dtype": "float32", "seed": seed, "results": list(RESULTS), "cases": rows}
    yield "index.json", json.dumps(index, indent=1).encode()


def _drawn(count: int, seed: int) -> Iterator[Case]:
    """Cases of the audit's own distributions that a layer of another library can be."""
    found = 0
    for number in range(count * _TRIES):
        case = case_at(number, seed)
        if _common(case):
            yield case
            found += 1
            if found == count:
                return
    raise OptionError(f"seed {seed} gives {found} cases of this size, wanted {count}")


def _common(case: Case) -> bool:
    """One to three axes, nothing empty, small with and without its padding, numbers that others keep in 32 bits, a remainder below the stride."""
    sizes = (case.x_shape, case.w_shape, case.y_shape)
    padded = [n + max(lo, 0) + max(hi, 0) for n, (lo, hi) in zip(case.input_size, case.padding, strict=True)]
    return (
        1 <= case.ndim <= 3
        and case.is_conv
        and all(min(shape) > 0 for shape in sizes)
        and sum(map(prod, sizes)) <= MOST_ELEMENTS
        and case.batch * case.in_channels * prod(padded) <= 10 * MOST_ELEMENTS
        and max(*case.stride, *case.dilation) <= LONGEST_STEP
    )


def _row(case: Case, name: str) -> dict[str, Any]:
    row = {key: value for key, value in case.to_json().items() if key != "label"}
    return row | {"output_padding": case.remainder, "file": name, "label": case.label}


def _arrays(case: Case, rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    """The operands and the four answers."""
    x, w, y = integers(case, rng, PRECISION["float32"])
    arrays = {"x": x, "w": w, "y": y} | {result: contract(case, result, *operands(result, x, w, y)) for result in RESULTS}
    return {key: np.ascontiguousarray(value.astype("<f4")) for key, value in arrays.items()}


def _npz(arrays: dict[str, np.ndarray[Any, Any]]) -> bytes:
    """An uncompressed zip of .npy files: the same bytes each time."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), part.getvalue())
    return whole.getvalue()

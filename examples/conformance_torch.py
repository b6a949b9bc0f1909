"""Runs a conformance pack through PyTorch: `preimage audit --export pack`, then `python conformance_torch.py pack`.

It needs NumPy and torch, not preimage: a pack is plain files (pack/README.md). For another library write its `library`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
BACK = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def pad(a, pairs):
    """(lo, hi) for each axis; negative ones cut, after the others were added. PyTorch's pad begins with the last axis."""
    sides = [side for pair in reversed(pairs) for side in pair]
    return functional.pad(functional.pad(a, [max(s, 0) for s in sides]), [min(s, 0) for s in sides])


def library(case, x, w, y):
    """The four results of one case, as PyTorch computes them; unequal padding by `pad`, before conv and behind its transpose."""
    axes = len(case["kernel_size"])
    options = {"stride": case["stride"], "dilation": case["dilation"], "groups": case["groups"]}
    x, w, y = (torch.from_numpy(a).requires_grad_() for a in (x, w, y))
    conv = CONV[axes](pad(x, case["padding"]), w, **options)
    (weight_grad,) = torch.autograd.grad(conv, w, y)
    back = [(-lo, more - hi) for (lo, hi), more in zip(case["padding"], case["output_padding"], strict=True)]
    found = {"conv": conv, "conv_transpose": pad(BACK[axes](y, w, **options), back), "conv_weight_grad": weight_grad}
    return {name: a.detach().numpy() for name, a in (found | {"bias_grad": y.sum(dim=(0, *range(2, 2 + axes)))}).items()}


def check(folder, library=library):
    """(results compared, those that are wrong)."""
    index, wrong, count = json.loads((Path(folder) / "index.json").read_text()), [], 0
    for case in index["cases"]:
        with np.load(Path(folder) / case["file"]) as arrays:
            found = library(case, *(arrays[name].copy() for name in "xwy"))
            wrong += [(case["file"], name) for name in index["results"] if not np.array_equal(found[name], arrays[name])]
        count += len(index["results"])
    return count, wrong


if __name__ == "__main__":
    count, wrong = check(sys.argv[1])
    print(f"{count} results compared, {len(wrong)} wrong", *wrong[:10], sep="\n")
    sys.exit(bool(wrong))

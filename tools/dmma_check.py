"""Does a float64 product on a GPU's tensor cores keep the contract's chain? sum = fma(a[k], b[k], sum) for k = 0, 1, ... (docs/contract.md)

    python tools/dmma_check.py           # needs an NVIDIA GPU of compute capability 8.0 or newer

Where all sums have the bits of the chain, kernels for float64 take `mma.m8n8k4.f64`, at twice the rate of single multiply-adds, and keep the
contract: the engine `cuda` finds it out in the same way (engines/cuda/tensor_cores.py). The exit status is 1 where a bit differs.
"""

from __future__ import annotations

import sys
from typing import Any

from preimage.engines.cuda.devices import device_of
from preimage.engines.cuda.tensor_cores import same
from preimage.errors import PreimageError


def main(gpu: Any = None) -> int:
    """gpu: a device that is open already; by default the first."""
    try:
        found = same(device_of("cuda:0") if gpu is None else gpu)
    except PreimageError as error:
        print(f"nothing to check: {error}", file=sys.stderr)
        return 2
    for case, count in found.items():
        print(f"{case}: {count} of 64 sums have the bits of the chain")
    return int(min(found.values()) < 64)


if __name__ == "__main__":
    sys.exit(main())

"""The branches of the planners of Winograd's algorithms, in words (see `engines.jit.branches`)."""

from __future__ import annotations

from preimage.engines.decisions import declare_all

__all__ = ["take"]

#: Winograd's algorithms, where accuracy="fast" allows them: `winograd`. Counted for the subject `jit-fast` of the audit.
take = declare_all(
    "jit-fast.winograd",
    {
        "taken": "fewer multiplications, in an order of their own",
        "taken.weight_grad": "fewer multiplications for a weight gradient, in an order of their own",
        "points.4": "tiles of four points along an axis",
        "points.6": "tiles of six points along an axis",
        "input.channels_last": "the channels of a position are read where they lie",
        "input.planes": "channels-first planes are transposed in registers",
        "result.channels_last": "results are stored channels-last",
        "result.planes": "results are transposed in registers, stored channels-first",
        "sums.one_block": "the channels are one block of the order of sums",
        "sums.blocks": "the channels are several blocks",
    },
)

"""The schedules: each file holds a spec (what its code depends on) and the function that writes its kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from preimage.engines.jit.schedules import (
    blocks,
    chain,
    depthwise,
    depthwise_grad,
    direct,
    few,
    fold,
    pack,
    parts,
    plane,
    sequence,
    softmax,
    space,
    spread,
    sums,
    weight_grad,
    weights,
)

__all__ = ["BUILDERS"]

#: The name of a spec's class -> the function that makes its IR text.
BUILDERS: dict[str, Callable[[Any], str]] = {
    "BlockSpec": blocks.build,
    "ChainSpec": chain.build,
    "CopySpec": pack.build_copy,
    "DepthwiseGradSpec": depthwise_grad.build,
    "DepthwiseSpec": depthwise.build,
    "DirectSpec": direct.build,
    "FewSpec": few.build,
    "FoldSpec": fold.build,
    "GatherWeightSpec": weights.build_gather_weight,
    "MaxGradSpec": space.build_max_grad,
    "PartsSpec": parts.build,
    "PlaneSpec": plane.build,
    "PoolSpec": space.build_pool,
    "ProgramSpec": sequence.build_program,
    "SweepSpec": sequence.build_sweep,
    "ResizeSpec": space.build_resize,
    "RowsSpec": space.build_rows,
    "SoftmaxSpec": softmax.build,
    "SpreadSpec": spread.build,
    "SumsSpec": sums.build,
    "SwapSpec": pack.build_swap,
    "TileSpec": weight_grad.build,
    "WeightCopySpec": plane.build_weights,
    "WeightSpec": weights.build_weight,
}

"""A call of conv or conv_transpose written down by a recorder, with weights that may be others in the next run."""

from __future__ import annotations

import numpy as np

from preimage.engines.base import Array, Epilogue
from preimage.engines.jit.elementwise.copies import in_order
from preimage.engines.jit.runtime.bound_call import Ready, epilogue_arrays
from preimage.engines.prepared import PreparedWeight
from preimage.engines.recording import Fixed, Recorder

__all__ = ["record_call"]


def record_call(
    here: Recorder, ready: Ready, out: Array, x: Array, w: Array | PreparedWeight, packed: Fixed | None, epilogue: Epilogue | None
) -> None:  # fmt: skip
    """Run a program on arrays of the strides that it was made for. packed: the weights, where they were packed before.

    Its kernels are the whole call as long as the weights are finite: where taps over the padding are left out, packing sets a flag that
    the recorder looks at.
    """
    linked = ready.linked
    kept: dict[str, Array | Fixed] = {}
    if epilogue is not None:
        kept |= epilogue_arrays(epilogue, ready.dtype, 1)
        if isinstance(limits := kept.get("limits"), np.ndarray):
            kept["limits"] = Fixed(limits)
        if epilogue.bias is not None and linked.bias_repeat > 1:
            bias = in_order(np.broadcast_to(epilogue.bias, (linked.bias_repeat, len(epilogue.bias))))
            assert bias is not None
            kept["bias"] = bias
    arrays = kept | {"x": x, "out": out}
    if packed is not None:
        here.lost("weights were packed before the call")
        ready.record(here, arrays | {"packed": packed})
        return
    assert isinstance(w, np.ndarray)
    flag = here.flag() if linked.skips_padding else here.take(8)
    ready.record(here, arrays | {"w": w, "flag": flag})
    if linked.skips_padding and flag.any():
        here.lost("weights that are not finite are multiplied with padding")

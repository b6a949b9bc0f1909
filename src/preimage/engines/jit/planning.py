"""What a call would decide: the plan is made, looked at and dropped. The audit searches with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from preimage.engines import decisions
from preimage.engines.base import DType
from preimage.engines.jit.request import ELEMENTS, SMALL_MACS, ConvRequest
from preimage.engines.jit.weight_grad.call import request_for_shapes
from preimage.geometry import ConvGeometry
from preimage.settings import thread_count

if TYPE_CHECKING:
    from preimage.engines.jit.engine import JitEngine

__all__ = ["planned_decisions"]


def planned_decisions(
    engine: JitEngine, geometry: ConvGeometry, contraction: str, dtype: DType, channels_last: bool = False, finite: bool = True
) -> frozenset[str]:
    """The names of the decisions that the plan of a call takes, under the settings and the target of now.

    The call is one on dense arrays in C order or channels-last. finite: whether its weights are; where they are not, and the first
    plan relied on it, a call is planned again (the decisions are those of both plans). Empty arrays have no plan.
    """
    sizes = (*geometry.input_shape, *geometry.output_shape, *geometry.weight_shape)
    if not all(sizes) or engine.supports(geometry, contraction, dtype) is not None:
        return frozenset()
    if contraction == "conv_weight_grad":
        threads = thread_count() if geometry.inside_macs > SMALL_MACS else 1
        request = request_for_shapes(geometry, ELEMENTS[dtype.name], dtype.itemsize, channels_last, threads)
        return frozenset(engine.lower(request).decisions)
    with decisions.made() as found:
        asked = engine.request(geometry, contraction, dtype, channels_last)
        assert isinstance(asked, ConvRequest)
        program = engine.lower(asked)
        again = engine.lower(engine.exact_request(asked)).decisions if program.skips_padding and not finite else ()
    return frozenset({*found, *program.decisions, *again})

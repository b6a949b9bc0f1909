"""What a call would decide, without making a kernel: the plan is made, looked at and dropped. The audit searches with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from preimage.engines import decisions
from preimage.engines.base import DType
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.weight_grad import lower
from preimage.engines.jit.weight_grad.lower import ELEMENTS
from preimage.geometry import ConvGeometry
from preimage.settings import thread_count

if TYPE_CHECKING:
    from preimage.engines.jit.engine import JitEngine

__all__ = ["planned_decisions"]


def planned_decisions(
    engine: JitEngine,
    geometry: ConvGeometry,
    contraction: str,
    dtype: DType,
    channels_last: bool = False,
    finite: bool = True,
) -> frozenset[str]:
    """The names of the decisions that the plan of a call takes, under the settings and the target of now.

    The call is one on dense arrays in C order or channels-last. finite: whether its weights are; where they are not, and the first
    plan relied on it, a call is planned again (the decisions are those of both plans). Empty arrays have no plan.
    """
    sizes = (*geometry.input_shape, *geometry.output_shape, *geometry.weight_shape)
    if not all(sizes) or engine.supports(geometry, contraction, dtype) is not None:
        return frozenset()
    with decisions.made() as found, kernels.nothing_compiled():
        if contraction == "conv_weight_grad":
            element = ELEMENTS[dtype.name]
            threads = thread_count() if geometry.inside_macs > lower.SMALL_MACS else 1
            lower._new_recipe(lower.request_for_shapes(geometry, element, dtype.itemsize, channels_last, threads))
        else:
            request = engine.request(geometry, contraction, dtype, channels_last)
            if engine._new_recipe(request).skips_padding and not finite:
                engine._new_recipe(engine.exact_request(request))
    return frozenset(found)

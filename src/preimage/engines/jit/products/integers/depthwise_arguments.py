"""The argument vector of depthwise convolutions of integers, and what their code depends on."""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Elements, Integer, Words, elements
from preimage.engines.jit.products.integers.product_arguments import FinishedTile
from preimage.records import record

__all__ = ["DepthwiseArguments", "DepthwiseSpec"]


class DepthwiseArguments(Arguments):
    """Strides, places and steps in bytes; all else counts. The positions of an image, taps and results are numbered as in `ProductArguments`.

    A task takes `line_share` lines of a plane of the result and `channel_share` channels. The thread's memory has `runs_z` planes of `room_y`
    lines of `room_x` positions, `channel_share` bytes each.
    """

    a: Elements = elements("byte")
    a_zero: Elements = elements("byte")
    a_image: Integer  # from an image to the next
    weight: Elements = elements("word")
    output: Elements = elements("kind")
    out_image: Integer
    factor: Elements = elements("float")
    bias: Elements = elements("added")
    zero: Elements = elements("kind")
    steps: Integer  # of one tap, or four
    tap_places: Words  # of each, in the thread's memory
    channels: Integer
    channel_share: Integer
    channel_tasks: Integer
    line_share: Integer
    line_tasks: Integer
    out_z: Integer
    out_y: Integer
    out_x: Integer
    out_step_z: Integer
    out_step_y: Integer
    out_step_x: Integer
    step_z: Integer
    step_y: Integer
    step_x: Integer
    base_z: Integer
    base_y: Integer
    base_x: Integer
    tap_z: Integer
    size_z: Integer
    size_y: Integer
    size_x: Integer
    stride_z: Integer
    stride_y: Integer
    stride_x: Integer
    runs_z: Integer
    reach_y: Integer  # lines between those of the first and the last tap
    room_y: Integer
    room_x: Integer
    scratch: Elements = elements("byte")
    thread_bytes: Integer


@record
class DepthwiseSpec(FinishedTile):
    """way: as in words_kernel.py; all but `quads` with one tap a word. signed: A's type; lanes: 32-bit sums of a vector; vectors, pixels: whose sums
    are held in registers. finish, kind, unsigned, factors, bias: as in `ProductSpec`.
    """

    arguments: ClassVar = DepthwiseArguments

    way: str
    signed: bool
    lanes: int
    vectors: int
    pixels: int
    finish: str
    kind: str
    unsigned: bool = False
    factors: bool = False
    bias: bool = False

    def ir(self) -> str:
        """The text of the kernel."""
        from preimage.engines.jit.products.integers.depthwise_kernel import build

        return build(self)

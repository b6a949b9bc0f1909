"""What the work costs on a nominal CPU: one set of numbers for all machines, since the choice between FFT and direct sums changes bits.

Set by timing one core with AVX2 (`python benchmarks/fft.py`), rounded; not verified on AVX-512.
"""

from __future__ import annotations

from preimage.records import record

__all__ = ["COSTS", "Costs"]


@record
class Costs:
    """Nanoseconds. transform: by position and log2 of their number; move: copying a position in and out; row: by frame of an image; product: of a
    complex multiply-add in a matrix product; single: of a lone one; read: of a weight's spectrum, by frequency; call: of any call.
    direct, depthwise, direct_call: the exact path, by real multiply-add and by call.
    """

    transform: float
    move: float
    row: float
    product: float
    single: float
    read: float
    call: float
    direct: float
    depthwise: float
    direct_call: float


#: By the bytes of a real number.
COSTS = {
    4: Costs(0.25, 1.5, 15_000.0, 0.05, 4.0, 1.0, 120_000.0, 0.013, 0.03, 10_000.0),
    8: Costs(0.5, 2.0, 20_000.0, 0.1, 5.0, 2.0, 120_000.0, 0.026, 0.06, 10_000.0),
}

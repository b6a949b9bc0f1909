"""Element types as IR writes them, and constants of them."""

from __future__ import annotations

import struct
from functools import cache

__all__ = ["ELEMENT_BYTES", "TYPES", "constant", "lane_numbers", "type_of"]

ELEMENT_BYTES = {"f32": 4, "f64": 8, "f16": 2, "bf16": 2, "i64": 8, "i32": 4, "i16": 2, "i8": 1}
TYPES = {"f32": "float", "f64": "double", "f16": "half", "i64": "i64", "i32": "i32", "i16": "i16", "i8": "i8", "i1": "i1"}


@cache
def type_of(element: str, lanes: int) -> str:
    """The IR type of a scalar or a vector."""
    return TYPES[element] if lanes == 1 else f"<{lanes} x {TYPES[element]}>"


@cache
def lane_numbers(numbers: tuple[int, ...], element: str = "i32") -> str:
    """A constant vector of lane numbers."""
    return f"<{', '.join(f'{TYPES[element]} {n}' for n in numbers)}>"


def constant(element: str, lanes: int, value: float) -> str:
    """A number in every lane, as IR writes it: floats by their bits."""
    return _constant(element, lanes, value, value == 0 and str(value)[0] == "-")


@cache
def _constant(element: str, lanes: int, value: float, minus_zero: bool) -> str:
    """minus_zero tells the two zeros apart, which are equal as keys."""
    if element in ("f32", "f64"):
        if value == 0 and not minus_zero:
            return "0.0" if lanes == 1 else "zeroinitializer"
        rounded = struct.unpack("f", struct.pack("f", value))[0] if element == "f32" else value
        text = f"0x{struct.unpack('Q', struct.pack('d', rounded))[0]:016X}"
    else:
        text = str(int(value))
    return text if lanes == 1 else f"<{', '.join([f'{TYPES[element]} {text}'] * lanes)}>"

"""The protobuf wire format: bytes to (field number, wire type, payload) and back, strictly and within bounds.

Definition: a message is a run of fields; a field is a varint key (number << 3 | wire type) and a payload: a varint
(type 0), 8 bytes (1), a varint length and as many bytes (2) or 4 bytes (5), all little-endian. Group types (3, 4) and the
two that do not exist (6, 7) are refused.
Cost: one pass, no copy: payloads are views into the file. No length is trusted before it was compared with what is left.
Raises: FileFormatError with the byte offset.
Source: protobuf.dev, "Encoding".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from preimage.errors import FileFormatError

__all__ = [
    "BYTES",
    "FIXED32",
    "FIXED64",
    "VARINT",
    "fields",
    "float32",
    "key",
    "read_varint",
    "signed",
    "varint",
    "varints",
]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_WORD = (1 << 64) - 1


def read_varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    """The unsigned 64-bit number at byte `at`, and where it ends."""
    value = shift = 0
    start = at
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > _WORD:
                raise FileFormatError(f"varint at byte {start} is larger than 64 bits")
            return value, at
        shift += 7
        if shift > 63:
            raise FileFormatError(f"varint at byte {start} is longer than 10 bytes")
    raise FileFormatError(f"varint at byte {start} is cut off by the end of its message at byte {end}")


def fields(data: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(number, wire type, number or payload start, payload end, offset of the field) for each field of a message."""
    at = start
    while at < end:
        offset = at
        tag, at = read_varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        if not 1 <= number < 1 << 29:
            raise FileFormatError(f"field number {number} at byte {offset} is outside 1 .. 536870911")
        if kind == VARINT:
            value, at = read_varint(data, at, end)
            yield number, kind, value, at, offset
            continue
        if kind == BYTES:
            size, at = read_varint(data, at, end)
        elif kind == FIXED32:
            size = 4
        elif kind == FIXED64:
            size = 8
        else:
            raise FileFormatError(f"field {number} at byte {offset} has wire type {kind}; only 0, 1, 2, 5 are known")
        if size > end - at:
            raise FileFormatError(
                f"field {number} at byte {offset} announces {size} bytes, only {end - at} are left in its message"
            )
        yield number, kind, at, at + size, offset
        at += size


def varints(data: memoryview, start: int, end: int) -> Iterator[int]:
    """The numbers of a packed field."""
    at = start
    while at < end:
        value, at = read_varint(data, at, end)
        yield value


def signed(value: int, bits: int) -> int:
    """A varint read as two's complement: int32 is stored with 64 bits, its upper half is dropped as protobuf does."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def varint(value: int) -> bytes:
    """The bytes of a number; a negative one takes ten, as two's complement of 64 bits."""
    value &= _WORD
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def key(number: int, kind: int) -> bytes:
    """The bytes that announce a field."""
    return varint(number << 3 | kind)


def float32(value: float) -> float:
    """The nearest float32, as Python's float; what is beyond its range becomes infinite, as in C."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")

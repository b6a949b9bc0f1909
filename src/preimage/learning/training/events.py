"""Event files that TensorBoard reads, written without TensorBoard: a listener that adds the values of every step.

A file is a list of records: the length (8 bytes), its checksum, the data (an Event message), their checksum; checksums are CRC-32C, turned.
Source: tensorflow/core/lib/io/record_writer and tensorflow/core/util/event.proto, tensorflow/core/framework/summary.proto (read as facts).
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from preimage.host.writing import failed
from preimage.io.protobuf import BYTES, FIXED32, FIXED64, VARINT, key, varint
from preimage.learning.training.loop import TrainingProgress

__all__ = ["EventFile", "crc32c"]

_POLYNOMIAL = 0x82F63B78


def _table() -> list[int]:
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (_POLYNOMIAL if n & 1 else 0)
        table.append(n)
    return table


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """The CRC-32C (Castagnoli) of some bytes."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
    value = crc32c(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _bytes(number: int, data: bytes) -> bytes:
    return key(number, BYTES) + varint(len(data)) + data


class EventFile:
    """An event file in a folder; call it with a run's progress. Raises: OutputError."""

    def __init__(self, folder: Path, every: int = 1) -> None:
        now = time.time()
        self.path, self._every = folder / f"events.out.tfevents.{int(now)}.{os.getpid()}.preimage", every
        with failed(self.path):
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - open as long as the run
        self._record(key(1, FIXED64) + struct.pack("<d", now) + _bytes(3, b"brain.Event:2"))

    def __call__(self, now: TrainingProgress) -> None:
        if now.step % self._every == 0 or now.test:
            self.add(now.step, {f"train/{k}": v for k, v in now.values.items() if k in ("loss", "lr", "samples_per_second")})
            self.add(now.step, {f"test/{k}": v for k, v in now.test.items()})

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """One Event with these scalars."""
        if values:
            summary = b"".join(
                _bytes(1, _bytes(1, k.encode()) + key(2, FIXED32) + struct.pack("<f", v)) for k, v in values.items()
            )
            self._record(key(1, FIXED64) + struct.pack("<d", time.time()) + key(2, VARINT) + varint(step) + _bytes(5, summary))

    def _record(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        with failed(self.path):
            self._file.write(length + _masked(length) + event + _masked(event))

    def close(self) -> None:
        """End the file."""
        self._file.close()

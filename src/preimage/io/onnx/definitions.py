"""What ONNX's own definitions say of operators: how many inputs, which attributes of which types (`definitions.txt`)."""

from __future__ import annotations

import functools
from pathlib import Path

__all__ = ["attribute_type", "most_inputs"]

_Row = tuple[int, int, dict[str, int]]  # the opset from which on it holds, the most inputs, types of attributes


@functools.cache
def _table() -> dict[str, list[str]]:
    """The lines of each operator, the oldest first."""
    found: dict[str, list[str]] = {}
    for line in Path(__file__).with_name("definitions.txt").read_text().splitlines():
        name, _, rest = line.partition(" ")
        found.setdefault(name, []).append(rest)
    return found


@functools.cache
def _row(op: str, opset: int) -> _Row | None:
    """What holds for an operator in some opset; None for one that ONNX has not, or not yet."""
    found = None
    for line in _table().get(op, ()):
        since, most, *attributes = line.split(" ")
        if int(since) <= opset:
            types = dict(each.split(":") for each in attributes)
            found = int(since), int(most), {name: int(kind) for name, kind in types.items()}
    return found


def most_inputs(op: str, opset: int) -> int:
    """How many inputs an operator takes at most; of an unknown one any number."""
    row = _row(op, opset)
    return 1 << 31 if row is None else row[1]


def attribute_type(op: str, opset: int, name: str) -> int | None:
    """The AttributeProto type of an attribute; None where it is not known."""
    row = _row(op, opset)
    return None if row is None else row[2].get(name)

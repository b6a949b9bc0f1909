"""What a module looks like as text: its tree, and a summary for one input shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from preimage.autograd import array_of, no_grad
from preimage.display import Shown
from preimage.errors import OptionError
from preimage.ops.operands import float_dtype, shape_sizes
from preimage.records import record
from preimage.typing import DTypeLike

if TYPE_CHECKING:
    from preimage.nn.module import Module

__all__ = ["Summary", "summary", "text_of"]


def text_of(module: Module) -> str:
    """The tree of modules, one a line, with their options."""
    name, options = type(module).__name__, module.extra_repr()
    children = list(module.named_children())
    if not children:
        return f"{name}({options})"
    lines = [options] if options else []
    for key, child in children:
        lines.append(f"({key}): " + text_of(child).replace("\n", "\n  "))
    return f"{name}(\n" + "\n".join("  " + line for line in lines) + "\n)"


@record
class Summary(Shown):
    """One row per module that was run: name, kind, shape of its result, parameters of its own, flop."""

    input_shape: tuple[int, ...]
    rows: tuple[tuple[str, str, tuple[int, ...], int, int], ...]

    @property
    def parameters(self) -> int:
        return sum(row[3] for row in self.rows)

    @property
    def work_flop(self) -> int:
        return sum(row[4] for row in self.rows)

    def cells(self) -> list[tuple[str, ...]]:
        """The rows in words, the last one their total."""
        cells = [(name, kind, str(shape), f"{count:,}", f"{flop:,}") for name, kind, shape, count, flop in self.rows]
        return [*cells, ("total", "", "", f"{self.parameters:,}", f"{self.work_flop:,}")]

    def __str__(self) -> str:
        table = [("module", "kind", "output", "parameters", "flop"), *self.cells()]
        widths = [max(len(row[k]) for row in table) for k in range(5)]
        left, right = slice(0, 3), slice(3, 5)
        lines = [
            "  ".join([*(c.ljust(w) for c, w in zip(row[left], widths[left], strict=True)),
                       *(c.rjust(w) for c, w in zip(row[right], widths[right], strict=True))])
            for row in table
        ]  # fmt: skip
        return "\n".join([f"input {self.input_shape}", *lines])


def summary(module: Module, input_shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> Summary:
    """Run the module once on zeros (evaluation mode, no graph) and say what each part gave and what it cost.

    The flop are those of convolutions and matrix products, 2 per multiply-add.
    """
    if not hasattr(module, "named_modules"):
        raise OptionError(f"summary takes a Module, got {type(module).__name__}")
    input_shape, dtype = shape_sizes(input_shape, "summary: input_shape"), float_dtype(dtype)
    rows: list[tuple[str, str, tuple[int, ...], int, int]] = []
    undo = []

    def watch(name: str, part: Module) -> None:
        def hook(layer: Any, args: tuple[Any, ...], result: Any) -> None:
            own = sum(p.size for p in layer._parameters.values() if p is not None)
            shape = np.shape(array_of(result[0] if isinstance(result, tuple) else result))
            flop = layer.work_flop(np.shape(array_of(args[0])), shape) if hasattr(layer, "work_flop") else 0
            rows.append((name or "(whole)", type(layer).__name__, shape, own, flop))

        undo.append(part.register_forward_hook(hook))

    modes = [(part, part.training) for part in module.modules()]
    for name, part in module.named_modules():
        if not list(part.named_children()):
            watch(name, part)
    try:
        module.eval()
        with no_grad():
            module(np.zeros(input_shape, dtype))
    finally:
        for remove in undo:
            remove()
        for part, training in modes:
            object.__setattr__(part, "training", training)
    return Summary(tuple(input_shape), tuple(rows))

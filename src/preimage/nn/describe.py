"""What a module looks like: its tree as text, its parameters as a small table, and a summary for one input shape."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from preimage.autograd import array_of, no_grad

if TYPE_CHECKING:
    from preimage.nn.module import Module

__all__ = ["Summary", "html_of", "summary", "text_of"]


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


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]], caption: str) -> str:
    parts = [f"<table><caption>{escape(caption)}</caption><tr>", *(f"<th>{escape(h)}</th>" for h in head), "</tr>"]
    for row in rows:
        parts.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    return "".join(parts) + "</table>"


def html_of(module: Module) -> str:
    """A table of the parameters: name, shape, dtype, how many, and the multiply-adds that one output position takes."""
    owners = dict(module.named_modules())
    rows: list[tuple[str, ...]] = []
    for name, parameter in module.named_parameters():
        owner = owners[name.rpartition(".")[0]]
        flop = getattr(owner, "position_flop", None)
        cost = f"{flop:,}" if flop is not None and name.endswith("weight") else ""
        rows.append((name, str(parameter.shape), str(parameter.dtype), f"{parameter.size:,}", cost))
    rows.append(("total", "", "", f"{sum(p.size for p in module.parameters()):,}", ""))
    head = ("parameter", "shape", "dtype", "elements", "flop per output position")
    options = module.extra_repr()
    return _table(head, rows, f"{type(module).__name__}({options})" if options else type(module).__name__)


@dataclass(frozen=True)
class Summary:
    """One row per module that was run: name, kind, shape of its result, parameters of its own, flop."""

    input_shape: tuple[int, ...]
    rows: tuple[tuple[str, str, tuple[int, ...], int, int], ...]

    @property
    def parameters(self) -> int:
        return sum(row[3] for row in self.rows)

    @property
    def work_flop(self) -> int:
        return sum(row[4] for row in self.rows)

    def _cells(self) -> list[tuple[str, ...]]:
        cells = [(name, kind, str(shape), f"{count:,}", f"{flop:,}") for name, kind, shape, count, flop in self.rows]
        return [*cells, ("total", "", "", f"{self.parameters:,}", f"{self.work_flop:,}")]

    def __str__(self) -> str:
        table = [("module", "kind", "output", "parameters", "flop"), *self._cells()]
        widths = [max(len(row[k]) for row in table) for k in range(5)]
        left, right = slice(0, 3), slice(3, 5)
        lines = [
            "  ".join([*(c.ljust(w) for c, w in zip(row[left], widths[left], strict=True)),
                       *(c.rjust(w) for c, w in zip(row[right], widths[right], strict=True))])
            for row in table
        ]  # fmt: skip
        return "\n".join([f"input {self.input_shape}", *lines])

    def _repr_html_(self) -> str:
        return _table(("module", "kind", "output", "parameters", "flop"), self._cells(), f"input {self.input_shape}")


def summary(module: Module, input_shape: tuple[int, ...], dtype: Any = np.float32) -> Summary:
    """Run the module once on zeros (evaluation mode, no graph) and say what each part gave and what it cost.

    The flop are those of convolutions and matrix products, 2 per multiply-add.
    """
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

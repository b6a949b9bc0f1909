"""What `preimage run` feeds a model: files by position for one of its inputs, the others by name, pictures in the layout that the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from preimage.errors import OptionError
from preimage.io.files import read_input
from preimage.io.graph import Graph, Input

__all__ = ["Feeding"]

_PICTURE = (1, 3)


class Feeding:
    """The inputs of a model for every run. named: `NAME=FILE` or `NAME=NUMBERS`; how: what is done to pictures (`io.files.read_input`).

    Raises: OptionError for a name that is no input, and for inputs that are left without a value.
    """

    def __init__(self, graph: Graph, named: Sequence[str], layout: str, how: dict[str, Any]) -> None:
        self.graph, self.layout, self.how = graph, layout, how
        inputs = {item.name: item for item in graph.inputs}
        self.fixed: dict[str, np.ndarray] = {}
        for given in named:
            name, _, value = given.rpartition("=")
            if name not in inputs:
                raise OptionError(f"--input wants NAME=FILE with the name of an input ({', '.join(inputs)}), got {given!r}")
            self.fixed[name] = self._value(inputs[name], value)
        self.left = [item for item in graph.inputs if item.name not in self.fixed]

    def files(self, given: Sequence[Path]) -> list[Path]:
        """The files that are runs. Where every input has its value by name there is one run, which has no file."""
        names = ", ".join(item.name for item in self.left)
        if len(self.left) > 1:
            raise OptionError(
                f"the model takes {len(self.left)} inputs that have no value ({names}): --input NAME=FILE gives one to an input"
            )
        if self.left and not given:
            raise OptionError(f"no file was given for the input {names}")
        if given and not self.left:
            raise OptionError(f"every input has its value by --input; there is none left for {str(given[0])!r}")
        return list(given) or [Path("inputs")]

    def feeds(self, path: Path) -> dict[str, np.ndarray]:
        """All inputs of one run."""
        return self.fixed | ({self.left[0].name: self._file(self.left[0], path)} if self.left else {})

    def _value(self, item: Input, said: str) -> np.ndarray:
        try:
            numbers = [float(v) for v in said.split(",")]
        except ValueError:
            return self._file(item, Path(said))
        array = np.array(numbers, np.float64)
        if not np.isfinite(array).all():
            raise OptionError(f"input {item.name!r} wants finite numbers, got {said!r}")
        declared = item.declared or item.shape or ()
        if len(numbers) > 1 and len(declared) != 1:
            raise OptionError(f"input {item.name!r} of shape {declared} wants a file, got the numbers {said!r}")
        return array.reshape((-1,) if len(declared) == 1 else (1,) * len(declared)).astype(item.dtype)

    def _file(self, item: Input, path: Path) -> np.ndarray:
        declared = item.example or item.declared or item.shape or ()
        last = self.layout == "channels_last" or (self.layout == "auto" and _channels_last(declared))
        place = len(declared) - 1 if last else 1
        size = declared[place] if len(declared) > 1 else None
        found = read_input(path, channels=size if isinstance(size, int) else self._channels(item), **self.how)
        if last and path.suffix.lower() != ".npy":
            found = np.ascontiguousarray(np.moveaxis(found, 1, -1))
        return found if path.suffix.lower() == ".npy" or item.dtype.startswith("float") else found.astype(item.dtype)

    def _channels(self, item: Input) -> int:
        """Channels of the first contraction's weight: what a model with open sizes takes."""
        for node in self.graph.nodes:
            if node.op == "conv" and node.inputs[0] == item.name and node.inputs[1] in self.graph.weights:
                return int(self.graph.weights[node.inputs[1]].shape[1])
        return 3


def _channels_last(shape: Sequence[Any]) -> bool:
    """Whether a declared shape is that of pictures with their channels last, as TensorFlow writes it."""
    return len(shape) == 4 and shape[3] in _PICTURE and shape[1] not in _PICTURE

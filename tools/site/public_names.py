"""What is public: the modules whose `__all__` users write, each with the title of its page in the reference."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator

__all__ = ["SURFACE", "public"]

#: In the order of the reference. A name that stands in two of them has its entry on the first page.
SURFACE = {
    "preimage": "contractions, Tensors, settings",
    "preimage.ops": "operations",
    "preimage.functional": "the operations by torch's names",
    "preimage.nn": "layers and losses",
    "preimage.nn.init": "starting values",
    "preimage.optim": "optimisers and schedules",
    "preimage.linop": "linear operators",
    "preimage.analysis": "what layers and nets do",
    "preimage.audit": "finding wrong convolutions",
    "preimage.data": "datasets and batches",
    "preimage.learning": "training; dictionaries",
    "preimage.io": "models and weights as files",
    "preimage.io.graph": "networks that files become",
    "preimage.io.onnx": "ONNX models",
    "preimage.io.torch": "files of torch.save",
    "preimage.caffe": "the pycaffe-shaped face",
    "preimage.runtime": "the face shaped like onnxruntime",
    "preimage.report.draw": "pictures of layers",
    "preimage.report.explain": "one layer as a page",
    "preimage.bench": "measuring",
}


def public(module: str) -> Iterator[str]:
    """The public names of a module that no earlier page has."""
    seen: set[int] = set()
    for other in SURFACE:
        loaded = importlib.import_module(other)
        for name in loaded.__all__:
            value = getattr(loaded, name)
            if inspect.ismodule(value) or (callable(value) and id(value) in seen):
                continue
            seen.add(id(value))
            if other == module:
                yield name
        if other == module:
            return

"""Model files, weights, images: reading and writing them. Names of other formats live only here.

    load_model, save_model      ONNX and Caffe models; what a file is its content says, whatever its name
    export                      save_model by the name that torch.onnx gives it
    optimise                    a model that was read, rewritten for inference
    load_weights, save_weights  arrays by name: `.safetensors`, `.npz`, and torch's `.pt`, of which no code is run
    convert                     one model format to another, checked by running both
    limits                      what a foreign file may take: memory, work, time
    graph                       the network that a file becomes: a Module that runs, differentiates and trains
    onnx, caffe                 the formats themselves

Example:
    >>> import numpy as np, preimage as pre, tempfile
    >>> net = pre.nn.Sequential(pre.nn.Conv2d(3, 4, 3), pre.nn.ReLU())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pre.save_model(net, f"{folder}/net.onnx", example=np.zeros((1, 3, 8, 8), np.float32))
    ...     graph = pre.load_model(f"{folder}/net.onnx")
    >>> graph(np.ones((2, 3, 8, 8), np.float32)).shape
    (2, 4, 6, 6)
"""

from typing import TYPE_CHECKING, Any

from preimage.io.files import export, load_model, load_weights, optimise, save_model, save_weights
from preimage.locks import import_apart

#: The formats, which few processes need all of: imported when they are first asked for.
_LATER = frozenset(("caffe", "onnx", "torch"))

if not TYPE_CHECKING:  # a checker finds the modules themselves

    def __getattr__(name: str) -> Any:
        if name in _LATER:
            return import_apart(f"preimage.io.{name}")
        raise AttributeError(f"module 'preimage.io' has no attribute {name!r}")


__all__ = ["export", "load_model", "load_weights", "optimise", "save_model", "save_weights"]

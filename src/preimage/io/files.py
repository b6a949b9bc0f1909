"""Models, inputs and results as files: which reader or writer an ending means. Every file is written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from preimage.errors import FileFormatError, OptionError
from preimage.host import write_file
from preimage.io import graph as graphs
from preimage.io.content import kind_of_file
from preimage.io.graph import Graph
from preimage.io.weights import load_weights, read_npy, save_weights, weights_writer
from preimage.nn import Module
from preimage.typing import Accuracy

__all__ = [
    "export", "graph_arrays", "load_model", "load_weights", "model_writer", "optimise", "read_input", "save_model", "save_weights",
    "write_array",
]  # fmt: skip


def load_model(
    path: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    *,
    open_sizes: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> Graph:
    """The model of an ONNX file, a caffemodel, or a prototxt (with `weights`, a caffemodel or its HDF5 form), in evaluation mode.

    What the file is its content says, whatever its name. open_sizes: take inputs of other sizes than an ONNX file says.
    input_shapes: the sizes of inputs by name, where a file does not say them or others are wanted.

    Raises: FileFormatError for what is no model, and for damaged files.
    """
    if kind_of_file(path) == "onnx":
        from preimage.io import onnx

        if weights is not None:
            raise OptionError("an ONNX file holds its own weights; a weights file goes with a prototxt")
        graph = onnx.load(path, input_shapes=input_shapes, open_sizes=open_sizes)
    else:
        from preimage.io import caffe

        graph = caffe.load(path, weights, input_shapes={name: tuple(shape) for name, shape in (input_shapes or {}).items()})
    graph.train(False)
    return graph


def save_model(model: Module, path: str | os.PathLike[str], *, example: Any = None, overwrite: bool = True) -> None:
    """Write a graph: `.onnx`; nets that came from Caffe as `.caffemodel`, their description alone, as text, as `.prototxt`, or their weights
    alone as `.h5`;
    the weights as `.safetensors` or `.npz`.

    A Module of one's own is traced on `example`, an array of the input's shape, or a tuple of arrays, one for each argument of its forward; the
    batch size stays open.
    The file appears whole or not at all; overwrite=False refuses a place where one is.

    Raises: FileFormatError for other endings, and for what the format cannot say; OptionError for a Module that is no graph without an
    example; OutputError where the file cannot be written.
    """
    write_file(path, model_writer(_graph_of(model, example), path), overwrite=overwrite)


def export(model: Module, path: str | os.PathLike[str], example: Any = None, *, overwrite: bool = True) -> None:
    """`save_model`, by the name that torch.onnx gives it. Raises: as save_model."""
    save_model(model, path, example=example, overwrite=overwrite)


def optimise(model: Module, *, example: Any = None, accuracy: Accuracy | None = None) -> Graph:
    """The model rewritten for inference: constants folded, neighbours fused, layouts chosen; its weights are constants from then on.

    A Module of one's own is traced on `example` first (as in `save_model`). Runs of shapes that come again are one program of generated kernels.
    accuracy: of its convolutions, "exact" or "fast" (see `preimage.conv`); None leaves it to the setting of each run.

    Raises: OptionError for a Module that is no graph without an example, and for an accuracy that is none.

    Example:
        >>> import numpy as np, preimage as pre
        >>> net = pre.nn.Sequential(pre.nn.Conv2d(3, 4, 3), pre.nn.ReLU())
        >>> fast = pre.optimise(net, example=np.zeros((1, 3, 8, 8), np.float32))
        >>> [node.op for node in fast.nodes]
        ['conv']
    """
    graph = _graph_of(model, example)
    found = graphs.optimise(graph if not graph.training else graph.replaced().eval(), accuracy=accuracy)
    found.train(False)
    return found


def _graph_of(model: Module, example: Any) -> Graph:
    if isinstance(model, Graph):
        return model
    if not isinstance(model, Module):
        raise OptionError(f"a model is a Module or a Graph, got {type(model).__name__}")
    if example is None:
        raise OptionError("a Module is written by tracing its forward: give example=, an array of the input's shape")
    from preimage.io.onnx.tracing import trace

    return trace(model, example)


def model_writer(graph: Graph, path: str | os.PathLike[str]) -> Callable[[BinaryIO], object]:
    """The function that writes a graph to an open file, in the format that the ending of `path` means. Raises: as save_model."""
    ending = Path(path).suffix.lower()
    if ending == ".onnx":
        from preimage.io.onnx import export

        data = export.to_bytes(graph)
        return lambda file: file.write(data)
    if ending in (".caffemodel", ".prototxt", ".pbtxt", ".h5", ".hdf5") or str(path).lower().endswith(".prototxt.txt"):
        from preimage.io import caffe

        if not isinstance(graph, caffe.CaffeGraph):
            raise FileFormatError(f"only a net that came from Caffe is written as {ending}")
        return caffe.graph_writer(graph, path)
    if ending in (".safetensors", ".npz"):
        return weights_writer(graph_arrays(graph), ending)
    raise FileFormatError(f"{str(path)!r}: a model is written as .onnx, .caffemodel, .prototxt, .safetensors or .npz")


def graph_arrays(graph: Graph) -> dict[str, np.ndarray]:
    """Parameters and buffers of a graph, and of those inside its nodes, by name."""
    return {k: np.asarray(p.data) for k, p in graph.named_parameters()} | {k: np.asarray(v) for k, v in graph.named_buffers()}


def read_input(path: str | os.PathLike[str], *, channels: int = 3, size: tuple[int, int] | None = None, scale: float = 1.0,
               mean: tuple[float, ...] = (), bgr: bool = False) -> np.ndarray:  # fmt: skip
    """An array (N, C, ...) from a `.npy` file as it is, or from a picture.

    A picture becomes float32 (1, channels, H, W) with values 0..255: resized to `size` (H, W) if given, channels reversed
    with `bgr`, then (value - mean) * scale.

    Raises: FileFormatError for what is neither, or too large.
    """
    source = Path(path)
    if not source.is_file():
        raise FileFormatError(f"there is no file {str(path)!r}")
    if source.suffix.lower() == ".npy":
        return read_npy(source)
    if channels not in (1, 3):
        raise OptionError(f"the model takes {channels} channels, a picture has 1 or 3; give a .npy file")
    from preimage.io.pictures import read_pixels

    pixels = read_pixels(source, colour=channels == 3, size=size)
    array = pixels[None, None] if channels == 1 else np.moveaxis(pixels, -1, 0)[None]
    array = array[:, ::-1] if bgr else array
    if mean:
        if len(mean) not in (1, channels):
            raise OptionError(f"mean has {len(mean)} values for {channels} channels")
        array = array - np.asarray(mean, np.float32).reshape(1, -1, 1, 1)
    return np.ascontiguousarray(array * np.float32(scale))


def write_array(array: np.ndarray, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
    """An array as `.npy`, or as a `.png` picture: (1, 1 or 3, H, W); values 0..255, or 0..1 where none is larger.

    Raises: FileFormatError for other shapes and endings; OutputError where the file cannot be written.
    """
    ending = Path(path).suffix.lower()
    if ending == ".npy":
        write_file(path, lambda file: np.lib.format.write_array(file, array, allow_pickle=False), overwrite=overwrite)
        return
    if ending != ".png":
        raise FileFormatError(f"{str(path)!r}: a result is written as .npy or .png")
    picture = array[0] if array.ndim == 4 and array.shape[0] == 1 else array
    if picture.ndim == 3 and picture.shape[0] in (1, 3):
        picture = picture[0] if picture.shape[0] == 1 else np.moveaxis(picture, 0, -1)
    if picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[-1] != 3) or not picture.size:
        raise FileFormatError(f"a result of shape {array.shape} is no picture; write it as .npy")
    from preimage.io.pictures import encoded

    values = np.nan_to_num(picture.astype(np.float64))
    values = values * 255 if values.size and values.max() <= 1.0 else values
    write_file(path, encoded(np.clip(np.rint(values), 0, 255).astype(np.uint8)), overwrite=overwrite)

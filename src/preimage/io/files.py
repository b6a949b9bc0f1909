"""Models, inputs and results as files: which reader or writer an ending means. Every file is written beside its place, then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from preimage.errors import FileFormatError, OptionError
from preimage.io.content import kind_of_file
from preimage.io.graph import Graph

__all__ = ["load_model", "load_weights", "read_input", "replacing", "save_model", "save_weights", "write_array"]

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
#: Pixels of a picture that is read; Pillow's own limit against decompression bombs is of this size.
MAX_PIXELS = 200_000_000


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary place beside `path` to write to; renamed to `path` if the block ends well, removed if not."""
    target = Path(path)
    if not target.parent.is_dir():
        raise FileFormatError(f"there is no folder {str(target.parent)!r} to write {target.name!r} to")
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}-", suffix=target.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load_model(
    path: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    *,
    open_sizes: bool = False,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> Graph:
    """The model of an ONNX file, a caffemodel, or a prototxt (with `weights`, a caffemodel), in evaluation mode.

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


def save_model(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a graph: `.onnx`; nets that came from Caffe as `.caffemodel`, or their description alone, as text, as `.prototxt`;
    the weights as `.safetensors` or `.npz`.

    Raises: FileFormatError for other endings, and for what the format cannot say.
    """
    ending = Path(path).suffix.lower()
    if ending == ".onnx":
        from preimage.io.onnx import export

        export.save(graph, path)
    elif ending in (".caffemodel", ".prototxt", ".pbtxt") or str(path).lower().endswith(".prototxt.txt"):
        from preimage.io import caffe

        if not isinstance(graph, caffe.CaffeGraph):
            raise FileFormatError(f"only a net that came from Caffe is written as {ending}")
        caffe.save(graph, path)
    elif ending in (".safetensors", ".npz"):
        save_weights(graph_arrays(graph), path)
    else:
        raise FileFormatError(f"{str(path)!r}: a model is written as .onnx, .caffemodel, .prototxt, .safetensors or .npz")


def graph_arrays(graph: Graph) -> dict[str, np.ndarray]:
    """Parameters and buffers of a graph by name."""
    return {name: np.asarray(p.data) for name, p in graph.weights.items()} | {k: np.asarray(v) for k, v in graph.state.items()}


def save_weights(arrays: Mapping[str, Any], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
    """Named arrays as `.safetensors` or `.npz`."""
    plain = {name: np.ascontiguousarray(a).reshape(np.shape(a)) for name, a in arrays.items()}
    ending = Path(path).suffix.lower()
    with replacing(path) as place:
        if ending == ".safetensors":
            _safetensors().save_file(plain, str(place), dict(metadata or {}) or None)
        elif ending == ".npz":
            with place.open("wb") as file:
                np.savez(file, **plain)  # type: ignore[arg-type]
        else:
            raise FileFormatError(f"{str(path)!r}: weights are written as .safetensors or .npz")


def load_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Named arrays from `.safetensors` or `.npz`. No pickle is ever loaded.

    Raises: FileFormatError for a damaged file.
    """
    ending = Path(path).suffix.lower()
    if not Path(path).is_file():
        raise FileFormatError(f"there is no file {str(path)!r}")
    try:
        if ending == ".safetensors":
            return dict(_safetensors().load_file(str(path)))
        if ending == ".npz":
            with np.load(path, allow_pickle=False) as data:
                return {key: data[key] for key in data.files}
    except FileFormatError:
        raise
    except Exception as error:  # each library has its own
        raise FileFormatError(f"{str(path)!r} is damaged: {error}") from error
    raise FileFormatError(f"{str(path)!r}: weights are read from .safetensors or .npz")


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise FileFormatError("safetensors files need the package safetensors: pip install 'preimage[cli]'") from error
    return safetensors.numpy


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
        try:
            return np.asarray(np.load(source, allow_pickle=False))
        except (ValueError, EOFError, OSError) as error:
            raise FileFormatError(f"{str(path)!r} is no array file: {error}") from error
    if source.suffix.lower() not in IMAGE_ENDINGS:
        raise FileFormatError(f"{str(path)!r} is neither a .npy file nor a picture ({', '.join(IMAGE_ENDINGS)})")
    try:
        from PIL import Image
    except ImportError as error:
        raise FileFormatError("pictures need the package Pillow: pip install 'preimage[cli]'") from error
    if channels not in (1, 3):
        raise OptionError(f"the model takes {channels} channels, a picture has 1 or 3; give a .npy file")
    try:
        with Image.open(source) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise FileFormatError(f"{str(path)!r} has {picture.width} x {picture.height} pixels; the most is {MAX_PIXELS}")
            wide = picture.mode.startswith("I;16")
            eight = Image.fromarray((np.asarray(picture) / 257.0).astype(np.uint8)) if wide else picture
            plain = eight.convert("L" if channels == 1 else "RGB")
            if size is not None:
                plain = plain.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            pixels = np.asarray(plain, np.float32)
    except FileFormatError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds
        raise FileFormatError(f"{str(path)!r} is no picture that can be read: {error}") from error
    array = pixels[None, None] if channels == 1 else np.moveaxis(pixels, -1, 0)[None]
    array = array[:, ::-1] if bgr else array
    if mean:
        if len(mean) not in (1, channels):
            raise OptionError(f"mean has {len(mean)} values for {channels} channels")
        array = array - np.asarray(mean, np.float32).reshape(1, -1, 1, 1)
    return np.ascontiguousarray(array * np.float32(scale))


def write_array(array: np.ndarray, path: str | os.PathLike[str]) -> None:
    """An array as `.npy`, or as a `.png` picture: (1, 1 or 3, H, W); values 0..255, or 0..1 where none is larger.

    Raises: FileFormatError for other shapes and endings.
    """
    ending = Path(path).suffix.lower()
    if ending == ".npy":
        with replacing(path) as place, place.open("wb") as file:
            np.save(file, array)
        return
    if ending != ".png":
        raise FileFormatError(f"{str(path)!r}: a result is written as .npy or .png")
    picture = array[0] if array.ndim == 4 and array.shape[0] == 1 else array
    if picture.ndim == 3 and picture.shape[0] in (1, 3):
        picture = picture[0] if picture.shape[0] == 1 else np.moveaxis(picture, 0, -1)
    if picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[-1] != 3):
        raise FileFormatError(f"a result of shape {array.shape} is no picture; write it as .npy")
    from PIL import Image

    values = np.nan_to_num(picture.astype(np.float64))
    values = values * 255 if values.size and values.max() <= 1.0 else values
    with replacing(path) as place:
        Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).save(place)

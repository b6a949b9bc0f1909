"""Reading an ONNX file into plain data, with every doubt settled before anything runs.

`wire` parses the protobuf; what it gives is not trusted: sizes are checked against the bytes that are there,
external data only from the model's own folder, graph attributes and unknown types are refused by name.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
from collections.abc import Sequence
from dataclasses import field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from preimage.errors import FileFormatError
from preimage.io import limits
from preimage.io.onnx.expansion import defined, has_strangers
from preimage.io.onnx.functions import inlined
from preimage.io.onnx.wire import parse_model
from preimage.records import record

__all__ = ["OnnxGraph", "OnnxModel", "OnnxNode", "OnnxValue", "read_model", "require_onnx", "text_array"]

#: Graphs inside nodes inside graphs, at most.
MAX_DEPTH = 16
#: protobuf itself reads no larger message.
MAX_FILE_BYTES = 2**31 - 1
OPSETS = range(1, 29)

CODES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
#: The ONNX data type of strings, which are looked up and compared, and nothing else; arrays of NumPy's dtype str.
STRING = 8
#: The metadata of our own files that lists which stored arrays are trained.
PARAMETERS = "preimage.parameters"
#: TensorProto field that holds the values of each type when raw_data does not.
_FIELDS = {
    "float32": "float_data", "float64": "double_data", "int64": "int64_data", "uint64": "uint64_data", "uint32": "uint64_data",
}  # fmt: skip


@record
class OnnxNode:
    """One node: attributes as Python values (tensors as arrays)."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


@record
class OnnxValue:
    """A graph input or output: shape entries are integers, or a name (or None) where the size is open."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@record
class OnnxGraph:
    """A graph inside a node (a branch of If, the body of Loop or Scan), as plain data. It may take values of the graphs around it by name."""

    name: str
    nodes: tuple[OnnxNode, ...]
    inputs: tuple[OnnxValue, ...]
    outputs: tuple[OnnxValue, ...]
    initializers: dict[str, np.ndarray]


@record
class OnnxModel:
    """A model as plain data."""

    name: str
    opset: int
    nodes: tuple[OnnxNode, ...]
    inputs: tuple[OnnxValue, ...]
    outputs: tuple[OnnxValue, ...]
    initializers: dict[str, np.ndarray]
    metadata: dict[str, str] = field(default_factory=dict)


def require_onnx(what: str = "writing ONNX files") -> Any:
    """The package onnx.

    Raises: FileFormatError that names the extra to install where it is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise FileFormatError(f"{what} needs the package onnx: pip install 'preimage[onnx]'") from error
    return onnx


def dtype_of(code: int, where: str) -> np.dtype[Any]:
    """The NumPy dtype of a TensorProto data type.

    Raises: FileFormatError for strings, complex numbers, 8-bit and 4-bit floats.
    """
    name = CODES.get(code)
    if name is None:
        raise FileFormatError(
            f"{where} has the ONNX data type {code}, which is not supported; there are {', '.join(CODES.values())}"
        )
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError as error:
            raise FileFormatError(
                f"{where} is bfloat16: that needs the package ml_dtypes: pip install 'preimage[bfloat16]'"
            ) from error
        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)


def _external_bytes(tensor: Any, folder: Path | None, where: str, count: int) -> bytes:
    """The bytes of a tensor that lies in a file beside the model.

    Raises: FileFormatError for a place outside the model's folder, a link, a missing or too short file.
    """
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise FileFormatError(f"{where} has external data ({location!r}), but the model was not read from a folder")
    pure = Path(location)
    if not location or "\0" in location or pure.is_absolute() or pure.drive or ".." in pure.parts or "\\" in location:
        raise FileFormatError(f"{where} has its data at {location!r}: only files in the model's own folder are read")
    inside = os.path.realpath(folder / pure)
    if not _belongs(inside, folder) or not os.path.isfile(inside):
        raise FileFormatError(f"{where} has its data at {location!r}: no such file in the model's own folder")
    try:
        offset, length = int(entries.get("offset", "0") or 0), int(entries.get("length", "0") or 0)
    except ValueError:
        raise FileFormatError(f"{where}: external data offset or length is no number") from None
    length = length or count
    if offset < 0 or length != count or offset + length > os.path.getsize(inside):
        raise FileFormatError(f"{where}: external data {location!r} holds no {count} bytes at {offset}")
    with open(inside, "rb") as file:
        file.seek(offset)
        return file.read(length)


def _belongs(place: str, folder: Path) -> bool:
    """Whether a file, links resolved, lies in the model's folder, or in the store of a Hugging Face cache that the folder is part of."""
    real = os.path.realpath(folder)
    if os.path.commonpath([place, real]) == real:
        return True
    blobs = _hub_blobs(folder)
    return blobs is not None and os.path.dirname(place) == blobs


def _hub_blobs(folder: Path) -> str | None:
    """Where the files of a Hugging Face cache lie: REPOSITORY/snapshots/REVISION/... holds links to REPOSITORY/blobs/HASH."""
    for part in (folder, *folder.parents):
        if part.parent.name == "snapshots":
            blobs = part.parent.parent / "blobs"
            return os.path.realpath(blobs) if blobs.is_dir() else None
    return None


def _data_folder(path: Path) -> Path:
    """The folder that external data are named from: the real file's, or in a Hugging Face cache that of the link."""
    linked, real = Path(os.path.abspath(path)).parent, path.resolve().parent
    return linked if str(real) == _hub_blobs(linked) else real


def to_array(tensor: Any, folder: Path | None = None, where: str = "a tensor") -> np.ndarray:
    """A TensorProto as an array of its own.

    Raises: FileFormatError where the data do not fill the shape.
    """
    where = f"{where} {tensor.name!r}" if tensor.name else where
    shape = tuple(int(d) for d in tensor.dims)
    if any(d < 0 for d in shape) or len(shape) > 32:
        raise FileFormatError(f"{where} has the shape {shape}")
    if tensor.data_type == STRING:
        if prod(shape) != len(tensor.string_data):
            raise FileFormatError(f"{where} of shape {shape} needs {prod(shape)} strings, the file has {len(tensor.string_data)}")
        return text_array([_utf8(v) for v in tensor.string_data], where).reshape(shape)
    dtype = dtype_of(tensor.data_type, where)
    if tensor.HasField("segment"):
        raise FileFormatError(f"{where} is stored in segments, which is not supported")
    count = prod(shape)
    size = count * dtype.itemsize
    if tensor.data_location == 1 or tensor.external_data:
        if size > MAX_FILE_BYTES * 16:
            raise FileFormatError(f"{where} of shape {shape} is too large")
        raw = _external_bytes(tensor, folder, where, size)
    elif tensor.HasField("raw_data"):
        raw = tensor.raw_data
    else:
        return _typed_data(tensor, dtype, shape, count, where)
    if len(raw) != size:
        raise FileFormatError(f"{where} of shape {shape} and {dtype} needs {size} bytes, the file has {len(raw)}")
    found = np.frombuffer(raw, dtype.newbyteorder("<") if dtype.name != "bfloat16" else dtype).reshape(shape).astype(dtype)
    if isinstance(raw, memoryview) and size >= mmap.PAGESIZE:
        tensor.raw_data = b""  # so that nobody reads it again
        _give_back(raw)
    return found


def _utf8(value: Any) -> str:
    return bytes(value).decode("utf-8", "replace")


def text_array(values: Sequence[str], where: str) -> np.ndarray:
    """Strings as an array; each takes as much room as the longest. Raises: FileFormatError where that is more than is allowed."""
    limits.check_bytes(4 * len(values) * max(map(len, values), default=0), f"{where}: its strings, each as long as the longest,")
    return np.array(values, str)


def _typed_data(tensor: Any, dtype: np.dtype[Any], shape: tuple[int, ...], count: int, where: str) -> np.ndarray:
    values = getattr(tensor, _FIELDS.get(dtype.name, "int32_data"))
    if len(values) != count:
        raise FileFormatError(f"{where} of shape {shape} needs {count} values, the file has {len(values)}")
    if dtype.name in ("float16", "bfloat16"):  # stored as the bits, in 32-bit integers
        return (np.array(values, np.int64) & 0xFFFF).astype(np.uint16).view(dtype).reshape(shape)
    return np.array(values).astype(dtype).reshape(shape)


def _attribute(attribute: Any, folder: Path | None, where: str, depth: int) -> Any:
    kind = attribute.type
    where = f"{where}, attribute {attribute.name!r}"
    if attribute.ref_attr_name:
        raise FileFormatError(f"{where} refers to a function's attribute, which is not supported outside functions")
    if kind == 1:
        return float(attribute.f)
    if kind == 2:
        return int(attribute.i)
    if kind == 3:
        return _utf8(attribute.s)
    if kind == 4:
        return to_array(attribute.t, folder, where)
    if kind == 5:
        return _graph(attribute.g, folder, where, depth + 1)
    if kind == 6:
        return [float(v) for v in attribute.floats]
    if kind == 7:
        return [int(v) for v in attribute.ints]
    if kind == 8:
        return [_utf8(v) for v in attribute.strings]
    return NotImplemented  # a type, a sparse tensor, several graphs: the op that has one is refused with all the others


def _text(value: Any) -> str:
    """A protobuf string; damaged ones come as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _value(info: Any) -> OnnxValue:
    tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not tensor.elem_type:
        return OnnxValue(info.name, "", None)
    dtype = "str" if tensor.elem_type == STRING else CODES.get(tensor.elem_type, "")
    if not tensor.HasField("shape"):
        return OnnxValue(info.name, dtype, None)
    if len(tensor.shape.dim) > 32:
        raise FileFormatError(f"input {info.name!r} has {len(tensor.shape.dim)} axes")
    shape: list[int | str | None] = []
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            shape.append(int(dim.dim_value))
        else:
            shape.append(dim.dim_param or None)
    return OnnxValue(info.name, dtype, tuple(shape))


def read_model(source: Any) -> OnnxModel:
    """An ONNX model from a path, its bytes, or a ModelProto, as plain data.

    Raises: FileFormatError for what is no ONNX model, an opset outside 1 to 28, or damaged tensors.
    """
    folder: Path | None = None
    label = "the model"
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.is_file():
            raise FileFormatError(f"there is no file {str(path)!r}")
        label = str(path)
        try:
            folder, source = _data_folder(path), _file_bytes(path)
        except OSError as error:
            raise FileFormatError(f"{label} cannot be read: {error.strerror}") from None
    if isinstance(source, (bytes, bytearray, memoryview)):
        source = _parsed(memoryview(source).cast("B"), label)
    return _plain(source, folder, label)


def _file_bytes(path: Path) -> memoryview:
    """What a file holds, in pages of its own: those of each array are given back when it was read."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_FILE_BYTES:
            raise FileFormatError(f"{str(path)!r} has {size} bytes; an ONNX file has at most {MAX_FILE_BYTES}")
        limits.check_bytes(2 * size, f"{path}: its bytes and its arrays")
        if not size:
            return memoryview(b"")
        own = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
        pages = memoryview(mmap.mmap(-1, size, **own))
        return pages[: file.readinto(pages)]  # it may have become shorter


def _parsed(data: memoryview, label: str) -> Any:
    """The ModelProto. Functions, of the model's own or ONNX's definitions of operators, are put in the place of their calls by the package onnx,
    which then reads all.
    """
    try:
        proto = parse_model(data)
    except FileFormatError as error:
        raise FileFormatError(f"{label} is no ONNX model: {error}") from None
    if not proto.functions and not (has_strangers(proto) and importlib.util.find_spec("onnx")):
        return proto
    proto = require_onnx("a model that defines functions").ModelProto()
    try:
        proto.ParseFromString(bytes(data))
    except Exception as error:  # protobuf's DecodeError, of the package's own making
        raise FileFormatError(f"{label} is no ONNX model: {type(error).__name__}") from error
    return proto


def _give_back(data: memoryview) -> None:
    """The whole pages of a part of a file that nobody will look at again."""
    pages = data.obj
    if not isinstance(pages, mmap.mmap) or not hasattr(pages, "madvise"):
        return
    begin = np.frombuffer(data, np.uint8).ctypes.data - np.frombuffer(pages, np.uint8).ctypes.data
    first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
    count = (begin + len(data) - first) // mmap.PAGESIZE
    if count > 0:
        pages.madvise(mmap.MADV_DONTNEED, first, count * mmap.PAGESIZE)


def _declared_bytes(graph: Any) -> int:
    """What the stored arrays of a model take, as it says; a file of a few bytes can name a sparse file of any size beside it."""
    attributes = [a for node in graph.node for a in node.attribute]
    total = sum(_declared_bytes(a.g) for a in attributes if a.type == 5)
    for tensor in (*graph.initializer, *(a.t for a in attributes if a.type == 4)):
        name = CODES.get(tensor.data_type, "float32")  # others are refused by name later
        total += prod(max(int(d), 0) for d in tensor.dims) * (2 if name == "bfloat16" else np.dtype(name).itemsize)
    return total


def _plain(proto: Any, folder: Path | None, label: str) -> OnnxModel:
    oldest = 1 <= int(proto.ir_version) < 3  # before files named an opset
    if not proto.HasField("graph") or not (proto.opset_import or oldest):
        raise FileFormatError(f"{label} is no ONNX model: it holds no graph and no opset")
    versions = [int(entry.version) for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    opset = (
        versions[-1] if versions else OPSETS.start if oldest else OPSETS.stop - 1
    )  # a model of other domains alone names no opset
    if opset not in OPSETS:
        raise FileFormatError(f"{label} uses opset {opset}; supported are {OPSETS.start} to {OPSETS.stop - 1}")
    proto = defined(inlined(proto, label), label)
    graph = proto.graph
    limits.check_bytes(_declared_bytes(graph), f"{label}: its arrays")
    read = _graph(graph, folder, label, 0)
    metadata = {p.key: p.value for p in proto.metadata_props}
    return OnnxModel(read.name, opset, read.nodes, read.inputs, read.outputs, read.initializers, metadata)


def _graph(graph: Any, folder: Path | None, label: str, depth: int) -> OnnxGraph:
    if depth > MAX_DEPTH:
        raise FileFormatError(f"{label}: graphs inside graphs to a depth of more than {MAX_DEPTH}")
    if graph.sparse_initializer:
        raise FileFormatError(f"{label} holds sparse initializers, which is not supported")
    initializers: dict[str, np.ndarray] = {}
    for tensor in graph.initializer:
        if tensor.name in initializers:
            raise FileFormatError(f"{label} holds two initializers called {tensor.name!r}")
        initializers[tensor.name] = to_array(tensor, folder, "initializer")
    nodes = []
    for position, node in enumerate(graph.node):
        kind, domain = _text(node.op_type), _text(node.domain)
        name = _text(node.name) or f"{kind}_{position}"
        op = kind if domain in ("", "ai.onnx") else f"{domain}::{kind}"
        attributes = {_text(a.name): _attribute(a, folder, f"node {name!r} ({op})", depth) for a in node.attribute}
        nodes.append(OnnxNode(name, op, tuple(map(_text, node.input)), tuple(map(_text, node.output)), attributes))
    inputs = tuple(_value(v) for v in graph.input if v.name not in initializers)
    return OnnxGraph(graph.name, tuple(nodes), inputs, tuple(_value(v) for v in graph.output), initializers)

"""What a model file is, judged by its content: its ending is only a hint where the content leaves it open."""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path
from typing import Any

from preimage.errors import FileFormatError
from preimage.io import wire

__all__ = ["is_text_net", "kind_of", "kind_of_file"]

_HEAD = 1 << 16
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_ENDINGS = {".onnx": "onnx", ".caffemodel": "caffemodel", ".prototxt": "prototxt", ".pbtxt": "prototxt", ".txt": "prototxt"}


def kind_of_file(path: str | os.PathLike[str]) -> str:
    """ "onnx", "caffemodel" (binary) or "prototxt" (text).

    Raises: FileFormatError for a file that cannot be read, or is no model by content and ending.
    """
    place = Path(path)
    if not place.is_file():
        raise FileFormatError(f"there is no file {str(place)!r}")
    try:
        with place.open("rb") as file:
            kind = None
            if os.fstat(file.fileno()).st_size:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view, memoryview(view) as data:
                    kind = kind_of(data)
    except OSError as error:
        raise FileFormatError(f"{str(place)!r} cannot be read: {error.strerror or error}") from None
    except FileFormatError as error:
        raise FileFormatError(f"{str(place)!r} {error}") from None
    kind = kind or _ENDINGS.get(place.suffix.lower())
    if kind is None:
        raise FileFormatError(f"{str(place)!r} is no model by its content, and its ending is none of {', '.join(_ENDINGS)}")
    return kind


def kind_of(data: Any) -> str | None:
    """ "onnx", "caffemodel" or "prototxt" where the bytes leave no doubt, else None (empty, damaged, something else).

    Raises: FileFormatError for a Git LFS pointer, which only names the file that is meant.
    """
    head = bytes(data[:_HEAD])
    if head.startswith(b"version https://git-lfs"):
        raise FileFormatError("is a Git LFS pointer, not the model itself: fetch the model with `git lfs pull`")
    seen = _top_level(memoryview(data))
    if {(1, wire.VARINT), (7, wire.BYTES)} <= seen or {(7, wire.BYTES), (8, wire.BYTES)} <= seen:  # version, graph, opsets
        return "onnx"
    if seen and seen <= _net_fields():
        return "caffemodel"
    bare = re.sub(rb"#[^\n\r]*", b"", head.removeprefix(b"\xef\xbb\xbf"))
    if head and not _CONTROL.search(bare) and re.match(rb"\s*(?:[A-Za-z_]|$)", bare):
        return "prototxt"
    return None


def is_text_net(data: bytes, ending: str) -> bool:
    """Whether a Caffe net is text; `ending` decides where the content does not.

    Raises: FileFormatError for an ONNX model.
    """
    kind = kind_of(data)
    if kind == "onnx":
        raise FileFormatError("is an ONNX model, no Caffe net")
    return (kind or _ENDINGS.get(ending.lower())) == "prototxt"


def _net_fields() -> set[tuple[int, int]]:
    """Numbers and wire types of the fields of a Caffe net."""
    from preimage.io.caffe.schema import message_numbers  # that package imports this module

    fields = message_numbers("NetParameter").items()
    return {(number, wire.BYTES if field.kind in ("string", "message") else wire.VARINT) for number, field in fields}


def _top_level(data: memoryview) -> set[tuple[int, int]]:
    """Numbers and wire types of a message's own fields; none where the bytes are no whole message."""
    try:
        return {(number, kind) for number, kind, _, _, _ in wire.fields(data, 0, len(data))}
    except FileFormatError:
        return set()

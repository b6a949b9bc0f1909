"""Which model format some bytes hold: Caffe's text, Caffe's messages or ONNX's."""

from __future__ import annotations

import re
from typing import Any

from preimage.errors import FileFormatError
from preimage.io import protobuf
from preimage.io.caffe.wire.schema import message_numbers

__all__ = ["ENDINGS", "is_text_net", "kind_of", "marked_encoding"]

_HEAD = 1 << 16
# The byte order marks of texts; UTF-32's little-endian one begins with UTF-16's, so it stands first.
_MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
#: What a file's ending says, where its content leaves it open.
ENDINGS = {".onnx": "onnx", ".caffemodel": "caffemodel", ".prototxt": "prototxt", ".pbtxt": "prototxt", ".txt": "prototxt"}


def marked_encoding(data: Any) -> str | None:
    """ "utf-16" or "utf-32" for a text that begins with the mark of one, else None."""
    head = bytes(data[:4])
    return next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), None)


def kind_of(data: Any) -> str | None:
    """ "onnx", "caffemodel" or "prototxt" where the bytes leave no doubt, else None (empty, damaged, something else).

    Raises: FileFormatError for a Git LFS pointer, which only names the file that is meant.
    """
    head = bytes(data[:_HEAD])
    if head.startswith(b"version https://git-lfs"):
        raise FileFormatError("is a Git LFS pointer, not the model itself: fetch the model with `git lfs pull`")
    if encoding := marked_encoding(head):  # no message begins so
        head = head.decode(encoding, "ignore").encode("utf-8", "ignore")
    seen = _top_level(memoryview(data))
    if {(1, protobuf.VARINT), (7, protobuf.BYTES)} <= seen or {
        (7, protobuf.BYTES),
        (8, protobuf.BYTES),
    } <= seen:  # version, graph, opsets
        return "onnx"
    if seen and seen <= _net_fields():
        return "caffemodel"
    bare = re.sub(rb"#[^\n\r]*", b"", head.removeprefix(b"\xef\xbb\xbf").replace(b"\xc2\xa0", b" "))
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
    return (kind or ENDINGS.get(ending.lower())) == "prototxt"


def _net_fields() -> set[tuple[int, int]]:
    """Numbers and wire types of the fields of a Caffe net."""
    fields = message_numbers("NetParameter").items()
    return {(number, protobuf.BYTES if field.kind in ("string", "message") else protobuf.VARINT) for number, field in fields}


def _top_level(data: memoryview) -> set[tuple[int, int]]:
    """Numbers and wire types of a message's own fields; none where the bytes are no whole message."""
    try:
        return {(number, kind) for number, kind, _, _, _ in protobuf.fields(data, 0, len(data))}
    except FileFormatError:
        return set()

"""What a model file is, judged by its content: its ending is only a hint where the content leaves it open."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from preimage.errors import FileFormatError

__all__ = ["kind_of_file"]


def kind_of_file(path: str | os.PathLike[str]) -> str:
    """ "onnx", "caffemodel" (binary) or "prototxt" (text).

    Raises: FileFormatError for a file that cannot be read, or is no model by content and ending.
    """
    from preimage.io.caffe.wire.detect import ENDINGS, kind_of  # with it comes all of io.caffe

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
    kind = kind or ENDINGS.get(place.suffix.lower())
    if kind is None:
        raise FileFormatError(f"{str(place)!r} is no model by its content, and its ending is none of {', '.join(ENDINGS)}")
    return kind

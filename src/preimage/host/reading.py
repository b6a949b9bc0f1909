"""Reading files that others made: regular files only, of a bounded size, with errors that name them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from preimage.errors import FileFormatError

__all__ = ["read_bytes", "read_json"]

#: A description as text (JSON, a list of cases) is never larger.
MOST_JSON_BYTES = 256 << 20


def read_bytes(path: str | os.PathLike[str], most: int) -> bytes:
    """The bytes of a regular file of at most `most` bytes.

    Raises: FileFormatError for a file that is missing, may not be read, is a folder, a pipe or a device (which could give data
    for ever), or is larger.
    """
    said = os.fspath(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
                raise FileFormatError(f"{said}: is {kind}, not a file")
            if status.st_size > most:
                raise FileFormatError(f"{said}: has {status.st_size} bytes; the most is {most}")
            data = file.read(most + 1)
    except FileNotFoundError:
        raise FileFormatError(f"{said}: there is no such file") from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise FileFormatError(f"{said}: cannot be read: {reason}") from None
    if len(data) > most:
        raise FileFormatError(f"{said}: has more than {most} bytes")
    return data


def read_json(path: str | os.PathLike[str], most: int = MOST_JSON_BYTES) -> Any:
    """What a JSON file holds.

    Raises: FileFormatError as read_bytes, and for what is no UTF-8 or no JSON, with the place.
    """
    data = read_bytes(path, most)
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{Path(path)}: is no UTF-8 text (byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        reason = "is nested too deeply" if isinstance(error, RecursionError) else f"is no JSON: {error}"
        raise FileFormatError(f"{Path(path)}: {reason}") from None

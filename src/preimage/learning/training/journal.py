"""What a run measured, a line of JSON for each step: `metrics.jsonl`.

Lines are added one by one. A run that is killed may leave half a line, or lines of steps after its last checkpoint; when it goes on, these go.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, BinaryIO

from preimage.errors import FileFormatError
from preimage.host import read_bytes, write_file
from preimage.host.writing import failed

__all__ = ["NAME", "Journal", "read_journal"]

NAME = "metrics.jsonl"
MOST_BYTES = 1 << 30
_ODD = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
Entry = dict[str, Any]


def read_journal(path: str | os.PathLike[str], until: int | None = None) -> list[Entry]:
    """The entries of a journal up to a step; half a line at the end is left out. Raises: FileFormatError that names the line."""
    entries: list[Entry] = []
    lines = read_bytes(path, MOST_BYTES).split(b"\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            entry = json.loads(line)
            entry = {str(k): _ODD.get(v, v) if isinstance(v, str) else v for k, v in entry.items()}
            step = int(entry["step"])
        except (ValueError, TypeError, KeyError, AttributeError):
            raise FileFormatError(f"{Path(path)}: line {number} is no entry of a run: {line[:60]!r}") from None
        if until is None or step <= until:
            entries.append(entry)
    return entries


class Journal:
    """The file of a run that is under way, from a step on: what stands in it after that step goes."""

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / NAME
        self.entries = read_journal(self.path, step) if self.path.is_file() and step else []
        write_file(self.path, "".join(map(_line, self.entries)))
        with failed(self.path):
            self._file: BinaryIO | None = open(self.path, "ab", buffering=0)  # noqa: SIM115 - it is open as long as the run

    def add(self, entry: Entry) -> None:
        """One more line. Raises: OutputError on a full disk."""
        self.entries.append(entry)
        if self._file is not None:
            with failed(self.path):
                self._file.write(_line(entry).encode())

    def close(self) -> None:
        """Bring it to the disk."""
        file, self._file = self._file, None
        if file is not None:
            with file, failed(self.path):
                os.fsync(file.fileno())


def _line(entry: Entry) -> str:
    plain = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
    return json.dumps(plain, allow_nan=False) + "\n"

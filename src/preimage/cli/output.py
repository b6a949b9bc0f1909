"""What a command writes: the folder of results, single files, and names for results that do not take each other's place."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from preimage.errors import OptionError, OutputError
from preimage.host import printable
from preimage.host.folders import NewFolder
from preimage.host.writing import check_writable

__all__ = ["OutputFolder", "Results", "check_outputs", "free_name", "say_progress", "unique_names"]

#: Lies in every folder that we wrote: only such a folder is ever replaced.
MARK = "metrics.json"


def check_outputs(*paths: Path | None, overwrite: bool) -> None:
    """Refuse, before the work, files that could not be written after it, are there already, or are the same one.

    Raises: OutputError, OptionError.
    """
    seen: dict[str, Path] = {}
    for path in paths:
        if path is None:
            continue
        other = seen.setdefault(os.path.realpath(path), path)
        if other is not path:
            raise OptionError(f"{path}: is named twice, so one result would take the other's place")
        check_writable(path, overwrite=overwrite)


def say_progress(text: str, status: Any) -> None:
    """How far a long command has come: in its line on a terminal, else as a line on the standard error."""
    if sys.stderr.isatty() and sys.stdout.isatty():
        status.update(printable(text))
    else:
        print(printable(text), file=sys.stderr, flush=True)


def unique_names(names: Iterable[str]) -> list[str]:
    """Each name with letters, digits, dashes and underscores alone; a name that is there already gets -2, -3, ...

    Small and large letters count as the same: on some disks they are.
    """
    taken: set[str] = set()
    result = []
    for name in names:
        base = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:100] or "unnamed"
        unique, n = base, 2
        while unique.casefold() in taken:
            unique, n = f"{base}-{n}", n + 1
        taken.add(unique.casefold())
        result.append(unique)
    return result


class Results:
    """The files of `preimage run`: one for every input and output of the model, each under a name of its own.

    All names are known, and refused where one is there already, before the model runs.

    Raises: OutputError.
    """

    def __init__(self, folder: Path, inputs: Sequence[str], outputs: Sequence[str], overwrite: bool) -> None:
        self.folder, self.outputs, self.overwrite, self.written = folder, tuple(outputs), overwrite, 0
        self._inputs, self._inputs_plain = unique_names(inputs), list(inputs)
        self._outputs = unique_names(outputs)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be made: {error.strerror or error}") from None
        places = [self._place(i, k, ending) for i in range(len(inputs)) for k in range(len(outputs)) for ending in ("npy", "png")]
        if not overwrite and (there := [str(p) for p in places if p.exists()]):
            more = f" and {len(there) - 1} more" if len(there) > 1 else ""
            raise OutputError(f"{there[0]}{more}: there already; add --overwrite to replace them, or choose another --output")
        check_writable(places[0], overwrite=True)

    def _place(self, number: int, output: int, ending: str) -> Path:
        return self.folder / f"{self._inputs[number]}.{self._outputs[output]}.{ending}"

    def write(self, number: int, output: int, value: Any, png: bool) -> None:
        """Write one result: a picture where that is wanted and possible, else an array."""
        from preimage.io.files import write_array

        picture = png and value.ndim == 4 and value.shape[0] == 1 and value.shape[1] in (1, 3) and value.size
        ending, other = ("png", "npy") if picture else ("npy", "png")
        write_array(value, self._place(number, output, ending), overwrite=self.overwrite)
        if self.overwrite:  # a result of an earlier run would lie beside this one, and be taken for it
            self._place(number, output, other).unlink(missing_ok=True)
        self.written += 1

    def renamed(self, inputs: Sequence[Path]) -> Iterator[tuple[str, Path, str]]:
        """(file, input, output) wherever a file's name does not say by itself what it is of."""
        for i, k in product(range(len(inputs)), range(len(self.outputs))):
            if (self._inputs[i], self._outputs[k]) != (self._inputs_plain[i], self.outputs[k]):
                yield f"{self._inputs[i]}.{self._outputs[k]}", inputs[i], self.outputs[k]


def free_name(stem: str) -> Path:
    """The folder `stem` in the current one, or stem-2, stem-3, ...: the first that is not there."""
    path, n = Path(stem), 2
    while path.exists():
        path, n = Path(f"{stem}-{n}"), n + 1
    return path


class OutputFolder:
    """Where results go. `folder` is a temporary one beside `place`; `finish` moves it there in one step.

    An existing place is refused at once, unless `overwrite` is given and it is empty or holds our own results; it is replaced
    only when the new one is whole. Without `finish` nothing is left behind.

    Raises: OptionError, OutputError with the reason why the place cannot be used.
    """

    def __init__(self, place: Path, overwrite: bool) -> None:
        self.place = place
        try:
            _check(place, overwrite)
        except OSError as error:
            raise OutputError(f"{place}: cannot be written there: {error.strerror or error}") from None
        self._new = NewFolder(place)
        self.folder = self._new.path

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self._new.close()

    def finish(self) -> None:
        """Move the folder to its place; what was there goes once the new one stands."""
        self._new.finish()


def _check(place: Path, overwrite: bool) -> None:
    if not place.name or "\0" in str(place):
        raise OptionError(f"{place}: names no folder that could be made")
    if place.is_symlink():
        raise OptionError(f"{place}: is a link; name the folder itself")
    if place.exists():
        if not place.is_dir():
            raise OptionError(f"{place}: is a file, not a folder")
        ours = (place / MARK).is_file() or not any(place.iterdir())
        if not overwrite and any(place.iterdir()):
            raise OptionError(f"{place}: is there already; add --overwrite to replace it, or choose another --output")
        if not ours:
            raise OptionError(f"{place}: holds files that are not ours (no {MARK}), so it is not replaced")

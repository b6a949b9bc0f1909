"""The folder that a command writes: made beside its place under another name, and moved there when it is whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from preimage.errors import OptionError

__all__ = ["OutputFolder", "free_name"]

#: Lies in every folder that we wrote: only such a folder is ever replaced.
MARK = "metrics.json"


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

    Raises: OptionError with the reason why the place cannot be used.
    """

    def __init__(self, place: Path, overwrite: bool) -> None:
        self.place = place
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
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
        except OSError as error:
            raise OptionError(f"{place}: cannot be written there: {error.strerror or error}") from None

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def finish(self) -> None:
        """Move the folder to its place; what was there goes once the new one stands."""
        mask = os.umask(0)
        os.umask(mask)
        self.folder.chmod(0o777 & ~mask)
        if not self.place.exists():
            self.folder.rename(self.place)
            return
        old = Path(tempfile.mkdtemp(prefix=f".{self.place.name}-old-", dir=self.place.parent))
        old.rmdir()
        self.place.rename(old)
        try:
            self.folder.rename(self.place)
        except OSError:
            old.rename(self.place)
            raise
        shutil.rmtree(old, ignore_errors=True)

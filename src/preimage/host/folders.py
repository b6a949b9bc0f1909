"""A folder of results that appears whole or not at all: made beside its place under another name, and moved there when it is complete."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import sys
from contextlib import suppress
from pathlib import Path

from preimage.errors import OutputError
from preimage.host.writing import failed, locked, still_there, sync_folder, temporary_names

__all__ = ["NewFolder"]

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class NewFolder:
    """`path` is a temporary folder beside `place`; `finish` moves it there in one step, `close` removes what is left of it.

    A folder that is at `place` changes places with the new one and is then removed, so at every moment a whole one is there.
    Folders that killed writers left are removed by the next one. Raises: OutputError.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        with failed(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            self.path, lock = _create(place)
        self._locks = [] if lock is None else [lock]
        self._remains = True

    def finish(self) -> None:
        """Give the folder its name."""
        with failed(self.place):
            for folder, _, files in os.walk(self.path, topdown=False):
                for name in files:
                    _sync(Path(folder, name))
                sync_folder(Path(folder))
            if os.path.lexists(self.place):
                old = _open(self.place)
                if old is not None:
                    locked(old)  # it gets the temporary's name, which no other writer may take before it is gone
                    self._locks.append(old)
                _exchange(self.path, self.place)
            else:
                os.rename(self.path, self.place)
                self._remains = False
            sync_folder(self.place.parent)

    def close(self) -> None:
        """Remove what has not got its name, or has lost it."""
        if self._remains:
            shutil.rmtree(self.path, ignore_errors=True)
        while self._locks:
            os.close(self._locks.pop())


def _create(place: Path) -> tuple[Path, int | None]:
    """A new, locked folder; those of killed writers are removed on the way to a free name."""
    for name in temporary_names(place.name):
        path = place.with_name(name)
        for _ in range(3):
            try:
                os.mkdir(path)  # with the permissions of the umask
            except FileExistsError:
                if _remove_stale(path):
                    continue
                break
            descriptor = _open(path)
            if descriptor is None:
                return path, None
            if locked(descriptor) is not False and still_there(descriptor, path):
                return path, descriptor
            os.close(descriptor)
    raise OutputError(f"{place}: too many other writers are at work on it")


def _remove_stale(path: Path) -> bool:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return True
    if not stat.S_ISDIR(status.st_mode) or (hasattr(os, "geteuid") and status.st_uid != os.geteuid()):
        return False
    descriptor = _open(path)
    if descriptor is None:
        return False
    try:
        if not locked(descriptor) or not still_there(descriptor, path):
            return False
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(descriptor)
    return not os.path.lexists(path)


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None


def _sync(path: Path) -> None:
    """Bring a file to the disk. Those of `write_file` are there already; this costs nothing for them."""
    with suppress(PermissionError):
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _exchange(new: Path, old: Path) -> None:
    """Two folders change places: in one step where the system can (Linux), else in three renames."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        renameat2 = getattr(libc, "renameat2", None)
        if renameat2 is not None:
            if renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0:
                return
            code = ctypes.get_errno()
            if code not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
                raise OSError(code, os.strerror(code), str(old))
    aside = new.with_name(f"{new.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except OSError:
        os.rename(aside, old)
        raise
    os.rename(aside, new)

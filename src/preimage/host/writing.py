"""Files that are written whole or not at all: what was there stays as it was until the new content is on the disk.

`write_file` writes to a temporary beside the place, flushes it to the disk (fsync), and renames it. Whatever fails before, the old
file is untouched and the temporary is removed. A writer that is killed cannot remove its own: the next writer to the same
place does. Each holds a lock (flock) on its temporary while it lives, so that only a dead writer's is taken away.

The permissions and owner of a file that is replaced are kept; a new file gets those of the umask. A link is followed: the file
that it leads to is replaced, and the link stays. Pipes and devices (/dev/stdout) are written directly.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from preimage.errors import OutputError

try:
    import fcntl
except ImportError:  # not a POSIX system: no locks, so nothing of others is removed
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "NewFile", "check_place", "check_writable", "failed", "locked", "remove_stale", "replacing", "still_there",
    "sync_folder", "temporary_names", "write_file",
]  # fmt: skip

MARK = "preimage-tmp"
#: How many writers may be at work on one place at once.
SLOTS = 64
#: Temporaries of killed writers are looked for in so many slots.
LOOKED_AT = 8
BUFFER_BYTES = 1 << 20
#: Folders whose entries stand for open files and devices: a rename there would take the place of the device.
DEVICE_FOLDERS = ("/dev", "/dev/fd", "/proc/self/fd")
StrPath = str | os.PathLike[str]
Content = bytes | bytearray | memoryview | str | Callable[[BinaryIO], Any]


def write_file(path: StrPath, content: Content, *, overwrite: bool = True) -> None:
    """Write a file whole or not at all. `content`: bytes, text (UTF-8), or a function that is given the open binary file.

    overwrite: False refuses a place where a file is already, however late it came there.

    Raises: OutputError (also an OSError) where the place cannot be written, the disk is full or a file is there; the old file is
    then as it was. What the function raises comes through.
    """
    with replacing(path, overwrite=overwrite) as new:
        if callable(content):
            content(new.file)
        else:
            new.file.write(content.encode() if isinstance(content, str) else content)


class NewFile:
    """A file that has not got its name yet. `file`: write to it; `path`: where its bytes lie until then.

    `flush` makes what was written readable under `path`. `cancel` lets the block end without the file.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file, self.cancelled = path, file, False

    def flush(self) -> None:
        self.file.flush()

    def cancel(self) -> None:
        self.cancelled = True


@contextmanager
def replacing(path: StrPath, *, overwrite: bool = True) -> Iterator[NewFile]:
    """A NewFile that takes the place `path` where the block ends well, and is gone where it does not. Raises: as write_file."""
    target, old = check_place(path, overwrite=overwrite)
    if old is not None and not stat.S_ISREG(old.st_mode):
        yield from _direct(path, target)
        return
    with failed(path):
        descriptor, place = _create(target, 0o666 if old is None else stat.S_IMODE(old.st_mode))
    raw = _Raw(descriptor, path)
    file = io.BufferedWriter(raw, BUFFER_BYTES)
    try:
        new = NewFile(place, file)
        yield new
        if not new.cancelled:
            file.flush()
            with failed(path):
                _keep_owner(descriptor, old)
                os.fsync(descriptor)
                _publish(place, target, overwrite)
                sync_folder(target.parent)
    finally:
        raw.abandoned = True  # a buffer that could not be written must not reach another file with this descriptor's number
        with suppress(OSError, ValueError):
            file.close()
        with suppress(OSError):
            if still_there(descriptor, place):  # after a rename the name may be another writer's already
                os.unlink(place)
        os.close(descriptor)


def check_writable(path: StrPath, *, overwrite: bool = True) -> None:
    """Raise now what `write_file` would raise at the end of the work (but for a disk that fills up until then)."""
    target, old = check_place(path, overwrite=overwrite)
    if old is not None and not stat.S_ISREG(old.st_mode):
        return
    with failed(path):
        descriptor, place = _create(target, 0o600)
        os.unlink(place)  # while it is locked: afterwards the name may be another writer's
        os.close(descriptor)


def check_place(path: StrPath, *, overwrite: bool = True) -> tuple[Path, os.stat_result | None]:
    """Where a file would lie (links followed), and what is there now. Raises OutputError for a place that no file can take."""
    said = os.fspath(path)
    if not os.path.basename(said) or "\0" in said:
        raise OutputError(f"{said!r} names no file")
    with failed(path):
        try:
            old: os.stat_result | None = os.stat(path)
        except FileNotFoundError:
            old = None
        target = Path(os.path.realpath(path))
        device = os.path.dirname(os.path.abspath(path)) in DEVICE_FOLDERS
        if old is not None and (device or not (stat.S_ISREG(old.st_mode) or stat.S_ISDIR(old.st_mode))):
            if not os.access(path, os.W_OK):
                raise OutputError(f"{said}: cannot be written: permission denied")
            return Path(path), _as_device(old)
    if old is not None and stat.S_ISDIR(old.st_mode):
        raise OutputError(f"{said}: is a folder, not a file")
    if not target.parent.is_dir():
        raise OutputError(f"there is no folder {str(target.parent)!r} to write {target.name!r} to")
    if old is not None and not overwrite:
        raise OutputError(_there(said))
    if old is not None and not os.access(target, os.W_OK):
        raise OutputError(f"{said}: is write-protected")
    return target, old


def _there(said: str) -> str:
    return f"{said}: is there already; --overwrite (in Python overwrite=True) replaces it"


def _as_device(old: os.stat_result) -> os.stat_result:
    """A file that stands for an open one (/dev/stdout that leads to a file) is written like a device."""
    if not stat.S_ISREG(old.st_mode):
        return old
    fields = list(old)
    fields[0] = stat.S_IFCHR | stat.S_IMODE(old.st_mode)
    return os.stat_result(fields)


def _direct(path: StrPath, target: Path) -> Iterator[NewFile]:
    with failed(path):
        descriptor = os.open(target, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0))
    raw = _Raw(descriptor, path)
    file = io.BufferedWriter(raw, BUFFER_BYTES)
    try:
        new = NewFile(target, file)
        yield new
        if not new.cancelled:
            file.flush()
    finally:
        raw.abandoned = True
        with suppress(OSError, ValueError):
            file.close()
        os.close(descriptor)


class _Raw(io.RawIOBase):
    """An open file whose failures name the file that is being written. It shows no descriptor: all writing comes through it."""

    def __init__(self, descriptor: int, path: StrPath) -> None:
        self.descriptor, self.said, self.abandoned = descriptor, path, False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        try:
            os.lseek(self.descriptor, 0, os.SEEK_CUR)
        except OSError:
            return False
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return os.lseek(self.descriptor, offset, whence)

    def tell(self) -> int:
        return self.seek(0, os.SEEK_CUR)

    def truncate(self, size: int | None = None, /) -> int:
        size = self.tell() if size is None else size
        os.ftruncate(self.descriptor, size)
        return size

    def write(self, data: Any, /) -> int:
        if self.abandoned:
            return len(data)
        with failed(self.said):
            return os.write(self.descriptor, data)


@contextmanager
def failed(path: StrPath) -> Iterator[None]:
    """OSErrors of the block as OutputErrors that name `path`."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        fault = OutputError(f"{os.fspath(path)}: cannot be written: {error.strerror or error}")
        fault.errno = error.errno
        raise fault from error


# -- temporaries -------------------------------------------------------------------------------------------------------


def temporary_names(name: str) -> Iterator[str]:
    """The names that the temporaries of a file or folder have, in the order in which they are tried; each keeps the ending."""
    stem, ending = os.path.splitext(name)
    if len(os.fsencode(name)) > 200:  # a name that is as long as a name may be must not make the temporary's too long
        stem, ending = hashlib.sha256(os.fsencode(name)).hexdigest()[:32], ""
    for slot in range(SLOTS):
        yield f".{stem}.{slot}.{MARK}{ending}"


def _create(target: Path, mode: int) -> tuple[int, Path]:
    """A new, locked temporary beside `target`; those that killed writers left are removed."""
    names = temporary_names(target.name)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    for name in names:
        place = target.with_name(name)
        for _ in range(3):
            try:
                descriptor = os.open(place, flags, mode | 0o600)
            except FileExistsError:
                if remove_stale(place):
                    continue
                break
            try:
                fits = locked(descriptor) is not False and still_there(descriptor, place)
            except BaseException:
                os.unlink(place)
                os.close(descriptor)
                raise
            if fits:
                for _, other in zip(range(LOOKED_AT), names, strict=False):
                    if os.path.lexists(target.with_name(other)):
                        remove_stale(target.with_name(other))
                return descriptor, place
            os.close(descriptor)  # another writer took it for a dead one's, in the moment before it was locked
    raise OutputError(f"{target}: {SLOTS} other writers are at work on it")


def locked(descriptor: int) -> bool | None:
    """Take the lock that says "alive"; False where another holds it, None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def still_there(descriptor: int, place: Path) -> bool:
    """Whether the open file is the one that lies at `place`."""
    try:
        here, there = os.fstat(descriptor), os.lstat(place)
    except FileNotFoundError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def remove_stale(place: Path) -> bool:
    """Remove the temporary of a writer that died. False where it is alive, or not ours."""
    try:
        status = os.lstat(place)
        if not stat.S_ISREG(status.st_mode) or (hasattr(os, "geteuid") and status.st_uid != os.geteuid()):
            return False
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(place, flags)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        if not locked(descriptor) or not still_there(descriptor, place):
            return False
        os.unlink(place)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


# -- the end -----------------------------------------------------------------------------------------------------------


def _keep_owner(descriptor: int, old: os.stat_result | None) -> None:
    """The new file belongs to whom the old one belonged, with its permissions."""
    if old is None:
        return
    now = os.fstat(descriptor)
    if hasattr(os, "fchown") and (now.st_uid, now.st_gid) != (old.st_uid, old.st_gid):
        with suppress(PermissionError):
            os.fchown(descriptor, old.st_uid, old.st_gid)
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, stat.S_IMODE(old.st_mode) & 0o777)


def _publish(place: Path, target: Path, overwrite: bool) -> None:
    if overwrite:
        os.replace(place, target)
        return
    try:
        os.link(place, target)  # unlike a rename, this takes no other file's place
    except FileExistsError:
        raise OutputError(_there(str(target))) from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV):
            raise
        if os.path.lexists(target):
            raise OutputError(_there(str(target))) from None
        os.rename(place, target)


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries (a rename in it) to the disk, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return  # a folder that may be written but not read
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)

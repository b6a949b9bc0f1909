"""Object code on disk: what was compiled once is loaded by every later process.

A file holds the full key in words (kernel text or spec, CPU and features, versions), the object code, and a SHA-256
over both. It is written under a temporary name and renamed, so a reader sees a whole file or none, whatever other
processes do. The checksum finds truncated and corrupt files, the key in words finds foreign ones; both are rebuilt.

The code in these files is executed. So a file is loaded only if it and its folder belong to this user and nobody else
may write to them. Where that cannot be had (no home, read-only, somebody else's folder), nothing is cached and nothing
fails: `info()` says why. In a home that belongs to somebody else (`sudo` often keeps HOME) no folder is made: its owner could
never use it.

A folder may hold other things too. Only what has the name and the first bytes of a file of ours is ever removed.

Environment: PREIMAGE_CACHE_DIR (a folder, or "off"), PREIMAGE_CACHE_BYTES (limit, as 268435456, 256MiB or 1GB; default 1 GiB; the
files used longest ago go first).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import re
import stat
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from preimage.records import record
from preimage.resources import parse_bytes

__all__ = [
    "CacheInfo",
    "cache_report",
    "clear",
    "folder",
    "info",
    "key",
    "limit_bytes",
    "lined",
    "read",
    "read_block",
    "regular_bytes",
    "write",
]

Buffer = bytes | memoryview

MAGIC = b"preimage-object1"
SUFFIX = ".obj"
_NAME = re.compile(r"[0-9a-f]{40}\.obj")
_TEMPORARY = re.compile(r"preimage-[0-9a-f]{16}\.tmp")
MOST_ENTRY_BYTES = 256 << 20  # a file of more is none of ours
DEFAULT_LIMIT_BYTES = 1 << 30  # programs of whole nets hold the nets' weights
STALE_TEMPORARY_S = 3600.0
_HEADER = struct.Struct("<16s32sQQ")  # magic, sha256 of the rest, length of the key, length of the code
LINE_BYTES = 64
MOST_FILES = 8192  # more are not worth the time of looking at them


@record
class CacheInfo:
    """What the disk cache is and holds. `refused` says why nothing is cached, or is None; hits to corrupt: this process."""

    folder: str | None
    refused: str | None
    files: int
    size_bytes: int
    limit_bytes: int
    hits: int
    misses: int
    writes: int
    corrupt: int


@dataclass(slots=True)
class _Counts:
    hits: int = 0
    misses: int = 0
    writes: int = 0
    corrupt: int = 0


_VARIABLES = ("PREIMAGE_CACHE_DIR", "PREIMAGE_CACHE_BYTES", "XDG_CACHE_HOME", "HOME")
_counts = _Counts()
_checked: dict[tuple[str, ...], tuple[Path | None, str | None]] = {}
_rooms: dict[
    tuple[Path, int], int
] = {}  # by folder and limit: the bytes that this process may write before it looks at the size again


def key(**parts: str) -> str:
    """All that decides the code, in words: sorted `name=value` lines."""
    return json.dumps(parts, sort_keys=True)


def limit_bytes() -> int:
    """The most bytes that the folder may hold."""
    text = os.environ.get("PREIMAGE_CACHE_BYTES")
    return parse_bytes(text, "the environment variable PREIMAGE_CACHE_BYTES") if text else DEFAULT_LIMIT_BYTES


def _mine(status: os.stat_result) -> bool:
    """Belongs to this user, and nobody else may write to it."""
    if not hasattr(os, "geteuid"):
        return True  # no owners to ask for; the folder lies in the user's profile
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _place() -> tuple[Path | None, str | None]:
    named = os.environ.get("PREIMAGE_CACHE_DIR")
    if named is not None and named.strip().lower() in ("", "off", "none", "0"):
        return None, "PREIMAGE_CACHE_DIR switches it off"
    if named is not None:
        return Path(named), None
    base = os.environ.get("XDG_CACHE_HOME")
    if base and os.path.isabs(base):
        return Path(base) / "preimage", None
    try:
        home = Path.home()
    except RuntimeError as error:
        return None, f"no home directory: {error}"
    return home / ".cache" / "preimage", None


def folder() -> tuple[Path | None, str | None]:
    """The folder in use, or None and the reason; made on first use with mode 0700. Asked once per setting and process.

    Raises: OptionError if PREIMAGE_CACHE_BYTES is no number of bytes.
    """
    setting = tuple([os.environ.get(name, "\0") for name in _VARIABLES])
    found = _checked.get(setting)
    if found is None:
        limit_bytes()
        found = _checked[setting] = _prepare(*_place())
    return found


def _strangers_home(path: Path) -> str | None:
    """Why no folder should be made here: the nearest folder that exists belongs to another user."""
    for above in path.parents:
        try:
            owner = above.stat().st_uid
        except OSError:
            continue
        if hasattr(os, "geteuid") and owner != os.geteuid():
            return f"{above} belongs to another user, whom a folder made there would shut out; PREIMAGE_CACHE_DIR names a place for one"
        return None
    return None


def _prepare(path: Path | None, reason: str | None) -> tuple[Path | None, str | None]:
    if path is None:
        return None, reason
    if os.environ.get("PREIMAGE_CACHE_DIR") is None and not path.exists():
        reason = _strangers_home(path)
        if reason is not None:
            return None, reason
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        return None, f"{path} cannot be made or read: {error.strerror}"
    if not stat.S_ISDIR(status.st_mode):
        return None, f"{path} is not a folder"
    if not _mine(status):
        return None, f"{path} belongs to another user or others may write to it"
    return path, None


def _path(where: Path, full: str) -> Path:
    return where / (hashlib.sha256(full.encode()).hexdigest()[:40] + SUFFIX)


def read(full: str) -> bytes | None:
    """The object code stored under a key, or None; a damaged or foreign file is removed and counts as absent."""
    where, _ = folder()
    if where is None:
        return None
    path = _path(where, full)
    data = regular_bytes(path, MOST_ENTRY_BYTES, _mine)
    code = _looked_at(path, data, full)
    return None if code is None else bytes(code)


def read_block(full: str) -> memoryview | None:
    """`read` of what may be large: read-only memory of its own that begins on a cache line where the key is `lined`."""
    where, _ = folder()
    if where is None:
        return None
    path = _path(where, full)
    data = _regular(path, MOST_ENTRY_BYTES, _mine, _into_pages)
    return _looked_at(path, data, full)


def lined(full: str) -> str:
    """A key so long that what is stored under it begins on a cache line."""
    return full + " " * (-(_HEADER.size + len(full.encode())) % LINE_BYTES)


def _looked_at(path: Path, data: Buffer | None, full: str) -> memoryview | None:
    """What a file holds under a key; counted, and removed where it is damaged or foreign."""
    if data is None:
        _counts.misses += 1
        return None
    code = _unpack(data, full)
    if code is None:
        _counts.corrupt += 1
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    _counts.hits += 1
    with contextlib.suppress(OSError):
        os.utime(path)  # the time of last use, by which files are dropped
    return code


def _into_pages(file: BinaryIO, size: int) -> Buffer:
    """The first `size` bytes of a file in pages of their own."""
    pages = mmap.mmap(-1, max(size, 1))
    view = memoryview(pages)[:size]
    got = file.readinto(view)  # type: ignore[attr-defined]
    return view[: got or 0]


def regular_bytes(path: Any, most: int, trusted: Callable[[os.stat_result], bool] | None = None) -> bytes | None:
    """What a regular file holds; b"" if that is more than `most` bytes, None if there is no such file or it is not trusted.

    A link is not followed where trust is asked for. What could keep the reader waiting for ever (a pipe, a device) counts as absent.
    """
    found = _regular(path, most, trusted, lambda file, size: file.read(size))
    return None if found is None else bytes(found)


def _regular(
    path: Any, most: int, trusted: Callable[[os.stat_result], bool] | None, take: Callable[[BinaryIO, int], Buffer]
) -> Buffer | None:  # fmt: skip
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    if trusted is not None:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or not (trusted is None or trusted(status)):
                return None
            if status.st_size > most:
                return b""
            found = take(file, status.st_size)
            return b"" if file.read(1) else found  # it may grow meanwhile
    except (OSError, MemoryError):
        return None


def _unpack(data: Buffer, full: str) -> memoryview | None:
    if len(data) < _HEADER.size:
        return None
    magic, digest, key_length, code_length = _HEADER.unpack_from(data)
    body = memoryview(data).toreadonly()[_HEADER.size :]
    if magic != MAGIC or key_length + code_length != len(body) or hashlib.sha256(body).digest() != digest:
        return None
    return body[key_length:] if body[:key_length] == full.encode() else None


def write(full: str, *code: Buffer) -> bool:
    """Store object code, in one piece or several, under a key, atomically; False where nothing could be stored (which is no error)."""
    where, _ = folder()
    if where is None:
        return False
    try:
        key = full.encode()
        digest = hashlib.sha256(key)
        for piece in code:
            digest.update(piece)
        size = sum([len(piece) for piece in code])
        head = _HEADER.pack(MAGIC, digest.digest(), len(key), size) + key
        limit = limit_bytes()
        if len(head) + size > min(limit, MOST_ENTRY_BYTES) or not _stored((head, *code), _path(where, full)):
            return False
        _counts.writes += 1
        _make_room(where, limit, len(head) + size)
    except MemoryError:
        return False
    return True


def _stored(pieces: Sequence[Buffer], path: Path) -> bool:
    """Write a file as a whole or not at all. (`tempfile` has a lock, which a signal handler or a child could find taken.)"""
    temporary = path.parent / f"preimage-{os.urandom(8).hex()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            for piece in pieces:
                file.write(piece)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if not isinstance(error, OSError):
            raise
        return False
    return True


def _make_room(where: Path, limit: int, written: int) -> None:
    """Keep the folder below its limits: looked at when this process first writes, and again before it could have filled what was left."""
    room = _rooms.get((where, limit), 0) - written
    if room <= 0:
        trim(where, limit)
        room = (limit - sum([size for _, size, _ in _entries(where)])) // 2
    _rooms[where, limit] = room


def _entries(where: Path) -> list[tuple[float, int, Path]]:
    """(time of last use, size, path) of the stored files."""
    entries = []
    with contextlib.suppress(OSError):
        for item in os.scandir(where):
            if _NAME.fullmatch(item.name):
                with contextlib.suppress(OSError):
                    status = item.stat(follow_symlinks=False)
                    entries.append((status.st_mtime, status.st_size, Path(item.path)))
    return entries


def trim(where: Path, limit_bytes: int) -> int:
    """Remove the files used longest ago until three quarters of the limits are left, if one is passed; returns how many."""
    entries = sorted(_entries(where))
    total, count = sum(size for _, size, _ in entries), len(entries)
    removed = 0
    if total > limit_bytes or count > MOST_FILES:
        for _, size, path in entries:
            if total <= limit_bytes * 3 // 4 and count <= MOST_FILES * 3 // 4:
                break
            if _removed(path):
                removed += 1
                total, count = total - size, count - 1
    with contextlib.suppress(OSError):  # what a killed process left behind
        for item in os.scandir(where):
            if _TEMPORARY.fullmatch(item.name) and time.time() - item.stat().st_mtime > STALE_TEMPORARY_S:
                os.unlink(item.path)
    return removed


def _removed(path: Path) -> bool:
    """Remove a file of ours; False if it is none (something else may have such a name), or cannot be removed."""
    try:
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            if not regular or file.read(len(MAGIC)) != MAGIC:
                return False
        path.unlink()
    except OSError:
        return False
    return True


def info() -> CacheInfo:
    """What is stored, where, and how this process fared."""
    where, refused = folder()
    entries = _entries(where) if where is not None else []
    size = sum(size for _, size, _ in entries)
    return CacheInfo(
        folder=None if where is None else str(where),
        refused=refused,
        files=len(entries),
        size_bytes=size,
        limit_bytes=limit_bytes(),
        **asdict(_counts),
    )


def clear() -> int:
    """Remove every stored file; returns how many there were."""
    where, _ = folder()
    removed = 0
    if where is not None:
        removed = sum([_removed(path) for _, _, path in _entries(where)])
        _rooms.clear()
    return removed


def cache_report() -> dict[str, Any]:
    """`info()` as plain data, for a command that prints it."""
    return asdict(info())

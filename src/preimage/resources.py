"""What this process may use: memory and CPUs, as the system, the process's own limits and its control groups say.

    memory_limit()       # bytes that this process may ever have: the least of RAM, cgroup limits and RLIMIT_AS, RLIMIT_DATA
    available_memory()   # bytes that it could still take now
    cpu_limit()          # CPUs: the affinity mask, and whole CPUs of a cgroup's quota; at least 1
    release_memory()     # what is kept for later calls is given back to the system

A container sets its limits through a control group, version 1 or 2. `os.cpu_count` and the size of the RAM know nothing of
them: a process that trusts those is slowed down by the scheduler, or killed. A limit counts wherever it stands between the
process's own group and the root of the hierarchy.

Source: the kernel's documentation, admin-guide/cgroup-v2.rst (memory.max, memory.high, cpu.max) and cgroup-v1/memory.rst,
scheduler/sched-bwc.rst (cpu.cfs_quota_us).
"""

from __future__ import annotations

import os
import re
import weakref
from functools import cache
from pathlib import Path
from typing import Protocol

from preimage.errors import OptionError

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

__all__ = [
    "available_memory",
    "cpu_limit",
    "cpu_quota",
    "kept_memory",
    "memory_limit",
    "parse_bytes",
    "register_keeper",
    "release_memory",
]

#: A limit of this size or more is none (version 1 writes "unlimited" as 2^63 less a page).
NO_LIMIT = 1 << 60
#: Kept for later calls at most: this share of the memory that the process may have.
KEPT_SHARE = 16
MOST_KEPT_BYTES = 1 << 30

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}
_BYTES = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:e[0-9]{1,2})?)\s*([kmgt]i?)?b?", re.ASCII | re.IGNORECASE)


def parse_bytes(text: str, name: str) -> int:
    """A number of bytes: "1048576", "1e9", "10GB" (powers of 1000), "64 MiB" (powers of 1024).

    Raises: OptionError, which calls the value `name`, for anything else.
    """
    found = _BYTES.fullmatch(text.strip())
    if found is None:
        raise OptionError(f"{name} must be a number of bytes such as 268435456, 10GB or 256MiB, got {text!r}")
    number, unit = found[1], _UNITS[(found[2] or "").lower()]
    return int(number) * unit if number.isdigit() else int(float(number) * unit)


# ------------------------------------------------------------------------------------------------------ control groups


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none ("max"), or no file."""
    return _integer(_text(path).strip())


def _integer(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


@cache
def _groups(controller: str, root: Path) -> list[tuple[int, Path]]:
    """(version, folder) of the control groups that this process is in, its own first, then those around it. Looked up once."""
    own: dict[str, str] = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        for name in names.split(",") if number != "0" else ("",):
            own[name] = path
    found: list[tuple[int, Path]] = []
    for line in _text(root / "proc/self/mountinfo").splitlines():
        front, _, back = line.partition(" - ")
        fields, kind = front.split(), back.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        version = 1 if kind[0] == "cgroup" else 2
        name = controller if version == 1 else ""
        if name not in own or (version == 1 and controller not in kind[2].split(",")):
            continue
        # The mount may show a part of the hierarchy (a container's), which fields[3] names.
        path, shown = own[name], fields[3].rstrip("/")
        inside = path[len(shown) :] if path == shown or path.startswith(f"{shown}/") else ""
        top = root / fields[4].lstrip("/")
        parts = [part for part in inside.split("/") if part not in ("", "..")]
        found += [(version, top.joinpath(*parts[:depth])) for depth in range(len(parts), -1, -1)]
    return found


def _cgroup_memory(root: Path) -> list[tuple[int, int]]:
    """(limit, bytes in use that cannot be dropped) of every control group that limits this process's memory."""
    found = []
    for version, folder in _groups("memory", root):
        names = ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",)
        limits = [limit for name in names if (limit := _number(folder / name)) is not None and limit < NO_LIMIT]
        if not limits:
            continue
        used = _number(folder / ("memory.current" if version == 2 else "memory.usage_in_bytes")) or 0
        key = "inactive_file" if version == 2 else "total_inactive_file"  # pages of files that the kernel takes back first
        for line in _text(folder / "memory.stat").splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                used = max(0, used - (_integer(value) or 0))
        found.append((min(limits), used))
    return found


def _resource_limits() -> tuple[int, int]:
    """The process's own limits of address space and of data, in bytes (RLIMIT_AS, RLIMIT_DATA); NO_LIMIT where there is none."""
    if resource is None:
        return NO_LIMIT, NO_LIMIT
    space, data = (resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return (NO_LIMIT if space < 0 else space), (NO_LIMIT if data < 0 else data)


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # no such question on this system
        return NO_LIMIT


def memory_limit(root: Path = Path("/")) -> int:
    """How many bytes this process may have at most: RAM, its control groups' limits and its own. At least 0."""
    groups = [limit for limit, _ in _cgroup_memory(root)]
    return max(0, min([_physical_memory(), *_resource_limits(), *groups]))


def available_memory(root: Path = Path("/")) -> int:
    """How many bytes this process could still take now; an estimate, for other processes take memory too. At least 0."""
    room = [limit - used for limit, used in _cgroup_memory(root)]
    fields = dict(line.split(":", 1) for line in _text(root / "proc/meminfo").splitlines() if ":" in line)
    free = fields.get("MemAvailable", "").split()
    room.append(int(free[0]) << 10 if free and free[0].isdigit() else _physical_memory())
    space, data = _resource_limits()
    if min(space, data) < NO_LIMIT:
        pages = _text(root / "proc/self/statm").split()  # size resident shared text lib data dirty
        if len(pages) >= 6 and all(n.isdigit() for n in pages):
            page = os.sysconf("SC_PAGE_SIZE")
            room += [space - int(pages[0]) * page, data - int(pages[5]) * page]
    return max(0, min(room))


def kept_memory() -> int:
    """How many bytes may be kept for later calls: a share of what the process may have."""
    return min(memory_limit() // KEPT_SHARE, MOST_KEPT_BYTES)


# ---------------------------------------------------------------------------------------------------------------- CPUs


def cpu_quota(root: Path = Path("/")) -> int | None:
    """How many whole CPUs' worth of time the control groups allow, at least 1; None where they set no quota.

    A quota of one and a half CPUs is 1: two threads would use it up before the period ends, and then both stand still.
    """
    least: float | None = None
    for version, folder in _groups("cpu", root):
        if version == 2:
            quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
        else:
            quota, period = _text(folder / "cpu.cfs_quota_us").strip(), _text(folder / "cpu.cfs_period_us").strip()
        time, of = _integer(quota), _integer(period)
        if time is not None and of:
            share = time / of
            least = share if least is None else min(least, share)
    return None if least is None else max(1, int(least))


def cpu_limit() -> int:
    """How many threads are worth running: the CPUs of the affinity mask, within the control groups' quota; at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(count, cpu_quota() or count))


# -------------------------------------------------------------------------------------------------------- given back


class Keeper(Protocol):
    """What keeps memory for later calls: `clear` gives it back and returns how many bytes; it may be called at any moment."""

    def clear(self) -> int: ...


_keepers: dict[int, weakref.ref[Keeper]] = {}


def register_keeper(keeper: Keeper) -> None:
    """Have release_memory() clear it, as long as it lives."""
    number = id(keeper)
    _keepers[number] = weakref.ref(keeper, lambda _: _keepers.pop(number, None))


def release_memory() -> int:
    """Give memory that is only kept for later calls back to the system; returns how many bytes."""
    alive = [keeper for reference in list(_keepers.values()) if (keeper := reference()) is not None]
    return sum([keeper.clear() for keeper in alive])

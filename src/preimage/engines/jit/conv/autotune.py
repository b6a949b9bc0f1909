"""Tiles that were measured on this machine (`preimage tune`), and read by the plan: a JSON file, replaced as a whole.

A tile changes the time of a call, never a bit of its result. So the file needs no trust: an entry that is no tile of this
CPU, or a file that is none, counts as absent.

Environment: PREIMAGE_TUNING (a file, or "off"); else `tuning.json` in the folder of compiled kernels.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from preimage.engines import disk_cache
from preimage.engines.ir.builder import ELEMENT_BYTES
from preimage.engines.jit.depthwise.applies import is_depthwise
from preimage.engines.jit.index.taps import gather_axes
from preimage.engines.jit.index.tiling import MAX_PIXELS, Work, tile_costs, tile_shapes
from preimage.engines.jit.request import ConvRequest
from preimage.errors import EngineError, OutputError
from preimage.host import write_file

__all__ = ["Tile", "key_of", "path", "save", "tile_for", "tiles_to_try", "valid_tile"]

FORMAT = "preimage tuning 1"
MOST_BYTES = 16 << 20
Tile = tuple[int, int, int]  # lanes, vectors, pixels


def path() -> Path | None:
    """The file in use, whether it exists or not; None where there is no place for one."""
    named = os.environ.get("PREIMAGE_TUNING")
    if named is not None:
        return None if named.strip().lower() in ("", "off", "none", "0") else Path(named)
    folder, _ = disk_cache.folder()
    return None if folder is None else folder / "tuning.json"


def key_of(r: ConvRequest) -> str:
    """All that the choice of a tile depends on, in words: the machine, the geometry, what is computed on which arrays."""
    layout = "channels_last" if r.in_strides[1] == ELEMENT_BYTES[r.element] else "channels_first"
    return "; ".join((r.target.key, r.contraction, r.element, layout, f"{r.threads} threads", repr(r.geometry)))


def valid_tile(r: ConvRequest, tile: Any) -> bool:
    """Whether the dense schedule can use such a tile on the request's machine."""
    if not (isinstance(tile, (list, tuple)) and len(tile) == 3 and all(type(n) is int for n in tile)):
        return False
    lanes, vectors, pixels = tile
    item = 8 if r.element == "f64" else 4
    fits = pixels * vectors + vectors + 1 <= r.target.vector_registers
    return (lanes, vectors) in tile_shapes(item, r.target.vector_bytes) and 1 <= pixels <= MAX_PIXELS and fits


def tiles_to_try(r: ConvRequest, most: int = 16) -> list[Tile]:
    """The tiles of the dense schedule that the plan's model holds for the best; none where another schedule has the say."""
    g, item = r.geometry, 8 if r.element == "f64" else 4
    if is_depthwise(r) or not g.ndim:
        return []
    axes = gather_axes(g, r.contraction)
    along = max([k for k in range(1, len(axes)) if axes[k].out_size > 1], default=0)
    run, channels = (g.in_channels, g.out_channels) if r.contraction == "conv" else (g.out_channels, g.in_channels)
    work = Work(channels // g.groups, g.groups, run // g.groups, item, r.target)
    ranked = sorted(tile_costs(axes, [along], work), key=lambda choice: choice.cost)
    return [(c.lanes, c.vectors, c.pixels) for c in ranked[:most]]


def tile_for(r: ConvRequest) -> Tile | None:
    """The tile that was measured to be best for a request; None: the plan's own choice is, or none was measured."""
    entries = _entries()
    tile: Any = entries.get(key_of(r)) if entries else None
    return (tile[0], tile[1], tile[2]) if valid_tile(r, tile) else None


def save(found: dict[str, Tile | None]) -> Path:
    """Add entries to the file (None: the plan's own choice is best; an older entry goes), atomically."""
    where = path()
    if where is None:
        raise EngineError("there is no place for the tuning file: PREIMAGE_TUNING names one")
    entries = {**_read(where), **{key: None if tile is None else list(tile) for key, tile in found.items()}}
    text = json.dumps(
        {"format": FORMAT, "tiles": {key: tile for key, tile in sorted(entries.items()) if tile is not None}}, indent=0
    )
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
        write_file(where, text)
    except OSError as error:
        raise EngineError(
            str(error) if isinstance(error, OutputError) else f"{where} cannot be written: {error.strerror}"
        ) from error
    return where


def _entries() -> dict[str, Any]:
    """What the file holds now; read again when it has changed."""
    where = path()
    if where is None:
        return {}
    try:
        status = where.stat()
    except OSError:
        return {}
    return _kept(where, status.st_mtime_ns, status.st_size, status.st_ino)


@lru_cache(maxsize=4)
def _kept(where: Path, *_changes: int) -> dict[str, Any]:
    return _read(where)


def _read(where: Path) -> dict[str, Any]:
    try:
        data = json.loads(disk_cache.regular_bytes(where, MOST_BYTES) or b"null")
    except (ValueError, RecursionError):
        return {}
    tiles = data.get("tiles") if isinstance(data, dict) and data.get("format") == FORMAT else None
    return tiles if isinstance(tiles, dict) else {}

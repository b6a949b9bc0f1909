"""What `learn` and `rebuild` share on their way in: pictures in one kind of colour, and whether they fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from preimage.errors import OptionError
from preimage.io.pictures import Picture, picture_size, read_picture
from preimage.learning import Model
from preimage.resources import available_memory

__all__ = ["check_memory", "machine", "read_pictures", "stored_sizes", "word"]


def read_pictures(paths: Sequence[Path], longest: int | None) -> list[Picture]:
    """All the pictures, each with a name of its own."""
    pictures, taken = [], set()
    for path in paths:
        picture = read_picture(path, longest)
        base, n = picture.name, 2
        while picture.name in taken:
            picture.name, n = f"{base} {n}", n + 1
        taken.add(picture.name)
        pictures.append(picture)
    return pictures


def stored_sizes(paths: Sequence[Path], longest: int | None) -> list[tuple[int, int]]:
    """(height, width) that pictures will have, from their files' first bytes: what is too large is refused undecoded."""
    sizes = []
    for path in paths:
        height, width = picture_size(path)
        scale = 1.0 if longest is None else min(1.0, longest / max(height, width))
        sizes.append((max(1, round(height * scale)), max(1, round(width * scale))))
    return sizes


def check_memory(sizes: Sequence[tuple[int, int]], stencils: int, channels: int, model: Model) -> None:
    """Refuse what would not fit into memory, with the side that would.

    Raises: OptionError.
    """
    numbers = 0
    for height, width in sizes:
        h, w = model.activation_size(height, width)
        numbers += 5 * stencils * h * w + 40 * channels * height * width
    needed, there = 4 * numbers, available_memory()
    if needed <= 0.8 * there:
        return
    longest = max(max(size) for size in sizes)
    fitting = int(longest * (0.75 * there / needed) ** 0.5) // 10 * 10
    raise OptionError(
        f"{len(sizes)} picture{'s' if len(sizes) > 1 else ''} of up to {longest} pixels a side need {needed / 2**30:.1f} GiB of memory"
        f" for the activations of {stencils} stencils, and {there / 2**30:.1f} GiB are free: use --longest {max(fitting, 16)},"
        " fewer stencils or a larger stride"
    )


def machine() -> dict[str, str]:
    """What ran it, for the metrics."""
    import platform

    from preimage import __version__

    return {
        "preimage": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


def word(number: int, noun: str) -> str:
    """1 picture, 2 pictures."""
    return f"{number} {noun}{'' if number == 1 else 's'}"

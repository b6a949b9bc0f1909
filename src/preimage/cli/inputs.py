"""What `learn` and `rebuild` share on their way in: pictures in one kind of colour, and whether they fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from preimage.errors import OptionError
from preimage.io.pictures import Picture, picture_size, read_picture
from preimage.learning import Model
from preimage.resources import available_memory

__all__ = ["check_memory", "larger_would_take", "longest_by_default", "machine", "read_pictures", "stored_sizes", "word"]

#: The longer side of pictures that are learned from where nobody says another, and the least that scarce memory makes of it.
LONGEST, SHORTEST = 1024, 64


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
    sizes = [picture_size(path) for path in paths]
    return sizes if longest is None else _scaled(sizes, longest)


def longest_by_default(sizes: Sequence[tuple[int, int]], stencils: int, channels: int, model: Model) -> int:
    """The side that pictures are made smaller to where nobody says one: LONGEST, or less where the memory holds no more."""
    there = 0.7 * available_memory()
    longest = LONGEST
    while longest > SHORTEST and _needed_bytes(_scaled(sizes, longest), stencils, channels, model) > there:
        longest = max(SHORTEST, longest * 9 // 10)
    return longest


def larger_would_take(sizes: Sequence[tuple[int, int]], longest: int, stencils: int, channels: int, model: Model) -> str:
    """What learning from the pictures as they are would cost beside learning from smaller ones; "" where none is made smaller."""
    small = _scaled(sizes, longest)
    if small == list(sizes):
        return ""
    times = sum(h * w for h, w in sizes) / sum(h * w for h, w in small)
    memory = _needed_bytes(sizes, stencils, channels, model) / 2**30
    return f"--longest {max(map(max, sizes))} takes them as they are: {times:.1f} times the work, {memory:.1f} GiB of memory"


def _scaled(sizes: Sequence[tuple[int, int]], longest: int) -> list[tuple[int, int]]:
    scales = [min(1.0, longest / max(size)) for size in sizes]
    return [(max(1, round(h * s)), max(1, round(w * s))) for (h, w), s in zip(sizes, scales, strict=True)]


def _needed_bytes(sizes: Sequence[tuple[int, int]], stencils: int, channels: int, model: Model) -> int:
    numbers = 0
    for height, width in sizes:
        h, w = model.activation_size(height, width)
        numbers += 5 * stencils * h * w + 40 * channels * height * width
    return 4 * numbers


def check_memory(sizes: Sequence[tuple[int, int]], stencils: int, channels: int, model: Model) -> None:
    """Refuse what would not fit into memory, with the side that would.

    Raises: OptionError.
    """
    needed, there = _needed_bytes(sizes, stencils, channels, model), available_memory()
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

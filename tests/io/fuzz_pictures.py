"""Damaged pictures: every one is read or refused by an error of the library, in time.

    python tests/io/fuzz_pictures.py --count 20000 --seed 1

A picture of each format that is opened, in several modes and sizes, with bytes changed, cut, doubled and moved; its ending is that of any format.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from preimage.errors import PreimageError
from preimage.io.pictures import FORMATS, read_picture

#: What a damaged picture may take, in seconds: far more than any needs here.
LIMIT = 20.0
MODES = {"JPEG": ("L", "RGB", "CMYK"), "WEBP": ("RGB", "RGBA"), "BMP": ("1", "L", "P", "RGB"), "PPM": ("1", "L", "RGB", "I;16")}


def bases() -> list[bytes]:
    """Whole pictures of all formats."""
    rng = np.random.default_rng(0)
    found = []
    for kind in FORMATS:
        for mode in MODES.get(kind, ("1", "L", "P", "RGB", "RGBA") if kind != "GIF" else ("L", "P")):
            raw = rng.integers(0, 256, (13, 17, 3), dtype=np.uint8)
            image = Image.fromarray(raw[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(raw).convert(mode)
            file = BytesIO()
            image.save(file, kind, **({"compression": "tiff_lzw"} if kind == "TIFF" and mode == "RGB" else {}))
            found.append(file.getvalue())
    return found


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four changes, more of them near the start, where the sizes stand."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not out:
            break
        at = min(int(len(out) * rng.random() ** 2), len(out) - 1)
        what, length = rng.randrange(6), rng.randint(1, 8)
        if what == 0:
            out[at] = rng.randrange(256)
        elif what == 1:
            out[at : at + length] = rng.choice((b"\0", b"\xff", b"\x7f")) * length
        elif what == 2:
            del out[at : at + length]
        elif what == 3:
            out[at:at] = out[at : at + 8 * length]
        elif what == 4:
            del out[at:]
        else:
            out[at : at + 4] = rng.choice((2**31 - 1, 2**16, 2**20, 0)).to_bytes(4, rng.choice(("big", "little")))
    return bytes(out)


def fuzz(seed: int, count: int, folder: Path) -> tuple[Counter[str], list[tuple[int, str]]]:
    """How many ended how, and those that ended wrongly, by their seeds."""
    counts: Counter[str] = Counter()
    wrong: list[tuple[int, str]] = []
    whole = bases()
    for number in range(seed, seed + count):
        rng = random.Random(number)
        path = folder / f"p.{rng.choice(FORMATS).lower()}"
        path.write_bytes(mutate(whole[number % len(whole)], rng))
        begin = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                values = read_picture(path).values
            outcome = "read" if values.ndim == 3 and np.isfinite(values).all() else f"wrong: {values.shape}"
        except PreimageError as error:
            outcome = "refused" if path.name in str(error) else f"nameless: {error}"
        except Exception as error:
            outcome = f"foreign: {type(error).__name__}: {error}"
        if time.monotonic() - begin > LIMIT:
            outcome = f"slow: {outcome}"
        counts[outcome.split(":")[0]] += 1
        if outcome not in ("read", "refused"):
            wrong.append((number, outcome))
    return counts, wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        counted, offenders = fuzz(given.seed, given.count, Path(place))
    print(dict(counted))
    for found_at, said in offenders:
        print(f"seed {found_at}: {said}")
    sys.exit(bool(offenders))

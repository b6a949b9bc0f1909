"""Mutated files of torch.save: each must give an error of ours or values, within 5 seconds and 1 GiB; never a crash or foreign error.

python tests/io/fuzz_torch.py --count 20000             # the long run; prints counts and every offender's seed
python tests/io/fuzz_torch.py --count 20000 --beside    # what is read is compared with torch.load(weights_only=True), where that reads it
python tests/io/fuzz_torch.py --seed 1234 --count 1
"""

from __future__ import annotations

import argparse
import io
import random
import struct
import sys
import tempfile
import warnings
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import fuzz_process
import numpy as np
import torch

from preimage import PreimageError
from preimage.io import limits
from preimage.io.torch import load

_NUMBERS = (0, 1, 2, 3, 7, 2**15, 2**31 - 1, -1, -2, -(2**31))
_NAMES = (
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"cposix\nsystem\n", b"ctorch\nload\n", b"ctorch\nFloatStorage\n", b"ctorch\nDoubleStorage\n",
    b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor\n", b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch\nSize\n", b"ctorch\nint64\n",
)  # fmt: skip
_STEPS = b"(NKMJGXUT)tleas}u]dqhrjcRbQ.\x80\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98io012FIlLPSV"


def base_files() -> list[bytes]:
    """A state_dict, a checkpoint with an optimiser's state, views of all kinds; in both forms, by several protocols."""
    generator = torch.Generator().manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.ConvTranspose2d(3, 2, 2))
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    moments = {k: {"step": torch.tensor(2.0), "exp_avg": p.data, "exp_avg_sq": p.data**2} for k, p in enumerate(net.parameters())}
    optimizer = {
        "state": moments,
        "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "amsgrad": False, "fused": None, "params": [0, 1, 2, 3]}],
    }
    row = torch.arange(24.0)
    views = OrderedDict(
        a=row.view(2, 3, 4), b=row[5:20:3], c=row.view(4, 6).t(), d=row.double()[:0], e=torch.ones(1).expand(3, 2), f=torch.tensor([True, False]),
        g=torch.tensor(3), h=torch.zeros(2, 1, 3, dtype=torch.int16), i=torch.tensor([1, 2], dtype=torch.uint16), j=row.to(torch.complex64),
    )  # fmt: skip
    checkpoint = {
        "epoch": 3,
        "best": 0.5,
        "name": "ü",
        "none": None,
        "model": net.state_dict(),
        "optimizer": optimizer,
        "size": row.shape,
    }
    made = []
    for value in (net.state_dict(), checkpoint, views):
        for options in ({}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}):
            file = io.BytesIO()
            torch.save(value, file, **options)
            made.append(file.getvalue())
    return made


def _mutated_program(data: bytearray, rng: random.Random) -> bytes:
    """A pickle with a few of its instructions, numbers or names changed."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(data))
        what = rng.randrange(8)
        if what == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            data[at] = rng.choice(_STEPS)
        elif what == 2:
            data[at:at] = bytes([rng.choice(_STEPS)])
        elif what == 3:
            data[at:at] = rng.choice(_NAMES) + rng.choice((b"", b")R", b"(U\x02idtR"))
        elif what == 4:
            end = min(len(data), at + rng.randrange(1, 60))
            place = rng.randrange(len(data))
            data[place:place] = data[at:end] * rng.choice((1, 2, 100))
        elif what == 5:
            del data[at : at + rng.randrange(1, 12)]
        else:  # a small number, of sizes, strides, offsets or counts, becomes another
            small = [k for k in range(len(data) - 1) if data[k] == ord("K")]
            if small:
                k = rng.choice(small)
                data[k : k + 2] = rng.choice(
                    (
                        b"J" + struct.pack("<i", rng.choice(_NUMBERS)),
                        b"\x8a\x08" + struct.pack("<q", rng.choice((2**62, 2**40, -(2**40)))),
                    )
                )
    return bytes(data)


def _mutated_archive(data: bytes, rng: random.Random) -> bytes:
    """The archive written anew, its checksums right, with a program, storages or entries that were changed."""
    source, file = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    what = rng.randrange(6)
    with zipfile.ZipFile(file, "w") as archive:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl") and what < 4:
                content = _mutated_program(bytearray(content), rng)
            elif "/data/" in name and what == 4 and rng.random() < 0.5:
                content = rng.choice((content[:-1], content * 2, b"", content + b"\0" * 8))
            elif what == 5 and rng.random() < 0.2:
                name = rng.choice(
                    (name + "x", "x/data.pkl", "archive/data/0", "archive/code/a.py", "../" + name, "archive/byteorder")
                )
            kind = zipfile.ZIP_DEFLATED if what == 5 and rng.random() < 0.1 else zipfile.ZIP_STORED
            if name not in archive.namelist():
                archive.writestr(name, content, compress_type=kind)
    return file.getvalue()


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One file made of another."""
    zipped = data[:2] == b"PK"
    if rng.random() < 0.6:
        return _mutated_archive(data, rng) if zipped else _mutated_program(bytearray(data), rng)
    changed = bytearray(data)
    what = rng.randrange(4)
    if what == 0:
        return bytes(changed[: rng.randrange(len(changed))])
    if what == 1 and zipped:  # a field of the directory at the end
        starts = [k for k in range(len(changed) - 4) if changed[k : k + 4] in (b"PK\x01\x02", b"PK\x05\x06", b"PK\x03\x04")]
        at = rng.choice(starts) + rng.randrange(4, 46)
        changed[at : at + 4] = struct.pack(
            "<I", rng.choice((0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 64, len(data), rng.randrange(len(data))))
        )
        return bytes(changed)
    for _ in range(rng.choice((1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def attempt(data: bytes, path: Path, *, beside: bool, unchanged: bytes = b"") -> str:
    """What one file gives: "refused" (an error of ours), "read", or how it differs from what torch reads; anything else is raised.

    unchanged: the file it was made of. What is read as that is right: torch, which compares no checksums, reads damaged archives otherwise.
    """
    path.write_bytes(data)
    try:
        found = load(path)
    except PreimageError:
        return "refused"
    if beside:
        try:
            theirs = torch.load(path, weights_only=True)
        except Exception:
            return "read, not by torch"
        if _same(found, theirs):
            return "read"
        return (
            "read, otherwise by torch"
            if _same(found, torch.load(io.BytesIO(unchanged), weights_only=True))
            else "differs from what torch reads"
        )
    return "read"


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, np.ndarray):
        value = theirs.detach().float() if theirs.dtype == torch.bfloat16 else theirs.detach()
        return ours.shape == tuple(theirs.shape) and ours.astype(value.numpy().dtype).tobytes() == value.numpy().tobytes()
    if isinstance(ours, dict):
        return list(ours) == list(theirs) and all(_same(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(_same(a, b) for a, b in zip(ours, theirs, strict=True))
    return repr(ours) == repr(theirs) or isinstance(theirs, torch.device | torch.dtype)


def fuzz(first: int, count: int, folder: Path, *, beside: bool = False) -> tuple[Counter[str], list[tuple[int, str]]]:
    """Counts of outcomes, and the offenders by seed."""
    bases = base_files()
    warnings.filterwarnings("ignore", module="torch")  # protocols that its own reader knows in part

    def case(seed: int) -> str:
        base = bases[seed % len(bases)]
        with limits.limits(memory_bytes=fuzz_process.MEMORY // 4):
            return attempt(mutate(base, random.Random(seed)), folder / "mutated.pt", beside=beside, unchanged=base)

    return fuzz_process.fuzz(case, first, count, ("read", "read, not by torch", "read, otherwise by torch", "refused"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beside", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        counted, wrong = fuzz(given.seed, given.count, Path(place), beside=given.beside)
    print(dict(counted))
    for found_at, said in wrong:
        print(found_at, said)
    sys.exit(bool(wrong))

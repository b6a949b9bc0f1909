"""Damaged files of weights and data: each must give an error of ours or arrays, within 5 seconds and 1 GiB; never a crash or foreign error.

    python tests/io/fuzz_files.py --reader safetensors --count 20000     # a reader by its name; prints counts and every offender's seed
    python tests/io/fuzz_files.py --count 20000                          # every reader, so many files each
    python tests/io/fuzz_files.py --reader lmdb --seed 1234 --count 1

Readers: safetensors, npz, npy, idx, lmdb, hdf5 (data), caffemodel_h5 (weights of a Caffe net), nifti, and checkpoint (a folder of
`preimage.save`: its arrays and its record).
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import fuzz_process
import numpy as np

import preimage as pre
from preimage import PreimageError, caffe, data, nn, optim
from preimage.data.idx import read_idx, write_idx
from preimage.data.lmdb import LmdbDataset
from preimage.data.nifti import read_nifti
from preimage.io import limits
from preimage.io.weights import read_npy

Files = dict[str, bytes]  # by their names in a folder

_NUMBERS = (0, 1, 2, 7, 255, 2**15, 2**16, 2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)
_NET = """name: "n"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 6 dim: 6 } } }
layer { name: "c/1" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 3 kernel_size: 3 } }
layer { name: "d" type: "Deconvolution" bottom: "c" top: "d" convolution_param { num_output: 2 kernel_size: 2 stride: 2 } }
"""


# -- whole files -------------------------------------------------------------------------------------------------------


def _arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "a": rng.standard_normal((3, 2, 3)).astype(np.float32),
        "b": np.arange(5, dtype=np.int64),
        "c": rng.standard_normal((2, 2)).astype(np.float16),
        "d": np.array(True),
    }


def _written(name: str, write: Callable[[Path], Any]) -> Files:
    """What `write` leaves in an empty folder."""
    with tempfile.TemporaryDirectory() as place:
        write(Path(place) / name)
        return {str(p.relative_to(place)): p.read_bytes() for p in sorted(Path(place).rglob("*")) if p.is_file()}


def _npz(path: Path) -> None:
    np.savez_compressed(path, **_arrays())


def _npy(path: Path) -> None:
    np.save(path, np.asfortranarray(_arrays()["a"]))


def _lmdb(path: Path) -> None:
    import lmdb

    from preimage.io.caffe.wire.binary import encode
    from preimage.io.caffe.wire.message import Message

    rng = np.random.default_rng(0)
    with lmdb.open(str(path), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for k in range(40):
            pixels = rng.integers(0, 256, (3, 4 + 40 * (k % 7 == 0), 5), np.uint8)
            datum = Message("Datum", channels=3, height=pixels.shape[1], width=5, data=pixels.tobytes(), label=k % 10)
            transaction.put(f"{k:08d}".encode(), encode(datum))


def _hdf5(path: Path) -> None:
    import h5py

    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "data", data=rng.standard_normal((6, 2, 4, 4)).astype(np.float32), chunks=(2, 2, 4, 4), compression="gzip"
        )
        file["label"] = np.arange(6, dtype=np.int32)


def _caffemodel(path: Path) -> None:
    (path.parent / "n.prototxt").write_text(_NET)
    net = caffe.Net(str(path.parent / "n.prototxt"), caffe.TEST)
    net.save_hdf5(str(path))


def _nifti(path: Path) -> None:
    import nibabel

    volume = np.random.default_rng(0).integers(0, 200, (5, 4, 3)).astype(np.int16)
    nibabel.Nifti1Image(volume, np.diag([2.0, 2, 2, 1])).to_filename(path)


def _checkpoint(path: Path, steps: int = 1) -> None:
    net, optimizer = _trained()
    for step in range(steps):
        pre.save(path, step=step, net=net, optimizer=optimizer, rng=np.random.default_rng(0), note={"loss": [0.5, None, "x"]})


def _trained() -> tuple[Any, Any]:
    nn.init.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ConvTranspose2d(2, 1, 2))
    optimizer = optim.Adam(net.parameters(), lr=0.01)
    (net(np.ones((2, 1, 5, 5), np.float32)) ** 2).mean().backward()
    optimizer.step()
    return net, optimizer


# -- readers -----------------------------------------------------------------------------------------------------------


def _read_hdf5(path: Path) -> Any:
    return data.from_hdf5(path)[0]


def _read_lmdb(path: Path) -> Any:
    found = LmdbDataset(path, classes=10)
    return [found[k] for k in range(len(found))]


def _read_caffemodel(path: Path) -> Any:
    net = caffe.Net(str(path.parent / "n.prototxt"), caffe.TEST)
    net.copy_from(str(path))
    return net.forward()


def _read_checkpoint(path: Path) -> Any:
    net, optimizer = _trained()
    return pre.load(path, net=net, optimizer=optimizer, rng=np.random.default_rng(1)).parts


#: Of each reader: the file it reads, how whole ones are written (the first damaged like all others), and how it is read.
READERS: dict[str, tuple[tuple[tuple[str, Callable[[Path], Any]], ...], Callable[[Path], Any]]] = {
    "safetensors": (
        (
            ("a.safetensors", lambda path: pre.save_weights(_arrays(), path)),
            ("a.safetensors", lambda path: pre.save_weights({"net": _arrays(), "list": [1, "x", None]}, path)),
        ),
        pre.load_weights,
    ),
    "npz": ((("a.npz", _npz), ("a.npz", lambda path: pre.save_weights({"net": _arrays()}, path))), pre.load_weights),
    "npy": ((("a.npy", _npy),), read_npy),
    "idx": (
        (
            ("a.idx", lambda path: write_idx(np.arange(60, dtype=np.uint8).reshape(3, 4, 5), path)),
            ("a.idx", lambda path: path.write_bytes(gzip.compress(b"\0\0\x0d\x01\0\0\0\x04" + bytes(16)))),
        ),
        read_idx,
    ),
    "lmdb": ((("db", _lmdb),), _read_lmdb),
    "hdf5": ((("a.h5", _hdf5),), _read_hdf5),
    "caffemodel_h5": ((("a.caffemodel.h5", _caffemodel),), _read_caffemodel),
    "nifti": ((("a.nii", _nifti), ("a.nii.gz", _nifti)), read_nifti),
    "checkpoint": ((("run", _checkpoint), ("run", lambda path: _checkpoint(path, 2))), _read_checkpoint),
}


@cache
def base_files(reader: str) -> tuple[tuple[str, Files], ...]:
    """The name that is read, and the whole files."""
    return tuple((name, _written(name, write)) for name, write in READERS[reader][0])


# -- damage ------------------------------------------------------------------------------------------------------------


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    """One to four changes; half of them near the start, where formats say what follows."""
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not out:
            break
        at = rng.randrange(min(len(out), 400)) if rng.random() < 0.5 else rng.randrange(len(out))
        what = rng.randrange(7)
        if what == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            del out[at:]
        elif what == 2:
            del out[at : at + rng.randrange(1, 40)]
        elif what == 3:
            out[at:at] = out[at : at + rng.randrange(1, 40)] * rng.choice((1, 2, 50))
        elif what == 4:
            out[at] = rng.randrange(256)
        else:  # a number of 2, 4 or 8 bytes, in either order
            size, order = rng.choice("HIQ"), rng.choice("<>")
            value = struct.pack(f"{order}{size}", rng.choice(_NUMBERS) % (1 << 8 * struct.calcsize(size)))
            at -= at % len(value) if rng.random() < 0.7 else 0
            out[at : at + len(value)] = value
    return bytes(out)


def _mutated_text(text: str, rng: random.Random) -> str:
    """JSON with a value, a name or a piece of it changed."""
    places = [k for k, letter in enumerate(text) if letter.isdigit()]
    if places and rng.random() < 0.5:
        at = rng.choice(places)
        return (
            text[:at]
            + rng.choice(("-1", "1e400", "null", "true", str(rng.choice(_NUMBERS)), '"x"', "[]", "{}", "NaN"))
            + text[at + 1 :]
        )
    words = [w for w in text.replace('"', " ").split() if w.isidentifier()] or ["x"]
    old = rng.choice(words)
    return text.replace(old, rng.choice([*words, "", "../x", "a" * 3000, "\u0000"]), 1)


def _within(name: str, content: bytes, rng: random.Random) -> bytes:
    """Damage inside of what is packed, or in a header, with the packing and the sums around it right."""
    if content[:2] == b"\x1f\x8b":
        return gzip.compress(mutated_bytes(gzip.decompress(content), rng), 1)
    if content[:2] == b"PK":
        source, file = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
        entries = source.namelist()
        hit = rng.choice(entries)
        with zipfile.ZipFile(file, "w") as archive:
            for entry in entries:
                inner = source.read(entry)
                archive.writestr(entry, mutated_bytes(inner, rng) if entry == hit else inner)
        return file.getvalue()
    if name.endswith(".safetensors"):
        size = int.from_bytes(content[:8], "little")
        text = _mutated_text(content[8 : 8 + size].decode(), rng).encode("utf-8", "surrogatepass")
        return len(text).to_bytes(8, "little") + text + content[8 + size :]
    if name.endswith(".json"):
        return _resealed(_mutated_text(content.decode(), rng))
    return mutated_bytes(content, rng)


def _resealed(text: str) -> bytes:
    """A checkpoint's record whose sum is right again, if it still is one."""
    from preimage.learning.checkpoints import _digest

    try:
        record = json.loads(text)
        record["sha256"] = _digest({k: v for k, v in record.items() if k != "sha256"})
        return json.dumps(record).encode()
    except (ValueError, TypeError, RecursionError, PreimageError):
        return text.encode("utf-8", "surrogatepass")


def mutate(files: Files, rng: random.Random) -> Files:
    """One of the files damaged; now and then it is gone, or another's."""
    names = [n for n in files if not n.endswith((".prototxt", "lock.mdb", ".lock"))]
    hit = rng.choice(names)
    chance = rng.random()
    if chance < 0.02:
        return {n: c for n, c in files.items() if n != hit}
    if chance < 0.04:
        return {**files, hit: files[rng.choice(names)]}
    change = _within if chance < 0.5 else lambda _, content, r: mutated_bytes(content, r)
    return {**files, hit: change(hit, files[hit], rng)}


def attempt(reader: str, seed: int) -> str:
    """What the files of a seed give: "refused" (an error of ours) or "read"; anything else is raised."""
    bases = base_files(reader)
    name, files = bases[seed % len(bases)]
    with tempfile.TemporaryDirectory() as place:
        for path, content in mutate(files, random.Random(seed)).items():
            (Path(place) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(place) / path).write_bytes(content)
        with warnings.catch_warnings(), np.errstate(all="ignore"), limits.limits(memory_bytes=2**28):
            warnings.simplefilter("ignore")
            try:
                READERS[reader][1](Path(place) / name)
            except PreimageError:
                return "refused"
        return "read"


def fuzz(reader: str, first: int, count: int) -> tuple[Counter[str], list[tuple[int, str]]]:
    """Counts of outcomes, and the offenders by seed."""
    base_files(reader)  # made once, in the parent
    return fuzz_process.fuzz(lambda seed: attempt(reader, seed), first, count, ("read", "refused"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", choices=READERS, action="append")
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wrong = False
    for reader in options.reader or READERS:
        start = time.perf_counter()
        counts, offenders = fuzz(reader, options.seed, options.count)
        print(f"{reader}: {dict(counts)} in {time.perf_counter() - start:.0f} s", flush=True)
        for seed, why in offenders[:50]:
            print(f"offender: --reader {reader} --seed {seed} --count 1: {why}", flush=True)
        wrong |= bool(offenders)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())

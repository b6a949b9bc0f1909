"""Datasets from files: IDX, folders, pairs, lists, arrays, HDF5, LMDB, NIfTI; and what is said of damaged ones."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preimage import data
from preimage.errors import FileFormatError, MissingPackageError, OptionError, ShapeError
from preimage.host import write_file
from preimage.io.caffe.wire.binary import encode
from preimage.io.caffe.wire.message import Message
from preimage.io.limits import limits
from preimage.io.pictures import encoded, write_picture

NUMBERS = np.random.default_rng(3)


def idx_bytes(code: int, shape: tuple[int, ...], body: bytes) -> bytes:
    """An IDX file from its description, not from our writer."""
    return struct.pack(f">HBB{len(shape)}I", 0, code, len(shape), *shape) + body


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_of_every_type(tmp_path: Path, ending: str) -> None:
    kinds = {8: "B", 9: "b", 11: "h", 12: "i", 13: "f", 14: "d"}
    for code, word in kinds.items():
        values = [3, 1, 4, 1, 5, 9] if code in (8, 13, 14) else [-3, 1, -4, 1, 5, 9]
        raw = idx_bytes(code, (3, 2), struct.pack(f">6{word}", *values))
        path = tmp_path / f"{code}{ending}"
        path.write_bytes(gzip.compress(raw) if ending else raw)
        found = data.read_idx(path)
        assert found.tolist() == [values[:2], values[2:4], values[4:]]
        assert found.dtype.isnative
        data.write_idx(found, tmp_path / f"again{ending}")
        again = (tmp_path / f"again{ending}").read_bytes()
        assert (gzip.decompress(again) if ending else again) == raw


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (idx_bytes(8, (3, 4), bytes(7)), r"truncated.*needs? 24 bytes, it ends at byte 19, in item 1 of 3"),
        (idx_bytes(8, (3, 4), bytes(13)), "goes on after byte 24"),
        (b"\x89PNG\r\n", r"begins with 89 50 4e 47 \(byte 0\), wanted 00 00"),
        (b"", "begins with nothing"),
        (idx_bytes(7, (3,), bytes(3)), "no IDX file"),
        (b"\0\0\x08\x03\0\0", "ends at byte 6, in the sizes of its 3 axes"),
        (gzip.compress(idx_bytes(8, (3, 4), bytes(12)), mtime=0)[:-9], "damaged or broken off|truncated"),
        (idx_bytes(8, (1 << 31, 1 << 20), b""), "would take .* GiB"),
    ],
)
def test_damaged_idx(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "broken").write_bytes(raw)
    with pytest.raises(FileFormatError, match=f"broken.*(?:{message})"):
        data.read_idx(tmp_path / "broken")


def mnist_folder(folder: Path, count: int = 20, side: int = 6) -> tuple[np.ndarray, np.ndarray]:
    folder.mkdir(exist_ok=True)
    images = NUMBERS.integers(0, 256, (count, side, side), np.uint8)
    labels = NUMBERS.integers(0, 10, count).astype(np.uint8)
    for start in ("train", "t10k"):
        (folder / f"{start}-images-idx3-ubyte").write_bytes(idx_bytes(8, images.shape, images.tobytes()))
        (folder / f"{start}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(8, labels.shape, labels.tobytes())))
    return images, labels


def test_mnist(tmp_path: Path) -> None:
    images, labels = mnist_folder(tmp_path / "m")
    found = data.open_data(tmp_path / "m", train=False)
    assert len(found) == 20
    image, label = found[7]
    assert image.shape == (1, 6, 6)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[0], images[7].astype(np.float32) * np.float32(1 / 255))
    assert label == labels[7]
    labels[13] = 11
    (tmp_path / "m/t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(8, labels.shape, labels.tobytes())))
    with pytest.raises(FileFormatError, match=r"t10k-labels-idx1-ubyte.gz: label 11 at item 13 is out of range; wanted 0 to 9"):
        data.mnist(tmp_path / "m", train=False)
    (tmp_path / "m/t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(8, (19,), labels[:19].tobytes())))
    with pytest.raises(FileFormatError, match=r"20 images, .* 19 labels"):
        data.mnist(tmp_path / "m", train=False)
    with pytest.raises(FileFormatError, match="has no train-images"):
        data.mnist(tmp_path)


def test_folders_of_classes_pairs_and_lists(tmp_path: Path) -> None:
    pixels = NUMBERS.integers(0, 256, (5, 8, 9, 3), np.uint8)
    for k, name in enumerate(["b/1", "a/2", "b/0", "a/10", "c/x"]):
        (tmp_path / "classes" / name).parent.mkdir(parents=True, exist_ok=True)
        write_picture(tmp_path / "classes" / f"{name}.png", pixels[k])
    found = data.open_data(tmp_path / "classes")
    assert found.classes == ["a", "b", "c"]
    assert [int(found[k][1]) for k in range(5)] == [0, 0, 1, 1, 2]
    np.testing.assert_allclose(found[0][0], pixels[3].transpose(2, 0, 1) / 255, atol=1e-7)
    (tmp_path / "classes/d").mkdir()
    with pytest.raises(FileFormatError, match="d: the folder holds no pictures"):
        data.ImageFolder(tmp_path / "classes")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileFormatError, match="empty of classes"):
        data.ImageFolder(tmp_path / "empty")

    for kind in ("images", "masks"):
        (tmp_path / "pairs" / kind).mkdir(parents=True)
    for k in range(3):
        write_picture(tmp_path / f"pairs/images/{k}.png", pixels[k])
        write_picture(tmp_path / f"pairs/masks/{k}.png", (pixels[k, ..., 0] % 3).astype(np.uint8))
    masks = data.ImageMaskPairs(tmp_path / "pairs/images", tmp_path / "pairs/masks", classes=3)
    np.testing.assert_array_equal(masks[1][1], pixels[1, ..., 0] % 3)
    with pytest.raises(FileFormatError, match=r"0.png: class 2 at row \d+, column \d+ is out of range; wanted 0 to 1"):
        data.ImageMaskPairs(tmp_path / "pairs/images", tmp_path / "pairs/masks", classes=2)[0]
    write_picture(tmp_path / "pairs/images/7.png", pixels[0])
    with pytest.raises(FileFormatError, match=r"1 files have no partner of the same name: 7.png"):
        data.open_data(tmp_path / "pairs")

    (tmp_path / "list.txt").write_text("classes/b/1.png 4\n\nclasses/a/2.png 0\n")
    listed = data.open_data(tmp_path / "list.txt")
    assert [int(listed[k][1]) for k in range(2)] == [4, 0]
    np.testing.assert_allclose(listed[1][0], pixels[1].transpose(2, 0, 1) / 255, atol=1e-7)
    for text, message in (
        ("a.png\n", "line 1 is 'a.png'"),
        ("a.png 1\nb.png -1", "line 2: label -1"),
        ("\n", "lists no pictures"),
    ):
        (tmp_path / "bad.txt").write_text(text)
        with pytest.raises(FileFormatError, match=message):
            data.ImageList(tmp_path / "bad.txt")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_picture_in_the_middle(tmp_path: Path, workers: int) -> None:
    (tmp_path / "k").mkdir()
    for k in range(6):
        write_picture(tmp_path / f"k/{k}.png", NUMBERS.integers(0, 256, (8, 8, 3), np.uint8))
    whole = (tmp_path / "k/3.png").read_bytes()
    (tmp_path / "k/3.png").write_bytes(whole[: len(whole) // 2])
    batches = iter(data.Loader(data.ImageFolder(tmp_path), 2, workers=workers))
    assert next(batches)[0].shape == (2, 3, 8, 8)
    with pytest.raises(FileFormatError, match=r"sample 3 of 6: .*k/3.png: the picture is broken"):
        next(batches)


def test_arrays_and_hdf5(tmp_path: Path) -> None:
    x, y = NUMBERS.standard_normal((7, 2, 3)).astype(np.float32), NUMBERS.integers(0, 5, 7)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    assert len(data.open_data(tmp_path / "a.npz")) == 7
    image, label = data.open_data(tmp_path / "a.npz", train=False)[1]
    np.testing.assert_array_equal(image, x[1])
    assert label == y[1]
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y[:6])
    with pytest.raises(FileFormatError, match="7 inputs and 6 targets"):
        data.from_npy(tmp_path / "x.npy", tmp_path / "y.npy")
    x[4, 1] = np.nan
    np.savez(tmp_path / "b.npz", images=x)
    with pytest.raises(FileFormatError, match=r"b.npz: item 4 holds NaN"):
        data.open_data(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", other=x)
    with pytest.raises(FileFormatError, match=r"has no array.*its arrays: other"):
        data.open_data(tmp_path / "c.npz")
    h5py = pytest.importorskip("h5py")
    for k in range(2):
        with h5py.File(tmp_path / f"{k}.h5", "w") as file:
            file["data"], file["label"] = np.full((3 + k, 2), k, np.float32), np.arange(3.0 + k)
    both = data.from_hdf5([tmp_path / "0.h5", tmp_path / "1.h5"])
    assert len(both) == 7
    assert [both[k][1] for k in range(7)] == [0, 1, 2, 0, 1, 2, 3]
    with pytest.raises(FileFormatError, match=r"0.h5: has no dataset 'x'; it has data, label"):
        data.from_hdf5(tmp_path / "0.h5", ["x"])


# -- LMDB: written by LMDB itself ----------------------------------------------------------------------------------------


def database(folder: Path, count: int, size: Any) -> list[np.ndarray]:
    lmdb = pytest.importorskip("lmdb")
    env = lmdb.open(str(folder), map_size=1 << 26)
    images = [NUMBERS.integers(0, 256, size(k), np.uint8) for k in range(count)]
    with env.begin(write=True) as transaction:
        for k, image in enumerate(images):
            c, h, w = image.shape
            datum = Message("Datum", channels=c, height=h, width=w, data=image.tobytes(), label=k % 10)
            transaction.put(f"{k:08d}".encode(), encode(datum))
    with env.begin(write=True) as transaction:  # a second transaction: the other description holds, and pages are left free
        transaction.delete(b"00000005")
    env.close()
    return images[:5] + images[6:]


def test_lmdb_as_caffe_writes_it(tmp_path: Path) -> None:
    images = database(tmp_path / "db", 700, lambda k: (3, 40, 41) if k % 50 == 0 else (1, 6, 7 + k % 3))
    found = data.open_data(tmp_path / "db")
    assert len(found) == 699
    for k, image in enumerate(images):
        got, label = found[k]
        np.testing.assert_array_equal(got, image.astype(np.float32) * np.float32(1 / 255))
        assert label == (k if k < 5 else k + 1) % 10
    assert found.reader.key(698) == b"00000699"
    with pytest.raises(FileFormatError, match=r"key '00000011': label 1 is out of range"):
        data.LmdbDataset(tmp_path / "db", classes=1)[10]


def test_a_damaged_lmdb_is_an_error_and_no_crash(tmp_path: Path) -> None:
    database(tmp_path / "db", 40, lambda k: (1, 60, 61))
    whole = bytearray((tmp_path / "db/data.mdb").read_bytes())
    path = tmp_path / "data.mdb"
    path.write_bytes(whole[:-4096])
    with pytest.raises(FileFormatError, match=r"truncated: its .* pages"):
        data.LmdbReader(path)
    for raw in (b"", bytes(5000), whole[:3000]):
        path.write_bytes(raw)
        with pytest.raises(FileFormatError, match=r"data.mdb"):
            data.LmdbReader(path)
    wrong = 0
    for _ in range(100):
        broken = bytearray(whole)
        for _ in range(int(NUMBERS.integers(1, 20))):
            place = (
                int(NUMBERS.integers(len(broken)))
                if NUMBERS.random() < 0.5
                else int(NUMBERS.integers(2)) * 4096 + int(NUMBERS.integers(160))
            )
            broken[place] = int(NUMBERS.integers(256))
        path.write_bytes(broken)
        try:
            reader = data.LmdbDataset(path)
            for k in range(len(reader)):
                reader[k]
        except FileFormatError:
            wrong += 1
    assert wrong > 10


def test_datums_that_are_encoded_or_floats(tmp_path: Path) -> None:
    from preimage.data.lmdb import array_of_datum

    pixels = NUMBERS.integers(0, 256, (5, 6, 3), np.uint8)
    found = array_of_datum(Message("Datum", data=encoded(pixels), encoded=True))
    np.testing.assert_array_equal(found, pixels[..., ::-1].transpose(2, 0, 1))
    floats = NUMBERS.standard_normal(6).astype(np.float32)
    np.testing.assert_array_equal(
        array_of_datum(Message("Datum", channels=1, height=2, width=3, float_data=floats)), floats.reshape(1, 2, 3)
    )
    with pytest.raises(FileFormatError, match="holds 5 values"):
        array_of_datum(Message("Datum", channels=1, height=2, width=3, data=bytes(5)))
    with pytest.raises(FileFormatError, match="no picture"):
        array_of_datum(Message("Datum", data=b"abc", encoded=True))


# -- NIfTI ---------------------------------------------------------------------------------------------------------------


def test_nifti(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    volume = NUMBERS.integers(0, 100, (5, 6, 7)).astype(np.int16)
    nibabel.Nifti1Image(volume, np.eye(4)).to_filename(tmp_path / "v.nii.gz")
    np.testing.assert_array_equal(data.read_nifti(tmp_path / "v.nii.gz"), volume)
    with limits(memory_bytes=1000), pytest.raises(FileFormatError, match=r"v.nii.gz: a volume of 5 x 6 x 7 would take"):
        data.read_nifti(tmp_path / "v.nii.gz")
    whole = (tmp_path / "v.nii.gz").read_bytes()
    (tmp_path / "w.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileFormatError, match=r"w.nii.gz: cannot be read as NIfTI"):
        data.read_nifti(tmp_path / "w.nii.gz")


def test_nifti_without_nibabel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'preimage\[data\]'"):
        data.read_nifti(tmp_path / "v.nii")


def test_slices() -> None:
    volume, mask = NUMBERS.standard_normal((4, 5, 6)), np.zeros((4, 5, 6))
    mask[:, 2:, 1:3] = 1
    slices = data.SliceDataset(volume, mask, axis=2, multiple=4, least=1)
    assert len(slices) == 2
    image, marked = slices[1]
    assert image.shape == marked.shape == (1, 4, 8)
    np.testing.assert_array_equal(image[0, :, :5], volume[:, :, 2].astype(np.float32))
    with pytest.raises(OptionError, match="no slice"):
        data.SliceDataset(volume, mask, least=1e9)
    with pytest.raises(ShapeError, match="same three axes"):
        data.SliceDataset(volume, mask[1:])


def test_what_cannot_be_opened_names_what_can(tmp_path: Path) -> None:
    write_file(tmp_path / "x.bin", b"abc")
    for path in (tmp_path / "none", tmp_path / "x.bin", tmp_path):
        with pytest.raises(FileFormatError, match=r"wanted IDX files"):
            data.open_data(path)

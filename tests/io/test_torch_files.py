"""Files of torch.save: read beside torch.load itself, written for it, and refused where they hold more than values."""

import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import fuzz_torch as fuzz
import numpy as np
import pytest

import preimage as pre
from preimage.errors import DTypeError, FileFormatError, ShapeError
from preimage.io import limits
from preimage.io.torch import load

torch = pytest.importorskip("torch")


def saved(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def tensors() -> dict[str, Any]:
    """Tensors of every type, laid out in every way."""
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(4, 3, 5, 6, generator=generator)
    row = torch.arange(60.0)
    kinds = "float16 float32 float64 bfloat16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool complex64 complex128"
    return {kind: torch.arange(3).to(getattr(torch, kind)) for kind in kinds.split()} | {
        "channels last": image.to(memory_format=torch.channels_last), "transposed": image.permute(3, 0, 2, 1),
        "number": torch.tensor(3.5),        "empty": torch.zeros(0, 3), "every third": row[5:50:3], "shared": row[1:],
        "expanded": torch.ones(1).expand(4, 5), "one long": row[None, :, None],
        "parameter": torch.nn.Parameter(row[:2].clone()),
    }  # fmt: skip


def as_numpy(tensor: Any) -> np.ndarray:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()


@pytest.mark.parametrize(
    "options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}, {"pickle_protocol": 5}]
)
def test_tensors_as_torch_reads_them(options: dict[str, Any], tmp_path: Path) -> None:
    wanted = tensors()
    if not options.get("_use_new_zipfile_serialization", True):  # the old form refuses types that it had no storages of
        wanted = {k: v for k, v in wanted.items() if not k.startswith("uint") or k == "uint8"}
    found = pre.load_weights(saved(tmp_path / "a.pt", wanted, **options))
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        array = as_numpy(tensor)
        assert str(found[name].dtype) == str(tensor.dtype).removeprefix("torch."), name
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name].astype(array.dtype), array)
        assert found[name].flags.c_contiguous
        assert found[name].flags.writeable


def test_what_is_written_is_read_by_torch_and_here(tmp_path: Path) -> None:
    wanted = tensors()
    arrays = pre.load_weights(saved(tmp_path / "a.pt", wanted))
    pre.save_weights(arrays, tmp_path / "b.pth")
    theirs = torch.load(tmp_path / "b.pth", weights_only=True)
    assert list(theirs) == list(wanted)
    for name, tensor in wanted.items():
        assert theirs[name].dtype == tensor.dtype
        assert torch.equal(theirs[name], tensor)
    np.testing.assert_equal(pre.load_weights(tmp_path / "b.pth"), arrays)
    with zipfile.ZipFile(tmp_path / "b.pth") as archive:
        assert archive.testzip() is None
    first = (tmp_path / "b.pth").read_bytes()
    pre.save_weights(arrays, tmp_path / "b.pth")
    assert (tmp_path / "b.pth").read_bytes() == first


def test_nested_values_come_back(tmp_path: Path) -> None:
    tree = {
        "state": {0: {"step": 3, "m": np.ones(2)}, 1: {}}, "list": [1, 2.5, None, True, "ü\ud800", (2**40, -1, -(2**200))],
        "empty": [], "none": (), "deep": {"a": {"b": [[]]}},
    }  # fmt: skip
    pre.save_weights(tree, tmp_path / "a.pt")
    np.testing.assert_equal(pre.load_weights(tmp_path / "a.pt"), tree)
    tree["list"][4] = "ü"  # type: ignore[index]
    pre.save_weights(tree, tmp_path / "a.pt")
    theirs = torch.load(tmp_path / "a.pt", weights_only=True)
    assert theirs["list"] == tree["list"]
    assert theirs["state"][0]["step"] == 3


def test_state_of_a_net_and_its_optimiser_from_torch_and_back(tmp_path: Path) -> None:
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.ConvTranspose2d(4, 2, 2)
    ).eval()
    x = torch.randn(2, 3, 8, 7)
    # as torch.optim.Adam writes it; the optimisers themselves are compared in tests/optim
    means = {
        k: {"step": torch.tensor(2.0), "exp_avg": p.detach(), "exp_avg_sq": p.detach() ** 2}
        for k, p in enumerate(theirs.parameters())
    }
    options = {
        "lr": 0.01,
        "betas": (0.9, 0.99),
        "eps": 1e-8,
        "weight_decay": 0,
        "amsgrad": False,
        "foreach": None,
        "params": list(range(len(means))),
    }
    saved(tmp_path / "c.pt", {"epoch": 7, "model": theirs.state_dict(), "optimizer": {"state": means, "param_groups": [options]}})
    nn = pre.nn
    ours = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2)).eval()
    found = pre.load_weights(tmp_path / "c.pt")
    assert found["epoch"] == 7
    ours.load_state_dict(found["model"])
    np.testing.assert_allclose(ours(x.numpy()), theirs(x).detach().numpy(), rtol=1e-4, atol=1e-5)
    adam = pre.optim.Adam(ours.parameters(), lr=0.5)
    adam.load_state_dict(found["optimizer"])
    assert adam.groups[0]["lr"] == 0.01
    np.testing.assert_array_equal(adam.state_dict()["state"][0]["mean"], theirs[0].weight.detach().numpy())
    pre.save_weights(ours.state_dict(), tmp_path / "d.pt")
    back = torch.load(tmp_path / "d.pt", weights_only=True)
    assert all(torch.equal(back[name], value) for name, value in theirs.state_dict().items())
    theirs.load_state_dict(back)


# -- what is refused -----------------------------------------------------------------------------------------------------


class Evil:
    """Calls a function when pickle loads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("was-here",)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("value", "text"), [
    (lambda: {"w": torch.ones(1), "evil": Evil()}, r"posix\.mkdir"),
    (lambda: torch.nn.Conv2d(1, 1, 1), r"torch\.nn\.modules\.conv\.Conv2d|holds a module"),
    (lambda: {"best": np.float64(3)}, r"numpy.*multiarray\.scalar"),
    (lambda: {"s": torch.eye(2).to_sparse()}, r"_rebuild_sparse_tensor"),
    (lambda: {"q": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, r"_rebuild_qtensor|QInt8Storage"),
    (lambda: {"seen": {1, 2}}, r"set"),
    (lambda: {(1, 2): 3}, r"keys"),
    (lambda: {"c": torch.tensor([1 + 2j]).conj()}, r"resolve_conj"),
    (lambda: torch.ones(3), r"holds one tensor"),
    (lambda: [torch.ones(3)], r"holds a list"),
])  # fmt: skip
def test_what_else_a_file_holds_is_refused_by_name(value: Any, text: str, old: bool, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "a.pt", value(), _use_new_zipfile_serialization=not old)
    with pytest.raises(FileFormatError, match=rf"a\.pt.*({text})"):
        pre.load_weights(tmp_path / "a.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def archive(path: Path, program: bytes, storages: dict[str, bytes] | None = None, *, kind: int = zipfile.ZIP_STORED) -> Path:
    """A file like torch's around a program of one's own."""
    with zipfile.ZipFile(path, "w", kind) as file:
        file.writestr("archive/data.pkl", program)
        for key, data in (storages or {}).items():
            file.writestr(f"archive/data/{key}", data)
    return path


def tensor(storage: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """A program: a dict of one tensor, of a storage of so many floats."""

    def row(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"\x8a\x09" + v.to_bytes(9, "little", signed=True) for v in values) + b"t"

    return (
        b"\x80\x02}X\x01\0\0\0actorch._utils\n_rebuild_tensor\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu"
        + row((storage,))[1:-1] + b"tQ" + row((offset,))[1:-1] + row(shape) + row(strides) + b"tRs."
    )  # fmt: skip


@pytest.mark.parametrize(("values", "text"), [
    ((6, 0, (2, 3), (3, 1)), None),
    ((6, 1, (2, 3), (3, 1)), "does not lie in its storage of 6"), ((6, 0, (3, 3), (3, 1)), "does not lie"), ((6, -1, (2,), (1,)), "does not lie"),
    ((6, 5, (2,), (-1,)), "integers from 0 on"), ((6, 0, (-2,), (1,)), "integers from 0 on"), ((6, 0, (2, 3), (3,)), "does not lie"),
    ((6, 0, (1,) * 33, (1,) * 33), "up to 32"), ((6, 0, (2**40,), (0,)), "--memory"), ((6, 0, (0, 2**62), (1, 1)), "larger than any memory"),
    ((5, 0, (2,), (1,)), "has 24 bytes; 5 elements of float32 need 20"),
    ((2**50, 0, (2,), (1,)), "has 24 bytes"), ((-1, 0, (0,), (1,)), "described as none"),
])  # fmt: skip
def test_tensors_that_do_not_fit_their_storage(values: Any, text: str | None, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt", tensor(*values), {"0": np.arange(6, dtype="<f4").tobytes()})
    if text is None:
        assert pre.load_weights(path)["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
        return
    with pytest.raises(FileFormatError, match=text):
        pre.load_weights(path)


@pytest.mark.parametrize(("program", "text"), [
    (b"\x80\x02}X\x01\0\0\0acos\nsystem\nX\x04\0\0\0true\x85Rs.", r"os\.system"),
    (b"\x80\x02}X\x01\0\0\0aios\nsystem\n.", "instruction 'i'"),
    (b"\x80\x02(X\x04\0\0\0trueios\nsystem\n.", "instruction 'i'"),
    (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"os\.system"),
    (b"\x80\x02ctorch\n\x1b[2Jx\n.", r"torch\.\\x1b\[2Jx"),
    (b"\x80\x02]q\0h\0a.", "hold themselves"),
    (b"\x80\x02]q\0" + b"".join(b"](" + b"h" + bytes([k]) + b"h" + bytes([k]) + b"eq" + bytes([k + 1]) for k in range(40)) + b".",
     "damaged|more than"),
    (b"\x80\x02" + b"]" + b"".join(b"q\0](h\0h\0h\0h\0e" for _ in range(60)) + b".", "damaged|more than"),
    (b"\x80\x02" + b"(" * 200 + b"N" + b"t" * 200 + b".", "deeper"),
    (b"\x80\x02X\xff\xff\xff\xffabc.", "damaged"), (b"\x80\x02}", "damaged"), (b"\x80\x02.", "damaged"),
    (b"\x80\x02NN.", "damaged"), (b"", "damaged"),
    (b"\x80\x02h\x05.", "never remembered"), (b"\x80\x07N.", "protocol 7"), (b"\x80\x02}.N.", "ends after"), (b"\x80\x02}(Nu.", "damaged"),
])  # fmt: skip
def test_programs_that_are_none(program: bytes, text: str, tmp_path: Path) -> None:
    with limits.limits(memory_bytes=2**24), pytest.raises(FileFormatError, match=text):
        load(archive(tmp_path / "a.pt", program))


def test_archives_that_lie(tmp_path: Path) -> None:
    path, program, data = tmp_path / "a.pt", tensor(6, 0, (2, 3), (3, 1)), {"0": np.arange(6, dtype="<f4").tobytes()}
    with pytest.raises(FileFormatError, match="compressed"):
        pre.load_weights(archive(path, program, {"0": bytes(10**6)}, kind=zipfile.ZIP_DEFLATED))
    good = archive(path, program, data).read_bytes()
    entry = good.index(b"PK\x01\x02", good.index(b"PK\x01\x02") + 1)  # the directory's entry of the storage
    overlapping = good[: entry + 42] + struct.pack("<I", 0) + good[entry + 46 :]
    for changed, text in (
        (overlapping, "overlap|not where|damaged"),
        (good[: entry + 16] + b"\0\0\0\0" + good[entry + 20 :], "checksum"),
        (good[: entry + 20] + struct.pack("<II", 10**9, 10**9) + good[entry + 28 :], "overlap"),
        (good[:-30], "damaged"), (good[4:], "no file of torch.save"), (b"", "no file of torch.save"), (b"PK\x03\x04", "damaged"),
        (pickle.dumps({"a": 1}, 2), "none of torch.save"),
    ):  # fmt: skip
        path.write_bytes(changed)
        with pytest.raises(FileFormatError, match=text):
            pre.load_weights(path)
    with pytest.raises(FileFormatError, match=r"no data/0"):
        pre.load_weights(archive(path, program))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("archive/code/a.py", "raise")
    with pytest.raises(FileFormatError, match="TorchScript"):
        pre.load_weights(path)


def test_overlapping_views_count_against_the_memory_allowed(tmp_path: Path) -> None:
    base = torch.zeros(1 << 16)
    saved(tmp_path / "a.pt", {str(k): base.expand(64, 1 << 16) for k in range(64)})
    with limits.limits(memory_bytes=2**28), pytest.raises(FileFormatError, match="its tensors would take 1 GiB"):
        pre.load_weights(tmp_path / "a.pt")


def test_what_cannot_be_written(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    for value, text in (
        ({"a": object()}, "object"),
        ({"a": np.array(["x"])}, "<U1"),
        ({1.5: 2}, "keys"),
        ({"a": loop}, "deeper"),
        ({"a": 1 << 3000}, "255"),
    ):
        with pytest.raises(DTypeError, match=text):
            pre.save_weights(value, tmp_path / "a.pt")
    with pytest.raises(FileFormatError, match="metadata"):
        pre.save_weights({}, tmp_path / "a.pt", {"made": "by"})
    assert not list(tmp_path.iterdir())


def test_a_net_of_another_shape_is_left_as_it_was(tmp_path: Path) -> None:
    saved(tmp_path / "a.pt", torch.nn.Conv2d(1, 2, 3).state_dict())
    net = pre.nn.Conv2d(1, 2, 5)
    before = net.state_dict()
    with pytest.raises(ShapeError, match="weight"):
        net.load_state_dict(pre.load_weights(tmp_path / "a.pt"))
    np.testing.assert_equal(net.state_dict(), before)


# -- the fuzz in short ---------------------------------------------------------------------------------------------------


def test_mutated_files(tmp_path: Path) -> None:
    counts, offenders = fuzz.fuzz(10**6, 250, tmp_path)
    assert not offenders, offenders
    assert counts["read"] > 20
    assert counts["refused"] > 100


@pytest.mark.parametrize("defect", ["foreign", "differs"])
def test_the_fuzz_sees_defects(defect: str, tmp_path: Path, monkeypatch: Any) -> None:
    data = fuzz.base_files()[0]
    assert fuzz.attempt(data, tmp_path / "a.pt", beside=True) == "read"
    if defect == "differs":
        monkeypatch.setattr(fuzz, "load", lambda path: {k: -v for k, v in load(path).items()})
        assert fuzz.attempt(data, tmp_path / "a.pt", beside=True, unchanged=data).startswith("differs")
    else:
        monkeypatch.setattr(fuzz, "load", lambda path: {}["a"])
        assert fuzz.fuzz(0, 3, tmp_path)[0]["foreign KeyError"] == 3


def test_the_same_seed_gives_the_same_file() -> None:
    base = fuzz.base_files()
    for seed in range(30):
        assert fuzz.mutate(base[seed % len(base)], random.Random(seed)) == fuzz.mutate(
            base[seed % len(base)], random.Random(seed)
        )


def test_state_dicts_in_order(tmp_path: Path) -> None:
    state = OrderedDict((name, torch.ones(1)) for name in "zyxabc")
    assert list(pre.load_weights(saved(tmp_path / "a.pt", state))) == list("zyxabc")

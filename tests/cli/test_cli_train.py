"""`preimage train`: from a Python file and from a solver, interrupted and gone on with, its report, curves and event files, its errors."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("typer")
from preimage import data
from preimage.cli import main
from preimage.host import write_file
from preimage.io.files import load_weights
from preimage.io.pictures import write_picture

PROGRAM = """
import time
import numpy as np
from preimage import data as d, nn, optim

def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(144, 3))

def optimizer(parameters):
    return optim.SGD(parameters, lr=0.05, momentum=0.9)

def schedule(optimizer, steps):
    return optim.poly(optimizer, max_iter=steps)

batch_size, epochs = 8, 3
transform = [d.Flip()]
PAUSE = 0.0
options = {"clip_norm": 5.0}

def data(path, train):
    rng = np.random.default_rng(train)
    images, labels = rng.standard_normal((40, 1, 8, 8)).astype(np.float32), rng.integers(0, 3, 40)
    images += labels[:, None, None, None]
    class Slow(d.ArrayDataset):
        def __getitem__(self, index):
            time.sleep(PAUSE)
            return super().__getitem__(index)
    return Slow(images, labels)

def pictures(net):
    return {"What it sees": np.random.default_rng(0).random((4, 1, 8, 8))}
"""


def program(folder: Path, text: str = PROGRAM) -> Path:
    write_file(folder / "net.py", text)
    return folder / "net.py"


def train(*words: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["train", *map(str, words)])
    return int(ended.value.code or 0)


def events(path: Path) -> list[tuple[int, str, float]]:
    """(step, tag, value) of an event file, its checksums compared; written from the format's description, not from our writer."""

    def crc(block: bytes) -> int:
        value = 0xFFFFFFFF
        for byte in block:
            value ^= byte
            for _ in range(8):
                value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        value ^= 0xFFFFFFFF
        return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF

    def fields(block: bytes) -> list[tuple[int, Any]]:
        found, at = [], 0
        while at < len(block):
            tag, kind = block[at] >> 3, block[at] & 7
            at += 1
            if kind in (0, 2):
                number = shift = 0
                while True:
                    number |= (block[at] & 127) << shift
                    at, shift = at + 1, shift + 7
                    if not block[at - 1] & 128:
                        break
                found.append((tag, number if kind == 0 else block[at : at + number]))
                at += number if kind == 2 else 0
            else:
                size = 8 if kind == 1 else 4
                found.append((tag, struct.unpack("<d" if kind == 1 else "<f", block[at : at + size])[0]))
                at += size
        return found

    raw, at, found = path.read_bytes(), 0, []
    while at < len(raw):
        (length,) = struct.unpack_from("<Q", raw, at)
        body = raw[at + 12 : at + 12 + length]
        assert struct.unpack_from("<I", raw, at + 8)[0] == crc(raw[at : at + 8])
        assert struct.unpack_from("<I", raw, at + 12 + length)[0] == crc(body)
        at += 16 + length
        event = fields(body)
        step = next((v for n, v in event if n == 2), 0)
        for _, summary in (f for f in event if f[0] == 5):
            for _, value in fields(summary):
                parts = dict(fields(value))
                found.append((step, parts[1].decode(), parts[2]))
    return found


def test_a_python_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(program(tmp_path), "-o", tmp_path / "run", "--tensorboard", "--threads", 1) == 0
    said = capsys.readouterr().out
    assert "training net.py: 15 steps" in said
    assert "step 15: loss" in said
    folder = tmp_path / "run"
    assert load_weights(folder / "weights.safetensors")["0.weight"].shape == (4, 1, 3, 3)
    record = json.loads((folder / "run.json").read_text())
    assert (record["steps"], record["ended"]) == (15, "steps")
    assert record["last"]["test accuracy"] > 0.4
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [e["step"] for e in lines] == list(range(1, 16))
    assert [e["step"] for e in lines if "test loss" in e] == [5, 10, 15]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text()
    for words in ("Training net.py", "Test accuracy", "Stencils of the first layer", "What it sees", "test accuracy"):
        assert words in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert 'src="data:image/png' in page
    (file,) = folder.glob("events.out.tfevents.*")
    found = events(file)
    assert [(s, t) for s, t, _ in found if t == "train/loss"] == [(k, "train/loss") for k in range(1, 16)]
    for entry in lines:
        assert next(v for s, t, v in found if (s, t) == (entry["step"], "train/loss")) == np.float32(entry["loss"])
    assert {t for _, t, _ in found} >= {"train/lr", "test/loss", "test/accuracy"}


def test_a_signal_saves_and_resume_has_the_same_weights(tmp_path: Path) -> None:
    slow = program(tmp_path, PROGRAM.replace("PAUSE = 0.0", "PAUSE = 0.004"))
    command = [sys.executable, "-m", "preimage", "train", str(slow), "-o", str(tmp_path / "run"), "--threads", "1"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    journal, end = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < end and not (journal.is_file() and journal.stat().st_size):
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=120)[0]
    assert child.returncode == 0, said
    steps = json.loads((tmp_path / "run/run.json").read_text())["steps"]
    assert f"stopped by SIGTERM at step {steps}; go on with --resume" in said
    assert steps < 15
    assert train(program(tmp_path), "-o", tmp_path / "run", "--resume", "--workers", 0) == 0
    assert train(program(tmp_path), "-o", tmp_path / "whole", "--workers", 2) == 0
    resumed, whole = (load_weights(tmp_path / f / "weights.safetensors") for f in ("run", "whole"))
    assert {k: v.tobytes() for k, v in resumed.items()} == {k: v.tobytes() for k, v in whole.items()}


SOLVER = 'net: "net.prototxt" base_lr: 0.05 lr_policy: "fixed" max_iter: 6 test_iter: 2 test_interval: 3 snapshot_prefix: "x/y"'
NET = """
layer { name: "d" type: "Data" top: "data" top: "label" data_param { source: "gone_lmdb" batch_size: 4 backend: LMDB } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "f" type: "InnerProduct" bottom: "c" top: "f" inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "acc" type: "Accuracy" bottom: "f" bottom: "label" top: "acc" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "f" bottom: "label" top: "loss" }
"""


def test_a_solver_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_file(tmp_path / "s.prototxt", SOLVER)
    write_file(tmp_path / "net.prototxt", NET)
    assert train(tmp_path / "s.prototxt", "-o", tmp_path / "run") == 2
    assert "its source 'gone_lmdb' is not there: give the data with --data" in capsys.readouterr().err
    rng = np.random.default_rng(0)
    (tmp_path / "m").mkdir()
    for start in ("train", "t10k"):
        data.write_idx(rng.integers(0, 256, (9, 6, 7), np.uint8) // 64, tmp_path / f"m/{start}-images-idx3-ubyte")
        data.write_idx(rng.integers(0, 10, 9).astype(np.uint8), tmp_path / f"m/{start}-labels-idx1-ubyte")
    assert train(tmp_path / "s.prototxt", "--data", tmp_path / "m", "-o", tmp_path / "run") == 0
    assert "best acc" in capsys.readouterr().out
    assert (tmp_path / "run/s.caffemodel").is_file()
    assert "Test acc" in (tmp_path / "run/report.html").read_text()
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [e["step"] for e in lines] == list(range(7))
    assert train(tmp_path / "s.prototxt", "--data", tmp_path / "m", "-o", tmp_path / "run") == 2
    assert "holds a run already, at step 6" in capsys.readouterr().err
    assert train(tmp_path / "s.prototxt", "--data", tmp_path / "m", "-o", tmp_path / "run", "--resume", "-n", 8) == 0
    assert "went on from step 6" in capsys.readouterr().out
    assert train(tmp_path / "s.prototxt", "--data", tmp_path / "m", "-o", tmp_path / "run", "--lr", 3) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "defines no function net"),
        ("1 / 0", "fails as it is run: ZeroDivisionError: division by zero"),
        ("def net(): return 3", r"net() gives a int"),
        ("from preimage import nn\ndef net(): return nn.ReLU()\nloss = 3", "loss must be a function"),
    ],
)
def test_files_that_are_no_programs(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = program(tmp_path, text)
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 3), np.float32), y=np.arange(4))
    assert train(place, "--data", tmp_path / "d.npz", "-o", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run/run.json").exists()


def test_one_line_for_data_that_are_not_given_and_for_nan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(program(tmp_path, PROGRAM.replace("def data(", "def other(")), "-o", tmp_path / "run") == 2
    assert "give the data with --data" in capsys.readouterr().err
    assert train(program(tmp_path, PROGRAM.replace("images += ", "images[:] = np.nan * ")), "-o", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert "the loss is nan at step 1: part 0 of the batch holds it already" in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path / "run") == ["metrics.jsonl"] or not list((tmp_path / "run").glob("step*"))


IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def _short(folder: Path) -> str:
    raw = (folder / IMAGES).read_bytes()
    (folder / IMAGES).write_bytes(raw[:-9])
    return rf"{IMAGES}: is truncated: 6 x 8 x 24 values need 1168 bytes, it ends at byte 1159, in item 5 of 6"


def _magic(folder: Path) -> str:
    raw = (folder / LABELS).read_bytes()
    (folder / LABELS).write_bytes(b"\7" + raw[1:])
    return rf"{LABELS}: is no IDX file: it begins with 07 00 08 01 \(byte 0\)"


def _label(folder: Path) -> str:
    raw = (folder / LABELS).read_bytes()
    (folder / LABELS).write_bytes(raw[:-2] + b"\x0b" + raw[-1:])
    return rf"{LABELS}: label 11 at item 4 is out of range; wanted 0 to 9"


def _empty(folder: Path) -> str:
    for path in folder.iterdir():
        path.unlink()
    return rf"{folder}: the folder holds no data that can be read; wanted IDX files"


def _picture(folder: Path) -> str:
    _empty(folder)
    (folder / "a").mkdir()
    for k in range(6):
        write_picture(folder / f"a/{k}.png", np.random.default_rng(k).integers(0, 256, (8, 8, 3), np.uint8))
    raw = (folder / "a/3.png").read_bytes()
    (folder / "a/3.png").write_bytes(raw[: len(raw) // 2])
    return r"sample 3 of 6.*a/3.png: the picture is broken"


@pytest.mark.parametrize("damage", [_short, _magic, _label, _empty, _picture])
def test_damaged_data_are_one_line_with_file_and_place(
    damage: Callable[[Path], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `preimage train` says of them; a loss that is NaN: the test before this one."""
    folder = tmp_path / "d"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        data.write_idx(rng.integers(0, 256, (6, 8, 24), np.uint8), folder / f"{part}-images-idx3-ubyte")
        data.write_idx(np.arange(6, dtype=np.uint8), folder / f"{part}-labels-idx1-ubyte")
    place = program(tmp_path, "from preimage import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(192, 10))\n")
    message = damage(folder)
    assert train(place, "--data", folder, "-o", tmp_path / "run", "--workers", 0, "--batch-size", 2, "--epochs", 1) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1

"""Checkpoints: what is saved comes back, the newest whole one is taken, damage and full disks are seen, one run in a folder."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage import data, nn, optim
from preimage.errors import FileFormatError, OptionError, OutputError, PreimageError
from preimage.learning import checkpoints

RULES = {
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: optim.Adam(p, lr=0.01, amsgrad=True),
    "AdamW": lambda p: optim.AdamW(p, lr=0.01),
    "RMSProp": lambda p: optim.RMSProp(p, lr=0.01, momentum=0.5, centered=True),
    "AdaGrad": lambda p: optim.AdaGrad(p, lr=0.01, lr_decay=0.1),
}


class Run:
    """A small net with dropout and batch normalisation, its optimiser, schedule and data, trained step by step."""

    def __init__(self, rule: str = "SGD", dtype: Any = np.float32) -> None:
        nn.init.manual_seed(7)
        layers = [
            nn.Conv2d(1, 4, 3, rng=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Dropout(0.2, rng=5),
            nn.Linear(64, 3, rng=2),
        ]
        self.net = nn.Sequential(*layers).astype(dtype)
        self.optimizer = RULES[rule](self.net.parameters())
        self.schedule = optim.poly(self.optimizer, max_iter=30)
        numbers = np.random.default_rng(0)
        images, labels = numbers.standard_normal((20, 1, 6, 6)).astype(np.float32), numbers.integers(0, 3, 20)
        self.data = data.Loader(data.ArrayDataset(images, labels), 4, shuffle=True, seed=3)
        self.rng = np.random.default_rng(11)

    def train(self, steps: int) -> None:
        while steps:
            for images, labels in self.data:
                noise = self.rng.standard_normal(images.shape).astype(images.dtype)
                loss = nn.cross_entropy(self.net((images + noise).astype(self.net[0].weight.dtype)), labels)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.schedule.step()
                steps -= 1
                if not steps:
                    break

    @property
    def parts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("net", "optimizer", "schedule", "data", "rng")}

    def bits(self) -> list[bytes]:
        return [np.ascontiguousarray(a).tobytes() for a in self.net.state_dict().values()]


@pytest.mark.parametrize(("rule", "dtype"), [*((rule, np.float32) for rule in RULES), ("Adam", np.float16)])
def test_a_run_goes_on_to_the_same_bits(rule: str, dtype: Any, tmp_path: Path) -> None:
    whole = Run(rule, dtype)
    whole.train(9)
    first = Run(rule, dtype)
    first.train(7)
    pre.save(tmp_path, step=7, **first.parts)
    second = Run(rule, dtype)
    second.train(2)  # as if it were anywhere else
    found = pre.load(tmp_path, **second.parts)
    assert found.step == 7
    assert found.skipped == []
    second.train(2)
    assert second.bits() == whole.bits()
    assert repr(second.optimizer.state_dict()) == repr(whole.optimizer.state_dict())


@pytest.mark.parametrize("left_out", ["optimizer", "schedule", "data", "rng"])
def test_every_part_counts(left_out: str, tmp_path: Path) -> None:
    """The check itself: without one of the parts the bits are others."""
    whole = Run()
    whole.train(9)
    first = Run()
    first.train(7)
    pre.save(tmp_path, step=7, **first.parts)
    second = Run()
    pre.load(tmp_path, **{k: v for k, v in second.parts.items() if k != left_out})
    second.train(2)
    assert second.bits() != whole.bits()


def test_optimisers_go_through_weights_files_without_loss(tmp_path: Path) -> None:
    from preimage.io.files import load_weights, save_weights

    for rule in RULES:
        run = Run(rule)
        run.train(3)
        for ending in ("safetensors", "npz"):
            save_weights(run.optimizer.state_dict(), tmp_path / f"o.{ending}")
            back = load_weights(tmp_path / f"o.{ending}")
            assert repr(back) == repr(run.optimizer.state_dict())
            run.optimizer.load_state_dict(back)
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)
    for ending in ("safetensors", "npz"):
        for tree in ({"a": values, "b": np.ones(2)}, {"state": {0: {"a": values, "n": 3}}}):
            save_weights(tree, tmp_path / f"n.{ending}")
            back = load_weights(tmp_path / f"n.{ending}")
            found = back["a"] if "a" in back else back["state"][0]["a"]
            assert found.dtype == values.dtype
            assert found.tobytes() == values.tobytes()


def test_generators_of_every_kind_and_plain_values(tmp_path: Path) -> None:
    kinds = [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64]
    made = {f"g{k}": np.random.Generator(kind(k)) for k, kind in enumerate(kinds)}
    for rng in made.values():
        rng.standard_normal(7)
    pre.save(tmp_path, step=1, **made, best=float("inf"), names=["a", None, True], table={"x": np.arange(3), 4: (1, 2.5)})
    wanted = {name: rng.random(5) for name, rng in made.items()}
    found = pre.load(tmp_path, **made)
    for name, rng in made.items():
        np.testing.assert_array_equal(rng.random(5), wanted[name])
    assert found.parts["best"] == float("inf")
    assert found.parts["names"] == ["a", None, True]
    assert found.parts["table"][4] == (1, 2.5)
    with pytest.raises(OptionError, match="of no MT19937 generator"):
        pre.load(tmp_path, g0=np.random.Generator(np.random.MT19937(0)))


def test_only_the_last_ones_stay(tmp_path: Path) -> None:
    for step in range(1, 8):
        pre.save(tmp_path, step=step, keep=3, x=step)
    (tmp_path / "notes.txt").write_text("mine")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("step")) == [
        f"step-0000000{k}.{e}" for k in (5, 6, 7) for e in ("json", "safetensors")
    ]
    assert pre.load(tmp_path).parts["x"] == 7
    assert pre.load(tmp_path, step=6).parts["x"] == 6
    with pytest.raises(FileFormatError, match=r"no checkpoint of step 2; it has steps \[5, 6, 7\]"):
        pre.load(tmp_path, step=2)
    with pytest.raises(FileFormatError, match="holds no checkpoint"):
        pre.load(tmp_path / "none")


def test_damage_is_seen_and_the_one_before_is_taken(tmp_path: Path) -> None:
    run = Run()
    for step in (1, 2):
        run.train(1)
        pre.save(tmp_path, step=step, **run.parts)
    numbers = np.random.default_rng(0)
    for name in ("step-00000002.safetensors", "step-00000002.json"):
        path = tmp_path / name
        whole = path.read_bytes()
        assert pre.load(tmp_path).step == 2
        for broken in (whole[:-1], whole + b"x", b"", *(_flipped(whole, numbers) for _ in range(12))):
            path.write_bytes(broken)
            found = checkpoints.newest(tmp_path)
            assert found.step == 1, name
            assert len(found.skipped) == 1
            assert "step-00000002" in found.skipped[0]
        path.unlink()
        assert checkpoints.newest(tmp_path).step == 1
        path.write_bytes(whole)
    (tmp_path / "step-00000001.json").write_text("{}")
    (tmp_path / "step-00000002.json").write_text("[1")
    with pytest.raises(FileFormatError, match=r"no checkpoint that is whole: .*step-00000002.json.*step-00000001.json"):
        pre.load(tmp_path)


def _flipped(whole: bytes, numbers: np.random.Generator) -> bytes:
    changed = bytearray(whole)
    changed[int(numbers.integers(len(changed)))] ^= 1 << int(numbers.integers(8))
    return bytes(changed)


def test_all_or_nothing(tmp_path: Path) -> None:
    run = Run()
    run.train(3)
    pre.save(tmp_path, step=3, **run.parts)
    other = Run("Adam")
    other.train(1)
    before, state = other.bits(), repr(other.optimizer.state_dict())
    with pytest.raises(PreimageError):
        pre.load(tmp_path, **other.parts)
    assert other.bits() == before
    assert repr(other.optimizer.state_dict()) == state
    with pytest.raises(OptionError, match="has no scheduler; it has data, library_rng, net"):
        pre.load(tmp_path, scheduler=other.schedule)
    with pytest.raises(OptionError, match="cannot be restored into a int"):
        pre.load(tmp_path, rng=5)


def _error(call: Callable[[], object]) -> Exception | None:
    try:
        call()
    except OutputError as error:
        return error
    return None


@pytest.mark.parametrize("call", ["write", "fsync", "replace", "open"])
def test_a_full_disk_is_said_and_the_old_ones_stay(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run()
    pre.save(tmp_path, step=1, keep=1, **run.parts)
    files = {p.name: p.read_bytes() for p in tmp_path.glob("step*")}
    as_it_is, calls = getattr(os, call), [0]
    for fails in range(1, 40):
        calls[0] = 0

        def full(*args: Any, fails: int = fails, **options: Any) -> Any:
            calls[0] += call != "open" or bool(args[1] & os.O_CREAT)
            if calls[0] == fails:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return as_it_is(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            error = _error(lambda: pre.save(tmp_path, step=2, keep=1, **run.parts))
        if error is None:
            break
        assert isinstance(error, OutputError)
        assert error.errno == errno.ENOSPC
        assert "No space left on device" in str(error)
        assert {p.name: p.read_bytes() for p in tmp_path.glob("step*")} == files
        assert pre.load(tmp_path).step == 1
    assert fails > 1
    assert pre.load(tmp_path).step == 2


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    code = "import sys, preimage as pre; pre.save(sys.argv[1], step=9, x=1)"
    pre.save(tmp_path, step=1, x=1)  # this process has the folder now
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert f"is in use by another run (process {os.getpid()})" in done.stderr
    assert pre.load(tmp_path).step == 1
    other = tmp_path / "other"
    with checkpoints.claimed(other), pytest.raises(OptionError, match="in use by another run"), checkpoints.claimed(other):
        pass
    subprocess.run([sys.executable, "-c", code, str(other)], check=True)  # free again
    assert json.loads((other / "step-00000009.json").read_text())["step"] == 9


def test_what_no_file_gives_back_is_refused(tmp_path: Path) -> None:
    for wrong in (object(), lambda: 0, np.array([object()])):
        with pytest.raises(PreimageError):
            pre.save(tmp_path, step=1, thing=wrong)
    assert not list(tmp_path.glob("step*"))


@pytest.mark.parametrize("key", ["format", "step", "tree", "arrays"])
def test_a_record_without_a_key_is_refused_though_its_digest_is_right(key: str, tmp_path: Path) -> None:
    record = pre.save(tmp_path, step=1, note={"a": np.ones(2)})
    content = json.loads(record.read_text())
    del content[key], content["sha256"]
    record.write_text(json.dumps(content | {"sha256": checkpoints._digest(content)}))
    with pytest.raises(FileFormatError, match=record.name):
        pre.load(tmp_path)

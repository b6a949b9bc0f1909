"""The Trainer: what it learns, the same bits however it runs, and what it does about NaN, signals, full disks and impatience."""

from __future__ import annotations

import functools
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage import data, learning, nn, optim
from preimage.errors import DivergedError, OptionError, OutputError, ShapeError
from preimage.learning import checkpoints
from preimage.learning.training.journal import read_journal


def blobs(count: int = 60, seed: int = 0) -> data.ArrayDataset:
    """Pictures with a bright half, and which half it is."""
    rng = np.random.default_rng(seed)
    images, labels = rng.standard_normal((count, 1, 8, 8)).astype(np.float32), rng.integers(0, 4, count)
    for image, label in zip(images, labels, strict=True):
        half = np.s_[:, :4] if label == 0 else np.s_[:, 4:] if label == 1 else np.s_[:, :, :4] if label == 2 else np.s_[:, :, 4:]
        image[half] += 1.5
    return data.ArrayDataset(images, labels)


def net() -> nn.Sequential:
    nn.init.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, rng=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2), nn.Flatten(), nn.Linear(54, 4, rng=2)
    )  # fmt: skip


def trainer(**options: Any) -> learning.Trainer:
    made = net()
    optimizer = optim.SGD(made.parameters(), lr=0.05, momentum=0.9)
    given = {"schedule": optim.poly(optimizer, max_iter=60), "metrics": {"accuracy": "accuracy"}, "ema": 0.9} | options
    return learning.Trainer(made, nn.cross_entropy, optimizer, **given)


def loader(workers: int = 0) -> data.Loader:
    return data.Loader(blobs(), 8, shuffle=True, seed=2, transform=data.Flip(0.0), workers=workers)


def bits(made: learning.Trainer) -> list[bytes]:
    held = [*made.net.state_dict().values(), *(made.ema.averages.values() if made.ema else ())]
    return [np.ascontiguousarray(a).tobytes() for a in held]


def test_it_learns_and_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = trainer()
    test = data.Loader(blobs(80, seed=1), 32)
    before = made.evaluate(test)["accuracy"]
    history = made.fit(loader(), test, epochs=6, folder=tmp_path, progress=True)
    assert history.step == 6 * 8 == made.step
    assert history.ended == "steps"
    accuracy = dict(history.values("test accuracy"))
    assert list(accuracy) == [8 * k for k in range(1, 7)]
    assert accuracy[48] > 0.7 > before
    assert accuracy[48] == made.evaluate(test)["accuracy"]
    assert history.best == {"name": "loss", "value": min(v for _, v in history.values("test loss")), "step": history.best["step"]}
    assert checkpoints.newest(tmp_path / "best").step == history.best["step"]
    assert [e["step"] for e in read_journal(tmp_path / "metrics.jsonl")] == list(range(1, 49))
    printed = capsys.readouterr().out.splitlines()
    assert 8 <= len(printed) <= 12
    assert "step 48 of 48  loss" in printed[-1]
    assert made.net.training


OPTIONS: dict[str, Any] = {"accumulate": 2, "clip_norm": 1.0}


@functools.cache
def whole() -> tuple[list[bytes], list[float]]:
    """The bits and losses of a run on one thread that nothing interrupts."""
    made = trainer(**OPTIONS)
    with pre.config(threads=1):
        history = made.fit(loader(), iterations=14)
    return bits(made), [v for _, v in history.values("loss")]


@pytest.mark.parametrize(("cut", "threads"), [(1, 1), (4, 2), (9, 2)])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(cut: int, threads: int, tmp_path: Path) -> None:
    with pre.config(threads=threads):
        first = trainer(**OPTIONS)
        first.fit(loader(2), iterations=40, folder=tmp_path, progress=lambda now: now.step == cut)
        assert first.step == cut
        second = trainer(**OPTIONS)
        history = second.fit(loader(3), iterations=14, folder=tmp_path, resume=True)
    assert history.resumed_from == cut
    assert bits(second) == whole()[0]
    assert [e["loss"] for e in history.entries] == whole()[1]


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    """Without batch normalisation and dropout, two halves give the gradient of the whole, but for rounding."""
    images, labels = blobs(16).arrays
    found = []
    for size, accumulate in ((16, 1), (8, 2)):
        made = nn.Sequential(nn.Conv2d(1, 3, 3, rng=1), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4, rng=2))
        run = learning.Trainer(made, nn.cross_entropy, optim.SGD(made.parameters(), lr=0.1), accumulate=accumulate)
        history = run.fit(data.Loader(data.ArrayDataset(images, labels), size), iterations=5)
        found.append((history.values("loss")[-1][1], made[0].weight.data))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)


def test_clipping_and_ema() -> None:
    images, labels = blobs(16).arrays
    made = nn.Sequential(nn.Flatten(), nn.Linear(64, 4, rng=2))
    start = made[1].weight.data.copy()
    run = learning.Trainer(made, nn.cross_entropy, optim.SGD(made.parameters(), lr=1.0), clip_norm=0.01, ema=0.5)
    run.fit([(images, labels)], iterations=1)
    moved = [made[1].weight.data - start, made[1].bias.data - nn.Linear(64, 4, rng=2).bias.data]
    assert math.sqrt(sum(float((m**2).sum()) for m in moved)) == pytest.approx(0.01, rel=1e-3)
    np.testing.assert_allclose(run.ema.averages["1.weight"], (start + made[1].weight.data) / 2, rtol=1e-6)
    now = made[1].weight.data
    with run.ema.applied():
        np.testing.assert_array_equal(made[1].weight.data, run.ema.averages["1.weight"])
    assert made[1].weight.data is now
    clipped = learning.Trainer(made, nn.cross_entropy, optim.SGD(made.parameters(), lr=1.0), clip_value=1e-3)
    clipped.fit([(images, labels)], iterations=1)
    assert np.abs(made[1].weight.data - now).max() <= 1e-3 * 1.001


class Broken(nn.Module):
    """Divides by zero from some call on."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def forward(self, x: Any) -> Any:
        self.after -= 1
        return x if self.after >= 0 else x / 0.0


def test_a_nan_stops_with_the_step_and_the_layer(tmp_path: Path) -> None:
    made = nn.Sequential(nn.Conv2d(1, 2, 3, rng=0), nn.Sequential(nn.ReLU(), Broken(4)), nn.Flatten(), nn.Linear(72, 4, rng=1))
    run = learning.Trainer(made, nn.cross_entropy, optim.SGD(made.parameters(), lr=0.01))
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) at step 5: layer '1.1' \(Broken\) gave it"):
        run.fit(loader(), iterations=20, folder=tmp_path, save_every=2)
    assert checkpoints.newest(tmp_path).step == 4
    wild = trainer()
    wild.optimizer.lr = 1e30
    with pytest.raises(
        DivergedError, match=r"at step \d+.*(the weight '0.weight' holds it|layer '.*' \(.*\) gave it|the gradient of)"
    ):
        wild.fit(loader(), iterations=20)
    images, labels = blobs(16).arrays
    images = images.copy()
    images[3, 0, 2, 2] = np.nan
    with pytest.raises(DivergedError, match=r"at step 1: part 0 of the batch holds it already, in its sample 3"):
        trainer().fit([(images, labels)], iterations=3)

    def loss(output: Any, target: Any) -> Any:
        return (output * 0).sum() + np.nan

    with pytest.raises(DivergedError, match="the loss itself gave it"):
        learning.Trainer(net(), loss, optim.SGD(net().parameters(), lr=0.1)).fit(loader(), iterations=1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_with_a_checkpoint(number: int, tmp_path: Path) -> None:
    handler = signal.getsignal(number)
    run = trainer()
    history = run.fit(
        loader(), iterations=50, folder=tmp_path, progress=lambda now: os.kill(os.getpid(), number) if now.step == 7 else None
    )
    assert (history.ended, run.step) == (signal.Signals(number).name, 7)
    assert checkpoints.newest(tmp_path).step == 7
    assert signal.getsignal(number) is handler


def test_the_second_ctrl_c_breaks_off(tmp_path: Path) -> None:
    def twice(now: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer().fit(loader(), iterations=50, folder=tmp_path, progress=twice)
    assert not list(tmp_path.glob("step*"))


def test_a_full_disk_ends_it_and_the_old_checkpoint_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from preimage.host import writing

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    def fill(now: Any) -> None:
        if now.step == 10:
            monkeypatch.setattr(writing.os, "fsync", full)

    with pytest.raises(OutputError, match=r"No space left.*the checkpoint of step 8 in .* is good"):
        trainer().fit(loader(), iterations=50, folder=tmp_path, save_every=4, progress=fill)
    monkeypatch.undo()
    assert checkpoints.newest(tmp_path).step == 8
    whole, run = trainer(), trainer()
    whole.fit(loader(), iterations=14)
    run.fit(loader(), iterations=14, folder=tmp_path, resume=True)
    assert bits(run) == bits(whole)


def test_early_stopping_and_the_best(tmp_path: Path) -> None:
    values = iter([0.1, 0.5, 0.4, 0.5, 0.9, 0.9])
    run = trainer(metrics={"score": lambda output, target: 0.0})
    run.metrics["score"].value = lambda: next(values)
    options: dict[str, Any] = {"folder": tmp_path, "test_every": 2, "monitor": "score", "patience": 2}
    history = run.fit(loader(), loader(), iterations=40, **options)
    assert (history.ended, history.step, history.best) == ("patience", 8, {"name": "score", "value": 0.5, "step": 4})
    assert checkpoints.newest(tmp_path / "best").step == 4
    again = trainer(metrics={"score": lambda output, target: 0.0}).fit(loader(), loader(), iterations=40, resume=True, **options)
    assert (again.ended, again.step) == ("patience", 8)
    with pytest.raises(OptionError, match="the test measures loss, score, not 'dice'"):
        trainer(metrics={"score": lambda o, t: 0.0}).fit(loader(), loader(), iterations=40, test_every=2, monitor="dice")


def test_a_folder_with_a_run(tmp_path: Path) -> None:
    trainer().fit(loader(), iterations=3, folder=tmp_path)
    with pytest.raises(OptionError, match="holds a run already, at step 3: go on with resume=True"):
        trainer().fit(loader(), iterations=3, folder=tmp_path)
    with checkpoints.claimed(tmp_path), pytest.raises(OptionError, match="in use by another run"):
        trainer().fit(loader(), iterations=3, folder=tmp_path, resume=True)
    done = trainer().fit(loader(), iterations=3, folder=tmp_path, resume=True)
    assert (done.ended, done.step, len(done.entries)) == ("steps", 3, 3)
    with pytest.raises(OptionError, match="is of a seed 2, this loader has 9"):
        trainer().fit(data.Loader(blobs(), 8, shuffle=True, seed=9), iterations=5, folder=tmp_path, resume=True)


def test_a_journal_with_half_a_line(tmp_path: Path) -> None:
    trainer().fit(loader(), iterations=6, folder=tmp_path, save_every=2, progress=lambda now: now.step == 4)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    history = trainer().fit(loader(), iterations=6, folder=tmp_path, resume=True)
    assert [e["step"] for e in history.entries] == [1, 2, 3, 4, 5, 6]
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]


def test_the_search_for_a_rate_leaves_no_trace() -> None:
    run = trainer()
    run.fit(loader(), iterations=3)
    before, state, rate = bits(run), repr(run.optimizer.state_dict()), run.optimizer.lr
    source = loader()
    found = learning.find_lr(run, source, low=1e-5, high=10.0, steps=40)
    assert 1e-3 < found.suggestion < 1
    assert found.suggestion * 10 in found.rates
    assert found.losses[-1] > 2 * min(found.losses)
    assert (bits(run), repr(run.optimizer.state_dict()), run.optimizer.lr, run.step) == (before, state, rate, 3)
    assert source.state_dict()["batch"] == 0
    with pytest.raises(OptionError, match="0 < low < high"):
        learning.find_lr(run, source, low=1.0, high=0.1)


def test_metrics_against_their_definitions() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 3, (50, 5)).astype(np.float32), rng.integers(0, 5, 50)
    for k in (1, 3):
        metric = learning.Accuracy(top_k=k)
        for part in (np.s_[:20], np.s_[20:]):
            metric.update(scores[part], labels[part])
        right = [label in sorted(range(5), key=lambda c, s=s: (-s[c], c))[:k] for s, label in zip(scores, labels, strict=True)]
        assert metric.value() == np.mean(right)
    a, b = rng.standard_normal((6, 1, 4, 4)), rng.integers(0, 2, (6, 1, 4, 4))
    dice, psnr = learning.Dice(), learning.PSNR(peak=2.0)
    for part in (np.s_[:1], np.s_[1:]):
        dice.update(a[part], b[part])
        psnr.update(a[part], b[part])
    found = {tuple(p) for p in np.argwhere(a > 0)}, {tuple(p) for p in np.argwhere(b)}
    assert dice.value() == 2 * len(found[0] & found[1]) / (len(found[0]) + len(found[1]))
    assert psnr.value() == pytest.approx(20 * math.log10(2 / math.sqrt(((a - b) ** 2).mean())))
    with pytest.raises(ShapeError, match="one shape"):
        dice.update(a, b[:, :, 1:])


def test_wrong_calls() -> None:
    for call in (
        lambda: learning.Trainer(3, nn.mse_loss, optim.SGD(net().parameters(), lr=1)),
        lambda: trainer(metrics={"x": "speed"}),
        lambda: trainer().fit(loader()),
        lambda: trainer().fit(loader(), epochs=1, iterations=1),
        lambda: trainer().fit(loader(), iterations=3, patience=2),
        lambda: trainer().fit([], iterations=1),
    ):
        with pytest.raises(OptionError):
            call()
    run = learning.Trainer(net(), lambda output, target: output, optim.SGD(net().parameters(), lr=1))
    with pytest.raises(OptionError, match="the loss must be one number"):
        run.fit(loader(), iterations=1)

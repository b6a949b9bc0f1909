"""A Python file that describes a training run, as `preimage train FILE.py` takes it.

    def net():                      required: the nn.Module to train
    loss = nn.cross_entropy         a function of output and target; default: cross_entropy
    def optimizer(parameters):      default: Adam with a rate of 0.001
    def schedule(optimizer, steps): a learning-rate schedule over so many steps; default: none
    def data(path, train):          a dataset, a Loader or batches; default: preimage.data.open_data(path, train=train)
    transform = [...]               what happens to samples for training (not to those for tests)
    batch_size = 64
    epochs = 10
    metrics = {"accuracy": "accuracy"}        default: this, with the default loss
    options = {"clip_norm": 1.0}    more options of learning.Trainer: accumulate, clip_norm, clip_value, ema
    def pictures(net):              pictures for the report: a dict of titles and arrays (C, H, W) or (N, C, H, W) of 0 .. 1

The file is run as Python: run only files that you trust.
"""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preimage import nn, optim
from preimage.data import Loader, Stream, open_data
from preimage.errors import FileFormatError, OptionError
from preimage.learning.training.trainer import Trainer

__all__ = ["Program", "read_program"]

_KNOWN = ("net", "loss", "optimizer", "schedule", "data", "transform", "batch_size", "epochs", "metrics", "options", "pictures")


@dataclass(slots=True)
class Program:
    """What a file defines."""

    path: Path
    given: Mapping[str, Any] = field(default_factory=dict)

    def loader(self, path: Path | None, *, train: bool, batch_size: int | None, seed: int, workers: int) -> Any:
        """The batches for training or tests; None where the file and the caller name no data for tests."""
        made = self.given.get("data")
        if made is None and path is None:
            if train:
                raise OptionError(f"{self.path} has no function data(path, train): give the data with --data")
            return None
        dataset = made(None if path is None else str(path), train) if made is not None else open_data(path or "", train=train)
        if dataset is None or isinstance(dataset, Loader | Stream):
            return dataset
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            return Stream(dataset)
        size = batch_size or int(self.given.get("batch_size", 64))
        transform = self.given.get("transform") if train else None
        return Loader(dataset, min(size, len(dataset)), shuffle=train, seed=seed, transform=transform, workers=workers)

    def trainer(self, steps: int, lr: float | None, **sharing: Any) -> Trainer:
        """The Trainer that the file describes; sharing: its shards and ranks. Raises: FileFormatError where it is no such thing."""
        net = self.given["net"]()
        if not isinstance(net, nn.Module):
            raise FileFormatError(f"{self.path}: net() gives a {type(net).__name__}; a nn.Module is wanted")
        make = self.given.get("optimizer", lambda parameters: optim.Adam(parameters, lr=1e-3))
        optimizer = make(list(net.parameters()))
        if not isinstance(optimizer, optim.Optimizer):
            raise FileFormatError(
                f"{self.path}: optimizer(parameters) gives a {type(optimizer).__name__}; an optim.Optimizer is wanted"
            )
        if lr is not None:
            optimizer.lr = lr
        schedule = self.given["schedule"](optimizer, steps) if "schedule" in self.given else None
        usual = {"accuracy": "accuracy"} if "loss" not in self.given else {}
        options = {"schedule": schedule, "metrics": self.given.get("metrics", usual), **self.given.get("options", {}), **sharing}
        return Trainer(net, self.given.get("loss", nn.cross_entropy), optimizer, **options)


def read_program(path: Path) -> Program:
    """Run a file and take what it defines. Raises: FileFormatError for a file without net(), and one that fails as it is run."""
    if not path.is_file():
        raise FileFormatError(f"there is no file {str(path)!r}")
    try:
        defined = runpy.run_path(str(path), run_name="preimage_train")
    except Exception as error:  # the file's own
        raise FileFormatError(f"{path}: fails as it is run: {type(error).__name__}: {error}") from error
    given = {name: defined[name] for name in _KNOWN if name in defined}
    if not callable(given.get("net")):
        raise FileFormatError(f"{path}: defines no function net() that gives the net to train")
    for name in ("optimizer", "schedule", "data", "loss", "pictures"):
        if name in given and not callable(given[name]):
            raise FileFormatError(f"{path}: {name} must be a function, it is a {type(given[name]).__name__}")
    return Program(path, given)

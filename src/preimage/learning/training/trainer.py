"""Trainer: a net, a loss and an optimiser, trained on batches; the same bits for any number of threads, and after any interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from preimage.autograd import Tensor, array_of, no_grad
from preimage.data import Loader, batches_of
from preimage.errors import DivergedError, OptionError
from preimage.learning.training import faults
from preimage.learning.training.averages import EMA
from preimage.learning.training.loop import History, Listener, Plan, lines, run
from preimage.learning.training.metrics import metric_of
from preimage.learning.training.ranks import Alone, Ranks, agreed
from preimage.learning.training.recorded import RecordedNet
from preimage.learning.training.shards import Shards
from preimage.nn import Module
from preimage.ops.operands import count_of, number_of
from preimage.optim import Optimizer, clip_grad_norm, clip_grad_value

__all__ = ["Trainer"]


class _Cut:
    """Into how many shards a run cuts its batches, as a checkpoint holds it."""

    def __init__(self, count: int) -> None:
        self._count = count

    def state_dict(self) -> dict[str, int]:
        return {"count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.get("count") != self._count:
            raise OptionError(
                f"the run cuts its batches into {state.get('count')} shards, not {self._count}: it would not go on alike"
            )


class Trainer:
    """Trains `net` so that loss(net(input), target) falls.

    A batch is (input, target) or (input, target, more targets): loss(output, *targets); with the input alone, it is the target too.
    loss: a function or a module. schedule: an optim.Schedule of the optimiser. metrics: names and measures for tests ("accuracy", "dice", "psnr",
    a function of output and target, or an object with reset, update and value). accumulate: batches whose gradients are averaged for one step.
    clip_norm, clip_value: bounds of the gradients. ema: the decay of an average of the weights, with which tests are made.
    shards: into how many parts every batch is cut, whose gradients are added in one fixed order (`training.shards`); ranks: the processes that
    share them (`training.ranks`), whose number then changes no bit. The loss has to be a mean over samples; batch statistics are those of a shard.

    Example:
        >>> import numpy as np, preimage as pre
        >>> net = pre.nn.Linear(2, 1, rng=0)
        >>> trainer = pre.learning.Trainer(net, pre.nn.mse_loss, pre.optim.SGD(net.parameters(), lr=0.1))
        >>> x = np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32)
        >>> history = trainer.fit([(x, x[:, :1] - x[:, 1:])], iterations=100)
        >>> history.step, history.values("loss")[-1][1] < 1e-6
        (100, True)
    """

    def __init__(
        self,
        net: Module,
        loss: Callable[..., Any],
        optimizer: Optimizer,
        *,
        schedule: Any = None,
        metrics: Mapping[str, Any] | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema: float | None = None,
        shards: int | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        if not isinstance(net, Module) or not callable(loss) or not isinstance(optimizer, Optimizer):
            raise OptionError(
                "Trainer takes a Module, a loss and an Optimizer, "
                f"got {type(net).__name__}, {type(loss).__name__} and {type(optimizer).__name__}"
            )
        self.net, self.loss, self.optimizer, self.schedule = net, loss, optimizer, schedule
        self.metrics = {str(name): metric_of(value) for name, value in (metrics or {}).items()}
        self.accumulate = count_of(accumulate, "accumulate", 1)
        self.clip_norm = None if clip_norm is None else number_of(clip_norm, "clip_norm", 0)
        self.clip_value = None if clip_value is None else number_of(clip_value, "clip_value", 0)
        self.ema = None if ema is None else EMA(net, ema)
        if shards is None and ranks is not None:
            raise OptionError("ranks share the shards of a batch: say how many there are (shards)")
        self.shards = None if shards is None else Shards(count_of(shards, "shards", 1), ranks)
        #: The net's passes, run as programs where that gives the same bits; `recorded.why` says why they were not the last time.
        self.recorded = RecordedNet(net)
        self.step = 0
        self._data: Any = None
        self._test: Any = None
        self._batches: Iterator[Any] | None = None

    # -- training ------------------------------------------------------------------------------------------------------

    def fit(
        self,
        data: Any,
        test: Any = None,
        *,
        epochs: int | None = None,
        iterations: int | None = None,
        folder: str | PathLike[str] | None = None,
        resume: bool = False,
        save_every: int | None = None,
        test_every: int | None = None,
        keep: int = 3,
        monitor: str | None = None,
        patience: int | None = None,
        progress: Listener | bool | None = None,
    ) -> History:
        """Train until `iterations` steps, or `epochs` epochs, are made in all (those of earlier calls count).

        data, test: a Loader, or any iterable of batches that can begin again. test_every: in steps; default: after every epoch. The other options
        are those of `Plan`: journal, checkpoints, resume, best, patience. progress: a function that hears of every step (True from it ends the run),
        or True for about ten lines.

        Raises: DivergedError naming the step and the first layer that gave a NaN; OptionError, OutputError as `loop.run`.
        """
        self.uses(data, test)
        a_epoch = self._epoch_length()
        if (epochs is None) == (iterations is None):
            raise OptionError("fit takes either epochs or iterations")
        if epochs is not None and a_epoch is None:
            raise OptionError("the data do not say how many batches an epoch has: give iterations")
        steps = iterations if iterations is not None else -(-count_of(epochs, "epochs", 0) * (a_epoch or 1) // self.accumulate)
        if self._test is not None and test_every is None:
            test_every = max(1, (a_epoch or steps or 1) // self.accumulate)
        plan = Plan(
            None if folder is None else Path(folder),
            resume,
            save_every,
            test_every if self._test is not None else None,
            keep,
            monitor,
            patience,
        )
        listeners = [lines()] if progress is True else [progress] if callable(progress) else []
        return run(self, steps, plan, listeners)

    def uses(self, data: Any, test: Any = None) -> None:
        """The batches for training and tests, for the loop that is called by itself (`training.run`); `fit` does it."""
        self._data, self._test = batches_of(data), None if test is None else batches_of(test)

    def _epoch_length(self) -> int | None:
        source = self._data if isinstance(self._data, Loader) else self._data.source
        try:
            return len(source)
        except TypeError:
            return None

    def advance(self) -> dict[str, float]:
        """One step of the optimiser, on `accumulate` batches. Raises: DivergedError."""
        self.net.train()
        self.optimizer.zero_grad()
        total, samples, rate = 0.0, 0, self.optimizer.lr
        for number in range(self.accumulate):
            batch = self._next()
            samples += len(batch[0])
            total += self._backward(batch, number) / self.accumulate
        wrong = faults.first_gradient(self.net.named_parameters())
        if wrong is not None:
            raise DivergedError(f"the gradient of {wrong!r} is not finite at step {self.step + 1}, though the loss is {total:g}")
        if self.clip_value is not None:
            clip_grad_value(self.optimizer.parameters(), self.clip_value)
        if self.clip_norm is not None:
            clip_grad_norm(self.optimizer.parameters(), self.clip_norm)
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        if self.ema is not None:
            self.ema.update()
        self.step += 1
        return {"loss": total, "lr": rate, "samples": float(samples)}

    def _backward(self, batch: Any, number: int) -> float:
        """The loss of a step's batch; its gradients are added to those that are there, each batch with its share. Raises: DivergedError."""
        if self.recorded.net is not self.net:
            self.recorded = RecordedNet(self.net)
        if self.shards is not None:
            return self._backward_in_shards(self.shards, batch, number)

        def finish(loss: Tensor) -> float:
            value = float(loss.item())
            self._check_loss(value, batch)
            (loss if self.accumulate == 1 else loss / self.accumulate).backward()
            return value

        return self.recorded.run(batch[0], lambda output: self._loss_of(output, batch), finish)

    def _backward_in_shards(self, shards: Shards, batch: Any, number: int) -> float:
        parameters = self.optimizer.parameters()
        before = [p.grad for p in parameters]

        def run(part: Any) -> Any:
            losses = []

            def finish(loss: Tensor) -> float:
                losses.append(loss.data)
                loss.backward()
                return float(loss.item())

            self.recorded.run(part[0], lambda output: self._loss_of(output, part), finish)
            return losses[-1]

        value = shards.gradients(self.net, batch, run, self.step * self.accumulate + number)
        self._check_loss(value, batch)
        for parameter, held in zip(parameters, before, strict=True):
            if parameter.grad is not None and (self.accumulate > 1 or held is not None):
                made = parameter.grad.data / parameter.dtype.type(self.accumulate)
                parameter.grad = Tensor(made if held is None else held.data + made)
        return value

    def _check_loss(self, value: float, batch: Any) -> None:
        if not np.isfinite(value):
            raise DivergedError(f"the loss is {value} at step {self.step + 1}: {faults.origin(self.net, batch)}")

    def _next(self) -> Any:
        for _ in range(3):  # a state may stand at the end of an epoch, and an epoch may be empty but for that
            if self._batches is None:
                self._batches = iter(self._data)
            batch = next(self._batches, None)
            if batch is not None:
                return batch
            self._batches = None
        raise OptionError("the data have no batches")

    def _loss_of(self, output: Any, batch: Any) -> Tensor:
        loss = self.loss(output, *(batch[1:] or batch[:1]))
        if not isinstance(loss, Tensor) or loss.size != 1:
            raise OptionError(
                f"the loss must be one number that records gradients, got {type(loss).__name__} of shape {np.shape(array_of(loss))}"
            )
        return loss

    # -- tests ---------------------------------------------------------------------------------------------------------

    def evaluate(self, data: Any = None) -> dict[str, float]:
        """The mean loss and the metrics over one epoch of the data (default: those for tests), in evaluation mode, with the averages of `ema`.

        Of several ranks the first one computes them, for all.
        """
        if data is None and self.ranks.size > 1:
            own = self._evaluated(self._test) if self.ranks.rank == 0 and self._test is not None else {}
            found: dict[str, float] = agreed(self.ranks, own)[0]
            return found
        return self._evaluated(self._test if data is None else data)

    @property
    def ranks(self) -> Ranks:
        """The processes that train together; one, unless the shards have others."""
        return Alone() if self.shards is None else self.shards.ranks

    def _evaluated(self, data: Any) -> dict[str, float]:
        source = None if data is None else batches_of(data)
        if source is None:
            return {}
        for metric in self.metrics.values():
            metric.reset()
        total, count, was = 0.0, 0, self.net.training
        self.net.eval()
        try:
            with no_grad(), nullcontext() if self.ema is None else self.ema.applied():
                for batch in source:
                    output, targets = self.net(batch[0]), batch[1:] or batch[:1]
                    total += float(np.asarray(array_of(self.loss(output, *targets)), np.float64)) * len(batch[0])
                    count += len(batch[0])
                    for metric in self.metrics.values():
                        metric.update(output, targets[0])
        finally:
            self.net.train(was)
        return {"loss": total / max(count, 1), **{name: metric.value() for name, metric in self.metrics.items()}}

    # -- the loop's questions --------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        held = {"net": self.net, "optimizer": self.optimizer, "schedule": self.schedule, "data": self._data, "ema": self.ema}
        held["shards"] = None if self.shards is None else _Cut(self.shards.count)
        return {name: value for name, value in held.items() if value is not None}

    def close(self) -> None:
        """End the threads that make batches; the place in the data stays."""
        if self._batches is not None and hasattr(self._batches, "close"):
            state = self._data.state_dict()
            self._batches.close()
            self._data.load_state_dict(state)
        self._batches = None

"""`preimage train`: a net trained from a Python file or from Caffe's solver file; it can be left and taken up at any moment."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

import preimage
from preimage.cli import text
from preimage.cli.inputs import machine
from preimage.cli.output import free_name
from preimage.cli.train_watch import TrainWatch
from preimage.errors import OptionError
from preimage.host import write_file
from preimage.learning.training import History, Plan, Task, run
from preimage.learning.training.events import EventFile
from preimage.learning.training.ranks import ranks_of_environment
from preimage.report.terminal import Terminal
from preimage.report.training import TrainingReport, render_training, write_curves

__all__ = ["train"]

_WHAT = "What to learn"
_HOW = "How it runs"
DEFAULT = "preimage-train"
#: Into how many parts batches are cut where several ranks train.
SHARDS = 4


def train(
    model: Annotated[Path, typer.Argument(help="A Python file that defines net(), or a Caffe solver (.prototxt).")],
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="The data, also in place of a solver's sources.", rich_help_panel=_WHAT)
    ] = None,
    test_data: Annotated[
        Path | None,
        typer.Option("--test-data", help="The data for tests; default: the test part of --data.", rich_help_panel=_WHAT),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="How often to go through the data.", rich_help_panel=_WHAT)] = None,
    iterations: Annotated[
        int | None, typer.Option("--iterations", "-n", min=1, help="Or how many steps.", rich_help_panel=_WHAT)
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples in a batch.", rich_help_panel=_WHAT)] = None,
    lr: Annotated[float | None, typer.Option(help="The learning rate.", rich_help_panel=_WHAT)] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights to begin with.", rich_help_panel=_WHAT)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and chance.", rich_help_panel=_WHAT)] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=f"The run's folder; default: {DEFAULT}.", rich_help_panel=_HOW)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest good checkpoint.", rich_help_panel=_HOW)
    ] = False,
    save_every: Annotated[int | None, typer.Option(min=1, help="Steps between checkpoints.", rich_help_panel=_HOW)] = None,
    keep: Annotated[int, typer.Option(min=1, help="How many checkpoints stay.", rich_help_panel=_HOW)] = 3,
    test_every: Annotated[
        int | None, typer.Option(min=1, help="Steps between tests; default: an epoch.", rich_help_panel=_HOW)
    ] = None,
    monitor: Annotated[str | None, typer.Option(help="The test's value that says which is best.", rich_help_panel=_HOW)] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Tests without a better one that end the run.", rich_help_panel=_HOW)
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's event files.", rich_help_panel=_HOW)
    ] = False,
    workers: Annotated[int, typer.Option(min=0, help="Threads that make batches.", rich_help_panel=_HOW)] = 1,
    shards: Annotated[
        int | None,
        typer.Option(min=1, help=f"Parts of a batch, which ranks share; default under mpirun: {SHARDS}.", rich_help_panel=_HOW),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="0: one per CPU.", rich_help_panel=_HOW)] = 0,
    engine: Annotated[str, typer.Option(help="auto, jit, gemm or reference.", rich_help_panel=_HOW)] = "auto",
) -> None:
    """Train a net, and write its weights, curves and a report.

    The folder holds report.html, curves.png, metrics.jsonl, the weights, and checkpoints. Ctrl-C finishes the step in hand, saves and reports;
    --resume goes on from there, or from wherever a crash left it, to the same bits.

    Under mpirun the ranks share every batch: mpirun -n 2 preimage train MODEL.
    """
    console = Terminal(soft_wrap=not sys.stdout.isatty())
    ranks = ranks_of_environment()
    with preimage.config(**text.settings(engine, threads)), ranks.ending_together() if ranks else nullcontext():
        if ranks is not None:
            shards = shards or max(SHARDS, ranks.size)
            if output is None:
                raise OptionError("ranks need to be told the folder that they share: give --output")
        folder = output or (Path(DEFAULT) if resume else free_name(DEFAULT))
        asked = {"test_every": test_every, "monitor": monitor, "patience": patience, "save_every": save_every}
        given = {name: value for name, value in asked.items() if value is not None}
        options: dict[str, Any] = {"folder": folder, "resume": resume, "keep": keep} | given
        from_caffe = model.suffix.lower() in (".prototxt", ".pbtxt", ".txt")
        job = (_from_caffe if from_caffe else _from_python)(
            model, data, test_data, epochs=epochs, iterations=iterations, batch_size=batch_size, lr=lr, weights=weights, seed=seed,
            workers=workers, options=options, shards=shards, ranks=ranks,
        )  # fmt: skip
        if ranks is not None and ranks.rank:  # the first one watches and writes for all
            run(job.task, job.steps, job.plan)
            return
        several = f", {ranks.size} ranks" if ranks else ""
        console.print(f"training {job.name}: {job.steps} steps into {folder}{several}")
        with ExitStack() as stack:
            listeners: list[Any] = [stack.enter_context(TrainWatch(console, "train", job.steps))]
            if tensorboard:
                folder.mkdir(parents=True, exist_ok=True)
                listeners.append(stack.enter_context(closing(EventFile(folder))))
            started = time.perf_counter()
            history = run(job.task, job.steps, job.plan, listeners)
        _say(console, history, job, folder)
        _write(folder, job, history, time.perf_counter() - started, seed)
        console.print(f"report: {folder / 'report.html'}")
        console.print(f"        {(folder / 'report.html').absolute().as_uri()}", soft_wrap=True)


class _Job(NamedTuple):
    """What is trained: the task, its plan, and how its weights, stencils and pictures are had when it is done."""

    name: str
    task: Task
    steps: int
    plan: Plan
    save: Any
    arrays: Any
    pictures: Any
    facts: list[tuple[str, str]]


def _from_python(model: Path, data: Path | None, test_data: Path | None, **given: Any) -> _Job:
    from preimage.io.files import load_weights, save_weights
    from preimage.learning.training.program import read_program
    from preimage.nn import init

    init.manual_seed(given["seed"])
    program = read_program(model)
    loading = {"batch_size": given["batch_size"], "seed": given["seed"], "workers": given["workers"]}
    train_data = program.loader(data, train=True, **loading)
    test = program.loader(test_data or data, train=False, **loading)
    epoch = len(train_data) if hasattr(train_data, "__len__") else None
    if given["epochs"] is not None and given["iterations"] is not None:
        raise OptionError("give either --epochs or --iterations")
    epochs = given["epochs"] or int(program.given.get("epochs", 10))
    if given["iterations"] is None and epoch is None:
        raise OptionError(f"{model}: its data do not say how long an epoch is: give --iterations")
    accumulate = int(program.given.get("options", {}).get("accumulate", 1))
    steps = given["iterations"] or -(-epochs * (epoch or 1) // accumulate)
    init.manual_seed(given["seed"])
    trainer = program.trainer(steps, given["lr"], shards=given["shards"], ranks=given["ranks"])
    if given["weights"] is not None:
        trainer.net.load_state_dict(load_weights(given["weights"]))
    trainer.uses(train_data, test)
    options = given["options"]
    if test is not None:
        options.setdefault("test_every", max(1, (epoch or steps) // accumulate))
    else:
        options = {k: v for k, v in options.items() if k not in ("test_every", "monitor", "patience")}
    options.setdefault("save_every", max(1, min(500, steps // 10)))
    facts = [
        ("model", str(model)),
        ("weights", f"{sum(p.size for p in trainer.net.parameters()):,}"),
        ("optimiser", repr(trainer.optimizer)),
        *([] if trainer.shards is None else [("shards", f"{trainer.shards.count}, {trainer.ranks.size} ranks")]),
    ]

    def save(folder: Path) -> str:
        save_weights(trainer.net.state_dict(), folder / "weights.safetensors")
        return "weights.safetensors"

    def pictures() -> dict[str, Any]:
        make = program.given.get("pictures")
        return {str(k): np.asarray(v) for k, v in make(trainer.net.eval()).items()} if make else {}

    return _Job(model.name, trainer, steps, Plan(**options), save, lambda: trainer.net.state_dict(), pictures, facts)


def _from_caffe(model: Path, data: Path | None, test_data: Path | None, **given: Any) -> _Job:
    from preimage.caffe.training import SolverTask

    for name in ("epochs", "batch_size", "lr"):
        if given[name] is not None:
            raise OptionError(f"a solver file says its own: --{name.replace('_', '-')} is for Python files")
    if given["shards"] is not None:
        raise OptionError("a solver file is trained by one process: --shards and mpirun are for Python files")
    options = given["options"]
    task = SolverTask(
        model,
        data=data,
        test_data=test_data,
        folder=options["folder"],
        seed=given["seed"],
        iterations=given["iterations"],
        weights=given["weights"],
    )
    net = task.solver.net
    options.setdefault("save_every", max(1, min(500, task.max_iter // 10)))
    count = sum(int(np.prod(b.shape)) for b in net._stored.values())
    facts = [("solver", str(model)), ("weights", f"{count:,}"), ("rule", task.solver.type)]

    def save(folder: Path) -> str:
        net.save(folder / f"{task.name}.caffemodel")
        return f"{task.name}.caffemodel"

    blobs = dict(net._stored)
    return _Job(
        model.name, task, task.max_iter, task.plan(**options), save, lambda: {k: b.data for k, b in blobs.items()}, dict, facts
    )


def _say(console: Terminal, history: History, job: _Job, folder: Path) -> None:
    for reason in history.skipped:
        console.print(f"passed over: {reason}")
    if history.resumed_from is not None:
        console.print(f"went on from step {history.resumed_from}")
    if history.ended == "patience":
        console.print(f"ended at step {history.step}: no better test for {job.plan.patience} tests")
    elif history.ended != "steps":
        console.print(f"stopped by {history.ended} at step {history.step}; go on with --resume --output {folder}")
    last = history.entries[-1] if history.entries else {}
    tests = [e for e in history.entries if any(k.startswith("test ") for k in e)]
    shown = {k: v for k, v in (tests[-1] if tests else {}).items() if k.startswith("test ")}
    shown = {"loss": last.get("loss", float("nan"))} | shown
    console.print(f"step {history.step}: " + ", ".join(f"{k} {v:.4f}" for k, v in shown.items()))
    if history.best is not None:
        console.print(
            f"best {history.best['name']}: {history.best['value']:.4f} at step {history.best['step']}, kept in {folder / 'best'}"
        )


def _write(folder: Path, job: _Job, history: History, seconds: float, seed: int) -> None:
    """Weights, curves, report and facts."""
    weights = job.save(folder)
    shown = {k: v for e in history.entries for k, v in e.items() if k == "loss" or k.startswith("test ")}
    facts = [
        *job.facts, ("steps", f"{history.step:,} of {job.steps:,}"), ("seed", str(seed)),
        ("threads", str(preimage.config.current().threads or "all")), ("weights' file", weights), *machine().items(),
    ]  # fmt: skip
    record = {"command": "train", "model": job.name, "steps": history.step, "of": job.steps, "ended": history.ended, "best": history.best,
              "last": shown, "facts": dict(facts), "weights": weights}  # fmt: skip
    write_file(folder / "run.json", json.dumps(record, indent=1, default=str))
    write_curves(history.entries, folder / "curves.png")
    total = history.entries[-1].get("seconds", seconds) if history.entries else seconds
    numbers = [(k, f"{v:.4f}") for k, v in list(shown.items())[:4]]
    report = TrainingReport(
        f"Training {job.name}",
        f"{history.step:,} of {job.steps:,} steps, loss and tests over time, and what the first layer learned.",
        history.entries, facts, [*numbers, ("steps", f"{history.step:,}"), ("seconds", f"{total:.0f}")],
        _first_stencils(job.arrays()), job.pictures(),
    )  # fmt: skip
    write_file(folder / "report.html", render_training(report))


def _first_stencils(arrays: dict[str, Any]) -> Any:
    """The weights (K, 1 or 3, k, k) of the first layer that has some which can be shown."""
    for array in arrays.values():
        if array.ndim == 4 and array.shape[1] in (1, 3) and min(array.shape[2:]) >= 3 and max(array.shape[2:]) <= 32:
            return np.asarray(array, np.float32)
    return None

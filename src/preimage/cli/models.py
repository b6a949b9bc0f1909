"""`preimage run`, `preimage convert`, `preimage info`: models from files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from preimage import config
from preimage.cli import text
from preimage.cli.output import Results, check_outputs
from preimage.errors import OptionError
from preimage.host import printable
from preimage.resources import parse_bytes

if TYPE_CHECKING:
    from preimage.cli.feeding import Feeding
    from preimage.io.graph import Graph, Step
    from preimage.report.terminal import Terminal

__all__ = ["convert", "info", "run"]

#: The largest side that a picture is resized to.
MOST_SIDE = 65_500
_Shapes = Annotated[
    list[str] | None, typer.Option("--shape", help="An input's shape where the file leaves it open: name=1,3,224,224.")
]
_Weights = Annotated[Path | None, typer.Option("--weights", help="The caffemodel of a prototxt.")]


_Memory = Annotated[
    str | None,
    typer.Option(
        "--memory", help="What the model's arrays and values may take, e.g. 8GiB; default: four fifths of the free memory."
    ),
]
_Flop = Annotated[float | None, typer.Option("--flop", help="What one run of the model may cost; default: 2**50.")]
_Seconds = Annotated[float | None, typer.Option("--seconds", help="How long one run may take; default: any time.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")]


def _limits(memory: str | None, flop: float | None, seconds: float | None) -> Any:
    """The budget that the options name."""
    from preimage.io.limits import limits

    return limits(
        memory_bytes=None if memory is None else parse_bytes(memory, "--memory"),
        flop=None if flop is None else max(0, int(text.finite(flop, "flop"))),
        seconds=None if seconds is None else text.finite(seconds, "seconds"),
    )


def _shapes(texts: list[str] | None) -> dict[str, list[int]]:
    result = {}
    for given in texts or []:
        name, _, sizes = given.rpartition("=")
        try:
            result[name] = [int(v) for v in sizes.replace("x", ",").split(",")]
        except ValueError:
            raise OptionError(f"--shape wants name=1,3,224,224, got {given!r}") from None
        if min(result[name]) < 0:
            raise OptionError(f"--shape wants sizes of at least 0, got {given!r}")
    return result


def _warn_of_fillers(missing: Sequence[str]) -> None:
    """Say which layers of a Caffe net no file has given weights."""
    if missing:
        shown = ", ".join(map(repr, missing[:8])) + (", ..." if len(missing) > 8 else "")
        message = (
            f"warning: no file gives the weights of {len(missing)} layers, which keep the values of their fillers: {shown}; "
            "give the right --weights"
        )
        print(printable(message), file=sys.stderr)


def _warn_of_unread(unread: Sequence[str]) -> None:
    """Say which fields of a Caffe net are not known here."""
    if unread:
        shown = "; ".join(unread[:8]) + ("; ..." if len(unread) > 8 else "")
        print(
            printable(f"warning: {len(unread)} fields of the net are not known here and have no effect: {shown}"), file=sys.stderr
        )


def _numbers(given: str, what: str) -> tuple[float, ...]:
    try:
        return tuple(text.finite(float(v), what) for v in given.split(",")) if given else ()
    except ValueError as error:
        raise OptionError(f"--{what} wants finite numbers separated by commas, got {given!r}") from error


def _settings(threads: int, fast: bool, engine: str | None = None) -> config:
    """What the options mean; an accuracy that is not asked for stays as it is set."""
    return config(threads=threads, **({} if engine is None else {"engine": engine}), **({"accuracy": "fast"} if fast else {}))


def run(
    model: Annotated[Path, typer.Argument(help="An ONNX file, a prototxt or a caffemodel, whatever its name.")],
    inputs: Annotated[list[Path] | None, typer.Argument(help="Pictures or .npy arrays; each is one run of the model.")] = None,
    named: Annotated[
        list[str] | None,
        typer.Option(
            "--input", "-i", help="An input of a model with several: name=picture, name=array.npy or name=16000; for every run."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A folder for the results; none: a table only.")] = None,
    weights: _Weights = None,
    shape: _Shapes = None,
    size: Annotated[str, typer.Option(help="Resize pictures to HxW first.")] = "",
    scale: Annotated[float, typer.Option(help="Multiply the pixels (0..255) by this, after the mean.")] = 1.0,
    mean: Annotated[str, typer.Option(help="Subtract this from the pixels: one number, or one per channel.")] = "",
    bgr: Annotated[bool, typer.Option(help="Channels as blue, green, red.")] = False,
    layout: Annotated[
        str, typer.Option(help="Where the model has a picture's channels: channels_first, channels_last; auto: as its file says.")
    ] = "auto",
    png: Annotated[bool, typer.Option(help="Write results as pictures where they are some, else as .npy.")] = False,
    fixed: Annotated[bool, typer.Option(help="Insist on the input sizes that the file says.")] = False,
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Run the file's own nodes, without folding and fusing them first.")
    ] = False,
    profile: Annotated[bool, typer.Option(help="Show the time of every layer of the last run.")] = False,
    threads: Annotated[int, typer.Option(help="Threads; 0: one per CPU.", min=0, max=text.MOST_THREADS)] = 0,
    engine: Annotated[str, typer.Option(help="The engine for the contractions.")] = "auto",
    fast: Annotated[
        bool, typer.Option("--fast", help="Let convolutions multiply less and round more, where that is faster.")
    ] = False,
    overwrite: _Overwrite = False,
    memory: _Memory = None,
    flop: _Flop = None,
    seconds: _Seconds = None,
) -> None:
    """Run a model on pictures or arrays."""
    from preimage.cli.feeding import Feeding
    from preimage.io.files import load_model
    from preimage.io.graph.passes import optimise
    from preimage.report.models import print_profile, print_results
    from preimage.report.terminal import Terminal

    console = Terminal(soft_wrap=True)
    settings = _settings(threads, fast, engine)
    how = {"size": _size(size), "scale": text.finite(scale, "scale"), "mean": _numbers(mean, "mean"), "bgr": bgr}
    with _limits(memory, flop, seconds):
        graph = load_model(model, weights, open_sizes=not fixed, input_shapes=_shapes(shape))
        _warn_of_fillers(getattr(graph, "missing", ()))
        _warn_of_unread(getattr(graph, "unread", ()))
        feeding = Feeding(graph, named or [], _layout(layout), how)
        files = feeding.files(inputs or [])
        results = None if output is None else Results(output, [p.stem for p in files], graph.outputs, overwrite)
        with settings:
            rows, steps = _run(graph if as_is else optimise(graph), files, feeding, results, png, profile, console)
    print_results(rows, console)
    if results is not None:
        console.print(f"{results.written} results written to {output}")
        for file, path, key in results.renamed(files):
            console.print(f"  {file}: {key} of {path}")
    if profile:
        print_profile(steps, console)


def _run(
    graph: Graph, inputs: list[Path], feeding: Feeding, results: Results | None, png: bool, profile: bool, console: Terminal
) -> tuple[list[tuple[str, str, np.ndarray]], list[Step]]:
    """The values of every input, and the steps of the last run."""
    from rich.progress import track

    from preimage import no_grad
    from preimage.autograd import array_of

    rows: list[tuple[str, str, np.ndarray]] = []
    steps: list[Step] = []
    shown = track(inputs, "running", console=console, disable=len(inputs) < 2 or not console.is_terminal)
    with no_grad():
        for number, path in enumerate(shown):
            feeds = feeding.feeds(path)
            if profile and number == len(inputs) - 1:  # once before, so that the times are not those of compiling
                graph.run(feeds)
            steps.clear()
            found = graph.run(feeds, steps=steps)
            for place, key in enumerate(graph.outputs):
                value = np.asarray(array_of(found[key]))
                rows.append((path.name, key, value))
                if results is not None:
                    results.write(number, place, value, png)
    return rows, steps


def _layout(given: str) -> str:
    return given if given == "auto" else text.words(given, "layout (or auto)", text.LAYOUTS)[0]


def _size(given: str) -> tuple[int, int] | None:
    if not given:
        return None
    try:
        height, width = (int(v) for v in given.lower().split("x"))
    except ValueError:
        raise OptionError(f"--size wants HEIGHTxWIDTH, got {given!r}") from None
    if not (1 <= height <= MOST_SIDE and 1 <= width <= MOST_SIDE):
        raise OptionError(f"--size wants sizes from 1 to {MOST_SIDE}, got {given!r}")
    return height, width


def convert(
    source: Annotated[Path, typer.Argument(help="An ONNX file, a prototxt or a caffemodel, whatever its name.")],
    target: Annotated[Path, typer.Argument(help="An .onnx, .caffemodel, .prototxt, .safetensors or .npz file to write.")],
    weights: _Weights = None,
    shape: _Shapes = None,
    seed: Annotated[int, typer.Option(help="Seed of the random input.", min=0)] = 0,
    overwrite: _Overwrite = False,
    memory: _Memory = None,
    flop: _Flop = None,
    seconds: _Seconds = None,
) -> None:
    """Convert a model, run original and result on random input, and write the result if they agree."""
    from preimage.io.convert import TOLERANCE
    from preimage.io.convert import convert as convert_file
    from preimage.report.terminal import Terminal

    check_outputs(target, overwrite=overwrite)
    with _limits(memory, flop, seconds):
        verdict = convert_file(
            source, target, weights=weights, input_shapes=_shapes(shape), seed=seed, overwrite=overwrite
        )  # fmt: skip
    compared = f"{verdict.compared} {verdict.what} compared"
    if verdict.same_bits:
        said = f"{compared}: same bits"
    else:
        said = f"{compared}: largest difference {verdict.largest_difference:.3g} of the output's range (allowed: {TOLERANCE:g})"
    out = Terminal(soft_wrap=True)
    _warn_of_fillers(verdict.missing)
    _warn_of_unread(verdict.unread)
    if verdict.written:
        out.print(f"{target} written. {said}")
        return
    out.print(f"{target} not written. {said}" + (f"; {verdict.problem}" if verdict.problem else ""))
    raise typer.Exit(1)


def info(
    model: Annotated[
        Path, typer.Argument(help="An ONNX file, a prototxt or a caffemodel, whatever its name; --check: a folder, a list.")
    ],
    weights: _Weights = None,
    shape: _Shapes = None,
    plans: Annotated[bool, typer.Option(help="Say on which schedule each contraction runs.")] = True,
    check: Annotated[
        bool, typer.Option("--check", help="Try every model file under the folder: does it load, run and agree with its library?")
    ] = False,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Warm times of every node, slowest first, with GFLOP/s and GB/s, and what bounds it."),
    ] = False,
    threads: Annotated[int, typer.Option(help="Threads of --profile; 0: one per CPU.", min=0, max=text.MOST_THREADS)] = 0,
    fast: Annotated[bool, typer.Option("--fast", help="The plans and times of `preimage run --fast`.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the verdicts of --check there.")] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="Write the table of --check as Markdown there.")
    ] = None,
    overwrite: _Overwrite = False,
    memory: _Memory = None,
    flop: _Flop = None,
    seconds: _Seconds = None,
) -> None:
    """Layers, shapes, parameters, flop, memory, receptive field, and what runs on which schedule."""
    if check:
        from preimage.cli.check import check_models

        check_models(model, memory, seconds, json_file, markdown_file, overwrite=overwrite)
        return
    from preimage.io.files import load_model
    from preimage.io.graph.passes import optimise
    from preimage.io.inspection import inspect_model, random_inputs
    from preimage.report.models import print_changes, print_info
    from preimage.report.terminal import Terminal

    given = _shapes(shape)
    with _limits(memory, flop, seconds), _settings(threads, fast):
        graph = load_model(model, weights, open_sizes=bool(given), input_shapes=given)
        if profile:
            _print_profile(graph, random_inputs(graph, given))
            return
        found = inspect_model(graph, random_inputs(graph, given), plans=plans)
        changes = optimise(graph).changes
    print_info(found, Terminal())
    print_changes(changes, Terminal())


def _print_profile(graph: Graph, feeds: dict[str, np.ndarray]) -> None:
    from preimage.bench.models.profile import profile
    from preimage.io.graph.passes import optimise
    from preimage.report.model_tables import print_node_times
    from preimage.report.terminal import Terminal

    print_node_times(profile(optimise(graph), feeds), Terminal(width=200))

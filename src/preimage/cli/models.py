"""`preimage run`, `preimage convert`, `preimage info`: models from files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from preimage.errors import OptionError

__all__ = ["convert", "info", "run"]

_Shapes = Annotated[
    list[str] | None, typer.Option("--shape", help="An input's shape where the file leaves it open: name=1,3,224,224.")
]
_Weights = Annotated[Path | None, typer.Option("--weights", help="The caffemodel of a prototxt.")]


def _shapes(texts: list[str] | None) -> dict[str, list[int]]:
    result = {}
    for text in texts or []:
        name, _, sizes = text.rpartition("=")
        try:
            result[name] = [int(v) for v in sizes.replace("x", ",").split(",")]
        except ValueError:
            raise OptionError(f"--shape wants name=1,3,224,224, got {text!r}") from None
    return result


def _warn_of_fillers(missing: Sequence[str]) -> None:
    """Say which layers of a Caffe net no file has given weights."""
    if missing:
        shown = ", ".join(map(repr, missing[:8])) + (", ..." if len(missing) > 8 else "")
        typer.echo(
            f"warning: no file gives the weights of {len(missing)} layers, which keep the values of their fillers: {shown}; "
            "give the right --weights",
            err=True,
        )


def _numbers(text: str, what: str) -> tuple[float, ...]:
    try:
        return tuple(float(v) for v in text.split(",")) if text else ()
    except ValueError:
        raise OptionError(f"--{what} wants numbers separated by commas, got {text!r}") from None


def run(
    model: Annotated[Path, typer.Argument(help="An ONNX file, a prototxt or a caffemodel, whatever its name.")],
    inputs: Annotated[list[Path], typer.Argument(help="Pictures or .npy arrays; each is one run of the model.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A folder for the results; none: a table only.")] = None,
    weights: _Weights = None,
    shape: _Shapes = None,
    size: Annotated[str, typer.Option(help="Resize pictures to HxW first.")] = "",
    scale: Annotated[float, typer.Option(help="Multiply the pixels (0..255) by this, after the mean.")] = 1.0,
    mean: Annotated[str, typer.Option(help="Subtract this from the pixels: one number, or one per channel.")] = "",
    bgr: Annotated[bool, typer.Option(help="Channels as blue, green, red.")] = False,
    png: Annotated[bool, typer.Option(help="Write results as pictures where they are some, else as .npy.")] = False,
    fixed: Annotated[bool, typer.Option(help="Insist on the input sizes that the file says.")] = False,
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Run the file's own nodes, without folding and fusing them first.")
    ] = False,
    profile: Annotated[bool, typer.Option(help="Show the time of every layer of the last run.")] = False,
    threads: Annotated[int, typer.Option(help="Threads; 0: one per CPU.")] = 0,
    engine: Annotated[str, typer.Option(help="The engine for the contractions.")] = "auto",
) -> None:
    """Run a model on pictures or arrays."""
    from rich.console import Console
    from rich.progress import track

    from preimage import config, no_grad
    from preimage.autograd import array_of
    from preimage.io.files import load_model, read_input, write_array
    from preimage.io.graph import Step
    from preimage.io.graph_passes import optimise
    from preimage.report.models import print_profile, print_results

    console = Console()
    graph = load_model(model, weights, open_sizes=not fixed, input_shapes=_shapes(shape))
    _warn_of_fillers(getattr(graph, "missing", ()))
    if len(graph.inputs) != 1:
        raise OptionError(
            f"{model} takes {len(graph.inputs)} inputs ({', '.join(i.name for i in graph.inputs)}); `run` feeds models with one"
        )
    declared = graph.inputs[0].example or graph.inputs[0].shape or ()
    channels = declared[1] if len(declared) > 1 and isinstance(declared[1], int) else _channels(graph)
    wanted = _size(size)
    graph = graph if as_is else optimise(graph)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str, np.ndarray]] = []
    steps: list[Step] = []
    with config(threads=threads, engine=engine), no_grad():
        for path in track(inputs, "running", console=console, disable=len(inputs) < 2 or not console.is_terminal):
            x = read_input(path, channels=channels, size=wanted, scale=scale, mean=_numbers(mean, "mean"), bgr=bgr)
            if profile and path == inputs[-1]:  # once before, so that the times are not those of compiling
                graph.run({graph.inputs[0].name: x})
            steps.clear()
            found = graph.run({graph.inputs[0].name: x}, steps=steps)
            for key in graph.outputs:
                value = np.asarray(array_of(found[key]))
                rows.append((path.name, key, value))
                if output is not None:
                    name = f"{path.stem}.{''.join(c if c.isalnum() else '_' for c in key)}"
                    picture = png and value.ndim == 4 and value.shape[0] == 1 and value.shape[1] in (1, 3)
                    write_array(value, output / f"{name}.{'png' if picture else 'npy'}")
    print_results(rows, console)
    if output is not None:
        console.print(f"{len(rows)} results written to {output}")
    if profile:
        print_profile(steps, console)


def _channels(graph: Any) -> int:
    """Channels of the first contraction's weight: what a model with open sizes takes."""
    for node in graph.nodes:
        if node.op == "conv" and node.inputs[0] == graph.inputs[0].name and node.inputs[1] in graph.weights:
            return int(graph.weights[node.inputs[1]].shape[1])
    return 3


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    try:
        height, width = (int(v) for v in text.lower().split("x"))
    except ValueError:
        raise OptionError(f"--size wants HEIGHTxWIDTH, got {text!r}") from None
    if height < 1 or width < 1:
        raise OptionError(f"--size wants sizes of at least 1, got {text!r}")
    return height, width


def convert(
    source: Annotated[Path, typer.Argument(help="An ONNX file, a prototxt or a caffemodel, whatever its name.")],
    target: Annotated[Path, typer.Argument(help="An .onnx, .caffemodel, .prototxt, .safetensors or .npz file to write.")],
    weights: _Weights = None,
    shape: _Shapes = None,
    seed: Annotated[int, typer.Option(help="Seed of the random input.")] = 0,
) -> None:
    """Convert a model, then run original and result on random input and say the largest difference."""
    from preimage.io.convert import convert as convert_file

    verdict = convert_file(source, target, weights=weights, input_shapes=_shapes(shape), seed=seed)
    if verdict.same_bits:
        said = f"{verdict.compared} {verdict.what} compared: same bits"
    else:
        said = f"{verdict.compared} {verdict.what} compared: largest difference {verdict.largest_difference:.3g} of the output's range"
    typer.echo(f"{target} written. {said}")
    _warn_of_fillers(verdict.missing)
    if verdict.largest_difference > 1e-3:
        raise typer.Exit(1)


def info(
    model: Annotated[Path, typer.Argument(help="An ONNX file, a prototxt or a caffemodel, whatever its name.")],
    weights: _Weights = None,
    shape: _Shapes = None,
    plans: Annotated[bool, typer.Option(help="Say on which schedule each contraction runs.")] = True,
) -> None:
    """Layers, shapes, parameters, flop, memory, receptive field, and what runs on which schedule."""
    from rich.console import Console

    from preimage.io.files import load_model
    from preimage.io.inspection import inspect_model, random_inputs
    from preimage.report.models import print_info

    given = _shapes(shape)
    graph = load_model(model, weights, open_sizes=bool(given), input_shapes=given)
    print_info(inspect_model(graph, random_inputs(graph, given), plans=plans), Console())

"""`preimage bench`: engines and peers on layers, or whole models, side by side; a table, losing rows first, and JSON or HTML files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preimage.cli import text
from preimage.cli.layers import (
    Dilation,
    Given,
    Groups,
    OutputPadding,
    PaddingText,
    Stride,
    Suite,
    Tier,
    Transpose,
    Weight,
    layers_of,
)
from preimage.cli.output import check_outputs

__all__ = ["bench"]

#: The libraries that a user would otherwise run a model with.
PEERS = "onnxruntime,openvino,opencv"


def bench(
    layers: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names or patterns of suite layers; none: the whole tier. With --model or --load: further files of that option."
        ),
    ] = None,
    suite: Suite = None,
    tier: Tier = "core",
    given: Given = None,
    weight: Weight = None,
    transpose: Transpose = False,
    stride: Stride = "1",
    padding: PaddingText = "0",
    dilation: Dilation = "1",
    output_padding: OutputPadding = "0",
    groups: Groups = 1,
    engines: Annotated[str, typer.Option(help="Comma-separated contestants: engines, torch, onnxruntime, jax.")] = "jit,torch",
    passes: Annotated[str, typer.Option(help="Comma-separated, or all: grad_bias too.")] = "forward,grad_input,grad_weight",
    dtype: Annotated[str, typer.Option(help="Comma-separated: float32, float64, float16, bfloat16.")] = "float32",
    layout: Annotated[str, typer.Option(help="channels_last, channels_first, or both.")] = "both",
    threads: Annotated[str, typer.Option(help="Comma-separated numbers of threads.")] = "1",
    accuracy: Annotated[
        str, typer.Option(help="Comma-separated: exact, fast. Each engine takes part once for each, the first leads the table.")
    ] = "exact",
    quick: Annotated[bool, typer.Option(help="Three rounds, short turns: for a look.")] = False,
    direct: Annotated[bool, typer.Option(help="Call the engines' methods, not the public operations.")] = False,
    check: Annotated[bool, typer.Option(help="Check every answer before its clock runs.")] = True,
    device: Annotated[str, typer.Option(help="Of engines on GPUs: auto, cuda:0, simulator.")] = "auto",
    load: Annotated[
        list[Path] | None, typer.Option(help="Measure nothing: show runs that --json wrote, joined; several may follow.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all times there.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write a page with a roofline plot there.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Write the tables as Markdown there.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")] = False,
    worst: Annotated[int, typer.Option(help="Show only so many rows, the worst; 0: all.", min=0)] = 0,
    model: Annotated[
        list[Path] | None, typer.Option("--model", help="Time this model file, not layers; several may follow.")
    ] = None,
    models: Annotated[Path | None, typer.Option("--models", help="Time the models of a list (benchmarks/models.toml).")] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Of the list, only models whose name holds this.")] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Bring the list's files to the cache (pip download), and stop.")
    ] = False,
    peers: Annotated[
        str, typer.Option(help="For models: onnxruntime, openvino, opencv, torch, torch_compiled, preimage_fast.")
    ] = PEERS,
    python: Annotated[
        list[str] | None,
        typer.Option("--python", help="For models: another interpreter that has a peer, as openvino=/path/to/python."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="For models: bursts of each contestant.", min=1, max=1000)] = 7,
    cpu: Annotated[
        bool, typer.Option("--cpu", help="For models: CPU time of one thread, for a machine with other work.")
    ] = False,
) -> None:
    """Time layers, or whole models, on this library and on installed peers, interleaved, answers checked first."""
    if model or models or install:
        from preimage.cli.bench_models import bench_models
        from preimage.settings import ACCURACIES

        check_outputs(json_file, markdown_file, overwrite=overwrite)
        if install or not model:
            text.no_stray(layers, "a list of models is one file, and each name of --only has an --only of its own")
        if not models:
            text.no_stray(only, "--only picks models of a list, which --models names")
        files = [*(model or []), *map(Path, layers or [])]
        if "fast" in text.words(accuracy, "accuracy", ACCURACIES):
            peers = f"{peers},preimage_fast"
        bench_models(
            files, models, only or [], install=install, peers=peers, pythons=python or [], threads=threads, cpu=cpu,
            rounds=rounds, outputs=(json_file, markdown_file), overwrite=overwrite,
        )  # fmt: skip
        return
    from rich.text import Text

    from preimage.bench import Protocol, Run, run_bench
    from preimage.bench.suite import PASSES
    from preimage.report.bench import print_run, write_html
    from preimage.report.bench_markdown import write_markdown
    from preimage.report.terminal import Terminal
    from preimage.settings import ACCURACIES, config

    console = Terminal(width=190)
    check_outputs(json_file, html_file, markdown_file, overwrite=overwrite)
    if load:
        run = Run.load(*load, *(layers or []))
    else:
        chosen = layers_of(layers, suite, tier, given, weight, transpose, groups, stride, padding, dilation, output_padding)
        asked = PASSES if passes == "all" else text.words(passes, "pass (or all)", PASSES)
        with console.status("measuring the machine") as status, config(device=device):
            run = run_bench(
                chosen,
                tuple(engines.split(",")),
                passes=asked,
                dtypes=text.words(dtype, "dtype", text.DTYPES),
                threads=text.threads(threads),
                layouts=text.layouts(layout),
                protocol=Protocol.quick() if quick else Protocol(),
                direct=direct,
                check=check,
                accuracies=text.words(accuracy, "accuracy", ACCURACIES),
                progress=lambda rows, done, total: status.update(Text(f"{done}/{total}  {rows[0].layer} {rows[0].what}")),
            )
    if json_file:
        run.save(json_file, overwrite=overwrite)
    if markdown_file:
        write_markdown(run, markdown_file, overwrite=overwrite)
    if html_file:
        write_html(run, html_file, overwrite=overwrite)
    print_run(run, console, worst=worst)
    if any(row.error.startswith(("wrong answer", "AssertionError")) for row in run.rows):
        raise typer.Exit(1)

"""`preimage learn`: stencils learned from pictures, the pictures rebuilt with them, and a page that shows it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import preimage
from preimage.cli import text
from preimage.cli.inputs import check_memory, larger_would_take, longest_by_default, machine, read_pictures, stored_sizes, word
from preimage.cli.output import OutputFolder, free_name
from preimage.cli.watch import Watch
from preimage.engines import plan
from preimage.errors import OptionError
from preimage.geometry import ConvGeometry
from preimage.host import write_file
from preimage.io.pictures import Picture, demo_picture
from preimage.io.stencils import save_stencils
from preimage.learning import Coded, Options, order_of_use, paint_by_numbers, shares, split_slow
from preimage.learning import learn as learn_stencils
from preimage.report.learned import LearnedReport, render_learned, write_pngs
from preimage.report.terminal import Terminal

__all__ = ["engine_of", "learn", "say_where", "write_results"]

_WHAT = "What to learn"
_HOW = "How it runs"


def learn(
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[IMAGE]...", help="Pictures. None: the photograph that comes with scikit-image."),
    ] = None,
    stencils: Annotated[int, typer.Option("--stencils", "-k", min=1, help="How many stencils.", rich_help_panel=_WHAT)] = 64,
    size: Annotated[int, typer.Option(min=2, help="Their side in pixels.", rich_help_panel=_WHAT)] = 11,
    stride: Annotated[int, typer.Option(min=1, help="Distance of neighbouring activations.", rich_help_panel=_WHAT)] = 1,
    sparsity: Annotated[
        float, typer.Option(help="Weight of the activations' sum: more gives fewer activations.", rich_help_panel=_WHAT)
    ] = 0.05,
    colour: Annotated[
        bool | None,
        typer.Option("--colour/--grey", help="Learn in colour or in grey; default: as the pictures are.", rich_help_panel=_WHAT),
    ] = None,
    border: Annotated[
        str, typer.Option(help="full: activations also beyond the edge; circular: the edges are joined.", rich_help_panel=_WHAT)
    ] = "full",
    longest: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Make pictures smaller whose longer side is above this; default: 1024, or what fits into memory.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", "-n", min=1, help="How many steps.", rich_help_panel=_HOW)] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Which patches the stencils start from.", rich_help_panel=_HOW)] = 0,
    threads: Annotated[int, typer.Option(min=0, help="0: one per CPU.", rich_help_panel=_HOW)] = 0,
    engine: Annotated[str, typer.Option(help="auto, jit, gemm or reference.", rich_help_panel=_HOW)] = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder to write; default: preimage-learn.", rich_help_panel=_HOW)
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the folder if it holds such results.", rich_help_panel=_HOW)
    ] = False,
) -> None:
    """Learn stencils from pictures, and rebuild the pictures from stencils and activations.

    Writes a folder with report.html (one file that shows all), PNG files, stencils.safetensors and metrics.json.
    Ctrl-C ends the run and keeps what is there.
    """
    console = Terminal(soft_wrap=not sys.stdout.isatty())
    options = Options(
        stencils=stencils, size=size, stride=stride, sparsity=sparsity, steps=steps, seed=seed, border=border
    )  # fmt: skip
    settings = preimage.config(**text.settings(engine, threads))
    pictures, kept = _read(images, longest, options)
    use_colour = any(p.has_colour for p in pictures) if colour is None else colour
    originals = [p.colour() if use_colour else p.grey() for p in pictures]
    _check_sizes(pictures, originals, size)
    check_memory([p.shape[1:] for p in originals], stencils, len(originals[0]), options.model())
    with settings:
        used = engine_of(originals[0].shape, options)
    with settings, OutputFolder(output or free_name("preimage-learn"), overwrite) as folder:
        console.print(f"learning {word(stencils, 'stencil')} of {size}x{size} from {_listed(pictures)}; engine {used}")
        for p in pictures:
            for note in p.notes:
                console.print(f"  {p.name}: {note}")
        if kept:
            console.print(f"  {kept}")
        split = [split_slow(p) for p in originals]
        started = time.perf_counter()
        with Watch(console, "learn", steps) as watch:
            coded = learn_stencils([detail for _, detail in split], options, progress=watch)
        seconds = time.perf_counter() - started
        if coded.stopped:
            console.print(f"stopped after {word(len(coded.curve), 'step')} of {steps}; writing what is there")
        last = coded.curve[-1]
        report = _report(coded, pictures, originals, [slow for slow, _ in split], seconds, used)
        metrics = {
            "command": "learn",
            "options": _plain(options) | {"colour": use_colour, "threads": preimage.config.current().threads, "engine": engine},
            "engine": used,
            "machine": machine(),
            "seconds": seconds,
            "stopped": coded.stopped,
            "final": last.as_dict(),
            "pictures": [
                {"name": p.name, "shape": list(p.original.shape), "psnr": p.psnr, "nonzeros_per_pixel": p.nonzeros_per_pixel,
                 "psnr_after_stencils": [[f.count, f.psnr] for f in p.frames]}
                for p in report.paintings
            ],
            "shares": [float(s) for s in report.shares],
            "order_of_use": [int(k) for k in report.order],
            "curve": [p.as_dict() for p in coded.curve],
        }  # fmt: skip
        save_stencils(
            folder.folder / "stencils.safetensors",
            coded.stencils,
            _plain(options) | {"pictures": ", ".join(p.name for p in pictures)},
        )
        write_results(folder, report, metrics)
    console.print(
        f"objective {last.objective:.2f}, {last.psnr:.2f} dB, {last.nonzeros_per_pixel:.3f} non-zero activations per pixel,"
        f" {seconds:.1f} s",
    )
    say_where(console, folder)


def _read(images: list[Path] | None, longest: int | None, options: Options) -> tuple[list[Picture], str]:
    """The pictures (without a file the photograph of scikit-image), and what to say where they are made smaller unasked."""
    if not images:
        return [_demo(longest)], ""
    stencils, model, said = options.stencils, options.model(), ""
    if longest is None:
        as_they_are = stored_sizes(images, None)
        longest = longest_by_default(as_they_are, stencils, 3, model)
        said = larger_would_take(as_they_are, longest, stencils, 3, model)
    check_memory(stored_sizes(images, longest), stencils, 1, model)
    return read_pictures(images, longest), said


def say_where(console: Terminal, folder: OutputFolder) -> None:
    """The report's place, as a path and as an address that terminals open with a click."""
    page = folder.place / "report.html"
    console.print(f"report: {page}")
    console.print(f"        {page.absolute().as_uri()}", soft_wrap=True)  # a line broken in two is no address


def write_results(folder: OutputFolder, report: LearnedReport, metrics: dict[str, Any]) -> None:
    """The page, the PNG files and the metrics; then the folder is moved to its place."""
    write_pngs(report, folder.folder)
    write_file(folder.folder / "report.html", render_learned(report))
    write_file(folder.folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    folder.finish()


def engine_of(shape: tuple[int, ...], options: Options, stencils: int | None = None) -> str:
    """The engines that the three contractions of this run use, by name.

    Raises: OptionError or EngineError for an engine that is not there or cannot take it.
    """
    model, k = options.model(), options.size
    geometry = ConvGeometry.from_conv(
        (1, *shape), (stencils or options.stencils, shape[0], k, k), stride=model.stride, padding=k - 1
    )  # fmt: skip
    names = [plan(geometry, np.float32, what).engine for what in ("conv", "conv_transpose", "conv_weight_grad")]
    return names[0] if len(set(names)) == 1 else "/".join(names)


def _plain(options: Options) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(options)


def _demo(longest: int | None) -> Picture:
    picture = demo_picture()
    if longest is not None and max(picture.values.shape[1:]) > longest:
        raise OptionError("--longest makes pictures from files smaller: name one")
    return picture


def _listed(pictures: list[Picture]) -> str:
    first = ", ".join(f"{p.name} ({p.values.shape[2]}x{p.values.shape[1]})" for p in pictures[:3])
    return first if len(pictures) <= 3 else f"{first} and {len(pictures) - 3} more"


def _check_sizes(pictures: list[Picture], originals: list[Any], size: int) -> None:
    for picture, values in zip(pictures, originals, strict=True):
        least = min(values.shape[1:])
        if least < size:
            raise OptionError(
                f"{picture.name}: {values.shape[2]}x{values.shape[1]} pixels are fewer than one stencil of {size}x{size} needs;"
                + (f" --size {least} would do" if least >= 2 else " there is nothing to learn from a line of single pixels")
            )


def _report(
    coded: Coded, pictures: list[Picture], originals: list[Any], slow: list[Any], seconds: float, used: str
) -> LearnedReport:
    last, options = coded.curve[-1], coded.options
    paintings = [
        paint_by_numbers(coded, n, p.name, original, s)
        for n, (p, original, s) in enumerate(zip(pictures, originals, slow, strict=True))
    ]
    names = _listed(pictures)
    facts = [
        ("pictures", names),
        *[(f"{p.name}", note) for p in pictures for note in p.notes],
        ("stencils", f"{options.stencils} of {options.size} x {options.size}, {'colour' if len(originals[0]) == 3 else 'grey'}"),
        ("sparsity", f"{options.sparsity:g}"),
        ("stride, border", f"{options.stride}, {options.border}"),
        ("steps", f"{len(coded.curve)} of {options.steps}{', stopped by hand' if coded.stopped else ''}"),
        ("seed", str(options.seed)),
        ("engine, threads", f"{used}, {preimage.config.current().threads or 'one per CPU'}"),
        ("time", f"{seconds:.1f} s"),
        ("made by", ", ".join(f"{k} {v}" for k, v in machine().items())),
    ]
    return LearnedReport(
        title=f"{options.stencils} stencils learned from {'a picture' if len(pictures) == 1 else word(len(pictures), 'picture')}",
        lead="A picture is painted by blowing every activation up by its stencil and adding the pieces: a transposed convolution."
        " The stencils and the activations were learned together, with few activations.",
        stencils=coded.stencils,
        shares=shares(coded),
        order=order_of_use(coded),
        paintings=paintings,
        curve=coded.curve,
        facts=facts,
        tiles=[
            (f"PSNR, {names if len(pictures) == 1 else 'all pictures'}", f"{last.psnr:.2f} dB"),
            ("non-zero activations per pixel", f"{last.nonzeros_per_pixel:.3f}"),
            ("objective", f"{last.objective:.2f}"),
            (f"for {len(coded.curve)} steps", f"{seconds:.1f} s"),
            ("engine", used),
        ],
    )

"""`preimage rebuild`: a picture painted with stencils that were learned before; fills in masked pixels, takes noise away."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import preimage
from preimage.cli import text
from preimage.cli.inputs import check_memory, machine, word
from preimage.cli.learn import engine_of, say_where, write_results
from preimage.cli.output import OutputFolder, free_name
from preimage.cli.watch import Watch
from preimage.errors import FileFormatError, OptionError
from preimage.io.pictures import read_mask, read_picture
from preimage.io.stencils import load_stencils
from preimage.learning import (
    Coded,
    Options,
    Painting,
    Strokes,
    encode,
    fill_in,
    noise_level,
    order_of_use,
    paint_by_numbers,
    psnr,
    shares,
    split_slow,
)
from preimage.report.learned import LearnedReport
from preimage.report.terminal import Terminal

__all__ = ["rebuild"]

_WHAT = "What to do"
_HOW = "How it runs"
#: Weight of the activations: where pixels are missing, and per unit of noise (both found by trying, see docs/learn.md).
FILLING, PER_NOISE = 0.02, 3.0


def rebuild(
    stencils: Annotated[Path, typer.Argument(help="stencils.safetensors, or the folder that `preimage learn` wrote.")],
    image: Annotated[Path, typer.Argument(help="The picture to rebuild.")],
    mask: Annotated[
        Path | None,
        typer.Option(help="A picture of the same size: where it is black, pixels are filled in.", rich_help_panel=_WHAT),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            help="Take noise away: its standard deviation for values 0..1 (0.1), or 0..255 (25), or 'auto'.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="The picture as it should be: the PSNR is measured against it.", rich_help_panel=_WHAT)
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(help="Weight of the activations' sum; default: by --mask, --noise or the learning.", rich_help_panel=_WHAT),
    ] = None,
    longest: Annotated[
        int | None, typer.Option(min=1, help="Make the picture smaller if its longer side is above this.", rich_help_panel=_WHAT)
    ] = None,
    steps: Annotated[int, typer.Option("--steps", "-n", min=1, help="How many steps.", rich_help_panel=_HOW)] = 100,
    threads: Annotated[int, typer.Option(min=0, help="0: one per CPU.", rich_help_panel=_HOW)] = 0,
    engine: Annotated[str, typer.Option(help="auto, jit, gemm or reference.", rich_help_panel=_HOW)] = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder to write; default: preimage-rebuild.", rich_help_panel=_HOW)
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the folder if it holds such results.", rich_help_panel=_HOW)
    ] = False,
) -> None:
    """Rebuild a picture from learned stencils and the activations found for it.

    With --mask the pixels under the black part of the mask are filled in; with --noise the noise is left behind.
    Writes a folder with rebuilt.png, report.html, other PNG files and metrics.json.
    """
    console = Terminal(soft_wrap=not sys.stdout.isatty())
    learned, notes = load_stencils(stencils)
    settings = preimage.config(**text.settings(engine, threads))
    picture = read_picture(image, longest)
    channels = learned.shape[1]
    values = picture.colour() if channels == 3 else picture.values
    known = None if mask is None else _mask(mask, values.shape[1:])
    sigma = _noise(noise, values, known)
    weight = sparsity if sparsity is not None else _sparsity(sigma, known, notes)
    options = Options(
        stencils=len(learned), size=learned.shape[2], stride=_number(notes, "stride", 1), sparsity=weight, steps=steps,
        border=notes.get("border", "full"),
    )  # fmt: skip
    if min(values.shape[1:]) < options.size:
        raise OptionError(
            f"{image}: {values.shape[2]}x{values.shape[1]} pixels are fewer than one stencil of {options.size} needs"
        )
    right = None if truth is None else _truth(truth, values)
    planes = [values] if channels == len(values) else [plane[None] for plane in values]
    check_memory([p.shape[1:] for p in planes], len(learned), channels, options.model())
    with settings:
        used = engine_of(planes[0].shape, options)
    task = "filling in" if known is not None else "denoising" if sigma is not None else "rebuilding"
    with settings, OutputFolder(output or free_name("preimage-rebuild"), overwrite) as folder:
        console.print(
            f"{task} {picture.name} ({values.shape[2]}x{values.shape[1]}) with {word(len(learned), 'stencil')} of"
            f" {options.size}x{options.size}, sparsity {weight:.4g}; engine {used}",
        )
        for note in picture.notes:
            console.print(f"  {picture.name}: {note}")
        slow, details = _split(planes, known)
        started = time.perf_counter()
        with Watch(console, "rebuild", steps) as watch:
            masks = None if known is None else [known] * len(details)
            coded = encode(details, learned, options, known=masks, progress=watch)
        seconds = time.perf_counter() - started
        painting = _painting(coded, picture.name, planes, slow, values, known, right, sigma)
        report, metrics = _report(coded, painting, values, known, right, sigma, seconds, used)
        metrics |= {"stencils_file": str(stencils), "mask": str(mask) if mask else None}
        write_results(folder, report, metrics)
    for name, value in report.tiles:
        console.print(f"{name}: {value}")
    console.print(f"picture: {folder.place / 'rebuilt.png'}")
    say_where(console, folder)


def _split(planes: list[Any], known: Any) -> tuple[list[Any], list[Any]]:
    if known is None:
        pairs = [split_slow(p) for p in planes]
        return [s for s, _ in pairs], [d for _, d in pairs]
    slow = [fill_in(p, known) for p in planes]
    return slow, [np.where(known, p - s, 0.0).astype(np.float32) for p, s in zip(planes, slow, strict=True)]


def _painting(
    coded: Coded, name: str, planes: list[Any], slow: list[Any], values: Any, known: Any, right: Any, sigma: float | None
) -> Painting:
    """The story of the picture; planes that were painted apart are put together, and known pixels stay as they are."""
    target = values if right is None else right
    targets = [target] if len(planes) == 1 else [t[None] for t in target]
    stories = [paint_by_numbers(coded, n, name, t, s) for n, (t, s) in enumerate(zip(targets, slow, strict=True))]
    first = stories[0]

    def joined(parts: list[Any]) -> Any:
        whole = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return np.where(known, values, whole) if known is not None and sigma is None else whole

    rebuilt = joined([s.rebuilt for s in stories])
    frames = []
    for n, frame in enumerate(first.frames):
        shown = joined([s.frames[n].picture for s in stories])
        frames.append(replace(frame, picture=shown, psnr=psnr(shown, target)))
    nonzeros = float(np.mean([s.nonzeros_per_pixel for s in stories]))
    slow_part = np.concatenate([s.slow for s in stories])
    parts = [s.strokes for s in stories if s.strokes is not None]
    kept = known is not None and sigma is None  # known pixels are the picture's own: no sum of strokes
    strokes = None if kept else Strokes.joined(parts)
    return Painting(name, target, slow_part, rebuilt, psnr(rebuilt, target), nonzeros, frames, first.maps, strokes)


def _report(
    coded: Coded, p: Painting, values: Any, known: Any, right: Any, sigma: float | None, seconds: float, used: str
) -> tuple[LearnedReport, dict[str, Any]]:
    last, options, given = coded.curve[-1], coded.options, {}
    tiles: list[tuple[str, str]] = []
    facts = [("picture", f"{p.name}, {values.shape[2]} x {values.shape[1]}"), ("sparsity", f"{options.sparsity:g}")]
    metrics: dict[str, Any] = {"command": "rebuild", "engine": used, "machine": machine(), "seconds": seconds}
    if known is not None:
        given[p.name] = np.where(known, values, 0.5)
        facts.append(("masked pixels", f"{1 - known.mean():.1%}"))
        tiles.append(("of the pixels filled in", f"{1 - known.mean():.1%}"))
        metrics["masked"] = float(1 - known.mean())
    if sigma is not None:
        given.setdefault(p.name, values)
        facts.append(("noise (standard deviation)", f"{sigma:.4f} = {255 * sigma:.1f} / 255"))
        metrics["noise"] = sigma
    if right is not None:
        before = psnr(values, right) if known is None else psnr(np.where(known, values, 0.0), right)
        tiles += [("against the truth, before", f"{before:.2f} dB"), ("against the truth, now", f"{p.psnr:.2f} dB")]
        metrics |= {"psnr_given": before, "psnr": p.psnr}
        if known is not None and not known.all():
            holes = psnr(p.rebuilt, right, ~known)
            tiles.append(("in the filled pixels", f"{holes:.2f} dB"))
            metrics["psnr_filled"] = holes
    else:
        tiles.append(("against the picture given", f"{last.psnr:.2f} dB"))
        metrics["psnr_against_given"] = last.psnr
    tiles += [("non-zero activations per pixel", f"{p.nonzeros_per_pixel:.3f}"), ("time", f"{seconds:.1f} s"), ("engine", used)]
    facts += [("steps", f"{len(coded.curve)} of {options.steps}"), ("stride, border", f"{options.stride}, {options.border}")]
    metrics |= {
        "nonzeros_per_pixel": p.nonzeros_per_pixel,
        "sparsity": options.sparsity,
        "stopped": coded.stopped,
        "final": last.as_dict(),
        "curve": [s.as_dict() for s in coded.curve],
    }
    title = (
        "Pixels filled in by stencils"
        if known is not None
        else "Noise left behind"
        if sigma is not None
        else "Rebuilt from stencils"
    )
    report = LearnedReport(
        title=f"{title}: {p.name}",
        lead="The stencils were learned before; the activations were found for this picture, and paint it by a transposed convolution.",
        stencils=coded.stencils,
        shares=shares(coded),
        order=order_of_use(coded),
        paintings=[p],
        curve=coded.curve,
        facts=facts,
        tiles=tiles,
        given=given,
        given_word="with pixels missing (grey)" if known is not None else "as given, with noise",
        truth_known=right is not None,
    )
    return report, metrics


def _mask(path: Path, size: tuple[int, int]) -> Any:
    known = read_mask(path)
    if known.shape != tuple(size):
        raise FileFormatError(
            f"{path}: the mask is {known.shape[1]}x{known.shape[0]}, the picture {size[1]}x{size[0]}: they must be equal"
        )
    if not known.any():
        raise FileFormatError(f"{path}: the mask is black everywhere: no pixel is left to fill in from (white is known)")
    return known


def _truth(path: Path, values: Any) -> Any:
    truth = read_picture(path)
    right = truth.colour() if len(values) == 3 else truth.grey()
    if right.shape != values.shape:
        raise FileFormatError(
            f"{path}: is {right.shape[2]}x{right.shape[1]}, the picture {values.shape[2]}x{values.shape[1]}: they must be equal"
        )
    return right


def _noise(text: str | None, values: Any, known: Any) -> float | None:
    """The standard deviation for values 0..1."""
    if text is None:
        return None
    if text == "auto":
        return noise_level(values, known)
    try:
        sigma = float(text)
    except ValueError:
        raise OptionError(
            f"--noise takes a standard deviation such as 0.1 (of values 0..1) or 25 (of 0..255), or auto; got {text!r}"
        ) from None
    if not 0 < sigma < 256:
        raise OptionError(f"--noise must lie between 0 and 256, got {text}")
    return sigma if sigma < 1 else sigma / 255


def _sparsity(sigma: float | None, known: Any, notes: dict[str, str]) -> float:
    if sigma is not None:
        return max(PER_NOISE * sigma, 1e-3)
    if known is not None:
        return FILLING
    return float(_number(notes, "sparsity", 0.05))


def _number(notes: dict[str, str], name: str, default: Any) -> Any:
    try:
        return type(default)(notes[name])
    except (KeyError, ValueError):
        return default

"""The pictures of a learned report as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from preimage.host import write_file
from preimage.io.pictures import write_picture
from preimage.learning import Progress
from preimage.report.images import difference, glow, rgb, sheet, stencil_tiles

if TYPE_CHECKING:
    from preimage.report.learned import LearnedReport

__all__ = ["write_pngs"]

Array = NDArray[Any]


def write_pngs(report: LearnedReport, folder: Path) -> list[str]:
    """The page's pictures as PNG files in the folder; their names."""
    written = []

    def write(name: str, pixels: Array) -> None:
        write_picture(folder / name, pixels)
        written.append(name)

    write("stencils.png", stencil_tiles(report.stencils[report.order]))
    names: set[str] = set()
    for p in report.paintings:
        stem = "" if len(report.paintings) == 1 else f"{_unique(p.name, names)}-"
        write(f"{stem}original.png", rgb(p.original))
        write(f"{stem}rebuilt.png", rgb(p.rebuilt))
        if report.truth_known:
            write(f"{stem}difference.png", difference(p.original, p.rebuilt))
        if p.name in report.given:
            write(f"{stem}given.png", rgb(report.given[p.name]))
        write(f"{stem}painted.png", sheet([rgb(f.picture) for f in p.frames], columns=4))
        write(f"{stem}activations.png", sheet([glow(a, p.slow) for _, a in p.maps], columns=4))
    if len(report.curve) > 1:
        _curve_png(report.curve, folder / "objective.png")
        written.append("objective.png")
    return written


def _unique(name: str, taken: set[str]) -> str:
    """A name for files: letters, digits and dashes, each once."""
    base = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:60] or "picture"
    result, n = base, 2
    while result in taken:
        result, n = f"{base}-{n}", n + 1
    taken.add(result)
    return result


def _curve_png(curve: Sequence[Progress], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds = [p.seconds for p in curve]
    drawing = Figure(figsize=(9, 3.2), layout="constrained", dpi=130)
    FigureCanvasAgg(drawing)
    axes = drawing.subplots(1, 3)
    rows = [
        ("objective", [p.objective for p in curve], "#c4560a", True),
        ("PSNR, dB", [p.psnr for p in curve], "#1f6f8b", False),
        ("non-zeros per pixel", [p.nonzeros_per_pixel for p in curve], "#5b7f2b", True),
    ]
    for ax, (name, values, colour, log) in zip(axes, rows, strict=True):
        ax.plot(seconds, values, color=colour, lw=1.8)
        ax.set(xlabel="seconds", title=name)
        if log and min(values) > 0:
            ax.set_yscale("log")
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    write_file(path, lambda file: drawing.savefig(file, format="png"))

"""Results of runs in notebooks: audits, learned stencils, painted pictures."""

from __future__ import annotations

from preimage.audit.findings import Finding, Report
from preimage.host import html as escape
from preimage.learning import Coded, ConvDictionary, Painting, order_of_use, shares
from preimage.report.audit import bits_cell, checks_cell, notes_of, title_of, verdict_of, worst_units
from preimage.report.chart import line_chart
from preimage.report.images import difference, rgb, stencil_tiles
from preimage.report.notebook.parts import block, card, facts, more, picture, pictures, table

__all__ = ["audit", "coded", "conv_dictionary", "painting"]

#: Pictures of a run that are shown, and findings that are written out.
SHOWN, FINDINGS = 4, 20
WIDTH = 230


def audit(report: Report) -> str:
    """The verdict on every subject, and the findings with their reproducers."""
    rows = []
    for s in report.subjects:
        if s.absent is not None:
            rows.append((s.name, *["-"] * (len(report.checks) + 2), f"absent: {s.absent}"))
            continue
        cells = [checks_cell(report, s, check) for check in report.checks]
        rows.append((s.name, *cells, worst_units(s), bits_cell(s), verdict_of(s)[0]))
    head = ("subject", *report.checks, "worst rounding, of the bound", "results whose bits differ", "verdict")
    found = [_finding(f) for f in report.findings[:FINDINGS]]
    left = len(report.findings) - len(found)
    if left > 0:
        found.append(f'<p class="soft">{left} more findings are in report.findings.</p>')
    notes = [line for s in report.subjects for line in notes_of(s)] + [f"left out: {line}" for line in report.left_out]
    said = more(f"{len(notes)} notes", "<br>".join(escape(line) for line in notes)) if notes else ""
    word = "interrupted" if report.interrupted else "no findings" if report.ok else f"{len(report.findings)} findings"
    return card(title_of(report), table(head, rows), *found, said, note=word)


def _finding(f: Finding) -> str:
    script = more("a script that shows it", block(f.reproducer)) if f.reproducer else ""
    where = f"{f.subject}, check {f.check}, {f.dtype}, seen {f.count} times"
    return (
        f'<p><b class="bad">{escape(f.severity)}</b> {escape(f.message)}<br><span class="soft">{escape(where)}</span></p>{script}'
    )


def coded(c: Coded) -> str:
    """The stencils, the most used first, what they paint, and the run."""
    order, share = order_of_use(c), shares(c)
    k = c.stencils.shape[-1]
    columns = max(1, round(len(c.stencils) ** 0.5))
    scale = max(1, min(16, 240 // (k * columns)))
    sheet = stencil_tiles(c.stencils[order], scale)
    shown = [picture(sheet, "stencils, the most used first", width=min(sheet.shape[1], 420), sharp=True)]
    for n, painted in enumerate(c.painted[:SHOWN]):
        shown.append(picture(rgb(0.5 + painted), f"picture {n} as painted, around mid-grey", width=WIDTH))
    rows: list[tuple[str, object]] = [
        ("stencils", f"{len(c.stencils)} of {k} x {k}; the most used has {share[order[0]]:.1%} of all activation"),
        ("pictures", len(c.painted)),
    ]
    chart = ""
    if c.curve:
        last = c.curve[-1]
        rows += [
            ("objective", f"{last.objective:.6g}"),
            ("PSNR", f"{last.psnr:.2f} dB"),
            ("non-zero activations per pixel", f"{last.nonzeros_per_pixel:.3f}"),
            ("steps", f"{len(c.curve)} of {c.options.steps} in {last.seconds:.1f} s{', stopped' if c.stopped else ''}"),
        ]
        values = [p.objective for p in c.curve]
        if len(values) > 1:
            steps = [float(p.step) for p in c.curve]
            drawn = line_chart(
                steps, [("objective", values, "var(--accent)")], x_label="step", y_label="objective", log=min(values) > 0
            )
            chart = f"<figure>{drawn}<figcaption>objective over the steps</figcaption></figure>"
    return card("Learned stencils and activations", facts(rows), pictures([*shown, chart] if chart else shown))


def painting(p: Painting) -> str:
    """A picture, rebuilt from stencils, and what is missing."""
    shown = [
        picture(rgb(p.original), "original", width=WIDTH),
        picture(rgb(p.slow), "its slow part", width=WIDTH),
        picture(rgb(p.rebuilt), f"rebuilt, {p.psnr:.2f} dB", width=WIDTH),
        picture(difference(p.original, p.rebuilt), "original minus rebuilt, 8 times as strong", width=WIDTH),
    ]
    return card(p.name, pictures(shown), note=f"{p.nonzeros_per_pixel:.3f} activations per pixel")


def conv_dictionary(model: ConvDictionary) -> str:
    """The parameters, and the stencils once there are some."""
    rows: list[tuple[str, object]] = list(model.get_params().items())
    components = getattr(model, "components_", None)
    shown = ""
    if components is not None:
        columns = max(1, round(len(components) ** 0.5))
        sheet = stencil_tiles(components, max(1, min(16, 240 // (components.shape[-1] * columns))))
        shown = picture(sheet, "stencils", width=min(sheet.shape[1], 420), sharp=True)
    return card("ConvDictionary", facts(rows), shown, note="fitted" if shown else "not fitted")

"""How objects show themselves in notebooks: a table of classes and the functions that make their HTML.

`html_of` is what `_repr_html_` of every `preimage.display.Shown` class calls. A row names its function by place, so that showing a
Tensor imports nothing of audits. Pictures are inside the HTML; it needs no script, and takes its colours from the notebook.

To show another class: derive it from `Shown`, write a function here, add a row.
"""

from __future__ import annotations

from collections.abc import Callable

from preimage.locks import import_apart

__all__ = ["ROWS", "html_of"]

#: The class's place, and the module and function here that show it. Subclasses are shown as their nearest class in the table.
ROWS = {
    "preimage.geometry.ConvGeometry": "layers:geometry",
    "preimage.engines.base.Plan": "layers:plan",
    "preimage.analysis.coverage.Coverage": "layers:coverage",
    "preimage.analysis.coverage.AxisCoverage": "layers:axis_coverage",
    "preimage.analysis.tracing.LayerTrace": "traces:layer_trace",
    "preimage.analysis.tracing.Stroke": "traces:stroke",
    "preimage.analysis.tracing.Frame": "traces:frame",
    "preimage.analysis.sums.Sum": "traces:total",
    "preimage.analysis.numbers.Why": "traces:why",
    "preimage.analysis.numbers.Entries": "traces:entries",
    "preimage.analysis.numbers.Born": "traces:born",
    "preimage.analysis.network.Network": "nets:network",
    "preimage.analysis.network.Layer": "nets:layer",
    "preimage.autograd.tensor.Tensor": "nets:tensor",
    "preimage.nn.module.Module": "nets:module",
    "preimage.nn.describe.Summary": "nets:summary",
    "preimage.io.graph.graph.Graph": "nets:graph",
    "preimage.io.inspection.ModelInfo": "nets:model_info",
    "preimage.audit.findings.Report": "results:audit",
    "preimage.learning.dictionary.Coded": "results:coded",
    "preimage.learning.painting.Painting": "results:painting",
    "preimage.learning.estimator.ConvDictionary": "results:conv_dictionary",
}


def html_of(value: object) -> str | None:
    """The HTML of an object of a class in the table, or of a subclass; None for any other."""
    for kind in type(value).__mro__:
        place = ROWS.get(f"{kind.__module__}.{kind.__qualname__}")
        if place is not None:
            module, _, name = place.partition(":")
            show: Callable[[object], str] = getattr(import_apart(f"preimage.report.notebook.{module}"), name)
            return show(value)
    return None

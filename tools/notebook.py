"""Runs a notebook's code and stores what every cell shows, or checks that it still shows the same; also makes a page of it to look at.

    python tools/notebook.py examples/deconvolution.ipynb              run, and store the outputs in the file
    python tools/notebook.py examples/deconvolution.ipynb --check      run, and name the cells whose outputs are others
    python tools/notebook.py examples/deconvolution.ipynb --html out.html

Without Jupyter: a cell's last expression is shown by its _repr_svg_ or _repr_html_ and its repr, as Jupyter does it. Cells with the tag "varies"
(times) are run and not compared. Outputs are compared without the style that every card carries.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import html
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def lines(text: str) -> list[str]:
    """Text as notebooks store it."""
    return text.splitlines(keepends=True)


def run(notebook: Json, space: dict[str, Any] | None = None) -> list[list[Json]]:
    """The outputs of every cell, run one after the other in one namespace (none for text)."""
    space = {} if space is None else space
    space["__name__"] = "__main__"
    made = []
    for number, cell in enumerate(notebook["cells"]):
        outputs: list[Json] = []
        if cell["cell_type"] == "code":
            outputs = run_cell("".join(cell["source"]), space, f"cell {number}")
        made.append(outputs)
    return made


def run_cell(source: str, space: dict[str, Any], name: str) -> list[Json]:
    """What one cell prints, and what its last expression shows."""
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) and not source.rstrip().endswith(";") else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, name, "exec"), space)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), name, "eval"), space)
    outputs: list[Json] = []
    if printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": lines(printed.getvalue())})
    if value is not None:
        outputs.append({"data": shown(value), "execution_count": None, "metadata": {}, "output_type": "execute_result"})
    return outputs


def shown(value: Any) -> Json:
    """A value in every form that it has."""
    data = {"text/plain": lines(repr(value))}
    for kind, method in (("image/svg+xml", "_repr_svg_"), ("text/html", "_repr_html_")):
        text = getattr(value, method)() if hasattr(value, method) else None
        if text is not None:
            data[kind] = lines(text)
    return dict(sorted(data.items()))


def comparable(outputs: list[Json]) -> str:
    """Outputs as text, without styles."""
    return re.sub(r"<style>.*?</style>", "", json.dumps(outputs).replace("\\n", "\n").replace('\n", "', "\n"), flags=re.DOTALL)


def differing(notebook: Json, made: list[list[Json]]) -> list[int]:
    """The numbers of the cells that show something else than is stored."""
    return [
        n
        for n, (cell, outputs) in enumerate(zip(notebook["cells"], made, strict=True))
        if "varies" not in cell["metadata"].get("tags", ()) and comparable(cell.get("outputs", [])) != comparable(outputs)
    ]


def store(path: Path, notebook: Json, made: list[list[Json]]) -> None:
    """Write the notebook with these outputs."""
    for cell, outputs in zip(notebook["cells"], made, strict=True):
        if cell["cell_type"] == "code":
            cell |= {"outputs": outputs, "execution_count": None}
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")


def as_page(notebook: Json, made: list[list[Json]]) -> str:
    """Source and outputs as one page, about as Jupyter shows them."""
    parts = []
    for cell, outputs in zip(notebook["cells"], made, strict=True):
        source = html.escape("".join(cell["source"]))
        parts.append(f"<p class='{cell['cell_type']}'>{source}</p>")
        for output in outputs:
            data = output.get("data", {"text/plain": output.get("text", [])})
            best = next((data[k] for k in ("image/svg+xml", "text/html") if k in data), None)
            parts.append("".join(best) if best else f"<pre>{html.escape(''.join(data['text/plain']))}</pre>")
    style = (
        ":root{color-scheme:light dark} body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:1rem auto;padding:0 1rem}"
        "p{white-space:pre-wrap} .code{font:13px/1.4 monospace;background:#8882;padding:.6rem;border-radius:4px;overflow-x:auto}"
        "svg{max-width:100%;height:auto}"
        "@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}}"
    )
    return f"<!doctype html><meta charset='utf-8'><title>notebook</title><style>{style}</style>{''.join(parts)}"


def main() -> int:
    """The command; 1 where --check finds other outputs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--html", type=Path)
    options = parser.parse_args()
    notebook = json.loads(options.notebook.read_text("utf-8"))
    made = run(notebook)
    if options.html:
        options.html.write_text(as_page(notebook, made), "utf-8")
    elif options.check:
        wrong = differing(notebook, made)
        print(f"cells that show something else: {wrong}" if wrong else "all cells show what is stored")
        return bool(wrong)
    else:
        store(options.notebook, notebook, made)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The reference: one page for each public module, an entry for each of its names, as Markdown with Sphinx's Python directives."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from docstrings import examples, markdown
from public_names import SURFACE, public

__all__ = ["pages"]


def pages() -> dict[str, str]:
    """File name -> text of every page of the reference but the index."""
    shown = examples()
    return {f"{module}.md": _page(module, title, shown) for module, title in SURFACE.items()}


def _page(module: str, title: str, shown: dict[str, str]) -> str:
    loaded = importlib.import_module(module)
    lines = [f"# {module}: {title}", "", "" if module == "preimage" else markdown(inspect.getdoc(loaded) or ""), ""]
    names = sorted(public(module), key=lambda name: _is_error(getattr(loaded, name)))  # errors last
    for name in names:
        lines += _entry(f"{module}.{name}", getattr(loaded, name), shown.get(f"{module}.{name}", ""))
    return "\n".join(lines)


def _entry(place: str, value: Any, example: str) -> list[str]:
    short = place.rpartition(".")[2]
    if inspect.isclass(value):
        kind, body = ("py:exception" if _is_error(value) else "py:class"), _members(value)
    elif callable(value):
        kind, body = "py:function", []
    else:
        kind, body = "py:data", []
    text = inspect.getdoc(value) if kind != "py:data" else _constant(value)
    heading = [f"## {short}", ""]
    lines = [f":::::{{{kind}}} {place}{_signature(value) if kind != 'py:data' else ''}", "", markdown(text or "")]
    if example:
        lines += ["", "**Example**", "", "```pycon", example, "```"]
    return [*heading, *lines, "", *body, ":::::", ""]


def _is_error(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, BaseException)


def _constant(value: Any) -> str:
    text = repr(value)
    return f"`{text if len(text) < 200 else type(value).__name__}`"


def _members(cls: type) -> list[str]:
    """Methods and properties that the class itself documents."""
    lines: list[str] = []
    for name, member in vars(cls).items():
        plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if name.startswith("_") or not (inspect.isfunction(plain) or isinstance(plain, property)):
            continue
        text = inspect.getdoc(plain)
        if not text:
            continue
        kind = "py:property" if isinstance(plain, property) else "py:method"
        lines += [
            f"::::{{{kind}}} {name}{'' if isinstance(plain, property) else _signature(plain)}",
            "",
            markdown(text),
            "::::",
            "",
        ]
    return lines


def _signature(value: Any) -> str:
    """Names and defaults; types are in the text, where shapes can be said."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return "()"
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values() if p.name != "self"]
    text = str(found.replace(parameters=plain, return_annotation=inspect.Signature.empty))
    return "(...)" if " at 0x" in text or "<" in text or "\n" in text else text

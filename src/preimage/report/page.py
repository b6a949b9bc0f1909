"""What a page of results is made of: one HTML file, its style, and pictures inside the text; light and dark, no other file."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from numpy.typing import NDArray

from preimage.host import html as escape
from preimage.io.pictures import encoded

__all__ = ["figure", "image", "inline", "page", "section", "tiles"]


def inline(pixels: NDArray[Any], kind: str = "PNG") -> str:
    """An image as a data address: PNG exactly, JPEG where small matters more."""
    options = {"optimize": True} if kind == "PNG" else {"quality": 88, "optimize": True}
    return f"data:image/{kind.lower()};base64,{b64encode(encoded(pixels, kind, **options)).decode()}"


def image(pixels: NDArray[Any], alt: str, kind: str = "PNG", css: str = "", name: str = "") -> str:
    """An <img> that carries its picture; name: its id, where a script looks for it."""
    height, width = pixels.shape[:2] if pixels.dtype == "uint8" else pixels.shape[-2:]
    of_class = f' class="{css}"' if css else ""
    called = f' id="{name}"' if name else ""
    return f'<img{of_class}{called} src="{inline(pixels, kind)}" alt="{escape(alt)}" width="{width}" height="{height}" style="height:auto">'


def figure(content: str, caption: str) -> str:
    """A figure with a caption (HTML)."""
    return f"<figure>{content}<figcaption>{caption}</figcaption></figure>"


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """Large numbers with a word under each."""
    inner = "".join(f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span></div>' for label, value in values)
    return f'<div class="tiles">{inner}</div>'


def section(title: str, text: str, body: str) -> str:
    """A heading, a paragraph (HTML) and what they are about."""
    return f"<section><h2>{escape(title)}</h2><p>{text}</p>{body}</section>"


def page(title: str, lead: str, body: str, *, style: str = "", script: str = "") -> str:
    """The whole file; style and script: what this page has beside the style and script of all."""
    common, steps = (files("preimage.report").joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{common}{style}</style></head>\n<body><main><h1>{escape(title)}</h1>"
        f'<p class="lead">{lead}</p>\n{body}\n</main><script>\n{steps}{script}</script></body></html>\n'
    )

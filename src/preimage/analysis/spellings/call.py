"""A call as text, `Conv2d(3, 64, 7, stride=2)`, read without running anything: names and literal values only."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from preimage.errors import OptionError

__all__ = ["Call", "parsed", "per_axis_of", "written"]

MOST_TEXT = 10_000


@dataclass(frozen=True)
class Call:
    """A call: the function's last name, its dotted name, positional and keyword values. A bare name as a value is a Name.

    added: whether an array is added to its result, as functional libraries add a bias.
    """

    name: str
    dotted: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    added: bool = False

    def bound(self, order: Sequence[str], known: Sequence[str] = (), ignored: Sequence[str] = ()) -> dict[str, Any]:
        """The values by parameter name; `order` are those that may be positional, `known` further keywords.

        Raises: OptionError for too many, twice the same, or a name that the layer does not have.
        """
        if len(self.args) > len(order):
            raise OptionError(
                f"{self.name} takes at most {len(order)} positional values ({', '.join(order)}), got {len(self.args)}"
            )
        found = dict(zip(order, self.args, strict=False))
        for key, value in self.kwargs.items():
            if key in found:
                raise OptionError(f"{self.name}: {key} is given twice")
            if key in ignored:
                continue
            if key not in order and key not in known:
                raise OptionError(f"{self.name} has no {key!r}; it has {', '.join((*order, *known))}")
            found[key] = value
        return found


@dataclass(frozen=True)
class Name:
    """A bare name where a value would stand, such as an array."""

    id: str


def parsed(text: str) -> Call:
    """The call that the text is. Raises: OptionError for anything else than one call of names with literal values."""
    if len(text) > MOST_TEXT:
        raise OptionError(f"a layer is written in at most {MOST_TEXT} characters, got {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise OptionError(f"{_short(text)} is no layer: {error.args[0] if error.args else error}") from None
    added = isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add)
    if isinstance(tree, ast.BinOp) and added:
        right = tree.right  # b, or b.reshape(...)
        array = right.func.value if isinstance(right, ast.Call) and isinstance(right.func, ast.Attribute) else right
        if not isinstance(array, ast.Name):
            raise OptionError(f"{_short(text)} is no layer: only a bias may be added, by its name")
        tree = tree.left
    if not isinstance(tree, ast.Call):
        raise OptionError(f"{_short(text)} is no layer: wanted a call such as Conv2d(3, 64, 7, stride=2)")
    dotted = _dotted(tree.func)
    if any(k.arg is None for k in tree.keywords):
        raise OptionError(f"{_short(text)}: write the options out, not as **options")
    kwargs: dict[str, Any] = {}
    for keyword in tree.keywords:
        if keyword.arg in kwargs:
            raise OptionError(f"{_short(text)}: {keyword.arg} is given twice")
        kwargs[str(keyword.arg)] = _value(keyword.value)
    return Call(dotted.rpartition(".")[2], dotted, tuple(_value(a) for a in tree.args), kwargs, added)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _dotted(node: ast.expr) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise OptionError("the layer's name must be a name, such as torch.nn.Conv2d")
    return ".".join([node.id, *reversed(parts)])


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return Name(node.id)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise OptionError(f"{_short(ast.unparse(node))} is no literal value: write numbers, tuples and words out") from None


def per_axis_of(value: Any, ndim: int, what: str, least: int = 1) -> tuple[int, ...]:
    """One integer an axis from one for all or a sequence."""
    values = tuple(value) if isinstance(value, tuple | list) else (value,) * ndim
    if len(values) == 1:
        values *= ndim
    if len(values) != ndim or any(isinstance(v, bool) or not isinstance(v, int) or v < least for v in values):
        raise OptionError(f"{what} must be one integer of at least {least}, or {ndim} of them, got {value!r}")
    return values


def count_of(value: Any, what: str) -> int:
    """A positive integer."""
    return per_axis_of(value, 1, what)[0]


def flag_of(value: Any, what: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise OptionError(f"{what} must be True or False, got {value!r}")
    return value


def common(values: Sequence[Any]) -> Any:
    """One value where all are the same, else a tuple."""
    return values[0] if len(set(values)) == 1 else tuple(values)


def written(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The text of a call."""
    parts = [_shown(a) for a in args] + [f"{k}={_shown(v)}" for k, v in kwargs.items()]
    return f"{name}({', '.join(parts)})"


def _shown(value: Any) -> str:
    if isinstance(value, Name):
        return value.id
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple | list):
        inner = ", ".join(_shown(v) for v in value)
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)

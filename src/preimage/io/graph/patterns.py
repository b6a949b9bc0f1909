"""Expressions that exporters spell out, each rewritten to the one word that it means: the table `PATTERNS`.

A row is a name, an expression (`match`), and a function that gives the nodes in its place, or None where something that the expression does not say
is otherwise: axes, dtypes, shapes. Larger expressions stand before those that are parts of them. The words compute what the nodes computed, rounded
at other places: results are the same to rounding, and their bits depend on no batch, thread or layout, as those of all words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from preimage.io.graph.facts import Fact
from preimage.io.graph.match import Found, View, word_of
from preimage.io.graph.nodes import Node
from preimage.io.graph.sizes import Size
from preimage.records import record

__all__ = ["PATTERNS", "Pattern", "becomes", "pattern", "rank_of"]


@record
class Pattern:
    """A name for reports, the expression, what stands for it, and whether it holds for values that are no floats, too."""

    name: str
    text: str
    change: Callable[[Found, View], Node | None]
    any_dtype: bool = False


PATTERNS: list[Pattern] = []


def pattern(name: str, *texts: str) -> Callable[[Callable[[Found, View], Node | None]], Callable[[Found, View], Node | None]]:
    """Add rows to the table: expressions with the same meaning."""

    def register(change: Callable[[Found, View], Node | None]) -> Callable[[Found, View], Node | None]:
        PATTERNS.extend(Pattern(name, text, change) for text in texts)
        return change

    return register


def becomes(found: Found, op: str, inputs: Sequence[str], **attributes: Any) -> Node:
    """A node in the place of the root."""
    return replace(found.root, op=op, inputs=tuple(inputs), attributes=attributes)


def _axes(node: Node, view: View) -> tuple[int, ...] | None:
    """The axes of a reduction that keeps them as 1, from the front; None where they are not known."""
    rank = rank_of(view, node.inputs[0])
    if rank is None:
        return None
    if word_of(node) == "global_avg_pool":
        return tuple(range(2, rank))
    if not node.flag("keepdims", True):
        return None
    given: Any = node.attributes.get("axes")
    if given is None and len(node.inputs) > 1 and node.inputs[1]:
        given = view.facts[node.inputs[1]].known if node.inputs[1] in view.facts else None
        if given is None:
            return None
    if given is None or not np.size(given):
        return None if node.attributes.get("noop_with_empty_axes") else tuple(range(rank))
    axes = [int(a) for a in np.asarray(given).reshape(-1)]
    return tuple(sorted({a % rank for a in axes})) if all(-rank <= a < rank for a in axes) else None


def rank_of(view: View, key: str) -> int | None:
    shape = view.facts.get(key, Fact()).shape
    return None if shape is None else len(shape)


def _same_axes(nodes: Sequence[Node], view: View) -> tuple[int, ...] | None:
    """The axes that all these reductions have in common."""
    found = {_axes(node, view) for node in nodes}
    return found.pop() if len(found) == 1 else None


def _within(view: View, small: str, large: str) -> bool:
    """Whether a value broadcasts to another's shape without making it larger, and is of its dtype."""
    a, b = view.facts.get(small, Fact()), view.facts.get(large, Fact())
    if a.shape is None or b.shape is None or a.dtype != b.dtype or len(a.shape) > len(b.shape):
        return False
    return all(n in (1, m) for n, m in zip(reversed(a.shape), reversed(b.shape), strict=False))


# -- activations -------------------------------------------------------------------------------------------------------


@pattern("GELU", "x * 0.5 * (1 + erf(x / 1.41421356237))")
def _gelu(found: Found, view: View) -> Node:
    return becomes(found, "gelu", [found.values["x"]], approximate="none")


@pattern(
    "GELU by tanh",
    "x * 0.5 * (1 + tanh(0.79788456 * (x + 0.044715 * x ** 3)))",
    "x * 0.5 * (1 + tanh(0.79788456 * (x + 0.044715 * (x * x * x))))",
    "x * 0.5 * (1 + tanh(x * 0.79788456 * (1 + 0.044715 * x ** 2)))",
    "x * 0.5 * (1 + tanh(x * 0.79788456 * (1 + 0.044715 * (x * x))))",
)
def _gelu_tanh(found: Found, view: View) -> Node:
    return becomes(found, "gelu", [found.values["x"]], approximate="tanh")


@pattern("Mish", "x * tanh(softplus(x))", "x * tanh(log(1 + exp(x)))")
def _mish(found: Found, view: View) -> Node:
    return becomes(found, "mish", [found.values["x"]])


@pattern("SiLU", "x * sigmoid(x)", "x / (1 + exp(-1 * x))")
def _silu(found: Found, view: View) -> Node:
    return becomes(found, "swish", [found.values["x"]], beta=1.0)


@pattern("SiLU", "x * sigmoid(beta * x)")
def _silu_beta(found: Found, view: View) -> Node | None:
    return becomes(found, "swish", [found.values["x"]], beta=found.numbers["beta"]) if found.numbers["beta"] != 1 else None


def _bounds(node: Node, view: View) -> tuple[float, float] | None:
    """Both bounds of a clip."""
    lo, hi = node.attributes.get("lo", node.attributes.get("min")), node.attributes.get("hi", node.attributes.get("max"))
    for position, name in ((1, "lo"), (2, "hi")):
        if position < len(node.inputs) and node.inputs[position]:
            value = view.number(node.inputs[position])
            lo, hi = (value, hi) if name == "lo" else (lo, value)
    return None if lo is None or hi is None else (float(lo), float(hi))  # type: ignore[arg-type]


def _is_clip(found: Found, view: View, lo: float, hi: float) -> bool:
    bounds = _bounds(found.of("clip")[0], view)
    return bounds is not None and abs(bounds[0] - lo) + abs(bounds[1] - hi) < 1e-6


@pattern("HardSwish", "x * clip(x + 3) / 6")
def _hard_swish(found: Found, view: View) -> Node | None:
    return becomes(found, "hard_swish", [found.values["x"]]) if _is_clip(found, view, 0, 6) else None


@pattern("HardSwish", "x * clip(x / 6 + 0.5)")
def _hard_swish_of_sixths(found: Found, view: View) -> Node | None:
    return becomes(found, "hard_swish", [found.values["x"]]) if _is_clip(found, view, 0, 1) else None


@pattern("HardSwish", "x * hard_sigmoid(x)")
def _hard_swish_of_words(found: Found, view: View) -> Node | None:
    node = found.of("hard_sigmoid")[0]
    own = (0.2, 0.5) if node.op.startswith("onnx.") else (1 / 6, 0.5)
    slope, offset = node.number("alpha", own[0]), node.number("beta", own[1])
    return becomes(found, "hard_swish", [found.values["x"]]) if abs(slope - 1 / 6) < 1e-6 and abs(offset - 0.5) < 1e-6 else None


@pattern("HardSigmoid", "clip(x + 3) / 6")
def _hard_sigmoid(found: Found, view: View) -> Node | None:
    return becomes(found, "hard_sigmoid", [found.values["x"]], alpha=1 / 6, beta=0.5) if _is_clip(found, view, 0, 6) else None


@pattern("LeakyReLU", "maximum(x, x * slope)")
def _leaky_relu(found: Found, view: View) -> Node | None:
    slope = found.numbers["slope"]
    return becomes(found, "leaky_relu", [found.values["x"]], slope=slope) if 0 < slope < 1 else None


@pattern("ReLU", "maximum(x, 0)")
def _relu(found: Found, view: View) -> Node | None:
    return becomes(found, "relu", [found.values["x"]]) if _alone(found, view) else None


@pattern("Clip", "minimum(maximum(x, lo), hi)")
def _clip(found: Found, view: View) -> Node | None:
    lo, hi = found.numbers["lo"], found.numbers["hi"]
    return becomes(found, "clip", [found.values["x"]], lo=lo, hi=hi) if lo <= hi and _alone(found, view) else None


@pattern("Clip", "minimum(relu(x), hi)")
def _clip_of_relu(found: Found, view: View) -> Node | None:
    hi = found.numbers["hi"]
    return becomes(found, "clip", [found.values["x"]], lo=0.0, hi=hi) if hi >= 0 and _alone(found, view) else None


@pattern("Clip", "minimum(x, hi)")
def _clip_above(found: Found, view: View) -> Node | None:
    return becomes(found, "clip", [found.values["x"]], lo=None, hi=found.numbers["hi"]) if _alone(found, view) else None


@pattern("Clip", "maximum(x, lo)")
def _clip_below(found: Found, view: View) -> Node | None:
    return becomes(found, "clip", [found.values["x"]], lo=found.numbers["lo"], hi=None) if _alone(found, view) else None


def _alone(found: Found, view: View) -> bool:
    """Whether no operand beside the values makes the result larger, and no third operand takes part."""
    return all(len(node.inputs) <= 2 for node in found.nodes) and _within(view, found.root.outputs[0], found.values["x"])


# -- normalisations ----------------------------------------------------------------------------------------------------

_DEVIATION = "sqrt(mean((x - mean(x)) ** 2) + eps)"


@pattern("LayerNorm", f"(x - mean(x)) / {_DEVIATION}")
def _layer_norm(found: Found, view: View) -> Node | None:
    axes = _same_axes(found.of("mean") + found.of("global_avg_pool"), view)
    if axes is None or not 0 <= found.numbers["eps"] < 1:
        return None
    return becomes(found, "layer_norm", [found.values["x"]], axes=axes, eps=found.numbers["eps"])


@pattern("LayerNorm", f"x * (W / {_DEVIATION}) + (B - mean(x) * (W / {_DEVIATION}))")
def _layer_norm_of_factors(found: Found, view: View) -> Node | None:
    made = _layer_norm(found, view)
    weights = found.values["W"], found.values["B"]
    if made is None or not all(_within(view, key, found.values["x"]) for key in weights):
        return None
    return replace(made, inputs=(*made.inputs, *weights))


@pattern("RMSNorm", "x / sqrt(mean(x ** 2) + eps)")
def _rms_norm(found: Found, view: View) -> Node | None:
    axes = _same_axes(found.of("mean"), view)
    if axes is None or not 0 <= found.numbers["eps"] < 1:
        return None
    return becomes(found, "rms_norm", [found.values["x"]], axes=axes, eps=found.numbers["eps"])


def _with_weight(found: Found, view: View, word: str) -> Node | None:
    inner = found.of(word)[0]
    if len(inner.inputs) > 1 or not _within(view, found.values["W"], inner.inputs[0]):
        return None
    return replace(found.root, op=word, inputs=(inner.inputs[0], found.values["W"]), attributes=inner.attributes)


@pattern("weight of LayerNorm", "layer_norm(x) * W")
def _layer_norm_weight(found: Found, view: View) -> Node | None:
    return _with_weight(found, view, "layer_norm")


@pattern("weight of RMSNorm", "rms_norm(x) * W")
def _rms_norm_weight(found: Found, view: View) -> Node | None:
    return _with_weight(found, view, "rms_norm")


@pattern("bias of LayerNorm", "layer_norm(x) + B")
def _layer_norm_bias(found: Found, view: View) -> Node | None:
    inner = found.of("layer_norm")[0]
    if len(inner.inputs) > 2 or not _within(view, found.values["B"], inner.inputs[0]):
        return None
    weight = inner.inputs[1] if len(inner.inputs) > 1 else ""
    return replace(found.root, op="layer_norm", inputs=(inner.inputs[0], weight, found.values["B"]), attributes=inner.attributes)


@pattern("GroupNorm", "reshape(instance_norm(reshape(x, s), W, B), t)")
def _group_norm(found: Found, view: View) -> Node | None:
    norm, inner = found.of("instance_norm")[0], found.of("reshape")[1]
    x, out, grouped = (view.facts.get(key, Fact()).shape for key in (found.values["x"], found.root.outputs[0], inner.outputs[0]))
    scale, offset = (view.stored[found.values[letter]] for letter in "WB")
    if x is None or out != x or grouped is None or len(x) < 2 or len(grouped) < 3 or grouped[0] != x[0]:
        return None
    channels, groups = x[1], grouped[1]
    if isinstance(channels, Size) or isinstance(groups, Size) or not groups or channels % groups:
        return None
    if not (np.all(np.asarray(scale) == 1) and np.all(np.asarray(offset) == 0)):
        return None
    eps = norm.number("epsilon", norm.number("eps", 1e-5))
    return becomes(found, "group_norm", [found.values["x"]], groups=groups, channels=channels, eps=eps)


# -- reductions and attention ------------------------------------------------------------------------------------------


@pattern("softmax", "exp(x - highest(x)) / total(exp(x - highest(x)))")
def _softmax(found: Found, view: View) -> Node | None:
    axes = _same_axes(found.of("total") + found.of("highest"), view)
    return becomes(found, "softmax", [found.values["x"]], axis=axes[0]) if axes is not None and len(axes) == 1 else None


@pattern("root of a sum of squares", "sqrt(total(x ** 2))", "sqrt(total_squares(x))")
def _length(found: Found, view: View) -> Node | None:
    inner = (found.of("total") + found.of("total_squares"))[0]
    if not inner.op.startswith("onnx."):
        return None
    return replace(found.root, op="onnx.ReduceL2", inputs=(found.values["x"], *inner.inputs[1:]), attributes=inner.attributes)


@pattern("means of means", "mean(mean(x))")
def _mean_of_means(found: Found, view: View) -> Node | None:
    axes = [_axes(node, view) for node in found.of("mean")]
    if any(each is None for each in axes) or not all(node.op.startswith("onnx.") for node in found.of("mean")):
        return None
    both = sorted({a for each in axes for a in each or ()})
    return becomes(found, "onnx.ReduceMean", [found.values["x"]], axes=both, keepdims=1)


@pattern("mean over space", "mean(x)")
def _mean_over_space(found: Found, view: View) -> Node | None:
    rank, axes = rank_of(view, found.values["x"]), _axes(found.root, view)
    if rank is None or rank < 3 or axes != tuple(range(2, rank)):
        return None
    return becomes(found, "global_avg_pool", [found.values["x"]])


_SCORES = ("matmul(q, k) * scale", "matmul(q * scale, k)", "matmul(q, k)")


@pattern("attention", *(f"matmul(softmax({scores} + m, axis=axis), v)" for scores in _SCORES))
def _attention_masked(found: Found, view: View) -> Node | None:
    return _attention(found, view)


@pattern("attention", *(f"matmul(softmax({scores}, axis=axis), v)" for scores in _SCORES))
def _attention(found: Found, view: View) -> Node | None:
    """Over the last axis of the scores, of four axes as all exporters have it."""
    scores = found.of("softmax")[0].inputs[0]
    rank, axis = rank_of(view, scores), found.numbers["axis"]
    if rank is None or axis not in (-1, rank - 1) or any(rank_of(view, found.values[k]) != rank for k in "qkv"):
        return None
    if "m" in found.values and not _within(view, found.values["m"], scores):
        return None
    inputs = [*(found.values[k] for k in "qkv"), *([found.values["m"]] if "m" in found.values else [])]
    return becomes(found, "attention", inputs, scale=found.numbers.get("scale", 1.0))

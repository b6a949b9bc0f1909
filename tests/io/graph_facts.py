"""What `infer` says of the values of a graph beside what a run makes of them.

python tests/io/graph_facts.py MODEL.onnx ...     # random inputs, open sizes as 64: counts, and every value that is not as inferred
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import numpy as np

from preimage import PreimageError, no_grad
from preimage.autograd import array_of
from preimage.io.graph import Graph, Values
from preimage.io.graph.facts import Fact, infer
from preimage.io.graph.sizes import Size


def of_feeds(feeds: dict[str, Any]) -> dict[str, Fact]:
    """The facts of inputs: the contents, too, of small ones, which hold sizes and axes."""
    return {
        key: Fact.of(value) if value.ndim < 2 and value.size < 64 else Fact(value.dtype.name, value.shape)
        for key, value in feeds.items()
    }


def disagreements(graph: Graph, feeds: dict[str, Any], made: dict[str, Any]) -> tuple[list[str], Counter[str]]:
    """Values whose dtype, shape or contents are not what `infer` says, from the file alone and from the shapes of the inputs; and how
    many shapes were inferred whole, in part, not at all."""
    wrong: list[str] = []
    counts: Counter[str] = Counter()
    for given, how in ((None, "file"), (of_feeds(feeds), "inputs")):
        facts = infer(graph, given)
        for node in graph.nodes:
            for key in node.outputs:
                if key and key in made and not isinstance(made[key], Values):
                    fact, value = facts[key], np.asarray(array_of(made[key]))
                    problem = _problem(fact, value)
                    counts[f"{how}: {_extent(fact)}"] += 1
                    if problem:
                        wrong.append(f"{key} of {node.op} from {how}: {problem}")
    return wrong, counts


def _extent(fact: Fact) -> str:
    if fact.shape is None:
        return "no shape"
    return "sizes open" if any(isinstance(d, Size) for d in fact.shape) else "whole"


def _problem(fact: Fact, value: np.ndarray) -> str:
    if fact.dtype != value.dtype.name and fact.dtype is not None:
        return f"inferred {fact.dtype}, is {value.dtype}"
    if fact.shape is not None:
        fits = len(fact.shape) == value.ndim
        if not fits or any(not isinstance(d, Size) and d != n for d, n in zip(fact.shape, value.shape, strict=True)):
            return f"inferred {fact.shape}, is {value.shape}"
    if fact.known is not None and not np.array_equal(fact.known, value, equal_nan=value.dtype.kind in "fc"):
        return f"inferred {fact.known.reshape(-1)[:8]}, is {value.reshape(-1)[:8]}"
    return ""


def every_value(graph: Graph, feeds: dict[str, Any]) -> dict[str, Any]:
    """All that a run makes."""
    with no_grad(), np.errstate(all="ignore"):
        return graph.run(feeds, fetch=[key for node in graph.nodes for key in node.outputs if key])


def main(paths: list[str]) -> int:
    from preimage.io.files import load_model

    bad = 0
    for path in paths:
        try:
            graph = load_model(path)
        except PreimageError as error:
            print(path, "is not read:", str(error)[:150])
            continue
        rng = np.random.default_rng(0)
        feeds = {}
        for item in graph.inputs:
            shape = tuple(d if isinstance(d, int) else 1 if k == 0 else 64 for k, d in enumerate(item.shape or ()))
            values = rng.random(shape)
            feeds[item.name] = values.astype(item.dtype) if "float" in item.dtype else (values * 2).astype(item.dtype)
        try:
            made = every_value(graph, feeds)
        except PreimageError as error:
            print(path, "does not run:", str(error)[:150])
            continue
        wrong, counts = disagreements(graph, feeds, made)
        bad += len(wrong)
        print(path, dict(counts), *wrong[:10], sep="\n  ")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

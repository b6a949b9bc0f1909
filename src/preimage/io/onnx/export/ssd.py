"""SSD's box layers as ONNX operators: sizes stay open, results equal those of io.caffe.functions.ssd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from preimage.errors import FileFormatError
from preimage.io.caffe.functions.ssd import prior_halves
from preimage.io.graph import Node
from preimage.io.onnx.export.words import Writer, word

__all__: list[str] = []


def _op(writer: Writer, op: str, inputs: Sequence[str], **attributes: Any) -> str:
    """One node with one result, whose name is made up."""
    result = writer.value()
    writer.add(op, inputs, [result], **attributes)
    return result


def _ints(writer: Writer, *values: int) -> str:
    return writer.constant(list(values), np.int64)


def _size(writer: Writer, value: str, axis: int) -> str:
    """One size of a value, as int64 of shape (1,)."""
    return _op(writer, "Shape", [value], start=axis, end=axis + 1)


def _float(writer: Writer, value: str) -> str:
    return _op(writer, "Cast", [value], to=writer.onnx.TensorProto.FLOAT)


@word("prior_box")
def _prior_box(writer: Writer, node: Node) -> None:
    """Centres by Range, half sizes as a constant, four sides joined and flattened; variances beside them."""
    half = prior_halves(node.numbers("min_sizes"), node.numbers("max_sizes"), node.numbers("ratios"))
    sides: dict[str, list[str]] = {}
    for axis, column, extent in (("y", 1, 2), ("x", 0, 3)):
        count = _float(writer, _size(writer, node.inputs[0], extent))
        given = node.numbers("image")[extent - 2] if all(node.numbers("image")) else 0
        image = writer.constant([given], np.float32) if given else _float(writer, _size(writer, node.inputs[1], extent))
        step = (
            writer.constant([node.numbers("step")[extent - 2]], np.float32)
            if all(node.numbers("step"))
            else _op(writer, "Div", [image, count])
        )
        scalar = _op(writer, "Squeeze", [count])
        places = _op(writer, "Range", [writer.constant(0.0, np.float32), scalar, writer.constant(1.0, np.float32)])
        centre = _op(writer, "Mul", [_op(writer, "Add", [places, writer.constant(node.number("offset"), np.float32)]), step])
        centre = _op(writer, "Reshape", [centre, _ints(writer, *((-1, 1, 1) if axis == "y" else (1, -1, 1)))])
        reach = writer.constant(half[:, column], np.float32)
        sides[axis] = [_op(writer, "Div", [_op(writer, op, [centre, reach]), image]) for op in ("Sub", "Add")]
    grid = _op(
        writer, "Concat", [_size(writer, node.inputs[0], 2), _size(writer, node.inputs[0], 3), _ints(writer, len(half))], axis=0
    )
    columns = []
    for column_value in (sides["x"][0], sides["y"][0], sides["x"][1], sides["y"][1]):
        spread = _op(writer, "Expand", [column_value, grid])
        columns.append(_op(writer, "Unsqueeze", [spread, _ints(writer, 3)]))
    boxes = _op(writer, "Concat", columns, axis=3)
    if node.flag("clip"):
        boxes = _op(writer, "Clip", [boxes, writer.constant(0.0, np.float32), writer.constant(1.0, np.float32)])
    boxes = _op(writer, "Reshape", [boxes, _ints(writer, 1, 1, -1)])
    whole = _op(writer, "Concat", [grid, _ints(writer, 4)], axis=0)
    variance = _op(writer, "Expand", [writer.constant(list(node.numbers("variance")), np.float32), whole])
    variance = _op(writer, "Reshape", [variance, _ints(writer, 1, 1, -1)])
    writer.add("Concat", [boxes, variance], node.outputs[:1], node.name, axis=1)


def _decoded(writer: Writer, places: str, prior: str, variance: str, code: str, in_target: bool) -> str:
    """(batch, boxes, 4) of sides, from predicted places and prior boxes (boxes, 4)."""
    shift = places if in_target else _op(writer, "Mul", [places, variance])
    if code == "CORNER":
        return _op(writer, "Add", [prior, shift])
    low, high, first, second = writer.value(), writer.value(), writer.value(), writer.value()
    halves = _ints(writer, 2, 2)
    writer.add("Split", [prior, halves], [low, high], axis=1)
    size = _op(writer, "Sub", [high, low])
    if code == "CORNER_SIZE":
        return _op(writer, "Add", [prior, _op(writer, "Mul", [shift, _op(writer, "Concat", [size, size], axis=1)])])
    writer.add("Split", [shift, halves], [first, second], axis=2)
    two = writer.constant(2.0, np.float32)
    middle = _op(writer, "Div", [_op(writer, "Add", [low, high]), two])
    centre = _op(writer, "Add", [_op(writer, "Mul", [first, size]), middle])
    reach = _op(writer, "Div", [_op(writer, "Mul", [_op(writer, "Exp", [second]), size]), two])
    return _op(writer, "Concat", [_op(writer, "Sub", [centre, reach]), _op(writer, "Add", [centre, reach])], axis=2)


def _found(writer: Writer, boxes: str, score: str, label: int, node: Node) -> str:
    """Rows (image, label, score, box) of one label: the top_k scores, thinned out by NonMaxSuppression."""
    count = _size(writer, boxes, 1)
    if node.integer("top_k") > -1:
        count = _op(writer, "Min", [count, _ints(writer, node.integer("top_k"))])
    values, order = writer.value(), writer.value()
    writer.add("TopK", [score, count], [values, order], axis=1, largest=1, sorted=1)
    four = _op(writer, "Concat", [_op(writer, "Shape", [order]), _ints(writer, 4)], axis=0)
    where = _op(writer, "Expand", [_op(writer, "Unsqueeze", [order, _ints(writer, 2)]), four])
    kept = _op(writer, "GatherElements", [boxes, where], axis=1)
    # A box turned inside out meets no other in Caffe; ONNX would turn it back, so for the comparison it becomes empty.
    sides = [_op(writer, "Gather", [kept, _ints(writer, *pair)], axis=2) for pair in ((2, 3), (0, 1))]
    proper = _op(writer, "ReduceMin", [_op(writer, "Sub", sides), _ints(writer, 2)], keepdims=1)
    proper = _op(writer, "GreaterOrEqual", [proper, writer.constant(0.0, np.float32)])
    compared = _op(writer, "Where", [proper, kept, writer.constant(0.0, np.float32)])
    inputs = [
        compared,
        _op(writer, "Unsqueeze", [values, _ints(writer, 1)]),
        count,
        writer.constant([min(node.number("overlap"), 1.0)], np.float32),
    ]
    if node.attributes["threshold"] is not None:
        inputs.append(writer.constant([node.number("threshold")], np.float32))
    chosen = _op(writer, "NonMaxSuppression", inputs)
    place = _op(writer, "Gather", [chosen, _ints(writer, 0, 2)], axis=1)
    image = _float(writer, _op(writer, "Gather", [chosen, _ints(writer, 0)], axis=1))
    named = _op(
        writer, "Add", [_op(writer, "Mul", [image, writer.constant(0.0, np.float32)]), writer.constant(float(label), np.float32)]
    )
    points = _op(writer, "Unsqueeze", [_op(writer, "GatherND", [values, place]), _ints(writer, 1)])
    return _op(writer, "Concat", [image, named, points, _op(writer, "GatherND", [kept, place])], axis=1)


def _best(writer: Writer, rows: str, keep: int) -> str:
    """For each image the `keep` highest scores of all labels: those with fewer than `keep` better ones (of equals, earlier ones)."""
    image = _op(writer, "Gather", [rows, _ints(writer, 0)], axis=1)
    score = _op(writer, "Gather", [rows, _ints(writer, 2)], axis=1)
    others, scores = (_op(writer, "Transpose", [v], perm=[1, 0]) for v in (image, score))
    count = _op(writer, "Squeeze", [_size(writer, rows, 0)])
    number = _op(writer, "Range", [writer.constant(0, np.int64), count, writer.constant(1, np.int64)])
    mine, theirs = (_op(writer, "Unsqueeze", [number, _ints(writer, axis)]) for axis in (1, 0))
    earlier = _op(writer, "And", [_op(writer, "Equal", [scores, score]), _op(writer, "Less", [theirs, mine])])
    ahead = _op(writer, "Or", [_op(writer, "Greater", [scores, score]), earlier])
    ahead = _op(writer, "And", [ahead, _op(writer, "Equal", [others, image])])
    total = _op(writer, "ReduceSum", [_float(writer, ahead), _ints(writer, 1)], keepdims=0)
    return _op(writer, "Compress", [rows, _op(writer, "Less", [total, writer.constant(float(keep), np.float32)])], axis=0)


@word("detection_output")
def _detection_output(writer: Writer, node: Node) -> None:
    """Decode, suppress label by label, keep the best, order by image and label; a row of -1 for each image where nothing is found."""
    if node.attributes["overlap"] is None or node.number("eta") != 1:
        raise FileFormatError(f"node {node.name!r} (detection_output): without suppression, or with eta, ONNX has no counterpart")
    places, scores, priors = node.inputs
    first = _op(writer, "Gather", [priors, writer.constant(0, np.int64)], axis=0)
    pair = _op(writer, "Reshape", [first, _ints(writer, 2, -1, 4)])
    prior, variance = (_op(writer, "Gather", [pair, writer.constant(k, np.int64)], axis=0) for k in (0, 1))
    sets = 1 if node.flag("share_location") else node.integer("classes")
    place = _op(writer, "Reshape", [places, _ints(writer, 0, -1, sets, 4)])
    score = _op(writer, "Reshape", [scores, _ints(writer, 0, -1, node.integer("classes"))])
    labels = [label for label in range(node.integer("classes")) if label != node.integer("background")]
    parts = []
    for label in labels:
        predicted = _op(writer, "Gather", [place, writer.constant(0 if sets == 1 else label, np.int64)], axis=2)
        boxes = _decoded(writer, predicted, prior, variance, node.word("code"), node.flag("variance_in_target"))
        mine = _op(writer, "Gather", [score, writer.constant(label, np.int64)], axis=2)
        parts.append(_found(writer, boxes, mine, label, node))
    rows = _op(writer, "Concat", parts, axis=0)
    if node.integer("keep_top_k") > -1:
        rows = _best(writer, rows, node.integer("keep_top_k"))
    image, label_of = (_op(writer, "Gather", [rows, writer.constant(k, np.int64)], axis=1) for k in (0, 1))
    rank = _op(writer, "Add", [_op(writer, "Mul", [image, writer.constant(node.number("classes"), np.float32)]), label_of])
    unused, order = writer.value(), writer.value()
    writer.add("TopK", [_op(writer, "Neg", [rank]), _size(writer, rows, 0)], [unused, order], axis=0, largest=1, sorted=1)
    rows = _op(writer, "Gather", [rows, order], axis=0)
    batch = _size(writer, scores, 0)
    empty = _op(writer, "Equal", [_size(writer, rows, 0), _ints(writer, 0)])
    missing = _op(writer, "Mul", [batch, _op(writer, "Cast", [empty], to=writer.onnx.TensorProto.INT64)])
    limit = _op(writer, "Squeeze", [missing])
    number = _op(writer, "Range", [writer.constant(0, np.int64), limit, writer.constant(1, np.int64)])
    column = _op(writer, "Unsqueeze", [_float(writer, number), _ints(writer, 1)])
    blank = _op(
        writer, "Expand", [writer.constant([-1.0] * 6, np.float32), _op(writer, "Concat", [missing, _ints(writer, 6)], axis=0)]
    )
    rows = _op(writer, "Concat", [rows, _op(writer, "Concat", [column, blank], axis=1)], axis=0)
    writer.add("Unsqueeze", [rows, _ints(writer, 0, 1)], node.outputs[:1], node.name)

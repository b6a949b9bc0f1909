"""SSD's box layers as ONNX operators: sizes stay open, results equal those of io.caffe.functions.ssd."""

from __future__ import annotations

import numpy as np

from preimage.errors import FileFormatError
from preimage.io.caffe.functions.ssd import prior_halves
from preimage.io.graph import Node
from preimage.io.onnx.export.words import Writer, word

__all__: list[str] = []


@word("prior_box")
def _prior_box(writer: Writer, node: Node) -> None:
    """Centres by Range, half sizes as a constant, four sides joined and flattened; variances beside them."""
    half = prior_halves(node.numbers("min_sizes"), node.numbers("max_sizes"), node.numbers("ratios"))
    sides: dict[str, list[str]] = {}
    for axis, column, extent in (("y", 1, 2), ("x", 0, 3)):
        count = writer.float32(writer.size(node.inputs[0], extent))
        given = node.numbers("image")[extent - 2] if all(node.numbers("image")) else 0
        image = writer.constant([given], np.float32) if given else writer.float32(writer.size(node.inputs[1], extent))
        step = (
            writer.constant([node.numbers("step")[extent - 2]], np.float32)
            if all(node.numbers("step"))
            else writer.op("Div", [image, count])
        )
        scalar = writer.op("Squeeze", [count])
        places = writer.op("Range", [writer.constant(0.0, np.float32), scalar, writer.constant(1.0, np.float32)])
        centre = writer.op("Mul", [writer.op("Add", [places, writer.constant(node.number("offset"), np.float32)]), step])
        centre = writer.op("Reshape", [centre, writer.ints(*((-1, 1, 1) if axis == "y" else (1, -1, 1)))])
        reach = writer.constant(half[:, column], np.float32)
        sides[axis] = [writer.op("Div", [writer.op(op, [centre, reach]), image]) for op in ("Sub", "Add")]
    grid = writer.op("Concat", [writer.size(node.inputs[0], 2), writer.size(node.inputs[0], 3), writer.ints(len(half))], axis=0)
    columns = []
    for column_value in (sides["x"][0], sides["y"][0], sides["x"][1], sides["y"][1]):
        spread = writer.op("Expand", [column_value, grid])
        columns.append(writer.op("Unsqueeze", [spread, writer.ints(3)]))
    boxes = writer.op("Concat", columns, axis=3)
    if node.flag("clip"):
        boxes = writer.op("Clip", [boxes, writer.constant(0.0, np.float32), writer.constant(1.0, np.float32)])
    boxes = writer.op("Reshape", [boxes, writer.ints(1, 1, -1)])
    whole = writer.op("Concat", [grid, writer.ints(4)], axis=0)
    variance = writer.op("Expand", [writer.constant(list(node.numbers("variance")), np.float32), whole])
    variance = writer.op("Reshape", [variance, writer.ints(1, 1, -1)])
    writer.add("Concat", [boxes, variance], node.outputs[:1], node.name, axis=1)


def _decoded(writer: Writer, places: str, prior: str, variance: str, code: str, in_target: bool) -> str:
    """(batch, boxes, 4) of sides, from predicted places and prior boxes (boxes, 4)."""
    shift = places if in_target else writer.op("Mul", [places, variance])
    if code == "CORNER":
        return writer.op("Add", [prior, shift])
    low, high, first, second = writer.value(), writer.value(), writer.value(), writer.value()
    halves = writer.ints(2, 2)
    writer.add("Split", [prior, halves], [low, high], axis=1)
    size = writer.op("Sub", [high, low])
    if code == "CORNER_SIZE":
        return writer.op("Add", [prior, writer.op("Mul", [shift, writer.op("Concat", [size, size], axis=1)])])
    writer.add("Split", [shift, halves], [first, second], axis=2)
    two = writer.constant(2.0, np.float32)
    middle = writer.op("Div", [writer.op("Add", [low, high]), two])
    centre = writer.op("Add", [writer.op("Mul", [first, size]), middle])
    reach = writer.op("Div", [writer.op("Mul", [writer.op("Exp", [second]), size]), two])
    return writer.op("Concat", [writer.op("Sub", [centre, reach]), writer.op("Add", [centre, reach])], axis=2)


def _found(writer: Writer, boxes: str, score: str, label: int, node: Node) -> str:
    """Rows (image, label, score, box) of one label: the top_k scores, thinned out by NonMaxSuppression."""
    count = writer.size(boxes, 1)
    if node.integer("top_k") > -1:
        count = writer.op("Min", [count, writer.ints(node.integer("top_k"))])
    values, order = writer.value(), writer.value()
    writer.add("TopK", [score, count], [values, order], axis=1, largest=1, sorted=1)
    four = writer.op("Concat", [writer.op("Shape", [order]), writer.ints(4)], axis=0)
    where = writer.op("Expand", [writer.op("Unsqueeze", [order, writer.ints(2)]), four])
    kept = writer.op("GatherElements", [boxes, where], axis=1)
    # A box turned inside out meets no other in Caffe; ONNX would turn it back, so for the comparison it becomes empty.
    sides = [writer.op("Gather", [kept, writer.ints(*pair)], axis=2) for pair in ((2, 3), (0, 1))]
    proper = writer.op("ReduceMin", [writer.op("Sub", sides), writer.ints(2)], keepdims=1)
    proper = writer.op("GreaterOrEqual", [proper, writer.constant(0.0, np.float32)])
    compared = writer.op("Where", [proper, kept, writer.constant(0.0, np.float32)])
    inputs = [
        compared,
        writer.op("Unsqueeze", [values, writer.ints(1)]),
        count,
        writer.constant([min(node.number("overlap"), 1.0)], np.float32),
    ]
    if node.attributes["threshold"] is not None:
        inputs.append(writer.constant([node.number("threshold")], np.float32))
    chosen = writer.op("NonMaxSuppression", inputs)
    place = writer.op("Gather", [chosen, writer.ints(0, 2)], axis=1)
    image = writer.float32(writer.op("Gather", [chosen, writer.ints(0)], axis=1))
    named = writer.op(
        "Add", [writer.op("Mul", [image, writer.constant(0.0, np.float32)]), writer.constant(float(label), np.float32)]
    )
    points = writer.op("Unsqueeze", [writer.op("GatherND", [values, place]), writer.ints(1)])
    return writer.op("Concat", [image, named, points, writer.op("GatherND", [kept, place])], axis=1)


def _best(writer: Writer, rows: str, keep: int) -> str:
    """For each image the `keep` highest scores of all labels: those with fewer than `keep` better ones (of equals, earlier ones)."""
    image = writer.op("Gather", [rows, writer.ints(0)], axis=1)
    score = writer.op("Gather", [rows, writer.ints(2)], axis=1)
    others, scores = (writer.op("Transpose", [v], perm=[1, 0]) for v in (image, score))
    count = writer.op("Squeeze", [writer.size(rows, 0)])
    number = writer.op("Range", [writer.constant(0, np.int64), count, writer.constant(1, np.int64)])
    mine, theirs = (writer.op("Unsqueeze", [number, writer.ints(axis)]) for axis in (1, 0))
    earlier = writer.op("And", [writer.op("Equal", [scores, score]), writer.op("Less", [theirs, mine])])
    ahead = writer.op("Or", [writer.op("Greater", [scores, score]), earlier])
    ahead = writer.op("And", [ahead, writer.op("Equal", [others, image])])
    total = writer.op("ReduceSum", [writer.float32(ahead), writer.ints(1)], keepdims=0)
    return writer.op("Compress", [rows, writer.op("Less", [total, writer.constant(float(keep), np.float32)])], axis=0)


@word("detection_output")
def _detection_output(writer: Writer, node: Node) -> None:
    """Decode, suppress label by label, keep the best, order by image and label; a row of -1 for each image where nothing is found."""
    if node.attributes["overlap"] is None or node.number("eta") != 1:
        raise FileFormatError(f"node {node.name!r} (detection_output): without suppression, or with eta, ONNX has no counterpart")
    places, scores, priors = node.inputs
    first = writer.op("Gather", [priors, writer.constant(0, np.int64)], axis=0)
    pair = writer.op("Reshape", [first, writer.ints(2, -1, 4)])
    prior, variance = (writer.op("Gather", [pair, writer.constant(k, np.int64)], axis=0) for k in (0, 1))
    sets = 1 if node.flag("share_location") else node.integer("classes")
    place = writer.op("Reshape", [places, writer.ints(0, -1, sets, 4)])
    score = writer.op("Reshape", [scores, writer.ints(0, -1, node.integer("classes"))])
    labels = [label for label in range(node.integer("classes")) if label != node.integer("background")]
    parts = []
    for label in labels:
        predicted = writer.op("Gather", [place, writer.constant(0 if sets == 1 else label, np.int64)], axis=2)
        boxes = _decoded(writer, predicted, prior, variance, node.word("code"), node.flag("variance_in_target"))
        mine = writer.op("Gather", [score, writer.constant(label, np.int64)], axis=2)
        parts.append(_found(writer, boxes, mine, label, node))
    rows = writer.op("Concat", parts, axis=0)
    if node.integer("keep_top_k") > -1:
        rows = _best(writer, rows, node.integer("keep_top_k"))
    image, label_of = (writer.op("Gather", [rows, writer.constant(k, np.int64)], axis=1) for k in (0, 1))
    rank = writer.op("Add", [writer.op("Mul", [image, writer.constant(node.number("classes"), np.float32)]), label_of])
    unused, order = writer.value(), writer.value()
    writer.add("TopK", [writer.op("Neg", [rank]), writer.size(rows, 0)], [unused, order], axis=0, largest=1, sorted=1)
    rows = writer.op("Gather", [rows, order], axis=0)
    batch = writer.size(scores, 0)
    empty = writer.op("Equal", [writer.size(rows, 0), writer.ints(0)])
    missing = writer.op("Mul", [batch, writer.op("Cast", [empty], to=writer.onnx.TensorProto.INT64)])
    limit = writer.op("Squeeze", [missing])
    number = writer.op("Range", [writer.constant(0, np.int64), limit, writer.constant(1, np.int64)])
    column = writer.op("Unsqueeze", [writer.float32(number), writer.ints(1)])
    blank = writer.op("Expand", [writer.constant([-1.0] * 6, np.float32), writer.op("Concat", [missing, writer.ints(6)], axis=0)])
    rows = writer.op("Concat", [rows, writer.op("Concat", [column, blank], axis=1)], axis=0)
    writer.add("Unsqueeze", [rows, writer.ints(0, 1)], node.outputs[:1], node.name)

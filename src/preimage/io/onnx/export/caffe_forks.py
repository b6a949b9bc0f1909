"""How the words of layers that forks of Caffe added are written as ONNX operators."""

from __future__ import annotations

import numpy as np

from preimage.io.graph import Node
from preimage.io.onnx.export.words import Writer, word

__all__: list[str] = []


def _scaled(writer: Writer, size: str, factor: int, divisor: int = 1) -> str:
    """A size times a factor, over a divisor."""
    if divisor != 1:
        size = writer.op("Div", [size, writer.ints(divisor)])
    return size if factor == 1 else writer.op("Mul", [size, writer.ints(factor)])


def _shape(writer: Writer, *parts: str) -> str:
    return writer.op("Concat", list(parts), axis=0)


@word("crop_center")
def _crop_center(writer: Writer, node: Node) -> None:
    x, cut = node.inputs[0], writer.ints(*node.integers("crop"))
    ends = writer.op("Sub", [writer.op("Shape", [x]), cut])
    writer.add("Slice", [x, cut, ends], node.outputs, node.name)


@word("reorg")
def _reorg(writer: Writer, node: Node) -> None:
    """The middle step is ONNX's SpaceToDepth, its inverse DepthToSpace; the others are reshapes."""
    x, s = node.inputs[0], node.integer("stride")
    if node.flag("reverse"):
        writer.add("DepthToSpace", [x], node.outputs, node.name, blocksize=s, mode="DCR")
        return
    batch, channels, height, width = (writer.size(x, k) for k in range(4))
    seen = _shape(writer, batch, _scaled(writer, channels, 1, s * s), _scaled(writer, height, s), _scaled(writer, width, s))
    moved = writer.op("SpaceToDepth", [writer.op("Reshape", [x, seen])], blocksize=s)
    result = _shape(writer, batch, _scaled(writer, channels, s * s), _scaled(writer, height, 1, s), _scaled(writer, width, 1, s))
    writer.add("Reshape", [moved, result], node.outputs, node.name)


@word("unpool_mask")
def _unpool_mask(writer: Writer, node: Node) -> None:
    """Planes of zeros, into which the values are scattered."""
    x, mask = node.inputs
    if node.attributes.get("size") is not None:
        sides = [writer.ints(n) for n in node.integers("size")]
    else:
        sides = [
            writer.op("Sub", [_scaled(writer, writer.size(x, 2 + k), scale), writer.ints(less)])
            for k, (scale, less) in enumerate(zip(node.integers("scale"), node.integers("less"), strict=True))
        ]
    first, row = writer.size(x, 0, 2), writer.ints(0, 0, -1)
    planes = writer.op("Expand", [writer.constant(0.0), _shape(writer, first, writer.op("Mul", sides))])
    places = writer.op("Reshape", [writer.op("Cast", [mask], to=writer.onnx.TensorProto.INT64), row])
    filled = writer.op("ScatterElements", [planes, places, writer.op("Reshape", [x, row])], axis=2)
    writer.add("Reshape", [filled, _shape(writer, first, *sides)], node.outputs, node.name)


@word("interp")
def _interp(writer: Writer, node: Node) -> None:
    x, (begin, end) = node.inputs[0], node.integers("pad")
    if begin or end:
        ends = writer.op("Add", [writer.size(x, 2, 4), writer.ints(end)])
        x = writer.op("Slice", [x, writer.ints(-begin, -begin), ends, writer.ints(2, 3)])
    if node.attributes.get("size") is not None:
        sides = writer.ints(*node.integers("size"))
    else:
        steps = _scaled(
            writer, writer.op("Sub", [writer.size(x, 2, 4), writer.ints(1)]), node.integer("zoom"), node.integer("shrink")
        )
        sides = writer.op("Add", [steps, writer.ints(1)])
    sizes = _shape(writer, writer.size(x, 0, 2), sides)
    writer.add(
        "Resize", [x, "", "", sizes], node.outputs, node.name, mode="linear", coordinate_transformation_mode="align_corners"
    )


@word("bn_batch")
def _bn_batch(writer: Writer, node: Node) -> None:
    x, axes = node.inputs[0], writer.ints(0, 2, 3)
    mean, variance = node.outputs[1:]
    writer.add("ReduceMean", [x, axes], [mean], keepdims=1)
    centred = writer.op("Sub", [x, mean])
    writer.add("ReduceMean", [writer.op("Mul", [centred, centred]), axes], [variance], keepdims=1)
    root = writer.op("Sqrt", [writer.op("Add", [variance, writer.constant(node.number("eps"))])])
    writer.add("Div", [centred, root], node.outputs[:1], node.name)


@word("roi_pool")
def _roi_pool(writer: Writer, node: Node) -> None:
    rois = writer.op("Reshape", [node.inputs[1], writer.ints(-1, 5)])
    writer.add(
        "MaxRoiPool", [node.inputs[0], rois], node.outputs, node.name,
        pooled_shape=list(node.integers("pooled")), spatial_scale=float(np.float32(node.number("scale"))),
    )  # fmt: skip

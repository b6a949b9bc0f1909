"""Rows of layers that move, cut, join or reduce axes, and of layers that feed data.

Source: BVLC/caffe, the layer code of the same names; Permute: weiliu89/caffe, branch ssd. Read as facts.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod

from preimage.io.caffe.assemble import Context, Shape, layer_type
from preimage.io.caffe.wire.message import Message
from preimage.io.graph import Input

__all__: list[str] = []


@layer_type("Concat")
def _concat(context: Context) -> None:
    context.need(range(1, 4097))
    parameter, first = context.layer.concat_param, context.shapes[0]
    if parameter.has("axis") and parameter.has("concat_dim"):
        context.fail("give either axis or concat_dim")
    axis = context.axis(parameter.concat_dim if parameter.has("concat_dim") else parameter.axis, len(first))
    for index, shape in enumerate(context.shapes):
        if len(shape) != len(first) or any(a != b for k, (a, b) in enumerate(zip(shape, first, strict=False)) if k != axis):
            context.fail(f"bottom {index} has shape {shape}, the first has {first}: they may differ only in axis {axis}")
    context.emit("concat", axis=axis)
    context.top((*first[:axis], sum(shape[axis] for shape in context.shapes), *first[axis + 1 :]))


@layer_type("Slice")
def _slice(context: Context) -> None:
    context.need(1, range(1, 4097))
    parameter, size, count = context.layer.slice_param, context.shapes[0], len(context.tops)
    if parameter.has("axis") and parameter.has("slice_dim"):
        context.fail("give either axis or slice_dim")
    axis = context.axis(parameter.slice_dim if parameter.has("slice_dim") else parameter.axis, len(size))
    length, points = size[axis], [int(point) for point in parameter.slice_point]
    if points:
        if len(points) != count - 1:
            context.fail(f"has {len(points)} slice points for {count} tops; one fewer than tops is needed")
        if any(b <= a for a, b in zip([0, *points], [*points, length], strict=True)):
            context.fail(f"slice points {points} must rise and lie inside axis {axis} of length {length}")
    elif length % count:
        context.fail(f"{count} tops do not divide axis {axis} of length {length}")
    edges: list[int | None] = [0, *points, None] if points else [k * (length // count) for k in range(count)] + [None]
    for index, (start, stop) in enumerate(pairwise(edges)):
        context.emit("slice_axis", outputs=[context.tops[index]], axis=axis, start=start, stop=stop)
        context.top((*size[:axis], (length if stop is None else stop) - (start or 0), *size[axis + 1 :]), index)


@layer_type("Crop")
def _crop(context: Context) -> None:
    """From `axis` on, cut to the second bottom's size, at the offsets."""
    context.need(2)
    parameter, (size, reference) = context.layer.crop_param, context.shapes
    axis = context.axis(parameter.axis, len(size))
    offsets = [int(value) for value in parameter.offset] or [0]
    if len(offsets) not in (1, len(size) - axis):
        context.fail(f"has {len(offsets)} offsets for {len(size) - axis} axes")
    offsets = offsets * (len(size) - axis) if len(offsets) == 1 else offsets
    if len(reference) < len(size):
        context.fail(f"the reference has shape {reference}, too few axes for {size}")
    result = list(size)
    for k, offset in enumerate(offsets, axis):
        if size[k] - offset < reference[k]:
            context.fail(f"axis {k}: {reference[k]} elements from offset {offset} do not lie in {size[k]}")
        result[k] = reference[k]
    context.emit("crop_like", axis=axis, offsets=tuple(offsets))
    context.top(result)


@layer_type("Flatten")
def _flatten(context: Context) -> None:
    context.need(1)
    parameter, size = context.layer.flatten_param, context.shapes[0]
    start, end = context.axis(parameter.axis, len(size)), context.axis(parameter.end_axis, len(size))
    if end < start:
        context.fail(f"end_axis {end} lies before axis {start}")
    context.emit("flatten", axis=start, end_axis=end - len(size))
    context.top((*size[:start], prod(size[start : end + 1]), *size[end + 1 :]))


@layer_type("Reshape")
def _reshape(context: Context) -> None:
    """The axes from `axis` on (num_axes of them) become `shape`: 0 copies an axis, -1 takes what is left."""
    context.need(1)
    parameter, size = context.layer.reshape_param, context.shapes[0]
    target = [int(dim) for dim in parameter.shape.dim]
    start, count = context.axis(parameter.axis, len(size), end=True), parameter.num_axes
    if count < -1 or start + count > len(size):
        context.fail(f"num_axes {count} from axis {start} on does not exist in {size}")
    end = len(size) if count == -1 else start + count
    if target.count(-1) > 1 or min(target, default=0) < -1:
        context.fail(f"shape {target} must hold sizes, 0 to copy an axis and at most one -1")
    fresh = []
    for k, dim in enumerate(target):
        if dim == 0 and start + k >= len(size):
            context.fail(f"shape {target} copies axis {start + k}, which {size} does not have")
        fresh.append(size[start + k] if dim == 0 else dim)
    known = prod(dim for dim in fresh if dim != -1) * prod(size[:start]) * prod(size[end:])
    if -1 in fresh:
        if known == 0 or prod(size) % known:
            context.fail(f"{prod(size)} elements cannot be divided into {target}")
        fresh[fresh.index(-1)] = prod(size) // known
    result = (*size[:start], *fresh, *size[end:])
    if prod(result) != prod(size):
        context.fail(f"{size} has {prod(size)} elements, {result} has {prod(result)}")
    if start == 0 and end == len(size):
        context.emit("reshape", target=tuple(target))
    else:
        context.emit("reshape_part", target=tuple(target), axis=start, end_axis=end)
    context.top(result)


@layer_type("Permute")
def _permute(context: Context) -> None:
    """Axes in a new order; those not named follow in their old order."""
    context.need(1)
    size, order = context.shapes[0], [int(axis) for axis in context.layer.permute_param.order]
    if len(set(order)) != len(order) or any(axis >= len(size) for axis in order):
        context.fail(f"order {order} must name different axes of {size}")
    order += [axis for axis in range(len(size)) if axis not in order]
    context.emit("transpose", axes=tuple(order))
    context.top(size[axis] for axis in order)


@layer_type("Tile")
def _tile(context: Context) -> None:
    context.need(1)
    parameter, size = context.layer.tile_param, context.shapes[0]
    axis = context.axis(parameter.axis, len(size))
    if parameter.tiles < 1:
        context.fail("tiles must be at least 1")
    context.emit("tile_axis", axis=axis, tiles=parameter.tiles)
    context.top((*size[:axis], size[axis] * parameter.tiles, *size[axis + 1 :]))


@layer_type("Reduction")
def _reduction(context: Context) -> None:
    """Sum, sum of absolute values, sum of squares or mean over the axes from `axis` on, times coeff."""
    context.need(1)
    parameter, size = context.layer.reduction_param, context.shapes[0]
    axis = context.axis(parameter.axis, len(size)) if size else 0
    operation = parameter.word("operation")
    if operation not in ("SUM", "ASUM", "SUMSQ", "MEAN"):
        context.fail(f"unknown operation {operation}")
    context.emit("reduce_tail", axis=axis, operation=operation, coeff=parameter.coeff)
    context.top(size[:axis])
    context.flop = 2 * prod(size)


@layer_type("ArgMax")
def _argmax(context: Context) -> None:
    """The places (and values) of the largest elements, of an axis or of each image; no gradient."""
    context.need(1)
    parameter, size = context.layer.argmax_param, context.shapes[0]
    axis = context.axis(parameter.axis, len(size)) if parameter.has("axis") else None
    top_k, available = parameter.top_k, prod(size[1:]) if axis is None else size[axis]
    if not size or not 1 <= top_k <= available:
        context.fail(f"top_k {top_k} must lie in 1 .. {available}")
    with_values = bool(parameter.out_max_val)
    context.emit("argmax_top", axis=axis, top_k=top_k, with_values=with_values)
    context.flop = 20 * prod(size)
    if axis is None:
        context.top((size[0], 1 + with_values, top_k, *(1,) * (len(size) - 3)))
    else:
        context.top((*size[:axis], top_k, *size[axis + 1 :]))


# -- layers that feed data ---------------------------------------------------------------------------------------------


def _feed(context: Context, shapes: list[Shape | None], reason: str = "") -> None:
    """Make the tops inputs of the graph; `given` shapes from the caller come first."""
    for index, (top, blob) in enumerate(zip(context.tops, context.layer.top, strict=True)):
        shape = context.given.get(blob) or (shapes[index] if index < len(shapes) else None)
        if shape is None:
            context.fail(f"the shape of {blob!r} is not in the file{reason}; pass input_shapes={{{blob!r}: ...}}")
        context.top(shape, index)
        context.assembly.inputs.append(Input(top, (None,) * len(shape), example=tuple(shape)))


@layer_type("Input")
def _input(context: Context) -> None:
    shapes: list[Shape | None] = [tuple(int(dim) for dim in shape.dim) for shape in context.layer.input_param.shape]
    if len(shapes) not in (0, 1, len(context.tops)):
        context.fail(f"has {len(shapes)} shapes for {len(context.tops)} tops")
    _feed(context, shapes * len(context.tops) if len(shapes) == 1 else shapes)


def _labels(context: Context, batch: int) -> Shape | None:
    """One label for each image, of as many images as the caller or the file says; None if neither does."""
    pictures = context.given.get(context.layer.top[0], ()) if context.layer.top else ()
    count = pictures[0] if pictures else batch
    return (count,) if count > 0 else None


@layer_type("MemoryData")
def _memory_data(context: Context) -> None:
    parameter = context.layer.memory_data_param
    shape = (parameter.batch_size, parameter.channels, parameter.height, parameter.width)
    _feed(context, [shape if min(shape) > 0 else None, _labels(context, parameter.batch_size)])


@layer_type("DummyData")
def _dummy_data(context: Context) -> None:
    """Blobs made by fillers: constants stay, random ones are drawn anew in each pass."""
    parameter, count = context.layer.dummy_data_param, len(context.tops)
    if parameter.has("shape"):
        shapes = [tuple(int(dim) for dim in shape.dim) for shape in parameter.shape]
    else:
        columns = [getattr(parameter, name) for name in ("num", "channels", "height", "width")]
        if len({len(column) for column in columns}) != 1:
            context.fail("num, channels, height and width must be as many")
        shapes = [tuple(map(int, row)) for row in zip(*columns, strict=True)]
    fillers = list(parameter.data_filler)
    if len(shapes) not in (1, count) or len(fillers) not in (0, 1, count):
        context.fail(f"has {len(shapes)} shapes and {len(fillers)} fillers for {count} tops")
    for index, top in enumerate(context.tops):
        shape = shapes[index % len(shapes)]
        filler = fillers[index % len(fillers)] if fillers else None
        context.emit("dummy_data", [], [top], shape_of_data=shape, filler=filler, rng=context.assembly.rng)
        context.top(shape, index)


def _new(layer: Message, side: str) -> int:
    return int(getattr(layer.image_data_param, f"new_{side}")) if layer.type == "ImageData" else 0


@layer_type("Data", "ImageData", "HDF5Data", "WindowData", "AnnotatedData", "VideoData")
def _stored_data(context: Context) -> None:
    """A database or a list of files: becomes inputs, with the shape that the file tells (batch, channels, crop) or the caller gives."""
    layer, name = (
        context.layer,
        {"HDF5Data": "hdf5_data_param", "ImageData": "image_data_param", "WindowData": "window_data_param"},
    )
    parameter, transform = getattr(layer, name.get(layer.type, "data_param")), layer.transform_param
    height = transform.crop_h or transform.crop_size or _new(layer, "height")
    width = transform.crop_w or transform.crop_size or _new(layer, "width")
    batch = parameter.batch_size
    shapes: list[Shape | None] = [None, _labels(context, batch)]
    if batch and height and width:
        grey = transform.force_gray or (layer.type == "ImageData" and not parameter.is_color)
        shapes[0] = (batch, 1 if grey else 3, height, width)
    _feed(context, shapes, " (the data lie elsewhere)")


@layer_type("DenseImageData")
def _dense_image_data(context: Context) -> None:
    """Pictures and as large maps of labels (SegNet's): two inputs."""
    parameter, transform = context.layer.dense_image_data_param, context.layer.transform_param
    height = transform.crop_size or parameter.crop_height or parameter.new_height
    width = transform.crop_size or parameter.crop_width or parameter.new_width
    shapes: list[Shape | None] = [None, None]
    if context.layer.top and (given := context.given.get(context.layer.top[0])) and len(given) == 4:
        shapes[1] = (given[0], 1, *given[2:])
    elif parameter.batch_size and height and width:
        shapes = [(parameter.batch_size, 3 if parameter.is_color else 1, height, width), (parameter.batch_size, 1, height, width)]
    _feed(context, shapes, " (the data lie elsewhere)")


@layer_type("Parameter")
def _parameter(context: Context) -> None:
    """A blob that is learned itself."""
    context.need(0)
    shape = tuple(int(dim) for dim in context.layer.parameter_param.shape.dim)
    context.emit("identity", [context.blob("weight", shape)])
    context.top(shape)

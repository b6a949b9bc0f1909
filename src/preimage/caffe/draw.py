"""Pictures of nets: `draw_net_to_file(net, "net.svg")`. Layers as boxes, blobs as octagons, arrows from bottoms to layers to tops.

SVG needs nothing, PNG needs Pillow; `dot` and `raw` give the text that graphviz takes. Neither graphviz nor pydot is used. A blob that a layer
changes in place is drawn again after that layer.
"""

from __future__ import annotations

from os import PathLike, fspath
from typing import Any

from preimage.caffe.draw_layout import Box, Edge, Picture, arrange
from preimage.caffe.draw_write import CHARACTER, LINE, as_dot, as_png, as_svg
from preimage.errors import FileFormatError, OptionError
from preimage.host import printable, write_file
from preimage.io.caffe import read_net
from preimage.io.caffe.wire.message import Message

__all__ = [
    "choose_color_by_layertype", "draw_net", "draw_net_to_file", "get_edge_label", "get_layer_label", "get_layer_lr_mult", "picture",
]  # fmt: skip

_LEARNED = ("Convolution", "Deconvolution", "InnerProduct")
_WRITERS = {"svg": as_svg, "png": as_png, "dot": as_dot, "gv": as_dot, "raw": as_dot}
_DIRECTIONS = ("LR", "RL", "TB", "BT")
_IN_PLACE, _BLOB = "#90EE90", "#E0E0E0"
_MAX_LAYERS = 5000


def choose_color_by_layertype(layertype: str) -> str:
    """The colour of a layer's box."""
    colours = {"Convolution": "#FF5050", "Deconvolution": "#FF5050", "Pooling": "#FF9900", "InnerProduct": "#CC33FF"}
    return colours.get(layertype, "#6495ED")


def get_edge_label(layer: Message) -> str:
    """What stands at the arrow from a layer to its top: the number of its outputs, or the batch of a data layer."""
    if layer.type == "Data":
        return f"Batch {layer.data_param.batch_size}"
    if layer.type in ("Convolution", "Deconvolution"):
        return str(layer.convolution_param.num_output)
    return str(layer.inner_product_param.num_output) if layer.type == "InnerProduct" else ""


def get_layer_lr_mult(layer: Message) -> tuple[float, float]:
    """The learning-rate multipliers of a layer's weight and bias."""
    if layer.type not in _LEARNED:
        raise OptionError(f"{layer.type} layers have no weight and bias; {', '.join(_LEARNED)} have")
    given = [float(spec.lr_mult) for spec in layer.param]
    if len(given) > 2:
        raise OptionError(f"layer {layer.name!r} has {len(given)} param, wanted up to 2")
    return (given[0] if given else 1.0), (given[1] if len(given) > 1 else 1.0)


def _descriptions(layer: Message, display_lrm: bool) -> list[str]:
    pooling = layer.type == "Pooling"
    kind = f"{layer.type} {layer.pooling_param.word('pool')}" if pooling else layer.type
    lines = [printable(layer.name), f"({printable(kind)})"]
    if pooling or layer.type in ("Convolution", "Deconvolution"):
        parameter = layer.pooling_param if pooling else layer.convolution_param
        for title, name, side, default in (
            ("kernel size", "kernel_size", "kernel", 0),
            ("stride", "stride", "stride", 1),
            ("pad", "pad", "pad", 0),
        ):
            lines.append(f"{title}: {_sizes(parameter, name, side, default)}")
    if display_lrm and layer.type in _LEARNED and any(get_layer_lr_mult(layer)):
        lines.append("lr mult: {:.1f}, {:.1f}".format(*get_layer_lr_mult(layer)))
    return lines


def _sizes(parameter: Message, name: str, side: str, default: int) -> str:
    if parameter.has(f"{side}_h") or parameter.has(f"{side}_w"):
        return f"{getattr(parameter, f'{side}_h')}x{getattr(parameter, f'{side}_w')}"
    value = getattr(parameter, name)
    values = list(value) if parameter.field(name).repeated else [value]
    return "x".join(map(str, values)) or str(default)


def get_layer_label(layer: Message, rankdir: str, display_lrm: bool = False) -> str:
    """The text of a layer's box: on lines of its own for a net that is drawn from left to right, else side by side."""
    return (" " if rankdir in ("TB", "BT") else "\n").join(_descriptions(layer, display_lrm))


def picture(net: Message, rankdir: str = "LR", phase: int | None = None, display_lrm: bool = False) -> Picture:
    """The boxes and arrows of a net (of one phase, or all layers), with their places."""
    if rankdir not in _DIRECTIONS:
        raise OptionError(f"rankdir {rankdir!r} is none of {', '.join(_DIRECTIONS)}")
    if not isinstance(net, Message) or net.type_name != "NetParameter":
        raise OptionError(f"draw_net takes a NetParameter, got {type(net).__name__}")
    drawn = Picture([], [], rankdir)
    blobs: dict[str, int] = {}

    def box(label: str, shape: str, colour: str) -> int:
        lines = label.split("\n")
        drawn.boxes.append(Box(lines, shape, colour, max(map(len, lines)) * CHARACTER + 22, len(lines) * LINE + 12))
        return len(drawn.boxes) - 1

    layers = [layer for layer in read_net(net).layer if phase is None or _in_phase(layer, phase)]
    if len(layers) > _MAX_LAYERS:
        raise FileFormatError(f"the net has {len(layers)} layers; a picture holds up to {_MAX_LAYERS}")
    for layer in layers:
        for name in layer.bottom:
            if name not in blobs:
                blobs[name] = box(printable(name), "octagon", _BLOB)
        in_place = len(layer.bottom) == 1 and list(layer.bottom) == list(layer.top)
        colour = _IN_PLACE if in_place else choose_color_by_layertype(layer.type)
        node = box(get_layer_label(layer, rankdir, display_lrm), "box", colour)
        drawn.edges += [Edge(blobs[name], node) for name in dict.fromkeys(layer.bottom)]
        for name in dict.fromkeys(layer.top):
            blobs[name] = box(printable(name), "octagon", _BLOB)
            drawn.edges.append(Edge(node, blobs[name], get_edge_label(layer)))
    return arrange(drawn)


def _in_phase(layer: Message, phase: int) -> bool:
    if layer.include and layer.exclude:
        raise FileFormatError(f"layer {layer.name!r} has both include and exclude rules; give one kind")
    kept = not layer.include or any(not rule.has("phase") or rule.phase == phase for rule in layer.include)
    return kept and not any(rule.has("phase") and rule.phase == phase for rule in layer.exclude)


def draw_net(caffe_net: Message, rankdir: str, ext: str = "png", phase: int | None = None, display_lrm: bool = False) -> bytes:
    """The picture of a net as bytes: svg, png (needs Pillow), or dot (text for graphviz).

    rankdir: LR, RL, TB or BT, the way from the data to the outputs. phase: caffe.TRAIN or caffe.TEST, None for all layers.
    display_lrm: show the learning-rate multipliers. Raises: OptionError, FileFormatError.
    """
    if ext.lower() not in _WRITERS:
        raise OptionError(f"pictures of type {ext!r} are not written; there are {', '.join(_WRITERS)}")
    return _WRITERS[ext.lower()](picture(caffe_net, rankdir, phase, display_lrm))


def draw_net_to_file(
    caffe_net: Any, filename: str | PathLike[str], rankdir: str = "LR", phase: int | None = None, display_lrm: bool = False
) -> None:
    """Write the picture of a net in the format that the file's ending names, whole or not at all. Raises: as draw_net, OutputError."""
    _, dot, ending = fspath(filename).rpartition(".")
    write_file(filename, draw_net(caffe_net, rankdir, ending if dot else "", phase, display_lrm))

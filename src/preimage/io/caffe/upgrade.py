"""Old network descriptions brought to today's form: V0 (`layers { layer { type: "conv" } }`), V1 (`layers { type: CONVOLUTION }`), bare inputs.

Definition: V0 padding layers merge into the convolution or pooling that follows; V0 fields move into the parameter message of their
type (fields that mean nothing to the type are dropped, as Caffe does); V1 enum types become names, `blobs_lr`, `weight_decay` and `param`
become ParamSpec; scale, mean, crop and mirror of data layers move to transform_param; `input` with `input_dim` or `input_shape`
becomes an Input layer; a BatchNorm's three ParamSpecs become frozen.
Source: BVLC/caffe, the rules of `src/caffe/util/upgrade_proto.cpp` and its test.
"""

from __future__ import annotations

from preimage.errors import FileFormatError
from preimage.io.caffe.wire.message import Message

__all__ = ["upgraded"]

_V0_TYPES = {
    "accuracy": "ACCURACY",
    "bnll": "BNLL",
    "concat": "CONCAT",
    "conv": "CONVOLUTION",
    "data": "DATA",
    "dropout": "DROPOUT",
    "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL",
    "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING",
    "relu": "RELU",
    "sigmoid": "SIGMOID",
    "softmax": "SOFTMAX",
    "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT",
    "tanh": "TANH",
    "window_data": "WINDOW_DATA",
}

_V0_PARAMS = {
    "concat": "concat_param",
    "conv": "convolution_param",
    "data": "data_param",
    "dropout": "dropout_param",
    "hdf5_data": "hdf5_data_param",
    "hdf5_output": "hdf5_output_param",
    "images": "image_data_param",
    "infogain_loss": "infogain_loss_param",
    "innerproduct": "inner_product_param",
    "lrn": "lrn_param",
    "pool": "pooling_param",
    "window_data": "window_data_param",
}

# V0 field: (types that have it, the field's name in their parameter message).
_V0_FIELDS = {
    "num_output": ("conv innerproduct", "num_output"),
    "biasterm": ("conv innerproduct", "bias_term"),
    "weight_filler": ("conv innerproduct", "weight_filler"),
    "bias_filler": ("conv innerproduct", "bias_filler"),
    "pad": ("conv pool", "pad"),
    "kernelsize": ("conv pool", "kernel_size"),
    "group": ("conv", "group"),
    "stride": ("conv pool", "stride"),
    "pool": ("pool", "pool"),
    "dropout_ratio": ("dropout", "dropout_ratio"),
    "local_size": ("lrn", "local_size"),
    "alpha": ("lrn", "alpha"),
    "beta": ("lrn", "beta"),
    "k": ("lrn", "k"),
    "source": ("data hdf5_data images window_data infogain_loss", "source"),
    "batchsize": ("data hdf5_data images window_data", "batch_size"),
    "rand_skip": ("data images", "rand_skip"),
    "shuffle_images": ("images", "shuffle"),
    "new_height": ("images", "new_height"),
    "new_width": ("images", "new_width"),
    "concat_dim": ("concat", "concat_dim"),
    "det_fg_threshold": ("window_data", "fg_threshold"),
    "det_bg_threshold": ("window_data", "bg_threshold"),
    "det_fg_fraction": ("window_data", "fg_fraction"),
    "det_context_pad": ("window_data", "context_pad"),
    "det_crop_mode": ("window_data", "crop_mode"),
}
_V0_TRANSFORM = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}

_V1_NAMES = {
    "ABSVAL": "AbsVal",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "IM2COL": "Im2col",
    "LRN": "LRN",
    "MVN": "MVN",
    "RELU": "ReLU",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "TANH": "TanH",
}

_SHARED = {"layer", "bottom", "top", "name", "type", "blobs", "blobs_lr", "weight_decay", "param", "blob_share_mode"}


def upgraded(net: Message) -> Message:
    """The network in today's form; the message itself is not changed."""
    net = net.copy()
    if net.has("layers"):
        if net.has("layer"):
            raise FileFormatError("a network holds both `layer` and `layers`; rewrite the old `layers` as `layer`")
        if any(layer.has("layer") for layer in net.layers):
            net.layers = [_v0_layer(layer) for layer in _merge_padding(net)]
        for layer in net.layers:
            _move_transform(layer)
        net.layer = [_v1_layer(layer) for layer in net.layers]
        net.layers = None
    _move_inputs(net)
    for layer in net.layer:
        if layer.type == "BatchNorm" and len(layer.param) == 3:
            for spec in layer.param:
                spec.lr_mult = spec.decay_mult = 0.0
    return net


def _merge_padding(net: Message) -> list[Message]:
    """V0: a layer of type "padding" gives its pad and its bottom to the convolution or pooling that takes it."""
    source: dict[str, Message] = {}
    out = []
    for connection in net.layers:
        kind, name = connection.layer.type, connection.layer.name
        for position, blob in enumerate(connection.bottom):
            before = source.get(blob)
            if before is None or before.layer.type != "padding":
                continue
            if kind not in ("conv", "pool") or len(connection.bottom) != 1:
                raise FileFormatError(f"layer {name!r}: only a conv or pool with one bottom can follow a padding layer")
            if len(before.bottom) != 1 or len(before.top) != 1:
                raise FileFormatError(f"padding layer {before.layer.name!r} needs one bottom and one top")
            connection.sub("layer").pad = before.layer.pad
            connection.bottom[position] = before.bottom[0]
        if kind != "padding":
            out.append(connection)
        source |= dict.fromkeys(connection.top, connection)
    return out


def _v0_layer(connection: Message) -> Message:
    old = connection.layer
    new = Message("V1LayerParameter", bottom=connection.bottom, top=connection.top)
    new.extra = connection.extra + (old.extra if connection.has("layer") else ())
    if not connection.has("layer"):
        return new
    if old.type not in _V0_TYPES:
        raise FileFormatError(f"layer {old.name!r} has an unknown V0 type {old.type!r}; known: {', '.join(_V0_TYPES)}")
    new.name, new.type = old.name, _V0_TYPES[old.type]
    new.blobs, new.blobs_lr, new.weight_decay = old.blobs, old.blobs_lr, old.weight_decay
    for name, (types, target) in _V0_FIELDS.items():
        if old.has(name) and old.type in types.split():
            parameter = new.sub(_V0_PARAMS[old.type])
            if parameter.field(target).repeated:
                parameter.add(target, getattr(old, name))
            else:
                setattr(parameter, target, getattr(old, name))
    for name, target in _V0_TRANSFORM.items():
        if old.has(name):
            setattr(new.sub("transform_param"), target, getattr(old, name))
    if old.type == "hdf5_output" and old.has("hdf5_output_param"):
        new.hdf5_output_param = old.hdf5_output_param
    return new


def _move_transform(layer: Message) -> None:
    parameter = {"DATA": "data_param", "IMAGE_DATA": "image_data_param", "WINDOW_DATA": "window_data_param"}.get(
        layer.word("type")
    )
    if parameter is None or not layer.has(parameter):
        return
    for name in ("scale", "mean_file", "crop_size", "mirror"):
        if layer.sub(parameter).has(name):
            setattr(layer.sub("transform_param"), name, getattr(layer.sub(parameter), name))
            setattr(layer.sub(parameter), name, None)


def _v1_layer(old: Message) -> Message:
    if old.has("layer"):
        raise FileFormatError(f"layer {old.layer.name!r}: V0 and V1 layers in one network")
    word = old.word("type")
    new = Message("LayerParameter", name=old.name, bottom=old.bottom, top=old.top, blobs=old.blobs)
    new.extra = tuple(extra for extra in old.extra if extra.name != "type")
    word = next((str(extra.value) for extra in old.extra if extra.name == "type"), word)  # a fork's
    if word != "NONE":
        if word.isdigit():
            raise FileFormatError(f"layer {old.name!r} has an unknown V1 type {word}")
        new.type = _V1_NAMES.get(word) or word.title().replace("_", "")
    for name, target in (
        ("param", "name"),
        ("blob_share_mode", "share_mode"),
        ("blobs_lr", "lr_mult"),
        ("weight_decay", "decay_mult"),
    ):
        for position, value in enumerate(getattr(old, name)):
            while len(new.param) <= position:
                new.add("param")
            setattr(new.param[position], target, value)
    for field, value in old.items():
        if field.name not in _SHARED:
            setattr(new, field.name, value)
    return new


def _move_inputs(net: Message) -> None:
    if not net.has("input"):
        return
    names = list(net.input)
    if net.has("input_shape"):
        shapes = [list(shape.dim) for shape in net.input_shape]
    elif net.has("input_dim"):
        dims = list(net.input_dim)
        if len(dims) % 4:
            raise FileFormatError(f"input_dim holds {len(dims)} numbers; four are needed for each input")
        shapes = [dims[start : start + 4] for start in range(0, len(dims), 4)]
    else:
        shapes = []
    if shapes and len(shapes) not in (1, len(names)):
        raise FileFormatError(f"{len(names)} inputs ({', '.join(names[:8])}), but {len(shapes)} shapes")
    layer = Message("LayerParameter", name="input", type="Input", top=names)
    for shape in shapes:
        layer.sub("input_param").add("shape", dim=shape)
    if shapes:
        net.layer = [layer, *net.layer]
    net.input = net.input_dim = net.input_shape = None

"""Rows of losses and measures.

Source: BVLC/caffe (9b891540), the layer code of the same names: InfogainLoss there holds a softmax, SigmoidCrossEntropyLoss
divides by the batch unless the layer says otherwise. SmoothL1Loss: R. Girshick, "Fast R-CNN" (2015), and rbgirshick/py-faster-rcnn for
`sigma` and the two weights; class weights of a softmax loss: alexgkendall/caffe-segnet. Read as facts.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from preimage.errors import FileFormatError
from preimage.io.caffe.assemble import Context, layer_type
from preimage.io.caffe.blobs import array_of_blob
from preimage.io.caffe.wire.binary import decode

__all__ = ["normalization"]


def normalization(context: Context, default: str) -> str:
    """What a loss is divided by: as loss_param says, else the default."""
    parameter = context.layer.loss_param
    if parameter.has("normalization"):
        return str(parameter.word("normalization"))
    if parameter.has("normalize"):
        return "VALID" if parameter.normalize else "BATCH_SIZE"
    return default


def _ignored(context: Context) -> int | None:
    parameter = context.layer.loss_param
    return int(parameter.ignore_label) if parameter.has("ignore_label") else None


def _labels(context: Context, axis: int) -> None:
    size, labels = context.shapes[0], context.shapes[1]
    wanted = prod(size[:axis]) * prod(size[axis + 1 :])
    if prod(labels) != wanted:
        context.fail(f"has {prod(labels)} labels {labels}, wanted {wanted}: one for each prediction of {size} along axis {axis}")


@layer_type("SoftmaxWithLoss")
def _softmax_loss(context: Context) -> None:
    context.need(2, range(1, 3))
    axis = context.axis(context.layer.softmax_param.axis, len(context.shapes[0]))
    _labels(context, axis)
    weights = _class_weights(context, context.shapes[0][axis])
    context.emit(
        "softmax_loss", axis=axis, ignore=_ignored(context), normalization=normalization(context, "VALID"), class_weights=weights
    )
    context.top(())
    if len(context.tops) == 2:
        context.top(context.shapes[0], 1)


def _class_weights(context: Context, classes: int) -> tuple[float, ...] | None:
    """SegNet's weights of the labels, unless weight_by_label_freqs is false."""
    parameter = context.layer.loss_param
    weights = tuple(float(value) for value in parameter.class_weighting)
    if not weights or (parameter.has("weight_by_label_freqs") and not parameter.weight_by_label_freqs):
        return None
    if len(weights) != classes:
        context.fail(f"has {len(weights)} numbers in class_weighting for {classes} classes")
    return weights


@layer_type("SmoothL1Loss")
def _smooth_l1_loss(context: Context) -> None:
    """Bottoms: predictions, targets, and weights inside (and outside) of the loss."""
    context.need(range(2, 5))
    first, sigma = context.shapes[0], context.layer.smooth_l1_loss_param.sigma
    for index, shape in enumerate(context.shapes):
        if not first or prod(shape) != prod(first) or shape[:1] != first[:1]:
            context.fail(f"bottom {index} has shape {shape}, the first has {first}")
    if not 0 < sigma < 1e9:
        context.fail(f"sigma {sigma} must be positive")
    context.emit("smooth_l1_loss", sigma=sigma)
    context.top(())


@layer_type("InfogainLoss")
def _infogain_loss(context: Context) -> None:
    """Softmax, then -sum over k of H[label, k] log p_k. H is the third bottom or a binaryproto file beside the model."""
    context.need(range(2, 4), range(1, 3))
    parameter, size = context.layer.infogain_loss_param, context.shapes[0]
    axis = context.axis(parameter.axis, len(size))
    _labels(context, axis)
    if len(context.bottoms) == 3:
        shape, matrix = context.shapes[2], context.bottoms[2]
    else:
        array = _matrix(context, parameter.source)
        shape, matrix = array.shape, context.constant("infogain", array)
    if prod(shape) != size[axis] ** 2:
        context.fail(f"the infogain matrix has shape {shape}, wanted {size[axis]} x {size[axis]}")
    context.emit(
        "infogain_loss",
        [*context.bottoms[:2], matrix],
        axis=axis,
        ignore=_ignored(context),
        normalization=normalization(context, "VALID"),
    )
    context.top(())
    if len(context.tops) == 2:
        context.top(size, 1)


def _matrix(context: Context, source: str) -> np.ndarray:
    folder = context.assembly.folder
    if not source:
        context.fail("needs a third bottom or infogain_loss_param.source")
    if folder is None or Path(source).name != source:
        context.fail(f"the matrix {source!r} must be a file in the model's own folder (give load a path, and source a bare name)")
    path = Path(folder, source)
    try:
        if path.is_symlink() or path.stat().st_size > 1 << 28:
            context.fail(f"the matrix file {source!r} is a link or larger than 256 MiB")
        return array_of_blob(decode("BlobProto", path.read_bytes()))
    except (OSError, FileFormatError) as problem:
        context.fail(f"the matrix file {source!r} cannot be read: {problem}")


@layer_type("EuclideanLoss")
def _euclidean_loss(context: Context) -> None:
    context.need(2)
    if context.shapes[0][:1] != context.shapes[1][:1] or prod(context.shapes[0][1:]) != prod(context.shapes[1][1:]):
        context.fail(f"bottoms have shapes {context.shapes[0]} and {context.shapes[1]}")
    context.emit("euclidean_loss")
    context.top(())


@layer_type("SigmoidCrossEntropyLoss")
def _sigmoid_loss(context: Context) -> None:
    context.need(2)
    if prod(context.shapes[0]) != prod(context.shapes[1]):
        context.fail(f"bottoms have shapes {context.shapes[0]} and {context.shapes[1]}")
    context.emit("sigmoid_loss", ignore=_ignored(context), normalization=normalization(context, "BATCH_SIZE"))
    context.top(())


def _class_scores(context: Context) -> None:
    """One row of scores and one label per image."""
    size = context.shapes[0]
    if not size or prod(context.shapes[1]) != size[0]:
        context.fail(f"has labels {context.shapes[1]}, wanted one for each of the rows of {size}")


@layer_type("HingeLoss")
def _hinge_loss(context: Context) -> None:
    context.need(2)
    _class_scores(context)
    norm = context.layer.hinge_loss_param.word("norm")
    if norm not in ("L1", "L2"):
        context.fail(f"unknown norm {norm}")
    context.emit("hinge_loss", norm=norm)
    context.top(())


@layer_type("MultinomialLogisticLoss")
def _multinomial_loss(context: Context) -> None:
    context.need(2)
    _class_scores(context)
    context.emit("multinomial_loss")
    context.top(())


@layer_type("ContrastiveLoss")
def _contrastive_loss(context: Context) -> None:
    """Similar pairs are pulled together, others pushed apart up to the margin."""
    context.need(3)
    first, second, labels = context.shapes
    if first != second or not first or prod(first[2:]) != 1 or prod(labels) != first[0]:
        context.fail(f"needs two blobs (N, C) and N labels, got {first}, {second} and {labels}")
    parameter = context.layer.contrastive_loss_param
    context.emit("contrastive_loss", margin=parameter.margin, legacy=bool(parameter.legacy_version))
    context.top(())


@layer_type("Accuracy")
def _accuracy(context: Context) -> None:
    """The share of labels that are among the top_k scores (ties count against); the second top: per class."""
    context.need(2, range(1, 3))
    parameter = context.layer.accuracy_param
    axis = context.axis(parameter.axis, len(context.shapes[0]))
    _labels(context, axis)
    ignore = int(parameter.ignore_label) if parameter.has("ignore_label") else None
    if not 1 <= parameter.top_k <= context.shapes[0][axis]:
        context.fail(f"top_k {parameter.top_k} must lie in 1 .. {context.shapes[0][axis]}")
    context.emit("accuracy", top_k=parameter.top_k, axis=axis, ignore=ignore)
    context.top(())
    if len(context.tops) == 2:
        context.top((context.shapes[0][axis],), 1)

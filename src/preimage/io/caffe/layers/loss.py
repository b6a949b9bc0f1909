"""Rows of losses and measures, and of SSD's box layers.

Source: BVLC/caffe (9b891540), the layer code of the same names: InfogainLoss there holds a softmax, SigmoidCrossEntropyLoss
divides by the batch unless the layer says otherwise. PriorBox and DetectionOutput: weiliu89/caffe, branch ssd. Read as facts.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from preimage.errors import FileFormatError
from preimage.io.caffe.assemble import Context, layer_type
from preimage.io.caffe.blobs import array_of_blob
from preimage.io.caffe.wire.binary import decode
from preimage.io.protobuf import float32

__all__: list[str] = []


def _normalization(context: Context, default: str) -> str:
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
    context.emit("softmax_loss", axis=axis, ignore=_ignored(context), normalization=_normalization(context, "VALID"))
    context.top(())
    if len(context.tops) == 2:
        context.top(context.shapes[0], 1)


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
        normalization=_normalization(context, "VALID"),
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
    context.emit("sigmoid_loss", ignore=_ignored(context), normalization=_normalization(context, "BATCH_SIZE"))
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


# -- SSD ---------------------------------------------------------------------------------------------------------------


@layer_type("PriorBox")
def _prior_box(context: Context) -> None:
    """The default boxes of a map, relative to the image, and their variances: (1, 2, boxes * 4)."""
    context.need(2)
    parameter, (size, image) = context.layer.prior_box_param, context.shapes
    if len(size) != 4 or len(image) != 4:
        context.fail(f"needs two blobs of 4 axes, got {size} and {image}")
    small, large = [float(v) for v in parameter.min_size], [float(v) for v in parameter.max_size]
    if not small or any(not 0 < value < 1e6 for value in (*small, *large)):
        context.fail("min_size is missing, or a size is not positive")
    if large and (len(large) != len(small) or any(b <= a for a, b in zip(small, large, strict=True))):
        context.fail(f"max_size {large} must be one number for each min_size {small}, and larger")
    ratios = [1.0]
    for ratio in parameter.aspect_ratio:
        if not 0 < ratio < 1e6:
            context.fail(f"aspect_ratio {ratio} must be positive")
        if all(abs(ratio - other) >= 1e-6 for other in ratios):
            ratios += [ratio, float32(1 / ratio)] if parameter.flip else [ratio]
    variance = [float(v) for v in parameter.variance] or [0.1]
    if len(variance) not in (1, 4) or min(variance) <= 0:
        context.fail(f"variance {variance} must be one or four positive numbers")
    if parameter.has("step") and (parameter.has("step_h") or parameter.has("step_w")):
        context.fail("give either step or step_h and step_w")
    if parameter.has("img_size") and (parameter.has("img_h") or parameter.has("img_w")):
        context.fail("give either img_size or img_h and img_w")
    count = len(small) * len(ratios) + len(large)
    context.emit(
        "prior_box",
        min_sizes=tuple(small),
        max_sizes=tuple(large),
        ratios=tuple(ratios),
        variance=tuple(variance * 4 if len(variance) == 1 else variance),
        clip=bool(parameter.clip),
        offset=parameter.offset,
        step=(parameter.step_h or parameter.step, parameter.step_w or parameter.step),
        image=(parameter.img_h or parameter.img_size, parameter.img_w or parameter.img_size),
    )
    context.top((1, 2, size[2] * size[3] * count * 4))
    context.flop = 20 * size[2] * size[3] * count


@layer_type("DetectionOutput")
def _detection_output(context: Context) -> None:
    """Boxes decoded, thresholded and thinned out (non-maximum suppression): (1, 1, kept, 7), rows image, label, score, box."""
    context.need(range(3, 4))
    parameter, (places, scores, priors) = context.layer.detection_output_param, context.shapes
    if not parameter.has("num_classes") or not 1 <= parameter.num_classes <= 1_000_000:
        context.fail("num_classes is missing")
    if len(priors) != 3 or priors[0] < 1 or priors[1] != 2 or priors[2] % 4:
        context.fail(f"the priors have shape {priors}, wanted (1, 2, boxes * 4)")
    count, classes = priors[2] // 4, parameter.num_classes
    sets = 1 if parameter.share_location else classes
    batch = places[0] if places else 0
    if prod(places) != batch * count * sets * 4 or prod(scores) != batch * count * classes or scores[:1] != places[:1]:
        context.fail(f"{count} priors and {classes} classes do not go with places {places} and scores {scores}")
    nms = parameter.nms_param
    if parameter.has("nms_param") and not (nms.nms_threshold >= 0 and 0 < nms.eta <= 1):
        context.fail(f"nms_threshold {nms.nms_threshold} must not be negative, eta {nms.eta} must lie in (0, 1]")
    if parameter.word("code_type") not in ("CORNER", "CENTER_SIZE", "CORNER_SIZE"):
        context.fail(f"unknown code_type {parameter.code_type}")
    context.emit(
        "detection_output",
        classes=classes,
        share_location=bool(parameter.share_location),
        background=parameter.background_label_id,
        code=parameter.word("code_type"),
        variance_in_target=bool(parameter.variance_encoded_in_target),
        threshold=parameter.confidence_threshold if parameter.has("confidence_threshold") else None,
        overlap=nms.nms_threshold if parameter.has("nms_param") else None,
        eta=nms.eta,
        top_k=nms.top_k if nms.has("top_k") else -1,
        keep_top_k=parameter.keep_top_k,
    )
    context.top((1, 1, max(batch, 1), 7))
    limit = min(count, nms.top_k) if nms.has("top_k") and nms.top_k >= 0 else count
    context.flop = batch * classes * (20 * count + 10 * limit**2)

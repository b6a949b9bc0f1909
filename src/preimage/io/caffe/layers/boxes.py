"""Rows of detectors: SSD's PriorBox, DetectionOutput, MultiBoxLoss and DetectionEvaluate, and YOLO's Yolov3DetectionOutput.

Source: weiliu89/caffe, branch ssd, and eric612/MobileNet-YOLO, the layer code of the same names. Read as facts.
"""

from __future__ import annotations

from math import prod

from preimage.io.caffe.assemble import Context, layer_type
from preimage.io.caffe.layers.loss import normalization
from preimage.io.protobuf import float32

__all__: list[str] = []


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


_MULTIBOX_WORDS = (
    ("loc_loss_type", ("L2", "SMOOTH_L1")),
    ("conf_loss_type", ("SOFTMAX", "LOGISTIC")),
    ("match_type", ("BIPARTITE", "PER_PREDICTION")),
    ("code_type", ("CORNER", "CENTER_SIZE", "CORNER_SIZE")),
    ("mining_type", ("NONE", "MAX_NEGATIVE", "HARD_EXAMPLE")),
)


@layer_type("MultiBoxLoss")
def _multibox_loss(context: Context) -> None:
    """SSD's loss: bottoms places, scores, priors and true boxes (1, 1, boxes, 8): image, label, number, box, difficult."""
    context.need(4)
    parameter, (places, scores, priors, truth) = context.layer.multibox_loss_param, context.shapes
    classes, background = parameter.num_classes, parameter.background_label_id
    if not 1 <= classes <= 1_000_000 or not 0 <= background < classes:
        context.fail(f"needs num_classes, and background_label_id within them; got {classes} and {background}")
    if len(priors) != 3 or priors[0] < 1 or priors[1] != 2 or priors[2] % 4:
        context.fail(f"the priors have shape {priors}, wanted (1, 2, boxes * 4)")
    count, batch, shared = priors[2] // 4, places[0] if places else 0, bool(parameter.share_location)
    wanted = batch * count * (1 if shared else classes) * 4
    if prod(places) != wanted or prod(scores) != batch * count * classes or scores[:1] != places[:1]:
        context.fail(f"{count} priors and {classes} classes do not go with places {places} and scores {scores}")
    if not truth or truth[-1] != 8:
        context.fail(f"the true boxes have shape {truth}, wanted (1, 1, boxes, 8)")
    words = {}
    for name, known in _MULTIBOX_WORDS:
        words[name] = parameter.word(name)
        if words[name] not in known:
            context.fail(f"unknown {name} {words[name]}")
    if words["mining_type"] != "NONE" and not shared:
        context.fail("mining_type NONE is needed where share_location is false")
    if not (shared or parameter.use_prior_for_matching):
        context.fail("use_prior_for_matching is needed where share_location is false")
    if parameter.nms_param.has("nms_threshold") and words["mining_type"] != "NONE":
        context.fail("nms_param, which thins mined boxes out, is not supported")
    if parameter.map_object_to_agnostic and classes != 2:
        context.fail(f"map_object_to_agnostic needs 2 classes, got {classes}")
    down = [bool(value) for value in context.layer.propagate_down] or [True, True]
    context.emit(
        "multibox_loss",
        classes=classes,
        background=background,
        share_location=shared,
        loc_loss=words["loc_loss_type"],
        conf_loss=words["conf_loss_type"],
        loc_weight=parameter.loc_weight if down[0] else 0.0,
        conf_weight=1.0 if len(down) < 2 or down[1] else 0.0,
        per_prediction=words["match_type"] == "PER_PREDICTION",
        overlap=parameter.overlap_threshold,
        match_priors=bool(parameter.use_prior_for_matching),
        difficult=bool(parameter.use_difficult_gt),
        mining=words["mining_type"],
        ratio=parameter.neg_pos_ratio,
        negative_overlap=parameter.neg_overlap,
        samples=parameter.sample_size,
        code=words["code_type"],
        variance_in_target=bool(parameter.encode_variance_in_target),
        agnostic=bool(parameter.map_object_to_agnostic),
        inside_only=bool(parameter.ignore_cross_boundary_bbox),
        bp_inside=bool(parameter.bp_inside),
        normalization=normalization(context, "VALID"),
    )
    context.top(())
    context.flop = batch * count * (20 * (prod(truth) // 8) + 10 * classes)


@layer_type("DetectionEvaluate")
def _detection_evaluate(context: Context) -> None:
    """Which detections are right: (1, 1, classes + detections, 5), rows image, label, score, right, wrong; first each class's number of boxes.

    Overlaps are those of boxes relative to the image: the file of image sizes that the layer may name is not read.
    """
    context.need(2)
    parameter, (found, truth) = context.layer.detection_evaluate_param, context.shapes
    classes, background = parameter.num_classes, parameter.background_label_id
    if not 1 <= classes <= 1_000_000:
        context.fail("num_classes is missing")
    if not found or found[-1] != 7 or not truth or truth[-1] != 8:
        context.fail(f"needs detections (1, 1, n, 7) and true boxes (1, 1, m, 8), got {found} and {truth}")
    if not 0 < parameter.overlap_threshold <= 1:
        context.fail(f"overlap_threshold {parameter.overlap_threshold} must lie in (0, 1]")
    context.emit(
        "detection_evaluate",
        classes=classes,
        background=background,
        overlap=parameter.overlap_threshold,
        difficult=bool(parameter.evaluate_difficult_gt),
    )
    rows = classes - (background < classes) + prod(found) // 7
    context.top((1, 1, rows, 5))
    context.flop = prod(found) * prod(truth)


@layer_type("Yolov3DetectionOutput")
def _yolov3_detection_output(context: Context) -> None:
    """Boxes of YOLO v3's maps, decoded and thinned out across classes: (1, 1, kept, 7), rows 0, label + 1, score, box."""
    context.need(range(1, 17))
    parameter = context.layer.yolov3_detection_output_param
    classes, boxes, maps = parameter.num_classes, parameter.num_box, len(context.bottoms)
    biases, mask = [float(v) for v in parameter.biases], [int(v) for v in parameter.mask]
    scales = [int(v) for v in parameter.anchors_scale]
    if parameter.gaussian_box:
        context.fail("gaussian_box is not supported")
    if not 1 <= classes <= 1_000_000 or not 1 <= boxes <= 1000:
        context.fail(f"num_classes {classes} and num_box {boxes} must be at least 1, and not huge")
    if parameter.mask_group_num != maps or len(scales) != maps or len(mask) % maps or len(mask) // maps < boxes:
        context.fail(
            f"has {maps} bottoms, mask_group_num {parameter.mask_group_num}, {len(scales)} anchors_scale and {len(mask)} mask"
        )
    if any(2 * k + 1 >= len(biases) for k in mask) or any(not 1 <= s <= 1 << 16 for s in scales):
        context.fail(
            f"the mask {mask} names anchors that the {len(biases)} biases do not have, or an anchors_scale is not 1 to 65536"
        )
    for index, size in enumerate(context.shapes):
        if len(size) != 4 or size[1] != boxes * (classes + 5) or min(size[2:]) < 1:
            context.fail(f"bottom {index} has shape {size}, wanted (N, {boxes} * ({classes} + 5), H, W)")
        if size[0] != context.shapes[0][0]:
            context.fail(f"bottom {index} has {size[0]} images, the first {context.shapes[0][0]}")
    groups = len(mask) // maps
    context.emit(
        "yolov3_detection_output",
        classes=classes,
        anchors=tuple(
            tuple((biases[2 * k], biases[2 * k + 1]) for k in mask[number * groups : number * groups + boxes])
            for number in range(maps)
        ),
        scales=tuple(scales),
        threshold=parameter.confidence_threshold,
        overlap=parameter.nms_threshold,
    )
    context.top((1, 1, max(context.shapes[0][0], 1), 7))
    context.flop = sum(20 * prod(size) for size in context.shapes)

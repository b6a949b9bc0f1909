"""Which shapes the words give that only Caffe has (`io.graph.facts`)."""

from __future__ import annotations

from math import prod

from preimage.io.graph.facts import Call, Shapes, shapes_of
from preimage.io.graph.sizes import Dim, UnknownError, concrete, product
from preimage.io.graph.word_shapes import broadcasting, like, reshaped

__all__: list[str] = []

shapes_of("power", "exp_linear", "log_linear", "threshold", "dropout", "dropout_sampled", "mvn", "lrn_within", "l2_normalize")(
    like(0)
)
shapes_of("weighted_sum")(broadcasting())
shapes_of("stored_statistics")(like(0, 1))
shapes_of("batch_norm_train")(like(0, 1, 2, 3))
shapes_of(
    "euclidean_loss", "sigmoid_loss", "smooth_l1_loss", "multibox_loss", "hinge_loss", "multinomial_loss", "contrastive_loss"
)(lambda call: [()])
shapes_of("softmax_loss", "infogain_loss")(lambda call: [(), call.shape(0)])


@shapes_of("fold_batch")
def _fold_batch(call: Call) -> Shapes:
    x, axis = call.shape(0), call.node.integer("axis")
    return [[product(x[:axis]), *x[axis:]]]


@shapes_of("unfold_batch")
def _unfold_batch(call: Call) -> Shapes:
    return [[*call.shape(1)[: call.node.integer("axis")], *call.shape(0)[1:]]]


@shapes_of("crop_like")
def _crop_like(call: Call) -> Shapes:
    x, reference, axis = call.shape(0), call.shape(1), call.node.integer("axis")
    count = len(call.node.integers("offsets"))
    return [[*x[:axis], *reference[axis : axis + count], *x[axis + count :]]]


@shapes_of("reshape_part")
def _reshape_part(call: Call) -> Shapes:
    x, node = call.shape(0), call.node
    axis, end = node.integer("axis"), node.integer("end_axis")
    return [[*x[:axis], *reshaped(x[axis:end], node.integers("target"), True), *x[end:]]]


@shapes_of("reduce_tail")
def _reduce_tail(call: Call) -> Shapes:
    return [call.shape(0)[: call.node.integer("axis")]]


@shapes_of("argmax_top")
def _argmax_top(call: Call) -> Shapes:
    x, node = concrete(call.shape(0)), call.node
    if x is None:
        raise UnknownError("open sizes")
    count, axis = node.integer("top_k"), node.attributes.get("axis")
    if axis is not None:
        at = call.axis(node.integer("axis"), len(x))
        return [[min(count, n) if k == at else n for k, n in enumerate(x)]]
    rows: list[Dim] = [x[0], 2 if node.flag("with_values") else 1, min(count, prod(x[1:]))]
    return [[*rows, *[1] * (len(x) - 3)]]


@shapes_of("dummy_data")
def _dummy_data(call: Call) -> Shapes:
    return [call.node.integers("shape_of_data")]


@shapes_of("embed")
def _embed(call: Call) -> Shapes:
    return [[*call.shape(0), call.shape(1)[1]]]


@shapes_of("accuracy")
def _accuracy(call: Call) -> Shapes:
    x = call.shape(0)
    return [(), [x[call.axis(call.node.integer("axis"), len(x))]]]


@shapes_of("prior_box")
def _prior_box(call: Call) -> Shapes:
    return [[1, 2, None]]


@shapes_of("detection_output")
def _detection_output(call: Call) -> Shapes:
    return [[1, 1, None, 7]]


@shapes_of("crop_center")
def _crop_center(call: Call) -> Shapes:
    return [[n - 2 * cut for n, cut in zip(call.shape(0), call.node.integers("crop"), strict=True)]]


@shapes_of("reorg")
def _reorg(call: Call) -> Shapes:
    (n, c, h, w), stride = call.shape(0), call.node.integer("stride")
    if call.node.flag("reverse"):
        return [[n, c // stride**2, h * stride, w * stride]]
    return [[n, c * stride**2, h // stride, w // stride]]


@shapes_of("unpool_mask")
def _unpool_mask(call: Call) -> Shapes:
    x, node = call.shape(0), call.node
    if node.attributes.get("size") is not None:
        return [[*x[:2], *node.integers("size")]]
    sides = zip(x[2:], node.integers("scale"), node.integers("less"), strict=True)
    return [[*x[:2], *(n * scale - less for n, scale, less in sides)]]


@shapes_of("interp")
def _interp(call: Call) -> Shapes:
    x, node = call.shape(0), call.node
    if node.attributes.get("size") is not None:
        return [[*x[:2], *node.integers("size")]]
    cut = sum(node.integers("pad"))
    return [[*x[:2], *(((n + cut - 1) // node.integer("shrink")) * node.integer("zoom") + 1 for n in x[2:])]]


@shapes_of("bn_batch")
def _bn_batch(call: Call) -> Shapes:
    x = call.shape(0)
    return [x, [1, x[1], 1, 1], [1, x[1], 1, 1]]


@shapes_of("roi_pool")
def _roi_pool(call: Call) -> Shapes:
    return [[call.shape(1)[0], call.shape(0)[1], *call.node.integers("pooled")]]


@shapes_of("psroi_pool")
def _psroi_pool(call: Call) -> Shapes:
    group = call.node.integer("group")
    return [[call.shape(1)[0], call.shape(0)[1] // group**2, group, group]]


@shapes_of("detection_evaluate")
def _detection_evaluate(call: Call) -> Shapes:
    return [[1, 1, None, 5]]


@shapes_of("yolov3_detection_output")
def _yolov3_detection_output(call: Call) -> Shapes:
    return [[1, 1, None, 7]]

"""Every layer refuses what it cannot be, and says which layer and why."""

import numpy as np
import pytest
from caffe_nets import build

from preimage.errors import PreimageError
from preimage.io import caffe

A = (2, 3, 4, 5)
BOX = [(1, 24), (1, 12), (1, 2, 24)]
DETECT = "num_classes: 2 code_type: CENTER_SIZE"
CASES = [
    ('"Convolution" convolution_param { num_output: 1 kernel_size: 2 dilation: 0 }', [A], "dilation"),
    ('"Convolution" convolution_param { num_output: 1 kernel_h: 2 kernel_w: 2 }', [(1, 2, 3)], "need two spatial axes"),
    ('"Convolution" convolution_param { num_output: 1 kernel_size: 1 }', [], "0 bottoms and 1 tops"),
    ('"Deconvolution" convolution_param { num_output: 1 kernel_size: 1 pad: 9 }', [A], "leaves nothing of the result"),
    ('"Im2col" convolution_param { kernel_size: 1 axis: 2 }', [A], "one batch axis is needed"),
    ('"InnerProduct"', [A], "num_output must be at least 1"),
    ('"InnerProduct" inner_product_param { num_output: 1 axis: 4 }', [A], "axis 4 does not exist in 4 axes"),
    ('"Embed" embed_param { num_output: 1 }', [A], "input_dim must be at least 1"),
    ('"Pooling" pooling_param { kernel_size: 2 }', [(1, 2, 3)], "needs 4 axes"),
    ('"Pooling" pooling_param { global_pooling: true kernel_size: 2 }', [A], "takes no kernel size"),
    ('"Pooling" pooling_param { global_pooling: true pad: 1 }', [A], "takes no pad"),
    ('"Pooling" pooling_param { kernel_size: 2 kernel_h: 2 }', [A], "give either kernel_size or kernel_h"),
    ('"LRN" lrn_param { local_size: 4 }', [A], "local_size 4 must be odd"),
    ('"LRN"', [(2, 3)], "needs 4 axes"),
    ('"PReLU"', [(2,)], "at least 2 axes"),
    ('"Exp" exp_param { base: 0 }', [A], "base 0.0 must be positive"),
    ('"Log" log_param { base: 1 }', [A], "base 1.0 must be"),
    ('"Dropout" dropout_param { dropout_ratio: 1 }', [A], "must be in"),
    ('"Eltwise"', [A], "at least 2 bottoms"),
    ('"Eltwise"', [A, (2, 3)], "bottom 1 has shape"),
    ('"Eltwise" eltwise_param { coeff: 1 }', [A, A], "1 coeff for 2 bottoms"),
    ('"Eltwise" eltwise_param { operation: PROD coeff: 1 coeff: 2 }', [A, A], "coeff belongs to SUM"),
    ('"Eltwise" eltwise_param { operation: 7 }', [A, A], "unknown operation"),
    ('"BatchNorm"', [()], "at least one axis"),
    ('"Scale" scale_param { num_axes: 9 }', [A], "num_axes 9 from axis 1"),
    ('"Normalize"', [(2,)], "needs 2 to 4 axes"),
    ('"Concat" concat_param { axis: 1 concat_dim: 1 }', [A], "give either axis or concat_dim"),
    ('"Concat" concat_param { axis: 2 }', [A, (2, 4, 4, 5)], "may differ only in axis 2"),
    ('"Crop" crop_param { offset: 1 offset: 1 offset: 1 }', [A, A], "3 offsets for 2 axes"),
    ('"Crop"', [A, (2, 3)], "too few axes"),
    ('"Flatten" flatten_param { axis: 2 end_axis: 1 }', [A], "end_axis 1 lies before"),
    ('"Permute" permute_param { order: 1 order: 1 }', [A], "must name different axes"),
    ('"Tile" tile_param { tiles: 0 }', [A], "tiles must be at least 1"),
    ('"Reduction" reduction_param { operation: 9 }', [A], "unknown operation"),
    ('"ArgMax" argmax_param { top_k: 61 }', [A], "must lie in 1 .. 60"),
    ('"DummyData" dummy_data_param { num: 1 num: 2 channels: 1 }', [], "must be as many"),
    ('"DummyData" dummy_data_param { shape { dim: 1 } shape { dim: 2 } }', [], "2 shapes and 0 fillers for 1 tops"),
    ('"Input" input_param { shape { dim: 1 } shape { dim: 2 } }', [], "2 shapes for 1 tops"),
    ('"Input" input_param { shape { dim: -1 } }', [], "is no size"),
    ('"SoftmaxWithLoss"', [A, (2, 4)], "one for each prediction"),
    ('"InfogainLoss"', [(2, 3), (2,)], "needs a third bottom"),
    ('"InfogainLoss"', [(2, 3), (2,), (2, 2)], "wanted 3 x 3"),
    ('"InfogainLoss" infogain_loss_param { source: "h" }', [(2, 3), (2,)], "model's own folder"),
    ('"EuclideanLoss"', [(2, 3), (2, 4)], "bottoms have shapes"),
    ('"SigmoidCrossEntropyLoss"', [(2, 3), (2, 4)], "bottoms have shapes"),
    ('"HingeLoss"', [(2, 3), (3,)], "one for each of the rows"),
    ('"HingeLoss" hinge_loss_param { norm: 3 }', [(2, 3), (2,)], "unknown norm"),
    ('"ContrastiveLoss"', [(2, 3), (2, 4), (2,)], "needs two blobs"),
    ('"Accuracy" accuracy_param { top_k: 4 }', [(2, 3), (2,)], "must lie in 1 .. 3"),
    ('"PriorBox" prior_box_param { min_size: 1 }', [(1, 2), A], "two blobs of 4 axes"),
    ('"PriorBox"', [A, A], "min_size is missing"),
    ('"PriorBox" prior_box_param { min_size: 3 max_size: 2 }', [A, A], "max_size"),
    ('"PriorBox" prior_box_param { min_size: 3 aspect_ratio: -1 }', [A, A], "must be positive"),
    ('"PriorBox" prior_box_param { min_size: 3 variance: 1 variance: 2 }', [A, A], "one or four"),
    ('"PriorBox" prior_box_param { min_size: 3 step: 1 step_h: 1 }', [A, A], "give either step"),
    ('"PriorBox" prior_box_param { min_size: 3 img_size: 1 img_h: 1 }', [A, A], "give either img_size"),
    ('"DetectionOutput"', BOX, "num_classes is missing"),
    (f'"DetectionOutput" detection_output_param {{ {DETECT} }}', [*BOX[:2], (1, 3, 24)], "the priors have shape"),
    (f'"DetectionOutput" detection_output_param {{ {DETECT} }}', [(1, 20), *BOX[1:]], "do not go with places"),
    (f'"DetectionOutput" detection_output_param {{ {DETECT} nms_param {{ eta: 2 }} }}', BOX, "eta 2.0"),
    ('"DetectionOutput" detection_output_param { num_classes: 2 code_type: 9 }', BOX, "unknown code_type"),
    ('"ReLU"', [A, A], "has 2 bottoms, wanted 1"),
    ('"SoftmaxWithLoss"', [A], "has 1 bottoms, wanted 2"),
]


@pytest.mark.parametrize(("layer", "shapes", "problem"), CASES)
def test_impossible_layers(layer: str, shapes: list[tuple[int, ...]], problem: str) -> None:
    with pytest.raises(PreimageError) as caught:
        build(f"type: {layer}", *shapes)
    assert problem in str(caught.value)
    assert f"layer 't' ({layer.split()[0][1:-1]})" in str(caught.value)


def net(text: str) -> caffe.CaffeGraph:
    return caffe.load(caffe.parse_text("NetParameter", text))


INPUT = 'layer { name: "in" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }'


def test_two_layers_of_one_name_have_blobs_of_their_own() -> None:
    fc = 'layer { name: "f" type: "InnerProduct" bottom: "a" top: "%s" inner_product_param { num_output: 2 } }'
    graph = net(INPUT + fc % "x" + fc % "y" + fc % "z")
    assert list(graph.weights) == ["f.weight", "f.bias", "f#2.weight", "f#2.bias", "f#3.weight", "f#3.bias"]


def test_a_loss_without_a_top_gets_one() -> None:
    graph = net(INPUT + 'layer { name: "l" type: "EuclideanLoss" bottom: "a" bottom: "a" }')
    assert graph.assembly.outputs == ["(automatic) l"]
    assert graph.assembly.loss_weights == {"(automatic) l": 1.0}
    assert float(graph(np.ones((2, 3), np.float32))) == 0


def test_more_axes_and_elements_than_a_blob_holds() -> None:
    with pytest.raises(PreimageError, match="33 axes"):
        net('layer { name: "i" type: "Input" top: "a" input_param { shape { ' + "dim: 1 " * 33 + "} } }")
    with pytest.raises(PreimageError, match="more than 2147483647 elements"):
        net('layer { name: "i" type: "Input" top: "a" input_param { shape { dim: 65536 dim: 65536 } } }')

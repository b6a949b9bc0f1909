"""The small nets that the fuzz mutates: between them they hold most layer types, all three file generations, losses and boxes."""

__all__ = ["NETS", "SSD"]

_SMALL = """
name: "small" input: "data" input_shape { dim: 1 dim: 3 dim: 12 dim: 14 }
layer { name: "c1" type: "Convolution" bottom: "data" top: "c1" param { name: "w" lr_mult: 2 }
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "c1" top: "c1" } layer { name: "s" type: "Scale" bottom: "c1" top: "c1" scale_param { bias_term: true } }
layer { name: "r1" type: "ReLU" bottom: "c1" top: "c1" relu_param { negative_slope: 0.1 } }
layer { name: "n1" type: "LRN" bottom: "c1" top: "n1" lrn_param { local_size: 3 } }
layer { name: "p1" type: "Pooling" bottom: "n1" top: "p1" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "d1" type: "Deconvolution" bottom: "p1" top: "d1"
  convolution_param { num_output: 4 kernel_size: 4 stride: 2 group: 4 weight_filler { type: "bilinear" } } }
layer { name: "x1" type: "Crop" bottom: "d1" bottom: "c1" top: "x1" crop_param { axis: 2 offset: 1 } }
layer { name: "e1" type: "Eltwise" bottom: "x1" bottom: "c1" top: "e1" eltwise_param { coeff: 1 coeff: -1 } }
layer { name: "sl" type: "Slice" bottom: "e1" top: "a" top: "b" } layer { name: "cat" type: "Concat" bottom: "b" bottom: "a" top: "cat" }
layer { name: "pr" type: "PReLU" bottom: "cat" top: "cat" } layer { name: "mv" type: "MVN" bottom: "cat" top: "mv" }
layer { name: "pe" type: "Permute" bottom: "mv" top: "pe" permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "fl" type: "Flatten" bottom: "pe" top: "fl" }
layer { name: "re" type: "Reshape" bottom: "fl" top: "re" reshape_param { shape { dim: 0 dim: 4 dim: -1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "fl" top: "ip" inner_product_param { num_output: 5 weight_filler { type: "msra" } } }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" } layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
layer { name: "red" type: "Reduction" bottom: "re" top: "red" reduction_param { operation: SUMSQ axis: 1 } }
layer { name: "ti" type: "Tile" bottom: "prob" top: "ti" tile_param { tiles: 2 } }
layer { name: "am" type: "ArgMax" bottom: "prob" top: "am" argmax_param { top_k: 2 } }
layer { name: "po" type: "Power" bottom: "ti" top: "po" power_param { power: 2 scale: 0.5 shift: 1 } }
layer { name: "pb" type: "PriorBox" bottom: "p1" bottom: "data" top: "pb" prior_box_param { min_size: 4 aspect_ratio: 2 } }
"""
_OLD = """
name: "old" input: "data" input_dim: 2 input_dim: 1 input_dim: 9 input_dim: 9
layers { layer { name: "pad" type: "padding" pad: 2 } bottom: "data" top: "pad" }
layers { layer { name: "c" type: "conv" num_output: 3 kernelsize: 3 stride: 2 weight_filler { type: "gaussian" std: 0.1 } blobs_lr: 1. blobs_lr: 2. }
  bottom: "pad" top: "c" }
layers { layer { name: "p" type: "pool" kernelsize: 2 stride: 2 pool: AVE } bottom: "c" top: "p" }
layers { layer { name: "f" type: "innerproduct" num_output: 4 } bottom: "p" top: "f" }
layers { layer { name: "s" type: "softmax" } bottom: "f" top: "s" }
"""
_LOSS = """
layer { name: "in" type: "Input" top: "x" top: "y" input_param { shape { dim: 4 dim: 3 dim: 2 dim: 2 } shape { dim: 4 dim: 2 dim: 2 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 3 kernel_size: 1 } }
layer { name: "l" type: "SoftmaxWithLoss" bottom: "c" bottom: "y" top: "l" loss_weight: 2 loss_param { ignore_label: 1 } include { phase: TEST } }
layer { name: "acc" type: "Accuracy" bottom: "c" bottom: "y" top: "acc" accuracy_param { top_k: 2 } exclude { phase: TRAIN } }
layer { name: "d" type: "DummyData" top: "d" dummy_data_param { shape { dim: 2 dim: 3 } data_filler { type: "uniform" } } }
layer { name: "h" type: "HingeLoss" bottom: "d" bottom: "lab" top: "h" include { stage: "never" } }
layer { name: "ex" type: "Exp" bottom: "d" top: "ex" } layer { name: "em" type: "ELU" bottom: "ex" top: "em" }
"""
SSD = """
layer { name: "in" type: "Input" top: "loc" top: "conf" top: "pri" input_param {
  shape { dim: 1 dim: 24 } shape { dim: 1 dim: 12 } shape { dim: 1 dim: 2 dim: 24 } } }
layer { name: "det" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "pri" top: "det" detection_output_param {
  num_classes: 2 code_type: CENTER_SIZE keep_top_k: 5 confidence_threshold: -1 nms_param { nms_threshold: 0.45 top_k: 4 } } }
"""

_FORKS = """
fork_number: 3
layer { name: "in" type: "Input" top: "x" top: "r" input_param { shape { dim: 1 dim: 4 dim: 6 dim: 8 } shape { dim: 2 dim: 5 } } }
layer { name: "bn" type: "BN" bottom: "x" top: "b" bn_param { slope_filler { value: 1 } } fork_param { size: [1, 2] deep { on: true } } }
layer { name: "bs" type: "BN" bottom: "b" top: "bs" bn_param { scale_filler { value: 1 } bn_mode: LEARN } }
layer { name: "r6" type: "ReLU6" bottom: "bs" top: "bs" relu6_param { negative_slope: 0.1 } }
layer { name: "p" type: "Pooling" bottom: "bs" top: "p" top: "m" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "u" type: "Upsample" bottom: "p" bottom: "m" top: "u" upsample_param { scale: 2 } }
layer { name: "un" type: "Upsample" bottom: "p" top: "un" upsample_param { scale: 2 } }
layer { name: "re" type: "Reorg" bottom: "u" top: "re" reorg_param { stride: 2 } }
layer { name: "sh" type: "ShuffleChannel" bottom: "re" top: "sh" shuffle_channel_param { group: 4 } }
layer { name: "it" type: "Interp" bottom: "sh" top: "it" interp_param { zoom_factor: 2 } }
layer { name: "cc" type: "CropCenter" bottom: "it" top: "cc" crop_center_param { crop_size: [0, 1, 1, 1] } }
layer { name: "g" type: "Pooling" bottom: "u" top: "g" pooling_param { pool: AVE global_pooling: true } }
layer { name: "ax" type: "Axpy" bottom: "g" bottom: "u" bottom: "un" top: "ax" }
layer { name: "ro" type: "ROIPooling" bottom: "ax" bottom: "r" top: "ro" roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.5 } }
layer { name: "ps" type: "PSROIPooling" bottom: "ax" bottom: "r" top: "ps" psroi_pooling_param { output_dim: 1 group_size: 2 spatial_scale: 1 } }
layer { name: "sl" type: "SmoothL1Loss" bottom: "u" bottom: "un" top: "sl" smooth_l1_loss_param { sigma: 2 } }
layer { name: "dr" type: "Dropout" bottom: "cc" top: "dr" dropout_param { scale_train: false } }
"""
_BOXES = """
layer { name: "in" type: "Input" top: "loc" top: "conf" top: "pri" top: "gt" top: "det" top: "map" input_param {
  shape { dim: 2 dim: 24 } shape { dim: 2 dim: 18 } shape { dim: 1 dim: 2 dim: 24 } shape { dim: 1 dim: 1 dim: 3 dim: 8 }
  shape { dim: 1 dim: 1 dim: 4 dim: 7 } shape { dim: 2 dim: 14 dim: 2 dim: 3 } } }
layer { name: "mb" type: "MultiBoxLoss" bottom: "loc" bottom: "conf" bottom: "pri" bottom: "gt" top: "mb"
  multibox_loss_param { num_classes: 3 background_label_id: 2 code_type: CENTER_SIZE mining_type: NONE } }
layer { name: "de" type: "DetectionEvaluate" bottom: "det" bottom: "gt" top: "de" detection_evaluate_param { num_classes: 3 background_label_id: 2 } }
layer { name: "yo" type: "Yolov3DetectionOutput" bottom: "map" top: "yo" yolov3_detection_output_param {
  num_classes: 2 num_box: 2 confidence_threshold: 0.2 biases: [3, 4, 5, 6] mask: [0, 1] mask_group_num: 1 anchors_scale: 8 } }
"""

NETS = (_SMALL, _OLD, _LOSS, SSD, _FORKS, _BOXES)

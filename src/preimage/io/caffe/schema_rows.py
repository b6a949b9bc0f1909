"""The rows of the schema: see schema.py for the notation."""

__all__ = ["ENUMS", "MESSAGES"]


def _enum(words: str, first: int = 0) -> dict[str, int]:
    return {word: number for number, word in enumerate(words.split(), first)}


_V1_TYPES = (
    "NONE=0 ACCURACY=1 BNLL=2 CONCAT=3 CONVOLUTION=4 DATA=5 DROPOUT=6 EUCLIDEAN_LOSS=7 FLATTEN=8 HDF5_DATA=9 HDF5_OUTPUT=10 "
    "IM2COL=11 IMAGE_DATA=12 INFOGAIN_LOSS=13 INNER_PRODUCT=14 LRN=15 MULTINOMIAL_LOGISTIC_LOSS=16 POOLING=17 RELU=18 "
    "SIGMOID=19 SOFTMAX=20 SOFTMAX_LOSS=21 SPLIT=22 TANH=23 WINDOW_DATA=24 ELTWISE=25 POWER=26 SIGMOID_CROSS_ENTROPY_LOSS=27 "
    "HINGE_LOSS=28 MEMORY_DATA=29 ARGMAX=30 THRESHOLD=31 DUMMY_DATA=32 SLICE=33 MVN=34 ABSVAL=35 SILENCE=36 "
    "CONTRASTIVE_LOSS=37 EXP=38 DECONVOLUTION=39"
)

ENUMS: dict[str, dict[str, int]] = {
    "CodeType": _enum("CORNER CENTER_SIZE CORNER_SIZE", 1),
    "DB": _enum("LEVELDB LMDB"),
    "DimCheckMode": _enum("STRICT PERMISSIVE"),
    "EltwiseOp": _enum("PROD SUM MAX"),
    "Engine": _enum("DEFAULT CAFFE CUDNN"),
    "HingeNorm": _enum("L1 L2", 1),
    "NormRegion": _enum("ACROSS_CHANNELS WITHIN_CHANNEL"),
    "NormalizationMode": _enum("FULL VALID BATCH_SIZE NONE"),
    "Phase": _enum("TRAIN TEST"),
    "PoolMethod": _enum("MAX AVE STOCHASTIC"),
    "ReductionOp": _enum("SUM ASUM SUMSQ MEAN", 1),
    "RoundMode": _enum("CEIL FLOOR"),
    "SnapshotFormat": _enum("HDF5 BINARYPROTO"),
    "SolverMode": _enum("CPU GPU"),
    "SolverType": _enum("SGD NESTEROV ADAGRAD RMSPROP ADADELTA ADAM"),
    "V1Type": {word: int(number) for word, _, number in (pair.partition("=") for pair in _V1_TYPES.split())},
    "VarianceNorm": _enum("FAN_IN FAN_OUT AVERAGE"),
}

_FILLERS = "weight_filler:{} FillerParameter, bias_filler:{} FillerParameter"

# The parameter messages of layers: field name, type, number in LayerParameter, number in V1LayerParameter (0: none).
_LAYER_PARAMS = """
transform_param TransformationParameter 100 36, loss_param LossParameter 101 42, accuracy_param AccuracyParameter 102 27,
argmax_param ArgMaxParameter 103 23, concat_param ConcatParameter 104 9, contrastive_loss_param ContrastiveLossParameter 105 40,
convolution_param ConvolutionParameter 106 10, data_param DataParameter 107 11, dropout_param DropoutParameter 108 12,
dummy_data_param DummyDataParameter 109 26, eltwise_param EltwiseParameter 110 24, exp_param ExpParameter 111 41,
hdf5_data_param HDF5DataParameter 112 13, hdf5_output_param HDF5OutputParameter 113 14, hinge_loss_param HingeLossParameter 114 29,
image_data_param ImageDataParameter 115 15, infogain_loss_param InfogainLossParameter 116 16,
inner_product_param InnerProductParameter 117 17, lrn_param LRNParameter 118 18, memory_data_param MemoryDataParameter 119 22,
mvn_param MVNParameter 120 34, pooling_param PoolingParameter 121 19, power_param PowerParameter 122 21,
relu_param ReLUParameter 123 30, sigmoid_param SigmoidParameter 124 38, softmax_param SoftmaxParameter 125 39,
slice_param SliceParameter 126 31, tanh_param TanHParameter 127 37, threshold_param ThresholdParameter 128 25,
window_data_param WindowDataParameter 129 20, python_param PythonParameter 130 0, prelu_param PReLUParameter 131 0,
spp_param SPPParameter 132 0, reshape_param ReshapeParameter 133 0, log_param LogParameter 134 0, flatten_param FlattenParameter 135 0,
reduction_param ReductionParameter 136 0, embed_param EmbedParameter 137 0, tile_param TileParameter 138 0,
batch_norm_param BatchNormParameter 139 0, elu_param ELUParameter 140 0, bias_param BiasParameter 141 0, scale_param ScaleParameter 142 0,
input_param InputParameter 143 0, crop_param CropParameter 144 0, parameter_param ParameterParameter 145 0,
recurrent_param RecurrentParameter 146 0, swish_param SwishParameter 147 0, clip_param ClipParameter 148 0,
permute_param PermuteParameter 202 0, prior_box_param PriorBoxParameter 203 0, detection_output_param DetectionOutputParameter 204 0,
norm_param NormalizeParameter 206 0
"""
_PARAM_ROWS = [row.split() for row in _LAYER_PARAMS.replace("\n", " ").split(",")]

MESSAGES: dict[str, str] = {
    "BlobShape": "dim:1 l*",
    "BlobProto": "num:1 i, channels:2 i, height:3 i, width:4 i, data:5 f*, diff:6 f*, shape:7 BlobShape, double_data:8 d*, double_diff:9 d*",
    "BlobProtoVector": "blobs:1 BlobProto*",
    "Datum": "channels:1 i, height:2 i, width:3 i, data:4 y, label:5 i, float_data:6 f*, encoded:7 b",
    "FillerParameter": "type:1 s=constant, value:2 f, min:3 f, max:4 f=1, mean:5 f, std:6 f=1, sparse:7 i=-1, variance_norm:8 VarianceNorm",
    "NetParameter": """name:1 s, layers:2 V1LayerParameter*, input:3 s*, input_dim:4 i*, force_backward:5 b, state:6 NetState, debug_info:7 b,
        input_shape:8 BlobShape*, layer:100 LayerParameter*""",
    "NetState": "phase:1 Phase=TEST, level:2 i, stage:3 s*",
    "NetStateRule": "phase:1 Phase, min_level:2 i, max_level:3 i, stage:4 s*, not_stage:5 s*",
    "ParamSpec": "name:1 s, share_mode:2 DimCheckMode, lr_mult:3 f=1, decay_mult:4 f=1",
    "LayerParameter": """name:1 s, type:2 s, bottom:3 s*, top:4 s*, loss_weight:5 f*, param:6 ParamSpec*, blobs:7 BlobProto*,
        include:8 NetStateRule*, exclude:9 NetStateRule*, phase:10 Phase, propagate_down:11 b*, """
    + ", ".join(f"{name}:{number} {kind}" for name, kind, number, _ in _PARAM_ROWS),
    "V1LayerParameter": """layer:1 V0LayerParameter, bottom:2 s*, top:3 s*, name:4 s, type:5 V1Type, blobs:6 BlobProto*, blobs_lr:7 f*,
        weight_decay:8 f*, include:32 NetStateRule*, exclude:33 NetStateRule*, loss_weight:35 f*, param:1001 s*,
        blob_share_mode:1002 DimCheckMode*, """
    + ", ".join(f"{name}:{number} {kind}" for name, kind, _, number in _PARAM_ROWS if number != "0"),
    "V0LayerParameter": """name:1 s, type:2 s, num_output:3 u, biasterm:4 b=true, weight_filler:5 FillerParameter,
        bias_filler:6 FillerParameter, pad:7 u, kernelsize:8 u, group:9 u=1, stride:10 u=1, pool:11 PoolMethod, dropout_ratio:12 f=0.5,
        local_size:13 u=5, alpha:14 f=1, beta:15 f=0.75, source:16 s, scale:17 f=1, meanfile:18 s, batchsize:19 u, cropsize:20 u,
        mirror:21 b, k:22 f=1, blobs:50 BlobProto*, blobs_lr:51 f*, weight_decay:52 f*, rand_skip:53 u, det_fg_threshold:54 f=0.5,
        det_bg_threshold:55 f=0.5, det_fg_fraction:56 f=0.25, det_context_pad:58 u, det_crop_mode:59 s=warp, new_num:60 i,
        new_channels:61 i, new_height:62 i, new_width:63 i, shuffle_images:64 b, concat_dim:65 u=1,
        hdf5_output_param:1001 HDF5OutputParameter""",
    "TransformationParameter": """scale:1 f=1, mirror:2 b, crop_size:3 u, mean_file:4 s, mean_value:5 f*, force_color:6 b,
        force_gray:7 b, crop_h:11 u, crop_w:12 u""",
    "LossParameter": "ignore_label:1 i, normalize:2 b, normalization:3 NormalizationMode=VALID",
    "AccuracyParameter": "top_k:1 u=1, axis:2 i=1, ignore_label:3 i",
    "ArgMaxParameter": "out_max_val:1 b, top_k:2 u=1, axis:3 i",
    "ClipParameter": "min:1 f, max:2 f",
    "ConcatParameter": "concat_dim:1 u=1, axis:2 i=1",
    "BatchNormParameter": "use_global_stats:1 b, moving_average_fraction:2 f=0.999, eps:3 f=1e-5",
    "BiasParameter": "axis:1 i=1, num_axes:2 i=1, filler:3 FillerParameter",
    "ContrastiveLossParameter": "margin:1 f=1, legacy_version:2 b",
    "ConvolutionParameter": f"""num_output:1 u, bias_term:2 b=true, pad:3 u*, kernel_size:4 u*, group:5 u=1, stride:6 u*,
        {_FILLERS.format(7, 8)}, pad_h:9 u, pad_w:10 u, kernel_h:11 u, kernel_w:12 u, stride_h:13 u, stride_w:14 u, engine:15 Engine,
        axis:16 i=1, force_nd_im2col:17 b, dilation:18 u*""",
    "CropParameter": "axis:1 i=2, offset:2 u*",
    "DataParameter": """source:1 s, scale:2 f=1, mean_file:3 s, batch_size:4 u, crop_size:5 u, mirror:6 b, rand_skip:7 u, backend:8 DB,
        force_encoded_color:9 b, prefetch:10 u=4""",
    "DropoutParameter": "dropout_ratio:1 f=0.5",
    "DummyDataParameter": "data_filler:1 FillerParameter*, num:2 u*, channels:3 u*, height:4 u*, width:5 u*, shape:6 BlobShape*",
    "EltwiseParameter": "operation:1 EltwiseOp=SUM, coeff:2 f*, stable_prod_grad:3 b=true",
    "ELUParameter": "alpha:1 f=1",
    "EmbedParameter": f"num_output:1 u, input_dim:2 u, bias_term:3 b=true, {_FILLERS.format(4, 5)}",
    "ExpParameter": "base:1 f=-1, scale:2 f=1, shift:3 f",
    "FlattenParameter": "axis:1 i=1, end_axis:2 i=-1",
    "HDF5DataParameter": "source:1 s, batch_size:2 u, shuffle:3 b",
    "HDF5OutputParameter": "file_name:1 s",
    "HingeLossParameter": "norm:1 HingeNorm=L1",
    "ImageDataParameter": """source:1 s, scale:2 f=1, mean_file:3 s, batch_size:4 u=1, crop_size:5 u, mirror:6 b, rand_skip:7 u,
        shuffle:8 b, new_height:9 u, new_width:10 u, is_color:11 b=true, root_folder:12 s""",
    "InfogainLossParameter": "source:1 s, axis:2 i=1",
    "InnerProductParameter": f"num_output:1 u, bias_term:2 b=true, {_FILLERS.format(3, 4)}, axis:5 i=1, transpose:6 b",
    "InputParameter": "shape:1 BlobShape*",
    "LogParameter": "base:1 f=-1, scale:2 f=1, shift:3 f",
    "LRNParameter": "local_size:1 u=5, alpha:2 f=1, beta:3 f=0.75, norm_region:4 NormRegion, k:5 f=1, engine:6 Engine",
    "MemoryDataParameter": "batch_size:1 u, channels:2 u, height:3 u, width:4 u",
    "MVNParameter": "normalize_variance:1 b=true, across_channels:2 b, eps:3 f=1e-9",
    "NonMaximumSuppressionParameter": "nms_threshold:1 f=0.3, top_k:2 i, eta:3 f=1",
    "NormalizeParameter": "across_spatial:1 b=true, scale_filler:2 FillerParameter, channel_shared:3 b=true, eps:4 f=1e-10",
    "ParameterParameter": "shape:1 BlobShape",
    "PermuteParameter": "order:1 u*",
    "PoolingParameter": """pool:1 PoolMethod, kernel_size:2 u, stride:3 u=1, pad:4 u, kernel_h:5 u, kernel_w:6 u, stride_h:7 u,
        stride_w:8 u, pad_h:9 u, pad_w:10 u, engine:11 Engine, global_pooling:12 b, round_mode:13 RoundMode""",
    "PowerParameter": "power:1 f=1, scale:2 f=1, shift:3 f",
    "PReLUParameter": "filler:1 FillerParameter, channel_shared:2 b",
    "PriorBoxParameter": """min_size:1 f*, max_size:2 f*, aspect_ratio:3 f*, flip:4 b=true, clip:5 b=false, variance:6 f*, img_size:7 u,
        img_h:8 u, img_w:9 u, step:10 f, step_h:11 f, step_w:12 f, offset:13 f=0.5""",
    "PythonParameter": "module:1 s, layer:2 s, param_str:3 s, share_in_parallel:4 b",
    "RecurrentParameter": f"num_output:1 u, {_FILLERS.format(2, 3)}, debug_info:4 b, expose_hidden:5 b",
    "ReductionParameter": "operation:1 ReductionOp=SUM, axis:2 i, coeff:3 f=1",
    "ReLUParameter": "negative_slope:1 f, engine:2 Engine",
    "ReshapeParameter": "shape:1 BlobShape, axis:2 i, num_axes:3 i=-1",
    "SaveOutputParameter": """output_directory:1 s, output_name_prefix:2 s, output_format:3 s, label_map_file:4 s, name_size_file:5 s,
        num_test_image:6 u""",
    "DetectionOutputParameter": """num_classes:1 u, share_location:2 b=true, background_label_id:3 i,
        nms_param:4 NonMaximumSuppressionParameter, save_output_param:5 SaveOutputParameter, code_type:6 CodeType=CORNER,
        keep_top_k:7 i=-1, variance_encoded_in_target:8 b, confidence_threshold:9 f, visualize:10 b, visualize_threshold:11 f,
        save_file:13 s""",
    "ScaleParameter": "axis:1 i=1, num_axes:2 i=1, filler:3 FillerParameter, bias_term:4 b, bias_filler:5 FillerParameter",
    "SigmoidParameter": "engine:1 Engine",
    "SliceParameter": "slice_dim:1 u=1, slice_point:2 u*, axis:3 i=1",
    "SoftmaxParameter": "engine:1 Engine, axis:2 i=1",
    "SolverParameter": """train_net:1 s, test_net:2 s*, test_iter:3 i*, test_interval:4 i, base_lr:5 f, display:6 i, max_iter:7 i,
        lr_policy:8 s, gamma:9 f, power:10 f, momentum:11 f, weight_decay:12 f, stepsize:13 i, snapshot:14 i, snapshot_prefix:15 s,
        snapshot_diff:16 b, solver_mode:17 SolverMode=GPU, device_id:18 i, test_compute_loss:19 b, random_seed:20 l=-1,
        train_net_param:21 NetParameter, test_net_param:22 NetParameter*, debug_info:23 b, net:24 s, net_param:25 NetParameter,
        train_state:26 NetState, test_state:27 NetState*, snapshot_after_train:28 b=true, regularization_type:29 s=L2,
        solver_type:30 SolverType, delta:31 f=1e-8, test_initialization:32 b=true, average_loss:33 i=1, stepvalue:34 i*,
        clip_gradients:35 f=-1, iter_size:36 i=1, snapshot_format:37 SnapshotFormat=BINARYPROTO, rms_decay:38 f=0.99,
        momentum2:39 f=0.999, type:40 s=SGD, layer_wise_reduce:41 b=true, weights:42 s*""",
    "SPPParameter": "pyramid_height:1 u, pool:2 PoolMethod, engine:6 Engine",
    "SwishParameter": "beta:1 f=1",
    "TanHParameter": "engine:1 Engine",
    "ThresholdParameter": "threshold:1 f",
    "TileParameter": "axis:1 i=1, tiles:2 i",
    "WindowDataParameter": """source:1 s, scale:2 f=1, mean_file:3 s, batch_size:4 u, crop_size:5 u, mirror:6 b, fg_threshold:7 f=0.5,
        bg_threshold:8 f=0.5, fg_fraction:9 f=0.25, context_pad:10 u, crop_mode:11 s=warp, cache_images:12 b, root_folder:13 s""",
}

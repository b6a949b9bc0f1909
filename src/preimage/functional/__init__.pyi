"""What each function takes and gives, for type checkers: arrays give an array, and where a Tensor is among them, a Tensor.

tests/typing compares every signature with its function.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar, overload

from preimage.autograd import Tensor
from preimage.engines import PreparedWeight
from preimage.typing import (
    Array,
    Condition,
    DTypeLike,
    Integers,
    LossReduction,
    Operand,
    OutputSize,
    Padding,
    PerAxis,
    ScaleFactor,
    Shape,
    Value,
)

#: An array or a Tensor, and the same out.
_X = TypeVar("_X", Array, Tensor)

# -- convolutions and columns ------------------------------------------------------------------------------------------

class _Conv(Protocol):
    @overload
    def __call__(
        self,
        input: Tensor,
        weight: Operand | PreparedWeight,
        bias: Operand | None = None,
        stride: PerAxis = 1,
        padding: Padding = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
    ) -> Tensor: ...
    @overload
    def __call__(
        self,
        input: Array,
        weight: Tensor,
        bias: Operand | None = None,
        stride: PerAxis = 1,
        padding: Padding = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
    ) -> Tensor: ...
    @overload
    def __call__(
        self,
        input: Array,
        weight: Array | PreparedWeight,
        bias: Array | None = None,
        stride: PerAxis = 1,
        padding: Padding = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
    ) -> Array: ...
    @overload
    def __call__(
        self,
        input: Operand,
        weight: Operand | PreparedWeight,
        bias: Operand | None = None,
        stride: PerAxis = 1,
        padding: Padding = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
    ) -> Value: ...

conv1d: _Conv
conv2d: _Conv
conv3d: _Conv

class _ConvTranspose(Protocol):
    @overload
    def __call__(
        self,
        input: Tensor,
        weight: Operand | PreparedWeight,
        bias: Operand | None = None,
        stride: PerAxis = 1,
        padding: Padding = 0,
        output_padding: PerAxis = 0,
        groups: int = 1,
        dilation: PerAxis = 1,
    ) -> Tensor: ...
    @overload
    def __call__(
        self,
        input: Array,
        weight: Tensor,
        bias: Operand | None = None,
        stride: PerAxis = 1,
        padding: Padding = 0,
        output_padding: PerAxis = 0,
        groups: int = 1,
        dilation: PerAxis = 1,
    ) -> Tensor: ...
    @overload
    def __call__(
        self,
        input: Array,
        weight: Array | PreparedWeight,
        bias: Array | None = None,
        stride: PerAxis = 1,
        padding: Padding = 0,
        output_padding: PerAxis = 0,
        groups: int = 1,
        dilation: PerAxis = 1,
    ) -> Array: ...
    @overload
    def __call__(
        self,
        input: Operand,
        weight: Operand | PreparedWeight,
        bias: Operand | None = None,
        stride: PerAxis = 1,
        padding: Padding = 0,
        output_padding: PerAxis = 0,
        groups: int = 1,
        dilation: PerAxis = 1,
    ) -> Value: ...

conv_transpose1d: _ConvTranspose
conv_transpose2d: _ConvTranspose
conv_transpose3d: _ConvTranspose

@overload
def linear(input: Tensor, weight: Operand | PreparedWeight, bias: Operand | None = None) -> Tensor: ...
@overload
def linear(input: Array, weight: Tensor, bias: Operand | None = None) -> Tensor: ...
@overload
def linear(input: Array, weight: Array | PreparedWeight, bias: Array | None = None) -> Array: ...
@overload
def linear(input: Operand, weight: Operand | PreparedWeight, bias: Operand | None = None) -> Value: ...
def unfold(input: _X, kernel_size: PerAxis, dilation: PerAxis = 1, padding: Padding = 0, stride: PerAxis = 1) -> _X: ...
def fold(
    input: _X, output_size: PerAxis, kernel_size: PerAxis, dilation: PerAxis = 1, padding: Padding = 0, stride: PerAxis = 1
) -> _X: ...

# -- pooling -----------------------------------------------------------------------------------------------------------

class _MaxPool(Protocol):
    @overload
    def __call__(
        self,
        input: _X,
        kernel_size: PerAxis,
        stride: PerAxis | None = None,
        padding: Padding = 0,
        dilation: PerAxis = 1,
        ceil_mode: bool = False,
        return_indices: Literal[False] = False,
    ) -> _X: ...
    @overload
    def __call__(
        self,
        input: _X,
        kernel_size: PerAxis,
        stride: PerAxis | None = None,
        padding: Padding = 0,
        dilation: PerAxis = 1,
        ceil_mode: bool = False,
        *,
        return_indices: Literal[True],
    ) -> tuple[_X, Array]: ...

max_pool1d: _MaxPool
max_pool2d: _MaxPool
max_pool3d: _MaxPool

def avg_pool1d(
    input: _X,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> _X: ...

class _AvgPool(Protocol):
    def __call__(
        self,
        input: _X,
        kernel_size: PerAxis,
        stride: PerAxis | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: float | None = None,
    ) -> _X: ...

avg_pool2d: _AvgPool
avg_pool3d: _AvgPool

def adaptive_avg_pool1d(input: _X, output_size: OutputSize) -> _X: ...
def adaptive_avg_pool2d(input: _X, output_size: OutputSize) -> _X: ...
def adaptive_avg_pool3d(input: _X, output_size: OutputSize) -> _X: ...
def adaptive_max_pool1d(input: _X, output_size: OutputSize, return_indices: bool = False) -> _X: ...
def adaptive_max_pool2d(input: _X, output_size: OutputSize, return_indices: bool = False) -> _X: ...
def adaptive_max_pool3d(input: _X, output_size: OutputSize, return_indices: bool = False) -> _X: ...
def max_unpool1d(
    input: _X,
    indices: Integers,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: PerAxis = 0,
    output_size: PerAxis | None = None,
) -> _X: ...
def max_unpool2d(
    input: _X,
    indices: Integers,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: PerAxis = 0,
    output_size: PerAxis | None = None,
) -> _X: ...
def max_unpool3d(
    input: _X,
    indices: Integers,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: PerAxis = 0,
    output_size: PerAxis | None = None,
) -> _X: ...

# -- activation functions ----------------------------------------------------------------------------------------------

def relu(input: _X, inplace: bool = False) -> _X: ...
def relu6(input: _X, inplace: bool = False) -> _X: ...
def selu(input: _X, inplace: bool = False) -> _X: ...
def silu(input: _X, inplace: bool = False) -> _X: ...
def mish(input: _X, inplace: bool = False) -> _X: ...
def hardswish(input: _X, inplace: bool = False) -> _X: ...
def hardsigmoid(input: _X, inplace: bool = False) -> _X: ...
def leaky_relu(input: _X, negative_slope: float = 0.01, inplace: bool = False) -> _X: ...
def elu(input: _X, alpha: float = 1.0, inplace: bool = False) -> _X: ...
def celu(input: _X, alpha: float = 1.0, inplace: bool = False) -> _X: ...
def gelu(input: _X, approximate: Literal["none", "tanh"] = "none") -> _X: ...
def hardtanh(input: _X, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> _X: ...
def sigmoid(input: _X) -> _X: ...
def logsigmoid(input: _X) -> _X: ...
def tanh(input: _X) -> _X: ...
def softsign(input: _X) -> _X: ...
def tanhshrink(input: _X) -> _X: ...
def softplus(input: _X, beta: float = 1.0, threshold: float = 20.0) -> _X: ...
def softshrink(input: _X, lambd: float = 0.5) -> _X: ...
def hardshrink(input: _X, lambd: float = 0.5) -> _X: ...
def threshold(input: _X, threshold: float, value: float, inplace: bool = False) -> _X: ...
@overload
def prelu(input: Tensor, weight: Operand) -> Tensor: ...
@overload
def prelu(input: Array, weight: Tensor) -> Tensor: ...
@overload
def prelu(input: Array, weight: Array) -> Array: ...
def glu(input: _X, dim: int = -1) -> _X: ...
def softmax(input: _X, dim: int | None = None, dtype: DTypeLike | None = None) -> _X: ...
def softmin(input: _X, dim: int | None = None, dtype: DTypeLike | None = None) -> _X: ...
def log_softmax(input: _X, dim: int | None = None, dtype: DTypeLike | None = None) -> _X: ...
def normalize(input: _X, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> _X: ...

# -- normalisations and dropout ----------------------------------------------------------------------------------------

@overload
def batch_norm(
    input: Tensor,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Operand | None = None,
    bias: Operand | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-05,
) -> Tensor: ...
@overload
def batch_norm(
    input: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-05,
) -> Array: ...
@overload
def batch_norm(
    input: Operand,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Operand | None = None,
    bias: Operand | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-05,
) -> Value: ...
@overload
def instance_norm(
    input: Tensor,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Operand | None = None,
    bias: Operand | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-05,
) -> Tensor: ...
@overload
def instance_norm(
    input: Array,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-05,
) -> Array: ...
@overload
def instance_norm(
    input: Operand,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Operand | None = None,
    bias: Operand | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-05,
) -> Value: ...
@overload
def layer_norm(
    input: Tensor, normalized_shape: Shape, weight: Operand | None = None, bias: Operand | None = None, eps: float = 1e-05
) -> Tensor: ...
@overload
def layer_norm(
    input: Array, normalized_shape: Shape, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-05
) -> Array: ...
@overload
def layer_norm(
    input: Operand, normalized_shape: Shape, weight: Operand | None = None, bias: Operand | None = None, eps: float = 1e-05
) -> Value: ...
@overload
def scaled_dot_product_attention(
    query: Tensor,
    key: Operand,
    value: Operand,
    attn_mask: Operand | Condition | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor: ...
@overload
def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Array: ...
@overload
def scaled_dot_product_attention(
    query: Operand,
    key: Operand,
    value: Operand,
    attn_mask: Operand | Condition | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value: ...
@overload
def rms_norm(input: Tensor, normalized_shape: Shape, weight: Operand | None = None, eps: float | None = None) -> Tensor: ...
@overload
def rms_norm(input: Array, normalized_shape: Shape, weight: Array | None = None, eps: float | None = None) -> Array: ...
@overload
def rms_norm(input: Operand, normalized_shape: Shape, weight: Operand | None = None, eps: float | None = None) -> Value: ...
@overload
def group_norm(
    input: Tensor, num_groups: int, weight: Operand | None = None, bias: Operand | None = None, eps: float = 1e-05
) -> Tensor: ...
@overload
def group_norm(
    input: Array, num_groups: int, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-05
) -> Array: ...
@overload
def group_norm(
    input: Operand, num_groups: int, weight: Operand | None = None, bias: Operand | None = None, eps: float = 1e-05
) -> Value: ...
def local_response_norm(input: _X, size: int, alpha: float = 0.0001, beta: float = 0.75, k: float = 1.0) -> _X: ...
def dropout(input: _X, p: float = 0.5, training: bool = True, inplace: bool = False) -> _X: ...
def dropout1d(input: _X, p: float = 0.5, training: bool = True, inplace: bool = False) -> _X: ...
def dropout2d(input: _X, p: float = 0.5, training: bool = True, inplace: bool = False) -> _X: ...
def dropout3d(input: _X, p: float = 0.5, training: bool = True, inplace: bool = False) -> _X: ...

# -- losses ------------------------------------------------------------------------------------------------------------

@overload
def cross_entropy(
    input: Tensor,
    target: Operand,
    weight: Operand | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor: ...
@overload
def cross_entropy(
    input: Array,
    target: Tensor,
    weight: Operand | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor: ...
@overload
def cross_entropy(
    input: Array,
    target: Array,
    weight: Array | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
    label_smoothing: float = 0.0,
) -> Array: ...
@overload
def cross_entropy(
    input: Operand,
    target: Operand,
    weight: Operand | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
    label_smoothing: float = 0.0,
) -> Value: ...
@overload
def nll_loss(
    input: Tensor,
    target: Integers,
    weight: Operand | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
) -> Tensor: ...
@overload
def nll_loss(
    input: Array,
    target: Integers,
    weight: Array | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
) -> Array: ...
@overload
def nll_loss(
    input: Operand,
    target: Integers,
    weight: Operand | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
) -> Value: ...

class _MseLoss(Protocol):
    @overload
    def __call__(
        self,
        input: Tensor,
        target: Operand,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: LossReduction = "mean",
        weight: Operand | None = None,
    ) -> Tensor: ...
    @overload
    def __call__(
        self,
        input: Array,
        target: Tensor,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: LossReduction = "mean",
        weight: Operand | None = None,
    ) -> Tensor: ...
    @overload
    def __call__(
        self,
        input: Array,
        target: Array,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: LossReduction = "mean",
        weight: Array | None = None,
    ) -> Array: ...
    @overload
    def __call__(
        self,
        input: Operand,
        target: Operand,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: LossReduction = "mean",
        weight: Operand | None = None,
    ) -> Value: ...

mse_loss: _MseLoss
l1_loss: _MseLoss

@overload
def huber_loss(
    input: Tensor, target: Operand, reduction: LossReduction = "mean", delta: float = 1.0, weight: Operand | None = None
) -> Tensor: ...
@overload
def huber_loss(
    input: Array, target: Tensor, reduction: LossReduction = "mean", delta: float = 1.0, weight: Operand | None = None
) -> Tensor: ...
@overload
def huber_loss(
    input: Array, target: Array, reduction: LossReduction = "mean", delta: float = 1.0, weight: Array | None = None
) -> Array: ...
@overload
def huber_loss(
    input: Operand, target: Operand, reduction: LossReduction = "mean", delta: float = 1.0, weight: Operand | None = None
) -> Value: ...
@overload
def smooth_l1_loss(
    input: Tensor,
    target: Operand,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
    beta: float = 1.0,
) -> Tensor: ...
@overload
def smooth_l1_loss(
    input: Array,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
    beta: float = 1.0,
) -> Tensor: ...
@overload
def smooth_l1_loss(
    input: Array,
    target: Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
    beta: float = 1.0,
) -> Array: ...
@overload
def binary_cross_entropy(
    input: Tensor,
    target: Operand,
    weight: Operand | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
) -> Tensor: ...
@overload
def binary_cross_entropy(
    input: Array,
    target: Tensor,
    weight: Operand | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
) -> Tensor: ...
@overload
def binary_cross_entropy(
    input: Array,
    target: Array,
    weight: Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
) -> Array: ...
@overload
def binary_cross_entropy(
    input: Operand,
    target: Operand,
    weight: Operand | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
) -> Value: ...
@overload
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Operand,
    weight: Operand | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
    pos_weight: Operand | None = None,
) -> Tensor: ...
@overload
def binary_cross_entropy_with_logits(
    input: Array,
    target: Tensor,
    weight: Operand | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
    pos_weight: Operand | None = None,
) -> Tensor: ...
@overload
def binary_cross_entropy_with_logits(
    input: Array,
    target: Array,
    weight: Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
    pos_weight: Array | None = None,
) -> Array: ...
@overload
def binary_cross_entropy_with_logits(
    input: Operand,
    target: Operand,
    weight: Operand | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
    pos_weight: Operand | None = None,
) -> Value: ...
@overload
def kl_div(
    input: Tensor,
    target: Operand,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor: ...
@overload
def kl_div(
    input: Array,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor: ...
@overload
def kl_div(
    input: Array,
    target: Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Array: ...

# -- margins, resizing, positions --------------------------------------------------------------------------------------

def pad(input: _X, pad: Shape, mode: str = "constant", value: float | None = None) -> _X: ...
def interpolate(
    input: _X,
    size: PerAxis | None = None,
    scale_factor: ScaleFactor | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> _X: ...
def pixel_shuffle(input: _X, upscale_factor: int) -> _X: ...
def pixel_unshuffle(input: _X, downscale_factor: int) -> _X: ...
def channel_shuffle(input: _X, groups: int) -> _X: ...
@overload
def grid_sample(
    input: Tensor, grid: Operand, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Tensor: ...
@overload
def grid_sample(
    input: Array, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Tensor: ...
@overload
def grid_sample(
    input: Array, grid: Array, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Array: ...
def affine_grid(theta: _X, size: Shape, align_corners: bool | None = None) -> _X: ...

# -- tables, and functions of the module torch -------------------------------------------------------------------------

def embedding(
    input: Integers,
    weight: _X,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> _X: ...
def one_hot(tensor: Integers, num_classes: int = -1) -> Array: ...
@overload
def cat(tensors: Sequence[Array], dim: int = 0) -> Array: ...
@overload
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor: ...
@overload
def cat(tensors: Sequence[Operand], dim: int = 0) -> Value: ...
@overload
def stack(tensors: Sequence[Array], dim: int = 0) -> Array: ...
@overload
def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor: ...
@overload
def stack(tensors: Sequence[Operand], dim: int = 0) -> Value: ...
def chunk(input: _X, chunks: int, dim: int = 0) -> list[_X]: ...
def flatten(input: _X, start_dim: int = 0, end_dim: int = -1) -> _X: ...
def permute(input: _X, dims: Shape) -> _X: ...
def clamp(input: _X, min: float | None = None, max: float | None = None) -> _X: ...

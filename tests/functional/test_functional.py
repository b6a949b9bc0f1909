"""preimage.functional beside torch.nn.functional: each row is one expression, computed on both sides in float64, with its gradient."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pytest

import preimage as pre
import preimage.functional as ours
from preimage.errors import OptionError, PreimageError, ShapeError

torch = pytest.importorskip("torch")
theirs = torch.nn.functional

_rng = np.random.default_rng(0)


def _near(*shape: int) -> np.ndarray:
    return _rng.standard_normal(shape)


#: x, and what rows need beside it; all sizes differ.
NAMES: dict[str, np.ndarray] = {
    "s": _near(2, 4, 11), "x": _near(2, 4, 9, 8), "v": _near(2, 4, 5, 6, 7), "one": _near(4, 9, 8), "ws": _near(6, 4, 3), "w": _near(6, 2,
    3, 2), "wv": _near(6, 4, 2, 3, 3), "b": _near(6), "ts": _near(4, 3, 5), "t": _near(4, 3, 4, 3), "tv": _near(4, 2, 2, 3, 3), "b3":
    _near(3), "b2": _near(2), "m": _near(5, 8), "c": _near(4), "c2": np.abs(_near(4)) + 0.5, "space": _near(9, 8), "cols": _near(2, 12, 8),
    "p": _rng.random((2, 4, 9, 8)) * 0.9 + 0.05, "q": _rng.random((2, 4, 9, 8)) * 0.9 + 0.05, "shuffled": _near(2, 8, 3, 5), "theta":
    _near(2, 2, 3), "theta3": _near(2, 3, 4), "grid": _near(2, 5, 3, 2) * 0.8, "grid3": _near(2, 3, 2, 4, 3) * 0.7, "y": _near(2, 4, 9, 8),
    "k": _rng.integers(0, 4, (2, 9, 8)), "i": _rng.integers(0, 5, (3, 2)), "lone": np.array(2),
    "mask": np.tri(9, 9, 3, bool),
}  # fmt: skip

#: Expressions over F and the names; the gradient is taken of the first name that is written.
ROWS = """
conv1d(s, ws, b, 2, 1) | conv1d(s, ws, stride=2, padding=3, dilation=2) | conv2d(x, w, b, (2, 1), (1, 0), 1, 2) | conv2d(one, w, groups=2)
conv2d(x, w, None, padding="same", groups=2) | conv2d(x, w, b, padding="valid", groups=2) | conv3d(v, wv, b, 1, (1, 0, 2))
conv_transpose1d(s, ts, b3, 3, 1, 2) | conv_transpose2d(x, t, b3, (2, 3), 1, (1, 0), 1, (1, 2)) | conv_transpose2d(one, t)
conv_transpose2d(x, t, groups=2) | conv_transpose3d(v, tv, b2, 2, 1, 1) | linear(x, m, None) | linear(x, m, bias=m[:, 0])
unfold(x, 3, 2, 1, 2) | unfold(one, (2, 3)) | fold(cols, (4, 5), (3, 2), padding=0) | fold(cols, (3, 5), 2) | max_pool1d(s, 3, 2, 1)
max_pool2d(x, 3, 2, 1, 1, True) | max_pool2d(one, (2, 3), dilation=2) | max_pool3d(v, 2) | max_pool2d(x, 2, return_indices=True)[0]
max_pool2d(x, 2, return_indices=True)[1] | max_pool2d(one, 2, return_indices=True)[1] | avg_pool1d(s, 3, 2, 1, False, False)
avg_pool2d(x, 3, 2, 1, True, False) | avg_pool2d(one, 2, divisor_override=3) | avg_pool3d(v, (2, 3, 2)) | adaptive_avg_pool1d(s, 4)
adaptive_avg_pool2d(x, (3, None)) | adaptive_avg_pool3d(v, 2) | adaptive_max_pool1d(s, 3) | adaptive_max_pool2d(x, (4, 3))
adaptive_max_pool3d(v, (2, 3, 1)) | adaptive_avg_pool2d(one, 1) | max_unpool1d(*max_pool1d(s, 2, return_indices=True), 2)
max_unpool2d(*max_pool2d(x, 2, return_indices=True), 2, output_size=(9, 8))
max_unpool2d(*max_pool2d(one, 2, return_indices=True), 2, 2, 0, (9, 8))
max_unpool3d(*max_pool3d(v, 2, return_indices=True), 2, output_size=(5, 6, 7)) | relu(x) | relu(x * 1, True) | relu6(x * 5) | leaky_relu(x)
leaky_relu(x, 0.2) | elu(x) | elu(x, 0.5) | celu(x, 0.7) | selu(x) | gelu(x) | gelu(x, approximate="tanh") | silu(x) | mish(x)
hardswish(x * 3) | hardsigmoid(x * 3) | hardtanh(x) | hardtanh(x, -0.5, 2.0) | sigmoid(x) | logsigmoid(x) | tanh(x) | softplus(x)
softplus(x * 9, 2, 10) | softsign(x) | tanhshrink(x) | softshrink(x) | softshrink(x, 0.2) | hardshrink(x) | threshold(x, 0.1, -3.0)
prelu(x, c) | prelu(x, c[:1]) | glu(x) | glu(x, 1) | softmax(x, dim=1) | softmax(x, -1) | softmin(x, 2) | log_softmax(x, 1) | normalize(x)
scaled_dot_product_attention(x, y, p) | scaled_dot_product_attention(x, y[:1, :, :5], p[:1, :, :5], is_causal=True)
scaled_dot_product_attention(x, y, p, mask) | scaled_dot_product_attention(x, y, p, space[:, :1], scale=0.3)
normalize(x, 1.0, 2) | normalize(x, 3.0, -1, 1e-3) | normalize(x, float("inf")) | batch_norm(x, c, c2, c, c2)
batch_norm(x, c, c2, eps=0.1) | batch_norm(x, None, None, c, c2, True) | instance_norm(x) | instance_norm(x, weight=c, bias=c2, eps=0.1)
instance_norm(x, c, c2, use_input_stats=False) | layer_norm(x, (9, 8), space, space) | layer_norm(x, (8,)) | group_norm(x, 2, c, c2)
group_norm(x, 4, eps=0.1) | rms_norm(x, (9, 8), space) | rms_norm(x, (8,), eps=0.01) | local_response_norm(x, 3)
local_response_norm(s, 2, 0.5, 0.5, 2.0) | dropout(x, 0.0) | dropout(x, 0.5, False) | dropout(x, 1.0) | dropout1d(s, 0.5, training=False)
dropout2d(x, 1.0) | dropout3d(v, 0.0) | cross_entropy(x, k) | cross_entropy(x, k, c2, label_smoothing=0.1)
cross_entropy(x, k, None, None, 2, None, "sum") | cross_entropy(x, softmax(y, 1), reduction="none") | cross_entropy(c, lone)
cross_entropy(c, lone, reduction="none") | nll_loss(x, k) | nll_loss(x, k, c2, ignore_index=1) | mse_loss(x, y)
mse_loss(x, y, reduction="sum") | mse_loss(x, y, weight=p) | l1_loss(x, y) | l1_loss(x, y, None, None, "none") | l1_loss(x, y, weight=p)
huber_loss(x, y) | huber_loss(x, y, "sum", 0.4) | huber_loss(x, y, weight=p) | smooth_l1_loss(x, y) | smooth_l1_loss(x, y, beta=0.3)
smooth_l1_loss(x, y, None, None, "none", 0.0) | binary_cross_entropy(p, q) | binary_cross_entropy(p, q, c2[:, None, None], reduction="none")
binary_cross_entropy_with_logits(x, q) | binary_cross_entropy_with_logits(x, q, p, pos_weight=c2[:, None, None])
kl_div(logsigmoid(x), p, reduction="batchmean") | kl_div(x, y, reduction="sum", log_target=True) | kl_div(x, p) | pad(x, (1, 2))
pad(x, (1, 2, 3, 0), "constant", 1.5) | pad(x, (-1, 2, 0, -3)) | pad(x, (1, 2, 3, 0), mode="reflect") | pad(s, (2, 3), "replicate")
pad(x, (1, 2, 3, 0), "circular") | pad(v, (1, 0, 2, 1, 0, 3), mode="replicate") | pad(x, ()) | interpolate(x, scale_factor=2)
interpolate(x, (13, 5), mode="bilinear") | interpolate(x, (13, 5), mode="bilinear", align_corners=True) | interpolate(s, 20, mode="linear")
interpolate(v, scale_factor=(1.5, 2.0, 0.7), mode="trilinear") | interpolate(x, scale_factor=1.7, mode="nearest-exact")
interpolate(x, (13, 5), mode="bicubic") | interpolate(x, (4, 17), mode="bicubic", align_corners=True)
interpolate(x, scale_factor=(1.1, 1.5), mode="bilinear")
interpolate(v, scale_factor=(1.5, 1.1, 1.1), mode="trilinear") | interpolate(x, scale_factor=1.7, mode="bicubic")
interpolate(x, (4, 3), mode="bicubic", antialias=True) | interpolate(x, (3, 19), mode="bilinear", antialias=True)
interpolate(x, scale_factor=(0.3, 1.4), mode="bilinear", antialias=True) | interpolate(x, scale_factor=0.45, mode="bicubic", antialias=True)
interpolate(x, (4, 3), mode="bicubic", align_corners=True, antialias=True) | interpolate(x, (1, 1), mode="bilinear", antialias=True)
interpolate(x, (4, 3), mode="area") | interpolate(x, scale_factor=0.5, mode="area")
interpolate(x, scale_factor=1.7, mode="bilinear", recompute_scale_factor=True) | pixel_shuffle(shuffled, 2) | pixel_shuffle(shuffled[0], 2)
pixel_unshuffle(x[:, :, :8], 2) | channel_shuffle(shuffled, 4) | grid_sample(x, grid, align_corners=False)
grid_sample(x, grid, "nearest", "border", True) | grid_sample(x, grid, "bicubic", "reflection", False)
grid_sample(v, grid3, padding_mode="border", align_corners=False) | affine_grid(theta, (2, 3, 4, 5), False)
affine_grid(theta3, (2, 1, 3, 4, 5), True) | embedding(i, m) | embedding(i, m, 3) | embedding(i, m, padding_idx=-1) | one_hot(i)
one_hot(i, 7) | cat((x, y), 1) | cat([x, y, x], dim=-2) | stack([x, y], dim=2) | chunk(x, 3, 3)[2] | chunk(x, 2, dim=1)[0] | flatten(x, 1)
flatten(x, 0, -2) | permute(x, (0, 2, 3, 1)) | clamp(x, -0.5, 0.7) | clamp(x, min=0.1) | clamp(x, max=0.1)
"""
EXPRESSIONS = [row.strip() for row in re.split(r"[|\n]", ROWS) if row.strip()]


def names_in(expression: str) -> list[str]:
    return re.findall(r"[a-zA-Z_]\w*", expression)


def functions_of(module: Any) -> dict[str, Any]:
    """Of torch, those that stand in the module torch are taken from there."""
    return {name: getattr(module, name, None) or getattr(torch, name) for name in ours.__all__}


def computed(expression: str, module: Any, values: dict[str, Any]) -> Any:
    return eval(expression, {"float": float, **functions_of(module)}, dict(values))


def subject_of(expression: str) -> str | None:
    """The first name that is an array of floats."""
    return next((n for n in names_in(expression) if n in NAMES and NAMES[n].dtype.kind == "f"), None)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, on even kernels and kl_div
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_value_and_gradient_are_those_of_torch(expression: str) -> None:
    subject = subject_of(expression)
    tensors = {k: torch.tensor(v) for k, v in NAMES.items()}
    if subject:
        tensors[subject].requires_grad_()
    wanted = computed(expression, theirs, tensors)
    plain = computed(expression, ours, NAMES)
    assert isinstance(plain, np.ndarray | np.generic)
    assert plain.shape == tuple(wanted.shape)
    np.testing.assert_allclose(plain, wanted.detach().numpy(), rtol=1e-9, atol=1e-11)
    if subject is None or not wanted.requires_grad:
        return
    recorded = pre.Tensor(NAMES[subject], requires_grad=True)
    found = computed(expression, ours, {**NAMES, subject: recorded})
    assert isinstance(found, pre.Tensor)
    cotangent = np.random.default_rng(1).standard_normal(plain.shape)
    wanted.backward(torch.tensor(cotangent))
    found.backward(cotangent)
    np.testing.assert_allclose(
        recorded.grad.data, tensors[subject].grad.numpy(), rtol=2e-7, atol=1e-10
    )  # torch keeps some slopes in float32


def test_every_function_has_a_row() -> None:
    assert len(EXPRESSIONS) > 150
    assert set(ours.__all__) <= {name for row in EXPRESSIONS for name in names_in(row)}
    assert set(ours.__all__) == {n for n in dir(ours) if inspect.isfunction(getattr(ours, n))}


@pytest.mark.parametrize("name", ours.__all__)
def test_parameters_have_torch_s_names_order_and_defaults(name: str) -> None:
    function = functions_of(theirs)[name]
    try:
        wanted = [p for p in inspect.signature(function).parameters.values() if not p.name.startswith("_") and p.name != "out"]
    except ValueError:  # compiled: the rows give arguments by place and by name
        return
    if [p.kind for p in wanted] == [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]:
        return  # one of two, chosen by return_indices: compared by rows
    found = list(inspect.signature(getattr(ours, name)).parameters.values())
    assert [p.name for p in found] == [p.name for p in wanted]
    if name != "gelu":
        assert [p.default for p in found] == [p.default for p in wanted]


def test_running_values_move_as_torch_s() -> None:
    for name, options in (("batch_norm", {"training": True, "momentum": 0.3}), ("instance_norm", {"momentum": 0.3})):
        mean, var = NAMES["c"].copy(), NAMES["c2"].copy()
        their_mean, their_var = torch.tensor(mean), torch.tensor(var)
        getattr(ours, name)(NAMES["x"], mean, var, **options)
        getattr(theirs, name)(torch.tensor(NAMES["x"]), their_mean, their_var, **options)
        np.testing.assert_allclose(mean, their_mean.numpy(), rtol=1e-12)
        np.testing.assert_allclose(var, their_var.numpy(), rtol=1e-12)
        assert not np.allclose(mean, NAMES["c"])


def test_dropout_drops_as_often_as_it_is_asked() -> None:
    x = np.ones((4, 50, 20, 20))
    y = ours.dropout(x, 0.25)
    assert abs((y == 0).mean() - 0.25) < 0.02
    assert np.allclose(y[y != 0], 1 / 0.75)
    planes = ours.dropout2d(x, 0.5).reshape(200, -1)
    assert all(len(set(row)) == 1 for row in planes)
    assert 0.3 < (planes[:, 0] == 0).mean() < 0.7


@pytest.mark.parametrize(("call", "kind", "text"), [
    ("interpolate(x, 4, mode='lanczos')", OptionError, "'bilinear'.*'area', got 'lanczos'"),
    ("interpolate(s, 4, mode='bicubic')", ShapeError, r"2 spatial axes, got shape \(2, 4, 11\)"),
    ("interpolate(s, 4, mode='bilinear')", ShapeError, r"2 spatial axes, got shape \(2, 4, 11\)"),
    ("interpolate(x, 4, align_corners=True)", OptionError, "linear and cubic modes"),
    ("interpolate(x, 4, antialias=True)", OptionError, "'bilinear' and 'bicubic', got mode 'nearest'"),
    ("scaled_dot_product_attention(x, y[..., :3], p)", ShapeError, r"wanted \(..., L, E\)"),
    ("scaled_dot_product_attention(x, y, p, p[0], is_causal=True)", OptionError, "two masks"),
    ("scaled_dot_product_attention(x, y, p, mask[:, :5])", ShapeError, r"attn_mask \(9, 5\) does not broadcast"),
    ("scaled_dot_product_attention(x, y, p, enable_gqa=True)", OptionError, "ops.repeat"),
    ("glu(x, 2)", ShapeError, r"axis 2 has size 9, wanted an even one"),
    ("interpolate(x)", OptionError, "either size or scale_factor"),
    ("interpolate(x, mode='area')", OptionError, "either size or scale_factor"),
    ("softmax(x)", OptionError, "say dim="),
    ("mse_loss(x, y, size_average=True)", OptionError, "old names of reduction"),
    ("mse_loss(x, y, reduction='max')", OptionError, "'mean', 'sum', 'none', got 'max'"),
    ("conv2d(m, w)", ShapeError, r"\(N, C, H, W\) or \(C, H, W\)"),
    ("conv1d(x, ws)", ShapeError, r"\(N, C, L\) or \(C, L\)"),
    ("pad(x, (1, 2, 3))", ShapeError, "pairs"),
    ("pad(x, (1,) * 10)", ShapeError, "up to 4 pairs"),
    ("pad(x, 1)", ShapeError, "pairs"),
    ("pad(x, (1, 1), 'mirror')", OptionError, "'constant', 'reflect'"),
    ("pad(x, (1, 1), 'reflect', 2.0)", OptionError, "value is of mode"),
    ("embedding(i, m, max_norm=1.0)", OptionError, "max_norm is not supported"),
    ("embedding(m, m)", PreimageError, "integers"),
    ("embedding(i + 9, m)", ShapeError, "5 rows"),
    ("embedding(i, m, 9)", OptionError, "padding_idx"),
    ("one_hot(i, 2)", ShapeError, "there are 2"),
    ("batch_norm(x, None, None)", OptionError, "training=True"),
    ("batch_norm(x, b, b)", ShapeError, r"wanted \(4,\)"),
    ("batch_norm(x[:1, :, :1, :1], None, None, training=True)", ShapeError, "more than one value"),
    ("group_norm(x, 3)", OptionError, "must divide the 4 channels"),
    ("layer_norm(x, 9)", ShapeError, "wanted last axes"),
    ("dropout(x, 1.5)", OptionError, "0..1"),
    ("adaptive_max_pool2d(x, 2, True)", OptionError, "return_indices"),
    ("grid_sample(x, grid, 'linear')", OptionError, "'bilinear'"),
    ("grid_sample(x, grid3)", ShapeError, "the grid"),
    ("affine_grid(theta, (2, 3, 4))", ShapeError, "theta has shape"),
    ("clamp(x)", OptionError, "min, max"),
    ("kl_div(x, s)", ShapeError, "equal"),
    ("pixel_shuffle(m, 2)", ShapeError, r"\(\*, C, H, W\)"),
    ("channel_shuffle(x, 3)", ShapeError, "multiple of 3"),
    ("max_unpool2d(x, k, 2)", ShapeError, "switches"),
])  # fmt: skip
def test_wrong_options_are_refused_in_words(call: str, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        computed(call, ours, NAMES)


def test_the_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "relu", ours.tanh)
    with pytest.raises(AssertionError):
        test_value_and_gradient_are_those_of_torch("relu(x)")


def test_sixteen_bit_arrays_are_computed_wide_and_rounded_once() -> None:
    for dtype in (np.float16, pytest.importorskip("ml_dtypes").bfloat16):
        names = {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in NAMES.items()}
        names["x"] = (NAMES["x"] * 100).astype(dtype)  # squares beyond float16
        wide = {k: v if v.dtype.kind == "i" else v.astype(np.float64) for k, v in names.items()}
        for row in ("grid_sample(x, grid, 'nearest', 'border', True)", "grid_sample(x, grid, 'bicubic', 'reflection', False)",
                    "grid_sample(v, grid3, padding_mode='border', align_corners=False)", "rms_norm(x, (9, 8), space)",
                    "local_response_norm(x, 3)", "local_response_norm(x, 3, 1.0, 0.5)", "normalize(x)", "group_norm(x, 2)"):  # fmt: skip
            found, wanted = computed(row, ours, names), computed(row, ours, wide)
            assert found.dtype == dtype
            off = np.abs(found.astype(np.float64) - wanted) / np.spacing(np.abs(wanted).astype(dtype)).astype(np.float64)
            assert np.nanmax(off) < 0.6, row


def test_an_empty_batch_gives_an_empty_result() -> None:
    names = {k: v[:0] if v.shape[:1] == (2,) and k != "b2" else v for k, v in NAMES.items()}
    for row in EXPRESSIONS:
        if subject_of(row) in ("x", "s", "v") and not re.search(r"loss|entropy|kl_div|chunk|, True\)|batch_norm|one", row):
            whole, found = computed(row, ours, NAMES), computed(row, ours, names)
            if whole.shape[:1] == (2,):
                assert found.shape == (0, *whole.shape[1:]), row

"""Every layer of preimage.nn as ONNX: written, run by onnxruntime, read back with the same bits in the weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import preimage as pre  # noqa: E402
from preimage import nn  # noqa: E402
from preimage.autograd import array_of  # noqa: E402
from preimage.io import files  # noqa: E402
from preimage.io.onnx import export  # noqa: E402
from preimage.io.onnx.tracing import trace  # noqa: E402

MAP, LINE, VOLUME, ROW = (2, 4, 6, 5), (2, 4, 7), (2, 4, 3, 4, 5), (3, 4)
LAST = (2, 6, 5, 4)

CASES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "Linear": (nn.Linear(4, 3, rng=0), ROW),
    "Linear of maps": (nn.Linear(5, 3, rng=0), MAP),
    "Identity": (nn.Identity(), ROW),
    "Flatten": (nn.Flatten(), MAP),
    "Flatten of some axes": (nn.Flatten(2), MAP),
    "Unflatten": (nn.Unflatten(1, (2, 2)), LINE),
    "ModuleList and ModuleDict": (nn.Sequential(nn.ModuleList([nn.ReLU()])[0], nn.ModuleDict({"a": nn.Tanh()})["a"]), ROW),
    "Sequential": (nn.Sequential(nn.Conv2d(4, 6, 3, rng=0), nn.BatchNorm2d(6), nn.SiLU(), nn.Upsample(scale_factor=2)), MAP),
    **{
        name: (getattr(nn, name)(), MAP)
        for name in (
            "ReLU",
            "ReLU6",
            "ELU",
            "CELU",
            "SELU",
            "GELU",
            "SiLU",
            "Mish",
            "Hardswish",
            "Hardsigmoid",
            "Hardtanh",
            "Sigmoid",
            "LogSigmoid",
            "Tanh",
            "Softsign",
            "Softplus",
            "LeakyReLU",
            "Softmax",
            "LogSoftmax",
            "Dropout",
            "Dropout1d",
            "Dropout2d",
            "Dropout3d",
            "PReLU",
        )
    },
    "ELU of alpha": (nn.ELU(0.7), ROW),
    "CELU of alpha": (nn.CELU(0.7), ROW),
    "GELU by tanh": (nn.GELU("tanh"), ROW),
    "LeakyReLU of slope": (nn.LeakyReLU(0.3), ROW),
    "Hardtanh of bounds": (nn.Hardtanh(-0.5, 0.25), ROW),
    "Softplus of beta": (nn.Softplus(2.5), ROW),
    "Softmax over channels": (nn.Softmax(1), MAP),
    "LogSoftmax over channels": (nn.LogSoftmax(1), MAP),
    **{f"PReLU of {len(shape)} axes": (nn.PReLU(4), shape) for shape in (ROW, LINE, MAP, VOLUME)},
    "PReLU channels last": (nn.PReLU(4, layout="channels_last"), LAST),
    "Conv1d": (nn.Conv1d(4, 3, 3, stride=2, padding=1, rng=0), LINE),
    "Conv2d": (nn.Conv2d(4, 6, (3, 2), padding=(2, 1), groups=2, bias=False, rng=0), MAP),
    "Conv2d reflect": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", rng=0), MAP),
    "Conv2d channels last": (nn.Conv2d(4, 6, 3, dilation=2, layout="channels_last", rng=0), LAST),
    "Conv3d": (nn.Conv3d(4, 2, 2, rng=0), VOLUME),
    "ConvTranspose1d": (nn.ConvTranspose1d(4, 3, 4, stride=2, padding=1, rng=0), LINE),
    "ConvTranspose2d": (nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1, rng=0), MAP),
    "ConvTranspose2d circular": (nn.ConvTranspose2d(4, 3, 4, padding=(2, 1), padding_mode="circular", rng=0), MAP),
    "ConvTranspose2d channels last": (nn.ConvTranspose2d(4, 3, 2, stride=2, layout="channels_last", rng=0), LAST),
    "ConvTranspose3d": (nn.ConvTranspose3d(4, 2, 2, rng=0), VOLUME),
    "BatchNorm1d": (nn.BatchNorm1d(4), LINE),
    "BatchNorm1d of rows": (nn.BatchNorm1d(4, affine=False), ROW),
    "BatchNorm2d": (nn.BatchNorm2d(4), MAP),
    "BatchNorm2d of the batch": (nn.BatchNorm2d(4, track_running_stats=False), MAP),
    "BatchNorm2d channels last": (nn.BatchNorm2d(4, layout="channels_last"), LAST),
    "BatchNorm3d": (nn.BatchNorm3d(4), VOLUME),
    "GroupNorm": (nn.GroupNorm(2, 4), MAP),
    "GroupNorm without weights": (nn.GroupNorm(2, 4, eps=0.1, affine=False), LINE),
    "InstanceNorm1d": (nn.InstanceNorm1d(4, affine=True), LINE),
    "InstanceNorm2d": (nn.InstanceNorm2d(4), MAP),
    "InstanceNorm2d channels last": (nn.InstanceNorm2d(4, affine=True, layout="channels_last"), LAST),
    "InstanceNorm3d": (nn.InstanceNorm3d(4), VOLUME),
    "LayerNorm": (nn.LayerNorm(5), MAP),
    "LayerNorm of two axes": (nn.LayerNorm((6, 5), bias=False), MAP),
    "LayerNorm without weights": (nn.LayerNorm(5, elementwise_affine=False), MAP),
    "MaxPool1d": (nn.MaxPool1d(3, 2, padding=1), LINE),
    "MaxPool2d": (nn.MaxPool2d(2, dilation=2, ceil_mode=True), MAP),
    "MaxPool2d channels last": (nn.MaxPool2d(2, layout="channels_last"), LAST),
    "MaxPool3d": (nn.MaxPool3d(2), VOLUME),
    "AvgPool1d": (nn.AvgPool1d(3, 2, padding=1), LINE),
    "AvgPool2d": (nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False), MAP),
    "AvgPool2d with a divisor": (nn.AvgPool2d(2, padding=1, divisor_override=3), MAP),
    "AvgPool3d": (nn.AvgPool3d(2), VOLUME),
    "AdaptiveAvgPool1d": (nn.AdaptiveAvgPool1d(3), LINE),
    "AdaptiveAvgPool2d": (nn.AdaptiveAvgPool2d((3, None)), MAP),
    "AdaptiveAvgPool2d of one": (nn.AdaptiveAvgPool2d(1), MAP),
    "AdaptiveAvgPool2d uneven": (nn.AdaptiveAvgPool2d((4, 3)), MAP),
    "AdaptiveAvgPool3d": (nn.AdaptiveAvgPool3d((1, 3, 2)), VOLUME),
    "AdaptiveMaxPool1d": (nn.AdaptiveMaxPool1d(1), LINE),
    "AdaptiveMaxPool2d": (nn.AdaptiveMaxPool2d((4, 5)), MAP),
    "AdaptiveMaxPool3d": (nn.AdaptiveMaxPool3d((3, 2, 5)), VOLUME),
    "Upsample": (nn.Upsample(scale_factor=2), MAP),
    "Upsample to a size": (nn.Upsample(size=(7, 9), mode="nearest-exact"), MAP),
    "Upsample bilinear": (nn.Upsample(scale_factor=(1.5, 2), mode="bilinear"), MAP),
    "Upsample bilinear, corners": (nn.Upsample(scale_factor=1.5, mode="bilinear", align_corners=True), MAP),
    "Upsample bicubic": (nn.Upsample(size=(7, 9), mode="bicubic"), MAP),
    "Upsample bicubic, corners": (nn.Upsample(scale_factor=1.5, mode="bicubic", align_corners=True), MAP),
    "Upsample of a line": (nn.Upsample(scale_factor=1.7, mode="linear", recompute_scale_factor=True), LINE),
    "Upsample channels last": (nn.Upsample(size=(4, 4), layout="channels_last"), LAST),
    **{
        f"{kind}Pad{n}d": (getattr(nn, f"{kind}Pad{n}d")((1, 2, 0, -1, 2, 1)[: 2 * n]), (LINE, MAP, VOLUME)[n - 1])
        for kind in ("Circular", "Reflection", "Replication", "Zero")
        for n in (1, 2, 3)
    },
    **{f"ConstantPad{n}d": (getattr(nn, f"ConstantPad{n}d")(2, 0.5), (LINE, MAP, VOLUME)[n - 1]) for n in (1, 2, 3)},
    "ReflectionPad2d channels last": (nn.ReflectionPad2d((1, 2, 3, 0), layout="channels_last"), LAST),
    "ChannelShuffle": (nn.ChannelShuffle(2), MAP),
    "Fold": (nn.Fold((5, 6), (3, 2), padding=1, stride=2), (2, 12, 12)),
    "Unfold": (nn.Unfold((3, 2), padding=(1, 0), stride=(1, 2)), MAP),
    "GLU": (nn.GLU(1), MAP),
    "Hardshrink": (nn.Hardshrink(0.4), MAP),
    "Softshrink": (nn.Softshrink(0.4), MAP),
    "Tanhshrink": (nn.Tanhshrink(), MAP),
    "Threshold": (nn.Threshold(0.1, 0.25), MAP),
    "Softmin": (nn.Softmin(1), MAP),
    "LocalResponseNorm": (nn.LocalResponseNorm(3, alpha=0.5), MAP),
    "RMSNorm": (nn.RMSNorm(5), MAP),
    "RMSNorm without weights": (nn.RMSNorm((6, 5), 1e-3, False), MAP),
    "UpsamplingNearest2d": (nn.UpsamplingNearest2d(scale_factor=2), MAP),
    "UpsamplingBilinear2d": (nn.UpsamplingBilinear2d((7, 9)), MAP),
    "RNN": (nn.RNN(4, 3, rng=0), (5, 2, 4)),
    "RNN of relu, without bias": (nn.RNN(4, 3, nonlinearity="relu", bias=False, bidirectional=True, rng=0), (5, 2, 4)),
    "LSTM": (nn.LSTM(4, 3, num_layers=2, bidirectional=True, rng=0), (5, 2, 4)),
    "LSTM, batch first": (nn.LSTM(4, 3, bias=False, batch_first=True, dropout=0.5, num_layers=2, rng=0), (2, 5, 4)),
    "GRU": (nn.GRU(4, 3, num_layers=3, rng=0), (5, 2, 4)),
    "GRU, batch first, both ways": (nn.GRU(4, 3, bidirectional=True, batch_first=True, rng=0), (2, 5, 4)),
    "PixelShuffle": (nn.PixelShuffle(2), MAP),
    "PixelUnshuffle": (nn.PixelUnshuffle((2, 5)), MAP),
}
#: Layers that take more than one input or give more than one result are no nets of their own.
ELSEWHERE = {
    "Embedding",
    "Module",
    "ModuleList",
    "ModuleDict",
    "Sequential",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
}


def prepared(module: Any, seed: int = 0) -> Any:
    """The module for inference, with random weights and running statistics."""
    rng = np.random.default_rng(seed)
    for parameter in module.parameters():
        parameter.data = rng.standard_normal(parameter.shape).astype(np.float32)
    for each in module.modules():
        for name in ("running_mean", "running_var"):
            if getattr(each, name, None) is not None:
                setattr(each, name, (0.5 + rng.random(each.num_features)).astype(np.float32))
    return module.eval()


def flat(result: Any) -> list[Any]:
    """The arrays of a result, of those in tuples too."""
    if isinstance(result, tuple):
        return [each for part in result for each in flat(part)]
    return [np.asarray(array_of(result))]


def test_every_layer_is_among_the_cases() -> None:
    layers = {name for name in dir(nn) if isinstance(getattr(nn, name), type) and issubclass(getattr(nn, name), nn.Module)}
    tested = {type(part).__name__ for module, _ in CASES.values() for part in module.modules()}
    assert {name for name in layers if not name.endswith("Loss")} - tested - ELSEWHERE == set()


@pytest.mark.parametrize("name", CASES)
def test_a_layer_goes_to_onnx_and_back(name: str, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    module, shape = CASES[name]
    module = prepared(module)
    x = np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32)
    export.save(module, tmp_path / "net.onnx", example=x)
    graph = files.load_model(tmp_path / "net.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(tmp_path / "net.onnx"), options, providers=["CPUExecutionProvider"])
    with pre.no_grad():
        wanted, traced = flat(module(x)), flat(trace(module, x)(x))
        for have, want in zip(traced, wanted, strict=True):
            assert np.array_equal(have, want), "the traced graph computes what the layer does"
        found = {"onnxruntime": session.run(None, {session.get_inputs()[0].name: x}), "preimage": flat(graph(x))}
    for reader, values in found.items():
        for value, want in zip(values, wanted, strict=True):
            assert value.shape == want.shape, reader
            assert np.allclose(value, want, rtol=1e-5, atol=2e-6), reader
    assert {name for name, _ in module.named_parameters()} <= set(graph.weights), "what is trained comes back as what is trained"
    stored = graph.state_dict() | graph.constants
    for key, parameter in module.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert stored[key].tobytes() == np.asarray(array_of(parameter)).tobytes(), key


def test_other_batches_run_too(tmp_path: Path) -> None:
    module = prepared(nn.Sequential(nn.Conv2d(4, 3, 3), nn.GroupNorm(3, 3), nn.PReLU(3), nn.AdaptiveAvgPool2d(2), nn.Flatten()))
    export.save(module, tmp_path / "net.onnx", example=np.zeros((1, 4, 6, 6), np.float32))
    x = np.random.default_rng(0).random((3, 4, 6, 6), np.float32)
    with pre.no_grad():
        assert np.allclose(files.load_model(tmp_path / "net.onnx")(x), np.asarray(array_of(module(x))), atol=1e-6)


@pytest.mark.parametrize("after", [nn.ReLU(), nn.LeakyReLU(0.1), nn.ReLU6(), nn.Hardtanh(-0.5, 0.5), nn.SiLU()])
@pytest.mark.parametrize("training", [False, True])
def test_what_a_convolution_and_its_activation_do_in_one_call_is_traced_as_two_nodes(after: Any, training: bool) -> None:
    net = prepared(nn.Sequential(nn.Conv2d(4, 6, 3), after, nn.ConvTranspose2d(6, 2, 2))).train(training)
    graph = trace(net, np.zeros((1, 4, 6, 6), np.float32))
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)  # not what it was traced on
    with pre.no_grad():
        assert np.array_equal(flat(graph(x))[0], flat(net(x))[0])
    assert [node.op for node in graph.nodes][::2] == ["conv", "conv_transpose"]


def test_a_part_whose_work_nothing_writes_down_is_no_constant() -> None:
    class Hidden(nn.Module):
        def forward(self, x: Any) -> Any:
            return pre.Tensor(np.asarray(array_of(x)) * 2)

    with pytest.raises(pre.FileFormatError, match=r"1 operations .*Hidden"):
        trace(nn.Sequential(Hidden(), nn.Conv2d(4, 6, 3)), np.zeros((1, 4, 6, 6), np.float32))


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_a_layer_without_weights_keeps_the_dtype_of_its_example(dtype: Any, tmp_path: Path) -> None:
    export.save(nn.Hardtanh(-0.5, 0.5), tmp_path / "net.onnx", example=np.zeros((2, 3), dtype))
    x = np.linspace(-1, 1, 6).reshape(2, 3).astype(dtype)
    with pre.no_grad():
        found = np.asarray(files.load_model(tmp_path / "net.onnx")(x))
    assert found.dtype == dtype
    assert np.array_equal(found, np.clip(x, -0.5, 0.5))


@pytest.mark.parametrize("module", [nn.InstanceNorm2d(4, track_running_stats=True), nn.BatchNorm2d(4), nn.Dropout()])
def test_what_onnx_cannot_say_is_refused(module: Any, tmp_path: Path) -> None:
    with pytest.raises(pre.PreimageError, match=r"no word in graphs: (normalise|Dropout in training mode)"):
        export.save(module.train(), tmp_path / "net.onnx", example=np.zeros(MAP, np.float32))


def test_average_pooling_with_a_divisor_and_ceil_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(pre.PreimageError, match="divisor_override and ceil_mode"):
        export.save(nn.AvgPool2d(2, ceil_mode=True, divisor_override=3), tmp_path / "net.onnx", example=np.zeros(MAP, np.float32))

"""Layers: beside PyTorch with the same state, and by definition where it is not installed."""

import numpy as np
import pytest

import preimage as pre
from preimage import nn, ops

IMAGE = (2, 4, 9, 11)

#: (constructor, positional arguments, options, input shape); the same in both libraries.
LAYERS = [
    ("Conv1d", (4, 6, 3), {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}, (2, 4, 11)),
    ("Conv2d", (4, 6, (3, 2)), {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}, IMAGE),
    ("Conv2d", (4, 6, 3), {"padding": "same", "padding_mode": "reflect", "bias": False}, IMAGE),
    ("Conv2d", (4, 6, 3, 1, 2, 1, 1, True, "circular"), {}, IMAGE),
    ("Conv2d", (4, 6, 4), {"padding": 1, "padding_mode": "replicate"}, IMAGE),
    ("Conv3d", (2, 3, (1, 2, 3)), {"padding": "valid"}, (2, 2, 3, 4, 5)),
    ("ConvTranspose1d", (4, 6, 4), {"stride": 3, "padding": 1, "output_padding": 2}, (2, 4, 5)),
    ("ConvTranspose2d", (4, 6, (3, 4), 2, 1, 1, 2, True, 1), {}, IMAGE),
    ("ConvTranspose2d", (4, 6, 3), {"dilation": 3, "output_padding": 2, "bias": False}, IMAGE),
    ("ConvTranspose3d", (2, 3, 2), {"stride": 2}, (2, 2, 3, 2, 4)),
    ("Linear", (11, 5), {}, IMAGE),
    ("Linear", (11, 5), {"bias": False}, (3, 11)),
    ("BatchNorm1d", (4,), {}, (6, 4)),
    ("BatchNorm1d", (4,), {"momentum": None}, (2, 4, 7)),
    ("BatchNorm2d", (4,), {"eps": 1e-3, "momentum": 0.3}, IMAGE),
    ("BatchNorm2d", (4,), {"affine": False}, IMAGE),
    ("BatchNorm2d", (4,), {"track_running_stats": False}, IMAGE),
    ("BatchNorm3d", (2,), {}, (2, 2, 3, 2, 4)),
    ("GroupNorm", (2, 4), {}, IMAGE),
    ("GroupNorm", (4, 4), {"affine": False}, (2, 4, 3)),
    ("InstanceNorm1d", (4,), {"affine": True}, (2, 4, 7)),
    ("InstanceNorm2d", (4,), {}, IMAGE),
    ("InstanceNorm3d", (2,), {}, (2, 2, 3, 2, 4)),
    ("LayerNorm", ((9, 11),), {}, IMAGE),
    ("LayerNorm", (11,), {"bias": False}, IMAGE),
    ("LayerNorm", (11,), {"elementwise_affine": False}, IMAGE),
    ("PReLU", (4,), {}, IMAGE),
    ("PReLU", (), {}, IMAGE),
    ("MaxPool1d", (3, 2, 1), {}, (2, 4, 9)),
    ("MaxPool2d", ((3, 2),), {"stride": 2, "padding": (1, 0), "ceil_mode": True}, IMAGE),
    ("MaxPool3d", (2,), {}, (2, 2, 3, 4, 5)),
    ("AvgPool1d", (3, 2, 1), {}, (2, 4, 9)),
    ("AvgPool2d", (3,), {"stride": 2, "padding": 1, "count_include_pad": False}, IMAGE),
    ("AvgPool3d", (2,), {"divisor_override": 3}, (2, 2, 3, 4, 5)),
    ("AdaptiveAvgPool1d", (3,), {}, (2, 4, 9)),
    ("AdaptiveAvgPool2d", ((3, None),), {}, IMAGE),
    ("AdaptiveAvgPool3d", (2,), {}, (2, 2, 3, 4, 5)),
    ("AdaptiveMaxPool1d", (3,), {}, (2, 4, 9)),
    ("AdaptiveMaxPool2d", ((2, 5),), {}, IMAGE),
    ("AdaptiveMaxPool3d", (2,), {}, (2, 2, 3, 4, 5)),
    ("Upsample", (), {"scale_factor": 2}, IMAGE),
    ("Upsample", (), {"size": 13, "mode": "linear"}, (2, 4, 9)),
    ("Upsample", (), {"scale_factor": 2, "mode": "bilinear", "align_corners": True}, IMAGE),
    ("Upsample", (), {"size": (4, 5, 6), "mode": "trilinear"}, (2, 2, 3, 4, 5)),
    ("PixelShuffle", (2,), {}, IMAGE),
    ("PixelUnshuffle", (3,), {}, (2, 2, 6, 9)),
    *[
        (f"{kind}Pad{n}d", ((1, 2, 0, -1, 2, 1)[: 2 * n],), {}, shape)
        for kind in ("Circular", "Reflection", "Replication", "Zero")
        for n, shape in ((1, (2, 4, 9)), (2, IMAGE), (3, (2, 2, 3, 4, 5)))
        if (kind, n) != ("Reflection", 3)  # torch has no negative margins there
    ],
    ("ReflectionPad3d", ((1, 2, 0, 3, 2, 1),), {}, (2, 2, 3, 4, 5)),
    ("ReflectionPad2d", (2,), {}, (4, 5, 6)),
    *[(f"ConstantPad{n}d", (2, 0.7), {}, shape) for n, shape in ((1, (2, 4, 9)), (2, IMAGE), (3, (2, 2, 3, 4, 5)))],
    ("ChannelShuffle", (2,), {}, IMAGE),
    ("UpsamplingNearest2d", ((13, 10),), {}, IMAGE),
    ("UpsamplingBilinear2d", (), {"scale_factor": 2}, IMAGE),
    ("Unfold", ((3, 2),), {"dilation": (1, 2), "padding": (2, 1), "stride": 2}, IMAGE),
    ("Unfold", (3,), {}, (4, 5, 6)),
    ("Fold", ((5, 6), (3, 2)), {"padding": 1, "stride": 2}, (2, 24, 12)),
    ("LocalResponseNorm", (3,), {"alpha": 0.5, "beta": 0.6, "k": 2.0}, IMAGE),
    ("RMSNorm", ((9, 11),), {"eps": 1e-3}, IMAGE),
    ("RMSNorm", (11,), {"elementwise_affine": False}, IMAGE),
    ("Flatten", (), {}, IMAGE),
    ("Unflatten", (1, (2, -1)), {}, IMAGE),
    ("Identity", (), {}, IMAGE),
    ("Softmax", (1,), {}, IMAGE),
    ("LogSoftmax", (1,), {}, IMAGE),
    ("Softmin", (1,), {}, IMAGE),
    ("GLU", (1,), {}, IMAGE),
    ("Hardshrink", (0.4,), {}, IMAGE),
    ("Softshrink", (0.4,), {}, IMAGE),
    ("Tanhshrink", (), {}, IMAGE),
    ("Threshold", (0.1, 0.7), {}, IMAGE),
    ("LeakyReLU", (0.2,), {}, IMAGE),
    ("Hardtanh", (-0.5, 0.7), {}, IMAGE),
    ("ELU", (0.7,), {}, IMAGE),
    ("CELU", (0.7,), {}, IMAGE),
    ("Softplus", (2.0,), {}, IMAGE),
    ("GELU", (), {"approximate": "tanh"}, IMAGE),
    *[
        (name, (), {}, IMAGE)
        for name in [
            "ReLU",
            "ReLU6",
            "SELU",
            "GELU",
            "Sigmoid",
            "LogSigmoid",
            "Tanh",
            "Softsign",
            "SiLU",
            "Mish",
            "Hardsigmoid",
            "Hardswish",
        ]
    ],
]


@pytest.mark.parametrize(("name", "args", "options", "shape"), LAYERS, ids=[f"{n[0]}-{k}" for k, n in enumerate(LAYERS)])
def test_equals_torch_with_its_state(name, args, options, shape):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    ours, theirs = getattr(nn, name)(*args, **options), getattr(torch.nn, name)(*args, **options)
    for p in theirs.parameters():
        p.data = torch.tensor(rng.standard_normal(tuple(p.shape)).astype(np.float32))
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for mode in (True, False):
        ours.train(mode)
        theirs.train(mode)
        x = rng.standard_normal(shape).astype(np.float32)
        t, T = pre.Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        y, Y = ours(t), theirs(T)
        assert y.shape == tuple(Y.shape)
        assert y.dtype == np.float32
        np.testing.assert_allclose(y.data, Y.detach().numpy(), rtol=2e-5, atol=2e-6)
        g = rng.standard_normal(y.shape).astype(np.float32)
        ours.zero_grad()
        theirs.zero_grad()
        y.backward(g)
        Y.backward(torch.tensor(g))
        np.testing.assert_allclose(t.grad.data, T.grad.numpy(), rtol=1e-4, atol=1e-5)
        for (n, p), (N, P) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            assert n == N
            np.testing.assert_allclose(p.grad.data, P.grad.numpy(), rtol=1e-4, atol=3e-5)
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key], value.numpy(), rtol=1e-5, atol=1e-6, err_msg=key)


def test_every_layer_is_compared():
    layers = {n for n in nn.__all__ if isinstance(getattr(nn, n), type) and issubclass(getattr(nn, n), nn.Module)}
    apart = {"Module", "Sequential", "ModuleList", "ModuleDict", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d"}
    apart |= {"RNN", "LSTM", "GRU"}  # test_recurrent_layers.py
    apart |= {"Embedding"}  # test_embedding.py
    apart |= {f"MaxUnpool{k}d" for k in (1, 2, 3)} | {n for n in layers if n.endswith("Loss")}
    assert layers - apart == {row[0] for row in LAYERS}


# -- convolution layers ------------------------------------------------------------------------------------------------


def test_unequal_padding_is_padding_first():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1, 2, 5, 6)).astype(np.float32)
    layer = nn.Conv2d(2, 3, 3, padding=((0, 2), (1, 0)))
    plain = nn.Conv2d(2, 3, 3)
    plain.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(layer(x).data, plain(np.pad(x, ((0, 0), (0, 0), (0, 2), (1, 0)))).data)


def test_transpose_sizes():
    x = np.ones((1, 2, 5, 6), np.float32)
    layer = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=((0, 1), (1, 0)))
    assert layer(x).shape == (1, 3, 10, 12)
    assert layer(x, output_size=(11, 12)).shape == (1, 3, 11, 12)
    assert layer(x, output_size=(1, 3, 11, 13)).shape == (1, 3, 11, 13)
    assert layer(x, output_size=(3, 11, 13)).shape == (1, 3, 11, 13)
    with pytest.raises(pre.GeometryError):
        layer(x, output_size=40)


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_layouts_and_a_missing_batch(kind):
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 6)).astype(np.float32)
    first, last = kind(3, 4, 3), kind(3, 4, 3, layout="channels_last")
    last.load_state_dict(first.state_dict())
    np.testing.assert_array_equal(np.moveaxis(last(np.moveaxis(x, 1, -1)).data, -1, 1), first(x).data)
    np.testing.assert_array_equal(first(x[0]).data, first(x).data[0])
    shape = np.moveaxis(x, 1, -1).shape
    out = last(np.moveaxis(x, 1, -1)).shape
    assert last.work_flop(shape, out) == first.work_flop(x.shape, first(x).shape)
    if kind is nn.ConvTranspose2d:
        assert last(np.moveaxis(x, 1, -1), output_size=(2, 7, 8, 4)).shape == (2, 7, 8, 4)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "groups 2 must divide"),
        (lambda: nn.Conv2d(3.0, 4, 3), "in_channels must be an integer"),
        (lambda: nn.Conv2d(3, True, 3), "out_channels must be an integer"),
        (lambda: nn.Conv2d(3, 4, 0), "least is 1"),
        (lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), "padding_mode must be one of"),
        (lambda: nn.Conv2d(3, 4, 3, layout="NHWC"), "layout must be"),
        (lambda: nn.Conv1d(3, 4, 3, padding=(1, 2)), r"\(\(1, 2\),\)"),
        (lambda: nn.Conv2d(3, 4, 3)(np.ones((1, 4, 5, 5), np.float32)), "the input has 4 channels, wanted 3"),
        (lambda: nn.Conv2d(3, 4, 3)(np.ones((5, 5), np.float32)), "wanted \\(N, C, 2 spatial axes\\)"),
        (lambda: nn.Conv2d(3, 4, 3)(np.ones((1, 3, 5, 5))), "one dtype"),
        (lambda: nn.Linear(3, -1), "out_features must be"),
        (lambda: nn.Linear(3, 2)(np.ones((1, 4), np.float32)), "do not fit"),
        (lambda: nn.BatchNorm2d(3)(np.ones((1, 4, 5, 5), np.float32)), "wanted 4 axes and 3 channels"),
        (lambda: nn.BatchNorm1d(3)(np.ones((1, 3), np.float32)), "more than one value per channel"),
        (lambda: nn.GroupNorm(2, 3), "must divide num_channels"),
        (lambda: nn.GroupNorm(2, 4)(np.ones((2, 3, 4))), "wanted 4 channels"),
        (lambda: nn.InstanceNorm2d(3)(np.ones((2, 3, 4))), "2 spatial axes"),
        (lambda: nn.LayerNorm(3)(np.ones((2, 4))), "wanted last axes"),
        (lambda: nn.Dropout(1.5), "p must lie in 0..1"),
        (lambda: nn.MaxPool2d(2)(np.ones((2, 3, 4))), "2 spatial axes"),
        (lambda: nn.Upsample(scale_factor=2, mode="cubic"), "mode must be"),
        (lambda: nn.Upsample(scale_factor=2, mode="bilinear")(np.ones((2, 3, 4))), "for 2 spatial axes"),
        (lambda: nn.PReLU(3)(np.ones((2, 4, 5), np.float32)), "one per channel"),
    ],
)
def test_wrong_calls_name_what_is_wrong(build, text):
    with pytest.raises(pre.PreimageError, match=text):
        build()


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.LeakyReLU(0.2), nn.ReLU6(), nn.Hardtanh(-0.2, 0.3), nn.Sigmoid()], ids=lambda a: type(a).__name__
)
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_the_fused_activation_is_the_same(kind, activation):
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 9)).astype(np.float32) * 3
    net = nn.Sequential(kind(3, 4, 3), activation, nn.Conv2d(4, 2, 1))
    calls = []
    run = type(activation).forward
    counted = type("Counted", (type(activation),), {"forward": lambda self, v: (calls.append(1), run(self, v))[1]})
    activation.__class__, before = counted, activation.__class__
    try:
        net.eval()
        recorded = net(x)
        assert calls == [1]
        with pre.no_grad():
            fused = net(x)
        assert calls == ([1] if activation.epilogue() else [1, 1])
        np.testing.assert_array_equal(fused.data, recorded.data)
        undo = net[0].register_forward_hook(lambda m, a, r: None)
        with pre.no_grad():
            net(x)
        assert len(calls) == (2 if activation.epilogue() else 3)
        undo()
        net.train()
        with pre.no_grad():
            net(x)
        assert len(calls) == (3 if activation.epilogue() else 4)
    finally:
        activation.__class__ = before


# -- dropout, unpooling ------------------------------------------------------------------------------------------------


def test_dropout():
    layer = nn.Dropout(0.25, rng=3)
    x = np.ones((200, 50), np.float32)
    y = layer(x)
    assert set(np.unique(y)) == {np.float32(0), np.float32(4 / 3)}
    assert np.mean(y == 0) == pytest.approx(0.25, abs=0.01)
    np.testing.assert_array_equal(nn.Dropout(0.25, rng=3)(x), y)
    assert not np.array_equal(layer(x), y)
    t = pre.Tensor(x, requires_grad=True)
    z = layer(t)
    np.testing.assert_array_equal(pre.grad(z.sum(), t).data, z.data)
    assert layer.eval()(t) is t
    assert not nn.Dropout(1.0)(x).any()
    assert nn.Dropout(0.0)(x) is x
    for kind, shape in ((nn.Dropout1d, (4, 30, 5)), (nn.Dropout2d, (4, 30, 5, 5)), (nn.Dropout3d, (4, 30, 2, 2, 2))):
        planes = kind(0.5, rng=0)(np.ones(shape)).reshape(4 * 30, -1)
        assert (planes == planes[:, :1]).all()
        assert 0 < np.mean(planes == 0) < 1


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_unpooling_undoes_pooling_where_the_maxima_were(ndim):
    rng = np.random.default_rng(ndim)
    shape = (2, 3, *(7, 6, 5)[:ndim])
    x = rng.standard_normal(shape).astype(np.float32)
    pool = getattr(nn, f"MaxPool{ndim}d")(2, 2, return_indices=True)
    unpool = getattr(nn, f"MaxUnpool{ndim}d")(2, 2)
    y, switches = pool(x)
    back = unpool(y, switches, output_size=shape)
    assert back.shape == shape
    np.testing.assert_array_equal(back[back != 0], x[back != 0])
    np.testing.assert_array_equal(ops.max_pool(np.abs(back), 2), np.abs(y))
    even = x[(..., *[slice(0, 4)] * ndim)]
    assert unpool(*pool(even)).shape == even.shape


def test_batch_norm_by_definition():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((3, 2, 4)) * 3 + 5
    layer = nn.BatchNorm1d(2, dtype=np.float64)
    layer.weight.assign(np.array([2.0, 3.0]))
    layer.bias.assign(np.array([-1.0, 1.0]))
    mean, var = x.mean((0, 2)), x.var((0, 2))
    want = (x - mean[:, None]) / np.sqrt(var[:, None] + 1e-5) * [[2], [3]] + [[-1], [1]]
    np.testing.assert_allclose(layer(x).data, want, rtol=1e-12)
    np.testing.assert_allclose(layer.running_mean, 0.1 * mean, rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, 0.9 + 0.1 * var * 12 / 11, rtol=1e-12)
    layer.eval()
    want = (x - layer.running_mean[:, None]) / np.sqrt(layer.running_var[:, None] + 1e-5) * [[2], [3]] + [[-1], [1]]
    np.testing.assert_allclose(layer(x).data, want, rtol=1e-12)


#: Layers that take layout="channels_last", with the input as channels-first.
LAID_OUT = [
    (nn.BatchNorm2d, (3,)), (nn.GroupNorm, (3, 3)), (nn.InstanceNorm2d, (3,)), (nn.PReLU, (3,)), (nn.MaxPool2d, (2,)), (nn.AvgPool2d, (2,)),
    (nn.AdaptiveAvgPool2d, (2,)), (nn.AdaptiveMaxPool2d, (2,)), (nn.Upsample, (None, 2)), (nn.Conv2d, (3, 2, 3)),
    (nn.ConvTranspose2d, (3, 2, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "args"), LAID_OUT, ids=lambda v: getattr(v, "__name__", ""))
def test_channels_last(kind, args):
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 6)).astype(np.float32)
    turned = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    first, last = kind(*args), kind(*args, layout="channels_last")
    last.load_state_dict(first.state_dict())
    for mode in (True, False):
        want, got = first.train(mode)(x), last.train(mode)(turned)
        np.testing.assert_allclose(np.moveaxis(np.asarray(got), -1, 1), np.asarray(want), rtol=1e-5, atol=1e-6)
    with pytest.raises(pre.OptionError, match="layout must be"):
        kind(*args, layout="NHWC")


def test_channels_last_pooling_and_back():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 6))
    turned = np.moveaxis(x, 1, -1)
    y, where = nn.MaxPool2d(2, return_indices=True)(x)
    z, there = nn.MaxPool2d(2, return_indices=True, layout="channels_last")(turned)
    np.testing.assert_array_equal(np.moveaxis(z, -1, 1), y)
    np.testing.assert_array_equal(np.moveaxis(there, -1, 1), where)
    unpool = nn.MaxUnpool2d(2, layout="channels_last")
    want = np.moveaxis(nn.MaxUnpool2d(2)(y, where), 1, -1)
    for size in (None, (4, 6), (2, 4, 6, 3)):
        np.testing.assert_array_equal(unpool(z, there, size), want)
    np.testing.assert_array_equal(ops.max_unpool(z, switches=there, output_size=(4, 6), layout="channels_last"), want)
    for kind in (nn.PixelShuffle, nn.PixelUnshuffle):
        image = np.random.default_rng(1).standard_normal((2, 4, 4, 6))
        want = np.moveaxis(kind(2)(image), 1, -1)
        np.testing.assert_array_equal(kind(2, layout="channels_last")(np.moveaxis(image, 1, -1)), want)
    planes = nn.Dropout2d(0.5, rng=0, layout="channels_last")(np.ones((4, 5, 5, 30)))
    assert (planes == planes[:, :1, :1]).all()
    assert ops.prelu(np.array([[-1.0, 2.0]]), [0.5], layout="channels_last").tolist() == [[-0.5, 2.0]]

"""Arrays in, arrays out, unless gradients are recorded or a Tensor was given: one rule for every layer. Sizes of any integer kind."""

import numpy as np
import pytest

import preimage as pre
from preimage import nn

X = np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)

LAYERS = [
    nn.Conv2d(4, 2, 3), nn.ConvTranspose2d(4, 2, 3), nn.Linear(6, 2), nn.BatchNorm2d(4), nn.InstanceNorm2d(4, affine=True), nn.GroupNorm(2, 4),
    nn.LayerNorm(6), nn.PReLU(), nn.ReLU(), nn.GELU(), nn.Softmax(1), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Dropout(0.5),
    nn.Upsample(scale_factor=2), nn.Flatten(), nn.Identity(), nn.PixelShuffle(2), nn.InstanceNorm2d(4), nn.BatchNorm2d(4, affine=False),
    nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU()), nn.Sequential(nn.ReLU(), nn.Flatten()),
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("training", [True, False])
def test_one_rule(layer, training):
    layer.train(training)
    learns = any(True for _ in layer.parameters())
    assert type(layer(X)) is (pre.Tensor if learns else np.ndarray)
    assert type(layer(pre.Tensor(X))) is pre.Tensor
    assert layer(pre.Tensor(X, requires_grad=True)).requires_grad
    with pre.no_grad():
        assert type(layer(X)) is np.ndarray
        assert type(layer(pre.Tensor(X))) is pre.Tensor
    layer.requires_grad_(False)
    assert type(layer(X)) is np.ndarray
    layer.requires_grad_(True)


def test_inside_a_forward_all_is_tensors():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 3, 3), nn.ReLU()

        def forward(self, x, scale=None):
            h = self.second(x).relu() if scale is None else x * scale
            return {"a": self.first(h).mean(dim=1), "b": (h, [self.second(h).sum()])}

    net = Net()
    with pre.no_grad():
        got = net(X)
        assert type(got["a"]) is type(got["b"][0]) is type(got["b"][1][0]) is np.ndarray
        assert type(net(X, scale=np.float32(2))["a"]) is np.ndarray
    assert type(net(X)["a"]) is pre.Tensor
    assert type(net(X)["b"][0]) is np.ndarray
    seen = []
    remove = net.first.register_forward_hook(lambda module, args, result: seen.append(type(result)))
    with pre.no_grad():
        net(X)
    remove()
    assert seen == [pre.Tensor]
    assert type(nn.MSELoss()(X, X)) is np.ndarray
    assert type(nn.CrossEntropyLoss()(X[:, :, 0, 0], np.array([1, 2]))) is np.ndarray
    values, places = nn.MaxPool2d(2, return_indices=True)(X)
    assert type(values) is type(places) is np.ndarray
    assert type(nn.MaxUnpool2d(2)(values, places)) is np.ndarray


@pytest.mark.parametrize("one", [np.int64, np.uint8, np.array, lambda n: np.array(n, np.int16)])
def test_sizes_of_any_integer_kind(one):
    pairs = [
        (nn.LayerNorm([one(6), one(6)]), nn.LayerNorm([6, 6])),
        (nn.LayerNorm(np.array([6, 6])), nn.LayerNorm([6, 6])),
        (nn.LayerNorm(one(6)), nn.LayerNorm(6)),
        (nn.GroupNorm(one(2), one(4)), nn.GroupNorm(2, 4)),
        (nn.BatchNorm2d(one(4)), nn.BatchNorm2d(4)),
        (nn.InstanceNorm2d(one(4)), nn.InstanceNorm2d(4)),
        (nn.Conv2d(one(4), one(6), one(3), groups=one(2),
         stride=one(2), padding=one(1), dilation=one(1)), nn.Conv2d(4, 6, 3, groups=2, stride=2, padding=1)),
        (nn.ConvTranspose2d(one(4), one(6), np.array([3, 2]), output_padding=one(0)), nn.ConvTranspose2d(4, 6, (3, 2))),
        (nn.Linear(one(6), one(3)), nn.Linear(6, 3)),
        (nn.PReLU(one(4)), nn.PReLU(4)),
        (nn.MaxPool2d(one(2), one(1)), nn.MaxPool2d(2, 1)),
        (nn.AvgPool2d(np.array([2, 3])), nn.AvgPool2d((2, 3))),
        (nn.AdaptiveAvgPool2d(one(3)), nn.AdaptiveAvgPool2d(3)),
        (nn.Upsample(scale_factor=one(2)), nn.Upsample(scale_factor=2)),
        (nn.PixelShuffle(one(2)), nn.PixelShuffle(2)),
        (nn.Softmax(one(1)), nn.Softmax(1)),
        (nn.Flatten(one(1), one(2)), nn.Flatten(1, 2)),
        (nn.Unflatten(one(1), np.array([2, 2])), nn.Unflatten(1, (2, 2))),
    ]  # fmt: skip
    for ours, plain in pairs:
        plain.load_state_dict(ours.state_dict())
        with pre.no_grad():
            np.testing.assert_array_equal(ours(X), plain(X), err_msg=repr(plain))


def test_threads_of_any_integer_kind():
    for one in (np.int64(1), np.array(1), np.uint8(1)):
        with pre.config(threads=one, workspace_bytes=np.int64(1 << 20), debug=np.int32(0)) as settings:
            assert (settings.threads, type(settings.threads)) == (1, int)
    for bad in (1.0, True, "1", np.array([1]), None, -1):
        with pytest.raises(pre.OptionError):
            pre.config(threads=bad)


@pytest.mark.parametrize("momentum", [0.1, 0.5])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_running_statistics_of_instance_norm(ndim, momentum):
    torch = pytest.importorskip("torch")
    name = f"InstanceNorm{ndim}d"
    ours, theirs = (getattr(m, name)(3, momentum=momentum, affine=True, track_running_stats=True) for m in (nn, torch.nn))
    rng = np.random.default_rng(ndim)
    for _ in range(3):
        x = (rng.standard_normal((4, 3, *[5] * ndim)) * 3 + 1).astype(np.float32)
        np.testing.assert_allclose(ours(x).data, theirs(torch.tensor(x)).detach().numpy(), rtol=1e-4, atol=1e-5)
    for key in ("running_mean", "running_var"):
        np.testing.assert_allclose(ours.state_dict()[key], theirs.state_dict()[key].numpy(), rtol=1e-5)
    with pre.no_grad():
        np.testing.assert_allclose(ours.eval()(x), theirs.eval()(torch.tensor(x)).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_truncated_and_constant_starts():
    w = nn.Parameter(np.ones((40, 50)))
    assert nn.init.zeros_(w) is w
    assert not w.data.any()
    assert (nn.init.ones_(w).data == 1).all()
    values = nn.init.trunc_normal((200, 50), 1.0, 2.0, -1.0, 2.0, rng=0)
    assert values.min() >= -1
    assert values.max() <= 2
    x = np.linspace(-1, 2, 20001)
    density = np.exp(-((x - 1) ** 2) / 8)
    assert values.mean() == pytest.approx((x * density).sum() / density.sum(), abs=0.03)
    with pytest.raises(pre.OptionError, match="next to nothing"):
        nn.init.trunc_normal((3,), 0.0, 1.0, 9.0, 10.0)

"""Module: names, state, modes, hooks, what it looks like."""

import gc
import weakref

import numpy as np
import pytest

import preimage as pre
from preimage import nn


def small():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))


def test_names_are_pytorch_s():
    net = small()
    assert [n for n, _ in net.named_parameters()] == ["0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias"]
    assert [n for n, _ in net.named_buffers()] == ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert list(net.state_dict()) == [
        "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked", "4.weight", "4.bias",
    ]  # fmt: skip
    assert [n for n, _ in net.named_modules()] == ["", "0", "1", "2", "3", "4"]
    assert len(list(net.modules())) == 6
    assert [type(m).__name__ for m in net.children()] == ["Conv2d", "BatchNorm2d", "ReLU", "Flatten", "Linear"]


def test_state_goes_round_and_is_copied():
    a, b = small(), small()
    state = a.state_dict()
    report = b.load_state_dict(state)
    assert report == ([], [])
    for name, value in b.state_dict().items():
        np.testing.assert_array_equal(value, state[name])
    state["0.bias"][:] = 7
    assert not (a.state_dict()["0.bias"] == 7).any()
    assert not (b.state_dict()["0.bias"] == 7).any()


def test_state_that_does_not_fit_changes_nothing_and_says_all():
    net = small()
    before = net.state_dict()
    state = {k: v + 1 for k, v in before.items()}
    del state["0.bias"]
    state["5.extra"] = np.zeros(1)
    with pytest.raises(pre.OptionError, match=r"missing: 0\.bias; unexpected: 5\.extra"):
        net.load_state_dict(state)
    state = {k: v + 1 for k, v in before.items()}
    state["4.weight"] = np.zeros((2, 2))
    state["0.bias"] = np.zeros(3)
    with pytest.raises(
        pre.ShapeError, match=r"0\.bias has shape \(3,\), wanted \(2,\); 4\.weight has shape \(2, 2\), wanted \(3, 8\)"
    ):
        net.load_state_dict(state)
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    report = net.load_state_dict({"0.bias": np.full(2, 5.0), "other": np.zeros(1)}, strict=False)
    assert report.unexpected_keys == ["other"]
    assert "0.weight" in report.missing_keys
    assert net[0].bias.data.tolist() == [5, 5]
    assert net[0].bias.dtype == np.float32


def test_an_old_state_without_num_batches_tracked_loads():
    net = small()
    state = net.state_dict()
    del state["1.num_batches_tracked"]
    assert net.load_state_dict(state) == ([], [])


def test_shared_parameters_come_once_but_are_saved_under_both_names():
    first = nn.Linear(3, 3)
    second = nn.Linear(3, 3)
    second.weight = first.weight
    net = nn.ModuleList([first, second])
    assert [n for n, _ in net.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    assert "1.weight" in net.state_dict()
    assert [n for n, _ in nn.ModuleList([first, first]).named_modules()] == ["", "0"]


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv1d(2, 2, 3, padding=1)
        self.scale = nn.Parameter(np.ones(1, np.float32))
        self.register_buffer("seen", np.zeros(()))
        self.note = "text"

    def forward(self, x):
        self.seen = self.seen + 1
        return x + self.body(x) * self.scale


def test_a_module_of_one_s_own():
    net = Residual()
    x = pre.Tensor(np.ones((1, 2, 5), np.float32), requires_grad=True)
    net(x).sum().backward()
    assert [n for n, _ in net.named_parameters()] == ["scale", "body.weight", "body.bias"]
    assert all(p.grad is not None for p in net.parameters())
    assert net.state_dict()["seen"] == 1
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    assert net.note == "text"
    del net.scale
    assert "scale" not in net.state_dict()
    with pytest.raises(AttributeError, match="no attribute 'scale'"):
        _ = net.scale
    del net.note
    net.body = None
    assert list(net.children()) == []
    net.other = nn.Parameter(np.zeros(1))
    net.other = None
    assert list(net.parameters()) == []
    net.seen = None
    assert list(net.named_buffers()) == []


def test_wrong_uses_are_refused():
    class Early(nn.Module):
        def __init__(self):
            self.weight = nn.Parameter(np.zeros(1))

    with pytest.raises(pre.OptionError, match="super"):
        Early()
    net = Residual()
    with pytest.raises(pre.DTypeError, match="assign a Parameter"):
        net.scale = np.ones(1)
    with pytest.raises(pre.OptionError, match="already"):
        net.register_buffer("note", np.ones(1))
    with pytest.raises(pre.OptionError, match="dot"):
        net.add_module("a.b", nn.Identity())
    with pytest.raises(NotImplementedError, match="no forward"):
        nn.Module()(1)
    for build in (lambda: nn.Sequential(3), lambda: nn.ModuleList([3]), lambda: nn.ModuleDict({"a": 3})):
        with pytest.raises(pre.OptionError, match="takes Modules"):
            build()


def test_modes_dtypes_and_gradients_reach_all_below():
    net = nn.Sequential(small(), nn.Dropout())
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    assert all(m.training for m in net.train().modules())
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())
    net.astype(np.float64)
    assert {p.dtype.name for p in net.parameters()} == {"float64"}
    assert net.state_dict()["0.1.num_batches_tracked"].dtype == np.int64
    assert net.state_dict()["0.1.running_var"].dtype == np.float64
    with pytest.raises(pre.DTypeError):
        net.astype(np.int32)
    seen = []
    net.apply(lambda m: seen.append(type(m).__name__))
    assert seen[-1] == "Sequential"
    assert len(seen) == 8


def test_hooks():
    layer = nn.Identity()
    undo = layer.register_forward_hook(lambda module, args, result: result * 2)
    assert layer(3) == 6
    undo()
    assert layer(3) == 3


def test_containers():
    net = nn.Sequential({"first": nn.Identity(), "second": nn.ReLU()})
    assert net["second"] is net[1]
    assert net[-1] is net[1]
    assert list(net[:1].state_dict()) == []
    assert len(net) == 2
    assert [type(m) for m in net.append(nn.Tanh())] == [nn.Identity, nn.ReLU, nn.Tanh]
    items = nn.ModuleList([nn.Identity()]).append(nn.ReLU())
    assert isinstance(items[1], nn.ReLU)
    assert len(items[:1]) == 1
    assert len(list(items)) == len(items)
    table = nn.ModuleDict({"a": nn.Identity()})
    table["b"] = nn.ReLU()
    table["b"] = nn.Tanh()
    assert list(table) == ["a", "b"]
    assert "b" in table
    assert len(table) == 2
    assert isinstance(dict(table.items())["b"], nn.Tanh)
    assert isinstance(table["b"], nn.Tanh)


def test_memory_goes_with_the_last_name():
    net = small()
    gone = weakref.ref(net)
    loss = net(np.ones((2, 1, 4, 4), np.float32)).sum()
    loss.backward()
    gc.collect()
    gc.disable()
    try:
        del net, loss
        assert gone() is None
    finally:
        gc.enable()


# -- looking -----------------------------------------------------------------------------------------------------------


def test_repr_is_a_tree():
    text = repr(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Sequential(nn.LeakyReLU(0.2))))
    assert text == (
        "Sequential(\n  (0): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)\n"
        "  (1): Sequential(\n    (0): LeakyReLU(slope=0.2)\n  )\n)"
    )


def test_every_layer_shows_its_options():
    layers = [
        nn.Conv2d(4, 4, 3, padding=((1, 2), (0, 0)), dilation=2, groups=2, padding_mode="reflect"), nn.Conv1d(1, 1, 3, padding="same"),
        nn.ConvTranspose2d(4, 4, 3, stride=2, output_padding=1), nn.PReLU(4), nn.GroupNorm(2, 4), nn.InstanceNorm1d(3), nn.LayerNorm(4),
        nn.Dropout(0.1), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.MaxUnpool2d(2), nn.AdaptiveAvgPool2d(1), nn.Upsample(scale_factor=2),
        nn.Upsample(size=4), nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.Linear(2, 3), nn.Flatten(), nn.Unflatten(1, (2, -1)),
        nn.BatchNorm1d(3), nn.CrossEntropyLoss(weight=np.ones(3)), nn.GELU("tanh"),
    ]  # fmt: skip
    for layer in layers:
        assert layer.extra_repr() in repr(layer)
        assert type(layer).__name__ in repr(layer)
    assert "padding=((1, 2), (0, 0))" in repr(layers[0])
    assert "padding='same'" in repr(layers[1])
    assert "output_padding=(1, 1)" in repr(layers[2])


def test_html_table_counts_and_escapes():
    net = nn.Sequential(nn.Conv2d(3, 8, 5, groups=1), nn.Linear(4, 2))
    html = net._repr_html_()
    assert html.count("<table>") == html.count("</table>") == 1
    assert '<td>0.weight</td><td>(8, 3, 5, 5)</td><td>float32</td><td class="n">600</td><td class="n">1,200</td>' in html
    assert '<td class="n">618</td>' in html
    hostile = nn.Sequential({"<script>": nn.Linear(1, 1)})
    assert "<script>" not in hostile._repr_html_()


def test_summary_gives_shapes_and_flop_and_leaves_the_modes():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 4, 4, stride=2), nn.Flatten(), nn.Linear(4 * 64, 5)
    )
    net[1].eval()
    result = nn.summary(net, (2, 3, 7, 7))
    shapes = [row[2] for row in result.rows]
    assert shapes == [(2, 8, 3, 3), (2, 8, 3, 3), (2, 4, 8, 8), (2, 256), (2, 5)]
    # 2 flop * images * small positions * weights
    assert [row[4] for row in result.rows] == [2 * 2 * 9 * 216, 0, 2 * 2 * 9 * 512, 0, 2 * 2 * 1280]
    assert result.parameters == sum(p.size for p in net.parameters())
    assert result.work_flop == sum(row[4] for row in result.rows)
    assert [m.training for m in net] == [True, False, True, True, True]
    assert f"{result.work_flop:,}" in str(result)
    assert "<td>Conv2d</td>" in result._repr_html_()
    assert nn.summary(nn.Linear(3, 2), (4, 3)).rows[0][0] == "(whole)"


def test_errors_of_the_graph_name_the_parameter():
    layer = nn.Linear(2, 2)
    x = pre.Tensor(np.ones((1, 2), np.float32), requires_grad=True)
    loss = layer(x).sum()
    layer.weight.assign(np.zeros((2, 2)))
    with pytest.raises(pre.GraphError, match="'weight'"):
        loss.backward()

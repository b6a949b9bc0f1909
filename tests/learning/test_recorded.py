"""Passes run as programs have the bits of the layers' own, and are given up, with the reason, where they might not."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import preimage as pre
from preimage import learning, nn, optim
from preimage.engines import replayer
from preimage.engines.jit.weight_grad.call import WeightGradients
from preimage.engines.recording import state
from preimage.learning.training import passes, recorded

pytestmark = pytest.mark.skipif(isinstance(replayer(), str), reason="no engine here runs recorded kernels")

RUNS = recorded.BEFORE + 1 + recorded.CONTROLS  # batches of the layers' own before a program runs


def small(*inner, channels=6, size=9):
    """A net around a layer, with features of unequal sizes. It has more than one way for a gradient to go wrong."""
    return nn.Sequential(nn.Conv2d(2, channels, 3, padding=1, rng=0), *inner, nn.Flatten(), nn.Linear(size, 3, rng=1))


def batches(count, n=5, seed=0, shape=(2, 7, 8)):
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((n, *shape)).astype(np.float32), rng.integers(0, 3, n)) for _ in range(count)]


def plain(net, loss, optimizer, data, schedule=None, between=None):
    """The same training without a Trainer: the losses."""
    found = []
    for k, (x, t) in enumerate(data):
        if between is not None:
            between(k, net)
        optimizer.zero_grad()
        value = loss(net(pre.Tensor(x)), t)
        value.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        found.append(value.item())
    return found


def trained(trainer, data, between=None):
    """By the Trainer: the losses, and why each step's passes were the layers' own."""
    trainer.uses(data)
    found, why = [], []
    for k in range(len(data)):
        if between is not None:
            between(k, trainer.net)
        found.append(trainer.advance()["loss"])
        why.append(trainer.recorded.why)
    return found, why


def bits(net):
    return {name: array.tobytes() for name, array in net.state_dict().items()}


def compare(make, data, loss=nn.cross_entropy, optimizer=lambda p: optim.SGD(p, lr=0.05, momentum=0.9), between=None):
    """Both ways from the same weights: the reasons of the Trainer's steps. Losses and weights must agree in every bit."""
    one, two = make(), make()
    two.load_state_dict(one.state_dict())
    expected = plain(one, loss, optimizer(one.parameters()), data, between=between)
    found, why = trained(learning.Trainer(two, loss, optimizer(two.parameters())), data, between)
    assert found == expected
    assert bits(one) == bits(two)
    return why


def fresh(layer, size):
    return small(copy.deepcopy(layer), size=size)


LAYERS = {
    "conv, stride, groups": (nn.Conv2d(6, 4, 3, stride=2, groups=2, rng=2), 36),
    "conv, dilation, padding": (nn.Conv2d(6, 4, 3, padding=2, dilation=2, rng=2), 4 * 56),
    "conv, one channel out": (nn.Conv2d(6, 1, 5, rng=2), 12),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6, rng=2), 6 * 30),
    "1x1": (nn.Conv2d(6, 5, 1, rng=2), 5 * 56),
    "deconv": (nn.ConvTranspose2d(6, 3, 4, stride=2, padding=1, rng=2), 3 * 14 * 16),
    "deconv without bias": (nn.ConvTranspose2d(6, 3, 2, stride=2, bias=False, rng=2), 3 * 14 * 16),
    "relu": (nn.ReLU(), 6 * 56),
    "leaky relu": (nn.LeakyReLU(0.2), 6 * 56),
    "sigmoid": (nn.Sigmoid(), 6 * 56),
    "tanh": (nn.Tanh(), 6 * 56),
    "gelu": (nn.GELU(), 6 * 56),
    "silu": (nn.SiLU(), 6 * 56),
    "softplus": (nn.Softplus(), 6 * 56),
    "max pool": (nn.MaxPool2d(2), 6 * 12),
    "max pool, overlapping": (nn.MaxPool2d(3, 2, 1), 6 * 16),
    "average pool": (nn.AvgPool2d(2), 6 * 12),
    "global average": (nn.AdaptiveAvgPool2d(1), 6),
    "adaptive average": (nn.AdaptiveAvgPool2d((3, 5)), 6 * 15),
    "batch norm": (nn.BatchNorm2d(6), 6 * 56),
    "batch norm, plain average": (nn.BatchNorm2d(6, momentum=None, eps=0.1), 6 * 56),
    "batch norm without weights": (nn.BatchNorm2d(6, affine=False), 6 * 56),
    "batch norm without statistics": (nn.BatchNorm2d(6, track_running_stats=False), 6 * 56),
    "batch norm and relu": (nn.Sequential(nn.BatchNorm2d(6), nn.ReLU()), 6 * 56),
    "batch norm and leaky relu": (nn.Sequential(nn.BatchNorm2d(6), nn.LeakyReLU(0.2)), 6 * 56),
    "instance norm with statistics": (nn.InstanceNorm2d(6, affine=True, track_running_stats=True), 6 * 56),
    "group norm": (nn.GroupNorm(3, 6), 6 * 56),
    "upsample": (nn.Upsample(scale_factor=2), 6 * 14 * 16),
    "upsample, linear": (nn.Upsample(scale_factor=2, mode="bilinear"), 6 * 14 * 16),
    "upsample, cubic": (nn.Upsample(size=(9, 7), mode="bicubic"), 6 * 63),
    "reflecting margin": (nn.Conv2d(6, 4, 3, padding=2, padding_mode="reflect", rng=2), 4 * 9 * 10),
    "margins": (nn.Sequential(nn.ReplicationPad2d((1, 2, 0, 1)), nn.CircularPad2d(1)), 6 * 10 * 13),
    "dropout": (nn.Dropout(0.5, rng=3), 6 * 56),
    "dropout of channels": (nn.Sequential(nn.Dropout2d(0.3, rng=4), nn.ReLU(), nn.Dropout(0.2, rng=5)), 6 * 56),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_have_the_same_bits(name):
    layer, size = LAYERS[name]
    why = compare(lambda: fresh(layer, size), batches(RUNS + 2))
    assert why[RUNS:] == [None] * 2


class _Twice(nn.Sequential):
    """x + f(x): two cotangents meet."""

    __module__ = "preimage.nn.tests"  # as if it were the library's own

    def forward(self, x):
        return super().forward(x) + x


class _Of(nn.Module):
    """A function of the features."""

    __module__ = "preimage.nn.tests"

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


FUNCTIONS = {
    "every other element": (lambda x: x[:, 1:, ::2], 5 * 4 * 8),
    "one of an axis": (lambda x: x[:, :, 3], 6 * 8),
    "flipped": (lambda x: x[:, :, ::-1], 6 * 56),
    "the larger": (lambda x: pre.ops.maximum(x, x[:, ::-1]), 6 * 56),
    "the largest of an axis": (lambda x: x.max(axis=2), 6 * 8),
    "over their norm": (lambda x: pre.functional.normalize(x, dim=1), 6 * 56),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_the_same_bits(name):
    function, size = FUNCTIONS[name]
    why = compare(lambda: small(_Of(function), size=size), batches(RUNS + 2))
    assert why[RUNS:] == [None] * 2


def test_cotangents_that_meet_are_added_by_a_kernel():
    why = compare(lambda: small(_Twice(nn.Conv2d(6, 6, 3, padding=1, rng=2), nn.ReLU()), size=6 * 56), batches(RUNS + 2))
    assert why[RUNS:] == [None] * 2


class _Noisy(nn.Module):
    """x plus what NumPy draws."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(3)

    def forward(self, x):
        return x + self.rng.standard_normal(x.shape).astype(np.float32)


#: Nets that train as ever, and the reason says so.
OTHERS = {"noise of NumPy's": (_Noisy(), 6 * 56, "")}


def dropping():
    """Masks from the library's own generator."""
    return small(nn.Dropout(0.4), nn.BatchNorm2d(6), nn.Dropout2d(0.3), size=6 * 56)


def test_masks_from_the_librarys_own_generator():
    made = []
    for run in (
        plain,
        lambda net, loss, optimizer, data, between=None: trained(learning.Trainer(net, loss, optimizer), data, between),
    ):
        nn.init.manual_seed(5)
        net = dropping()
        found = run(net, nn.cross_entropy, optim.SGD(net.parameters(), lr=0.05), batches(RUNS + 4))
        losses, why = found if isinstance(found, tuple) else (found, [None])
        assert why[-1] is None
        made.append((losses, bits(net), nn.init.generator().bit_generator.state))
    assert made[0] == made[1]


@pytest.mark.parametrize("what", ["gradients", "holds"])
def test_masks_are_drawn_once_where_a_pass_is_made_again(what, monkeypatch):
    def between(k, net):
        if k == 0:
            monkeypatch.undo()
        if k == RUNS + 1:
            if what == "gradients":
                monkeypatch.setattr(passes.Pass, "gradients", lambda self: None)
            else:
                monkeypatch.setattr(passes.Run, "holds", lambda self, k=-1: False)

    def make():
        return small(nn.Dropout(0.4, rng=7), nn.BatchNorm2d(6), size=6 * 56)

    assert "not finite" in compare(make, batches(RUNS + 3), between=between)[-1]


def test_another_mask_every_step():
    net = small(nn.Dropout(0.5, rng=3), size=6 * 56)
    x, t = batches(1)[0]
    trainer = learning.Trainer(net, nn.cross_entropy, optim.SGD(net.parameters(), lr=0.0))
    losses, why = trained(trainer, [(x, t)] * (RUNS + 5))
    assert why[-1] is None
    assert len(set(losses)) == len(losses)


def test_integers_are_given_to_the_net_as_they_are():
    """Words, for an Embedding."""

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.out = nn.Embedding(7, 4, rng=0), nn.Linear(4, 3, rng=1)

        def forward(self, x):
            return self.out(self.table(x).mean(1))

    net = Words()
    rng = np.random.default_rng(0)
    data = [(rng.integers(0, 7, (5, 6)), rng.integers(0, 3, 5)) for _ in range(RUNS + 2)]
    trainer = learning.Trainer(net, nn.cross_entropy, optim.Adam(net.parameters(), lr=0.01))
    losses, _ = trained(trainer, data)
    again = Words()
    rate = optim.Adam(again.parameters(), lr=0.01)
    expected = []
    for x, t in data:
        rate.zero_grad()
        loss = nn.cross_entropy(again(x), t)
        loss.backward()
        rate.step()
        expected.append(loss.item())
    assert losses == expected
    assert learning.Recorded(net)(data[0][0]).shape == (5, 3)


def normed(rng=0):
    return small(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, rng=2), nn.BatchNorm2d(4), size=4 * 30)


def test_running_statistics_that_the_caller_sets_count():
    def between(k, net):
        if k == RUNS + 1:
            net[1].load_state_dict({name: value + 1 for name, value in net[1].state_dict().items()})

    assert compare(normed, batches(RUNS + 3), between=between)[-1] is None


def test_a_variance_that_overflows_is_computed_by_the_layers():
    data = batches(RUNS + 3)
    data[RUNS + 1] = (data[RUNS + 1][0] * np.float32(1e30), data[RUNS + 1][1])
    with np.errstate(all="ignore"):
        why = compare(normed, data, loss=lambda y, t: nn.cross_entropy(y * 1e-3, t))
    assert why[RUNS] is None
    assert "variance" in why[RUNS + 1]


def test_statistics_move_once_where_a_pass_is_made_again(monkeypatch):
    def between(k, net):
        if k == 0:
            monkeypatch.undo()
        if k == RUNS + 1:
            monkeypatch.setattr(passes.Pass, "gradients", lambda self: None)

    assert compare(normed, batches(RUNS + 2), between=between)[-1] == "a gradient is not finite"


def test_a_net_goes_from_training_to_evaluation_and_back():
    def between(k, net):
        if k == RUNS + 1:
            net.eval()
            net(batches(1)[0][0])
            net.train()

    assert compare(normed, batches(2 * RUNS + 2), between=between)[-1] is None


@pytest.mark.parametrize("name", OTHERS)
def test_other_layers_give_their_reason(name):
    layer, size, reason = OTHERS[name]
    why = compare(lambda: fresh(layer, size), batches(RUNS + 1))
    assert all(reason in w for w in why)


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.05),
    "nesterov": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: optim.Adam(p, lr=0.01, weight_decay=0.01),
    "adamw": lambda p: optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.01),
}


def net():
    return small(nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 7, 3, rng=2), nn.ReLU(), size=14)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimisers(name):
    assert compare(net, batches(RUNS + 2), optimizer=OPTIMIZERS[name])[-1] is None


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(threads):
    expected = compare_threads(1)
    assert compare_threads(threads) == expected


def compare_threads(threads):
    with pre.config(threads=threads):
        made = net()
        trained(learning.Trainer(made, nn.cross_entropy, optim.Adam(made.parameters())), batches(RUNS + 2, n=40))
        return bits(made)


def test_batches_of_another_size_are_recorded_by_themselves():
    whole, last = batches(8), batches(8, n=3, seed=1)
    why = compare(net, [b for pair in zip(whole, last, strict=True) for b in pair])
    assert why[-2:] == [None, None]


def test_weights_that_the_caller_assigns_count():
    def between(k, net):
        if k == RUNS + 1:
            net[0].weight.assign(net[0].weight.data * 2)
        if k == RUNS + 2:
            net[0].weight.data[0] = 0.5  # in place

    assert compare(net, batches(RUNS + 4), between=between)[-4:] == [None] * 4


def test_weights_that_lie_backwards():
    def make():
        made = net()
        made[0].weight.assign(made[0].weight.data[:, ::-1])
        return made

    def between(k, net):
        net[0].weight.assign(np.ascontiguousarray(net[0].weight.data)[..., ::-1])

    assert "all steps forward" in compare(make, batches(RUNS + 1), between=between)[-1]


def test_a_frozen_layer_is_seen():
    def between(k, net):
        if k == RUNS + 1:
            net[0].requires_grad_(False)

    why = compare(net, batches(2 * RUNS + 3), between=between)
    assert why[RUNS] is None
    assert "changed" in why[RUNS + 1]
    assert why[-1] is None


def test_a_layer_that_is_replaced_is_seen():
    def between(k, net):
        if k == RUNS + 1:
            net._modules["1"] = nn.LeakyReLU(0.3)

    why = compare(net, batches(2 * RUNS + 3), between=between)
    assert "changed" in why[RUNS + 1]
    assert why[-1] is None


def test_a_hook_is_called_every_time():
    heard = []

    def between(k, net):
        if k == RUNS + 1:
            net[1].register_forward_hook(lambda module, args, result: heard.append(k))

    why = compare(net, batches(RUNS + 3), between=between)
    assert "hook" in why[-1]
    assert len(heard) == 4  # two nets, two steps


def test_a_loss_that_reads_weights():
    made = [net(), net()]

    def loss_of(own):
        return lambda y, t: nn.cross_entropy(y, t) + 0.01 * (own[0].weight * own[0].weight).sum()

    data = batches(RUNS + 2)
    expected = plain(made[0], loss_of(made[0]), optim.SGD(made[0].parameters(), lr=0.1), data)
    found, why = trained(learning.Trainer(made[1], loss_of(made[1]), optim.SGD(made[1].parameters(), lr=0.1)), data)
    assert found == expected
    assert bits(made[0]) == bits(made[1])
    assert "depends on more" in why[-1]


def test_weights_that_are_not_finite_stop_as_ever():
    made = small(nn.Conv2d(6, 4, 3, padding=1, rng=2), size=4 * 56)
    trainer = learning.Trainer(made, nn.cross_entropy, optim.SGD(made.parameters(), lr=0.05))
    trained(trainer, batches(RUNS + 1))
    assert trainer.recorded.why is None
    made[1].weight.data[0, 0, 0, 0] = np.inf
    with pytest.raises(pre.errors.DivergedError, match="weight"):
        trained(trainer, batches(1))


def test_accumulated_gradients():
    one, two = net(), net()
    data = batches(4 * RUNS)
    optimizer = optim.SGD(one.parameters(), lr=0.1)
    for k in range(0, len(data), 2):
        optimizer.zero_grad()
        for x, t in data[k : k + 2]:
            (nn.cross_entropy(one(pre.Tensor(x)), t) / 2).backward()
        optimizer.step()
    trainer = learning.Trainer(two, nn.cross_entropy, optim.SGD(two.parameters(), lr=0.1), accumulate=2)
    trainer.uses(data)
    for _ in range(2 * RUNS):
        trainer.advance()
    assert trainer.recorded.why is None
    assert bits(one) == bits(two)


def test_a_recording_that_gives_other_bits_is_not_used(monkeypatch):
    monkeypatch.setattr(recorded, "_same", lambda a, b: False)
    why = compare(net, batches(RUNS + 1))
    assert why[-1] == "the recorded kernels do not give the layers' bits"


@pytest.mark.parametrize("options", [{"accuracy": "fast"}, {"engine": "gemm"}])
def test_settings(options):
    def make():
        inner = nn.Conv2d(16, 16, 3, padding=1, rng=2), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1, rng=3)
        return small(*inner, channels=16, size=3 * 24 * 24)

    with pre.config(**options):
        why = compare(make, batches(RUNS + 1, shape=(2, 24, 24)))[-1]
    assert why is None if "engine" not in options else "runs no recorded kernels" in why


def test_double_precision():
    def make():
        return nn.Sequential(nn.Conv2d(2, 3, 3, dtype=np.float64, rng=0), nn.Flatten(), nn.Linear(90, 3, dtype=np.float64, rng=1))

    assert compare(make, [(x.astype(np.float64), t) for x, t in batches(RUNS + 1)])[-1] is None


def test_a_trainer_can_be_copied_and_given_another_net():
    made = net()
    trainer = learning.Trainer(made, nn.cross_entropy, optim.SGD(made.parameters(), lr=0.1))
    data = batches(RUNS + 2)
    trained(trainer, data[:-1])
    trainer.close()  # the batches that it is at are no part of a copy
    other = copy.deepcopy(trainer)
    assert trained(other, data[-1:])[0] == trained(trainer, data[-1:])[0]
    assert bits(other.net) == bits(trainer.net)
    before, trainer.net = bits(trainer.net), net()
    trained(trainer, data[:1])
    assert bits(made) == before
    assert trainer.net[0].weight.grad is not None


def test_weight_gradients_that_are_summed_in_parts(monkeypatch):
    """Of seven images: nodes of the images' tree, added by kernels."""
    parts, in_parts = [], WeightGradients._in_parts

    def counted(self, request, images, *arrays):
        parts.append((images, state.recorder is not None))
        in_parts(self, request, images, *arrays)

    monkeypatch.setattr(WeightGradients, "_in_parts", counted)

    def make():
        return small(nn.Conv2d(6, 7, 3, padding=1, rng=2), nn.ReLU(), size=7 * 56)

    with pre.config(workspace_bytes=0):
        assert compare(make, batches(RUNS + 2, n=7))[-1] is None
    assert (1, True) in parts

"""Recorded nets in loops of one's own: the bits of the layers, for one net and for two that train against each other."""

from __future__ import annotations

import numpy as np
import pytest

import preimage as pre
from preimage import learning, nn, optim
from preimage.engines import replayer
from preimage.errors import GraphError

pytestmark = pytest.mark.skipif(isinstance(replayer(), str), reason="no engine here runs recorded kernels")


def generator():
    return nn.Sequential(
        nn.ConvTranspose2d(5, 12, (3, 4), bias=False, rng=0), nn.BatchNorm2d(12), nn.ReLU(),
        nn.ConvTranspose2d(12, 2, 4, stride=2, padding=1, bias=False, rng=1), nn.Tanh(),
    )  # fmt: skip


def critic():
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, stride=2, padding=1, rng=2), nn.LeakyReLU(0.2), nn.Conv2d(8, 6, 3, bias=False, rng=3), nn.BatchNorm2d(6),
        nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(12, 1, rng=4),
    )  # fmt: skip


def bits(net):
    return {name: array.tobytes() for name, array in net.state_dict().items()}


def adversaries(record, steps=9, n=3):
    """Losses and last weights of a generator and its critic, in the loop that everyone writes; why each call was the layers' own."""
    rng = np.random.default_rng(0)
    nets = [generator(), critic()]
    net, judge = [learning.Recorded(made) if record else made for made in nets]
    optimizers = [optim.Adam(made.parameters(), lr=0.01) for made in nets]
    losses, why = [], []

    def call(it, x):
        result = it(x)
        why.append(it.why if record else None)
        return result

    def bce(y, value):
        return nn.bce_with_logits_loss(y, np.full(y.shape, value, np.float32))

    for _ in range(steps):
        noise = rng.standard_normal((n, 5, 1, 1)).astype(np.float32)
        real = rng.standard_normal((n, 2, 6, 8)).astype(np.float32)
        made = call(net, noise)
        loss = bce(call(judge, real), 1.0) + bce(call(judge, made.detach()), 0.0)
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        fooled = bce(call(judge, made), 1.0)
        optimizers[0].zero_grad()
        fooled.backward()
        optimizers[0].step()
        losses += [loss.item(), fooled.item()]
    return losses, [bits(made) for made in nets], why


def test_two_nets_against_each_other_have_the_bits_of_their_layers():
    losses, weights, _ = adversaries(False)
    found, recorded, why = adversaries(True)
    assert found == losses
    assert recorded == weights
    assert why[-8:] == [None] * 8, why  # all four calls of the last two steps were programs'


def both(make, x, seed=5):
    """Gradients of parameters and input, of the net and of its recording, for random cotangents over six calls."""
    rng = np.random.default_rng(seed)
    one, two = make(), make()
    two.load_state_dict(one.state_dict())
    recorded = learning.Recorded(two)
    for _ in range(6):
        values = (rng.standard_normal(x.shape)).astype(np.float32)
        results = []
        for call, net in ((one, one), (recorded, two)):
            leaf = pre.Tensor(values, requires_grad=True)
            y = call(leaf * 2.0)
            g = np.random.default_rng(seed).standard_normal(y.shape).astype(np.float32)
            y.backward(g)
            results.append([y.data, leaf.grad.data, *[p.grad.data for p in net.parameters()], *net.state_dict().values()])
            net.zero_grad()
        assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))
    return recorded


def test_the_gradient_of_the_input_is_that_of_the_layers():
    assert both(critic, np.empty((3, 2, 6, 8))).why is None


def test_a_class_of_ones_own():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 3, 3, padding=1, rng=0), nn.Conv2d(2, 3, 1, rng=1)

        def forward(self, x):
            return pre.ops.relu(self.a(x)) + self.b(x)

    assert both(Two, np.empty((2, 2, 5, 7))).why is None


def test_what_draws_stays_the_layers_own():
    recorded = learning.Recorded(nn.Sequential(nn.Conv2d(1, 2, 3, rng=0), nn.Dropout(0.5)))
    for _ in range(5):
        recorded(np.ones((1, 1, 5, 5), np.float32)).sum().backward()
    assert "Dropout" in recorded.why


def warm(seen=4):
    net = critic()
    recorded = learning.Recorded(net)
    x = np.random.default_rng(3).standard_normal((3, 2, 6, 8)).astype(np.float32)
    for _ in range(seen):
        recorded(x).sum().backward()
    return net, recorded, x


@pytest.mark.parametrize("seen", [2, 4])
def test_a_second_backward_pass_through_a_graph_that_was_retained(seen):
    net, recorded, x = warm(seen)
    net.zero_grad()
    y = recorded(x)
    mean = np.array(net.state_dict()["3.running_mean"])
    y.sum().backward(retain_graph=True)
    once = [np.array(p.grad.data) for p in net.parameters()]
    y.sum().backward()
    assert all(np.array_equal(p.grad.data, a + a) for p, a in zip(net.parameters(), once, strict=True))
    assert np.array_equal(net.state_dict()["3.running_mean"], mean)
    with pytest.raises(GraphError, match="second backward"):
        y.sum().backward()


@pytest.mark.parametrize("seen", [2, 4])
def test_weights_that_changed_before_the_backward_pass_are_an_error(seen):
    net, recorded, x = warm(seen)
    y = recorded(x)
    optim.SGD(net.parameters(), lr=0.1).step()
    with pytest.raises(GraphError, match="changed in place"):
        y.sum().backward()


def test_second_derivatives_are_refused():
    net, recorded, x = warm()
    with pytest.raises(GraphError, match="call the net itself"):
        pre.grad(recorded(x).sum(), list(net.parameters()), create_graph=True)


def test_gradients_that_are_not_finite_are_those_of_the_layers():
    net, recorded, x = warm()
    other = critic()
    other.load_state_dict(net.state_dict())
    for call, made in ((recorded, net), (other, other)):
        made.zero_grad()
        y = call(x)
        y.backward(np.full(y.shape, np.inf, np.float32))
    assert recorded.why == "a gradient is not finite"
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(a.grad.data, b.grad.data)


def test_a_call_without_a_backward_pass_and_changes_of_mode():
    net, recorded, x = warm()
    with pre.no_grad():
        recorded(x)
    assert recorded.why is not None
    recorded(x)  # its backward pass never comes
    net.eval()
    other = critic()
    other.load_state_dict(net.state_dict())
    other.eval()
    for _ in range(5):
        assert np.array_equal(recorded(x).data, other(x).data)
    net.train()
    other.train()
    for _ in range(5):
        y, wanted = recorded(x), other(x)
        assert np.array_equal(y.data, wanted.data)
        y.sum().backward()


def test_programs_keep_no_memory_while_layers_run_for_another_shape():
    _, recorded, x = warm()
    kept = [recorded._programs[key].replay.runs for key in recorded._programs]
    assert sum(runs.bytes for runs in kept) > 0
    recorded(x[:2]).sum().backward()
    other = recorded(x[:2])  # which is compared with a recording later on
    assert sum(runs.bytes for runs in kept) == 0
    other.sum().backward()
    for _ in range(2):
        recorded(x).sum().backward()
        assert recorded.why is None

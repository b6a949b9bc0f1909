"""nn.RNN, LSTM and GRU against PyTorch's: its state_dict loads, its results and gradients come out."""

from __future__ import annotations

import numpy as np
import pytest

import preimage as pre

KINDS = ["RNN", "LSTM", "GRU"]
NUMBERS = np.random.default_rng(0)


def pair(kind, layers=2, **options):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, kind)(3, 5, layers, **options)
    ours = getattr(pre.nn, kind)(3, 5, layers, **options)
    ours.load_state_dict({k: v.detach().numpy() for k, v in theirs.state_dict().items()})
    assert list(ours.state_dict()) == list(theirs.state_dict())
    return torch, ours, theirs


def flat(result):
    y, last = result
    return [y, *(last if isinstance(last, tuple) else [last])]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True, "batch_first": True}, {"bias": False, "bidirectional": True}, {"layers": 1}]
)
def test_results_and_gradients_are_torchs(kind, options):
    torch, ours, theirs = pair(kind, **options)
    x = NUMBERS.standard_normal((4, 2, 3)).astype(np.float32)
    directions = 2 if options.get("bidirectional") else 1
    batch = 4 if options.get("batch_first") else 2
    start = [NUMBERS.standard_normal((options.get("layers", 2) * directions, batch, 5)).astype(np.float32) for _ in range(2)]
    hx = start[0] if kind != "LSTM" else tuple(start)
    given, source = pre.Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    found = flat(ours(given, hx))
    wanted = flat(theirs(source, torch.tensor(hx) if kind != "LSTM" else tuple(map(torch.tensor, hx))))
    weights = [NUMBERS.standard_normal(v.shape).astype(np.float32) for v in found]
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a.data, b.detach().numpy(), rtol=1e-5, atol=1e-6)
    sum((v * c).sum() for v, c in zip(found, weights, strict=True)).backward()
    sum((v * torch.tensor(c)).sum() for v, c in zip(wanted, weights, strict=True)).backward()
    np.testing.assert_allclose(given.grad, source.grad.numpy(), rtol=1e-4, atol=1e-5)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad, q.grad.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)
    with pre.no_grad():
        arrays = flat(ours(x, hx))
    assert all(np.array_equal(a, b.data) for a, b in zip(arrays, found, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_of_several_lengths_are_torchs_packed_ones(kind):
    torch, ours, theirs = pair(kind, bidirectional=True)
    x, lengths = NUMBERS.standard_normal((6, 3, 3)).astype(np.float32), [6, 1, 4]
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.tensor(x), torch.tensor(lengths), enforce_sorted=False)
    y, last = theirs(packed)
    wanted = [torch.nn.utils.rnn.pad_packed_sequence(y, total_length=6)[0], *(last if kind == "LSTM" else [last])]
    for a, b in zip(flat(ours(x, lengths=lengths)), wanted, strict=True):
        np.testing.assert_allclose(np.asarray(pre.autograd.array_of(a)), b.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_one_sequence_without_a_batch(kind):
    _, ours, _ = pair(kind)
    x = NUMBERS.standard_normal((4, 3)).astype(np.float32)
    with pre.no_grad():
        alone, batched = flat(ours(x)), flat(ours(x[:, None]))
    for a, b in zip(alone, batched, strict=True):
        assert np.array_equal(a, b[:, 0])


def test_dropout_stands_between_layers_in_training_alone():
    net = pre.nn.LSTM(3, 5, 2, dropout=1.0, rng=0)
    x = NUMBERS.standard_normal((4, 2, 3)).astype(np.float32)
    with pre.no_grad():
        nothing = net(np.zeros_like(x))[0], net(x)[0]  # the second layer sees zeros alone
        assert np.array_equal(*nothing)
        assert not np.array_equal(net.eval()(x)[0], nothing[0])


def test_wrong_shapes_are_named():
    net = pre.nn.GRU(3, 5)
    with pytest.raises(pre.ShapeError, match=r"wanted \(steps, batch, 3\)"):
        net(np.zeros((4, 2, 2), np.float32))
    with pytest.raises(pre.ShapeError, match=r"hx must be a state of shape \(1, batch, 5\)"):
        net(np.zeros((4, 2, 3), np.float32), np.zeros((2, 2, 5), np.float32))
    with pytest.raises(pre.OptionError, match="nonlinearity"):
        pre.nn.RNN(3, 5, nonlinearity="sine")

"""Steps write new values into the memory of the old ones; but whoever kept the old ones, keeps them."""

from __future__ import annotations

import numpy as np
import pytest

import preimage as pre
from preimage import optim
from preimage.engines import replayer
from preimage.errors import GraphError

SHAPE = (130, 90)
OPTIMIZERS = {
    "momentum": lambda p: optim.SGD(p, lr=0.5, momentum=0.9),
    "adam": lambda p: optim.Adam(p, lr=0.1),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.1, momentum=0.5, centered=True),
}


def step(parameters, optimizer, seed=0):
    rng = np.random.default_rng(seed)
    for p in parameters:
        p.grad = rng.standard_normal(p.shape).astype(np.float32)
    optimizer.step()


def started(make, n=3):
    parameters = [pre.Tensor(np.full((k + 1, *SHAPE), k + 1, np.float32), requires_grad=True) for k in range(n)]
    optimizer = make(parameters)
    for k in range(3):
        step(parameters, optimizer, k)
    return parameters, optimizer


@pytest.mark.skipif(isinstance(replayer(), str), reason="no recorder here")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_and_state_stay_where_they_lie(name):
    parameters, optimizer = started(OPTIMIZERS[name])

    def places():
        state = [v for held in optimizer._state.values() for v in held.values() if isinstance(v, np.ndarray)]
        return [a.ctypes.data for a in (*[p.data for p in parameters], *state)]

    before = places()
    step(parameters, optimizer)
    assert places() == before


KEPT = {
    "the array": lambda p: p.data,
    "a view": lambda p: p.data[:1, 3:],
    "a detached Tensor": lambda p: p.detach(),
    "a buffer": lambda p: memoryview(p.data),
    "torch's tensor": lambda p: pytest.importorskip("torch").from_numpy(p.data),
    "what has taken it over by DLPack": lambda p: np.from_dlpack(p.data),
}


def values_of(kept):
    return np.array(kept.numpy() if hasattr(kept, "numpy") else kept)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("way", KEPT)
def test_what_was_kept_does_not_change(name, way):
    """For every parameter, the bits are those of a step that nobody watches."""
    parameters, optimizer = started(OPTIMIZERS[name])
    others, other = started(OPTIMIZERS[name])
    kept = [KEPT[way](p) for p in parameters[:2]]
    before = [values_of(k) for k in kept]
    for k in range(2):
        step(parameters, optimizer, k)
        step(others, other, k)
    for held, values in zip(kept, before, strict=True):
        np.testing.assert_array_equal(values_of(held), values)
    for p, q in zip(parameters, others, strict=True):
        assert p.data.tobytes() == q.data.tobytes()
        assert not np.array_equal(p.data[:1, 3:], before[0][:1, -87:])


def test_state_that_was_kept_does_not_change():
    parameters, optimizer = started(OPTIMIZERS["adam"])
    held = [v for state in optimizer._state.values() for v in state.values() if isinstance(v, np.ndarray)]
    saved = optimizer.state_dict()
    before = [np.array(v) for v in held]
    step(parameters, optimizer)
    for now, then in zip(held, before, strict=True):
        np.testing.assert_array_equal(now, then)
    np.testing.assert_array_equal(saved["state"][0]["mean"], before[0])


def test_weights_on_disk_are_not_written_to(tmp_path):
    np.save(tmp_path / "w.npy", np.ones(SHAPE, np.float32))
    for mode in ("r+", "c", "r"):
        p = pre.Tensor(np.load(tmp_path / "w.npy", mmap_mode=mode), requires_grad=True)
        optimizer = optim.SGD([p], lr=1.0)
        for k in range(3):
            step([p], optimizer, k)
        assert not (p.data == 1).any()
    assert (np.load(tmp_path / "w.npy") == 1).all()


def test_a_record_that_needs_the_old_weights_says_so():
    parameters, optimizer = started(OPTIMIZERS["momentum"], 1)
    loss = (parameters[0] * parameters[0]).sum()
    step(parameters, optimizer)
    with pytest.raises(GraphError, match="changed in place"):
        loss.backward()


def test_gradients_that_were_kept_do_not_change():
    p = pre.Tensor(np.ones((300, 300), np.float32), requires_grad=True)
    (p * 2).sum().backward()
    kept = p.grad.data
    (p * 3).sum().backward()
    assert (kept == 2).all()
    tensor = p.grad
    (p * 1).sum().backward()
    assert (tensor.data == 5).all()
    assert (p.grad.data == 6).all()
    seed = np.ones((300, 300), np.float32)
    (p * 1).backward(seed)
    (p + p).backward(seed)
    assert (seed == 1).all()
    assert (p.grad.data == 9).all()


def test_sums_of_gradients_stay_where_they_lie():
    p = pre.Tensor(np.ones((300, 300), np.float32), requires_grad=True)
    (p * 2).sum().backward()
    place = p.grad.data.ctypes.data
    (p * 3).sum().backward()
    assert p.grad.data.ctypes.data == place


@pytest.mark.parametrize("accumulate", [1, 2])
def test_parameters_that_share_a_gradient(accumulate):
    """Both have the gradient of their sum, which a recorded pass computes once."""

    class Sum(pre.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (pre.nn.Parameter(np.zeros((512, 512), np.float32)) for _ in range(2))

        def forward(self, x):
            return pre.ops.matmul(x, self.a + self.b)

    rng = np.random.default_rng(0)
    x, t = (rng.standard_normal((8, 512)).astype(np.float32) for _ in range(2))
    found = []
    for shards in (None, 1):  # the first records; both go on from the same
        net = Sum()
        trainer = pre.learning.Trainer(
            net, pre.nn.mse_loss, optim.SGD(net.parameters(), lr=0.1, momentum=0.9), accumulate=accumulate, shards=shards
        )
        trainer.uses([(x, t)])
        for _ in range(6):
            trainer.advance()
        assert net.a.data.tobytes() == net.b.data.tobytes()
        found.append(net.a.data.tobytes())
    assert found[0] == found[1]

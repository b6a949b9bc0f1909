"""nn.Embedding: the rows of a table, beside torch's."""

import numpy as np
import pytest

from preimage import nn
from preimage.errors import DTypeError, OptionError, ShapeError


@pytest.mark.parametrize("padding_idx", [None, 2, -1])
def test_rows_and_gradients_are_those_of_torch(padding_idx):
    torch = pytest.importorskip("torch")
    ours, theirs = nn.Embedding(7, 3, padding_idx, rng=0), torch.nn.Embedding(7, 3, padding_idx)
    theirs.load_state_dict({k: torch.tensor(v) for k, v in ours.state_dict().items()})
    rng = np.random.default_rng(1)
    positions = rng.integers(0, 7, (4, 5))  # some rows come more than once
    y, wanted = ours(positions), theirs(torch.tensor(positions))
    assert np.array_equal(y.data, wanted.detach().numpy())
    g = rng.integers(-4, 5, y.shape).astype(np.float32)
    y.backward(g)
    wanted.backward(torch.tensor(g))
    assert np.array_equal(ours.weight.grad.data, theirs.weight.grad.numpy())
    if padding_idx is not None:
        assert not ours.weight.data[padding_idx].any()
        assert not ours.weight.grad.data[padding_idx].any()


def test_what_is_no_position_is_refused():
    table = nn.Embedding(7, 3, rng=0)
    with pytest.raises(ShapeError, match="reach from -1 to 3"):
        table(np.array([3, -1]))
    with pytest.raises(DTypeError):
        table(np.array([0.5]))
    with pytest.raises(OptionError, match="padding_idx 7"):
        nn.Embedding(7, 3, padding_idx=7)


def test_repr_and_start():
    assert repr(nn.Embedding(7, 3, -1)) == "Embedding(7, 3, padding_idx=6)"
    assert np.array_equal(nn.Embedding(7, 3, rng=4).weight.data, nn.Embedding(7, 3, rng=4).weight.data)

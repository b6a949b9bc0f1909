"""States of layers under torch's weight normalisation, in layers of ours."""

import warnings

import numpy as np
import pytest

from preimage import nn
from preimage.autograd import array_of
from preimage.errors import OptionError, ShapeError

LAYERS = [("Conv1d", (4, 6, 3)), ("Conv2d", (4, 6, (3, 2))), ("ConvTranspose1d", (4, 6, 4, 2)), ("Linear", (4, 6))]


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("form", ["weight_g", "parametrizations"])
@pytest.mark.parametrize(("kind", "sizes"), LAYERS)
def test_a_layer_of_torch_is_the_same_layer_here(kind, sizes, form, dim):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Sequential(getattr(torch.nn, kind)(*sizes))
    wrap = torch.nn.utils.weight_norm if form == "weight_g" else torch.nn.utils.parametrizations.weight_norm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older form is deprecated, and files have it
        wrap(theirs[0], dim=dim)
    rng = np.random.default_rng(0)
    for p in theirs.parameters():
        p.data = torch.tensor(rng.standard_normal(tuple(p.shape)).astype(np.float32))
    state = {k: v.numpy() for k, v in theirs.state_dict().items()}
    assert "0.weight" not in state
    ours = nn.Sequential(getattr(nn, kind)(*sizes))
    ours.load_state_dict(state)
    x = rng.standard_normal((2, 4, *[7] * {"Conv1d": 1, "Conv2d": 2, "ConvTranspose1d": 1, "Linear": 0}[kind])).astype(np.float32)
    y = theirs(torch.tensor(x))  # which computes the weight anew
    np.testing.assert_allclose(ours[0].weight.data, theirs[0].weight.detach().numpy(), rtol=3e-7)
    np.testing.assert_allclose(np.asarray(array_of(ours(x))), y.detach().numpy(), rtol=1e-5, atol=1e-5)


def test_by_definition():
    layer = nn.Linear(2, 2, bias=False)
    layer.load_state_dict({"weight_g": np.array([[10.0], [2.0]]), "weight_v": np.array([[3.0, 4.0], [0.0, -5.0]])})
    assert layer.weight.data.tolist() == [[6.0, 8.0], [0.0, -2.0]]


def test_what_does_not_fit_is_named_and_nothing_changes():
    layer = nn.Linear(3, 2, bias=False)
    before = layer.weight.data.copy()
    with pytest.raises(ShapeError, match=r"weight: the lengths have shape \(3, 1\)"):
        layer.load_state_dict({"weight_g": np.ones((3, 1)), "weight_v": np.ones((2, 3))})
    with pytest.raises(OptionError, match=r"missing: weight; unexpected: weight_v"):
        layer.load_state_dict({"weight_v": np.ones((2, 3))})
    with pytest.raises(OptionError, match="unexpected: weight_g"):  # a weight of its own goes before
        layer.load_state_dict({"weight": np.ones((2, 3)), "weight_g": np.ones((2, 1)), "weight_v": np.ones((2, 3))})
    assert np.array_equal(layer.weight.data, before)


def test_a_layer_whose_own_parameters_have_such_names():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight_g, self.weight_v = nn.Parameter(np.ones((2, 1))), nn.Parameter(np.ones((2, 3)))

    own = Own()
    own.load_state_dict({"weight_g": np.full((2, 1), 3.0), "weight_v": np.full((2, 3), 4.0)})
    assert own.weight_g.data[0, 0] == 3

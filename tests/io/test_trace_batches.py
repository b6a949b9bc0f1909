"""Tracing: what of a graph follows the batch, what is fixed, what inputs are called, and that nothing is left behind."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import preimage as pre
import preimage.functional as F  # noqa: N812 - as its users import it
from preimage import nn, ops
from preimage.autograd import array_of
from preimage.autograd.traced import TracedArray
from preimage.io.onnx.tracing import trace


class Net(nn.Module):
    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.function = forward
        self.scale = nn.Parameter(np.float32([1.0, 2.0, 3.0]))

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


FOLLOW: dict[str, Callable[[Any, Any], Any]] = {
    "zeros of the batch": lambda m, x: F.cat([x, np.zeros((x.shape[0], 2), np.float32)], 1),
    "numbers 0, 1, 2 ...": lambda m, x: x + np.arange(x.shape[0], dtype=np.float32)[:, None] * 0 + m.scale,
    "its size": lambda m, x: x.sum() / x.shape[0] + x,
    "its size squared, in a shape": lambda m, x: (x @ x.T).reshape(-1),
    "its halves": lambda m, x: F.cat(F.chunk(x, 2)[::-1]),
    "all of it in one axis": lambda m, x: x.reshape(x.shape[0] * 3).reshape(x.shape[0], 3, 1),
    "two axes that follow it": lambda m, x: (x[None] + x[:, None]).reshape(x.shape[0] * x.shape[0], 3),
    "repeated": lambda m, x: ops.repeat(x, 3, 0),
    "each with every other": lambda m, x: ops.square(x[:, None] - x[None]).sum(-1),
    "rows by index": lambda m, x: x[np.arange(x.shape[0]), x.argmax(1)],
}
FIXED: dict[str, Callable[[Any, Any], Any]] = {
    "a shape said in numbers": lambda m, x: x.reshape(2, 3, 2),
    "a loop over it": lambda m, x: F.stack([x[k] * (k + 1) for k in range(x.shape[0])]),
    "a constant with its size": lambda m, x: x * np.float32([[1.0], [2.0], [3.0], [4.0]]),
    "rows that differ": lambda m, x: x * np.linspace(0, 1, x.shape[0], dtype=np.float32)[:, None],
    "an error of its own": lambda m, x: _refusing(x),
    "another operation for another one": lambda m, x: F.relu(x) if x.shape[0] < 5 else F.tanh(x),
}


def _refusing(x: Any) -> Any:
    if x.shape[0] != 4:
        raise RuntimeError("four, please")
    return x + 1


def values(result: Any) -> np.ndarray:
    return np.asarray(array_of(result))


@pytest.mark.parametrize("name", FOLLOW)
def test_what_follows_the_batch(name: str) -> None:
    net = Net(FOLLOW[name])
    if "squared" in name or "two axes" in name:  # not a line in the size
        graph = trace(net, np.ones((4, 3), np.float32))
    else:
        graph = trace(net, np.zeros((4, 3), np.float32))
    rng = np.random.default_rng(0)
    for batch in (4, 2, 6, 10):
        x = rng.standard_normal((batch, 3)).astype(np.float32)
        with pre.no_grad():
            assert np.allclose(values(graph(x)), values(net(pre.Tensor(x))), rtol=1e-5, atol=1e-5), batch
    assert graph.inputs[0].shape == ("batch", 3)


@pytest.mark.parametrize("name", FIXED)
def test_a_forward_that_says_its_batch_keeps_it(name: str) -> None:
    net = Net(FIXED[name])
    graph = trace(net, np.zeros((4, 3), np.float32))
    assert graph.inputs[0].shape == (4, 3)
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    with pre.no_grad():
        assert np.array_equal(values(graph(x)), values(net(pre.Tensor(x))))
    with pytest.raises(pre.ShapeError, match="wanted"):
        graph(np.zeros((3, 3), np.float32))


def test_inputs_have_the_names_of_the_arguments() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.time = nn.Parameter(np.ones(1, np.float32))

        def forward(self, image: Any, time: Any) -> Any:
            return image * time[:, None] + self.time, [time]

    example = np.ones((2, 3), np.float32), np.ones(2, np.float32)
    graph = trace(Two(), example)
    assert [(item.name, item.shape) for item in graph.inputs] == [("image", ("batch", 3)), ("time_input", ("batch",))]
    with pre.no_grad():
        one, two = graph(*(np.full((5, *a.shape[1:]), 3.0, np.float32) for a in example))
    assert one.tolist() == [[10.0] * 3] * 5
    assert two.tolist() == [3.0] * 5


def test_one_array_in_a_tuple_is_one_input() -> None:
    net = nn.Linear(3, 2, rng=0)
    assert [item.name for item in trace(net, (np.zeros((2, 3), np.float32),)).inputs] == ["input"]


def test_an_output_that_is_an_input_a_parameter_or_given_twice() -> None:
    graph = trace(Net(lambda m, x: (x, m.scale, y := x * m.scale, y)), np.ones((2, 3), np.float32))
    with pre.no_grad():
        found = [values(v).tolist() for v in graph(np.full((1, 3), 2.0, np.float32))]
    assert found == [[[2.0] * 3], [1.0, 2.0, 3.0], [[2.0, 4.0, 6.0]], [[2.0, 4.0, 6.0]]]


def test_arrays_that_a_module_keeps_are_told_to_nobody() -> None:
    class Keeping(nn.Module):
        def forward(self, x: Any) -> Any:
            self.seen = x * 2
            return self.seen + 1

    net = Keeping()
    graph = trace(net, np.ones((2, 3), np.float32))
    assert isinstance(net.seen._data, TracedArray)
    count = len(graph.nodes)
    later = net.seen + 1
    assert np.array_equal(values(later), values(net.seen) + 1)
    assert len(graph.nodes) == count
    assert trace(net, np.ones((2, 3), np.float32)).nodes == graph.nodes


def test_a_module_that_raises_leaves_nothing_behind() -> None:
    call = nn.Module.__call__
    with pytest.raises(pre.ShapeError):
        trace(Net(lambda m, x: x.reshape(5)), np.ones((2, 3), np.float32))
    assert nn.Module.__call__ is call
    assert type((pre.Tensor(np.ones(2)) * 2)._data) is np.ndarray


def test_the_module_and_its_example_are_as_they_were() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 1, rng=0), nn.BatchNorm2d(2)).eval()
    before, example = net.state_dict(), np.ones((2, 3, 4, 4), np.float32)
    trace(net, example)
    assert example.flags.writeable
    assert (example == 1).all()
    for key, value in net.state_dict().items():
        assert np.array_equal(value, before[key]), key
    for parameter in net.parameters():
        assert type(parameter._data) is np.ndarray


def test_values_that_look_like_sizes_are_found_out() -> None:
    """A number that was read from the values lies on a line with any other one: a third batch tells."""
    net = Net(lambda m, x: x * float(np.rint(values(x.detach().numpy()).max() * 100)))
    with pytest.raises(pre.FileFormatError, match=r"depends on the values.*multiply takes an array of shape \(\)"):
        trace(net, np.random.default_rng(0).random((4, 3), np.float32))

"""Prepared weights: the values of the plain call everywhere, packed once, and never stale."""

import copy
import pickle

import numpy as np
import pytest

import preimage as pre
from preimage.engines import get
from preimage.engines.prepared import PreparedWeight
from preimage.io.onnx.tracing import trace

RNG = np.random.default_rng(3)


def integers(*shape: int, dtype: str = "float32") -> np.ndarray:
    return RNG.integers(-4, 5, shape).astype(dtype)


X, W, B = integers(2, 6, 11, 9), integers(8, 3, 3, 2), integers(8)
OPTIONS = {"stride": (2, 1), "padding": ((1, 0), (2, 1)), "groups": 2}


@pytest.fixture
def packings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that gets one entry for every packing that the jit engine runs on its own."""
    engine, seen = get("jit"), []
    packed = type(engine)._packed

    def counted(self, w, recipe):
        before = len(w.state[1])
        found = packed(self, w, recipe)
        seen.extend(["packed"] * (len(w.state[1]) - before))
        return found

    monkeypatch.setattr(type(engine), "_packed", counted)
    return seen


@pytest.mark.simulated
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_every_engine_and_option_gives_the_values_of_the_plain_call(layout: str, dtype: str, mode: str) -> None:
    x, w, b = (a.astype(dtype) for a in (X, W, B))
    x = np.moveaxis(x, 1, -1) if layout == "channels_last" else x
    options = OPTIONS | {"layout": layout, "padding_mode": mode}
    prepared = pre.prepare(w)
    y = pre.conv(x, w, b, **options)
    back = {"output_size": X.shape[2:]} | options
    for _ in range(2):
        np.testing.assert_array_equal(pre.conv(x, prepared, b, **options), y)
        np.testing.assert_array_equal(
            pre.conv(x, prepared, b, residual=y, activation="relu", **options),
            pre.conv(x, w, b, residual=y, activation="relu", **options),
        )
        np.testing.assert_array_equal(pre.conv_transpose(y, prepared, **back), pre.conv_transpose(y, w, **back))


def test_each_form_is_packed_once_for_any_size_batch_and_thread_count(packings: list[str]) -> None:
    prepared = pre.prepare(W)
    with pre.config(engine="jit"):
        for threads in (1, 2):
            for batch, size in ((1, (11, 9)), (3, (11, 9)), (2, (30, 40))):
                x = integers(batch, 6, *size)
                with pre.config(threads=threads):
                    np.testing.assert_array_equal(pre.conv(x, prepared, **OPTIONS), pre.conv(x, W, **OPTIONS))
    assert 1 <= len(packings) <= 3  # the tile, and with it the form, may follow the size; the batch and the threads do not matter
    assert prepared.packed_bytes > 0
    count = len(packings)
    with pre.config(engine="jit"):
        pre.conv(X, prepared, **OPTIONS)
    assert len(packings) == count


def test_prepared_weights_are_the_values_of_their_time() -> None:
    w = W.copy()
    prepared = pre.prepare(w)
    before = pre.conv(X, prepared, **OPTIONS)
    w[...] = w[..., ::-1, ::-1].copy()
    np.testing.assert_array_equal(pre.conv(X, prepared, **OPTIONS), before)
    prepared.refresh(w)
    after = pre.conv(X, prepared, **OPTIONS)
    np.testing.assert_array_equal(after, pre.conv(X, w, **OPTIONS))
    assert not np.array_equal(before, after)
    with pytest.raises(ValueError, match="read-only"):
        prepared.array[0] = 0


def test_gradients_flow_to_x_and_bias_and_take_the_weights_for_constants() -> None:
    x, b = pre.Tensor(X.astype("float64"), requires_grad=True), pre.Tensor(B.astype("float64"), requires_grad=True)
    w = W.astype("float64")
    prepared = pre.prepare(w)
    upstream = RNG.standard_normal(pre.conv(X.astype("float64"), w, **OPTIONS).shape)
    want = pre.grad((pre.conv(x, w, b, **OPTIONS) * upstream).sum(), [x, b])
    loss = (pre.conv(x, prepared, b, **OPTIONS) * upstream).sum()
    prepared.refresh(2 * w)  # between the forward pass and the gradient
    for a, c in zip(pre.grad(loss, [x, b]), want, strict=True):
        np.testing.assert_array_equal(a.data, c.data)
    y = pre.Tensor(upstream, requires_grad=True)
    back = OPTIONS | {"output_size": X.shape[2:]}
    a, c = (
        pre.grad((pre.conv_transpose(y, v, **back) * X.astype("float64")).sum(), y, create_graph=True)
        for v in (pre.prepare(w), w)
    )
    np.testing.assert_array_equal(a.data, c.data)


def test_wrong_use_is_said() -> None:
    prepared = pre.prepare(W)
    with pytest.raises(pre.DTypeError, match="x is a prepared weight; only w"):
        pre.conv(prepared, W)
    with pytest.raises(pre.DTypeError, match="x is a prepared weight; only w"):
        pre.conv_weight_grad(prepared, X, kernel_size=3)
    with pytest.raises(pre.DTypeError, match="b is a prepared weight"):
        pre.conv(X, W, prepared)
    with pytest.raises(pre.DTypeError, match="x float64, w float32"):
        pre.conv(X.astype("float64"), prepared, **OPTIONS)
    with pytest.raises(pre.ShapeError, match="at least two axes"):
        pre.prepare(B)
    with pytest.raises(pre.DTypeError, match="w has dtype int64"):
        pre.prepare(np.ones((2, 2, 3), np.int64))
    with pytest.raises(pre.ShapeError):
        pre.conv(X, prepared, groups=3)


def test_copies_and_pickles_keep_the_values() -> None:
    prepared = pre.prepare(W)
    want = pre.conv(X, prepared, **OPTIONS)
    for other in (pickle.loads(pickle.dumps(prepared)), copy.deepcopy(prepared)):
        assert other.packed_bytes == 0
        np.testing.assert_array_equal(pre.conv(X, other, **OPTIONS), want)


def test_an_operator_of_prepared_weights() -> None:
    options = {"input_size": (11, 9), "batch": 2, **OPTIONS}
    a, b = pre.linop.Conv(W, **options), pre.linop.Conv(pre.prepare(W), **options)
    np.testing.assert_array_equal(a @ X, b @ X)
    np.testing.assert_array_equal(a.T @ (a @ X), b.T @ (a @ X))


# -- layers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Conv2d", "ConvTranspose2d"])
def test_a_layer_packs_once_until_its_weights_change(kind: str, packings: list[str]) -> None:
    layer = getattr(pre.nn, kind)(6, 8, 3, rng=0)
    contraction = pre.conv if kind == "Conv2d" else pre.conv_transpose

    def check(packed: int) -> None:
        with pre.no_grad(), pre.config(engine="jit"):
            result = layer(X)
            assert type(result) is np.ndarray
            np.testing.assert_array_equal(result, contraction(X, layer.weight.data, layer.bias.data))
        assert len(packings) == packed

    check(1)
    check(1)
    assert layer.packed_bytes > layer.weight.data.nbytes
    layer.weight.data[...] = layer.weight.data[..., ::-1, ::-1].copy()  # in place, and the sums stay
    check(2)
    layer.weight.data[0, 0, 0, 0] = np.nextafter(layer.weight.data[0, 0, 0, 0], np.float32(9))
    check(3)
    optimiser = pre.optim.SGD(layer.parameters(), lr=0.1)
    layer(pre.Tensor(X)).sum().backward()
    optimiser.step()
    check(4)
    layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()})
    check(5)
    layer.weight = pre.nn.Parameter(layer.weight.data * 2)
    check(6)
    check(6)
    other = copy.deepcopy(layer)
    assert other.packed_bytes == 0
    layer.astype("float64")
    with pre.no_grad():
        assert layer(X.astype("float64")).dtype == np.float64


def test_a_layer_that_records_gets_its_gradient() -> None:
    layer = pre.nn.Conv2d(6, 8, 3, rng=0)
    with pre.no_grad():
        layer(X)
    layer(X).sum().backward()
    assert layer.weight.grad is not None
    layer.requires_grad_(False)
    x = pre.Tensor(X, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None


def test_tracing_a_layer_that_has_run_still_finds_its_parameters() -> None:
    class Net(pre.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c = pre.nn.Conv2d(6, 8, 3, rng=0)

        def forward(self, x):
            return self.c.forward(x)  # past the module's own call, so that the operations themselves are recorded

    net = Net()
    with pre.no_grad():
        want = net(X).data
        graph = trace(net, X)
        assert set(graph.weights) == {"c.weight", "c.bias"}
        np.testing.assert_array_equal(graph(X), want)


def test_the_class_is_what_prepare_gives() -> None:
    prepared = pre.prepare(pre.Tensor(W))
    assert isinstance(prepared, PreparedWeight)
    assert "shape=(8, 3, 3, 2)" in repr(prepared)

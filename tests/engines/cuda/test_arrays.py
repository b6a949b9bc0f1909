"""Arrays of other libraries on a GPU: in and out, on their stream, forward and back; with stand-ins for CuPy and torch on a fake device."""

from __future__ import annotations

import gc
import importlib
import sys
import weakref

import numpy as np
import pytest
from fake_arrays import HostEngine, fake_library
from fake_cuda import FakeCuda

import preimage as pre
from preimage import ops
from preimage.autograd.device_arrays import DeviceArray, device_array
from preimage.engines.cuda import arrays, devices
from preimage.engines.cuda.driver import Gpu
from preimage.errors import DTypeError, EngineError, GraphError, ShapeError

RNG = np.random.default_rng(3)


@pytest.fixture
def fake(monkeypatch):
    """Two GPUs of a fake driver."""
    fake = FakeCuda(devices=2)
    monkeypatch.setattr(devices, "_made", {f"cuda:{k}": Gpu(k, library=fake) for k in range(2)})
    return fake


@pytest.fixture
def engine(fake, monkeypatch):
    engine, engines = HostEngine(), importlib.import_module("preimage.engines")
    monkeypatch.setitem(engines._ROWS, "cuda", "none:none")
    monkeypatch.setitem(engines._loaded, "cuda", engine)
    return engine


@pytest.fixture(params=["cupy", "torch"])
def library(request, monkeypatch, engine):
    made = fake_library(request.param)
    monkeypatch.setitem(sys.modules, request.param, made)
    return made


def small(*shape):
    """Whole numbers, so that sums are exact."""
    return RNG.integers(-4, 5, shape).astype(np.float32)


# ---- the protocols


def test_what_an_array_says_of_itself(library):
    host = small(2, 3, 5)
    found = device_array(library.asarray(host, 1))
    assert (found.shape, found.strides, found.dtype) == (host.shape, host.strides, host.dtype)
    assert (found.device, found.library, found.given) == ("cuda:1", library.__name__, True)
    assert (found.ndim, found.size, found.nbytes, len(found)) == (3, 30, 120, 2)
    assert device_array(host) is None
    assert device_array(3.0) is None
    assert device_array([1.0]) is None


def test_torch_on_the_cpu_is_no_device_array(monkeypatch):
    torch = fake_library("torch")
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert device_array(torch.asarray(small(3), cuda=False)) is None


def test_a_tensor_that_requires_grad_is_refused(monkeypatch, engine):
    torch = fake_library("torch")
    monkeypatch.setitem(sys.modules, "torch", torch)
    with pytest.raises(DTypeError, match=r"x is a torch tensor that requires grad.*x\.detach\(\)"):
        pre.conv(torch.asarray(small(1, 1, 4, 4), requires_grad=True), torch.asarray(small(1, 1, 2, 2)))


def test_another_library_is_told_what_to_pass(engine, monkeypatch):
    numba = fake_library("cupy")  # the same protocols, and nobody knows it
    x, w = numba.asarray(small(1, 1, 4)), numba.asarray(small(1, 1, 2))
    with pytest.raises(EngineError, match=r"cannot be made here; pass arrays of CuPy or torch"):
        pre.conv(x, w)


# ---- forward


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_contractions_give_the_librarys_arrays(library, engine, layout):
    last = layout == "channels_last"
    x, w, b, r = small(2, 4, 7, 6), small(6, 2, 3, 2), small(6), small(2, 6, 4, 5)
    options = {"stride": (2, 1), "padding": ((1, 0), (1, 1)), "groups": 2, "dilation": (1, 2)}
    turned = (lambda a: np.moveaxis(a, 1, -1)) if last else (lambda a: a)

    def up(a):
        return library.asarray(turned(a) if a.ndim == 4 and a is not w else a)

    with pre.config(engine="reference"):
        y = pre.conv(x, w, b, **options)
        r = small(*y.shape)
        want = [
            turned(pre.conv(x, w, b, residual=r, activation="relu", **options)),
            turned(pre.conv_transpose(y, w, output_size=x.shape[2:], **options)),
            pre.conv_weight_grad(x, y, kernel_size=(3, 2), **options),
        ]
    got = [
        pre.conv(up(x), up(w), up(b), residual=up(r), activation="relu", layout=layout, **options),
        pre.conv_transpose(up(y), up(w), output_size=x.shape[2:], layout=layout, **options),
        pre.conv_weight_grad(up(x), up(y), kernel_size=(3, 2), layout=layout, **options),
    ]
    for g, v in zip(got, want, strict=True):
        assert type(g) is type(up(w))
        np.testing.assert_array_equal(library.asnumpy(g), v)
    assert engine.streams == [7, 7, 7]


def test_the_second_gpu_and_its_stream(library, engine):
    y = pre.conv(library.asarray(small(1, 2, 5), 1), library.asarray(small(3, 2, 2), 1))
    assert y.__dlpack_device__() == (2, 1)
    assert engine.streams == [8]


def test_prepared_weights_stay_on_the_device(library):
    x, w = small(1, 2, 6), small(3, 2, 3)
    held = library.asarray(w)
    prepared = pre.prepare(held)
    held._values[...] = 0  # a copy was taken
    got = pre.conv(library.asarray(x), prepared)
    np.testing.assert_array_equal(library.asnumpy(got), pre.conv(x, w))
    prepared.refresh(held)
    assert not library.asnumpy(pre.conv(library.asarray(x), prepared)).any()


def test_float64_and_no_spatial_axes(library):
    x, w = small(3, 4).astype(np.float64), small(5, 4).astype(np.float64)
    got = pre.conv(library.asarray(x), library.asarray(w))
    np.testing.assert_array_equal(library.asnumpy(got), x @ w.T)


# ---- what does not go together


def test_mixed_places_are_named(library):
    name = {"cupy": "CuPy", "torch": "torch"}[library.__name__]
    x, w = small(1, 2, 6), small(3, 2, 3)
    up = library.asarray
    with pytest.raises(EngineError, match=rf"x is on cuda:0 \({name}\), w on the CPU \(NumPy\)"):
        pre.conv(up(x), w)
    with pytest.raises(EngineError, match=rf"x is on the CPU \(NumPy\), w on cuda:0 \({name}\)"):
        pre.conv(x, up(w))
    with pytest.raises(EngineError, match=r"x is on the CPU \(NumPy\), w on cuda:0"):
        pre.conv(x, pre.prepare(up(w)))
    with pytest.raises(EngineError, match=r"w on cuda:1"):
        pre.conv(up(x), up(w, 1))
    with pytest.raises(EngineError, match=r"x is on cuda:0 .*, b on the CPU"):
        pre.conv(up(x), up(w), small(3))
    with pytest.raises(EngineError, match=r"x is on cuda:0 .*, residual on cuda:1"):
        pre.conv(up(x), up(w), residual=up(small(1, 3, 4), 1))
    with pytest.raises(EngineError, match=r"x is on cuda:0 .*, y on the CPU"):
        pre.conv_weight_grad(up(x), small(1, 3, 4), kernel_size=3)
    with pytest.raises(EngineError, match=r"y is on cuda:0 .*, w on the CPU"):
        pre.conv_transpose(up(small(1, 3, 4)), w)


def test_two_libraries_are_mixed_too(engine, monkeypatch):
    cupy, torch = fake_library("cupy"), fake_library("torch")
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "torch", torch)
    with pytest.raises(EngineError, match=r"x is on cuda:0 \(CuPy\), w on cuda:0 \(torch\)"):
        pre.conv(cupy.asarray(small(1, 1, 4)), torch.asarray(small(1, 1, 2)))


def test_an_engine_of_the_cpu_is_refused(library):
    x, w = library.asarray(small(1, 1, 4)), library.asarray(small(1, 1, 2))
    with (
        pre.config(engine="jit"),
        pytest.raises(EngineError, match="engine 'jit' computes on the CPU, and the arrays are on cuda:0"),
    ):
        pre.conv(x, w)
    with (
        pre.config(device="cuda:1"),
        pytest.raises(EngineError, match="the setting device is 'cuda:1', and the arrays are on cuda:0"),
    ):
        pre.conv(x, w)
    with pre.config(device="simulator"), pytest.raises(EngineError, match="'simulator', and the arrays are on cuda:0"):
        pre.conv(x, w)


def test_other_operations_say_what_is_there(library):
    x = library.asarray(small(1, 2, 6, 6))
    for call in (
        lambda: ops.max_pool(x, 2),
        lambda: ops.softmax(x),
        lambda: ops.pad(x, 1),
        lambda: ops.sum(x),
    ):
        with pytest.raises(DTypeError, match="contractions, bias, residual, activations, arithmetic and channel sums"):
            call()
    with pytest.raises(DTypeError, match="bring it to the host"):
        pre.conv(x, library.asarray(small(1, 2, 3, 3)), padding=1, padding_mode="reflect")
    with pytest.raises(ShapeError, match="differ"):
        ops.add(x, library.asarray(small(6)))
    with pytest.raises(DTypeError, match="one dtype"):
        pre.conv(x, library.asarray(small(1, 2, 3, 3).astype(np.float64)))


# ---- the graph


@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "clip"])
def test_a_net_forward_and_back(library, activation):
    """Two layers with a bias, a residual and an activation, and a leaf that is used twice: all gradients are those of the CPU."""
    x, w, b, w2 = small(2, 3, 6, 5), small(4, 3, 3, 3), small(4), small(4, 2, 2, 2)
    g = None

    def net(up):
        nonlocal g
        leaves = [pre.Tensor(up(v), requires_grad=True) for v in (x, w, b, w2)]
        t, tw, tb, tw2 = leaves
        y = pre.conv(t, tw, tb, padding=1, activation=activation, clip_range=(-3.0, 5.0), slope=0.5)
        y = pre.conv(t, tw, tb, padding=1, residual=y) * 2.0
        z = pre.conv_transpose(y, tw2, stride=2) - 1.0
        g = small(*z.shape) if g is None else g
        z.backward(up(g))
        return [z, *(leaf.grad for leaf in leaves)]

    want = net(lambda a: a)
    got = net(library.asarray)
    for a, b in zip(got, want, strict=True):
        assert isinstance(a, pre.Tensor)
        np.testing.assert_array_equal(library.asnumpy(a.data), b.data)
    assert f"on cuda:0 ({'CuPy' if library.__name__ == 'cupy' else 'torch'})" in repr(got[0])


@pytest.mark.parametrize("name", ["exp", "sqrt", "tanh", "sigmoid", "relu6", "negative"])
def test_pointwise_operations_and_their_gradients(library, name):
    x = np.array([[-1.5, 0.0, 0.25, 5.0, 6.0, 7.0, np.nan, np.inf, -np.inf]], np.float32)
    x = np.abs(x) if name == "sqrt" else x
    g = small(*x.shape)
    both = []
    for up in (np.array, library.asarray):
        t = pre.Tensor(up(x), requires_grad=True)
        y = getattr(ops, name)(t)
        y.backward(up(g))
        both.append((y, t.grad))
    for got, want in zip(both[1], both[0], strict=True):
        np.testing.assert_allclose(library.asnumpy(got.data), want.data, rtol=1e-6)


def test_bounds_of_clip_at_their_ends(library):
    x = np.array([-2.0, -1.0, 0.0, 1.0, 2.0, np.nan, np.inf, -np.inf], np.float32)
    for lo, hi in ((-1.0, 1.0), (None, 1.0), (-1.0, None), (None, None)):
        both = []
        for up in (np.array, library.asarray):
            t = pre.Tensor(up(x), requires_grad=True)
            ops.clip(t, lo, hi).backward(up(np.ones_like(x)))
            both.append(t.grad.data)
        np.testing.assert_array_equal(library.asnumpy(both[1]), both[0])


def test_grad_and_second_derivatives_of_contractions(library):
    x, w = small(1, 2, 6), small(3, 2, 3)
    g, v = small(1, 3, 4), small(3, 2, 3)
    both = []
    for up in (np.array, library.asarray):
        tx, tw = (pre.Tensor(up(a), requires_grad=True) for a in (x, w))
        y = pre.conv(tx, tw)
        (gw,) = pre.grad([y], [tw], [pre.Tensor(up(g))], create_graph=True)
        (gx,) = pre.grad([gw], [tx], [up(v)])
        both.append(gx.data)
    np.testing.assert_array_equal(library.asnumpy(both[1]), both[0])


def test_backward_needs_a_cotangent_there(library):
    t = pre.Tensor(library.asarray(small(1, 1, 3)), requires_grad=True)
    y = pre.conv(t, library.asarray(small(1, 1, 3)))
    with pytest.raises(GraphError, match="needs grad_output, an array there of shape"):
        y.backward()
    with pytest.raises(EngineError, match=r"y is on the CPU \(NumPy\), w on cuda:0"):
        y.backward(small(1, 1, 1))


def test_a_change_in_place_is_seen_where_the_library_counts():
    torch = fake_library("torch")
    sys.modules["torch"], before = torch, sys.modules.get("torch")
    try:
        held = torch.asarray(small(1, 1, 5))
        found = device_array(held)
        first = found.version
        held.add_(1)
        assert found.version != first
    finally:
        if before is None:
            del sys.modules["torch"]
        else:
            sys.modules["torch"] = before


def test_arrays_go_when_nobody_needs_them(library):
    x = library.asarray(small(1, 1, 5))
    alive = weakref.ref(x)
    y = pre.conv(x, library.asarray(small(1, 1, 2)))
    del x
    gc.collect()
    assert alive() is None
    assert y.shape == (1, 1, 4)


# ---- NumPy's arrays, up and down


@pytest.mark.parametrize("order", ["first", "last", "strided", "empty"])
def test_host_arrays_go_up_and_come_down(fake, order):
    host = arrays.HostArrays(Gpu(0, library=fake))
    x = {"first": small(2, 3, 4, 5), "last": np.moveaxis(small(2, 4, 5, 3), -1, 1), "strided": small(4, 6, 4, 5)[::2, ::-2, :, 1:],
         "empty": small(0, 3, 4, 5)}[order]  # fmt: skip
    taken = host.take(x)
    assert (taken.shape, taken.dtype) == (x.shape, x.dtype)
    if order == "last":
        assert taken.strides == x.strides
    out = host.make(x.shape, x.dtype, channels_last=order == "last")
    if x.size:
        from fake_arrays import view

        view(out)[...] = view(taken)
    got = host.give(out)
    np.testing.assert_array_equal(got, x)
    assert got.strides == (x.strides if order in ("first", "last") else got.strides)
    assert host.moved_bytes == 2 * x.nbytes
    held = len(fake.allocated)
    for _ in range(50):
        again = arrays.HostArrays(host.device)
        again.take(x)
        again.give(again.make(x.shape, x.dtype))
    assert len(fake.allocated) == held  # the same memory each time


def test_devices_by_name(fake):
    assert devices.device_of("auto") is devices.device_of("cuda:0")
    assert devices.device_of("cuda:1").ordinal == 1


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(devices, "_made", {})
    reason = devices.unavailable("cuda:0")
    assert reason is None or "NVIDIA" in reason or "GPU" in reason


def test_a_device_array_is_no_numpy_array(library):
    found = device_array(library.asarray(small(2, 3)))
    with pytest.raises(DTypeError, match=r"array\.reshape"):
        found.reshape(6)
    assert not hasattr(found, "flags")
    assert isinstance(found, DeviceArray)
    for call in (lambda: np.add(found, 1), lambda: np.asarray(found), lambda: np.concatenate([found])):
        with pytest.raises(DTypeError, match="bring it to the host"):
            call()

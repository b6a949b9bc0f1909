"""The graph machine, with the library's operations as its passengers."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import numpy as np
import pytest

import preimage as pre
from preimage.autograd import Primitive, Spec, primitive, primitives
from preimage.autograd.backward import backward
from preimage.errors import DTypeError, GraphError, ShapeError


def leaf(*shape, dtype=np.float64, seed=0, **options):
    return pre.Tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype), requires_grad=True, **options)


def test_a_chain_of_twenty_thousand_nodes():
    t = pre.Tensor(np.ones(2), requires_grad=True)
    result = t
    for _ in range(20_000):
        result = result + 1.0
    assert sys.getrecursionlimit() < 20_000
    result.sum().backward()
    assert np.array_equal(t.grad.data, [1, 1])
    assert np.array_equal(result.data, [20_001, 20_001])
    del result  # dropping the chain must not recurse either


def test_a_wide_shared_graph_visits_every_node_once():
    """Doubling by t + t, thirty times: 2^30 paths, thirty nodes."""
    t = pre.Tensor(np.ones(()), requires_grad=True)
    result = t
    for _ in range(30):
        result = result + result
    result.backward()
    assert t.grad.item() == 2.0**30


def test_memory_goes_when_the_last_name_goes():
    x, w = leaf(2, 3, 8), leaf(4, 3, 3)

    def passage():
        hidden = pre.conv(x, w, padding=1)
        held = [weakref.ref(hidden._node), weakref.ref(hidden)]
        loss = (hidden * hidden).sum()
        loss.backward()
        grads = pre.grad((pre.conv(x, w) * 2.0).sum(), [x, w], create_graph=True)
        return [*held, weakref.ref(grads[0])]

    passage()  # what is loaded or compiled on first use is there now
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        assert all(reference() is None for reference in passage())
        assert gc.collect() == 0, gc.garbage[:5]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_backward_frees_what_was_saved():
    hidden = leaf(1000) * 2.0
    y = (hidden * hidden).sum()
    saved = weakref.ref(hidden.data)
    del hidden
    assert saved() is not None
    y.backward()
    assert saved() is None


def test_second_backward_names_the_operation():
    x, w = leaf(1, 1, 5), leaf(1, 1, 2)
    y = pre.conv(x, w)
    y.backward(np.ones((1, 1, 4)))
    with pytest.raises(GraphError, match=r"second backward through conv: .* retain_graph=True"):
        y.backward(np.ones((1, 1, 4)))


def test_retain_graph_allows_it():
    x = leaf(3)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert np.allclose(x.grad.data, 4 * x.data)


def test_gradients_accumulate_until_zeroed():
    x = leaf(3)
    for _ in range(3):
        (x * 2.0).sum().backward()
    assert np.array_equal(x.grad.data, [6, 6, 6])
    x.zero_grad()
    assert x.grad is None


def test_the_gradient_is_an_array_of_its_own():
    """Neither the seed that was passed in nor another leaf's gradient is shared."""
    seed = np.ones(3)
    a, b = leaf(3), leaf(3)
    a_sum = a + b
    a_sum.backward(seed)
    a.grad.data[0] = 9
    assert seed[0] == 1
    x = leaf(2)
    x.backward(given := np.ones(2))
    x.grad.data[:] = 5
    assert given[0] == 1
    assert b.grad.data[0] == 1


def test_shared_weights():
    """One stencil in three places: its gradient is the sum of the three."""
    x, w = leaf(2, 3, 9), leaf(3, 3, 3, seed=1)
    h = pre.conv(pre.conv(pre.conv(x, w), w), w)
    h.sum().backward()
    copies = [pre.Tensor(w.data.copy(), requires_grad=True) for _ in range(3)]
    h = pre.Tensor(x.data)
    for copy in copies:
        h = pre.conv(h, copy)
    h.sum().backward()
    assert np.allclose(w.grad.data, sum(c.grad.data for c in copies), rtol=1e-13)


@pytest.mark.parametrize("change", ["data", "assign", "view"])
def test_a_saved_array_changed_in_place(change):
    x, w = leaf(1, 2, 6, name="image"), leaf(3, 2, 3, name="stencils")
    y = pre.conv(x, w).sum()
    if change == "data":
        x.data[0, 1, 2] += 1.0
    elif change == "assign":
        x.assign(x.data + 1.0)
    else:
        x.data[0, 0][::2][1:2] = 7.0
    with pytest.raises(
        GraphError, match=r"gradient of conv needs an array 'image' of shape \(1, 2, 6\) that was changed in place"
    ):
        y.backward()


def test_what_is_not_needed_may_change():
    """An addition needs nothing of its arguments; a product of which one factor needs no gradient only the other factor."""
    x = leaf(3)
    y = (x + 1.0).sum()
    x.data[0] = 100.0
    y.backward()
    assert np.array_equal(x.grad.data, [1, 1, 1])


def test_results_are_read_only():
    y = leaf(3) * 2.0
    with pytest.raises(ValueError, match="read-only"):
        y.data[0] = 1.0
    assert (pre.Tensor(np.ones(3)) * 2.0).data.flags.writeable


def test_third_order():
    """d^3/dx^3 of x^4 is 24 x; through conv, (w*x)^4 summed over one tap."""
    x, w = leaf(1, 1, 5), pre.Tensor(np.array([[[2.0]]]), requires_grad=True)
    y = pre.conv(x, w)
    f = (y * y * y * y).sum()
    (first,) = pre.grad(f, [x], create_graph=True)
    (second,) = pre.grad(first.sum(), [x], create_graph=True)
    (third,) = pre.grad(second.sum(), [x], create_graph=True)
    assert np.allclose(third.data, 24 * 16 * x.data)
    (mixed,) = pre.grad(third.sum(), [w])
    assert np.allclose(mixed.data, 24 * 4 * 8 * x.data.sum())


def test_third_order_of_the_triple_against_differences():
    numbers = np.random.default_rng(3)
    x, w, y = numbers.standard_normal((1, 2, 5)), numbers.standard_normal((3, 2, 2)), numbers.standard_normal((1, 3, 4))

    def second(a, b):
        """The gradient of <y, conv(a, b)^3> in the direction of ones, twice: a scalar."""
        a, b = (v if isinstance(v, pre.Tensor) else pre.Tensor(v, requires_grad=True) for v in (a, b))
        h = pre.conv(a, b)
        f = (h * h * h * pre.Tensor(y)).sum()
        (ga,) = pre.grad(f, [a], create_graph=True)
        (gb,) = pre.grad((ga * ga).sum(), [b], create_graph=True)
        return (gb * gb).sum()

    pre.check_grads(second, [x, w], order=1, rtol=1e-6)


def test_gradient_with_respect_to_something_on_the_way():
    x, w = leaf(1, 1, 6), leaf(1, 1, 3)
    h = pre.conv(x, w)
    f = (h * h).sum()
    gh, gx = pre.grad(f, [h, x])
    assert np.allclose(gh.data, 2 * h.data)
    assert np.allclose(gx.data, pre.conv_transpose(2 * h.data, w.data))
    assert x.grad is None


def test_several_outputs():
    x = leaf(3)
    a, b = x * 2.0, x * x
    (g,) = pre.grad([a, b], [x], [np.array([1.0, 0, 0]), np.array([0, 1.0, 0])])
    assert np.allclose(g.data, [2, 2 * x.data[1], 0])
    a, b = (x * 2.0).sum(), (x * x).sum()
    assert np.allclose(pre.grad([a, b], x).data, 2 + 2 * x.data)


def test_an_output_that_is_its_own_input():
    x = leaf(3)
    (g,) = pre.grad(x, [x], np.array([1.0, 2.0, 3.0]))
    assert np.array_equal(g.data, [1, 2, 3])


def test_only_what_is_wanted_is_computed():
    """grad with respect to the weights never runs the rule of the input."""
    calls = []

    def rule(k):
        def run(g, ans, a, b):
            calls.append(k)
            return g

        return run

    op = primitive(f"test_two_{id(calls)}", lambda a, b: a + b, [rule(0), rule(1)])
    a, b = leaf(3), leaf(3)
    pre.grad(op(a, b).sum(), [b])
    assert calls == [1]


def test_no_grad_and_enable_grad():
    x = leaf(3)
    with pre.no_grad():
        y = x * 2.0
        with pre.enable_grad():
            z = x * 2.0
    assert not y.requires_grad
    assert z.requires_grad
    assert (x * 2.0).requires_grad

    @pre.no_grad()
    def quiet(t):
        return t * 2.0

    assert not quiet(x).requires_grad


def test_modes_belong_to_the_thread():
    seen = {}

    def work():
        seen["other"] = (leaf(2) * 2.0).requires_grad

    with pre.no_grad():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == {"other": True}


def test_errors():
    x = leaf(3)
    with pytest.raises(GraphError, match="records nothing"):
        (pre.Tensor(np.ones(3)) * 2.0).sum().backward()
    with pytest.raises(GraphError, match=r"backward from a Tensor of shape \(3,\) needs grad_output"):
        (x * 2.0).backward()
    with pytest.raises(ShapeError, match=r"grad_output has shape \(2,\), wanted \(3,\)"):
        (x * 2.0).backward(np.ones(2))
    with pytest.raises(GraphError, match=r"input 0 of shape \(3,\) does not lead to the outputs"):
        pre.grad((leaf(3) * 2.0).sum(), [x])
    assert pre.grad((leaf(3) * 2.0).sum(), [x], allow_unused=True) == [None]
    with pytest.raises(GraphError, match="works on Tensors, got ndarray"):
        pre.grad((x * 2.0).sum(), [np.ones(3)])
    with pytest.raises(GraphError, match="2 grad_outputs for 1 outputs"):
        pre.grad([(x * 2.0).sum()], [x], [1.0, 2.0])
    with pytest.raises(DTypeError, match="a Tensor holds float32"):
        pre.Tensor(np.arange(3))
    with pytest.raises(GraphError, match="only a leaf can be assigned to; this Tensor is the result of"):
        (x * 2.0).assign(np.ones(3))
    with pytest.raises(ShapeError, match="cannot assign shape"):
        x.assign(np.ones(4))
    with pytest.raises(ShapeError, match="one element"):
        x.item()
    with pytest.raises(GraphError, match="is declared already"):
        primitive("conv", lambda a: a, [])
    op = primitive(f"test_rigid_{id(x)}", lambda a: a * 1.0, [None])
    with pytest.raises(GraphError, match="has no gradient with respect to argument 0"):
        op(x).sum().backward()


def test_tensors_as_values():
    t = pre.Tensor(np.arange(6.0).reshape(2, 3), requires_grad=True, name="six")
    assert (t.shape, t.ndim, t.size, len(t), t.is_leaf) == ((2, 3), 2, 6, 2, True)
    assert pre.Tensor(2.5).item() == 2.5
    assert float(pre.Tensor(np.float32(1.5))) == 1.5
    assert bool(pre.Tensor(1.0))
    assert "requires_grad=True" in repr(t)
    assert "from=" in repr(t * 2.0)
    assert not t.detach().requires_grad
    assert t.detach().data is t.data
    assert np.array_equal(np.asarray(t), t.data)
    assert (np.ones((2, 3)) * t).requires_grad, "NumPy's operators give way"
    assert t.numpy() is t.data
    t.data = np.zeros((2, 3))
    assert not t.data.any()
    narrow = pre.Tensor(np.ones(2, ">f4"))
    assert narrow.dtype == np.float32
    assert narrow.dtype.isnative


def test_declarations():
    assert isinstance(primitives()["conv"], Primitive)
    assert primitives()["conv"].linear == (0, 1)
    assert repr(primitives()["conv"]) == "<op conv>"
    spec = Spec((2, 3), np.dtype(np.float32))
    assert (spec.size, spec.ndim) == (6, 2)


def test_backward_through_half_of_a_graph_leaves_the_rest():
    x = leaf(3)
    shared = x * x
    a, b = (shared * 2.0).sum(), (shared * 3.0).sum()
    backward(a, retain_graph=True)
    backward(b)
    assert np.allclose(x.grad.data, 10 * x.data)

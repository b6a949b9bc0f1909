"""Elements moved by generated kernels (engines/moving.py) against NumPy: any dtype, layout, size of a row, 1 to 3 threads, recorded or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage.engines import moving
from preimage.engines.base import memory_order
from preimage.engines.recording import Recorder

pytestmark = pytest.mark.skipif(pre.engines()["jit"] != "available", reason="these are kernels of the jit engine")
DTYPES = ("float32", "float64", "float16", "uint8", "int16", "int64", "bool")


def values(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 120, shape).astype(dtype)


def layouts(x: Any) -> list[Any]:
    """In C order, channels innermost, the axes reversed, with gaps."""
    gaps = np.repeat(x, 2, axis=-1)[..., ::2]
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1) if x.ndim > 1 else x
    return [x, last, np.asfortranarray(x), gaps]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 3])
def test_take(dtype: str, threads: int) -> None:
    generator = np.random.default_rng(3)
    with pre.config(threads=threads):
        for x in layouts(values((3, 37, 5, 19), dtype)):
            for axis in range(4):
                for shape, kind in (((41,), "int64"), ((2, 3), "int32"), ((), "int64")):
                    index = np.asarray(generator.integers(-x.shape[axis], x.shape[axis], shape), kind)
                    with Recorder() as here:
                        here.fix(x)
                        here.fix(index)
                        made = moving.take(x, index, axis)
                    assert made is not None
                    np.testing.assert_array_equal(made, np.take(x, index, axis), strict=True)
        large = values((2, 70, 9, 20), dtype)
        index = np.arange(69, -70, -2)
        made = moving.take(large, index, 1)
        assert made is not None
        np.testing.assert_array_equal(made, np.take(large, index, 1), strict=True)
        assert moving.take(large, np.array([70]), 1) is None
        assert moving.take(large, np.array([-71]), 1) is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 3])
def test_padded_repeated_laid(dtype: str, threads: int) -> None:
    pairs = [(1, 0), (0, 3), (2, 5), (0, 0)]
    with pre.config(threads=threads):
        for x in layouts(values((3, 24, 5, 19), dtype)):
            made = moving.padded(x, pairs, 1)
            assert made is not None
            np.testing.assert_array_equal(made, np.pad(x, pairs, constant_values=1), strict=True)
            assert memory_order(made) == memory_order(x)
            part = x[:, :1, :, :]
            spread = moving.repeated(part, (2, 3, 24, 5, 19))
            assert spread is not None
            np.testing.assert_array_equal(spread, np.broadcast_to(part, (2, 3, 24, 5, 19)), strict=True)
            assert spread.flags.c_contiguous
            copied = moving.laid(x, (0, 2, 3, 1))
            assert copied is not None
            assert copied.transpose(0, 2, 3, 1).flags.c_contiguous
            np.testing.assert_array_equal(copied, x, strict=True)


def test_chains_take_operands_that_are_broadcast_already() -> None:
    """A view with strides of 0 is repeated as an operand of one element is."""
    x = np.broadcast_to(values((1, 2, 1, 3, 1, 4), "float32"), (17, 2, 6, 3, 4, 4))
    made = moving.repeated(x, x.shape)
    assert made is not None
    np.testing.assert_array_equal(made, x, strict=True)


@pytest.mark.parametrize("dtype", ["float32", "int32", "float64"])
@pytest.mark.parametrize("order", [(0, 2, 1), (1, 0, 3, 2), (0, 1, 4, 2, 5, 3), (2, 0, 1)])
def test_copies_that_exchange_a_short_axis_and_a_long_one(
    dtype: str, order: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the axes is short once: what a shuffle, DepthToSpace or another layout of a picture asks for."""
    from preimage.engines.jit.elementwise.chain import Chain

    ran, kernel = [], Chain._exchange
    monkeypatch.setattr(Chain, "_exchange", lambda *given: (ran.append(1), kernel(*given))[1])
    for short in (2, 3, 4, 11):
        for at in range(len(order)):
            for long in (16, 37):
                shape = [short if k == at else long if k == (at + 1) % len(order) else 2 for k in range(len(order))]
                x = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
                for threads in (1, 2):
                    with pre.config(threads=threads):
                        made = moving.laid(x, order)
                    assert made is not None
                    assert made.transpose(order).flags.c_contiguous
                    np.testing.assert_array_equal(made, x, strict=True)
    assert ran


@pytest.mark.parametrize("groups", [2, 3, 12])
def test_channels_shuffled_where_they_lie_innermost(groups: int) -> None:
    x = layouts(values((2, 36, 19, 7), "float32"))[1]
    made = moving.exchanged(x, groups)
    assert made is not None
    assert made.strides == x.strides
    np.testing.assert_array_equal(made, x.reshape(2, groups, -1, 19, 7).swapaxes(1, 2).reshape(x.shape), strict=True)


def test_an_index_that_changes_is_guarded() -> None:
    x, index = values((50, 6), "float32"), np.array([3, -1, 49])
    here = Recorder()
    known = here.watch(index)
    here.fix(x)
    with here:
        assert moving.take(x, known, 0) is not None
    assert here.broken is None
    assert [g.within for g in here.guards] == [(-50, 49)]
    (guard,) = here.guards
    assert guard.holds(index)
    assert not guard.holds(np.array([3, 50]))
    assert not guard.holds(np.array([-51]))

"""Tensors given to other libraries by DLPack: the same memory, or a clear refusal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import preimage as pre

torch: Any = pytest.importorskip("torch")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    "take", [np.from_dlpack, torch.from_dlpack, torch.utils.dlpack.from_dlpack], ids=["numpy", "torch", "torch, older name"]
)
def test_the_memory_is_shared_whatever_its_strides(take: Any, dtype: Any) -> None:
    for values in (
        np.arange(24, dtype=dtype).reshape(2, 3, 4).transpose(2, 0, 1)[::2],
        np.zeros((0, 3), dtype),
        np.array(7, dtype),
    ):
        t = pre.Tensor(values)
        found = np.asarray(take(t))
        np.testing.assert_array_equal(found, values)
        assert found.dtype == values.dtype
        if values.ndim and values.size:
            values[-1, 0] = -5
            assert found[-1, 0].tolist() == values[-1, 0].tolist()
    assert t.__dlpack_device__() == (1, 0)


def test_there_and_back() -> None:
    t = pre.Tensor(np.arange(3.0))
    back = pre.Tensor(torch.from_dlpack(t))
    assert np.shares_memory(back.data, t.data)


def test_what_would_be_lost_is_refused() -> None:
    leaf = pre.Tensor([1.0, 2.0], requires_grad=True)
    for t in (leaf, leaf * 2):
        for take in (np.from_dlpack, torch.from_dlpack):
            with pytest.raises(pre.SharingError, match=r"share t\.detach\(\)"):
                take(t)
    assert np.from_dlpack((leaf * 2).detach()).tolist() == [2.0, 4.0]
    half = pre.Tensor(torch.ones(2, dtype=torch.bfloat16))
    with pytest.raises(pre.SharingError, match=r"bfloat16 values .* share a copy"):
        torch.from_dlpack(half)

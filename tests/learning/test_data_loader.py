"""Loaders and transforms: the same batches for any number of workers, places to go on from, images and masks changed together."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from preimage import data
from preimage.errors import OptionError, ShapeError

NUMBERS = np.random.default_rng(5)


def loader(workers: int, **options: Any) -> data.Loader:
    images = np.arange(23 * 30, dtype=np.float32).reshape(23, 1, 5, 6)
    given = {"shuffle": True, "seed": 4, "transform": [data.Crop(4, 5), data.Flip(), data.Scale(spread=0.2)]} | options
    return data.Loader(data.ArrayDataset(images, np.arange(23)), 4, workers=workers, **given)


def epochs(source: Any, count: int) -> list[tuple[np.ndarray, ...]]:
    return [batch for _ in range(count) for batch in source]


def same(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))


def test_the_same_batches_for_any_number_of_workers() -> None:
    wanted = epochs(loader(0), 3)
    assert len(wanted) == 18
    assert len(wanted[5][0]) == 3
    for k in range(3):  # each sample once in each epoch
        assert sorted(np.concatenate([b[1] for b in wanted[6 * k : 6 * k + 6]]).tolist()) == list(range(23))
    assert not same(wanted[:6], wanted[6:12])
    for workers, prefetch in ((1, 0), (2, 2), (5, 7)):
        assert same(epochs(loader(workers, prefetch=prefetch), 3), wanted)
    assert not same(epochs(loader(0, seed=5), 1), wanted[:6])
    assert len(epochs(loader(0, drop_last=True), 1)) == 5


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f4", ">f4", "u1", "f8", "M8[s]"])
def test_batches_of_arrays_are_those_of_their_samples(kind: str, order: Any) -> None:
    """One by one, as a Subset gives them, or all at once: values, dtypes and how they lie."""
    images = np.arange(23 * 30).reshape(23, 5, 6).astype(kind).copy(order=order)
    held = data.ArrayDataset(images, np.arange(23), np.arange(46.0).reshape(23, 2)[:: 1 if order == "C" else -1])
    at_once, by_one = (epochs(data.Loader(d, 4, shuffle=True, seed=3), 2) for d in (held, data.Subset(held, range(23))))
    assert same(at_once, by_one)
    for batch, other in zip(at_once, by_one, strict=True):
        assert [(a.dtype, a.strides, a.dtype.byteorder) for a in batch] == [
            (a.dtype, a.strides, a.dtype.byteorder) for a in other
        ]


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("taken", [0, 1, 5, 6, 8])
def test_going_on_where_a_run_stood(workers: int, taken: int) -> None:
    wanted = epochs(loader(0), 3)
    first, got = loader(workers), []
    while len(got) < taken:
        for batch in first:
            got.append(batch)
            if len(got) == taken:
                break
    state = first.state_dict()
    second = loader(0)
    second.load_state_dict(state)
    while len(got) < 18:
        got += list(second)
    assert same(got, wanted)
    with pytest.raises(OptionError, match="is of a seed 4, this loader has 9"):
        loader(0, seed=9).load_state_dict(state)


def test_any_iterable_and_torchs_loader() -> None:
    batches = [(np.full((2, 3), k), np.arange(2)) for k in range(5)]
    stream = data.batches_of(batches)
    got = []
    for batch in stream:
        got.append(batch)
        if len(got) == 3:
            break
    again = data.batches_of(batches)
    again.load_state_dict(stream.state_dict())
    assert [b[0][0, 0] for b in again] == [3, 4]
    assert [b[0][0, 0] for b in again] == [0, 1, 2, 3, 4]
    with pytest.raises(OptionError, match="once only"):
        data.batches_of(iter(batches))
    with pytest.raises(OptionError, match="no batches"):
        list(data.batches_of([]))
    torch = pytest.importorskip("torch")
    theirs = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(6.0).reshape(6, 1), torch.arange(6)), 4)
    x, y = next(iter(data.batches_of(theirs)))
    assert type(x) is np.ndarray
    assert y.tolist() == [0, 1, 2, 3]


def test_batches_of_samples_that_differ() -> None:
    samples = [(np.zeros((1, 4, 4)), 0), (np.zeros((1, 4, 4)), 1), (np.zeros((1, 4, 5)), 2)]
    with pytest.raises(ShapeError, match=r"sample 2 has shape \(1, 4, 5\) in part 0, sample 0"):
        list(data.Loader(samples, 3))


def test_transforms_change_image_and_mask_together() -> None:
    image = NUMBERS.standard_normal((3, 7, 8)).astype(np.float32)
    mask = np.argmax(image, axis=0)
    for transform in (data.Crop(5, 6), data.Crop(9, 9, padding=2), data.Flip(1.0), data.Flip(1.0, vertical=True)):
        for seed in range(5):
            changed, marked, label = transform((image, mask, 4), np.random.default_rng(seed))
            inside = np.abs(changed).sum(axis=0) > 0
            np.testing.assert_array_equal(np.argmax(changed, axis=0)[inside], marked[inside])
            assert label == 4
    middle, _ = data.Crop(3, 4, random=False)((image, mask), np.random.default_rng(0))
    np.testing.assert_array_equal(middle, image[:, 2:5, 2:6])
    places = {data.Crop(6, 7)((image,), np.random.default_rng(k))[0][0, 0, 0] for k in range(40)}
    assert len(places) == 4  # all places, the last ones too
    with pytest.raises(ShapeError, match="7 x 8 has no part of 9 x 3"):
        data.Crop(9, 3)((image,), np.random.default_rng(0))


def test_values() -> None:
    image, rng = NUMBERS.random((3, 4, 5)).astype(np.float32), np.random.default_rng(0)
    shifted, kept = data.Mean([0.1, 0.2, 0.3], [1.0, 2.0, 4.0])((image, image), rng)
    wanted = (image - np.array([0.1, 0.2, 0.3])[:, None, None]) / np.array([1, 2, 4])[:, None, None]
    np.testing.assert_allclose(shifted, wanted, rtol=1e-5, atol=1e-6)
    assert kept is image
    np.testing.assert_array_equal(data.Scale(2.0)((image,), rng)[0], image * 2)
    grey = data.Colour(grey=True)((image,), rng)[0]
    np.testing.assert_allclose(grey[0], np.tensordot([0.299, 0.587, 0.114], image, 1), rtol=1e-5)
    swapped = data.Colour(grey=True, channels="bgr")((image[::-1],), rng)[0]
    np.testing.assert_allclose(swapped, grey, rtol=1e-6)
    np.testing.assert_allclose(data.Colour()((image,), rng)[0], image)
    drawn = [data.Colour(brightness=0.5)((image,), np.random.default_rng(k))[0].mean() / image.mean() for k in range(30)]
    assert 0.5 <= min(drawn) < 0.7
    assert 1.3 < max(drawn) <= 1.5
    for wrong in (
        lambda: data.Flip(2.0),
        lambda: data.Mean(0.0, 0.0),
        lambda: data.Colour(channels="xyz"),
        lambda: data.Compose(3),
    ):
        with pytest.raises(OptionError):
            wrong()


def test_a_split_has_no_sample_twice() -> None:
    images = data.ArrayDataset(np.arange(50.0))
    train, test = data.split(images, 0.2, seed=1)
    assert (len(train), len(test)) == (40, 10)
    values = [float(d[k][0]) for d in (train, test) for k in range(len(d))]
    assert sorted(values) == list(range(50))
    assert all(a < b for a, b in pairwise(train.indices))
    with pytest.raises(OptionError, match="leaves none"):
        data.split(images, 1.0)

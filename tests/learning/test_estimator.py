"""The dictionary's estimator: what it gives is what `learn` and `encode` give, and it behaves as scikit-learn's do."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from preimage.errors import OptionError, ShapeError
from preimage.learning import ConvDictionary, Options, encode, learn, split_slow

RNG = np.random.default_rng(2)
X = np.cumsum(RNG.standard_normal((3, 2, 20, 17)), axis=-1).astype(np.float32)
SMALL: dict[str, Any] = {"n_components": 4, "kernel_size": 5, "max_iter": 15}


def test_it_gives_what_learn_and_encode_give() -> None:
    model = ConvDictionary(**SMALL, alpha=0.2, random_state=3)
    Z = model.fit_transform(X)
    details = [split_slow(x)[1] for x in X]
    options = Options(stencils=4, size=5, steps=15, sparsity=0.2, seed=3)
    wanted = learn(details, options)
    np.testing.assert_array_equal(model.components_, wanted.stencils)
    np.testing.assert_array_equal(Z, np.stack(wanted.activations))
    np.testing.assert_allclose(model.inverse_transform(Z), np.stack(wanted.painted), atol=1e-4)
    np.testing.assert_array_equal(model.transform(X[:2]), np.stack(encode(details[:2], wanted.stencils, options).activations))
    assert (model.n_iter_, model.n_features_in_) == (15, 2)
    np.testing.assert_allclose(model.slow_part(X), np.stack([split_slow(x)[0] for x in X]), atol=1e-5)


def test_the_painted_pictures_come_near() -> None:
    model = ConvDictionary(n_components=8, kernel_size=5, max_iter=60, alpha=0.02).fit(X)
    rebuilt = model.slow_part(X) + model.inverse_transform(model.transform(X))
    assert np.mean((rebuilt - X) ** 2) < 0.1 * np.mean((X - model.slow_part(X)) ** 2)
    assert model.error_ < 0.1 * np.mean((X - model.slow_part(X)) ** 2)


def test_parameters_come_and_go_as_in_scikit_learn() -> None:
    model = ConvDictionary(**SMALL)
    assert model.get_params()["n_components"] == 4
    assert "n_components=4, kernel_size=5, stride=1" in repr(model)
    twin = type(model)(**model.get_params())  # what clone does
    assert twin.get_params() == model.get_params()
    assert all(getattr(twin, k) is v for k, v in model.get_params().items())
    assert model.set_params(alpha=0.5, smooth=None) is model
    assert model.alpha == 0.5
    with pytest.raises(OptionError, match=r"no parameter beta; it has n_components"):
        model.set_params(beta=1)
    for copied in (copy.deepcopy(model.fit(X)), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(copied.transform(X), model.transform(X))
    assert model.set_output(transform="default") is model
    with pytest.raises(OptionError, match="'pandas'"):
        model.set_output(transform="pandas")
    assert model.get_feature_names_out().tolist() == [f"convdictionary{k}" for k in range(4)]


def test_fits_again_to_the_same_bits_and_leaves_its_data() -> None:
    before = X.copy()
    first, second = ConvDictionary(**SMALL).fit(X), ConvDictionary(**SMALL).fit(X.tolist())
    np.testing.assert_array_equal(X, before)
    np.testing.assert_allclose(first.components_, second.components_, atol=1e-3)
    again = first.components_.copy()
    np.testing.assert_array_equal(first.fit(X).components_, again)


SIGNALS = np.cumsum(RNG.standard_normal((3, 2, 60)), axis=-1)


@pytest.mark.parametrize(("stride", "border"), [(1, "full"), (2, "full"), (3, "circular")])
def test_signals_are_sums_of_shifted_stencils(stride: int, border: str) -> None:
    model = ConvDictionary(4, 7, stride=stride, border=border, max_iter=15).fit(SIGNALS)
    assert model.components_.shape == (4, 2, 7)
    Z = model.transform(SIGNALS)
    painted = np.zeros((3, 2, 200))
    for n, k, place in zip(*np.nonzero(Z), strict=True):
        painted[n, :, place * stride : place * stride + 7] += Z[n, k, place] * model.components_[k]
    if border == "full":
        painted = painted[..., 6 : 6 + 60]
    else:  # beyond the end it goes on at the start
        painted = painted[..., :60] + painted[..., 60:120]
    np.testing.assert_allclose(model.inverse_transform(Z), painted, atol=1e-4)


def test_signals_of_another_length_are_painted_where_it_is_said() -> None:
    model = ConvDictionary(**SMALL).fit(SIGNALS)
    assert model.inverse_transform(np.zeros((1, 4, 28)), size=24).shape == (1, 2, 24)


def test_a_stencil_of_two_channels_is_found_in_signals() -> None:
    rng = np.random.default_rng(5)
    shape = np.stack([np.hanning(9), np.diff(np.hanning(10))])
    planted = np.zeros((4, 300))
    planted[:, 8::37] = rng.uniform(1, 2, planted[:, 8::37].shape)
    signals = np.stack([[np.convolve(z, s)[:300] for s in shape] for z in planted])
    model = ConvDictionary(1, 13, smooth=None, max_iter=150, alpha=0.02, random_state=1).fit(signals)
    found = model.components_[0] / np.linalg.norm(model.components_)
    match = max(sum(np.correlate(f, s, "full") for f, s in zip(found, shape, strict=True))) / np.linalg.norm(shape)
    assert match > 0.98
    assert np.mean((model.inverse_transform(model.transform(signals)) - signals) ** 2) < 0.02 * np.mean(signals**2)


@pytest.mark.parametrize(("use", "kind", "text"), [
    (lambda m: m.transform(X), OptionError, "not fitted"), (lambda m: m.inverse_transform(X), OptionError, "not fitted"),
    (lambda m: m.get_feature_names_out(), OptionError, "not fitted"), (lambda m: m.fit(X[0, 0]), ShapeError, r"C, L\).*X\[:, None\]"),
    (lambda m: m.fit(X[:0]), ShapeError, "at least one"), (lambda m: m.fit(X * np.nan), ShapeError, "NaN"),
    (lambda m: m.fit(X > 0), ShapeError, "bool"),
    (lambda m: m.set_params(n_components=0).fit(X), OptionError, "at least 1"),
    (lambda m: m.set_params(kernel_size=99).fit(X), ShapeError, "smaller than"),
    (lambda m: m.fit(X).inverse_transform(X), ShapeError, r"\(number, 4, 24, 21\) of pictures 20x17"),
    (lambda m: m.fit(X).transform(X[:, :1]), ShapeError, "stencils"),
    (lambda m: m.fit(SIGNALS).transform(X), ShapeError, "fitted to signals, got pictures"),
    (lambda m: m.fit(X).transform(SIGNALS), ShapeError, "fitted to pictures, got signals"),
    (lambda m: m.fit(SIGNALS).inverse_transform(X), ShapeError, r"\(number, 4, 64\) of signals of length 60"),
    (lambda m: m.fit(SIGNALS).inverse_transform(np.zeros((1, 4, 9)), size=(3, 3)), ShapeError, "size"),
    (lambda m: m.set_params(kernel_size=61).fit(SIGNALS), ShapeError, "size of at most 60"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(use: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        use(ConvDictionary(**SMALL))


def test_inside_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn")
    from sklearn.pipeline import make_pipeline

    model = sklearn.base.clone(ConvDictionary(**SMALL))
    pipeline = make_pipeline(model).fit(X)
    assert pipeline.transform(X).shape == (3, 4, 24, 21)

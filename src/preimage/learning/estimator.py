"""Dictionaries of pictures and signals with scikit-learn's face: fit, transform, inverse_transform. It needs no scikit-learn."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from preimage.display import Shown
from preimage.errors import OptionError, ShapeError
from preimage.geometry import per_axis
from preimage.learning.dictionary import Coded, Options, encode, learn
from preimage.learning.split import split_slow
from preimage.ops.operands import regular

__all__ = ["ConvDictionary"]

Array = NDArray[Any]


class ConvDictionary(Shown):
    """A convolutional dictionary as an estimator: `learn` to fit it, `encode` to transform, painting to come back.

    Shapes: X (pictures, C, H, W) of floats; activations (pictures, n_components, h, w); components_ (n_components, C, kernel_size, kernel_size).
        Or signals: X (signals, C, L), activations (signals, n_components, l), components_ (n_components, C, kernel_size).
        inverse_transform gives pictures or signals of the size that was last transformed or fitted, or of `size`.
    smooth: the weight of the slow part that is taken off each of them first (split_slow), and which no transform holds: `slow_part(X)` is what
        is to be added. None: nothing is taken off.
    Raises: ShapeError for arrays of other axes, and OptionError for a transform before fit, and for parameters that `Options` refuses.

    Example:
        >>> import numpy as np
        >>> from preimage.learning import ConvDictionary
        >>> X = np.random.default_rng(0).random((2, 1, 16, 16))
        >>> model = ConvDictionary(n_components=3, kernel_size=5, max_iter=20)
        >>> Z = model.fit_transform(X)
        >>> Z.shape, model.inverse_transform(Z).shape, model.get_feature_names_out().tolist()
        ((2, 3, 20, 20), (2, 1, 16, 16), ['convdictionary0', 'convdictionary1', 'convdictionary2'])
        >>> three_leads = np.random.default_rng(1).standard_normal((2, 3, 50))
        >>> model.fit_transform(three_leads).shape, model.components_.shape
        ((2, 3, 54), (3, 3, 5))
    """

    components_: Array
    n_iter_: int
    error_: float

    def __init__(
        self,
        n_components: int = 64,
        kernel_size: int = 11,
        *,
        stride: int = 1,
        alpha: float = 0.05,
        max_iter: int = 200,
        smooth: float | None = 5.0,
        border: str = "full",
        random_state: int = 0,
    ) -> None:
        self.n_components, self.kernel_size, self.stride = n_components, kernel_size, stride
        self.alpha, self.max_iter, self.smooth = alpha, max_iter, smooth
        self.border, self.random_state = border, random_state

    # -- parameters ---------------------------------------------------------------------------------------------------

    @classmethod
    def _names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters of the constructor by name."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **params: Any) -> Self:
        """Other parameters, for the next fit. Raises: OptionError for names that are none."""
        if unknown := sorted(set(params) - set(self._names())):
            raise OptionError(f"ConvDictionary has no parameter {', '.join(unknown)}; it has {', '.join(self._names())}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def set_output(self, *, transform: str | None = None) -> Self:
        """Arrays are what transform gives: "default" or None. Raises: OptionError for data frames, which have two axes and no more."""
        if transform not in (None, "default"):
            raise OptionError(
                f"set_output: activations have three or four axes, which no data frame holds; wanted 'default', got {transform!r}"
            )
        return self

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """One name per stencil."""
        self._check_fitted()
        return np.asarray([f"convdictionary{k}" for k in range(len(self.components_))], dtype=object)

    def _options(self, signals: bool) -> Options:
        return Options(
            self.n_components, self.kernel_size, self.stride, self.alpha, self.max_iter, self.random_state, self.border,
            signals=signals,
        )  # fmt: skip

    @property
    def _signals(self) -> bool:
        """Whether it was fitted to signals."""
        return self.components_.ndim == 3

    def __repr__(self) -> str:
        return f"ConvDictionary({', '.join(f'{k}={v!r}' for k, v in self.get_params().items())})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "components_")

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise OptionError("this ConvDictionary is not fitted yet: call fit first")

    # -- fitting ------------------------------------------------------------------------------------------------------

    def _details(self, X: Any) -> tuple[list[Array], bool]:
        """The pictures without their slow parts, a signal as a picture of one row; and whether they are signals."""
        array = regular(X, "X")
        if array.ndim not in (3, 4) or not len(array):
            hint = "; one channel: X[:, None]" if array.ndim == 2 else ""
            raise ShapeError(
                f"X: wanted pictures (number, C, H, W) or signals (number, C, L), at least one, got shape {array.shape}{hint}"
            )
        if array.dtype.kind not in "fiu":
            raise ShapeError(f"X: wanted numbers, got {array.dtype}")
        signals = array.ndim == 3
        array = array[:, :, None] if signals else array
        pictures = np.asarray(array, np.float32 if array.dtype.kind == "f" and array.dtype.itemsize <= 4 else np.float64)
        return [p if self.smooth is None else split_slow(p, self.smooth)[1] for p in pictures], signals

    def slow_part(self, X: Any) -> Array:
        """What is taken off the pictures before they are painted: X less that is what inverse_transform comes near to."""
        details, signals = self._details(X)
        return np.asarray(regular(X, "X") - _together(details, signals))

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn components_ from pictures or signals; y is not looked at. Same data, parameters and random_state: the same bits."""
        self._fitted(X)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Array:
        """Learn, and give the activations of the pictures or signals as learning left them."""
        return _together(self._fitted(X).activations, self._signals)

    def _fitted(self, X: Any) -> Coded:
        details, signals = self._details(X)
        coded = learn(details, self._options(signals))
        self.components_, self.n_iter_ = _squeezed(coded.stencils, signals), len(coded.curve)
        self.error_ = float(np.mean([np.mean((d - p) ** 2) for d, p in zip(details, coded.painted, strict=True)]))
        self.n_features_in_, self._size = int(details[0].shape[0]), details[0].shape[1:]
        return coded

    # -- there and back -----------------------------------------------------------------------------------------------

    def _stencils(self) -> Array:
        return self.components_[:, :, None] if self._signals else self.components_

    def transform(self, X: Any) -> Array:
        """The activations (number, n_components, h, w), of signals (number, n_components, l), with which the components paint X."""
        self._check_fitted()
        details, signals = self._details(X)
        if signals != self._signals:
            was, now = ("signals", "pictures") if self._signals else ("pictures", "signals")
            raise ShapeError(f"X: this ConvDictionary was fitted to {was}, got {now}, shape {np.shape(X)}")
        coded = encode(details, self._stencils(), self._options(signals))
        self._size = details[0].shape[1:]
        return _together(coded.activations, signals)

    def inverse_transform(self, X: Any, *, size: tuple[int, int] | int | None = None) -> Array:
        """The pictures (number, C, H, W) or signals (number, C, L) that activations paint, without their slow parts.

        size: (H, W), or L. Raises: ShapeError for activations of another size.
        """
        self._check_fitted()
        array, signals = regular(X, "X"), self._signals
        height, width = self._size if size is None else _sizes(size, signals)
        model = self._options(signals).model()
        sizes = model.activation_size(height, width)[signals:]
        wanted = (len(self.components_), *sizes)
        if array.shape[1:] != wanted or array.ndim < 3:
            of = f"signals of length {width}" if signals else f"pictures {height}x{width}"
            raise ShapeError(f"X: wanted activations (number, {', '.join(map(str, wanted))}) of {of}, got shape {array.shape}")
        z = np.asarray(array[:, :, None] if signals else array, self.components_.dtype)
        return _together([model.paint(one, self._stencils(), height, width) for one in z], signals)


def _sizes(size: Any, signals: bool) -> tuple[int, int]:
    """Height and width out of `size`. Raises: ShapeError for another number of sizes."""
    given = per_axis(size, 1 if signals else 2, "size")
    return (1, given[0]) if signals else (given[0], given[1])


def _squeezed(array: Array, signals: bool) -> Array:
    """Of signals, without the axis of length 1 before the last."""
    return array[..., 0, :] if signals else array


def _together(arrays: Sequence[Array], signals: bool) -> Array:
    return _squeezed(np.stack(arrays), signals)

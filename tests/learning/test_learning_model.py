"""The painting model: against index loops, its adjoints, and the bound of its curvature against the whole matrix."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from preimage.errors import OptionError
from preimage.learning import Model

CASES = [Model(k, s, b) for k, s, b in product((1, 3, 4), (1, 2, 3), ("full", "circular")) if s <= k]


def painted_by_loops(model: Model, z: np.ndarray, stencils: np.ndarray, height: int, width: int) -> np.ndarray:
    picture = np.zeros((stencils.shape[1], height, width))
    margin = model.size - 1 if model.border == "full" else 0
    for k, a, b in product(*map(range, z.shape)):
        for c, u, v in product(range(stencils.shape[1]), range(model.size), range(model.size)):
            i, j = a * model.stride + u - margin, b * model.stride + v - margin
            if model.border == "circular":
                i, j = i % height, j % width
            if 0 <= i < height and 0 <= j < width:
                picture[c, i, j] += z[k, a, b] * stencils[k, c, u, v]
    return picture


@pytest.mark.parametrize("model", CASES, ids=str)
def test_painting_is_the_sum_of_stencils(model: Model, rng: np.random.Generator) -> None:
    height, width = 9, 7
    z = rng.standard_normal((2, *model.activation_size(height, width)))
    stencils = rng.standard_normal((2, 3, model.size, model.size))
    np.testing.assert_allclose(
        model.paint(z, stencils, height, width), painted_by_loops(model, z, stencils, height, width), atol=1e-12
    )


@pytest.mark.parametrize("model", CASES, ids=str)
def test_the_gradients_are_adjoints(model: Model, rng: np.random.Generator) -> None:
    height, width = 10, 13
    z = rng.standard_normal((4, *model.activation_size(height, width)))
    stencils = rng.standard_normal((4, 2, model.size, model.size))
    r = rng.standard_normal((2, height, width))
    form = float((model.paint(z, stencils, height, width) * r).sum())
    scale = np.linalg.norm(z) * np.linalg.norm(stencils) * np.linalg.norm(r)
    assert abs(float((model.match(r, stencils) * z).sum()) - form) < 1e-12 * scale
    assert abs(float((model.stencil_grad(r, z) * stencils).sum()) - form) < 1e-12 * scale


@pytest.mark.parametrize("model", CASES, ids=str)
def test_every_pixel_can_be_painted(model: Model) -> None:
    ones = np.ones((1, *model.activation_size(11, 8)))
    assert (model.paint(ones, np.ones((1, 1, model.size, model.size)), 11, 8) > 0).all()


@pytest.mark.parametrize("model", [m for m in CASES if m.size > 1], ids=str)
def test_the_curvature_bound_holds(model: Model, rng: np.random.Generator) -> None:
    height, width = 12, 12
    stencils = rng.standard_normal((3, 2, model.size, model.size)) + 0.5
    shape = (3, *model.activation_size(height, width))
    columns = [model.paint(e.reshape(shape), stencils, height, width).ravel() for e in np.eye(int(np.prod(shape)))]
    matrix = np.array(columns) @ np.array(columns).T
    bound = np.repeat(model.curvature(stencils), int(np.prod(shape[1:])))
    assert np.linalg.eigvalsh(np.diag(bound) - matrix).min() > -0.02 * bound.max()
    assert np.linalg.eigvalsh(np.diag(bound) - 60 * matrix).min() < 0  # and it is not idle


@pytest.mark.parametrize(("args", "text"), [
    ((0, 1, "full"), "at least 1"), ((3, 0, "full"), "at least 1"), ((3, 4, "full"), "unpainted"), ((3, 1, "mirror"), "border must be"),
])  # fmt: skip
def test_model_refuses(args: tuple[int, int, str], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        Model(*args)

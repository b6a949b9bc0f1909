"""The story of examples/how_a_layer_learns.py, run: its figures and its picture."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "how_a_layer_learns.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("how_a_layer_learns", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_story(example, tmp_path, capsys):
    picture = tmp_path / "story.png"
    story = example.main(picture)
    told = capsys.readouterr().out
    # one point: both are the same layer, and both find the stencil
    np.testing.assert_allclose(story["point"]["conv"], example.SECRET, atol=1e-3)
    np.testing.assert_allclose(story["point"]["dense"], story["point"]["conv"], atol=1e-12)
    # one weight: the sum over all 100 places
    assert story["weight"]["terms"].size == 100
    assert story["weight"]["gradient"] == pytest.approx(story["weight"]["by_hand"], rel=1e-12)
    # whole images: the convolution learns from one; the other only learns that one by heart
    one, many = story["images"][1], story["images"][600]
    np.testing.assert_allclose(one["stencils"][-1], example.SECRET, atol=1e-4)
    assert max(one["conv"]) < 1e-4
    assert one["dense"][0] < 1e-4
    assert one["dense"][1] > 1
    assert max(many["dense"]) < 0.02
    assert story["local"]["near"] > 0.999
    for words in ("14,400", "sum over places", "by heart", "locality, and shared weights"):
        assert words in told
    matplotlib = importlib.util.find_spec("matplotlib")
    assert picture.exists() == (matplotlib is not None)
    if matplotlib:
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_flipped_stencil_would_be_noticed(example, monkeypatch):
    """The story's own check: were the layer a flipped correlation, the stencil would come out flipped."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 1, 3, 3))
    straight = example.answers(x).ravel()
    by_hand = (x[:, 0] * example.SECRET).sum((1, 2))
    flipped = (x[:, 0] * example.SECRET[::-1, ::-1]).sum((1, 2))
    np.testing.assert_allclose(straight, by_hand, atol=1e-12)
    assert np.abs(straight - flipped).max() > 1

"""Caffe nets written as ONNX run in onnxruntime with equal results: SSD's box layers in every option, and the trained nets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caffe_nets import net_text
from test_caffe_models import files, needs_models, picture

import preimage as pre
from preimage.errors import FileFormatError
from preimage.io import caffe

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
RNG = np.random.default_rng(5)


def both(graph: Any, path: Path, *inputs: Any) -> tuple[Any, Any]:
    """Our result and onnxruntime's."""
    from preimage.io.onnx.export import save

    save(graph, path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    fed = {item.name: np.asarray(x, np.float32) for item, x in zip(graph.inputs, inputs, strict=True)}
    taken = {item.name for item in session.get_inputs()}
    with pre.no_grad():
        ours = graph.run(fed)
    return ours[graph.outputs[0]], session.run([graph.outputs[0]], {k: v for k, v in fed.items() if k in taken})[0]


def tiny(layer: str, *shapes: tuple[int, ...]) -> Any:
    return caffe.load(caffe.parse_text("NetParameter", net_text(layer, *shapes)))


@pytest.mark.parametrize(
    "text",
    [
        "min_size: 4 max_size: 9 aspect_ratio: 2 clip: true variance: 0.1 variance: 0.2 variance: 0.3 variance: 0.4",
        "min_size: 4 min_size: 7 flip: false aspect_ratio: 3 step: 8 offset: 0 img_size: 40",
        "min_size: 5.7 step_h: 4 step_w: 6 img_h: 30 img_w: 50",
    ],
)
def test_prior_boxes(text: str, tmp_path: Path) -> None:
    graph = tiny(f'type: "PriorBox" prior_box_param {{ {text} }}', (1, 2, 3, 4), (1, 3, 20, 30))
    for size, image in (((1, 2, 3, 4), (1, 3, 20, 30)), ((2, 2, 5, 1), (2, 3, 31, 17))):
        ours, theirs = both(graph, tmp_path / "p.onnx", np.zeros(size), np.zeros(image))
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("shared", ["true", "false"])
@pytest.mark.parametrize("code", ["CORNER", "CENTER_SIZE", "CORNER_SIZE"])
@pytest.mark.parametrize(
    "options", ["keep_top_k: 7 confidence_threshold: 0.3", "variance_encoded_in_target: true confidence_threshold: 0.6", ""]
)
def test_detection_output(shared: str, code: str, options: str, tmp_path: Path) -> None:
    count, classes = 30, 3
    corner = RNG.random((count, 2)) * 0.7
    boxes = np.concatenate([corner, corner + 0.1 + RNG.random((count, 2)) * 0.2], axis=1)
    priors = np.stack([boxes.reshape(-1), np.tile([0.1, 0.1, 0.2, 0.2], count)])[None]
    places = RNG.standard_normal((2, count * 4 * (1 if shared == "true" else classes))) * 0.3
    scores = RNG.random((2, count * classes))
    nms = "nms_param { nms_threshold: 0.4 top_k: 12 }" if options else "nms_param { nms_threshold: 0.5 }"
    text = f"num_classes: {classes} share_location: {shared} code_type: {code} {nms} {options}"
    graph = tiny(f'type: "DetectionOutput" detection_output_param {{ {text} }}', places.shape, scores.shape, priors.shape)
    ours, theirs = both(graph, tmp_path / "d.onnx", places, scores, priors)
    assert ours.shape == theirs.shape
    assert ours.shape[2] > 5
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    if "threshold: 0" in options:
        ours, theirs = both(graph, tmp_path / "d.onnx", places, scores * 0, priors)
        assert np.array_equal(ours, theirs)
        assert ours.shape == (1, 1, 2, 7)


def test_what_onnx_cannot_say_is_refused(tmp_path: Path) -> None:
    text = "num_classes: 2 nms_param { nms_threshold: 0.6 eta: 0.9 }"
    graph = tiny(f'type: "DetectionOutput" detection_output_param {{ {text} }}', (1, 24), (1, 12), (1, 2, 24))
    with pytest.raises(FileFormatError, match="with eta, ONNX has no counterpart"):
        both(graph, tmp_path / "d.onnx", np.zeros((1, 24)), np.zeros((1, 12)), np.zeros((1, 2, 24)))


@needs_models
@pytest.mark.parametrize(("name", "shape"), [("sr", (2, 1, 37, 53)), ("detect", (1, 1, 384, 384)), ("detect", (1, 1, 320, 256))])
def test_trained_nets(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    graph = caffe.load(*files(name))
    ours, theirs = both(graph, tmp_path / "n.onnx", picture(name, shape))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(ours).max()


@needs_models
@pytest.mark.parametrize(
    ("name", "ending"), [("detect", "onnx"), ("sr", "onnx"), ("detect", "caffemodel"), ("sr", "safetensors")]
)
def test_conversions_verify_themselves(name: str, ending: str, tmp_path: Path) -> None:
    from preimage.io.convert import convert

    text, weights = files(name)
    verdict = convert(text, tmp_path / f"out.{ending}", weights=weights)
    assert verdict.same_bits

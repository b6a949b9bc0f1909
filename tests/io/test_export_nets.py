"""Whole nets whose forward calls functions: traced with an open batch, optimised, in onnxruntime, read back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from function_nets import NETS

pytest.importorskip("onnx")

import preimage as pre
from preimage.autograd import array_of


def flat(result: Any) -> list[np.ndarray]:
    """The arrays of a result, of those in tuples and dicts too."""
    parts = list(result.values()) if isinstance(result, dict) else result
    return [each for part in parts for each in flat(part)] if isinstance(parts, tuple | list) else [np.asarray(array_of(parts))]


@pytest.mark.parametrize("name", NETS)
def test_a_net_optimises_exports_and_comes_back(name: str, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    make, shapes = NETS[name]
    rng = np.random.default_rng(1)
    net = make().eval()
    for module in net.modules():
        for key in ("running_mean", "running_var"):
            if getattr(module, key, None) is not None:
                setattr(module, key, (0.5 + rng.random(module.num_features)).astype(np.float32))
    example = tuple(np.zeros(shape, np.float32) for shape in shapes)
    example = example[0] if len(example) == 1 else example
    path = tmp_path / "net.onnx"
    pre.save_model(net, path, example=example)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    back, fast = pre.load_model(path), pre.optimise(net, example=example)
    for batch in (2, 1, 3):
        arrays = [rng.random((batch, *shape[1:]), np.float32) for shape in shapes]
        with pre.no_grad():
            wanted = flat(net(*map(pre.Tensor, arrays)))
            found = {"read back": flat(back(*arrays)), "optimised": flat(fast(*arrays))}
        found["onnxruntime"] = session.run(None, {i.name: a for i, a in zip(session.get_inputs(), arrays, strict=True)})
        for who, values in found.items():
            for have, want in zip(values, wanted, strict=True):
                assert have.shape == want.shape, who
                assert np.allclose(have, want, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(want).max()))), who
    trained = {key for key, _ in net.named_parameters()}
    assert trained <= set(back.weights), "what is trained comes back as what is trained"
    for key, parameter in net.named_parameters():
        assert np.asarray(back.weights[key].data).tobytes() == np.asarray(array_of(parameter)).tobytes(), key


@pytest.mark.parametrize("name", NETS)
def test_fine_tuning_a_traced_net_has_the_gradients_of_the_net(name: str) -> None:
    from preimage.io.onnx.tracing import trace

    make, shapes = NETS[name]
    net, rng = make().eval(), np.random.default_rng(2)
    arrays = [rng.random(shape, np.float32) for shape in shapes]
    graph = trace(net, tuple(arrays))

    def gradients(call: Any) -> list[np.ndarray]:
        results = [v for v in _tensors(call(*map(pre.Tensor, arrays))) if v.requires_grad]
        draw = np.random.default_rng(3)
        total: Any = sum(((v * draw.standard_normal(v.shape).astype(np.float32)).sum() for v in results), pre.Tensor(0.0))
        return [g.data for g in pre.grad(total, [p for _, p in net.named_parameters()])]

    if not list(net.parameters()):
        return
    for key, have, want in zip([key for key, _ in net.named_parameters()], gradients(graph), gradients(net), strict=True):
        assert np.allclose(have, want, rtol=1e-3, atol=1e-4 * max(1.0, float(np.abs(want).max()))), key


def _tensors(result: Any) -> list[Any]:
    parts = list(result.values()) if isinstance(result, dict) else result
    if isinstance(parts, tuple | list):
        return [each for part in parts for each in _tensors(part)]
    return [parts] if isinstance(parts, pre.Tensor) else []

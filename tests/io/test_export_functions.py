"""Every function, method and operator in the forward of a Module: traced, optimised, written as ONNX, run by onnxruntime, read back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from function_cases import FUNCTIONAL, Case, Net
from tensor_cases import OPS, REFUSED, TENSOR

pytest.importorskip("onnx")

import preimage as pre
import preimage.functional as F  # noqa: N812 - as its users import it
from preimage import ops
from preimage.autograd import array_of
from preimage.io.onnx.tracing import trace

CASES = {
    **{f"F.{name}": case for name, case in FUNCTIONAL.items()},
    **{f"Tensor.{name}": case for name, case in TENSOR.items()},
    **{f"ops.{name}": case for name, case in OPS.items()},
}
#: Members of Tensor that compute nothing: they look, copy, keep records or share.
LOOK = {
    "backward", "zero_grad", "grad", "requires_grad", "is_leaf", "name", "item", "tolist", "assign", "__contains__", "__setitem__",
}  # fmt: skip
#: Operations without a word (REFUSED shows it).
WITHOUT = {"put", "conv_weight_grad"}


def arrays_of(case: Case, seed: int, times: int = 1) -> list[np.ndarray]:
    """The inputs of a row: random where it says a shape, in the order of another seed where it says values. So many times as large a batch."""
    rng = np.random.default_rng(seed)
    arrays = []
    batch, larger = np.shape(case.inputs[0])[0] if isinstance(case.inputs[0], np.ndarray) else case.inputs[0][0], times
    for given in case.inputs:
        times = larger if (given[0] if isinstance(given, tuple) else given.shape[0]) == batch else 1
        if isinstance(given, tuple):
            arrays.append(rng.standard_normal((given[0] * times, *given[1:])).astype(np.float32))
        else:
            more = np.concatenate([given] * times)
            arrays.append(rng.permutation(more.reshape(-1)).reshape(more.shape))
    return arrays


def flat(result: Any) -> list[np.ndarray]:
    """The arrays of a result, of those in tuples and lists too."""
    if isinstance(result, tuple | list):
        return [each for part in result for each in flat(part)]
    return [np.asarray(array_of(result))]


def given(arrays: list[np.ndarray], **options: Any) -> list[Any]:
    """Floats as Tensors, as a user's net gets them."""
    return [pre.Tensor(a, **options) if a.dtype.kind == "f" else a for a in arrays]


def agree(found: Any, wanted: Any, what: str, tolerance: float = 1e-5) -> None:
    found, wanted = flat(found), flat(wanted)
    assert len(found) == len(wanted), what
    for have, want in zip(found, wanted, strict=True):
        assert have.shape == want.shape, what
        assert have.dtype == want.dtype, what
        assert np.allclose(have, want, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(want).max(initial=0)))), what


def names_of(rows: dict[str, Case]) -> set[str]:
    return {name.split()[0].rstrip(",") for name in rows}


def test_every_function_of_functional_has_a_row() -> None:
    assert set(F.__all__) - names_of(FUNCTIONAL) == set()


def test_every_operation_has_a_row() -> None:
    assert set(ops.__all__) - names_of(OPS) - WITHOUT == set()


def test_every_method_and_operator_has_a_row() -> None:
    from preimage.autograd import tensor

    public = {name for name in dir(pre.Tensor) if not name.startswith("_")} | set(tensor._methods)
    assert public - names_of(TENSOR) - LOOK == set()


@pytest.mark.parametrize("name", CASES)
def test_a_function_goes_to_onnx_and_back(name: str, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    case = CASES[name]
    net = Net(case)
    example = arrays_of(case, 0)
    graph = trace(net, tuple(example))
    opened = [item.shape is not None and item.shape[:1] == ("batch",) for item in graph.inputs]
    assert opened[0] == (not case.fixed), "the batch is open where the forward does not fix it"
    path = tmp_path / "net.onnx"
    pre.save_model(graph, path)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    back, fast = pre.load_model(path), pre.optimise(graph)
    for times in (1,) if case.fixed else (1, 2, 3):
        arrays = arrays_of(case, times, times)
        with pre.no_grad():
            wanted = flat(net(*given(arrays)))
            agree(graph(*arrays), wanted, "as traced", 1e-6)
            agree(back(*arrays), wanted, "read back")
            agree(fast(*arrays), wanted, "optimised")
        feeds = {item.name: array for item, array in zip(session.get_inputs(), arrays, strict=True)}
        agree(session.run(None, feeds), wanted, "onnxruntime")
    stored = back.state_dict() | back.constants
    for key, parameter in net.named_parameters():
        assert stored[key].tobytes() == np.asarray(array_of(parameter)).tobytes(), key


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_the_graph_are_those_of_the_module(name: str) -> None:
    case = CASES[name]
    net = Net(case)
    arrays = arrays_of(case, 7)
    graph = trace(net, tuple(arrays_of(case, 0)))
    fast = pre.optimise(graph)
    leaves = [v for v in given(arrays, requires_grad=True) if isinstance(v, pre.Tensor)]
    parameters = [p for key, p in net.named_parameters() if key in graph.weights]

    def gradients(call: Any, wanted: list[Any]) -> list[np.ndarray]:
        rest = iter(leaves)
        results = [v for v in _tensors(call(*(next(rest) if a.dtype.kind == "f" else a for a in arrays))) if v.requires_grad]
        rng = np.random.default_rng(9)
        total: Any = sum(
            (ops.sum(ops.multiply(v, rng.standard_normal(v.shape).astype(v.dtype))) for v in results), pre.Tensor(0.0)
        )
        found = pre.grad(total, wanted, allow_unused=True) if results else [None] * len(wanted)
        return [np.zeros(v.shape, v.dtype) if g is None else g.data for g, v in zip(found, wanted, strict=True)]

    if case.cut or (not leaves and not parameters):
        return
    own = {id(p): p for p in (*leaves, *parameters)}
    wanted = gradients(net, list(own.values()))
    agree(gradients(graph, list(own.values())), wanted, "the graph", 1e-4)
    if leaves:
        agree(gradients(fast, leaves), wanted[: len(leaves)], "optimised", 1e-4)


def _tensors(result: Any) -> list[Any]:
    if isinstance(result, tuple | list):
        return [each for part in result for each in _tensors(part)]
    return [result] if isinstance(result, pre.Tensor) else []


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_word_is_refused_by_name(name: str) -> None:
    case, reason = REFUSED[name]
    with pytest.raises(pre.FileFormatError, match=reason):
        trace(Net(case), tuple(arrays_of(case, 0)))

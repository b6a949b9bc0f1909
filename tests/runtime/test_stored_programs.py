"""Sessions whose first run is a program that an earlier one stored: the same bits, and never a program of something else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preimage as pre
import preimage.runtime as ort
from preimage.engines import disk_cache, get, step_store
from preimage.engines.jit.compiler import kernels, object_loader
from preimage.engines.jit.elementwise import chain, kept
from preimage.engines.recording import Step
from preimage.io.graph.stored_programs import ProgramStore, packed, unpacked

if not object_loader.supported() or kernels.unavailable():
    pytest.skip("programs are not stored on this machine", allow_module_level=True)
pytest.importorskip("onnx")


def forget() -> None:
    """As in a new process: no kernel in memory that was found in another cache."""
    get("jit").forget()  # type: ignore[attr-defined]
    kernels.forget()
    kept._kept.clear()
    chain._ready.clear()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The files of the net's kernels, compiled once."""
    folder = tmp_path_factory.mktemp("kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREIMAGE_CACHE_DIR", str(folder / "cache"))
        forget()
        run(session(saved(folder)), picture())
    return [file for file in (folder / "cache").iterdir() if b'"kind"' not in file.read_bytes()[:20_000]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[Path]) -> Path:
    """A cache of its own that holds kernels and no programs."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    for file in compiled:
        shutil.copy(file, folder)
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", str(folder))
    forget()
    return folder


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return saved(tmp_path)


def saved(tmp_path: Path) -> Path:
    layers = pre.nn.Sequential(
        pre.nn.Conv2d(3, 8, 3, rng=0), pre.nn.ReLU(), pre.nn.MaxPool2d(2), pre.nn.Conv2d(8, 5, 1, rng=1), pre.nn.Sigmoid()
    )
    pre.save_model(layers, tmp_path / "net.onnx", example=np.zeros((1, 3, 16, 12), np.float32))
    return tmp_path / "net.onnx"


def picture(batch: int = 1) -> Any:
    return np.random.default_rng(16).standard_normal((batch, 3, 16, 12)).astype(np.float32)


def session(net: Any, **options: Any) -> ort.InferenceSession:
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = 1
    for name, value in options.items():
        setattr(chosen, name, value)
    return ort.InferenceSession(net, chosen)


def run(made: ort.InferenceSession, x: Any) -> Any:
    return made.run(None, {made.get_inputs()[0].name: x})[0]


def is_read(made: ort.InferenceSession) -> bool:
    """Whether the model was read to a graph."""
    return made._model._graph is not None


def programs(cache: Path) -> list[Path]:
    return [file for file in cache.iterdir() if b'"kind": "program"' in file.read_bytes()[:20_000]]


def test_a_later_session_runs_the_stored_program_with_the_same_bits(net, cache):
    first = session(net)
    wanted = run(first, picture())
    assert is_read(first)
    assert len(programs(cache)) == 1
    for source in (net, net.read_bytes()):
        later = session(source)
        assert [vars(a) for a in later.get_inputs()] == [vars(a) for a in first.get_inputs()]
        assert [vars(a) for a in later.get_outputs()] == [vars(a) for a in first.get_outputs()]
        for _ in range(3):
            assert run(later, picture()).tobytes() == wanted.tobytes()
        assert not is_read(later)
    net.unlink()
    assert later.graph.nodes  # of the bytes that were known by their digest


def with_functions(tmp_path: Path) -> Path:
    """A net some of whose nodes look at values: they stay functions between its kernels."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(5)
    weights = {
        "w": rng.standard_normal((8, 3, 3, 3)).astype(np.float32), "v": rng.standard_normal((4, 8, 1, 1)).astype(np.float32),
        "most": np.array([3], np.int64), "flat": np.array([1, 8, -1], np.int64), "square": np.array([1, 8, 14, 10], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Reshape", ["a", "flat"], ["lines"]),
        helper.make_node("TopK", ["lines", "most"], ["values", "places"], axis=1, largest=0),
        helper.make_node("ScatterElements", ["lines", "places", "values"], ["back"], axis=1),
        helper.make_node("Reshape", ["back", "square"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["c"]),
        helper.make_node("Cast", ["c"], ["whole"], to=TensorProto.INT64),  # of integers NumPy finds the largest
        helper.make_node("ArgMax", ["whole"], ["y"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes, "functions", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 12])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, None), helper.make_tensor_value_info("c", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, tmp_path / "functions.onnx")
    return tmp_path / "functions.onnx"


def test_nodes_that_stay_functions_are_stored_too(tmp_path, cache):
    net, x = with_functions(tmp_path), picture()
    first = session(net)
    wanted = first.run(None, {"x": x})
    (program,) = first.graph.programs
    assert {node.op for node, _ in program.functions} >= {"onnx.TopK", "onnx.ArgMax"}
    assert len(programs(cache)) == 1
    later = session(net)
    for k in range(3):
        others = picture() * (k + 1) - k
        found, truth = (each.run(None, {"x": others}) for each in (later, first))
        assert [a.tobytes() for a in found] == [a.tobytes() for a in truth]
        assert (k > 0) or [a.tobytes() for a in found] == [a.tobytes() for a in wanted]
    assert not is_read(later)


def test_a_function_that_gives_another_shape_needs_the_graph(tmp_path, cache):
    """How many places are not zero depends on the values: a program of one number of them is not one of another."""
    from onnx import TensorProto, helper, save

    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("NonZero", ["a"], ["places"]),
        helper.make_node("Cast", ["places"], ["b"], to=TensorProto.FLOAT),
        helper.make_node("Sigmoid", ["b"], ["y"]),
    ]
    floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [4, 64]), ("y", None))]
    graph = helper.make_graph(nodes, "places", floats[:1], floats[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "places.onnx")
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    (wanted,) = session(tmp_path / "places.onnx").run(None, {"x": x})
    later = session(tmp_path / "places.onnx")
    for other in (x, -x, np.abs(x)):
        (found,) = later.run(None, {"x": other})
        places = np.array(np.nonzero(np.maximum(other, 0)), np.float32)
        np.testing.assert_allclose(found, 1 / (1 + np.exp(-places)), rtol=1e-5)
    assert later.run(None, {"x": x})[0].tobytes() == wanted.tobytes()


@pytest.mark.parametrize("read", [False, True])
def test_a_run_like_the_one_before_looks_at_all_that_decides(net, read):
    run(session(net), picture())
    later = session(net)
    if read:
        assert later.graph.nodes
    name = later.get_inputs()[0].name
    x = picture()
    wanted = [run(later, x) for _ in range(4)][-1]
    found = run(later, x + 1)
    assert found.tobytes() != wanted.tobytes()  # other values
    np.testing.assert_array_equal(run(later, picture(batch=2))[:1], run(later, picture(batch=2)[:1]))
    np.testing.assert_array_equal(run(later, np.asfortranarray(x)), wanted)
    with pytest.raises(pre.DTypeError):
        run(later, x.astype(np.float64))
    with pytest.raises(pre.ShapeError):
        run(later, x[..., 1:])
    with pytest.raises(pre.OptionError, match="no input"):
        later.run(None, {name: x, "other": x})
    with pytest.raises(pre.OptionError, match="missing"):
        later.run(None, {})
    with pre.io.limits.limits(flop=10), pytest.raises(pre.FileFormatError, match="flop"):
        run(later, x)
    assert run(later, x).tobytes() == wanted.tobytes()
    with pre.config(engine="reference"):
        np.testing.assert_allclose(run(later, x), wanted, rtol=1e-5)
    assert run(later, x).tobytes() == wanted.tobytes()


def test_threads_that_need_the_graph_at_once(net):
    run(session(net), picture())
    later, found = session(net), []
    wanted = run(session(net, intra_op_num_threads=2), picture(batch=2))
    threads = [threading.Thread(target=lambda: found.append(run(later, picture(batch=2)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.tobytes() for each in found] == [wanted.tobytes()] * 3


def test_results_are_the_callers_own(net):
    run(session(net), picture())
    later = session(net)
    a = run(later, picture())
    before = a.copy()
    a[...] = 0
    assert run(later, picture()).tobytes() == before.tobytes()


@pytest.mark.parametrize("x", [picture(batch=2), np.asfortranarray(picture())], ids=["batch", "order"])
def test_other_inputs_are_no_stored_programs(net, x):
    run(session(net), picture())
    later = session(net)
    with pre.no_grad():
        wanted = pre.load_model(net).run({later.get_inputs()[0].name: np.ascontiguousarray(x)})
    np.testing.assert_allclose(run(later, x), *wanted.values(), rtol=1e-5, atol=1e-6)
    assert is_read(later)


def test_a_changed_byte_of_a_weight_is_another_model(net):
    first = session(net)
    wanted = run(first, picture())
    contents = bytearray(net.read_bytes())
    weight = next(iter(pre.load_model(net).weights.values())).data
    at = bytes(contents).index(weight.tobytes())
    contents[at + 2] ^= 0x40
    net.write_bytes(contents)
    changed = session(net)
    assert run(changed, picture()).tobytes() != wanted.tobytes()
    assert is_read(changed)


@pytest.mark.parametrize(
    "options",
    [
        {"accuracy": "exact"},
        {"graph_optimization_level": ort.GraphOptimizationLevel.ORT_DISABLE_ALL},
        {"intra_op_num_threads": 2},
    ],
)
def test_other_options_are_other_programs(net, options):
    wanted = run(session(net), picture())
    other = session(net, **options)
    np.testing.assert_allclose(run(other, picture()), wanted, rtol=1e-5)
    assert is_read(other)


@pytest.mark.parametrize("what", ["_source", "_machine", "_target"])
def test_another_version_or_machine_reads_nothing_of_this_one(net, monkeypatch, what):
    wanted = run(session(net), picture())
    monkeypatch.setattr(step_store(), what, lambda: "another")
    later = session(net)
    assert run(later, picture()).tobytes() == wanted.tobytes()
    assert is_read(later)


def test_the_version_changes_with_any_source_file(tmp_path):
    copy = tmp_path / "engines/jit/runtime"
    copy.mkdir(parents=True)
    (tmp_path / "a.py").write_text("")
    store = step_store()
    assert store is not None
    store._source.cache_clear()
    before = store._source()
    touched = Path(pre.__file__).parent / "io/graph/program.py"
    status = touched.stat()
    try:
        os.utime(touched, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        store._source.cache_clear()
        assert store._source() != before
    finally:
        os.utime(touched, ns=(status.st_atime_ns, status.st_mtime_ns))
        store._source.cache_clear()


@pytest.mark.parametrize("damage", ["cut", "first", "middle", "last", "empty"])
def test_damaged_files_are_made_anew(net, cache, damage):
    wanted = run(session(net), picture())
    (file,) = programs(cache)
    contents = bytearray(file.read_bytes())
    at = {"first": 0, "middle": len(contents) // 2, "last": len(contents) - 1}.get(damage)
    if at is None:
        contents = contents[: len(contents) // 2] if damage == "cut" else bytearray()
    else:
        contents[at] ^= 1
    file.write_bytes(contents)
    later = session(net)
    assert run(later, picture()).tobytes() == wanted.tobytes()
    assert is_read(later)


def test_no_store_no_program(net, cache, monkeypatch):
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", "off")
    made = session(net)
    wanted = run(made, picture())
    assert made._model._programs.store is None
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", str(cache))
    monkeypatch.setattr(os, "access", lambda *_: False)  # a folder that may be read
    assert run(session(net), picture()).tobytes() == wanted.tobytes()
    assert not cache.exists() or not programs(cache)


def test_a_program_too_large_for_the_cache_is_not_stored(net, cache, monkeypatch):
    monkeypatch.setenv("PREIMAGE_CACHE_BYTES", "60000")
    made = session(net)
    run(made, picture())
    assert "cache may hold" in str(made._model._programs.store.why)
    assert not programs(cache)


def test_a_changed_graph_is_not_the_models_any_more(net, cache):
    run(session(net), picture())
    changed = session(net)
    key = next(name for name, array in changed.graph.constants.items() if array.ndim == 4)
    array = np.array(changed.graph.constants[key] * 2)
    array.flags.writeable = False
    wanted = run(session(net), picture())
    changed.graph.constants[key] = array
    for _ in range(3):
        assert run(changed, picture()).tobytes() != wanted.tobytes()
    assert len(programs(cache)) == 1
    assert run(session(net), picture()).tobytes() == wanted.tobytes()


def test_models_with_data_in_other_files_are_read_each_time(tmp_path, net):
    onnx = pytest.importorskip("onnx")
    place = tmp_path / "apart.onnx"
    onnx.save_model(onnx.load(net), place, save_as_external_data=True, location="apart.bin", size_threshold=0)
    wanted = run(session(place), picture())
    data = bytearray((tmp_path / "apart.bin").read_bytes())
    data[2] ^= 0x40
    (tmp_path / "apart.bin").write_bytes(data)
    assert run(session(place), picture()).tobytes() != wanted.tobytes()


SCRIPT = """
import sys, numpy as np, preimage.runtime as ort
made = ort.InferenceSession(sys.argv[1])
x = np.random.default_rng(16).standard_normal((1, 3, 16, 12)).astype(np.float32)
print(made.run(None, {made.get_inputs()[0].name: x})[0].tobytes().hex(), made._model._graph is None)
"""


def test_two_processes_at_once(net, cache):
    command = [sys.executable, "-c", SCRIPT, str(net)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300)[0].split() for process in both]
    third = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout.split()
    assert said[0][0] == said[1][0] == third[0]
    assert third[1] == "True"


# ------------------------------------------------------------------------------------------ what is in the files


def parts(net: Path) -> tuple[Any, dict[str, Any]]:
    """A stored program as it is restored."""
    made = session(net)
    run(made, picture())
    (program,) = made.graph.programs
    store = step_store()
    assert store is not None
    said, arrays = store.stored(program.items)
    return {"steps": said, "sizes": [program.layout.planned, picture().nbytes, *(size for _, size in program.layout.own)]}, arrays


def test_every_index_and_offset_is_looked_at(net):
    said, arrays = parts(net)
    store = step_store()
    assert store is not None
    store.restored(said["steps"], arrays, said["sizes"])
    wrong = {
        "vectors0": [], "in_code0": [len(arrays["vectors0"]), -1], "in_data0": [len(arrays["vectors0"]), -1],
        "patches0": [1 << 40, -1], "steps0": [1 << 40, -1], "absolute": [1 << 40, -1],
    }  # fmt: skip
    for name, values in wrong.items():
        for value in values:
            for column in range(arrays[name].shape[1] if arrays[name].ndim > 1 else 1):
                if not arrays[name].size:
                    continue
                spoilt = arrays[name].copy()
                spoilt.reshape(len(spoilt), -1)[-1, column] = value
                with pytest.raises(ValueError, match="outside"):
                    store.restored(said["steps"], arrays | {name: spoilt}, said["sizes"])
    in_data = arrays["vectors0"].copy()
    in_data[arrays["in_data0"][0]] = arrays["data"].size
    for spoilt in ({"vectors0": in_data}, {"data": arrays["data"][:8]}, {"code": arrays["code"][:8]}):
        with pytest.raises(ValueError, match="outside"):
            store.restored(said["steps"], arrays | spoilt, said["sizes"])
    for name in ("vectors0", "steps0", "patches0"):
        with pytest.raises(ValueError, match="wrong kind"):
            store.restored(said["steps"], arrays | {name: arrays[name].astype(np.float64)}, said["sizes"])
    with pytest.raises(ValueError, match="outside"):
        store.restored(said["steps"] | {"replay": 1 << 40}, arrays, said["sizes"])
    with pytest.raises(ValueError, match="outside"):
        store.restored(said["steps"], arrays, [0 for _ in said["sizes"]])


def test_an_address_that_nobody_calls_one_is_not_stored(net):
    made = session(net)
    run(made, picture())
    (program,) = made.graph.programs
    store, replay = step_store(), type(program.items[0])
    assert store is not None
    code = program.items[0].tables.codes[0]
    hidden = np.zeros(8)
    good = replay.recorded([Step(code, [1, 2], [], 1, False)], {})
    store.stored([good])
    bad = replay.recorded([Step(code, [1, hidden.ctypes.data], [], 1, False)], {})
    with pytest.raises(store.NotStorableError, match="nobody called one"):
        store.stored([bad])
    table = np.array([0, hidden.ctypes.data])
    inside = replay.recorded([Step(code, [table.ctypes.data], [], 1, False, [(0, table)])], {})
    with pytest.raises(store.NotStorableError, match="nobody called one"):
        store.stored([inside])


def test_arrays_as_bytes_and_back():
    arrays = {
        "a": np.arange(7),
        "b": np.zeros((2, 0, 3), np.float32),
        "c": np.array(True),
        "d": np.arange(6, dtype=np.int16).reshape(2, 3).T,
    }
    block = memoryview(b"".join(bytes(piece) for piece in packed({"x": [1, "y"]}, arrays)))
    said, found = unpacked(block)
    assert said == {"x": [1, "y"]}
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    for cut in (0, 5, 40, len(block) - 64):
        with pytest.raises((ValueError, KeyError, TypeError)):
            unpacked(block[:cut])


def test_what_is_stored_under_a_key_is_found_under_no_other(cache):
    store = ProgramStore("origin")
    store.note("key", {"a": 1})
    assert store.said("key") == {"a": 1}
    assert store.said("other") is None
    assert ProgramStore("another origin").said("key") is None
    assert disk_cache.info().files >= 1

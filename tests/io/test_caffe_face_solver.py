"""Solvers as scripts for pycaffe use them: snapshots and states, callbacks, test nets, weights, data; the rules are in test_caffe_solver."""

import gc
import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preimage import caffe
from preimage.caffe.solver_state import read_state
from preimage.errors import FileFormatError, OptionError, OutputError, PreimageError
from preimage.io.caffe import parse_text

RNG = np.random.default_rng(12)
X, T = RNG.standard_normal((6, 3)).astype(np.float32), RNG.standard_normal((6, 2)).astype(np.float32)
NET = """
layer { name: "in" type: "Input" top: "x" top: "t" input_param { shape { dim: 6 dim: 3 } shape { dim: 6 dim: 2 } } }
layer { name: "norm" type: "BatchNorm" bottom: "x" top: "n" }
layer { name: "f" type: "InnerProduct" bottom: "n" top: "y" param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  inner_product_param { num_output: 2 weight_filler { type: "gaussian" std: 0.5 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }
"""
BASE = 'net: "net" random_seed: 4 base_lr: 0.1 lr_policy: "step" gamma: 0.5 stepsize: 2 momentum: 0.9 momentum2: 0.99 weight_decay: 0.05 '
DUMMY = """
layer { type: "DummyData" name: "d" top: "x" top: "t" dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 }
  data_filler { type: "gaussian" } data_filler { type: "constant" value: 1 } } }
layer { type: "InnerProduct" name: "f" bottom: "x" top: "y" inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { type: "SoftmaxWithLoss" name: "loss" bottom: "y" bottom: "t" top: "loss" }
"""


def made(folder: Path, text: str, net: str = NET, **options: Any) -> Any:
    (folder / "net").write_text(net)
    (folder / "tmpsolver").write_text(text)
    solver = caffe.get_solver(str(folder / "tmpsolver"), **options)
    if "x" in solver.net.inputs:
        solver.net.blobs["x"].data[...], solver.net.blobs["t"].data[...] = X, T
    return solver


def weights(solver: Any) -> list[Any]:
    return [blob.data.copy() for blobs in solver.net.params.values() for blob in blobs]


def equal(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# -- steps -------------------------------------------------------------------------------------------------------------


def test_solve_makes_all_iterations(tmp_path: Path) -> None:
    text = 'net: "net" test_iter: 2 test_interval: 10 base_lr: 0.01 lr_policy: "inv" gamma: 0.0001 power: 0.75 max_iter: 20 '
    text += "snapshot_after_train: false"
    solver = made(tmp_path, text, DUMMY)
    assert (solver.iter, type(solver)) == (0, caffe.SGDSolver)
    solver.solve()
    assert solver.iter == 20
    assert solver.param.max_iter == 20
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net", "tmpsolver"]


def test_an_update_is_the_rate_times_the_diffs(tmp_path: Path) -> None:
    solver = made(tmp_path, BASE)
    solver.net.layers[2].blobs[0].data[...] = 0
    slopes = RNG.standard_normal((2, 3)).astype(np.float32)
    solver.net.layers[2].blobs[0].diff[...] = slopes
    before = solver.net.params["f"][1].data.copy()
    solver.net.params["f"][1].diff[...] = 1
    solver.apply_update()
    assert np.allclose(solver.net.params["f"][0].data, -0.1 * slopes, atol=1e-7)
    assert np.allclose(solver.net.params["f"][1].data, before - 0.2, atol=1e-7)
    assert np.allclose(solver.net.params["f"][0].diff, 0.1 * slopes, atol=1e-7)  # what was taken off, as in Caffe
    assert (solver.iter, solver.lr) == (1, pytest.approx(0.1))


def test_the_learning_rate_can_be_looked_at_and_changed(tmp_path: Path) -> None:
    solver = made(tmp_path, BASE)
    solver.step(2)
    assert solver.lr == pytest.approx(0.05)
    solver.param.base_lr = 1.0
    assert solver.lr == pytest.approx(0.5)


def test_gradients_are_clipped_before_they_are_divided(tmp_path: Path) -> None:
    text = 'net: "net" base_lr: 1 lr_policy: "fixed" iter_size: 4 clip_gradients: 2'
    solver = made(tmp_path, text)
    before = weights(solver)
    solver.step(1)
    moved = [(a - b) / r for a, b, r in zip(weights(solver)[3:], before[3:], (1, 2), strict=True)]
    assert np.sqrt(sum((m.astype(np.float64) ** 2).sum() for m in moved)) == pytest.approx(2 / 4, rel=1e-3)


def test_callbacks_come_before_the_pass_and_before_the_update(tmp_path: Path) -> None:
    solver = made(tmp_path, BASE)
    seen: list[Any] = []
    first = weights(solver)
    solver.add_callback(
        lambda: seen.append(("start", solver.iter, float(np.abs(solver.net.params["f"][0].diff).sum()))),
        lambda: seen.append(
            ("ready", solver.iter, float(np.abs(solver.net.params["f"][0].diff).sum()), equal(weights(solver)[3:], first[3:]))
        ),
    )
    solver.add_callback(None, lambda: seen.append("second"))
    solver.step(2)
    assert [s[:2] if isinstance(s, tuple) else s for s in seen] == [
        ("start", 0), ("ready", 0), "second", ("start", 1), ("ready", 1), "second",
    ]  # fmt: skip
    assert seen[0][2] == 0
    assert seen[1][2] > 0
    assert seen[1][3]
    with pytest.raises(OptionError, match="callable"):
        solver.add_callback(3)


def test_nets_outlive_their_solver(tmp_path: Path) -> None:
    solver = made(tmp_path, BASE + "test_iter: 1 test_interval: 9")
    nets = [solver.net, *solver.test_nets]
    wanted = weights(solver)
    del solver
    gc.collect()
    assert len(nets) == 2
    for net in nets:
        assert equal([blob.data for blobs in net.params.values() for blob in blobs], wanted)
        assert all(np.isfinite(blob.diff).all() for blob in net.blobs.values())


# -- snapshots ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["BINARYPROTO", "HDF5"])
@pytest.mark.parametrize("rule", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
def test_a_restored_solver_goes_on_with_the_same_bits(rule: str, kind: str, tmp_path: Path) -> None:
    if kind == "HDF5":
        pytest.importorskip("h5py", reason="h5py is an extra")
    momentum = "" if rule in ("AdaGrad", "RMSProp") else "momentum: 0.9"
    text = (
        BASE.replace("momentum: 0.9", momentum)
        + f'type: "{rule}" snapshot_prefix: "{tmp_path}/s" snapshot_format: {kind} test_iter: 1 test_interval: 99'
    )
    solver = made(tmp_path, text)
    solver.step(3)
    ending = ".h5" if kind == "HDF5" else ""
    assert solver.snapshot() == tmp_path / f"s_iter_3.caffemodel{ending}"
    solver.step(3)
    other = made(tmp_path, text.replace("random_seed: 4", "random_seed: 5"))
    assert not equal(weights(other), weights(solver))
    other.restore(str(tmp_path / f"s_iter_3.solverstate{ending}"))
    assert other.iter == 3
    other.step(3)
    assert equal(weights(other), weights(solver))
    assert other.test_nets[0].params["f"][0].data is other.net.params["f"][0].data
    third = made(tmp_path, text + " max_iter: 6 snapshot_after_train: false")
    third.solve(tmp_path / f"s_iter_3.solverstate{ending}")
    assert equal(weights(third), weights(solver))


def test_states_are_caffes_messages(tmp_path: Path) -> None:
    """Bytes written here: field 1 the iteration, 2 the weights' file, 3 a blob for each parameter, 4 the step of the rate's policy."""
    solver = made(tmp_path, BASE + f'snapshot_prefix: "{tmp_path}/s"')
    solver.step(5)
    solver.snapshot()
    name = f"{tmp_path}/s_iter_5.caffemodel".encode()
    data = b"\x08\x05" + b"\x12" + bytes([len(name)]) + name
    history = [
        solver.history.get(n, (np.zeros(p.shape, np.float32),))[0] for n, p in solver.net._graph.assembly.parameters.items()
    ]
    for array in history:
        dims = bytes(array.shape)
        values = array.astype("<f4").tobytes()
        shape = b"\x3a" + bytes([2 + len(dims), 0x0A, len(dims)]) + dims
        blob = b"\x2a" + bytes([len(values)]) + values + shape
        data += b"\x1a" + bytes([len(blob)]) + blob
    data += b"\x20\x02"
    assert [h.shape for h in history] == [(3,), (3,), (1,), (2, 3), (2,)]
    assert (tmp_path / "s_iter_5.solverstate").read_bytes() == data
    old = b"".join(  # Caffe before 2014's end: four sizes, numbers one by one
        b"\x1a" + bytes([len(blob)]) + blob
        for blob in (
            b"".join(bytes([8 * (k + 1), size]) for k, size in enumerate((1,) * (4 - h.ndim) + h.shape))
            + b"".join(b"\x2d" + struct.pack("<f", v) for v in h.ravel())
            for h in history
        )
    )
    (tmp_path / "old").write_bytes(b"\x08\x05" + old)
    state = read_state(tmp_path / "old", [h.shape for h in history])
    assert (state.iter, state.learned_net) == (5, "")
    assert equal(list(state.history), history)


def test_states_move_with_their_weights(tmp_path: Path, monkeypatch: Any) -> None:
    solver = made(tmp_path, BASE + f'snapshot_prefix: "{tmp_path}/s"')
    solver.step(2)
    solver.snapshot()
    wanted = weights(solver)
    (tmp_path / "moved").mkdir()
    for file in tmp_path.glob("s_iter_2.*"):
        file.rename(tmp_path / "moved" / file.name)
    solver.step(1)
    solver.restore(tmp_path / "moved" / "s_iter_2.solverstate")
    assert equal(weights(solver), wanted)
    (tmp_path / "moved" / "s_iter_2.caffemodel").unlink()
    with pytest.raises(RuntimeError, match="neither there nor beside it"):
        solver.restore(tmp_path / "moved" / "s_iter_2.solverstate")


def test_broken_states_change_nothing(tmp_path: Path) -> None:
    solver = made(tmp_path, BASE + f'snapshot_prefix: "{tmp_path}/s"')
    solver.step(2)
    good = Path(str(solver.snapshot()).replace("caffemodel", "solverstate")).read_bytes()
    solver.step(1)
    wanted = weights(solver)
    adam = made(tmp_path, BASE + 'type: "Adam"')
    with pytest.raises(FileFormatError, match="another type of solver"):
        adam.restore(tmp_path / "s_iter_2.solverstate")
    cases = [good[:cut] for cut in range(0, len(good), 7)] + [b"\x08" + b"\xff" * 9 + b"\x01" + good[2:], NET.encode()]
    for data in cases:
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(PreimageError):
            solver.restore(tmp_path / "bad")
        assert (solver.iter, equal(weights(solver), wanted)) == (3, True)
    with pytest.raises(RuntimeError, match="cannot be read"):
        solver.restore(tmp_path / "none")


def test_where_snapshots_go(tmp_path: Path) -> None:
    for prefix, wanted in (("", "tmpsolver_iter_0"), (str(tmp_path), "tmpsolver_iter_0"), (f"{tmp_path}/p", "p_iter_0")):
        solver = made(tmp_path, BASE + (f'snapshot_prefix: "{prefix}"' if prefix else ""))
        assert solver.snapshot() == tmp_path / f"{wanted}.caffemodel"
        assert (tmp_path / f"{wanted}.solverstate").exists()
    with pytest.raises(OutputError, match="there is no folder"):
        made(tmp_path, BASE + f'snapshot: 5 snapshot_prefix: "{tmp_path}/none/s"')
    unnamed = caffe.get_solver(parse_text("SolverParameter", BASE.replace('"net"', f'"{tmp_path}/net"')))
    with pytest.raises(OptionError, match="no snapshot_prefix"):
        unnamed.snapshot()
    every = made(tmp_path, BASE + f'snapshot: 2 max_iter: 5 snapshot_prefix: "{tmp_path}/e"')
    every.solve()
    assert sorted(p.name for p in tmp_path.glob("e_*.caffemodel")) == [f"e_iter_{k}.caffemodel" for k in (2, 4, 5)]


def test_snapshots_with_diffs(tmp_path: Path) -> None:
    solver = made(tmp_path, BASE + f'snapshot_diff: true snapshot_prefix: "{tmp_path}/s"')
    solver.step(1)
    net = caffe.proto.caffe_pb2.NetParameter()
    net.ParseFromString(solver.snapshot().read_bytes())
    layer = next(layer for layer in net.layer if layer.name == "f")
    assert np.array_equal(caffe.io.blobproto_to_array(layer.blobs[0], return_diff=True), solver.net.params["f"][0].diff)


# -- nets --------------------------------------------------------------------------------------------------------------


def test_several_test_nets_and_weights(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(NET)
    (tmp_path / "b").write_text(
        NET.replace(
            'name: "loss"', 'name: "other" include { stage: "s" } } layer { name: "loss" include { not_stage: "s" }'
        ).replace('include { stage: "s" } }', 'include { stage: "s" } type: "EuclideanLoss" bottom: "y" bottom: "t" top: "o" }')
    )
    base = made(tmp_path, BASE)
    base.net.save(tmp_path / "w.caffemodel")
    base.net.params["f"][1].data[...] = 7
    base.net.save(tmp_path / "v.caffemodel")
    common = 'base_lr: 0.1 lr_policy: "fixed" test_interval: 5 '
    solver = made(
        tmp_path,
        common + 'train_net: "a" test_net: "a" test_net: "b" test_iter: 1 test_iter: 2 weights: "w.caffemodel, v.caffemodel" '
        'test_state { } test_state { stage: "s" }',
    )
    assert [net.outputs for net in solver.test_nets] == [["loss"], ["o"]]
    for net in (solver.net, *solver.test_nets):
        assert np.array_equal(net.params["f"][0].data, base.net.params["f"][0].data)
        assert (net.params["f"][1].data == 7).all()
    solver.net.params["f"][1].data[...] = 8
    assert all((net.params["f"][1].data == 8).all() for net in solver.test_nets)
    inline = made(
        tmp_path,
        common
        + 'net: "a" test_net: "b" test_iter: 1 test_iter: 1 test_iter: 1 test_net_param { '
        + NET.replace('top: "loss"', 'top: "inline"')
        + " }",
    )
    assert [net.outputs for net in inline.test_nets] == [["inline"], ["loss"], ["loss"]]
    with pytest.raises(RuntimeError, match="there is no such file"):
        made(tmp_path, BASE + 'weights: "none.caffemodel"')


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('train_net: "net" test_net: "net" test_interval: 1', "0 test_iter for 1"),
        ('train_net: "net" test_iter: 1 test_interval: 1', "1 test_iter for 0"),
        ('net: "net" test_iter: 1', "test_interval above 0"),
        ('net: "net" test_iter: 1 test_interval: 1 test_state { } test_state { }', "2 test_state for 1"),
        ('net: "net" train_net: "net"', "names 2 train nets"),
        ("", "names no train net"),
        ('net: "none"', "no such file"),
        ('net: "net" regularization_type: "L3"', "'L3' is unknown"),
    ],
)  # fmt: skip
def test_solver_files_that_contradict_themselves(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(PreimageError, match=problem):
        made(tmp_path, text + ' base_lr: 1 lr_policy: "fixed"').step(1)
    with pytest.raises(OptionError, match="SolverParameter"):
        caffe.get_solver(parse_text("NetParameter", ""))
    with pytest.raises(RuntimeError, match="cannot be read"):
        caffe.SGDSolver(str(tmp_path / "none"))


def test_tests_are_means_and_come_every_interval(tmp_path: Path, caplog: Any) -> None:
    values = [1.0, 2, 6, 3, 5, 7]
    batches = [{"x": np.full((6, 3), v, np.float32), "t": T} for v in values]
    text = BASE + "test_iter: 3 test_interval: 2 display: 1 test_initialization: false"
    solver = made(tmp_path, text, test_data=batches)
    with caplog.at_level(logging.INFO, "preimage.caffe"):
        solver.step(2)
        assert solver.test_results == [{}]
        solver.step(1)
    net, wanted = solver.test_nets[0], []
    with_weights = solver.net.params["f"]
    before = [blob.data.copy() for blob in with_weights]
    result = solver.test(0)["loss"]  # the batches 3, 5, 7
    mean, var, factor = (blob.data.astype(np.float64) for blob in net.params["norm"])
    for v in values[3:]:
        normed = (v - mean / factor) / np.sqrt(var / factor + 1e-5)
        y = np.tile(normed, (6, 1)) @ before[0].T.astype(np.float64) + before[1]
        wanted.append(((y - T) ** 2).sum() / 12)
    assert float(result) == pytest.approx(np.mean(wanted), rel=1e-3)
    said = [record.message for record in caplog.records]
    assert [line.split(",")[0] for line in said] == ["Iteration 0", "Iteration 1", "Iteration 2", "Iteration 2"]
    first = made(tmp_path, text.replace("test_initialization: false", ""), test_data=[batches[:2]])
    first.step(1)
    assert first.test_results[0]["loss"].shape == ()
    with pytest.raises(OptionError, match="2 sources for 1"):
        made(tmp_path, text, test_data=[batches, batches])


LENET = """
name: "LeNet"
layer { name: "mnist" type: "Data" top: "data" top: "label" include { phase: TRAIN } transform_param { scale: 0.00390625 }
  data_param { source: "examples/mnist/mnist_train_lmdb" batch_size: 64 backend: LMDB } }
layer { name: "mnist" type: "Data" top: "data" top: "label" include { phase: TEST } transform_param { scale: 0.00390625 }
  data_param { source: "examples/mnist/mnist_test_lmdb" batch_size: 100 backend: LMDB } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 4 kernel_size: 5 stride: 1 weight_filler { type: "xavier" } bias_filler { type: "constant" } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool1" top: "ip" inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
LENET_SOLVER = """
# The train/test net protocol buffer definition
net: "examples/mnist/lenet_train_test.prototxt"
test_iter: 100
test_interval: 500
base_lr: 0.01
momentum: 0.9
weight_decay: 0.0005
lr_policy: "inv"
gamma: 0.0001
power: 0.75
display: 100
max_iter: 10000
snapshot: 5000
snapshot_prefix: "SNAPSHOTS/lenet"
solver_mode: GPU
"""


def test_a_solver_file_of_caffes_own_examples_takes_data_from_an_argument(tmp_path: Path, monkeypatch: Any) -> None:
    """Paths count from Caffe's root, the data lie in a database: LeNet's standard solver."""
    folder = tmp_path / "root" / "examples" / "mnist"
    folder.mkdir(parents=True)
    (folder / "lenet_train_test.prototxt").write_text(LENET)
    (folder / "lenet_solver.prototxt").write_text(LENET_SOLVER.replace("SNAPSHOTS", str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    path = str(folder / "lenet_solver.prototxt")
    with pytest.raises(FileFormatError, match="input_shapes"):
        caffe.SGDSolver(path)

    def batches(count: int) -> Any:
        while True:
            labels = RNG.integers(0, 10, count)
            images = RNG.random((count, 1, 16, 16)) * 0.1
            images[np.arange(count), 0, labels, 3:12] += 1
            yield {"data": images, "label": labels}

    solver = caffe.SGDSolver(path, data=batches(64), test_data=batches(100))
    assert (solver.net.blobs["data"].shape, solver.test_nets[0].blobs["data"].shape) == ((64, 1, 16, 16), (100, 1, 16, 16))
    solver.param.test_iter = [2]
    solver.step(30)
    assert float(solver.test_results[0]["accuracy"]) < 0.5 < float(solver.test()["accuracy"])
    untested = caffe.SGDSolver(path, data=batches(64))  # the test net then has the train net's sizes, and is not run without data
    untested.step(1)
    assert (untested.test_results, untested.test_nets[0].blobs["data"].shape) == ([{}], (64, 1, 16, 16))
    filled = caffe.SGDSolver(path, input_shapes={"data": (8, 1, 16, 16)})
    assert (filled.net.blobs["data"].shape, filled.net.blobs["label"].shape) == ((8, 1, 16, 16), (8,))
    with pytest.raises(FileFormatError, match="does not fit"):
        caffe.SGDSolver(path, input_shapes={"data": (8, 1, 3, 3)})


def test_other_nets_can_share_the_weights(tmp_path: Path) -> None:
    solver = made(tmp_path, BASE)
    net = caffe.Net(str(tmp_path / "net"), caffe.TEST)
    solver.share_weights(net)
    solver.step(1)
    assert net.params["f"][0].data is solver.net.params["f"][0].data

"""Python layers: parameters, phases, exceptions, shapes that change, forward and backward through the DAG."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preimage as pre
import preimage.io.caffe as files
from preimage import caffe
from preimage.errors import FileFormatError, OptionError, PreimageError

RNG = np.random.default_rng(8)
LOG: list[Any] = []


class Times(caffe.Layer):
    """Multiplies by the number in param_str, or by ten."""

    def setup(self, bottom: Any, top: Any) -> None:
        LOG.append(("setup", self.phase))
        self.factor = float(self.param_str or 10)

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[...] = self.factor * bottom[0].data

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        LOG.append(("backward", self.factor, propagate_down))
        bottom[0].diff[...] = self.factor * top[0].diff


class Mixer(caffe.Layer):
    """(a, b) -> (a + w b, a b) with a learned w for each channel, which a second blob (not used) follows."""

    def setup(self, bottom: Any, top: Any) -> None:
        self.blobs.add_blob(bottom[0].shape[1])
        self.blobs.add_blob()
        self.blobs[0].data[...] = np.arange(bottom[0].shape[1]) + 1
        self.mine = self.blobs[0]

    def reshape(self, bottom: Any, top: Any) -> None:
        for blob in top:
            blob.reshape(*bottom[0].shape)

    def forward(self, bottom: Any, top: Any) -> None:
        (a, b), w = (blob.data for blob in bottom), self.mine.data[:, None]
        top[0].data[...] = a + w * b
        top[1].data[...] = a * b

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        LOG.append(("mixer", propagate_down))
        (a, b), (g, h), w = (blob.data for blob in bottom), (blob.diff for blob in top), self.mine.data[:, None]
        self.mine.diff[...] += (g * b).sum((0, 2))
        if propagate_down[0]:
            bottom[0].diff[...] = g + h * b
        if propagate_down[1]:
            bottom[1].diff[...] = w * g + h * a


class InPlaceAbs(caffe.Layer):
    """|x| in the blob that it takes."""

    def reshape(self, bottom: Any, top: Any) -> None:
        assert bottom[0] is top[0]

    def forward(self, bottom: Any, top: Any) -> None:
        self.sign = np.sign(bottom[0].data)
        top[0].data[...] = np.abs(bottom[0].data)

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        bottom[0].diff[...] = self.sign * top[0].diff


class Rows(caffe.Layer):
    """Makes as many rows as it is told before each pass: its top's shape is known in `forward` alone."""

    rows = 2

    def setup(self, bottom: Any, top: Any) -> None:
        top[0].reshape(1, 3)

    def reshape(self, bottom: Any, top: Any) -> None:
        pass

    def forward(self, bottom: Any, top: Any) -> None:
        LOG.append("rows")
        top[0].reshape(self.rows, 3)
        top[0].data[...] = np.arange(self.rows)[:, None]


class HalfSquare(caffe.Layer):
    """The loss |a - b|^2 / 2n of two bottoms, as everybody's first Python layer."""

    def setup(self, bottom: Any, top: Any) -> None:
        if len(bottom) != 2:
            raise Exception("need two bottoms")

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(1)

    def forward(self, bottom: Any, top: Any) -> None:
        self.error = bottom[0].data - bottom[1].data
        top[0].data[...] = (self.error**2).sum() / (2 * bottom[0].num)

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        LOG.append(("loss", propagate_down))
        for k, sign in ((0, 1), (1, -1)):
            if propagate_down[k]:
                bottom[k].diff[...] = sign * self.error / bottom[k].num * top[0].diff


class Phase(caffe.Layer):
    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape()

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[()] = self.phase


class Watcher(caffe.Layer):
    """No tops."""

    def reshape(self, bottom: Any, top: Any) -> None:
        pass

    def forward(self, bottom: Any, top: Any) -> None:
        LOG.append(("seen", bottom[0].data.copy()))


class Own(caffe.Layer):
    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(1)

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[...] = len(self.blobs)


class Raises(caffe.Layer):
    """Raises what param_str says where it says."""

    def act(self, where: str) -> None:
        place, _, name = self.param_str.partition(" ")
        if place == where:
            raise {"ValueError": ValueError, "TypeError": TypeError, "RuntimeError": RuntimeError, "KeyError": KeyError}[name](
                "by hand"
            )

    def setup(self, bottom: Any, top: Any) -> None:
        self.act("setup")

    def reshape(self, bottom: Any, top: Any) -> None:
        self.act("reshape")
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom: Any, top: Any) -> None:
        self.act("forward")

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        self.act("backward")


def python(name: str, bottoms: str, tops: str, layer: str, param: str = "", extra: str = "") -> str:
    ends = "".join(f' bottom: "{b}"' for b in bottoms.split()) + "".join(f' top: "{t}"' for t in tops.split())
    return (
        f'layer {{ name: "{name}" type: "Python"{ends} {extra} '
        f'python_param {{ module: "{__name__}" layer: "{layer}" param_str: "{param}" }} }}\n'
    )


def data(name: str, *shape: int) -> str:
    return f'input: "{name}" input_shape {{ {" ".join(f"dim: {n}" for n in shape)} }}\n'


def net(folder: Path, text: str, phase: int = caffe.TRAIN, **options: Any) -> Any:
    (folder / "tmpnet").write_text(text)
    LOG.clear()
    return caffe.Net(str(folder / "tmpnet"), phase, **options)


THREE = (
    "force_backward: true "
    + data("x", 5, 4, 3)
    + python("a", "x", "y", "Times")
    + python("b", "y", "z", "Times", "0.5")
    + python("c", "z", "q", "Times")
)


# -- passes ------------------------------------------------------------------------------------------------------------


def test_forward_and_backward(tmp_path: Path) -> None:
    made = net(tmp_path, THREE)
    assert LOG == [("setup", caffe.TRAIN)] * 3
    made.blobs["x"].data[...] = RNG.integers(-9, 9, (5, 4, 3))
    assert np.array_equal(made.forward()["q"], 50 * made.blobs["x"].data)
    slope = RNG.integers(-9, 9, (5, 4, 3))
    made.blobs["q"].diff[...] = slope
    assert np.array_equal(made.backward()["x"], 50 * slope)
    assert np.array_equal(made.blobs["z"].diff, 10 * slope)
    assert [entry[1] for entry in LOG if entry[0] == "backward"] == [10, 0.5, 10]
    fresh = net(tmp_path, THREE)  # backward first
    fresh.blobs["q"].diff[...] = slope
    assert np.array_equal(fresh.backward()["x"], 50 * slope)


def test_only_the_layers_asked_for_run(tmp_path: Path) -> None:
    made = net(tmp_path, THREE)
    made.blobs["y"].data[...] = 2
    assert np.array_equal(made.forward(start="b", end="b")["z"], np.ones((5, 4, 3)))
    made.forward()
    LOG.clear()
    made.blobs["z"].diff[...] = 4
    assert np.array_equal(made.backward(start="b", end="b")["y"], np.full((5, 4, 3), 2))
    assert LOG == [("backward", 0.5, [True])]


def test_layers_outside_the_part_that_runs_backwards_are_left_alone(tmp_path: Path) -> None:
    made = net(
        tmp_path,
        data("a", 2, 3, 2)
        + python("mix", "a a", "s m", "Mixer")
        + python("t", "s", "y", "Times")
        + 'layer { name: "e" type: "Silence" bottom: "m" }',
    )
    made.forward()
    LOG.clear()
    made.blobs["y"].diff[...] = 1
    made.backward(start="t", end="t")
    assert [entry[0] for entry in LOG] == ["backward"]
    assert (made.blobs["s"].diff == 10).all()
    assert (made.params["mix"][0].diff == 0).all()
    made.backward(start="t")
    assert [entry[0] for entry in LOG] == ["backward", "backward", "mixer"]


def test_other_sizes(tmp_path: Path) -> None:
    made = net(tmp_path, THREE)
    made.blobs["x"].reshape(4, 4, 4, 4)
    made.reshape()
    assert {blob.shape for blob in made.blobs.values()} == {(4, 4, 4, 4)}
    made.forward()
    assert {blob.data.shape for blob in made.blobs.values()} == {(4, 4, 4, 4)}
    assert [entry for entry in LOG if entry[0] == "setup"] == [("setup", caffe.TRAIN)] * 3  # once


def test_several_bottoms_and_tops_with_a_learned_blob(tmp_path: Path) -> None:
    """Against the formulas, with further layers on both sides and a blob that two layers take."""
    text = (
        "force_backward: true " + data("a", 4, 3, 2) + data("b", 4, 3, 2)
        + 'layer { name: "p" type: "Power" bottom: "a" top: "aa" power_param { scale: 2 } }'
        + python("mix", "aa b", "s m", "Mixer") + 'layer { name: "e" type: "Eltwise" bottom: "s" bottom: "m" bottom: "aa" top: "out" }'
    )  # fmt: skip
    made = net(tmp_path, text)
    a, b, g = (RNG.integers(-5, 6, (4, 3, 2)).astype(np.float32) for _ in range(3))
    w = np.arange(1, 4, dtype=np.float32)
    assert [blob.data.shape for blob in made.params["mix"]] == [(3,), ()]
    assert np.array_equal(made.params["mix"][0].data, w)
    made.blobs["a"].data[...], made.blobs["b"].data[...] = a, b
    assert np.array_equal(made.forward()["out"], 2 * a + w[:, None] * b + 2 * a * b + 2 * a)
    made.blobs["out"].diff[...] = g
    LOG.clear()
    made.backward()
    assert LOG == [("mixer", [True, True])]  # once, for all tops
    assert np.array_equal(made.blobs["a"].diff, 2 * (g + g * b + g))
    assert np.array_equal(made.blobs["b"].diff, w[:, None] * g + g * 2 * a)
    assert np.array_equal(made.params["mix"][0].diff, (g * b).sum((0, 2)))
    made.backward()
    assert np.array_equal(made.params["mix"][0].diff, 2 * (g * b).sum((0, 2)))
    assert made.layer_dict["mix"].mine is made.params["mix"][0]
    made.clear_param_diffs()
    assert (made.layer_dict["mix"].mine.diff == 0).all()


def test_in_place(tmp_path: Path) -> None:
    made = net(
        tmp_path,
        "force_backward: true "
        + data("x", 2, 3)
        + 'layer { name: "p" type: "Power" bottom: "x" top: "y" power_param { scale: 3 } }'
        + python("abs", "y", "y", "InPlaceAbs")
        + 'layer { name: "q" type: "Power" bottom: "y" top: "z" power_param { shift: 1 } }',
    )
    x = np.array([[1, -2, 3], [-4, 5, -6]], np.float32)
    made.blobs["x"].data[...] = x
    assert np.array_equal(made.forward()["z"], 3 * np.abs(x) + 1)
    made.blobs["z"].diff[...] = 1
    assert np.array_equal(made.backward()["x"], 3 * np.sign(x))


def test_shapes_that_only_forward_knows(tmp_path: Path) -> None:
    chain = net(tmp_path, python("rows", "", "r", "Rows") + python("t", "r", "y", "Times"), caffe.TEST)
    for rows in (2, 4):
        chain.layers[0].rows = rows
        assert np.array_equal(chain.forward()["y"], 10 * np.outer(np.arange(rows), np.ones(3)))
    made = net(
        tmp_path,
        python("rows", "", "r", "Rows") + 'layer { name: "f" type: "InnerProduct" bottom: "r" top: "y" '
        'inner_product_param { num_output: 2 weight_filler { type: "gaussian" } } }',
        caffe.TEST,
    )
    assert made.blobs["r"].shape == (1, 3)
    for rows in (2, 5, 1):
        made.layers[0].rows = rows  # the instance, as scripts that hand a data base to a layer need it
        assert np.allclose(made.forward()["y"], np.outer(np.arange(rows), made.params["f"][0].data.sum(1)), atol=1e-5)
    made.layers[0].rows = 3
    made.forward()
    LOG.clear()
    made.blobs["y"].diff[...] = 1
    made.backward()  # records the pass again, in the TEST phase, on the same data
    assert LOG == []
    assert np.array_equal(made.params["f"][0].diff, np.full((2, 3), 3))


@pytest.mark.parametrize("phase", [caffe.TRAIN, caffe.TEST])
def test_phase_layers_without_tops_and_own_constructors(phase: int, tmp_path: Path) -> None:
    made = net(
        tmp_path, python("p", "", "phase", "Phase") + python("w", "phase", "", "Watcher") + python("o", "", "n", "Own"), phase
    )
    out = made.forward()
    assert (float(out["phase"]) if "phase" in out else float(made.blobs["phase"].data)) == phase
    assert LOG[-1][0] == "seen"
    assert float(out["n"][0]) == 0
    assert made.layers[2].arguments[0].python_param.layer == "Own"
    made.backward()


# -- which bottoms -----------------------------------------------------------------------------------------------------


def test_losses_and_what_propagates_down(tmp_path: Path) -> None:
    fc = 'layer { name: "f" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 2 weight_filler { type: "gaussian" } } }'
    text = data("x", 6, 3) + data("t", 6, 2) + fc + python("loss", "y t", "loss", "HalfSquare", extra="loss_weight: 3")
    made = net(tmp_path, text)
    x, t = RNG.standard_normal((6, 3)), RNG.standard_normal((6, 2))
    made.blobs["x"].data[...], made.blobs["t"].data[...] = x, t
    w, b = (blob.data.astype(np.float64) for blob in made.params["f"])
    error = x @ w.T + b - t
    assert float(made.forward()["loss"][0]) == pytest.approx((error**2).sum() / 12, rel=1e-5)
    made.backward()
    assert LOG[-1] == ("loss", [True, False])  # nothing is learned before the labels
    assert np.allclose(made.params["f"][0].diff, 3 * error.T @ x / 6, rtol=1e-4, atol=1e-5)
    assert (made.blobs["t"].diff == 0).all()
    forced = net(tmp_path, "force_backward: true " + text)
    forced.forward()
    forced.backward()
    assert LOG[-1] == ("loss", [True, True])
    kept = net(tmp_path, text.replace('bottom: "t"', 'bottom: "t" propagate_down: false propagate_down: true'))
    kept.forward()
    kept.backward()
    assert LOG[-1] == ("loss", [False, True])
    frozen = net(tmp_path, text.replace('top: "y"', 'top: "y" param { lr_mult: 0 } param { lr_mult: 0 }'))
    frozen.forward()
    frozen.backward()
    assert ("loss", [False, False]) not in LOG  # nothing needs it


def test_it_is_trained_by_a_solver(tmp_path: Path) -> None:
    net(
        tmp_path,
        data("a", 4, 3, 2)
        + data("b", 4, 3, 2)
        + data("t", 4, 3, 2)
        + python("mix", "a b", "s m", "Mixer", extra="param { lr_mult: 2 }")
        + python("loss", "s t", "loss", "HalfSquare", extra="loss_weight: 1")
        + 'layer { name: "n" type: "Silence" bottom: "m" }',
    )
    (tmp_path / "s").write_text(
        f'net: "tmpnet" base_lr: 0.05 lr_policy: "fixed" momentum: 0.5 test_iter: 1 test_interval: 50 snapshot_prefix: "{tmp_path}/s"'
    )
    solver = caffe.SGDSolver(str(tmp_path / "s"))
    a, b = RNG.standard_normal((2, 4, 3, 2)).astype(np.float32)
    true = np.array([0.5, -1, 2], np.float32)
    for made in (solver.net, *solver.test_nets):
        made.blobs["a"].data[...], made.blobs["b"].data[...], made.blobs["t"].data[...] = a, b, a + true[:, None] * b
    solver.step(120)
    assert np.allclose(solver.net.params["mix"][0].data, true, atol=0.02)
    assert float(solver.test()["loss"][0]) < 1e-3
    assert solver.test_nets[0].layer_dict["mix"].mine.data is solver.net.layer_dict["mix"].mine.data
    solver.snapshot()
    wanted = solver.net.layer_dict["mix"].mine.data.copy()
    solver.step(1)
    solver.net.layer_dict["mix"].mine.data[...] = 0
    solver.restore(str(tmp_path / "s_iter_120.solverstate"))
    assert np.array_equal(solver.net.layer_dict["mix"].mine.data, wanted)


def test_learned_blobs_are_saved_copied_and_shared(tmp_path: Path) -> None:
    text = (
        data("a", 2, 3, 2)
        + python("m1", "a a", "s m", "Mixer", extra='param { name: "w" }')
        + python("m2", "s m", "u v", "Mixer", extra='param { name: "w" }')
    )
    made = net(tmp_path, text)
    assert made.layers[2].blobs[0] is made.layers[1].blobs[0]
    made.layers[1].mine.data[...] = 7
    assert (made.layers[2].blobs[0].data == 7).all()
    writers = [(made.save, "copy_from")]
    try:
        import h5py  # noqa: F401

        writers.append((made.save_hdf5, "load_hdf5"))
    except ImportError:
        pass
    for write, read in writers:
        made.layers[1].mine.data[...] = 7
        write(str(tmp_path / "w"))
        made.layers[1].mine.data[...] = -1
        getattr(made, read)(str(tmp_path / "w"))
        assert (made.layers[1].mine.data == 7).all()
    other = net(tmp_path, text)
    other.share_with(made)
    made.layers[1].mine.data[...] = 4
    assert (other.layers[1].mine.data == 4).all()


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ValueError, TypeError, RuntimeError, KeyError])
@pytest.mark.parametrize("place", ["setup", "reshape", "forward", "backward"])
def test_what_a_layer_raises_reaches_the_caller(place: str, kind: type[Exception], tmp_path: Path) -> None:
    text = "force_backward: true " + data("x", 2, 3) + python("bad", "x", "y", "Raises", f"{place} {kind.__name__}")

    def use() -> None:
        made = net(tmp_path, text)
        made.forward()
        made.backward()

    with pytest.raises(kind, match="by hand") as caught:
        use()
    assert type(caught.value) is kind
    assert any("'bad'" in note and "Raises" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("param", "error", "problem"),
    [
        ('module: "no_such_module" layer: "A"', ModuleNotFoundError, "no_such_module"),
        (f'module: "{__name__}" layer: "Nobody"', RuntimeError, "no such name"),
        (f'module: "{__name__}" layer: "RNG"', RuntimeError, "no class derived from"),
        ('layer: "A"', RuntimeError, "module: ... layer: ..."),
    ],
)  # fmt: skip
def test_layers_that_cannot_be_found(param: str, error: type[Exception], problem: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=problem):
        net(tmp_path, data("x", 1) + f'layer {{ name: "l" type: "Python" bottom: "x" top: "y" python_param {{ {param} }} }}')


def test_a_missing_method_is_named(tmp_path: Path) -> None:
    made = net(tmp_path, "force_backward: true " + data("x", 1) + python("o", "x", "n", "Own"))
    made.forward()
    with pytest.raises(PreimageError, match="Own has no method backward"):
        made.backward()


def test_reading_a_net_runs_no_code_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "n.prototxt").write_text(THREE)
    LOG.clear()
    with pytest.raises(FileFormatError, match=r"3 layers have a type .* which nothing here imports"):
        files.load(tmp_path / "n.prototxt")
    assert LOG == []
    assert "Python" in caffe.layer_type_list()


class Scaled(caffe.Layer):
    """factor x + bias, the bias learned."""

    def setup(self, bottom: Any, top: Any) -> None:
        self.factor = float(self.param_str)
        if not len(self.blobs):
            self.blobs.add_blob(1)

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[...] = self.factor * bottom[0].data + self.blobs[0].data

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        self.blobs[0].diff[...] += top[0].diff.sum()
        if propagate_down[0]:
            bottom[0].diff[...] = self.factor * top[0].diff


NAMED = """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "a" type: "Python" bottom: "x" top: "a" python_param { module: "no.such.module" layer: "Scaled" param_str: "3" } }
layer { name: "b" type: "Python" bottom: "a" top: "b" python_param { module: "no.such.module" layer: "Scaled" param_str: "-2" } }"""


def test_the_reader_runs_python_layers_that_it_is_given(tmp_path: Path) -> None:
    def loaded(**options: Any) -> Any:
        return files.load(files.parse_text("NetParameter", NAMED), **options)

    net = loaded(python_layers={"no.such.module.Scaled": Scaled}, phase="TRAIN")
    x = pre.Tensor(np.arange(6, dtype=np.float32).reshape(2, 3), requires_grad=True)
    net.put("a.blob0", np.array([0.5], np.float32))
    y = net(x)
    assert np.array_equal(y.data, -2 * (3 * x.data + 0.5))
    (y * y).sum().backward()
    assert np.array_equal(x.grad, 2 * y.data * -6)
    assert net.weights["a.blob0"].grad == (2 * y.data * -2).sum()
    assert net.weights["b.blob0"].grad == (2 * y.data).sum()
    pre.optim.SGD(net.parameters(), lr=0.5).step()
    assert np.array_equal(net(x).data, -2 * (3 * x.data + net.array("a.blob0")) + net.array("b.blob0"))
    assert net.array("b.blob0") == -y.data.sum()
    files.save(net, tmp_path / "net.caffemodel")
    again = files.load(tmp_path / "net.caffemodel", python_layers={"no.such.module.Scaled": Scaled})
    assert np.array_equal(again(x).data, net(x).data)
    with pytest.raises(FileFormatError, match=r"2 layers .* Python: 'a' .no\.such\.module\.Scaled.*python_layers="):
        loaded()
    with pytest.raises(FileFormatError, match="2 layers have a type that is not supported"):
        loaded(python_layers={"no.such.Scaled": Scaled})
    for wrong, problem in (({"a.B": int}, "no class derived from"), ({"Scaled": Scaled}, "a key is 'module.Layer'")):
        with pytest.raises(OptionError, match=problem):
            loaded(python_layers=wrong)


def test_net_imports_nothing_where_it_is_given_the_classes() -> None:
    message = files.parse_text("NetParameter", NAMED)
    net = caffe.Net(message, caffe.TEST, python_layers={"no.such.module.Scaled": Scaled})
    net.blobs["x"].data[...] = 1
    assert (net.forward()["b"] == -6).all()
    with pytest.raises(FileFormatError, match="2 layers have a type that is not supported"):
        caffe.Net(message, caffe.TEST, python_layers={})
    with pytest.raises(ModuleNotFoundError):
        caffe.Net(message, caffe.TEST)


def test_training_from_a_solver_file_runs_no_code_that_it_names(tmp_path: Path) -> None:
    from preimage.caffe.training import SolverTask

    (tmp_path / "layer_of_a_stranger.py").write_text("raise SystemExit('imported')")
    data = 'layer { name: "d" type: "DummyData" top: "x" dummy_data_param { shape { dim: 2 dim: 3 } } }'
    layer = 'layer { name: "p" type: "Python" bottom: "x" top: "y" python_param { module: "layer_of_a_stranger" layer: "L" } loss_weight: 1 }'
    (tmp_path / "net.prototxt").write_text(data + layer)
    (tmp_path / "solver.prototxt").write_text('net: "net.prototxt" base_lr: 1 lr_policy: "fixed" max_iter: 1')
    with pytest.raises(FileFormatError, match=r"'p' .layer_of_a_stranger\.L"):
        SolverTask(tmp_path / "solver.prototxt")
    task = SolverTask(tmp_path / "solver.prototxt", python_layers={"layer_of_a_stranger.L": Times})
    assert task.solver.net.forward()["y"].shape == (2, 3)
    task.close()

"""The examples of training, each run for a few steps on small data of its shape; LeNet's files as they are."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage import data, nn
from preimage.caffe.training import SolverTask
from preimage.learning.training import run
from preimage.learning.training.program import read_program

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Files as MNIST's, with a few pictures."""
    rng = np.random.default_rng(0)
    for start in ("train", "t10k"):
        data.write_idx(rng.integers(0, 256, (100, 28, 28), np.uint8), tmp_path / f"{start}-images-idx3-ubyte")
        data.write_idx(rng.integers(0, 10, 100).astype(np.uint8), tmp_path / f"{start}-labels-idx1-ubyte")
    return tmp_path


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lenet_runs_as_caffes_files_describe_it(digits: Path) -> None:
    task = SolverTask(EXAMPLES / "lenet/lenet_solver.prototxt", data=digits, iterations=2)
    assert sum(int(np.prod(b.shape)) for b in task.solver.net._stored.values()) == 431_080
    task.solver.param.test_iter[0] = 1
    history = run(task, 2, task.plan(test_first=False))
    assert set(history.entries[-1]) >= {"loss", "test accuracy", "test loss"}


def test_lenet_for_fashion_differs_by_its_schedule_alone() -> None:
    usual, fashion = ((EXAMPLES / f"lenet/lenet{kind}_solver.prototxt").read_text().splitlines() for kind in ("", "_fashion"))
    assert {line.split(":")[0] for line in set(usual) ^ set(fashion) if not line.startswith("#")} == {
        "test_interval", "lr_policy", "gamma", "power", "stepsize", "max_iter",
    }  # fmt: skip


def test_the_residual_net(digits: Path) -> None:
    program = read_program(EXAMPLES / "resnet_fashion.py")
    train = program.loader(digits, train=True, batch_size=4, seed=0, workers=0)
    trainer = program.trainer(3, None)
    trainer.fit(train, iterations=1)
    assert sum(p.size for p in trainer.net.parameters()) == 1_209_834
    picture = train.dataset[0][0][None]
    trained, both = np.asarray(trainer.net(picture)), np.asarray(trainer.net.eval()(picture))
    assert trained.shape == both.shape == (1, 10)
    np.testing.assert_array_equal(both, np.asarray(trainer.net(picture[..., ::-1])))
    assert not np.array_equal(both, np.asarray(trainer.net.inner(picture)))


def test_the_autoencoder(digits: Path) -> None:
    program = read_program(EXAMPLES / "autoencoder.py")
    loading: dict[str, Any] = {"batch_size": 16, "seed": 0, "workers": 0}
    train, test = (program.loader(digits, train=part, **loading) for part in (True, False))
    trainer = program.trainer(2, None)
    history = trainer.fit(train, test, iterations=2)
    assert history.values("test psnr")
    (picture,) = program.given["pictures"](trainer.net.eval()).values()
    assert picture.shape == (1, 56, 12 * 28)


@pytest.mark.parametrize("name", ["unet_brain", "unet_nuclei"])
def test_the_u_net(name: str) -> None:
    program = read_program(EXAMPLES / f"{name}.py")
    rng = np.random.default_rng(0)
    images = rng.standard_normal((1, 1, 104, 96)).astype(np.float32)
    batch = (images, (images > 0).astype(np.float32))
    trainer = program.trainer(3, None)
    sample, _ = trainer.net, trainer.fit([batch], iterations=1)
    assert np.asarray(sample.eval()(images)).shape == images.shape
    sys.path.insert(0, str(EXAMPLES))
    try:
        assert example("unet").beside(*batch, np.asarray(sample(images))).shape[-1] == 3
    finally:
        sys.path.remove(str(EXAMPLES))
    flipped = batch[0][0], batch[1][0]
    for transform in program.given["transform"]:
        flipped = transform(flipped, rng)
    np.testing.assert_array_equal(flipped[0] > 0, flipped[1] > 0)


def test_the_fcn_begins_as_interpolation_and_learns(digits: Path) -> None:
    program = read_program(EXAMPLES / "fcn.py")
    loading: dict[str, Any] = {"batch_size": 4, "seed": 0, "workers": 0}
    train, test = (program.loader(digits, train=part, **loading) for part in (True, False))
    test.dataset.count = 4
    image, classes = train.dataset[3]
    np.testing.assert_array_equal(image, train.dataset[3][0])
    assert image.shape == (1, 56, 56)
    assert 1 < len(np.unique(classes)) <= 4
    assert not image[0][classes == 0].any()
    trainer = program.trainer(3, None)
    flat = np.full((1, 11, 7, 7), 3.0, np.float32)
    np.testing.assert_allclose(np.asarray(trainer.net.quadruple(trainer.net.double(flat)))[..., 6:-6, 6:-6], 3.0, rtol=1e-6)
    history = trainer.fit(train, test, iterations=2)
    assert history.values("test mean IoU")
    (picture,) = program.given["pictures"](trainer.net.eval()).values()
    assert picture.shape == (3, 3 * 56, 6 * 56)
    measure = type(program.given["metrics"]["mean IoU"])()
    scores = np.zeros((1, 11, 1, 4))
    scores[0, [0, 0, 2, 5], 0, range(4)] = 1
    measure.update(scores, np.array([[[0, 2, 2, 2]]]))
    assert measure.value() == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)


def test_super_resolution_goes_on_from_waifu2x() -> None:
    pytest.importorskip("skimage")
    program = read_program(EXAMPLES / "super_resolution.py")
    double_size = sys.modules["double_size"]
    try:
        double_size.weights_file()
    except SystemExit as missing:
        pytest.skip(str(missing))
    train = program.given["data"](None, True)
    small, large = train[5]
    assert (small.shape, large.shape) == ((3, 26, 26), (3, 24, 24))
    np.testing.assert_allclose(small[:, 7:-7, 7:-7], large.reshape(3, 12, 2, 12, 2).mean((2, 4)), atol=1e-6)
    trainer = program.trainer(2, None)
    before = np.asarray(trainer.net[0].weight.data)
    trainer.fit(data.Loader(train, 2, shuffle=True, seed=0), data.Loader([train[0]], 1), iterations=1)
    assert (before != trainer.net[0].weight.data).any()
    made = program.given["pictures"].__globals__["doubled"](trainer.net.eval(), large[:, :6, :8])
    assert made.shape == (3, 12, 16)
    assert double_size.psnr(made[:, ::2, ::2], large[:, :6, :8]) > 20


def test_the_dcgan_goes_on_to_the_same_pictures(digits: Path, tmp_path: Path) -> None:
    dcgan = example("dcgan")
    with pre.config(threads=1):
        whole = dcgan.main(digits, steps=3, output=tmp_path / "a", batch=4, save_every=1)
        dcgan.main(digits, steps=2, output=tmp_path / "b", batch=4, save_every=1)
        cut = dcgan.main(digits, steps=3, output=tmp_path / "b", batch=4, save_every=1)
    np.testing.assert_array_equal(whole, cut)
    assert (tmp_path / "a/samples.png").is_file()


def test_the_projection_is_the_transpose_where_nothing_is_cut_off(digits: Path, tmp_path: Path) -> None:
    """With the switches and signs held, forward is linear, and the projection its transpose: <a, forward(x)> = <project(a), x>."""
    deconvnet = example("deconvnet")
    nn.init.manual_seed(0)
    net, rng = deconvnet.Net(), np.random.default_rng(1)
    for layer in (net.first, net.second):
        layer.weight.assign(np.abs(layer.weight.data))
        layer.bias.assign(np.zeros_like(layer.bias.data))
    x = rng.random((1, 1, 28, 28)).astype(np.float32)
    maps, switches = net.trace(pre.Tensor(x))
    a = rng.random(maps.shape).astype(np.float32)
    back = deconvnet.project(net, a, pre.autograd.array_of(switches), (28, 28))
    assert np.vdot(a, maps.data) == pytest.approx(np.vdot(back, x), rel=1e-4)
    deconvnet.main(digits, steps=2, output=tmp_path / "d.png", images=20)
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")

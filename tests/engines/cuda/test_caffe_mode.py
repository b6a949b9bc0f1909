"""caffe.set_mode_gpu selects the engine cuda, caffe.set_device its device; without a GPU both say why and change nothing."""

from __future__ import annotations

import importlib
import warnings

import numpy as np
import pytest
from fake_arrays import HostEngine
from fake_cuda import FakeCuda

import preimage as pre
from preimage import caffe, settings
from preimage.engines.cuda import devices
from preimage.engines.cuda.driver import Gpu
from preimage.errors import OptionError


@pytest.fixture(autouse=True)
def _cpu_afterwards(monkeypatch):
    monkeypatch.setattr(settings, "_defaults", settings.current())
    monkeypatch.setitem(caffe.process._solvers, "device", 0)


@pytest.fixture
def engine(monkeypatch):
    """Two GPUs of a fake driver, and an engine on them."""
    fake, engine, engines = FakeCuda(devices=2), HostEngine(), importlib.import_module("preimage.engines")
    monkeypatch.setattr(devices, "_made", {f"cuda:{k}": Gpu(k, library=fake) for k in range(2)})
    monkeypatch.setitem(engines._ROWS, "cuda", "none:none")
    for key in ("cuda", "cuda on cuda:0", "cuda on cuda:1", "cuda on auto"):
        monkeypatch.setitem(engines._loaded, key, engine)
    return engine


def test_the_gpu_computes_until_the_cpu_is_chosen(engine):
    x, w = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4), np.ones((1, 1, 2, 2), np.float32)
    want = pre.conv(x, w)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        caffe.set_mode_gpu()
        assert (settings.current().engine, settings.current().device) == ("cuda", "cuda:0")
        got = pre.conv(x, w)
        assert len(engine.streams) == 1
        np.testing.assert_array_equal(got, want)
        caffe.set_device(1)
        assert settings.current().device == "cuda:1"
        caffe.set_mode_cpu()
    assert (settings.current().engine, settings.current().device) == ("auto", "auto")
    pre.conv(x, w)
    assert len(engine.streams) == 1


def test_the_device_may_be_chosen_before_the_mode(engine):
    caffe.set_device(1)
    assert settings.current().engine == "auto"
    caffe.set_mode_gpu()
    assert settings.current().device == "cuda:1"


def test_without_a_gpu_both_say_why(monkeypatch):
    monkeypatch.setattr(caffe.process, "_why_not", lambda device: f"there is no {device}")
    with pytest.warns(UserWarning, match="computes on the CPU: there is no cuda:0; set_mode_gpu changes nothing"):
        caffe.set_mode_gpu()
    with pytest.warns(UserWarning, match=r"there is no cuda:3; set_device\(3\) changes nothing"):
        caffe.set_device(3)
    assert settings.current().engine == "auto"
    caffe.set_mode_cpu()


def test_a_device_is_a_number(engine):
    with pytest.raises(OptionError, match="device must be an integer"):
        caffe.set_device("gpu")

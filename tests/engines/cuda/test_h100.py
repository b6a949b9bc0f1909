"""tools/h100.py to its end: on a fake driver whose launches are simulated, beside a fake torch, under fake programs of NVIDIA's."""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cases import same_bits
from fake_arrays import TorchTensor, fake_library
from simulated_driver import simulated_gpu

import preimage as pre
from preimage.engines.cuda import tensor_cores

TOOLS = Path(__file__).parents[3] / "tools"
ROW = ((1, 2, 3, 1, (4, 5), (2, 2), 1, 1, 1),)
LAYERS = (
    ("flat", 1, 4, 3, 1, (6, 5), 3, (2, 1), 1, 1, False), ("up", 1, 3, 4, 1, (5, 4), 2, 1, 0, 1, True),
    ("3-D", 1, 2, 3, 1, (3, 4, 3), 2, 1, 0, 1, False),
)  # fmt: skip


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    for name in ("h100", "h100_times"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import h100

    monkeypatch.setattr(tensor_cores, "TERMS", 8)
    monkeypatch.setattr(h100, "BITS", ROW)
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
    return h100


@pytest.fixture
def gpu(monkeypatch):
    return simulated_gpu(monkeypatch)


def test_it_runs_to_its_end(tool, gpu, tmp_path):
    path = tmp_path / "h100.json"
    assert tool.main(["--quick", "--json", str(path)], gpu[0]) == 0
    found = json.loads(path.read_text())
    assert {*tool.PARTS, "seconds"} == set(found)
    assert (found["bits"]["same"], found["bits"]["different"], found["bits"]["failed"]) == (6, [], [])
    assert found["device"]["name"] == "Fake GPU 0"
    assert found["ceilings"]["fma_float32_tflops"] > 0
    assert set(found["dmma"]["with the chain's bits"]) == set(tensor_cores.CASES)
    assert not [part for part in found.values() if isinstance(part, dict) and part.get("failed")]


def test_a_wrong_bit_is_found(tool, gpu):
    device, fake = gpu
    run = fake.run

    def wrong(text, grid, threads, words, shared):
        run(text, grid, threads, words, shared)
        if words and words[0]:
            for address in fake.allocated:  # one bit of every array, the result's among them
                ctypes.c_uint32.from_address(address).value ^= 1 << 20

    fake.run = wrong
    assert tool.main(["--quick"], device) == 1


def test_where_there_is_nothing_to_measure(tool, monkeypatch, capsys):
    def none(name):
        raise pre.EngineError("no GPU")

    monkeypatch.setattr(tool, "device_of", none)
    assert tool.main([]) == 2
    assert "nothing to measure: no GPU" in capsys.readouterr().err


def test_nothing_begins_after_the_stop_rules_time(tool, gpu):
    tool.everything(run := tool.Run(gpu[0], True, -1.0, None))
    assert run.found == {name: {"not run": "out of time"} for name in tool.PARTS}


# ---- beside torch


def fake_torch(monkeypatch):
    """Enough of it for the times: its layers are ours on the CPU, its clock goes a millisecond a look."""
    torch, clock = fake_library("torch"), iter(range(10**9))

    class Tensor(TorchTensor):
        def cuda(self):
            return self

        def contiguous(self, memory_format="contiguous"):
            values = self._values
            last = memory_format != "contiguous" and values.ndim > 2
            return Tensor(np.moveaxis(np.ascontiguousarray(np.moveaxis(values, 1, -1)), -1, 1) if last else values.copy("C"))

        def __sub__(self, other):
            return Tensor(self._values - other._values)

        def abs(self):
            return Tensor(np.abs(self._values))

        def max(self):
            return self._values.max()

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = next(clock)

        def elapsed_time(self, later):
            return float(later.at - self.at)

    def on_cpu(call, *arrays, **options):
        with pre.config(engine="reference"):
            return Tensor(call(*(a._values for a in arrays), **options))

    def conv(x, w, **options):
        return on_cpu(pre.conv, x, w, **options)

    def conv_transpose(y, w, **options):
        return on_cpu(pre.conv_transpose, y, w, **options)

    def backward(above, given, w, bias_sizes, stride, padding, dilation, transposed, output_padding, groups, wanted):
        assert not any(output_padding)
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        x, y = (above, given) if transposed else (given, above)
        if wanted[1]:
            return None, on_cpu(pre.conv_weight_grad, x, y, kernel_size=w.shape[2:], **options), None
        made = conv(x, w, **options) if transposed else conv_transpose(y, w, output_size=x.shape[2:], **options)
        return made, None, None

    empty = torch.empty
    torch.empty = lambda *a, **k: Tensor(empty(*a, **k)._values)
    torch.from_numpy = Tensor
    torch.channels_last, torch.channels_last_3d = "last", "last 3-D"
    torch.cuda.is_available, torch.cuda.synchronize, torch.cuda.Event = (lambda: True), (lambda: None), Event
    torch.backends = SimpleNamespace(cudnn=SimpleNamespace())
    torch.nn = SimpleNamespace(
        functional=SimpleNamespace(conv2d=conv, conv3d=conv, conv_transpose2d=conv_transpose, conv_transpose3d=conv_transpose)
    )
    torch.ops = SimpleNamespace(aten=SimpleNamespace(convolution_backward=backward))
    monkeypatch.setitem(sys.modules, "torch", torch)
    return torch


@pytest.fixture
def torch(tool, gpu, monkeypatch):
    monkeypatch.setattr(gpu[1], "_inside", lambda address, size: True)  # torch's memory is the host's
    monkeypatch.setattr(tool, "LAYERS", LAYERS)
    monkeypatch.setattr(tool, "DOUBLE", ("flat",))
    return fake_torch(monkeypatch)


def test_times_beside_torch(tool, gpu, torch):
    """Every pass of every layer has a figure from every contestant, and torch's answers are ours."""
    from h100_times import EQUAL, OURS, PASSES, PEERS

    run = tool.Run(gpu[0], False, 480.0, None)
    found = tool.part_times(run)
    assert (found["failed"], found["left_out"]) == ([], [])
    assert [(r["layer"], r["dtype"], r["pass"]) for r in found["rows"]] == [
        (layer, dtype, which)
        for layer, dtype in [("flat", "float32"), ("up", "float32"), ("3-D", "float32"), ("flat", "float64")]
        for which in PASSES
    ]
    for row in found["rows"]:
        labels = {*OURS, *(p for p, (tf32, *_) in PEERS.items() if row["dtype"] == "float32" or not tf32)}
        assert all(isinstance(row[label], float) and row[label] > 0 for label in labels), row
        assert row["largest difference"] < 1e-5
    assert [share for share in found["shares"].values() if share != {"mean": pytest.approx(1.0), "layers": 2}] == []
    assert len(found["shares"]) == len(EQUAL) * len(PASSES)


def test_a_pass_that_fails_is_one_figure_less(tool, gpu, torch, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no such algorithm")

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", broken)
    found = tool.part_times(tool.Run(gpu[0], True, 480.0, None))
    assert found["rows"][1]["torch fp32"] == "failed: no such algorithm"
    assert found["rows"][1]["preimage cuda"] > 0
    assert found["rows"][0]["torch fp32"] > 0


def test_layers_that_no_time_is_left_for(tool, gpu, torch):
    found = tool.part_times(tool.Run(gpu[0], False, 10.0, None))
    assert found["left_out"] == ["flat float32", "up float32", "3-D float32", "flat float64"]


# ---- NVIDIA's checkers


def test_the_checkers_watch_children_of_this_file(tool, gpu, torch, tmp_path, monkeypatch):
    """Programs of these names, on the PATH, get the commands; a child's part runs here, by the same arguments."""
    for name, status in (("compute-sanitizer", 9), ("ncu", 0)):
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\necho "{name} $@"\nexit {status}\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = tmp_path / "h100.json"
    assert tool.main(["--quick", "--json", str(path)], gpu[0]) == 1  # the sanitizer found something
    found = json.loads(path.read_text())
    (case,) = found["sanitizer"].values()
    assert case["status"] == 9
    assert case["said"].endswith("--case 0\n")
    assert found["profile"]["best"]["layer"] == found["profile"]["worst"]["layer"] == "flat"
    assert found["profile"]["best"]["said"].endswith("--layer flat\n")
    launches = len(gpu[1].launches)
    assert tool.main(["--case", "0"]) == 0
    assert tool.main(["--layer", "up"]) == 0
    assert len(gpu[1].launches) > launches


def test_ours_and_torchs_calls_are_of_the_same_layer(tool, gpu, torch):
    from h100_times import PASSES, geometry_of, ours, theirs

    rng = np.random.default_rng(3)
    for _, *row, transpose in LAYERS:
        g = geometry_of(tuple(row))
        made = [
            torch.from_numpy(rng.integers(-3, 4, s).astype(np.float32)) for s in (g.input_shape, g.weight_shape, g.output_shape)
        ]
        mine, peers = ours(g, transpose, *made), theirs(torch, g, transpose, *made)
        for which in PASSES:
            assert same_bits(mine[which]()._values, peers[which]()._values), which

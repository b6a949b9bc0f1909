"""The benchmark: its layers, its check of answers, its arithmetic, and one small run through the command."""

import json
import os
from math import isnan, nan

import numpy as np
import pytest

from preimage.bench import Protocol, Run, builtin_suite, layer_from_sizes, load_suite, run_bench
from preimage.bench import measure as measuring
from preimage.bench.contestants import EngineContestant
from preimage.bench.problem import Problem, ordered, values
from preimage.bench.results import Row
from preimage.bench.suite import PASSES, select
from preimage.bench.summary import Roofs, compare, geomean, headline
from preimage.errors import EngineError, OptionError

LAYER = layer_from_sizes((2, 6, 9, 11), (4, 3, 2, 3), stride=(2, 1), padding=((0, 1), (2, 0)), groups=2)
DECONV = layer_from_sizes((1, 4, 5, 6), (4, 3, 3, 2), transpose=True, stride=(2, 3), output_padding=(1, 0))
SHORT = Protocol(least_rounds=2, most_rounds=2, turn_ns=1e4, cell_ns=1e7, settle_ns=0)


# -- the layers


def test_the_suite_has_its_layers():
    layers = builtin_suite()
    assert len(layers) == 68
    assert sum(layer.tier == "core" for layer in layers) == 60
    assert len({layer.name for layer in layers}) == 68
    assert all(layer.source for layer in layers)
    assert sum(layer.kind == "deconv" for layer in layers) >= 20


def test_a_deconvolution_runs_forward_as_a_transposed_convolution():
    assert [DECONV.contraction(p) for p in PASSES[:3]] == ["conv_transpose", "conv", "conv_weight_grad"]
    assert [LAYER.contraction(p) for p in PASSES[:3]] == ["conv", "conv_transpose", "conv_weight_grad"]
    assert DECONV.geometry.input_size == (12, 17)


def test_layers_are_chosen_by_name_pattern_and_tier():
    layers = builtin_suite()
    assert {layer.tier for layer in select(layers, (), "heavy")} == {"heavy"}
    assert [layer.name for layer in select(layers, ("mobilenet_dw_14",))] == ["mobilenet_dw_14"]
    assert len(select(layers, ("hifigan_up*",))) == 4
    with pytest.raises(OptionError, match="no layer matches 'nothing'"):
        select(layers, ("nothing",))


def test_a_suite_file_is_read_and_its_sizes_are_checked(tmp_path):
    case = {"name": "a", "kind": "conv", "batch": 2, "groups": 1, "in_channels": 3, "out_channels": 4, "input": [8, 9]}
    case |= {"kernel": [3, 2], "stride": [2, 1], "padding": [[1, 0], [0, 2]], "dilation": [1, 2], "output": [4, 9]}
    path = tmp_path / "suite.json"
    path.write_text(json.dumps({"cases": [case]}))
    (layer,) = load_suite(path)
    assert layer.geometry.output_shape == (2, 4, 4, 9)
    path.write_text(json.dumps([case | {"output": [5, 9]}]))
    with pytest.raises(OptionError, match=r"says output \[5, 9\], the formula gives \[4, 9\]"):
        load_suite(path)
    path.write_text(json.dumps([{"name": "b"}]))
    with pytest.raises(OptionError, match="case 'b' cannot be read"):
        load_suite(path)


# -- the answers


def test_the_data_are_small_integers_and_the_same_everywhere():
    a = values((3, 5, 7), 1)
    assert set(np.unique(a)) == {-2.0, -1.0, 1.0, 2.0}
    assert a.ravel()[:8].tolist() == values((105,), 1)[:8].tolist()
    assert not np.array_equal(a, values((3, 5, 7), 2))
    last = ordered(a[None], "channels_last")
    assert np.array_equal(last, a[None])
    assert last.strides[1] == a.itemsize


@pytest.mark.parametrize("layer", [LAYER, DECONV], ids=["conv", "deconv"])
@pytest.mark.parametrize("what", PASSES)
def test_a_wrong_answer_is_found(layer, what):
    problem = Problem(layer, np.float32)
    truth = problem.truth(what).astype(np.float32)
    assert problem.check(what, truth, exact=True) == (True, "exact")
    wrong = truth.copy()
    wrong.flat[-1] += 1
    right, said = problem.check(what, wrong, exact=True)
    assert not right
    assert "differs" in said
    assert not problem.check(what, truth[..., :1], exact=True)[0] or truth[..., :1].shape == truth.shape


def test_peers_may_be_off_by_rounding_but_not_by_a_tap():
    problem = Problem(LAYER, np.float32)
    truth = problem.truth("forward").astype(np.float32)
    assert problem.check("forward", truth * np.float32(1 + 1e-7), exact=False)[0]
    assert not problem.check("forward", np.roll(truth, 1, axis=-1), exact=False)[0]


def test_a_contestant_that_is_wrong_is_not_timed(monkeypatch):
    class Wrong(EngineContestant):
        def result(self, value, problem, what):
            return super().result(value, problem, what) + 1

    monkeypatch.setattr(measuring, "contestants", lambda *_: ((Wrong("gemm", "channels_first"),), {}))
    run = run_bench((LAYER,), ("gemm",), passes=("forward",), protocol=SHORT)
    (row,) = run.rows
    assert row.error.startswith("wrong answer: differs from the exact answer")
    assert not row.times


@pytest.mark.parametrize("layer", [LAYER, DECONV], ids=["conv", "deconv"])
def test_engines_and_torch_give_the_exact_answers(layer):
    names = ("gemm", "reference", "torch")
    run = run_bench((layer,), names, passes=PASSES, dtypes=("float32", "float64"), protocol=SHORT)
    timed = [row for row in run.rows if row.times]
    assert {row.checked for row in timed} == {"exact"}
    assert {(row.contestant, row.layout) for row in timed} >= {(n, f"channels_{o}") for n in names if n not in run.absent
                                                              for o in ("first", "last")}  # fmt: skip
    assert all(row.error for row in run.rows if not row.times)


# -- the arithmetic


def row(contestant, layout, times, what="forward", layer="a", **more):
    fixed = {"kind": "conv", "tier": "core", "label": "", "contraction": "conv", "dtype": "float32", "threads": 1}
    sizes = {"work_flop": 1000, "inside_flop": 800, "array_bytes": 400, "channels": (32, 32)}
    return Row(layer=layer, what=what, contestant=contestant, layout=layout, time_ns=times, **fixed, **sizes, **more)


def test_ratios_are_paired_round_by_round():
    rows = [row("jit", "channels_last", [10.0, 20.0, 10.0]), row("torch", "channels_last", [15.0, 30.0, 16.0])]
    (found,) = compare(rows, "jit", "torch")
    assert found.ratio == 1.5  # the second round was slow for both
    assert found.low == 1.5
    assert found.high == pytest.approx(1.55)


def test_the_best_layout_of_each_is_compared_and_the_worst_layer_named():
    rows = [row("jit", "channels_last", [10.0, 10.0]), row("jit", "channels_first", [30.0, 30.0])]
    rows += [row("torch", "channels_last", [40.0, None]), row("torch", "channels_first", [20.0, 20.0])]
    rows += [row("jit", "channels_last", [10.0, 10.0], layer="b"), row("torch", "channels_last", [5.0, 5.0], layer="b")]
    best = next(line for line in headline(rows, "jit", "torch") if line["layouts"] == "best")
    assert best["geomean"] == pytest.approx(1.0)
    assert (best["worst"], best["worst_layer"], best["losing"]) == (0.5, "b", 1)
    assert [c.ratio for c in compare(rows, "jit", "torch")] == [0.5, 2.0]
    first = next(line for line in headline(rows, "jit", "torch") if line["layouts"] == "channels_first both")
    assert first["geomean"] == pytest.approx(20 / 30)


def test_geometric_mean():
    assert geomean([2.0, 8.0]) == pytest.approx(4.0)
    assert geomean([2.0, nan, 8.0]) == pytest.approx(4.0)
    assert isnan(geomean([]))


def test_the_roof_is_the_slower_of_compute_and_memory():
    run = Run({}, {}, [{"dtype": "float32", "threads": 1, "peak_gflops": 100.0, "peaks": [], "how": "",
                        "memory_gbytes": {"300": 200.0, "1000": 10.0}}])  # fmt: skip
    limit = Roofs(run)(row("jit", "channels_last", [80.0]))
    assert limit.bound == "memory"
    assert limit.least_ns == 40.0  # 400 bytes at 10 GB/s: they do not fit the smaller working set
    assert limit.reached == 0.5
    assert limit.peak_share == pytest.approx(0.1)  # 800 flop in 80 ns of a possible 8


def test_json_gives_the_run_back():
    run = run_bench((LAYER,), ("gemm",), passes=("forward",), protocol=SHORT)
    again = Run.from_json(run.to_json())
    assert again == run
    assert again.machine["versions"]["numpy"] == np.__version__
    assert again.probes[0]["peak_gflops"] > 0


# -- the command


def test_the_command_writes_a_table_json_and_a_page(tmp_path, capsys):
    typer = pytest.importorskip("typer")
    from preimage.cli.bench import bench

    app = typer.Typer()
    app.command()(bench)
    data, page = tmp_path / "a.json", tmp_path / "a.html"
    app(["--input", "1,4,8,9", "--weight", "6,2,3,2", "--groups", "2", "--padding", "1:0,0:1", "--engines", "gemm,reference",
         "--quick", "--threads", "1,2", "--json", str(data), "--html", str(page)], standalone_mode=False)  # fmt: skip
    out = capsys.readouterr().out
    assert "time of reference / time of gemm" in out
    rows = json.loads(data.read_text())["rows"]
    assert {(r["what"], r["threads"]) for r in rows} == {(p, n) for p in PASSES[:3] for n in (1, 2)}
    text = page.read_text()
    assert text.count("<svg") == 2  # one roofline for each number of threads
    assert "GFLOP/s" in text
    assert "http" not in text.replace("http://www.w3.org", "")


def test_losing_rows_come_first(tmp_path):
    from preimage.report.bench import render

    rows = [
        row("jit", "channels_last", [10.0, 10.0], layer="winning"),
        row("torch", "channels_last", [40.0, 40.0], layer="winning"),
    ]
    rows += [row("jit", "channels_last", [10.0, 10.0], layer="losing"), row("torch", "channels_last", [5.0, 5.0], layer="losing")]
    machine = {"cpu": "c", "target": "t", "affinity": [0], "system": "s", "denormals": "kept", "versions": {}}
    page = render(Run(machine, {}, [], rows))
    table = page[page.index("All rows") :]
    assert table.index("losing") < table.index("winning")
    assert "<tr class=lost><td class=t>losing" in table


def test_jax_gets_as_many_threads_as_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA makes its pool once a process: in the mask of that many CPUs; another count later is an error in the row."""
    from preimage.bench.peers import JaxContestant

    seen = []

    class Jax:
        def devices(self, _kind: str) -> None:
            seen.append(len(os.sched_getaffinity(0)))

    monkeypatch.setattr(JaxContestant, "_pool", None)
    contestant = object.__new__(JaxContestant)
    contestant._jax = Jax()
    before = os.sched_getaffinity(0)
    contestant._start(1)
    contestant._start(1)
    assert seen == [1]
    assert os.sched_getaffinity(0) == before
    with pytest.raises(EngineError, match="1 thread"):
        contestant._start(2)

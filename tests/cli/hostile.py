r"""Hostile calls of the command line: each must end in time, with an exit status that is documented and without a traceback.

    python tests/cli/hostile.py                     # all calls (more than 300); prints what failed, exit status 1 if any did
    python tests/cli/hostile.py --show run          # those of one command, with what they print

No output may hold a control character (ESC, OSC), whatever names the files hold. Each call runs in a fork, in a folder of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

SECONDS = 60
MEMORY = 6 << 30
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
#: Names as a hostile file may hold them: rich markup, terminal codes, HTML, directions of text, emptiness, length.
NAMES = (
    "[/red]", "[bold]x", "out[logits]", "\x1b]0;title\x07", "\x1b[2J\x1b[31m", "<script>alert(1)</script>", "a.b", "a_b", "\u202egnp.exe",
    "\\", ":smile:", "{x}", "%s", "\x9b31m", "é" * 300, "a\nb", "../../etc/x", "CON", "\u0000x",
)  # fmt: skip
NUMBERS = (
    "-1",
    "0",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "9" * 40,
    "9" * 5000,
    "",
    " ",
    "x",
    "0x10",
    "1_0",
    "²",
    "٣",
    "1,2",
    "1.5",
    "-0",
    "1;2",
)
SHAPES = (
    "1,3,-8,8",
    "1,3,0,8",
    "1,3",
    "99999999999,3,8,8",
    "1,3,99999,99999",
    ",",
    "1,,3",
    "a,b",
    "9" * 5000,
    "1x3x8x8",
    "²,3,8,8",
)
TEXTS = (*NAMES[:7], "", " ", "nope", "-", "--", "\udcff", "a" * 5000)


class Outcome(NamedTuple):
    """status: the exit status, negative for a signal; -1000 for a call that did not end in time."""

    arguments: tuple[str, ...]
    status: int
    output: str
    seconds: float

    @property
    def fault(self) -> str:
        """What is wrong with it; "" if nothing is."""
        if self.status not in (0, 1, 2, 130):
            return "took too long" if self.status == -1000 else f"exit status {self.status}"
        if "Traceback (most recent call last)" in self.output or "Exception ignored" in self.output:
            return "a traceback"
        found = CONTROL.search(self.output)
        return f"prints {found[0]!r}" if found else ""


def files(folder: Path) -> None:
    """What the calls work on: good files, and damaged ones of each kind."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from PIL import Image

    import preimage as pre
    from preimage.io.onnx import export

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (24, 20, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    (folder / "sub").mkdir()
    shutil.copy(folder / "a.png", folder / "sub/a.png")
    shutil.copy(folder / "a.png", folder / "[red]x.png")
    shutil.copy(folder / "a.png", folder / "\x1b[31mred.png")
    net = pre.nn.Sequential(pre.nn.Conv2d(3, 4, 3, padding=1, rng=0), pre.nn.ReLU())
    export.save(net, folder / "net.onnx", example=np.zeros((1, 3, 8, 8), np.float32))
    for k, name in enumerate(NAMES):
        if "\0" in name:
            continue
        nodes = [
            helper.make_node("Relu", ["x"], [name], name=name),
            helper.make_node("Neg", [name], [f"{name}.2"], name=f"{name}2"),
        ]
        value = helper.make_tensor_value_info
        graph = helper.make_graph(nodes, name or "g", [value("x", TensorProto.FLOAT, [1, 3, "h", "w"])],
                                  [value(name, TensorProto.FLOAT, None), value(f"{name}.2", TensorProto.FLOAT, None)])  # fmt: skip
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / f"name{k}.onnx")
        bad = helper.make_graph([helper.make_node(name, ["x"], ["y"], name=name)], "g", list(graph.input), [value("y", 1, None)])
        onnx.save(helper.make_model(bad, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / f"unknown{k}.onnx")
    big = numpy_helper.from_array(np.array([1, 3, 40_000, 40_000], np.int64), "s")
    nodes = [helper.make_node("Expand", ["x", "s"], ["e0"])] + [
        helper.make_node("Concat", [f"e{k}", f"e{k}"], [f"e{k + 1}"], axis=0) for k in range(8)
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, [1, 3, 1, 1])], [helper.make_tensor_value_info("e8", 1, None)], [big]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "bomb.onnx")
    good = (folder / "net.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(good[: len(good) // 2])
    (folder / "noise.onnx").write_bytes(rng.bytes(3000))
    (folder / "empty.onnx").touch()
    (folder / "net.prototxt").write_text('layer { name: "[/red]\x1b[2J" type: "\x1b]0;x\x07" bottom: "a" top: "b" }')
    (folder / "huge.prototxt").write_text(
        'input: "x" input_dim: 1 input_dim: 3 input_dim: 30000 input_dim: 30000 '
        'layer { name: "c" type: "Convolution" bottom: "x" top: "y" convolution_param { num_output: 4000 kernel_size: 3 } }'
    )
    np.save(folder / "a.npy", rng.standard_normal((1, 3, 8, 8)).astype(np.float32))
    np.save(folder / "nan.npy", np.full((1, 3, 8, 8), np.nan, np.float32))
    np.save(folder / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(folder / "text.npy", np.array(["a"]))
    np.save(folder / "empty.npy", np.zeros((0, 3, 8, 8), np.float32))
    head = b"\x93NUMPY\x01\x00"
    for k, shape in enumerate(
        ("(99999999999, 9999999999)", "(-1, 4)", "(2, 2)", "()", "[1]", "(1e3,)", "(" * 200, "__import__('os')")
    ):
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(118) + b"\n"
        (folder / f"header{k}.npy").write_bytes(head + len(text).to_bytes(2, "little") + text + bytes(8))
    picture = (folder / "a.png").read_bytes()
    (folder / "cut.png").write_bytes(picture[:100])
    (folder / "eps.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    (folder / "text.png").write_text("no picture")
    (folder / "empty.png").touch()
    Image.new("1", (14_000, 14_000)).save(folder / "bomb.png")
    for name, text in (
        ("bad", "{"), ("list", "[]"), ("null", "null"), ("number", "1" * 5000), ("deep", "[" * 100_000), ("nan", "NaN"), ("latin", "\xe9"),
        ("cases", '{"cases": [1]}'), ("fields", '{"cases": [{"name": "[/red]", "kind": "conv"}]}'), ("rows", '{"rows": []}'),
        ("row", '{"machine": {}, "protocol": {}, "rows": [{"layer": 1}]}'), ("strings", '{"cases": [{"name": "a", "kind": "conv", "padding": "x"}]}'),
    ):  # fmt: skip
        (folder / f"{name}.json").write_bytes(text.encode("latin-1"))
    row = dict.fromkeys(
        ("layer", "kind", "tier", "label", "what", "contraction", "dtype", "contestant", "layout", "checked", "error"),
        NAMES[5] + NAMES[4],
    )
    row |= {"threads": 1, "work_flop": 9, "inside_flop": 9, "array_bytes": 9, "channels": [1, 1], "time_ns": [3.0, None, 4.0]}
    machine = dict.fromkeys(("cpu", "target", "system", "denormals"), NAMES[5] + NAMES[0]) | {
        "versions": {NAMES[4]: NAMES[5]},
        "affinity": [0],
    }
    run = {
        "machine": machine,
        "protocol": {},
        "probes": [],
        "rows": [row, {**row, "contestant": NAMES[0]}],
        "absent": {NAMES[3]: NAMES[0]},
        "seconds": 1.0,
    }
    (folder / "run.json").write_text(json.dumps(run))
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "there.onnx").write_text("mine")
    (folder / "mine").mkdir()
    (folder / "mine/thesis.txt").write_text("years")


PLACES = (
    "no/such/folder/x",
    "mine",
    "loop",
    "a.png/x",
    "x" * 300,
    "",
    "/dev/full",
    "/proc/x",
    "\udcff",
    "[/x]",
    "\x1b[31mx",
    "there.onnx",
)


def calls() -> Iterator[tuple[str, ...]]:
    """Every call, as arguments."""
    onnx = [p for k in range(len(NAMES)) if "\0" not in NAMES[k] for p in (f"name{k}.onnx", f"unknown{k}.onnx")]
    models = (
        *onnx,
        "bomb.onnx",
        "cut.onnx",
        "noise.onnx",
        "empty.onnx",
        "net.prototxt",
        "huge.prototxt",
        "pipe",
        "mine",
        "loop",
        "nofile",
        "a.png",
        "\udcff",
    )
    inputs = ("a.png", "a.npy", "nan.npy", "objects.npy", "text.npy", "empty.npy", *(f"header{k}.npy" for k in range(8)), "cut.png", "eps.png",
              "text.png", "empty.png", "bomb.png", "pipe", "mine", "loop", "nofile.npy", "[red]x.png", "\x1b[31mred.png", "\udcff.png",
              "/dev/zero")  # fmt: skip
    yield from (("--nope",), ("nope",), ("\x1b[31m",), ("[/red]",), ("--version", "x"), ("\udcff",), ("--traceback",), ())
    yield from (("run", model, "a.npy", "--engine", "gemm") for model in models)
    yield from (("run", "net.onnx", given, "--engine", "gemm") for given in inputs)
    yield from (("run", "name2.onnx", "a.npy", "-o", place, "--engine", "gemm") for place in PLACES)
    yield ("run", "name6.onnx", "a.png", "sub/a.png", "-o", "out", "--engine", "gemm")
    for option in ("--scale", "--mean", "--size", "--threads", "--memory", "--flop", "--seconds"):
        yield from (
            ("run", "net.onnx", "a.png", "--engine", "gemm", option, value)
            for value in NUMBERS[:: 2 if option == "--scale" else 3]
        )
    yield from (("info", model, "--shape", "x=1,3,8,8", "--no-plans") for model in models[::3])
    yield from (("info", "net.onnx", "--shape", f"input={shape}", "--no-plans") for shape in SHAPES)
    yield from (
        ("convert", "net.onnx", place, "--shape", "input=1,3,8,8")
        for place in (*PLACES, *(f"{p}.onnx" for p in ("c", "no/c", "[/x]", "\x1b[31m")), "c.npz", "c.prototxt")
    )
    yield from (("convert", model, "c.onnx", "--shape", "x=1,3,8,8") for model in models[1::3])
    yield from (
        ("learn", picture, "--steps", "1", "-k", "2", "--size", "3", "--engine", "gemm", "-o", "out") for picture in inputs
    )
    yield from (("learn", "a.png", "--steps", "1", "-k", "2", "--size", "3", "--engine", "gemm", "-o", place) for place in PLACES)
    for option in ("-k", "--size", "--stride", "--sparsity", "--longest", "--seed", "--threads"):
        yield from (("learn", "a.png", "--steps", "1", "--engine", "gemm", "-o", "out", option, value) for value in NUMBERS[::3])
    yield from (
        ("rebuild", what, "a.png", "--steps", "1", "-o", "out")
        for what in ("nofile", "mine", "a.png", "pipe", "loop", "net.onnx", "/dev/zero")
    )
    yield from (
        ("bench", "--load", f"{name}.json")
        for name in ("bad", "list", "null", "number", "deep", "nan", "latin", "cases", "rows", "row", "run")
    )
    yield from (
        ("bench", "--load", "run.json", option, place) for option in ("--json", "--html", "--markdown") for place in PLACES[::2]
    )
    yield ("bench", "--load", "run.json", "--html", "page.html", "--markdown", "page.md")
    yield ("bench", "--load", "run.json", "--html", "same", "--markdown", "same")
    yield from (
        ("bench", "--suite", f"{name}.json", "--quick")
        for name in ("bad", "list", "null", "deep", "cases", "fields", "strings", "nofile")
    )
    layer = ("--input", "1,3,8,8", "--weight", "4,3,3,3")
    for option in ("--tier", "--engines", "--passes", "--dtype", "--layout", "--threads"):
        yield from (
            ("bench", *(() if option == "--tier" else layer), "--quick", option, value) for value in (*TEXTS[::4], "nope", "-1")
        )
    for command in ("bench", "tune", "explain"):
        yield from ((command, "--input", shape, "--weight", "4,3,3,3") for shape in (*SHAPES[:4], *SHAPES[5:]))
        yield from (
            (command, "--input", "1,3,8,8", "--weight", "4,3,3,3", option, value)
            for option in ("--stride", "--padding", "--groups")
            for value in NUMBERS[:8] + NUMBERS[13:14]
        )
    yield from (
        ("audit", "gemm", "-n", "1", "--jobs", "1", "--checks", "exact", option, value)
        for option in ("--most-macs", "--seed", "--shrink")
        for value in NUMBERS[:6]
    )
    yield from (("audit", "-n", "0", "--cases", f"{name}.json") for name in ("bad", "list", "deep", "cases", "fields", "nofile"))
    yield from (("audit", "-n", "0", option, place) for option in ("--json", "--html") for place in PLACES[:8:2])
    yield from (("audit", name, "-n", "1") for name in (*NAMES[:5], "os:system", "nope:x"))
    small = ("--kernel", "3", "--size", "5")
    yield from (("draw", kind, "-o", "a.svg", *small) for kind in (*NAMES[:5], "paint", "spectrum", "field"))
    yield from (("draw", "paint", "-o", f"{place}{ending}", *small) for place in PLACES for ending in ("", ".gif"))
    yield from (
        ("draw", "slide", "-o", "a.svg", option, value)
        for option in (
            "--kernel",
            "--size",
            "--channels",
            "--stride",
            "--padding",
            "--from",
            "--seed",
            "--frame",
            "--scale",
            "--axis",
        )
        for value in NUMBERS[:8]
    )
    yield from (("draw", "slide", "-o", "a.svg", *small, "--input", name) for name in ("a.npy", "a.png", "pipe", *NAMES[:4]))
    yield from (("cache", "x"), ("cache", "--nope"), ("explain",), ("tune", "nope"), ("bench", "[/red]"), ("tune", "\x1b[31m"))


def run(arguments: Sequence[str], template: Path, *, full: bool = False) -> Outcome:
    """One call, forked, in a copy of the folder. full: its output goes to a device that has no room."""
    from preimage.cli import main

    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryFile("w+b") as output:
        folder = Path(name) / "f"
        shutil.copytree(template, folder, symlinks=True, ignore=shutil.ignore_patterns("pipe"))
        os.mkfifo(folder / "pipe")
        begin = time.monotonic()
        child = os.fork()
        if not child:
            os.chdir(folder)
            os.environ.pop("PREIMAGE_DEBUG", None)
            os.environ["COLUMNS"] = "120"
            out = os.open("/dev/full", os.O_WRONLY) if full else output.fileno()
            os.dup2(out, 1)
            os.dup2(output.fileno(), 2)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            status = 99
            try:
                main(arguments)
            except SystemExit as end:
                status = int(end.code or 0)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                try:
                    sys.stdout.flush()
                except OSError:
                    status = 120  # what the interpreter makes of it
                sys.stderr.flush()
                os._exit(status)
        status = -1000
        while time.monotonic() - begin < SECONDS:
            done, code = os.waitpid(child, os.WNOHANG)
            if done:
                status = os.waitstatus_to_exitcode(code)
                break
            time.sleep(0.01)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        output.seek(0)
        return Outcome(tuple(arguments), status, output.read().decode("utf-8", "replace"), time.monotonic() - begin)


def prepared(folder: Path) -> Path:
    """The folder of files, and what the commands import: the forks find it."""
    import importlib

    from preimage.cli import COMMANDS

    template = folder / "template"
    template.mkdir()
    files(template)
    for row in COMMANDS.values():
        importlib.import_module(row.place.partition(":")[0])
    for name in (
        "rich.table",
        "rich.progress",
        "preimage.report.terminal",
        "preimage.report.models",
        "preimage.io.onnx",
        "preimage.io.caffe",
        "preimage.bench",
    ):
        importlib.import_module(name)
    return template


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", default="", help="print what the calls of this command print")
    parser.add_argument("--every", type=int, default=1, help="only every n-th call")
    options = parser.parse_args()
    bad, statuses = 0, {}
    with tempfile.TemporaryDirectory() as folder:
        template = prepared(Path(folder))
        chosen = list(calls())[:: options.every]
        chosen = [call for call in chosen if not options.show or call[:1] == (options.show,)]
        for call in chosen:
            for full in (False, True) if call[:1] in (("info",), ("cache",), ()) or "--load" in call else (False,):
                outcome = run(call, template, full=full)
                statuses[outcome.status] = statuses.get(outcome.status, 0) + 1
                if outcome.fault or options.show:
                    bad += bool(outcome.fault)
                    print(f"{outcome.fault or 'well'} ({outcome.seconds:.1f} s): {call!a:.300}{' > /dev/full' if full else ''}")
                    print("   ", "\n    ".join(ascii(line)[:400] for line in outcome.output.splitlines()[-6:]), flush=True)
    print(f"{sum(statuses.values())} calls: {bad} faults; exit statuses {dict(sorted(statuses.items()))}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

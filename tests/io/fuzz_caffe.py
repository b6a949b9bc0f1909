"""Hostile Caffe files on purpose: mutated nets, each of which must end in one of our errors or in a right result.

    python tests/io/fuzz_caffe.py --count 20000 [--model DEPLOY.prototxt WEIGHTS.caffemodel ...]  # prints counts and every offender's seed
    python tests/io/fuzz_caffe.py --seed 1234 --count 1

A case is a net (one of `fuzz_caffe_nets`, or files given) with mutations of its text, its bytes or its messages: bits flipped, cuts, repeats, huge
and negative numbers, swapped names, types and shapes, cycles, deep nesting. It is loaded, run on zeros, saved and loaded again in a process with
limits (`fuzz_process`). What counts as a failure: a foreign exception, a crash, a result of another shape than the loader announced, more than 5
seconds of processor time, or more than 1 GiB.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fuzz_process
import numpy as np
from fuzz_caffe_nets import NETS

from preimage.autograd import no_grad
from preimage.errors import PreimageError
from preimage.io.caffe.assemble import Limits
from preimage.io.caffe.load import load, read_net, save
from preimage.io.caffe.wire.binary import encode
from preimage.io.caffe.wire.message import Message
from preimage.io.caffe.wire.schema import message_fields
from preimage.io.caffe.wire.text import format_text, parse_text
from preimage.settings import config

__all__ = ["case", "check", "fuzz", "main", "seeds"]

LIMITS = Limits(memory_bytes=128 << 20, work_flop=2_000_000_000, layers=2000)
DETECTORS = ("detection_output", "detection_evaluate", "yolov3_detection_output")  # whose results have as many rows as they find

_NUMBERS = [
    "0",
    "-1",
    "1",
    "2",
    "3",
    "7",
    "4294967295",
    "2147483647",
    "-2147483648",
    "999999999999",
    "1e30",
    "nan",
    "inf",
    "0.5",
    "65536",
    "1000000",
]


def seeds(models: Sequence[tuple[str, str]] = ()) -> list[tuple[str, Message]]:
    """(text, weights) of the nets that are mutated."""
    found = [(text, load(parse_text("NetParameter", text), limits=LIMITS).to_message()) for text in NETS]
    for description, weights in models:
        found.append((Path(description).read_text(), read_net(weights)))
    return found


# -- mutations ---------------------------------------------------------------------------------------------------------


def _mutated_text(text: str, rng: np.random.Generator) -> str:
    for _ in range(int(rng.integers(1, 4))):
        words = text.split()
        lines = text.split("\n")
        at, other = int(rng.integers(max(len(words), 1))), int(rng.integers(max(len(words), 1)))
        action = int(rng.integers(9))
        if action == 0 and words:
            numbers = [k for k, word in enumerate(words) if word.lstrip("-").replace(".", "").isdigit()]
            if numbers:
                words[int(rng.choice(numbers))] = str(rng.choice(_NUMBERS))
            text = " ".join(words)
        elif action == 1 and words:
            words[at], words[other] = words[other], words[at]
            text = " ".join(words)
        elif action == 2:
            text = text[: int(rng.integers(len(text) + 1))]
        elif action == 3:
            at = int(rng.integers(len(text) + 1))
            text = text[:at] + chr(int(rng.integers(1, 0x250))) + text[at:]
        elif action == 4 and lines:
            text = "\n".join([*lines, *[lines[int(rng.integers(len(lines)))]] * int(rng.integers(1, 4))])
        elif action == 5:
            text += rng.choice(["{", "[", "<", "layer {", "layer: [", "layer { layer {"]) * int(rng.integers(1, 5000))
        elif action == 6:
            quoted = [k for k, word in enumerate(words) if word.startswith('"')]
            if len(quoted) > 1:
                a, b = rng.choice(quoted, 2)
                words[int(a)] = words[int(b)]
            text = " ".join(words)
        elif action == 7 and words:
            del words[at]
            text = " ".join(words)
        else:
            rng.shuffle(lines)
            text = "\n".join(lines)
    return text


def _mutated_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        if not out:
            break
        at = int(rng.integers(len(out)))
        action = int(rng.integers(6))
        if action == 0:
            out[at] ^= 1 << int(rng.integers(8))
        elif action == 1:
            del out[at:]
        elif action == 2:
            out[at:at] = rng.bytes(int(rng.integers(1, 9)))
        elif action == 3:
            out[at : at + int(rng.integers(1, 60))] = b""
        elif action == 4:
            out[at : at + 5] = b"\xff\xff\xff\xff\x0f"
        else:
            out += out[at : at + 200]
    return bytes(out)


def _random_value(kind: str, rng: np.random.Generator) -> Any:
    whole = [0, 1, 2, 3, 5, 17, 255, 65536, 1_000_000, 2**31 - 1]
    if kind in ("int32", "int64"):
        return int(rng.choice([*whole, -1, -2, -(2**31)]))
    if kind == "uint32":
        return int(rng.choice([*whole, 2**32 - 1]))
    if kind in ("float", "double"):
        return float(rng.choice([0, 1, -1, 0.5, 1e30, -1e30, np.nan, np.inf, 1e-30, 3, 100]))
    return {
        "bool": bool(rng.integers(2)),
        "string": str(rng.choice(["", "data", "c1", "x", "\x00", "a" * 300])),
        "bytes": b"",
    }.get(kind)


def _mutated_message(net: Message, rng: np.random.Generator) -> Message:
    """Fields set, removed or exchanged anywhere in the tree."""
    net = net.copy()
    for _ in range(int(rng.integers(1, 5))):
        message = net
        for _ in range(int(rng.integers(0, 5))):
            inner = [v for f, v in message.items() if f.kind == "message"]
            inner = [each for v in inner for each in (v if isinstance(v, list) else [v])]
            if not inner:
                break
            message = inner[int(rng.integers(len(inner)))]
        fields = list(message_fields(message.type_name).values())
        field = fields[int(rng.integers(len(fields)))]
        if field.kind == "message":
            present = message._values.get(field.name)
            if isinstance(present, list) and present:
                present.insert(int(rng.integers(len(present) + 1)), present[int(rng.integers(len(present)))].copy())
                del present[int(rng.integers(len(present))) if rng.random() < 0.5 else 0 : 0]
                if rng.random() < 0.4:
                    present.pop(int(rng.integers(len(present))))
            elif not field.repeated and rng.random() < 0.3:
                message.sub(field.name)
        elif field.kind == "enum":
            setattr(message, field.name, [int(rng.integers(4))] if field.repeated else int(rng.integers(4)))
        elif field.name in ("data", "diff", "double_data", "double_diff") and rng.random() < 0.5:
            setattr(message, field.name, rng.standard_normal(int(rng.integers(100))).astype(np.float32))
        else:
            value = _random_value(field.kind, rng)
            setattr(message, field.name, [value] * int(rng.integers(0, 5)) if field.repeated else value)
    return net


def case(nets: Sequence[tuple[str, Message]], seed: int, folder: Path) -> tuple[Path, Path | None]:
    """Write the files of one case; the same seed gives the same files."""
    rng = np.random.default_rng(seed)
    text, weights = nets[int(rng.integers(len(nets)))]
    description, binary = folder / "net.prototxt", folder / "net.caffemodel"
    kind = int(rng.integers(5))
    if kind == 0:
        encoding = str(rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1"]))
        data = _mutated_text(text, rng).encode(encoding, "replace")
        description.write_bytes(data[: -int(rng.integers(1, 4))] if rng.random() < 0.05 else data)
        return description, None
    if kind == 1:
        binary.write_bytes(_mutated_bytes(encode(weights), rng))
        description.write_text(text)
        return description, binary
    if kind == 2:
        binary.write_bytes(encode(_mutated_message(weights, rng)))
        return binary, None
    if kind == 3:
        description.write_text(
            format_text(_mutated_message(parse_text("NetParameter", text), rng)), encoding="utf-8", errors="replace"
        )
        binary.write_bytes(encode(weights))
        return description, binary
    binary.write_bytes(_mutated_bytes(encode(weights), rng))
    return binary, None


# -- checking ----------------------------------------------------------------------------------------------------------


def check(model: Path, weights: Path | None) -> str:
    """Load, run, save and load again; the word for what happened. Raises what should not have happened."""
    try:
        graph = load(model, weights, limits=LIMITS)
    except PreimageError:
        return "refused"
    feeds = {item.name: np.zeros(graph.assembly.shapes[item.name], np.float32) for item in graph.inputs}
    try:
        with no_grad(), np.errstate(all="ignore"):
            found = graph.run(feeds)
    except PreimageError as problem:
        if problem.__cause__ is not None:  # the graph wraps what an op did not expect: that is a defect here
            raise
        return "refused to run"
    for name, value in found.items():
        wanted = graph.assembly.shapes[name]
        if tuple(value.shape) != wanted and not any(node.op in DETECTORS and name in node.outputs for node in graph.nodes):
            raise AssertionError(f"{name!r} has shape {value.shape}, announced {wanted}")
    copy = model.with_name("again.caffemodel")
    save(graph, copy)
    again = load(copy, limits=LIMITS)
    for name in graph.assembly.parameters:
        if not np.array_equal(graph.array(name), again.array(name), equal_nan=True):
            raise AssertionError(f"{name!r} is another after saving and loading")
    return "ran"


def fuzz(first: int, count: int, models: Sequence[tuple[str, str]] = ()) -> tuple[Counter[str], list[tuple[int, str]]]:
    """Counts of outcomes, and the offenders by seed."""
    nets = seeds(models)

    def attempt(seed: int) -> str:
        with tempfile.TemporaryDirectory() as name, config(threads=1, engine="gemm"):
            return check(*case(nets, seed, Path(name)))

    return fuzz_process.fuzz(attempt, first, count, ("ran", "refused", "refused to run"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", nargs=2, action="append", default=[], metavar=("PROTOTXT", "CAFFEMODEL"))
    options = parser.parse_args()
    start = time.perf_counter()
    counts, offenders = fuzz(options.seed, options.count, [tuple(pair) for pair in options.model])
    print(dict(counts), f"in {time.perf_counter() - start:.0f} s")
    for seed, why in offenders[:50]:
        print("offender: seed", seed, why)
    return 1 if offenders else 0


if __name__ == "__main__":
    sys.exit(main())

"""The test cases that come inside the package onnx, run on our importer: what ran, what passed, what is out of scope and why.

python tests/io/onnx_backend.py            # the counts by op, as docs/onnx.md shows them
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from graph_facts import disagreements
from onnx.backend.test.loader import load_model_tests

from preimage import PreimageError, no_grad
from preimage.io import onnx as onnx_io

KINDS = ("node", "pytorch-converted", "pytorch-operator", "simple")
#: Cases whose expected values we do not give, with the reason; docs/onnx.md says so too.
DEPARTURES = dict.fromkeys(
    ("test_resize_downsample_scales_linear_align_corners", "test_resize_downsample_scales_cubic_align_corners"),
    "align_corners of a size that is no whole number: the last position is the last element, as in onnxruntime and PyTorch",
)
DEPARTURES |= dict.fromkeys(
    (f"test_bernoulli{kind}{form}" for kind in ("", "_double", "_seed") for form in ("", "_expanded")),
    "random numbers: other generators draw others",
)
DEPARTURES |= dict.fromkeys(
    ("test_dft_inverse", "test_dft_inverse_opset19"),
    "what is expected in the place of zeros are rounding errors of 2e-7; ours are 3e-15",
)


@dataclass(frozen=True)
class Outcome:
    name: str
    ops: tuple[str, ...]
    status: str  # "passed", "failed", "departs" (a failure that DEPARTURES explains), "out of scope"
    why: str = ""


def cases(kinds=KINDS):
    """Every case as (name, ModelProto, [(inputs, outputs)...], rtol, atol)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in kinds:
            for case in load_model_tests(kind=kind):
                if case.model is not None:
                    yield case.name, case.model, case.data_sets, case.rtol, case.atol
                else:
                    folder = Path(case.model_dir)
                    sets = [(_arrays(d, "input"), _arrays(d, "output")) for d in sorted(folder.glob("test_data_set_*"))]
                    yield case.name, onnx.load(folder / "model.onnx"), sets, case.rtol, case.atol


def _arrays(folder, what):
    files = sorted(folder.glob(f"{what}_*.pb"), key=lambda f: int(f.stem.split("_")[1]))
    tensors = []
    for file in files:
        tensor = onnx.TensorProto()
        tensor.ParseFromString(file.read_bytes())
        tensors.append(tensor)
    return tensors


def _array(value):
    if isinstance(value, onnx.SequenceProto):
        return [onnx_io.model.to_array(each) for each in value.tensor_values]
    if isinstance(value, onnx.TensorProto):
        return onnx_io.model.to_array(value)
    return np.asarray(value) if isinstance(value, np.ndarray | np.generic) else value


def run(name, model, sets, rtol, atol) -> Outcome:
    ops = tuple(sorted({n.op_type for n in model.graph.node}))
    try:
        net = onnx_io.load(model)
    except PreimageError as error:
        return Outcome(name, ops, "out of scope", str(error))
    try:
        for inputs, outputs in sets:
            feeds = dict(zip([v.name for v in model.graph.input], map(_array, inputs), strict=False))
            wanted = {i.name for i in net.inputs}
            if any(not isinstance(v, np.ndarray) for v in feeds.values()):
                return Outcome(name, ops, "out of scope", "its data are no tensors")
            with no_grad(), warnings.catch_warnings():
                warnings.simplefilter("error")
                feeds = {k: v for k, v in feeds.items() if k in wanted}
                got = net.run(feeds, fetch=[*net.outputs, *(key for node in net.nodes for key in node.outputs if key)])
                wrong, _ = disagreements(net, feeds, got)
            if wrong:
                return Outcome(name, ops, "failed", wrong[0])
            for key, want in zip([o.name for o in model.graph.output], map(_array, outputs), strict=False):
                have = got[key]
                if isinstance(want, list):
                    same = len(have) == len(want) and all(np.array_equal(a, b) for a, b in zip(have, want, strict=True))
                    if not same:
                        return Outcome(name, ops, "failed", f"{key} is {have}, wanted {want}")
                    continue
                have = np.asarray(have.data if hasattr(have, "requires_grad") else have)
                if have.dtype != want.dtype or have.shape != want.shape:
                    return Outcome(name, ops, "failed", f"{have.dtype}{have.shape}, wanted {want.dtype}{want.shape}")
                if want.dtype.itemsize == 2 and want.dtype.kind not in "iu":
                    # The expected values were rounded at every step; ours are summed in float32. 2 units in the last place.
                    rtol = max(rtol, 2 * (2.0**-7 if want.dtype.name == "bfloat16" else 2.0**-10))
                np.testing.assert_allclose(have.astype(np.float64) if have.dtype.kind != "b" else have,
                                           want.astype(np.float64) if want.dtype.kind != "b" else want, rtol=rtol, atol=atol)  # fmt: skip
    except Exception as error:
        return Outcome(
            name, ops, "departs" if name in DEPARTURES else "failed", f"{type(error).__name__}: {str(error).strip()[:300]}"
        )
    return Outcome(name, ops, "passed")


def main() -> int:
    outcomes = [run(*case) for case in cases()]
    by_op: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        for op in outcome.ops:
            by_op.setdefault(op, Counter())[outcome.status] += 1
    print("| op | ran | passed | out of scope |\n|---|---|---|---|")
    for op, counts in sorted(by_op.items()):
        print(f"| {op} | {counts['passed'] + counts['failed']} | {counts['passed']} | {counts['out of scope']} |")
    total = Counter(o.status for o in outcomes)
    print(
        f"\n{len(outcomes)} cases: {total['passed']} passed, {total['failed']} failed, {total['departs']} of another opinion, "
        f"{total['out of scope']} out of scope"
    )
    for outcome in outcomes:
        if outcome.status == "departs":
            print("of another opinion:", outcome.name, DEPARTURES[outcome.name])
        if outcome.status == "failed":
            print("FAILED", outcome.name, outcome.ops, outcome.why)
    if "--scope" in sys.argv:
        for outcome in outcomes:
            if outcome.status == "out of scope":
                print("out of scope:", outcome.name, outcome.why)
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""One contestant with one model, in a process of its own: `python side.py JOB.json`.

It needs NumPy and the contestant's library, nothing else of this package, so that another interpreter can run it. JOB.json says:
`contestant`, `model` (a path; Caffe nets: also `weights`), `arrays` (.npz) for the inputs `names` in their order, `outputs` (names),
`threads`, and `answers`, where the outputs are written. When they are, the script says one JSON line: how long loading and the first run
took (`load_ns`, `first_ns`), importing the library before (`import_ns`; what a library imports only when it is used counts where it is used),
how much memory (`peak_bytes`: the most of this process;
`model_bytes`: what came to it since the library was imported), the `version`, and the `layout` where there was a choice. Then, for every
line on its standard input, a number of nanoseconds, it runs the model twice, and again and again until that time is over, and says the
median time of the later runs: {"ns": ..., "cpu_ns": ..., "calls": ...}.

Each library runs as its own users would run it: all optimisations, float32, as many threads as asked for, its better memory layout.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

Job = dict[str, Any]
Feeds = dict[str, Any]
Call = Callable[[], list[Any]]
Accuracy = Literal["exact", "fast"]
Contestant = tuple[Callable[[], Call], str, str]

#: A run of more than this is not repeated before the clock starts.
LONG_NS = 20e6


def preimage(job: Job, feeds: Feeds, accuracy: Accuracy = "exact") -> Contestant:
    import preimage as pre

    if not job.get("weights"):
        return _preimage_session(job, feeds, accuracy), pre.__version__, ""

    def load() -> Call:
        from preimage.io.graph import optimise

        graph = pre.load_model(job["model"], job.get("weights"), open_sizes=True)
        net = optimise(graph, accuracy=accuracy)
        taken = {item.name for item in net.inputs}
        given = {name: value for name, value in feeds.items() if name in taken}
        names = net.outputs
        settings = {"threads": job["threads"]}

        def call() -> list[Any]:
            with pre.no_grad(), pre.config(**settings):
                found = net.run(given)
            return [found[name] for name in names]

        return call

    return load, pre.__version__, ""


def preimage_fast(job: Job, feeds: Feeds) -> Contestant:
    """Fewer multiplications where the plan finds that they pay (docs/fast.md)."""
    return preimage(job, feeds, accuracy="fast")


def _preimage_session(job: Job, feeds: Feeds, accuracy: Accuracy) -> Callable[[], Call]:
    """ONNX files as a script runs them that changes one import."""
    import preimage.runtime as ort

    def load() -> Call:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.accuracy = job["threads"], accuracy
        session = ort.InferenceSession(job["model"], options)
        taken = {item.name for item in session.get_inputs()}
        given = {name: value for name, value in feeds.items() if name in taken}
        return lambda: session.run(None, given)

    return load


def onnxruntime(job: Job, feeds: Feeds) -> Contestant:
    import onnxruntime as ort

    def load() -> Call:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = job["threads"], 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        session = ort.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, feeds)

    return load, ort.__version__, ""


def openvino(job: Job, feeds: Feeds) -> Contestant:
    import openvino as ov

    def load() -> Call:
        core = ov.Core()
        model = core.read_model(job["model"])
        model.reshape(
            {port: ov.PartialShape(list(value.shape)) for port, value in zip(model.inputs, feeds.values(), strict=True)}
        )
        options = {
            "INFERENCE_NUM_THREADS": job["threads"], "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1,
        }  # fmt: skip
        compiled = core.compile_model(model, "CPU", options)
        request = compiled.create_infer_request()
        given = dict(enumerate(feeds.values()))

        def call() -> list[Any]:
            found = request.infer(given, share_inputs=True, share_outputs=True)
            return [np.asarray(found[port]) for port in compiled.outputs]

        return call

    return load, ov.__version__.partition("-")[0], ""


def torch(job: Job, feeds: Feeds, compiled: bool = False) -> Contestant:
    import torch as t

    try:
        import torchvision.ops  # noqa: F401 - onnx2torch imports it for operators that few models have
    except (ImportError, RuntimeError):
        from unittest.mock import MagicMock

        sys.modules["torchvision"], sys.modules["torchvision.ops"] = MagicMock(), MagicMock()
    from onnx2torch import convert

    t.set_num_threads(job["threads"])

    def load(layout: str) -> Call:
        net = convert(_constants_stored(job["model"])).eval()
        order = t.channels_last if layout == "channels_last" else t.contiguous_format
        net = net.to(memory_format=order)
        given = [t.from_numpy(v) for v in feeds.values()]
        given = [v.contiguous(memory_format=order) if v.ndim == 4 else v for v in given]
        run = t.compile(net) if compiled else net

        def call() -> list[Any]:
            with t.inference_mode():
                found = run(*given)
            return [v.numpy() for v in (found if isinstance(found, (tuple, list)) else [found])]

        return call

    best = min(("channels_first", "channels_last"), key=lambda layout: _quickest(lambda: load(layout)))
    return lambda: load(best), t.__version__, best


def _constants_stored(path: str) -> Any:
    """onnx2torch knows weights as initialisers only."""
    import onnx

    proto = onnx.load(path)
    for node in [n for n in proto.graph.node if n.op_type == "Constant" and n.attribute[0].name == "value"]:
        stored = proto.graph.initializer.add()
        stored.CopyFrom(node.attribute[0].t)
        stored.name = node.output[0]
        proto.graph.node.remove(node)
    return proto


def _quickest(make: Callable[[], Call]) -> int:
    call = make()
    call()
    times = []
    for _ in range(4):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return min(times)


def torch_compiled(job: Job, feeds: Feeds) -> Contestant:
    return torch(job, feeds, compiled=True)


def _detections(value: Any) -> Any:
    """Rows of detections (1, 1, n, 7) without those of zeros that OpenCV adds up to the most that there may be."""
    if value.ndim == 4 and value.shape[:2] == (1, 1) and value.shape[3] == 7:
        found = np.flatnonzero(value[0, 0].any(axis=1))
        return value[:, :, : found[-1] + 1 if len(found) else 1]
    return value


def opencv(job: Job, feeds: Feeds) -> Contestant:
    import cv2

    cv2.setNumThreads(job["threads"])

    def load() -> Call:
        if job.get("weights"):
            net = cv2.dnn.readNetFromCaffe(job["model"], job["weights"])
        else:
            net = cv2.dnn.readNetFromONNX(job["model"])

        def call() -> list[Any]:
            for name, value in feeds.items():
                net.setInput(value, name)
            return [_detections(value) for value in net.forward(job["outputs"])]

        return call

    return load, cv2.__version__, ""


CONTESTANTS: dict[str, Callable[[Job, Feeds], Contestant]] = {
    "preimage": preimage,
    "preimage_fast": preimage_fast,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "torch": torch,
    "torch_compiled": torch_compiled,
    "opencv": opencv,
}


def memory() -> int:
    """The most bytes that this process had in memory."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def burst(call: Call, wanted_ns: int) -> dict[str, int]:
    """The median time of as many runs as fill the time, after one or two that are not timed."""
    start = time.perf_counter_ns()
    call()
    if time.perf_counter_ns() - start < LONG_NS:
        call()
    times: list[int] = []
    cpu = time.process_time_ns()
    begin = time.perf_counter_ns()
    while not times or (time.perf_counter_ns() - begin < wanted_ns and len(times) < 1000):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    cpu = (time.process_time_ns() - cpu) // len(times)
    return {"ns": sorted(times)[len(times) // 2], "cpu_ns": cpu, "calls": len(times)}


def main() -> None:
    with open(sys.argv[1]) as file:
        job = json.load(file)
    with np.load(job["arrays"]) as arrays:
        feeds = {name: np.array(arrays[str(k)], order="C") for k, name in enumerate(job["names"])}  # a scalar keeps its shape ()
    said, sys.stdout = sys.stdout, sys.stderr  # libraries may print
    begin = time.perf_counter_ns()
    load, version, layout = CONTESTANTS[job["contestant"]](job, feeds)
    imported = 0 if layout else time.perf_counter_ns() - begin  # a choice of layouts was measured in it
    before = memory()
    start = time.perf_counter_ns()
    call = load()
    loaded = time.perf_counter_ns()
    call()
    first = time.perf_counter_ns()
    answers = [np.array(value) for value in call()]
    answers = [value.astype(str) if value.dtype == object else value for value in answers]  # strings, which are stored so
    peak = memory()
    np.savez(job["answers"], *answers)
    added = 0 if layout else peak - before  # a choice of layouts needed models before this one
    ready = {
        "import_ns": imported, "load_ns": loaded - start, "first_ns": first - loaded,
        "peak_bytes": peak, "model_bytes": added, "version": version, "layout": layout,
    }  # fmt: skip
    print(json.dumps(ready), file=said, flush=True)
    gc.disable()
    for line in sys.stdin:
        print(json.dumps(burst(call, int(line))), file=said, flush=True)


if __name__ == "__main__":
    main()

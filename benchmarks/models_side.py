"""A peer's side of models_vs_onnxruntime.py: one model in a process, and perhaps an environment, of its own.

    python models_side.py openvino|torch MODEL.onnx INPUT.npy THREADS ANSWERS.npz

Writes the answers, says "ready", and for every line on its standard input runs the model twice and says how many nanoseconds the second
run took. openvino: OpenVINO's CPU device, latency hint, float32. torch: the model as onnx2torch translates it, without torch.compile; where it
cannot, an error. onnx2torch imports torchvision for operators that these models do not have; an empty one serves where its build does not fit.
"""

import sys
from unittest.mock import MagicMock

import numpy as np
from contestants import clock_of, once, serve


def openvino(path, x, threads):
    import openvino as ov

    core = ov.Core()
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
    }
    model = core.read_model(path)
    model.reshape({model.inputs[0]: x.shape})
    request = core.compile_model(model, "CPU", options).create_infer_request()

    def call():
        found = request.infer({0: x})
        return [np.asarray(v) for v in found.values()]

    return call


def torch(path, x, threads):
    import onnx
    import torch as t

    try:
        import torchvision.ops  # noqa: F401
    except (ImportError, RuntimeError):
        sys.modules["torchvision"], sys.modules["torchvision.ops"] = MagicMock(), MagicMock()
    from onnx2torch import convert

    proto = onnx.load(path)
    for node in [each for each in proto.graph.node if each.op_type == "Constant"]:  # it knows weights as initialisers only
        stored = proto.graph.initializer.add()
        stored.CopyFrom(node.attribute[0].t)
        stored.name = node.output[0]
        proto.graph.node.remove(node)
    t.set_num_threads(threads)
    net, given = convert(proto).eval(), t.from_numpy(x)

    def call():
        with t.inference_mode():
            found = net(given)
        return [v.numpy() for v in (found if isinstance(found, (tuple, list)) else [found])]

    return call


def main():
    name, model, data, threads, answers = sys.argv[1:6]
    call = {"openvino": openvino, "torch": torch}[name](model, np.load(data), int(threads))
    np.savez(answers, *call())
    serve(once(call, clock_of(cpu=False)))


if __name__ == "__main__":
    main()

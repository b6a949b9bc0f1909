"""A peer's side of models_vs_onnxruntime.py and fast_nets.py: one model in a process, and perhaps an environment, of its own.

    python models_side.py openvino|torch|ncnn MODEL.onnx INPUT.npy THREADS ANSWERS.npz

Writes the answers, says "ready", and for every line on its standard input runs the model twice and says how many nanoseconds the second
run took. openvino: OpenVINO's CPU device, latency hint, float32. torch: the model as onnx2torch translates it, without torch.compile; where it
cannot, an error. onnx2torch imports torchvision for operators that these models do not have; an empty one serves where its build does not fit.
ncnn: what pnnx made of the model, MODEL.ncnn.param and MODEL.ncnn.bin beside it; float32, with pools of memory.
"""

import os
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


def ncnn(path, x, threads):
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, name, False)
    pools = ncnn.PoolAllocator(), ncnn.PoolAllocator()
    net.opt.blob_allocator, net.opt.workspace_allocator = pools
    stem = path.removesuffix(".onnx")
    if net.load_param(f"{stem}.ncnn.param") or net.load_model(f"{stem}.ncnn.bin"):
        raise ValueError(f"ncnn does not load {stem}.ncnn.param")
    image = np.ascontiguousarray(x[0])
    given = ncnn.Mat(image)

    def call(kept=(pools, image)):  # what ncnn points into
        extractor = net.create_extractor()
        extractor.input(net.input_names()[0], given)
        found = [extractor.extract(name)[1] for name in net.output_names()]
        return [np.array(mat)[None] for mat in found]

    return call


def main():
    name, model, data, threads, answers = sys.argv[1:6]
    call = {"openvino": openvino, "torch": torch, "ncnn": ncnn}[name](model, np.load(data), int(threads))
    np.savez(answers, *call())
    serve(once(call, clock_of(cpu=False)))
    if name == "ncnn":
        sys.stdout.flush()
        os._exit(0)  # its pools do not like the order in which Python frees


if __name__ == "__main__":
    main()

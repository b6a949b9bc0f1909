"""What the first call of a model loads in a process that finds its kernels on disk."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import preimage as pre
from preimage.engines.jit.compiler import object_loader

if not object_loader.supported():
    pytest.skip("elsewhere LLVM loads the kernels", allow_module_level=True)

CALL = """
import json, sys
import numpy as np
import preimage as pre
from preimage.engines import disk_cache
net = pre.optimise(pre.load_model(sys.argv[1]))
with pre.no_grad(), pre.config(threads=1):
    (found,) = net.run({"input": np.ones((1, 3, 16, 12), np.float32)}).values()
info = disk_cache.info()
print(json.dumps({"modules": list(sys.modules), "sum": float(found.sum()), "misses": info.misses, "hits": info.hits}))
"""


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """Two processes that run the same small net with one cache: the first makes its kernels."""
    folder = tmp_path_factory.mktemp("first")
    net = pre.nn.Sequential(
        pre.nn.Conv2d(3, 8, 3, rng=0), pre.nn.ReLU(), pre.nn.MaxPool2d(2), pre.nn.Conv2d(8, 5, 1, rng=1), pre.nn.Sigmoid()
    )
    pytest.importorskip("onnx")
    pre.save_model(net, folder / "net.onnx", example=np.zeros((1, 3, 16, 12), np.float32))
    import os

    environment = {**os.environ, "PREIMAGE_CACHE_DIR": str(folder / "cache")}
    environment.pop("PREIMAGE_JIT_TARGET", None)

    def run():
        done = subprocess.run(
            [sys.executable, "-c", CALL, str(folder / "net.onnx")], env=environment, check=True, capture_output=True, timeout=300
        )
        return json.loads(done.stdout)

    return run(), run()


def test_a_warm_first_call_loads_neither_llvm_nor_protobuf(calls):
    cold, warm = calls
    assert "llvmlite.binding" in cold["modules"]
    assert cold["misses"] > 5
    assert warm["sum"] == cold["sum"]
    assert warm["misses"] == 0
    assert warm["hits"] == cold["misses"]
    heavy = {"llvmlite.binding", "onnx", "google.protobuf", "ml_dtypes", "torch", "onnxruntime", "numpy.ma", "numpy.random"}
    assert not heavy & set(warm["modules"])

"""`import preimage` is quick and loads nothing heavy; everything heavy comes on first use."""

from __future__ import annotations

import os
import subprocess
import sys

HEAVY = (
    "llvmlite",
    "onnx",
    "matplotlib",
    "torch",
    "scipy",
    "PIL",
    "typer",
    "rich",
    "safetensors",
    "skimage",
    "pytest",
    "ml_dtypes",
)


def run(code, **environment):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | environment)
    return done.stdout.strip()


def test_import_loads_nothing_heavy():
    found = run(f"import preimage, sys; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert found == "[]"


def test_formats_are_imported_when_they_are_asked_for():
    formats = "[m for m in sys.modules if m.startswith(('preimage.io.caffe', 'preimage.io.torch', 'preimage.io.onnx'))]"
    assert run(f"import preimage.runtime, sys; print({formats})") == "[]"
    asked = "import preimage as pre, sys; pre.io.caffe.load, pre.io.torch.load, pre.io.onnx.load"
    assert run(f"{asked}; print(len({formats}) > 3, hasattr(pre.io, 'nothing'))") == "True False"


def test_the_check_sees_a_heavy_module():
    assert run(f"import preimage, json, llvmlite, sys; print([m for m in {HEAVY!r} if m in sys.modules])") == "['llvmlite']"


def test_import_takes_little_beside_numpy(tmp_path):
    """CPU time of the import as a share of NumPy's own in the same process, compiled before: the best of several, whatever the machine's speed."""
    code = (
        "import time; a = time.process_time(); import numpy; b = time.process_time(); import preimage;"
        " print((time.process_time() - b) / (b - a))"
    )
    compiled = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    run(code, **compiled)
    assert min(float(run(code, **compiled)) for _ in range(5)) < 0.5


def test_a_first_call_imports_nothing_slow():
    """Parts of NumPy that NumPy itself imports late take longer than a whole first call."""
    code = """
import sys
import numpy as np
import preimage as pre
import llvmlite.binding
import preimage.engines.jit.engine
before = set(sys.modules)
with pre.config(engine="jit"):
    for groups, inputs in ((1, 24), (24, 1)):
        for n in (9, 600):
            x, w = np.ones((1, 24, 7, n), np.float32), np.ones((24, inputs, 3, 3), np.float32)
            y = pre.conv(x, w, padding=1, groups=groups)
            pre.conv_transpose(y, w, padding=1, groups=groups)
            pre.conv_weight_grad(x, y, kernel_size=(3, 3), padding=1, groups=groups)
print(sorted(m for m in set(sys.modules) - before if not m.startswith("preimage.")))
"""
    assert run(code) == "[]"


def test_every_public_name_is_there():
    import preimage

    assert all(hasattr(preimage, name) for name in preimage.__all__)

"""Measuring: layers of a suite, engines and peers side by side in one run, answers checked before any clock runs.

    suite       the layers: the suite that ships with the package, a file, or one geometry
    problem     one layer as arrays with an exactly known answer
    contestants this library's engines; peers: torch, onnxruntime, jax where they are installed
    probes      what the machine can do: the FMA peak and the memory bandwidth, measured in the same run
    measure     the protocol: warm up, interleave, repeat until the spread is small
    summary     paired ratios, geometric means, rooflines
    machine     what ran where, in words

The command is `preimage bench`; `report.bench` draws the page. Results are plain data (`Row`, `Run`), also as JSON.
"""

from preimage.bench.measure import Protocol, run_bench
from preimage.bench.results import Row, Run
from preimage.bench.suite import Layer, builtin_suite, layer_from_sizes, load_suite

__all__ = ["Layer", "Protocol", "Row", "Run", "builtin_suite", "layer_from_sizes", "load_suite", "run_bench"]

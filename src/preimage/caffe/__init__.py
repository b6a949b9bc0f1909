"""pycaffe's face on preimage: `from preimage import caffe` and old scripts run, without Caffe.

`Net`, `Layer`, `Classifier`, `Detector`, the solvers, `io`, `proto.caffe_pb2`, `NetSpec` with `layers` and `params`, `coord_map`,
`draw`. The differences from Caffe are listed in docs/caffe.md. New code is better off with preimage.io.caffe.load, which gives a module that trains.
"""

from __future__ import annotations

from preimage.caffe import coord_map, draw, io, net_spec, proto
from preimage.caffe.classifier import Classifier
from preimage.caffe.detector import Detector
from preimage.caffe.net import Net
from preimage.caffe.net_spec import NetSpec, layers, params, to_proto
from preimage.caffe.process import (
    NCCL,
    Timer,
    has_nccl,
    init_log,
    log,
    set_device,
    set_mode_cpu,
    set_mode_gpu,
    set_multiprocess,
    set_solver_count,
    set_solver_rank,
    solver_count,
    solver_rank,
)
from preimage.caffe.solver import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    Solver,
    get_solver,
)
from preimage.caffe.state import TEST, TRAIN, set_random_seed
from preimage.io.caffe import LAYERS
from preimage.io.caffe.python_layers import Blob, Layer

__version__ = "1.0.0"

__all__ = [
    "NCCL",
    "TEST",
    "TRAIN",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Blob",
    "Classifier",
    "Detector",
    "Layer",
    "NesterovSolver",
    "Net",
    "NetSpec",
    "RMSPropSolver",
    "SGDSolver",
    "Solver",
    "Timer",
    "coord_map",
    "draw",
    "get_solver",
    "has_nccl",
    "init_log",
    "io",
    "layer_type_list",
    "layers",
    "log",
    "net_spec",
    "params",
    "proto",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_multiprocess",
    "set_random_seed",
    "set_solver_count",
    "set_solver_rank",
    "solver_count",
    "solver_rank",
    "to_proto",
]


def layer_type_list() -> list[str]:
    """The layer types that are supported."""
    return sorted(LAYERS)


def __dir__() -> list[str]:
    """The public names; modules lie behind them."""
    return sorted(__all__)

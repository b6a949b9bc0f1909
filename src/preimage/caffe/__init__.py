"""pycaffe's face on preimage: `from preimage import caffe` and old scripts run, without Caffe.

`Net`, `Classifier`, the solvers, `io`, `proto.caffe_pb2`, `NetSpec` with `layers` and `params`, `set_mode_cpu`. The differences
from Caffe are listed in docs/caffe.md. New code is better off with preimage.io.caffe.load, which gives a module that trains.
"""

from __future__ import annotations

import warnings

from preimage.caffe import io, proto
from preimage.caffe.blob import Blob
from preimage.caffe.classifier import Classifier
from preimage.caffe.net import Net
from preimage.caffe.net_spec import NetSpec, layers, params, to_proto
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

__version__ = "1.0.0"

__all__ = [
    "TEST",
    "TRAIN",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Blob",
    "Classifier",
    "NesterovSolver",
    "Net",
    "NetSpec",
    "RMSPropSolver",
    "SGDSolver",
    "Solver",
    "get_solver",
    "io",
    "layer_type_list",
    "layers",
    "params",
    "proto",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_random_seed",
    "to_proto",
]


def set_mode_cpu() -> None:
    """The CPU computes; it always does."""


def set_mode_gpu() -> None:
    """Warns: the CPU computes."""
    warnings.warn("preimage.caffe computes on the CPU; set_mode_gpu changes nothing", stacklevel=2)


def set_device(device: int) -> None:
    """Warns for a device: there is none to choose."""
    warnings.warn(f"preimage.caffe computes on the CPU; set_device({device}) changes nothing", stacklevel=2)


def layer_type_list() -> list[str]:
    """The layer types that are supported."""
    return sorted(LAYERS)

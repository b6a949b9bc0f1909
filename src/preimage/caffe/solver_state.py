"""Solver states: iteration, history and the weights' file, as Caffe's .solverstate (protobuf) or .solverstate.h5 (HDF5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from preimage.caffe import hdf5
from preimage.caffe.errors import MissingFileError
from preimage.errors import FileFormatError, ShapeError
from preimage.host import write_file
from preimage.io.caffe.blobs import array_of_blob, blob_of_array, blob_shape, fits
from preimage.io.caffe.wire.binary import decode, encode
from preimage.io.caffe.wire.message import Message

__all__ = ["State", "read_state", "weights_of", "write_state"]

StrPath = str | PathLike[str]


@dataclass(frozen=True, slots=True)
class State:
    """What a solver goes on from: `history` in the order of the net's parameters, first all of one kind, then all of the other."""

    iter: int
    current_step: int
    learned_net: str
    history: Sequence[Any]


def write_state(path: StrPath, state: State) -> None:
    """Write a state, whole or not at all: HDF5 for a name that ends in .h5. Raises: OutputError."""
    if str(path).endswith(".h5"):
        hdf5.write_state(path, state.iter, state.current_step, state.learned_net, state.history)
        return
    message = Message("SolverState", iter=state.iter, learned_net=state.learned_net, current_step=state.current_step)
    message.history = [blob_of_array(np.asarray(array, np.float32)) for array in state.history]
    write_file(path, encode(message))


def read_state(path: StrPath, shapes: Sequence[tuple[int, ...]]) -> State:
    """A state whose history has these shapes. Raises: MissingFileError, FileFormatError, ShapeError."""
    if hdf5.is_hdf5(path):
        step, current, learned, history = hdf5.read_state(path, shapes)
    else:
        message = _message(path)
        if len(message.history) != len(shapes):
            raise FileFormatError(
                f"{path} has {len(message.history)} arrays of history, this solver {len(shapes)}: it is of another type of solver or net"
            )
        history = [
            _array(blob, shape, index, path) for index, (blob, shape) in enumerate(zip(message.history, shapes, strict=True))
        ]
        step, current, learned = message.iter, message.current_step, message.learned_net
    if step < 0:
        raise FileFormatError(f"{path}: iteration {step} is below 0")
    return State(step, current, learned, history)


def _message(path: StrPath) -> Message:
    try:
        data = Path(path).read_bytes()
    except OSError as problem:
        raise MissingFileError(f"{path} cannot be read: {problem.strerror or problem}") from None
    try:
        message = decode("SolverState", data)
    except FileFormatError as problem:
        raise FileFormatError(f"{path} is no solver state: {problem}") from None
    if not message.has("iter"):
        raise FileFormatError(f"{path} is no solver state: it has no iter")
    return message


def _array(blob: Message, shape: tuple[int, ...], index: int, path: StrPath) -> Any:
    if not fits(blob_shape(blob), shape):
        raise ShapeError(f"{path}: history {index} has shape {blob_shape(blob)}, the net's parameter {shape}")
    return array_of_blob(blob).astype(np.float32).reshape(shape)


def weights_of(state: State, path: StrPath) -> Path | None:
    """The file of the weights that belong to a state: where it says, else beside it; None if it names none. Raises: MissingFileError."""
    if not state.learned_net:
        return None
    named = Path(state.learned_net)
    for place in (named, Path(path).parent / named.name):
        if place.is_file():
            return place
    raise MissingFileError(f"{path} belongs to the weights {state.learned_net!r}, which are neither there nor beside it")

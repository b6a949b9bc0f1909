"""The weights of a Net: taken from files and other nets, shared, written."""

from __future__ import annotations

from os import PathLike
from typing import Any, Self

import numpy as np

from preimage.caffe.errors import MissingFileError
from preimage.errors import FileFormatError, ShapeError
from preimage.host import write_file
from preimage.io.caffe import CaffeGraph, hdf5
from preimage.io.caffe.python_layers import Blob
from preimage.io.caffe.wire.binary import encode

__all__ = ["NetWeights", "readable"]

StrPath = str | PathLike[str]


def readable(path: StrPath) -> None:
    """Raise MissingFileError for a file that cannot be opened."""
    try:
        with open(path, "rb"):
            pass
    except OSError as problem:
        raise MissingFileError(f"{path} cannot be read: {problem.strerror or problem}") from None


class NetWeights:
    """What a Net can do with weights. Those that it takes are copied into its arrays, so that views of them stay good."""

    _graph: CaffeGraph
    _stored: dict[str, Blob]

    def copy_from(self, trained_file: Any) -> None:
        """Take weights by layer name from a .caffemodel, an HDF5 file (`.caffemodel.h5`, with h5py) or a NetParameter.

        Raises: ShapeError; the net is then as it was.
        """
        if isinstance(trained_file, str | PathLike):
            readable(trained_file)
        graph = self._graph
        before = {name: graph.array(name) for name in graph.assembly.parameters}
        graph.copy_weights(trained_file)
        for name, array in before.items():
            fresh = graph.array(name)
            if fresh is not array:
                np.copyto(array, fresh)
                graph.put(name, array)

    def load_hdf5(self, filename: StrPath) -> None:
        """Take weights by layer name from an HDF5 file, as copy_from. Raises: FileFormatError for a file that is none."""
        readable(filename)
        if not hdf5.is_hdf5(filename):
            raise FileFormatError(f"{filename} is no HDF5 file")
        self.copy_from(filename)

    def share_with(self, other: Self) -> None:
        """Use the other net's arrays for layers of the same name. Raises: ShapeError."""
        pairs = []
        for layer, names in self._graph.assembly.layer_blobs.items():
            theirs = other._graph.assembly.layer_blobs.get(layer)
            if theirs is None:
                continue
            if len(names) != len(theirs):
                raise ShapeError(f"layer {layer!r} has {len(names)} blobs, the other net's {len(theirs)}")
            for name, source in zip(names, theirs, strict=True):
                array = other._graph.array(source)
                if array.shape != self._graph.array(name).shape:
                    raise ShapeError(
                        f"layer {layer!r}: {name!r} has shape {self._stored[name].shape}, the other net's {array.shape}"
                    )
                pairs.append((name, array))
        for name, array in pairs:
            self._graph.put(name, array)

    def save(self, filename: StrPath, diffs: bool = False) -> None:
        """Write the net with its weights (and their diffs) as a .caffemodel, whole or not at all. Raises: OutputError."""
        slopes = {name: blob.diff for name, blob in self._stored.items()} if diffs else None
        write_file(filename, encode(self._graph.to_message(diffs=slopes)))

    def save_hdf5(self, filename: StrPath, diffs: bool = False) -> None:
        """Write the weights (and their diffs) as HDF5, whole or not at all. Needs h5py. Raises: OutputError, FileFormatError."""
        slopes = {name: blob.diff for name, blob in self._stored.items()} if diffs else None
        write_file(filename, self._graph.hdf5_bytes(slopes))

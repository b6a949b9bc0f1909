"""Data for training: datasets from files, transforms, and a Loader that makes batches of them.

    train = data.mnist("mnist", train=True)                       # IDX; also open_data, ImageFolder, ImageMaskPairs, LmdbDataset, ...
    loader = data.Loader(train, 64, shuffle=True, seed=0, transform=[data.Crop(28, padding=2), data.Flip()], workers=2)
    for images, labels in loader: ...                             # one epoch

A dataset is anything with a length and samples by number; training takes a Loader or any iterable of batches, a torch DataLoader among them.
Everything that was damaged is an error that names the file and the place in it. docs/training.md shows all of it.
"""

from preimage.data.arrays import from_npy, from_npz
from preimage.data.dataset import ArrayDataset, Dataset, Sample, Subset, split
from preimage.data.endless import Endless
from preimage.data.folders import ImageFolder, ImageList, ImageMaskPairs
from preimage.data.hdf5 import from_hdf5
from preimage.data.idx import idx_pair, mnist, read_idx, write_idx
from preimage.data.lmdb import LmdbDataset, LmdbReader
from preimage.data.loader import Loader, Stream, arrays_of, batches_of
from preimage.data.nifti import SliceDataset, read_nifti
from preimage.data.sources import open_data
from preimage.data.transforms import Colour, Compose, Crop, Flip, Mean, Scale, Transform

__all__ = [
    "ArrayDataset", "Colour", "Compose", "Crop", "Dataset", "Endless", "Flip", "ImageFolder", "ImageList", "ImageMaskPairs",
    "LmdbDataset", "LmdbReader", "Loader", "Mean", "Sample", "Scale", "SliceDataset", "Stream", "Subset", "Transform",
    "arrays_of", "batches_of", "from_hdf5", "from_npy", "from_npz", "idx_pair", "mnist", "open_data", "read_idx",
    "read_nifti", "split", "write_idx",
]  # fmt: skip


def __dir__() -> list[str]:
    """The public names; modules lie behind them."""
    return sorted(__all__)

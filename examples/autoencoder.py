"""A convolutional autoencoder: two convolutions down to 32 numbers, two deconvolutions back up to the picture.

    preimage train examples/autoencoder.py --data FOLDER -o autoencoder

FOLDER holds MNIST's or Fashion-MNIST's IDX files (docs/training.md says where they come from). The report shows pictures that were not learned from,
each above what its 32 numbers give back.
"""

import numpy as np

from preimage import data as datasets
from preimage import nn, optim

batch_size, epochs = 64, 2
loss = nn.mse_loss
metrics = {"psnr": "psnr"}
shown = None


class Images:
    """The images of a dataset without their labels: the target is the image itself."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index][:1]


def data(path, train):
    global shown
    images = Images(datasets.open_data(path, train=train))
    if not train:
        shown = np.stack([images[k][0] for k in range(12)])
    return images


def net():
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.ReLU(),                 # 28 -> 14
        nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(),                # 14 -> 7
        nn.Flatten(), nn.Linear(32 * 49, 32),
        nn.Linear(32, 32 * 49), nn.ReLU(), nn.Unflatten(1, (32, 7, 7)),
        nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1), nn.ReLU(),       # 7 -> 14
        nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1), nn.Sigmoid(),     # 14 -> 28
    )  # fmt: skip


def optimizer(parameters):
    return optim.Adam(parameters, lr=2e-3)


def pictures(trained):
    rebuilt = np.asarray(trained(shown))
    rows = [np.concatenate([a, b], axis=1) for a, b in zip(shown, rebuilt, strict=True)]
    return {"Pictures that were not learned from, above what 32 numbers give back": np.concatenate(rows, axis=2)}

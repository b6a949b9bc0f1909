"""A fully convolutional net that says of every pixel which digit it belongs to (Long, Shelhamer and Darrell 2015).

    preimage train examples/fcn.py --data FOLDER -o fcn

FOLDER holds MNIST's IDX files (docs/training.md says where they come from). A scene has two or three digits on an empty ground. Scores at an eighth
of the size are doubled by a deconvolution, scores at a quarter are added, and another deconvolution makes them as large as the picture. Both begin as
bilinear interpolation, channel by channel, and go on from there.
"""

from itertools import pairwise

import numpy as np

from preimage import data as datasets
from preimage import nn, optim

SIDE, CLASSES = 56, 11  # the ground is class 0, digit d class d + 1
batch_size, epochs = 16, 6
shown = None


class Scenes:
    """Pictures (1, SIDE, SIDE) with two or three digits, and the class of every pixel (SIDE, SIDE); scene k is always the same."""

    def __init__(self, digits, count, seed):
        self.digits, self.count, self.seed = digits, count, seed

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, index])
        image, classes = np.zeros((1, SIDE, SIDE), np.float32), np.zeros((SIDE, SIDE), np.int64)
        for _ in range(rng.integers(2, 4)):
            digit, label = self.digits[int(rng.integers(len(self.digits)))]
            top, left = rng.integers(0, SIDE - 27, 2)
            place = np.s_[top : top + 28, left : left + 28]
            drawn = digit[0] > 0.3
            image[0][place][drawn] = digit[0][drawn]
            classes[place][drawn] = label + 1
        return image, classes


def layer(before, after):
    """A 3x3 convolution, normalised and cut off at zero."""
    return nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()


class FCN(nn.Module):
    """Scores (N, CLASSES, H, W) for pictures (N, 1, H, W); H and W multiples of 8."""

    def __init__(self, widths=(16, 32, 64)):
        super().__init__()
        before = (1, *widths)
        self.down = nn.ModuleList([nn.Sequential(*layer(a, b), *layer(b, b), nn.MaxPool2d(2)) for a, b in pairwise(before)])
        self.deep = nn.Sequential(*layer(widths[-1], widths[-1]), nn.Conv2d(widths[-1], CLASSES, 1))
        self.skip = nn.Conv2d(widths[-2], CLASSES, 1)
        self.double = nn.ConvTranspose2d(CLASSES, CLASSES, 4, stride=2, padding=1, bias=False)
        self.quadruple = nn.ConvTranspose2d(CLASSES, CLASSES, 8, stride=4, padding=2, bias=False)
        for deconvolution in (self.double, self.quadruple):
            nn.init.bilinear_(deconvolution.weight)

    def forward(self, x):
        maps = []
        for part in self.down:
            x = part(x)
            maps.append(x)
        return self.quadruple(self.double(self.deep(x)) + self.skip(maps[-2]))


class MeanIoU:
    """The mean over the classes of |found and true| / |found or true|, over all pixels of the set."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.pairs = np.zeros((CLASSES, CLASSES), np.int64)

    def update(self, output, target):
        found, true = np.asarray(output).argmax(axis=1), np.asarray(target)
        self.pairs += np.bincount((true * CLASSES + found).reshape(-1), minlength=CLASSES**2).reshape(CLASSES, CLASSES)

    def value(self):
        both = np.diag(self.pairs)
        either = self.pairs.sum(axis=0) + self.pairs.sum(axis=1) - both
        return float(np.mean(both[either > 0] / either[either > 0]))


metrics = {"mean IoU": MeanIoU(), "accuracy": "accuracy"}


def net():
    return FCN()


def loss(scores, classes):
    """Cross entropy in which a pixel of the ground, of which there are ten times as many, counts for a fifth of one of a digit."""
    weights = np.ones(CLASSES, np.float32)
    weights[0] = 0.2
    return nn.cross_entropy(scores, classes, weight=weights)


def optimizer(parameters):
    return optim.Adam(parameters, lr=3e-3)


def schedule(optimiser, steps):
    return optim.cosine(optimiser, max_iter=steps)


def data(path, train):
    global shown
    scenes = Scenes(datasets.open_data(path, train=train), 6000 if train else 300, seed=int(train))
    if not train:
        shown = [np.stack(part) for part in zip(*(scenes[k] for k in range(6)), strict=True)]
    return scenes


def coloured(classes):
    """Classes (N, H, W) as pictures (N, 3, H, W): the ground black, each digit a colour."""
    turn = np.arange(CLASSES - 1)[:, None] / (CLASSES - 1) + np.array([0, 1 / 3, 2 / 3])
    colours = np.concatenate([np.zeros((1, 3)), 0.5 + 0.5 * np.cos(2 * np.pi * turn)])
    return colours[classes].transpose(0, 3, 1, 2)


def pictures(trained):
    images, classes = shown
    found = np.asarray(trained(images)).argmax(axis=1)
    columns = np.concatenate([images.repeat(3, axis=1), coloured(classes), coloured(found)], axis=2)
    return {"Scenes that were not learned from: picture, true classes, what the net says": np.concatenate(list(columns), axis=2)}

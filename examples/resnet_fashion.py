"""A small residual net on Fashion-MNIST (He, Zhang, Ren and Sun 2015): seven convolutions and a classifier, 1.2 million weights.

    preimage train examples/resnet_fashion.py --data FOLDER -o resnet

FOLDER holds Fashion-MNIST's IDX files (docs/training.md says where they come from). Pictures are shifted and mirrored at random; what is tested is
an average of the weights over the last few hundred steps, on every picture and its mirror image: the mean of the two outputs counts.
"""

from preimage import data as datasets
from preimage import nn, ops, optim

batch_size, epochs = 128, 12
transform = [datasets.Crop(28, padding=2), datasets.Flip()]
options, metrics = {"ema": 0.995}, {"accuracy": "accuracy"}


def normalised(before, after, size, stride=1):
    """A convolution without bias, and batch normalisation."""
    return nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False), nn.BatchNorm2d(after)


class Block(nn.Module):
    """relu(x + f(x)) with two 3x3 convolutions in f; x by a 1x1 convolution where the size or the channels change."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.inner = nn.Sequential(*normalised(before, after, 3, stride), nn.ReLU(), *normalised(after, after, 3))
        self.short = nn.Sequential(*normalised(before, after, 1, stride)) if stride > 1 or before != after else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.inner(x) + self.short(x))


class BothWays(nn.Module):
    """In evaluation: the mean of a net's outputs for a picture and for its mirror image. In training: the net."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) if self.training else 0.5 * (self.inner(x) + self.inner(ops.flip(x, -1)))


def net():
    return BothWays(nn.Sequential(
        *normalised(1, 32, 3), nn.ReLU(),                                        # 28
        Block(32, 64, 2), Block(64, 128, 2), Block(128, 256, 2),                 # 14, 7, 4
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10),
    ))  # fmt: skip


def loss(output, target):
    return nn.cross_entropy(output, target, label_smoothing=0.1)


def optimizer(parameters):
    return optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)


def schedule(optimiser, steps):
    return optim.cosine(optimiser, max_iter=steps, warmup=max(1, steps // 20))

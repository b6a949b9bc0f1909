"""A small residual net on Fashion-MNIST (He, Zhang, Ren and Sun 2015): seven convolutions and a classifier, 0.3 million weights.

    preimage train examples/resnet_fashion.py --data FOLDER -o resnet

FOLDER holds Fashion-MNIST's IDX files (docs/training.md says where they come from). Pictures are shifted and mirrored at random; what is tested is
an average of the weights over the last few hundred steps.
"""

from preimage import data as datasets
from preimage import nn, optim

batch_size, epochs = 128, 12
transform = [datasets.Crop(28, padding=2), datasets.Flip()]
options = {"ema": 0.995}


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


def net():
    return nn.Sequential(
        *normalised(1, 32, 3), nn.ReLU(),                                        # 28
        Block(32, 32, 1), Block(32, 64, 2), Block(64, 128, 2),                   # 28, 14, 7
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def optimizer(parameters):
    return optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)


def schedule(optimiser, steps):
    return optim.cosine(optimiser, max_iter=steps, warmup=max(1, steps // 20))

"""One activation of a trained net, projected back to pixels, as Zeiler and Fergus (2014) do it: a reconstruction, not an explanation.

    python examples/deconvnet.py FOLDER [--steps 600] [--output deconvnet.png]

FOLDER holds the IDX files of MNIST or Fashion-MNIST. A small net is trained on them. Then, for several filters of its second convolution, the
strongest activation over 2,000 test pictures is taken, all others are set to zero, and the one is sent back through the net: through the transpose
of each convolution (the same weights: `pre.conv_transpose`), through ReLU, and through "unpooling", which puts each value where the maximum was
(the "switches" that the pooling kept on its way forward).

What comes out resembles the part of the picture that the activation saw. That is what the method promises: it rebuilds, by the positions that the
switches remember. It does not show what the net's decision rests on: Nie, Zhang and Patel (2018) prove that such projections recover the picture
whatever class is asked about, and do so with random weights too.

The picture has, for each of twelve filters: the test picture with the field of the activation framed, and its projection.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import preimage as pre
from preimage import data, learning, nn, optim
from preimage.autograd import array_of
from preimage.io.pictures import write_picture
from preimage.report.images import rgb, sheet, stencil_tile


class Net(nn.Module):
    """Two convolutions with pooling, and a layer for the classes; `trace` keeps what the way back needs."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 12, 5, padding=2), nn.Conv2d(12, 24, 5, padding=2)
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.last = nn.Linear(24 * 49, 10)

    def trace(self, x):
        """The maps of the second convolution after ReLU, and the switches of the first pooling."""
        maps, switches = self.pool(pre.ops.relu(self.first(x)))
        return pre.ops.relu(self.second(maps)), switches

    def forward(self, x):
        maps, _ = self.trace(x)
        pooled, _ = self.pool(maps)
        return self.last(pre.ops.flatten(pooled, 1))


def project(net, maps, switches, size):
    """Maps of the second convolution back to pixels (N, 1, H, W): transpose, unpool by the switches, ReLU, transpose."""
    below = pre.conv_transpose(maps, net.second.weight.data, padding=2)
    unpooled = pre.ops.max_unpool(np.maximum(below, 0), switches, size)
    return pre.conv_transpose(np.maximum(unpooled, 0), net.first.weight.data, padding=2)


def strongest(net, images, filters):
    """For each filter: (image number, row, column) of its strongest activation."""
    with pre.no_grad():
        maps = np.concatenate([np.asarray(net.trace(images[k : k + 250])[0].data) for k in range(0, len(images), 250)])
    places = []
    for k in filters:
        n, row, column = np.unravel_index(int(maps[:, k].argmax()), maps[:, k].shape)
        places.append((int(n), int(row), int(column)))
    return places


def reconstruction(net, image, k, row, column):
    """The projection of one activation alone, (1, H, W)."""
    with pre.no_grad():
        maps, switches = net.trace(pre.Tensor(image[None]))
    alone = np.zeros_like(maps.data)
    alone[0, k, row, column] = maps.data[0, k, row, column]
    return project(net, alone, array_of(switches), image.shape[-2:])[0]


def main(folder, steps=600, output=Path("deconvnet.png"), images=2000):
    nn.init.manual_seed(0)
    net = Net()
    train, test = (data.open_data(folder, train=part) for part in (True, False))
    trainer = learning.Trainer(net, nn.cross_entropy, optim.Adam(net.parameters(), lr=2e-3), metrics={"accuracy": "accuracy"})
    trainer.fit(data.Loader(train, 64, shuffle=True, seed=0, workers=1), iterations=steps, progress=True)
    seen = np.stack([test[k][0] for k in range(min(images, len(test)))])
    print(
        f"accuracy on {len(seen)} test pictures: {trainer.evaluate([(seen, np.array([test[k][1] for k in range(len(seen))]))])['accuracy']:.3f}"
    )
    filters = range(0, 24, 2)
    tiles = []
    for k, (n, row, column) in zip(filters, strongest(net, seen, filters), strict=True):
        found = reconstruction(net, seen[n], k, row, column)
        shown = rgb(seen[n]).repeat(4, axis=0).repeat(4, axis=1)
        top, left = (max(0, 4 * (2 * place - 6)) for place in (row, column))  # an activation sees 14 x 14 pixels
        below, right = (min(shown.shape[0] - 1, 4 * (2 * place + 8)) for place in (row, column))
        for a in (np.s_[top:below, left], np.s_[top:below, right], np.s_[top, left:right], np.s_[below, left:right]):
            shown[a] = (255, 138, 30)
        tiles += [shown, stencil_tile(found, 4)]
    write_picture(output, sheet(tiles, 6))
    print(f"the picture: {output}")
    return net, seen


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--output", type=Path, default=Path("deconvnet.png"))
    given = parser.parse_args()
    main(given.folder, given.steps, given.output)

"""A U-Net: down by convolutions and pooling, up by deconvolutions, with the fine maps of the way down joined on the way up
(Ronneberger, Fischer and Brox 2015). The files unet_brain.py and unet_nuclei.py train it.
"""

from itertools import pairwise

import numpy as np

from preimage import nn, ops, optim
from preimage.report.images import rgb, sheet


def block(before, after):
    """Two convolutions, each normalised and cut off at zero."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
        nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
    )  # fmt: skip


class UNet(nn.Module):
    """Logits (N, 1, H, W) for images (N, 1, H, W); H and W multiples of 2 ** (len(widths) - 1)."""

    def __init__(self, widths=(12, 24, 48)):
        super().__init__()
        steps = list(pairwise(widths))
        self.down = nn.ModuleList([block(1, widths[0]), *(block(a, b) for a, b in steps)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in reversed(steps)])
        self.join = nn.ModuleList([block(2 * a, a) for a, _ in reversed(steps)])
        self.pool = nn.MaxPool2d(2)
        self.last = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x):
        kept = []
        for number, layer in enumerate(self.down):
            x = layer(x if number == 0 else self.pool(x))
            kept.append(x)
        for number, (grow, layer) in enumerate(zip(self.up, self.join, strict=True)):
            x = layer(ops.concat([grow(x), kept[-2 - number]], axis=1))
        return self.last(x)


def net():
    return UNet()


def optimizer(parameters):
    return optim.Adam(parameters, lr=3e-3)


def schedule(optimiser, steps):
    return optim.cosine(optimiser, max_iter=steps)


def loss(logits, mask):
    """Cross-entropy of each pixel, and Dice of all of them together."""
    return nn.bce_with_logits_loss(logits, mask) + nn.dice_loss(ops.sigmoid(logits), mask)


def beside(images, masks, logits):
    """Image, mask and what the net says, side by side: green where both say yes, red where only the net, blue where only the mask."""
    rows = []
    for image, mask, found in zip(images, masks, logits, strict=True):
        grey = (image - image.min()) / max(float(np.ptp(image)), 1e-6)
        picture, yes, true = rgb(grey.astype(np.float32)), found[0] > 0, mask[0] > 0.5
        over = picture // 2
        for where, channel in ((yes & true, 1), (yes & ~true, 0), (~yes & true, 2)):
            over[where, channel] = 200
        rows += [picture, rgb(mask.astype(np.float32)), over]
    return sheet(rows, 3)

"""Super-resolution: waifu2x's UpConv7, made for drawings, learns to double photographs.

    preimage train examples/super_resolution.py -o double        # needs scikit-image and waifu2x: make models

It begins with waifu2x's weights (examples/double_size.py has the net: six convolutions and a deconvolution) and goes on with pieces of five of
scikit-image's photographs. The astronaut is held out.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import double_size

import preimage as pre
from preimage import nn, optim

PIECE, MARGIN = 12, 7  # of the small side: what is doubled, and what the convolutions use up around it
batch_size, epochs = 8, 1
net, loss, metrics = double_size.upconv7, nn.mse_loss, {"psnr": "psnr"}
LEARNED = ("chelsea", "coffee", "rocket", "retina", "hubble_deep_field")


def photograph(name):
    """A picture (3, H, W) of 0 .. 1."""
    from skimage import data as pictures

    return np.ascontiguousarray(getattr(pictures, name)().transpose(2, 0, 1), np.float32) / np.float32(255)


def pair(large, piece):
    """Half the size with its margin, and the true picture without it, of one (3, 2 (piece + 2 MARGIN), same)."""
    side = piece + 2 * MARGIN
    small = large.reshape(3, side, 2, side, 2).mean((2, 4), dtype=np.float32)
    inner = slice(2 * MARGIN, 2 * (MARGIN + piece))
    return small, np.ascontiguousarray(large[:, inner, inner])


class Pieces:
    """Pieces of photographs, turned over at random; piece k is always the same."""

    def __init__(self, names, count, piece, seed):
        self.pictures, self.count, self.piece, self.seed = [photograph(name) for name in names], count, piece, seed

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, index])
        picture = self.pictures[int(rng.integers(len(self.pictures)))]
        side = 2 * (self.piece + 2 * MARGIN)
        top, left = (int(rng.integers(0, n - side + 1)) for n in picture.shape[1:])
        large = picture[:, top : top + side, left : left + side]
        return pair(np.ascontiguousarray(large[:, :, :: rng.choice((1, -1))]), self.piece)


def data(path, train):
    return Pieces(LEARNED, 2400, PIECE, seed=1) if train else Pieces(("astronaut",), 24, 40, seed=0)


def optimizer(parameters):
    return optim.Adam(parameters, lr=1e-4)


def schedule(optimiser, steps):
    return optim.cosine(optimiser, max_iter=steps)


def doubled(trained, small):
    """A picture (3, H, W) of twice the size."""
    with pre.no_grad():
        return np.clip(np.asarray(trained(pre.pad(small[None], MARGIN, mode="replicate"))), 0, 1)[0]


def pictures(trained):
    true = photograph("astronaut")[:, 40:200, 140:300]  # the face
    small = true.reshape(3, 80, 2, 80, 2).mean((2, 4), dtype=np.float32)
    first, last = (doubled(each, small) for each in (double_size.upconv7(), trained))
    numbers = [f"{double_size.psnr(each, true):.2f} dB" for each in (first, last)]
    panels = np.concatenate([small.repeat(2, axis=1).repeat(2, axis=2), first, last, true], axis=2)
    title = f"A face that was not learned from: half the size, by the weights for drawings ({numbers[0]}), after learning ({numbers[1]}), true"
    return {title: panels.repeat(2, axis=1).repeat(2, axis=2)}

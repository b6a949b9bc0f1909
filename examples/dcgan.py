"""A DCGAN on Fashion-MNIST: a generator of deconvolutions against a critic of convolutions (Radford, Metz and Chintala 2016), as a plain loop.

    python examples/dcgan.py FOLDER [--steps 2000] [--output dcgan]

FOLDER holds the IDX files of MNIST or Fashion-MNIST. Ctrl-C at any time: the same command goes on from the last checkpoint, to the same bits.
Writes samples.png in the output folder: 64 pictures of clothes that do not exist.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import preimage as pre
from preimage import data, learning, nn, optim
from preimage.io.pictures import write_picture
from preimage.report.images import sheet

LATENT = 64


def generator():
    net = nn.Sequential(
        nn.Linear(LATENT, 128 * 49, bias=False), nn.Unflatten(1, (128, 7, 7)), nn.BatchNorm2d(128), nn.ReLU(),
        nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),   # 7 -> 14
        nn.ConvTranspose2d(64, 1, 4, stride=2, padding=1), nn.Sigmoid(),                                   # 14 -> 28
    )  # fmt: skip
    return _started(net)


def critic():
    net = nn.Sequential(
        nn.Conv2d(1, 32, 4, stride=2, padding=1), nn.LeakyReLU(0.2),                                       # 28 -> 14
        nn.Conv2d(32, 64, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(64), nn.LeakyReLU(0.2),      # 14 -> 7
        nn.Flatten(), nn.Linear(64 * 49, 1),
    )  # fmt: skip
    return _started(net)


def _started(net):
    """Weights from a normal distribution of deviation 0.02, as the paper has them."""
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.02)
    return net


def step(net, judge, net_optimizer, judge_optimizer, images, rng):
    """One step of the critic, on real and made pictures, and one of the generator; gives both losses."""
    count = len(images)
    noise = rng.standard_normal((count, LATENT)).astype(np.float32)
    made = net(noise)
    real = nn.bce_with_logits_loss(judge(images), np.full((count, 1), 0.9, np.float32))  # 0.9: a critic that is never quite sure
    false = nn.bce_with_logits_loss(judge(made.data), np.zeros((count, 1), np.float32))
    judge_optimizer.zero_grad()
    (real + false).backward()
    judge_optimizer.step()
    fooled = nn.bce_with_logits_loss(judge(made), np.ones((count, 1), np.float32))
    net_optimizer.zero_grad()
    fooled.backward()
    net_optimizer.step()
    return float((real + false).item()), float(fooled.item())


def main(folder, steps=2000, output=Path("dcgan"), batch=64, save_every=200):
    nn.init.manual_seed(0)
    net, judge, rng = generator(), critic(), np.random.default_rng(1)
    net_optimizer, judge_optimizer = (optim.Adam(m.parameters(), lr=2e-4, betas=(0.5, 0.999)) for m in (net, judge))
    loader = data.Loader(data.open_data(folder, train=True), batch, shuffle=True, seed=0, workers=1, drop_last=True)
    parts = {
        "net": net,
        "critic": judge,
        "optimizer": net_optimizer,
        "critic_optimizer": judge_optimizer,
        "rng": rng,
        "data": loader,
    }
    nets = learning.Recorded(net), learning.Recorded(judge)  # the same bits, with less between the kernels
    done = 0
    if any(Path(output).glob("step-*.json")):
        done = pre.load(output, **parts).step
        print(f"going on from step {done}")
    while done < steps:
        for images, _ in loader:
            losses = step(*nets, net_optimizer, judge_optimizer, images, rng)
            done += 1
            if done % 100 == 0:
                print(f"step {done} of {steps}: critic {losses[0]:.3f}, generator {losses[1]:.3f}", flush=True)
            if done % save_every == 0 or done == steps:
                pre.save(output, step=done, keep=2, **parts)
            if done == steps:
                break
    net.eval()
    made = np.asarray(net(np.random.default_rng(2).standard_normal((64, LATENT)).astype(np.float32)))
    write_picture(Path(output) / "samples.png", sheet([p.repeat(2, axis=1).repeat(2, axis=2) for p in made], 8, gap=2))
    print(f"the picture: {Path(output) / 'samples.png'}")
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=Path("dcgan"))
    given = parser.parse_args()
    main(given.folder, given.steps, given.output)

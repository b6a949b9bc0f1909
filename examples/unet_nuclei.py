"""A U-Net that finds nuclei of cells: stardist's example picture, learned from its left three quarters, tested on the right one.

pip install --no-deps stardist==0.9.2
preimage train examples/unet_nuclei.py -o nuclei
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import unet

from preimage import data as datasets

batch_size, epochs = 8, 40
net, optimizer, schedule, loss = unet.net, unet.optimizer, unet.schedule, unet.loss
metrics = {"dice": "dice"}
transform = [datasets.Crop(96), datasets.Flip(), datasets.Flip(vertical=True), datasets.Scale(spread=0.2)]
shown = None


def pixels():
    """The picture and the mask of its nuclei, (512, 512)."""
    import importlib.util

    from PIL import Image

    place = Path(importlib.util.find_spec("stardist").origin).parent / "data" / "images"
    image, mask = (np.asarray(Image.open(place / f"{kind}2d.tif"), np.float32) for kind in ("img", "mask"))
    return image / np.quantile(image, 0.998), (mask > 0).astype(np.float32)


def data(path, train):
    global shown
    image, mask = pixels()
    edge = image.shape[1] * 3 // 4 // 4 * 4
    part = np.s_[:, :edge] if train else np.s_[:, edge:]
    sample = (image[part][None], mask[part][None])
    if not train:
        shown = [np.stack([s]) for s in sample]
    return [sample] * (32 if train else 1)


def pictures(trained):
    return {"The held-out part: picture, nuclei, what the net says": unet.beside(*shown, np.asarray(trained(shown[0])))}

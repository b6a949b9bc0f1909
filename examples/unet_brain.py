"""A U-Net that finds grey matter in slices of a brain: nilearn's T1 image and grey-matter map of the MNI152 template.

    pip install --no-deps nilearn==0.14.1 && pip install nibabel
    preimage train examples/unet_brain.py -o brain

The slices 32 to 44 (of every second one, along the body) are held out: they are neither learned from nor beside one another with those that are.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import unet

from preimage import data as datasets

batch_size, epochs = 8, 60
optimizer, schedule, loss = unet.optimizer, unet.schedule, unet.loss
metrics = {"dice": "dice"}
transform = [datasets.Flip(), datasets.Scale(spread=0.1)]
HELD_OUT = range(32, 45)
shown = None


def net():
    return unet.UNet((16, 32, 64, 128))  # one level more than for nuclei: where in the brain a pixel lies says much


def volumes():
    """The image and the mask, halved in every direction."""
    import importlib.util

    place = Path(importlib.util.find_spec("nilearn").origin).parent / "datasets" / "data"
    t1, grey = (datasets.read_nifti(next(place.glob(f"mni_icbm152_{kind}_*.nii.gz")))[::2, ::2, ::2] for kind in ("t1", "gm"))
    return t1 / t1.max(), (grey > 0.5 * grey.max()).astype(np.float32)


def data(path, train):
    global shown
    t1, grey = volumes()
    held = [k for k in range(t1.shape[2]) if k in HELD_OUT]
    near = {*held, held[0] - 1, held[-1] + 1}  # neighbours of what is held out are left out altogether
    chosen = [k for k in range(t1.shape[2]) if k not in near] if train else held
    slices = datasets.SliceDataset(t1[:, :, chosen], grey[:, :, chosen], axis=2, multiple=8, least=50 if train else 1)
    if not train:
        shown = [np.stack(part) for part in zip(*(slices[k] for k in (0, 6, 12)), strict=True)]
    return slices


def pictures(trained):
    return {"Held-out slices: image, grey matter, what the net says": unet.beside(*shown, np.asarray(trained(shown[0])))}

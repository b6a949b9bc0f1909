"""Learning: nets trained on data, and convolutional dictionaries of pictures.

trainer = Trainer(net, nn.cross_entropy, optim.SGD(net.parameters(), lr=0.01), metrics={"accuracy": "accuracy"})
trainer.fit(loader, test, epochs=10, folder="run", resume=True)         # docs/training.md

slow, detail = split_slow(picture)            # (C, H, W)
coded = learn([detail], Options(stencils=64, size=11, sparsity=0.05))
rebuilt = slow + coded.painted[0]
"""

from preimage.learning.checkpoints import Checkpoint, load, newest, save
from preimage.learning.dictionary import Coded, Options, encode, first_stencils, learn
from preimage.learning.estimator import ConvDictionary
from preimage.learning.model import Model
from preimage.learning.painting import (
    Frame,
    Painting,
    Strokes,
    activation_map,
    order_of_use,
    paint_by_numbers,
    psnr,
    shares,
    strokes,
)
from preimage.learning.progress import Progress
from preimage.learning.split import fill_in, noise_level, split_slow
from preimage.learning.training import (
    EMA,
    PSNR,
    Accuracy,
    Dice,
    History,
    Plan,
    RateSearch,
    Recorded,
    Trainer,
    TrainingProgress,
    find_lr,
)

__all__ = [
    "EMA",
    "PSNR",
    "Accuracy",
    "Checkpoint",
    "Coded",
    "ConvDictionary",
    "Dice",
    "Frame",
    "History",
    "Model",
    "Options",
    "Painting",
    "Plan",
    "Progress",
    "RateSearch",
    "Recorded",
    "Strokes",
    "Trainer",
    "TrainingProgress",
    "activation_map",
    "encode",
    "fill_in",
    "find_lr",
    "first_stencils",
    "learn",
    "load",
    "newest",
    "noise_level",
    "order_of_use",
    "paint_by_numbers",
    "psnr",
    "save",
    "shares",
    "split_slow",
    "strokes",
]


def __dir__() -> list[str]:
    """The public names; modules lie behind them."""
    return sorted(__all__)

"""Training: the Trainer, the loop around any training, metrics, averages of weights, a search for the learning rate."""

from preimage.learning.training.averages import EMA
from preimage.learning.training.calls import Recorded
from preimage.learning.training.loop import History, Plan, Task, TrainingProgress, run
from preimage.learning.training.metrics import PSNR, Accuracy, Average, Dice, Metric
from preimage.learning.training.rates import RateSearch, find_lr
from preimage.learning.training.trainer import Trainer

__all__ = [
    "EMA", "PSNR", "Accuracy", "Average", "Dice", "History", "Metric", "Plan", "RateSearch", "Recorded",
    "Task", "Trainer", "TrainingProgress", "find_lr", "run",
]  # fmt: skip

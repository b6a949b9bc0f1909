"""A training run as it is seen on the terminal: a bar with loss, measures, samples a second and time left; plain lines where there is none."""

from __future__ import annotations

from rich.console import Console

from preimage.cli.watch import StepBar
from preimage.learning.training import TrainingProgress

__all__ = ["TrainWatch"]


class TrainWatch(StepBar):
    """`with TrainWatch(console, title, steps) as watch:`; a listener of the loop. Signals are the loop's."""

    def __init__(self, console: Console, title: str, steps: int) -> None:
        super().__init__(console, title, steps)
        self._tested = ""

    def __call__(self, now: TrainingProgress) -> None:
        if now.test:
            self._tested = "  ".join(f"test {k} {v:.4g}" for k, v in now.test.items())
        if self.console.is_terminal:
            shown = now.text if now.test or not self._tested else f"{now.text}  {self._tested}"
            self._bar.update(self._task, completed=now.step, values=shown)
        elif now.test or self.is_due(now.step):
            self.console.print(f"{self.title} {now.step}/{now.steps}  {now.text}")

"""A training run as it is seen on the terminal: a bar with loss, measures, samples a second and time left; plain lines where there is none."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from preimage.learning.training import TrainingProgress

__all__ = ["TrainWatch"]


class TrainWatch:
    """`with TrainWatch(console, title, steps) as watch:`; a listener of the loop. Signals are the loop's."""

    def __init__(self, console: Console, title: str, steps: int) -> None:
        self.console, self.title, self.steps = console, title, steps
        columns = (TextColumn("{task.description}", markup=False), BarColumn(None), MofNCompleteColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[values]}", markup=False), console=console, expand=True)
        self._task = self._bar.add_task(title, total=steps, values="")
        self._tested = ""

    def __enter__(self) -> TrainWatch:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._bar.stop()

    def __call__(self, now: TrainingProgress) -> None:
        if now.test:
            self._tested = "  ".join(f"test {k} {v:.4g}" for k, v in now.test.items())
        if self.console.is_terminal:
            shown = now.text if now.test or not self._tested else f"{now.text}  {self._tested}"
            self._bar.update(self._task, completed=now.step, values=shown)
        elif now.test or now.step in (1, now.steps) or now.step % max(1, now.steps // 10) == 0:
            self.console.print(f"{self.title} {now.step}/{now.steps}  {now.text}")

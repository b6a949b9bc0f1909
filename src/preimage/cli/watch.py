"""A run as it is seen on the terminal: a bar with objective, PSNR, non-zeros per pixel and time left; Ctrl-C ends it cleanly."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from preimage.learning import Progress as Step

__all__ = ["StepBar", "Watch"]

#: Steps after which a run's time is estimated, and from which time on that is said.
MEASURED, WORTH_SAYING_S = 5, 5.0


class StepBar:
    """A bar over the steps of a run, with values beside it; where the console is no terminal, a line for every tenth of the steps."""

    def __init__(self, console: Console, title: str, steps: int, *more: ProgressColumn) -> None:
        self.console, self.title, self.steps = console, title, steps
        columns = (TextColumn("{task.description}", markup=False), BarColumn(None), MofNCompleteColumn())
        values = TextColumn("{task.fields[values]}", markup=False)
        self._bar = Progress(*columns, values, *more, console=console, expand=True)
        self._task = self._bar.add_task(title, total=steps, values="")

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._bar.stop()

    def is_due(self, step: int) -> bool:
        """Whether a line is printed after this step, where there is no bar."""
        return step in (1, self.steps) or step % max(1, self.steps // 10) == 0


class Watch(StepBar):
    """`with Watch(console, title, steps) as watch: learn(..., progress=watch)`.

    The first Ctrl-C lets the step in hand come to its end and then stops; a second one breaks off.
    """

    def __init__(self, console: Console, title: str, steps: int) -> None:
        super().__init__(console, title, steps, TimeRemainingColumn(compact=True))
        self.stopped = False
        self._handler: Any = None
        self._first = 0.0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._interrupt)
        return super().__enter__()

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)

    def __call__(self, step: Step) -> bool:
        self._bar.update(self._task, completed=step.step, values=step.values)
        self._estimate(step)
        if not self.console.is_terminal and self.is_due(step.step):
            self.console.print(f"{self.title} {step.step}/{step.steps}  {step.values}  {step.times}")
        return self.stopped

    def _estimate(self, step: Step) -> None:
        """Say once how long the run takes, by its first steps; the very first also compiles."""
        if step.step == 1:
            self._first = step.seconds
        elif step.step == MEASURED:
            whole = self._first + (step.seconds - self._first) / (MEASURED - 1) * (step.steps - 1)
            if whole >= WORTH_SAYING_S:
                said = f"{whole:.0f} s" if whole < 100 else f"{whole / 60:.0f} min"
                self.console.print(f"{step.steps} steps take about {said}; Ctrl-C ends the run and keeps what is there")

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
        self._bar.update(self._task, description=f"{self.title}: stopping")

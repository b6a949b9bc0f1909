"""Progress of a run, reported to a function of the caller's, or about ten printed lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from preimage.display import progress_lines

__all__ = ["Listener", "Progress", "listener"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands after one step: objective = fidelity + sparsity * absolute, of the stencils and activations then."""

    step: int
    steps: int
    seconds: float
    objective: float
    fidelity: float
    absolute: float
    psnr: float
    nonzeros_per_pixel: float
    sparsity: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)

    @property
    def values(self) -> str:
        """Objective, PSNR and non-zero activations in words."""
        return f"objective {self.objective:.4g}  {self.psnr:.2f} dB  {self.nonzeros_per_pixel:.3f} nz/px"

    @property
    def times(self) -> str:
        """The time taken, and the time that the steps still to come take if they are as long."""
        return f"{self.seconds:.0f} s, {self.seconds / self.step * (self.steps - self.step):.0f} s left"

    def __str__(self) -> str:
        return f"step {self.step} of {self.steps}  {self.values}"


#: What hears of every step; the run ends where it returns True.
Listener = Callable[[Progress], bool | None]


def listener(progress: Listener | bool | None) -> Listener | None:
    """The function to call after every step: the one given, one that prints about ten lines (True), or none."""
    if progress is not True:
        return progress or None
    show = progress_lines("step")

    def step(now: Progress) -> None:
        show(now.step, now.steps, f"{now.values}  {now.times}")

    return step

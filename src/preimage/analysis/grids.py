"""Fields on a grid without borders: which inputs a position sees along one axis, for ever, whatever the size.

An axis of a value repeats: when the position moves by `period`, what it sees moves by `shift`. So a *relation* is those two numbers
and, for each position 0 .. period - 1, the set of inputs that it sees. It composes exactly through strides, dilations,
deconvolutions (where positions of different phase see different numbers of inputs), up-sampling and crops; at a join the sets
of all paths are united. Beside it goes the affine *grid*, where the centre of the window of position o lies on the input:
`jump * o + start`, in exact fractions; a deconvolution divides the jump.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm

from preimage.geometry import ConvGeometry
from preimage.ops.upsample import Resize
from preimage.ops.windows import Axis

__all__ = ["Grid", "Relation", "conv_axis", "identity", "resize_axis", "transpose_axis", "window_axis"]

#: A longer period (up-sampling by odd ratios, again and again) is not followed.
MAX_PERIOD = 1 << 12


@dataclass(frozen=True)
class Grid:
    """Where position o of a value lies on the input's axis: jump * o + start, the centre of what it sees."""

    jump: Fraction
    start: Fraction

    def after(self, inner: Grid) -> Grid:
        """This grid over an intermediate value, that value's over the input: the grid over the input."""
        return Grid(self.jump * inner.jump, inner.jump * self.start + inner.start)

    def __str__(self) -> str:
        return f"{self.jump}*o{'+' if self.start >= 0 else '-'}{abs(self.start)}"


@dataclass(frozen=True)
class Relation:
    """What the positions of an axis see of another, and the grid on which they lie. See the module's text."""

    shift: int
    sets: tuple[frozenset[int], ...]
    grid: Grid

    @property
    def period(self) -> int:
        return len(self.sets)

    def seen(self, o: int) -> list[int]:
        """The inputs that position o sees, in order; borders aside."""
        turn, phase = divmod(o, self.period)
        return sorted(i + turn * self.shift for i in self.sets[phase])

    @property
    def sizes(self) -> tuple[int, ...]:
        """The span of the field for each phase: last - first + 1; 0 where nothing is seen."""
        return tuple(max(s) - min(s) + 1 if s else 0 for s in self.sets)

    @property
    def size(self) -> int:
        """The widest span over the phases: what is called the receptive field."""
        return max(self.sizes)

    @property
    def has_holes(self) -> bool:
        """Whether some position sees a span with gaps in it."""
        return any(s and len(s) < max(s) - min(s) + 1 for s in self.sets)

    def after(self, inner: Relation) -> Relation | None:
        """This relation onto an intermediate value, that value's onto the input: the relation onto the input. None: too long a period."""
        turns = inner.period // gcd(self.shift, inner.period) if self.shift else 1
        period = self.period * turns
        if period > MAX_PERIOD:
            return None
        sets = []
        for o in range(period):
            turn, phase = divmod(o, self.period)
            found: set[int] = set()
            for mid in self.sets[phase]:
                steps, at = divmod(mid + turn * self.shift, inner.period)
                found.update(i + steps * inner.shift for i in inner.sets[at])
            sets.append(frozenset(found))
        return _made(inner.shift * (self.shift * turns) // inner.period, sets, self.grid.after(inner.grid))

    def joined(self, other: Relation) -> Relation | None:
        """Both paths: the union of what they see. None where they move at different paces, so that nothing repeats."""
        period = lcm(self.period, other.period)
        if period > MAX_PERIOD or self.shift * other.period != other.shift * self.period:
            return None
        sets = [frozenset(self.seen(o)) | frozenset(other.seen(o)) for o in range(period)]
        return _made(self.shift * (period // self.period), sets, self.grid)

    def reversed(self) -> Relation | None:
        """What sees an input: the relation the other way round (the projective field). None where nothing moves."""
        if self.shift <= 0:
            return None
        sets: list[set[int]] = [set() for _ in range(self.shift)]
        for o, seen in enumerate(self.sets):
            for i in seen:
                turn, phase = divmod(i, self.shift)
                sets[phase].add(o - turn * self.period)
        grid = Grid(1 / self.grid.jump, -self.grid.start / self.grid.jump) if self.grid.jump else self.grid
        return _made(self.period, [frozenset(s) for s in sets], grid)


def _made(shift: int, sets: Iterable[frozenset[int]], grid: Grid) -> Relation:
    """The relation with its shortest period."""
    listed = tuple(sets)
    n = len(listed)
    for period in range(1, n):
        if n % period or shift * period % n:
            continue
        step = shift * period // n
        if all(frozenset(i + step for i in listed[o]) == listed[o + period] for o in range(n - period)):
            return Relation(step, listed[:period], grid)
    return Relation(shift, listed, grid)


def identity(offset: int = 0, step: int = 1) -> Relation:
    """Position o sees step * o + offset: a crop, a step of a slice, nothing at all."""
    return Relation(step, (frozenset((offset,)),), Grid(Fraction(step), Fraction(offset)))


def _window(kernel: int, stride: int, lo: int, dilation: int) -> Relation:
    extent = dilation * (kernel - 1) + 1
    grid = Grid(Fraction(stride), Fraction(extent - 1, 2) - lo)
    return Relation(stride, (frozenset(k * dilation - lo for k in range(kernel)),), grid)


def conv_axis(g: ConvGeometry, axis: int) -> Relation:
    """The small side sees windows of the large side."""
    return _window(g.kernel_size[axis], g.stride[axis], g.padding[axis][0], g.dilation[axis])


def transpose_axis(g: ConvGeometry, axis: int) -> Relation:
    """The large side sees those cells of the small side whose stencil lands on it: the same relation, the other way round."""
    found = conv_axis(g, axis).reversed()
    assert found is not None
    return found


def window_axis(w: Axis) -> Relation:
    """A pooling window."""
    return _window(w.kernel, w.stride, w.lo, w.dilation)


def resize_axis(r: Resize) -> Relation | None:
    """Up-sampling, borders aside: every output reads the position start + step * o, or its two neighbours. None: too long a period."""
    start, step = r.positions.start, r.positions.step
    if step <= 0 or step.denominator > MAX_PERIOD:
        return None
    sets = []
    for o in range(step.denominator):
        position = start + step * o
        low = position.numerator // position.denominator
        sets.append(frozenset((low, low + 1) if r.blended and position != low else (low,)))
    return _made(step.numerator, sets, Grid(step, start if r.blended else (step - 1) / 2))

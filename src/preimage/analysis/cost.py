"""What a recorded net costs: multiply-adds of the forward pass and of each gradient, bytes, and the most memory at once.

A contraction is counted by its definition: `macs` with the taps that lie over the padding (for a deconvolution: that land in it
and are cropped), `inside_macs` without. 1 multiply-add is 2 flop; the bias is one addition for each output, counted apart. A
deconvolution multiplies once for each *input* position, tap and pair of channels; counting its output positions, as other
counters did or do (ptflops issue 149, thop issue 93), is too much by the product of its strides.

`other` is everything else by its definition: one for each element of an elementwise result, for each element that a reduction
takes, for each tap of a pooling window inside its input, for each neighbour of a linear interpolation; moving elements is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from preimage.analysis.record import Call, Record, Value
from preimage.analysis.structure import ALONG, ELEMENTWISE, REDUCTIONS
from preimage.autograd import Spec
from preimage.geometry import ConvGeometry

__all__ = ["Cost", "Memory", "cost_of_call", "cost_of_geometry", "memory_of"]


@dataclass(frozen=True)
class Cost:
    """Multiply-adds, additions and other operations of one pass.

    grad_input and grad_weight are the multiply-adds of the two gradients (inside_: without padded taps); 0 where nothing asks for
    them: the input does not depend on the net's input, or the weight is no parameter. A bias gradient takes grad_bias_adds additions.
    """

    macs: int = 0
    inside_macs: int = 0
    bias_adds: int = 0
    other: int = 0
    grad_input_macs: int = 0
    inside_grad_input_macs: int = 0
    grad_weight_macs: int = 0
    inside_grad_weight_macs: int = 0
    grad_bias_adds: int = 0

    @property
    def flop(self) -> int:
        """Of the forward pass: 2 for each multiply-add (padded taps counted), 1 for each bias addition."""
        return 2 * self.macs + self.bias_adds

    @property
    def backward_flop(self) -> int:
        """Of all gradients, likewise."""
        return 2 * (self.grad_input_macs + self.grad_weight_macs) + self.grad_bias_adds

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def cost_of_geometry(g: ConvGeometry, transposed: bool, bias: bool = True) -> Cost:
    """The cost of one layer, its input's gradient asked for."""
    adds = prod(g.input_shape if transposed else g.output_shape) if bias else 0
    m, inside = g.macs, g.inside_macs
    return Cost(m, inside, adds, 0, m, inside, m, inside, adds)


def _product(call: Call, record: Record) -> tuple[int, int]:
    """Multiply-adds of a contraction, with and without padded taps."""
    if "geometry" in call.params:
        g = call.params["geometry"]
        return g.macs, g.inside_macs
    inner = call.specs[0].shape[-1]
    count = prod(record.shape(call.result)) * inner
    return count, count


def cost_of_call(call: Call, record: Record) -> Cost:
    """The cost of one operation."""
    name, result = call.op.name, record.values[call.result]
    size = prod(result.shape)
    if name in ("conv", "conv_transpose", "conv_weight_grad", "linear", "matmul"):
        m, inside = _product(call, record)
        first, second = (_wanted(record, call.arguments[k]) for k in (0, 1))
        bias = len(call.specs) > 2 and call.specs[2] is not None
        return Cost(
            m, inside, size if bias else 0, 0, m * first, inside * first, m * second, inside * second,
            size if bias and _wanted(record, call.arguments[2]) else 0,
        )  # fmt: skip
    return Cost(other=_others(call, size))


def _wanted(record: Record, argument: int | None) -> bool:
    if argument is None:
        return False
    value = record.values[argument]
    return value.depends or value.kind == "parameter"


def _others(call: Call, size: int) -> int:
    name = call.op.name
    first = call.specs[0]
    taken = prod(first.shape) if isinstance(first, Spec) else 0
    if name in ELEMENTWISE and name != "astype":
        return size
    if name in REDUCTIONS or name in ("sum", "mean", "sum_to", "sum_over_space"):
        return taken
    if name in ALONG:
        return 4 * taken
    if name in ("max_pool", "sum_pool", "avg_pool"):
        inside: int = prod(first.shape[:2])
        for w in call.params["windows"]:
            inside *= sum(w.covered(False))
        return inside
    if name in ("adaptive_avg_pool", "adaptive_max_pool"):
        inside = prod(first.shape[:2])
        for b in call.params["bins"]:
            starts, stops = b.edges()
            inside *= int((stops - starts).sum())
        return inside
    if name == "upsample":
        axes = call.params["axes"]
        return size << len(axes) if axes[0].blended else 0
    return 0


# -- memory ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Bytes of the values of one run; what operations use while they run is not among them.

    parameter_bytes: the weights. forward_peak_bytes: the most at once of inputs and results, each dropped after its last use.
    saved_bytes: what a recorded forward pass keeps for its gradients, inputs and output included. training_peak_bytes: the most
    at once of saved values, cotangents (counted as if none shared memory, so an upper bound) and gradients on the way back; without
    parameters.
    """

    parameter_bytes: int
    forward_peak_bytes: int
    saved_bytes: int
    training_peak_bytes: int


def memory_of(record: Record) -> Memory:
    """The memory of a recorded net."""
    sizes: dict[int, int] = {}  # of a storage: what the first value in it takes
    for value in record.values:
        sizes.setdefault(value.storage, value.nbytes)
    stored = {v.storage for v in record.values if v.kind in ("parameter", "constant")}
    parameters = sum(sizes[s] for s in {record.values[k].storage for k in record.parameters})
    held = {record.values[k].storage for k in record.inputs}
    return Memory(
        parameters, _forward_peak(record, sizes, stored, held), _saved(record, sizes, stored, held),
        _training_peak(record, sizes, stored, held),
    )  # fmt: skip


def _forward_peak(record: Record, sizes: dict[int, int], stored: set[int], held: set[int]) -> int:
    last: dict[int, int] = {}
    ends = _layer_ends(record)
    made: dict[int, int] = {}
    for t, call in enumerate(record.calls):
        made[record.values[call.result].storage] = ends[t]
        last[record.values[call.result].storage] = t
        for number in call.arguments:
            if number is not None:
                storage = record.values[number].storage
                # whoever calls a layer holds its input until the layer is done
                last[storage] = t if made.get(storage) == ends[t] else ends[t]
    for number in record.outputs:
        last[record.values[number].storage] = len(record.calls)
    alive = set(held)
    peak = sum(sizes[s] for s in alive)
    for t, call in enumerate(record.calls):
        storage = record.values[call.result].storage
        if storage not in stored:
            alive.add(storage)
        peak = max(peak, sum(sizes[s] for s in alive))
        alive = {s for s in alive if s in held or last.get(s, -1) > t}
    return peak


def _layer_ends(record: Record) -> list[int]:
    """For each call the last call of its layer."""
    ends = list(range(len(record.calls)))
    for t in range(len(ends) - 2, -1, -1):
        name = record.calls[t].name
        if name and record.calls[t + 1].name == name:
            ends[t] = ends[t + 1]
    return ends


def _keeps(call: Call, record: Record) -> set[int]:
    """Storages that a recorded call keeps for its rules."""
    kept: set[int] = set()
    if not record.values[call.result].depends and not any(
        record.values[k].kind == "parameter" for k in call.arguments if k is not None
    ):
        return kept
    saves = call.op.saved
    kept.update(record.values[a].storage for k, a in enumerate(call.arguments) if a is not None and (saves is None or k in saves))
    if call.op.saves_ans:
        kept.add(record.values[call.result].storage)
    return kept


def _needed(record: Record) -> list[Call]:
    """The calls that lead to an output: what others kept went with their results."""
    wanted, calls = set(record.outputs), []
    for call in reversed(record.calls):
        if call.result in wanted:
            calls.append(call)
            wanted.update(k for k in call.arguments if k is not None)
    return calls[::-1]


def _saved(record: Record, sizes: dict[int, int], stored: set[int], held: set[int]) -> int:
    kept = set(held) | {record.values[k].storage for k in record.outputs}
    for call in _needed(record):
        kept |= _keeps(call, record)
    return sum(sizes[s] for s in kept - stored)


def _backwards(record: Record) -> list[Call]:
    """The needed calls in the order in which the reverse sweep visits them: last in, first out, each after all that use it."""
    maker = {call.result: call for call in _needed(record)}
    uses = dict.fromkeys(maker, 0)
    for call in maker.values():
        for k in call.arguments:
            if k in uses:
                uses[k] += 1
    ready = [k for k in dict.fromkeys(record.outputs) if k in maker and not uses[k]]
    order: list[Call] = []
    while ready:
        call = maker[ready.pop()]
        order.append(call)
        for k in call.arguments:
            if k in uses:
                uses[k] -= 1
                if not uses[k]:
                    ready.append(k)
    return order


def _training_peak(record: Record, sizes: dict[int, int], stored: set[int], held: set[int]) -> int:
    """The sweep of autograd.backward, each step dropping what it kept once its cotangents are made."""
    uses: dict[int, int] = {}
    for call in _needed(record):
        for storage in _keeps(call, record) - stored:
            uses[storage] = uses.get(storage, 0) + 1
    always = held | {record.values[k].storage for k in record.outputs}
    alive = {*uses, *always} - stored
    pending = dict.fromkeys(record.outputs, 0)  # a number of bytes for each value whose cotangent waits
    gradients = sum(record.values[k].nbytes for k in record.outputs)  # the caller holds the cotangents that it gave
    peak = sum(sizes[s] for s in alive) + gradients
    done: set[int] = set()
    before = 0  # the sweep still holds the last cotangent of the step before
    for call in _backwards(record):
        g = pending.pop(call.result, None)
        if g is not None:
            made = [a for a in call.arguments if a is not None and _wanted(record, a)]
            fresh = sum(record.values[a].nbytes for a in made)
            now = sum(sizes[s] for s in alive) + sum(pending.values()) + gradients + g + fresh + before
            peak = max(peak, now)
            before = record.values[made[-1]].nbytes if made else 0
            for a in made:
                value: Value = record.values[a]
                if value.kind != "made":
                    gradients += value.nbytes if a not in done else 0
                    done.add(a)
                else:
                    # the cotangents of a concatenation's parts are views: any of them keeps the whole
                    pending[a] = max(pending.get(a, 0), g if call.op.name == "concat" else value.nbytes)
        for storage in _keeps(call, record) - stored:
            uses[storage] -= 1
            if not uses[storage] and storage not in always:
                alive.discard(storage)
    return peak

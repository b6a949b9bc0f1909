"""The recurrent weights as the kernel reads them: panels of units, in each the terms one after another, in each the gates side by side.

    packed[panel][term][gate][unit of the panel] = weight[gate * hidden + unit][term]

Units behind the last one are zeros. Of weights that nobody can change the packed form is kept as long as they live.
"""

from __future__ import annotations

import numpy as np

from preimage.engines.addresses import address_of
from preimage.engines.base import Array, aligned_empty
from preimage.engines.jit.elementwise.chain import run_chain
from preimage.engines.jit.packing.kept_forms import KeptForms
from preimage.engines.prepared import is_fixed
from preimage.engines.recording import apart, constant, made_once, state

__all__ = ["packed_weight"]


_kept: KeptForms[Array] = KeptForms(lambda form: form.nbytes)


def packed_weight(weight: Array, gates: tuple[int, ...], width: int) -> Array:
    """The panels of some gates after those of others. gates: how many there are in each part, in the order of the rows; width: units of a panel."""
    if not is_fixed(weight):
        return made_once(lambda: _packed(weight, gates, width), weight)
    form = (address_of(weight), weight.shape, weight.strides, gates, width)
    forms = _kept.of(weight)
    if form not in forms:
        with apart():
            forms[form] = _packed(weight, gates, width)
    if state.recorder is not None:
        state.recorder.fix(forms[form])
    return forms[form]


def _packed(weight: Array, gates: tuple[int, ...], width: int) -> Array:
    hidden, first = weight.shape[1], 0
    panels = -(-hidden // width)
    made = aligned_empty((panels * hidden * sum(gates) * width,), weight.dtype)
    for count in gates:
        rows = weight[first * hidden : (first + count) * hidden].reshape(count, hidden, hidden)
        part = made[first * panels * hidden * width :][: panels * hidden * count * width]
        _pack(rows, part.reshape(panels, hidden, count, width))
        first += count
    return made


def _pack(rows: Array, panels: Array) -> None:
    """rows (gates, units, terms) -> panels (panel, term, gate, unit)."""
    gates, hidden, _ = rows.shape
    width = panels.shape[-1]
    whole = hidden // width
    left = hidden - whole * width
    if whole:
        source = rows[:, : whole * width].reshape(gates, whole, width, hidden)
        run_chain((source.transpose(1, 3, 0, 2),), (), out=(panels[:whole],))
    if left:
        run_chain((rows[:, whole * width :].transpose(2, 0, 1),), (), out=(panels[whole, :, :, :left],))
        zeros = np.broadcast_to(constant(np.zeros(1, rows.dtype)), (hidden, gates, width - left))
        run_chain((zeros,), (), out=(panels[whole, :, :, left:],))

"""The adapters of other libraries, where installed: each computes plain geometries as the oracle does.

Whether a library is right everywhere is what `preimage audit` asks; here the question is whether the adapter asks it rightly:
orders of axes, padding, groups, which side is which.
"""

from __future__ import annotations

import numpy as np
import pytest

from preimage.audit.case import RESULTS, Case
from preimage.audit.checks import make as make_check
from preimage.audit.findings import Failure, Tally
from preimage.audit.subjects import make, names
from preimage.engines import names as engine_names

FOREIGN = [name for name in names() if name not in engine_names() and name != "scipy-fft"]

CASES = {
    "one axis": Case.of_conv(2, 3, 4, 1, (9,), (3,), (2,), ((1, 1),), (1,)),
    "two axes": Case.of_conv(2, 3, 5, 1, (7, 6), (3, 2), (1, 1), ((1, 1), (0, 0)), (1, 1)),
    "unequal padding": Case.of_conv(1, 2, 3, 1, (7, 6), (3, 2), (1, 1), ((0, 2), (1, 0)), (1, 1)),
    "stride": Case.of_conv(2, 4, 3, 1, (9, 8), (3, 2), (2, 2), ((1, 1), (0, 0)), (1, 1)),
    "stride that leaves a rest": Case.of_conv(1, 2, 3, 1, (8, 9), (3, 2), (2, 3), ((0, 0), (0, 0)), (1, 1)),
    "dilation": Case.of_conv(2, 2, 3, 1, (9, 8), (3, 2), (1, 1), ((2, 2), (0, 0)), (2, 3)),
    "groups": Case.of_conv(2, 4, 6, 2, (6, 7), (3, 2), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "depthwise": Case.of_conv(2, 4, 8, 4, (6, 7), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
    "three axes": Case.of_conv(1, 3, 4, 1, (4, 5, 6), (2, 3, 2), (1, 1, 1), ((1, 1), (1, 1), (0, 0)), (1, 1, 1)),
    "negative padding": Case.of_conv(1, 2, 3, 1, (8, 9), (3, 2), (1, 1), ((-1, 0), (0, -2)), (1, 1)),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_adapter_asks_what_is_meant(name):
    subject = make(name)
    reason = subject.unavailable()
    if reason:
        pytest.skip(f"{name}: {reason}")
    assert subject.spec == name, "another process must be able to make it"
    answered = dict.fromkeys(RESULTS, 0)
    for kind in ("exact", "rounding"):
        check = make_check(kind)
        for label, case in CASES.items():
            tally = Tally()
            for trial in check.trials(subject, case, np.random.default_rng(1)):
                if subject.refuses(case, trial.result, trial.dtype):
                    continue
                failure = check.attempt(subject, trial, check.draw(case, trial, 3), tally)
                assert not isinstance(failure, Failure), f"{label}, {trial}: {failure}"
                answered[trial.result] += 1
    assert answered["conv"] >= 10, answered
    assert answered["conv_transpose"] >= 4 or answered["conv_weight_grad"] >= 4 or name in ("onnxruntime", "opencv"), answered


def test_the_fourier_adapter_is_right_in_norm():
    """Errors of an FFT follow the largest value of the result, not each element's own terms: `exact` and `rounding` measure that."""
    subject = make("scipy-fft")
    if subject.unavailable():
        pytest.skip(str(subject.unavailable()))
    check = make_check("exact")
    for label, case in CASES.items():
        for trial in check.trials(subject, case, np.random.default_rng(1)):
            if subject.refuses(case, trial.result, trial.dtype):
                continue
            data = check.draw(case, trial, 3)
            got = subject.run(case, trial.result, *data.arrays(trial.result, trial.dtype, "contiguous"))
            want = data.truth[trial.result]
            eps = np.finfo(trial.dtype).eps
            assert np.abs(got - want).max() <= 20 * eps * max(np.abs(want).max(), np.max(data.magnitude[trial.result])), (
                label,
                trial,
            )

"""A slice of the fuzz of the whole surface (`python tests/surface/api_fuzz.py`): no foreign error, no input changed; and it can fail."""

import api_fuzz
import numpy as np
import pytest


@pytest.mark.parametrize("seed", [0, 1])
def test_no_foreign_error_and_no_changed_input(seed):
    counts, examples = api_fuzz.run(1500, seed)
    assert not examples, "\n".join(f"{what}\n  {text}" for what, text in list(examples.items())[:5])
    assert min(counts["results"], counts["own errors"]) > 100


def test_it_sees_what_is_wrong(monkeypatch):
    def foreign(x):
        return x.no_such_thing

    def changing(x):
        np.asarray(x)[...] = 0

    for function, what in ((foreign, "AttributeError"), (changing, "an input was changed")):
        monkeypatch.setattr(api_fuzz, "subjects", lambda function=function: {"made.up": function})
        _, examples = api_fuzz.run(50, 0)
        assert any(what in example for example in examples)

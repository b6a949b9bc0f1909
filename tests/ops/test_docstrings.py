"""The examples in the docstrings of the operations, layers and optimisers are run; every public name has a docstring."""

import doctest
import inspect

import pytest

from preimage import nn, ops, optim


def public():
    for package in (ops, nn, nn.init, optim, optim.schedule):
        for name in package.__all__:
            value = getattr(package, name)
            if not inspect.ismodule(value):
                yield f"{package.__name__}.{name}", value


@pytest.mark.parametrize(("name", "value"), list(public()), ids=[name for name, _ in public()])
def test_documented_and_true(name, value):
    text = inspect.getdoc(value)
    assert text, name
    assert len(text.splitlines()[0]) < 150
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    said = []
    runner = doctest.DocTestRunner()
    runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
    assert ("Example:" in text) == bool(runner.tries)

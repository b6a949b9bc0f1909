"""What `preimage bench` and `preimage tune` refuse in their options: with a message of ours and status 2, before anything is measured."""

from __future__ import annotations

import pytest

from preimage.cli import main, text
from preimage.errors import OptionError

BAD = {"--threads": "a", "--dtype": "int8", "--layout": "NHWC"}


@pytest.mark.parametrize("command", ["bench", "tune"])
@pytest.mark.parametrize("option", BAD)
def test_a_bad_option_is_an_error_of_ours(command, option, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "mobilenet_dw_14", option, BAD[option]])
    assert end.value.code == 2
    said = "".join(capsys.readouterr())
    assert "Traceback" not in said
    assert BAD[option] in said


def test_lists_and_counts():
    assert text.words("float64,float32", "dtype", text.DTYPES) == ("float64", "float32")
    assert text.layouts("both") == ("channels_last", "channels_first")
    assert text.layouts("channels_first") == ("channels_first",)
    assert text.threads("1,2") == (1, 2)
    for call, match in (
        (lambda: text.threads("1,0"), "at least 1"),
        (lambda: text.layouts("both,channels_last"), "'both'"),
        (lambda: text.words("x", "pass", ("forward",)), "no pass is called 'x'; there are forward"),
    ):
        with pytest.raises(OptionError, match=match):
            call()

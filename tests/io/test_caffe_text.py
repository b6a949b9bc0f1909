"""The prototxt format: what it takes, what it refuses with which line, and that writing reads back equal."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preimage.errors import FileFormatError
from preimage.io.caffe import Message, format_text, parse_text
from preimage.io.caffe.wire.binary import decode, encode
from preimage.io.caffe.wire.text import text_of_bytes


def test_every_notation() -> None:
    net = parse_text(
        "NetParameter",
        """
        name: "a" 'b'   # adjacent strings join; this is a comment
        layer { name: "c", type: 'Convolution'; bottom: ["x", "y"]
          convolution_param: < num_output: 0x10 kernel_size: 3 kernel_size: 010 pad: [1, 2]
                               bias_term: false weight_filler { type: "gaussian" std: 1e-2f mean: -inf } engine: CUDNN > }
        state { phase: 0 stage: "\\x41\\101\\n\\"" }
        """,
    )
    layer = net.layer[0]
    parameter = layer.convolution_param
    assert net.name == "ab"
    assert list(layer.bottom) == ["x", "y"]
    assert (parameter.num_output, list(parameter.kernel_size), list(parameter.pad)) == (16, [3, 8], [1, 2])
    assert parameter.bias_term is False
    assert parameter.weight_filler.mean == float("-inf")
    assert parameter.weight_filler.std == pytest.approx(0.01, rel=1e-7)
    assert parameter.word("engine") == "CUDNN"
    assert net.state.word("phase") == "TRAIN"
    assert list(net.state.stage) == ['AA\n"']


def test_forks_spell_the_rounding_of_pooling_as_a_bool() -> None:
    net = parse_text("NetParameter", "layer { pooling_param { ceil_mode: false } }")
    assert net.layer[0].pooling_param.word("round_mode") == "FLOOR"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('name: "a"\nlayr { }', "line 2: NetParameter has no field 'layr'; did you mean 'layer'?"),
        ('name: "a"\n\nname: "b"', "line 3: name is given twice"),
        ("layer {\n name: 3\n}", "line 2: name needs a quoted string, found '3'"),
        ("layer {\n", "line 2: '}' is missing for the LayerParameter opened on line 1"),
        ("layer { pooling_param { kernel_size: -1 } }", "line 1: kernel_size: -1 is outside 0"),
        ("layer { pooling_param { kernel_size: 1.5 } }", "is no uint32"),
        ("layer { pooling_param { pool: SUM } }", "'SUM' is no PoolMethod"),
        ("layer { dropout_param { dropout_ratio: x } }", "'x' is no float"),
        ("force_backward: 2", "'2' is no bool|2 is no bool"),
        ('name "a"', "':' is missing after 'name'"),
        ("name: @", "line 1: cannot read '@'"),
        ('name: "a\nb"', "line 1: cannot read"),
        ('name: "\\q"', "unknown escape"),
        ("layer: [{ } { }]", "',' or ']' was expected"),
        ("}", "a field name of NetParameter was expected, found '}'"),
        ("input_dim: 99999999999", "is outside"),
        ("\udcff: 1", "line 1: cannot read"),
    ],
)
def test_errors_name_the_line(text: str, problem: str) -> None:
    with pytest.raises(FileFormatError, match=problem.replace("?", r"\?").replace("{", r"\{")):
        parse_text("NetParameter", text)


def test_strings_and_comments_keep_bytes_of_any_encoding() -> None:
    words = "卷积".encode("gbk")
    data = b"# " + words + b'\nlayer { name: "' + words + rb'\377" }' + b"\r\n"
    message = parse_text("NetParameter", text_of_bytes(data))
    assert message.layer[0].name.encode("utf-8", "surrogateescape") == words + b"\xff"
    back = parse_text("NetParameter", text_of_bytes(format_text(message).encode("utf-8", "surrogateescape")))
    assert back == message == decode("NetParameter", encode(message))
    with pytest.raises(FileFormatError, match="UTF-16"):
        text_of_bytes("layer {}".encode("utf-16"))


def test_fields_that_are_not_known_leave_a_comment() -> None:
    message = decode("NetParameter", b"\x0a\x01a\x9a\x7d\x02xy")
    assert message.unknown == b"\x9a\x7d\x02xy"
    text = format_text(message)
    assert "# 5 bytes of fields that are not known here are left out" in text
    assert parse_text("NetParameter", text).name == "a"


def test_deep_nesting_ends_in_an_error_not_in_a_crash() -> None:
    # no Caffe message nests in itself, so depth needs unknown fields, which are errors, or brackets
    with pytest.raises(FileFormatError):
        parse_text("NetParameter", "layer {" * 100_000)
    with pytest.raises(FileFormatError):
        parse_text("NetParameter", "layer: [" * 100_000)


MESSAGE = st.builds(
    lambda name, bottoms, std, pads, bias: Message(
        "NetParameter",
        name=name,
        layer=[
            Message(
                "LayerParameter",
                bottom=bottoms,
                convolution_param=Message(
                    "ConvolutionParameter", pad=pads, bias_term=bias, weight_filler=Message("FillerParameter", std=std)
                ),
            )
        ],
    ),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
    st.lists(st.text("ab\\\"'\n\t\x00\u00e9", max_size=5), max_size=3),
    st.floats(width=32),
    st.lists(st.integers(0, (1 << 32) - 1), max_size=4),
    st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(MESSAGE)
def test_what_is_written_reads_back_equal(message: Message) -> None:
    assert parse_text("NetParameter", format_text(message)) == message

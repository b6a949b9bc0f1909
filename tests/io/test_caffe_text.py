"""The prototxt format: what it takes, what it refuses with which line, and that writing reads back equal."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preimage.errors import FileFormatError
from preimage.io.caffe import Message, format_text, load, parse_text, read_net
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
        ('name: "a"\n\nname: "b"', "line 3: name is given twice"),
        ("layer {\n name: 3\n}", "line 2: name needs a quoted string, found '3'"),
        ("layer {\n", "line 2: '}' is missing for the LayerParameter opened on line 1"),
        ("layer { pooling_param { kernel_size: -1 } }", "line 1: kernel_size: -1 is outside 0"),
        ("layer { pooling_param { kernel_size: 1.5 } }", "is no uint32"),
        ("layer { pooling_param { pool: 'MAX' } }", "is no PoolMethod"),
        ("layer { pooling_param { pool: MAX2.5 } }", "was expected, found '.5'"),
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


ENDS = {"Unix": "\n", "Windows": "\r\n", "old Mac": "\r"}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_texts_of_any_encoding_and_line_ending(encoding: str, end: str, tmp_path: Path) -> None:
    text = end.join(["# caf\u00e9 \u5377", 'name: "n\u00e9"', "layer { # one", 'name: "in"\u00a0type: "Input" top: "x"', "}"])
    marks = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff", "utf-32-be": b"\0\0\xfe\xff"}
    data = marks.get(encoding, b"") + text.encode(encoding)
    place = tmp_path / "net"
    place.write_bytes(data)
    net = read_net(place)
    assert (net.name, net.layer[0].type) == ("n\u00e9", "Input")
    with pytest.raises(FileFormatError, match="line 3: cannot read"):
        parse_text("NetParameter", text_of_bytes(data).replace("layer", "@"))


def test_damaged_text_of_two_bytes_a_letter() -> None:
    with pytest.raises(FileFormatError, match="damaged UTF-16 text"):
        text_of_bytes("layer {}".encode("utf-16") + b"\0")


def test_latin_1_comments_and_a_stray_carriage_return_in_a_comment() -> None:
    data = b'# \xe9t\xe9 \r still the comment\nname: "a"\n'
    assert parse_text("NetParameter", text_of_bytes(data)).name == "a"


FORK = """
name: "a" version_of_fork: 3
layer { name: "d" type: "New" new_param { size: [1, 2] word: BOTH text: "a" 'b' inner < deep: { on: true } > inner { } gain: -1e-3 } num: 0x1F }
"""


def test_fields_that_are_not_known_are_kept_by_name_and_written_back() -> None:
    net = parse_text("NetParameter", FORK)
    layer = net.layer[0]
    assert [e.name for e in (*net.extra, *layer.extra)] == ["version_of_fork", "new_param", "num"]
    inner = layer.extra[0].value
    assert [(e.name, e.value) for e in inner if isinstance(e.value, str)] == [
        ("size", "1"), ("size", "2"), ("word", "BOTH"), ("text", "\"a\" 'b'"), ("gain", "-1e-3"),
    ]  # fmt: skip
    text = format_text(net)
    assert "deep {\n" in text
    assert parse_text("NetParameter", text) == net
    assert format_text(parse_text("NetParameter", text)) == text
    assert net.copy() == net != parse_text("NetParameter", FORK.replace("BOTH", "ONE"))
    with pytest.raises(FileFormatError, match="line 2: NetParameter has no field 'version_of_fork'"):
        parse_text("NetParameter", FORK, strict=True)
    word = parse_text("NetParameter", "layer { pooling_param { pool: LP pad: 1 } }").layer[0].pooling_param
    assert ([(e.name, e.value) for e in word.extra], word.pad, word.has("pool")) == ([("pool", "LP")], 1, False)
    with pytest.raises(FileFormatError, match="'LP' is no PoolMethod"):
        parse_text("NetParameter", "layer { pooling_param { pool: LP } }", strict=True)


FORKS = """name: "n" input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
  convolution_param { num_output: 2 kernel_size: 3 engine: CUDNN cudnn_convolution_algo_seeker: GEMM cudnn_flags: 3 weight_filler { type: "xavier" } }
  transform_param { resize_param { prob: 1 resize_mode: WARP height: 300 width: 300 interp_mode: LINEAR } emit_constraint { emit_type: CENTER } }
  annotated_data_param { batch_sampler { max_sample: 1 } label_map_file: "x" } }
layer { name: "d" type: "Dropout" bottom: "c" top: "c" dropout_param { dropout_ratio: 0.5 scale_train: false } }
default_forward_type: FLOAT16
"""


def test_fields_of_the_forks_do_no_harm_and_stay() -> None:
    """What SSD and NVIDIA's Caffe added, some of it unknown to us: the net runs, and is written with all of it."""
    net = parse_text("NetParameter", FORKS)
    assert load(net)(np.ones((1, 3, 8, 8), np.float32)).shape == (1, 2, 6, 6)
    text = format_text(net)
    for word in (
        "cudnn_convolution_algo_seeker: GEMM",
        "cudnn_flags: 3",
        "resize_mode: WARP",
        "label_map_file",
        "scale_train: false",
        "FLOAT16",
    ):
        assert word in text
    assert format_text(parse_text("NetParameter", text)) == text
    solver = format_text(parse_text("SolverParameter", 'eval_type: "detection" ap_version: "11point" base_lr: 0.1'))
    assert 'eval_type: "detection"' in solver
    assert 'ap_version: "11point"' in solver


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("fork_param { a 3 }", "':' is missing after 'a'"),
        ("fork_param { a: 3", "a field name was expected in 'fork_param' of line 1"),
        ("fork_param { a: } }", "a needs a value, found '}'"),
        ("fork_param { a: [1 2] }", "',' or ']' was expected"),
        ("fork_param" + "{ a" * 100_000, "nested deeper than 32"),
    ],
)
def test_fields_that_are_not_known_still_have_to_be_text(text: str, problem: str) -> None:
    with pytest.raises(FileFormatError, match=re.escape(problem)):
        parse_text("NetParameter", text)


def test_fields_that_are_not_known_leave_a_comment() -> None:
    message = decode("NetParameter", b"\x0a\x01a\x9a\x7d\x02xy")
    assert message.unknown == b"\x9a\x7d\x02xy"
    text = format_text(message)
    assert "# 5 bytes of fields that are not known here are left out" in text
    assert parse_text("NetParameter", text).name == "a"


def test_deep_nesting_ends_in_an_error_not_in_a_crash() -> None:
    # no Caffe message nests in itself, so depth needs fields of forks or brackets
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

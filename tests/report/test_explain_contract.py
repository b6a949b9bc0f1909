"""The page of one layer without a browser: what it takes, what it refuses, what it carries, and the server behind it."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage.errors import GeometryError, OptionError, PreimageError, ShapeError
from preimage.report.explain import ExplainServer, page, write
from preimage.report.explain.contract import checked_layer, decoded, encoded, full_layer, shapes_of
from preimage.report.explain.part import part_of
from preimage.report.explain.slices import slice_of

DECONV = {
    "kind": "conv_transpose",
    "input_size": (3, 5),
    "kernel_size": (4, 3),
    "stride": (2, 3),
    "padding": ((1, 0), (0, 2)),
    "bias": True,
}


def _data(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_page_is_one_small_file_that_loads_nothing() -> None:
    text = page()
    assert len(text.encode()) < 200_000
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:)|@import|url\(""", text)
    assert "connect-src 'self'" in text


def test_text_from_outside_is_escaped() -> None:
    text = page(title="</title><script>alert(1)</script>", values={"weight": np.zeros((1, 1, 4, 4))})
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_arrays_keep_every_bit(rng: np.random.Generator) -> None:
    spec = checked_layer(DECONV, False, None)
    given = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes_of(spec).items()}
    given["input"].flat[:4] = np.nan, np.inf, -0.0, np.float32(1e-45)
    held = _data(page(DECONV, given))
    assert held["layer"] == spec
    for name, array in given.items():
        back = decoded(held["values"][name], name, array.shape)
        assert np.array_equal(back.view(np.uint32), array.view(np.uint32))


def test_layer_from_a_geometry() -> None:
    g = pre.ConvGeometry.from_conv_transpose(
        (1, 4, 3, 5), (4, 3, 4, 3), stride=(2, 3), padding=((1, 0), (0, 2)), groups=2, output_padding=(1, 2)
    )
    spec = checked_layer(g, True, None)
    assert (spec["in_channels"], spec["out_channels"], spec["input_size"]) == (4, 6, [3, 5])
    assert (spec["output_size"], spec["output_padding"]) == (list(g.input_size), [1, 2])
    forward = checked_layer(g, False, None)
    assert (forward["kind"], forward["input_size"], forward["output_size"]) == ("conv", list(g.input_size), list(g.output_size))


def test_words_for_padding_become_numbers() -> None:
    assert checked_layer({"input_size": (5, 6), "kernel_size": 4, "padding": "same"}, False, None)["padding"] == [[1, 2], [1, 2]]


@pytest.mark.parametrize(
    ("layer", "values", "error", "text"),
    [
        ({"input_size": 4, "kernal": 3}, None, OptionError, "has no kernal; its words are"),
        ({"kernel_size": 3}, None, OptionError, "needs its input_size"),
        ({"input_size": 4, "kind": "deconv"}, None, OptionError, "one of conv, conv_transpose, linear"),
        ({"input_size": (4, 4, 4, 4)}, None, GeometryError, "one or two axes, and slices of those over three"),
        ({"input_size": 4, "kernel_size": 9}, None, GeometryError, "covers 9"),
        ({"input_size": 4, "in_channels": 4, "out_channels": 4, "groups": 3}, None, GeometryError, "groups 3 do not divide"),
        ({"input_size": 64, "kernel_size": 32, "in_channels": 70_000}, None, GeometryError, "more than the page shows"),
        ({"input_size": 4}, {"weights": [1.0]}, OptionError, "values have no weights"),
        ({"input_size": 4}, {"weight": np.zeros((1, 1, 4))}, ShapeError, r"wants \(1, 1, 3\)"),
        ({"input_size": 4}, {"input": np.zeros((2, 1, 4))}, ShapeError, r"one image at a time: input\[:1\]"),
        ({"input_size": 4}, {"input": np.array([["a"] * 4])}, OptionError, "real numbers"),
        (pre.ConvGeometry.from_conv((2, 1, 4), (1, 1, 3)), None, GeometryError, "one image at a time"),
    ],
)
def test_bad_layers_are_refused(layer: Any, values: Any, error: type[PreimageError], text: str) -> None:
    with pytest.raises(error, match=text):
        page(layer, values)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        ({"input_size": 400}, "the nearest is 64"),
        ({"input_size": 4, "in_channels": 600, "groups": 1}, "in_channels is 600"),
        ({"input_size": (64, 64), "in_channels": 512, "out_channels": 512}, "give a part of it"),
    ],
)
def test_what_a_page_cannot_hold_is_refused(layer: Any, text: str) -> None:
    with pytest.raises(GeometryError, match=text):
        checked_layer(layer, False, None)


def _outputs(spec: dict[str, Any], values: dict[str, Any]) -> Any:
    x, w, b = values["input"][None], values["weight"], values["bias"]
    options = {word: spec[word] for word in ("stride", "padding", "dilation", "groups")}
    if spec["kind"] == "linear":
        return pre.conv(x, w, b).reshape(spec["out_channels"], *spec["output_size"])
    if spec["kind"] == "conv":
        return pre.conv(x, w, b, **options)[0]
    return pre.conv_transpose(x, w, b, output_padding=spec["output_padding"], **options)[0]


def test_a_part_has_the_bits_of_the_whole() -> None:
    """Windows of random layers, too large ones among them: outputs and cotangents are those of the whole at their place."""
    rng, cut = np.random.default_rng(11), 0
    for trial in range(60):
        ndim, kind, groups = (
            int(rng.integers(1, 3)),
            ("conv", "conv_transpose", "linear")[trial % 3],
            int(rng.choice([1, 1, 2, 12])),
        )
        layer = {
            "kind": kind, "in_channels": groups * int(rng.integers(1, 4)), "out_channels": groups * int(rng.integers(1, 4)),
            "groups": groups, "input_size": [int(v) for v in rng.integers(3, 64 if kind == "linear" else 70 if ndim == 2 else 300, ndim)],
            "kernel_size": [int(v) for v in rng.integers(1, 6, ndim)], "stride": [int(v) for v in rng.integers(1, 5, ndim)],
            "dilation": [int(v) for v in rng.integers(1, 3, ndim)], "padding": [[int(v) for v in rng.integers(-1, 5, 2)] for _ in range(ndim)],
            "output_size": [int(v) for v in rng.integers(1, 7, ndim)],
        }  # fmt: skip
        if kind == "conv_transpose":
            layer["output_padding"] = [
                int(rng.integers(max(s, d))) for s, d in zip(layer["stride"], layer["dilation"], strict=True)
            ]
        try:
            spec = full_layer({**layer, "groups": 1 if kind == "linear" else groups}, False, {"bias": 0})
        except PreimageError:
            continue
        values = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes_of(spec).items()}
        shape = (spec["out_channels"], *spec["output_size"])
        values["grad_output"] = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)  # says where the part lies
        at = None if trial % 2 else [int(rng.integers(n)) for n in shape]
        part = part_of(spec, values, at)
        checked_layer(part.spec, False, part.values)
        places = part.values["grad_output"].astype(int)
        whole = _outputs(spec, values).reshape(-1)
        got = _outputs(part.spec, part.values)
        assert got.shape == places.shape
        assert np.array_equal(got.view(np.uint32), whole[places].view(np.uint32)), spec
        middle = np.ravel_multi_index([n // 2 for n in shape] if at is None else at, shape)
        assert middle in places
        cut += places.size < whole.size
    assert cut > 15


def test_a_slice_of_a_layer_over_three_axes_has_its_outputs() -> None:
    """Random layers on whole numbers: the outputs at a depth, and the cotangents there; what each channel is called."""
    rng, seen = np.random.default_rng(5), set()
    for trial in range(60):
        kind, groups = ("conv", "conv_transpose", "linear")[trial % 3], 1 if trial % 3 == 2 else int(rng.choice([1, 2]))
        layer = {
            "kind": kind, "in_channels": groups * int(rng.integers(1, 3)), "out_channels": groups * int(rng.integers(1, 3)),
            "groups": groups, "input_size": [int(v) for v in rng.integers(2, 7, 3)],
            "kernel_size": [int(v) for v in rng.integers(1, 4, 3)], "stride": [int(v) for v in rng.integers(1, 4, 3)],
            "dilation": [int(v) for v in rng.integers(1, 3, 3)], "padding": [[int(v) for v in rng.integers(-1, 3, 2)] for _ in range(3)],
            "output_size": [int(v) for v in rng.integers(1, 4, 3)],
        }  # fmt: skip
        try:
            spec = full_layer(layer, False, {"bias": 0}, most_axes=3)
        except PreimageError:
            continue
        values = {name: rng.integers(-4, 5, shape).astype(np.float32) for name, shape in shapes_of(spec).items()}
        whole = _outputs(spec, values)
        shape = (spec["out_channels"], *spec["output_size"])
        at = [int(rng.integers(n)) for n in shape]
        try:
            cut = slice_of(spec, values, at)
        except GeometryError:
            bias = values["bias"].reshape(-1, 1, 1)
            assert (whole[:, at[1]] == bias).all()
            seen.add("alone")
            continue
        checked_layer(cut.spec, False, cut.values)
        got = _outputs(cut.spec, cut.values)
        assert np.array_equal(got, whole.reshape(got.shape) if kind == "linear" else whole[:, at[1]]), spec
        if kind != "linear":
            assert np.array_equal(cut.values["grad_output"], values["grad_output"][:, at[1]])
            for plane, name in zip(cut.values["input"], cut.channels, strict=True):
                c, depth = (int(n) for n in name.split(" k")[0].split(" d"))
                assert np.array_equal(plane, values["input"][c, depth])
        assert len(cut.channels) == cut.spec["in_channels"]
        seen.add(kind)
    assert seen == {"conv", "conv_transpose", "linear", "alone"}


def test_a_page_of_a_layer_over_three_axes_says_which_slice_it_is() -> None:
    layer = {"input_size": (5, 4, 4), "in_channels": 2, "kernel_size": 3, "padding": 1}
    data = _data(page(layer))
    assert data["note"].startswith("A slice of a layer over three axes: the outputs at depth 2 of 5.")
    assert data["channels"] == [f"{c} d{d} k{d - 1}" for c in (0, 1) for d in (1, 2, 3)]
    edge = _data(page(layer, at=(0, 0, 1, 1)))
    assert edge["channels"][:2] == ["0 d0 k1", "0 d1 k2"]
    assert "The other tap meets padding." in edge["note"]
    assert "A part of a larger layer" in edge["note"]
    wide = _data(page({**layer, "in_channels": 400, "out_channels": 400, "groups": 400}))
    assert len(wide["channels"]) == wide["layer"]["in_channels"] < 512
    assert wide["channels"][0].split()[0] not in ("0", "399")
    with pytest.raises(
        OptionError, match=r"wanted an index into the output of shape \(1, 5, 4, 4\): channel, depth, row, column"
    ):
        page(layer, at=(0, 5, 0, 0))
    gaps = {"kind": "conv_transpose", "input_size": (3, 4, 4), "kernel_size": 1, "stride": 3}
    with pytest.raises(GeometryError, match="no input reaches the outputs at depth 4; the nearest depth that one reaches is 3"):
        page(gaps, at=(0, 4, 0, 0))
    assert "depth 3 of 7" in _data(page(gaps))["note"]


def test_a_long_fully_connected_input_is_laid_out_in_rows(rng: np.random.Generator) -> None:
    values = {
        "weight": rng.standard_normal((10, 3600)).astype(np.float32),
        "input": rng.standard_normal((1, 3600)).astype(np.float32),
    }
    spec = full_layer({"kind": "linear", "input_size": 3600, "output_size": 10}, False, values)
    part = part_of(spec, {n: a.reshape(shapes_of(spec)[n]) for n, a in values.items()}, None)
    assert np.prod(part.spec["input_size"]) == 3600
    assert max(part.spec["input_size"]) <= 64
    assert part.spec["output_size"] == [1, 10]
    assert np.array_equal(part.values["input"].ravel(), values["input"].ravel())
    with pytest.raises(GeometryError, match="cannot be laid out"):
        part_of(full_layer({"kind": "linear", "input_size": 4001}, False, None), {}, None)


def test_a_large_layer_is_cut_by_itself(rng: np.random.Generator) -> None:
    w = rng.standard_normal((128, 64, 3, 3)).astype(np.float32)
    x = rng.standard_normal((1, 64, 112, 112)).astype(np.float32)
    layer = {"input_size": (112, 112), "in_channels": 64, "out_channels": 128, "padding": 1}
    text = page(layer, {"weight": w, "input": x})
    assert len(text) < 2_000_000
    assert "A part of a larger layer" in _data(text)["note"]
    with pytest.raises(OptionError, match=r"at is \(1, 2\), wanted an index into the output of shape \(128, 112, 112\)"):
        page(layer, at=(1, 2))


def test_bad_views_are_refused() -> None:
    with pytest.raises(OptionError, match="mode must be one of"):
        page(mode="painting")
    with pytest.raises(OptionError, match="step must be"):
        page(step=-1)


def test_write_gives_the_path(tmp_path: Any) -> None:
    path = write(tmp_path / "layer.html", DECONV)
    assert path.read_text("utf-8") == page(DECONV)


# -- the server ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[ExplainServer]:
    running = ExplainServer(DECONV)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield running
    running.close()
    thread.join()


def _ask(server: ExplainServer, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def _compute(server: ExplainServer, body: Any) -> tuple[int, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, answer = _ask(server, "POST", "/compute", content, X_Preimage_Token=server.token)
    return status, json.loads(answer)


def test_server_gives_the_page_to_this_machine_alone(server: ExplainServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    status, content = _ask(server, "GET", "/")
    assert (status, content.decode()) == (200, server.page)
    assert server.token in server.page
    assert _ask(server, "GET", "/", Host=f"localhost:{server.port}")[0] == 200
    assert _ask(server, "GET", "/", Host=f"elsewhere.example:{server.port}")[0] == 403
    assert _ask(server, "GET", "/etc/passwd")[0] == 404
    assert _ask(server, "POST", "/compute", b"{}")[0] == 403
    assert _ask(server, "POST", "/compute", b"{}", X_Preimage_Token="\u00e9")[0] == 403
    assert _ask(server, "POST", "/compute", b"{}", X_Preimage_Token=server.token, Origin="http://elsewhere.example")[0] == 403
    assert _ask(server, "POST", "/compute", X_Preimage_Token=server.token, Content_Length="99999999999")[0] == 413


SMALL = {"input_size": 4}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[1]", b"{", b"\xff", b"[" * 100_000, {"layer": 3}, {"layer": SMALL}, {"layer": {**SMALL, "padding": {}}, "values": {}},
        {"layer": {"input_size": [1, [2]]}, "values": {}}, {"layer": SMALL, "values": {"input": {"float32": "?"}}},
        {"layer": SMALL, "values": {"input": {"float32": "AAAA"}}},
    ],
)  # fmt: skip
def test_server_refuses_what_is_no_layer(server: ExplainServer, body: Any) -> None:
    status, answer = _compute(server, body)
    assert status == 400
    assert answer["error"]


def test_server_computes_what_the_library_computes(server: ExplainServer, rng: np.random.Generator) -> None:
    spec = checked_layer({**DECONV, "in_channels": 2, "out_channels": 3}, False, None)
    given = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes_of(spec).items()}
    status, answer = _compute(server, {"layer": spec, "values": {name: encoded(a) for name, a in given.items()}})
    assert status == 200
    x, w, b = (
        pre.Tensor(given[name][None] if name == "input" else given[name], requires_grad=True)
        for name in ("input", "weight", "bias")
    )
    y = pre.conv_transpose(x, w, b, stride=(2, 3), padding=((1, 0), (0, 2)))
    grads = pre.grad((y * given["grad_output"][None]).sum(), [x, w, b])
    for name, want in zip(("output", "grad_input", "grad_weight", "grad_bias"), (y, *grads), strict=True):
        expected = np.ascontiguousarray(getattr(want, "data", want))
        got = decoded(answer["values"][name], name, expected.shape)
        assert np.array_equal(got.view(np.uint32), expected.view(np.uint32)), name
    assert {name for name, _ in answer["plans"]["conv_transpose"]} >= {"engine, algorithm"}

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
from preimage.report.explain.contract import checked_layer, decoded, encoded, shapes_of

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
        ({"input_size": (4, 4, 4)}, None, GeometryError, "one or two axes"),
        ({"input_size": 4, "kernel_size": 9}, None, GeometryError, "covers 9"),
        ({"input_size": 400}, None, GeometryError, "the nearest is 64"),
        ({"input_size": 4, "in_channels": 4, "out_channels": 4, "groups": 3}, None, GeometryError, "groups 3 do not divide"),
        ({"input_size": (64, 64), "in_channels": 512, "out_channels": 512}, None, GeometryError, "give a part of it"),
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

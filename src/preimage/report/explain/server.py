"""The page with the library behind it: a server for this machine alone, which computes what the page asks for."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from preimage.autograd import Tensor, grad
from preimage.engines import plan
from preimage.errors import OptionError, PreimageError
from preimage.geometry import ConvGeometry
from preimage.ops import conv, conv_transpose
from preimage.report.explain.contract import GIVEN, checked_layer, decoded, encoded, geometry_of, shapes_of
from preimage.report.mechanics import plan_lines

__all__ = ["ExplainServer", "computed", "serve"]

HOST = "127.0.0.1"
PATH = "/compute"
MOST_BODY = 12 << 20
BODY_SECONDS = 20


def computed(layer: Any, given: Any) -> dict[str, Any]:
    """What the library computes for a layer and its arrays (plain data): output, gradients, plans."""
    from preimage import __version__

    if not isinstance(layer, dict) or not isinstance(given, dict):
        raise OptionError('the body must be {"layer": {...}, "values": {...}}')
    spec = checked_layer(layer, False, None)
    shapes, geometry = shapes_of(spec), geometry_of(spec)
    wanted = [name for name in GIVEN if spec["bias"] or name != "bias"]
    arrays = {name: decoded(given.get(name), name, shapes[name]) for name in wanted}
    arrays["input"] = arrays["input"][None]
    cotangent = arrays.pop("grad_output")[None]
    tensors = {name: Tensor(array, requires_grad=True) for name, array in arrays.items()}
    output = _forward(spec, tensors["input"], tensors["weight"], tensors.get("bias"))
    gradients = grad(output, list(tensors.values()), cotangent.reshape(output.shape))
    results = {"output": output, **{f"grad_{name}": g for name, g in zip(tensors, gradients, strict=True)}}
    return {
        "values": {name: encoded(np.ascontiguousarray(tensor.data)) for name, tensor in results.items()},
        "plans": _plans(geometry),
        "version": __version__,
    }


def _forward(spec: Mapping[str, Any], x: Tensor, w: Tensor, b: Tensor | None) -> Any:
    if spec["kind"] == "linear":  # a convolution whose stencil is as large as the input
        return conv(x, w, b)
    options = {word: spec[word] for word in ("stride", "padding", "dilation", "groups")}
    if spec["kind"] == "conv_transpose":
        return conv_transpose(x, w, b, output_padding=spec["output_padding"], **options)
    return conv(x, w, b, **options)


def _plans(geometry: ConvGeometry) -> dict[str, list[tuple[str, str]]]:
    kind = np.dtype(np.float32)
    return {name: plan_lines(plan(geometry, kind, name)) for name in ("conv", "conv_transpose", "conv_weight_grad")}


class _Handler(BaseHTTPRequestHandler):
    """GET / is the page; POST /compute computes. Anything not from this page on this machine is refused."""

    server: ExplainServer
    server_version = "preimage"
    sys_version = ""
    timeout = BODY_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal is the user's."""

    def _from_here(self) -> bool:
        """Whether the request was made to this address by name or number: keeps other sites' names from pointing here."""
        allowed = {f"{name}:{self.server.port}" for name in (HOST, "localhost")}
        origin = self.headers.get("Origin")
        return self.headers.get("Host") in allowed and (origin is None or origin.removeprefix("http://") in allowed)

    def _reply(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def _json(self, status: int, body: Mapping[str, Any]) -> None:
        self._reply(status, json.dumps(body, allow_nan=False).encode(), "application/json")

    def do_GET(self) -> None:
        if not self._from_here():
            self._json(403, {"error": "this server answers this machine alone"})
        elif self.path.partition("?")[0] != "/":
            self._json(404, {"error": "there is one page, at /"})
        else:
            self._reply(200, self.server.page.encode(), "text/html; charset=utf-8")

    def do_POST(self) -> None:
        token = self.headers.get("X-Preimage-Token", "")
        if not self._from_here() or not secrets.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode()):
            self._json(403, {"error": "not from this page"})
            return
        length = self.headers.get("Content-Length", "")
        if self.path != PATH or not length.isdecimal() or int(length) > MOST_BODY:
            self._json(404 if self.path != PATH else 413, {"error": f"POST {PATH} with at most {MOST_BODY} bytes"})
            self.close_connection = True
            return
        try:
            body = json.loads(self.rfile.read(int(length)))
            if not isinstance(body, dict):
                raise OptionError("the body must be a JSON object")
            answer = computed(body.get("layer"), body.get("values"))
        except (PreimageError, ValueError, RecursionError, TypeError) as error:
            self._json(400, {"error": str(error)})
        else:
            self._json(200, answer)


class ExplainServer(ThreadingHTTPServer):
    """Serves one page on 127.0.0.1. `address` is where to look; `serve_forever` runs it, `close` ends it.

    Raises: OSError where the port is taken.
    """

    daemon_threads = True
    allow_reuse_address = False

    def __init__(self, layer: Any = None, values: Mapping[str, Any] | None = None, *, port: int = 0, **options: Any) -> None:
        from preimage.report.explain import page

        self.token = secrets.token_urlsafe(24)
        self.page = page(layer, values, live={"path": PATH, "token": self.token}, **options)
        super().__init__((HOST, port), _Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}/"

    def close(self) -> None:
        """Stop serving and free the port."""
        self.shutdown()
        self.server_close()


def serve(
    layer: Any = None, values: Mapping[str, Any] | None = None, *, port: int = 0, show: Any = print, **options: Any
) -> None:
    """Serve the page (arguments as for `page`) on this machine until interrupted; `show` gets the address once.

    port: 0 takes any that is free. Only requests to 127.0.0.1 that carry the page's own token are computed.
    """
    server = ExplainServer(layer, values, port=port, **options)
    show(server.address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()

"""Sessions: a model read, optimised, and run by the names of its inputs and outputs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from preimage.autograd import no_grad
from preimage.errors import DTypeError, OptionError, ShapeError
from preimage.runtime.model import Model, ModelMetadata, NodeArg
from preimage.runtime.options import RunOptions, SessionOptions
from preimage.settings import config, current, with_threads

if TYPE_CHECKING:
    from preimage.io.graph import Graph

__all__ = [
    "InferenceSession", "ModelMetadata", "NodeArg", "get_all_providers", "get_available_providers", "get_device",
    "set_default_logger_severity", "set_default_logger_verbosity",
]  # fmt: skip

_PROVIDER = "CPUExecutionProvider"


def get_available_providers() -> list[str]:
    """The one provider."""
    return [_PROVIDER]


def get_all_providers() -> list[str]:
    """The one provider."""
    return [_PROVIDER]


def get_device() -> str:
    """The device."""
    return "CPU"


def set_default_logger_severity(severity: int) -> None:
    """Taken, and changes nothing: nothing is logged unless PREIMAGE_DEBUG asks for it."""


def set_default_logger_verbosity(verbosity: int) -> None:
    """Taken, and changes nothing."""


class InferenceSession:
    """A model ready to be run, by onnxruntime's names.

    path_or_bytes: an ONNX file, its bytes, or a Caffe model's path. sess_options: a SessionOptions. providers: names, of which
    CPUExecutionProvider must be one where any are given, as it is the one that there is.

    Threads may run one session at once. Inputs are never written to, and results are the caller's own.

    Raises: FileFormatError for what is no model and for nodes that are not supported; OptionError for wrong options.

    Example:
        >>> import numpy as np, preimage as pre, tempfile
        >>> import preimage.runtime as ort
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pre.save_model(pre.nn.Conv2d(3, 4, 3), f"{folder}/net.onnx", example=np.zeros((1, 3, 8, 8), np.float32))
        ...     session = ort.InferenceSession(f"{folder}/net.onnx")
        >>> [(a.shape[1:], a.type) for a in session.get_inputs()]
        [([3, 8, 8], 'tensor(float)')]
        >>> session.run(None, {session.get_inputs()[0].name: np.ones((2, 3, 8, 8), np.float32)})[0].shape
        (2, 4, 6, 6)
    """

    def __init__(
        self,
        path_or_bytes: str | os.PathLike[str] | bytes,
        sess_options: SessionOptions | None = None,
        providers: Sequence[str | tuple[str, dict[str, Any]]] | None = None,
        provider_options: Sequence[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        if unknown := [key for key in kwargs if key not in ("disabled_optimizers", "enable_fallback", "read_config_from_model")]:
            raise OptionError(f"InferenceSession takes no {unknown[0]!r}; it takes sess_options, providers, provider_options")
        if sess_options is not None and not isinstance(sess_options, SessionOptions):
            raise OptionError(f"sess_options must be a SessionOptions of preimage.runtime, got {type(sess_options).__name__}")
        self._options = sess_options or SessionOptions()
        _check_providers(providers)
        self._model = Model(path_or_bytes, self._options)
        said = self._model.said
        self._inputs, self._outputs, self._meta = said.inputs, said.outputs, said.meta
        self._names = tuple([a.name for a in said.outputs])
        self._dtypes = {
            name: None if dtype is None else np.dtype(dtype) for name, dtype in said.dtypes.items() if dtype != "bfloat16"
        }

    # -- what the model is

    def get_inputs(self) -> list[NodeArg]:
        """The inputs, in the model's order."""
        return list(self._inputs)

    def get_outputs(self) -> list[NodeArg]:
        """The outputs, in the model's order."""
        return list(self._outputs)

    def get_overridable_initializers(self) -> list[NodeArg]:
        """None: stored arrays are constants."""
        return []

    def get_modelmeta(self) -> ModelMetadata:
        """What the file says of itself."""
        return self._meta

    def get_session_options(self) -> SessionOptions:
        """The options that the session was made with."""
        return self._options

    def get_providers(self) -> list[str]:
        """The one provider."""
        return [_PROVIDER]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        """The provider's options: it has none."""
        return {_PROVIDER: {}}

    def set_providers(self, providers: Sequence[Any] | None = None, provider_options: Any = None) -> None:
        """Checks the names; there is one provider. Raises: OptionError where it is not among them."""
        _check_providers(providers)

    def disable_fallback(self) -> None:
        """Nothing to do: nothing falls back."""

    def enable_fallback(self) -> None:
        """Nothing to do: nothing falls back."""

    @property
    def graph(self) -> Graph:
        """The graph that is run (this library's own addition)."""
        return self._model.graph

    # -- running it

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: RunOptions | None = None
    ) -> list[Any]:
        """The outputs named (None: all, in the model's order) for inputs by name.

        Raises: OptionError for names that the model does not have, and for inputs that are missing; DTypeError and ShapeError for
        arrays of another type or shape than the model's.
        """
        if (again := self._again(output_names, input_feed)) is not None:
            return again
        names = [a.name for a in self._outputs] if output_names is None or not len(output_names) else list(output_names)
        known = [a.name for a in self._outputs]
        if wrong := [n for n in names if n not in known]:
            raise OptionError(f"the model has no output {wrong[0]!r}; its outputs: {known}")
        feeds = self._checked(input_feed)
        threads = self._options.intra_op_num_threads
        with no_grad():
            if threads:
                with config(threads=threads):
                    found = self._model.run(feeds, names)
            else:
                found = self._model.run(feeds, names)
        return [found[name] for name in names]

    def _again(self, names: Sequence[str] | None, given: Any) -> list[Any] | None:
        """The outputs of a run like the one before; None for any other."""
        wanted = self._names if names is None or not len(names) else names
        found = self._model.again(given, wanted, with_threads(current(), self._options.intra_op_num_threads))
        return None if found is None else [found[name] for name in wanted]

    def _checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(given, Mapping):
            raise OptionError(f"the inputs are a dict of arrays by name, got {type(given).__name__}")
        known = [a.name for a in self._inputs]
        if unknown := [key for key in given if key not in known]:
            raise OptionError(f"the model has no input {unknown[0]!r}; its inputs: {known}")
        if missing := [key for key in known if key not in given]:
            raise OptionError(f"the inputs {missing} are missing; the model wants {known}")
        feeds: dict[str, Any] = {}
        for item in self._inputs:
            value, dtype = given[item.name], self._dtypes.get(item.name)
            array = value if isinstance(value, np.ndarray) else np.asarray(value, dtype)
            if dtype is not None and array.dtype != dtype:
                raise DTypeError(f"input {item.name!r} has dtype {array.dtype}, wanted {dtype} ({item.type})")
            wanted = item.shape
            rank_free = not wanted and item.name in self._model.said.open_ranks
            fits = rank_free or (
                len(wanted) == array.ndim
                and all(not isinstance(w, int) or w == n for w, n in zip(wanted, array.shape, strict=True))
            )
            if not fits:
                raise ShapeError(f"input {item.name!r} has shape {array.shape}, wanted {tuple(wanted)}")
            feeds[item.name] = array
        return feeds


def _check_providers(providers: Any) -> None:
    if providers is None or not len(providers):
        return
    names = [p[0] if isinstance(p, (tuple, list)) else p for p in providers]
    if _PROVIDER not in names:
        raise OptionError(f"the one provider is {_PROVIDER!r}, got {names}")

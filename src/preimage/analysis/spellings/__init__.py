"""Layers as PyTorch, Keras, JAX, ONNX and Caffe write them, read and translated exactly.

    translate("ConvTranspose2d(64, 3, 4, 2, 1)", "keras")       Conv2DTranspose(3, 4, strides=2, padding="same")
    read('Conv2D(16, 3, strides=2, padding="SAME")').layer       the layer apart from its spelling
    read(text).weight(array)                                     that library's weight array in our layout

Text is parsed, never run: names and literal values only. What a library cannot say exactly is refused, with the reason. Where the
channels of the input, or its size, are not in the text but needed, give `in_channels` and `input_size`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from preimage.analysis.spellings import caffe, jax, keras, onnx, torch
from preimage.analysis.spellings.call import parsed
from preimage.analysis.spellings.layer import LayerSpec, Spelled
from preimage.errors import OptionError

__all__ = ["LIBRARIES", "LayerSpec", "Spelled", "read", "translate", "write"]

_CALLS: dict[str, Any] = {"torch": torch, "keras": keras, "jax": jax, "onnx": onnx}
LIBRARIES = (*_CALLS, "caffe")
_ALIASES = {"pytorch": "torch", "tensorflow": "keras", "tf": "keras", "tf.keras": "keras"}


def read(text: str, *, in_channels: int | None = None, out_channels: int | None = None, ndim: int | None = None) -> Spelled:
    """The layer that a text spells; the library is recognised by its name. in_channels, out_channels: where the text does not say them.

    ndim: the spatial axes of a Caffe layer (else 2, or as many as its lists have).

    Raises: OptionError for text that is no layer, or options that the layer does not take.
    """
    if caffe.reads_text(text):
        found = caffe.read_text(text, in_channels, ndim)
    else:
        call = parsed(text)
        module = next((m for m in _CALLS.values() if m.reads(call)), None)
        if module is None:
            raise OptionError(
                f"{call.name!r} is no layer that is known; there are PyTorch's Conv2d and ConvTranspose2d, Keras's Conv2D and"
                " Conv2DTranspose (1 to 3 axes), JAX's lax.conv_transpose and lax.conv_general_dilated, ONNX's Conv and ConvTranspose,"
                " Caffe's layer { ... }"
            )
        if call.added and module is not jax:
            raise OptionError(f"{call.name} is a layer, to which nothing is added")
        found = module.read(call, in_channels)
    layer = found.layer
    for name, given in (("in_channels", in_channels), ("out_channels", out_channels)):
        held = getattr(layer, name)
        if given is not None and held not in (None, given):
            raise OptionError(f"{name} {given} is not what the text says, {held}")
        if given is not None and held is None:
            changes: dict[str, Any] = {name: given}
            layer = replace(layer, **changes)
    return replace(found, layer=layer)


def write(layer: LayerSpec, library: str, *, input_size: tuple[int, ...] | None = None) -> str:
    """The layer as a library writes it. input_size: the input's spatial size, where the padding depends on it.

    Raises: OptionError with the reason where the library has no exact counterpart, or for a library that is not known.
    """
    name = _ALIASES.get(library.lower(), library.lower())
    if input_size is not None and len(input_size) != layer.ndim:
        raise OptionError(f"input_size {tuple(input_size)} has {len(input_size)} numbers, the layer {layer.ndim} spatial axes")
    if name == "caffe":
        return caffe.write(layer, input_size)
    if name not in _CALLS:
        raise OptionError(f"no library is called {library!r}; there are {', '.join(LIBRARIES)}")
    written: str = _CALLS[name].write(layer, input_size)
    return written


def translate(
    text: str, library: str, *, in_channels: int | None = None, out_channels: int | None = None,
    input_size: tuple[int, ...] | None = None,
) -> str:  # fmt: skip
    """One library's spelling in another's words. See `read` and `write`."""
    found = read(text, in_channels=in_channels, out_channels=out_channels)
    return write(found.layer, library, input_size=input_size or found.input_size)

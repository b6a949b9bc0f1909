"""Modules made of modules, and the small ones that only move or multiply."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import cast, overload

import numpy as np

from preimage import ops
from preimage.autograd import Tensor, is_grad_enabled
from preimage.autograd.modes import observer
from preimage.errors import OptionError
from preimage.nn import init
from preimage.nn.activation import LeakyReLU, ReLU, _Activation
from preimage.nn.conv import _Convolution, is_recording
from preimage.nn.kept import KeptWeight
from preimage.nn.module import Layer, Module, Parameter
from preimage.nn.norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from preimage.ops.operands import flag_of, float_dtype, integer_of, sizes_of
from preimage.ops.shape import unflatten
from preimage.typing import DTypeLike, EpilogueOptions, Operand, Seed, Shape, Value

__all__ = ["Flatten", "Identity", "Linear", "ModuleDict", "ModuleList", "Sequential", "Unflatten"]

_BATCH_NORMS = (BatchNorm1d, BatchNorm2d, BatchNorm3d)


class Sequential(Layer):
    """Modules one after the other: `Sequential(a, b)` or `Sequential({"first": a, "second": b})`.

    In evaluation, where nothing is recorded, a convolution and the ReLU, LeakyReLU, ReLU6 or Hardtanh after it run as one
    call (the engine's epilogue); in training, batch normalisation and the ReLU or LeakyReLU after it. The values are the same.
    """

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        super().__init__()
        named = modules[0] if len(modules) == 1 and isinstance(modules[0], Mapping) else None
        for name, module in named.items() if named is not None else ((str(k), m) for k, m in enumerate(modules)):
            if not isinstance(module, Module):
                raise OptionError(f"Sequential takes Modules, got {type(module).__name__}")
            self.add_module(name, module)

    def forward(self, x: Operand) -> Value:
        layers = list(self.children())
        value = cast("Value", x)
        k = 0
        while k < len(layers):
            layer, after = layers[k], layers[k + 1] if k + 1 < len(layers) else None
            options = self._fusible(layer, after, value)
            value = layer(value) if options is None else layer(value, **options)
            k += 1 if options is None else 2
        return value

    def _fusible(self, layer: Module, after: Module | None, x: object) -> EpilogueOptions | None:
        if not isinstance(after, _Activation) or layer._hooks or after._hooks:
            return None
        recording = is_grad_enabled() and is_recording(layer, x)
        if type(layer) in _BATCH_NORMS:  # the classes themselves: others may compute something else
            slope = after.rectifier_slope if type(after) in (ReLU, LeakyReLU) else None
            return {"slope": slope} if slope is not None and recording and layer.training and observer() is None else None
        if not isinstance(layer, _Convolution) or recording or layer.training or after.training:
            return None
        return after.epilogue()

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    @overload
    def __getitem__(self, key: int | str) -> Module: ...
    @overload
    def __getitem__(self, key: slice) -> Sequential: ...
    def __getitem__(self, key: int | slice | str) -> Module:
        if isinstance(key, str):
            found = self._modules[key]
            assert found is not None
            return found
        if isinstance(key, slice):
            return Sequential(dict(list(self.named_children())[key]))
        return list(self.children())[key]

    def append(self, module: Module) -> Sequential:
        """One more at the end."""
        self.add_module(str(len(self)), module)
        return self


class ModuleList(Module):
    """A list whose modules are registered under their numbers."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        if not isinstance(modules, Iterable) or isinstance(modules, np.ndarray):
            raise OptionError(f"ModuleList takes a list of Modules, got {type(modules).__name__}")
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> ModuleList:
        """One more at the end."""
        if not isinstance(module, Module):
            raise OptionError(f"ModuleList takes Modules, got {type(module).__name__}")
        self.add_module(str(len(self)), module)
        return self

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    @overload
    def __getitem__(self, key: int) -> Module: ...
    @overload
    def __getitem__(self, key: slice) -> ModuleList: ...
    def __getitem__(self, key: int | slice) -> Module:
        held = list(self.children())
        return ModuleList(held[key]) if isinstance(key, slice) else held[key]


class ModuleDict(Module):
    """A dict whose modules are registered under their keys."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        if modules is not None and not isinstance(modules, Mapping):
            raise OptionError(f"ModuleDict takes a dict of Modules, got {type(modules).__name__}")
        for name, module in (modules or {}).items():
            self[name] = module

    def __setitem__(self, name: str, module: Module) -> None:
        if not isinstance(module, Module):
            raise OptionError(f"ModuleDict takes Modules, got {type(module).__name__}")
        self._modules.pop(name, None)
        self.add_module(name, module)

    def __getitem__(self, name: str) -> Module:
        found = self._modules[name]
        assert found is not None
        return found

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def items(self) -> Iterator[tuple[str, Module]]:
        """Keys and modules."""
        return self.named_children()


class Linear(Layer):
    """x @ weight.T + bias on the last axis: weight (out_features, in_features)."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, dtype: DTypeLike = np.float32, rng: Seed = None
    ) -> None:
        super().__init__()
        in_features, out_features = integer_of(in_features, "in_features", 0), integer_of(out_features, "out_features", 0)
        self.in_features, self.out_features = in_features, out_features
        dtype, bias = float_dtype(dtype), flag_of(bias, "bias")
        generator = init.generator(rng)
        bound = 1 / math.sqrt(max(1, in_features))
        self.weight = Parameter(init.uniform((out_features, in_features), -bound, bound, rng=generator).astype(dtype))
        start = Parameter(init.uniform((out_features,), -bound, bound, rng=generator).astype(dtype)) if bias else None
        self.register_parameter("bias", start)
        self._kept = KeptWeight()

    def forward(self, x: Operand) -> Value:
        if is_grad_enabled() and is_recording(self, x):
            return ops.linear(x, self.weight, self.bias)
        result = ops.linear(x, self._kept.in_place_of(self.weight), self.bias)
        return result if isinstance(result, Tensor) else Tensor(result)

    @property
    def packed_bytes(self) -> int:
        """Memory held to run without packing: a copy of the weights and their packed form, made by calls that recorded nothing."""
        return self._kept.packed_bytes

    @property
    def position_flop(self) -> int:
        """Flop per row: 2 per multiply-add."""
        return 2 * self.weight.size

    def work_flop(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
        """Flop of one run, from the shapes of its input and output."""
        return math.prod(input_shape[:-1]) * self.position_flop

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Flatten(Layer):
    """The axes start_dim..end_dim as one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Operand) -> Value:
        return ops.flatten(x, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Layer):
    """One axis as several, of these sizes (one may be -1)."""

    def __init__(self, dim: int, unflattened_size: Shape) -> None:
        super().__init__()
        self.dim, self.unflattened_size = dim, sizes_of(unflattened_size, "Unflatten")

    def forward(self, x: Operand) -> Value:
        return unflatten(x, self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class Identity(Layer):
    """x."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def forward(self, x: Operand) -> Operand:
        return x

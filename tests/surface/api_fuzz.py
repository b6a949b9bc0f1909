"""Every public callable with plausible and hostile arguments: results or the library's own errors, nothing else, and inputs as they were.

    python tests/surface/api_fuzz.py --calls 20000 --seed 0      lists what was foreign; exit status 1 if anything was
    python tests/surface/api_fuzz.py --only "nn.*" --first 50

A call takes each argument from what its name suggests (an array for `x`, 3 for `kernel_size`), and one or two of them from a list of
things that make no sense there. Layers are made and then run; optimisers take a step.
"""

from __future__ import annotations

import argparse
import fnmatch
import inspect
import random
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

import preimage as pre
from preimage import linop, nn, ops, optim
from preimage.errors import PreimageError
from preimage.geometry import ConvGeometry

RNG = np.random.default_rng(0)


def floats(*shape: int, dtype: Any = np.float32) -> Any:
    return RNG.standard_normal(shape).astype(dtype)


def arrays() -> list[Any]:
    return [
        floats(2, 4, 6),
        floats(2, 4, 6, 6),
        floats(4, 4, 3),
        floats(4, 4, 3, 3),
        floats(3),
        floats(2, 4),
        floats(1, 1, 1),
        floats(0, 4, 6),
    ]


#: What the name of an argument suggests; anything else is a number, a word or an array.
LIKELY: dict[str, list[Any]] = {
    "kernel_size": [3, (3,), (2, 3)],
    "stride": [1, 2, (2,)],
    "padding": [0, 1, "same", ((1, 2),)],
    "dilation": [1, 2],
    "groups": [1, 2],
    "output_padding": [0, 1],
    "output_size": [4, (7,)],
    "layout": ["channels_first", "channels_last"],
    "mode": ["zeros", "reflect", "nearest", "linear"],
    "padding_mode": ["zeros", "circular"],
    "axis": [0, -1, 1, None],
    "axes": [(0,), (0, 1), None],
    "dim": [0, 1],
    "dtype": [np.float32, np.float64],
    "shape": [(3,), (2, 4), (4, 4, 3)],
    "sizes": [2, (1, 1)],
    "rng": [0, None],
    "seed": [0],
    "factor": [2],
    "scale_factor": [2, 1.5],
    "size": [3],
    "in_channels": [4],
    "out_channels": [4],
    "in_features": [6],
    "out_features": [3],
    "num_features": [4],
    "num_channels": [4],
    "num_groups": [2],
    "normalized_shape": [6, (6,)],
    "eps": [1e-5],
    "momentum": [0.1],
    "affine": [True, False],
    "bias": [True, False],
    "reduction": ["mean", "sum", "none"],
    "lr": [0.1],
    "betas": [(0.9, 0.99)],
    "input_shape": [(2, 4, 6), (2, 4, 6, 6)],
    "weight_shape": [(4, 4, 3), (4, 2, 3)],
    "output_shape": [(2, 4, 4)],
    "input_size": [6],
    "repeats": [2],
    "indices": [[0, 1]],
    "key": [0, (0, 1), [0], slice(1)],
    "keepdims": [True, False],
    "order": [1, 2],
    "rtol": [1e-2, None],
    "trials": [1],
    "max_iter": [10],
    "stepsize": [2],
    "stepvalues": [[1, 2]],
    "gamma": [0.5],
    "power": [1.0],
    "max_norm": [1.0],
    "clip_value": [1.0],
    "norm_type": [2.0],
    "correction": [0, 1],
    "lo": [-1.0, None],
    "hi": [1.0, None],
    "min_val": [-1.0],
    "max_val": [1.0],
    "alpha": [0.5],
    "slope": [0.1],
    "p": [0.5],
    "approximate": ["none", "tanh"],
    "start_axis": [1],
    "end_axis": [-1],
    "axis1": [0],
    "axis2": [1],
    "source": [0],
    "destination": [1],
    "return_switches": [True, False],
    "ceil_mode": [True, False],
    "align_corners": [True, False],
    "divisor_override": [None, 2],
    "threads": [1],
    "start_dim": [1],
    "end_dim": [-1],
    "unflattened_size": [(2, 2)],
    "num_parameters": [1, 4],
    "batch": [1, 2],
    "warmup": [0, 2],
    "iterations": [3],
    "nonlinearity": ["relu"],
    "scale": [1.0],
    "pairs": ["all"],
    "shift": [1],
    "activation": [None, "relu"],
    "residual": [None],
    "clip_range": [(0.0, 1.0)],
    "overlap": ["last"],
    "switches": [np.zeros((2, 4, 3), np.int64)],
    "target": [np.array([1, 0]), *arrays()],
    "ignore_index": [-100],
    "kind": [None],
    "smooth": [1.0],
    "delta": [1.0],
    "label_smoothing": [0.1],
    "b": [None, floats(4)],
    "weight": [None, floats(4)],
    "pos_weight": [None],
    "count_include_pad": [True],
    "recompute_scale_factor": [None],
    "inplace": [False],
    "return_indices": [False],
    "track_running_stats": [True, False],
    "antialias": [False],
    "most": [10**6],
    "a": [*arrays(), -1.0],
    "std": [1.0],
    "mean": [0.0],
    "value": [0.0, 1.0],
    "init": [0.25],
    "beta": [1.0],
}

HOSTILE: list[Callable[[], Any]] = [
    lambda: None,
    lambda: -1,
    lambda: 0,
    lambda: 10**6,
    lambda: 10**12,
    lambda: 2**63,
    lambda: 10**30,
    lambda: -(10**30),
    lambda: 1.5,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: "x",
    lambda: "",
    lambda: b"same",
    lambda: True,
    list,
    lambda: (),
    dict,
    lambda: {"a": 1},
    lambda: {1, 2},
    lambda: [1, 2, 3, 4, 5],
    lambda: (1, None),
    lambda: [[1.0], [1.0, 2.0]],
    lambda: object(),
    lambda: len,
    lambda: int,
    lambda: np.float32,
    lambda: (k for k in range(2)),
    lambda: 1j,
    lambda: np.array(3),
    lambda: np.array([1, 2]),
    lambda: np.int8(-3),
    lambda: np.array(["a", "b"]),
    lambda: np.array([None, 1]),
    lambda: np.zeros((2, 3), complex),
    lambda: np.zeros((2, 0, 3)),
    lambda: np.zeros(()),
    lambda: np.ma.masked_equal(np.ones(3), 1),
    lambda: np.array([1, 2], "M8[s]"),
    lambda: np.zeros(2, [("a", float)]),
    lambda: np.ones((2, 4, 6), bool),
    lambda: pre.Tensor(floats(2, 4, 6), requires_grad=True),
    lambda: [pre.Tensor(1.0, requires_grad=True)],
    lambda: slice(None, None, 0),
    lambda: ...,
    lambda: np.full((2, 4, 6), np.nan, np.float16),
    lambda: floats(2, 4, 6).T,
    lambda: np.float64("nan"),
    lambda: range(3),
    lambda: Exception,
    lambda: np.broadcast_to(np.float32(1), (2, 4, 6)),
    lambda: ["a"],
    lambda: [[[]]],
    lambda: [(1, 2)],
    lambda: np.bool_(True),
    lambda: "zeros\0",
]


def _method(name: str) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        return getattr(pre.Tensor(floats(2, 4, 6)), name)(*args, **options)

    own = list(inspect.signature(getattr(pre.Tensor, name)).parameters.values())[1:]
    call.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
    return call


def _tensor_methods() -> dict[str, Callable[..., Any]]:
    names = [n for n in dir(pre.Tensor) if not n.startswith("_") and callable(getattr(pre.Tensor, n))]
    return {f"Tensor.{n}": _method(n) for n in names}


def _layer(kind: type) -> Callable[..., Any]:
    def make_and_run(*args: Any, **options: Any) -> Any:
        layer = kind(*args, **options)
        if kind in (nn.ModuleList, nn.ModuleDict):
            return repr(layer)
        for x in (floats(2, 4, 6), floats(2, 4, 6, 6)):
            try:
                layer(x, x) if kind.__name__.endswith("Loss") else layer(
                    x, x.astype(int)
                ) if "Unpool" in kind.__name__ else layer(x)
            except PreimageError:
                continue
        repr(layer)
        return layer.state_dict()

    make_and_run.__signature__ = inspect.signature(kind)  # type: ignore[attr-defined]
    return make_and_run


def _optimizer(kind: type) -> Callable[..., Any]:
    def make_and_step(**options: Any) -> Any:
        w = nn.Parameter(floats(3))
        w.grad = np.ones(3)
        optimizer = kind([w], **options)
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        return repr(optimizer)

    own = [p for name, p in inspect.signature(kind).parameters.items() if name != "params"]
    make_and_step.__signature__ = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in own])  # type: ignore[attr-defined]
    return make_and_step


def _schedule(function: Callable[..., Any]) -> Callable[..., Any]:
    def make_and_step(**options: Any) -> Any:
        schedule = function(optim.SGD([nn.Parameter(floats(3))], lr=0.1), **options)
        for _ in range(3):
            schedule.step()
        return schedule.lr

    own = [p for name, p in inspect.signature(function).parameters.items() if name != "optimizer"]
    make_and_step.__signature__ = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in own])  # type: ignore[attr-defined]
    return make_and_step


def _applied(kind: type) -> Callable[..., Any]:
    def make_and_apply(*args: Any, **options: Any) -> Any:
        A = kind(*args, **options)
        return repr(A), A.T @ (A @ np.ones(A.input_shape, A.dtype)) if A.shape[0] * A.shape[1] < 10**6 else None

    make_and_apply.__signature__ = inspect.signature(kind)  # type: ignore[attr-defined]
    return make_and_apply


def subjects() -> dict[str, Callable[..., Any]]:
    """Every public callable under its name."""
    found: dict[str, Callable[..., Any]] = {f"ops.{n}": getattr(ops, n) for n in ops.__all__}
    found |= {
        n: getattr(pre, n)
        for n in (
            "conv",
            "conv_transpose",
            "conv_weight_grad",
            "pad",
            "fold",
            "unfold",
            "fold_margin",
            "prepare",
            "Tensor",
            "grad",
        )
    }
    found |= {n: getattr(pre, n) for n in ("check_grads", "check_adjoint", "plan", "ConvGeometry")}
    found |= {f"ConvGeometry.{n}": getattr(ConvGeometry, n) for n in ("from_conv", "from_conv_transpose", "from_sizes")}
    found["config"] = lambda **options: pre.config(**options)
    found["config"].__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY)
            for n in ("engine", "threads", "workspace_bytes", "accuracy", "debug")
        ]
    )
    for name in nn.__all__:
        value = getattr(nn, name)
        if inspect.isclass(value) and issubclass(value, nn.Module) and value is not nn.Module:
            found[f"nn.{name}"] = _layer(value)
        elif inspect.isfunction(value):
            found[f"nn.{name}"] = value
    found["nn.Parameter"] = nn.Parameter
    found |= {f"nn.init.{n}": getattr(nn.init, n) for n in nn.init.__all__}
    found |= {f"optim.{n}": _optimizer(getattr(optim, n)) for n in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad")}
    found |= {
        f"optim.{n}": _schedule(getattr(optim, n))
        for n in ("fixed", "step", "multistep", "exp", "inv", "poly", "sigmoid", "cosine", "from_caffe")
    }
    found |= {f"optim.{n}": getattr(optim, n) for n in ("clip_grad_norm", "clip_grad_value", "Optimizer", "Schedule")}
    found |= {f"linop.{n}": _applied(getattr(linop, n)) for n in linop.__all__ if n != "Operator"}
    found |= _tensor_methods()
    return found


def draw(function: Callable[..., Any], rng: random.Random) -> tuple[list[Any], dict[str, Any]]:
    """Arguments: likely ones, and one or two that are not."""
    try:
        parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    except (TypeError, ValueError):
        parameters = []
    args, options = [], {}
    bad = {rng.randrange(len(parameters)) for _ in range(rng.choice((0, 1, 1, 1, 2)))} if parameters else set()
    for k, p in enumerate(parameters):
        likely = LIKELY.get(p.name, arrays())
        value = rng.choice(HOSTILE)() if k in bad else rng.choice(likely)
        if p.kind is p.VAR_POSITIONAL:
            args += [rng.choice(HOSTILE)() if k in bad else rng.choice([0, 1, (2, 24)]) for _ in range(rng.randrange(3))]
        elif p.kind is p.VAR_KEYWORD or (p.default is not p.empty and k not in bad and rng.random() < 0.6):
            continue
        elif p.kind is p.KEYWORD_ONLY or any(p.name in options for p in parameters[:k]):
            options[p.name] = value
        elif len(args) == k:
            args.append(value)
        else:
            options[p.name] = value
    return args, options


def _bits(value: Any) -> Any:
    if isinstance(value, pre.Tensor):
        return _bits(value.data)
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes() if not value.dtype.hasobject else repr(value)
    if isinstance(value, list | tuple):
        return [_bits(v) for v in value]
    return repr(value) if isinstance(value, dict | set) else None


def _kept(options: dict[str, Any]) -> Any:
    """What a call must leave alone: all but `out`, which asks to be written to."""
    return _bits([v for k, v in options.items() if k != "out"])


def run(calls: int, seed: int = 0, only: str = "*") -> tuple[Counter[str], dict[str, str]]:
    """How often each outcome came, and one example for each kind of foreign error or changed input."""
    rng = random.Random(seed)
    found = {n: f for n, f in subjects().items() if fnmatch.fnmatch(n, only)}
    names, counts, examples = sorted(found), Counter[str](), {}
    for k in range(calls):
        name = names[k % len(names)]
        args, options = draw(found[name], rng)
        # what ends in _ sets its first argument
        kept = args[1:] if name.endswith("_") else args
        before, text = (_bits(kept), _kept(options)), f"{name}(*{args!r:.300}, **{options!r:.500})"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found[name](*args, **options)
                counts["results"] += 1
            except PreimageError:
                counts["own errors"] += 1
            except Exception as error:
                counts["foreign errors"] += 1
                frame = traceback.extract_tb(error.__traceback__)[-1]
                examples.setdefault(
                    f"{name}: {type(error).__name__}: {error!s:.90} [{frame.filename[-40:]}:{frame.lineno}]", text
                )
        if (_bits(kept), _kept(options)) != before:
            counts["changed inputs"] += 1
            examples.setdefault(f"{name}: an input was changed", text)
    return counts, examples


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="*")
    parser.add_argument("--first", type=int, default=400)
    options = parser.parse_args()
    counts, examples = run(options.calls, options.seed, options.only)
    for what, text in sorted(examples.items())[: options.first]:
        print(f"{what}\n    {text[:200]}")
    print(dict(counts), f"{len(subjects())} callables")
    return 1 if examples else 0


if __name__ == "__main__":
    sys.exit(main())

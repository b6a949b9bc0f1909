"""Checkpoints: net, optimiser, schedule, generators and the place in the data, in a folder; read back, a run goes on to the same bits.

    pre.save("run", step=100, net=net, optimizer=opt, schedule=schedule, data=loader)
    checkpoint = pre.load("run", net=net, optimizer=opt, schedule=schedule, data=loader)        # the newest that is whole

One checkpoint is two files: `step-00000100.safetensors` with the arrays, and `step-00000100.json`, which says how they belong together and has the
digests (SHA-256) of both. The second is written when the first is on the disk, so a checkpoint whose .json is there is whole, and one that a disk
damaged later is seen. What is older than the last `keep` goes when the new one is there, never before.

The library's own generator (nn.init.generator) and those that modules hold (Dropout) are always among what is saved.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from preimage.errors import FileFormatError, OptionError, OutputError
from preimage.host import read_json, write_file
from preimage.host.alone import Claim
from preimage.io import limits
from preimage.io.trees import flattened, rebuilt
from preimage.io.weights import load_weights, weights_writer
from preimage.nn import Module, init
from preimage.ops.operands import count_of

__all__ = ["Checkpoint", "claimed", "generators_of", "load", "newest", "restored", "save", "states", "steps_in"]

StrPath = str | os.PathLike[str]
_FORMAT = "preimage checkpoint, 1"
_NAME = re.compile(r"step-(\d{8,})(?:-\d+)?\.(json|safetensors)")
_ADVICE = "wait for its end, or give this run a folder of its own"
_LIBRARY = "library_rng"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was read: its step, its file, the parts as they were saved, and why newer ones were left out."""

    step: int
    path: Path
    parts: dict[str, Any]
    skipped: list[str] = field(default_factory=list)


# -- one run in a folder -------------------------------------------------------------------------------------------------

_held: dict[str, Claim] = {}  # of this process, and of children that it forks


@contextmanager
def claimed(folder: StrPath) -> Iterator[Path]:
    """A folder that only this run writes to inside the block; made if it is not there.

    Raises: OptionError where another run is at work in it (of this process or another); OutputError where it cannot be made.
    """
    place = _folder(folder)
    claim = Claim(place, _ADVICE)
    key = os.path.realpath(place)
    _held[key] = claim
    try:
        yield place
    finally:
        _held.pop(key, None)
        claim.release()


def _folder(folder: StrPath) -> Path:
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{place}: the folder cannot be made: {error.strerror or error}") from None
    return place


# -- writing -------------------------------------------------------------------------------------------------------------


def save(
    folder: StrPath,
    *,
    step: int,
    net: Any = None,
    optimizer: Any = None,
    schedule: Any = None,
    rng: Any = None,
    data: Any = None,
    keep: int | None = 3,
    **more: Any,
) -> Path:
    """Write a checkpoint of a step; gives its .json. The last `keep` stay (None: all).

    Parts are objects with a `state_dict`, numpy Generators, or plain values (arrays, numbers, words, dicts and lists of them), also under names of
    the caller's. The first save takes the folder for this process: a second run in it is refused.

    Raises: OutputError where the disk is full or the folder cannot be written: the older checkpoints are then as they were; OptionError where
        another run is at work there; DTypeError for what no file would give back.
    """
    step, count = count_of(step, "step", 0), None if keep is None else count_of(keep, "keep", 1)
    given = {"net": net, "optimizer": optimizer, "schedule": schedule, "rng": rng, "data": data, **more}
    parts = {name: _state_of(value, name) for name, value in given.items() if value is not None}
    parts[_LIBRARY] = _generator_state(init.generator())
    place = _folder(folder)
    key = os.path.realpath(place)
    if key not in _held:
        _held[key] = Claim(place, _ADVICE)
    arrays, text = flattened(parts)
    record, stored = place / f"step-{step:08d}.json", place / f"step-{step:08d}.safetensors"
    again = stored.exists()  # a checkpoint of the same step holds until this one is whole
    if again:
        stored = stored.with_stem(
            f"{stored.stem}-{1 + max((int(p.stem.rpartition('-')[2]) for p in place.glob(f'{stored.stem}-*')), default=0)}"
        )
    try:
        write_file(stored, weights_writer(arrays, ".safetensors"))
        with stored.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        content = {
            "format": _FORMAT, "step": step, "tree": json.loads(text),
            "arrays": {"file": stored.name, "bytes": stored.stat().st_size, "sha256": digest},
        }  # fmt: skip
        write_file(record, json.dumps(content | {"sha256": _digest(content)}, separators=(",", ":")))
    except BaseException:
        with suppress(OSError, FileFormatError):
            if not again:
                record.unlink(missing_ok=True)
            elif read_json(record)["arrays"]["file"] == stored.name:
                raise  # the new one is in place, only its folder could not be brought to the disk
            stored.unlink()
        raise
    _prune(place, stored, count)
    return record


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _prune(place: Path, fresh: Path, keep: int | None) -> None:
    """Remove what is older than the last `keep`, and arrays that no record names; what cannot be removed stays."""
    step = _step_of(fresh)
    records = {_step_of(p): p for p in _files(place, "json")}
    older = [] if keep is None else sorted(s for s in records if s <= step)[:-keep]
    with suppress(OSError):
        for number in older:
            records.pop(number).unlink(missing_ok=True)
        for path in _files(place, "safetensors"):
            if _step_of(path) not in records or (_step_of(path) == step and path != fresh):
                path.unlink(missing_ok=True)


def _files(place: Path, ending: str) -> list[Path]:
    """The files of checkpoints in a folder, of one kind."""
    found = [(_NAME.fullmatch(p.name), p) for p in place.iterdir()] if place.is_dir() else []
    return [path for match, path in found if match and match[2] == ending and path.is_file()]


def _step_of(path: Path) -> int:
    return int(path.stem.split("-")[1])


def _state_of(value: Any, name: str) -> Any:
    if isinstance(value, np.random.Generator):
        return _generator_state(value)
    if isinstance(value, Module):
        held = {
            path: {k: _generator_state(g) for k, g in _generators(m).items()}
            for path, m in value.named_modules()
            if _generators(m)
        }
        return {"arrays": value.state_dict(), "generators": held}
    if hasattr(value, "state_dict"):
        return value.state_dict()
    if callable(value):
        raise OptionError(f"{name} has no state that could be saved: {type(value).__name__}")
    return value


def _generators(module: Module) -> dict[str, np.random.Generator]:
    return {k: v for k, v in vars(module).items() if isinstance(v, np.random.Generator)}


def generators_of(net: Module) -> list[np.random.Generator]:
    """All that a net's layers draw from, each once: the library's own generator, and those that modules hold."""
    held = [init.generator(), *(g for module in net.modules() for g in _generators(module).values())]
    return list({id(g): g for g in held}.values())


def _generator_state(rng: np.random.Generator) -> Any:
    return copy.deepcopy(rng.bit_generator.state)


# -- reading -------------------------------------------------------------------------------------------------------------


def newest(folder: StrPath, *, step: int | None = None) -> Checkpoint:
    """The newest checkpoint that is whole (or that of `step`), read and compared with its digests, restored into nothing.

    Raises: FileFormatError where there is none, with what is wrong with those that are there.
    """
    place = Path(folder)
    records = {_step_of(p): p for p in _files(place, "json")}
    wanted = sorted(records, reverse=True) if step is None else [s for s in records if s == step]
    skipped: list[str] = []
    for number in wanted:
        try:
            return Checkpoint(number, records[number], _read(records[number], number), skipped)
        except FileFormatError as error:
            skipped.append(str(error))
    which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
    if not skipped:
        raise FileFormatError(f"{place}: holds {which}" + (f"; it has steps {sorted(records)}" if records else ""))
    raise FileFormatError(f"{place}: holds {which} that is whole: " + "; ".join(skipped[:5]))


def _read(record: Path, step: int) -> dict[str, Any]:
    content = read_json(record)
    if not isinstance(content, dict) or content.get("format") != _FORMAT or not isinstance(content.get("arrays"), dict):
        raise FileFormatError(f"{record}: is no checkpoint of format {_FORMAT!r}")
    stated = content.pop("sha256", None)
    if stated != _digest(content) or content.get("step") != step:
        raise FileFormatError(f"{record}: is damaged: its digest or step is another")
    arrays = content["arrays"]
    stored = record.with_name(str(arrays.get("file")))
    if stored not in _files(record.parent, "safetensors"):
        raise FileFormatError(f"{record}: its arrays, {arrays.get('file')!r}, are not beside it")
    size = stored.stat().st_size
    if size != arrays.get("bytes"):
        raise FileFormatError(f"{stored}: has {size} bytes, its checkpoint says {arrays.get('bytes')}")
    limits.check_bytes(size, f"{stored}: its arrays")
    with stored.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != arrays.get("sha256"):
        raise FileFormatError(f"{stored}: is damaged: its digest is not the one that was written")
    parts = rebuilt(load_weights(stored), json.dumps(content.get("tree")))
    if not isinstance(parts, dict):
        raise FileFormatError(f"{record}: describes no parts")
    return parts


def load(
    folder: StrPath,
    *,
    net: Any = None,
    optimizer: Any = None,
    schedule: Any = None,
    rng: Any = None,
    data: Any = None,
    step: int | None = None,
    **more: Any,
) -> Checkpoint:
    """Restore the newest checkpoint that is whole (or that of `step`) into what is given; plain values are in its `parts`.

    All or nothing: where something does not fit, nothing is changed.

    Raises: FileFormatError where there is no checkpoint that is whole; OptionError for a part that was not saved; ShapeError, OptionError and
        DTypeError for one that does not fit.
    """
    checkpoint = newest(folder, step=step)
    given = {"net": net, "optimizer": optimizer, "schedule": schedule, "rng": rng, "data": data, **more}
    targets = {name: value for name, value in given.items() if value is not None}
    if missing := [name for name in targets if name not in checkpoint.parts]:
        raise OptionError(f"{checkpoint.path}: has no {', '.join(missing)}; it has {', '.join(sorted(checkpoint.parts))}")
    before = states(targets)
    try:
        restored(targets, checkpoint.parts)
    except BaseException:
        restored(targets, before)
        raise
    return checkpoint


def states(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of the states of parts, and of the library's own generator, in memory."""
    made = {name: copy.deepcopy(_state_of(value, name)) for name, value in parts.items()}
    return {**made, _LIBRARY: _generator_state(init.generator())}


def restored(parts: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Bring parts to saved states. Raises: as load; what came before the one that does not fit is then changed."""
    for name, value in {**parts, _LIBRARY: init.generator()}.items():
        if name in saved:
            _restore(value, saved[name], name)


def steps_in(folder: StrPath) -> list[int]:
    """The steps of the checkpoints in a folder, whole or not."""
    return sorted(_step_of(p) for p in _files(Path(folder), "json"))


def _restore(value: Any, state: Any, name: str) -> None:
    if isinstance(value, np.random.Generator):
        _set_generator(value, state, name)
    elif isinstance(value, Module):
        if not isinstance(state, dict) or not isinstance(state.get("arrays"), dict):
            raise OptionError(f"{name}: what was saved is no net")
        value.load_state_dict(state["arrays"])
        modules = dict(value.named_modules())
        for path, held in state.get("generators", {}).items():
            for key, saved in held.items():
                target = getattr(modules.get(path), key, None)
                if isinstance(target, np.random.Generator):
                    _set_generator(target, saved, f"{name}: {path}.{key}")
    elif hasattr(value, "load_state_dict"):
        value.load_state_dict(state)
    else:
        raise OptionError(
            f"{name} cannot be restored into a {type(value).__name__}: leave it out, and take it from `parts` of what load gives"
        )


def _set_generator(rng: np.random.Generator, state: Any, name: str) -> None:
    try:
        rng.bit_generator.state = state
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        kind = type(rng.bit_generator).__name__
        raise OptionError(f"{name}: the saved state is of no {kind} generator: {error}") from None

"""Random arrays for the inputs of any model: as a list says, or guessed where the file leaves sizes open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from preimage.errors import FileFormatError, OptionError

__all__ = ["RANGES", "Declared", "candidates", "made", "with_range"]

#: Sizes that are tried for open axes, in this order; the first axis of several is taken for the batch where nothing says another one, and is 1.
GUESSES = (64, 224, 320, 576, 128, 100, 16, 512, 16000)
#: Ranges of random floats, tried until a net's answers are more than next to nothing.
RANGES = ((0.0, 1.0), (-1.0, 1.0), (-10.0, 10.0))
#: Inputs that are no data but a choice, by the names that files give them.
CHOICES = {"sr": 16000, "sample_rate": 16000, "training": 0, "is_training": 0, "training_mode": 0}
#: Values of integer inputs where nothing is said: small enough to be indices, lengths and labels.
MOST_INTEGER = 8

#: A string that no model knows, and how many of those that it knows are drawn from.
UNKNOWN, MOST_WORDS = "unknown word", 64
#: A picture's sides, and all axes but the last, are guessed no larger.
MOST_SIDE = 512
#: How many sizes of matrices are tried.
MOST_FEATURES = 4


@dataclass(frozen=True, slots=True)
class Guess:
    """Sizes for open axes: the first (of several, or the batch), the last, and those between."""

    first: int
    middle: int
    last: int


@dataclass(frozen=True, slots=True)
class Declared:
    """An input as a file declares it; an open size is None, and so is an unknown shape. words: strings that the model knows, for one of strings.

    symbols: the names of open axes, if they have any: axes of one name have one size. below: what integers must be less than, where they are
    indices into what the model stores. batch: the axis of the batch, of several.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    words: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    below: int = MOST_INTEGER
    batch: int = 0


def with_range(
    given: Mapping[str, Mapping[str, Any]], inputs: Sequence[Declared], low: float, high: float
) -> dict[str, dict[str, Any]]:
    """What was said of the inputs, with this range for floats of which nothing is said."""
    return {
        each.name: {"low": low, "high": high} | dict(given.get(each.name, {}))
        for each in inputs
        if each.dtype.startswith("float")
    } | {each.name: dict(given[each.name]) for each in inputs if each.name in given and not each.dtype.startswith("float")}


def candidates(
    inputs: Sequence[Declared], given: Mapping[str, Mapping[str, Any]], features: Sequence[int] = ()
) -> Iterator[dict[str, np.ndarray]]:  # fmt: skip
    """Arrays for all inputs, once for each guess of the sizes that nobody says.

    given: for inputs by name, `shape`, `low` and `high` (uniform in between), or `value`. features: sizes that matrices of the model take, which
    the last axis of an input may have.

    Raises: OptionError for an input that the model has not; FileFormatError for one of a type that has no random values.
    """
    known = {each.name for each in inputs}
    if strangers := [name for name in given if name not in known]:
        raise OptionError(f"the model has no input {strangers[0]!r}; its inputs: {', '.join(map(repr, sorted(known)))}")
    is_open = any(_is_open(each) and not {"shape", "value"} & given.get(each.name, {}).keys() for each in inputs)
    guesses = [Guess(1, size, size) for size in GUESSES]
    guesses += [Guess(first, GUESSES[0], size) for size in features[:MOST_FEATURES] for first in (1, GUESSES[0])]
    guesses.append(Guess(GUESSES[0], GUESSES[0], GUESSES[0]))
    for guess in guesses if is_open else guesses[:1]:
        known_sizes = _of_symbols(inputs, given, guess)
        yield {each.name: made(each, given.get(each.name, {}), guess, seed, known_sizes) for seed, each in enumerate(inputs)}


def _of_symbols(inputs: Sequence[Declared], given: Mapping[str, Mapping[str, Any]], guess: Guess) -> dict[str, int]:
    """The sizes of named axes: as given, else guessed where an axis is an input's first, else where the name comes first."""
    found: dict[str, int] = {}
    named = [each for each in inputs if each.symbols]
    for each in named:
        if len(shape := given.get(each.name, {}).get("shape", ())) == len(each.symbols):
            found = dict(zip(each.symbols, shape, strict=True)) | found
    guessed = [(each, _sizes(each, guess)) for each in named]
    for each, sizes in guessed:
        found.setdefault(each.symbols[0], sizes[0])
    for each, sizes in guessed:
        found = dict(zip(each.symbols, sizes, strict=True)) | found
    return {name: size for name, size in found.items() if name}


def _is_open(declared: Declared) -> bool:
    return declared.shape is None or any(size is None for size in declared.shape)


def made(
    declared: Declared, given: Mapping[str, Any], guess: Guess, seed: int, known: Mapping[str, int] | None = None
) -> np.ndarray:  # fmt: skip
    """One array: what was given, else random (floats in 0..1, small integers, booleans, strings that the model knows and one that it does not)."""
    try:
        dtype = np.dtype(str if declared.dtype == "string" else declared.dtype)
    except TypeError:
        raise FileFormatError(f"input {declared.name!r} holds {declared.dtype or 'values of no known type'}") from None
    if "value" in given:
        return np.array(given["value"], dtype)
    shape = tuple(given["shape"]) if "shape" in given else _sizes(declared, guess, known)
    if not all(isinstance(size, int) and size >= 0 for size in shape) or prod(shape) > 1 << 28:
        raise OptionError(f"input {declared.name!r} cannot have the shape {shape}")
    choice = CHOICES.get(declared.name.lower())
    if choice is not None and prod(shape) == 1 and not given:
        return np.full(shape, choice, dtype)
    rng = np.random.default_rng(seed)
    if dtype.kind == "f":
        return rng.uniform(given.get("low", 0.0), given.get("high", 1.0), shape).astype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind == "U":
        return rng.choice(np.array([*declared.words[:MOST_WORDS], UNKNOWN]), shape)
    return rng.integers(given.get("low", 0), given.get("high", min(declared.below, MOST_INTEGER)), shape).astype(dtype)


def _sizes(declared: Declared, guess: Guess, known: Mapping[str, int] | None = None) -> tuple[int, ...]:
    shape = declared.shape or ()
    last = min(guess.last, MOST_SIDE) if len(shape) > 3 else guess.last  # of a picture
    places = [guess.first, *[min(guess.middle, MOST_SIDE)] * (len(shape) - 2), last][-len(shape) :]
    if 0 < declared.batch < len(shape):
        places[0], places[declared.batch] = places[declared.batch], guess.first
    if known and declared.symbols:
        places = [known.get(name, place) for name, place in zip(declared.symbols, places, strict=True)]
    return tuple(place if size is None else size for place, size in zip(places, shape, strict=True)) if shape else ()

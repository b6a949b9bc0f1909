"""The nets that a solver file names: one to train, any number to test.

Training takes the one of net, net_param, train_net and train_net_param. Test nets are those of test_net_param, then of test_net; where test_iter
has more entries, the net of net or net_param for each of them. Phase, level and stages: the solver's defaults, then the net's own
state, then train_state or test_state.
Source: BVLC/caffe, Solver::InitTrainNet and InitTestNets (read as facts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from preimage.caffe.errors import MissingFileError
from preimage.caffe.net import Net
from preimage.caffe.state import TEST, TRAIN
from preimage.errors import FileFormatError, OptionError
from preimage.io.caffe import read_net
from preimage.io.caffe.assemble import selected
from preimage.io.caffe.wire.message import Message
from preimage.io.caffe.wire.text import parse_text, text_of_bytes
from preimage.io.caffe.wire.unread import refuse_slips

__all__ = ["layers_of", "net_to_train", "nets_to_test", "place", "read_solver", "sources_of_tests", "sources_of_training"]

_NAMES = ("net", "net_param", "train_net", "train_net_param")
Shapes = Mapping[str, tuple[int, ...]] | None
Classes = Mapping[str, type] | None


def read_solver(source: Any) -> tuple[Message, Path | None]:
    """A SolverParameter and its file. Raises: MissingFileError, FileFormatError with the line."""
    if isinstance(source, Message):
        if source.type_name != "SolverParameter":
            raise OptionError(f"a solver needs a SolverParameter, got a {source.type_name}")
        return source.copy(), None
    path = Path(source)
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise MissingFileError(f"{path} cannot be read: {problem.strerror or problem}") from None
    message = parse_text("SolverParameter", text_of_bytes(data), str(path))
    refuse_slips(message, str(path))
    return message, path


def place(name: str, solver_file: Path | None) -> Path:
    """Where a file that a solver names lies: from here, else from the solver's folder or one of those above it.

    Caffe's own solver files name theirs from Caffe's root. Raises: MissingFileError.
    """
    folders = [Path()] if solver_file is None else [Path(), *solver_file.absolute().parents]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    where = "here" if solver_file is None else f"here, in {folders[1]}, or in a folder above that"
    raise MissingFileError(f"the solver names {name!r}; there is no such file {where}")


def sources_of_training(solver: Message) -> str:
    """The field that says which net is trained. Raises: FileFormatError if it is not one."""
    given = [name for name in _NAMES if solver.has(name)]
    if not given:
        raise FileFormatError(f"the solver names no train net: give one of {', '.join(_NAMES)}")
    if len(given) > 1:
        raise FileFormatError(f"the solver names {len(given)} train nets ({', '.join(given)}): give one")
    return given[0]


def sources_of_tests(solver: Message) -> list[tuple[str, int]]:
    """The field and entry that each test net comes from. Raises: FileFormatError for numbers of entries that do not agree."""
    found = [("test_net_param", k) for k in range(len(solver.test_net_param))]
    found += [("test_net", k) for k in range(len(solver.test_net))]
    common = next((name for name in ("net_param", "net") if solver.has(name)), None)
    count = len(solver.test_iter)
    if count < len(found) or (count > len(found) and common is None):
        raise FileFormatError(f"the solver has {count} test_iter for {len(found)} test nets: give one for each")
    found += [(str(common), 0)] * (count - len(found))
    if len(solver.test_state) not in (0, len(found)):
        raise FileFormatError(
            f"the solver has {len(solver.test_state)} test_state for {len(found)} test nets: give none, or one for each"
        )
    if found and solver.test_interval <= 0:
        raise FileFormatError("a solver with test nets needs a test_interval above 0")
    return found


def layers_of(solver: Message, file: Path | None) -> tuple[list[Message], list[list[Message]]]:
    """The layers of the net that is trained, and of each test net."""
    states = list(solver.test_state) or [Message("NetState")] * len(sources_of_tests(solver))
    tests = [_layers(solver, file, source, state, TEST) for source, state in zip(sources_of_tests(solver), states, strict=True)]
    return _layers(solver, file, (sources_of_training(solver), 0), solver.train_state, TRAIN), tests


def _layers(solver: Message, file: Path | None, source: tuple[str, int], state: Message, phase: int) -> list[Message]:
    net = read_net(_description(solver, file, source))
    word = "TRAIN" if (state.phase if state.has("phase") else phase) == TRAIN else "TEST"
    level = state.level if state.has("level") else net.state.level
    return selected(net, word, level, (*net.state.stage, *state.stage))


def _description(solver: Message, file: Path | None, source: tuple[str, int]) -> Message | Path:
    """The net that a field of the solver names, or holds."""
    name, entry = source
    value = getattr(solver, name)
    value = value[entry] if solver.field(name).repeated else value
    return value if isinstance(value, Message) else place(value, file)


def net_to_train(solver: Message, file: Path | None, shapes: Shapes, data: Any, classes: Classes = None) -> Net:
    """The net to train, with the weights that the solver names."""
    return _made(solver, file, (sources_of_training(solver), 0), solver.train_state, TRAIN, shapes, data, classes)


def nets_to_test(solver: Message, file: Path | None, shapes: Shapes, data: Any, classes: Classes = None) -> list[Net]:
    """The test nets; `data` is one source for all of them, or a list of one for each."""
    sources = sources_of_tests(solver)
    feeds = _each(data, len(sources))
    states = list(solver.test_state) or [Message("NetState")] * len(sources)
    return [
        _made(solver, file, source, state, TEST, shapes, feed, classes)
        for source, state, feed in zip(sources, states, feeds, strict=True)
    ]


def _each(data: Any, count: int) -> list[Any]:
    """One source of data for each test net; a list of batches is one source."""
    several = isinstance(data, Sequence) and len(data) > 0 and not isinstance(data[0], Mapping)
    if several and len(data) != count:
        raise OptionError(f"test_data has {len(data)} sources for {count} test nets")
    return list(data) if several else [data] * count


def _made(
    solver: Message,
    file: Path | None,
    source: tuple[str, int],
    state: Message,
    phase: int,
    shapes: Shapes,
    data: Any,
    classes: Classes,
) -> Net:
    net = Net(
        _description(solver, file, source),
        state.phase if state.has("phase") else phase,
        level=state.level if state.has("level") else None,
        stages=list(state.stage),
        input_shapes=shapes,
        data=data,
        python_layers=classes,
    )
    for names in solver.weights:
        for weights in names.split(","):
            net.copy_from(place(weights.strip(), file))
    return net

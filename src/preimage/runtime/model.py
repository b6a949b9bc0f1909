"""What a session runs: the model of a file, read and optimised when that is needed, and the programs that earlier processes stored of it.

A model that was met before, with these options and on this machine, is known by the digest of its bytes: what goes in and out was noted then, and the
program of its shapes lies beside the kernels (`io/graph/stored_programs.py`). Then nothing is read, rewritten, planned or packed before the first
run. Whatever is not there (other shapes, other settings) is made as ever, from the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field
from typing import TYPE_CHECKING, Any

from preimage.engines import disk_cache
from preimage.errors import OptionError
from preimage.io import limits
from preimage.io.graph.program import no_functions
from preimage.io.graph.programs import Programs, program_key
from preimage.io.graph.stored_programs import ProgramStore
from preimage.records import record
from preimage.runtime.options import GraphOptimizationLevel, SessionOptions
from preimage.settings import Settings, current, thread_count

if TYPE_CHECKING:
    from preimage.io.graph import Graph

__all__ = ["Model", "ModelMetadata", "NodeArg", "Said"]

#: A first run of more CPU time than this is not recorded at once: what a program saves is little beside it.
LONG_S = 5.0
#: Larger files are not read at once to be known by their digest.
MOST_BYTES = 256 << 20
#: A word that every tensor has whose values lie in another file.
_EXTERNAL = b"location"
_WORDS = {"float32": "float", "float64": "double", "float16": "float16", "bfloat16": "bfloat16"}


@record(slots=False)
class NodeArg:
    """An input or output: its name, its shape (a name or None where a size is open), and its type, as "tensor(float)"."""

    name: str
    shape: list[int | str | None]
    type: str


@record(slots=False)
class ModelMetadata:
    """What a file says of itself."""

    producer_name: str = ""
    graph_name: str = ""
    domain: str = ""
    description: str = ""
    graph_description: str = ""
    version: int = 0
    custom_metadata_map: dict[str, str] = field(default_factory=dict)


@record(slots=False)
class Said:
    """What a session knows of a model without its graph. open_ranks: inputs of any number of axes; deciding: see `inlining.deciding_inputs`."""

    inputs: list[NodeArg]
    outputs: list[NodeArg]
    meta: ModelMetadata
    dtypes: dict[str, str | None]
    open_ranks: list[str]
    deciding: list[str]

    @classmethod
    def of_json(cls, said: Any) -> Said:
        """What `asdict` and JSON made of one. Raises: TypeError, KeyError or ValueError for what is none."""
        inputs, outputs = ([NodeArg(**each) for each in said.pop(key)] for key in ("inputs", "outputs"))
        return cls(inputs, outputs, ModelMetadata(**said.pop("meta")), **said)


class Model:
    """A model ready to be run. source: a path, or an ONNX file's bytes."""

    def __init__(self, source: Any, options: SessionOptions) -> None:
        self._source, self._options = source, options
        self._graph: Graph | None = None
        contents = _contents(source)
        self._store = None if contents is None else ProgramStore(_origin(contents, options))
        self._programs = Programs(self._store)
        self._first = True
        noted = None if self._store is None else self._noted(self._store)
        if noted is not None:
            self._source = contents  # whatever becomes of the file
            self.said = noted
            return
        if contents is not None and _EXTERNAL in contents:  # the digest says nothing of other files
            self._store = None
        stamp, contents = _stamp(source), None  # not held while the file is read anew, page by page
        self.said = self._read(source)
        if self._store is not None and stamp == _stamp(source):
            self._store.note("model", asdict(self.said))
        else:
            self._programs.store = None

    def _noted(self, store: ProgramStore) -> Said | None:
        noted = store.said("model")
        try:
            return None if noted is None else Said.of_json(noted)
        except (TypeError, KeyError, ValueError, AttributeError):
            return None

    @property
    def graph(self) -> Graph:
        """The optimised graph, made now if it was not needed before."""
        while self._graph is None:  # another thread may be making it, too, and let go of the source when it is done
            source = self._source
            if source is not None:
                self._read(source)
        return self._graph

    def _read(self, source: Any) -> Said:
        from preimage.io.graph import optimise

        graph, outputs, meta = _read(source, self._options.free_sizes)
        graph.train(False)  # before it is optimised: a graph that is trained keeps what is computed of its weights
        plain = self._options.graph_optimization_level == GraphOptimizationLevel.ORT_DISABLE_ALL
        made = optimise(graph, () if plain else None, accuracy=self._options.accuracy)  # type: ignore[arg-type]
        made.use_programs(self._programs)
        self._graph = self._graph or made
        self._source = None
        return Said(
            [NodeArg(i.name, _sizes(i.shape), _word(i.dtype)) for i in graph.inputs], outputs, meta,
            {i.name: i.dtype for i in graph.inputs}, [i.name for i in graph.inputs if i.shape is None], sorted(made.deciding),
        )  # fmt: skip

    def run(self, feeds: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """The outputs named."""
        if self._graph is None:
            found = self._run_stored(feeds, names)
            if found is not None:
                return found
        begin = time.process_time()
        graph = self.graph
        made = graph.run(feeds, names)
        if self._first and self._programs.store is not None:
            self._first = False
            if time.process_time() - begin < LONG_S:
                self._record_now(feeds, names)
        return made

    def again(self, feeds: Any, names: Sequence[str], settings: Settings) -> dict[str, Any] | None:
        """The outputs of a run like the one before, by its program; None for any other."""
        graph = self._graph
        return self._programs.again(feeds, names, settings) if graph is None else graph.again(feeds, names, settings)

    def _run_stored(self, feeds: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any] | None:
        """The outputs by a program of an earlier process; None where there is none."""
        if limits.is_metered() or limits.deadline() is not None or current().debug:
            return None
        run_key = program_key(feeds, names, self.said.deciding)
        program = None if run_key is None else self._programs.find(run_key.key, run_key.feeds)
        if run_key is None or program is None or not program.stands_alone:
            return None
        found: dict[str, Any] | None = program.run(run_key.feeds, no_functions, thread_count())
        if found is not None:
            self._programs.note_run(program, names, run_key)
        return found

    def _record_now(self, feeds: Mapping[str, Any], names: Sequence[str]) -> None:
        """Record the first run's program at once: a process that runs a model once leaves something for the next one, too."""
        folder = disk_cache.folder()[0]
        run_key = program_key(feeds, names, self.graph.deciding)
        if folder is None or run_key is None or not os.access(folder, os.W_OK) or not _repeatable(self.graph):
            return
        if not self._programs.has_noted(run_key.key):
            self.graph.run(feeds, names)


def _contents(source: Any) -> bytes | None:
    """The bytes of a model; None where no programs are stored, or where the file is none to be read at once."""
    if not isinstance(source, (bytes, bytearray, memoryview, str, os.PathLike)):
        raise OptionError(f"a session is made of a path or of a model's bytes, got {type(source).__name__}")
    if disk_cache.folder()[0] is None:
        return None
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    return disk_cache.regular_bytes(source, MOST_BYTES) or None


def _stamp(source: Any) -> Any:
    """What changes when a file does."""
    if not isinstance(source, (str, os.PathLike)):
        return None
    try:
        status = os.stat(source)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _origin(contents: bytes, options: SessionOptions) -> str:
    """In words, all that decides what a session of these bytes computes."""
    said = {
        "model": hashlib.sha256(contents).hexdigest(), "plain": options.graph_optimization_level == GraphOptimizationLevel.ORT_DISABLE_ALL,
        "accuracy": options.accuracy, "sizes": sorted(options.free_sizes.items()),
    }  # fmt: skip
    return json.dumps(said)


def _repeatable(graph: Graph) -> bool:
    """Whether a run leaves nothing behind that changes the next."""
    from preimage.io.graph.nodes import repeatable

    return all(repeatable(node) for holder in (graph, *graph.graphs.values()) for node in holder.nodes)


def _read(source: Any, free: Mapping[str, int]) -> tuple[Graph, list[NodeArg], ModelMetadata]:
    """The graph, its outputs, and what the file says of itself."""
    if isinstance(source, (str, os.PathLike)):
        from preimage.io.content import kind_of_file
        from preimage.io.files import load_model

        if kind_of_file(source) != "onnx":
            graph = load_model(source)
            return graph, _described(graph), ModelMetadata(graph_name=graph.name)
    from preimage.io import onnx

    model = onnx.read_model(source if isinstance(source, (str, os.PathLike)) else bytes(source))
    shapes = {}
    for value in model.inputs:
        if value.shape is not None and any(d in free for d in value.shape if isinstance(d, str)):
            shapes[value.name] = tuple(free.get(d, d) if isinstance(d, str) else d for d in value.shape)
    graph = onnx.to_graph(model, input_shapes=shapes or None)
    inferred = _described(graph)
    outputs = [
        each
        if said.shape is None
        else NodeArg(said.name, [free.get(d, d) if isinstance(d, str) else d for d in said.shape], _word(said.dtype))
        for said, each in zip(model.outputs, inferred, strict=True)
    ]
    return graph, outputs, ModelMetadata(graph_name=model.name, custom_metadata_map=dict(model.metadata))


def _described(graph: Graph) -> list[NodeArg]:
    from preimage.io.graph.facts import infer

    facts = infer(graph)
    found = []
    for name in graph.outputs:
        fact = facts.get(name)
        shape = None if fact is None or fact.shape is None else tuple(d if isinstance(d, int) else str(d) for d in fact.shape)
        found.append(NodeArg(name, _sizes(shape), _word(None if fact is None else fact.dtype)))
    return found


def _sizes(shape: Sequence[int | str | None] | None) -> list[int | str | None]:
    return [] if shape is None else list(shape)


def _word(dtype: str | None) -> str:
    return f"tensor({_WORDS.get(dtype or 'float32', dtype)})"

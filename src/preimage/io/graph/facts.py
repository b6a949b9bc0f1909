"""What is known of every value of a graph before it runs: dtype, shape, and the contents of what is small.

    facts = infer(graph)                                    # sizes that the file leaves open are Sizes
    facts = infer(graph, {"x": Fact("float32", (1, 3, 224, 224))})

An op says which shapes it gives by a rule (`shapes_of`), beside the rule for dtypes of its registration. Contents follow by running the op
itself where all its arguments are known and small: the arithmetic on shapes that exporters write as dozens of nodes is done here, once. Where
sizes are open it is done on Sizes. What no rule knows has shape None; a fact that is given is true of every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from operator import is_
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from preimage.autograd import no_grad
from preimage.errors import PreimageError
from preimage.io.graph.nodes import OPS, Input, Node, Values
from preimage.io.graph.sizes import Dim, Shape, Size, UnknownError, elements
from preimage.io.graph.types import FLOATS
from preimage.records import record

if TYPE_CHECKING:
    from preimage.io.graph.graph import Graph

__all__ = ["SHAPES", "Call", "Fact", "ShapeRule", "Shapes", "infer", "objects", "remembering", "shapes_of"]

#: Elements of values whose contents are followed.
MOST_CONTENTS = 1 << 10
#: What a rule gives for each output: a shape (a size of None is open), None, or all that it knows.
Shapes: TypeAlias = "Sequence[Sequence[Dim | None] | Fact | None]"
ShapeRule: TypeAlias = "Callable[[Call], Shapes]"

SHAPES: dict[str, ShapeRule] = {}
#: What a damaged file's attributes may raise in a rule: nothing is known then, and the run will say what is wrong.
_BROKEN = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, MemoryError)


@record
class Fact:
    """dtype: a name, or None. shape: ints and Sizes, or None. value: the contents, an array; of dtype object where Sizes are in it."""

    dtype: str | None = None
    shape: Shape | None = None
    value: NDArray[Any] | None = None

    @property
    def known(self) -> NDArray[Any] | None:
        """The contents, where no Size is in them."""
        return None if self.value is None or self.value.dtype == object else self.value

    @property
    def is_float(self) -> bool:
        """Whether the dtype is one of our float types."""
        return self.dtype in FLOATS

    @property
    def elements(self) -> int | None:
        """How many elements there are, where that is known."""
        return elements(self.shape)

    @classmethod
    def of(cls, array: NDArray[Any]) -> Fact:
        """All that is to be known of an array."""
        return cls(array.dtype.name, array.shape, array)


NOTHING = Fact()


@record
class Call:
    """A node with what is known of its inputs: what a rule reads. Asking for what is not known raises UnknownError."""

    node: Node
    facts: tuple[Fact | None, ...]

    def __len__(self) -> int:
        return len(self.facts)

    def has(self, position: int) -> bool:
        """Whether the node has this input."""
        return position < len(self.facts) and self.facts[position] is not None

    def fact(self, position: int) -> Fact:
        """What is known of an input that must be there."""
        found = self.facts[position] if position < len(self.facts) else None
        if found is None:
            raise UnknownError(f"{self.node.op}: there is no input {position}")
        return found

    def shape(self, position: int) -> Shape:
        """The shape of an input."""
        found = self.fact(position).shape
        if found is None:
            raise UnknownError(f"the shape of input {position}")
        return found

    def contents(self, position: int) -> list[Dim]:
        """The contents of an integer input, as a list."""
        value = self.fact(position).value
        if value is None or value.dtype.kind not in "iuO" or value.ndim > 1:
            raise UnknownError(f"the contents of input {position}")
        return [v if isinstance(v, Size) else int(v) for v in value.reshape(-1)]

    def integers(self, position: int) -> list[int]:
        """The contents of an integer input without Sizes."""
        found = self.contents(position)
        if any(isinstance(v, Size) for v in found):
            raise UnknownError(f"the contents of input {position}")
        return found  # type: ignore[return-value]

    def axis(self, axis: int, rank: int) -> int:
        """An axis counted from the front."""
        if not -rank <= axis < rank:
            raise UnknownError(f"axis {axis} of {rank}")
        return axis % rank


def shapes_of(*ops: str) -> Callable[[ShapeRule], ShapeRule]:
    """Register a function as the rule that says which shapes these ops give."""

    def register(rule: ShapeRule) -> ShapeRule:
        for op in ops:
            assert op not in SHAPES, op
            SHAPES[op] = rule
        return rule

    return register


#: The latest graph and its facts, inside `remembering`.
_latest: ContextVar[list[Any] | None] = ContextVar("latest_facts", default=None)


@contextmanager
def remembering() -> Iterator[None]:
    """Inside the block a graph's facts are worked out once, until another graph's are asked for: most passes give a graph back as it is.
    Of one that a pass changed, nodes that stayed as they were and take what they took say the same: only the others are looked at.
    """
    token = _latest.set([None, None, {}])
    try:
        yield
    finally:
        _latest.reset(token)


def infer(graph: Graph, inputs: Mapping[str, Fact] | None = None) -> dict[str, Fact]:
    """The facts of every value, from what the graph says of its inputs, or the facts given for some of them."""
    latest = _latest.get()
    if latest is None or inputs:
        return _inferred(graph, inputs or {}, {})
    if latest[0] is not graph:
        latest[:2] = graph, _inferred(graph, {}, latest[2])
    return dict(latest[1])


#: What was found before: of stored arrays by name, of nodes by their first output; each with what it was found from.
_Known = dict[tuple[str, str], tuple[Any, Any]]


def _inferred(graph: Graph, given: Mapping[str, Fact], known: _Known) -> dict[str, Fact]:
    facts: dict[str, Fact] = {}
    for item in graph.inputs:
        facts[item.name] = given.get(item.name) or _kept(known, ("input", item.name), (item,), partial(_of_input, item))
    for table in (graph.weights, graph.state, graph.constants):
        for key, value in table.items():
            array = getattr(value, "data", value) if not isinstance(value, np.ndarray) else value
            facts[key] = _kept(known, ("stored", key), (array,), partial(_of_stored, array))
    changing = {*graph.updates, *graph.state} if graph.training else set()
    facts.update({key: Fact(facts[key].dtype, facts[key].shape) for key in changing if key in facts})
    for node in graph.nodes:
        own = tuple([facts.get(key, NOTHING) if key else None for key in node.inputs])
        same = node.op, node.attributes, node.outputs, *own  # the names of what it takes do not matter
        found = _kept(known, ("node", node.outputs[0]), same, partial(_of_node, node, own))
        for key, fact in zip(node.outputs, found, strict=False):
            if key:
                facts[key] = fact
    return facts


def _kept(known: _Known, name: tuple[str, str], of: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """What was made of these very objects before, or is made now; the same object where it says the same, so that what follows from it stays."""
    before = known.get(name)
    if before is not None and len(before[0]) == len(of) and all(map(is_, before[0], of)):
        return before[1]
    made = make()
    if before is not None and isinstance(made, list) and len(made) == len(before[1]):
        made = [old if _says_the_same(old, new) else new for old, new in zip(before[1], made, strict=True)]
    known[name] = of, made
    return made


def _says_the_same(a: Fact, b: Fact) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape or (a.value is None) != (b.value is None):
        return False
    if a.value is None or b.value is None:
        return True
    if a.value.dtype != b.value.dtype:
        return False
    return a.value.tolist() == b.value.tolist() if a.value.dtype == object else a.value.tobytes() == b.value.tobytes()


def _of_input(item: Input) -> Fact:
    sizes = None if item.shape is None else [d if isinstance(d, int) else None for d in item.shape]
    return Fact(item.dtype or None, _opened(sizes, item.name))


def _of_stored(array: Any) -> Fact:
    return Fact.of(np.asarray(array))


def _opened(shape: Sequence[Dim | None] | None, name: str) -> Shape | None:
    """The shape with every size that is None as an unknown of its own."""
    if shape is None:
        return None
    if any(not isinstance(d, Size) and d is not None and d < 0 for d in shape):
        return None
    return tuple(Size.of(f"{name}.{axis}") if dim is None else dim for axis, dim in enumerate(shape))


def _of_node(node: Node, own: tuple[Fact | None, ...]) -> list[Fact]:
    """The facts of a node's outputs, from those of its inputs."""
    types = _types(node, own)
    call = Call(node, own)
    shapes: Shapes = ()
    if (rule := SHAPES.get(node.op)) is not None:
        try:
            shapes = rule(call)
        except (UnknownError, PreimageError, *_BROKEN):
            shapes = ()
    found = []
    for position, key in enumerate(node.outputs):
        dtype = types[min(position, len(types) - 1)] if types else None
        said = shapes[position] if position < len(shapes) else None
        if isinstance(said, Fact):
            found.append(Fact(dtype or said.dtype, said.shape, said.value))
        else:
            found.append(Fact(dtype, _opened(said, key)))
    values = _contents(call, found)
    return found if values is None else values


def _types(node: Node, own: Sequence[Fact | None]) -> Sequence[str | None]:
    try:
        return OPS[node.op].types(node.attributes, [None if fact is None else fact.dtype for fact in own])
    except (PreimageError, *_BROKEN):
        return ()


def _contents(call: Call, found: Sequence[Fact]) -> list[Fact] | None:
    """The facts with contents, where they follow from those of the inputs."""
    op = OPS[call.node.op]
    if op.stateful or any(isinstance(v, type(call.node)) or hasattr(v, "nodes") for v in call.node.attributes.values()):
        return None
    sizes = [fact.elements for fact in found]
    if any(size is None or size > MOST_CONTENTS for size in sizes):
        return None
    try:
        if call.node.op in _FROM_SHAPES:
            return [_fact_of(_FROM_SHAPES[call.node.op](call), found[0])]
        values = [None if fact is None else fact.value for fact in call.facts]
        wanted = [fact for fact in call.facts if fact is not None]
        if not wanted or any(fact.value is None or fact.value.size > MOST_CONTENTS for fact in wanted):
            return None
        if any(v is not None and v.dtype == object for v in values):
            symbolic = _ON_SIZES.get(call.node.op)
            if symbolic is None:
                return None
            made = symbolic(values, call.node)
        else:
            with no_grad(), np.errstate(all="ignore"):
                made = op.function(*values, **call.node.attributes)
        results = made if isinstance(made, tuple) else (made,)
        if any(v is None or isinstance(v, Values) for v in results):
            return None
        return [_fact_of(value, fact) for value, fact in zip(results, found, strict=False)]
    except (UnknownError, PreimageError, *_BROKEN):
        return None


def _fact_of(value: Any, fact: Fact) -> Fact:
    array = np.asarray(value)
    dtype = fact.dtype if array.dtype == object else array.dtype.name
    return Fact(dtype, array.shape, array)


def objects(items: Sequence[Any], shape: Sequence[int] | None = None) -> NDArray[Any]:
    """Integers as int64, and what has Sizes among it as an array of objects."""
    if not any(isinstance(v, Size) for v in items):
        return np.array([int(v) for v in items], np.int64).reshape(len(items) if shape is None else tuple(shape))
    array = np.empty(len(items), object)
    array[:] = items
    return array if shape is None else array.reshape(tuple(shape))


def _plain(function: Callable[..., Any]) -> Callable[[Sequence[Any], Node], Any]:
    """A function of NumPy on objects; the result holds ints again where no Size is left."""

    def call(values: Sequence[Any], _: Node) -> NDArray[Any]:
        made = np.asarray(function(*values))
        return objects(made.reshape(-1).tolist(), made.shape)

    return call


def _moved(values: Sequence[Any], node: Node) -> Any:
    """An op that moves elements, on objects as on numbers."""
    made = OPS[node.op].function(*values, **node.attributes)
    parts = made if isinstance(made, tuple) else (made,)
    return tuple(objects(np.asarray(part).reshape(-1).tolist(), np.shape(part)) for part in parts)


def _quotients(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Rounding down is rounding toward zero for sizes; other numerators are not decided here."""
    if any(not isinstance(v, Size) and v <= 0 for v in np.asarray(b).reshape(-1).tolist()):
        raise UnknownError("a divisor that is not positive")
    if any(isinstance(v, Size) and any(n < 0 for _, n in v.terms) for v in np.asarray(a).reshape(-1).tolist()):
        raise UnknownError("a numerator that may be negative")
    return np.asarray(np.floor_divide(np.asarray(a, object), np.asarray(b, object)))


def _cast(values: Sequence[Any], node: Node) -> Any:
    if node.attributes.get("to") not in (6, 7, 12, 13):  # int32, int64, uint32, uint64
        raise UnknownError("a Size as a float")
    return values[0]


_MOVING = (
    "Gather",
    "Slice",
    "Concat",
    "Squeeze",
    "Unsqueeze",
    "Reshape",
    "Identity",
    "Split",
    "Flatten",
    "Transpose",
    "Expand",
    "Tile",
)
_ON_SIZES: dict[str, Callable[[Sequence[Any], Node], Any]] = {
    **{f"onnx.{op}": _moved for op in _MOVING},
    "identity": _moved,
    "onnx.Add": _plain(np.add), "onnx.Sub": _plain(np.subtract), "onnx.Mul": _plain(np.multiply), "onnx.Div": _plain(_quotients),
    "onnx.Cast": _cast,
}  # fmt: skip


def _shape_contents(call: Call) -> NDArray[Any]:
    """Shape: the sizes of the input, or of some of its axes."""
    start, end = call.node.integer("start", 0), call.node.attributes.get("end")
    return objects(call.shape(0)[start : None if end is None else call.node.integer("end")])


def _size_contents(call: Call) -> NDArray[Any]:
    total: Dim = 1
    for dim in call.shape(0):
        total = total * dim
    return objects([total], ())


#: Ops whose results are shapes: their contents follow from shapes alone.
_FROM_SHAPES: dict[str, Callable[[Call], NDArray[Any]]] = {"onnx.Shape": _shape_contents, "onnx.Size": _size_contents}

"""Finding in a graph what an expression says: the patterns of `patterns.py` are such expressions.

    x * 0.5 * (1 + erf(x / 1.41421356))

x                  any value: one letter, the same letter the same value
W                  a stored array
eps                a single stored number: a longer name; a number itself is that number, as near as a file's float32 holds it
a * b / c, a + b   products and sums of any depth, in any order; the numbers in them are multiplied, or added, into one
a ** 2             squares: as a power, a square, or a product with itself
erf(x), softmax(x, axis=n)    an op; attributes by name: a number or word that it must be, or a name that takes it

Nothing between the root and the values that an expression names may be taken by others. A search that takes too long finds nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import lru_cache
from typing import Any

from preimage.io.graph.facts import Fact
from preimage.io.graph.lookup import Lookup
from preimage.io.graph.nodes import Node
from preimage.records import record

__all__ = ["Found", "View", "find", "root_words", "word_of"]

#: Steps of one search.
MOST_STEPS = 1500
#: How far a file's number may lie from the one that is meant.
TOLERANCE = 2e-5

#: ONNX's operators by the words of expressions; the words of graphs stand for themselves.
_WORDS = {
    "Abs": "abs", "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Erf": "erf", "Tanh": "tanh",
    "Sigmoid": "sigmoid", "Softplus": "softplus", "Pow": "pow", "Neg": "neg", "Reciprocal": "reciprocal", "Max": "maximum", "Min": "minimum",
    "ReduceMean": "mean", "ReduceSum": "total", "ReduceSumSquare": "total_squares", "ReduceL2": "length", "ReduceMax": "highest",
    "GlobalAveragePool": "global_avg_pool", "Relu": "relu", "Softmax": "softmax", "MatMul": "matmul", "Transpose": "transpose",
    "Reshape": "reshape", "Clip": "clip", "HardSigmoid": "hard_sigmoid", "Identity": "identity", "BatchNormalization": "batch_norm",
    "InstanceNormalization": "instance_norm", "LeakyRelu": "leaky_relu", "Cast": "cast", "Where": "where",
}  # fmt: skip
_EITHER = ("maximum", "minimum")


def word_of(node: Node) -> str:
    """The word by which expressions name a node."""
    name = node.op.removeprefix("onnx.")
    return _WORDS.get(name, name) if name != node.op else node.op


# -- expressions -------------------------------------------------------------------------------------------------------


@record
class Anything:
    """Any value."""

    name: str


@record
class Stored:
    """A stored array."""

    name: str


@record
class Number:
    """A single stored number: this one, or any."""

    value: float | None
    name: str = ""


@record
class Call:
    """An op of arguments."""

    word: str
    arguments: tuple[Term, ...]
    attributes: tuple[tuple[str, object], ...] = ()


@record
class Chain:
    """A product or sum of parts, each with 1 or -1 as its power or factor, and of one number."""

    product: bool
    parts: tuple[tuple[Term, int], ...]
    number: Number


Term = Anything | Stored | Number | Call | Chain


@lru_cache(maxsize=256)
def parsed(text: str) -> Term:
    """The expression of a text."""
    return _term(ast.parse(text, mode="eval").body)


def _term(tree: ast.expr) -> Term:
    match tree:
        case ast.Constant(value=value):
            return Number(float(value))  # type: ignore[arg-type]
        case ast.Name(id=name):
            if len(name) > 1:
                return Number(None, name)
            return Stored(name) if name.isupper() else Anything(name)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=value)):
            return Number(-float(value))  # type: ignore[arg-type]
        case ast.BinOp(op=ast.Pow(), left=left, right=ast.Constant(value=2)):
            return Call("square", (_term(left),))
        case ast.BinOp(op=ast.Pow(), left=left, right=right):
            return Call("pow", (_term(left), _term(right)))
        case ast.BinOp(op=op):
            return _chain(tree, isinstance(op, ast.Mult | ast.Div))
        case ast.Call(func=ast.Name(id=word), args=args, keywords=keywords):
            options = tuple((str(k.arg), k.value.value if isinstance(k.value, ast.Constant) else k.value) for k in keywords)
            named = tuple((k, v.id if isinstance(v, ast.Name) else v) for k, v in options)
            return Call(word, tuple(map(_term, args)), named)
    raise ValueError(f"no expression of patterns: {ast.unparse(tree)}")


def _chain(tree: ast.expr, product: bool) -> Chain:
    parts: list[tuple[Term, int]] = []
    number = Number(1.0 if product else 0.0)

    def add(each: ast.expr, sign: int) -> None:
        nonlocal number
        if isinstance(each, ast.BinOp) and isinstance(each.op, (ast.Mult, ast.Div) if product else (ast.Add, ast.Sub)):
            add(each.left, sign)
            add(each.right, -sign if isinstance(each.op, ast.Div | ast.Sub) else sign)
            return
        term = _term(each)
        if not isinstance(term, Number):
            parts.append((term, sign))
        elif term.value is None:
            number = term
        else:
            value = term.value
            joined = (number.value or 0.0) * value**sign if product else (number.value or 0.0) + sign * value
            number = Number(joined)

    add(tree, 1)
    return Chain(product, tuple(parts), number)


def root_words(text: str) -> frozenset[str]:
    """The words that the last node of what the expression finds may have."""
    term = parsed(text)
    if isinstance(term, Chain):
        return frozenset(("mul", "div", "neg", "reciprocal") if term.product else ("add", "sub", "neg"))
    if isinstance(term, Call):
        also = {"square": ("pow", "mul"), "sqrt": ("pow",)}.get(term.word, ())
        return frozenset((term.word, *also))
    raise ValueError(f"{text!r} is no op")


# -- graphs ------------------------------------------------------------------------------------------------------------


class View(Lookup):
    """The nodes by what they make and take, and the stored numbers."""

    def __init__(
        self, nodes: Sequence[Node], kept: Collection[str], facts: Mapping[str, Fact], stored: Mapping[str, Any]
    ) -> None:
        super().__init__(nodes, kept)
        self.facts, self.stored = facts, stored

    def number(self, key: str) -> float | None:
        """The single number that a value is, whatever its rank."""
        fact = self.facts.get(key)
        value = None if fact is None else fact.known
        if value is None or value.size != 1 or value.ndim > 4 or value.dtype.kind not in "fiu":
            return None
        return float(value.reshape(()))

    def enclosed(self, nodes: Sequence[Node], root: Node) -> bool:
        """Whether nothing else takes what these nodes make, the root's results aside."""
        own = {id(node) for node in nodes}
        for node in nodes:
            if node is root:
                continue
            for key in node.outputs:
                if key in self.kept or any(id(user) not in own for user in self.users.get(key, ())):
                    return False
        return True


@record
class Found:
    """What an expression found: values and stored arrays by their letters, numbers and attributes by their names, the nodes from the root on."""

    root: Node
    values: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()

    def of(self, word: str) -> list[Node]:
        """The nodes of this word, from the root on."""
        return [node for node in self.nodes if word_of(node) == word]


class _Tired(Exception):  # noqa: N818 - no error: a search is given up
    pass


class _Search:
    def __init__(self, view: View) -> None:
        self.view, self.left = view, MOST_STEPS

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise _Tired

    def match(self, term: Term, key: str, found: Found) -> Iterator[Found]:
        """The ways in which a value is what the term says."""
        self.step()
        view = self.view
        if isinstance(term, Anything | Stored):
            if key and (key in view.stored if isinstance(term, Stored) else view.number(key) is None):
                known = found.values.get(term.name)
                if known is None:
                    yield replace(found, values={**found.values, term.name: key})
                elif known == key:
                    yield found
        elif isinstance(term, Number):
            value = view.number(key) if key else None
            if value is not None:
                yield from self.number(term, value, found)
        elif (node := view.makers.get(key)) is None or len(node.outputs) != 1:
            return
        elif isinstance(term, Chain):
            yield from self.chain(term, node, found)
        else:
            yield from self.call(term, node, found)

    def number(self, term: Number, value: float, found: Found) -> Iterator[Found]:
        if term.value is not None:
            if abs(value - term.value) <= TOLERANCE * max(abs(term.value), 1e-30 if term.value else 1e-9):
                yield found
        elif term.name not in found.numbers:
            yield replace(found, numbers={**found.numbers, term.name: value})
        elif found.numbers[term.name] == value:
            yield found

    def call(self, term: Call, node: Node, found: Found) -> Iterator[Found]:
        word, inputs = word_of(node), node.inputs
        taken = replace(found, nodes=(*found.nodes, node))
        if word == "pow" and term.word in ("square", "sqrt"):
            wanted = 2.0 if term.word == "square" else 0.5
            if len(inputs) == 2 and self.view.number(inputs[1]) == wanted:
                yield from self.match(term.arguments[0], inputs[0], taken)
            return
        if word == "mul" and term.word == "square":
            if len(inputs) == 2 and inputs[0] == inputs[1]:
                yield from self.match(term.arguments[0], inputs[0], taken)
            return
        if word != term.word or len(inputs) < len(term.arguments):
            return
        for name, wanted_ in term.attributes:
            value = node.attributes.get(name)
            if isinstance(wanted_, str) and not wanted_.startswith("'"):
                if wanted_ in taken.numbers and taken.numbers[wanted_] != value:
                    return
                taken = replace(taken, numbers={**taken.numbers, wanted_: value})
            elif value != wanted_:
                return
        orders = [inputs] if term.word not in _EITHER or len(inputs) != 2 else [inputs, inputs[::-1]]
        for order in orders:
            yield from self.all(term.arguments, order, taken)

    def all(self, terms: Sequence[Term], keys: Sequence[str], found: Found) -> Iterator[Found]:
        if not terms:
            yield found
            return
        for each in self.match(terms[0], keys[0], found):
            yield from self.all(terms[1:], keys[1:], each)

    # -- products and sums: a list of parts, each with its sign, and the number that the others come to

    def chain(self, term: Chain, node: Node, found: Found) -> Iterator[Found]:
        opened = self.opened(node, 1, term.product)
        if opened is None:
            return
        parts, number = self.counted(opened[0], opened[1] if term.product else 0.0, term.product)
        yield from self.spread(term, parts, number, 0, replace(found, nodes=(*found.nodes, node)))

    def opened(self, node: Node, sign: int, product: bool) -> tuple[list[tuple[str, int]], float] | None:
        """The parts of a node of the kind, each with its sign, and a number beside them."""
        word, inputs = word_of(node), node.inputs
        plain, inverse = ("mul", "div") if product else ("add", "sub")
        if word in (plain, inverse) and len(inputs) == 2 and all(inputs):
            return [(inputs[0], sign), (inputs[1], sign if word == plain else -sign)], 1.0
        if word == "neg" and len(inputs) == 1:
            return [(inputs[0], sign if product else -sign)], -1.0
        return ([(inputs[0], -sign)], 1.0) if word == "reciprocal" and product and len(inputs) == 1 else None

    def counted(self, parts: Sequence[tuple[str, int]], number: float, product: bool) -> tuple[list[tuple[str, int]], float]:
        """The parts that are no numbers, and the number that the others come to."""
        left = []
        for key, sign in parts:
            value = self.view.number(key)
            if value is None:
                left.append((key, sign))
            elif not product:
                number += sign * value
            else:
                number = number * value if sign > 0 else number / value if value else float("nan")
        return left, number

    def spread(
        self, term: Chain, parts: list[tuple[str, int]], number: float, start: int, found: Found
    ) -> Iterator[Found]:  # fmt: skip
        """All ways of opening parts further from place `start` on, of which there are as many as the term has."""
        self.step()
        if len(parts) == len(term.parts):
            for each in self.number(term.number, number, found):
                yield from self.assigned(term.parts, parts, each)
        for place in range(start, len(parts)):
            key, sign = parts[place]
            node = self.view.makers.get(key)
            if node is None or len(node.outputs) != 1 or len(found.nodes) > 24:
                continue
            if (opened := self.opened(node, sign, term.product)) is None:
                continue
            inner, total = self.counted(opened[0], number * opened[1] if term.product else number, term.product)
            more = [*parts[:place], *inner, *parts[place + 1 :]]
            if len(more) <= len(term.parts):
                yield from self.spread(term, more, total, place, replace(found, nodes=(*found.nodes, node)))

    def assigned(self, terms: Sequence[tuple[Term, int]], parts: list[tuple[str, int]], found: Found) -> Iterator[Found]:
        if not terms:
            yield found
            return
        term, sign = terms[0]
        for place, (key, own) in enumerate(parts):
            rest = [*parts[:place], *parts[place + 1 :]]
            if own == sign:
                for each in self.match(term, key, found):
                    yield from self.assigned(terms[1:], rest, each)
            elif own == -sign and isinstance(term, Call) and term.word == "sqrt":
                for each in self.inverse_root(term, key, found):
                    yield from self.assigned(terms[1:], rest, each)

    def inverse_root(self, term: Call, key: str, found: Found) -> Iterator[Found]:
        """1 / sqrt(x) as one node."""
        node = self.view.makers.get(key)
        if node is None:
            return
        power = word_of(node) == "pow" and len(node.inputs) == 2 and self.view.number(node.inputs[1]) == -0.5
        if power or word_of(node) == "rsqrt":
            yield from self.match(term.arguments[0], node.inputs[0], replace(found, nodes=(*found.nodes, node)))


def find(text: str, root: Node, view: View) -> Found | None:
    """The first way in which what the node makes is what the expression says, with nothing of it taken by others."""
    if len(root.outputs) != 1:
        return None
    try:
        for found in _Search(view).match(parsed(text), root.outputs[0], Found(root)):
            nodes = tuple({id(node): node for node in found.nodes}.values())
            if view.enclosed(nodes, root):
                return replace(found, nodes=nodes)
    except (_Tired, RecursionError):
        return None
    return None

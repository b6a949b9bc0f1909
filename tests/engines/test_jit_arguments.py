"""Argument vectors and tables by name (`engines.ir.arguments`): one declaration for the planner, the kernel and the printed program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from preimage.engines.ir.arguments import (
    Arguments,
    Code,
    Column,
    Elements,
    Integer,
    Record,
    Records,
    Words,
    column,
    elements,
    integer,
)
from preimage.engines.ir.builder import Kernel

pytest.importorskip("preimage.engines.jit.compiler.toolchain")
from preimage.engines.jit.program import KernelCall, Program, kernel_call
from preimage.engines.jit.runtime.link import link


class Piece(Record):
    """So many numbers from one place to another (offsets in elements)."""

    source: Column
    result: Column
    count: Column
    scale: Column = column(default=1)


class ScaleArguments(Arguments):
    input: Elements = elements("kind")
    output: Elements = elements("kind")
    pieces: Records[Piece]
    bounds: Words
    shift: Integer = integer(default=0)


class LongerArguments(ScaleArguments):
    output: Elements = elements("wide")  # the same word, of another type
    inner: Code


@dataclass(frozen=True, slots=True)
class ScaleSpec:
    """output[result + i] = input[source + i] for the pieces of each task; the scale is added up in the last element."""

    arguments: ClassVar = ScaleArguments
    kind: str
    at_entry: bool

    def ir(self) -> str:
        f = Kernel()
        args = ScaleArguments.read(f, self, at_entry=self.at_entry)
        source, result, pieces = args.input, args.output, args.pieces
        bounds = args.bounds.at(f.task)
        with f.loop(bounds.load_int(), bounds.at(1).load_int()) as k:
            piece = pieces[k.index]
            scale = piece.scale
            with f.loop(0, piece.count) as i:
                value = source.at(piece.source + i.index).load()
                result.at(piece.result + i.index * scale + args.here.shift).store(value)
        return f.ir()


def scaling(at_entry: bool = False) -> KernelCall:
    pieces = Piece(source=[0, 4, 9], result=[1, 0, 3], count=np.array([2, 1, 3]), scale=[1, 1, 2])
    values = ScaleArguments(output="y", input="x", pieces=pieces, bounds=np.array([0, 2, 3]), shift=1)
    return kernel_call("scale", ScaleSpec("f32", at_entry), values, 2)


@pytest.mark.parametrize("at_entry", [False, True])
def test_a_kernel_reads_what_the_planner_named(at_entry):
    x, y = np.arange(20, dtype=np.float32), np.full(12, -1, np.float32)
    link(Program("scale", (scaling(at_entry),)), 1).run({"x": x.ctypes.data, "y": y.ctypes.data}, 1)
    assert y.tolist() == [-1, 4, 0, 1, 9, -1, 10, -1, 11, -1, -1, -1]


def test_a_printed_program_has_the_names():
    assert scaling().lines()[1] == "  input=x  output=y  pieces=Piece[3]  bounds=int64[3]  shift=1"


def test_fields_are_numbered_in_order_and_inherited():
    assert [field.slot for field in ScaleArguments.fields.values()] == [0, 1, 2, 3, 4]
    assert list(LongerArguments.fields) == ["input", "output", "pieces", "bounds", "shift", "inner"]
    assert (LongerArguments.output.slot, LongerArguments.output.element) == (1, "wide")
    assert ScaleArguments.output.element == "kind"


TABLE = Piece(source=0, result=0, count=[1]).table()
GIVEN = {"input": "x", "output": "y", "pieces": TABLE, "bounds": np.array([0, 1])}


def test_what_is_not_declared_or_not_given_is_an_error():
    with pytest.raises(TypeError, match="ScaleArguments has no shfit; it has input, output, pieces, bounds, shift"):
        ScaleArguments(**GIVEN, shfit=1)
    with pytest.raises(TypeError, match="ScaleArguments needs pieces"):
        ScaleArguments(**{name: value for name, value in GIVEN.items() if name != "pieces"})
    with pytest.raises(TypeError, match="Piece has no lenght"):
        Piece(source=0, result=0, lenght=3)
    with pytest.raises(TypeError, match="Piece needs source, count"):
        Piece(result=0)
    with pytest.raises(ValueError, match="no field of name lenght"):
        TABLE["lenght"]
    with pytest.raises(AttributeError, match="lenght"):
        ScaleArguments.read(Kernel(), None).pieces[0].lenght  # noqa: B018
    with pytest.raises(TypeError, match="pieces is a table of Piece, not of int64"):
        kernel_call("scale", ScaleSpec("f32", False), ScaleArguments(**{**GIVEN, "pieces": np.zeros((3, 4), np.int64)}), 1)
    with pytest.raises(TypeError, match="ScaleSpec takes ScaleArguments, not LongerArguments"):
        kernel_call("scale", ScaleSpec("f32", False), LongerArguments(**GIVEN, inner=ScaleSpec("f32", False)), 1)


def test_a_declaration_that_means_nothing_is_an_error():
    with pytest.raises(TypeError, match=r"Wrong\.size is no field; there are Integer, Code, Elements, Words, Records"):
        type("Wrong", (Arguments,), {"__annotations__": {"size": int}})
    with pytest.raises(TypeError, match=r"Wrong\.size is declared as Integer and given as Elements"):
        type("Wrong", (Arguments,), {"__annotations__": {"size": Integer}, "size": elements("kind")})
    with pytest.raises(TypeError, match=r"Wrong\.packed would hide"):
        type("Wrong", (Arguments,), {"__annotations__": {"packed": Integer}})


def test_a_table_is_filled_by_column():
    assert TABLE.dtype.names == ("source", "result", "count", "scale")
    assert TABLE.tolist() == [(0, 0, 1, 1)]
    rows = np.arange(3)[:, None] * 100 + np.arange(2)
    assert Piece(source=rows, result=0, count=np.array([5, 6])).table()["source"].tolist() == [0, 1, 100, 101, 200, 201]
    assert Piece.zeros(2).tolist() == [(0, 0, 0, 0)] * 2

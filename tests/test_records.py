"""`record` beside the dataclass that it stands for."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from inspect import signature
from typing import Any, ClassVar, Protocol

import pytest

from preimage.records import record


class Named(Protocol):
    def name(self) -> str: ...


def made(kind: Any) -> Any:
    """The same classes by either decorator."""

    @kind
    class Point(Named):
        """A point."""

        x: int
        y: int = 2
        tags: list[str] = field(default_factory=list, repr=False)
        weight: float = field(default=1.0, compare=False)
        ORIGIN: ClassVar[int] = 0

        def name(self) -> str:
            return f"{self.x}/{self.y}"

        @property
        def sum(self) -> int:
            return self.x + self.y

    @kind
    class Solid(Point):
        """A point in space."""

        z: int = 0

        def __post_init__(self) -> None:
            if self.z < 0:
                raise ValueError("below ground")

    return Point, Solid


Point, Solid = made(record)
PlainPoint, PlainSolid = made(dataclass(frozen=True, slots=True))


def test_a_record_is_the_dataclass():
    for ours, theirs in ((Point, PlainPoint), (Solid, PlainSolid)):
        for args, values in (((1,), {}), ((1, 3), {"tags": ["a"]}), ((), {"x": 1, "y": 5, "weight": 2.0})):
            a, b = ours(*args, **values), theirs(*args, **values)
            assert repr(a).partition("(")[2] == repr(b).partition("(")[2]
            assert (a == ours(*args, **values), a == replace(a, x=7), a == replace(a, weight=9.0)) == (True, False, True)
            assert a != b
            assert [f.name for f in fields(a)] == [f.name for f in fields(b)]
            assert ours.__match_args__ == theirs.__match_args__
            assert (a.sum, a.name(), ours.ORIGIN) == (b.sum, b.name(), 0)
            assert is_dataclass(ours)
            assert hasattr(a, "__dict__") == hasattr(b, "__dict__")  # which a protocol brings with it
            assert copy.copy(a) == copy.deepcopy(a) == a
            for change in (lambda v: setattr(v, "x", 2), lambda v: delattr(v, "x"), lambda v: setattr(v, "other", 2)):
                with pytest.raises(
                    (FrozenInstanceError, TypeError)
                ):  # TypeError: what dataclasses with slots say of what is no field
                    change(b)
                with pytest.raises(FrozenInstanceError):
                    change(a)
        with pytest.raises(TypeError, match=r"__init__\(\) missing 1 required positional argument: 'x'"):
            ours()
    with pytest.raises(ValueError, match="below"):
        Solid(1, z=-1)
    assert Point(1).tags is not Point(1).tags


@record
class Key:
    """Found in a dictionary before any was compared or shown."""

    name: str
    size: int = 3


def test_a_record_without_slots_is_the_dataclass():
    """Whose objects keep what they have worked out."""

    def kinds(decorator):
        @decorator
        class Kept:
            """One that counts how often it is asked."""

            a: int
            b: tuple[int, ...] = ()
            c: int = field(init=False, default=4, repr=False)
            d: list[int] = field(init=False, default_factory=list, compare=False)

            def __post_init__(self) -> None:
                self.d.append(self.a)

            @cached_property
            def total(self) -> int:
                self.d.append(sum(self.b))
                return sum(self.b)

        return Kept

    ours, theirs = kinds(record(slots=False)), kinds(dataclass(frozen=True))
    a, b = ours(1, (2, 3)), theirs(1, b=(2, 3))
    assert (a.total, a.total, a.d, a.c) == (b.total, b.total, b.d, b.c) == (5, 5, [1, 5], 4)
    assert (repr(a), hash(a), vars(a)) == (repr(b), hash(b), vars(b) | {"c": 4})  # which may stay in the class
    assert (ours(1) == ours(1), ours(1) == ours(2), ours(1) == 1) == (True, False, False)
    assert signature(ours) == signature(theirs)
    with pytest.raises(FrozenInstanceError):
        a.a = 2


def test_a_record_that_holds_itself_is_shown():
    @record
    class Ring:
        """One of a ring."""

        others: list[Any]

    ring = Ring([])
    ring.others.append(ring)
    assert repr(ring).endswith("Ring(others=[...])")


def test_hashes_and_pickles():
    assert {Key("a"): 1}[Key("a")] == 1
    assert len({Key("a"), Key("b"), Key("a", 3)}) == 2
    assert pickle.loads(pickle.dumps(Key("c", 4))) == Key("c", 4)  # of our own making
    assert hash(Key("d")) == hash(("d", 3))


def test_a_method_of_its_own_stays():
    @record
    class Own:
        """One that is shown, compared and hashed in its own way."""

        x: int

        def __repr__(self) -> str:
            return "own"

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 5

    assert repr(Own(1)) == "own"
    assert Own(1) == Own(2)
    assert hash(Own(1)) == 5


def test_a_comparison_of_its_own_leaves_the_hash():
    def kinds(decorator):
        @decorator
        class Own:
            """One that is compared in its own way."""

            x: int

            def __eq__(self, other: object) -> bool:
                return True

        return Own

    for kind in (kinds(record), kinds(dataclass(frozen=True, slots=True))):
        assert kind(1) == kind(2)
        assert hash(kind(3)) == hash((3,))


def test_asking_first_is_as_good_as_making_first():
    @record
    class Asked:
        """Never made."""

        a: int
        b: str = "x"

    assert [f.name for f in fields(Asked)] == ["a", "b"]
    assert is_dataclass(Asked)
    match Asked(1):
        case Asked(a, b):
            assert (a, b) == (1, "x")


def test_an_import_writes_no_methods():
    code = """
import dataclasses, sys
import numpy, preimage
from preimage import records
count = 0
written = records._Pending.write
def counted(self, name):
    global count
    count += 1
    return written(self, name)
records._Pending.write = counted
import preimage.engines.jit.engine
print(count)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert int(done.stdout) < 40  # those of which module constants are made

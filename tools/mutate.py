"""Mutation run: change one operator, constant or condition of a module at a time, and see whether the tests notice.

    python tools/mutate.py src/preimage/geometry/__init__.py tests/test_geometry.py [TESTS...] [--every N] [--list]

Each mutant runs in a forked child that imports the changed module instead of the real one and runs the tests until the first
failure; nothing is written to the source tree. Prints every survivor with its line, and the counts at the end. Equivalent
mutants (that change nothing anyone could see) are left to the reader.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

BINARY = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
}  # fmt: skip
COMPARE = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt,), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt,), ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
NAMES = {"max": "min", "min": "max", "any": "all", "all": "any"}


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """(what is changed, the changed copy of the node) for every mutation of one node."""
    if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        new = copy.deepcopy(node)
        new.op = BINARY[type(node.op)]()
        yield f"{type(node.op).__name__} -> {type(new.op).__name__}", new
    elif isinstance(node, ast.Compare):
        for k, op in enumerate(node.ops):
            for other in COMPARE.get(type(op), ()):
                new = copy.deepcopy(node)
                new.ops[k] = other()
                yield f"{type(op).__name__} -> {other.__name__}", new
    elif isinstance(node, ast.BoolOp):
        new = copy.deepcopy(node)
        new.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
        yield f"{type(node.op).__name__} -> {type(new.op).__name__}", new
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield f"drop {type(node.op).__name__}", copy.deepcopy(node.operand)
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield f"{node.value} -> {node.value + 1}", ast.copy_location(ast.Constant(node.value + 1), node)
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        yield f"{node.value} -> {not node.value}", ast.copy_location(ast.Constant(not node.value), node)
    elif isinstance(node, ast.Name) and node.id in NAMES and isinstance(node.ctx, ast.Load):
        yield f"{node.id} -> {NAMES[node.id]}", ast.copy_location(ast.Name(NAMES[node.id], node.ctx), node)
    elif isinstance(node, ast.IfExp):
        new = copy.deepcopy(node)
        new.body, new.orelse = new.orelse, new.body
        yield "swap if and else", new
    elif isinstance(node, ast.If):
        new = copy.deepcopy(node)
        new.test = ast.copy_location(ast.UnaryOp(ast.Not(), node.test), node.test)
        yield "not the condition", new


def passive(tree: ast.Module) -> set[int]:
    """Nodes that no test could be asked to notice: annotations, decorators, texts of errors, __all__, type-only blocks."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        inside: list[ast.AST] = []
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inside = [*node.decorator_list, *filter(None, [node.returns])]
            inside += [a.annotation for a in [*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs] if a.annotation]
        elif isinstance(node, ast.AnnAssign):
            inside = [node.annotation]
        elif isinstance(node, ast.ClassDef):
            inside = list(node.decorator_list)
        elif isinstance(node, ast.JoinedStr) or (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id in ("__all__", "PerAxis", "Padding", "Pairs", "Index")
        ):
            inside = [node]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("lru_cache", "zip"):
            inside = list(node.keywords)
        for part in inside:
            skipped.update(id(n) for n in ast.walk(part))
    return skipped


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """(line, what is changed, changed source) of every mutant."""
    tree = ast.parse(source)
    skipped = passive(tree)
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            for k, child in enumerate(value if isinstance(value, list) else [value]):
                if not isinstance(child, ast.AST) or id(child) in skipped:
                    continue
                for what, new in changes(child):
                    old = value[k] if isinstance(value, list) else value
                    if isinstance(value, list):
                        value[k] = new
                    else:
                        setattr(parent, name, new)
                    yield getattr(child, "lineno", 0), what, ast.unparse(ast.fix_missing_locations(tree))
                    if isinstance(value, list):
                        value[k] = old
                    else:
                        setattr(parent, name, old)


class Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from the given text."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        self.name, self.path, self.source = name, path, source

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(
            name,
            self.path,
            loader=self,
            submodule_search_locations=[str(self.path.parent)] if self.path.name == "__init__.py" else None,
        )

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: object) -> None:
        exec(compile(self.source, str(self.path), "exec"), module.__dict__)


def survives(name: str, path: Path, source: str, tests: list[str], seconds: int) -> bool:
    """Whether all tests pass with the changed module. A mutant that does not end in time counts as noticed."""
    child = os.fork()
    if child == 0:
        import pytest

        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        signal.alarm(seconds)
        sys.meta_path.insert(0, Instead(name, path, source))
        os._exit(min(1, int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--every", type=int, default=1, help="run every Nth mutant only")
    parser.add_argument("--first", type=int, default=0, help="start at this mutant")
    parser.add_argument("--count", type=int, default=10**9, help="run at most so many")
    parser.add_argument("--seconds", type=int, default=60, help="time for one mutant")
    parser.add_argument("-k", default="", help="pytest's choice among the tests")
    parser.add_argument("--list", action="store_true", help="only count the mutants")
    options = parser.parse_args()
    path = options.module.resolve()
    parts = path.with_suffix("").parts
    name = ".".join(parts[parts.index("src") + 1 :]).removesuffix(".__init__")
    source = path.read_text()
    chosen = list(mutants(source))[options.first :: options.every][: options.count]
    if options.list:
        print(f"{name}: {len(chosen)} mutants")
        return
    import numpy  # noqa: F401 - loaded once, before the forks
    import pytest  # noqa: F401

    chosen_tests = [*options.tests, "-k", options.k] if options.k else options.tests
    start, alive = time.monotonic(), 0
    if not survives(name, path, source, chosen_tests, 600):
        sys.exit("the tests fail on the unchanged module")
    lines = source.splitlines()
    for line, what, changed in chosen:
        if survives(name, path, changed, chosen_tests, options.seconds):
            alive += 1
            print(f"survived  {path.name}:{line}  {what}  |  {lines[line - 1].strip()}", flush=True)
    print(f"{name}: {len(chosen)} mutants, {alive} survived, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()

"""The types as users meet them: user_code.py read by mypy and pyright, on the package as a wheel installs it.

python -m pytest tests/typing
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

from preimage import functional, ops

ROOT = Path(__file__).parents[2]
USER_CODE = Path(__file__).with_name("user_code.py")
STUB = ROOT / "src/preimage/ops/__init__.pyi"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A Python that has the package as its wheel holds it, beside the other packages of this one."""
    folder = tmp_path_factory.mktemp("typing") / "environment"
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/*/site-packages"), folder / "Lib/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel == {"packages": ["src/preimage"]}  # all of the folder, nothing else
    shutil.copytree(ROOT / "src/preimage", packages / "preimage", ignore=shutil.ignore_patterns("__pycache__"))
    return next(p for p in (folder / "bin/python", folder / "Scripts/python.exe") if p.exists())


def command(checker, python, file):
    if checker == "mypy":
        options = ["--strict", "--config-file=", f"--python-executable={python}", f"--cache-dir={python.parents[1] / 'cache'}"]
        return [sys.executable, "-m", "mypy", *options, str(file)]
    return [sys.executable, "-m", "pyright", "--pythonpath", str(python), str(file)]


def wrong_lines(checker, python, file):
    """The numbers of the lines that a checker finds wrong, and what it said."""
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    done = subprocess.run(command(checker, python, file), capture_output=True, text=True, cwd=file.parent, timeout=300)
    if checker == "pyright" and done.returncode not in (0, 1):
        pytest.skip(f"pyright cannot run here: {(done.stderr or done.stdout)[-300:]}")  # it fetches Node.js when it is first run
    found = re.findall(rf"{re.escape(file.name)}:(\d+)(?::\d+)?(?::| -) error", done.stdout)
    assert found or done.returncode == 0, done.stdout + done.stderr
    return {int(line) for line in found}, done.stdout


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_checkers_read_user_code_as_its_author_does(checker, installed):
    """Every line that is marked is found wrong, and no other."""
    marked = {k for k, line in enumerate(USER_CODE.read_text().splitlines(), 1) if line.endswith("# wrong")}
    found, said = wrong_lines(checker, installed, USER_CODE)
    assert len(marked) >= 40
    assert found == marked, said


# -- the stub of the operations ------------------------------------------------------------------------------------------


def declared():
    """The overloads of every function in the stub."""
    overloads: dict[str, list[ast.FunctionDef]] = {}
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            overloads.setdefault(node.name, []).append(node)
    return overloads


def keywords_of(annotation, classes):
    """The keys of the TypedDict inside Unpack[...], those of its bases among them."""
    node = classes[annotation.slice.id]
    inherited = [k for base in node.bases if base.id in classes for k in keywords_of(ast.Subscript(slice=base), classes)]
    return inherited + [n.target.id for n in node.body if isinstance(n, ast.AnnAssign)]


def parameters_of(node, classes):
    """Names that may be given by place, in order; names that may be given by keyword alone; the defaults that are said."""
    a = node.args
    placed = [p.arg for p in a.args] + ([f"*{a.vararg.arg}"] if a.vararg else [])
    named = {p.arg for p in a.kwonlyargs} | (set(keywords_of(a.kwarg.annotation, classes)) if a.kwarg else set())
    pairs = [*zip(reversed(a.args), reversed(a.defaults), strict=False), *zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    defaults = {p.arg: ast.literal_eval(d) for p, d in pairs if d is not None and ast.unparse(d) != "..."}
    return placed, named, defaults


def test_the_stub_has_every_operation_with_its_parameters():
    """Names, order and defaults are those of the functions; an operation that is added without its types is named here."""
    classes = {n.name: n for n in ast.parse(STUB.read_text()).body if isinstance(n, ast.ClassDef)}
    stub = declared()
    assert set(stub) == set(ops.__all__), "ops/__init__.pyi says what each operation gives for arrays and for Tensors"
    for name, overloads in stub.items():
        function = getattr(ops, name)
        real = list(inspect.signature(function).parameters.values())
        placed = [
            ("*" if p.kind is p.VAR_POSITIONAL else "") + p.name for p in real if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)
        ]
        named = {p.name for p in real if p.kind is p.KEYWORD_ONLY}
        if hasattr(function, "__wrapped__") and "layout" in inspect.signature(function, follow_wrapped=False).parameters:
            named.add("layout")
        everything: set[str] = set()
        for overload in overloads:
            has, by_name, defaults = parameters_of(overload, classes)
            assert has == placed, name
            assert by_name <= named, name
            everything |= by_name
            for key, value in defaults.items():
                assert key == "layout" or value == next(p for p in real if p.name == key).default, f"{name}: {key}"
        assert everything == named, name


def test_the_stub_of_functional_has_every_function_with_its_parameters():
    """Names, order and defaults, of functions and of those whose signature several share (a Protocol with __call__)."""
    body = ast.parse((ROOT / "src/preimage/functional/__init__.pyi").read_text()).body
    shared = {n.name: [f for f in n.body if isinstance(f, ast.FunctionDef)] for n in body if isinstance(n, ast.ClassDef)}
    stub: dict[str, list[ast.FunctionDef]] = {n.target.id: shared[n.annotation.id] for n in body if isinstance(n, ast.AnnAssign)}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            stub.setdefault(node.name, []).append(node)
    assert set(stub) == set(functional.__all__), (
        "functional/__init__.pyi says what each function gives for arrays and for Tensors"
    )
    for name, overloads in stub.items():
        real = inspect.signature(getattr(functional, name)).parameters
        for overload in overloads:
            placed, named, defaults = parameters_of(overload, {})
            has = [p for p in placed if p != "self"]
            assert has + [p for p in real if p in named] == list(real), name
            assert all(real[k].default == v for k, v in defaults.items()), name


def test_the_comparison_with_the_stub_can_fail(monkeypatch):
    monkeypatch.setattr(ops, "exp", lambda x, base=2.0: x)
    with pytest.raises(AssertionError, match="exp"):
        test_the_stub_has_every_operation_with_its_parameters()
    monkeypatch.setattr(functional, "conv2d", lambda input, weight, bias=None: input)
    with pytest.raises(AssertionError, match="conv2d"):
        test_the_stub_of_functional_has_every_function_with_its_parameters()
    monkeypatch.setattr(ops, "__all__", [*ops.__all__, "one_more"])
    with pytest.raises(AssertionError, match="says what each operation gives"):
        test_the_stub_has_every_operation_with_its_parameters()


# -- what is typed at all ------------------------------------------------------------------------------------------------


def is_overload(node):
    return any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list)


def signatures(path):
    """(where, annotation) of all parameters and results of the public functions and methods of a file; of the overloads, where there are."""

    def visit(body, prefix):
        overloaded = {n.name for n in body if isinstance(n, ast.FunctionDef) and is_overload(n)}
        for node in body:
            if isinstance(node, ast.FunctionDef) and node.name in overloaded and not is_overload(node):
                continue  # the code behind overloads, which nobody outside is shown
            if isinstance(node, ast.ClassDef) and not node.name.startswith("__"):
                yield from visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.If):
                yield from visit(node.body, prefix)
            elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name in ("__init__", "__call__")):
                a = node.args
                given = [*a.posonlyargs, *a.args, *a.kwonlyargs, *(v for v in (a.vararg, a.kwarg) if v)]
                for annotation in [p.annotation for p in given] + [node.returns]:
                    if annotation is not None:
                        yield f"{path.name}:{node.lineno} {prefix}{node.name}", annotation

    yield from visit(ast.parse(path.read_text()).body, "")


#: Where no type says more: what a user's own module takes and gives, lists in lists, the arguments of any operation there may be.
UNTYPED = {"Module.forward", "Module.__call__", "Tensor.tolist", "Primitive.__call__"}


def loose(annotation):
    """Whether an annotation is Any, or has Any in a union: not the Any of a dtype, nor of a dict of options."""
    parts = [annotation]
    while parts:
        node = parts.pop()
        if isinstance(node, ast.BinOp):
            parts += [node.left, node.right]
        elif isinstance(node, ast.Name) and node.id == "Any":
            return True
    return False


@pytest.mark.parametrize("package", ["ops", "functional", "nn", "optim", "linop", "autograd"])
def test_no_public_signature_is_any(package):
    """Of what the package offers: its `__all__`, and the classes' methods."""
    public = set(__import__(f"preimage.{package}", fromlist=["__all__"]).__all__)
    found = []
    for path in sorted((ROOT / "src/preimage" / package).glob("*.py")):
        for where, annotation in signatures(path):
            name = where.split(" ")[1]
            if loose(annotation) and name.split(".")[0] in public and name not in UNTYPED:
                found.append(where)
    assert not found

